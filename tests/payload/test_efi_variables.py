"""Boot entries as firmware writes them, and noise."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.efi_variables import (
    LoadOption,
    LoadOptionError,
    boot_next_value,
    option_number,
    parse_boot_order,
    parse_load_option,
    windows_boot_entry,
)


def load_option(description: str, path: str | None, *, active: bool = True, extra: bytes = b"") -> bytes:
    """An EFI_LOAD_OPTION: a hard drive node, a file path node, the end node."""
    nodes = struct.pack("<BBH", 4, 1, 42) + bytes(38)
    if path is not None:
        name = (path + "\0").encode("utf-16-le")
        nodes += struct.pack("<BBH", 4, 4, 4 + len(name)) + name
    nodes += struct.pack("<BBH", 0x7F, 0xFF, 4)
    return struct.pack("<IH", int(active), len(nodes)) + (description + "\0").encode("utf-16-le") + nodes + extra


WINDOWS_PATH = "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"
WINDOWS = parse_load_option(load_option("Windows Boot Manager", WINDOWS_PATH, extra=b"WINDOWS\0\1\0\0\0"))


def test_a_windows_entry() -> None:
    assert LoadOption(active=True, description="Windows Boot Manager", path=WINDOWS_PATH) == WINDOWS
    assert WINDOWS.is_windows


@pytest.mark.parametrize(
    ("description", "path", "windows"),
    [
        ("Something", "\\efi\\MICROSOFT\\boot\\BOOTMGFW.EFI", True),
        ("Windows Boot Manager", None, True),
        ("Windows Boot Manager", "\\EFI\\evil\\grubx64.efi", False),
        ("debian", "\\EFI\\debian\\shimx64.efi", False),
        ("USB stick", None, False),
    ],
)
def test_which_entries_are_windows(description: str, path: str | None, windows: bool) -> None:
    assert parse_load_option(load_option(description, path)).is_windows is windows


def test_a_path_in_two_nodes_is_joined() -> None:
    first = "\\EFI\\Microsoft".encode("utf-16-le")
    second = "Boot\\bootmgfw.efi\0".encode("utf-16-le")
    nodes = b"".join(struct.pack("<BBH", 4, 4, 4 + len(part)) + part for part in (first, second))
    data = struct.pack("<IH", 1, len(nodes)) + b"x\0\0\0" + nodes
    assert parse_load_option(data).path == WINDOWS_PATH


def test_which_entry_is_chosen() -> None:
    other = LoadOption(active=True, description="debian", path="\\EFI\\debian\\shimx64.efi")
    by_name = LoadOption(active=True, description="Windows Boot Manager", path="")
    inactive = LoadOption(active=False, description="Windows Boot Manager", path=WINDOWS_PATH)
    assert windows_boot_entry({1: other}, (1,)) is None
    assert windows_boot_entry({1: other, 3: WINDOWS, 7: WINDOWS}, (1, 7, 3)) == 7
    assert windows_boot_entry({3: WINDOWS, 7: WINDOWS}, ()) == 3
    assert windows_boot_entry({2: by_name, 9: WINDOWS}, (2, 9)) == 9
    assert windows_boot_entry({2: inactive, 9: WINDOWS}, (2, 9)) == 9


def test_names_and_orders() -> None:
    assert option_number("Boot00A1") == 0xA1
    assert [option_number(name) for name in ("BootOrder", "BootNext", "Boot1", "boot0001x")] == [None] * 4
    assert parse_boot_order(b"\x03\0\x01\0\xff") == (3, 1)
    assert boot_next_value(0x1A2) == b"\xa2\x01"


@pytest.mark.parametrize("cut", [3, 7, 20, 60])
def test_cut_off_entries(cut: int) -> None:
    with pytest.raises(LoadOptionError):
        parse_load_option(load_option("Windows Boot Manager", WINDOWS_PATH)[:cut])


@given(st.binary(max_size=300))
def test_noise_never_raises_anything_else(data: bytes) -> None:
    parse_boot_order(data)
    with contextlib.suppress(LoadOptionError):
        assert parse_load_option(data).is_windows in (True, False)
