"""Which disks a machine has, what they are used for, and which may be overwritten: from trees like sysfs and procfs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import OutputError, UsageError
from builder.usb.choice import NOT_REMOVABLE, backed_by, check_same, find_disk, objections
from builder.usb.disks import BlockDisk, LinuxRoot, Use, list_disks

GB = 10**9
USB = "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0"


@dataclass
class Machine:
    """A machine's files in a folder."""

    folder: Path

    @property
    def root(self) -> LinuxRoot:
        return LinuxRoot(path=self.folder)

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def disk(self, name: str, number: str, size: int = 8 * GB, *, bus: str = "", **files: str) -> Path:
        """A disk in sysfs: a link in /sys/block to a folder of its bus, as on a real machine."""
        device = f"sys/devices/{bus or 'pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0'}"
        real = self.folder / device / "block" / name
        real.mkdir(parents=True)
        self.write(f"{device}/block/{name}/dev", number)
        self.write(f"{device}/block/{name}/size", str(size // 512))
        for path, text in files.items():
            self.write(f"{device}/block/{name}/{path.replace('__', '/')}", text)
        (self.folder / "sys/block").mkdir(parents=True, exist_ok=True)
        (self.folder / "sys/block" / name).symlink_to(real)
        (self.folder / "dev").mkdir(exist_ok=True)
        (self.folder / "dev" / name.replace("!", "_")).touch()
        return real

    def partition(self, disk: Path, name: str, number: str) -> Path:
        folder = disk / name
        folder.mkdir()
        (folder / "partition").write_text("1\n")
        (folder / "dev").write_text(number + "\n")
        return folder

    def mounted(self, *lines: str) -> None:
        self.write("proc/self/mountinfo", "\n".join(lines))

    def find(self, name: str) -> BlockDisk:
        return next(disk for disk in list_disks(self.root) if disk.name == name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A computer with its own disk sda and a stick sdb."""
    made = Machine(tmp_path)
    sda = made.disk("sda", "8:0", size=512 * GB, device__model="CT500MX500SSD1", device__vendor="ATA     ")
    made.partition(sda, "sda1", "8:1")
    made.partition(sda, "sda2", "8:2")
    usb = f"sys/devices/{USB}"
    stick = made.disk("sdb", "8:16", bus=USB, removable="1", device__model="Ultra Fit ", device__vendor="SanDisk ")
    made.partition(stick, "sdb1", "8:17")
    (made.folder / usb).mkdir(parents=True, exist_ok=True)
    made.write("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/idVendor", "0781")
    made.write("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/serial", "4C530001230504117452")
    made.mounted("27 1 8:2 / / rw,relatime - ext4 /dev/sda2 rw", "28 27 8:1 / /boot/efi rw - vfat /dev/sda1 rw")
    return made


def against(disk: BlockDisk, *, needed: int = GB, forced: str = "") -> str:
    return "; ".join(objections(disk, needed=needed, forced=forced))


def test_a_stick_as_it_shows_itself(machine: Machine) -> None:
    stick = machine.find("sdb")
    assert (stick.size, stick.model, stick.serial, stick.bus) == (
        8 * GB // 512 * 512,
        "SanDisk Ultra Fit",
        "4C530001230504117452",
        "usb",
    )
    assert (stick.removable, stick.partitions, stick.uses, stick.number) == (True, ("sdb1",), (), (8, 16))
    assert objections(stick, needed=GB) == ()


def test_the_disk_of_the_system(machine: Machine) -> None:
    disk = machine.find("sda")
    assert Use(what="sda2 is mounted at /", system=True) in disk.uses
    said = against(disk, forced="sda")
    assert "a disk of the running system" in said
    assert "sda1 is mounted at /boot/efi" in said
    assert NOT_REMOVABLE not in said
    assert NOT_REMOVABLE in against(disk)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("40 27 8:17 / /media/ann/STICK rw - vfat /dev/sdb1 rw", "sdb1 is mounted at /media/ann/STICK"),
        ("40 27 8:16 / /mnt rw - iso9660 /dev/sdb ro", "sdb is mounted at /mnt"),
        ("40 27 8:17 / /media/my\\040stick rw - vfat /dev/sdb1 rw", "mounted at /media/my stick"),
        # btrfs has a number of its own; there only the source tells.
        ("40 27 0:44 /@ /mnt rw shared:1 - btrfs /dev/sdb1 rw", "sdb1 is mounted at /mnt"),
    ],
)
def test_a_mounted_stick(machine: Machine, line: str, said: str) -> None:
    machine.mounted("27 1 8:2 / / rw - ext4 /dev/sda2 rw", line)
    assert said in against(machine.find("sdb"))
    assert objections(machine.find("sdb"), needed=0, forced="sdb") != ()


def test_a_mount_by_label_is_found_through_its_link(machine: Machine) -> None:
    (machine.folder / "dev/disk/by-label").mkdir(parents=True)
    (machine.folder / "dev/sdb1").touch()
    (machine.folder / "dev/disk/by-label/S").symlink_to("../../sdb1")
    machine.mounted("40 27 0:44 / /mnt rw - btrfs /dev/disk/by-label/S rw")
    assert "sdb1 is mounted at /mnt" in against(machine.find("sdb"))


def test_swap(machine: Machine) -> None:
    machine.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 1000 0 -2")
    assert "sdb1 is used as swap" in against(machine.find("sdb"))
    assert "running system" in against(machine.find("sdb"))


def test_a_member_of_a_volume_group_and_what_is_mounted_from_it(machine: Machine) -> None:
    (machine.folder / "sys/block/sdb/sdb1/holders/dm-3").mkdir(parents=True)
    machine.disk("dm-3", "253:3", bus="virtual", dm__name="vg0-backup")
    machine.mounted("50 27 253:3 / /srv rw - xfs /dev/mapper/vg0-backup rw")
    said = against(machine.find("sdb"), forced="sdb")
    assert "sdb1 is a part of mapper/vg0-backup" in said
    assert "mapper/vg0-backup is mounted at /srv" in said
    assert "running system" in said
    assert "dm-3" not in [disk.name for disk in list_disks(machine.root)]


def test_holders_in_a_circle_come_to_an_end(machine: Machine) -> None:
    (machine.folder / "sys/block/sdb/holders/sdb").mkdir(parents=True)
    assert "sdb is a part of sdb" in against(machine.find("sdb"))


@pytest.mark.parametrize(
    ("files", "needed", "said"),
    [
        ({"removable": "1"}, 9 * GB, "it is too small: it has 8,000,000,000 bytes, the image needs 9,000,000,000"),
        ({"removable": "1", "ro": "1"}, GB, "write-protected"),
        ({"removable": "1", "queue__logical_block_size": "4096"}, GB, "sectors have 4096 bytes"),
        ({"removable": "0"}, GB, NOT_REMOVABLE),
        ({}, GB, NOT_REMOVABLE),
    ],
)
def test_what_speaks_against_a_disk(machine: Machine, files: dict[str, str], needed: int, said: str) -> None:
    machine.disk("sdc", "8:32", 8 * GB, bus="usb3/3-1", **files)
    assert said in against(machine.find("sdc"), needed=needed)


def test_a_reader_without_a_card(machine: Machine) -> None:
    machine.disk("sdc", "8:32", size=0, removable="1")
    assert against(machine.find("sdc")) == "there is no medium in it"


def test_a_memory_card_is_removable_but_soldered_memory_is_not(machine: Machine) -> None:
    machine.disk("mmcblk0", "179:0", bus="mmc0/a", device__type="SD", device__name="SC32G", device__serial="0x1")
    machine.disk("mmcblk1", "179:8", bus="mmc1/b", device__type="MMC")
    machine.disk("mmcblk1boot0", "179:16", bus="mmc1/c")
    card = machine.find("mmcblk0")
    assert (card.model, card.serial, card.bus, objections(card, needed=GB)) == ("SC32G", "0x1", "mmc", ())
    assert against(machine.find("mmcblk1")) == NOT_REMOVABLE
    assert "mmcblk1boot0" not in [disk.name for disk in list_disks(machine.root)]


def test_force_needs_the_very_name(machine: Machine) -> None:
    machine.disk("nvme0n1", "259:0", bus="nvme/nvme0")
    disk = machine.find("nvme0n1")
    assert against(disk, forced="nvme0") == NOT_REMOVABLE
    assert against(disk, forced="nvme0n1") == ""


def test_loop_devices_only_with_a_file(machine: Machine) -> None:
    machine.disk("loop0", "7:0", bus="virtual")
    machine.disk("loop1", "7:1", bus="virtual2", loop__backing_file="/tmp/stick.img")
    for hidden in ("sr0", "ram0", "zram0", "fd0", "md0"):
        machine.disk(hidden, "1:1", bus=f"virtual-{hidden}")
    assert [disk.name for disk in list_disks(machine.root)] == ["loop1", "sda", "sdb"]
    assert machine.find("loop1").model == "/tmp/stick.img"


def test_names_of_devices(machine: Machine) -> None:
    (machine.folder / "dev/disk/by-id").mkdir(parents=True)
    (machine.folder / "dev/disk/by-id/usb-SanDisk").symlink_to("../../sdb")
    disks = list_disks(machine.root)
    for name in ("sdb", "/dev/sdb", "/dev/disk/by-id/usb-SanDisk"):
        assert find_disk(name, disks, machine.root).name == "sdb"
    with pytest.raises(UsageError, match="is a partition") as caught:
        find_disk("/dev/sdb1", disks, machine.root)
    assert "Give sdb" in caught.value.hint
    for wrong in ("sdz", "/dev/sd", "../sdb", "", "/dev/null"):
        with pytest.raises(UsageError, match="there is no disk"):
            find_disk(wrong, disks, machine.root)


@pytest.mark.parametrize(
    "change",
    [
        {"device__model": "Cruzer  "},
        {"size": 16 * GB},
        {"device__model": "Ultra Fit ", "ro": "1"},
        None,
    ],
    ids=["another model", "another size", "write-protected now", "gone"],
)
def test_another_disk_under_the_same_name_is_noticed(machine: Machine, change: dict[str, Any] | None) -> None:
    """What was shown and agreed to; that it is mentioned as used by now (by us) is no change."""
    seen = machine.find("sdb")
    check_same(seen, list_disks(machine.root))
    check_same(seen, [replace(seen, uses=(Use(what="x"),))])
    (machine.folder / "sys/block/sdb").unlink()
    if change is not None:
        other = {"removable": "1", "device__vendor": "SanDisk ", "device__model": "Ultra Fit ", **change}
        machine.partition(machine.disk("sdb", "8:16", bus=USB.replace("6:0", "7:0"), **other), "sdb1", "8:17")
    with pytest.raises(OutputError, match="is not the disk any more"):
        check_same(seen, list_disks(machine.root))


def test_the_image_behind_a_loop_device_is_not_written_over_itself(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "image.iso").write_bytes(b"image")
    (tmp_path / "link.iso").symlink_to("image.iso")
    machine.disk("loop1", "7:1", bus="virtual", loop__backing_file=str(tmp_path / "image.iso"))
    for path in ("image.iso", "link.iso"):
        assert backed_by(machine.find("loop1"), tmp_path / path) == ("the image itself is behind it",)
    (tmp_path / "other.iso").write_bytes(b"image")
    assert backed_by(machine.find("loop1"), tmp_path / "other.iso") == ()
    assert backed_by(machine.find("loop1"), tmp_path / "none.iso") == ()
    assert backed_by(machine.find("sdb"), tmp_path / "image.iso") == ()


def test_a_stick_cannot_write_over_what_is_said_of_it(machine: Machine) -> None:
    """A USB device chooses its own strings, and whoever formats a stick its label."""
    machine.write("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/serial", "\x1b[2K\x1b[1A\u202eharmless")
    machine.mounted("27 1 8:17 / /media/\\033[2Jx rw - vfat /dev/sdb1 rw")
    disk = machine.find("sdb")
    assert all(text.isprintable() for text in (disk.serial, disk.model, *(use.what for use in disk.uses)))
    assert "harmless" in disk.serial


def test_a_machine_without_anything(tmp_path: Path) -> None:
    assert list_disks(LinuxRoot(path=tmp_path)) == []


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_no_mountinfo_or_swaps_confuse_it(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.disk("sdb", "8:16", removable="1")
    (machine.folder / "proc/self").mkdir(parents=True)
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    (machine.folder / "proc/self/mountinfo").write_bytes(text)
    (machine.folder / "proc/swaps").write_bytes(b"Filename\n" + text)
    assert [disk.name for disk in list_disks(machine.root)] == ["sdb"]
