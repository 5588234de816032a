"""Static read-back of images: what is in them, and what a file that is none turns into."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.console import SilentStep
from builder.errors import ImageError
from builder.initramfs import payload_segment
from builder.media.iso import IsoFile, IsoLayout, write_iso
from builder.media.layout import LinuxBootFiles, linux_iso_layout
from builder.verify.inspect import ImageReport, inspect_image, kernel_version
from payload.formats.records import to_json

EPOCH = 1751328000


def kernel_image(version: str = "6.12.1+test (builder) #1") -> bytes:
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x600)
    text = version.encode() + b"\0"
    image[0x800 : 0x800 + len(text)] = text
    return bytes(image)


def boot_files(**other: bytes) -> LinuxBootFiles:
    values: dict[str, Any] = {
        "kernel": kernel_image(),
        "initrd": payload_segment(
            payload={"about.txt": b"x"}, init=b"#!/bin/sh\n", config=b"{}", base=b"", epoch=EPOCH
        ),
        "shim": b"MZ UEFI SHIM ",
        "grub": b"MZ GRUB",
        "bios_image": bytes(100) + b"cdrom read fails".ljust(4096, b"\0"),
        "grub_config": b"set timeout=3\n",
        "image_json": b'{"image_id": "0f3a", "later": [1, 2]}',
    }
    return LinuxBootFiles(image_id="0f3a", **{**values, **other})


def ours(path: Path, **other: bytes) -> Path:
    write_iso(linux_iso_layout(boot_files(**other), epoch=EPOCH), path, step=SilentStep())
    return path


def test_our_own_image(tmp_path: Path) -> None:
    path = ours(tmp_path / "bluelift.iso")
    report = inspect_image(path)
    assert (report.volume_id, report.created, report.size) == ("BLUELIFT", "2025-07-01T00:00:00Z", path.stat().st_size)
    assert report.rock_ridge and report.joliet and not report.udf
    assert report.kernel == "6.12.1+test"
    assert report.identity == {"image_id": "0f3a", "later": [1, 2]}
    assert report.notes == ()
    bios, uefi = report.boot_entries
    assert (bios.platform, bios.load_size, bios.path, bios.program) == (
        "BIOS",
        2048,
        "boot/grub/eltorito.img",
        "GRUB (cdboot)",
    )
    assert (uefi.platform, uefi.path, uefi.volume_label) == ("UEFI", "boot/grub/efi.img", "BLUELIFT")
    assert uefi.program == "FAT12 volume with EFI/BOOT/BOOTX64.EFI (shim)"
    assert uefi.load_size == uefi.size
    assert {file.path for file in uefi.contents} == {
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/grubx64.efi",
        "boot/grub/grub.cfg",
    }
    on_iso = {file.path: file.sha256 for file in report.files}
    assert all(on_iso[file.path] == file.sha256 for file in uefi.contents)
    assert {entry.name: entry.size for entry in report.initramfs}["init"] == len(b"#!/bin/sh\n")


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    data = json.loads(json.dumps(to_json(inspect_image(ours(tmp_path / "a.iso")))))
    assert data["boot_entries"][1]["contents"][0]["path"] == "EFI/BOOT/BOOTX64.EFI"
    assert list(data)[:3] == ["path", "size", "sha256"]


@pytest.mark.parametrize(
    ("other", "note"),
    [
        ({"image_json": b"not json"}, "image.json is damaged"),
        ({"image_json": b"[1]"}, "image.json is damaged"),
        ({"image_json": b"[" * 100000}, "image.json is damaged"),
        ({"initrd": b"not an initramfs"}, "Bluelift/initrd.img: "),
    ],
)
def test_damaged_parts_become_notes(tmp_path: Path, other: dict[str, bytes], note: str) -> None:
    report = inspect_image(ours(tmp_path / "a.iso", **other))
    assert any(note in line for line in report.notes), report.notes


def test_somebody_elses_image(tmp_path: Path) -> None:
    boot = bytes(64) + b"ISOLINUX 6.04".ljust(2048, b"\0")
    files = (IsoFile(path="isolinux/isolinux.bin", source=boot), IsoFile(path="efi.img", source=b"no FAT here" * 400))
    layout = IsoLayout(
        volume_id="OTHER", files=files, bios_image="isolinux/isolinux.bin", uefi_image="efi.img", epoch=EPOCH
    )
    write_iso(layout, tmp_path / "a.iso", step=SilentStep())
    report = inspect_image(tmp_path / "a.iso")
    assert [entry.program for entry in report.boot_entries] == ["ISOLINUX", "unknown"]
    assert report.identity is None and report.initramfs == () and report.kernel == ""
    assert any("not a FAT volume" in line for line in report.notes)


def test_the_kernel_version_field() -> None:
    assert kernel_version(kernel_image()) == "6.12.1+test"
    assert kernel_version(kernel_image("bad\nversion")) == ""
    assert kernel_version(b"") == kernel_version(bytes(4096)) == ""
    far = bytearray(kernel_image())
    struct.pack_into("<H", far, 0x20E, 0xFFFF)
    assert kernel_version(bytes(far)) == ""


# --- what is not an image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at offset 0x8000, the file ends at 0x0"),
        (b"x" * 100, "the file ends at 0x64"),
        (bytes(0x9000), "'CD001' is expected at offset 0x8001, found 00 00 00 00 00"),
        (bytes(0x8001) + b"HELLO" + bytes(4096), r"found 48 45 4c 4c 4f \('HELLO'\)"),
        (bytes(0x8000) + b"\xffCD001\1" + bytes(2041), "no primary one"),
    ],
)
def test_not_an_image(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some.file"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        inspect_image(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        inspect_image(tmp_path)
    with pytest.raises(ImageError, match=r"cannot read .*: No such file"):
        inspect_image(tmp_path / "gone.iso")


def test_an_image_cut_off_says_where(tmp_path: Path) -> None:
    path = ours(tmp_path / "a.iso", initrd=os.urandom(3 << 20))
    os.truncate(path, 1 << 20)
    with pytest.raises(ImageError, match=r"cut off: it has 1048576 bytes, 'Bluelift/initrd.img' lies at bytes"):
        inspect_image(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return ours(tmp_path_factory.mktemp("sample") / "a.iso").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 120 * 2048), st.binary(min_size=1, max_size=8)), min_size=1, max_size=10))
def test_a_damaged_image_never_gives_anything_else(
    tmp_path: Path, sample: bytes, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(sample)
    for at, new in changes:
        at = 0x8000 + at % (len(data) - 0x8000 - 8)
        data[at : at + len(new)] = new
    path = tmp_path / "damaged.iso"
    path.write_bytes(data)
    try:
        assert isinstance(inspect_image(path), ImageReport)
    except ImageError as error:
        assert error.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=500), st.integers(0, 0x9000))
def test_garbage(tmp_path: Path, noise: bytes, zeroes: int) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(bytes(zeroes) + noise)
    with pytest.raises(ImageError):
        inspect_image(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_kernel_version_of_garbage(head: bytes) -> None:
    assert kernel_version(head.ljust(0x202, b"\0") + b"HdrS" + head).isprintable()
