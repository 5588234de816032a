"""A WinPE ISO as we build it boots: SeaBIOS starts its etfsboot.com, OVMF its efisys.bin, which reads boot.wim."""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.bcd import BcdFirmware, BcdSettings, new_store
from builder.console import SilentStep
from builder.errors import ToolMissing, UsageError
from builder.media.iso import IsoFile, IsoForm, IsoLayout, write_iso
from builder.media.windows_layout import EFISYS, ETFSBOOT, WindowsMedium, windows_iso_layout
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.machine import Ended, started, state_folder
from builder.verify.qemu import QEMU, Attach, Controller, MachineConfig
from builder.verify.standin_boot import (
    COMPILER,
    EFISYS_SIZE,
    ETFSBOOT_SIZE,
    compile_argv,
    efisys,
    etfsboot,
    parse_report,
    uefi_program,
)

EPOCH = 1_751_328_000
NONCE = "nonce-291"
WIM = b"MSWIM\0\0\0" + random.Random(291).randbytes(9_000_001)
LIMIT = 180

needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason=f"{QEMU} is not installed")
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"{COMPILER} is not installed")


def needs_ovmf() -> pytest.MarkDecorator:
    try:
        find_firmware(Firmware.UEFI)
    except ToolMissing as error:
        return pytest.mark.skipif(True, reason=error.message)
    return pytest.mark.skipif(False, reason="")


@pytest.fixture(scope="module")
def program() -> bytes:
    return uefi_program(NONCE)


def medium(
    tmp_path: Path, form: IsoForm, *, bios: bytes | None, uefi: bytes | None, image_id: str = "standin"
) -> IsoLayout:
    wim = tmp_path / "boot.wim"
    wim.write_bytes(WIM)
    files: dict[str, bytes | Path] = {
        "bootmgr": b"bootmgr stand-in",
        "bootmgr.efi": b"bootmgr.efi stand-in",
        "boot/boot.sdi": b"$SDI0001",
        "boot/bootfix.bin": b"fix",
        "efi/boot/bootx64.efi": b"MZ stand-in",
    }
    settings = BcdSettings(timeout=0, description="Bluelift")
    return windows_iso_layout(
        WindowsMedium(
            image_id=image_id,
            image_json=b"{}",
            files=files,
            boot_wim=wim,
            bcd_bios=new_store(BcdFirmware.BIOS, settings, epoch=EPOCH),
            bcd_uefi=new_store(BcdFirmware.UEFI, settings, epoch=EPOCH),
            bios_image=bios,
            uefi_image_noprompt=uefi,
            form=form,
        ),
        epoch=EPOCH,
    )


def boot(
    image: Path,
    kind: Firmware,
    done: Callable[[str], bool] = lambda console: False,
    attach: Attach = Attach.CD,
) -> tuple[Ended, str]:
    """How the machine ended, and what it said; ended early where `done` says so. A stick or disk is a copy."""
    firmware = find_firmware(kind)
    with state_folder() as folder:
        if attach is not Attach.CD:
            image = Path(shutil.copyfile(image, folder / "image"))
        variables = None
        if firmware.variables is not None:
            variables = folder / "vars.fd"
            shutil.copyfile(firmware.variables, variables)
        config = MachineConfig(
            firmware=kind,
            code=firmware.code,
            variables=variables,
            disk=None,
            controller=Controller.AHCI,
            uuid=str(uuid.UUID(int=291)),
            serial_number="standin",
            qmp_socket=folder / "qmp",
            serial_log=folder / "serial.log",
            image=image,
            attach=attach,
            memory_mib=512,
        )
        with started(config, qemu_log=folder / "qemu.log") as machine:
            while machine.ended is None and machine.seconds < LIMIT and not done(machine.console):
                machine.watch(0.5)
            ended = machine.wait_for_end(limit=0)
            return ended, machine.console


@needs_qemu
@pytest.mark.boot
@pytest.mark.parametrize("form", [IsoForm.BRIDGE, IsoForm.MICROSOFT])
def test_bios_loads_all_eight_sectors(tmp_path: Path, form: IsoForm) -> None:
    image = tmp_path / "winpe.iso"
    write_iso(medium(tmp_path, form, bios=etfsboot(NONCE), uefi=None), image, step=SilentStep())
    ended, console = boot(image, Firmware.BIOS)
    report = parse_report(console, NONCE)
    assert report is not None, console
    assert (report.firmware, report.problem) == ("bios", "")
    assert ended is Ended.POWERED_OFF


@needs_qemu
@needs_compiler
@needs_ovmf()
@pytest.mark.boot
@pytest.mark.parametrize("form", [IsoForm.BRIDGE, IsoForm.MICROSOFT])
@pytest.mark.parametrize("with_bios", [True, False])
def test_uefi_reads_boot_wim_through_the_isos_file_system(
    tmp_path: Path, form: IsoForm, with_bios: bool, program: bytes
) -> None:
    image = tmp_path / "winpe.iso"
    bios = etfsboot(NONCE) if with_bios else None
    write_iso(medium(tmp_path, form, bios=bios, uefi=efisys(program, epoch=EPOCH)), image, step=SilentStep())
    ended, console = boot(image, Firmware.UEFI)
    report = parse_report(console, NONCE)
    assert report is not None, console
    assert (report.firmware, report.problem, report.size) == ("uefi", "", len(WIM))
    assert report.sha256 == hashlib.sha256(WIM).hexdigest()
    assert ended is Ended.POWERED_OFF


@needs_qemu
@pytest.mark.boot
def test_the_stand_in_sees_a_load_size_that_is_too_small(tmp_path: Path) -> None:
    """A check that cannot fail is a defect: with GRUB's load size of 4 sectors the stand-in must complain."""
    image = tmp_path / "short.iso"
    layout = IsoLayout(
        volume_id="SHORT",
        files=(IsoFile(path=ETFSBOOT, source=etfsboot(NONCE)),),
        bios_image=ETFSBOOT,
        uefi_image=None,
        epoch=EPOCH,
        form=IsoForm.BRIDGE,
        bios_loading=SHORT,  # type: ignore[arg-type]
    )
    write_iso(layout, image, step=SilentStep())
    _, console = boot(image, Firmware.BIOS)
    report = parse_report(console, NONCE)
    assert report is not None, console
    assert report.problem == "not all sectors were loaded"


class _Short:
    """A BIOS entry that loads 4 sectors and leaves the image as it is."""

    load_size = 4


SHORT = _Short()


@needs_qemu
@needs_compiler
@needs_ovmf()
@pytest.mark.boot
def test_the_stand_in_sees_another_boot_wim(tmp_path: Path, program: bytes) -> None:
    """One byte of boot.wim changed in the finished ISO: another sha256."""
    image = tmp_path / "winpe.iso"
    layout = medium(tmp_path, IsoForm.BRIDGE, bios=None, uefi=efisys(program, epoch=EPOCH))
    write_iso(layout, image, step=SilentStep())
    data = image.read_bytes()
    at = data.index(WIM[:64])
    with image.open("r+b") as stream:
        stream.seek(at + 5_000_000)
        stream.write(bytes([data[at + 5_000_000] ^ 1]))
    _, console = boot(image, Firmware.UEFI)
    report = parse_report(console, NONCE)
    assert report is not None and not report.problem, console
    assert report.sha256 not in ("", hashlib.sha256(WIM).hexdigest())


def test_etfsboot_is_one_sum() -> None:
    image = etfsboot(NONCE)
    assert len(image) == ETFSBOOT_SIZE
    assert image == etfsboot(NONCE) != etfsboot("other")
    assert sum(struct.unpack("<2048H", image)) & 0xFFFF == 0
    # Fewer sectors, the rest zero: another sum.
    for sectors in range(1, 8):
        assert sum(struct.unpack(f"<{256 * sectors}H", image[: 512 * sectors])) & 0xFFFF
    with pytest.raises(UsageError, match="nonce"):
        etfsboot("two words")


@needs_compiler
def test_the_uefi_program_is_reproducible(program: bytes) -> None:
    assert program == uefi_program(NONCE) != uefi_program("other")
    assert program[:2] == b"MZ"
    at = struct.unpack_from("<I", program, 60)[0]
    machine, subsystem = struct.unpack_from("<H", program, at + 4)[0], struct.unpack_from("<H", program, at + 92)[0]
    assert (machine, subsystem) == (0x8664, 10)
    floppy = efisys(program, epoch=EPOCH)
    assert len(floppy) == EFISYS_SIZE and floppy[54:62] == b"FAT12   "


def test_the_compilers_command_line() -> None:
    argv = compile_argv(Path("a.c"), Path("b.efi"), "n-1")
    assert argv[0] == COMPILER and argv[-3:] == ("-o", "b.efi", "a.c")
    assert '-DNONCE="n-1"' in argv and "-Wl,--subsystem,10" in argv and "-Wl,--no-insert-timestamp" in argv


@pytest.mark.parametrize(
    ("console", "problem"),
    [
        (f"\x1b[2Jx\r\nBLUELIFT-STANDIN bios {NONCE} 8 sectors loaded end\r\n", ""),
        (f"BLUELIFT-STANDIN bios {NONCE} not all sectors were loaded end", "not all sectors were loaded"),
        (f"BLUELIFT-STANDIN uefi {NONCE} no \\sources\\boot.wim end", "no \\sources\\boot.wim"),
        (f"BLUELIFT-STANDIN uefi {NONCE} boot.wim 12 sha256 {'0a' * 32} end", ""),
        (f"BLUELIFT-STANDIN uefi {NONCE} boot.wim 12 sha256 0a end", "boot.wim 12 sha256 0a"),
        ("BLUELIFT-STANDIN bios other 8 sectors loaded end", None),
        (f"BLUELIFT-STANDIN bios {NONCE} 8 sectors loaded", None),
        ("", None),
    ],
)
def test_reports(console: str, problem: str | None) -> None:
    report = parse_report(console, NONCE)
    assert (report.problem if report else None) == problem


assert EFISYS.endswith("efisys.bin")
