"""What lies where on a WinPE recovery medium: the base's boot files, boot.wim, edited BCD stores, our identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import BaseMediaError
from builder.extents import Extents, Joined
from builder.media.iso import BiosImage, IsoFile, IsoForm, IsoLayout
from builder.media.layout import IDENTITY, marker
from builder.secure_boot import FORBIDDEN

VOLUME_ID = "BLUELIFT_PE"
BOOT_WIM = "sources/boot.wim"
BCD_BIOS = "boot/bcd"
BCD_UEFI = "efi/microsoft/boot/bcd"
ETFSBOOT = "boot/etfsboot.com"
EFISYS = "efi/microsoft/boot/efisys.bin"
EFISYS_NOPROMPT = "efi/microsoft/boot/efisys_noprompt.bin"
#: While this file is there, the BIOS boot program asks for a key.
BOOTFIX = "boot/bootfix.bin"
#: What etfsboot.com is loaded as: 8 sectors of 512 bytes.
ETFSBOOT_SIZE = 4096
_BOOT_SDI = "boot/boot.sdi"
_BOOTMGR = "bootmgr"
_LOADERS = ("efi/boot/bootx64.efi", "efi/boot/bootaa64.efi")
_WHERE = "Give a Windows install ISO, or an ADK WinPE folder as copype makes it."


@dataclass(frozen=True, kw_only=True)
class WindowsMedium:
    """Everything a WinPE medium is made of. Paths have "/" between parts; case does not matter.

    `files`: the base's own (boot/, efi/, bootmgr, bootmgr.efi), overlaid with what `boot_ca` asks for. `bcd_bios` and
    `bcd_uefi`: the edited stores. `bios_image`: etfsboot.com; None where the medium is not to boot from BIOS.
    `uefi_image` and `uefi_image_noprompt`: the base's efisys.bin and its sibling that asks for no key.
    `uefi_image_path`: a file among `files` that is booted instead of either (the 2023 ones). `check_boot_wim`: reads it
    back, as IsoFile's `check`. `extra`: further files, by path.
    """

    image_id: str
    image_json: bytes
    files: Mapping[str, bytes | Path]
    boot_wim: Path | Joined
    bcd_bios: bytes | None
    bcd_uefi: bytes | None
    bios_image: bytes | None
    uefi_image: bytes | None = None
    uefi_image_noprompt: bytes | None = None
    uefi_image_path: str = ""
    prompt: bool = False
    form: IsoForm = IsoForm.BRIDGE
    volume_id: str = VOLUME_ID
    check_boot_wim: Callable[[Extents], None] | None = None
    extra: Mapping[str, bytes | Path] = field(default_factory=dict)


def windows_iso_layout(medium: WindowsMedium, *, epoch: int) -> IsoLayout:
    """The ISO of the winpe environment. `epoch`: every time stamp, seconds UTC.

    Raises BaseMediaError where the base lacks what the medium needs to boot.
    """
    contents = _folded(medium.files)
    contents.pop(BOOT_WIM, None)
    for path in [path for path in contents if path.rpartition("/")[2] == FORBIDDEN]:
        del contents[path]
    uefi_image = _uefi_image(medium, contents)
    bios_image = _bios_image(medium, contents)
    if not uefi_image and not bios_image:
        raise BaseMediaError("the base media have neither a BIOS nor a UEFI boot image", hint=_WHERE)
    if _BOOT_SDI not in contents:
        raise BaseMediaError(f"the base media have no {_BOOT_SDI}, which Windows PE starts from", hint=_WHERE)
    files = [IsoFile(path=path, source=source) for path, source in contents.items()]
    files.append(IsoFile(path=BOOT_WIM, source=medium.boot_wim, check=medium.check_boot_wim))
    ours = {IDENTITY: medium.image_json, marker(medium.image_id): b"", **medium.extra}
    files += [IsoFile(path=path, source=source) for path, source in ours.items()]
    _check_case([file.path for file in files])
    return IsoLayout(
        volume_id=medium.volume_id,
        files=tuple(sorted(files, key=lambda file: file.path)),
        bios_image=bios_image,
        uefi_image=uefi_image,
        epoch=epoch,
        form=medium.form,
        bios_loading=BiosImage.PLAIN,
    )


def _folded(files: Mapping[str, bytes | Path]) -> dict[str, bytes | Path]:
    """`files` with their paths in lower case, as Windows's media have them."""
    _check_case(list(files))
    return {path.lower(): source for path, source in sorted(files.items())}


def _check_case(paths: list[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.lower(), path)
        if other is not path:
            raise BaseMediaError(
                f"'{other}' and '{path}' would be the same file for Windows", hint="Rename one of them."
            )


def _bios_image(medium: WindowsMedium, contents: dict[str, bytes | Path]) -> str | None:
    """Put what BIOS boots from into `contents`; its path, None where the medium is for UEFI only."""
    if not medium.prompt:
        contents.pop(BOOTFIX, None)
    if medium.bios_image is None:
        return None
    if len(medium.bios_image) != ETFSBOOT_SIZE:
        raise BaseMediaError(
            f"the base media's BIOS boot image has {len(medium.bios_image)} bytes; etfsboot.com has {ETFSBOOT_SIZE}",
            hint=_WHERE,
        )
    if medium.prompt and BOOTFIX not in contents:
        raise BaseMediaError(
            f"'Press any key' is wanted, but the base media have no {BOOTFIX}",
            hint="Set prompt: false, or take other media.",
        )
    if _BOOTMGR not in contents or medium.bcd_bios is None:
        raise BaseMediaError(f"the base media have no {_BOOTMGR} or no {BCD_BIOS} for BIOS", hint=_WHERE)
    contents[ETFSBOOT], contents[BCD_BIOS] = medium.bios_image, medium.bcd_bios
    return ETFSBOOT


def _uefi_image(medium: WindowsMedium, contents: dict[str, bytes | Path]) -> str | None:
    """Put what UEFI boots from into `contents`; the path of the boot image, None where the medium has none."""
    path = medium.uefi_image_path.lower()
    if not path:
        image = medium.uefi_image if medium.prompt else medium.uefi_image_noprompt
        if image is None and (medium.uefi_image or medium.uefi_image_noprompt) is None:
            return None
        path = EFISYS if medium.prompt else EFISYS_NOPROMPT
        if image is None:
            raise BaseMediaError(
                f"the base media have no {path}, which prompt: {str(medium.prompt).lower()} needs",
                hint=f"Set prompt: {str(not medium.prompt).lower()}, or take other media.",
            )
        contents[path] = image
    elif path not in contents:
        raise BaseMediaError(f"the medium has no {path} to boot from", hint=_WHERE)
    if not any(loader in contents for loader in _LOADERS) or medium.bcd_uefi is None:
        raise BaseMediaError(f"the base media have no {_LOADERS[0]} or no {BCD_UEFI} for UEFI", hint=_WHERE)
    contents[BCD_UEFI] = medium.bcd_uefi
    return path
