"""Our WIM files as wimlib-imagex and 7z see them, and theirs as we do."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.extents import whole_file
from builder.wim import open_wim
from builder.wim_build import Put, Rename, WimChanges, WimOrder, build_wim
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, SETUP_FILES, libwim_wim, plain_wim

EPOCH = 1751328000
LARGE = {"Windows/large.bin": b"abcdefgh" * 20_000, "Windows/noise.bin": random.Random(291).randbytes(100_000)}
FILES = {**PE_FILES, **BITLOCKER_FILES, **SETUP_FILES, **LARGE}
CHANGES = WimChanges(
    puts=(Put(target="Windows/System32/STARTNET.CMD", source=b"new\r\n"), Put(target="Bluelift/p.exe", source=b"MZ")),
    deletions=("Windows/System32/fveapi.dll",),
    renames=(Rename(path="setup.exe", target="setup.exe.not-started"),),
)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def said(*argv: str | Path) -> str:
    return subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def built(tmp_path: Path) -> Path:
    base = libwim_wim(tmp_path / "base.wim", [PE_FILES, FILES], boot_index=1)
    order = WimOrder(source=whole_file(base), index=2, changes=CHANGES, epoch=EPOCH, guid=bytes(range(16)))
    build_wim(order, tmp_path / "boot.wim")
    return tmp_path / "boot.wim"


def expected() -> dict[str, bytes]:
    files = {k: v for k, v in FILES.items() if k not in ("Windows/System32/fveapi.dll", "setup.exe")}
    del files["Windows/System32/startnet.cmd"]
    return {
        **files,
        "Windows/System32/STARTNET.CMD": b"new\r\n",
        "Bluelift/p.exe": b"MZ",
        "setup.exe.not-started": FILES["setup.exe"],
    }


def tree(folder: Path) -> dict[str, str]:
    """Digests by path, ignoring case as Windows does."""
    return {
        path.relative_to(folder).as_posix().lower(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {path.lower(): hashlib.sha256(content).hexdigest() for path, content in files.items()}


def test_wimlib_imagex_reads_what_we_wrote(tmp_path: Path, built: Path) -> None:
    need("wimlib-imagex")
    info = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in said("wimlib-imagex", "info", built).splitlines())
    }
    assert (info["Boot Index"], info["Image Count"], info["Compression"]) == ("1", "1", "LZX")
    assert info["GUID"] == "0x000102030405060708090a0b0c0d0e0f"
    assert info["Last Modification Time"] == "Tue Jul 01 00:00:00 2025 UTC"
    assert info["Architecture"] == "x86_64"
    said("wimlib-imagex", "verify", built)
    said("wimlib-imagex", "apply", built, "1", tmp_path / "out")
    assert tree(tmp_path / "out") == digests(expected())


def test_7z_reads_what_we_wrote(tmp_path: Path, built: Path) -> None:
    need("7z")
    said("7z", "x", f"-o{tmp_path / 'out'}", built)
    assert tree(tmp_path / "out") == digests(expected())


def test_we_list_what_wimlib_imagex_lists(built: Path) -> None:
    need("wimlib-imagex")
    listed = {line.strip("/") for line in said("wimlib-imagex", "dir", built).splitlines()} - {""}
    assert {entry.path for entry in open_wim(built).walk(1)} == listed


@pytest.mark.parametrize("compression", ["none", "XPRESS", "LZX:100", "LZX:15"])
def test_we_read_what_wimlib_imagex_wrote(tmp_path: Path, compression: str) -> None:
    need("wimlib-imagex")
    source = tmp_path / "source"
    for name, content in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    path = tmp_path / "a.wim"
    chunk = "--chunk-size=64K" if compression == "LZX:15" else "--boot"
    said("wimlib-imagex", "capture", source, path, "name", f"--compress={compression}", chunk)
    wim = open_wim(path)
    assert {e.path: wim.read_entry(e) for e in wim.walk(1) if not e.is_folder} == FILES
    assert wim.damaged() == ()


def test_a_recompressed_boot_wim_has_hard_links(tmp_path: Path) -> None:
    need("wimlib-imagex")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"linked")
    (source / "b").hardlink_to(source / "a")
    said("wimlib-imagex", "capture", source, tmp_path / "a.wim", "name")
    wim = open_wim(tmp_path / "a.wim")
    assert wim.read(1, "a") == wim.read(1, "b") == b"linked" and wim.image(1).size == 6


def test_solid_by_wimlib_imagex(tmp_path: Path) -> None:
    need("wimlib-imagex")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"a" * 100_000)
    said("wimlib-imagex", "capture", tmp_path / "source", tmp_path / "a.esd", "name", "--solid")
    assert open_wim(tmp_path / "a.esd").info.solid


def test_wimlib_imagex_reads_the_ones_written_by_hand(tmp_path: Path) -> None:
    """The maker that the parser's tests stand on makes what libwim takes for a WIM."""
    need("wimlib-imagex")
    path = tmp_path / "plain.wim"
    path.write_bytes(plain_wim(sorted(FILES.items())))
    said("wimlib-imagex", "apply", path, "1", tmp_path / "out")
    assert tree(tmp_path / "out") == digests(FILES)
