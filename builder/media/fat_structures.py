"""FAT12, FAT16 and FAT32 on-disk structures.

Source: Microsoft Extensible Firmware Initiative FAT32 File System Specification, version 1.03 (fatgen103). Layout only:
what lies where in a sector or an entry. `builder.media.fat` makes volumes of these, `fat_reader` reads them back.
"""

from __future__ import annotations

import datetime
import enum
import struct
from dataclasses import dataclass

from builder.errors import ImageError

SECTOR = 512
ENTRY_SIZE = 32
SIGNATURE = b"\x55\xaa"
LARGEST_FILE = 0xFFFFFFFF
#: "boot from the next device", then halt: a volume whose files are read by firmware has no boot code of its own.
_BOOT_CODE = b"\xcd\x18\xf4\xeb\xfd"


class FatKind(enum.IntEnum):
    """The bits of a FAT entry; decided by the number of clusters and by nothing else ("FAT Type Determination")."""

    FAT12 = 12
    FAT16 = 16
    FAT32 = 32

    @property
    def end_of_chain(self) -> int:
        """The entry that ends a chain; the highest value of the kind."""
        return (1 << min(self, 28)) - 1

    @property
    def bad_cluster(self) -> int:
        """The entry of a cluster that must not be used."""
        return self.end_of_chain - 8

    @classmethod
    def of(cls, clusters: int) -> FatKind:
        """The kind of a volume of `clusters` data clusters."""
        return cls.FAT12 if clusters < 4085 else cls.FAT16 if clusters < 65525 else cls.FAT32


class Attribute(enum.IntFlag):
    """DIR_Attr ("FAT Directory Structure")."""

    READ_ONLY = 0x01
    HIDDEN = 0x02
    SYSTEM = 0x04
    VOLUME_ID = 0x08
    DIRECTORY = 0x10
    ARCHIVE = 0x20
    LONG_NAME = 0x0F


@dataclass(frozen=True, kw_only=True)
class Bpb:
    """The boot sector with its BIOS Parameter Block ("Boot Sector and BPB"). Sizes are in sectors.

    `root_entries` is 0 on FAT32, where the root folder is a chain from `root_cluster`.
    """

    sectors_per_cluster: int
    reserved_sectors: int
    root_entries: int
    total_sectors: int
    fat_sectors: int
    volume_serial: int
    volume_label: bytes
    bytes_per_sector: int = SECTOR
    fats: int = 2
    media: int = 0xF8
    hidden_sectors: int = 0
    root_cluster: int = 2
    fsinfo_sector: int = 1
    backup_boot_sector: int = 6

    _COMMON = struct.Struct("<3s8sHBHBHHBHHHII")
    _TAIL_FAT16 = struct.Struct("<BBBI11s8s")
    _TAIL_FAT32 = struct.Struct("<IHHIHH12sBBBI11s8s")

    @property
    def cluster_bytes(self) -> int:
        """Bytes of one cluster."""
        return self.sectors_per_cluster * self.bytes_per_sector

    @property
    def root_sectors(self) -> int:
        """Sectors of the fixed root folder of FAT12 and FAT16; 0 on FAT32."""
        return -(-self.root_entries * ENTRY_SIZE // self.bytes_per_sector)

    @property
    def first_root_sector(self) -> int:
        """Where the fixed root folder starts."""
        return self.reserved_sectors + self.fats * self.fat_sectors

    @property
    def first_data_sector(self) -> int:
        """Where cluster 2 starts."""
        return self.first_root_sector + self.root_sectors

    @property
    def clusters(self) -> int:
        """Number of data clusters."""
        return (self.total_sectors - self.first_data_sector) // self.sectors_per_cluster

    @property
    def kind(self) -> FatKind:
        """FAT12, FAT16 or FAT32."""
        return FatKind.of(self.clusters)

    def offset(self, cluster: int) -> int:
        """Byte offset of a data cluster (the first is number 2)."""
        return (self.first_data_sector + (cluster - 2) * self.sectors_per_cluster) * self.bytes_per_sector

    def pack(self) -> bytes:
        """The boot sector, 512 bytes."""
        fat32 = self.kind is FatKind.FAT32
        small = self.total_sectors if self.total_sectors < 0x10000 and not fat32 else 0
        common = self._COMMON.pack(
            b"\xeb\x58\x90" if fat32 else b"\xeb\x3c\x90",
            b"MSWIN4.1",
            self.bytes_per_sector,
            self.sectors_per_cluster,
            self.reserved_sectors,
            self.fats,
            self.root_entries,
            small,
            self.media,
            0 if fat32 else self.fat_sectors,
            63,
            255,
            self.hidden_sectors,
            0 if small else self.total_sectors,
        )
        name = f"FAT{self.kind:d}".encode().ljust(8)
        if fat32:
            tail = self._TAIL_FAT32.pack(
                self.fat_sectors, 0, 0, self.root_cluster, self.fsinfo_sector, self.backup_boot_sector, bytes(12),
                0x80, 0, 0x29, self.volume_serial, self.volume_label, name,
            )  # fmt: skip
        else:
            tail = self._TAIL_FAT16.pack(0x80, 0, 0x29, self.volume_serial, self.volume_label, name)
        return (common + tail + _BOOT_CODE).ljust(510, b"\0") + SIGNATURE

    @classmethod
    def unpack(cls, sector: bytes) -> Bpb:
        """The boot sector in the first 512 bytes of `sector`. Raises ImageError when it is not one of a FAT volume."""
        if len(sector) < SECTOR or sector[510:512] != SIGNATURE:
            found = sector[510:512].hex(" ") or "nothing"
            raise ImageError(f"not a FAT volume: 55 aa expected at offset 510 of its boot sector, found {found}")
        (
            _,
            _,
            bytes_per_sector,
            per_cluster,
            reserved,
            fats,
            root_entries,
            small,
            media,
            fat_small,
            _,
            _,
            hidden,
            large,
        ) = cls._COMMON.unpack_from(sector)
        fat_sectors, root_cluster, tail = fat_small, 0, cls._TAIL_FAT16.unpack_from(sector, 36)
        serial, label = tail[3:5]
        if not fat_small:
            wide = cls._TAIL_FAT32.unpack_from(sector, 36)
            fat_sectors, root_cluster, serial, label = wide[0], wide[3], wide[10], wide[11]
        if (
            bytes_per_sector not in (512, 1024, 2048, 4096)
            or per_cluster.bit_count() != 1
            or not reserved
            or fats not in (1, 2)
            or not fat_sectors
        ):
            raise ImageError(f"not a FAT volume: its BIOS parameter block is {sector[11:36].hex(' ')}")
        bpb = cls(
            bytes_per_sector=bytes_per_sector,
            sectors_per_cluster=per_cluster,
            reserved_sectors=reserved,
            fats=fats,
            root_entries=root_entries,
            total_sectors=small or large,
            media=media,
            fat_sectors=fat_sectors,
            hidden_sectors=hidden,
            volume_serial=serial,
            volume_label=label,
            root_cluster=root_cluster,
        )
        if bpb.total_sectors < bpb.first_data_sector:
            raise ImageError(f"not a FAT volume: {bpb.total_sectors} sectors, data from sector {bpb.first_data_sector}")
        return bpb


@dataclass(frozen=True, kw_only=True)
class FsInfo:
    """The FSInfo sector of FAT32: hints for finding free clusters."""

    free_count: int
    next_free: int

    def pack(self) -> bytes:
        """The sector, 512 bytes."""
        head = struct.pack("<I480x", 0x41615252)
        return head + struct.pack("<III12xI", 0x61417272, self.free_count, self.next_free, 0xAA550000)


@dataclass(frozen=True, kw_only=True)
class DirectoryEntry:
    """One 32-byte directory entry with a short name. `name`: the 11 bytes on disk, `epoch`: seconds UTC."""

    name: bytes
    attributes: Attribute
    first_cluster: int
    size: int
    epoch: int = 0

    _LAYOUT = struct.Struct("<11sBBBHHHHHHHI")

    def pack(self) -> bytes:
        """The entry; creation, access and write times are all `epoch`."""
        if not 0 <= self.size <= LARGEST_FILE:
            raise ValueError(f"a FAT file holds at most {LARGEST_FILE} bytes, not {self.size}")
        date, time = fat_date_time(self.epoch)
        high, low = self.first_cluster >> 16, self.first_cluster & 0xFFFF
        return self._LAYOUT.pack(self.name, self.attributes, 0, 0, time, date, date, high, time, date, low, self.size)

    @classmethod
    def unpack(cls, entry: bytes) -> DirectoryEntry:
        """The 32 bytes of an entry; times are not decoded."""
        name, attributes, _, _, _, _, _, high, _, _, low, size = cls._LAYOUT.unpack(entry)
        # Bits 6 and 7 are reserved; a reader ignores them.
        return cls(name=name, attributes=Attribute(attributes & 0x3F), first_cluster=high << 16 | low, size=size)

    @property
    def checksum(self) -> int:
        """The checksum that ties long-name entries to this short name ("ChkSum")."""
        return short_name_checksum(self.name)


@dataclass(frozen=True, kw_only=True)
class LongNameEntry:
    """One long-name entry: 13 UTF-16 units of a name. `order` counts from 1; the `last` part comes first."""

    order: int
    last: bool
    checksum: int
    units: bytes

    _LAYOUT = struct.Struct("<B10sBBB12sH4s")

    def pack(self) -> bytes:
        """The entry, 32 bytes."""
        first, second, third = self.units[:10], self.units[10:22], self.units[22:]
        order = self.order | (0x40 if self.last else 0)
        return self._LAYOUT.pack(order, first, Attribute.LONG_NAME, 0, self.checksum, second, 0, third)

    @classmethod
    def unpack(cls, entry: bytes) -> LongNameEntry:
        """The 32 bytes of an entry whose attributes say that it is part of a long name."""
        order, first, _, _, checksum, second, _, third = cls._LAYOUT.unpack(entry)
        return cls(order=order & 0x3F, last=bool(order & 0x40), checksum=checksum, units=first + second + third)


def long_name_entries(name: str, checksum: int) -> bytes:
    """The long-name entries for `name`, in the order in which they stand before the short entry."""
    units = name.encode("utf-16-le")
    if len(units) % 26:
        units += b"\0\0"
    count = -(-len(units) // 26)
    units = units.ljust(count * 26, b"\xff")
    parts = [
        LongNameEntry(order=i + 1, last=i == count - 1, checksum=checksum, units=units[i * 26 : i * 26 + 26]).pack()
        for i in range(count)
    ]
    return b"".join(reversed(parts))


def short_name_checksum(name: bytes) -> int:
    """ChkSum ("FAT Long Directory Entries") of the 11 bytes of a short name."""
    total = 0
    for byte in name:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def fat_date_time(epoch: int) -> tuple[int, int]:
    """`epoch` (seconds, UTC) as FAT date and time words; years outside 1980-2107 are clamped."""
    epoch = min(max(epoch, 315532800), 4354819198)
    moment = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    date = (moment.year - 1980) << 9 | moment.month << 5 | moment.day
    return date, moment.hour << 11 | moment.minute << 5 | moment.second // 2
