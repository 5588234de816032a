"""QR codes of up to 108 bytes, for a key id and a serial number that a phone reads off the screen (ISO/IEC 18004).

Versions 1 to 5 at error correction level L: there all of a symbol's codewords are one block, so nothing is
interleaved. Level L is enough for a screen, which has no dirt on it, and gives the fewest modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

#: The 45 characters of alphanumeric mode in the order of their values (ISO/IEC 18004, table 5).
_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
_MODE_ALPHANUMERIC, _MODE_BYTE, _MODE_BITS = 0b0010, 0b0100, 4
#: How many bits say the number of characters, in versions 1 to 9 (table 3).
_COUNT_ALPHANUMERIC, _COUNT_BYTE = 9, 8
_PADDING = (0b11101100, 0b00010001)
#: What level L writes into the format information before the mask's number (table 12).
_LEVEL_L = 0b01
#: The field's polynomial x^8 + x^4 + x^3 + x^2 + 1, and the generators of the format information's check bits.
_FIELD = 0x11D
_FORMAT_GENERATOR, _FORMAT_MASK = 0b10100110111, 0b101010000010010
#: The light border that a reader wants around a symbol, in modules.
QUIET_ZONE = 4


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One size of symbol at level L (tables 1 and 9): codewords of data and of error correction."""

    number: int
    data: int
    correction: int

    @property
    def size(self) -> int:
        """Modules on a side."""
        return 17 + 4 * self.number


_VERSIONS = (
    _Version(number=1, data=19, correction=7),
    _Version(number=2, data=34, correction=10),
    _Version(number=3, data=55, correction=15),
    _Version(number=4, data=80, correction=20),
    _Version(number=5, data=108, correction=26),
)

#: The eight data mask patterns by number: whether the module at (row, column) is turned over (table 10).
_MASKS: tuple[Callable[[int, int], bool], ...] = (
    lambda i, j: (i + j) % 2 == 0,
    lambda i, _: i % 2 == 0,
    lambda _, j: j % 3 == 0,
    lambda i, j: (i + j) % 3 == 0,
    lambda i, j: (i // 2 + j // 3) % 2 == 0,
    lambda i, j: (i * j) % 2 + (i * j) % 3 == 0,
    lambda i, j: ((i * j) % 2 + (i * j) % 3) % 2 == 0,
    lambda i, j: ((i + j) % 2 + (i * j) % 3) % 2 == 0,
)

#: A symbol's modules, row by row; True is dark. The quiet zone is not part of it.
Matrix = tuple[tuple[bool, ...], ...]


class TextTooLong(ValueError):
    """A text that does not fit into the largest symbol allowed."""


def encode(text: str, *, largest: int = 5, mask: int | None = None) -> Matrix:
    """The smallest symbol that holds `text`, of at most version `largest`.

    Upper-case letters, digits and `$%*+-./: ` pack closest; any other character makes the whole text UTF-8 bytes.
    `mask` is the pattern's number; by default it is the one with the least penalty. Raises TextTooLong.
    """
    bits = _text_bits(text)
    version = next((v for v in _VERSIONS[:largest] if len(bits) <= 8 * v.data), None)
    if version is None:
        raise TextTooLong(f"{len(text)} characters do not fit into a QR code of version {largest}")
    symbol = _Symbol(version)
    symbol.place(_codewords(bits, version))
    if mask is not None:
        return symbol.masked(mask)
    return min((symbol.masked(number) for number in range(len(_MASKS))), key=_penalty)


def _text_bits(text: str) -> list[int]:
    if all(character in _ALPHANUMERIC for character in text):
        values = [_ALPHANUMERIC.index(character) for character in text]
        pairs = [_bits(45 * first + second, 11) for first, second in zip(values[::2], values[1::2], strict=False)]
        single = [_bits(values[-1], 6)] if len(values) % 2 else []
        parts = [_bits(_MODE_ALPHANUMERIC, _MODE_BITS), _bits(len(values), _COUNT_ALPHANUMERIC), *pairs, *single]
    else:
        data = text.encode()
        parts = [_bits(_MODE_BYTE, _MODE_BITS), _bits(len(data), _COUNT_BYTE), *(_bits(byte, 8) for byte in data)]
    return [bit for part in parts for bit in part]


def _codewords(bits: list[int], version: _Version) -> bytes:
    """Data codewords with terminator and padding, then their error correction codewords."""
    capacity = 8 * version.data
    bits = bits + [0] * min(4, capacity - len(bits))
    bits += [0] * (-len(bits) % 8)
    data = bytearray(_number(bits[i : i + 8]) for i in range(0, len(bits), 8))
    missing = version.data - len(data)
    data += bytes(_PADDING[i % 2] for i in range(missing))
    return bytes(data) + _error_correction(bytes(data), version.correction)


def _error_correction(data: bytes, count: int) -> bytes:
    """The Reed-Solomon remainder of `data`, `count` codewords."""
    generator = _generator(count)
    remainder = [0] * count
    for byte in data:
        factor = byte ^ remainder[0]
        remainder = [after ^ _multiply(factor, g) for after, g in zip([*remainder[1:], 0], generator, strict=True)]
    return bytes(remainder)


@cache
def _generator(count: int) -> tuple[int, ...]:
    """The product of (x - 2^i) for i < count, without its leading 1."""
    terms = [1]
    for i in range(count):
        root = _power(i)
        terms = [a ^ _multiply(b, root) for a, b in zip([*terms, 0], [0, *terms], strict=True)]
    return tuple(terms[1:])


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _FIELD
        b >>= 1
    return product


def _power(exponent: int) -> int:
    value = 1
    for _ in range(exponent):
        value = _multiply(value, 2)
    return value


class _Symbol:
    """The modules of one symbol while they are filled in: function patterns first, then the codewords."""

    def __init__(self, version: _Version) -> None:
        self._size = version.size
        self._dark = [[False] * self._size for _ in range(self._size)]
        self._function = [[False] * self._size for _ in range(self._size)]
        self._finders()
        if version.number > 1:
            self._alignment(self._size - 7)
        self._timing()
        for row, column in self._format_places():
            self._function[row][column] = True

    def place(self, codewords: bytes) -> None:
        """Lay the codewords' bits along the columns of two, upwards and downwards in turn (section 7.7.3)."""
        bits = iter([bit for byte in codewords for bit in _bits(byte, 8)])
        for row, column in self._path():
            self._dark[row][column] = bool(next(bits, 0))  # up to 7 remainder bits are light

    def masked(self, number: int) -> Matrix:
        """The finished symbol: data under mask `number`, and the format information that says so."""
        mask = _MASKS[number]
        rows = [
            [self._dark[i][j] ^ (not self._function[i][j] and mask(i, j)) for j in range(self._size)]
            for i in range(self._size)
        ]
        for (row, column), bit in zip(self._format_places(), 2 * _format_bits(number), strict=True):
            rows[row][column] = bool(bit)
        rows[self._size - 8][8] = True  # the one module that is always dark
        return tuple(tuple(row) for row in rows)

    def _set(self, row: int, column: int, dark: bool) -> None:
        if 0 <= row < self._size and 0 <= column < self._size:
            self._dark[row][column] = dark
            self._function[row][column] = True

    def _finders(self) -> None:
        """Three finder patterns, each with the light separator around it."""
        for top, left in ((0, 0), (0, self._size - 7), (self._size - 7, 0)):
            for i in range(-1, 8):
                for j in range(-1, 8):
                    ring = max(abs(i - 3), abs(j - 3))
                    self._set(top + i, left + j, ring in (0, 1, 3))

    def _alignment(self, centre: int) -> None:
        for i in range(-2, 3):
            for j in range(-2, 3):
                self._set(centre + i, centre + j, max(abs(i), abs(j)) != 1)

    def _timing(self) -> None:
        for i in range(8, self._size - 8):
            self._set(6, i, i % 2 == 0)
            self._set(i, 6, i % 2 == 0)
        self._set(self._size - 8, 8, True)

    def _format_places(self) -> list[tuple[int, int]]:
        """Where the 15 bits of the format information stand, most significant first, and then again (figure 25)."""
        end = self._size - 1
        around = [(8, j) for j in (0, 1, 2, 3, 4, 5, 7, 8)] + [(i, 8) for i in (7, 5, 4, 3, 2, 1, 0)]
        again = [(end - i, 8) for i in range(7)] + [(8, end - 7 + j) for j in range(8)]
        return around + again

    def _path(self) -> Iterator[tuple[int, int]]:
        upwards = True
        for right in range(self._size - 1, 0, -2):
            right -= right <= 6  # the vertical timing pattern takes a whole column
            rows = range(self._size - 1, -1, -1) if upwards else range(self._size)
            for row in rows:
                for column in (right, right - 1):
                    if not self._function[row][column]:
                        yield row, column
            upwards = not upwards


def _format_bits(mask: int) -> list[int]:
    """Level and mask with their ten BCH check bits, under the fixed mask (section 7.9.1)."""
    data = _LEVEL_L << 3 | mask
    remainder = data << 10
    for shift in range(4, -1, -1):
        if remainder >> (shift + 10) & 1:
            remainder ^= _FORMAT_GENERATOR << shift
    return _bits((data << 10 | remainder) ^ _FORMAT_MASK, 15)


def _penalty(rows: Matrix) -> int:
    """How hard the symbol is to read: the four features of section 7.8.3."""
    columns = tuple(zip(*rows, strict=True))
    lines = [*rows, *columns]
    return sum(_runs(line) + _finder_likeness(line) for line in lines) + _blocks(rows) + _imbalance(rows)


def _runs(line: tuple[bool, ...]) -> int:
    score, length = 0, 1
    for before, now in pairwise(line):
        length = length + 1 if now == before else 1
        score += 3 if length == 5 else 1 if length > 5 else 0
    return score


_FINDER_LIKE = tuple(c == "1" for c in "1011101")
_LIGHT = (False,) * 4


def _finder_likeness(line: tuple[bool, ...]) -> int:
    """40 for each 1:1:3:1:1 with four light modules beside it; what lies outside the symbol is light."""
    padded = _LIGHT + line + _LIGHT
    score = 0
    for i in range(len(line) - 6):
        if line[i : i + 7] == _FINDER_LIKE:
            score += 40 if padded[i : i + 4] == _LIGHT or padded[i + 11 : i + 15] == _LIGHT else 0
    return score


def _blocks(rows: Matrix) -> int:
    return 3 * sum(
        above[j] == above[j + 1] == below[j] == below[j + 1]
        for above, below in pairwise(rows)
        for j in range(len(above) - 1)
    )


def _imbalance(rows: Matrix) -> int:
    dark, total = sum(map(sum, rows)), len(rows) ** 2
    return 10 * (abs(2 * dark - total) * 10 // total)


def _bits(value: int, count: int) -> list[int]:
    return [value >> i & 1 for i in range(count - 1, -1, -1)]


def _number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)
