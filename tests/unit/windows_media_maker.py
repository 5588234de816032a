"""Windows media for tests: small, without libwim and Wine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder.media.fat import FatFile, fat_image
from builder.verify.standin import BootPrograms, media_content
from builder.verify.standin_iso import write_microsoft_iso
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, plain_wim

EPOCH = 1751328000
FLOPPY = 1_474_560


def efisys(text: str = "") -> bytes:
    """A FAT floppy image with a UEFI program that holds `text`."""
    program = b"MZ" + text.encode("utf-16-le") + bytes(1000)
    files = [FatFile(path="EFI/BOOT/BOOTX64.EFI", data=program)]
    return fat_image(files, label="EFISECTOR", serial=1, epoch=EPOCH, size=FLOPPY)


BOOT = BootPrograms(
    etfsboot=b"\xfa" + b"BOOTMGR" + bytes(4088),
    efisys=efisys("Press any key to boot from CD or DVD..."),
    efisys_noprompt=efisys(),
    bcd_bios=b"regf BIOS",
    bcd_uefi=b"regf UEFI",
    bootx64=b"MZ bootx64",
)
#: A boot.wim that needs no libwim to be read.
WINPE = plain_wim(sorted({**PE_FILES, **BITLOCKER_FILES}.items()))


def windows_iso(path: Path, changes: Mapping[str, bytes | Path | None] | None = None) -> Path:
    """An ISO as Microsoft lays them out; a change of None leaves the file out."""
    files: dict[str, bytes | Path] = {**media_content(BOOT), "sources/boot.wim": WINPE, "sources/install.wim": b"MSWIM"}
    for name, content in (changes or {}).items():
        files.pop(name, None)
        if content is not None:
            files[name] = content
    write_microsoft_iso(files, path, volume_id="CCCOMA_X64FRE_EN-US", epoch=EPOCH)
    return path


def copype_folder(folder: Path) -> Path:
    """What `copype amd64 folder` makes, in Windows's mixed case."""
    content = {
        "media/sources/boot.wim": WINPE,
        "media/bootmgr": BOOT.bootmgr,
        "media/Boot/BCD": BOOT.bcd_bios,
        "media/EFI/Boot/bootx64.efi": BOOT.bootx64,
        "media/EFI/Microsoft/Boot/BCD": BOOT.bcd_uefi,
        "media/en-us/bootmgr.exe.mui": b"not needed",
        "fwfiles/etfsboot.com": BOOT.etfsboot,
        "fwfiles/efisys.bin": BOOT.efisys,
    }
    return put(folder, content)


def put(folder: Path, content: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
