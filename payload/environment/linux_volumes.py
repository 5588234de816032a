"""Which volumes a disk holds and what state each is in, from what is on the disk. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from payload.contract import DiskRecord
from payload.environment import Volume, VolumeState
from payload.environment.linux_disks import Disk, PartitionNode
from payload.environment.linux_ntfs import Condition, maybe_hibernated, ntfs_label, ntfs_state
from payload.formats.partition_table import (
    BIOS_BOOT,
    MBR_EXTENDED,
    MICROSOFT_RESERVED,
    PartitionTable,
    PartitionTableError,
    mbr_type,
    read_partition_table,
)
from payload.formats.raid_metadata import RaidMetadata, find_raid_metadata
from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify

OK, UNREADABLE, BOOT_MEDIUM = "ok", "unreadable", "boot-medium"
RAID_ADVICE = (
    "Changing one disk of it alone would tear it apart, so this image leaves it alone. Use the WinPE image, which has "
    "Windows's own drivers for it."
)
LOST_TABLE_ADVICE = "Repair the partition table first, or use the WinPE image."
READ_ERROR_ADVICE = "Check the disk and its cable. If it is failing, save its data before anything else."
#: Containers for other partitions, and partitions that hold no file system.
_NO_VOLUME = frozenset({MICROSOFT_RESERVED, BIOS_BOOT, *(mbr_type(kind) for kind in MBR_EXTENDED)})
_LOCKED = Condition(state=VolumeState.LOCKED, detail="The volume is encrypted with BitLocker.")
#: What is neither NTFS nor a file system that Windows cannot be installed on.
_CONDITIONS = {
    VolumeKind.BITLOCKER: _LOCKED,
    VolumeKind.BITLOCKER_TO_GO: _LOCKED,
    VolumeKind.STORAGE_SPACES: Condition(
        state=VolumeState.RAID_MEMBER, detail="It is a part of a Storage Spaces pool.", advice=RAID_ADVICE
    ),
    # A server with a ReFS data volume is repaired all the same; its Windows is on NTFS.
    VolumeKind.REFS: Condition(
        state=VolumeState.NOT_WINDOWS,
        detail="The volume is ReFS, which Linux cannot open and Windows does not start from.",
    ),
}
#: What a hibernated Windows, whose session the other volumes belong to, may be in without being seen to be.
_MAY_SLEEP = frozenset({VolumeState.HIBERNATED, VolumeState.LOCKED, VolumeState.RAID_MEMBER, VolumeState.UNREADABLE})


@dataclass(frozen=True, kw_only=True)
class SurveyedDisk:
    """A disk, whether it may be touched (`state` "ok") or why not, and the partition table on it.

    `left_out` are the names of its volumes that are what this image was started from.
    """

    disk: Disk
    state: str
    detail: str = ""
    table: PartitionTable | None = None
    raid: RaidMetadata | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def record(self) -> DiskRecord:
        """The disk as the receipt has it."""
        return DiskRecord(
            id=self.disk.name,
            model=self.disk.model,
            serial=self.disk.serial,
            size=self.disk.size,
            bus=self.disk.bus,
            state=self.state,
            detail=self.detail,
        )


@dataclass(frozen=True, kw_only=True)
class _Place:
    node: PartitionNode
    whole_disk: bool = False


def boot_medium(surveyed: SurveyedDisk) -> SurveyedDisk:
    """The same disk, known to be what this image was started from."""
    return replace(surveyed, state=BOOT_MEDIUM, detail="This image was started from it.")


def without(surveyed: SurveyedDisk, file_systems: frozenset[str]) -> SurveyedDisk:
    """The same disk, some file systems of which (named as the kernel does) are what this image was started from."""
    return replace(surveyed, left_out=file_systems)


def survey_disk(disk: Disk) -> SurveyedDisk:
    """Read a disk's partition table and look for signs of RAID."""
    table, detail = None, ""
    try:
        with disk.node.open("rb") as stream:
            try:
                table = read_partition_table(stream, disk.size, disk.sector_size)
            except PartitionTableError as error:
                detail = f"The partition table is damaged: {error}."
            raid = find_raid_metadata(stream, disk.size, table)
    except OSError as error:
        return SurveyedDisk(disk=disk, state=UNREADABLE, detail=f"The disk cannot be read: {error.strerror or error}.")
    if raid:
        return SurveyedDisk(
            disk=disk, state=raid.kind.value, detail=f"It is a part of {raid.kind.words}.", table=table, raid=raid
        )
    return SurveyedDisk(disk=disk, state=UNREADABLE if detail else OK, detail=detail, table=table)


def volumes_of(disks: Iterable[SurveyedDisk], unlocked: Mapping[str, Path] | None = None) -> list[Volume]:
    """Every volume of the host; none of the boot medium's.

    `unlocked` names locked volumes that are open, and the devices of what is inside: that is listed in their place.
    Where a volume is hibernated, or a volume or a disk cannot be looked into, others that Windows was using may belong
    to a hibernated Windows: left alone.
    """
    found = [(surveyed, list(_volumes_of_disk(surveyed, unlocked or {}))) for surveyed in disks]
    asleep = any(_may_sleep(surveyed, volumes) for surveyed, volumes in found)
    return [
        (replace(volume, condition=maybe_hibernated(volume.condition)) if asleep else volume).as_volume()
        for _, volumes in found
        for volume in volumes
    ]


def _may_sleep(surveyed: SurveyedDisk, volumes: Sequence[_FoundVolume]) -> bool:
    """Whether a hibernated Windows may be on this disk."""
    if not volumes:
        return surveyed.state not in (OK, BOOT_MEDIUM)
    return any(volume.condition.state in _MAY_SLEEP for volume in volumes)


@dataclass(frozen=True, kw_only=True)
class _FoundVolume:
    node: PartitionNode
    disk: Disk
    condition: Condition
    file_system: str = ""
    label: str = ""

    def as_volume(self) -> Volume:
        return Volume(
            id=self.node.name,
            disk=self.disk.name,
            label=self.label,
            file_system=self.file_system,
            size=self.node.size,
            state=self.condition.state,
            detail=self.condition.detail,
            advice=self.condition.advice,
        )


def _volumes_of_disk(surveyed: SurveyedDisk, unlocked: Mapping[str, Path]) -> Iterator[_FoundVolume]:
    if surveyed.state == BOOT_MEDIUM:
        return
    for place in _places(surveyed):
        if place.node.name in surveyed.left_out:
            continue
        if surveyed.raid is not None:
            detail = f"The disk is a part of {surveyed.raid.kind.words}."
            member = Condition(state=VolumeState.RAID_MEMBER, detail=detail, advice=RAID_ADVICE)
            yield _FoundVolume(node=place.node, disk=surveyed.disk, condition=member)
        elif (volume := _identified(surveyed, _inside(place, unlocked))) is not None:
            yield volume


def _places(surveyed: SurveyedDisk) -> Iterator[_Place]:
    disk = surveyed.disk
    types = {partition.start: partition.type for partition in (surveyed.table.partitions if surveyed.table else ())}
    for node in disk.partitions:
        if types.get(node.start) not in _NO_VOLUME:
            yield _Place(node=node)
    if not disk.partitions:
        whole = PartitionNode(name=disk.name, node=disk.node, number=0, start=0, size=disk.size)
        yield _Place(node=whole, whole_disk=True)


def _inside(place: _Place, unlocked: Mapping[str, Path]) -> _Place:
    opened = unlocked.get(place.node.name)
    return replace(place, node=replace(place.node, node=opened)) if opened else place


def _identified(surveyed: SurveyedDisk, place: _Place) -> _FoundVolume | None:
    """The volume at a place; None for a whole disk that has neither partitions nor a file system."""
    node, disk = place.node, surveyed.disk
    try:
        with node.node.open("rb") as stream:
            kind = identify(stream.read(HEAD_LENGTH))
    except OSError as error:
        detail = f"The volume cannot be read: {error.strerror or error}."
        unreadable = Condition(state=VolumeState.UNREADABLE, detail=detail, advice=READ_ERROR_ADVICE)
        return _FoundVolume(node=node, disk=disk, condition=unreadable)
    if place.whole_disk and kind in (VolumeKind.EMPTY, VolumeKind.UNKNOWN):
        if surveyed.state == OK:
            return None
        lost = Condition(state=VolumeState.UNREADABLE, detail=surveyed.detail, advice=LOST_TABLE_ADVICE)
        return _FoundVolume(node=node, disk=disk, condition=lost)
    if kind is VolumeKind.NTFS:
        return _FoundVolume(
            node=node, disk=disk, condition=ntfs_state(node.node), file_system=kind.value, label=ntfs_label(node.node)
        )
    condition = _CONDITIONS.get(kind, Condition(state=VolumeState.NOT_WINDOWS))
    return _FoundVolume(node=node, disk=disk, condition=condition, file_system=kind.value)
