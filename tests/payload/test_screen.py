"""The screen as a pure function: it fits, it is ASCII, and nothing from a disk reaches the terminal as an escape."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload import block_letters
from payload.contract import Verdict
from payload.screen import (
    ProgressScreen,
    VerdictScreen,
    VolumeRow,
    plain,
    render_progress,
    render_verdict,
    size_text,
)

SGR = re.compile(r"\033\[[0-9;]*m")

texts = st.text(max_size=120) | st.sampled_from(
    ["\033[2J\033]0;evil\007", "a\r\nb\tc", "\x9b31m", "\x7f", "Büro", "\ud800"]
)
rows = st.builds(
    VolumeRow,
    volume=texts,
    label=texts,
    size=st.integers(min_value=-1, max_value=2**80),
    verdict=st.sampled_from(Verdict),
    detail=texts,
)
screens = st.builds(
    VerdictScreen,
    verdict=st.sampled_from(Verdict),
    sentence=texts,
    advice=texts,
    host=texts,
    remarks=st.lists(texts, max_size=6).map(tuple),
    rows=st.lists(rows, max_size=40).map(tuple),
    contact=texts,
    countdown=texts,
    keys=texts,
)


def shown_lines(text: str) -> list[str]:
    return SGR.sub("", text).split("\n")


def assert_fits(text: str, columns: int, lines: int, colour: bool) -> None:
    if not colour:
        assert "\033" not in text
    found = shown_lines(text)
    assert len(found) <= lines
    assert all(len(line) <= max(1, columns - 1) for line in found)
    assert all(" " <= character <= "~" for line in found for character in line)


@settings(max_examples=150, deadline=None)
@given(screens, st.integers(1, 200), st.integers(1, 70), st.booleans())
def test_any_verdict_screen_fits_and_is_ascii(screen: VerdictScreen, columns: int, lines: int, colour: bool) -> None:
    assert_fits(render_verdict(screen, columns=columns, lines=lines, colour=colour), columns, lines, colour)


@settings(max_examples=80, deadline=None)
@given(
    st.builds(ProgressScreen, title=texts, host=texts, steps=st.lists(texts, max_size=30).map(tuple)),
    st.integers(1, 200),
    st.integers(1, 70),
    st.booleans(),
)
def test_any_progress_screen_fits_and_is_ascii(screen: ProgressScreen, columns: int, lines: int, colour: bool) -> None:
    assert_fits(render_progress(screen, columns=columns, lines=lines, colour=colour), columns, lines, colour)


def a_screen(verdict: Verdict, count: int = 3) -> VerdictScreen:
    names = [f"sd{chr(97 + i)}1" for i in range(count)]
    return VerdictScreen(
        verdict=verdict,
        sentence="DESKTOP-1 is repaired: 2 files moved to quarantine.",
        advice="Take the recovery medium out and let Windows start.",
        host="Computer DESKTOP-1   Serial number PF3K9Z2A",
        rows=tuple(VolumeRow(volume=name, label="Data", size=10**12, verdict=verdict) for name in names),
        contact="Example Corp   phone 4242",
        countdown="Restarting in 30 s - press any key to stop",
        keys="[R] Restart   [P] Power off   [S] Shell",
    )


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize(("columns", "lines"), [(80, 25), (100, 37), (128, 48), (240, 67)])
def test_everything_that_matters_is_on_the_screen(verdict: Verdict, columns: int, lines: int) -> None:
    text = render_verdict(a_screen(verdict), columns=columns, lines=lines, colour=False)
    block = [line for line in text.split("\n") if set(line.strip()) <= {"#", " "} and "#" in line]
    assert len(block) % block_letters.ROWS == 0, "whole rows of letters"
    assert len(block) >= block_letters.ROWS
    for expected in (
        "is repaired",
        "What to do next: Take",
        "DESKTOP-1",
        "PF3K9Z2A",
        "4242",
        "Restarting in 30 s",
        "sdc1",
    ):
        assert expected in text
    assert text.split("\n")[-1].strip() == "[R] Restart   [P] Power off   [S] Shell"
    assert len(text.split("\n")) == lines


@pytest.mark.parametrize("verdict", Verdict)
def test_letters_are_read_back_from_the_screen(verdict: Verdict) -> None:
    """What stands there in large letters, decoded glyph by glyph, is the verdict."""
    text = render_verdict(a_screen(verdict), columns=80, lines=25, colour=False)
    block = [line for line in text.split("\n") if set(line.strip()) <= {"#", " "} and "#" in line]
    read = " ".join(read_letters(block[i : i + block_letters.ROWS]) for i in range(0, len(block), block_letters.ROWS))
    assert read.replace(" ", "") == verdict.headline.replace(" ", "")


def read_letters(block: list[str]) -> str:
    width = max(map(len, block))
    grid = [line.ljust(width) for line in block]
    columns = ["".join(row[i] for row in grid) for i in range(width)]
    known = {}
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        rows = block_letters.draw(letter)
        known[tuple("".join(row[i] for row in rows) for i in range(len(rows[0])))] = letter
    read, glyph = "", []
    for column in [*columns, " " * block_letters.ROWS]:
        if column.strip():
            glyph.append(column)
        elif glyph:
            read += known[tuple(glyph)]
            glyph = []
    return read


@pytest.mark.parametrize(
    ("verdict", "band"),
    [
        (Verdict.REPAIRED, "42"),
        (Verdict.ALREADY_CLEAN, "42"),
        (Verdict.NEEDS_A_KEY, "43"),
        (Verdict.LEFT_ALONE, "43"),
        (Verdict.REPORTED, "43"),
        (Verdict.NO_WINDOWS_FOUND, "43"),
        (Verdict.FAILED, "41"),
    ],
)
def test_the_band_has_the_verdicts_colour(verdict: Verdict, band: str) -> None:
    text = render_verdict(a_screen(verdict), columns=80, lines=25, colour=True)
    used = set(re.findall(r"4[1-3](?=m)", "".join(SGR.findall(text))))
    assert used == {band}


def test_volumes_that_do_not_fit_are_counted() -> None:
    text = render_verdict(a_screen(Verdict.REPAIRED, 26), columns=80, lines=25, colour=False)
    shown = len(re.findall(r"\bsd[a-z]1\b", text))
    hidden = re.search(r"\.\.\. and (\d+) more \(see receipt\)", text)
    assert hidden and shown + int(hidden[1]) == 26
    assert shown >= 4


def test_a_tiny_screen_still_says_the_verdict() -> None:
    text = render_verdict(a_screen(Verdict.FAILED), columns=30, lines=8, colour=True)
    assert "FAILED" in SGR.sub("", text)
    assert_fits(text, 30, 8, True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\033[2Jb", "a?[2Jb"),
        ("B\u00fcro", "B?ro"),
        ("a\r\nb", "a  b"),
        ("\x9b", "?"),
        ("\x7f", "?"),
        ("ok ~", "ok ~"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, ""),
        (512, "512 B"),
        (104_857_600, "105 MB"),
        (255 * 10**9, "255 GB"),
        (2 * 10**12, "2.0 TB"),
        (999_600, "1 MB"),
    ],
)
def test_size_text(size: int, shown: str) -> None:
    assert size_text(size) == shown


def test_progress_marks_the_newest_step() -> None:
    text = render_progress(
        ProgressScreen(title="Bluelift", host="Serial 1", steps=("Looking", "Will quarantine")),
        columns=80,
        lines=25,
        colour=False,
    )
    assert "- Looking" in text
    assert "> Will quarantine" in text
