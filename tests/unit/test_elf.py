"""ELF files: real ones against readelf, garbage against ElfError."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import elf
from tests.unit.elf_maker import kernel_module

START_OF_PYTHON = Path(sys.executable).resolve().read_bytes()[:8192]
REAL = [path for path in (shutil.which(name) for name in ("sh", "dpkg-deb", "apt-get", "gzip")) if path]


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
@pytest.mark.parametrize("program", [*REAL, sys.executable])
def test_readelf_says_the_same(program: str) -> None:
    data = Path(program).read_bytes()
    if not elf.is_elf(data):
        pytest.skip(f"{program} is not an ELF file")
    said = subprocess.run(["readelf", "-d", "-l", "-W", program], capture_output=True, text=True, check=True).stdout
    found = elf.dependencies(data)
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    interpreter = re.search(r"program interpreter: (.*)\]", said)
    assert found.interpreter == (interpreter[1] if interpreter else "")


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
def test_the_maker_of_test_modules_is_understood_by_readelf(tmp_path: Path) -> None:
    file = tmp_path / "x.ko"
    file.write_bytes(kernel_module("depends=a,b", "alias=pci:v*"))
    said = subprocess.run(["readelf", "-p", ".modinfo", str(file)], capture_output=True, text=True, check=True).stdout
    assert "depends=a,b" in said and "alias=pci:v*" in said


def test_a_section_by_name() -> None:
    module = kernel_module("depends=", "license=GPL")
    assert elf.section(module, ".modinfo") == b"depends=\0license=GPL\0"
    assert elf.section(module, ".text") is None
    assert elf.dependencies(module) == elf.Dependencies(interpreter="", needed=())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n" + bytes(100), "not an ELF file"),
        (b"\x7fELF\x01\x01" + bytes(100), "not a 64-bit"),
        (b"\x7fELF\x02\x02" + bytes(100), "not a 64-bit"),
    ],
)
def test_other_files_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(elf.ElfError, match=says):
        elf.dependencies(data)
    with pytest.raises(elf.ElfError, match=says):
        elf.section(data, ".modinfo")


def test_a_file_cut_short_is_refused() -> None:
    module = kernel_module("depends=a")
    for length in range(64, len(module) - 24):  # the last fields of the last section header are not looked at
        with pytest.raises(elf.ElfError):
            elf.section(module[:length], ".modinfo")


@given(st.binary(max_size=300))
def test_garbage_behind_a_good_start(data: bytes) -> None:
    for start in (b"", b"\x7fELF\x02\x01"):
        try:
            elf.dependencies(start + data)
            elf.section(start + data, ".modinfo")
        except elf.ElfError:
            pass


@given(st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_byte_in_a_real_program_never_surprises(position: int, value: int) -> None:
    data = bytearray(START_OF_PYTHON)
    data[position] = value
    try:
        elf.dependencies(bytes(data))
        elf.section(bytes(data), ".text")
    except elf.ElfError:
        pass
