"""NTFS: where the master file table lies, the volume's label and version, the dirty flag, the table's mirror.

Source: the Linux-NTFS project's documentation ("NTFS Documentation", $Boot, FILE record, $VOLUME_INFORMATION).
Pure functions of a stream. MFT records carry fix-ups (the last two bytes of each 512 are swapped out), which are
undone for reading; the flag is written in place, so that setting it changes one sector a copy of the record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

OEM_ID = b"NTFS    "
#: $VOLUME_INFORMATION: Windows checks the volume at its next start.
FLAG_DIRTY = 0x0001

#: How many records the mirror has at least: a cluster's worth where that is more.
_MIRRORED = 4
_VOLUME_RECORD = 3
_ATTR_VOLUME_NAME = 0x60
_ATTR_VOLUME_INFORMATION = 0x70
_ATTR_END = 0xFFFFFFFF
_FIXUP_STRIDE = 512


class NtfsError(ValueError):
    """Not an NTFS volume, or one whose $Volume record cannot be read."""


@dataclass(frozen=True, kw_only=True)
class BootSector:
    """The geometry of a volume: `cluster_size` and `record_size` in bytes, the two MFT copies as byte offsets."""

    sector_size: int
    cluster_size: int
    record_size: int
    total_size: int
    mft_offset: int
    mirror_offset: int
    serial: int


@dataclass(frozen=True, kw_only=True)
class VolumeInformation:
    """What $Volume says: NTFS version, flags, label."""

    version: tuple[int, int]
    flags: int
    label: str

    @property
    def dirty(self) -> bool:
        """Whether Windows will check the volume at its next start."""
        return bool(self.flags & FLAG_DIRTY)


def parse_boot_sector(sector: bytes) -> BootSector:
    """The boot sector, 512 bytes or more. Raises NtfsError."""
    if len(sector) < 512 or sector[3:11] != OEM_ID:
        raise NtfsError(f"not an NTFS boot sector: found {sector[3:11]!r} where {OEM_ID!r} should be")
    sector_size, per_cluster = struct.unpack_from("<HB", sector, 11)
    sectors, mft, mirror = struct.unpack_from("<QQQ", sector, 40)
    (clusters_per_record,) = struct.unpack_from("<b", sector, 64)
    (serial,) = struct.unpack_from("<Q", sector, 72)
    # Since Windows 10 1709 clusters may be larger than 64 KiB; then the byte is a negative power of two.
    per_cluster = 1 << (256 - per_cluster) if 0x80 < per_cluster <= 0xFF else per_cluster
    cluster_size = sector_size * per_cluster
    if sector_size not in (256, 512, 1024, 2048, 4096) or not per_cluster or per_cluster & (per_cluster - 1):
        raise NtfsError(f"impossible geometry: {sector_size} bytes a sector, {per_cluster} sectors a cluster")
    if not 0 < cluster_size <= 2 * 1024 * 1024:
        raise NtfsError(f"impossible cluster size {cluster_size}")
    record_size = 1 << -clusters_per_record if clusters_per_record < 0 else clusters_per_record * cluster_size
    if record_size not in (512, 1024, 2048, 4096):
        raise NtfsError(f"impossible MFT record size {record_size}")
    if not 0 < mft < sectors or not 0 < mirror < sectors:
        raise NtfsError("the master file table lies outside the volume")
    return BootSector(
        sector_size=sector_size,
        cluster_size=cluster_size,
        record_size=record_size,
        total_size=sectors * sector_size,
        mft_offset=mft * cluster_size,
        mirror_offset=mirror * cluster_size,
        serial=serial,
    )


def read_volume_information(stream: BinaryIO) -> VolumeInformation:
    """What the $Volume record says, from the mirror where the first copy is damaged. Raises NtfsError, OSError."""
    boot = read_boot_sector(stream)
    try:
        return _volume_information(_read_record(stream, boot, boot.mft_offset))
    except NtfsError:
        return _volume_information(_read_record(stream, boot, boot.mirror_offset))


def write_dirty_flag(stream: BinaryIO, *, dirty: bool) -> None:
    """Set or clear the dirty flag in both copies of the $Volume record; the stream is not flushed.

    Clears nothing and raises NtfsError where either copy cannot be read: such a volume should be checked anyway.
    """
    boot = read_boot_sector(stream)
    patches = [
        _flag_patch(_read_record(stream, boot, base), base + _VOLUME_RECORD * boot.record_size, dirty=dirty)
        for base in (boot.mft_offset, boot.mirror_offset)
    ]
    for patch in patches:
        for offset, value in patch:
            stream.seek(offset)
            stream.write(value)


def mirror_patches(stream: BinaryIO) -> list[tuple[int, bytes]]:
    """(offset on the volume, bytes): what makes the table's mirror ($MFTMirr) equal to its first records.

    The mirror is written after the table, so that a power cut between leaves it behind, and then ntfs-3g mounts the
    volume no more. Empty where they agree, and where that is not what has happened: no copy of the volume's record is
    flagged dirty, or one of the table's own records is damaged. Raises NtfsError, OSError.
    """
    boot = read_boot_sector(stream)
    size = max(_MIRRORED * boot.record_size, boot.cluster_size)
    table, mirror = (read_at(stream, offset, size) for offset in (boot.mft_offset, boot.mirror_offset))
    if table == mirror or not (_says_dirty(table, boot) or _says_dirty(mirror, boot)):
        return []
    patches = []
    for at in range(0, size, boot.record_size):
        ours, theirs = table[at : at + boot.record_size], mirror[at : at + boot.record_size]
        if ours != theirs:
            try:
                without_fixups(ours)
            except NtfsError:
                return []
            patches.append((boot.mirror_offset + at, ours))
    return patches


def _says_dirty(records: bytes, boot: BootSector) -> bool:
    at = _VOLUME_RECORD * boot.record_size
    try:
        return _volume_information(records[at : at + boot.record_size]).dirty
    except NtfsError:
        return False


def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    """Exactly `size` bytes. Raises NtfsError where the volume is shorter, OSError."""
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise NtfsError("the volume ends in the middle of its file table")
    return data


def read_boot_sector(stream: BinaryIO) -> BootSector:
    """The boot sector at the start of the stream. Raises NtfsError, OSError."""
    stream.seek(0)
    return parse_boot_sector(stream.read(512))


def _read_record(stream: BinaryIO, boot: BootSector, base: int) -> bytes:
    stream.seek(base + _VOLUME_RECORD * boot.record_size)
    raw = stream.read(boot.record_size)
    if len(raw) != boot.record_size or raw[:4] != b"FILE":
        raise NtfsError(f"the $Volume record is damaged: it starts with {raw[:4]!r}")
    return raw


def _fixup_positions(raw: bytes) -> dict[int, int]:
    """For each byte that is swapped out, where it really is: position in the record -> position in the array."""
    array, count = struct.unpack_from("<HH", raw, 4)
    if count != len(raw) // _FIXUP_STRIDE + 1 or array + 2 * count > _FIXUP_STRIDE - 2 or array < 8:
        raise NtfsError("a record's fix-up array is damaged")
    number = raw[array : array + 2]
    positions = {}
    for i in range(1, count):
        end = i * _FIXUP_STRIDE - 2
        if raw[end : end + 2] != number:
            raise NtfsError("a record was written only in part")
        positions.update({end + j: array + 2 * i + j for j in range(2)})
    return positions


def without_fixups(raw: bytes) -> bytes:
    """A FILE record as it is meant. Raises NtfsError where it was written only in part."""
    plain = bytearray(raw)
    for position, real in _fixup_positions(raw).items():
        plain[position] = raw[real]
    return bytes(plain)


def _resident_attributes(plain: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, offset of the value, its length) of each resident attribute."""
    (offset,) = struct.unpack_from("<H", plain, 20)
    while offset + 24 <= len(plain):
        kind, length, non_resident = struct.unpack_from("<IIB", plain, offset)
        if kind == _ATTR_END:
            return
        value_length, value_offset = struct.unpack_from("<IH", plain, offset + 16)
        if length < 24 or offset + length > len(plain):
            raise NtfsError("the $Volume record's attributes are damaged")
        if not non_resident and value_offset + value_length <= length:
            yield kind, offset + value_offset, value_length
        offset += length


def _volume_information(raw: bytes) -> VolumeInformation:
    plain = without_fixups(raw)
    label, found = "", None
    for kind, offset, length in _resident_attributes(plain):
        if kind == _ATTR_VOLUME_NAME:
            label = plain[offset : offset + length].decode("utf-16-le", "replace")
        elif kind == _ATTR_VOLUME_INFORMATION and length >= 12:
            found = struct.unpack_from("<BBH", plain, offset + 8)
    if found is None:
        raise NtfsError("the $Volume record says nothing about the volume")
    return VolumeInformation(version=(found[0], found[1]), flags=found[2], label=label)


def _flag_patch(raw: bytes, record_offset: int, *, dirty: bool) -> list[tuple[int, bytes]]:
    """(offset on the volume, one byte): the flag's low byte at the place where it really is."""
    plain = without_fixups(raw)
    _volume_information(raw)
    swapped = _fixup_positions(raw)
    patch = []
    for kind, offset, length in _resident_attributes(plain):
        if kind == _ATTR_VOLUME_INFORMATION and length >= 12:
            at = offset + 10
            value = plain[at] | FLAG_DIRTY if dirty else plain[at] & ~FLAG_DIRTY & 0xFF
            patch.append((record_offset + swapped.get(at, at), bytes([value])))
    return patch
