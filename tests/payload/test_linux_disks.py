"""Disks, controllers and the host's identity from sysfs trees shaped like real machines'."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from payload.environment.linux_controllers import list_controllers
from payload.environment.linux_disks import list_disks, optical_drives, wait_for_disks
from payload.environment.linux_host import host_identity
from payload.environment.linux_paths import LinuxPaths
from tests.payload.linux_fakes import MIB, FakeMachine

GONE = LinuxPaths(sysfs=Path("/nonexistent"), dev=Path("/nonexistent"), proc=Path("/nonexistent"))


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(root=tmp_path, programs=tmp_path / "bin")


def test_disks_of_every_kind(machine: FakeMachine) -> None:
    sata = machine.disk("sda", 8 * MIB, device__vendor="ATA     ", device__model="Samsung SSD 860", device__vpd_pg80=b"\0\x80\0\x0aS3Z9NB0K  ")  # fmt: skip  # noqa: E501
    machine.partition(sata, 2, 2 * MIB, 4 * MIB)
    machine.partition(sata, 1, MIB, MIB)
    nvme = machine.disk("nvme0n1", 8 * MIB, where="pci0000:00/nvme/nvme0", device__model="WDC  PC SN730", device__serial="2034", queue__logical_block_size="4096")  # fmt: skip  # noqa: E501
    machine.partition(nvme, 3, MIB, MIB)
    machine.disk("vda", 4 * MIB, where="pci0000:00/virtio1", device__vendor="0x1af4", serial="bluelift")
    machine.disk("sdb", 4 * MIB, where="pci0000:00/usb1/1-1/host7/target7:0:0", removable=True, device__vendor="Kingston", device__model="DT 101")  # fmt: skip  # noqa: E501
    machine.disk("mmcblk0", 4 * MIB, where="platform/mmc0", device__name="DA4064", device__serial="0x1234")
    machine.disk("sdc", 4 * MIB, where="pci0000:00/virtio2/host3")
    machine.disk("sdd", 4 * MIB, where="VMBUS:00/host4")
    machine.disk("xvda", 4 * MIB, where="vbd-768")
    machine.disk("sde", 4 * MIB, where="pci0000:00/host5", device__vendor="DELL", device__model="PERC H730", ro="1")
    disks = {disk.name: disk for disk in list_disks(machine.paths)}
    assert {name: disk.bus for name, disk in disks.items()} == {
        "sda": "ata", "nvme0n1": "nvme", "vda": "virtio", "sdb": "usb", "mmcblk0": "mmc", "sdc": "virtio",
        "sdd": "hyper-v", "xvda": "xen", "sde": "scsi",
    }  # fmt: skip
    assert [(p.name, p.number, p.start, p.size) for p in disks["sda"].partitions] == [
        ("sda1", 1, MIB, MIB),
        ("sda2", 2, 2 * MIB, 4 * MIB),
    ]
    assert (disks["sda"].model, disks["sda"].serial, disks["sda"].size) == ("Samsung SSD 860", "S3Z9NB0K", 8 * MIB)
    assert (disks["nvme0n1"].model, disks["nvme0n1"].sector_size) == ("WDC PC SN730", 4096)
    assert disks["nvme0n1"].partitions[0].name == "nvme0n1p3"
    assert (disks["vda"].model, disks["vda"].serial) == ("", "bluelift")
    assert disks["sdb"].model == "Kingston DT 101"
    assert (disks["mmcblk0"].model, disks["mmcblk0"].serial) == ("DA4064", "0x1234")
    assert disks["sde"].model == "DELL PERC H730"
    assert [name for name, disk in disks.items() if disk.is_stick] == ["mmcblk0", "sdb"]
    assert [name for name, disk in disks.items() if disk.read_only] == ["sde"]


def test_what_is_no_disk(machine: FakeMachine) -> None:
    for name in ("loop0", "ram0", "zram0", "fd0", "sr0", "dm-0", "md127", "mmcblk0boot0", "mmcblk0rpmb", "nbd3"):
        machine.disk(name, MIB, where=f"virtual/{name}")
    machine.disk("sdz", 0, where="card-reader")
    machine.disk("nvme0c0n1", MIB, where="nvme-path", hidden="1")
    assert list_disks(machine.paths) == []
    assert optical_drives(machine.paths) == [machine.paths.dev / "sr0"]


def test_no_sysfs_at_all() -> None:
    assert list_disks(GONE) == []
    assert list_controllers(GONE) == []
    assert optical_drives(GONE) == []


def test_a_vanished_disk_is_left_out(machine: FakeMachine) -> None:
    (machine.paths.sysfs / "class/block/sda").symlink_to(machine.root / "gone")
    assert list_disks(machine.paths) == []


def test_waiting_for_a_slow_disk(machine: FakeMachine) -> None:
    machine.disk("sdb", MIB, where="usb1", removable=True)
    late = threading.Timer(0.6, lambda: machine.disk("sda", MIB))
    late.start()
    started = time.monotonic()
    wait_for_disks(machine.paths, 5, stable=0.4)
    late.join()
    assert 0.9 < time.monotonic() - started < 3
    assert {disk.name for disk in list_disks(machine.paths)} == {"sda", "sdb"}


def test_waiting_without_any_disk_ends_at_the_limit(machine: FakeMachine) -> None:
    started = time.monotonic()
    wait_for_disks(machine.paths, 0.8, stable=0.2)
    assert 0.7 < time.monotonic() - started < 2


@pytest.mark.parametrize("is_image", [True, False], ids=["begins as an ISO", "does not"])
def test_a_disk_that_is_an_image_is_not_what_is_waited_for(machine: FakeMachine, is_image: bool) -> None:
    machine.disk("vda", MIB, where="virtio1")
    with (machine.paths.dev / "vda").open("r+b") as node:
        node.seek(32769)
        node.write(b"CD001" if is_image else b"")
    started = time.monotonic()
    wait_for_disks(machine.paths, 1.2, stable=0.2)
    assert (time.monotonic() - started > 1.1) == is_image


def test_waiting_ends_although_disks_come_and_go(machine: FakeMachine) -> None:
    stop = threading.Event()

    def flicker() -> None:
        n = 0
        while not stop.wait(0.05):
            n += 1
            machine.disk(f"sda{'bcdefgh'[n % 7]}{n}"[:3] + str(n), MIB, where=f"flicker{n}")

    thread = threading.Thread(target=flicker)
    thread.start()
    started = time.monotonic()
    try:
        wait_for_disks(machine.paths, 0.3, stable=0.15)
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - started < 4


def _pci(machine: FakeMachine, address: str, *what: str) -> Path:
    vendor, product, code, driver = (*what, "")[:4]
    folder = machine.paths.sysfs / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", product), ("class", code)):
        (folder / name).write_text(f"0x{value}\n")
    if driver:
        (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    return folder


def test_controllers(machine: FakeMachine) -> None:
    _pci(machine, "0000:00:02.0", "8086", "9a49", "030000", "i915")
    _pci(machine, "0000:00:0e.0", "8086", "9a0b", "010400", "vmd")
    _pci(machine, "0000:00:17.0", "8086", "2822", "010400", "ahci")
    _pci(machine, "0000:00:18.0", "8086", "a102", "010601", "ahci")
    _pci(machine, "0000:01:00.0", "144d", "a808", "010802", "nvme")
    _pci(machine, "0000:02:00.0", "1234", "5678", "010700")
    _pci(machine, "0000:03:00.0", "1000", "005d", "010400", "megaraid_sas")
    remapped = _pci(machine, "0000:04:00.0", "8086", "a352", "010601", "ahci")
    (remapped / "remapped_nvme").write_text("1\n")
    _pci(machine, "0000:05:00.0", "zz", "5678", "018000", "odd")
    found = {record.address: record for record in list_controllers(machine.paths)}
    assert {address: (r.pci_id, r.kind, r.driver) for address, r in found.items()} == {
        "0000:00:0e.0": ("8086:9a0b", "Intel VMD", "vmd"),
        "0000:00:17.0": ("8086:2822", "RAID", "ahci"),
        "0000:00:18.0": ("8086:a102", "SATA", "ahci"),
        "0000:01:00.0": ("144d:a808", "NVMe", "nvme"),
        "0000:02:00.0": ("1234:5678", "SAS", ""),
        "0000:03:00.0": ("1000:005d", "RAID", "megaraid_sas"),
        "0000:04:00.0": ("8086:a352", "SATA", "ahci"),
        "0000:05:00.0": ("????:5678", "storage", "odd"),
    }
    for address in ("0000:00:0e.0", "0000:00:17.0", "0000:04:00.0"):
        assert "AHCI" in found[address].advice
        assert "WinPE" in found[address].advice
    assert "1 NVMe disk" in found["0000:04:00.0"].advice
    assert "no driver" in found["0000:02:00.0"].advice
    assert {a for a, r in found.items() if not r.advice} == {
        "0000:00:18.0", "0000:01:00.0", "0000:03:00.0", "0000:05:00.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "secure"), [(b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False), (b"\6\0\0\0", None), (None, None)]
)
def test_host_under_uefi(machine: FakeMachine, variable: bytes | None, secure: bool | None) -> None:
    for name, value in (
        ("product_uuid", "4C4C4544-0046-3310-8039-B4C04F4E4D32\n"), ("product_serial", "4F39NM2\n"),
        ("sys_vendor", "Dell Inc.\n"), ("product_name", "Latitude 7400\n"),
    ):  # fmt: skip
        machine.text(f"sys/class/dmi/id/{name}", value)
    machine.paths.efivars.mkdir(parents=True)
    if variable is not None:
        (machine.paths.efivars / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(variable)
    host = host_identity(machine.paths)
    assert host.smbios_uuid == "4c4c4544-0046-3310-8039-b4c04f4e4d32"
    assert (host.smbios_serial, host.manufacturer, host.product) == ("4F39NM2", "Dell Inc.", "Latitude 7400")
    assert (host.firmware, host.secure_boot) == ("uefi", secure)


def test_host_that_says_nothing() -> None:
    host = host_identity(GONE)
    assert (host.smbios_uuid, host.smbios_serial, host.firmware, host.secure_boot) == ("", "", "bios", False)
