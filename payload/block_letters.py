"""Capital letters of five rows, drawn with character cells, to be read across a room.

A character cell is about twice as high as it is wide, so an upright stroke is two cells and a level stroke is one.
"""

from __future__ import annotations

from collections.abc import Sequence

#: The height of a letter at scale 1, in character cells.
ROWS = 5
#: The width of the space between two words at scale 1, beside the gap between letters.
SPACE = 2

_LETTERS = {
    "A": (" ##### ", "##   ##", "#######", "##   ##", "##   ##"),
    "B": ("###### ", "##   ##", "###### ", "##   ##", "###### "),
    "C": (" ######", "##     ", "##     ", "##     ", " ######"),
    "D": ("###### ", "##   ##", "##   ##", "##   ##", "###### "),
    "E": ("######", "##    ", "##### ", "##    ", "######"),
    "F": ("######", "##    ", "##### ", "##    ", "##    "),
    "G": (" ######", "##     ", "##  ###", "##   ##", " ##### "),
    "H": ("##   ##", "##   ##", "#######", "##   ##", "##   ##"),
    "I": ("##", "##", "##", "##", "##"),
    "J": ("     ##", "     ##", "     ##", "##   ##", " ##### "),
    "K": ("##   ##", "##  ## ", "#####  ", "##  ## ", "##   ##"),
    "L": ("##    ", "##    ", "##    ", "##    ", "######"),
    "M": ("##    ##", "###  ###", "########", "## ## ##", "##    ##"),
    "N": ("##    ##", "####  ##", "## ## ##", "##  ####", "##    ##"),
    "O": (" ##### ", "##   ##", "##   ##", "##   ##", " ##### "),
    "P": ("###### ", "##   ##", "###### ", "##     ", "##     "),
    "Q": (" ##### ", "##   ##", "## # ##", "##  ## ", " ### ##"),
    "R": ("###### ", "##   ##", "###### ", "##  ## ", "##   ##"),
    "S": (" ######", "##     ", " ##### ", "     ##", "###### "),
    "T": ("########", "   ##   ", "   ##   ", "   ##   ", "   ##   "),
    "U": ("##   ##", "##   ##", "##   ##", "##   ##", " ##### "),
    "V": ("##   ##", "##   ##", " ## ## ", " ## ## ", "  ###  "),
    "W": ("##    ##", "##    ##", "## ## ##", "########", " ##  ## "),
    "X": ("##   ##", " ## ## ", "  ###  ", " ## ## ", "##   ##"),
    "Y": ("##    ##", " ##  ## ", "  ####  ", "   ##   ", "   ##   "),
    "Z": ("#######", "    ## ", "  ###  ", " ##    ", "#######"),
    " ": (" " * SPACE,) * ROWS,
}


def draw(text: str, *, gap: int = 1, scale: int = 1) -> list[str]:
    """`text` (capital letters and spaces) as ROWS * scale lines of equal width, made of "#" and " ".

    `gap` is the number of blank columns between two letters, before scaling. Raises KeyError for any other character.
    """
    glyphs = [_LETTERS[letter] for letter in text]
    rows = [(" " * gap).join(glyph[row] for glyph in glyphs) for row in range(ROWS)]
    wide = ["".join(cell * scale for cell in row) for row in rows]
    return [row for row in wide for _ in range(scale)]


def draw_centred(words: Sequence[str], *, width: int, gap: int = 1, scale: int = 1) -> list[str] | None:
    """One block of letters below another, each centred in `width` columns; None where they do not fit."""
    lines: list[str] = []
    for text in words:
        block = draw(text, gap=gap, scale=scale)
        if len(block[0]) > width:
            return None
        if lines:
            lines.append(" " * width)
        lines += [row.center(width) for row in block]
    return lines


def splits(text: str) -> list[tuple[str, ...]]:
    """`text` whole, and in two at each of its spaces, the most even first: `NO WINDOWS` + `FOUND`."""
    words = text.split(" ")
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return [(text,), *sorted(halves, key=lambda half: abs(len(half[0]) - len(half[1])))]
