"""Signs that a disk is one part of something larger: firmware RAID, a dynamic disk, a Storage Spaces pool.

One half of a mirror looks like an ordinary NTFS volume; writing to it alone splits the mirror. So these signs are
read from the disk itself, and whoever finds one leaves the whole disk alone.

Sources: Intel: mdadm super-intel.c and util-linux libblkid isw_raid.c (signature in the sector before the last). DDF:
SNIA Common RAID Disk Data Format 2.0, 5.5 (anchor header in the last sector; libblkid ddf_raid.c also looks 257
sectors before the end). NVIDIA, LSI, Promise: libblkid nvidia_raid.c, lsi_raid.c, promise_raid.c. Dynamic disks:
linux block/partitions/ldm.h (PRIVHEAD in sector 6, and in the database in the disk's last mebibyte) and the GPT types
of Microsoft's PARTITION_INFORMATION_GPT page. Storage Spaces: the same page; its partition starts with `SPACEDB `.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from payload.formats.partition_table import LDM_DATA, LDM_METADATA, MBR_LDM, STORAGE_SPACES, PartitionTable, mbr_type

INTEL_SIGNATURE = b"Intel Raid ISM Cfg Sig. "
DDF_SIGNATURES = (b"\xde\x11\xde\x11", b"\x11\xde\x11\xde")
PRIVHEAD = b"PRIVHEAD"
SPACEDB = b"SPACEDB "

_LDM_DATABASE_SECTORS = 2048
_PROMISE_SECTORS = (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)
#: Below this no metadata is looked for (libblkid's smallest member is 64 KiB).
_SMALLEST_DISK = 64 * 1024


class RaidKind(enum.StrEnum):
    """What a disk is a part of."""

    INTEL = "intel-rst"
    DDF = "ddf"
    OTHER_FIRMWARE = "firmware-raid"
    DYNAMIC_DISK = "dynamic-disk"
    STORAGE_SPACES = "storage-spaces"

    @property
    def words(self) -> str:
        """What people call it."""
        return {
            RaidKind.INTEL: "an Intel RST (Rapid Storage) RAID",
            RaidKind.DDF: "a hardware or firmware RAID (DDF)",
            RaidKind.OTHER_FIRMWARE: "a firmware RAID",
            RaidKind.DYNAMIC_DISK: "a Windows dynamic disk",
            RaidKind.STORAGE_SPACES: "a Storage Spaces pool",
        }[self]


@dataclass(frozen=True, kw_only=True)
class RaidMetadata:
    """What was found, and where: the byte offset of the signature, None where a partition type says it."""

    kind: RaidKind
    offset: int | None


@dataclass(frozen=True, kw_only=True)
class _Sign:
    kind: RaidKind
    offset: int
    signatures: tuple[bytes, ...]


def find_raid_metadata(stream: BinaryIO, size: int, table: PartitionTable | None) -> RaidMetadata | None:
    """The first sign on a disk of `size` bytes that it is a part of something larger. Raises OSError from the stream.

    Both sector sizes, 512 and 4096, are tried whatever the disk says: a member may have moved between controllers.
    """
    if (kind := _kind_by_type(table)) is not None:
        return RaidMetadata(kind=kind, offset=None)
    if size < _SMALLEST_DISK:
        return None
    for sign in _signs(size, table):
        if sign.offset < 0:
            continue
        stream.seek(sign.offset)
        if stream.read(len(sign.signatures[0])) in sign.signatures:
            return RaidMetadata(kind=sign.kind, offset=sign.offset)
    return None


def _kind_by_type(table: PartitionTable | None) -> RaidKind | None:
    types = table.types if table else frozenset[str]()
    if types & {LDM_METADATA, LDM_DATA, mbr_type(MBR_LDM)}:
        return RaidKind.DYNAMIC_DISK
    return RaidKind.STORAGE_SPACES if STORAGE_SPACES in types else None


def _signs(size: int, table: PartitionTable | None) -> Iterator[_Sign]:
    for sector in (512, 4096):
        end = size // sector
        yield _Sign(kind=RaidKind.INTEL, offset=(end - 2) * sector, signatures=(INTEL_SIGNATURE,))
        for back in (1, 257):
            yield _Sign(kind=RaidKind.DDF, offset=(end - back) * sector, signatures=DDF_SIGNATURES)
        for lba in (6, end - _LDM_DATABASE_SECTORS + 1856, end - 1):
            yield _Sign(kind=RaidKind.DYNAMIC_DISK, offset=lba * sector, signatures=(PRIVHEAD,))
    end = size // 512
    yield _Sign(kind=RaidKind.OTHER_FIRMWARE, offset=(end - 2) * 512, signatures=(b"NVIDIA",))
    yield _Sign(kind=RaidKind.OTHER_FIRMWARE, offset=(end - 1) * 512, signatures=(b"$XIDE$",))
    for back in _PROMISE_SECTORS:
        yield _Sign(kind=RaidKind.OTHER_FIRMWARE, offset=(end - back) * 512, signatures=(b"Promise Technology, Inc.",))
    for start in (0, *(partition.start for partition in (table.partitions if table else ()))):
        if start < size:
            yield _Sign(kind=RaidKind.STORAGE_SPACES, offset=start, signatures=(SPACEDB,))
