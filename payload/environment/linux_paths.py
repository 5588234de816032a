"""Where the Linux environment finds the kernel's and the system's files; tests point it at trees of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LinuxPaths:
    """The roots of sysfs, devtmpfs, procfs and efivarfs, and the folder below which volumes are mounted."""

    sysfs: Path = Path("/sys")
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    efivars: Path = Path("/sys/firmware/efi/efivars")
    mounts: Path = Path("/run/bluelift")
