"""`bluelift inspect` on Windows media and WIM files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.__main__ import main
from builder.console import SilentStep
from builder.errors import ImageError
from builder.verify.inspect import inspect_file, inspect_image
from builder.verify.inspect_windows import WimReport, WindowsReport, certificate_table, signed_by
from payload.formats.records import to_json
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, SETUP_FILES, libwim_wim, plain_wim
from tests.unit.windows_media_maker import BOOT, FLOPPY, WINPE, windows_iso

BOOT_2023 = {
    f"Windows/Boot/{path}": b"x"
    for path in (
        "EFI_EX/bootmgfw_EX.efi",
        "DVD_EX/EFI/en-US/efisys_EX.bin",
        "DVD_EX/EFI/en-US/efisys_noprompt_EX.bin",
        "FONTS_EX/segoe_slboot_EX.ttf",
        "EFI/boot.stl",
    )
}


def pe(certificate: bytes, *, body: bytes = b"") -> bytes:
    """A PE32+ file for x64 with a certificate table."""
    optional = struct.pack("<H110x", 0x20B) + bytes(16 * 8)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0"
    head += struct.pack("<HHIIIHH", 0x8664, 0, 0, 0, 0, len(optional), 0x22)
    at = len(head) + len(optional) + len(body)
    directory = bytearray(optional)
    directory[112 + 32 : 112 + 40] = struct.pack("<II", at if certificate else 0, len(certificate))
    return head + bytes(directory) + body + certificate


def windows(path: Path) -> WindowsReport:
    report = inspect_image(path)
    assert report.windows is not None
    return report.windows


def test_an_install_iso(tmp_path: Path) -> None:
    report = inspect_image(windows_iso(tmp_path / "win.iso"))
    assert {file.path for file in report.files} >= {"sources/boot.wim", "bootmgr", "efi/microsoft/boot/efisys.bin"}
    bios, uefi = report.boot_entries
    assert (bios.platform, bios.path, bios.program) == (
        "BIOS",
        "boot/etfsboot.com",
        "Windows boot sector (etfsboot.com)",
    )
    assert (uefi.platform, uefi.path, uefi.size) == ("UEFI", "efi/microsoft/boot/efisys.bin", FLOPPY)
    assert uefi.program == "FAT12 volume with EFI/BOOT/BOOTX64.EFI"
    seen = report.windows
    assert seen is not None and seen.boot_wim is not None
    assert (seen.tree, seen.prompt_bios, seen.prompt_uefi, seen.boot_stl) == ("UDF", True, True, False)
    assert seen.other_wims == ("sources/install.wim",)
    (image,) = seen.boot_wim.images
    assert (image.architecture, image.version, image.language) == ("x64", "10.0.17763.1", "de-DE")
    assert (image.manage_bde, image.components, image.boots) == (True, ("WinPE-SecureStartup",), True)
    assert seen.boot_wim.chosen.startswith("Image 1 (plain), the only one;")
    assert "Have in it what opens BitLocker volumes (manage-bde is there)." in seen.can
    assert any("For boot_ca: 2023 it lacks Windows/Boot/EFI_EX/bootmgfw_EX.efi" in line for line in seen.missing)
    assert json.dumps(to_json(report))


def test_no_prompt(tmp_path: Path) -> None:
    changes = {"efi/microsoft/boot/efisys.bin": BOOT.efisys_noprompt, "boot/bootfix.bin": None}
    seen = windows(windows_iso(tmp_path / "win.iso", changes))
    assert (seen.prompt_bios, seen.prompt_uefi) == (False, False)
    seen = windows(windows_iso(tmp_path / "b.iso", {"boot/etfsboot.com": None, "efi/microsoft/boot/efisys.bin": None}))
    assert (seen.prompt_bios, seen.prompt_uefi) == (None, None) and "The ISO has no boot entries." in seen.missing


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (b"..Microsoft Windows Production PCA 2011..", "2011"),
        (b"..Windows UEFI CA 2023..", "2023"),
        (b"..Microsoft Corporation UEFI CA 2011..", "other"),
        (b"", ""),
    ],
)
def test_who_signed(tmp_path: Path, certificate: bytes, expected: str) -> None:
    # A name in the program itself is no signature.
    data = pe(certificate, body=b"Windows UEFI CA 2023 is revoked")
    assert signed_by(data) == expected
    seen = windows(windows_iso(tmp_path / "win.iso", {"efi/boot/bootx64.efi": data}))
    (loader,) = (file for file in seen.boot_files if file.path == "efi/boot/bootx64.efi")
    assert (loader.signed_by, loader.machine) == (expected, "x64")
    said = f"Boot under the {expected} certificates as it is."
    assert (said in seen.can) == (expected in ("2011", "2023"))


def test_2023_files(tmp_path: Path) -> None:
    wim = plain_wim(sorted({**PE_FILES, **BOOT_2023}.items()))
    seen = windows(windows_iso(tmp_path / "win.iso", {"sources/boot.wim": wim, "efi/microsoft/boot/boot.stl": b"x"}))
    assert seen.boot_wim is not None and seen.boot_stl
    (image,) = seen.boot_wim.images
    assert (image.boot_2023_missing, image.boot_stl, image.manage_bde) == ((), True, False)
    assert "Boot under the 2023 certificates (boot_ca: 2023 or both)." in seen.can
    assert seen.missing[0].startswith("manage-bde.exe is not there: BitLocker volumes stay closed.")


def test_a_wim_file(tmp_path: Path) -> None:
    files = {**PE_FILES, **BITLOCKER_FILES}
    path = libwim_wim(tmp_path / "boot.wim", [files, {**files, **SETUP_FILES}], boot_index=2, integrity=True)
    report = inspect_file(path, SilentStep())
    assert isinstance(report, WimReport)
    assert (report.compression, report.boot_index, report.integrity, report.solid) == ("LZX", 2, True, False)
    assert [(i.index, i.boots, i.setup_takes_over) for i in report.images] == [(1, False, False), (2, True, True)]
    assert report.chosen.startswith("Image 1 (image 1), the smallest of 2")
    assert len(report.notes) == 1 and report.notes[0].startswith("A WIM alone does not boot")


def test_what_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "install.esd"
    path.write_bytes(plain_wim([("a", b"1")], version=0xE00, flags=0x80))
    report = inspect_file(path)
    assert isinstance(report, WimReport) and report.solid and not report.images[0].contents_read
    assert report.missing == (
        "It is compressed as LZMS (an ESD), which boot loaders cannot read. Convert it to LZX first.",
    )
    path.write_bytes(plain_wim([("a", b"1"), ("..", b"2")]))
    report = inspect_file(path)
    assert isinstance(report, WimReport) and report.missing == ("Its folders cannot be read.",)
    assert "would leave its folder" in report.notes[0]
    path.write_bytes(plain_wim([("a", b"1")]))
    report = inspect_file(path)
    assert isinstance(report, WimReport)
    assert report.missing[0].startswith("Image 1: It is not a WinPE that runs startnet.cmd:")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    data = bytearray(WINPE)
    data[data.index(b"MZ manage-bde")] ^= 1
    path = windows_iso(tmp_path / "win.iso", {"sources/boot.wim": bytes(data)})
    seen = windows(path)
    assert seen.boot_wim is not None
    assert seen.boot_wim.notes == ("Damaged, by their sha1: 1:Windows/System32/manage-bde.exe.",)
    assert seen.missing[0] == "Files in it are damaged; get it anew before building from it."


def test_an_iso_whose_boot_wim_is_damaged(tmp_path: Path) -> None:
    seen = windows(windows_iso(tmp_path / "win.iso", {"sources/boot.wim": b"MSWIM\0\0\0garbage"}))
    assert seen.boot_wim is None and "is cut off" in seen.notes[0]
    assert seen.missing == ("sources/boot.wim is not there or cannot be read: nothing can be built from it.",)


def test_other_isos_hold_no_windows(tmp_path: Path) -> None:
    from tests.unit.test_windows_iso import other_iso

    for udf in (True, False):
        report = inspect_image(other_iso(tmp_path / f"{udf}.iso", {"live/vmlinuz": b"1"}, udf=udf))
        assert report.windows is None and report.files[-1].path.lower() == "live/vmlinuz"


@pytest.mark.parametrize("kind", ["iso", "wim"])
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "iso":
        windows_iso(path)
    else:
        path.write_bytes(WINPE)
    assert main(["inspect", "--plain", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in ("Windows images", "10.0.17763.1", "SecureStartup", "Bluelift can:", "would start from"):
        assert text in shown
    assert ("waits for a key" in shown) == (kind == "iso")
    assert ("A WIM alone does not boot" in shown) == (kind == "wim")
    assert main(["inspect", "--plain", str(path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    wim = value["windows"]["boot_wim"] if kind == "iso" else value
    assert wim["images"][0]["manage_bde"] is True


def test_what_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 40_000)
    with pytest.raises(ImageError, match=r"not an ISO image"):
        inspect_file(path)
    with pytest.raises(ImageError, match=r"No such file"):
        inspect_file(tmp_path / "gone")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_certificates_of_garbage(noise: bytes, at: int) -> None:
    data = bytearray(pe(b"certificate"))
    data[at : at + len(noise)] = noise
    assert isinstance(certificate_table(bytes(data)), bytes)
    assert isinstance(certificate_table(noise), bytes)
    assert signed_by(b"MZ" + noise) in ("", "other", "2011", "2023")
