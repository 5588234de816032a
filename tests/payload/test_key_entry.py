"""What is typed for a recovery password or a passphrase: by hand, pasted, scanned, on French keyboards; garbage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.environment import SpecialKey
from payload.environment.linux_keys import first_key
from payload.environment.windows_keys import RECORD, keys_of
from payload.formats.recovery_password import parse, text_of
from payload.key_entry import Outcome, PassphraseEntry, RecoveryPasswordEntry

PASSWORD = "111683-110561-484748-281314-666028-066605-065384-470547"
DIGITS = PASSWORD.replace("-", "")
KEY_ID = "C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B5C"
FRENCH = str.maketrans("1234567890", "&é\"'(-è_çà")
#: Where Belgium and Apple have 6 and 8.
BELGIAN = str.maketrans("1234567890", "&é\"'(§è!çà")
NAMES = tuple(SpecialKey)

keys = st.binary(min_size=16, max_size=16)
characters = st.one_of(st.sampled_from("0123456789-- &é\"'(è_çà§!aZ:\n"), st.characters())
anything = st.one_of(characters, st.sampled_from(NAMES), st.text(max_size=3))
#: What does nothing to what has been typed so far.
between = st.text(" -\t/.", max_size=3)


def typed(text: str, entry: RecoveryPasswordEntry | None = None) -> RecoveryPasswordEntry:
    entry = entry or RecoveryPasswordEntry()
    for character in text:
        assert entry.press(character) is Outcome.GOES_ON
    return entry


def press(entry: RecoveryPasswordEntry, *names: SpecialKey) -> RecoveryPasswordEntry:
    for name in names:
        entry.press(name)
    return entry


@pytest.mark.parametrize(
    "text",
    [
        PASSWORD, DIGITS, PASSWORD.replace("-", " "), PASSWORD.replace("-", "\u2013"), f" {PASSWORD}",
        f"{KEY_ID} {PASSWORD}", f"{KEY_ID}\t{DIGITS}", f"{KEY_ID}{DIGITS}", f'"{KEY_ID}","{PASSWORD}"',
        f"12345678-1234-1234-1234-123456789ABC {DIGITS}", f"Recovery Key: {PASSWORD}", f"({PASSWORD})",
        f"000000{DIGITS}", f"123456{PASSWORD}", PASSWORD[:20] + PASSWORD, DIGITS + "123456", DIGITS.translate(FRENCH),
        DIGITS.translate(BELGIAN), PASSWORD.translate(FRENCH), PASSWORD.translate(FRENCH).replace("-", "- "),
        PASSWORD.replace("-", " ", 1).translate(FRENCH), DIGITS[:30] + DIGITS[30:].translate(FRENCH),
        DIGITS[:24].translate(FRENCH) + DIGITS[24:],
    ],
)  # fmt: skip
def test_typed_right(text: str) -> None:
    entry = typed(text)
    assert entry.complete
    assert entry.problem == ""
    assert entry.key() == parse(PASSWORD)
    assert entry.press(SpecialKey.ENTER) is Outcome.DONE


@pytest.mark.parametrize("end", [SpecialKey.ENTER, SpecialKey.TAB])
def test_a_scanner_ends_with_enter_or_tab_and_may_begin_with_the_key_id(end: SpecialKey) -> None:
    entry = typed(KEY_ID)
    assert entry.press(end) is Outcome.GOES_ON
    assert typed(DIGITS, entry).press(end) is Outcome.DONE


def test_a_wrong_group_is_said_at_once_and_keeps_the_cursor() -> None:
    entry = typed("111683-110562")
    assert (entry.wrong_group, len(entry.groups)) == (2, 2)
    assert entry.problem == "Group 2 was mistyped: eleven does not divide it."
    typed("484748-2", entry)
    assert entry.groups == ("111683", "110562")
    press(entry, SpecialKey.BACKSPACE)
    assert (entry.groups, entry.wrong_group, entry.problem) == (("111683", "11056"), 0, "")
    typed("1" + DIGITS[12:], entry)
    assert entry.complete


@pytest.mark.parametrize("wrong", ["111684", "720907", "999999", "&&&-_'"])
def test_a_group_that_cannot_be(wrong: str) -> None:
    assert typed(wrong).wrong_group == 1
    assert "mistyped" in typed(wrong).problem
    assert not any(character.isdigit() for character in typed(wrong).problem.replace("Group 1", ""))


def test_a_whole_password_after_a_wrong_group_replaces_it() -> None:
    entry = typed("111684")
    assert typed(PASSWORD, entry).complete


def test_backspace_goes_back_over_groups_and_dashes() -> None:
    entry = typed("111683-110561-")
    press(entry, *[SpecialKey.BACKSPACE] * 7)
    assert entry.groups == ("11168",)
    press(entry, *[SpecialKey.BACKSPACE] * 50)
    assert not entry.groups


def test_the_keys_between() -> None:
    entry = typed("111683-1105")
    assert entry.press(SpecialKey.ENTER) is Outcome.GOES_ON
    assert entry.problem == "10 digits so far; a recovery password has 48."
    press(entry, SpecialKey.OTHER)
    assert (entry.groups, entry.problem) == (("111683", "1105"), "")
    typed("q", entry)
    assert (entry.groups, entry.problem) == (("111683", "1105"), "A recovery password has only digits.")
    assert press(entry, SpecialKey.CLEAR).groups == ()
    assert entry.press(SpecialKey.ESCAPE) is Outcome.LEFT


@pytest.mark.parametrize("start", ["-", "--"])
def test_a_french_password_that_begins_with_six(start: str) -> None:
    """666028: until a key that only French keyboards have, a dash may be nothing."""
    entry = typed(f"{start}&")
    assert entry.groups == ("6" * len(start) + "1",)


def test_an_entry_tells_nothing() -> None:
    secret = PassphraseEntry()
    for entry in (typed(PASSWORD), secret):
        for character in "correct":
            entry.press(character)
        assert "correct" not in repr(entry)
        assert "111683" not in repr(entry)
    assert "111683" not in repr(typed(PASSWORD)._reading)


@given(st.lists(anything, max_size=200))
@settings(deadline=None)
def test_garbage_never_raises_and_is_not_hoarded(pressed: list[str]) -> None:
    entry, passphrase = RecoveryPasswordEntry(), PassphraseEntry()
    for key in pressed:
        entry.press(key)
        passphrase.press(key)
        assert len(entry.groups) <= 8
        assert all(len(group) == 6 for group in entry.groups[:-1])
        assert all(group.isascii() and group.isdigit() and len(group) <= 6 for group in entry.groups)
        assert len(entry._typed) <= 64 and len(entry._recent) <= 64
        assert entry.complete == (entry.press(SpecialKey.ENTER) is Outcome.DONE)
        assert len(passphrase.text) <= 128
        assert passphrase.shown in (passphrase.text, "*" * len(passphrase.text))
        if entry.complete:
            assert len(entry.key()) == 16


@given(keys, st.data())
@settings(deadline=None, max_examples=25)
def test_what_is_typed_right_is_accepted(key: bytes, data: st.DataObject) -> None:
    """Whatever stands between the digits, and however often some are taken back and typed again."""
    entry = RecoveryPasswordEntry()
    digits = text_of(key).replace("-", "")
    i = 0
    while i < len(digits):
        typed(data.draw(between) + digits[i], entry)
        i += 1
        back = data.draw(st.sampled_from([0] * 9 + [1, 2, 7]))
        press(entry, *[SpecialKey.BACKSPACE] * min(back, i))
        i -= min(back, i)
    assert entry.complete
    assert entry.key() == key


@given(keys, st.text("0123456789-ABCDEF ", max_size=80))
@settings(deadline=None)
def test_whatever_was_typed_before_a_right_password(key: bytes, before: str) -> None:
    assert typed(text_of(key), typed(before)).key() == key


@given(keys)
@settings(deadline=None)
def test_unshifted_digits_without_dashes(key: bytes) -> None:
    digits = text_of(key).replace("-", "")
    entry = typed(digits.translate(FRENCH))
    # A password of nothing but 6, the one key that is also the dash, is the only one that is not understood.
    assert (entry.complete and entry.key() == key) or set(digits) == {"6"}


@given(keys)
@settings(deadline=None, max_examples=100)
def test_unshifted_digits_with_dashes(key: bytes) -> None:
    entry = typed(text_of(key).translate(FRENCH))
    assert (entry.complete and entry.key() == key) or set(text_of(key)) == {"6", "-"}


def test_a_passphrase() -> None:
    entry = PassphraseEntry()
    for key in ("B", "o", "x", SpecialKey.BACKSPACE, "b", " ", "7", SpecialKey.OTHER):
        assert entry.press(key) is Outcome.GOES_ON
    assert (entry.text, entry.shown) == ("Bob 7", "*****")
    entry.press(SpecialKey.TAB)
    assert (entry.shown, entry.visible) == ("Bob 7", True)
    assert entry.press(SpecialKey.ENTER) is Outcome.DONE
    entry.press(SpecialKey.CLEAR)
    assert entry.press(SpecialKey.ENTER) is Outcome.GOES_ON
    assert entry.press(SpecialKey.ESCAPE) is Outcome.LEFT


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"aZ\xc3\xa9", ["a", "Z", "é"]),
        (b"\r\n\t\x08\x7f\x15\x03", ["enter", "enter", "tab", "backspace", "backspace", "clear", "other"]),
        (b"\x1bOp\x1bOy\x1bOM\x1bOS", ["0", "9", "enter", "-"]),
        (b"\x1b[A1\x1b[3~2\x1b[[A3\x1bOP4", ["other", "1", "other", "2", "other", "3", "other", "4"]),
        (b"\x1b", ["escape"]),
        (b"\x1b\x1b", ["escape", "escape"]),
        (b"\xc3(\xff", ["other", "(", "other"]),
        (b"\x1b[1;5C0", ["other", "0"]),
    ],
)
def test_keys_of_a_linux_console(data: bytes, keys: list[str]) -> None:
    assert linux_keys(data) == keys


def linux_keys(data: bytes) -> list[str]:
    found = []
    while data:
        key, length = first_key(data, more_may_come=False)
        assert key is not None and length > 0
        found.append(key)
        data = data[length:]
    return found


@given(st.binary(max_size=40), st.integers(0, 40))
def test_linux_keys_of_garbage(data: bytes, cut: int) -> None:
    """They end, and are the same however the bytes are split, as long as more was awaited."""
    head, tail = data[:cut], data[cut:]
    found: list[str] = []
    while True:
        key, length = first_key(head, more_may_come=bool(tail))
        if key is not None:
            found.append(key)
            head = head[length:]
        elif tail:
            head, tail = head + tail[:1], tail[1:]
        else:
            break
    assert found == linux_keys(data)


def event(character: str = "\0", code: int = 0x41, *, pressed: int = 1, count: int = 1, control: int = 0) -> bytes:
    return RECORD.pack(1, pressed, count, code, 0, ord(character), control)


@pytest.mark.parametrize(
    ("records", "keys"),
    [
        (event("A") + event("A", pressed=0), ["A"]),
        (event("à", 0x30), ["à"]),
        (event(code=0x10) + event("5", 0x35, count=3), ["5", "5", "5"]),
        (event(code=0x24) + event(code=0x24, control=0x100), ["7", "other"]),
        (event(code=0x2D) + event(code=0x21), ["0", "9"]),
        (event(code=0x2D, control=2) + event("é", 0x12, pressed=0), ["é"]),
        (event("\r", 0x0D, control=0x100) + event("\x1b", 0x1B) + event("\x15") + event("\x03"),
         ["enter", "escape", "clear", "other"]),
        (struct.pack("<H18x", 4) + event("\t", 9) + event("\b", 8), ["tab", "backspace"]),
        (event(code=0x70) + event(code=0x1B), ["other", "escape"]),
    ],
)  # fmt: skip
def test_keys_of_a_windows_console(records: bytes, keys: list[str]) -> None:
    assert list(keys_of(records)) == keys


@given(st.lists(st.binary(min_size=18, max_size=18)))
def test_windows_keys_of_garbage(events: list[bytes]) -> None:
    for key in keys_of(b"".join(b"\1\0" + event[:6] + b"\1\0" + event[8:] for event in events)):
        assert key in NAMES or len(key) == 1
