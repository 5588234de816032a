"""Boot configuration data (BCD): objects and their elements in a registry hive.

Sources: "Boot Configuration Data in Windows Vista" (Microsoft), "BCD Reference" (Windows SDK), Geoff Chappell's "BCD
Elements"; the layout of device elements was taken from stores that bcdedit made. A store is a hive with the keys
`Description` and `Objects\\{id}\\Elements\\<8 hex digits>`, whose value `Element` is the setting.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from payload.formats.regf import HiveError, ValueKind
from payload.formats.regf_writer import HiveKey, HiveTree, dword, hive_bytes, multi_sz, read_tree, sz

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
GLOBAL_SETTINGS = "{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}"
LOADER_SETTINGS = "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"
DEBUG_SETTINGS = "{4636856e-540f-4170-a130-a84776f4c654}"
EMS_SETTINGS = "{0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9}"
BAD_MEMORY = "{5189b25c-5558-4bf2-bca4-289b11bd29e2}"
#: The ramdisk options and the loader of install media.
RAMDISK_OPTIONS = "{7619dcc8-fafe-11d9-b411-000476eba25f}"
MEDIA_LOADER = "{7619dcc9-fafe-11d9-b411-000476eba25f}"

_GUID = re.compile(r"\{[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}")
_ELEMENT_NAME = re.compile(r"[0-9a-f]{8}", re.IGNORECASE)
_VALUE = "Element"


class ObjectType(enum.IntEnum):
    """The types of objects that a boot medium has (image: 0x1, settings inherited by others: 0x2, device: 0x3)."""

    FIRMWARE_BOOT_MANAGER = 0x10100001
    BOOT_MANAGER = 0x10100002
    LOADER = 0x10200003
    INHERITED = 0x20100000
    INHERITED_BY_LOADERS = 0x20200003
    DEVICE = 0x30000000


class Element(enum.IntEnum):
    """Elements by number: the second digit is the format (1 device, 2 text, 3 object, 4 objects, 5 number, 6 flag)."""

    APPLICATION_DEVICE = 0x11000001
    APPLICATION_PATH = 0x12000002
    DESCRIPTION = 0x12000004
    LOCALE = 0x12000005
    INHERIT = 0x14000006
    DEBUG_TYPE = 0x15000011
    DEBUG_PORT = 0x15000013
    DEBUG_BAUD = 0x15000014
    EMS_ENABLED = 0x16000020
    EMS_PORT = 0x15000022
    EMS_BAUD = 0x15000023
    DEFAULT_OBJECT = 0x23000003
    DISPLAY_ORDER = 0x24000001
    TIMEOUT = 0x25000004
    OS_DEVICE = 0x21000001
    SYSTEM_ROOT = 0x22000002
    DETECT_HAL = 0x26000010
    WINPE = 0x26000022
    SAFE_BOOT = 0x25000080
    LOADER_EMS = 0x260000B0
    BOOT_MENU_POLICY = 0x250000C2
    BOOT_STATUS_POLICY = 0x250000E0
    SDI_DEVICE = 0x31000003
    SDI_PATH = 0x32000004


class ElementFormat(enum.IntEnum):
    """What an element holds, from its number's second digit."""

    DEVICE = 1
    TEXT = 2
    OBJECT = 3
    OBJECTS = 4
    NUMBER = 5
    FLAG = 6
    NUMBERS = 7


def element_format(element: int) -> int:
    """The format digit of an element's number."""
    return element >> 24 & 0xF


def guid_bytes(text: str) -> bytes:
    """A GUID "{xxxxxxxx-...}" as stored: the first three parts little-endian. Raises ValueError."""
    if not _GUID.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is not a GUID in braces")
    raw = bytes.fromhex(text[1:-1].replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


def guid_text(raw: bytes) -> str:
    """The text of a stored GUID (16 bytes)."""
    digits = (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:16]).hex()
    return "{" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])) + "}"


#: The device that the boot manager was itself started from: type 5, 72 bytes with its head, nothing in it.
_BOOT_DEVICE = struct.pack("<IIII", 5, 0, 0x48, 0) + bytes(56)
#: A device element: the options object's GUID, then a device description (type, flags, length, 0).
_DEVICE_HEAD = struct.Struct("<16sIIII")
#: What follows: type 3, 20 bytes of zeroes, then the file: 1, its length, and what its path is relative to (5: parent).
_RAMDISK_FILE = struct.Struct("<I20xIII")
_RAMDISK_TYPE, _FILE_TYPE = 0, 3


def boot_device() -> bytes:
    """The device element of "the device that was booted from"."""
    return bytes(16) + _BOOT_DEVICE


@dataclass(frozen=True, kw_only=True)
class RamdiskDevice:
    """A device element that loads a file into memory: the object with its options, the device description of the disk
    that holds it (`boot_device` where it is the boot medium), and the file's path (r"\\sources\\boot.wim").
    """

    options: str = RAMDISK_OPTIONS
    path: str
    parent: bytes = _BOOT_DEVICE

    def pack(self) -> bytes:
        """The element's content."""
        path = sz(self.path)
        file = _RAMDISK_FILE.pack(_FILE_TYPE, 1, 12 + len(self.parent) + len(path), 5) + self.parent + path
        return _DEVICE_HEAD.pack(guid_bytes(self.options), _RAMDISK_TYPE, 1, 16 + len(file), 0) + file

    @classmethod
    def unpack(cls, data: bytes) -> RamdiskDevice | None:
        """The ramdisk in a device element; None where it is some other device."""
        if len(data) < _DEVICE_HEAD.size + _RAMDISK_FILE.size + 16:
            return None
        options, kind, _, length, _ = _DEVICE_HEAD.unpack_from(data)
        file_kind, one, file_length, where = _RAMDISK_FILE.unpack_from(data, _DEVICE_HEAD.size)
        if (kind, file_kind, one, where) != (_RAMDISK_TYPE, _FILE_TYPE, 1, 5) or length != len(data) - 16:
            return None
        start = _DEVICE_HEAD.size + _RAMDISK_FILE.size
        (parent_length,) = struct.unpack_from("<I", data, start + 8)
        end = start - 12 + file_length
        if end != len(data) or not 16 <= parent_length <= end - start:
            return None
        path = data[start + parent_length : end].decode("utf-16-le", "replace").split("\0", 1)[0]
        return cls(options=guid_text(options), path=path, parent=data[start : start + parent_length])


class BcdObject:
    """One object of a store: its elements are read and set by their numbers."""

    def __init__(self, key: HiveKey) -> None:
        self._key = key
        self.id = key.name.lower()

    @property
    def type(self) -> int | None:
        """The object's type; None where it does not say."""
        description = self._key.subkey("Description")
        value = description.value("Type") if description else None
        return value.number if value else None

    @property
    def elements(self) -> tuple[int, ...]:
        """The numbers of its elements, in the order stored."""
        elements = self._key.subkey("Elements")
        names = [key.name for key in elements.subkeys] if elements else []
        return tuple(int(name, 16) for name in names if _ELEMENT_NAME.fullmatch(name))

    def raw(self, element: int) -> bytes | None:
        """An element's content as stored; None where the object does not have it."""
        key = self._key.key(f"Elements\\{element:08x}")
        value = key.value(_VALUE) if key else None
        return value.data if value else None

    def text(self, element: int) -> str | None:
        """A text, or the GUID of an object in lower case."""
        key = self._key.key(f"Elements\\{element:08x}")
        value = key.value(_VALUE) if key else None
        text = value.text if value else None
        return text.lower() if text and element_format(element) == ElementFormat.OBJECT else text

    def number(self, element: int) -> int | None:
        """A number or flag (0, 1)."""
        raw = self.raw(element)
        return int.from_bytes(raw[:8], "little") if raw else None

    def objects(self, element: int) -> tuple[str, ...]:
        """A list of objects."""
        key = self._key.key(f"Elements\\{element:08x}")
        value = key.value(_VALUE) if key else None
        return tuple(text.lower() for text in value.texts or ()) if value else ()

    def ramdisk(self, element: int) -> RamdiskDevice | None:
        """The ramdisk that a device element describes; None where it is something else."""
        raw = self.raw(element)
        return RamdiskDevice.unpack(raw) if raw else None

    def set_text(self, element: int, text: str) -> None:
        """Set a text or the GUID of an object."""
        self._set(element, ValueKind.SZ, sz(text))

    def set_number(self, element: int, number: int) -> None:
        """Set a number (8 bytes)."""
        self._set(element, ValueKind.BINARY, struct.pack("<Q", number))

    def set_flag(self, element: int, flag: bool) -> None:
        """Set a flag (1 byte)."""
        self._set(element, ValueKind.BINARY, bytes([flag]))

    def set_objects(self, element: int, ids: tuple[str, ...]) -> None:
        """Set a list of objects."""
        self._set(element, ValueKind.MULTI_SZ, multi_sz(*ids))

    def set_device(self, element: int, device: bytes) -> None:
        """Set a device: `boot_device()` or `RamdiskDevice.pack()`."""
        self._set(element, ValueKind.BINARY, device)

    def remove(self, element: int) -> bool:
        """Take an element away; False where the object did not have it."""
        elements = self._key.subkey("Elements")
        return elements is not None and elements.remove(f"{element:08x}")

    def _set(self, element: int, kind: ValueKind, data: bytes) -> None:
        self._key.make(f"Elements\\{element:08x}").set(_VALUE, kind, data)


class BcdStore:
    """A BCD store that can be changed."""

    def __init__(self, tree: HiveTree) -> None:
        objects = tree.root.subkey("Objects")
        if objects is None or tree.root.subkey("Description") is None:
            raise HiveError(f"the hive is not a BCD store: its root '{tree.root.name}' has no 'Objects'")
        self._tree = tree
        self._objects = objects

    @classmethod
    def read(cls, data: bytes) -> BcdStore:
        """The store in `data`. Raises HiveError where it is not one, or is dirty."""
        return cls(read_tree(data))

    @classmethod
    def new(cls, *, written: int) -> BcdStore:
        """A store without objects. `written`: FILETIME."""
        root = HiveKey(name="NewStoreRoot", written=written)
        description = root.make("Description")
        description.set("KeyName", ValueKind.SZ, sz("BCD00000000"))
        description.set("System", ValueKind.DWORD, dword(1))
        description.set("TreatAsSystem", ValueKind.DWORD, dword(1))
        root.make("Objects")
        return cls(HiveTree(root=root, written=written))

    def pack(self) -> bytes:
        """The store as a hive. Raises HiveError for what no hive can hold."""
        return hive_bytes(self._tree)

    def objects(self) -> Iterator[BcdObject]:
        """Every object."""
        for key in self._objects.subkeys:
            yield BcdObject(key)

    def object(self, id: str) -> BcdObject | None:
        """The object with that GUID."""
        key = self._objects.subkey(id)
        return BcdObject(key) if key else None

    def add(self, id: str, kind: ObjectType) -> BcdObject:
        """The object with that GUID, made with no elements where it is missing."""
        key = self._objects.subkey(id)
        if key is None:
            guid_bytes(id)
            key = self._objects.make(id)
            key.make("Description").set("Type", ValueKind.DWORD, dword(kind))
            key.make("Elements")
        return BcdObject(key)

    def default_loader(self) -> BcdObject | None:
        """The loader that is started without a menu: the default, else the first of the menu, else the only one."""
        manager = self.object(BOOT_MANAGER)
        if manager is not None:
            default = manager.text(Element.DEFAULT_OBJECT)
            for id in ((default,) if default else ()) + manager.objects(Element.DISPLAY_ORDER):
                found = self.object(id)
                if found is not None and found.type == ObjectType.LOADER:
                    return found
        loaders = [entry for entry in self.objects() if entry.type == ObjectType.LOADER]
        return loaders[0] if len(loaders) == 1 else None
