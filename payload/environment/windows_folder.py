"""A volume's root or a folder, where `--root` gives one under Windows (`--root D:\\`)."""

from __future__ import annotations

import ctypes
from ctypes import wintypes
from pathlib import Path

from payload.environment import VolumeFiles
from payload.environment import windows_api as api
from payload.environment.windows_files import WindowsVolumeFiles
from payload.environment.windows_volumes import PERSISTENT_ACLS, READ_ONLY_VOLUME, running_drive


def folder_files(root: Path) -> VolumeFiles:
    """The file operations below `root`."""
    return WindowsVolumeFiles(_long(root), keeps_descriptors=bool(_flags(root) & PERSISTENT_ACLS))


def folder_size(root: Path) -> int:
    """The size in bytes of the volume that `root` is on; 0 where it does not say."""
    total = ctypes.c_ulonglong()
    return total.value if api.kernel32.GetDiskFreeSpaceExW(_long(root), None, ctypes.byref(total), None) else 0


def folder_is_read_only(root: Path) -> bool:
    """Whether the volume that `root` is on takes no changes. Raises OSError."""
    return bool(_flags(root) & READ_ONLY_VOLUME)


def folder_is_running(root: Path) -> bool:
    """Whether the Windows that runs now is on the volume of `root`, by its drive letter."""
    return root.anchor.lower() == running_drive(None).lower()


def folder_is_unprotectable(root: Path) -> str:
    """Why a quarantine below `root` would be safe from nobody, in words; empty where it is safe. Raises OSError."""
    return "" if _flags(root) & PERSISTENT_ACLS else "its file system has no access lists"


def _flags(root: Path) -> int:
    """What GetVolumeInformation says of the volume that `root` is on. Raises OSError."""
    flags = wintypes.DWORD()
    if not api.kernel32.GetVolumeInformationW(root.anchor, None, 0, None, None, ctypes.byref(flags), None, 0):
        raise api.last_error(str(root))
    return flags.value


def _long(root: Path) -> str:
    """An absolute path in the form that has no length limit, with a backslash at its end."""
    text = str(root).rstrip("\\") + "\\"
    if text.startswith("\\\\?\\"):
        return text
    return "\\\\?\\UNC\\" + text[2:] if text.startswith("\\\\") else "\\\\?\\" + text
