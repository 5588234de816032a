"""The partitions that a host starts from, under Linux: EFI system partitions (FAT), and what a BIOS starts (NTFS)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Generator, Iterable

from payload.environment import OpenVolume, Volume, VolumeNotOpened, VolumeState
from payload.environment.boot_partitions import BootPartition, stores_on
from payload.environment.linux_disks import Disk
from payload.environment.linux_media import medium_nodes, mounted_medium
from payload.environment.linux_paths import LinuxPaths
from payload.environment.posix_files import PosixVolumeFiles

#: `Environment.open_volume`.
OpenVolumeOf = Callable[..., contextlib.AbstractContextManager[OpenVolume]]


def fat_boot_partitions(paths: LinuxPaths, disks: Iterable[Disk], disk: str) -> Generator[BootPartition, None, None]:
    """The FAT partitions of a disk that have a boot store. Each is mounted for writing while the generator stands on
    it, then synced and unmounted; close the generator. Raises OSError for one that cannot be written.
    """
    for node in medium_nodes(paths, (found for found in disks if found.name == disk)):
        if node.disk is None:
            continue
        with mounted_medium(paths, node, writable=False) as root:
            if root is None or not stores_on(PosixVolumeFiles(root)):
                continue
        with mounted_medium(paths, node, writable=True) as root:
            if root is None:
                raise OSError(errno.EROFS, f"{node.name} cannot be mounted for writing")
            yield BootPartition(name=node.name, files=PosixVolumeFiles(root))


def ntfs_boot_partitions(
    volumes: Iterable[Volume], open_volume: OpenVolumeOf, disk: str
) -> Generator[BootPartition, None, None]:
    """The NTFS volumes of a disk that have a boot store, as Windows makes them for a BIOS. As above."""
    for volume in volumes:
        if volume.disk != disk or volume.state not in (VolumeState.READY, VolumeState.UNCLEAN):
            continue
        try:
            with open_volume(volume, for_changes=False) as opened:
                if not stores_on(opened.files):
                    continue
        except VolumeNotOpened:
            continue  # whether Windows starts from it cannot be seen; another may be the one
        try:
            with open_volume(volume, for_changes=True) as opened:
                if not opened.writable:
                    raise OSError(errno.EROFS, f"{volume.id} cannot be written")
                yield BootPartition(name=volume.id, files=opened.files)
        except VolumeNotOpened as refusal:
            raise OSError(errno.EIO, refusal.detail) from refusal
