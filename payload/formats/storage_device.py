"""What Windows's storage IOCTLs answer, as pure functions of their bytes.

Sources, all pages of Microsoft's "winioctl.h header" and "ntddstor.h header" references: STORAGE_DEVICE_DESCRIPTOR,
STORAGE_BUS_TYPE, STORAGE_DEVICE_NUMBER, VOLUME_DISK_EXTENTS, DISK_GEOMETRY_EX, GET_DISK_ATTRIBUTES and
SET_DISK_ATTRIBUTES.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_DESCRIPTOR = struct.Struct("<IIBBBBIIIII")
_GEOMETRY = struct.Struct("<QIIII q")
_EXTENTS_HEADER, _EXTENT = struct.Struct("<I4x"), struct.Struct("<I4xqq")
_MAX_EXTENTS = 1024
_SET_ATTRIBUTES = struct.Struct("<IB3xQQ16x")
#: GET_DISK_ATTRIBUTES.Attributes.
OFFLINE, READ_ONLY = 0x1, 0x2

BUS_SPACES = "storage-spaces"
_BUSES = {
    0x01: "scsi", 0x02: "atapi", 0x03: "ata", 0x04: "ieee1394", 0x05: "ssa", 0x06: "fibre-channel", 0x07: "usb",
    0x08: "raid", 0x09: "iscsi", 0x0A: "sas", 0x0B: "sata", 0x0C: "sd", 0x0D: "mmc", 0x0E: "virtual",
    0x0F: "file", 0x10: BUS_SPACES, 0x11: "nvme", 0x12: "scm", 0x13: "ufs", 0x14: "nvme-of",
}  # fmt: skip
#: Buses whose disks other hosts may be using at this moment.
SHARED_BUSES = frozenset({"fibre-channel", "iscsi", "nvme-of"})


class StorageAnswerError(ValueError):
    """An answer that is too short, or that points outside itself."""


@dataclass(frozen=True, kw_only=True)
class DeviceDescriptor:
    """Who a disk says it is. Texts are empty where it says nothing; `bus` is empty for an unknown one."""

    vendor: str
    product: str
    serial: str
    bus: str
    removable: bool

    @property
    def model(self) -> str:
        """Vendor and product, as people know the disk."""
        return " ".join(filter(None, ("" if self.vendor == "ATA" else self.vendor, self.product)))


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A part of a volume: which disk it is on, and where, in bytes."""

    disk: int
    start: int
    size: int


def parse_device_descriptor(data: bytes) -> DeviceDescriptor:
    """STORAGE_DEVICE_DESCRIPTOR with its strings. Raises StorageAnswerError."""
    if len(data) < _DESCRIPTOR.size:
        raise StorageAnswerError(f"{len(data)} bytes are too few for a storage device descriptor")
    _version, _size, _type, _modifier, removable, _queue, vendor, product, _revision, serial, bus = (
        _DESCRIPTOR.unpack_from(data)
    )
    return DeviceDescriptor(
        vendor=_text_at(data, vendor),
        product=_text_at(data, product),
        serial=_text_at(data, serial),
        bus=_BUSES.get(bus, ""),
        removable=bool(removable),
    )


def parse_disk_geometry(data: bytes) -> tuple[int, int]:
    """(size, sector size) in bytes, of DISK_GEOMETRY_EX. Raises StorageAnswerError."""
    if len(data) < _GEOMETRY.size:
        raise StorageAnswerError(f"{len(data)} bytes are too few for a disk's geometry")
    _cylinders, _media, _tracks, _sectors, sector_size, size = _GEOMETRY.unpack_from(data)
    if size < 0:
        raise StorageAnswerError(f"a disk of {size} bytes")
    return size, sector_size


def parse_volume_extents(data: bytes) -> tuple[Extent, ...]:
    """VOLUME_DISK_EXTENTS. Raises StorageAnswerError."""
    if len(data) < _EXTENTS_HEADER.size:
        raise StorageAnswerError(f"{len(data)} bytes are too few for a volume's extents")
    (count,) = _EXTENTS_HEADER.unpack_from(data)
    if count > _MAX_EXTENTS or len(data) < _EXTENTS_HEADER.size + count * _EXTENT.size:
        raise StorageAnswerError(f"{count} extents do not fit {len(data)} bytes")
    found = (_EXTENT.unpack_from(data, _EXTENTS_HEADER.size + index * _EXTENT.size) for index in range(count))
    return tuple(Extent(disk=disk, start=start, size=size) for disk, start, size in found)


def parse_disk_attributes(data: bytes) -> int:
    """The Attributes of GET_DISK_ATTRIBUTES: OFFLINE and READ_ONLY bits. Raises StorageAnswerError."""
    if len(data) < 16:
        raise StorageAnswerError(f"{len(data)} bytes are too few for a disk's attributes")
    (attributes,) = struct.unpack_from("<8xQ", data)
    return int(attributes)


def online_for_this_session() -> bytes:
    """SET_DISK_ATTRIBUTES that clears OFFLINE until the next start: Persist is FALSE."""
    return _SET_ATTRIBUTES.pack(_SET_ATTRIBUTES.size, 0, 0, OFFLINE)


def _text_at(data: bytes, offset: int) -> str:
    """A zero-terminated ASCII string; offset 0 (and, from some drivers, all ones) means that there is none."""
    if not _DESCRIPTOR.size <= offset < len(data):
        return ""
    return " ".join(data[offset:].split(b"\0", 1)[0].decode("ascii", "replace").split())
