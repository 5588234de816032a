"""A mounted folder as a volume, where `--root` gives one on Linux."""

from __future__ import annotations

import os
from pathlib import Path

from payload.environment import VolumeFiles
from payload.environment.posix_files import PosixVolumeFiles, unprotectable


def folder_files(root: Path) -> VolumeFiles:
    """The file operations below `root`."""
    return PosixVolumeFiles(root)


def folder_size(root: Path) -> int:
    """The size in bytes of the file system that `root` is on; 0 where it does not say."""
    try:
        status = os.statvfs(root)
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize


def folder_is_read_only(root: Path) -> bool:
    """Whether `root` is mounted read-only. Raises OSError."""
    return bool(os.statvfs(root).f_flag & os.ST_RDONLY)


def folder_is_running(_root: Path) -> bool:
    """Whether the Windows that runs now is on it: none runs here."""
    return False


def folder_is_unprotectable(root: Path) -> str:
    """Why a quarantine below `root` would be safe from nobody, in words; empty where it is safe. Raises OSError."""
    return unprotectable(root)
