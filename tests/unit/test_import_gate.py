"""The gate: what may go into Windows PE, and what the base must bring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from builder.errors import BaseMediaError, ImageError
from builder.import_gate import EXPECTED_SYSTEM32, Need, check_base, check_folder, missing_in, sentence
from builder.pe import Machine
from payload.contract import WINDOWS_LIBRARIES
from tests.unit.pe_maker import AMD64, ARM64, I386, pe_file

LOADERS = ("WinDLL", "CDLL", "OleDLL", "PyDLL")


def folder(machine: int = AMD64, **more: bytes) -> dict[str, bytes]:
    files = {
        "payload.exe": pe_file(["KERNEL32.dll", "USER32.dll"], machine=machine),
        "_internal/python311.dll": pe_file(
            ["VCRUNTIME140.dll", "api-ms-win-crt-heap-l1-1-0.dll", "KERNEL32.dll"], machine=machine
        ),
        "_internal/VCRUNTIME140.dll": pe_file(["KERNEL32.dll"], machine=machine),
        "_internal/base_library.zip": b"PK\x05\x06" + bytes(18),
    }
    return {**files, **{name.replace("__", "/").replace("_dot_", "."): data for name, data in more.items()}}


def test_a_whole_folder_says_what_it_needs() -> None:
    needs = check_folder(folder())
    imported = {"api-ms-win-crt-heap-l1-1-0.dll", "kernel32.dll", "user32.dll"}
    assert [need.library for need in needs] == sorted({*imported, *WINDOWS_LIBRARIES})
    (kernel32,) = [need for need in needs if need.library == "kernel32.dll"]
    assert kernel32.wanted_by == ("_internal/VCRUNTIME140.dll", "_internal/python311.dll", "payload.exe")
    check_base(needs, EXPECTED_SYSTEM32, base="any")
    check_base(needs, {"KERNEL32.DLL", "User32.dll", *WINDOWS_LIBRARIES}, base="a base with few names")


def test_what_is_loaded_through_ctypes_is_asked_of_the_base_too() -> None:
    needs = check_folder(folder())
    with pytest.raises(BaseMediaError) as caught:
        check_base(needs, EXPECTED_SYSTEM32 - {"cfgmgr32.dll"}, base="image 1 of boot.wim")
    assert caught.value.message.splitlines()[1:] == ["cfgmgr32.dll, which payload.exe loads when it is used"]


def test_the_payload_loads_no_library_that_it_does_not_declare() -> None:
    """Every place where ctypes loads one, by the source: the name is written there."""
    loaded = set()
    for path in sorted((Path(__file__).parents[2] / "payload").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("windll", "cdll", "oledll", "pydll", "LoadLibrary"), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
                assert isinstance(node.args[0], ast.Constant), path
                loaded.add(f"{node.args[0].value!s}.dll")
    assert sorted(loaded) == sorted(WINDOWS_LIBRARIES)


@pytest.mark.parametrize(
    ("without", "extra", "says"),
    [
        ("payload.exe", {}, "payload.exe is missing"),
        ("_internal/VCRUNTIME140.dll", {}, "VCRUNTIME140.DLL is missing"),
        ("", {"_internal/x.dll": pe_file(wine=True)}, "_internal/x.dll is a DLL of Wine's"),
        ("", {"_internal/x.pyd": pe_file(machine=I386, plus=False)}, "_internal/x.pyd is for x86, not for x64"),
        ("", {"_internal/x.pyd": pe_file(machine=ARM64)}, "_internal/x.pyd is for ARM64, not for x64"),
        ("", {"_internal/x.dll": b"not a library"}, "_internal/x.dll: not a PE file"),
        ("", {"_internal/x.dll": b""}, "_internal/x.dll: not a PE file"),
        ("", {"_internal/odd.bin": pe_file(machine=ARM64)}, "_internal/odd.bin is for ARM64"),
    ],
)
def test_what_is_refused(without: str, extra: dict[str, bytes], says: str) -> None:
    files = {path: data for path, data in {**folder(), **extra}.items() if path != without}
    with pytest.raises(ImageError, match=says):
        check_folder(files)


def test_every_problem_at_once() -> None:
    files = {"_internal/a.dll": pe_file(wine=True), "_internal/b.dll": b"x"}
    with pytest.raises(ImageError) as caught:
        check_folder(files)
    lines = caught.value.message.splitlines()
    assert len(lines) == 5 and "payload.exe" in lines[1] and "VCRUNTIME140" in lines[2]
    assert caught.value.hint


def test_another_machine_if_asked_for() -> None:
    assert check_folder(folder(ARM64), machine=Machine.ARM64)
    with pytest.raises(ImageError, match="is for x64, not for ARM64"):
        check_folder(folder(), machine=Machine.ARM64)


def test_a_dll_that_the_base_lacks_is_named_with_who_wants_it() -> None:
    files = folder()
    files["_internal/winsound.pyd"] = pe_file(["WINMM.dll", "kernel32.dll"])
    files["_internal/other.pyd"] = pe_file(["winmm.dll"], delay_imports=["wlanapi.dll", "kernel32.dll"])
    needs = check_folder(files)
    with pytest.raises(BaseMediaError) as caught:
        check_base(needs, EXPECTED_SYSTEM32, base="image 1 of boot.wim")
    first, *rest = caught.value.message.splitlines()
    assert first == "image 1 of boot.wim lacks what the payload needs"
    assert rest == [
        "winmm.dll, which _internal/other.pyd and _internal/winsound.pyd import",
        "wlanapi.dll, which _internal/other.pyd loads when it is used",
    ]
    check_base(needs, {*EXPECTED_SYSTEM32, "WinMM.dll", "wlanapi.DLL"}, base="a larger one")


def test_an_api_set_is_resolved_by_its_file_or_by_every_loader() -> None:
    newer = Need(library="api-ms-win-core-newer-l1-1-7.dll", wanted_by=("a.dll",), delayed=False)
    known = Need(library="api-ms-win-core-path-l1-1-0.dll", wanted_by=("a.dll",), delayed=False)
    assert missing_in([newer, known], set()) == (newer,)
    assert missing_in([newer, known], {"API-MS-Win-Core-Newer-L1-1-7.dll"}) == ()
    assert sentence(newer) == "api-ms-win-core-newer-l1-1-7.dll (an API set), which a.dll imports"


def test_a_library_that_is_bundled_is_not_asked_of_the_base() -> None:
    files = folder()
    files["_internal/_ctypes.pyd"] = pe_file(["LIBFFI-8.dll", "python311.dll"])
    files["_internal/libffi-8.dll"] = pe_file(["kernel32.dll"])
    assert not {"libffi-8.dll", "python311.dll"} & {need.library for need in check_folder(files)}
