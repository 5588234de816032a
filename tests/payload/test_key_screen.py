"""The screens that ask for a key: everything fits and is legible, and a QR reader reads the code off a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload import key_screen
from payload.key_screen import KeyScreen, LockedVolume, code_text, render_key
from tests.payload.console_picture import cells_of, codes_in, picture_of

KEY_ID = "C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B5C"
LOCKED = LockedVolume(
    volume="Windows   sda3   237 GB", key_ids=(KEY_ID,), description="DESKTOP-7Q2L C: 19/07/2024", serial="PF3K9Z2A",
    model="LENOVO ThinkPad T14",
)  # fmt: skip
ASKED = KeyScreen(
    title="Locked by BitLocker", locked=LOCKED, groups=("111683", "110562"), wrong_group=2,
    problem="Group 2 was mistyped: eleven does not divide it.",
    notice="That is not this volume's recovery password. 2 of 3 attempts left.",
    contact="Example AG   +41 44 000 00 00   Bluelift 0.9.0",
    countdown="Going on without a key in 288 s - any key stops",
    keys=("[Enter] Unlock", "[Ctrl-U] Clear", "[Esc] Other ways out"),
)  # fmt: skip
#: VMware's serial numbers are the longest that are common.
VMWARE = "VMware-56 4d 8f 3c 1e 2a 90 7b-aa 01 5e 44 12 cd 98 76"
#: What the VGA's text mode, the kernel's fonts, and Windows's consoles have, in dots.
CELLS = [(8, 16), (9, 16), (8, 8), (8, 14), (10, 20), (16, 32), (7, 13)]
WHOLE, SHORT = f"{KEY_ID} PF3K9Z2A", "C3E4B5A6 PF3K9Z2A"


def drawn(screen: KeyScreen, columns: int = 80, lines: int = 25, *, half_blocks: bool = False) -> str:
    return render_key(screen, columns=columns, lines=lines, colour=True, half_blocks=half_blocks)


def words(text: str) -> str:
    """The text of a screen without colours and line ends."""
    return " ".join(" ".join("".join(cell.character for cell in row) for row in cells_of(text)).split())


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize(
    ("columns", "lines", "half_blocks", "text"),
    [
        (80, 25, True, WHOLE), (80, 25, False, SHORT), (100, 37, True, WHOLE), (100, 37, False, WHOLE),
        (128, 48, True, WHOLE), (160, 64, True, WHOLE), (240, 67, True, WHOLE), (120, 30, False, WHOLE),
        (80, 50, False, SHORT), (80, 30, True, WHOLE), (132, 43, False, WHOLE),
    ],
)  # fmt: skip
def test_a_reader_reads_the_code(columns: int, lines: int, half_blocks: bool, text: str, cell: tuple[int, int]) -> None:
    shown = drawn(ASKED, columns, lines, half_blocks=half_blocks)
    assert codes_in(picture_of(shown, columns=columns, lines=lines, cell=cell)) == [text]


@pytest.mark.parametrize(
    ("columns", "lines", "half_blocks", "text"),
    [
        (80, 25, True, f"{KEY_ID} {VMWARE.upper()}"), (80, 25, False, f"C3E4B5A6 {VMWARE.upper()}"[:25]),
        (128, 48, False, f"{KEY_ID} {VMWARE.upper()}"),
    ],
)  # fmt: skip
def test_a_long_serial_number(columns: int, lines: int, half_blocks: bool, text: str) -> None:
    screen = replace(ASKED, locked=replace(LOCKED, serial=VMWARE))
    shown = drawn(screen, columns, lines, half_blocks=half_blocks)
    assert codes_in(picture_of(shown, columns=columns, lines=lines)) == [text]


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=15)
def test_any_serial_number_gives_a_code(serial: str) -> None:
    locked = replace(LOCKED, serial=serial)
    for half_blocks, whole in ((True, code_text(locked)), (False, "C3E4B5A6")):
        shown = drawn(replace(ASKED, locked=locked), half_blocks=half_blocks)
        (text,) = codes_in(picture_of(shown, columns=80, lines=25))
        assert text and (whole.startswith(text) or text.startswith(whole))


@pytest.mark.parametrize(("quiet", "read"), [(0, False), (1, True), (2, True), (3, True)])
def test_how_much_border_a_reader_needs(quiet: int, read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One module; the screen has one more to spare."""
    monkeypatch.setattr(key_screen, "QUIET", quiet)
    key_screen._fitting.cache_clear()
    try:
        found = codes_in(picture_of(drawn(ASKED, half_blocks=True), columns=80, lines=25))
        assert found == [WHOLE] * read
    finally:
        key_screen._fitting.cache_clear()


def test_the_code_is_spaces_unless_half_blocks_are_sure() -> None:
    for columns, lines in ((80, 25), (120, 30), (128, 48)):
        assert drawn(ASKED, columns, lines).isascii()
    assert not drawn(ASKED, half_blocks=True).isascii()
    assert drawn(ASKED, 128, 48, half_blocks=True).isascii()


@pytest.mark.parametrize(("columns", "lines"), [(79, 25), (80, 24), (40, 12), (20, 5), (1, 1)])
def test_where_there_is_no_room_there_is_no_code(columns: int, lines: int) -> None:
    assert "\x1b[47m  \x1b[0m\x1b[40m" not in drawn(ASKED, columns, lines)


def test_without_colour_there_is_neither_code_nor_escape() -> None:
    text = render_key(ASKED, columns=80, lines=25, colour=False, half_blocks=True)
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}
    assert "code on the right" not in text
    assert "111683-110562-______" in text


@pytest.mark.parametrize(
    ("columns", "lines", "half_blocks"), [(80, 25, True), (80, 25, False), (128, 48, True), (100, 37, True)]
)
def test_everything_that_finds_the_key_is_there(columns: int, lines: int, half_blocks: bool) -> None:
    text = words(drawn(ASKED, columns, lines, half_blocks=half_blocks)).replace("\u2580", "")
    # Narrow columns break a key id behind a dash.
    joined = "".join(text.split())
    for wanted in (KEY_ID, "Windows", "237GB", "PF3K9Z2A", "DESKTOP-7Q2L", "111683-110562-", "Group2wasmistyped"):
        assert wanted in joined, wanted
    for wanted in ("2of3attemptsleft.", "288s", "[Enter]Unlock", "[Ctrl-U]Clear", "[Esc]Otherwaysout", "+4144000"):
        assert wanted in joined, wanted


def test_the_wrong_group_and_the_first_digits_stand_out() -> None:
    rows = list(cells_of(drawn(ASKED, half_blocks=True)))
    row = next(row for row in rows if "111683" in "".join(cell.character for cell in row))
    assert {cell.paper for cell in row[8:14]} == {1}
    assert {cell.paper for cell in row[1:8] + row[14:20]} == {0}
    row = next(row for row in rows if KEY_ID in "".join(cell.character for cell in row))
    assert {cell.ink for cell in row[1:9]} == {11}
    assert {cell.ink for cell in row[9:37]} == {7}


def test_several_key_ids() -> None:
    other = "0D1E2F3A-1F2D-4E7C-9A8B-C3E4B5A61122"
    text = words(drawn(replace(ASKED, locked=replace(LOCKED, key_ids=(KEY_ID, other, KEY_ID, other))), 128, 48))
    assert other in text
    assert "and 2 more" in text


def test_a_volume_without_a_key_id_has_no_code() -> None:
    screen = replace(ASKED, locked=replace(LOCKED, key_ids=(), serial=""))
    assert codes_in(picture_of(drawn(screen, half_blocks=True), columns=80, lines=25)) == []
    assert "Key id: -" in words(drawn(screen))


def test_choices_and_passphrase() -> None:
    text = words(drawn(replace(ASKED, choices=("[T] Type", "[K] Skip"))))
    assert "[T] Type" in text and "[K] Skip" in text and "111683" not in text
    text = words(drawn(replace(ASKED, locked=None, facts=("A vault:",), passphrase="****")))
    assert "A vault:" in text and "****_" in text
    long = words(drawn(replace(ASKED, locked=None, passphrase="x" * 128 + "end")))
    assert "xend_" in long


anything = st.text(max_size=60)
screens = st.builds(
    KeyScreen,
    title=anything,
    locked=st.none()
    | st.builds(
        LockedVolume,
        volume=anything,
        key_ids=st.lists(anything, max_size=4).map(tuple),
        description=anything,
        serial=anything,
        model=anything,
    ),
    facts=st.lists(anything, max_size=4).map(tuple),
    groups=st.lists(st.text("0123456789", max_size=6), max_size=8).map(tuple),
    wrong_group=st.integers(0, 8),
    passphrase=st.none() | anything,
    problem=anything,
    notice=anything,
    choices=st.lists(anything, max_size=4).map(tuple),
    contact=anything,
    countdown=anything,
    keys=st.lists(anything, max_size=4).map(tuple),
)


@given(screens, st.integers(1, 200), st.integers(1, 70), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_screen_fits(screen: KeyScreen, columns: int, lines: int, colour: bool, half_blocks: bool) -> None:
    text = render_key(screen, columns=columns, lines=lines, colour=colour, half_blocks=half_blocks)
    rows = list(cells_of(text))
    assert len(rows) <= lines
    assert all(len(row) <= max(1, columns - 1) for row in rows)
    assert colour or "\x1b" not in text
    assert {cell.character for row in rows for cell in row if not " " <= cell.character <= "~"} <= {"\u2580"}


def test_a_screen_tells_nothing_of_what_was_typed() -> None:
    assert "111683" not in repr(ASKED)
