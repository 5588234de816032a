"""What is needed of PE files (Microsoft, "PE Format"): the machine, the imported DLLs, and whether Wine made them."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PE32, _PE32_PLUS = 0x10B, 0x20B
_IMPORT, _SECURITY, _DELAY_IMPORT = 1, 4, 13
_IMPORT_SIZE, _DELAY_SIZE, _SECTION_SIZE = 20, 32, 40
#: More descriptors than any file has: a table that does not end is damaged.
_MOST_DESCRIPTORS = 4096
_LONGEST_NAME = 512
#: include/wine/asm.h and tools/winebuild: Wine's own DLLs say so between the DOS header and its stub.
_WINE_SIGNATURES = (b"Wine builtin DLL", b"Wine placeholder DLL")


class PeError(ValueError):
    """Bytes that are not a PE file, or one whose tables point outside of it."""


class Machine(enum.IntEnum):
    """IMAGE_FILE_MACHINE_*: those that Windows PE exists for, and the one that tells a 32-bit file."""

    I386 = 0x014C
    AMD64 = 0x8664
    ARM64 = 0xAA64


@dataclass(frozen=True, kw_only=True)
class PeImage:
    """One PE file. The names of imported DLLs are as they stand in the file, in its order.

    `machine` is the number from the file header; `signed` says whether it carries a certificate table, nothing more.
    """

    machine: int
    imports: tuple[str, ...]
    delay_imports: tuple[str, ...]
    signed: bool


@dataclass(frozen=True, kw_only=True)
class _Section:
    address: int
    size: int
    offset: int
    raw_size: int


@dataclass(frozen=True, kw_only=True)
class _Headers:
    machine: int
    image_base: int
    header_size: int
    directories: tuple[tuple[int, int], ...]
    sections: tuple[_Section, ...]

    def directory(self, index: int) -> tuple[int, int]:
        return self.directories[index] if index < len(self.directories) else (0, 0)


def is_pe(data: bytes) -> bool:
    """Whether `data` has a DOS header that leads to a PE signature."""
    if data[:2] != b"MZ" or len(data) < 64:
        return False
    (offset,) = struct.unpack_from("<I", data, 0x3C)
    return data[offset : offset + 4] == b"PE\0\0"


def is_wine_builtin(data: bytes) -> bool:
    """Whether this is one of Wine's own DLLs, which are of no use on Windows."""
    return data[0x40:0x60].startswith(_WINE_SIGNATURES)


def machine_name(number: int) -> str:
    """`x64`, `ARM64`, `x86`, or the number."""
    names: dict[int, str] = {Machine.AMD64: "x64", Machine.ARM64: "ARM64", Machine.I386: "x86"}
    return names.get(number, f"machine 0x{number:04x}")


def read_pe(data: bytes) -> PeImage:
    """The machine, imports and delay-loaded imports of a PE file. Raises PeError."""
    headers = _headers(data)
    return PeImage(
        machine=headers.machine,
        imports=tuple(_imports(data, headers)),
        delay_imports=tuple(_delay_imports(data, headers)),
        signed=headers.directory(_SECURITY)[1] > 0,
    )


def _headers(data: bytes) -> _Headers:
    if not is_pe(data):
        raise PeError(f"not a PE file: starts with {data[:4].hex(' ') or 'nothing'}")
    start = struct.unpack_from("<I", data, 0x3C)[0] + 4
    machine, sections, _, _, _, optional_size, _ = _unpack("<HHIIIHH", data, start, "file header")
    optional = start + 20
    (magic,) = _unpack("<H", data, optional, "optional header")
    if magic == _PE32_PLUS:
        (image_base,), directories_at = _unpack("<Q", data, optional + 24, "image base"), optional + 112
    elif magic == _PE32:
        (image_base,), directories_at = _unpack("<I", data, optional + 28, "image base"), optional + 96
    else:
        raise PeError(f"optional header with the magic 0x{magic:04x}")
    (header_size,) = _unpack("<I", data, optional + 60, "size of headers")
    (count,) = _unpack("<I", data, directories_at - 4, "number of data directories")
    table = optional + optional_size
    return _Headers(
        machine=machine,
        image_base=image_base,
        header_size=header_size,
        directories=tuple(_directory(data, directories_at + 8 * index) for index in range(min(count, 16))),
        sections=tuple(_section(data, table + _SECTION_SIZE * index) for index in range(sections)),
    )


def _directory(data: bytes, offset: int) -> tuple[int, int]:
    address, size = _unpack("<II", data, offset, "data directory")
    return address, size


def _section(data: bytes, offset: int) -> _Section:
    _, size, address, raw_size, raw_offset = _unpack("<8sIIII", data, offset, "section header")
    return _Section(address=address, size=size, offset=raw_offset, raw_size=raw_size)


def _imports(data: bytes, headers: _Headers) -> Iterator[str]:
    address, size = headers.directory(_IMPORT)
    if not address or not size:
        return
    for number in range(_MOST_DESCRIPTORS):
        at = _offset(headers, address + number * _IMPORT_SIZE, "import directory")
        original, _, _, name, thunk = _unpack("<IIIII", data, at, "import descriptor")
        if not name and not original and not thunk:
            return
        yield _name(data, headers, name)
    raise PeError("the import directory does not end")


def _delay_imports(data: bytes, headers: _Headers) -> Iterator[str]:
    address, size = headers.directory(_DELAY_IMPORT)
    if not address or not size:
        return
    for number in range(_MOST_DESCRIPTORS):
        at = _offset(headers, address + number * _DELAY_SIZE, "delay import directory")
        attributes, name = _unpack("<II", data, at, "delay import descriptor")
        if not name:
            return
        # Without the bit these are addresses of the loaded image, as Visual C++ 6 wrote them.
        yield _name(data, headers, name if attributes & 1 else name - headers.image_base)
    raise PeError("the delay import directory does not end")


def _name(data: bytes, headers: _Headers, address: int) -> str:
    start = _offset(headers, address, "name of a DLL")
    end = data.find(b"\0", start, start + _LONGEST_NAME)
    if end <= start:
        raise PeError(f"the name of a DLL at byte {start} is empty or does not end")
    name = data[start:end]
    if not name.isascii() or not name.decode("ascii").isprintable():
        raise PeError(f"the name of a DLL at byte {start} is {name[:40]!r}")
    return name.decode("ascii")


def _offset(headers: _Headers, address: int, what: str) -> int:
    for section in headers.sections:
        inside = address - section.address
        if 0 <= inside < max(section.size, section.raw_size):
            if inside >= section.raw_size:
                break
            return section.offset + inside
    if 0 < address < headers.header_size:
        return address
    raise PeError(f"the {what} at address 0x{address & 0xFFFFFFFF:x} is in no section of the file")


def _unpack(form: str, data: bytes, offset: int, what: str) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, offset)
    except struct.error:
        raise PeError(f"the {what} at byte {offset} lies behind the end, {len(data)} bytes") from None
