"""QR codes: the same modules as a kept library's for every mask, and read back by a decoder that is neither."""

from __future__ import annotations

from typing import Literal

import pytest
import qrcode
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from qrcode.constants import ERROR_CORRECT_L
from qrcode.util import QRData

from payload.qr_code import QUIET_ZONE, Matrix, TextTooLong, encode

_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
_KEY_AND_SERIAL = "C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B5C VMWARE-56 4D"


def library(text: str, mask: int) -> Matrix:
    # Alphanumeric or byte mode, by the standard's own mode indicators.
    mode: Literal[2, 4] = 2 if set(text) <= set(_ALPHANUMERIC) else 4
    code = qrcode.QRCode(error_correction=ERROR_CORRECT_L, mask_pattern=mask, border=0)
    code.add_data(QRData(text.encode(), mode=mode))
    code.make(fit=True)
    return tuple(tuple(map(bool, row)) for row in code.get_matrix())


def read(matrix: Matrix) -> list[str]:
    size = len(matrix) + 2 * QUIET_ZONE
    picture = Image.new("L", (size, size), 255)
    for i, row in enumerate(matrix):
        for j, dark in enumerate(row):
            picture.putpixel((j + QUIET_ZONE, i + QUIET_ZONE), 0 if dark else 255)
    return [
        found.text for found in zxingcpp.read_barcodes(picture.resize((4 * size, 4 * size), Image.Resampling.NEAREST))
    ]


@pytest.mark.parametrize("mask", range(8))
@pytest.mark.parametrize("text", ["HELLO", "1", "A" * 23, "A" * 25, "A" * 26, _KEY_AND_SERIAL, "ä" * 40, "x" * 106])
def test_the_same_modules_as_the_library(text: str, mask: int) -> None:
    assert encode(text, mask=mask) == library(text, mask)


@given(st.one_of(st.text(_ALPHANUMERIC, min_size=1, max_size=154), st.text(min_size=1, max_size=26)))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(text: str) -> None:
    found = read(encode(text))
    assert found == [text] or not text.isprintable()  # the reader shows control characters in its own way


@given(st.text(_ALPHANUMERIC, min_size=1, max_size=154), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_text_has_the_library_s_modules(text: str, mask: int) -> None:
    assert encode(text, mask=mask) == library(text, mask)


@pytest.mark.parametrize(
    ("text", "largest", "size"),
    [("A" * 25, 5, 21), ("A" * 26, 5, 25), ("A" * 47, 5, 25), ("A" * 77, 5, 29), ("A" * 154, 5, 37), ("a" * 17, 1, 21)],
)
def test_the_smallest_symbol_that_fits(text: str, largest: int, size: int) -> None:
    assert len(encode(text, largest=largest)) == size


@pytest.mark.parametrize(
    ("text", "largest"), [("A" * 26, 1), ("A" * 155, 5), ("a" * 107, 5), ("ä" * 54, 5), ("a" * 18, 1)]
)
def test_what_does_not_fit_is_refused(text: str, largest: int) -> None:
    with pytest.raises(TextTooLong):
        encode(text, largest=largest)


def test_the_mask_has_the_least_penalty() -> None:
    """Whatever the rules weigh, the chosen symbol is one of the eight, and a reader reads all of them."""
    chosen = encode(_KEY_AND_SERIAL)
    every = [encode(_KEY_AND_SERIAL, mask=mask) for mask in range(8)]
    assert chosen in every
    assert all(read(matrix) == [_KEY_AND_SERIAL] for matrix in every)
