"""The newc writer and reader: against cpio itself, and against garbage."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import cpio

EPOCH = 1_700_000_000


def example() -> cpio.Tree:
    tree = cpio.Tree()
    tree.file("usr/bin/tool", b"\x7fELF tool", mode=0o755)
    tree.file("init", b"#!/bin/sh\n", mode=0o755)
    tree.file("etc/empty", b"")
    tree.link("bin", "usr/bin")
    tree.character_device("dev/console", 5, 1)
    return tree


def test_entries_come_sorted_with_their_folders() -> None:
    names = [entry.name for entry in example().entries()]
    assert names == ["bin", "dev", "dev/console", "etc", "etc/empty", "init", "usr", "usr/bin", "usr/bin/tool"]


def test_the_order_of_adding_does_not_matter() -> None:
    other = cpio.Tree()
    other.character_device("dev/console", 5, 1)
    other.link("/bin", "usr/bin")
    other.file("etc/empty", b"")
    other.file("init", b"#!/bin/sh\n", mode=0o755)
    other.file("usr/bin/tool", b"\x7fELF tool", mode=0o755)
    assert other.pack(epoch=EPOCH) == example().pack(epoch=EPOCH)


def test_what_was_packed_is_unpacked() -> None:
    packed = example().pack(epoch=EPOCH)
    assert len(packed) % 512 == 0
    found = {entry.name: entry for entry in cpio.unpack(packed)}
    assert found["usr/bin/tool"].data == b"\x7fELF tool"
    assert stat.S_IMODE(found["usr/bin/tool"].mode) == 0o755
    assert stat.S_ISLNK(found["bin"].mode) and found["bin"].data == b"usr/bin"
    assert stat.S_ISCHR(found["dev/console"].mode) and found["dev/console"].device == (5, 1)
    assert {entry.mtime for entry in found.values()} == {EPOCH}


#: Programs that unpack a cpio archive, by how they are called; the archive's name follows.
READERS = {"cpio": ["cpio", "-id", "-F"], "bsdtar": ["bsdtar", "-xf"], "7z": ["7z", "x", "-y", "-tcpio"]}


@pytest.mark.programs
@pytest.mark.parametrize("reader", READERS)
def test_another_program_reads_it_back(reader: str, tmp_path: Path) -> None:
    if shutil.which(reader) is None:
        pytest.skip(f"{reader} is not installed")
    tree = cpio.Tree()
    for number, size in enumerate((0, 1, 2, 3, 4, 5, 511, 512, 513)):
        tree.file(f"some/folder/file{'x' * number}", b"z" * size)
    tree.link("link", "some/folder")
    archive, out = tmp_path / "a.cpio", tmp_path / "out"
    archive.write_bytes(tree.pack(epoch=EPOCH))
    out.mkdir()
    subprocess.run([*READERS[reader], str(archive)], cwd=out, capture_output=True, check=True)
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("file*")}
    assert files == {entry.name: entry.data for entry in tree.entries() if stat.S_ISREG(entry.mode)}
    assert (out / "link").readlink() == Path("some/folder")


@pytest.mark.parametrize("name", ["", "/", "a//b", "../a", "a/../b", "a/./b"])
def test_names_that_are_not_inside_an_archive(name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        cpio.Tree().file(name, b"")


def test_a_name_is_used_once() -> None:
    tree = example()
    with pytest.raises(ValueError, match="already"):
        tree.file("init", b"")
    with pytest.raises(ValueError, match="not a folder"):
        tree.file("init/below", b"")


def test_a_damaged_archive_says_where() -> None:
    packed = example().pack(epoch=EPOCH)
    with pytest.raises(cpio.CpioError, match="at byte 0"):
        list(cpio.unpack(b"X" + packed[1:]))
    with pytest.raises(cpio.CpioError, match=r"cut short|no newc header"):
        list(cpio.unpack(packed[:300]))
    with pytest.raises(cpio.CpioError, match="not hexadecimal"):
        list(cpio.unpack(packed[:20] + b"q" + packed[21:]))


@given(st.binary(max_size=600))
def test_garbage_is_refused_in_our_own_words(data: bytes) -> None:
    with pytest.raises(cpio.CpioError):
        list(cpio.unpack(data))


@given(st.integers(0, 600), st.integers(0, 255))
def test_one_wrong_byte_never_surprises(position: int, value: int) -> None:
    packed = bytearray(example().pack(epoch=EPOCH))
    packed[position] = value
    try:
        entries = list(cpio.unpack(bytes(packed)))
    except cpio.CpioError:
        return
    assert len(entries) <= len(example().entries())


name_parts = st.text(st.characters(categories=["L", "N"], include_characters=" ._-"), min_size=1, max_size=20).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(name_parts, min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(paths, st.binary(max_size=40), max_size=8))
def test_round_trip(files: dict[str, bytes]) -> None:
    tree = cpio.Tree()
    kept: dict[str, bytes] = {}
    for name, data in files.items():
        try:
            tree.file(name, data)
        except ValueError:
            continue  # a file where another name needs a folder
        kept[name] = data
    found = {entry.name: entry.data for entry in cpio.unpack(tree.pack(epoch=0)) if stat.S_ISREG(entry.mode)}
    assert found == kept
