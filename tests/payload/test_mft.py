"""File records of volumes by mkntfs and ntfscp, judged by ntfsinfo; the table's mirror; damage; noise."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.formats.mft import _offset_of, free_file_record, journal_version, read_file_record
from payload.formats.ntfs import NtfsError, mirror_patches, parse_boot_sector, write_dirty_flag
from tests.payload.linux_fakes import MIB, make_ntfs, needs

pytestmark = needs("mkntfs", "ntfscp", "ntfsinfo")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a file C-1.sys that has one name and one stream, and stream.sys that has two."""
    folder = tmp_path_factory.mktemp("mft")
    image = make_ntfs(folder / "v", size=8 * MIB)
    (folder / "content").write_bytes(b"content" * 500)
    for arguments in (["C-1.sys"], ["stream.sys"], ["-N", "more", "stream.sys"]):
        *options, name = arguments
        subprocess.run(
            ["ntfscp", "-q", *options, str(image), str(folder / "content"), name], check=True, capture_output=True
        )
    return image


@pytest.fixture(scope="module")
def volume(image: Path) -> bytes:
    return image.read_bytes()


def number_of(image: Path, name: str) -> int:
    said = subprocess.run(["ntfsinfo", "-f", "-F", f"/{name}", str(image)], check=True, capture_output=True, text=True)
    found = re.search(r"Dumping Inode (\d+)", said.stdout)
    assert found, said.stdout
    return int(found[1])


def test_what_a_record_says(image: Path) -> None:
    with image.open("rb") as stream:
        root, table = read_file_record(stream, 5), read_file_record(stream, 0)
        plain = read_file_record(stream, number_of(image, "C-1.sys"))
        two = read_file_record(stream, number_of(image, "stream.sys"))
    assert root.in_use and not root.plain
    assert [(name.parent, name.name) for name in table.names] == [(5, "$MFT")]
    assert plain.in_use and plain.plain
    assert [(name.parent, name.name, name.short) for name in plain.names] == [(5, "C-1.sys", False)]
    assert two.in_use and two.plain and two.streams == ("more",)


def test_a_record_that_is_full_to_its_last_bytes(volume: bytes) -> None:
    """Its end marker stands where no further attribute would have room."""
    boot = parse_boot_sector(volume)
    raw = bytearray(volume[boot.mft_offset + 5 * 1024 : boot.mft_offset + 6 * 1024])
    raw[20:22] = struct.pack("<H", 56)
    raw[56:1016] = struct.pack("<IIBBHHHIHH", 0x80, 960, 0, 0, 24, 0, 0, 930, 24, 0).ljust(960, b"\0")
    raw[1016:1020] = b"\xff" * 4
    raw[510:512] = raw[1022:1024] = raw[48:50]
    changed = bytearray(volume)
    changed[boot.mft_offset + 5 * 1024 : boot.mft_offset + 6 * 1024] = raw
    assert read_file_record(io.BytesIO(bytes(changed)), 5).in_use


def test_a_freed_record_is_one_byte_and_no_file_for_other_programs(image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "v"
    copy.write_bytes(image.read_bytes())
    number = number_of(image, "C-1.sys")
    with copy.open("r+b") as stream:
        free_file_record(stream, number)
        assert not read_file_record(stream, number).in_use
    assert sum(a != b for a, b in zip(image.read_bytes(), copy.read_bytes(), strict=True)) == 1
    said = subprocess.run(["ntfsinfo", "-f", "-i", str(number), str(copy)], capture_output=True, text=True)
    assert "C-1.sys" not in said.stdout


def test_records_that_are_not_there(volume: bytes) -> None:
    with pytest.raises(NtfsError, match="there is no file record"):
        read_file_record(io.BytesIO(volume), 1 << 40)
    damaged = bytearray(volume)
    damaged[parse_boot_sector(volume).mft_offset] = 0
    with pytest.raises(NtfsError, match="not a file record"):
        read_file_record(io.BytesIO(bytes(damaged)), 5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_damaged_record_never_raises_anything_else(
    image: Path, volume: bytes, flips: list[tuple[int, int]], in_table: bool
) -> None:
    boot = parse_boot_sector(volume)
    number = number_in(image)
    at = boot.mft_offset if in_table else _offset_of(io.BytesIO(volume), boot, number)
    damaged = bytearray(volume[: 1 << 20])
    for offset, value in flips:
        damaged[at + offset] = value
    with contextlib.suppress(NtfsError):
        read_file_record(io.BytesIO(bytes(damaged)), number)
    with contextlib.suppress(NtfsError):
        free_file_record(io.BytesIO(bytes(damaged)), number)
    with contextlib.suppress(NtfsError):
        mirror_patches(io.BytesIO(bytes(damaged)))
    with contextlib.suppress(NtfsError):
        journal_version(io.BytesIO(bytes(damaged)))


@settings(max_examples=200)
@given(flips=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8))
def test_a_damaged_record_of_the_journal(volume: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(volume)
    at = parse_boot_sector(volume).mft_offset + 2 * 1024
    for offset, value in flips:
        damaged[at + offset] = value
    with contextlib.suppress(NtfsError):
        assert -(1 << 15) <= journal_version(io.BytesIO(bytes(damaged))) < 1 << 15


def test_the_journals_version(volume: bytes) -> None:
    """That of a running Windows: tests/payload/test_linux_ntfs.py."""
    assert journal_version(io.BytesIO(volume)) == 0, "mkntfs leaves it empty"


_NUMBERS: dict[Path, int] = {}


def number_in(image: Path) -> int:
    """Asked of ntfsinfo once."""
    return _NUMBERS.setdefault(image, number_of(image, "C-1.sys"))


@given(st.binary(max_size=1024))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(NtfsError):
        read_file_record(io.BytesIO(data), 5)
    with contextlib.suppress(NtfsError):
        mirror_patches(io.BytesIO(data))
    with contextlib.suppress(NtfsError):
        journal_version(io.BytesIO(data))


def left_behind(volume: bytes, *, dirty: bool = True) -> io.BytesIO:
    """The volume after the power went between the table's first record and its mirror: their LSNs differ."""
    stream = io.BytesIO(volume)
    write_dirty_flag(stream, dirty=dirty)
    boot = parse_boot_sector(volume)
    stream.seek(boot.mft_offset + 8)
    stream.write(struct.pack("<Q", 0x1234))
    return stream


def test_a_mirror_that_is_left_behind_gets_what_the_table_has(volume: bytes) -> None:
    boot = parse_boot_sector(volume)
    stream = left_behind(volume)
    ((offset, data),) = mirror_patches(stream)
    assert offset == boot.mirror_offset
    assert data == stream.getvalue()[boot.mft_offset : boot.mft_offset + boot.record_size]
    stream.seek(offset)
    stream.write(data)
    assert mirror_patches(stream) == []


def test_a_mirror_is_left_as_it_is_where_that_has_not_happened(volume: bytes) -> None:
    assert mirror_patches(io.BytesIO(volume)) == []
    assert mirror_patches(left_behind(volume, dirty=False)) == []
    stream = left_behind(volume)
    stream.seek(parse_boot_sector(volume).mft_offset + 510)
    stream.write(b"\xfe\xfe")  # the table's own record is torn
    assert mirror_patches(stream) == []
