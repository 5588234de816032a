"""The medium that this image was started from, and the media on which a receipt can be left, under Windows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from payload.contract import MEDIUM_FOLDER, MEDIUM_IDENTITY
from payload.environment import EntryKind, Medium
from payload.environment.windows_disks import WindowsDisk
from payload.environment.windows_volumes import SeenVolume

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


def _has_folder(volume: SeenVolume) -> bool:
    try:
        entry = volume.files().entry((MEDIUM_FOLDER,))
    except OSError:
        return False
    return entry is not None and entry.kind is EntryKind.DIRECTORY
