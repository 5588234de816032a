"""What kind of file system (or container) a volume starts with, by its first bytes.

Sources: NTFS and FAT boot sectors (Microsoft Extensible Firmware Initiative FAT32 File System Specification; exFAT
file system specification), BitLocker (libyal/libbde "BitLocker Drive Encryption (BDE) format"), the rest as
util-linux's libblkid superblock probers have them.
"""

from __future__ import annotations

import enum
import struct

#: How many bytes from a volume's start `identify` wants.
HEAD_LENGTH = 128 * 1024

_BITLOCKER_GUIDS = (
    bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"),  # {4967D63B-2E29-4AD8-8399-F6A339E3D001}
    bytes.fromhex("3b4da89280dd0e4d9e4eb1e3284eaed8"),  # {92A84D3B-DD80-4D0E-9E4E-B1E3284EAED8}, used space only
)
#: Offsets of that GUID: volumes since Windows 7, and BitLocker To Go, which dresses as FAT32.
_BITLOCKER_OFFSETS = (160, 424)


class VolumeKind(enum.StrEnum):
    """What a volume starts with. The names are as people know them."""

    NTFS = "NTFS"
    BITLOCKER = "BitLocker"
    BITLOCKER_TO_GO = "BitLocker To Go"
    FAT12 = "FAT12"
    FAT16 = "FAT16"
    FAT32 = "FAT32"
    EXFAT = "exFAT"
    REFS = "ReFS"
    EXT = "ext"
    XFS = "XFS"
    BTRFS = "btrfs"
    APFS = "APFS"
    HFS_PLUS = "HFS+"
    SQUASHFS = "SquashFS"
    ISO9660 = "ISO 9660"
    SWAP = "Linux swap"
    LVM = "LVM member"
    MD = "Linux RAID member"
    LUKS = "LUKS"
    STORAGE_SPACES = "Storage Spaces member"
    EMPTY = "empty"
    UNKNOWN = "unknown"

    @property
    def is_fat(self) -> bool:
        """FAT12, FAT16 or FAT32."""
        return self in (VolumeKind.FAT12, VolumeKind.FAT16, VolumeKind.FAT32)


#: (offset, magic, kind), most telling first.
_MAGICS = (
    (3, b"NTFS    ", VolumeKind.NTFS),
    (3, b"-FVE-FS-", VolumeKind.BITLOCKER),
    (3, b"EXFAT   ", VolumeKind.EXFAT),
    (3, b"ReFS\0\0\0\0", VolumeKind.REFS),
    (0, b"SPACEDB ", VolumeKind.STORAGE_SPACES),
    (0, b"LUKS\xba\xbe", VolumeKind.LUKS),
    (0, b"XFSB", VolumeKind.XFS),
    (0, b"hsqs", VolumeKind.SQUASHFS),
    (32, b"NXSB", VolumeKind.APFS),
    (1024, b"H+\0\4", VolumeKind.HFS_PLUS),
    (1024, b"HX\0\5", VolumeKind.HFS_PLUS),
    (1080, b"\x53\xef", VolumeKind.EXT),
    (0, b"\xfc\x4e\x2b\xa9", VolumeKind.MD),
    (4096, b"\xfc\x4e\x2b\xa9", VolumeKind.MD),
    (4086, b"SWAPSPACE2", VolumeKind.SWAP),
    (4086, b"SWAP-SPACE", VolumeKind.SWAP),
    (65600, b"_BHRfS_M", VolumeKind.BTRFS),
    (32769, b"CD001", VolumeKind.ISO9660),
)


def identify(head: bytes) -> VolumeKind:
    """What the volume is whose first HEAD_LENGTH bytes (fewer at its end) are `head`. Never raises."""
    if _is_bitlocker_to_go(head):
        return VolumeKind.BITLOCKER_TO_GO
    if any(head[sector * 512 : sector * 512 + 8] == b"LABELONE" for sector in range(4)):
        return VolumeKind.LVM
    for offset, magic, kind in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if (fat := _fat_kind(head)) is not None:
        return fat
    return VolumeKind.UNKNOWN if any(head) else VolumeKind.EMPTY


def _is_bitlocker_to_go(head: bytes) -> bool:
    return head[3:11] == b"MSWIN4.1" and any(
        head[offset : offset + 16] in _BITLOCKER_GUIDS for offset in _BITLOCKER_OFFSETS
    )


def _fat_kind(head: bytes) -> VolumeKind | None:
    """FAT by its BIOS parameter block; the number of clusters says which (FAT32 specification, 3.5)."""
    if len(head) < 512 or head[510:512] != b"\x55\xaa" or head[0] not in (0xEB, 0xE9):
        return None
    sector, per_cluster, reserved, fats, roots, small, media, fat_length = struct.unpack_from("<HBHBHHBH", head, 11)
    large, fat32_length = struct.unpack_from("<I", head, 32)[0], struct.unpack_from("<I", head, 36)[0]
    if sector not in (512, 1024, 2048, 4096) or per_cluster == 0 or per_cluster & (per_cluster - 1):
        return None
    if not reserved or fats not in (1, 2) or (media != 0xF0 and media < 0xF8):
        return None
    root_sectors = (roots * 32 + sector - 1) // sector
    data = (small or large) - reserved - fats * (fat_length or fat32_length) - root_sectors
    if data <= 0:
        return None
    clusters = data // per_cluster
    if not fat_length:
        return VolumeKind.FAT32
    return VolumeKind.FAT12 if clusters < 4085 else VolumeKind.FAT16
