"""Physical disks and their partitions, as sysfs shows them, and waiting until all of them are there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from payload.environment.linux_paths import LinuxPaths
from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify

#: How long the set of disks must not change, in seconds.
STABLE_SECONDS = 1.5
_POLL_SECONDS = 0.1
#: sysfs counts in units of 512 bytes whatever the disk's sector size is.
_SYSFS_SECTOR = 512
_NOT_A_DISK = re.compile(r"(loop|ram|zram|fd|sr|dm-|md|nbd|mtd)\d*.*|mmcblk\d+(boot\d+|rpmb|gp\d+)")
_BUS_BY_NAME = (("nvme", "nvme"), ("mmcblk", "mmc"), ("xvd", "xen"), ("vd", "virtio"))


@dataclass(frozen=True, kw_only=True)
class PartitionNode:
    """A partition that the kernel knows: its device node, start and size in bytes."""

    name: str
    node: Path
    number: int
    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk that the kernel knows; `sector_size` is the logical one, sizes are bytes."""

    name: str
    node: Path
    size: int
    sector_size: int
    bus: str
    model: str
    serial: str
    removable: bool
    read_only: bool
    partitions: tuple[PartitionNode, ...]

    @property
    def is_stick(self) -> bool:
        """Whether a technician could have plugged it in: a USB or SD medium, or one that says it is removable."""
        return self.removable or self.bus in ("usb", "mmc")


def list_disks(paths: LinuxPaths) -> list[Disk]:
    """Every physical disk that has a medium, by name. Disks that vanish while being read are left out."""
    found = []
    for entry in _block_entries(paths):
        if _NOT_A_DISK.fullmatch(entry.name) or (entry / "partition").exists() or _text(entry / "hidden") == "1":
            continue
        disk = _read_disk(paths, entry)
        if disk.size > 0:
            found.append(disk)
    return sorted(found, key=lambda disk: disk.name)


def optical_drives(paths: LinuxPaths) -> list[Path]:
    """The device nodes of the CD drives, by name."""
    return sorted(paths.dev / entry.name for entry in _block_entries(paths) if re.fullmatch(r"sr\d+", entry.name))


def wait_for_disks(paths: LinuxPaths, limit: float, *, stable: float = STABLE_SECONDS) -> None:
    """Return when no disk or partition has come or gone for `stable` seconds; with no fixed disk after `limit`.

    A stick alone does not count, nor does a disk that begins as an ISO: it is most likely what this image was started
    from, and the host's own controller may take far longer than a USB port.
    """
    started = changed = time.monotonic()
    before = _snapshot(paths)
    while True:
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        disks = _snapshot(paths)
        if disks != before:
            before, changed = disks, now
        if now - changed >= stable and (now - started >= limit or any(_may_be_the_hosts(disk) for disk in disks)):
            return
        if now - started >= limit + 10 * stable:
            return


def _snapshot(paths: LinuxPaths) -> frozenset[Disk]:
    return frozenset(list_disks(paths))


def _may_be_the_hosts(disk: Disk) -> bool:
    if disk.removable:
        return False
    try:
        with disk.node.open("rb") as stream:
            return identify(stream.read(HEAD_LENGTH)) is not VolumeKind.ISO9660
    except OSError:
        return True


def _block_entries(paths: LinuxPaths) -> Iterable[Path]:
    try:
        return sorted((paths.sysfs / "class/block").iterdir())
    except OSError:
        return []


def _read_disk(paths: LinuxPaths, entry: Path) -> Disk:
    real = entry.resolve()
    return Disk(
        name=entry.name,
        node=paths.dev / _node_name(entry.name),
        size=_number(entry / "size") * _SYSFS_SECTOR,
        sector_size=_number(entry / "queue/logical_block_size") or 512,
        bus=_bus(entry.name, real),
        model=_model(entry),
        serial=_serial(entry),
        removable=_text(entry / "removable") == "1",
        read_only=_text(entry / "ro") == "1",
        partitions=tuple(sorted(_partitions(paths, real), key=lambda node: node.number)),
    )


def _partitions(paths: LinuxPaths, disk: Path) -> Iterable[PartitionNode]:
    try:
        entries = list(disk.iterdir())
    except OSError:
        return
    for entry in entries:
        if number := _number(entry / "partition"):
            yield PartitionNode(
                name=entry.name,
                node=paths.dev / _node_name(entry.name),
                number=number,
                start=_number(entry / "start") * _SYSFS_SECTOR,
                size=_number(entry / "size") * _SYSFS_SECTOR,
            )


def _node_name(name: str) -> str:
    # sysfs writes '/' in device names (cciss/c0d0) as '!'.
    return name.replace("!", "/")


def _bus(name: str, real: Path) -> str:
    parts = real.parts
    if any(re.fullmatch(r"usb\d+", part) for part in parts):
        return "usb"
    for prefix, bus in _BUS_BY_NAME:
        if name.startswith(prefix):
            return bus
    if any(re.fullmatch(r"ata\d+", part) for part in parts):
        return "ata"
    for prefix, bus in (("virtio", "virtio"), ("vmbus", "hyper-v"), ("VMBUS", "hyper-v")):
        if any(part.startswith(prefix) for part in parts):
            return bus
    return "scsi"


def _model(entry: Path) -> str:
    vendor, model = _text(entry / "device/vendor"), _text(entry / "device/model") or _text(entry / "device/name")
    # ATA disks all say that their vendor is "ATA"; virtio devices give a PCI number.
    return model if not model or vendor.startswith("0x") or vendor in ("", "ATA") else f"{vendor} {model}"


def _serial(entry: Path) -> str:
    for name in ("device/serial", "serial"):
        if serial := _text(entry / name):
            return serial
    # SCSI Vital Product Data page 80h: four bytes of header, then the serial number.
    try:
        page = (entry / "device/vpd_pg80").read_bytes()
    except OSError:
        return ""
    return page[4:].decode("ascii", "replace").strip(" \0")


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_bytes().decode("utf-8", "replace").replace("\0", " ").split())
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isascii() and text.isdigit() else 0
