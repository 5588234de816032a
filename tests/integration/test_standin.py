"""The stand-in for a Windows install ISO: other programs read it, Bluelift takes it for one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.base.windows import Wanted, choose_image, open_base
from builder.base.windows_media import BaseKind, WindowsBaseSettings
from builder.errors import ToolMissing
from builder.pe import Machine, read_pe
from builder.verify.inspect import inspect_image
from builder.verify.standin import Standin, StandinSize, make_adk_folder, make_standin_iso, wine_folder
from builder.wim import open_wim
from builder.wim_build import Put, WimChanges, WimOrder, build_wim
from tests.unit.wim_maker import need_libwim
from tests.unit.windows_media_maker import BOOT, EPOCH

DLLS = ("KERNEL32.dll", "ADVAPI32.dll", "VERSION.dll", "WS2_32.dll", "bcrypt.dll", "ole32.dll", "OLEAUT32.dll")


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    need_libwim()
    try:
        wine_folder()
    except ToolMissing as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("standin") / "win.iso"
    make_standin_iso(Standin(boot=BOOT, epoch=EPOCH, boot_2023=True, files={"Windows/extra.txt": b"extra"}), path)
    return path


def test_it_looks_like_an_install_iso(iso: Path) -> None:
    base = open_base(WindowsBaseSettings(kind=BaseKind.WINDOWS_ISO, path=iso))
    wim = open_wim(base.boot_wim)
    assert (wim.header.image_count, wim.header.boot_index) == (2, 2)
    assert [(i.architecture, i.build, i.language) for i in wim.images] == [("x64", 22621, "en-US")] * 2
    choice = choose_image(wim, Wanted(bitlocker=True, dlls=DLLS))
    assert choice.index == 1 and choice_of_setup_renames(iso) == 2
    assert wim.read(1, "Windows/extra.txt") == b"extra"
    kernel32 = wim.read(1, "Windows/System32/kernel32.dll")
    assert read_pe(kernel32).machine == Machine.AMD64
    assert kernel32 == (wine_folder() / "kernel32.dll").read_bytes()
    seen = inspect_image(iso).windows
    assert seen is not None and seen.boot_wim is not None and seen.boot_wim.images[0].boot_2023_missing == ()


def choice_of_setup_renames(iso: Path) -> int:
    wim = open_wim(open_base(WindowsBaseSettings(kind=BaseKind.WINDOWS_ISO, path=iso)).boot_wim)
    return len(choose_image(wim, Wanted(bitlocker=True, index=2)).renames)


def test_other_programs_find_the_files_in_udf_only(iso: Path, tmp_path: Path) -> None:
    if shutil.which("7z") is None:
        pytest.skip("7z is not installed")
    out = tmp_path / "out"
    subprocess.run(["7z", "x", f"-o{out}", str(iso)], check=True, capture_output=True, timeout=60)
    boot_wim = open_base(WindowsBaseSettings(kind=BaseKind.WINDOWS_ISO, path=iso)).boot_wim
    with (out / "sources" / "boot.wim").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == boot_wim.sha256()
    assert (out / "boot" / "bcd").read_bytes() == BOOT.bcd_bios
    if shutil.which("isoinfo") is not None:
        listed = subprocess.run(["isoinfo", "-f", "-i", str(iso)], check=True, capture_output=True, timeout=60).stdout
        assert listed.split() == [b"/README.TXT;1"]


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.iso", "b.iso"):
        make_standin_iso(Standin(boot=BOOT, epoch=EPOCH, size=StandinSize.TINY), tmp_path / name)
    assert (tmp_path / "a.iso").read_bytes() == (tmp_path / "b.iso").read_bytes()
    assert (tmp_path / "a.iso").stat().st_size < 6_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.iso", "b.iso"]


def test_a_boot_wim_is_built_from_it_in_place(iso: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(iso.read_bytes()).hexdigest()
    base = open_base(WindowsBaseSettings(kind=BaseKind.WINDOWS_ISO, path=iso))
    changes = WimChanges(puts=(Put(target="Windows/System32/startnet.cmd", source=b"new\r\n"),))
    order = WimOrder(source=base.boot_wim, index=1, changes=changes, epoch=EPOCH, guid=bytes(16))
    build_wim(order, tmp_path / "boot.wim")
    wim = open_wim(tmp_path / "boot.wim")
    assert wim.read(1, "Windows/System32/startnet.cmd") == b"new\r\n"
    assert wim.image(1).build == 22621 and wim.damaged() == ()
    assert hashlib.sha256(iso.read_bytes()).hexdigest() == before


def test_an_adk_folder(tmp_path: Path) -> None:
    standin = Standin(boot=BOOT, epoch=EPOCH, size=StandinSize.TINY, manage_bde=False)
    make_adk_folder(standin, tmp_path / "WinPE_amd64")
    base = open_base(WindowsBaseSettings(kind=BaseKind.ADK, path=tmp_path / "WinPE_amd64"))
    assert base.bios_image == BOOT.etfsboot and base.uefi_image == BOOT.efisys
    assert choose_image(open_wim(base.boot_wim), Wanted(bitlocker=False)).index == 1
