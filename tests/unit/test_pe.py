"""PE files: real ones against objdump, garbage against PeError."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.pe import Machine, PeError, is_pe, is_wine_builtin, machine_name, read_pe
from tests.unit.pe_maker import AMD64, ARM64, I386, pe_file

OBJDUMP = next((p for n in ("x86_64-w64-mingw32-objdump", "objdump") if (p := shutil.which(n))), None)
#: Debian's Wine brings hundreds of real PE files, made by a compiler and a linker.
WINE = Path("/usr/lib/x86_64-linux-gnu/wine/x86_64-windows")
REAL = [path for name in ("kernelbase.dll", "shell32.dll", "cmd.exe", "ntdll.dll") if (path := WINE / name).is_file()]
SAMPLE = pe_file(["KERNEL32.dll", "b.dll"], delay_imports=["late.dll"])


def said_by_objdump(file: Path) -> list[str]:
    """The imported DLLs as binutils reads them."""
    assert OBJDUMP
    said = subprocess.run([OBJDUMP, "-p", file], capture_output=True, text=True, check=True, timeout=60).stdout
    return re.findall(r"DLL Name: (\S+)", said.partition("The Delay Import Directory")[0])


@pytest.mark.programs
@pytest.mark.skipif(OBJDUMP is None, reason="objdump (binutils) is not installed")
@pytest.mark.parametrize("file", REAL or [None], ids=lambda path: path.name if path else "none")
def test_objdump_says_the_same(file: Path | None) -> None:
    if file is None:
        pytest.skip("Wine's DLLs are not installed")
    found = read_pe(file.read_bytes())
    assert list(found.imports) == said_by_objdump(file)
    assert found.machine == Machine.AMD64
    assert is_wine_builtin(file.read_bytes())


@pytest.mark.programs
@pytest.mark.skipif(OBJDUMP is None, reason="objdump (binutils) is not installed")
@pytest.mark.parametrize("plus", [True, False])
def test_objdump_understands_the_maker_of_test_files(plus: bool, tmp_path: Path) -> None:
    file = tmp_path / "x.dll"
    file.write_bytes(pe_file(["KERNEL32.dll", "b.dll"], machine=AMD64 if plus else I386, plus=plus))
    assert said_by_objdump(file) == ["KERNEL32.dll", "b.dll"]


@pytest.mark.parametrize(
    ("machine", "plus", "name"), [(AMD64, True, "x64"), (ARM64, True, "ARM64"), (I386, False, "x86")]
)
def test_what_is_read(machine: int, plus: bool, name: str) -> None:
    image = read_pe(pe_file(["A.dll"], delay_imports=["b.DLL", "c.dll"], machine=machine, plus=plus))
    assert (image.imports, image.delay_imports) == (("A.dll",), ("b.DLL", "c.dll"))
    assert (image.machine, machine_name(image.machine), image.signed) == (machine, name, False)
    assert machine_name(0x1234) == "machine 0x1234"
    nothing = read_pe(pe_file(machine=machine, plus=plus))
    assert (nothing.imports, nothing.delay_imports) == ((), ())


def test_wine_signs_its_own() -> None:
    assert is_wine_builtin(pe_file(wine=True)) and not is_wine_builtin(pe_file())
    assert is_pe(SAMPLE) and not is_pe(b"MZ") and not is_pe(SAMPLE[:0x80])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "starts with nothing"),
        (b"\x7fELF" + bytes(100), "not a PE file"),
        (b"MZ" + bytes(100), "not a PE file"),
        (SAMPLE[:0x90], "lies behind the end"),
        (SAMPLE[:0x98] + b"\x07\x01" + SAMPLE[0x9A:], "the magic 0x0107"),
        (SAMPLE[:-600], "lies behind the end|does not end"),
    ],
)
def test_other_files_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(PeError, match=says):
        read_pe(data)


@given(st.binary(max_size=600))
def test_garbage(data: bytes) -> None:
    for start in (b"", SAMPLE[:0x84], SAMPLE[:0x98]):
        with contextlib.suppress(PeError):
            read_pe(start + data)
        is_wine_builtin(start + data)


@given(st.integers(0, len(SAMPLE) - 4), st.integers(0, 0xFFFFFFFF))
@example(0x98 + 112 + 8, 0xFFFFFFFF)
def test_four_wrong_bytes_never_surprise(position: int, value: int) -> None:
    data = bytearray(SAMPLE)
    data[position : position + 4] = value.to_bytes(4, "little")
    try:
        image = read_pe(bytes(data))
    except PeError:
        return
    assert len(image.imports) < 4096 and all(name.isascii() for name in (*image.imports, *image.delay_imports))


@given(st.integers(0, len(SAMPLE) - 1))
def test_cut_short_anywhere(length: int) -> None:
    try:
        read_pe(SAMPLE[:length])
    except PeError:
        return
    assert length > 0x400, "a file without its section cannot be read"
