"""Makes registry hives for tests: small, complete, and in every list form that Windows uses."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SEGMENT = 16344


@dataclass
class MakeKey:
    """A key to be: values are name -> (type, bytes)."""

    name: str
    values: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    subkeys: list[MakeKey] = field(default_factory=list)

    def at(self, path: str) -> MakeKey:
        """The key at a path below this one, made where it is missing."""
        key = self
        for name in path.split("\\"):
            found = next((sub for sub in key.subkeys if sub.name == name), None)
            if found is None:
                found = MakeKey(name)
                key.subkeys.append(found)
            key = found
        return key


def sz(text: str) -> tuple[int, bytes]:
    """A REG_SZ value."""
    return 1, (text + "\0").encode("utf-16-le")


def dword(number: int) -> tuple[int, bytes]:
    """A REG_DWORD value."""
    return 4, struct.pack("<I", number)


class HiveMaker:
    """Lays a tree of keys out as a hive. `list_kind`: lf, lh, li, or ri (of li lists with two keys each)."""

    def __init__(self, list_kind: str = "lh") -> None:
        self._list_kind = list_kind
        self._cells = bytearray()

    def make(self, root: MakeKey, *, dirty: bool = False) -> bytes:
        """The hive's bytes: base block and one hbin."""
        self._cells = bytearray(32)
        at_root = self._key(root, 0xFFFFFFFF, 0x2C)
        free = -len(self._cells) % 4096
        if free:
            self._cells += struct.pack("<i", free) + bytes(free - 4)
        struct.pack_into("<4sII", self._cells, 0, b"hbin", 0, len(self._cells))
        base = bytearray(4096)
        struct.pack_into(
            "<4sIIQIIIIII", base, 0, b"regf", 7, 6 if dirty else 7, 0, 1, 5, 0, 1, at_root, len(self._cells)
        )
        struct.pack_into("<I", base, 44, 1)
        total = 0
        for (word,) in struct.iter_unpack("<I", base[:508]):
            total ^= word
        struct.pack_into("<I", base, 508, total)
        return bytes(base + self._cells)

    def _cell(self, data: bytes) -> int:
        # Cells are multiples of 8 bytes; every key starts a cell that ends within the one large hbin.
        offset = len(self._cells)
        size = (len(data) + 4 + 7) & ~7
        self._cells += struct.pack("<i", -size) + data + bytes(size - 4 - len(data))
        return offset

    def _key(self, key: MakeKey, parent: int, flags: int) -> int:
        narrow = all(ord(character) < 256 for character in key.name)
        name = key.name.encode("latin-1" if narrow else "utf-16-le")
        flags = flags if narrow else flags & ~0x20
        at = self._cell(bytes(76 + len(name)))
        value_offsets = [self._value(*item) for item in key.values.items()]
        value_list = self._cell(struct.pack(f"<{len(value_offsets)}I", *value_offsets)) if value_offsets else 0xFFFFFFFF
        subkeys = sorted(key.subkeys, key=lambda sub: sub.name.upper())
        offsets = [(self._key(sub, at, 0x20), sub.name) for sub in subkeys]
        sub_list = self._list(offsets) if offsets else 0xFFFFFFFF
        body = struct.pack(
            "<2sHQIIIIIIIIIIIIIIIHH", b"nk", flags, 0, 0, parent, len(offsets), 0, sub_list, 0xFFFFFFFF,
            len(value_offsets), value_list, 0xFFFFFFFF, 0xFFFFFFFF, 64, 0, 64, 1 << 16, 0, len(name), 0,
        )  # fmt: skip
        self._cells[at + 4 : at + 4 + len(body) + len(name)] = body + name
        return at

    def _value(self, name: str, kind_and_data: tuple[int, bytes]) -> int:
        kind, data = kind_and_data
        raw = name.encode("latin-1")
        if len(data) <= 4:
            size, place = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
        else:
            size, place = len(data), self._data(data)
        return self._cell(b"vk" + struct.pack("<HIIIHH", len(raw), size, place, kind, 1, 0) + raw)

    def _data(self, data: bytes) -> int:
        if len(data) <= SEGMENT:
            return self._cell(data)
        # In a big value each segment's cell has 4 bytes more than the segment.
        parts = [self._cell(data[i : i + SEGMENT] + bytes(4)) for i in range(0, len(data), SEGMENT)]
        at_list = self._cell(struct.pack(f"<{len(parts)}I", *parts))
        return self._cell(struct.pack("<2sHII", b"db", len(parts), at_list, 0))

    def _list(self, offsets: list[tuple[int, str]]) -> int:
        kind = self._list_kind
        if kind == "ri":
            halves = [self._plain_list(offsets[i : i + 2]) for i in range(0, len(offsets), 2)]
            return self._cell(struct.pack("<2sH", b"ri", len(halves)) + struct.pack(f"<{len(halves)}I", *halves))
        if kind == "li":
            return self._plain_list(offsets)
        packed = b"".join(struct.pack("<II", at, _hint(kind, name)) for at, name in offsets)
        return self._cell(struct.pack("<2sH", kind.encode(), len(offsets)) + packed)

    def _plain_list(self, offsets: list[tuple[int, str]]) -> int:
        packed = b"".join(struct.pack("<I", at) for at, _ in offsets)
        return self._cell(struct.pack("<2sH", b"li", len(offsets)) + packed)


def _hint(kind: str, name: str) -> int:
    if kind == "lf":
        return int.from_bytes(name.encode("latin-1", "replace")[:4].ljust(4, b"\0"), "little")
    value = 0
    for character in name.upper():
        value = (value * 37 + ord(character)) & 0xFFFFFFFF
    return value


def system_hive(computer_name: str, *, control_set: int = 1, dirty: bool = False) -> bytes:
    """A SYSTEM hive with a computer name in the selected control set (and another name in every other one)."""
    root = MakeKey("ROOT")
    root.at("Select").values["Current"] = dword(control_set)
    for number in sorted({1, control_set}):
        name = computer_name if number == control_set else "SOME-OTHER"
        root.at(rf"ControlSet{number:03d}\Control\ComputerName\ComputerName").values["ComputerName"] = sz(name)
    return HiveMaker().make(root, dirty=dirty)


def software_hive(product: str = "Windows 10 Pro", build: str = "19045", revision: int = 4529) -> bytes:
    """A SOFTWARE hive with the version of Windows."""
    root = MakeKey("ROOT")
    version = root.at(r"Microsoft\Windows NT\CurrentVersion")
    version.values |= {
        "ProductName": sz(product), "CurrentBuild": sz(build), "UBR": dword(revision), "DisplayVersion": sz("22H2"),
    }  # fmt: skip
    return HiveMaker().make(root)
