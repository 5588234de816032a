"""The medium this image was started from, and the media on which a receipt can be left."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from payload.contract import MEDIUM_FOLDER, MEDIUM_IDENTITY
from payload.environment.linux_commands import run
from payload.environment.linux_disks import Disk, list_disks, optical_drives
from payload.environment.linux_paths import LinuxPaths
from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify

_MOUNT_SECONDS = 30.0
_IDENTITY_BYTES = 64 * 1024
#: What only a Windows makes, or may be on.
_WINDOWS_OWN = frozenset(
    (VolumeKind.NTFS, VolumeKind.REFS, VolumeKind.BITLOCKER, VolumeKind.BITLOCKER_TO_GO, VolumeKind.STORAGE_SPACES)
)


@dataclass(frozen=True, kw_only=True)
class MediumNode:
    """A file system that a medium may be: its device node, the disk it is on (None for a CD), FAT or ISO 9660.

    `name` is the kernel's, as in `Disk` and `PartitionNode`.
    """

    name: str
    node: Path
    disk: Disk | None
    writable: bool


@dataclass(frozen=True, kw_only=True)
class BootMedium:
    """What this image was started from: a CD drive, the names of its disks (usually one or none), or of file systems.

    `disks` hold nothing of the host. `file_systems` are on a disk that does or may: only they are the medium.
    """

    disks: frozenset[str]
    file_systems: frozenset[str]
    drive: Path | None

    @property
    def found(self) -> bool:
        """Whether anything was."""
        return bool(self.disks or self.file_systems or self.drive)


def medium_places(paths: LinuxPaths) -> frozenset[tuple[str, int, VolumeKind]]:
    """(name, size, kind) of every disk and CD: where these change, a medium may have come."""
    disks = {(disk.name, disk.size, VolumeKind.UNKNOWN) for disk in list_disks(paths)}
    return frozenset(disks | {(drive.name, 0, _kind(drive)) for drive in optical_drives(paths)})


def medium_nodes(paths: LinuxPaths, disks: Iterable[Disk], *, also: tuple[VolumeKind, ...] = ()) -> list[MediumNode]:
    """Every FAT or ISO 9660 file system on these disks or in a CD drive; FAT first, since only that is written."""
    found = []
    for disk in disks:
        for name, node in _places(disk):
            kind = _kind(node)
            if kind.is_fat or kind in (VolumeKind.ISO9660, *also):
                writable = kind.is_fat and not disk.read_only
                found.append(MediumNode(name=name, node=node, disk=disk, writable=writable))
    found += [
        MediumNode(name=drive.name, node=drive, disk=None, writable=False)
        for drive in optical_drives(paths)
        if _kind(drive) is VolumeKind.ISO9660
    ]
    return sorted(found, key=lambda medium: not medium.writable)


def key_media(paths: LinuxPaths, candidates: Iterable[Disk]) -> Generator[tuple[MediumNode, Path], None, None]:
    """(medium, root) of every file system that keys may lie on: FAT, exFAT and ISO 9660, mounted read-only.

    Each is mounted while the generator stands on it; close the generator.
    """
    for medium in medium_nodes(paths, candidates, also=(VolumeKind.EXFAT,)):
        with mounted_medium(paths, medium, writable=False) as root:
            if root is not None:
                yield medium, root


def ntfs_sticks(candidates: Iterable[Disk]) -> list[tuple[str, Path, Disk]]:
    """(name, node, disk) of every NTFS on what a technician plugged in: on a host's own, users could leave anything."""
    sticks = [disk for disk in candidates if disk.is_stick]
    return [(name, node, disk) for disk in sticks for name, node in _places(disk) if _kind(node) is VolumeKind.NTFS]


def find_boot_medium(paths: LinuxPaths, candidates: Iterable[Disk], image_id: str) -> BootMedium:
    """Look for this image's identity on these disks and in the CD drives, mounted read-only."""
    disks, file_systems, drive = set[str](), set[str](), None
    for medium in medium_nodes(paths, candidates):
        if medium.disk is not None and medium.disk.name in disks:
            continue
        with mounted_medium(paths, medium, writable=False) as root:
            if root is None or not _is_image(root, image_id):
                continue
            if medium.disk is None:
                drive = drive or medium.node
            elif _is_only_a_medium(medium, medium.disk):
                disks.add(medium.disk.name)
            else:
                file_systems.add(medium.name)
    return BootMedium(disks=frozenset(disks), file_systems=frozenset(file_systems), drive=drive)


def boot_file_systems(
    paths: LinuxPaths, candidates: Iterable[Disk], boot: BootMedium
) -> Generator[tuple[MediumNode, Path], None, None]:
    """(medium, root) of every FAT or ISO 9660 file system of the boot medium, mounted read-only.

    Not those on disks that hold something of the host: what lies there may be anybody's. Each is mounted while the
    generator stands on it; close the generator.
    """
    for medium in medium_nodes(paths, candidates):
        if medium.disk.name in boot.disks if medium.disk is not None else medium.node == boot.drive:
            with mounted_medium(paths, medium, writable=False) as root:
                if root is not None:
                    yield medium, root


def _is_only_a_medium(medium: MediumNode, disk: Disk) -> bool:
    """Whether nothing of the host can be on a disk that holds this image, on the file system `medium`.

    The image's files can be copied onto a host's own disk (into its EFI system partition, by a technician or by
    somebody who wants the repair not to happen), and Windows can be on a disk at a USB port. A disk that is no stick,
    but this ISO from its first block on and has nothing but FAT partitions, is the one a virtual machine was given.
    """
    if disk.is_stick:
        return all(_kind(node) not in _WINDOWS_OWN for _, node in _places(disk))
    whole = medium.name == disk.name and _kind(medium.node) is VolumeKind.ISO9660
    return whole and bool(disk.partitions) and all(_kind(partition.node).is_fat for partition in disk.partitions)


def _places(disk: Disk) -> list[tuple[str, Path]]:
    """(name, node) of every partition, then of the disk itself: an image can be written to a disk without any."""
    return [*((partition.name, partition.node) for partition in disk.partitions), (disk.name, disk.node)]


def receipt_media(
    paths: LinuxPaths, candidates: Iterable[Disk], image_id: str
) -> Generator[tuple[str, Path], None, None]:
    """(name, root) of each medium for receipts: FAT with this image's identity, sticks with a Bluelift folder.

    Each is mounted for writing while the generator stands on it, then synced and unmounted; close the generator.
    """
    for medium in medium_nodes(paths, candidates):
        if not medium.writable or medium.disk is None:
            continue
        with mounted_medium(paths, medium, writable=False) as root:
            boot = root is not None and _is_image(root, image_id)
            wanted = boot or (root is not None and medium.disk.is_stick and has_folder(root))
        if not wanted:
            continue
        with mounted_medium(paths, medium, writable=True) as root:
            if root is not None:
                yield ("boot medium" if boot else "stick") + f" {medium.node.name}", root


@contextlib.contextmanager
def mounted_medium(paths: LinuxPaths, medium: MediumNode, *, writable: bool) -> Iterator[Path | None]:
    """The root of a medium while it is mounted; None where it cannot be mounted (as asked)."""
    root = paths.mounts / f"medium-{medium.node.name}"
    argv = mount_command(medium, root, writable=writable)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        yield None
        return
    if not run(argv, time_limit=_MOUNT_SECONDS).ok:
        with contextlib.suppress(OSError):
            root.rmdir()
        yield None
        return
    try:
        yield root
    finally:
        if writable:
            _sync(root)
        if run(["umount", str(root)], time_limit=_MOUNT_SECONDS).ok:
            with contextlib.suppress(OSError):
                root.rmdir()


def mount_command(medium: MediumNode, root: Path, *, writable: bool) -> list[str]:
    """How a medium is mounted. Of an ISO 9660 file system the kernel knows the case of names only with Rock Ridge."""
    found = VolumeKind.FAT32 if medium.writable else _kind(medium.node)
    kind = "vfat" if found.is_fat else "exfat" if found is VolumeKind.EXFAT else "iso9660"
    options = "rw,noatime,sync" if writable else "ro,noatime"
    return ["mount", "-t", kind, "-o", options, str(medium.node), str(root)]


def _sync(root: Path) -> None:
    with contextlib.suppress(OSError):
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def has_folder(root: Path) -> bool:
    """Whether a true directory called Bluelift, in any case, is in the root."""
    return (folder := _child(root, MEDIUM_FOLDER)) is not None and folder.is_dir() and not folder.is_symlink()


def _is_image(root: Path, image_id: str) -> bool:
    folder = _child(root, MEDIUM_FOLDER)
    identity = _child(folder, MEDIUM_IDENTITY) if folder else None
    if identity is None:
        return False
    try:
        with identity.open("rb") as stream:
            data = json.loads(stream.read(_IDENTITY_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return bool(image_id) and isinstance(data, dict) and data.get("image_id") == image_id


def _child(directory: Path, name: str) -> Path | None:
    try:
        return next((entry for entry in sorted(directory.iterdir()) if entry.name.lower() == name.lower()), None)
    except OSError:
        return None


def _kind(node: Path) -> VolumeKind:
    try:
        with node.open("rb") as stream:
            return identify(stream.read(HEAD_LENGTH))
    except OSError:
        return VolumeKind.UNKNOWN
