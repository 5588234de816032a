"""A text console as a picture: what ANSI text looks like in cells of a given size, for a QR reader and for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import zxingcpp
from PIL import Image, ImageDraw, ImageFont

#: The VGA's sixteen colours, in the order of SGR 30 to 37 and bright.
_COLOURS = (
    (0, 0, 0), (170, 0, 0), (0, 170, 0), (170, 85, 0), (0, 0, 170), (170, 0, 170), (0, 170, 170), (170, 170, 170),
    (85, 85, 85), (255, 85, 85), (85, 255, 85), (255, 255, 85), (85, 85, 255), (255, 85, 255), (85, 255, 255),
    (255, 255, 255),
)  # fmt: skip
_PART = re.compile(r"\x1b\[([\d;]*)([A-Za-z])|(.)", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """A character with the numbers of its colours."""

    character: str = " "
    ink: int = 7
    paper: int = 0


def cells_of(text: str) -> Iterator[list[Cell]]:
    """The lines of ANSI text as cells; SGR only."""
    ink, paper, bright = 7, 0, False
    line: list[Cell] = []
    for numbers, command, character in _PART.findall(text):
        if character == "\n":
            yield line
            line = []
        elif character:
            line.append(Cell(character, ink + 8 * (bright and ink < 8), paper))
        else:
            assert command == "m", command
            for number in map(int, filter(None, numbers.split(";"))):
                if number == 0:
                    ink, paper, bright = 7, 0, False
                elif number == 1:
                    bright = True
                elif 30 <= number <= 37:
                    ink = number - 30
                else:
                    assert 40 <= number <= 47, number
                    paper = number - 40
    yield line


def picture_of(text: str, *, columns: int, lines: int, cell: tuple[int, int] = (8, 16)) -> Image.Image:
    """The console with `text` from its upper left corner. A text that does not fit is a failure."""
    width, height = cell
    picture = Image.new("RGB", (columns * width, lines * height))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=0.8 * height)
    rows = list(cells_of(text))
    assert len(rows) <= lines
    for y, row in enumerate(rows):
        assert len(row) < columns
        for x, part in enumerate(row):
            left, top = x * width, y * height
            draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_COLOURS[part.paper])
            if part.character == "\u2580":
                draw.rectangle((left, top, left + width - 1, top + height // 2 - 1), fill=_COLOURS[part.ink])
            elif part.character != " ":
                assert part.character.isascii(), part.character
                draw.text((left, top), part.character, fill=_COLOURS[part.ink], font=font)
    return picture


def codes_in(picture: Image.Image) -> list[str]:
    """What a QR reader reads."""
    return [found.text for found in zxingcpp.read_barcodes(picture)]
