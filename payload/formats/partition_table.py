"""Partition tables: GPT (UEFI Specification 2.10, chapter 5.3) and MBR with logical partitions.

Pure functions of a stream. Offsets and sizes are bytes.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

GPT_SIGNATURE = b"EFI PART"
#: GPT partition types, as upper-case text.
EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
MICROSOFT_RESERVED = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
WINDOWS_RECOVERY = "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"
LDM_METADATA = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3"
LDM_DATA = "AF9B60A0-1431-4F62-BC68-3311714A69AD"
STORAGE_SPACES = "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
#: MBR partition types, one byte.
MBR_LDM = 0x42
MBR_PROTECTIVE = 0xEE
MBR_EXTENDED = frozenset({0x05, 0x0F, 0x85})

_SECTOR_SIZES = (512, 1024, 2048, 4096)
_MAX_ENTRIES = 1024
_MAX_LOGICAL = 128
_GPT_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_MBR_ENTRY = struct.Struct("<B3sB3sII")


class TableKind(enum.StrEnum):
    """Which kind of table a disk has."""

    GPT = "gpt"
    MBR = "mbr"


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One entry: `number` as operating systems count, `type` a GPT type in upper case or an MBR type as `0x07`."""

    number: int
    start: int
    size: int
    type: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class PartitionTable:
    """What a disk's partition table says. `from_backup`: the first GPT was damaged, the one at the end was read."""

    kind: TableKind
    partitions: tuple[Partition, ...]
    from_backup: bool = False

    @property
    def types(self) -> frozenset[str]:
        """The partition types on this disk."""
        return frozenset(partition.type for partition in self.partitions)


class PartitionTableError(ValueError):
    """A table is there but cannot be used: both GPT copies are damaged."""


def mbr_type(value: int) -> str:
    """An MBR type as `Partition.type` holds it."""
    return f"0x{value:02x}"


def read_partition_table(stream: BinaryIO, size: int, sector_size: int = 512) -> PartitionTable | None:
    """The partition table of a disk of `size` bytes, None where there is none (also: a file system from sector 0 on).

    Raises PartitionTableError where a protective MBR says GPT and neither copy can be read; OSError from the stream.
    """
    if sector_size not in _SECTOR_SIZES or size < 3 * sector_size:
        return None
    first = _read(stream, 0, 512)
    entries = _mbr_entries(first)
    if table := _read_gpt(stream, size, sector_size):
        return table
    if any(kind == MBR_PROTECTIVE for _, kind, _, _ in entries):
        raise PartitionTableError("the disk says that it has a GPT, but both copies of it are damaged")
    if not entries:
        return None
    return PartitionTable(
        kind=TableKind.MBR, partitions=tuple(_mbr_partitions(stream, entries, size // sector_size, sector_size))
    )


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


def guid_text(raw: bytes) -> str:
    """A GUID as Windows and UEFI store it (first three fields little-endian) in upper-case text."""
    a, b, c = struct.unpack("<IHH", raw[:8])
    return f"{a:08X}-{b:04X}-{c:04X}-{raw[8:10].hex()}-{raw[10:16].hex()}".upper()


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID in `guid_text`'s form."""
    a, b, c, d, e = text.split("-")
    return struct.pack("<IHH", int(a, 16), int(b, 16), int(c, 16)) + bytes.fromhex(d + e)


def _read_gpt(stream: BinaryIO, size: int, sector_size: int) -> PartitionTable | None:
    last = size // sector_size - 1
    for lba in (1, last):
        partitions = _read_gpt_at(stream, lba, last, sector_size)
        if partitions is not None:
            return PartitionTable(kind=TableKind.GPT, partitions=partitions, from_backup=lba == last)
    return None


def _read_gpt_at(stream: BinaryIO, lba: int, last: int, sector_size: int) -> tuple[Partition, ...] | None:
    raw = _read(stream, lba * sector_size, sector_size)
    if len(raw) < _GPT_HEADER.size or raw[:8] != GPT_SIGNATURE:
        return None
    _, _, length, crc, _, own, _, _, _, _, entries_lba, count, entry_size, entries_crc = _GPT_HEADER.unpack_from(raw)
    if not _GPT_HEADER.size <= length <= sector_size or own != lba:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        return None
    if not 0 < count <= _MAX_ENTRIES or not _GPT_ENTRY.size <= entry_size <= 4096 or not 0 < entries_lba <= last:
        return None
    table = _read(stream, entries_lba * sector_size, count * entry_size)
    if len(table) != count * entry_size or zlib.crc32(table) != entries_crc:
        return None
    return tuple(_gpt_partitions(table, count, entry_size, sector_size))


def _gpt_partitions(table: bytes, count: int, entry_size: int, sector_size: int) -> Iterator[Partition]:
    for index in range(count):
        kind, _, first, final, _, name = _GPT_ENTRY.unpack_from(table, index * entry_size)
        if not any(kind) or final < first:
            continue
        yield Partition(
            number=index + 1,
            start=first * sector_size,
            size=(final - first + 1) * sector_size,
            type=guid_text(kind),
            name=name.decode("utf-16-le", "replace").split("\0", 1)[0],
        )


def _mbr_entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """(slot 1-4, type, first sector, sectors) of the used entries; none where the sector is not a partition table."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
        return []
    raw = [_MBR_ENTRY.unpack_from(sector, 446 + 16 * slot) for slot in range(4)]
    # A file system's boot sector ends in 55 AA too; its boot code shows as impossible status bytes.
    if any(status not in (0, 0x80) for status, *_ in raw):
        return []
    return [(slot + 1, kind, first, sectors) for slot, (_, _, kind, _, first, sectors) in enumerate(raw) if kind and sectors]  # fmt: skip  # noqa: E501


def _mbr_partitions(
    stream: BinaryIO, entries: list[tuple[int, int, int, int]], last: int, sector_size: int
) -> Iterator[Partition]:
    logical = 5
    for slot, kind, first, sectors in entries:
        yield _mbr_partition(slot, kind, first, sectors, sector_size)
        if kind in MBR_EXTENDED:
            for inner, start, length in _logical(stream, first, last, sector_size):
                yield _mbr_partition(logical, inner, start, length, sector_size)
                logical += 1


def _mbr_partition(number: int, kind: int, first: int, sectors: int, sector_size: int) -> Partition:
    return Partition(number=number, start=first * sector_size, size=sectors * sector_size, type=mbr_type(kind))


def _logical(stream: BinaryIO, extended: int, last: int, sector_size: int) -> Iterator[tuple[int, int, int]]:
    """(type, first sector, sectors) of each logical partition of the extended partition at sector `extended`."""
    here, seen = extended, set[int]()
    while here <= last and here not in seen and len(seen) < _MAX_LOGICAL:
        seen.add(here)
        entries = _mbr_entries(_read(stream, here * sector_size, 512))
        yield from ((kind, here + first, n) for _, kind, first, n in entries if kind not in MBR_EXTENDED)
        following = [first for _, kind, first, _ in entries if kind in MBR_EXTENDED]
        if not following:
            return
        here = extended + following[0]
