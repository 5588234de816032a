"""Every sign of RAID at its documented place, neighbours that are none, and noise."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.partition_table import (
    BASIC_DATA,
    LDM_DATA,
    LDM_METADATA,
    STORAGE_SPACES,
    Partition,
    PartitionTable,
    TableKind,
    mbr_type,
)
from payload.formats.raid_metadata import (
    DDF_SIGNATURES,
    INTEL_SIGNATURE,
    PRIVHEAD,
    SPACEDB,
    RaidKind,
    find_raid_metadata,
)

SIZE = 4 * 1024 * 1024


def _find(offset: int, data: bytes, table: PartitionTable | None = None, size: int = SIZE) -> RaidKind | None:
    disk = bytearray(size)
    disk[offset : offset + len(data)] = data
    found = find_raid_metadata(io.BytesIO(bytes(disk)), size, table)
    assert found is None or found.offset in (None, offset)
    return found.kind if found else None


def _table(kind: str, start: int = 1 << 20) -> PartitionTable:
    return PartitionTable(kind=TableKind.GPT, partitions=(Partition(number=1, start=start, size=512, type=kind),))


@pytest.mark.parametrize(
    ("offset", "data", "kind"),
    [
        (SIZE - 2 * 512, INTEL_SIGNATURE + b"1.3.00", RaidKind.INTEL),
        (SIZE - 2 * 4096, INTEL_SIGNATURE, RaidKind.INTEL),
        (SIZE - 512, DDF_SIGNATURES[0], RaidKind.DDF),
        (SIZE - 512, DDF_SIGNATURES[1], RaidKind.DDF),
        (SIZE - 4096, DDF_SIGNATURES[0], RaidKind.DDF),
        (SIZE - 257 * 512, DDF_SIGNATURES[0], RaidKind.DDF),
        (6 * 512, PRIVHEAD, RaidKind.DYNAMIC_DISK),
        (SIZE - 512, PRIVHEAD, RaidKind.DYNAMIC_DISK),
        (SIZE - (2048 - 1856) * 512, PRIVHEAD, RaidKind.DYNAMIC_DISK),
        (SIZE - 2 * 512, b"NVIDIA", RaidKind.OTHER_FIRMWARE),
        (SIZE - 512, b"$XIDE$", RaidKind.OTHER_FIRMWARE),
        (SIZE - 63 * 512, b"Promise Technology, Inc.", RaidKind.OTHER_FIRMWARE),
        (0, SPACEDB, RaidKind.STORAGE_SPACES),
        (SIZE - 3 * 512, INTEL_SIGNATURE, None),
        (SIZE - 2 * 512, INTEL_SIGNATURE[:-1] + b"X", None),
        (SIZE - 511, DDF_SIGNATURES[0], None),
        (7 * 512, PRIVHEAD, None),
    ],
)
def test_signatures(offset: int, data: bytes, kind: RaidKind | None) -> None:
    assert _find(offset, data) is kind


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (LDM_DATA, RaidKind.DYNAMIC_DISK),
        (LDM_METADATA, RaidKind.DYNAMIC_DISK),
        (mbr_type(0x42), RaidKind.DYNAMIC_DISK),
        (STORAGE_SPACES, RaidKind.STORAGE_SPACES),
        (BASIC_DATA, None),
    ],
)
def test_partition_types(type_: str, kind: RaidKind | None) -> None:
    assert _find(0, b"", _table(type_)) is kind


def test_storage_spaces_in_a_partition_of_another_type() -> None:
    assert _find(1 << 20, SPACEDB, _table(BASIC_DATA)) is RaidKind.STORAGE_SPACES


def test_a_tiny_disk_has_none() -> None:
    assert _find(0, SPACEDB, size=4096) is None


def test_every_kind_has_words() -> None:
    assert all(kind.words for kind in RaidKind)


@given(st.binary(max_size=200), st.integers(0, 1 << 50))
def test_noise_never_raises(data: bytes, size: int) -> None:
    find_raid_metadata(io.BytesIO(data), size, _table(BASIC_DATA))
