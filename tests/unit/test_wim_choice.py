"""Which image is chosen, and the words for those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.base.wim_choice import Rejected, Wanted, choose_image
from builder.errors import BaseMediaError
from builder.wim import Wim, open_wim
from builder.wim_build import Rename
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, SETUP_FILES, libwim_wim, plain_wim

FULL = {**PE_FILES, **BITLOCKER_FILES}
#: image 1: no BitLocker; 2: Setup, larger; 3: smallest that has BitLocker; 4: no WinPE at all.
IMAGES = (
    {**PE_FILES, "Windows/a": b"a" * 10},
    {**FULL, **SETUP_FILES, "Windows/b": b"b" * 5000},
    {**FULL, "Windows/c": b"c" * 100},
    {"Windows/explorer.exe": b"MZ"},
)


@pytest.fixture
def wim(tmp_path: Path) -> Wim:
    return open_wim(libwim_wim(tmp_path / "boot.wim", IMAGES, boot_index=2))


def plain(tmp_path: Path, files: dict[str, bytes], **other: str) -> Wim:
    path = tmp_path / "plain.wim"
    path.write_bytes(plain_wim(sorted(files.items()), **other))  # type: ignore[arg-type]
    return open_wim(path)


def test_the_smallest_that_qualifies(wim: Wim) -> None:
    choice = choose_image(wim, Wanted(bitlocker=True))
    assert choice.index == 3 and choice.renames == () and choice.notes == ()
    assert choice.reason == (
        "Image 3 (image 3), the smallest of 2 that qualify: it has WinPE's chain of start, manage-bde."
    )
    assert [(r.index, r.name) for r in choice.rejected] == [(1, "image 1"), (2, "image 2"), (4, "image 4")]
    assert choice.rejected[0].reasons == (
        "It cannot open BitLocker volumes: manage-bde.exe, fveapi.dll missing (WinPE-SecureStartup).",
    )
    assert choice.rejected[1].reasons[0].startswith("It qualifies, but is larger by ")
    assert (
        choice.rejected[2].reasons[0].startswith("It is not a WinPE that runs startnet.cmd: winpeshl.exe, wpeinit.exe")
    )


def test_without_bitlocker_the_plain_one_does(wim: Wim) -> None:
    assert choose_image(wim, Wanted(bitlocker=False)).index == 1


def test_setup_is_kept_from_starting(wim: Wim) -> None:
    choice = choose_image(wim, Wanted(bitlocker=True, index=2))
    assert choice.renames == (
        Rename(path="setup.exe", target="setup.exe.not-started"),
        Rename(path="sources/setup.exe", target="sources/setup.exe.not-started"),
    )
    assert choice.reason.startswith("Image 2 (image 2), as the profile says;")
    assert Rejected(index=3, name="image 3", reasons=("The profile asks for image 2.",)) in choice.rejected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            Wanted(bitlocker=True, index=1),
            r"image 1 is not one that of .*\n  image 1 \(image 1\): It cannot open BitLocker",
        ),
        (
            Wanted(bitlocker=False, dlls=("zlib1.dll",)),
            r"no image of .* can be used\n(.*\n)*.*The payload needs zlib1.dll",
        ),
        (Wanted(bitlocker=False, architectures=("arm64",)), r"It is for x64, the payload for arm64"),
        (Wanted(bitlocker=False, index=9), r"has no image 9; it has 4"),
    ],
)
def test_none_qualifies(wim: Wim, wanted: Wanted, message: str) -> None:
    with pytest.raises(BaseMediaError, match=message):
        choose_image(wim, wanted)


def test_dlls_are_found_whatever_their_case_and_api_sets_are_no_files(tmp_path: Path) -> None:
    wanted = Wanted(bitlocker=False, dlls=("kernel32.DLL", "api-ms-win-core-path-l1-1-0.dll"))
    assert choose_image(plain(tmp_path, PE_FILES), wanted).index == 1
    without_schema = {k: v for k, v in PE_FILES.items() if "apisetschema" not in k}
    with pytest.raises(BaseMediaError, match=r"The payload needs api-ms-win-core-path-l1-1-0.dll"):
        choose_image(plain(tmp_path, without_schema), wanted)


def test_a_plain_adk_image_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match=r"manage-bde.exe, fveapi.dll missing") as caught:
        choose_image(plain(tmp_path, PE_FILES), Wanted(bitlocker=True))
    assert "boot.wim of a Windows install ISO" in caught.value.hint and "'bitlocker: false'" in caught.value.hint


def test_the_loader_of_either_firmware_is_enough(tmp_path: Path) -> None:
    only_efi = {k: v for k, v in PE_FILES.items() if not k.endswith("winload.exe")}
    assert choose_image(plain(tmp_path, only_efi), Wanted(bitlocker=False)).index == 1
    none = {k: v for k, v in only_efi.items() if not k.endswith("winload.efi")}
    with pytest.raises(BaseMediaError, match=r"It has no Windows loader"):
        choose_image(plain(tmp_path, none), Wanted(bitlocker=False))


def test_what_is_uncertain_is_noted(tmp_path: Path) -> None:
    files = {k: v for k, v in FULL.items() if "wbem" not in k}
    choice = choose_image(plain(tmp_path, files, xml="<WIM/>"), Wanted(bitlocker=True))
    assert choice.notes == (
        "The WIM does not say what architecture its images are for; x64 is assumed.",
        "wbem\\Win32_EncryptableVolume.dll was not found; manage-bde may need it.",
    )
