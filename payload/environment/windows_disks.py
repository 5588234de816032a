"""Physical disks under Windows: who they are, whether they may be used, and those that Windows keeps offline.

By its SAN policy Windows leaves disks offline that it did not know when it started. Such a disk is brought online for
this session only, unless other hosts may be using it, or it is a copy of a disk that is online: Windows would then
write a new signature on it, and the copy would no longer start.
"""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from payload.contract import DiskRecord
from payload.environment import windows_api as api
from payload.formats.partition_table import PartitionTable, PartitionTableError, read_partition_table
from payload.formats.raid_metadata import RaidKind, RaidMetadata, find_raid_metadata
from payload.formats.storage_device import (
    BUS_SPACES,
    OFFLINE,
    READ_ONLY,
    SHARED_BUSES,
    DeviceDescriptor,
    StorageAnswerError,
    online_for_this_session,
    parse_device_descriptor,
    parse_disk_attributes,
    parse_disk_geometry,
)

_STORAGE_QUERY_PROPERTY, _DRIVE_GEOMETRY_EX = 0x002D1400, 0x000700A0
_GET_DISK_ATTRIBUTES, _SET_DISK_ATTRIBUTES = 0x000700F0, 0x0007C0F4
_DEVICE_PROPERTY = bytes(12)
_PHYSICAL = re.compile(r"PhysicalDrive(\d+)")
_NAMES_BUFFER = 64 * 1024

OK, OFFLINE_STATE, UNREADABLE, BOOT_MEDIUM = "ok", "offline", "unreadable", "boot-medium"
_UNKNOWN = DeviceDescriptor(vendor="", product="", serial="", bus="", removable=False)
_SHARED = (
    "Windows keeps it offline, and other hosts may be using it. If it belongs to this host alone, bring it online with "
    "diskpart (select disk, online disk) and run Bluelift again."
)
_COPY = (
    "Windows keeps it offline because it is a copy of {}. Detach that disk and start again: bringing both online would "
    "change this one's signature."
)


@dataclass(frozen=True, kw_only=True)
class WindowsDisk:
    """A physical disk. `attributes` are OFFLINE and READ_ONLY bits; `signature` tells it from any but its copies."""

    number: int
    descriptor: DeviceDescriptor
    size: int
    attributes: int = 0
    table: PartitionTable | None = None
    raid: RaidMetadata | None = None
    signature: bytes = b""
    state: str = OK
    detail: str = ""

    @property
    def id(self) -> str:
        """As Windows calls it."""
        return f"PhysicalDrive{self.number}"

    @property
    def is_stick(self) -> bool:
        """Whether a technician could have plugged it in."""
        return self.descriptor.removable or self.descriptor.bus in ("usb", "sd", "mmc")

    @property
    def record(self) -> DiskRecord:
        """The disk as the receipt has it."""
        return DiskRecord(
            id=self.id,
            model=self.descriptor.model,
            serial=self.descriptor.serial,
            size=self.size,
            bus=self.descriptor.bus,
            state=self.state,
            detail=self.detail,
        )


def disk_numbers() -> list[int]:
    """The numbers of the physical disks that Windows knows."""
    names = ctypes.create_unicode_buffer(_NAMES_BUFFER)
    while not (length := api.kernel32.QueryDosDeviceW(None, names, len(names))):
        if ctypes.get_last_error() != api.ERROR_INSUFFICIENT_BUFFER or len(names) > 64 * _NAMES_BUFFER:
            return []
        names = ctypes.create_unicode_buffer(2 * len(names))
    found = (_PHYSICAL.fullmatch(name) for name in ctypes.wstring_at(names, length).split("\0"))
    return sorted(int(match[1]) for match in found if match)


def list_disks() -> list[WindowsDisk]:
    """Every physical disk that has a medium, by number. Writes to none of them, and raises nothing for what is bad."""
    disks = [_survey(number) for number in disk_numbers()]
    return _with_pools([disk for disk in disks if disk.size > 0 or disk.state == UNREADABLE])


def bring_online(disks: Sequence[WindowsDisk]) -> tuple[str, ...]:
    """Bring the disks online that may be, until the next start of this system; a note for each that was tried."""
    notes = []
    for disk in disks:
        if not disk.attributes & OFFLINE or why_offline(disk, disks):
            continue
        try:
            with api.opened(_path(disk.number), api.GENERIC_READ | api.GENERIC_WRITE) as handle:
                api.control(handle, _SET_DISK_ATTRIBUTES, online_for_this_session(), size=0)
        except OSError as error:
            notes.append(f"{disk.id} is offline and could not be brought online: {error.strerror}")
        else:
            notes.append(f"{disk.id} was offline and was brought online until the next restart.")
    return tuple(notes)


def why_offline(disk: WindowsDisk, others: Iterable[WindowsDisk]) -> str:
    """Why an offline disk stays so; empty for one that may be brought online."""
    if disk.descriptor.bus in SHARED_BUSES:
        return _SHARED
    for other in others:
        if other.number != disk.number and disk.signature and other.signature == disk.signature:
            return _COPY.format(other.id)
    return ""


def judge(disk: WindowsDisk, *, holds_volumes: bool, others: Iterable[WindowsDisk]) -> WindowsDisk:
    """The disk with its final state: Windows itself may have opened what is a part of something larger."""
    if disk.attributes & OFFLINE:
        return replace(disk, state=OFFLINE_STATE, detail=why_offline(disk, others) or "Windows keeps it offline.")
    if disk.raid is not None and not is_member(disk) and holds_volumes:
        return replace(disk, state=OK, detail=f"A part of {disk.raid.kind.words}, which Windows has opened.")
    if disk.raid is not None:
        return replace(disk, state=disk.raid.kind.value, detail=f"It is a part of {disk.raid.kind.words}.")
    if disk.attributes & READ_ONLY and disk.state == OK:
        return replace(disk, detail="It is read-only.")
    return disk


def is_member(disk: WindowsDisk) -> bool:
    """Whether what lies on the disk is one half of a RAID that no driver has put together.

    Dynamic disks and storage pools are Windows's own: a volume that it shows on them is the whole one.
    """
    windows_own = (RaidKind.DYNAMIC_DISK, RaidKind.STORAGE_SPACES)
    return disk.raid is not None and disk.raid.kind not in windows_own


def _survey(number: int) -> WindowsDisk:
    disk = WindowsDisk(number=number, descriptor=_UNKNOWN, size=0)
    try:
        with api.opened(_path(number), 0) as handle:
            disk = replace(disk, descriptor=_descriptor(handle), attributes=_attributes(handle))
            size, sector_size = parse_disk_geometry(api.control(handle, _DRIVE_GEOMETRY_EX))
    except StorageAnswerError as error:
        return replace(disk, state=UNREADABLE, detail=f"The disk's answer makes no sense: {error}.")
    except OSError as error:
        # A card reader without a card; a disk that was just pulled out.
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.ENOENT):
            return disk
        return replace(disk, state=UNREADABLE, detail=f"The disk cannot be read: {error.strerror}.")
    return _with_table(replace(disk, size=size), sector_size)


def _with_table(disk: WindowsDisk, sector_size: int) -> WindowsDisk:
    """The disk with its partition table and signs of RAID, as read from the disk itself."""
    table, detail = None, ""
    try:
        with api.opened(_path(disk.number), api.GENERIC_READ) as handle:
            stream = api.device_stream(handle, disk.size)
            try:
                table = read_partition_table(stream, disk.size, sector_size)
            except PartitionTableError as error:
                detail = f"The partition table is damaged: {error}."
            raid = None if disk.descriptor.bus == "raid" else find_raid_metadata(stream, disk.size, table)
            stream.seek(0)
            head = stream.read(2 * 4096)
    except OSError as error:
        # Sectors cannot be had everywhere (Wine); the volumes on the disk can still be looked at.
        if error.errno == errno.ENOSYS:
            return disk
        return replace(disk, state=UNREADABLE, detail=f"The disk cannot be read: {error.strerror}.")
    state = UNREADABLE if detail else OK
    return replace(disk, table=table, raid=raid, signature=_signature(head, sector_size), state=state, detail=detail)


def _signature(head: bytes, sector_size: int) -> bytes:
    """The GPT's disk GUID (UEFI Specification 2.10, 5.3.2), else the MBR's signature at 440; empty where all zero."""
    gpt = head[sector_size : sector_size + 72]
    found = gpt[56:72] if gpt[:8] == b"EFI PART" else head[440:444]
    return found if any(found) else b""


def _with_pools(disks: list[WindowsDisk]) -> list[WindowsDisk]:
    """Members of a storage pool are served where a disk of a pool is there."""
    if not any(disk.descriptor.bus == BUS_SPACES for disk in disks):
        return disks
    return [
        replace(disk, raid=None, detail="A part of a Storage Spaces pool, which Windows has opened.")
        if disk.raid is not None and disk.raid.kind is RaidKind.STORAGE_SPACES
        else disk
        for disk in disks
    ]


def _path(number: int) -> str:
    return rf"\\.\PhysicalDrive{number}"


def _descriptor(handle: int) -> DeviceDescriptor:
    try:
        return parse_device_descriptor(api.control(handle, _STORAGE_QUERY_PROPERTY, _DEVICE_PROPERTY))
    except (OSError, StorageAnswerError):
        return _UNKNOWN


def _attributes(handle: int) -> int:
    try:
        return parse_disk_attributes(api.control(handle, _GET_DISK_ATTRIBUTES, size=16))
    except (OSError, StorageAnswerError):
        return 0
