"""What lies where on Bluelift's own media, the linux environment.

The same tree serves three ways of booting: El Torito BIOS (GRUB's eltorito.img), El Torito UEFI (efi.img, a FAT volume
with shim and GRUB), and the files copied by hand to a FAT32 stick (EFI/BOOT/BOOTX64.EFI is shim there). GRUB finds its
kernel by an empty file that carries the image's id, so that two sticks in one host are not mixed up.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import OutputError
from builder.media.fat import FatFile, fat_image
from builder.media.iso import HybridDisk, IsoFile, IsoLayout
from payload.contract import MEDIUM_FOLDER, MEDIUM_FOLDERS, MEDIUM_IDENTITY

VOLUME_ID = "BLUELIFT"
SHIM = "EFI/BOOT/BOOTX64.EFI"
GRUB = "EFI/BOOT/grubx64.efi"
MOK_MANAGER = "EFI/BOOT/mmx64.efi"
GRUB_CONFIG = "boot/grub/grub.cfg"
BIOS_IMAGE = "boot/grub/eltorito.img"
UEFI_IMAGE = "boot/grub/efi.img"
KERNEL = f"{MEDIUM_FOLDER}/vmlinuz"
INITRD = f"{MEDIUM_FOLDER}/initrd.img"
IDENTITY = f"{MEDIUM_FOLDER}/{MEDIUM_IDENTITY}"
#: What a file name on FAT and a word in grub.cfg may both be.
_IMAGE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class LinuxBootFiles:
    """Everything the medium is made of. `grub`: Debian's gcdx64.efi.signed; `bios_image`: GRUB's i386-pc-eltorito image
    (`-p /boot/grub`), `mok_manager` shim's mmx64.efi.signed, for hosts that wait for a key to be enrolled. `extra`:
    further files, by path.
    """

    image_id: str
    kernel: Path | bytes
    initrd: Path | bytes
    shim: bytes
    grub: bytes
    bios_image: bytes
    grub_config: bytes
    image_json: bytes
    mok_manager: bytes | None = None
    extra: Mapping[str, Path | bytes] = field(default_factory=dict)


def marker(image_id: str) -> str:
    """The path of the empty file that GRUB searches for."""
    if not _IMAGE_ID.fullmatch(image_id):
        raise OutputError(f"'{image_id}' cannot be an image id: letters, digits and '-', at most 64")
    return f"{MEDIUM_FOLDER}/{image_id}.id"


def linux_iso_layout(files: LinuxBootFiles, *, epoch: int) -> IsoLayout:
    """The ISO of the linux environment. `epoch`: every time stamp, seconds UTC."""
    contents: dict[str, Path | bytes] = {
        SHIM: files.shim,
        GRUB: files.grub,
        GRUB_CONFIG: files.grub_config,
        BIOS_IMAGE: files.bios_image,
        UEFI_IMAGE: uefi_boot_image(files, epoch=epoch),
        KERNEL: files.kernel,
        INITRD: files.initrd,
        IDENTITY: files.image_json,
        marker(files.image_id): b"",
        **files.extra,
    }
    if files.mok_manager is not None:
        contents[MOK_MANAGER] = files.mok_manager
    return IsoLayout(
        volume_id=VOLUME_ID,
        files=tuple(IsoFile(path=path, source=source) for path, source in sorted(contents.items())),
        bios_image=BIOS_IMAGE,
        uefi_image=UEFI_IMAGE,
        epoch=epoch,
    )


def hybrid_disk(image_id: str, *, volume_id: str, tail: int) -> HybridDisk:
    """What makes an ISO of Bluelift's a disk too: `tail` bytes that are free on it, and folders to put things in."""
    return HybridDisk(
        image_id=image_id,
        label=volume_id[:11],
        tail=tail,
        folders=tuple(f"{MEDIUM_FOLDER}/{name}" for name in MEDIUM_FOLDERS),
    )


def uefi_boot_image(files: LinuxBootFiles, *, epoch: int) -> bytes:
    """efi.img: the FAT volume that UEFI firmware boots from a CD, with shim, GRUB and GRUB's configuration.

    The configuration is in there because Debian's signed GRUB, whose prefix is /boot/grub on the device it came from,
    reads it there, and would otherwise search every disk for Debian's own /.disk/info.
    """
    contents = [
        FatFile(path=SHIM, data=files.shim),
        FatFile(path=GRUB, data=files.grub),
        FatFile(path=GRUB_CONFIG, data=files.grub_config),
    ]
    if files.mok_manager is not None:
        contents.append(FatFile(path=MOK_MANAGER, data=files.mok_manager))
    serial = int.from_bytes(hashlib.sha256(files.image_id.encode()).digest()[:4], "little")
    return fat_image(contents, label=VOLUME_ID, serial=serial, epoch=epoch)
