"""UEFI boot variables: Boot#### (EFI_LOAD_OPTION), BootOrder, BootNext. UEFI Specification 2.10, 3.1.3 and 3.3.

Bytes are a variable's value, without efivarfs's four attribute bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GLOBAL_GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
#: EFI_VARIABLE_NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS.
BOOT_ATTRIBUTES = 7
WINDOWS_LOADER = "\\efi\\microsoft\\boot\\bootmgfw.efi"
WINDOWS_DESCRIPTION = "windows boot manager"

_OPTION_NAME = re.compile(r"Boot([0-9A-Fa-f]{4})")
_LOAD_OPTION_ACTIVE = 1
_MEDIA, _FILE_PATH, _END = 4, 4, 0x7F


class LoadOptionError(ValueError):
    """Bytes that are not an EFI_LOAD_OPTION."""


@dataclass(frozen=True, kw_only=True)
class LoadOption:
    """One boot entry: what the firmware's menu shows, and the file it starts (empty where it names none)."""

    active: bool
    description: str
    path: str

    @property
    def is_windows(self) -> bool:
        """Whether this is Windows Boot Manager."""
        return self.path.lower() == WINDOWS_LOADER or (
            not self.path and self.description.strip().lower() == WINDOWS_DESCRIPTION
        )


def option_number(name: str) -> int | None:
    """The number of a variable called `Boot####` (four hex digits), None for any other name."""
    match = _OPTION_NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def parse_load_option(data: bytes) -> LoadOption:
    """An EFI_LOAD_OPTION. Raises LoadOptionError."""
    if len(data) < 8:
        raise LoadOptionError(f"a load option of {len(data)} bytes is too short")
    attributes, path_length = struct.unpack_from("<IH", data)
    end = next((i for i in range(6, len(data) - 1, 2) if data[i : i + 2] == b"\0\0"), None)
    if end is None:
        raise LoadOptionError("the description has no end")
    paths = data[end + 2 : end + 2 + path_length]
    if len(paths) != path_length:
        raise LoadOptionError("the file path list is cut off")
    return LoadOption(
        active=bool(attributes & _LOAD_OPTION_ACTIVE),
        description=data[6:end].decode("utf-16-le", "replace"),
        path=_file_path(paths),
    )


def _file_path(paths: bytes) -> str:
    """The file path of a device path: its Media / File Path nodes joined."""
    parts, offset = [], 0
    while offset + 4 <= len(paths):
        kind, subkind, length = struct.unpack_from("<BBH", paths, offset)
        if kind == _END or length < 4:
            break
        if (kind, subkind) == (_MEDIA, _FILE_PATH):
            parts.append(paths[offset + 4 : offset + length].decode("utf-16-le", "replace").split("\0", 1)[0])
        offset += length
    return "\\".join(part.strip("\\") if i else part.rstrip("\\") for i, part in enumerate(parts))


def parse_boot_order(data: bytes) -> tuple[int, ...]:
    """BootOrder: the numbers of the entries, first choice first. An odd last byte is ignored."""
    return struct.unpack_from(f"<{len(data) // 2}H", data)


def windows_boot_entry(options: Mapping[int, LoadOption], order: Sequence[int]) -> int | None:
    """The number of the entry that starts Windows: the earliest in BootOrder, then the lowest; None without one.

    An entry that names bootmgfw.efi goes before one that is only called Windows Boot Manager, active before inactive.
    """
    rank = {number: i for i, number in reversed(list(enumerate(order)))}
    candidates = [number for number, option in options.items() if option.is_windows]
    return min(
        candidates,
        key=lambda n: (not options[n].path, not options[n].active, rank.get(n, len(order)), n),
        default=None,
    )


def boot_next_value(number: int) -> bytes:
    """The value of BootNext for entry `number`."""
    return struct.pack("<H", number)
