"""The screens that ask for a key: pure functions from a state to text of at most so many columns and lines.

The text stands on the left, on the right a QR code of key id and serial number for whoever looks the key up with a
phone. Its modules are drawn with background colours alone, two cells a module, for no code page can spoil a space.
Where that does not fit but the console is known to have half blocks (Linux: 80x25 too), a cell is two modules, and
where it has none (Windows at 80x25), the code is cut to the first digits of the key id and of the serial number.
As on every other screen, what came from a disk passes through `plain`, and nothing stands in the last column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from payload.formats.recovery_password import GROUP_DIGITS, GROUPS
from payload.qr_code import Matrix, TextTooLong, encode
from payload.screen import AMBER, BLANK, BOLD, DIM, KEYS, RED, TITLE, Line, Span, clip, paint_line, plain, wrap

#: The light border of a code, in modules. The standard wants 4, for print; readers of screens need 1 (measured).
QUIET = 2
#: Between the text and the code, in columns.
_GAP = 1
#: Two rows of four groups with a margin: below that there is no room for a code.
_LEAST_TEXT = 28
#: Versions of code: the largest for all of key id and serial number, and the one that fits into 25 lines of spaces.
_LARGEST, _SMALLEST = 4, 1
_KEY_ID_DIGITS = 8
_LIGHT, _DARK = "47", "40"
_LIGHT_OVER_DARK, _DARK_OVER_LIGHT = "37;40", "30;47"
_HALF_BLOCK = "\u2580"
_WRONG = "1;37;41"
_MARGIN: Span = (" ", "")


@dataclass(frozen=True, kw_only=True)
class LockedVolume:
    """What finds the right key for a volume. `key_ids` are whole GUIDs, the likeliest first."""

    volume: str
    key_ids: tuple[str, ...]
    description: str = ""
    serial: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class KeyScreen:
    """A question for a recovery password (`locked`, `groups`), or for a passphrase (`facts`, `passphrase`).

    Where no recovery password exists, `locked` with `facts` that say so, and `choices`.

    `groups` are those typed so far and `wrong_group` the one to correct, from 1; `passphrase` is what is to be shown
    of it, None where none is asked for. `problem` says what is wrong with what stands there, `notice` what came before.
    `choices` stand in place of the answer where something else has to be chosen first.
    """

    title: str
    locked: LockedVolume | None = None
    facts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    wrong_group: int = 0
    passphrase: str | None = None
    problem: str = ""
    notice: str = ""
    choices: tuple[str, ...] = ()
    contact: str = ""
    countdown: str = ""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Lines that belong together. Where there are too few lines, the blocks with the highest rank go first."""

    lines: Sequence[Line]
    rank: int = 0


def render_key(screen: KeyScreen, *, columns: int, lines: int, colour: bool, half_blocks: bool) -> str:
    """The screen, at most `lines` lines of at most `columns` - 1 characters; no line break at the end."""
    width = max(1, columns - 1)
    code = _code(screen.locked, width, lines, half_blocks) if screen.locked and colour else []
    code_width = sum(len(text) for text, _ in code[0]) + _GAP if code else 0
    column = _column(screen, width - code_width, lines, coded=bool(code))
    rows = []
    for i in range(max(len(column), len(code))):
        text = paint_line(column[i] if i < len(column) else BLANK, width - code_width, colour)
        picture = paint_line(code[i], code_width - _GAP, colour) if i < len(code) else ""
        rows.append(text + " " * _GAP + picture if picture else text + " " * code_width if colour else text)
    return "\n".join(rows)


# --- the code ---------------------------------------------------------------------------------------------------------


def code_text(locked: LockedVolume) -> str:
    """What the code says where there is room for all of it."""
    key_id = locked.key_ids[0] if locked.key_ids else ""
    return " ".join(filter(None, (plain(key_id), plain(locked.serial)))).upper()


def _short_text(locked: LockedVolume) -> str:
    key_id = locked.key_ids[0] if locked.key_ids else ""
    return " ".join(filter(None, (plain(key_id)[:_KEY_ID_DIGITS], plain(locked.serial)))).upper()


def _code(locked: LockedVolume, width: int, lines: int, half_blocks: bool) -> list[Line]:
    """The code in the largest way that leaves room for the text; nothing where none does."""
    if not locked.key_ids:
        return []
    room = width - _GAP - _LEAST_TEXT
    whole, short = _fitting(code_text(locked), _LARGEST), _fitting(_short_text(locked), _SMALLEST)
    for drawn in (_in_spaces(whole), *([_in_half_blocks(whole)] if half_blocks else []), _in_spaces(short)):
        if len(drawn) <= lines and sum(len(text) for text, _ in drawn[0]) <= room:
            return drawn
    return []


@cache
def _fitting(text: str, largest: int) -> Matrix:
    """The code of as much of `text` as fits, with its border."""
    while True:
        try:
            matrix = encode(text, largest=largest)
            break
        except TextTooLong:
            text = text[:-1]
    border = (False,) * QUIET
    rows = [(*border, *row, *border) for row in matrix]
    empty = (False,) * len(rows[0])
    return (*(empty,) * QUIET, *rows, *(empty,) * QUIET)


def _in_spaces(matrix: Matrix) -> list[Line]:
    """A row of cells for each row of modules, two cells a module."""
    return [_line((_DARK if dark else _LIGHT, "  ") for dark in row) for row in matrix]


def _in_half_blocks(matrix: Matrix) -> list[Line]:
    """A row of cells for two rows of modules."""
    rows = [*matrix, (False,) * len(matrix[0])] if len(matrix) % 2 else list(matrix)
    cells = {
        (False, False): (_LIGHT, " "),
        (True, True): (_DARK, " "),
        (False, True): (_LIGHT_OVER_DARK, _HALF_BLOCK),
        (True, False): (_DARK_OVER_LIGHT, _HALF_BLOCK),
    }
    return [_line(cells[pair] for pair in zip(*rows[i : i + 2], strict=True)) for i in range(0, len(rows), 2)]


def _line(cells: Iterator[tuple[str, str]]) -> Line:
    """Cells of style and text as a line, neighbours of one style together."""
    return tuple(("".join(text for _, text in same), style) for style, same in groupby(cells, key=lambda cell: cell[0]))


# --- the text ---------------------------------------------------------------------------------------------------------


def _column(screen: KeyScreen, width: int, lines: int, *, coded: bool) -> list[Line]:
    """The text, as high as the screen: the question from the top, the keys at the bottom."""
    inner = max(1, width - 1)
    head = [_Block(lines=[((f" {clip(plain(screen.title), inner)}".ljust(width), TITLE),)])]
    if screen.locked:
        head += _locked(screen.locked, inner, coded)
    for fact in screen.facts:
        head += [_Block(lines=[BLANK], rank=5), _Block(lines=_lines(wrap(fact, inner, 4), ""))]
    head += [_Block(lines=[BLANK], rank=4), *_answer(screen, inner)]
    contact = [clip(part, inner) for part in _packed(screen.contact.split("   "), inner)]
    foot = [_Block(lines=_lines(contact, DIM), rank=3)]
    foot.append(_Block(lines=_lines(wrap(screen.countdown, inner, 2), f"{BOLD};{AMBER}")))
    foot.append(_Block(lines=[((f" {clip(key, inner)}".ljust(width), KEYS),) for key in _packed(screen.keys, inner)]))
    return _fit(head, foot, lines)


def _locked(locked: LockedVolume, inner: int, coded: bool) -> list[_Block]:
    """The volume and everything that its key can be looked up by."""
    ids = [line for key_id in locked.key_ids[:2] for line in _key_id(plain(key_id), inner)]
    more = len(locked.key_ids) - 2
    if more > 0:
        ids.append((_MARGIN, (f"and {more} more", "")))
    blocks = [
        _Block(lines=[BLANK], rank=5),
        _Block(lines=_lines(wrap(locked.volume, inner, 2), BOLD)),
        _Block(lines=_labelled("Description", locked.description, inner), rank=2),
        _Block(lines=_labelled("Key id", "-" if not ids else "", inner) if not ids else [_label("Key id"), *ids]),
        _Block(lines=_labelled("Serial number", locked.serial, inner)),
        _Block(lines=_labelled("Model", locked.model, inner), rank=6),
    ]
    if coded:
        hint = "The code on the right holds key id and serial number."
        blocks += [_Block(lines=[BLANK], rank=7), _Block(lines=_lines(wrap(hint, inner, 3), DIM), rank=8)]
    return blocks


def _answer(screen: KeyScreen, inner: int) -> list[_Block]:
    """What was typed so far with what is wrong with it, or the choices."""
    problem = _Block(lines=_lines(wrap(screen.problem, inner, 3), f"{BOLD};{RED}"))
    notice = _Block(lines=_lines(wrap(screen.notice, inner, 4), f"{BOLD};{AMBER}"))
    if screen.choices:
        choices = [_Block(lines=_lines(wrap(choice, inner, 4), "")) for choice in screen.choices]
        return [notice, _Block(lines=[BLANK], rank=4), *choices, problem]
    if screen.passphrase is not None:
        # The end is what is being typed.
        typed = plain(screen.passphrase)[-(inner - 1) :] + "_"
        return [notice, _Block(lines=[_label("Passphrase"), (_MARGIN, (typed, BOLD))]), problem]
    return [notice, _Block(lines=[_label("Recovery password"), *_groups(screen, inner)]), problem]


def _groups(screen: KeyScreen, inner: int) -> list[Line]:
    """All eight groups in rows of eight, four, two or one; what is not typed yet as underscores."""
    per_row = next((n for n in (8, 4, 2) if n * (GROUP_DIGITS + 1) - 1 <= inner), 1)
    spans: list[Span] = []
    for number in range(1, GROUPS + 1):
        typed = screen.groups[number - 1] if number <= len(screen.groups) else ""
        shown = typed.ljust(GROUP_DIGITS, "_")
        spans.append((shown, _WRONG if number == screen.wrong_group else BOLD if typed else DIM))
    lines: list[Line] = []
    for start in range(0, GROUPS, per_row):
        row: list[Span] = [_MARGIN]
        for span in spans[start : start + per_row]:
            row += [span, ("-", "")]
        lines.append(tuple(row[:-1]))
    return lines


def _key_id(key_id: str, inner: int) -> list[Line]:
    """A whole GUID, the digits that help desks ask for standing out; in two lines where it is too long for one."""
    first, rest = key_id[:_KEY_ID_DIGITS], key_id[_KEY_ID_DIGITS:]
    if len(key_id) <= inner:
        return [(_MARGIN, (first, f"{BOLD};{AMBER}"), (rest, ""))]
    cut = key_id.rfind("-", 0, inner - 1) - len(first) + 1
    return [(_MARGIN, (first, f"{BOLD};{AMBER}"), (rest[:cut], "")), (_MARGIN, (clip(rest[cut:], inner), ""))]


def _label(text: str) -> Line:
    return (_MARGIN, (f"{text}:", DIM))


def _labelled(label: str, text: str, inner: int) -> list[Line]:
    """`Label: text` in one line or below each other; nothing for an empty text."""
    if not text:
        return []
    text = plain(text)
    if len(label) + 2 + len(text) <= inner:
        return [(_MARGIN, (f"{label}: ", DIM), (text, ""))]
    return [_label(label), *_lines(wrap(text, inner, 2), "")]


def _lines(parts: Sequence[str], style: str) -> list[Line]:
    return [(_MARGIN, (part, style)) for part in parts]


def _packed(keys: Sequence[str], inner: int) -> list[str]:
    """Keys, or other short texts, side by side as far as they fit."""
    rows: list[str] = []
    for key in filter(None, map(plain, keys)):
        if rows and len(rows[-1]) + 3 + len(key) <= inner:
            rows[-1] += f"   {key}"
        else:
            rows.append(key)
    return rows


def _fit(head: list[_Block], foot: list[_Block], lines: int) -> list[Line]:
    """Head and foot in exactly `lines` lines, without what there is no room for."""
    for most in range(max(block.rank for block in (*head, *foot)), -1, -1):
        top = [line for block in head if block.rank <= most for line in block.lines]
        bottom = [line for block in foot if block.rank <= most for line in block.lines]
        if len(top) + len(bottom) <= lines or most == 0:
            break
    spare = lines - len(top) - len(bottom)
    return [*top, *[BLANK] * spare, *bottom] if spare >= 0 else [*top, *bottom][-max(1, lines) :]
