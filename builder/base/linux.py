"""The linux base media: Debian's signed boot programs and kernel, found in the unpacked packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.base.packages import LinuxBaseSettings as LinuxBaseSettings
from builder.base.packages import Package as Package
from builder.base.packages import PackageSet as PackageSet
from builder.base.packages import fetch as fetch
from builder.base.packages import resolve as resolve
from builder.base.unpack import unpack as unpack
from builder.debian_root import kernel_version
from builder.errors import BaseMediaError


@dataclass(frozen=True, kw_only=True)
class LinuxBootFiles:
    """What boots the linux environment. `grub_modules` is GRUB's i386-pc folder, for a BIOS boot image."""

    kernel: Path
    kernel_version: str
    shim: Path
    grub: Path
    mok_manager: Path | None
    grub_modules: Path


def boot_files(root: Path) -> LinuxBootFiles:
    """The boot files among packages unpacked at `root`. Raises BaseMediaError naming a file that is not there."""
    version = kernel_version(root)
    mok_manager = root / "usr/lib/shim/mmx64.efi.signed"
    return LinuxBootFiles(
        kernel=_present(root, f"boot/vmlinuz-{version}"),
        kernel_version=version,
        shim=_present(root, "usr/lib/shim/shimx64.efi.signed"),
        grub=_present(root, "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"),
        mok_manager=mok_manager if mok_manager.is_file() else None,
        grub_modules=_present(root, "usr/lib/grub/i386-pc/cdboot.img").parent,
    )


def _present(root: Path, name: str) -> Path:
    if not (root / name).is_file():
        raise BaseMediaError(
            f"{name} is in none of the packages", hint="A package moved a file; see builder/base/packages.py."
        )
    return root / name
