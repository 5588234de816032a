"""The stand-in install ISO with boot programs of our own on it: what demo, benchmark and tests build from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.bcd import BcdFirmware, BcdSettings, new_store
from builder.verify.standin import BootPrograms, Standin, StandinSize, make_standin_iso
from builder.verify.standin_boot import bootmgr, efisys, etfsboot, uefi_program

#: Of every time stamp on the stand-in, seconds UTC; any would do.
EPOCH = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class StandinNonces:
    """What the boot programs print: of BIOS from a CD and from a disk, of UEFI with the boot files of 2011 and 2023."""

    bios: str = "standin-bios"
    bios_disk: str = "standin-bios-disk"
    uefi_2011: str = "standin-uefi-2011"
    uefi_2023: str = "standin-uefi-2023"


def make_bootable_standin(
    output: Path, *, size: StandinSize = StandinSize.SMALL, nonces: StandinNonces | None = None, manage_bde: bool = True
) -> None:
    """Write the stand-in ISO to `output`. Raises ToolMissing without Wine's DLLs, libwim or mingw."""
    make_standin_iso(bootable_standin(size=size, nonces=nonces, manage_bde=manage_bde), output)


def bootable_standin(
    *, size: StandinSize = StandinSize.SMALL, nonces: StandinNonces | None = None, manage_bde: bool = True
) -> Standin:
    """The stand-in with boot programs, and those of 2023 inside its WIM."""
    says = nonces or StandinNonces()
    program, program_2023 = uefi_program(says.uefi_2011), uefi_program(says.uefi_2023)
    settings = BcdSettings(timeout=30)
    boot = BootPrograms(
        etfsboot=etfsboot(says.bios),
        bootmgr=bootmgr(says.bios_disk),
        efisys=efisys(program, epoch=EPOCH),
        efisys_noprompt=efisys(program, epoch=EPOCH),
        bcd_bios=new_store(BcdFirmware.BIOS, settings, epoch=EPOCH),
        bcd_uefi=new_store(BcdFirmware.UEFI, settings, epoch=EPOCH),
        bootx64=program,
    )
    newer = efisys(program_2023, epoch=EPOCH)
    programs = {
        "EFI_EX/bootmgfw_EX.efi": program_2023,
        "EFI_EX/bootmgr_EX.efi": program_2023,
        "DVD_EX/EFI/en-US/efisys_EX.bin": newer,
        "DVD_EX/EFI/en-US/efisys_noprompt_EX.bin": newer,
    }
    return Standin(boot=boot, epoch=EPOCH, size=size, manage_bde=manage_bde, boot_2023=True, programs_2023=programs)
