"""QEMU's command line, exactly; and that QEMU itself accepts every one of them."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builder.disk_forms import DiskForm
from builder.errors import ToolMissing, UsageError
from builder.verify.firmware import Firmware
from builder.verify.machine import started, state_folder
from builder.verify.qemu import Attach, Controller, DirectKernel, MachineConfig, machine_argv, qemu_version

NONCE = "6f1b0d8e-0000-4000-8000-000000000291"
CONFIG = MachineConfig(
    firmware=Firmware.BIOS,
    disk=Path("/s/disk.raw"),
    controller=Controller.NVME,
    uuid=NONCE,
    serial_number="BL-6F1B0D8E",
    qmp_socket=Path("/s/qmp"),
    serial_log=Path("/s/serial.log"),
    image=Path("/i/image.iso"),
)
SECURE = replace(CONFIG, firmware=Firmware.SECUREBOOT, code=Path("/f/code.fd"), variables=Path("/s/vars.fd"))

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not here")


def pairs(argv: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


def test_the_whole_command_for_bios() -> None:
    assert machine_argv(CONFIG) == (
        "qemu-system-x86_64",
        *("-machine", "pc"),
        *("-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1024"),
        *("-display", "none", "-vga", "std", "-nic", "none", "-no-reboot", "-nodefaults"),
        *("-uuid", NONCE),
        *("-smbios", f"type=1,manufacturer=Bluelift,product=Test machine,serial=BL-6F1B0D8E,uuid={NONCE}"),
        *("-qmp", "unix:/s/qmp,server=on,wait=off"),
        *("-chardev", "file,id=serial,path=/s/serial.log", "-serial", "chardev:serial"),
        *("-drive", "file=/i/image.iso,format=raw,media=cdrom,if=none,id=image,readonly=on"),
        *("-device", "ahci,id=imagebus", "-device", "ide-cd,drive=image,bus=imagebus.0,bootindex=1"),
        *("-drive", "file=/s/disk.raw,format=raw,if=none,id=disk,cache=writeback,discard=ignore"),
        *("-device", "nvme,drive=disk,serial=BLUELIFT-DISK"),
    )


@pytest.mark.parametrize(
    ("attach", "form", "drive", "devices"),
    [
        (Attach.CD, DiskForm.IMG, "raw,media=cdrom,if=none,id=image,readonly=on", ["ahci", "ide-cd"]),
        (Attach.USB, DiskForm.IMG, "raw,if=none,id=image", ["qemu-xhci", "usb-storage"]),
        (Attach.DISK, DiskForm.IMG, "raw,if=none,id=image", ["ahci", "ide-hd"]),
        (Attach.DISK, DiskForm.VHDX, "vhdx,if=none,id=image", ["ahci", "ide-hd"]),
        (Attach.DISK, DiskForm.VHD, "vpc,if=none,id=image", ["ahci", "ide-hd"]),
    ],
)
def test_how_the_image_is_attached(attach: Attach, form: DiskForm, drive: str, devices: list[str]) -> None:
    found = pairs(machine_argv(replace(CONFIG, attach=attach, image_form=form, disk=None)))
    assert [value for name, value in found if name == "-drive"] == [f"file=/i/image.iso,format={drive}"]
    used = [value for name, value in found if name == "-device"]
    assert [value.partition(",")[0] for value in used] == devices
    assert ",bootindex=1" in used[1]
    # The guest sees a stick as one that can be pulled out.
    assert used[1].endswith("removable=on") == (attach is Attach.USB)


def test_secure_boot_locks_the_flash() -> None:
    found = pairs(machine_argv(SECURE))
    assert ("-machine", "q35,smm=on") in found
    assert ("-global", "driver=cfi.pflash01,property=secure,value=on") in found
    assert ("-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/f/code.fd") in found
    assert ("-drive", "if=pflash,format=raw,unit=1,file=/s/vars.fd") in found


def test_plain_uefi_has_no_smm() -> None:
    argv = machine_argv(replace(SECURE, firmware=Firmware.UEFI))
    assert ("-machine", "q35") in pairs(argv)
    assert "-global" not in argv


def test_a_machine_without_a_serial_port() -> None:
    argv = machine_argv(replace(CONFIG, serial_port=False))
    assert ("-serial", "none") in pairs(argv)
    assert "-chardev" not in argv


def test_commas_in_paths_are_doubled() -> None:
    argv = machine_argv(replace(CONFIG, image=Path("/i/a,b.iso")))
    assert any(word.startswith("file=/i/a,,b.iso,format=raw") for word in argv)


def test_a_saved_state_is_read_by_a_quoted_shell_word() -> None:
    argv = machine_argv(replace(CONFIG, incoming=Path("/s/it's.state"), paused=True))
    assert ("-incoming", "exec:cat '/s/it'\\''s.state'") in pairs(argv)
    assert argv[-1] == "-S"


def test_a_log_of_writes_lies_between_the_machine_and_its_disk() -> None:
    argv = machine_argv(replace(CONFIG, write_log=Path("/s/a,b.log")))
    assert [value for key, value in pairs(argv) if key == "-blockdev"] == [
        "driver=file,node-name=plain,filename=/s/disk.raw,discard=ignore",
        "driver=file,node-name=log,filename=/s/a,,b.log",
        "driver=blklogwrites,node-name=disk,file=plain,log=log,log-sector-size=512",
    ]
    assert not any("id=disk," in word for word in argv)


def test_more_disks_sticks_and_discs() -> None:
    config = replace(
        CONFIG,
        more_disks=(Path("/s/one,.raw"), Path("/s/two.raw")),
        sticks=(Path("/s/keys.img"), Path("/s/words.img")),
        discs=(Path("/s/keys.iso"),),
    )
    assert machine_argv(config)[len(machine_argv(CONFIG)) :] == (
        *("-drive", "file=/s/one,,.raw,format=raw,if=none,id=disk1,discard=ignore"),
        *("-device", "virtio-blk-pci,drive=disk1,serial=BLUELIFT-DISK1"),
        *("-drive", "file=/s/two.raw,format=raw,if=none,id=disk2,discard=ignore"),
        *("-device", "virtio-blk-pci,drive=disk2,serial=BLUELIFT-DISK2"),
        *("-device", "qemu-xhci,id=stickbus"),
        *("-drive", "file=/s/keys.img,format=raw,if=none,id=stick0"),
        *("-device", "usb-storage,drive=stick0,bus=stickbus.0,removable=on"),
        *("-drive", "file=/s/words.img,format=raw,if=none,id=stick1"),
        *("-device", "usb-storage,drive=stick1,bus=stickbus.0,removable=on"),
        *("-device", "ahci,id=discbus"),
        *("-drive", "file=/s/keys.iso,format=raw,media=cdrom,if=none,id=disc0,readonly=on"),
        *("-device", "ide-cd,drive=disc0,bus=discbus.0"),
    )


def test_a_kernel_of_its_own() -> None:
    direct = DirectKernel(kernel=Path("/k"), initrd=Path("/r"), append="console=ttyS0 quiet")
    argv = machine_argv(replace(CONFIG, image=None, direct=direct))
    assert [pair for pair in pairs(argv) if pair[0] in ("-kernel", "-initrd", "-append")] == [
        ("-kernel", "/k"),
        ("-initrd", "/r"),
        ("-append", "console=ttyS0 quiet"),
    ]
    assert not any("cdrom" in word for word in argv)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, qmp_socket=Path("/" + "x" * 107)), "107 bytes"),
        (replace(SECURE, variables=None), "flash images"),
        (replace(SECURE, controller=Controller.IDE), "IDE"),
    ],
)
def test_what_does_not_fit_together_is_refused(config: MachineConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        machine_argv(config)


def test_a_missing_qemu_names_its_package() -> None:
    with pytest.raises(ToolMissing) as caught:
        qemu_version(program="qemu-system-does-not-exist")
    assert "qemu-system-x86" in caught.value.hint


@needs_qemu
@pytest.mark.parametrize("attach", list(Attach))
def test_qemu_accepts_every_way_to_attach_the_image(attach: Attach, tmp_path: Path) -> None:
    with state_folder() as state:
        (state / "image").write_bytes(bytes(1 << 20))
        config = replace(
            CONFIG,
            image=state / "image",
            attach=attach,
            disk=None,
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
            paused=True,
        )
        with started(config, qemu_log=tmp_path / "qemu.log") as machine:
            (block,) = (block for block in machine.command("query-block") if block.get("inserted"))
        assert block["inserted"]["ro"] == (attach is Attach.CD)
        assert block["removable"] == (attach is not Attach.DISK)


@needs_qemu
def test_qemu_accepts_everything_at_once(tmp_path: Path) -> None:
    with state_folder() as state:
        files = [state / f"file{number}" for number in range(6)]
        for file in files:
            file.write_bytes(bytes(1 << 20))
        config = replace(
            CONFIG,
            image=files[0],
            attach=Attach.USB,
            disk=files[1],
            more_disks=(files[2],),
            sticks=(files[3], files[4]),
            discs=(files[5],),
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
            paused=True,
        )
        with started(config, qemu_log=tmp_path / "qemu.log") as machine:
            blocks = machine.command("query-block")
        read_only = {block["inserted"]["file"]: block["inserted"]["ro"] for block in blocks if block.get("inserted")}
    assert read_only == {str(file): file is files[5] for file in files}


@needs_qemu
@pytest.mark.parametrize("controller", list(Controller))
def test_qemu_accepts_every_controller(controller: Controller, tmp_path: Path) -> None:
    with state_folder() as state:
        disk = state / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        config = replace(
            CONFIG,
            controller=controller,
            image=None,
            disk=disk,
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
            paused=True,
        )
        with started(config, qemu_log=tmp_path / "qemu.log") as machine:
            blocks = machine.command("query-block")
            assert machine.command("query-uuid")["UUID"] == NONCE
        assert any(block.get("inserted", {}).get("file") == str(disk) for block in blocks)
