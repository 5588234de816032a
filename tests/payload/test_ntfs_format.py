"""The dirty flag and the label on volumes by mkntfs, judged by ntfsinfo; damage; noise."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.formats.ntfs import (
    NtfsError,
    _fixup_positions,
    _flag_patch,
    _read_record,
    parse_boot_sector,
    read_volume_information,
    write_dirty_flag,
)
from tests.payload.linux_fakes import MIB, make_ntfs, needs

pytestmark = needs("mkntfs", "ntfsinfo")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_ntfs(tmp_path_factory.mktemp("ntfs") / "v", size=8 * MIB, label="Größe").read_bytes()


def _ntfsinfo(path: Path) -> str:
    return subprocess.run(["ntfsinfo", "-mf", str(path)], check=True, capture_output=True, text=True).stdout


def test_reading(volume: bytes) -> None:
    information = read_volume_information(io.BytesIO(volume))
    assert (information.version, information.dirty, information.label) == ((3, 1), False, "Größe")


def test_setting_and_clearing_as_ntfsinfo_sees_it(volume: bytes, tmp_path: Path) -> None:
    image = tmp_path / "v"
    image.write_bytes(volume)
    with image.open("r+b") as stream:
        write_dirty_flag(stream, dirty=True)
    changed = image.read_bytes()
    assert sum(a != b for a, b in zip(volume, changed, strict=True)) == 2  # one byte in each copy of the record
    assert read_volume_information(io.BytesIO(changed)).dirty
    assert "DIRTY" in _ntfsinfo(image)
    with image.open("r+b") as stream:
        write_dirty_flag(stream, dirty=False)
    assert image.read_bytes() == volume
    assert "DIRTY" not in _ntfsinfo(image)


@pytest.mark.parametrize(("cluster", "sector"), [(512, 512), (4096, 4096), (65536, 512), (1 << 20, 512)])
def test_other_geometries(tmp_path: Path, cluster: int, sector: int) -> None:
    image = tmp_path / "v"
    with image.open("wb") as stream:
        stream.truncate(64 * MIB)
    subprocess.run(
        ["mkntfs", "-q", "-F", "-c", str(cluster), "-s", str(sector), str(image)], check=True, capture_output=True
    )
    with image.open("r+b") as stream:
        assert parse_boot_sector(stream.read(512)).cluster_size == cluster
        write_dirty_flag(stream, dirty=True)
        assert read_volume_information(stream).dirty
    assert "DIRTY" in _ntfsinfo(image)


def test_the_mirror_is_read_when_the_first_copy_is_damaged_but_not_written(volume: bytes) -> None:
    boot = parse_boot_sector(volume)
    damaged = bytearray(volume)
    damaged[boot.mft_offset + 3 * boot.record_size] = 0
    stream = io.BytesIO(bytes(damaged))
    assert read_volume_information(stream).label == "Größe"
    with pytest.raises(NtfsError, match="damaged"):
        write_dirty_flag(stream, dirty=True)
    assert stream.getvalue() == damaged


def test_a_flag_that_lies_where_a_fix_up_is(volume: bytes) -> None:
    boot = parse_boot_sector(volume)
    raw = bytearray(_read_record(io.BytesIO(volume), boot, boot.mft_offset))
    number = bytes(raw[510:512])
    # A resident $VOLUME_INFORMATION whose flags are the bytes 510 and 511 of the record.
    (first,) = struct.unpack_from("<H", raw, 20)
    start = 510 - 10 - 24
    raw[first:start] = struct.pack("<IIBBHHHIH", 0x10, start - first, 0, 0, 0, 0, 0, 0, 24).ljust(start - first, b"\0")
    raw[start : start + 48] = (
        struct.pack("<IIBBHHHIHH8sBBH", 0x70, 40, 0, 0, 0, 0, 0, 12, 24, 0, b"", 3, 1, 0).ljust(40, b"\0") + b"\xff" * 8
    )
    raw[510:512] = number
    real = _fixup_positions(bytes(raw))[510]
    raw[real : real + 2] = b"\x80\0"
    assert _flag_patch(bytes(raw), 7000, dirty=True) == [(7000 + real, b"\x81")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, b"BAAD"), "damaged"),
        ((6, b"\x09\0"), "fix-up"),
        ((510, b"\xfe\xfe"), "in part"),
    ],
)
def test_damaged_records(volume: bytes, change: tuple[int, bytes], message: str) -> None:
    boot = parse_boot_sector(volume)
    damaged = bytearray(volume)
    for base in (boot.mft_offset, boot.mirror_offset):
        at = base + 3 * boot.record_size + change[0]
        damaged[at : at + len(change[1])] = change[1]
    with pytest.raises(NtfsError, match=message):
        read_volume_information(io.BytesIO(bytes(damaged)))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (3, b"FAT", "not an NTFS"),
        (11, b"\x01\x02", "geometry"),
        (13, b"\x03", "geometry"),
        (13, b"\x81", "cluster size"),
        (64, b"\x80", "record size"),
        (48, bytes(8), "outside"),
        (56, b"\xff" * 8, "outside"),
    ],
)
def test_bad_boot_sectors(volume: bytes, offset: int, value: bytes, message: str) -> None:
    sector = bytearray(volume[:512])
    sector[offset : offset + len(value)] = value
    with pytest.raises(NtfsError, match=message):
        parse_boot_sector(bytes(sector))


@given(st.binary(max_size=1024))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(NtfsError):
        read_volume_information(io.BytesIO(data))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_damaged_record_never_raises_anything_else(
    volume: bytes, flips: list[tuple[int, int]], in_boot: bool
) -> None:
    boot = parse_boot_sector(volume)
    damaged = bytearray(volume[: 1 << 20])
    bases = (0,) if in_boot else (boot.mft_offset + 3 * boot.record_size,)
    for base in bases:
        for offset, value in flips:
            damaged[base + offset] = value
    try:
        stream = io.BytesIO(bytes(damaged))
        read_volume_information(stream)
        write_dirty_flag(stream, dirty=True)
    except NtfsError:
        pass
