"""ADK WinPE folders as base media: copype's layout, the ADK's own, and folders that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.base.windows import open_base
from builder.base.windows_media import BaseKind, WindowsBase, WindowsBaseSettings
from builder.errors import BaseMediaError
from tests.unit.windows_media_maker import BOOT, WINPE, copype_folder, put


def adk(folder: Path) -> WindowsBase:
    return open_base(WindowsBaseSettings(kind=BaseKind.ADK, path=folder))


def test_what_copype_makes(tmp_path: Path) -> None:
    base = adk(copype_folder(tmp_path / "WinPE_amd64"))
    assert base.boot_wim.read_all() == WINPE and base.boot_wim.is_whole_file
    assert base.bios_image == BOOT.etfsboot and base.uefi_image == BOOT.efisys and base.uefi_image_noprompt is None
    assert base.architecture == "x64"
    assert [file.path for file in base.files] == [
        "boot/bcd",
        "bootmgr",
        "efi/boot/bootx64.efi",
        "efi/microsoft/boot/bcd",
    ]


@pytest.mark.parametrize(
    "given", ["", "Windows Preinstallation Environment", "Windows Preinstallation Environment/amd64"]
)
def test_the_adks_own_layout(tmp_path: Path, given: str) -> None:
    winpe = "Windows Preinstallation Environment/amd64"
    tools = "Deployment Tools/amd64/Oscdimg"
    put(
        tmp_path,
        {
            f"{winpe}/Media/bootmgr": BOOT.bootmgr,
            f"{winpe}/Media/EFI/Boot/bootx64.efi": BOOT.bootx64,
            f"{winpe}/de-de/winpe.wim": b"another language",
            f"{winpe}/en-us/winpe.wim": WINPE,
            f"{tools}/etfsboot.com": BOOT.etfsboot,
            f"{tools}/efisys.bin": BOOT.efisys,
            f"{tools}/efisys_noprompt.bin": BOOT.efisys_noprompt,
        },
    )
    base = adk(tmp_path / given)
    assert base.boot_wim.read_all() == WINPE
    assert (base.bios_image, base.uefi_image) == (BOOT.etfsboot, BOOT.efisys)
    assert base.uefi_image_noprompt == BOOT.efisys_noprompt


def test_the_new_place_of_boot_sectors(tmp_path: Path) -> None:
    folder = copype_folder(tmp_path / "pe")
    (folder / "fwfiles").rename(folder / "bootbins")
    assert adk(folder).uefi_image == BOOT.efisys


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match=r"gone does not exist"):
        adk(tmp_path / "gone")
    with pytest.raises(BaseMediaError, match=r"has no 'media' folder") as caught:
        adk(tmp_path)
    assert "copype" in caught.value.hint
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BaseMediaError, match=r"file is not a folder"):
        adk(tmp_path / "file")
    folder = copype_folder(tmp_path / "pe")
    (folder / "media/sources/boot.wim").unlink()
    with pytest.raises(BaseMediaError, match=r"has neither media/sources/boot.wim nor a winpe.wim"):
        adk(folder)
    folder = copype_folder(tmp_path / "pe2")
    for name in ("etfsboot.com", "efisys.bin"):
        (folder / "fwfiles" / name).unlink()
    with pytest.raises(BaseMediaError, match=r"has neither etfsboot.com nor efisys.bin"):
        adk(folder)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = copype_folder(tmp_path / "pe")
    (folder / "media" / "Boot" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(BaseMediaError, match=r"secret is a symbolic link"):
        adk(folder)
