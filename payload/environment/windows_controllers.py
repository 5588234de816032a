"""Storage controllers under Windows, from the registry's device tree, and those that have no driver."""

from __future__ import annotations

import contextlib
import ctypes
import re
import winreg
from collections.abc import Iterator
from ctypes import wintypes

from payload.contract import ControllerRecord
from payload.formats.pci_storage import controller_kind

_TREE = r"SYSTEM\CurrentControlSet\Enum\PCI"
_IDS = re.compile(r"VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE)
_MASS_STORAGE = re.compile(r"PCI\\(?:.*&)?CC_01([0-9A-F]{2})", re.IGNORECASE)
_NO_DRIVER = (
    "Windows has no driver for this controller, so its disks cannot be seen. Put the vendor's driver (INF and its "
    "files) into \\Bluelift\\drivers on the boot medium, or into the profile's drivers, and start again."
)


def list_controllers() -> list[ControllerRecord]:
    """Every PCI device of class 01h (mass storage) that is present, by its place in the device tree."""
    found = []
    for name in _keys(_TREE):
        for instance in _keys(rf"{_TREE}\{name}"):
            record = _controller(name, instance)
            if record is not None and _is_present(rf"PCI\{name}\{instance}"):
                found.append(record)
    return found


def _controller(name: str, instance: str) -> ControllerRecord | None:
    ids, values = _IDS.match(name), _values(rf"{_TREE}\{name}\{instance}")
    compatible = [text for key in ("HardwareID", "CompatibleIDs") for text in _texts(values.get(key))]
    classes = [match for text in compatible if (match := _MASS_STORAGE.match(text))]
    if ids is None or not classes:
        return None
    vendor, product, subclass = ids[1].lower(), ids[2].lower(), int(classes[0][1], 16)
    driver = " ".join(_texts(values.get("Service")))
    return ControllerRecord(
        address=instance,
        pci_id=f"{vendor}:{product}",
        kind=controller_kind(vendor, product, subclass),
        driver=driver,
        advice="" if driver else _NO_DRIVER,
    )


def _is_present(device: str) -> bool:
    """Whether the device is there now: the tree also remembers those that once were. True where nobody knows."""
    try:
        manager = ctypes.WinDLL("cfgmgr32")
        locate = manager.CM_Locate_DevNodeW
    except (OSError, AttributeError):
        return True
    locate.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR, wintypes.ULONG)
    return int(locate(ctypes.byref(wintypes.DWORD()), device, 0)) == 0


def _keys(path: str) -> Iterator[str]:
    with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
        for index in range(winreg.QueryInfoKey(key)[0]):
            yield winreg.EnumKey(key, index)


def _values(path: str) -> dict[str, object]:
    values: dict[str, object] = {}
    with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
        for index in range(winreg.QueryInfoKey(key)[1]):
            name, value, _kind = winreg.EnumValue(key, index)
            values[name] = value
    return values


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
