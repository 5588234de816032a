"""Storage controllers on the PCI bus, and what to do about those whose disks Linux cannot see."""

from __future__ import annotations

import re
from pathlib import Path

from payload.contract import ControllerRecord
from payload.environment.linux_paths import LinuxPaths
from payload.formats.pci_storage import INTEL, SUBCLASS_RAID, controller_kind

_SWITCH = (
    "If the host's disk is not listed: in the BIOS setup, switch the storage mode from RAID/RST/Optane (VMD) to AHCI, "
    "start this image again, and switch it back before Windows starts. Or use the WinPE image with the vendor's driver."
)
_NO_DRIVER = (
    "This image has no driver for this controller, so its disks cannot be seen. Use the WinPE image with the "
    "vendor's driver."
)


def list_controllers(paths: LinuxPaths) -> list[ControllerRecord]:
    """Every PCI device of class 01h (mass storage), by address."""
    try:
        devices = sorted((paths.sysfs / "bus/pci/devices").iterdir())
    except OSError:
        return []
    return [record for device in devices if (record := _controller(device)) is not None]


def _controller(device: Path) -> ControllerRecord | None:
    code = _hex(device / "class")
    if code is None or code >> 16 != 0x01:
        return None
    vendor, product = _id(device / "vendor"), _id(device / "device")
    subclass = code >> 8 & 0xFF
    driver = _driver(device)
    return ControllerRecord(
        address=device.name,
        pci_id=f"{vendor}:{product}",
        kind=controller_kind(vendor, product, subclass),
        driver=driver,
        advice=_advice(device, vendor, subclass, driver),
    )


def _advice(device: Path, vendor: str, subclass: int, driver: str) -> str:
    remapped = _text(device / "remapped_nvme")
    if remapped.isdigit() and int(remapped) > 0:
        return f"This controller hides {int(remapped)} NVMe disk(s) behind Intel RST. {_SWITCH}"
    # VMD is class 0104h as well.
    if vendor == INTEL and subclass == SUBCLASS_RAID:
        return f"This controller is in Intel RST/VMD (RAID) mode. {_SWITCH}"
    return "" if driver else _NO_DRIVER


def _driver(device: Path) -> str:
    try:
        return (device / "driver").readlink().name
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _hex(path: Path) -> int | None:
    text = _text(path)
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else None


def _id(path: Path) -> str:
    value = _hex(path)
    return "????" if value is None else f"{value:04x}"
