"""A GPT read whole, and fitted to a disk of another size (UEFI Specification 2.10, chapter 5.3).

The backup table belongs into a disk's last blocks: on a larger disk than it was made for, an image is a proper disk
only once its backup has moved there.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from builder.errors import ImageError
from builder.media.gpt import MBR_AT, GptPartition, gpt_tables

SECTOR = 512
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_ENTRIES = 128
#: Blocks behind the last that a partition may have: the backup, and what is put between; it is blanked in one piece.
_LARGEST_BACKUP = 2048
_HEAD = 2 * SECTOR + _ENTRIES * _ENTRY.size


class NoTable(ImageError):
    """There is no GPT: the image can be burned, but is no disk."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Bytes that belong at an offset of a disk."""

    offset: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class DiskTable:
    """A partition table of 512-byte blocks: the disk it is for has `sectors` of them, the backup begins at `backup`."""

    disk_guid: uuid.UUID
    partitions: tuple[GptPartition, ...]
    sectors: int
    backup: int

    @property
    def end(self) -> int:
        """The first block behind all partitions."""
        return max((partition.last_lba + 1 for partition in self.partitions), default=0)

    def with_partition(self, partition: GptPartition) -> DiskTable:
        """The same table with one more partition."""
        return replace(self, partitions=(*self.partitions, partition))


def read_table(image: BinaryIO, size: int) -> DiskTable:
    """The primary GPT of a disk image of `size` bytes. Raises NoTable where there is none, ImageError for a bad one."""
    image.seek(0)
    head = image.read(_HEAD)
    if len(head) < _HEAD or head[SECTOR : SECTOR + 8] != b"EFI PART":
        raise NoTable(f"there is no partition table: 'EFI PART' expected at byte {SECTOR}")
    fields = _HEADER.unpack_from(head, SECTOR)
    _, _, length, crc, _, own, alternate, _, last_usable, guid, entries_lba, count, entry_size, entries_crc = fields
    header, entries = head[SECTOR : SECTOR + _HEADER.size], head[2 * SECTOR :]
    if length != _HEADER.size or zlib.crc32(header[:16] + bytes(4) + header[20:]) != crc:
        raise ImageError("the partition table's header is damaged: its checksum does not fit")
    if (own, entries_lba, count, entry_size) != (1, 2, _ENTRIES, _ENTRY.size):
        raise ImageError("the partition table is not as Bluelift writes it")
    if zlib.crc32(entries) != entries_crc:
        raise ImageError("the partition table is damaged: its checksum does not fit")
    table = DiskTable(
        disk_guid=uuid.UUID(bytes_le=guid),
        partitions=tuple(_partitions(entries)),
        sectors=alternate + 1,
        backup=last_usable + 1,
    )
    if not table.partitions or not table.end <= table.backup < table.sectors:
        raise ImageError("the partition table makes no sense: its partitions are not inside its disk")
    if table.sectors - table.backup > _LARGEST_BACKUP:
        raise ImageError(f"the partition table makes no sense: its backup claims {table.sectors - table.backup} blocks")
    if table.sectors * SECTOR > size:
        raise ImageError(f"the image is cut off: {table.sectors * SECTOR} bytes expected, {size} there")
    return table


def table_patches(table: DiskTable, sectors: int) -> tuple[Patch, ...]:
    """What to write over the image on a disk of `sectors` blocks so that `table` fits it, in this order.

    The old backup, which then stands in the middle of the disk, is blanked first. Boot code stays as it is. Raises
    OutputError where a partition does not fit.
    """
    tables = gpt_tables(disk_guid=table.disk_guid, sectors=sectors, partitions=table.partitions)
    blank = range(table.backup, min(table.sectors, sectors))
    return (
        Patch(offset=blank.start * SECTOR, data=bytes(len(blank) * SECTOR)),
        Patch(offset=MBR_AT, data=tables.primary),
        Patch(offset=sectors * SECTOR - len(tables.backup), data=tables.backup),
    )


def _partitions(entries: bytes) -> Iterator[GptPartition]:
    for kind, unique, first, last, attributes, name in _ENTRY.iter_unpack(entries):
        if any(kind):
            yield GptPartition(
                type_guid=uuid.UUID(bytes_le=kind),
                unique_guid=uuid.UUID(bytes_le=unique),
                name=name.decode("utf-16-le", "replace").partition("\0")[0],
                first_lba=first,
                last_lba=last,
                attributes=attributes,
            )
