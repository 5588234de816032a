"""Small PE files for tests: headers, one section, import and delay-import directories, and nothing that runs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

AMD64, I386, ARM64 = 0x8664, 0x14C, 0xAA64
_SECTION_AT, _RAW_AT = 0x1000, 0x400


def pe_file(
    imports: Sequence[str] = (),
    *,
    delay_imports: Sequence[str] = (),
    machine: int = AMD64,
    wine: bool = False,
    plus: bool = True,
) -> bytes:
    """A DLL that imports one function from each DLL in `imports`; `wine` marks it as one of Wine's own."""
    section = bytearray()

    def put(data: bytes) -> int:
        address = _SECTION_AT + len(section)
        section.extend(data + bytes(-len(data) % 8))
        return address

    word = "<Q" if plus else "<I"
    hint = put(b"\0\0function\0")
    thunks = [put(struct.pack(word, hint) + struct.pack(word, 0)) for _ in (*imports, *delay_imports)]
    names = [put(name.encode() + b"\0") for name in (*imports, *delay_imports)]
    descriptors = b"".join(
        struct.pack("<IIIII", thunk, 0, 0, name, thunk)
        for thunk, name in zip(thunks[: len(imports)], names[: len(imports)], strict=True)
    )
    import_table = put(descriptors + bytes(20)) if imports else 0
    delayed = b"".join(
        struct.pack("<IIIIIIII", 1, name, hint, thunk, thunk, 0, 0, 0)
        for thunk, name in zip(thunks[len(imports) :], names[len(imports) :], strict=True)
    )
    delay_table = put(delayed + bytes(32)) if delay_imports else 0
    directories = [(0, 0)] * 16
    directories[1] = (import_table, len(descriptors) + 20 if imports else 0)
    directories[13] = (delay_table, len(delayed) + 32 if delay_imports else 0)
    raw = bytes(section) + bytes(-len(section) % 512 or (0 if section else 512))
    stub = (b"Wine builtin DLL\0" if wine else b"This is a test.\0").ljust(0x40, b"\0")
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80) + stub
    optional = _optional(directories, len(raw), plus=plus)
    coff = struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, len(optional), 0x2022)
    header = struct.pack(
        "<8sIIIIIIHHI", b".rdata", len(section) or 1, _SECTION_AT, len(raw), _RAW_AT, 0, 0, 0, 0, 0x40000040
    )
    return (dos + b"PE\0\0" + coff + optional + header).ljust(_RAW_AT, b"\0") + raw


def _optional(directories: Sequence[tuple[int, int]], raw: int, *, plus: bool) -> bytes:
    start = struct.pack("<HBBIIIII", 0x20B if plus else 0x10B, 14, 0, 0, raw, 0, 0, _SECTION_AT)
    base = struct.pack("<Q", 0x180000000) if plus else struct.pack("<II", 0, 0x10000000)
    versions = struct.pack("<IIHHHHHHIIIIHH", 0x1000, 0x200, 6, 0, 0, 0, 6, 0, 0, 0x2000 + raw, _RAW_AT, 0, 3, 0x160)
    sizes = struct.pack("<QQQQ" if plus else "<IIII", 1 << 20, 1 << 12, 1 << 20, 1 << 12)
    return (
        start
        + base
        + versions
        + sizes
        + struct.pack("<II", 0, 16)
        + b"".join(struct.pack("<II", *directory) for directory in directories)
    )
