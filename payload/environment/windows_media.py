"""The medium that this image was started from, and those for receipts, keys and boot stores, under Windows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from payload.contract import MEDIUM_FOLDER, MEDIUM_IDENTITY
from payload.environment import EntryKind, Medium
from payload.environment.boot_media import can_be_medium, may_hold_windows
from payload.environment.boot_partitions import BootPartition, stores_on
from payload.environment.windows_api import DRIVE_CDROM
from payload.environment.windows_disks import WindowsDisk
from payload.environment.windows_volumes import SeenVolume, is_on

_IDENTITY_BYTES = 64 * 1024
_MEDIUM_FILE_SYSTEMS = ("FAT", "FAT32", "exFAT", "NTFS")


def carries_image(volume: SeenVolume, image_id: str) -> bool:
    """Whether the volume carries this very image's identity, \\Bluelift\\image.json."""
    if not image_id or not volume.file_system:
        return False
    try:
        with volume.files().open_file((MEDIUM_FOLDER, MEDIUM_IDENTITY)) as stream:
            data = json.loads(stream.read(_IDENTITY_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("image_id") == image_id


def receipt_media(
    volumes: Iterable[SeenVolume], boot: Sequence[SeenVolume], disks: Sequence[WindowsDisk]
) -> Iterator[Medium]:
    """The boot medium where it can be written, and sticks with a Bluelift folder."""
    sticks = {disk.number for disk in disks if disk.is_stick}
    for volume in volumes:
        is_boot = volume in boot
        if volume.read_only or volume.file_system not in _MEDIUM_FILE_SYSTEMS:
            continue
        if is_boot or (volume.disks & sticks and _has_folder(volume)):
            name = ("boot medium" if is_boot else "stick") + f" {volume.id}"
            yield Medium(name=name, files=volume.files(flush=True))


def key_media(
    volumes: Iterable[SeenVolume], boot: Sequence[SeenVolume], sticks: frozenset[int], image_drive: str
) -> Iterator[Medium]:
    """The volumes on which keys may lie: the image's own, the boot medium, sticks, CDs, FAT partitions.

    What Windows could be on is none, unless a technician plugged it in: its users could leave anything there.
    """
    for volume in volumes:
        is_image = bool(image_drive) and is_on(volume, image_drive)
        if volume.error is not None or not volume.file_system:
            continue
        if is_image or volume in boot or can_be_medium(volume, sticks):
            disk = f"PhysicalDrive{min(volume.disks)}" if volume.disks else volume.id
            kind = "this image" if is_image else _kind(volume, boot, sticks)
            yield Medium(name=f"{kind} {volume.id}", files=volume.files(), disk=disk)


def boot_partitions(volumes: Iterable[SeenVolume], running: str) -> Iterator[BootPartition]:
    """Those among the volumes of a disk that have a boot store. FAT first: EFI system partitions."""
    for volume in sorted(volumes, key=may_hold_windows):
        if volume.error is None and volume.file_system in _MEDIUM_FILE_SYSTEMS and not is_on(volume, running):
            files = volume.files(flush=True)
            if stores_on(files):
                yield BootPartition(name=volume.id, files=files)


def _kind(volume: SeenVolume, boot: Sequence[SeenVolume], sticks: frozenset[int]) -> str:
    if volume in boot:
        return "boot medium"
    if volume.drive_type == DRIVE_CDROM:
        return "CD"
    return "stick" if volume.disks and volume.disks <= sticks else "volume"


def _has_folder(volume: SeenVolume) -> bool:
    try:
        entry = volume.files().entry((MEDIUM_FOLDER,))
    except OSError:
        return False
    return entry is not None and entry.kind is EntryKind.DIRECTORY
