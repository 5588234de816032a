"""Which signature the medium's boot files carry: Microsoft's of 2011, as on the base media, or of 2023, from the WIM.

Source: Microsoft's Make2023BootableMedia.ps1 ("Updating Windows bootable media to use the PCA2023 signed boot
manager"). Firmware that has revoked the 2011 boot manager refuses older media; firmware that has only the 2011
certificates refuses newer ones. `SkuSiPolicy.p7b` is never put on a medium (0xc0000428).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BaseMediaError

_EX = r"Windows\Boot\EFI_EX"
_FONTS = r"Windows\Boot\FONTS_EX"
_DVD = r"Windows\Boot\DVD_EX\EFI"
_STL = r"Windows\Boot\EFI\boot.stl"
_LANGUAGE = "en-US"
_LOADERS = {"x64": "efi/boot/bootx64.efi", "arm64": "efi/boot/bootaa64.efi"}
MEDIA_BOOT = "efi/microsoft/boot"
#: Never on a medium: Windows then refuses to start its own loader.
FORBIDDEN = "skusipolicy.p7b"


class BootCa(enum.StrEnum):
    """Whose signature the medium's boot manager carries."""

    CA_2011 = "2011"
    CA_2023 = "2023"


def boot_cas(setting: str) -> tuple[BootCa, ...]:
    """The ISOs that a profile's `boot_ca` (2011, 2023 or both) asks for, in order. Raises ValueError."""
    return (BootCa.CA_2011, BootCa.CA_2023) if setting == "both" else (BootCa(setting),)


@dataclass(frozen=True, kw_only=True)
class SecureBootFiles:
    """What to put onto the medium, over what the base has: contents by path ("/" between parts, lower case), and which
    of them the UEFI entry boots. Both are empty for 2011: the base's own files stay.
    """

    ca: BootCa
    files: Mapping[str, bytes]
    uefi_image: str = ""


def secure_boot_files(
    ca: BootCa,
    *,
    read: Callable[[str], bytes | None],
    list_folder: Callable[[str], Sequence[str]],
    architecture: str = "x64",
    prompt: bool = False,
) -> SecureBootFiles:
    """The boot files for `ca`.

    `read` gives the content of a file inside the WIM (r"Windows\\Boot\\..."), None where there is none; `list_folder`
    the names in a folder of it, none where there is none. `prompt`: "Press any key" at boot. Raises BaseMediaError
    that names every missing file where the base is too old.
    """
    if ca is BootCa.CA_2011:
        return SecureBootFiles(ca=ca, files={})
    missing: list[str] = []

    def wanted(path: str) -> bytes:
        content = read(path)
        if content is None:
            missing.append(path)
        return content or b""

    image = "efisys_EX.bin" if prompt else "efisys_noprompt_EX.bin"
    uefi_image = f"{MEDIA_BOOT}/{image.lower()}"
    files = {
        _LOADERS.get(architecture, _LOADERS["x64"]): wanted(rf"{_EX}\bootmgfw_EX.efi"),
        uefi_image: wanted(rf"{_DVD}\{_language(read, list_folder, image)}\{image}"),
        f"{MEDIA_BOOT}/boot.stl": wanted(_STL),
    }
    manager = read(rf"{_EX}\bootmgr_EX.efi")
    if manager is not None:
        files["bootmgr.efi"] = manager
    fonts = sorted(name for name in list_folder(_FONTS) if name.lower().endswith("_ex.ttf"))
    for name in fonts:
        files[f"{MEDIA_BOOT}/fonts/{name[: -len('_EX.ttf')].lower()}.ttf"] = wanted(rf"{_FONTS}\{name}")
    if not fonts:
        missing.append(rf"{_FONTS}\*_EX.ttf")
    if missing:
        raise _too_old(missing)
    return SecureBootFiles(ca=ca, files=files, uefi_image=uefi_image)


def has_2023_files(list_folder: Callable[[str], Sequence[str]]) -> bool:
    """Whether a WIM has the boot manager that is signed with the 2023 certificate."""
    return any(name.lower() == "bootmgfw_ex.efi" for name in list_folder(_EX))


def _language(read: Callable[[str], bytes | None], list_folder: Callable[[str], Sequence[str]], image: str) -> str:
    """The language folder that has the boot image: en-US, as Microsoft's script says, else the first that has it."""
    if read(rf"{_DVD}\{_LANGUAGE}\{image}") is None:
        for name in sorted(list_folder(_DVD)):
            if any(file.lower() == image.lower() for file in list_folder(rf"{_DVD}\{name}")):
                return name
    return _LANGUAGE


def _too_old(missing: Sequence[str]) -> BaseMediaError:
    names = "\n".join(f"  {path}" for path in missing)
    return BaseMediaError(
        f"the base is too old for boot_ca 2023; its WIM does not have\n{names}",
        hint="Windows 10, 11 and Server media of April 2024 or later have these files. "
        "Take a newer ISO, or set boot_ca: 2011 for hosts that have not revoked the older boot manager.",
    )
