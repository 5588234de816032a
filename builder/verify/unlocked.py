"""A disk's Windows volume as a plain NTFS volume in a file: as it is, or opened by dislocker where it is locked.

dislocker-file writes all of the inside into a file, so no FUSE and no device mapper are needed. Version 0.7.2 (Debian)
tries only the first recovery password of a volume.
"""

from __future__ import annotations

import os
from pathlib import Path

from builder.errors import ToolFailed, ToolMissing
from builder.run import run
from builder.verify.bitlocker import BitLockerVolume
from builder.verify.disks import BrokenDisk, extract_partition
from payload.formats.fve import REGION_SIZE
from payload.formats.fve_entries import ProtectorKind

#: The file's name, in the folder that it is asked for in.
WINDOWS_VOLUME = "windows.ntfs"
_LIMIT = 120
_SECTOR = 512


def windows_volume(disk: BrokenDisk, scratch: Path) -> Path:
    """The volume in `scratch`; it replaces the last one there. Raises ToolMissing, ToolFailed."""
    volume = scratch / WINDOWS_VOLUME
    volume.unlink(missing_ok=True)  # dislocker-file does not write over a file
    if disk.locked is None:
        return extract_partition(disk.path, disk.windows, volume)
    locked = extract_partition(disk.path, disk.windows, scratch / "windows.locked")
    startup_key = scratch / "startup.BEK"
    argv = ["dislocker-file", "-q", "-V", str(locked), *_key(disk.locked, startup_key), "--", str(volume)]
    try:
        run(argv, reason="open a BitLocker volume beside Bluelift", time_limit=_LIMIT)
    except ToolMissing as error:
        raise ToolMissing(error.message, hint="Install the package dislocker (apt install dislocker).") from error
    except ToolFailed:
        # What it said may hold the key, which stands on its command line.
        raise ToolFailed("dislocker cannot open the volume any more") from None
    finally:
        locked.unlink()
        startup_key.unlink(missing_ok=True)
    return volume


def bitlocker_metadata(disk: BrokenDisk) -> tuple[bytes, ...]:
    """The boot sector and the three metadata regions of a locked volume: its state and all its protectors."""
    assert disk.locked is not None
    places = [(0, _SECTOR), *((offset, REGION_SIZE) for offset in disk.locked.room.metadata)]
    with disk.path.open("rb") as stream:
        return tuple(os.pread(stream.fileno(), size, disk.windows.start + offset) for offset, size in places)


def _key(volume: BitLockerVolume, startup_key: Path) -> tuple[str, ...]:
    """dislocker's options for a key of the volume: any one that it has."""
    if any(made.kind is ProtectorKind.CLEAR_KEY for made in volume.protectors):
        return ("-c",)
    if volume.recovery_passwords:
        return (f"-p{next(iter(volume.recovery_passwords.values()))}",)
    startup_key.write_bytes(next(iter(volume.startup_key_files.values())))
    return ("-f", str(startup_key))
