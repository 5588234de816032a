"""The initramfs as bytes: segments one after the other, read back by us and by xz."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import cpio
from builder.console import SilentStep
from builder.debian_root import find_library, merged, own_loader, python_folder
from builder.errors import BaseMediaError, ImageError
from builder.initramfs import KEYMAP_NAME, base_segment, list_initramfs, payload_segment
from builder.python_bytecode import cache_name
from builder.render import render

EPOCH = 1_700_000_000


def segment(init: bytes = b"#!/bin/sh\n", config: bytes = b"{}") -> bytes:
    return payload_segment(payload={"data.txt": b"data"}, init=init, config=config, base=b"", epoch=EPOCH)


def test_what_the_payload_segment_holds() -> None:
    found = {entry.name: entry for entry in list_initramfs(segment())}
    assert set(found) == {
        "init", "bluelift", "bluelift/config.json", "bluelift/payload", "bluelift/payload/data.txt"
    }  # fmt: skip
    assert stat.S_IMODE(found["init"].mode) == 0o755
    assert found["bluelift/payload/data.txt"].sha256 == hashlib.sha256(b"data").hexdigest()
    assert found["bluelift"].sha256 == ""


def test_a_keymap_lies_where_init_loads_it_from() -> None:
    packed = payload_segment(payload={}, init=b"#!", config=b"{}", base=b"", epoch=EPOCH, keymap=b"bkeymap")
    found = {entry.name: entry for entry in list_initramfs(packed)}
    assert found[KEYMAP_NAME].sha256 == hashlib.sha256(b"bkeymap").hexdigest()
    common = {"version": "0", "arguments": ""}
    loads = f"\nloadkmap < /{KEYMAP_NAME}\n".encode()
    assert loads in render("linux/init.j2", {**common, "keymap": f"/{KEYMAP_NAME}"})
    assert b"loadkmap" not in render("linux/init.j2", {**common, "keymap": ""})


def test_the_last_of_two_entries_counts() -> None:
    found = {entry.name: entry for entry in list_initramfs(segment(config=b"old") + segment(config=b"new"))}
    assert found["bluelift/config.json"].sha256 == hashlib.sha256(b"new").hexdigest()


def test_the_same_input_gives_the_same_bytes() -> None:
    assert segment() == segment()
    assert segment() != segment(init=b"other")


def test_the_kernel_can_read_it() -> None:
    """The kernel's xz knows no check but CRC32 (0x01 in the stream flags), and archives start at multiples of 4."""
    data = segment()
    assert data.startswith(b"\xfd7zXZ\0\0\x01")
    assert len(data) % 4 == 0


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not installed")
def test_xz_reads_it_back() -> None:
    data = segment() + segment(config=b"new")
    unpacked = subprocess.run(["xz", "-dc"], input=data, capture_output=True, check=True).stdout
    assert unpacked.count(cpio.TRAILER.encode()) == 2


@pytest.mark.parametrize("data", [b"\x1f\x8b gzip", b"\xfd7zXZ\0\0\x01 not xz", segment()[:-20], segment() + b"tail"])
def test_a_damaged_initramfs_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="initramfs is damaged"):
        list_initramfs(data)


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_an_image_error(data: bytes) -> None:
    for garbage in (data, lzma.compress(data, check=lzma.CHECK_CRC32)):
        with contextlib.suppress(ImageError):
            assert list_initramfs(garbage) == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match=r"the library libz\.so\.1, needed by usr/bin/python3\.13"):
        find_library(tmp_path, "libz.so.1", needed_by="usr/bin/python3.13")
    (tmp_path / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (tmp_path / "usr/lib/x86_64-linux-gnu/libz.so.1").write_bytes(b"")
    assert find_library(tmp_path, "libz.so.1", needed_by="x") == "usr/lib/x86_64-linux-gnu/libz.so.1"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/lib64/ld.so", "usr/lib64/ld.so"), ("/usr/bin/x", "usr/bin/x"), ("bin/x", "usr/bin/x"), ("/etc/x", "etc/x")],
)
def test_paths_after_usrmerge(path: str, expected: str) -> None:
    assert merged(path) == expected


def test_an_unpacked_program_runs_with_its_own_libraries(tmp_path: Path) -> None:
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    assert own_loader(tmp_path) == (str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries))


def test_python_is_found_or_missed(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="expected one Python"):
        python_folder(tmp_path)
    for name in ("python3.13/os.pyc", "python3/os.py"):
        (tmp_path / "usr/lib" / name).parent.mkdir(parents=True)
        (tmp_path / "usr/lib" / name).write_bytes(b"")
    assert python_folder(tmp_path).name == "python3.13"
    assert cache_name(tmp_path, "bluelift/payload/a.py") == "bluelift/payload/__pycache__/a.cpython-313.pyc"
    (tmp_path / "usr/lib/python3.14").mkdir()
    (tmp_path / "usr/lib/python3.14/os.py").write_bytes(b"")
    with pytest.raises(BaseMediaError, match=r"python3\.13, python3\.14"):
        python_folder(tmp_path)


def test_a_root_without_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="expected one kernel"):
        base_segment(tmp_path, epoch=EPOCH, step=SilentStep())
