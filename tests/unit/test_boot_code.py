"""What BIOS starts from a hybrid image's first block: its place, its numbers, and what is said of it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from builder.errors import OutputError
from builder.media.boot_code import (
    LARGEST_BOOTMGR,
    LONGEST,
    bios_starts,
    bootmgr_code,
    grub_code,
    uefi_only_code,
)


def test_all_of_it_fits_before_a_partition_table() -> None:
    for code in (uefi_only_code(), bootmgr_code(first=1, size=LARGEST_BOOTMGR, partition=2), grub_code(b"x", 3)):
        assert len(code) <= LONGEST


def test_grub_is_told_where_its_core_is() -> None:
    code = grub_code(bytes(range(256)) + bytes(184), 0x1_2345_6789)
    assert struct.unpack_from("<Q", code, 0x1B0) == (0x1_2345_6789,)
    assert code[:256] == bytes(range(256))


def test_grubs_code_must_fit() -> None:
    with pytest.raises(OutputError, match="boot code of 441 bytes does not fit"):
        grub_code(bytes(441), 1)


def test_bootmgr_is_read_in_one_piece_from_where_it_lies() -> None:
    code = bootmgr_code(first=0x123456, size=100_001, partition=0x11000)
    assert struct.pack("<BBHHHIHH", 16, 0, 1, 0, 0x2000, 0x123456, 0, 0) in code + bytes(2), "the packet of INT 13h"
    assert b"\xbd" + struct.pack("<H", 196) in code, "mov bp, sectors"
    assert struct.pack("<H", 0x1000) in code and struct.pack("<H", 0x0001) in code


@pytest.mark.parametrize("size", [0, LARGEST_BOOTMGR + 1])
def test_a_bootmgr_that_memory_cannot_hold(size: int) -> None:
    with pytest.raises(OutputError, match=rf"bootmgr has {size} bytes; at most"):
        bootmgr_code(first=1, size=size, partition=1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"", "nothing"),
        (uefi_only_code(), "a sentence: UEFI only"),
        (bootmgr_code(first=77, size=400_000, partition=2048), "BOOTMGR (experimental)"),
        (b"\xeb\x63 GRUB \0Geom", "GRUB"),
        (b"\xfa\x33\xc0 another", "unknown"),
    ],
)
def test_what_is_said_of_it(code: bytes, said: str) -> None:
    assert bios_starts(code.ljust(510, b"\0") + b"\x55\xaa") == said


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump (binutils) is not installed")
def test_objdump_reads_the_same_instructions(tmp_path: Path) -> None:
    """Another program decodes what was assembled by hand: every jump leads to an instruction, none is "(bad)"."""
    path = tmp_path / "code"
    path.write_bytes(bootmgr_code(first=1, size=1, partition=1))
    argv = ["objdump", "-D", "-b", "binary", "-m", "i8086", "--adjust-vma=0x600", "--stop-address=0x6a5", str(path)]
    listing = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout
    lines = [line.split("\t") for line in listing.splitlines() if line.count("\t") >= 2]
    addresses = {int(line[0].strip(" :"), 16) for line in lines}
    words = [line[2].split() for line in lines]
    targets = {int(word[1], 16) for word in words if word[0].startswith(("j", "loop"))}
    assert targets <= addresses, targets - addresses
    assert "(bad)" not in listing
    assert ["ljmp", "$0x2000,$0x0"] in words
    assert [word[1] for word in words if word[0] == "int"] == ["$0x13", "$0x13", "$0x10", "$0x16", "$0x18"]
