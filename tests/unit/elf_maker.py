"""Small ELF files for tests: a kernel module with a .modinfo section, and nothing else."""

from __future__ import annotations

import struct


def kernel_module(*info: str) -> bytes:
    """An ELF64 object with a .modinfo section of these `key=value` strings."""
    modinfo = b"".join(item.encode() + b"\0" for item in info)
    names = b"\0.modinfo\0.shstrtab\0"
    modinfo_at, names_at = 64, 64 + len(modinfo)
    table_at = names_at + len(names) + -(names_at + len(names)) % 8
    header = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 1, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2
    )
    sections = bytes(64)
    for name, kind, offset, size in ((1, 1, modinfo_at, len(modinfo)), (10, 3, names_at, len(names))):
        sections += struct.pack("<IIQQQQIIQQ", name, kind, 2, 0, offset, size, 0, 0, 1, 0)
    body = header + modinfo + names
    return body + bytes(table_at - len(body)) + sections
