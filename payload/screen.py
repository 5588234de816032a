"""What the technician sees: pure functions from a state to text of at most so many columns and lines.

Everything that came from a disk (labels, computer names, paths) passes through `plain`, so nothing on a volume can
send a terminal escape to the screen. Nothing is ever written in the last column, so no terminal wraps a line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from payload import block_letters
from payload.contract import Verdict

#: Clears the screen and goes to its upper left corner (ECMA-48 ED, CUP).
CLEAR = "\033[2J\033[H"
#: Goes to the upper left corner; the text that follows overwrites what was there.
HOME = "\033[H"

#: SGR parameters: of the three colours, and of what they are for.
GREEN, AMBER, RED = "32", "33", "31"
_COLOURS = {
    Verdict.FAILED: RED,
    Verdict.LEFT_ALONE: AMBER,
    Verdict.NEEDS_A_KEY: AMBER,
    Verdict.REPORTED: AMBER,
    Verdict.REPAIRED: GREEN,
    Verdict.ALREADY_CLEAN: GREEN,
    Verdict.NO_WINDOWS_FOUND: AMBER,
}
_BANDS = {GREEN: "30;42", AMBER: "30;43", RED: "1;37;41"}
TITLE = "1;37;44"
BOLD = "1"
DIM = "36"
KEYS = "30;47"
_MARGIN = 2

#: A piece of a line: its text and its SGR parameters ("" for the terminal's own colours).
Span = tuple[str, str]
Line = tuple[Span, ...]
BLANK: Line = ()


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """One volume in the table."""

    volume: str
    label: str
    size: int
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class VerdictScreen:
    """The final screen. `remarks` are lines that matter as much as the table (disks not read, controllers)."""

    verdict: Verdict
    sentence: str
    advice: str = ""
    host: str = ""
    remarks: tuple[str, ...] = ()
    rows: tuple[VolumeRow, ...] = ()
    contact: str = ""
    countdown: str = ""
    keys: str = ""


@dataclass(frozen=True, kw_only=True)
class ProgressScreen:
    """What is being done right now: the last of `steps`, below those already done."""

    title: str
    host: str = ""
    steps: tuple[str, ...] = ()


def plain(text: str) -> str:
    """`text` as printable ASCII on one line: everything else (control characters too) becomes a question mark."""
    return "".join(c if " " <= c <= "~" else " " if c in "\t\r\n" else "?" for c in text)


def size_text(size: int) -> str:
    """A size in bytes as people say it: `512 MB`, `237 GB`; nothing for 0."""
    if size <= 0:
        return ""
    units = ("B", "KB", "MB", "GB", "TB", "PB")
    step = 0
    amount = float(size)
    while amount >= 999.5 and step < len(units) - 1:
        amount /= 1000
        step += 1
    return f"{min(amount, 9999):.{1 if amount < 9.95 and step > 2 else 0}f} {units[step]}"


def render_verdict(screen: VerdictScreen, *, columns: int, lines: int, colour: bool) -> str:
    """The final screen, at most `lines` lines of at most `columns` - 1 characters; no line break at the end."""
    width = _width(columns)
    inner = max(1, width - 2 * _MARGIN)
    message = _message(screen, inner)
    foot = _foot(screen, inner, width)
    details = _details(screen, inner)
    taken = len(message) + len(foot)
    remarks = len(_remarks(screen, inner))
    heading = _heading(screen, width, lines - taken - min(len(details), max(5, remarks + 4)), colour)
    if len(heading) == 1:
        heading = _heading(screen, width, lines - taken - min(len(details), 5), colour)
    room = lines - len(heading) - len(foot)
    body = _body(message, details, room)
    fill = [BLANK] * (room - len(body) if screen.keys else 0)
    return _paint([*heading, *body, *fill, *foot], width, lines, colour)


def render_progress(screen: ProgressScreen, *, columns: int, lines: int, colour: bool) -> str:
    """The screen while the payload works: the newest steps that fit, the last one marked."""
    width = _width(columns)
    inner = max(1, width - 2 * _MARGIN)
    head: list[Line] = [((f"  {plain(screen.title)}".ljust(width), TITLE),), BLANK]
    if screen.host:
        head += [((plain(screen.host), ""),), BLANK]
    steps: list[Line] = []
    for i, step in enumerate(screen.steps):
        newest = i == len(screen.steps) - 1
        for n, part in enumerate(wrap(step, max(1, inner - 2), 3)):
            mark = "  " if n else "> " if newest else "- "
            steps.append((_margin(), (mark + part, BOLD if newest else "")))
    head[1:] = [(_margin(), *line) if line else line for line in head[1:]]
    room = max(1, lines - len(head))
    return _paint([*head, *steps[-room:]], width, lines, colour)


def _width(columns: int) -> int:
    return max(1, columns - 1)


def _margin() -> Span:
    return (" " * _MARGIN, "")


def wrap(text: str, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines; what does not fit ends in two dots."""
    lines = textwrap.wrap(plain(text), width, break_on_hyphens=False)
    if len(lines) > most:
        lines = [*lines[: most - 1], clip(f"{lines[most - 1]} {lines[most]}", width)]
    return lines


def clip(text: str, width: int) -> str:
    """`text` in one line; what does not fit ends in two dots."""
    if len(text) <= width:
        return text
    return f"{text[: width - 2]}.." if width > 4 else text[:width]


def _heading(screen: VerdictScreen, width: int, room: int, colour: bool) -> list[Line]:
    """The verdict in the largest letters that leave room for the rest, with the band it stands on."""
    text = screen.verdict.headline
    whole, *halves = block_letters.splits(text)
    shapes = [(whole, 2), (whole, 1), *((half, gap) for half in halves for gap in (2, 1))]
    for scale in (3, 2, 1) if screen.keys else (1,):
        for words, gap in shapes:
            drawn = block_letters.draw_centred(words, width=width - 2, gap=gap, scale=scale)
            if drawn is None or len(drawn) > room or (scale > 1 and len(drawn) + 2 > room // 2):
                continue
            padding = [" " * (width - 2)] * (len(drawn) + 2 <= room)
            return _band([*padding, *drawn, *padding], screen.verdict, colour)
    return _band([text.center(max(1, width - 2))], screen.verdict, colour, letters=False)


def _band(rows: Sequence[str], verdict: Verdict, colour: bool, letters: bool = True) -> list[Line]:
    """Rows of "#" and " " as letters on a band of the verdict's colour; without colour as they are."""
    if not colour:
        return [((f" {row}", ""),) for row in rows]
    band = _BANDS[_COLOURS[verdict]]
    if not letters:
        return [((" ", ""), (row, band)) for row in rows]
    stroke = "47" if _COLOURS[verdict] == RED else "40"
    return [((" ", ""), *_strokes(row, band, stroke)) for row in rows]


def _strokes(row: str, band: str, stroke: str) -> list[Span]:
    spans: list[Span] = []
    for cell in row:
        style = stroke if cell == "#" else band
        if spans and spans[-1][1] == style:
            spans[-1] = (spans[-1][0] + " ", style)
        else:
            spans.append((" ", style))
    return spans


def _message(screen: VerdictScreen, inner: int) -> list[Line]:
    lines: list[Line] = [(_margin(), (part, BOLD)) for part in wrap(screen.sentence, inner, 3)]
    if screen.advice:
        parts = wrap(f"What to do next: {screen.advice}", inner, 4)
        lines += [(_margin(), (part, "")) for part in parts]
    return lines


def _foot(screen: VerdictScreen, inner: int, width: int) -> list[Line]:
    lines: list[Line] = []
    if screen.contact:
        lines.append((_margin(), (clip(plain(screen.contact), inner), DIM)))
    if screen.countdown:
        lines.append((_margin(), (clip(plain(screen.countdown), inner), f"{BOLD};{AMBER}")))
    if screen.keys:
        keys = clip(plain(screen.keys), inner)
        lines.append(((" ", ""), (f" {keys}".ljust(width - 2), KEYS)))
    return lines


def _details(screen: VerdictScreen, inner: int) -> list[Line]:
    """Host, remarks and table, the least important last."""
    lines: list[Line] = []
    if screen.host:
        lines += [(_margin(), (clip(plain(screen.host), inner), DIM)), BLANK]
    lines += _remarks(screen, inner)
    if screen.remarks and screen.rows:
        lines.append(BLANK)
    return lines + _table(screen.rows, inner)


def _remarks(screen: VerdictScreen, inner: int) -> list[Line]:
    return [(_margin(), (part, "")) for remark in screen.remarks for part in wrap(remark, inner, 4)]


def _table(rows: Sequence[VolumeRow], inner: int) -> list[Line]:
    if not rows:
        return []
    wide = inner >= 100
    cells = [
        (plain(row.volume), plain(row.label), size_text(row.size), _result(row.verdict), plain(row.detail))
        for row in rows
    ]
    titles = ("VOLUME", "LABEL", "SIZE", "RESULT", "")
    caps = (40, 28, 8, 16) if wide else (18, 14, 8, 16)
    widths = [
        min(cap, max(len(title), *(len(cell[i]) for cell in cells)))
        for i, (title, cap) in enumerate(zip(titles, caps, strict=False))
    ]
    lines: list[Line] = [(_margin(), ("  ".join(t.ljust(w) for t, w in zip(titles, widths, strict=False)), DIM))]
    for row, cell in zip(rows, cells, strict=True):
        left = [_clip_left(cell[0], widths[0]), clip(cell[1], widths[1]).ljust(widths[1]), cell[2].rjust(widths[2])]
        result = cell[3].ljust(widths[3])
        rest = max(0, inner - sum(widths) - 8)
        tail = clip(cell[4], rest) if rest else ""
        shade = "" if row.verdict is Verdict.NO_WINDOWS_FOUND else f"{BOLD};{_COLOURS[row.verdict]}"
        lines.append((_margin(), ("  ".join(left) + "  ", ""), (result, shade), (f"  {tail}", "")))
    return lines


def _result(verdict: Verdict) -> str:
    """A volume's verdict in the table: capitals only where Windows is concerned."""
    return "no Windows" if verdict is Verdict.NO_WINDOWS_FOUND else verdict.headline


def _clip_left(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"..{text[len(text) - width + 2 :]}"


def _body(message: list[Line], details: list[Line], room: int) -> list[Line]:
    """Message and details with as many blank lines as there is room for, else cut with a line that says so."""
    tight = [line for line in details if line]
    for body in (
        [BLANK, *message, BLANK, *details, BLANK],
        [BLANK, *message, BLANK, *tight, BLANK],
        [BLANK, *message, BLANK, *tight],
        [BLANK, *message, *tight],
        [*message, *tight],
    ):
        if len(body) <= room:
            return body
    around = [BLANK] if room - len(message) >= 8 else []
    kept = max(0, room - len(message) - 2 * len(around) - 1)
    more: Line = (_margin(), (f"... and {len(tight) - kept} more (see receipt)", DIM))
    return [*around, *message, *tight[:kept], more, *around][: max(0, room)]


def _paint(content: Sequence[Line], width: int, lines: int, colour: bool) -> str:
    shown = list(content)
    if len(shown) > lines:
        shown = [*shown[: lines - 1], shown[-1]]
    return "\n".join(paint_line(line, width, colour) for line in shown[: max(1, lines)])


def paint_line(line: Line, width: int, colour: bool) -> str:
    """A line as text with its SGR sequences, as wide as `width`; without colour it ends where its text does."""
    left = width
    painted = ""
    for text, style in line:
        text = text[:left]
        left -= len(text)
        painted += f"\033[{style}m{text}\033[0m" if colour and style and text else text
    return painted + " " * left if colour else painted.rstrip()
