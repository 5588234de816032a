"""Byte runs of files inside other files: reading, copying, and sources that end early."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import extents
from builder.errors import BaseMediaError, OutputError
from builder.extents import Extents, Joined, merged, whole_file

DATA = random.Random(291).randbytes(3_000_000)


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    path = tmp_path / "outer"
    path.write_bytes(DATA)
    return path


PIECES = st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(0, 40_000)), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.integers(0, 200_000), st.integers(0, 200_000))
def test_reading_and_copying(outer: Path, tmp_path: Path, pieces: list[tuple[int, int]], at: int, length: int) -> None:
    whole = b"".join(DATA[offset : offset + size] for offset, size in pieces)
    file = Extents(path=outer, pieces=tuple(pieces), name="f")
    assert file.size == len(whole) and file.read_all() == whole and b"".join(file.chunks()) == whole
    assert Extents(path=outer, pieces=merged(pieces), name="f").read_all() == whole
    file.copy_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    if at + length <= len(whole):
        assert file.read(at, length) == whole[at : at + length]
    else:
        with pytest.raises(BaseMediaError, match=r"f is cut off"):
            file.read(at, length)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=4), st.integers(0, 200_000), st.integers(0, 200_000))
def test_a_file_put_together_from_several(
    outer: Path, tmp_path: Path, parts: list[list[tuple[int, int]]], at: int, length: int
) -> None:
    files = [Extents(path=outer, pieces=tuple(pieces), name="f") for pieces in parts]
    whole = b"".join(DATA[offset : offset + size] for pieces in parts for offset, size in pieces)
    joined = Joined(parts=tuple(files), name="joined")
    joined.copy_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole and joined.size == len(whole)
    part = joined.part(at, length)
    part.copy_to(tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == whole[at : at + length] and part.size == len(whole[at : at + length])


def test_a_part_that_is_gone(outer: Path, tmp_path: Path) -> None:
    gone = Extents(path=tmp_path / "gone", pieces=((0, 5),), name="gone in the ISO")
    with pytest.raises(BaseMediaError, match="cannot read gone in the ISO: No such file"):
        Joined(parts=(whole_file(outer), gone), name="joined").copy_to(tmp_path / "copy")


def test_copying_where_the_kernel_cannot(outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    Extents(path=outer, pieces=((5, 2_500_000),), name="f").copy_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA[5:2_500_005]


def test_a_source_that_shrinks_while_it_is_copied(outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = extents._copy_some

    def shrink(*arguments: int) -> int:
        os.truncate(outer, 1_500_000)
        return real(*arguments)

    monkeypatch.setattr(extents, "_copy_some", shrink)
    with pytest.raises(BaseMediaError, match=r"f is cut off: .*outer has 1500000 bytes"):
        Extents(path=outer, pieces=((0, len(DATA)),), name="f").copy_to(tmp_path / "copy")


def test_no_room(outer: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OutputError, match=r"no room for 3000000 bytes of f in"):
            Extents(path=outer, pieces=((0, len(DATA)),), name="f").copy_to(tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_whole_files(outer: Path, tmp_path: Path) -> None:
    assert whole_file(outer).is_whole_file and whole_file(outer).size == len(DATA)
    assert not Extents(path=outer, pieces=((0, 10),), name="f").is_whole_file
    with pytest.raises(BaseMediaError, match=r"cannot read .*gone: No such file"):
        whole_file(tmp_path / "gone")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [([], ()), ([(0, 0)], ()), ([(0, 5), (5, 5)], ((0, 10),)), ([(0, 5), (6, 5)], ((0, 5), (6, 5)))],
)
def test_merging(pieces: list[tuple[int, int]], expected: tuple[tuple[int, int], ...]) -> None:
    assert merged(pieces) == expected
