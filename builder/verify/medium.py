"""What a boot made of the medium that it came from: a receipt in its free tail, and nothing else.

fsck.vfat and mtools look at the volume; what may have changed is worked out from the tables as they were before.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder.disk_forms import DiskForm, form_of
from builder.errors import BuilderError, ImageError, ToolFailed, ToolMissing
from builder.media.fat_structures import ENTRY_SIZE, SECTOR, Attribute, Bpb, DirectoryEntry, FatKind
from builder.media.gpt import GptPartition
from builder.media.gpt_move import read_table
from builder.run import run
from builder.verify.disks import DiskPartition, extract_partition
from builder.verify.machine import state_folder
from builder.verify.report import Check
from payload.contract import MEDIUM_FOLDER, MEDIUM_RECEIPTS, Receipt
from payload.formats.records import RecordError, from_json

_REASON = "read receipts back from the boot medium"
_LIMIT = 60
_AT_ONCE = 1 << 20
_RECEIPTS = f"::/{MEDIUM_FOLDER}/{MEDIUM_RECEIPTS}"


@dataclass(frozen=True, kw_only=True)
class MediumVolume:
    """The FAT32 volume of a medium: where it lies in the disk (bytes), its boot sector, and its table."""

    partition: DiskPartition
    bpb: Bpb
    table: array[int]


@contextmanager
def raw_image(image: Path) -> Iterator[Path]:
    """`image` as a raw disk for the time of the block: itself, or a copy that qemu-img makes of a VHD or VHDX."""
    with state_folder() as folder:
        yield as_raw(image, form_of(image), folder / "image.raw")


def as_raw(image: Path, form: DiskForm, target: Path) -> Path:
    """The disk in `image` as a raw file: itself if it is one, else at `target`. Raises ToolMissing, ToolFailed."""
    if form is DiskForm.IMG:
        return image
    argv = ["qemu-img", "convert", "-f", form.qemu_format, "-O", "raw", str(image), str(target)]
    try:
        run(argv, reason="read a disk for hypervisors", time_limit=_LIMIT)
    except ToolMissing as error:
        raise ToolMissing(error.message, hint="Install the package qemu-utils (apt install qemu-utils).") from error
    return target


def check_medium(before: Path, after: Path, receipt: Receipt | None, *, scratch: Path) -> tuple[Check, ...]:
    """What must be true of a medium that could be written, raw before and after the boot that left `receipt`."""
    try:
        return tuple(_checks(before, after, receipt, scratch))
    except ToolMissing:
        raise
    except BuilderError as error:
        return (Check(name="the boot medium can be read back", passed=False, expected="readable", seen=error.message),)


def _checks(before: Path, after: Path, receipt: Receipt | None, scratch: Path) -> Iterator[Check]:
    volumes = read_volumes(before)
    where = first_change(before, after, volumes)
    yield Check(
        name="the boot medium is byte-identical outside its writable tail",
        passed=where is None,
        expected="no difference",
        seen="no difference" if where is None else f"the first difference is at byte {where}",
    )
    for volume in volumes:
        named = "the boot medium" if volume is volumes[0] else f"the boot medium's {volume.partition.name}"
        yield from _check_volume(before, after, volume, receipt, scratch=scratch, named=named)


def _check_volume(
    before: Path, after: Path, volume: MediumVolume, receipt: Receipt | None, *, scratch: Path, named: str
) -> Iterator[Check]:
    old = _receipts(extract_partition(before, volume.partition, scratch / "before.fat"))
    partition = extract_partition(after, volume.partition, scratch / "after.fat")
    fsck = run(["fsck.vfat", "-n", str(partition)], reason=_REASON, time_limit=_LIMIT, ok=range(256))
    yield Check(
        name=f"fsck.vfat on {named}",
        passed=fsck.returncode == 0,
        expected="no errors",
        seen="no errors" if fsck.returncode == 0 else fsck.said,
    )
    new = sorted(set(_receipts(partition)) - set(old))
    yield Check(
        name=f"one receipt came back on {named}",
        passed=len(new) == 1,
        expected="one new file",
        seen=", ".join(new) or "none",
    )
    for name in new:
        wanted = _told(receipt) if receipt is not None else "what the host says"
        seen = _told_by(_type(partition, f"{_RECEIPTS}/{name}"))
        yield Check(name=f"the receipt {name}", passed=wanted == seen, expected=wanted, seen=seen)


def _told(receipt: Receipt) -> str:
    """What two receipts of one run have in common."""
    return f"{receipt.host.smbios_uuid.lower()}: {receipt.verdict.headline}, {receipt.sentence}"


def _told_by(content: bytes) -> str:
    try:
        return _told(from_json(Receipt, json.loads(content)))
    except (ValueError, RecordError) as error:
        return f"no receipt: {error}"


# --- by other programs -----------------------------------------------------------------------------------------------


def _receipts(partition: Path) -> list[str]:
    """The names of the receipts in a volume, as mtools sees them."""
    listed = _mtools("mdir", "-b", "-i", str(partition), f"{_RECEIPTS}/").decode("utf-8", "replace").splitlines()
    names = (line.strip().rpartition("/")[2] for line in listed)
    return sorted(filter(None, names))


def _type(partition: Path, path: str) -> bytes:
    return _mtools("mtype", "-i", str(partition), path)


def _mtools(*argv: str) -> bytes:
    try:
        # An empty folder is "File not found" to mdir.
        done = run(argv, reason=_REASON, time_limit=_LIMIT, env={"MTOOLS_SKIP_CHECK": "1"}, ok=(0, 1))
    except ToolMissing as error:
        raise ToolMissing(
            error.message, hint="Install mtools and dosfstools (apt install mtools dosfstools)."
        ) from error
    if done.returncode and b"not found" not in done.stderr:
        raise ToolFailed(f"{argv[0]}: {done.said}")
    return done.stdout if not done.returncode else b""


# --- by the tables as they were --------------------------------------------------------------------------------------


def read_volumes(disk: Path) -> tuple[MediumVolume, ...]:
    """The FAT32 volumes on a medium: the image's own, and the one that `usb write --data` adds. Raises ImageError."""
    with disk.open("rb") as stream:
        table = read_table(stream, stream.seek(0, 2))
        return tuple(_read_volume(stream, partition) for partition in table.partitions)


def _read_volume(stream: BinaryIO, entry: GptPartition) -> MediumVolume:
    partition = DiskPartition(
        name=entry.name, start=entry.first_lba * SECTOR, size=(entry.last_lba - entry.first_lba + 1) * SECTOR
    )
    stream.seek(partition.start)
    bpb = Bpb.unpack(stream.read(SECTOR))
    if bpb.kind is not FatKind.FAT32 or bpb.bytes_per_sector != SECTOR or bpb.root_entries:
        raise ImageError(f"the boot medium's partition '{entry.name}' is not FAT32")
    if bpb.total_sectors * SECTOR > partition.size or (bpb.clusters + 2) * 4 > bpb.fat_sectors * SECTOR:
        raise ImageError("a FAT32 volume of the boot medium does not fit its partition, or its tables do not fit it")
    stream.seek(partition.start + bpb.reserved_sectors * SECTOR)
    table = array("I", stream.read((bpb.clusters + 2) * 4))
    if sys.byteorder == "big":
        table.byteswap()
    return MediumVolume(partition=partition, bpb=bpb, table=table)


def first_change(before: Path, after: Path, volumes: Sequence[MediumVolume]) -> int | None:
    """The first byte that is not as before and had to be: all but FSInfo, free clusters, folders, and their entries."""
    if before.stat().st_size != after.stat().st_size:
        return min(before.stat().st_size, after.stat().st_size)
    with before.open("rb") as one, after.open("rb") as other:
        free = [_may_change(one, volume) for volume in volumes]
        one.seek(0)
        at = 0
        while ours := one.read(_AT_ONCE):
            theirs = other.read(_AT_ONCE)
            for offset in range(0, len(ours), SECTOR) if ours != theirs else ():
                a, b = ours[offset : offset + SECTOR], theirs[offset : offset + SECTOR]
                if a != b and (where := _forbidden(volumes, free, at + offset, a, b)) is not None:
                    return where
            at += len(ours)
    return None


def _may_change(disk: BinaryIO, volume: MediumVolume) -> bytearray:
    """One byte a cluster: 1 where it was free, or is a folder's."""
    free = bytearray(entry == 0 for entry in volume.table)
    for cluster in _folder_clusters(disk, volume):
        free[cluster] = 1
    return free


def _folder_clusters(disk: BinaryIO, volume: MediumVolume) -> set[int]:
    """The clusters of all folders. Damaged chains end where they leave the volume or come back to themselves."""
    found: set[int] = set()
    waiting = [volume.bpb.root_cluster]
    while waiting:
        cluster = waiting.pop()
        if cluster in found or not 2 <= cluster < len(volume.table):
            continue
        found.add(cluster)
        waiting.append(volume.table[cluster] & 0x0FFFFFFF)
        disk.seek(volume.partition.start + volume.bpb.offset(cluster))
        content = disk.read(volume.bpb.cluster_bytes)
        for at in range(0, len(content), ENTRY_SIZE):
            raw = content[at : at + ENTRY_SIZE]
            if raw[0] in (0, 0xE5) or raw[11] & 0x3F == Attribute.LONG_NAME:
                continue
            entry = DirectoryEntry.unpack(raw)
            if entry.attributes & Attribute.DIRECTORY:
                waiting.append(entry.first_cluster)
    return found


def _forbidden(
    volumes: Sequence[MediumVolume], free: Sequence[bytearray], at: int, before: bytes, after: bytes
) -> int | None:
    """The first byte of the sector at `at` that must not differ and does."""
    for volume, may_change in zip(volumes, free, strict=True):
        if volume.partition.start <= at < volume.partition.start + volume.partition.size:
            return _forbidden_in(volume, may_change, at, before, after)
    return at + _difference(before, after)


def _difference(before: bytes, after: bytes) -> int:
    return next(i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y)


def _forbidden_in(volume: MediumVolume, free: bytearray, at: int, before: bytes, after: bytes) -> int | None:
    bpb, sector = volume.bpb, (at - volume.partition.start) // SECTOR
    if sector == bpb.fsinfo_sector:
        return None
    if bpb.reserved_sectors <= sector < bpb.first_data_sector:
        # Entries of clusters that were in use stay as they were, so every file's chain does.
        first = (sector - bpb.reserved_sectors) % bpb.fat_sectors * SECTOR // 4
        entries = zip(memoryview(before).cast("I"), memoryview(after).cast("I"), strict=True)
        for number, (x, y) in enumerate(entries, start=first):
            if x != y and not (number < len(free) and free[number]):
                return at + (number - first) * 4
        return None
    cluster = 2 + (sector - bpb.first_data_sector) // bpb.sectors_per_cluster
    inside = bpb.first_data_sector <= sector and cluster < len(free)
    return None if inside and free[cluster] else at + _difference(before, after)
