"""Safe mode from the key screen, in the image as it is shipped: on the EFI system partition of a locked host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from builder.verify.bitlocker import BitLockerPlan
from builder.verify.disks import DiskPlan, first_difference, make_disk
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.machine import started, state_folder
from builder.verify.qemu import Attach, Controller, MachineConfig
from builder.verify.windows_tree import broken_windows
from payload.contract import EventName
from payload.formats.bcd import BcdStore, Element
from payload.formats.fve_entries import ProtectorKind
from tests.payload.test_safe_mode import LOADER, made_store

_LIMIT = 300
_STORE = "EFI/Microsoft/Boot/BCD"
_KEPT = f"{_STORE}.before-bluelift"


@pytest.mark.skipif(not shutil.which("mcopy"), reason="mcopy (package mtools) is not installed")
def test_a_technician_without_a_key_chooses_safe_mode(default_image: Path, tmp_path: Path) -> None:
    kinds = (ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD)
    plan = DiskPlan(tree=broken_windows(), lock=BitLockerPlan(protectors=kinds))
    disk = make_disk(plan, tmp_path / "disk.img")
    esp = f"{disk.path}@@{disk.partition('esp').start}"
    (tmp_path / "BCD").write_bytes(made_store())
    subprocess.run(["mcopy", "-o", "-i", esp, tmp_path / "BCD", f"::{_STORE}"], check=True, timeout=60)
    after = tmp_path / "after.img"
    shutil.copyfile(disk.path, after)
    with (
        state_folder() as folder,
        started(config(folder, default_image, after), qemu_log=folder / "qemu.log") as machine,
    ):
        assert machine.wait_for_event(EventName.KEY_WANTED, limit=_LIMIT), machine.console[-3000:]
        machine.watch(3)
        for number, key in enumerate(("esc", "h", "ret"), start=1):
            machine.screenshot(tmp_path / f"screen-{number}.png")
            machine.press(key)
            machine.watch(2)
        receipt = machine.wait_for_event(EventName.RECEIPT, limit=machine.seconds + 60)
        assert receipt is not None, machine.console[-3000:]
        machine.watch(1)
        machine.press("p")
        machine.wait_for_end(limit=machine.seconds + 60)
    (record,) = [v for v in receipt.data["receipt"]["volumes"] if v["file_system"] == "BitLocker"]
    assert record["verdict"] == "needs-a-key"
    assert "'Windows 11' was set to start in safe mode" in record["detail"]

    esp = f"{after}@@{disk.partition('esp').start}"
    for name in (_STORE, _KEPT):
        subprocess.run(["mcopy", "-o", "-i", esp, f"::{name}", tmp_path / Path(name).name], check=True, timeout=60)
    loader = BcdStore.read((tmp_path / "BCD").read_bytes()).object(LOADER)
    assert loader is not None and loader.number(Element.SAFE_BOOT) == 0
    assert (tmp_path / Path(_KEPT).name).read_bytes() == made_store()
    assert first_difference(disk.path, after, skip=disk.partition("esp")) is None


def config(folder: Path, image: Path, disk: Path) -> MachineConfig:
    return MachineConfig(
        firmware=Firmware.BIOS, code=find_firmware(Firmware.BIOS).code, disk=disk, controller=Controller.AHCI,
        image=image, attach=Attach.CD, uuid="11111111-2222-4333-8444-555555555555", serial_number="BL-SAFE-MODE",
        qmp_socket=folder / "qmp", serial_log=folder / "serial.log",
    )  # fmt: skip
