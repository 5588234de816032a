"""GPT and MBR: tables made here and by sgdisk, damage, and noise."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.partition_table import (
    BASIC_DATA,
    EFI_SYSTEM,
    LDM_DATA,
    MICROSOFT_RESERVED,
    PartitionTableError,
    TableKind,
    read_partition_table,
)
from tests.payload.linux_fakes import MIB, gpt, mbr, needs

SECTORS = 8192


def _disk(start: bytes, end: bytes = b"", sectors: int = SECTORS, sector_size: int = 512) -> io.BytesIO:
    size = sectors * sector_size
    return io.BytesIO(start + bytes(size - len(start) - len(end)) + end)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_gpt(sector_size: int) -> None:
    start, end = gpt(
        [(EFI_SYSTEM, 64, 127, "EFI"), (MICROSOFT_RESERVED, 128, 159, ""), (BASIC_DATA, 200, 999, "Basic data")],
        SECTORS, sector_size,
    )  # fmt: skip
    table = read_partition_table(_disk(start, end, sector_size=sector_size), SECTORS * sector_size, sector_size)
    assert table is not None
    assert table.kind is TableKind.GPT
    assert not table.from_backup
    assert [(p.number, p.type, p.start // sector_size, p.size // sector_size, p.name) for p in table.partitions] == [
        (1, EFI_SYSTEM, 64, 64, "EFI"), (2, MICROSOFT_RESERVED, 128, 32, ""), (3, BASIC_DATA, 200, 800, "Basic data"),
    ]  # fmt: skip


def test_gpt_backup_is_read_when_the_first_is_damaged() -> None:
    start, end = gpt([(LDM_DATA, 64, 127, "x")], SECTORS)
    damaged = bytearray(start)
    damaged[1024 + 5] ^= 1
    table = read_partition_table(_disk(bytes(damaged), end), SECTORS * 512)
    assert table is not None
    assert table.from_backup
    assert table.types == {LDM_DATA}


def test_gpt_without_a_good_copy_is_an_error() -> None:
    start, _ = gpt([(BASIC_DATA, 64, 127, "x")], SECTORS)
    with pytest.raises(PartitionTableError, match="both copies"):
        read_partition_table(_disk(start[:512]), SECTORS * 512)


@pytest.mark.parametrize("offset", [512 + 16, 512 + 24, 512 + 12, 512 + 80, 512 + 84, 512 + 72])
def test_each_damaged_header_field_is_noticed(offset: int) -> None:
    start, _ = gpt([(BASIC_DATA, 64, 127, "x")], SECTORS)
    damaged = bytearray(start)
    damaged[offset] ^= 0xFF
    with pytest.raises(PartitionTableError):
        read_partition_table(_disk(bytes(damaged)), SECTORS * 512)


def test_mbr_with_logical_partitions() -> None:
    disk = bytearray(SECTORS * 512)
    disk[:512] = mbr([(0x07, 64, 100), (0x0F, 1000, 3000)])
    disk[1000 * 512 : 1001 * 512] = mbr([(0x07, 8, 50), (0x05, 500, 600)])
    disk[1500 * 512 : 1501 * 512] = mbr([(0x42, 8, 60), (0x05, 500, 600)])  # and back to itself: must end
    table = read_partition_table(io.BytesIO(bytes(disk)), len(disk))
    assert table is not None
    assert table.kind is TableKind.MBR
    assert [(p.number, p.type, p.start // 512, p.size // 512) for p in table.partitions] == [
        (1, "0x07", 64, 100), (2, "0x0f", 1000, 3000), (5, "0x07", 1008, 50), (6, "0x42", 1508, 60),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "start",
    [
        b"",
        mbr([]),
        mbr([(0x07, 64, 100)])[:510] + b"\0\0",
        mbr([(0x07, 64, 100)], status=0x4E),
    ],
    ids=["empty", "no entries", "no signature", "boot sector of a file system"],
)
def test_no_table(start: bytes) -> None:
    assert read_partition_table(_disk(start), SECTORS * 512) is None


def test_sizes_that_cannot_be() -> None:
    assert read_partition_table(io.BytesIO(bytes(1024)), 1024) is None
    assert read_partition_table(io.BytesIO(bytes(1 << 20)), 1 << 20, 513) is None


@needs("sgdisk")
def test_a_table_by_sgdisk(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(64 * MIB)
    subprocess.run(
        ["sgdisk", "-n1:2048:+8M", "-t1:EF00", "-c1:EFI system partition", "-n2:0:0", "-t2:0700", str(image)],
        check=True, capture_output=True,
    )  # fmt: skip
    with image.open("rb") as stream:
        table = read_partition_table(stream, 64 * MIB)
    assert table is not None
    assert [(p.type, p.start, p.name) for p in table.partitions] == [
        (EFI_SYSTEM, MIB, "EFI system partition"), (BASIC_DATA, 9 * MIB, ""),
    ]  # fmt: skip


@given(st.binary(max_size=4096), st.sampled_from([512, 4096]))
def test_noise_never_raises_anything_else(data: bytes, sector_size: int) -> None:
    with contextlib.suppress(PartitionTableError):
        read_partition_table(io.BytesIO(data), len(data), sector_size)


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8))
def test_a_flipped_byte_never_raises_anything_else(flips: list[tuple[int, int]]) -> None:
    start, end = gpt([(BASIC_DATA, 64, 127, "x")], SECTORS)
    damaged = bytearray(start)
    for offset, value in flips:
        damaged[offset] = value
    with contextlib.suppress(PartitionTableError):
        read_partition_table(_disk(bytes(damaged), end), SECTORS * 512)
