"""Which firmware the test machine runs, and where this machine keeps it: SeaBIOS comes with QEMU, OVMF is a package."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ToolMissing

#: Debian and Ubuntu (ovmf), Fedora (edk2-ovmf) and Arch put the same files into these folders.
OVMF_FOLDERS = (Path("/usr/share/OVMF"), Path("/usr/share/edk2/ovmf"), Path("/usr/share/edk2/x64"))


class Firmware(enum.StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"
    SECUREBOOT = "secureboot"


@dataclass(frozen=True, kw_only=True)
class FirmwareFiles:
    """A firmware and its flash images; both are None for the BIOS that QEMU brings itself.

    `variables` is the pristine store: every machine gets a fresh copy.
    """

    kind: Firmware
    code: Path | None = None
    variables: Path | None = None


_NAMES = {
    # (code, variables) pairs; the first pair that exists is taken. The .ms variables hold Microsoft's keys, enrolled.
    Firmware.UEFI: (("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd")),
    Firmware.SECUREBOOT: (("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),),
}


def find_firmware(kind: Firmware, *, folders: Sequence[Path] = OVMF_FOLDERS) -> FirmwareFiles:
    """The flash images for `kind`. Raises ToolMissing, naming the package, when this machine has none."""
    if kind is Firmware.BIOS:
        return FirmwareFiles(kind=kind)
    for folder in folders:
        for code, variables in _NAMES[kind]:
            if (folder / code).is_file() and (folder / variables).is_file():
                return FirmwareFiles(kind=kind, code=folder / code, variables=folder / variables)
    wanted = " and ".join(_NAMES[kind][0])
    raise ToolMissing(
        f"{wanted} were not found in {', '.join(str(folder) for folder in folders)}; "
        f"they are needed to boot the image under {'UEFI' if kind is Firmware.UEFI else 'Secure Boot'}",
        hint="Install the package ovmf (apt install ovmf), or verify with --firmware bios.",
    )
