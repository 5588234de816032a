"""What is typed where a key is asked for: a recovery password or a passphrase, character by character.

Pure state machines. They take whatever a keyboard, a paste or a barcode scanner gives, and hold no more of it than the
longest right answer. Neither shows its content in a repr.

A recovery password's digits come from the digit row, the keypad, or the digit row of a French keyboard without Shift
(`&é"'(-è_çà`). There `-` is both the digit 6 and what people put between groups. It cannot be told from the key alone,
so both readings are tried wherever a group has just ended, and the one that keeps more groups right is taken: eleven
divides a group that is out of step once in fifteen times, eight of them practically never.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from payload.environment import SpecialKey
from payload.formats.recovery_password import GROUP_DIGITS, GROUPS, group_problem, parse
from payload.formats.vault import LONGEST_PASSPHRASE

_DIGITS = GROUPS * GROUP_DIGITS
#: A password with a dash after every group, and a little for doubled ones.
_MOST_TYPED = _DIGITS + 2 * GROUPS
#: The digit row without Shift in France; Belgium and Apple have 6 and 8 elsewhere.
_UNSHIFTED = dict(zip("&é\"'(-è_çà", "1234567890", strict=True)) | {"§": "6", "!": "8"}
_DASH = "-"


class Outcome(enum.Enum):
    """What a key did to an entry."""

    GOES_ON = "goes on"
    DONE = "done"
    LEFT = "left"


@dataclass(frozen=True, kw_only=True, repr=False)
class Reading:
    """Typed characters read as groups: all but the last are right, the last may be unfinished or wrong.

    `used` is how many of the characters have been read; what follows a wrong group has not.
    """

    groups: tuple[str, ...] = ()
    used: int = 0

    @property
    def problem(self) -> str:
        """What is wrong with the last group, once it is complete; "" while all is well."""
        return group_problem(self.groups[-1]) if self.groups and len(self.groups[-1]) == GROUP_DIGITS else ""

    @property
    def complete(self) -> bool:
        """Whether all eight groups are there and right."""
        return len(self.groups) == GROUPS and len(self.groups[-1]) == GROUP_DIGITS and not self.problem

    @property
    def right(self) -> int:
        """How many groups are complete and right."""
        return sum(len(group) == GROUP_DIGITS for group in self.groups) - bool(self.problem)


class RecoveryPasswordEntry:
    """48 digits, group by group. A wrong group keeps the cursor until it is corrected, cleared, or all is typed anew.

    Before the password may stand anything (a scanner's label, the key id, a wrong attempt): as soon as the last digits
    typed are a whole right password, they are what counts. Eight groups are right by chance once in 10^9 times.
    """

    def __init__(self) -> None:
        self._typed = ""
        #: The last characters whatever became of them: a whole right password there replaces what is shown.
        self._recent = ""
        self._reading = Reading()
        self._remark = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups for the screen, the last one perhaps unfinished."""
        return self._reading.groups

    @property
    def wrong_group(self) -> int:
        """The group that is wrong, from 1; 0 for none. It is always the last."""
        return len(self.groups) if self._reading.problem else 0

    @property
    def problem(self) -> str:
        """What is wrong, as a plain sentence without any digit; "" while all is well."""
        if self._reading.problem:
            return f"Group {len(self.groups)} {self._reading.problem}."
        return self._remark

    @property
    def complete(self) -> bool:
        """Whether all eight groups are right."""
        return self._reading.complete

    def key(self) -> bytes:
        """The 16-byte key of a complete entry. Raises RecoveryPasswordError on any other."""
        return parse("".join(self.groups))

    def press(self, key: str) -> Outcome:
        """Take one character or SpecialKey. DONE comes only for Enter or Tab with all groups right."""
        self._remark = ""
        if key == SpecialKey.ESCAPE:
            return Outcome.LEFT
        if key in (SpecialKey.ENTER, SpecialKey.TAB):
            return self._end_of_input()
        if key == SpecialKey.BACKSPACE:
            self._backspace()
        elif key == SpecialKey.CLEAR:
            self._typed = self._recent = ""
        elif len(key) == 1:
            self._character(key)
        self._reading = read(self._typed)
        return Outcome.GOES_ON

    def _end_of_input(self) -> Outcome:
        if self.complete:
            return Outcome.DONE
        digits = sum(map(len, self.groups))
        if digits and not self._reading.problem:
            self._remark = f"{digits} digits so far; a recovery password has {_DIGITS}."
        return Outcome.GOES_ON

    def _character(self, character: str) -> None:
        if character.isalpha() and character not in _UNSHIFTED:
            self._remark = "A recovery password has only digits."
        if character not in _UNSHIFTED and not (character.isascii() and character.isdigit()):
            return
        if character == _DASH and any(c.isdigit() for c in self._typed) and not _unshifted(self._typed):
            return  # this keyboard's digits are digits, so a dash is a dash
        self._recent = (self._recent + character)[-_MOST_TYPED:]
        if not self._reading.problem and not self.complete and len(self._typed) < _MOST_TYPED:
            self._typed += character
        else:
            self._typed = _whole_password(self._recent) or self._typed

    def _backspace(self) -> None:
        """Take back the last digit shown, with what came after it."""
        shown = sum(map(len, self.groups))
        kept = self._typed[: self._reading.used]
        while kept:
            kept = kept[:-1]
            if sum(map(len, read(kept).groups)) < shown:
                break
        self._typed = self._recent = kept


class PassphraseEntry:
    """A passphrase, case kept; dots on the screen unless the technician asks to see it."""

    def __init__(self) -> None:
        self._text = ""
        self._shown = False

    @property
    def text(self) -> str:
        """What was typed."""
        return self._text

    @property
    def shown(self) -> str:
        """What the screen shows: the text, or an asterisk for each character."""
        return self._text if self._shown else "*" * len(self._text)

    @property
    def visible(self) -> bool:
        """Whether the text itself is shown."""
        return self._shown

    def press(self, key: str) -> Outcome:
        """Take one character or SpecialKey: Tab shows or hides, Enter ends an entry that is not empty."""
        if key == SpecialKey.ESCAPE:
            return Outcome.LEFT
        if key == SpecialKey.ENTER:
            return Outcome.DONE if self._text.strip() else Outcome.GOES_ON
        if key == SpecialKey.TAB:
            self._shown = not self._shown
        elif key == SpecialKey.BACKSPACE:
            self._text = self._text[:-1]
        elif key == SpecialKey.CLEAR:
            self._text = ""
        elif len(key) == 1 and key.isprintable():
            self._text = (self._text + key)[:LONGEST_PASSPHRASE]
        return Outcome.GOES_ON


def read(typed: str) -> Reading:
    """The reading of digits, unshifted digits and dashes that keeps most groups right."""
    plain = _read_groups("".join(c if c.isdigit() else _DASH for c in typed), dashes_are_digits=False)
    if not _unshifted(typed):
        return plain
    french = _read_groups("".join(_UNSHIFTED.get(c, c) if c != _DASH else c for c in typed), dashes_are_digits=True)
    return max(french, plain, key=lambda reading: (reading.right, len(reading.groups), not reading.problem))


def _unshifted(typed: str) -> bool:
    return any(c in _UNSHIFTED and c != _DASH for c in typed)


def _read_groups(
    symbols: str, *, dashes_are_digits: bool, start: int = 0, done: int = 0, separated: bool = False
) -> Reading:
    """Groups from `start` on. Within a group a dash is a 6, or nothing; before a group it may be either, once.

    `separated` is whether a dash stood for nothing before the last group: then one is expected here too.
    """
    as_digit = _read_group(symbols, start, done, dashes_are_digits, separated=False)
    if not dashes_are_digits or symbols[start : start + 1] != _DASH:
        return as_digit
    as_nothing = _read_group(symbols, start + 1, done, dashes_are_digits, separated=True)
    expected, other = (as_nothing, as_digit) if separated else (as_digit, as_nothing)
    return max(expected, other, key=lambda reading: reading.right) if expected.problem else expected


def _read_group(symbols: str, start: int, done: int, dashes_are_digits: bool, *, separated: bool) -> Reading:
    digits, used = "", start
    while used < len(symbols) and len(digits) < GROUP_DIGITS:
        digits += symbols[used] if symbols[used] != _DASH else "6" if dashes_are_digits else ""
        used += 1
    if not digits:
        return Reading(used=used)
    first = Reading(groups=(digits,), used=used)
    if len(digits) < GROUP_DIGITS or first.problem or done + 1 == GROUPS:
        return first
    rest = _read_groups(symbols, dashes_are_digits=dashes_are_digits, start=used, done=done + 1, separated=separated)
    return Reading(groups=(digits, *rest.groups), used=rest.used)


def _whole_password(recent: str) -> str:
    """The end of `recent` that is a whole right password, wherever it begins; "" where none is."""
    for start in range(len(recent) - _DIGITS + 1):
        reading = read(recent[start:])
        if reading.complete and start + reading.used == len(recent):
            return recent[start:]
    return ""
