"""What is needed of 64-bit little-endian ELF files (System V ABI, "Object Files"): sections and needed libraries."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


class ElfError(ValueError):
    """Bytes that are not a 64-bit little-endian ELF file, or one whose tables point outside of it."""


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What the dynamic loader has to find for a file: the loader itself (empty for a library), and library names."""

    interpreter: str
    needed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Segment:
    type: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes) -> bool:
    """Whether `data` starts as an ELF file does."""
    return data[:4] == b"\x7fELF"


def dependencies(data: bytes) -> Dependencies:
    """PT_INTERP and every DT_NEEDED of an ELF file. Raises ElfError."""
    segments = _segments(data)
    interpreter = next((_slice(data, s.offset, s.size).rstrip(b"\0") for s in segments if s.type == _PT_INTERP), b"")
    dynamic = next((s for s in segments if s.type == _PT_DYNAMIC), None)
    if dynamic is None:
        return Dependencies(interpreter=_text(interpreter), needed=())
    tags = _dynamic_tags(data, dynamic)
    names = [value for tag, value in tags if tag == _DT_NEEDED]
    if not names:
        return Dependencies(interpreter=_text(interpreter), needed=())
    strings = _file_offset(segments, next((value for tag, value in tags if tag == _DT_STRTAB), 0))
    return Dependencies(
        interpreter=_text(interpreter), needed=tuple(_string(data, strings + name, "library name") for name in names)
    )


def section(data: bytes, name: str) -> bytes | None:
    """The content of the first section called `name`, None where there is none. Raises ElfError."""
    _check(data)
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    if count == 0:
        return None
    if entry_size < 64 or names_index >= count:
        raise ElfError(f"section headers of {entry_size} bytes, {count} of them, names in number {names_index}")
    headers = [
        struct.unpack("<IIQQQQ", _slice(data, table + index * entry_size, 40, "section header"))
        for index in range(count)
    ]
    names = headers[names_index][4]
    for header in headers:
        if _string(data, names + header[0], "section name") == name:
            return _slice(data, header[4], header[5], f"section {name}")
    return None


def _segments(data: bytes) -> list[_Segment]:
    _check(data)
    (table,) = struct.unpack_from("<Q", data, 0x20)
    entry_size, count = struct.unpack_from("<HH", data, 0x36)
    if count and entry_size < 56:
        raise ElfError(f"program headers of {entry_size} bytes")
    segments = []
    for index in range(count):
        header = struct.unpack("<IIQQQQ", _slice(data, table + index * entry_size, 40, "program header"))
        segments.append(_Segment(type=header[0], offset=header[2], address=header[3], size=header[5]))
    return segments


def _dynamic_tags(data: bytes, dynamic: _Segment) -> list[tuple[int, int]]:
    table = _slice(data, dynamic.offset, dynamic.size, "dynamic section")
    tags = []
    for offset in range(0, len(table) - 15, 16):
        tag, value = struct.unpack_from("<qQ", table, offset)
        if tag == _DT_NULL:
            break
        tags.append((tag, value))
    return tags


def _file_offset(segments: list[_Segment], address: int) -> int:
    for segment in segments:
        if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ElfError(f"address 0x{address:x} of the string table is in no segment")


def _check(data: bytes) -> None:
    if len(data) < 64 or not is_elf(data):
        raise ElfError(f"not an ELF file: starts with {data[:4].hex(' ')}")
    if data[4:6] != b"\x02\x01":
        raise ElfError(f"not a 64-bit little-endian ELF file: class {data[4]}, data {data[5]}")


def _slice(data: bytes, offset: int, size: int, what: str = "segment") -> bytes:
    if offset + size > len(data):
        raise ElfError(f"{what} ends at byte {offset + size} of {len(data)}")
    return data[offset : offset + size]


def _string(data: bytes, offset: int, what: str) -> str:
    end = data.find(b"\0", offset)
    if offset >= len(data) or end < 0:
        raise ElfError(f"{what} at byte {offset} does not end within the file")
    return _text(data[offset:end])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
