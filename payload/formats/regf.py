"""Windows registry hives (regf 1.3 to 1.6), read-only, one cell at a time from a file that may be 100 MB.

`payload.formats.regf_writer` writes them.

Source: "Windows registry file format specification" (M. Suhanov) and libregf's documentation. Offsets of cells count
from the end of the base block. A hive from a host that crashed is often dirty (its logs were not written back): it is
read as it is, and `Hive.dirty` says so. Whatever is damaged raises HiveError, never anything else.
"""

from __future__ import annotations

import enum
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BASE_BLOCK = 4096
SIGNATURE = b"regf"
NO_CELL = 0xFFFFFFFF

#: nk after its signature: flags, time, access, parent, subkeys, volatile subkeys, list, volatile list, values, list.
_KEY = struct.Struct("<2sHQIIIIIIII")
_KEY_SECURITY = 44
_KEY_CONTROL = 54
_KEY_NAME_LENGTH = 72
_KEY_NAME = 76
_SECURITY = 20
_VALUE = struct.Struct("<2sHIIIH")
_VALUE_NAME = 20
_ASCII_KEY = 0x0020
_ASCII_VALUE = 0x0001
_IN_PLACE = 0x80000000
_SEGMENT = 16344

_MAX_CELL = 1 << 20
_MAX_VALUE = 16 << 20
_MAX_DEPTH = 512
#: Cells read for one look-up. The widest key of a real SYSTEM hive (Services, Enum) has some thousand subkeys.
_MAX_CELLS = 200_000
#: Bytes read from one hive in all its look-ups: lists may lead to the same large cells again and again.
_MAX_READ = 64 << 20
#: Names have at most 255 characters (keys) and 16,383 (values), says "Registry element size limits" (Microsoft Learn).
_MAX_KEY = _KEY_NAME + 2 * 256
_MAX_VALUE_CELL = _VALUE_NAME + 2 * 16_384


class HiveError(ValueError):
    """A hive, or the part of it that was asked for, that cannot be read; the message says what is wrong with it."""


class ValueKind(enum.IntEnum):
    """The usual types of values."""

    NONE = 0
    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    MULTI_SZ = 7
    QWORD = 11


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value as stored. `kind` is a ValueKind or whatever number the hive has; the default value's name is empty."""

    name: str
    kind: int
    data: bytes

    @property
    def text(self) -> str | None:
        """The text of a string value up to its first NUL; None for other kinds."""
        if self.kind not in (ValueKind.SZ, ValueKind.EXPAND_SZ):
            return None
        return self.data[: len(self.data) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]

    @property
    def texts(self) -> tuple[str, ...] | None:
        """The texts of a MULTI_SZ value; None for other kinds."""
        if self.kind != ValueKind.MULTI_SZ:
            return None
        whole = self.data[: len(self.data) & ~1].decode("utf-16-le", "replace")
        return tuple(part for part in whole.split("\0") if part)

    @property
    def number(self) -> int | None:
        """The number in a DWORD or QWORD value; None for other kinds and wrong lengths."""
        if self.kind == ValueKind.DWORD_BIG_ENDIAN and len(self.data) == 4:
            return int.from_bytes(self.data, "big")
        if (self.kind, len(self.data)) in ((ValueKind.DWORD, 4), (ValueKind.QWORD, 8)):
            return int.from_bytes(self.data, "little")
        return None


class Hive:
    """A hive, read lazily from bytes or from a seekable stream, which must stay open as long as the hive is used."""

    def __init__(self, source: bytes | BinaryIO) -> None:
        self._stream = io.BytesIO(source) if isinstance(source, bytes) else source
        self._cells_left = _MAX_CELLS
        self._bytes_left = _MAX_READ
        base = self._read(0, BASE_BLOCK)
        if base[:4] != SIGNATURE:
            raise HiveError(f"a hive starts with 'regf', this file with {base[:4]!r}")
        first, second = struct.unpack_from("<II", base, 4)
        self.minor_version: int = struct.unpack_from("<I", base, 24)[0]
        #: When the hive was last written, as a FILETIME, and its file name as stored: the end of it, 64 bytes.
        self.written: int = struct.unpack_from("<Q", base, 12)[0]
        self.file_name: bytes = base[48:112]
        self._root: int = struct.unpack_from("<I", base, 36)[0]
        #: Whether the hive's last change was not finished, so that its logs may know more than it does.
        self.dirty: bool = first != second or not _checksum_fits(base)

    @property
    def root(self) -> Key:
        """The root key. Raises HiveError."""
        self._cells_left = _MAX_CELLS
        return self.key_at(self._root)

    def key(self, path: str) -> Key | None:
        """The key at a path such as r"ControlSet001\\Control", without regard to case; None where there is none."""
        key: Key | None = self.root
        names = [name for name in path.split("\\") if name]
        if len(names) > _MAX_DEPTH:
            raise HiveError(f"no hive is {len(names)} keys deep")
        for name in names:
            key = key.subkey(name) if key else None
        return key

    def value(self, path: str, name: str) -> Value | None:
        """The value `name` of the key at `path`; None where there is no such key or value. Raises HiveError."""
        key = self.key(path)
        return key.value(name) if key else None

    # What follows serves Key.

    def key_at(self, offset: int) -> Key:
        """The key whose nk cell is at `offset`."""
        cell = self.cell(offset, _MAX_KEY)
        if len(cell) < _KEY_NAME or cell[:2] != b"nk":
            raise HiveError(f"no key at {offset:#x}: found {cell[:2]!r}")
        return Key(self, cell)

    def cell(self, offset: int, limit: int = _MAX_CELL) -> bytes:
        """The content of the cell at `offset`, at most `limit` bytes of it."""
        self._cells_left -= 1
        if self._cells_left < 0:
            raise HiveError("the hive's lists are too long or lead in circles")
        if offset == NO_CELL:
            raise HiveError("a reference leads nowhere")
        start = BASE_BLOCK + offset
        (size,) = struct.unpack("<i", self._read(start, 4))
        # The size of a cell in use is negative. A dirty hive may refer to cells already marked free: still read.
        size = abs(size)
        if size < 8:
            raise HiveError(f"a cell of {size} bytes at {offset:#x}")
        return self._read(start + 4, min(size - 4, limit))

    def _read(self, start: int, length: int) -> bytes:
        self._bytes_left -= length
        if self._bytes_left < 0:
            raise HiveError(f"more than {_MAX_READ} bytes of the hive would have to be read")
        try:
            self._stream.seek(start)
            data = self._stream.read(length)
        except (OSError, ValueError, OverflowError) as error:
            raise HiveError(f"reading {length} bytes at {start:#x} failed: {error}") from error
        if len(data) < length:
            raise HiveError(f"the hive ends at {start + len(data):#x}, {length} bytes were to be read at {start:#x}")
        return data


class Key:
    """One key: its name, subkeys and values, read when asked for."""

    def __init__(self, hive: Hive, cell: bytes) -> None:
        self._hive = hive
        fields = _KEY.unpack_from(cell)
        #: The key's flags as stored, and when it was last written, as a FILETIME.
        self.flags: int = fields[1]
        self.written: int = fields[2]
        #: User, virtualization and debug flags: the upper half of the word that holds the longest subkey's name.
        self.control: int = struct.unpack_from("<H", cell, _KEY_CONTROL)[0]
        self._security, self._class_name = struct.unpack_from("<II", cell, _KEY_SECURITY)
        self._subkey_count, self._subkey_list = fields[5], fields[7]
        self._value_count, self._value_list = fields[9], fields[10]
        length, self._class_length = struct.unpack_from("<HH", cell, _KEY_NAME_LENGTH)
        self.name = _name(cell[_KEY_NAME : _KEY_NAME + length], length, ascii_only=bool(self.flags & _ASCII_KEY))

    @property
    def class_name(self) -> bytes:
        """The key's class name as stored (UTF-16-LE); empty where it has none. Raises HiveError."""
        if not self._class_length or self._class_name == NO_CELL:
            return b""
        cell = self._hive.cell(self._class_name, max(self._class_length, 8))
        if len(cell) < self._class_length:
            raise HiveError(f"a class name of {self._class_length} bytes does not fit its cell")
        return cell[: self._class_length]

    @property
    def security(self) -> bytes | None:
        """The key's self-relative security descriptor ([MS-DTYP] 2.4.6); None where it has none. Raises HiveError."""
        if self._security == NO_CELL:
            return None
        cell = self._hive.cell(self._security)
        if len(cell) < _SECURITY or cell[:2] != b"sk":
            raise HiveError(f"no security descriptor at {self._security:#x}: found {cell[:2]!r}")
        (length,) = struct.unpack_from("<I", cell, 16)
        if len(cell) < _SECURITY + length:
            raise HiveError(f"a security descriptor of {length} bytes does not fit its cell")
        return cell[_SECURITY : _SECURITY + length]

    def subkeys(self) -> Iterator[Key]:
        """The subkeys in the order stored. Raises HiveError at the first that is damaged."""
        for offset in self._subkey_offsets():
            yield self._hive.key_at(offset)

    def subkey(self, name: str) -> Key | None:
        """The subkey of that name, without regard to case. Raises HiveError where damage may hide it."""
        damage: HiveError | None = None
        for offset in self._subkey_offsets():
            try:
                key = self._hive.key_at(offset)
            except HiveError as error:
                damage = error
                continue
            if key.name.casefold() == name.casefold():
                return key
        if damage:
            raise damage
        return None

    def values(self) -> Iterator[Value]:
        """The values in the order stored. Raises HiveError at the first that is damaged."""
        for offset in self._value_offsets():
            yield self._hive_value(self._hive.cell(offset, _MAX_VALUE_CELL))

    def value(self, name: str) -> Value | None:
        """The value of that name, without regard to case; "" is the default value. Raises HiveError."""
        for offset in self._value_offsets():
            cell = self._hive.cell(offset, _MAX_VALUE_CELL)
            if _value_name(cell).casefold() == name.casefold():
                return self._hive_value(cell)
        return None

    def _subkey_offsets(self) -> Iterator[int]:
        if self._subkey_count:
            yield from self._list_offsets(self._subkey_list, deeper=True)

    def _list_offsets(self, at: int, *, deeper: bool) -> Iterator[int]:
        """The offsets in an lf, lh or li list, or in the lists that an ri list (one level only) refers to."""
        cell = self._hive.cell(at)
        kind, count = cell[:2], int.from_bytes(cell[2:4], "little")
        step = {b"lf": 8, b"lh": 8, b"li": 4, b"ri": 4}.get(kind)
        if step is None or (kind == b"ri" and not deeper):
            raise HiveError(f"no list of subkeys at {at:#x}: found {kind!r}")
        if 4 + count * step > len(cell):
            raise HiveError(f"a list of {count} subkeys at {at:#x} does not fit its cell")
        for index in range(count):
            (offset,) = struct.unpack_from("<I", cell, 4 + index * step)
            if kind == b"ri":
                yield from self._list_offsets(offset, deeper=False)
            else:
                yield offset

    def _value_offsets(self) -> tuple[int, ...]:
        count = self._value_count
        if not count:
            return ()
        cell = self._hive.cell(self._value_list)
        if 4 * count > len(cell):
            raise HiveError(f"a list of {count} values at {self._value_list:#x} does not fit its cell")
        return struct.unpack_from(f"<{count}I", cell)

    def _hive_value(self, cell: bytes) -> Value:
        name = _value_name(cell)
        _, _, size, offset, kind, _flags = _VALUE.unpack_from(cell)
        if size & _IN_PLACE:
            # Up to 4 bytes lie where the offset would be.
            data = struct.pack("<I", offset)[: min(size & ~_IN_PLACE, 4)]
        else:
            data = self._data(offset, size) if size else b""
        return Value(name=name, kind=kind, data=data)

    def _data(self, offset: int, size: int) -> bytes:
        if size > _MAX_VALUE:
            raise HiveError(f"a value of {size} bytes")
        cell = self._hive.cell(offset, max(size, 8))
        if size <= _SEGMENT or cell[:2] != b"db" or self._hive.minor_version < 4:
            if len(cell) < size:
                raise HiveError(f"a value of {size} bytes at {offset:#x} has only {len(cell)}")
            return cell[:size]
        count, segments_at = struct.unpack_from("<HI", cell, 2)
        segments = self._hive.cell(segments_at)
        if count * _SEGMENT < size or 4 * count > len(segments):
            raise HiveError(f"a value of {size} bytes in {count} parts at {offset:#x}")
        parts = []
        for index in range(-(-size // _SEGMENT)):
            parts.append(self._hive.cell(struct.unpack_from("<I", segments, 4 * index)[0], _SEGMENT))
        data = b"".join(parts)
        if len(data) < size:
            raise HiveError(f"a value of {size} bytes at {offset:#x} has only {len(data)}")
        return data[:size]


def _value_name(cell: bytes) -> str:
    if len(cell) < _VALUE_NAME or cell[:2] != b"vk":
        raise HiveError(f"no value where one should be: found {cell[:2]!r}")
    length, flags = struct.unpack_from("<H", cell, 2)[0], struct.unpack_from("<H", cell, 16)[0]
    return _name(cell[_VALUE_NAME : _VALUE_NAME + length], length, ascii_only=bool(flags & _ASCII_VALUE))


def _name(raw: bytes, length: int, *, ascii_only: bool) -> str:
    if len(raw) < length:
        raise HiveError(f"a name of {length} bytes does not fit its cell")
    # "Compressed" names are one byte a character, Latin-1.
    return raw.decode("latin-1") if ascii_only else raw.decode("utf-16-le", "replace")


def _checksum_fits(base: bytes) -> bool:
    total = 0
    for (word,) in struct.iter_unpack("<I", base[:508]):
        total ^= word
    total = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)
    return bool(total == struct.unpack_from("<I", base, 508)[0])
