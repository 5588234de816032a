"""A registry hive of a few keys, written from nothing, so that broken disks hold hives that readers can read.

Source: Maxim Suhanov, "Windows registry file format specification". One hive bin chain, ASCII key names, values
below 16 KiB, no class names; sub-key lists are `lh`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_NONE = 0xFFFFFFFF
_BIN = 4096
_REG_SZ = 1
#: 2023-10-12 as a FILETIME: hives carry their own times.
_WRITTEN = 133_416_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class HiveKey:
    """A key: its values are (name, type, bytes)."""

    name: str
    values: tuple[tuple[str, int, bytes], ...] = ()
    keys: tuple[HiveKey, ...] = ()


def text_value(name: str, text: str) -> tuple[str, int, bytes]:
    """A REG_SZ value."""
    return name, _REG_SZ, (text + "\0").encode("utf-16-le")


def hive_bytes(root: HiveKey) -> bytes:
    """The hive whose root key is `root`, clean (both sequence numbers equal) and with a right checksum."""
    cells = _Cells()
    security = cells.add(bytes(20 + len(_SECURITY)))
    root_offset, count = _write_key(cells, root, parent=0, security=security, is_root=True)
    cells.put(security, b"sk" + struct.pack("<HIIII", 0, security, security, count, len(_SECURITY)) + _SECURITY)
    bins = cells.bins()
    base = bytearray(_BIN)
    struct.pack_into("<4sIIQIIIIIII", base, 0, b"regf", 1, 1, _WRITTEN, 1, 5, 0, 1, root_offset, len(bins), 1)
    checksum = 0
    for word in struct.unpack_from("<127I", base):
        checksum ^= word
    struct.pack_into("<I", base, 508, {0: 1, _NONE: _NONE - 1}.get(checksum, checksum))
    return bytes(base) + bins


class _Cells:
    """Allocated cells in hive bins; offsets are relative to the first bin."""

    def __init__(self) -> None:
        self._heap = bytearray(32)
        self._starts = [0]

    def add(self, data: bytes) -> int:
        size = (len(data) + 4 + 7) & ~7
        start = self._starts[-1]
        room = -(-(len(self._heap) - start) // _BIN) * _BIN - (len(self._heap) - start)
        if size > room:
            self._fill(room)
            self._starts.append(len(self._heap))
            self._heap += bytes(32)
        offset = len(self._heap)
        self._heap += struct.pack("<i", -size) + data.ljust(size - 4, b"\0")
        return offset

    def put(self, offset: int, data: bytes) -> None:
        self._heap[offset + 4 : offset + 4 + len(data)] = data

    def bins(self) -> bytes:
        self._fill(-len(self._heap) % _BIN)
        for start, end in zip(self._starts, [*self._starts[1:], len(self._heap)], strict=True):
            self._heap[start : start + 32] = struct.pack("<4sII8xQI", b"hbin", start, end - start, _WRITTEN, 0)
        return bytes(self._heap)

    def _fill(self, size: int) -> None:
        if size:
            self._heap += struct.pack("<i", size) + bytes(size - 4)


def _write_key(cells: _Cells, key: HiveKey, *, parent: int, security: int, is_root: bool = False) -> tuple[int, int]:
    """Write a key and all below it; its offset, and how many keys were written."""
    name = key.name.encode("latin-1")
    offset = cells.add(bytes(76 + len(name)))
    values = [_write_value(cells, *value) for value in key.values]
    value_list = cells.add(struct.pack(f"<{len(values)}I", *values)) if values else _NONE
    children = sorted(key.keys, key=lambda child: child.name.upper())
    written = [_write_key(cells, child, parent=offset, security=security) for child in children]
    pairs = [(where, _name_hash(child.name)) for (where, _), child in zip(written, children, strict=True)]
    key_list = _NONE
    if pairs:
        key_list = cells.add(
            struct.pack("<2sH", b"lh", len(pairs)) + b"".join(struct.pack("<II", *pair) for pair in pairs)
        )
    flags = 0x20 | (0x0C if is_root else 0)
    longest_key = max((2 * len(child.name) for child in children), default=0)
    longest_name = max((2 * len(value[0]) for value in key.values), default=0)
    longest_data = max((len(value[2]) for value in key.values), default=0)
    cells.put(
        offset,
        b"nk"
        + struct.pack("<HQII", flags, _WRITTEN, 0, parent)
        + struct.pack("<IIIIII", len(pairs), 0, key_list, _NONE, len(values), value_list)
        + struct.pack("<II", security, _NONE)
        + struct.pack("<IIIII", longest_key, 0, longest_name, longest_data, 0)
        + struct.pack("<HH", len(name), 0)
        + name,
    )
    return offset, 1 + sum(count for _, count in written)


def _write_value(cells: _Cells, name: str, kind: int, data: bytes) -> int:
    encoded = name.encode("latin-1")
    if len(data) <= 4:
        size, where = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
    else:
        size, where = len(data), cells.add(data)
    return cells.add(b"vk" + struct.pack("<HIIIHH", len(encoded), size, where, kind, 1 if encoded else 0, 0) + encoded)


def _name_hash(name: str) -> int:
    value = 0
    for character in name.upper():
        value = (value * 37 + ord(character)) & 0xFFFFFFFF
    return value


def _sid(*parts: int) -> bytes:
    return struct.pack("<BB6s", 1, len(parts), b"\0\0\0\0\0\5") + struct.pack(f"<{len(parts)}I", *parts)


def _security_descriptor() -> bytes:
    """Owner Administrators, group SYSTEM, full access for both ([MS-DTYP] 2.4.6, self-relative)."""
    system, administrators = _sid(18), _sid(32, 544)
    entries = b"".join(struct.pack("<BBHI", 0, 2, 8 + len(sid), 0x000F003F) + sid for sid in (system, administrators))
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 2, 0) + entries
    owner = 20 + len(acl)
    return (
        struct.pack("<BBHIIII", 1, 0, 0x8004, owner, owner + len(administrators), 0, 20) + acl + administrators + system
    )


_SECURITY = _security_descriptor()
