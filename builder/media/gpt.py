"""GUID partition tables (UEFI Specification 2.10, chapter 5: GUID Partition Table Disk Layout)."""

from __future__ import annotations

import itertools
import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import OutputError

EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
MICROSOFT_RESERVED = uuid.UUID("e3c9e316-0b5c-4db8-817d-f92df00215ae")
BASIC_DATA = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
WINDOWS_RECOVERY = uuid.UUID("de94bba4-06d1-4d40-a16a-bfd50179d6ac")

#: Where the protective MBR's own part of the first block begins; before it is a boot loader's code.
MBR_AT = 440
_ENTRIES = 128
_ENTRY_SIZE = 128
_NAME_BYTES = 72


@dataclass(frozen=True, kw_only=True)
class GptPartition:
    """One partition: logical blocks `first_lba` to `last_lba` (both its own), name of at most 36 UTF-16 units."""

    type_guid: uuid.UUID
    unique_guid: uuid.UUID
    name: str
    first_lba: int
    last_lba: int
    attributes: int = 0

    def pack(self) -> bytes:
        """The GPT partition entry, 128 bytes (table 5.6)."""
        name = self.name.encode("utf-16-le").ljust(_NAME_BYTES, b"\0")
        numbers = struct.pack("<QQQ", self.first_lba, self.last_lba, self.attributes)
        return self.type_guid.bytes_le + self.unique_guid.bytes_le + numbers + name


@dataclass(frozen=True, kw_only=True)
class GptHeader:
    """The GPT header (table 5.5); `entries_crc` covers the whole partition entry array."""

    my_lba: int
    alternate_lba: int
    first_usable: int
    last_usable: int
    disk_guid: uuid.UUID
    entries_lba: int
    entries_crc: int

    _LAYOUT = struct.Struct("<8sIIIIQQQQ16sQIII")

    def pack(self) -> bytes:
        """The header's 92 bytes with their checksum."""
        return self._fields(zlib.crc32(self._fields(0)))

    def _fields(self, crc: int) -> bytes:
        return self._LAYOUT.pack(
            b"EFI PART", 0x10000, self._LAYOUT.size, crc, 0, self.my_lba, self.alternate_lba, self.first_usable,
            self.last_usable, self.disk_guid.bytes_le, self.entries_lba, _ENTRIES, _ENTRY_SIZE, self.entries_crc,
        )  # fmt: skip


def protective_mbr(sectors: int) -> bytes:
    """Bytes 440 to 511 of the protective MBR (5.2.3): one 0xEE record over the disk of `sectors` logical blocks."""
    record = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return bytes(6) + record + bytes(48) + b"\x55\xaa"


def usable_lbas(sectors: int, sector_size: int = 512, spare: int = 0) -> tuple[int, int]:
    """First and last logical block that partitions may have on a disk of `sectors` blocks; see `gpt_tables`."""
    table = -(-_ENTRIES * _ENTRY_SIZE // sector_size)
    return 2 + table, sectors - 2 - table - spare


@dataclass(frozen=True, kw_only=True)
class GptTables:
    """What a disk has of its partition table: `primary` from byte MBR_AT on, `backup` up to the disk's last byte."""

    primary: bytes
    backup: bytes


def gpt_tables(
    *,
    disk_guid: uuid.UUID,
    sectors: int,
    partitions: Sequence[GptPartition],
    sector_size: int = 512,
    spare: int = 0,
) -> GptTables:
    """Protective MBR, primary and backup table of a disk of `sectors` blocks of `sector_size` bytes.

    `spare`: blocks left empty before the backup header, which always has the last one. Raises OutputError where a
    partition does not fit.
    """
    first, last = usable_lbas(sectors, sector_size, spare)
    _check(partitions, first, last)
    entries = b"".join(partition.pack() for partition in partitions).ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    crc = zlib.crc32(entries)

    def header(my_lba: int, alternate_lba: int, entries_lba: int) -> bytes:
        packed = GptHeader(
            my_lba=my_lba,
            alternate_lba=alternate_lba,
            first_usable=first,
            last_usable=last,
            disk_guid=disk_guid,
            entries_lba=entries_lba,
            entries_crc=crc,
        ).pack()
        return packed.ljust(sector_size, b"\0")

    mbr = protective_mbr(sectors).ljust(sector_size - MBR_AT, b"\0")
    array = entries.ljust(-(-len(entries) // sector_size) * sector_size, b"\0")
    return GptTables(
        primary=mbr + header(1, sectors - 1, 2) + entries,
        backup=array + bytes(spare * sector_size) + header(sectors - 1, 1, last + 1),
    )


def write_gpt(
    disk: BinaryIO,
    *,
    disk_guid: uuid.UUID,
    sectors: int,
    partitions: Sequence[GptPartition],
    sector_size: int = 512,
) -> None:
    """Put the tables of `gpt_tables` on `disk`, an open file of `sectors` blocks of `sector_size` bytes.

    The first 440 bytes, a boot loader's place, are left as they are. Raises OutputError where a partition does not fit.
    """
    tables = gpt_tables(disk_guid=disk_guid, sectors=sectors, partitions=partitions, sector_size=sector_size)
    _write_at(disk, MBR_AT, tables.primary)
    _write_at(disk, sectors * sector_size - len(tables.backup), tables.backup)


def _write_at(disk: BinaryIO, offset: int, data: bytes) -> None:
    disk.seek(offset)
    disk.write(data)


def _check(partitions: Sequence[GptPartition], first: int, last: int) -> None:
    """Raise OutputError with everything that is wrong with the partitions."""
    problems = []
    if last < first:
        problems.append(f"the disk is too small for a partition table (it needs {2 * first} logical blocks)")
    if len(partitions) > _ENTRIES:
        problems.append(f"{len(partitions)} partitions; the table has room for {_ENTRIES}")
    if len({partition.unique_guid for partition in partitions}) != len(partitions):
        problems.append("two partitions have the same unique GUID")
    for partition in partitions:
        span = f"'{partition.name}' (blocks {partition.first_lba} to {partition.last_lba})"
        if not first <= partition.first_lba <= partition.last_lba <= last:
            problems.append(f"partition {span} is outside the usable blocks {first} to {last}")
        if not partition.type_guid.int:
            problems.append(f"partition {span} has no type")
        try:
            if len(partition.name.encode("utf-16-le")) > _NAME_BYTES:
                problems.append(f"partition {span}: a name has at most {_NAME_BYTES // 2} characters")
        except UnicodeEncodeError:
            problems.append(f"partition {partition.name!r}: the name is not valid Unicode")
    ordered = sorted(partitions, key=lambda partition: partition.first_lba)
    problems += [
        f"partitions '{before.name}' and '{after.name}' overlap"
        for before, after in itertools.pairwise(ordered)
        if after.first_lba <= before.last_lba
    ]
    if problems:
        raise OutputError("the partitions do not fit: " + "; ".join(problems))
