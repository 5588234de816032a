"""What an image is as a disk: partition table, what BIOS starts from it, FAT volumes that share the ISO's files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import ImageError
from builder.media.boot_code import bios_starts
from builder.media.fat_reader import FatReader
from payload.formats.partition_table import Partition, PartitionTableError, read_partition_table

_TYPES = {
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "Microsoft basic data",
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
}


@dataclass(frozen=True, kw_only=True)
class VolumeReport:
    """A FAT volume: its kind, label and serial number, sizes in bytes, and how many files it has.

    `shared`: of these, how many are files of the ISO at the very same place; `folders` are the empty ones.
    """

    kind: str
    label: str
    serial: str
    cluster: int
    free: int
    files: int
    shared: int
    folders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PartitionReport:
    """One partition: bytes from the disk's start, its size, its type in words; `volume` where FAT is on it."""

    number: int
    name: str
    type: str
    start: int
    size: int
    volume: VolumeReport | None


@dataclass(frozen=True, kw_only=True)
class DiskReport:
    """An image as a disk. `table`: GPT or MBR; `bios_starts`: what the first block's boot code is."""

    table: str
    bios_starts: str
    partitions: tuple[PartitionReport, ...]


def inspect_disk(
    stream: BinaryIO, size: int, files: Collection[tuple[int, int]], notes: list[str]
) -> DiskReport | None:
    """What the image of `size` bytes is as a disk; None where it has no partition table.

    `files`: (offset, size) of the ISO's that are in one piece. What is damaged becomes a sentence in `notes`.
    """
    try:
        table = read_partition_table(stream, size)
    except PartitionTableError as error:
        notes.append(f"The partition table is damaged: {error}.")
        return None
    if table is None:
        return None
    if table.from_backup:
        notes.append("The primary partition table is damaged; the backup was read.")
    stream.seek(0)
    return DiskReport(
        table=table.kind.value.upper(),
        bios_starts=bios_starts(stream.read(512)),
        partitions=tuple(_partition(stream, size, partition, files, notes) for partition in table.partitions),
    )


def _partition(
    stream: BinaryIO, size: int, found: Partition, files: Collection[tuple[int, int]], notes: list[str]
) -> PartitionReport:
    volume = None
    if found.start + found.size > size:
        notes.append(f"Partition {found.number} ends at byte {found.start + found.size}, the image at {size}.")
    else:
        volume = _volume(stream, found, files, notes)
    return PartitionReport(
        number=found.number,
        name=found.name,
        type=_TYPES.get(found.type.upper(), found.type),
        start=found.start,
        size=found.size,
        volume=volume,
    )


def _volume(
    stream: BinaryIO, partition: Partition, files: Collection[tuple[int, int]], notes: list[str]
) -> VolumeReport | None:
    try:
        volume = FatReader(stream, start=partition.start, size=partition.size)
    except ImageError:
        return None
    try:
        entries = list(volume.entries())
    except ImageError as error:
        notes.append(f"Partition {partition.number}: {error.message}.")
        return None
    own = [entry for entry in entries if not entry.is_folder]
    shared = [entry for entry in own if not entry.size or (len(entry.pieces) == 1 and entry.pieces[0] in files)]
    parents = {entry.path.rpartition("/")[0] for entry in entries}
    return VolumeReport(
        kind=f"FAT{volume.bpb.kind:d}",
        label=volume.label,
        serial=f"{volume.bpb.volume_serial:08X}",
        cluster=volume.bpb.cluster_bytes,
        free=volume.free,
        files=len(own),
        shared=len(shared),
        folders=tuple(sorted(entry.path for entry in entries if entry.is_folder and entry.path not in parents)),
    )
