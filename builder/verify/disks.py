"""Broken disks to repair: GPT, ESP, Microsoft reserved, Windows and recovery partitions in one sparse file.

Everything is made without root rights and without loop devices: volumes are plain files, copied to where their
partitions lie with their holes kept.
"""

from __future__ import annotations

import enum
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from builder.media.fat import FatFile, fat_image
from builder.media.gpt import BASIC_DATA, EFI_SYSTEM, MICROSOFT_RESERVED, WINDOWS_RECOVERY, GptPartition, write_gpt
from builder.verify.bitlocker import (
    ROOM_FILES,
    BitLockerPlan,
    BitLockerVolume,
    format_volume,
    make_room,
    seeded,
)
from builder.verify.ntfs_volume import NtfsPatcher, make_volume
from builder.verify.windows_tree import Tree, TreeFile, noise, program_bytes, recovery_volume

SECTOR = 512
_MIB = 1 << 20
_COMPARED_AT_ONCE = 1 << 20
#: 2024-07-18: the ESP's files are older than the incident.
_EPOCH = 1_721_260_800
_GUIDS = uuid.UUID("0b1ce11f-0000-4000-8000-000000000291")


class Mark(enum.StrEnum):
    """A state that the Windows partition, or the whole disk, is brought into after it was filled."""

    DIRTY_FLAG = "dirty-flag"
    BROKEN_JOURNAL = "broken-journal"
    RAID_MEMBER = "raid-member"


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """What a disk shall hold. `windows_size` is in bytes. The Windows volume is locked as `lock` says."""

    tree: Tree
    marks: tuple[Mark, ...] = ()
    windows_size: int = 200 * _MIB
    lock: BitLockerPlan | None = None


@dataclass(frozen=True, kw_only=True)
class DiskPartition:
    """Where a partition lies, in bytes."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class BrokenDisk:
    """A disk that was made, and what is on it. `locked` has the keys of a Windows volume that is locked."""

    path: Path
    plan: DiskPlan
    partitions: tuple[DiskPartition, ...]
    locked: BitLockerVolume | None = None

    def partition(self, name: str) -> DiskPartition:
        """The partition called `name`."""
        return next(partition for partition in self.partitions if partition.name == name)

    @property
    def windows(self) -> DiskPartition:
        """The partition that Windows is on."""
        return self.partition("windows")


def make_disk(plan: DiskPlan, path: Path) -> BrokenDisk:
    """Make the disk at `path`. Its volumes are made beside it and removed. Raises ToolMissing, ToolFailed."""
    partitions = _layout(plan)
    # A power of two: QEMU's SD cards come in no other size.
    volume_end = 1 << (partitions[-1].start + partitions[-1].size + _MIB - 1).bit_length()
    # RAID metadata lies at the end of the member, behind the volume that the partition table describes.
    disk_end = volume_end + (4 * _MIB if Mark.RAID_MEMBER in plan.marks else 0)
    with path.open("wb+") as disk:
        disk.truncate(disk_end)
        write_gpt(
            disk,
            disk_guid=uuid.uuid5(_GUIDS, "disk"),
            sectors=volume_end // SECTOR,
            partitions=[_gpt_entry(partition) for partition in partitions],
        )
        made = BrokenDisk(path=path, plan=plan, partitions=partitions)
        _write_sparse(disk, made.partition("esp").start, _esp(made.partition("esp").size))
        _write_ntfs(disk, made.partition("recovery"), label="Recovery", tree=recovery_volume(), beside=path)
        made = _write_windows(disk, made, beside=path)
        if Mark.RAID_MEMBER in plan.marks:
            _write_at(disk, disk_end - 2 * SECTOR, _intel_raid_metadata())
    return made


def copy_disk(disk: BrokenDisk, path: Path) -> BrokenDisk:
    """The same disk again at `path`, holes kept."""
    with disk.path.open("rb") as source, path.open("wb") as target:
        target.truncate(os.fstat(source.fileno()).st_size)
        _copy_data(source, target, start=0, size=os.fstat(source.fileno()).st_size, to=0)
    return replace(disk, path=path)


def extract_partition(disk: Path, partition: DiskPartition, path: Path) -> Path:
    """A partition's bytes as a sparse file of their own at `path`, for tools that take no offset."""
    with disk.open("rb") as source, path.open("wb") as target:
        target.truncate(partition.size)
        _copy_data(source, target, start=partition.start, size=partition.size, to=0)
    return path


def first_difference(one: Path, other: Path, *, skip: DiskPartition | None = None) -> int | None:
    """The first byte offset at which two disks differ outside `skip`; None when they are the same."""
    size = one.stat().st_size
    if other.stat().st_size != size:
        return min(size, other.stat().st_size)
    with one.open("rb") as a, other.open("rb") as b:
        chunks = {
            chunk
            for stream in (a, b)
            for offset, length in _data_extents(stream.fileno(), 0, size)
            for chunk in range(offset // _COMPARED_AT_ONCE, (offset + length - 1) // _COMPARED_AT_ONCE + 1)
        }
        for chunk in sorted(chunks):
            for start, end in _without(skip, chunk * _COMPARED_AT_ONCE, min((chunk + 1) * _COMPARED_AT_ONCE, size)):
                ours, theirs = os.pread(a.fileno(), end - start, start), os.pread(b.fileno(), end - start, start)
                if ours != theirs:
                    return start + next(i for i, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y)
    return None


def _without(skip: DiskPartition | None, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What remains of the span from `start` to `end` outside `skip`."""
    if skip is None:
        yield start, end
        return
    for first, last in ((start, min(end, skip.start)), (max(start, skip.start + skip.size), end)):
        if first < last:
            yield first, last


# --- layout ----------------------------------------------------------------------------------------------------------

_KINDS = {
    # name: (type, name in the table, attributes: bit 63 = no drive letter, bit 0 = required)
    "esp": (EFI_SYSTEM, "EFI system partition", 1 << 63),
    "msr": (MICROSOFT_RESERVED, "Microsoft reserved partition", 1 << 63),
    "windows": (BASIC_DATA, "Basic data partition", 0),
    "recovery": (WINDOWS_RECOVERY, "Basic data partition", 1 << 63 | 1),
}


def _layout(plan: DiskPlan) -> tuple[DiskPartition, ...]:
    sizes = {"esp": 40 * _MIB, "msr": 16 * _MIB, "windows": plan.windows_size, "recovery": 32 * _MIB}
    start = _MIB
    partitions = []
    for name, size in sizes.items():
        partitions.append(DiskPartition(name=name, start=start, size=size))
        start += size
    return tuple(partitions)


def _gpt_entry(partition: DiskPartition) -> GptPartition:
    kind, name, attributes = _KINDS[partition.name]
    return GptPartition(
        type_guid=kind,
        unique_guid=uuid.uuid5(_GUIDS, partition.name),
        name=name,
        first_lba=partition.start // SECTOR,
        last_lba=(partition.start + partition.size) // SECTOR - 1,
        attributes=attributes,
    )


def _esp(size: int) -> bytes:
    files = [
        FatFile(path="EFI/Microsoft/Boot/bootmgfw.efi", data=program_bytes("bootmgfw", 20_000)),
        FatFile(path="EFI/Microsoft/Boot/BCD", data=b"regf" + noise("bcd", 8188)),
    ]
    return fat_image(files, label="SYSTEM", serial=0x0291_2024, epoch=_EPOCH, size=size)


def _write_windows(disk: BinaryIO, made: BrokenDisk, *, beside: Path) -> BrokenDisk:
    volume = _ntfs(made.windows, label="Windows", tree=made.plan.tree, beside=beside)
    room = make_room(volume) if made.plan.lock else None
    with volume.open("rb+") as stream:
        patcher = NtfsPatcher(stream)
        if Mark.BROKEN_JOURNAL in made.plan.marks:
            patcher.break_journal()
        if Mark.DIRTY_FLAG in made.plan.marks:
            patcher.set_dirty()
    if made.plan.lock and room:
        locked = volume.with_suffix(".locked")
        # Seeded, so that a disk is the same every time it is made.
        random = seeded(f"{made.plan.lock.description} {beside.name}".encode())
        made = replace(
            made,
            plan=replace(made.plan, tree=made.plan.tree.with_files(*_room_files(room.folder))),
            locked=format_volume(volume, locked, made.plan.lock, room=room, random=random),
        )
        locked.replace(volume)
    _move_into(disk, made.windows, volume)
    return made


def _room_files(folder: str) -> Iterator[TreeFile]:
    """BitLocker's own files: who opens the volume reads zeros."""
    for name, size in ROOM_FILES.items():
        path = f"{folder}\\{name}" if folder else name
        yield TreeFile(path=path, content=bytes(size), modified=datetime.fromtimestamp(_EPOCH, UTC))


def _write_ntfs(disk: BinaryIO, partition: DiskPartition, *, label: str, tree: Tree, beside: Path) -> None:
    _move_into(disk, partition, _ntfs(partition, label=label, tree=tree, beside=beside))


def _ntfs(partition: DiskPartition, *, label: str, tree: Tree, beside: Path) -> Path:
    """The volume in a file of its own; its boot sector says already where on the disk it will lie."""
    volume = beside.with_name(f"{beside.name}.{partition.name}.ntfs")
    make_volume(volume, size=partition.size, label=label, tree=tree)
    with volume.open("rb+") as stream:
        for sector in (0, partition.size - SECTOR):
            _write_at(stream, sector + 0x1C, struct.pack("<I", partition.start // SECTOR))
    return volume


def _move_into(disk: BinaryIO, partition: DiskPartition, volume: Path) -> None:
    with volume.open("rb") as source:
        _copy_data(source, disk, start=0, size=partition.size, to=partition.start)
    volume.unlink()


def _intel_raid_metadata() -> bytes:
    """The anchor of Intel Matrix Storage metadata, two sectors before the end of a member (mdadm, super-intel.c)."""
    sector = bytearray(SECTOR)
    sector[0:32] = b"Intel Raid ISM Cfg Sig. 1.1.00\0\0"
    # check_sum, mpb_size, family_num, generation_num, error_log_size, attributes; then num_disks, num_raid_devs
    struct.pack_into("<IIIIII", sector, 32, 0, 0xE8, 0x5EED0291, 7, 4080, 0x80000000)
    sector[56:58] = bytes((2, 1))
    for disk in range(2):
        struct.pack_into("<16sIII", sector, 0xD8 + disk * 48, b"BLUELIFT-DISK%d" % disk, 600_000, disk << 16, 0x53A)
    struct.pack_into("<I", sector, 32, sum(struct.unpack_from("<58I", sector)) & 0xFFFFFFFF)
    return bytes(sector)


# --- bytes -----------------------------------------------------------------------------------------------------------


def _write_at(disk: BinaryIO, offset: int, data: bytes) -> None:
    disk.seek(offset)
    disk.write(data)


def _write_sparse(disk: BinaryIO, offset: int, data: bytes) -> None:
    for at in range(0, len(data), 65536):
        part = data[at : at + 65536]
        if part.strip(b"\0"):
            _write_at(disk, offset + at, part)


def _copy_data(source: BinaryIO, target: BinaryIO, *, start: int, size: int, to: int) -> None:
    target.flush()
    for offset, length in _data_extents(source.fileno(), start, size):
        done = 0
        while done < length:
            place = to + offset - start + done
            count = os.copy_file_range(source.fileno(), target.fileno(), length - done, offset + done, place)
            if not count:
                raise OSError(f"{source.name} became shorter while it was copied")
            done += count


def _data_extents(descriptor: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """The (offset, length) of what is not a hole between `start` and `start + size`."""
    at, end = start, start + size
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        if data >= end:
            return
        hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, hole - data
        at = hole
