"""Registry hives as trees that can be changed, and written anew (regf 1.3 to 1.6).

Source: "Windows registry file format specification" (M. Suhanov). A hive is read whole by `payload.formats.regf`, its
tree is changed, and a new hive is laid out from it: no cell of the old file is reused, its logs do not belong to the
new one. Meant for small hives (BCD stores); the same tree gives the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from payload.formats.regf import BASE_BLOCK, NO_CELL, SIGNATURE, Hive, HiveError, Key, Value, ValueKind

_BIN = 4096
_BIN_HEADER = 32
_KEY_FIXED = 76
_SECURITY_FIXED = 20
_ASCII_KEY, _ROOT_KEY = 0x0020, 0x000C
_ASCII_VALUE = 0x0001
_IN_PLACE = 0x80000000
#: Values longer than this are cut into segments by regf 1.4 and later ("db").
_SEGMENT = 16344
_LARGEST_VALUE = 16 << 20
#: Subkeys in one lh list; more get several, below one ri list. Windows keeps a list within one page, too.
_LIST = 500
_DEEPEST = 500
_LONGEST_KEY, _LONGEST_VALUE = 255, 16383
_MINOR_VERSIONS = (3, 4, 5, 6)


def _sid(*parts: int) -> bytes:
    return struct.pack("<BB6s", 1, len(parts), b"\0\0\0\0\0\5") + struct.pack(f"<{len(parts)}I", *parts)


def _system_and_administrators() -> bytes:
    system, administrators = _sid(18), _sid(32, 544)
    entries = b"".join(struct.pack("<BBHI", 0, 2, 8 + len(sid), 0x000F003F) + sid for sid in (system, administrators))
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 2, 0) + entries
    owner = 20 + len(acl)
    header = struct.pack("<BBHIIII", 1, 0, 0x8004, owner, owner + len(administrators), 0, 20)
    return header + acl + administrators + system


#: Owner Administrators, group SYSTEM, full access for both ([MS-DTYP] 2.4.6, self-relative).
DEFAULT_SECURITY = _system_and_administrators()


@dataclass(kw_only=True)
class HiveKey:
    """A key that can be changed. `written`: FILETIME. `class_name`: UTF-16-LE. `flags` and `control` are as stored;
    the flags that say how the name is stored and that it is the root are set when it is written.
    """

    name: str
    values: list[Value] = field(default_factory=list)
    subkeys: list[HiveKey] = field(default_factory=list)
    security: bytes = DEFAULT_SECURITY
    class_name: bytes = b""
    written: int = 0
    flags: int = 0
    control: int = 0

    def subkey(self, name: str) -> HiveKey | None:
        """The subkey of that name, without regard to case."""
        wanted = upcase(name)
        return next((key for key in self.subkeys if upcase(key.name) == wanted), None)

    def key(self, path: str) -> HiveKey | None:
        """The key at a path such as r"Objects\\{...}\\Elements" below this one."""
        key: HiveKey | None = self
        for name in (part for part in path.split("\\") if part):
            key = key.subkey(name) if key else None
        return key

    def make(self, path: str) -> HiveKey:
        """The key at `path`, made where it is missing, with this key's security and time."""
        key = self
        for name in (part for part in path.split("\\") if part):
            found = key.subkey(name)
            if found is None:
                found = HiveKey(name=name, security=key.security, written=key.written)
                key.subkeys.append(found)
            key = found
        return key

    def remove(self, name: str) -> bool:
        """Take the subkey `name` away with all below it; False where there was none."""
        key = self.subkey(name)
        if key is None:
            return False
        self.subkeys = [other for other in self.subkeys if other is not key]
        return True

    def value(self, name: str) -> Value | None:
        """The value of that name, without regard to case; "" is the default value."""
        wanted = upcase(name)
        return next((value for value in self.values if upcase(value.name) == wanted), None)

    def set(self, name: str, kind: int, data: bytes) -> None:
        """Give the value `name` a type and content, in its place where it exists."""
        new = Value(name=name, kind=kind, data=data)
        wanted = upcase(name)
        for index, value in enumerate(self.values):
            if upcase(value.name) == wanted:
                self.values[index] = Value(name=value.name, kind=kind, data=data)
                return
        self.values.append(new)

    def walk(self) -> Iterator[HiveKey]:
        """This key and all below it, parents first."""
        pending = [self]
        while pending:
            key = pending.pop()
            yield key
            pending.extend(reversed(key.subkeys))


@dataclass(kw_only=True)
class HiveTree:
    """A whole hive. `written`: FILETIME; `file_name` as stored in the base block (UTF-16-LE, 64 bytes)."""

    root: HiveKey
    minor_version: int = 3
    written: int = 0
    file_name: bytes = bytes(64)


def sz(text: str) -> bytes:
    """The content of a REG_SZ value."""
    return (text + "\0").encode("utf-16-le")


def multi_sz(*texts: str) -> bytes:
    """The content of a REG_MULTI_SZ value."""
    return b"".join(sz(text) for text in texts) + b"\0\0"


def dword(number: int) -> bytes:
    """The content of a REG_DWORD value."""
    return struct.pack("<I", number)


def string_value(name: str, text: str) -> Value:
    """A REG_SZ value."""
    return Value(name=name, kind=ValueKind.SZ, data=sz(text))


def filetime(seconds: int) -> int:
    """Seconds since 1970 UTC as a FILETIME (100 ns since 1601)."""
    return (seconds + 11_644_473_600) * 10_000_000


def upcase(name: str) -> str:
    """A name as hives compare it: every character by itself, so that "\N{LATIN SMALL LETTER SHARP S}" stays one."""
    return "".join(upper if len(upper := character.upper()) == 1 else character for character in name)


def read_tree(data: bytes) -> HiveTree:
    """The hive in `data`, whole. Raises HiveError where it is damaged, or dirty: then its logs know more than it does,
    and writing it anew would lose that.
    """
    hive = Hive(data)
    if hive.dirty:
        raise HiveError("the hive's last change was not finished (it is dirty), so it cannot be edited")
    left = [len(data)]
    root = _read_key(hive.root, left)
    pending = [(hive.root, root, 1)]
    while pending:
        source, target, depth = pending.pop()
        if depth > _DEEPEST:
            raise HiveError(f"no hive is more than {_DEEPEST} keys deep")
        for subkey in source.subkeys():
            below = _read_key(subkey, left)
            target.subkeys.append(below)
            pending.append((subkey, below, depth + 1))
    return HiveTree(root=root, minor_version=hive.minor_version, written=hive.written, file_name=hive.file_name)


def _read_key(key: Key, left: list[int]) -> HiveKey:
    """One key without its subkeys. `left`: how many bytes of values the hive can still hold."""
    values = []
    for value in key.values():
        left[0] -= len(value.data)
        if left[0] < 0:
            raise HiveError("the hive's values are longer than the hive: some share their cells")
        _check_text(value.name)
        values.append(value)
    _check_text(key.name)
    return HiveKey(
        name=key.name,
        values=values,
        security=key.security or DEFAULT_SECURITY,
        class_name=key.class_name,
        written=key.written,
        flags=key.flags & ~(_ASCII_KEY | _ROOT_KEY),
        control=key.control,
    )


def _check_text(name: str) -> None:
    # The reader puts this where a name is not UTF-16; written back, the name would be another one.
    if "\N{REPLACEMENT CHARACTER}" in name:
        raise HiveError(f"the name {name!r} in the hive is not UTF-16")


def hive_bytes(tree: HiveTree) -> bytes:
    """The hive that holds `tree`: clean, with lh lists, big values where its version has them, and a right checksum.

    Raises HiveError for what no hive can hold: a name too long or given twice, a backslash in a key's name.
    """
    if tree.minor_version not in _MINOR_VERSIONS:
        raise HiveError(f"hives of version 1.{tree.minor_version} are not written")
    _check_tree(tree.root)
    writer = _Writer(tree)
    root = writer.key(tree.root, NO_CELL, is_root=True)
    writer.finish_security()
    bins = writer.cells.bins(tree.written)
    base = bytearray(BASE_BLOCK)
    head = struct.Struct("<4sIIQIIIIIII")
    head.pack_into(base, 0, SIGNATURE, 1, 1, tree.written, 1, tree.minor_version, 0, 1, root, len(bins), 1)
    name = tree.file_name[:64]
    base[48 : 48 + len(name)] = name
    struct.pack_into("<I", base, 508, base_checksum(base))
    return bytes(base) + bins


def _check_tree(root: HiveKey) -> None:
    pending = [(root, 1)]
    while pending:
        key, depth = pending.pop()
        if depth > _DEEPEST:
            raise HiveError(f"no hive is more than {_DEEPEST} keys deep")
        if not 1 <= _units(key.name) <= _LONGEST_KEY or "\\" in key.name:
            raise HiveError(f"{key.name!r} cannot be the name of a key")
        for value in key.values:
            if _units(value.name) > _LONGEST_VALUE or len(value.data) > _LARGEST_VALUE:
                raise HiveError(f"the value {value.name[:40]!r} of {key.name!r} is too long")
        for names in ([sub.name for sub in key.subkeys], [value.name for value in key.values]):
            if len({upcase(name) for name in names}) < len(names):
                raise HiveError(f"{key.name!r} has two subkeys or values of one name")
        if len(key.class_name) > 0xFFFF:
            raise HiveError(f"the class name of {key.name!r} is too long")
        pending.extend((below, depth + 1) for below in key.subkeys)


def _units(name: str) -> int:
    try:
        return len(name.encode("utf-16-le")) // 2
    except UnicodeEncodeError as error:
        raise HiveError(f"{name!r} is not Unicode") from error


class _Cells:
    """Allocated cells in hive bins; offsets count from the first bin."""

    def __init__(self) -> None:
        self._heap = bytearray(_BIN_HEADER)
        self._starts = [0]

    def add(self, data: bytes) -> int:
        """A new cell with `data` in it. No cell crosses the end of its bin; one larger than a page has its own."""
        size = (len(data) + 4 + 7) & ~7
        used = len(self._heap) - self._starts[-1]
        room = -used % _BIN
        if size > room and used > _BIN_HEADER:
            self._free(room)
            self._starts.append(len(self._heap))
            self._heap += bytes(_BIN_HEADER)
        offset = len(self._heap)
        self._heap += struct.pack("<i", -size) + data.ljust(size - 4, b"\0")
        return offset

    def put(self, offset: int, data: bytes) -> None:
        """Write `data` into the cell at `offset`."""
        self._heap[offset + 4 : offset + 4 + len(data)] = data

    def bins(self, written: int) -> bytes:
        """All bins, the last filled up."""
        self._free(-len(self._heap) % _BIN)
        for start, end in zip(self._starts, [*self._starts[1:], len(self._heap)], strict=True):
            header = struct.pack("<4sII8xQI", b"hbin", start, end - start, 0 if start else written, 0)
            self._heap[start : start + _BIN_HEADER] = header
        return bytes(self._heap)

    def _free(self, size: int) -> None:
        if size:
            self._heap += struct.pack("<i", size) + bytes(size - 4)


class _Writer:
    """Lays keys out as cells. Security cells are shared by the keys that have the same descriptor."""

    def __init__(self, tree: HiveTree) -> None:
        self.cells = _Cells()
        self._big_values = tree.minor_version >= 4
        self._security: dict[bytes, int] = {}
        self._users: dict[bytes, int] = {}

    def key(self, key: HiveKey, parent: int, *, is_root: bool = False) -> int:
        """Write a key and all below it; the offset of its nk cell."""
        name, ascii_only = _stored(key.name)
        offset = self.cells.add(bytes(_KEY_FIXED + len(name)))
        security = self._security_cell(key.security)
        class_name = self.cells.add(key.class_name) if key.class_name else NO_CELL
        values = [self._value(value) for value in key.values]
        value_list = self.cells.add(struct.pack(f"<{len(values)}I", *values)) if values else NO_CELL
        subkeys = sorted(key.subkeys, key=lambda below: upcase(below.name).encode("utf-16-be"))
        below = []
        for subkey in subkeys:
            below.append((self.key(subkey, offset), _name_hash(subkey.name)))
        flags = key.flags & ~(_ASCII_KEY | _ROOT_KEY)
        flags |= (_ASCII_KEY if ascii_only else 0) | (_ROOT_KEY if is_root else 0)
        fields = (
            struct.pack("<2sHQII", b"nk", flags, key.written, 0, 0 if parent == NO_CELL else parent),
            struct.pack("<IIII", len(below), 0, self._subkey_list(below), NO_CELL),
            struct.pack("<IIII", len(values), value_list, security, class_name),
            struct.pack(
                "<HHI", max((2 * _units(k.name) for k in subkeys), default=0), key.control, _longest_class(key)
            ),
            struct.pack("<II", max((2 * _units(v.name) for v in key.values), default=0), _longest_data(key)),
            struct.pack("<IHH", 0, len(name), len(key.class_name)),
            name,
        )
        self.cells.put(offset, b"".join(fields))
        return offset

    def finish_security(self) -> None:
        """Write the sk cells: a ring, each with the number of keys that use it."""
        ring = list(self._security.items())
        for index, (descriptor, offset) in enumerate(ring):
            following, before = ring[(index + 1) % len(ring)][1], ring[index - 1][1]
            head = struct.pack("<2sHIIII", b"sk", 0, following, before, self._users[descriptor], len(descriptor))
            self.cells.put(offset, head + descriptor)

    def _security_cell(self, descriptor: bytes) -> int:
        if descriptor not in self._security:
            self._security[descriptor] = self.cells.add(bytes(_SECURITY_FIXED + len(descriptor)))
        self._users[descriptor] = self._users.get(descriptor, 0) + 1
        return self._security[descriptor]

    def _subkey_list(self, below: list[tuple[int, int]]) -> int:
        if not below:
            return NO_CELL
        lists = [self._leaf(below[at : at + _LIST]) for at in range(0, len(below), _LIST)]
        if len(lists) == 1:
            return lists[0]
        return self.cells.add(struct.pack(f"<2sH{len(lists)}I", b"ri", len(lists), *lists))

    def _leaf(self, below: list[tuple[int, int]]) -> int:
        pairs = b"".join(struct.pack("<II", offset, name_hash) for offset, name_hash in below)
        return self.cells.add(struct.pack("<2sH", b"lh", len(below)) + pairs)

    def _value(self, value: Value) -> int:
        name, ascii_only = _stored(value.name)
        size, where = len(value.data), 0
        if size <= 4:
            # Up to 4 bytes lie where the offset would be.
            size, where = size | _IN_PLACE, int.from_bytes(value.data.ljust(4, b"\0"), "little")
        elif size > _SEGMENT and self._big_values:
            where = self._segments(value.data)
        else:
            where = self.cells.add(value.data)
        flags = _ASCII_VALUE if ascii_only and name else 0
        return self.cells.add(struct.pack("<2sHIIIHH", b"vk", len(name), size, where, value.kind, flags, 0) + name)

    def _segments(self, data: bytes) -> int:
        # A segment's cell is 4 bytes longer than what it holds.
        segments = [self.cells.add(data[at : at + _SEGMENT] + bytes(4)) for at in range(0, len(data), _SEGMENT)]
        segment_list = self.cells.add(struct.pack(f"<{len(segments)}I", *segments))
        return self.cells.add(struct.pack("<2sHII", b"db", len(segments), segment_list, 0))


def _stored(name: str) -> tuple[bytes, bool]:
    """A name's bytes, and whether it is stored as one byte a character."""
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), False


def _longest_class(key: HiveKey) -> int:
    return max((len(below.class_name) for below in key.subkeys), default=0)


def _longest_data(key: HiveKey) -> int:
    return max((len(value.data) for value in key.values), default=0)


def _name_hash(name: str) -> int:
    """The hash in an lh list, over UTF-16 units."""
    value = 0
    for (unit,) in struct.iter_unpack("<H", upcase(name).encode("utf-16-le")):
        value = (value * 37 + unit) & 0xFFFFFFFF
    return value


def base_checksum(base: bytes | bytearray) -> int:
    """The checksum of a base block: at 508, of the bytes before."""
    total = 0
    for (word,) in struct.iter_unpack("<I", base[:508]):
        total ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)
