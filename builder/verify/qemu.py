"""A test machine's configuration as QEMU's command line: a pure function, so that tests compare lists.

TCG, one processor and `-cpu max` are what booted Debian kernels and OVMF reliably; KVM is used only when asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.disk_forms import DiskForm
from builder.errors import ToolMissing, UsageError
from builder.run import run
from builder.verify.firmware import Firmware
from builder.verify.write_log import SECTOR

QEMU = "qemu-system-x86_64"
QEMU_REASON = "boot the image in a virtual machine"
#: The length of sun_path without its closing zero (unix(7)).
SOCKET_PATH_LIMIT = 107

_SYSTEM_INFORMATION = "type=1,manufacturer=Bluelift,product=Test machine,serial={serial},uuid={uuid}"


class Controller(enum.StrEnum):
    """What the broken disk hangs on."""

    NVME = "nvme"
    AHCI = "ahci"
    IDE = "ide"
    VIRTIO = "virtio"
    VIRTIO_SCSI = "virtio-scsi"
    PVSCSI = "pvscsi"
    MEGASAS = "megasas"
    LSI = "lsi"
    MPT = "mpt"
    USB = "usb"
    UAS = "uas"
    SD = "sd"


class Attach(enum.StrEnum):
    """How the image is given to the machine."""

    CD = "cd"
    USB = "usb"
    DISK = "disk"


class Accelerator(enum.StrEnum):
    """How QEMU executes the guest."""

    TCG = "tcg"
    KVM = "kvm"


@dataclass(frozen=True, kw_only=True)
class DirectKernel:
    """A kernel that QEMU loads itself, without firmware and boot loader (for many quick boots)."""

    kernel: Path
    initrd: Path
    append: str


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """One virtual machine. `uuid` and `serial_number` are what its SMBIOS says: the nonce that the receipt must carry.

    Give `image` or `direct`, or neither (a machine without anything to boot). Attached as USB stick or disk, the guest
    may write to `image`, which lies in the form `image_form`. `incoming` is a saved machine state. `write_log`, an
    empty file, receives every write to the disk (builder.verify.write_log). `more_disks` hang on virtio beside it,
    `sticks` are raw images of USB sticks, `discs` are ISO images in CD drives.
    """

    firmware: Firmware
    disk: Path | None
    controller: Controller
    uuid: str
    serial_number: str
    qmp_socket: Path
    serial_log: Path
    code: Path | None = None
    variables: Path | None = None
    image: Path | None = None
    attach: Attach = Attach.CD
    image_form: DiskForm = DiskForm.IMG
    direct: DirectKernel | None = None
    incoming: Path | None = None
    write_log: Path | None = None
    more_disks: tuple[Path, ...] = ()
    sticks: tuple[Path, ...] = ()
    discs: tuple[Path, ...] = ()
    paused: bool = False
    serial_port: bool = True
    memory_mib: int = 1024
    accelerator: Accelerator = Accelerator.TCG
    program: str = QEMU


def machine_argv(config: MachineConfig) -> tuple[str, ...]:
    """The command that runs `config`. Raises UsageError where the parts do not fit together."""
    if len(str(config.qmp_socket).encode()) > SOCKET_PATH_LIMIT:
        raise UsageError(
            f"the socket path {config.qmp_socket} is longer than the {SOCKET_PATH_LIMIT} bytes that Unix allows",
            hint="Set TMPDIR to a folder with a shorter path.",
        )
    return (
        config.program,
        *_firmware(config),
        *("-accel", config.accelerator.value, "-cpu", "max", "-smp", "1", "-m", str(config.memory_mib)),
        *("-display", "none", "-vga", "std", "-nic", "none", "-no-reboot", "-nodefaults"),
        *("-uuid", config.uuid),
        *("-smbios", _SYSTEM_INFORMATION.format(serial=_value(config.serial_number), uuid=config.uuid)),
        *("-qmp", f"unix:{_value(str(config.qmp_socket))},server=on,wait=off"),
        *_serial(config),
        *_image(config),
        *_direct(config),
        *_disk(config),
        *_more_disks(config.more_disks),
        *_sticks(config.sticks),
        *_discs(config.discs),
        *(("-incoming", f"exec:cat {_shell_word(config.incoming)}") if config.incoming else ()),
        *(("-S",) if config.paused else ()),
    )


def qemu_version(*, program: str = QEMU) -> str:
    """What QEMU says it is ("QEMU emulator version 7.2.22 ..."). Raises ToolMissing with the package's name."""
    try:
        return run([program, "--version"], reason=QEMU_REASON, time_limit=20).text.splitlines()[0].strip()
    except ToolMissing as error:
        raise ToolMissing(
            error.message, hint="Install the package qemu-system-x86 (apt install qemu-system-x86)."
        ) from error


def _firmware(config: MachineConfig) -> tuple[str, ...]:
    if config.firmware is Firmware.BIOS:
        return ("-machine", "pc")
    if config.code is None or config.variables is None:
        raise UsageError(f"firmware {config.firmware.value} needs its flash images")
    secure = config.firmware is Firmware.SECUREBOOT
    return (
        *("-machine", "q35,smm=on" if secure else "q35"),
        *(("-global", "driver=cfi.pflash01,property=secure,value=on") if secure else ()),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_value(str(config.code))}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={_value(str(config.variables))}"),
    )


def _serial(config: MachineConfig) -> tuple[str, ...]:
    if not config.serial_port:
        return ("-serial", "none")
    return ("-chardev", f"file,id=serial,path={_value(str(config.serial_log))}", "-serial", "chardev:serial")


#: First to boot, but for a kernel that QEMU loads itself, which has index 0.
_IMAGE_DEVICES: dict[Attach, tuple[str, ...]] = {
    # An AHCI controller of its own: the same on both machine types, and away from the disk's controller.
    Attach.CD: ("ahci,id=imagebus", "ide-cd,drive=image,bus=imagebus.0,bootindex=1"),
    Attach.USB: ("qemu-xhci,id=imagebus", "usb-storage,drive=image,bus=imagebus.0,bootindex=1,removable=on"),
    Attach.DISK: ("ahci,id=imagebus", "ide-hd,drive=image,bus=imagebus.0,bootindex=1,serial=BLUELIFT-IMAGE"),
}


def _image(config: MachineConfig) -> tuple[str, ...]:
    if config.image is None:
        return ()
    drive = f"file={_value(str(config.image))},format={config.image_form.qemu_format},"
    drive += "media=cdrom,if=none,id=image,readonly=on" if config.attach is Attach.CD else "if=none,id=image"
    return ("-drive", drive, *(word for device in _IMAGE_DEVICES[config.attach] for word in ("-device", device)))


def _direct(config: MachineConfig) -> tuple[str, ...]:
    if config.direct is None:
        return ()
    direct = config.direct
    return ("-kernel", str(direct.kernel), "-initrd", str(direct.initrd), "-append", direct.append)


_DISK_DEVICES: dict[Controller, tuple[str, ...]] = {
    Controller.NVME: ("nvme,drive=disk,serial=BLUELIFT-DISK",),
    Controller.AHCI: ("ahci,id=diskbus", "ide-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    # The PIIX that machine type pc brings; q35 has none (its "ide.0" is AHCI).
    Controller.IDE: ("ide-hd,drive=disk,bus=ide.0,serial=BLUELIFT-DISK",),
    Controller.VIRTIO: ("virtio-blk-pci,drive=disk,serial=BLUELIFT-DISK",),
    Controller.VIRTIO_SCSI: ("virtio-scsi-pci,id=diskbus", "scsi-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.PVSCSI: ("pvscsi,id=diskbus", "scsi-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.MEGASAS: ("megasas,id=diskbus", "scsi-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.LSI: ("lsi53c895a,id=diskbus", "scsi-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.MPT: ("mptsas1068,id=diskbus", "scsi-hd,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.USB: ("qemu-xhci,id=diskbus", "usb-storage,drive=disk,bus=diskbus.0,serial=BLUELIFT-DISK"),
    Controller.UAS: (
        "qemu-xhci,id=diskbus",
        "usb-uas,id=uas,bus=diskbus.0",
        "scsi-hd,drive=disk,bus=uas.0,serial=BLUELIFT-DISK",
    ),
    Controller.SD: ("sdhci-pci,id=diskbus", "sd-card,drive=disk"),
}


def _disk(config: MachineConfig) -> tuple[str, ...]:
    if config.disk is None:
        return ()
    if config.controller is Controller.IDE and config.firmware is not Firmware.BIOS:
        raise UsageError("an IDE disk needs firmware bios: the machine that UEFI runs on has no IDE controller")
    devices = _DISK_DEVICES[config.controller]
    return (
        *_disk_backend(config.disk, config.write_log),
        *(word for device in devices for word in ("-device", device)),
    )


def _more_disks(disks: Sequence[Path]) -> Iterator[str]:
    for number, disk in enumerate(disks, 1):
        yield from ("-drive", f"file={_value(str(disk))},format=raw,if=none,id=disk{number},discard=ignore")
        yield from ("-device", f"virtio-blk-pci,drive=disk{number},serial=BLUELIFT-DISK{number}")


def _sticks(sticks: Sequence[Path]) -> Iterator[str]:
    yield from ("-device", "qemu-xhci,id=stickbus") if sticks else ()
    for number, stick in enumerate(sticks):
        yield from ("-drive", f"file={_value(str(stick))},format=raw,if=none,id=stick{number}")
        yield from ("-device", f"usb-storage,drive=stick{number},bus=stickbus.0,removable=on")


def _discs(discs: Sequence[Path]) -> Iterator[str]:
    yield from ("-device", "ahci,id=discbus") if discs else ()
    for number, disc in enumerate(discs):
        yield from ("-drive", f"file={_value(str(disc))},format=raw,media=cdrom,if=none,id=disc{number},readonly=on")
        yield from ("-device", f"ide-cd,drive=disc{number},bus=discbus.{number}")


def _disk_backend(disk: Path, write_log: Path | None) -> tuple[str, ...]:
    if write_log is None:
        return ("-drive", f"file={_value(str(disk))},format=raw,if=none,id=disk,cache=writeback,discard=ignore")
    return (
        *("-blockdev", f"driver=file,node-name=plain,filename={_value(str(disk))},discard=ignore"),
        *("-blockdev", f"driver=file,node-name=log,filename={_value(str(write_log))}"),
        *("-blockdev", f"driver=blklogwrites,node-name=disk,file=plain,log=log,log-sector-size={SECTOR}"),
    )


def _value(text: str) -> str:
    # In QEMU's key=value lists a comma inside a value is written twice.
    return text.replace(",", ",,")


def _shell_word(path: Path) -> str:
    # QEMU hands what follows "exec:" to a shell.
    return "'" + str(path).replace("'", "'\\''") + "'"
