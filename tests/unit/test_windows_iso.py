"""Windows ISOs as base media: what is read out of them, and what is said about those that are none."""

from __future__ import annotations

import binascii
import io
import os
import struct
from pathlib import Path

import pycdlib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycdlib.pycdlibexception import PyCdlibInvalidISO

from builder.base.windows import open_base
from builder.base.windows_iso import open_windows_iso, read_iso
from builder.base.windows_media import (
    BaseKind,
    WindowsBaseSettings,
    fat_size,
    refuse_architecture,
)
from builder.errors import BaseMediaError, ImageError
from builder.media.udf import UdfVolume
from builder.wim import open_wim
from tests.unit.windows_media_maker import BOOT, FLOPPY, WINPE, efisys, windows_iso


def test_everything_a_recovery_iso_needs(tmp_path: Path) -> None:
    path = windows_iso(tmp_path / "win.iso")
    base = open_base(WindowsBaseSettings(kind=BaseKind.WINDOWS_ISO, path=path))
    assert base.boot_wim.read_all() == WINPE
    assert open_wim(base.boot_wim).read(1, "Windows/System32/cmd.exe") == b"cmd"
    assert base.bios_image == BOOT.etfsboot and base.uefi_image == BOOT.efisys
    assert base.uefi_image_noprompt == BOOT.efisys_noprompt
    assert (base.architecture, base.volume_id, base.notes) == ("x64", "CCCOMA_X64FRE_EN-US", ())
    assert [file.path for file in base.files] == [
        "boot/bcd",
        "boot/boot.sdi",
        "boot/bootfix.bin",
        "boot/etfsboot.com",
        "boot/fonts/segoe_slboot.ttf",
        "bootmgr",
        "bootmgr.efi",
        "efi/boot/bootx64.efi",
        "efi/microsoft/boot/bcd",
        "efi/microsoft/boot/efisys.bin",
        "efi/microsoft/boot/efisys_noprompt.bin",
        "efi/microsoft/boot/fonts/segoe_slboot.ttf",
    ]
    assert base.content("Boot/BCD") == BOOT.bcd_bios
    with pytest.raises(BaseMediaError, match=r"win.iso has no boot/other"):
        base.content("boot/other")


def test_a_boot_image_that_is_no_file(tmp_path: Path) -> None:
    """As on Microsoft's media: the catalog says one sector; the FAT volume itself says how long it is."""
    image, path = efisys("another"), tmp_path / "win.iso"
    iso = pycdlib.PyCdlib()
    iso.new(udf="2.60")
    iso.add_directory(udf_path="/sources")
    iso.add_fp(io.BytesIO(WINPE), len(WINPE), udf_path="/sources/boot.wim")
    iso.add_fp(io.BytesIO(image), len(image), iso_path="/EFISYS.BIN;1")
    iso.add_eltorito("/EFISYS.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=1, platform_id=0xEF)
    for name in ("/EFISYS.BIN;1", "/BOOT.CAT;1"):
        iso.rm_hard_link(iso_path=name)
    iso.write(str(path))
    iso.close()
    assert not any("efisys" in name for name in read_iso(path).files)
    base = open_windows_iso(path)
    assert base.uefi_image == image and base.bios_image is None and len(image) == FLOPPY


@pytest.mark.parametrize("head", [b"", bytes(512), b"\xeb" * 511, os.urandom(510) + b"\0\0"])
def test_fat_size_of_other_things(head: bytes) -> None:
    assert fat_size(head) == 0


def other_iso(path: Path, files: dict[str, bytes], *, joliet: bool = True, udf: bool = False) -> Path:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=4, joliet=3 if joliet else None, udf="2.60" if udf else None)
    folders = {parent.as_posix() for name in files for parent in Path(name).parents} - {"."}

    def name_in(name: str, present: bool) -> str | None:
        return f"/{name}" if present else None

    for folder in sorted(folders):
        iso.add_directory(f"/{folder.upper()}", joliet_path=name_in(folder, joliet), udf_path=name_in(folder, udf))
    for name, content in files.items():
        joliet_path, udf_path = name_in(name, joliet), name_in(name, udf)
        iso.add_fp(io.BytesIO(content), len(content), f"/{name.upper()}", joliet_path=joliet_path, udf_path=udf_path)
    iso.write(str(path))
    iso.close()
    return path


@pytest.mark.parametrize(
    ("joliet", "udf", "tree"), [(True, False, "Joliet"), (False, False, "ISO9660"), (True, True, "UDF")]
)
def test_isos_of_others(tmp_path: Path, joliet: bool, udf: bool, tree: str) -> None:
    """mkwinpeimg's and Rufus's ISOs are no UDF; without boot entries the files beside boot.wim serve."""
    files = {"sources/boot.wim": WINPE, "boot/etfsboot.com": BOOT.etfsboot, "efi/boot/bootx64.efi": b"MZ"}
    path = other_iso(tmp_path / "other.iso", files, joliet=joliet, udf=udf)
    assert read_iso(path).tree == tree
    base = open_windows_iso(path)
    assert base.boot_wim.read_all() == WINPE and base.bios_image == BOOT.etfsboot and base.uefi_image is None
    assert base.notes == ("The ISO has no boot entry for BIOS; boot/etfsboot.com is used.",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"live/vmlinuz": b"1", "boot/grub/grub.cfg": b"2"}, r"has no sources/boot.wim: it looks like a Linux image"),
        ({"sources/install.esd": b"1"}, r"has no sources/boot.wim: its images are ESD files"),
        ({"music/a.mp3": b"1", "b": b"2"}, r"has no sources/boot.wim; it holds .*b, .*music"),
        ({"sources/boot.wim": WINPE}, r"does not boot: it has neither boot/etfsboot.com nor"),
    ],
)
def test_isos_without_what_is_needed(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(BaseMediaError, match=message) as caught:
        open_windows_iso(other_iso(tmp_path / "other.iso", files))
    assert "install ISO" in caught.value.hint


def test_no_iso_at_all(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match=r"gone.iso: No such file"):
        open_windows_iso(tmp_path / "gone.iso")
    with pytest.raises(BaseMediaError, match=r"is a folder, not an ISO"):
        open_windows_iso(tmp_path)
    (tmp_path / "a.iso").write_bytes(b"MZ" * 50_000)
    with pytest.raises(BaseMediaError, match=r"not an ISO image: 'CD001' is expected"):
        open_windows_iso(tmp_path / "a.iso")
    (tmp_path / "b.iso").write_bytes(b"")
    with pytest.raises(BaseMediaError, match=r"not an ISO image"):
        open_windows_iso(tmp_path / "b.iso")


def test_an_incomplete_download(tmp_path: Path) -> None:
    path = windows_iso(tmp_path / "win.iso", {"sources/boot.wim": os.urandom(2_000_000)})
    size = path.stat().st_size
    for keep in (size - 1_500_000, size // 4, 300 * 2048):
        os.truncate(path, keep)
        with pytest.raises(BaseMediaError, match=r"cut off|damaged"):
            open_windows_iso(path)


def test_arm64_media_are_recognised(tmp_path: Path) -> None:
    changes = {"efi/boot/bootx64.efi": None, "efi/boot/bootaa64.efi": b"MZ", "boot/etfsboot.com": None}
    base = open_windows_iso(windows_iso(tmp_path / "arm.iso", changes))
    assert base.architecture == "arm64" and base.bios_image is None
    with pytest.raises(BaseMediaError, match=r"is for arm64 machines; the frozen payload is for x64"):
        refuse_architecture(base, payload_architectures=["x64"])
    refuse_architecture(base, payload_architectures=["x64", "arm64"])


def test_where_pycdlib_cannot_our_own_reader_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = windows_iso(tmp_path / "win.iso", {"sources/empty": b"", "sources/a folder/na\u00efve": b"x"})
    by_pycdlib = read_iso(path)

    def refuse(_: object, __: str) -> None:
        raise PyCdlibInvalidISO("not today")

    monkeypatch.setattr(pycdlib.PyCdlib, "open", refuse)
    assert read_iso(path) == by_pycdlib
    data = bytearray(path.read_bytes())
    data[32 * 2048 : 257 * 2048] = bytes(225 * 2048)
    path.write_bytes(data)
    with pytest.raises(BaseMediaError, match=r"the UDF file system of the ISO is damaged or cut off: not today"):
        read_iso(path)


def test_a_file_whose_pieces_lie_over_each_other(tmp_path: Path) -> None:
    """Twenty megabytes can claim terabytes; hashing them would never end."""
    path = windows_iso(tmp_path / "win.iso")
    data = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        volume = UdfVolume(stream, len(data))
        folders = {name: block for name, block, _ in volume._children(volume._node(volume._root, "/"), "/")}
        boot = volume._node(folders["boot"], "boot")
        entry = volume._at(next(block for name, block, _ in volume._children(boot, "boot") if name == "bcd"))
    pieces = b"".join(struct.pack("<II", len(data) // 2 & ~2047, 0) for _ in range(200))
    struct.pack_into("<Q", data, entry + 56, 200 * (len(data) // 2 & ~2047))
    struct.pack_into("<II", data, entry + 168, 0, len(pieces))
    struct.pack_into("<H", data, entry + 34, 0)  # short descriptors
    data[entry + 176 : entry + 176 + len(pieces)] = pieces
    struct.pack_into("<HH", data, entry + 8, binascii.crc_hqx(data[entry + 16 : entry + 2048], 0), 2032)
    data[entry + 4] = (sum(data[entry : entry + 16]) - data[entry + 4]) & 0xFF
    path.write_bytes(data)
    with path.open("rb") as stream, pytest.raises(ImageError, match=r"'boot/bcd' in the image claims \d+ bytes"):
        list(UdfVolume(stream, len(data)).files())
    with pytest.raises(BaseMediaError, match=r"boot/bcd in .* is damaged: it claims \d+ bytes, the whole image has"):
        read_iso(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return windows_iso(tmp_path_factory.mktemp("sample") / "win.iso").read_bytes()


# Volume descriptors and the UDF structures lie before the files.
CHANGES = st.lists(
    st.tuples(st.integers(16 * 2048, 300 * 2048), st.binary(min_size=1, max_size=16)), min_size=1, max_size=8
)


@settings(max_examples=120, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_a_damaged_one_gives_only_our_errors(tmp_path: Path, sample: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(sample)
    for at, new in changes:
        data[at : at + len(new)] = new
    path = tmp_path / "damaged.iso"
    path.write_bytes(data)
    try:
        open_windows_iso(path)
    except BaseMediaError as error:
        assert error.message
