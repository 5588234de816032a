"""What an ISO is to hold: its files, its file systems, and what boots."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.extents import Extents, Joined

#: Bytes that follow an ISO's file system: GRUB under SeaBIOS reads past its end, else its last files come out wrong.
PADDING = 150 * 2048


class IsoForm(enum.StrEnum):
    """Which file systems an ISO has.

    ROCK_RIDGE: ISO9660 level 3 with Rock Ridge and Joliet. BRIDGE: ISO9660 level 4, Joliet and UDF 1.02, all showing
    the same files. MICROSOFT: as install media are, all files in UDF and only a README.TXT in ISO9660.
    """

    ROCK_RIDGE = "rock-ridge"
    BRIDGE = "bridge"
    MICROSOFT = "microsoft"

    @property
    def udf(self) -> bool:
        """Whether it has UDF."""
        return self is not IsoForm.ROCK_RIDGE


class BiosImage(enum.StrEnum):
    """How firmware is told to load the BIOS image.

    GRUB: its first 2048 bytes, with a boot information table at offset 8. PLAIN: 4096 bytes, as they are (Microsoft's
    etfsboot.com, whose code a boot information table would overwrite).
    """

    GRUB = "grub"
    PLAIN = "plain"

    @property
    def load_size(self) -> int:
        """The catalog's load size, in units of 512 bytes."""
        return 4 if self is BiosImage.GRUB else 8


@dataclass(frozen=True, kw_only=True)
class IsoFile:
    """One file of an ISO: `path` inside it, "/" between parts ("Bluelift/initrd.img"), and the source of its bytes.

    `check` is called with where the file lies in the ISO that was written, and raises a BuilderError where something is
    wrong with it: for a Joined source, whose sha256 nobody can know before.
    """

    path: str
    source: Path | bytes | Joined
    check: Callable[[Extents], None] | None = None


class DiskBoot(enum.StrEnum):
    """What BIOS starts from a hybrid image that is a disk.

    GRUB: the core image in the layout's BIOS image. BOOTMGR: Windows's, the file of that name (experimental: tried with
    the stand-in alone). UEFI_ONLY: a sentence.
    """

    GRUB = "grub"
    BOOTMGR = "bootmgr"
    UEFI_ONLY = "uefi-only"


@dataclass(frozen=True, kw_only=True)
class HybridDisk:
    """What makes an ISO a disk as well (see `builder.media.hybrid`).

    `image_id`: what its GUIDs and serial number are made of. `label`: of the FAT32 volume, at most 11 characters.
    `tail`: bytes that are free on it, at least. `folders`: those it has beside the files' own. `boot_hybrid`: GRUB's
    boot_hybrid.img, for DiskBoot.GRUB.
    """

    image_id: str
    label: str
    tail: int
    folders: tuple[str, ...] = ()
    bios: DiskBoot = DiskBoot.UEFI_ONLY
    boot_hybrid: bytes = b""


@dataclass(frozen=True, kw_only=True)
class IsoLayout:
    """What an ISO holds. `bios_image` and `uefi_image` are paths among `files`, or None.

    `volume_id`: A-Z, 0-9 and "_", at most 16 characters (Joliet's limit). `epoch`: every time stamp, seconds UTC.
    `hybrid`: what makes it a disk too; None for a plain ISO.
    """

    volume_id: str
    files: tuple[IsoFile, ...]
    bios_image: str | None
    uefi_image: str | None
    epoch: int
    form: IsoForm = IsoForm.ROCK_RIDGE
    bios_loading: BiosImage = BiosImage.GRUB
    hybrid: HybridDisk | None = None
