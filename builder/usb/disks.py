"""This machine's disks as Linux shows them, and what each is used for: read from sysfs and procfs, changing nothing.

All functions take the root of a machine's files, so that tests can give them trees. Sources: sysfs-block(5) ("Rules on
how to access information in sysfs"), proc(5) (/proc/PID/mountinfo, /proc/swaps).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: sysfs counts in units of 512 bytes whatever a disk's blocks are.
_SYSFS_SECTOR = 512
_NOT_A_DISK = re.compile(r"(ram|zram|fd|sr|dm-|md|mtd|nullb)\d+|mmcblk\d+(boot\d+|rpmb|gp\d+)")
_ESCAPED = re.compile(r"\\([0-7]{3})")
#: Where the system itself is mounted from.
_SYSTEM_MOUNTS = frozenset(
    {"/", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/home", "/opt", "/srv", "/usr", "/var"}
)
_DEEPEST = 8


@dataclass(frozen=True, kw_only=True)
class LinuxRoot:
    """Where a machine's files begin; another folder in tests."""

    path: Path = Path("/")

    @property
    def block(self) -> Path:
        """One entry a disk."""
        return self.path / "sys/block"

    @property
    def dev(self) -> Path:
        """Device nodes."""
        return self.path / "dev"

    @property
    def proc(self) -> Path:
        """Mounts and swaps."""
        return self.path / "proc"


@dataclass(frozen=True, kw_only=True)
class Use:
    """One thing that a disk, a partition of it or what is built upon it is used for.

    `what` is for people ("sdb1 is mounted at /media/stick"); `system`: the running system needs it.
    """

    what: str
    system: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockDisk:
    """A whole disk. Sizes are bytes (0: no medium in it), `number` its device number, `partitions` their names."""

    name: str
    node: Path
    number: tuple[int, int]
    size: int
    sector_size: int
    bus: str
    model: str
    serial: str
    removable: bool
    read_only: bool
    partitions: tuple[str, ...]
    uses: tuple[Use, ...]


def list_disks(root: LinuxRoot) -> list[BlockDisk]:
    """Every disk that could be written to, by name; loop devices only where a file is behind them."""
    mounts, swaps = _mounts(root), _swaps(root)
    found = []
    for entry in _entries(root.block):
        loop_file = _text(entry / "loop/backing_file")
        if _NOT_A_DISK.fullmatch(entry.name) or _text(entry / "hidden") == "1":
            continue
        if entry.name.startswith("loop") and not loop_file:
            continue
        found.append(_read_disk(root, entry, mounts, swaps))
    return found


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """One line of mountinfo: the device number, the source's name in /dev, and where it is mounted."""

    number: tuple[int, int]
    source: str
    target: str


def _read_disk(root: LinuxRoot, entry: Path, mounts: list[_Mount], swaps: frozenset[str]) -> BlockDisk:
    name = _node_name(entry.name)
    partitions = tuple(child.name for child in _entries(entry) if (child / "partition").exists())
    real = entry.resolve()
    parts = [entry, *(entry / partition for partition in partitions)]
    return BlockDisk(
        name=name,
        node=root.dev / name,
        number=_device_number(entry),
        size=_number(entry / "size") * _SYSFS_SECTOR,
        sector_size=_number(entry / "queue/logical_block_size") or _SYSFS_SECTOR,
        bus=_bus(name, real),
        model=_model(entry, real),
        serial=_serial(entry, real),
        removable=_text(entry / "removable") == "1" or _text(entry / "device/type") == "SD",
        read_only=_text(entry / "ro") == "1",
        partitions=tuple(_node_name(partition) for partition in partitions),
        uses=tuple(dict.fromkeys(use for part in parts for use in _uses(root, part, mounts, swaps, 0))),
    )


def _uses(root: LinuxRoot, entry: Path, mounts: list[_Mount], swaps: frozenset[str], depth: int) -> Iterator[Use]:
    """What a device is used for: mounts, swap, and whatever is built upon it (LVM, RAID, encryption)."""
    name, number = _shown_name(entry), _device_number(entry)
    names = {_node_name(entry.name), name}
    for mount in mounts:
        if mount.number == number or mount.source in names:
            yield Use(what=f"{name} is mounted at {_printable(mount.target)}", system=mount.target in _SYSTEM_MOUNTS)
    if names & swaps:
        yield Use(what=f"{name} is used as swap", system=True)
    for holder in _entries(entry / "holders"):
        above = root.block / holder.name
        yield Use(what=f"{name} is a part of {_shown_name(above)}")
        if depth < _DEEPEST:
            yield from _uses(root, above, mounts, swaps, depth + 1)


def _shown_name(entry: Path) -> str:
    """`sdb1`; of the device mapper the name that its owner chose, which is what is mounted."""
    mapped = _text(entry / "dm/name")
    return f"mapper/{mapped}" if mapped else _node_name(entry.name)


def _mounts(root: LinuxRoot) -> list[_Mount]:
    found = []
    for line in _lines(root.proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, behind = before.split(), after.split()
        if len(fields) < 5 or len(behind) < 2 or not re.fullmatch(r"\d+:\d+", fields[2]):
            continue
        major, minor = fields[2].split(":")
        # btrfs shows a number that no device has; there the source tells.
        source = _name_below_dev(root, _unescaped(behind[1]))
        found.append(_Mount(number=(int(major), int(minor)), source=source, target=_unescaped(fields[4])))
    return found


def _swaps(root: LinuxRoot) -> frozenset[str]:
    names = (line.split()[0] for line in _lines(root.proc / "swaps")[1:] if line.split())
    return frozenset(filter(None, (_name_below_dev(root, _unescaped(name)) for name in names)))


def _name_below_dev(root: LinuxRoot, source: str) -> str:
    """`sdb1` for /dev/sdb1, also by way of a link such as /dev/disk/by-label/X; "" for what is no device."""
    if not source.startswith("/dev/"):
        return ""
    path = root.dev / source.removeprefix("/dev/")
    try:
        if path.is_symlink() and not source.startswith("/dev/mapper/"):
            return path.resolve().name
    except OSError:
        pass
    return source.removeprefix("/dev/")


def _unescaped(text: str) -> str:
    """Spaces and their like stand as octal numbers in procfs: `\\040`."""
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), text)


def _bus(name: str, real: Path) -> str:
    if any(re.fullmatch(r"usb\d+", part) for part in real.parts):
        return "usb"
    for prefix in ("nvme", "mmc", "loop", "nbd"):
        if name.startswith(prefix):
            return prefix
    if any(re.fullmatch(r"ata\d+", part) for part in real.parts):
        return "ata"
    return "virtio" if name.startswith("vd") else "scsi"


def _model(entry: Path, real: Path) -> str:
    if loop_file := _text(entry / "loop/backing_file"):
        return loop_file
    model = _text(entry / "device/model") or _text(entry / "device/name")
    vendor = _text(entry / "device/vendor")
    if model and vendor and vendor != "ATA" and not vendor.startswith("0x"):
        model = f"{vendor} {model}"
    usb = _usb_device(real)
    return model or (" ".join(filter(None, (_text(usb / "manufacturer"), _text(usb / "product")))) if usb else "")


def _serial(entry: Path, real: Path) -> str:
    usb = _usb_device(real)
    for path in (*((usb / "serial",) if usb else ()), entry / "device/serial", entry / "serial"):
        if serial := _text(path):
            return serial
    # SCSI Vital Product Data page 80h: four bytes of header, then the serial number.
    try:
        page = (entry / "device/vpd_pg80").read_bytes()
    except OSError:
        return ""
    return _printable(page[4:].decode("ascii", "replace").strip(" \0"))


def _usb_device(real: Path) -> Path | None:
    """The folder of the USB device that a disk belongs to."""
    return next((folder for folder in real.parents if (folder / "idVendor").exists()), None)


def _node_name(name: str) -> str:
    # sysfs writes '/' in device names (cciss/c0d0) as '!'.
    return name.replace("!", "/")


def _device_number(entry: Path) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", _text(entry / "dev"))
    return (int(match.group(1)), int(match.group(2))) if match else (-1, -1)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return _printable(" ".join(path.read_bytes().decode("utf-8", "replace").replace("\0", " ").split()))
    except OSError:
        return ""


def _printable(text: str) -> str:
    """What a stick or a mount says of itself must not write over what the terminal shows of it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isascii() and text.isdigit() else 0
