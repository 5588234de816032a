"""The BIOS boot image for CDs, by the packages' own grub-mkimage (GRUB manual, "Making a GRUB bootable CD-ROM").

The program runs through its own loader and libraries, so that it does not matter what the machine has.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder.console import Step
from builder.debian_root import own_loader
from builder.errors import BaseMediaError
from builder.run import run

#: What grub.cfg may use under BIOS; the rest of GRUB stays in the package.
_MODULES = (
    "biosdisk", "cat", "configfile", "echo", "fat", "gfxterm", "halt", "iso9660", "keystatus", "linux", "loadenv", "ls",
    "minicmd", "normal", "part_gpt", "part_msdos", "reboot", "regexp", "search", "search_fs_file", "search_fs_uuid",
    "search_label", "serial", "sleep", "test", "true", "udf", "vbe", "video", "all_video",
)  # fmt: skip
_PREFIX = "/boot/grub"


def mkimage_command(root: Path, output: Path) -> list[str]:
    """How grub-mkimage is called: its core image behind cdboot.img, looking for /boot/grub/grub.cfg on the CD."""
    return [
        *own_loader(root), str(root / "usr/bin/grub-mkimage"),
        "--format", "i386-pc-eltorito", "--directory", str(root / "usr/lib/grub/i386-pc"),
        "--prefix", _PREFIX, "--output", str(output), *_MODULES,
    ]  # fmt: skip


def disk_boot_code(root: Path) -> bytes:
    """GRUB's boot_hybrid.img, which BIOS starts from the first block of a disk that is an ISO too, as 440 bytes."""
    path = root / "usr/lib/grub/i386-pc/boot_hybrid.img"
    if not path.is_file():
        raise BaseMediaError("boot_hybrid.img is in none of the packages", hint="Is grub-pc-bin among them?")
    return path.read_bytes()[:440]


def bios_boot_image(root: Path, *, step: Step) -> bytes:
    """The El Torito no-emulation boot image (cdboot.img and GRUB's core), from packages unpacked at `root`."""
    cdboot = root / "usr/lib/grub/i386-pc/cdboot.img"
    if not cdboot.is_file():
        raise BaseMediaError("cdboot.img is in none of the packages", hint="Is grub-pc-bin among them?")
    with tempfile.TemporaryDirectory(prefix="bluelift-grub-") as scratch:
        output = Path(scratch) / "eltorito.img"
        run(mkimage_command(root, output), reason="make the BIOS boot image", time_limit=60)
        image = output.read_bytes()
    if not image.startswith(cdboot.read_bytes()[:512]):
        raise BaseMediaError("grub-mkimage made an image without cdboot.img", hint="Please report this.")
    step.note(f"GRUB for BIOS: {len(image) / 1e3:.0f} kB")
    return image
