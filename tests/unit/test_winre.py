"""winre.wim as base media, on boot files that others lend."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.base.windows import open_base
from builder.base.windows_media import BaseKind, WindowsBase, WindowsBaseSettings
from builder.errors import BaseMediaError
from tests.unit.wim_maker import PE_FILES, plain_wim
from tests.unit.windows_media_maker import BOOT, copype_folder, windows_iso

WINRE = plain_wim(sorted({**PE_FILES, "sources/recovery/RecEnv.exe": b"MZ"}.items()))


def winre(path: Path, media: Path | None) -> WindowsBase:
    return open_base(WindowsBaseSettings(kind=BaseKind.WINRE, path=path, media=media))


@pytest.mark.parametrize("lender", ["iso", "adk"])
def test_boot_files_are_borrowed(tmp_path: Path, lender: str) -> None:
    folder = tmp_path / "Recovery" / "WindowsRE"
    folder.mkdir(parents=True)
    (folder / "Winre.wim").write_bytes(WINRE)
    media = windows_iso(tmp_path / "w.iso") if lender == "iso" else copype_folder(tmp_path / "pe")
    for given in (folder / "Winre.wim", folder, tmp_path / "Recovery"):
        base = winre(given, media)
        assert base.boot_wim.read_all() == WINRE
        assert (base.kind, base.source, base.media_source) == (BaseKind.WINRE, given, media)
        assert base.uefi_image == BOOT.efisys and base.content("bootmgr") == BOOT.bootmgr
        assert f"borrowed from {media}" in base.notes[-1]


def test_what_does_not_fit(tmp_path: Path) -> None:
    wim, media = tmp_path / "winre.wim", windows_iso(tmp_path / "w.iso")
    wim.write_bytes(WINRE)
    with pytest.raises(BaseMediaError, match=r"a winre base needs 'media' too"):
        winre(wim, None)
    with pytest.raises(BaseMediaError, match=r"gone.wim does not exist"):
        winre(tmp_path / "gone.wim", media)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseMediaError, match=r"empty holds no winre.wim"):
        winre(tmp_path / "empty", media)
    with pytest.raises(BaseMediaError, match=r"w.iso is not a WIM"):
        winre(media, media)
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "winre.wim").write_bytes(WINRE)
    with pytest.raises(BaseMediaError, match=r"holds 2 files named winre.wim"):
        winre(tmp_path / "two", media)
    arm = windows_iso(tmp_path / "arm.iso", {"efi/boot/bootx64.efi": None, "efi/boot/bootaa64.efi": b"MZ"})
    with pytest.raises(BaseMediaError, match=r"is for x64, .*arm.iso boots arm64"):
        winre(wim, arm)
