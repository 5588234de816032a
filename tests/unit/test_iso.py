"""ISO images: names, boot entries, same bytes again, and what happens when something goes wrong in mid-write."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycdlib.dates
import pycdlib.udf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.console import SilentStep
from builder.errors import BuilderError, ImageError, OutputError
from builder.media import iso as iso_module
from builder.media.fat import FatFile, fat_image
from builder.media.iso import PADDING, IsoFile, IsoLayout, boot_info_table, write_iso
from builder.media.iso9660 import SECTOR, IsoImage, Tree
from builder.media.iso_names import plan_names
from builder.media.layout import LinuxBootFiles, linux_iso_layout, marker
from builder.media.reproducible import pycdlib_at

EPOCH = 1751328000
BIOS = bytes(range(256)) * 20
UEFI = fat_image([FatFile(path="EFI/BOOT/BOOTX64.EFI", data=b"MZ")], label="EFI", serial=1, epoch=EPOCH)


def layout(files: dict[str, bytes | Path], **other: object) -> IsoLayout:
    values: dict[str, object] = {"volume_id": "TEST", "bios_image": None, "uefi_image": None, "epoch": EPOCH}
    listed = tuple(IsoFile(path=path, source=source) for path, source in files.items())
    return IsoLayout(files=listed, **{**values, **other})  # type: ignore[arg-type]


def read_all(path: Path, tree: Tree = Tree.PRIMARY) -> dict[str, bytes]:
    with path.open("rb") as stream:
        image = IsoImage(stream, path.stat().st_size)
        return {entry.path: b"".join(image.chunks(entry)) for entry in image.files(tree)}


def bootable(tmp_path: Path) -> IsoLayout:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel" * 5000)
    return layout(
        {"boot/bios.img": BIOS, "boot/efi.img": UEFI, "Bluelift/vmlinuz": kernel, "Bluelift/empty.id": b""},
        bios_image="boot/bios.img",
        uefi_image="boot/efi.img",
    )


class Progress(SilentStep):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float | None, str]] = []

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        self.seen.append((done, total, unit))


def test_what_goes_in_comes_out_under_every_name(tmp_path: Path) -> None:
    out = tmp_path / "out.iso"
    step = Progress()
    write_iso(bootable(tmp_path), out, step=step)
    primary = read_all(out)
    assert primary["Bluelift/vmlinuz"] == b"kernel" * 5000
    assert primary["Bluelift/empty.id"] == b""
    assert primary["boot/efi.img"] == UEFI
    assert primary == read_all(out, Tree.JOLIET)
    assert step.seen[-1][0] == step.seen[-1][1] and step.seen[-1][2] == "bytes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.iso", "vmlinuz"]


def test_boot_entries_and_padding(tmp_path: Path) -> None:
    out = tmp_path / "out.iso"
    write_iso(bootable(tmp_path), out, step=SilentStep())
    assert out.read_bytes()[-PADDING:] == bytes(PADDING)
    with out.open("rb") as stream:
        image = IsoImage(stream, out.stat().st_size)
        bios, uefi = image.boot_entries()
        places = {entry.path: entry for entry in image.files()}
        assert (bios.platform, bios.bootable, bios.media_type, bios.load_size) == (0, True, 0, 4)
        assert (uefi.platform, uefi.bootable, uefi.media_type, uefi.load_size) == (0xEF, True, 0, len(UEFI) // 512)
        assert bios.lba * SECTOR == places["boot/bios.img"].offset
        assert uefi.lba * SECTOR == places["boot/efi.img"].offset
        assert image.primary.volume_id == "TEST"
        assert image.primary.created == EPOCH
        assert image.size == image.primary.sectors * SECTOR + PADDING
    written = read_all(out)["boot/bios.img"]
    lba, length, checksum = struct.unpack_from("<III", written, 12)
    assert (lba, length) == (bios.lba, len(BIOS))
    assert checksum == sum(struct.unpack(f"<{(len(BIOS) - 64) // 4}I", BIOS[64:])) & 0xFFFFFFFF
    assert written[:8] + written[64:] == BIOS[:8] + BIOS[64:]


def test_the_boot_information_table_of_an_odd_length() -> None:
    image = bytes(64) + b"\x01\x00\x00\x00\x02"
    assert boot_info_table(image, 77) == struct.pack("<IIII", 16, 77, 69, 3) + bytes(40)


def test_uefi_only(tmp_path: Path) -> None:
    out = tmp_path / "out.iso"
    write_iso(layout({"efi.img": UEFI}, uefi_image="efi.img"), out, step=SilentStep())
    with out.open("rb") as stream:
        entries = IsoImage(stream, out.stat().st_size).boot_entries()
    assert [entry.platform for entry in entries] == [0xEF]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns"])
def test_the_same_bytes_on_any_day_in_any_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    first, second = tmp_path / "first.iso", tmp_path / "elsewhere" / "second.iso"
    second.parent.mkdir()
    wanted = bootable(tmp_path)
    write_iso(wanted, first, step=SilentStep())
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with monkeypatch.context() as changed:
            changed.setattr(time, "time", lambda: 2000000000.5)
            write_iso(wanted, second, step=SilentStep())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert first.read_bytes() == second.read_bytes()


def test_the_same_bytes_whatever_the_hash_seed_and_the_order(tmp_path: Path) -> None:
    program = """
import sys, hashlib
from pathlib import Path
from builder.console import SilentStep
from builder.media.iso import IsoFile, IsoLayout, write_iso
names = [f"folder {i % 5}/File {i}.Bin" for i in range(40)]
if sys.argv[2] == "reversed": names.reverse()
files = tuple(IsoFile(path=name, source=name.encode() * 100) for name in names)
write_iso(IsoLayout(volume_id="T", files=files, bios_image=None, uefi_image=None, epoch=1751328000), Path(sys.argv[1]), step=SilentStep())
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""  # noqa: E501
    found = set()
    for seed, order in (("0", "given"), ("1", "given"), ("7", "given"), ("3", "reversed")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        argv = [sys.executable, "-c", program, str(tmp_path / f"{seed}.iso"), order]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_pycdlib_gets_its_clock_back() -> None:
    seen: Callable[[object, str], Any] = getattr
    with pytest.raises(RuntimeError), pycdlib_at(EPOCH):
        assert seen(pycdlib.dates, "time").time() == EPOCH
        assert seen(pycdlib.dates, "time").localtime(0).tm_hour == 0
        assert seen(pycdlib.udf, "random").getrandbits(26) == random.Random(EPOCH).getrandbits(26)
        assert abs(time.time() - EPOCH) > 1
        raise RuntimeError
    assert seen(pycdlib.dates, "time") is time
    assert seen(pycdlib.udf, "random") is random


# --- when something goes wrong --------------------------------------------------------------------------------------


class Shrinks(SilentStep):
    """Cuts a source in half while the ISO is being written."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        os.truncate(self.source, 1000)


def test_a_source_that_shrinks_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "z-last"
    source.write_bytes(b"x" * (5 << 20))
    out = tmp_path / "out.iso"
    out.write_bytes(b"the one before")
    files: dict[str, bytes | Path] = {"a-first": bytes(3 << 20), "z-last": source}
    with pytest.raises(BuilderError, match=r"z-last|cannot make"):
        write_iso(layout(files), out, step=Shrinks(source))
    assert out.read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.iso", "z-last"]


def test_a_source_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"before" * 1000)
    measured = iso_module._measure

    def measure(file: IsoFile) -> object:
        result = measured(file)
        source.write_bytes(b"after!" * 1000)
        return result

    monkeypatch.setattr(iso_module, "_measure", measure)
    with pytest.raises(OutputError, match="'source' in the ISO is not what its source held"):
        write_iso(layout({"source": source}), tmp_path / "out.iso", step=SilentStep())
    assert not (tmp_path / "out.iso").exists()


def test_a_disk_that_takes_no_file_of_this_size(tmp_path: Path) -> None:
    """A file size limit stops the write in its middle, as FAT32 does at 4 GiB."""
    program = """
import resource, sys
from pathlib import Path
from builder.console import SilentStep
from builder.errors import OutputError
from builder.media.iso import IsoFile, IsoLayout, write_iso
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
files = (IsoFile(path="big", source=bytes(4 << 20)),)
try:
    write_iso(IsoLayout(volume_id="T", files=files, bios_image=None, uefi_image=None, epoch=0), Path(sys.argv[1]), step=SilentStep())
except OutputError as error:
    print(error.message, "|", error.hint)
"""  # noqa: E501
    out = tmp_path / "out.iso"
    done = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cannot write .*out\.iso: File too large \(up to \d+ bytes\) \| Give a folder", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_seen_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"[0-9]+ bytes are needed, 1000 are free"):
        write_iso(layout({"a": b"x"}), tmp_path / "out.iso", step=SilentStep())
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_iso(layout({"a": b"x"}), tmp_path / "missing" / "out.iso", step=SilentStep())
    (tmp_path / "folder.iso").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_iso(layout({"a": b"x"}), tmp_path / "folder.iso", step=SilentStep())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.iso"]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot read .*gone for 'a/b' in the ISO: " + os.strerror(errno.ENOENT)):
        write_iso(layout({"a/b": tmp_path / "gone"}), tmp_path / "out.iso", step=SilentStep())


@pytest.mark.parametrize(
    ("files", "other", "message"),
    [
        ({"a": b""}, {"volume_id": "lower"}, "cannot be the volume id"),
        ({"a": b""}, {"volume_id": "X" * 17}, "cannot be the volume id"),
        ({"a": b""}, {"volume_id": ""}, "cannot be the volume id"),
        ({"a": b""}, {"epoch": -1}, "cannot carry the date"),
        ({"a": b""}, {"bios_image": "b"}, "'b' is not among the files"),
        ({"a": b"short"}, {"bios_image": "a"}, "has 5 bytes; El Torito allows 64"),
        ({"a": bytes(0xFFFF * 512 + 1)}, {"uefi_image": "a"}, "El Torito allows 64 to 33553920"),
        ({"boot/boot.cat": b""}, {}, "is its boot catalog"),
        ({"a/../b": b""}, {}, "'..' is not a file name"),
        ({"": b""}, {}, "'' is not a file name"),
        ({"a\nb": b""}, {}, "is not a file name"),
        ({"a\ud800": b""}, {}, "is not a file name"),
        ({"x" * 249: b""}, {}, "at most 248 bytes"),
        ({"/".join("abcdefghi"): b""}, {}, "9 levels deep"),
        ({"a": b"", "a/b": b""}, {}, "both a file and a folder"),
    ],
)
def test_layouts_that_are_refused(
    tmp_path: Path, files: dict[str, bytes | Path], other: dict[str, object], message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        write_iso(layout(files, **other), tmp_path / "out.iso", step=SilentStep())
    assert list(tmp_path.iterdir()) == []


def test_a_path_given_twice() -> None:
    with pytest.raises(OutputError, match="given twice"):
        plan_names(["a", "a"])


# --- names ------------------------------------------------------------------------------------------------------


def test_names_by_three_rules() -> None:
    names = plan_names(
        ["Bluelift/initrd.img", "Bluelift/INITRD.IMG", "a.b.c.tar.gz", ".hidden", "\N{SNOWMAN}" * 80 + ".txt"]
    )
    assert names.files["Bluelift/initrd.img"].iso == "/BLUELIFT/INITRD_1.IMG;1"
    assert names.files["Bluelift/INITRD.IMG"].iso == "/BLUELIFT/INITRD.IMG;1"
    assert names.files["Bluelift/INITRD.IMG"].joliet == "/Bluelift/INITRD.IMG"
    assert names.files["Bluelift/initrd.img"].joliet == "/Bluelift/initrd~1.img"
    assert names.files["a.b.c.tar.gz"].iso == "/A_B_C_TAR.GZ;1"
    assert names.files[".hidden"].iso == "/_HIDDEN.;1"
    snowmen = names.files["\N{SNOWMAN}" * 80 + ".txt"].joliet
    assert snowmen == "/" + "\N{SNOWMAN}" * 20 + ".txt"
    assert [folder.iso for folder in names.folders] == ["/BLUELIFT", "/BOOT"]


NAMES = st.text(
    st.characters(categories=("L", "N", "P", "S", "M"), exclude_characters="/"), min_size=1, max_size=70
).filter(lambda name: name not in (".", "..") and name.isprintable() and len(name.encode()) <= 248)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=8).map("/".join), st.binary(max_size=5000), min_size=1, max_size=15
    )
)
def test_any_names_depths_and_sizes_come_back(tmp_path: Path, files: dict[str, bytes]) -> None:
    out = tmp_path / "out.iso"
    try:
        write_iso(layout(dict(files)), out, step=SilentStep())
    except OutputError as error:
        assert "both a file and a folder" in error.message
        return
    assert read_all(out) == files
    joliet = read_all(out, Tree.JOLIET)
    assert sorted(joliet.values()) == sorted(files.values())
    assert all(len(part.encode("utf-16-le")) <= 128 for path in joliet for part in path.split("/"))


# --- reading what is not an ISO -------------------------------------------------------------------------------------


def small_iso(tmp_path: Path) -> bytes:
    out = tmp_path / "small.iso"
    files: dict[str, bytes | Path] = {
        "boot/bios.img": BIOS,
        "one/two/three.txt": b"3",
        "a" * 200: b"long",
        "efi.img": UEFI,
    }
    write_iso(layout(files, bios_image="boot/bios.img", uefi_image="efi.img"), out, step=SilentStep())
    return out.read_bytes()[: -PADDING + 8 * SECTOR]


def read_everything(data: bytes) -> None:
    image = IsoImage(io.BytesIO(data), len(data))
    image.boot_entries()
    for tree in (Tree.PRIMARY, Tree.JOLIET):
        for entry in image.files(tree):
            assert sum(map(len, image.chunks(entry))) == entry.size <= len(data)
            assert entry.path.isprintable()


@pytest.fixture(scope="module")
def iso_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_iso(tmp_path_factory.mktemp("iso"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0x8000, 0x8000 + 40 * SECTOR), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_damaged_iso_is_an_image_error_or_readable(iso_bytes: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(iso_bytes)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        read_everything(bytes(data))
    except ImageError as error:
        assert error.message


def test_a_file_whose_extents_lie_over_each_other(iso_bytes: bytes) -> None:
    """A small image can claim any size: reading it would never end."""
    data = bytearray(iso_bytes)
    root = int.from_bytes(data[16 * SECTOR + 158 : 16 * SECTOR + 162], "little") * SECTOR
    at = root + data[root]
    at += data[at]
    blocks = len(data) // SECTOR
    for number in range(20):
        record = bytearray(38)
        record[0], record[25], record[32], record[33:36] = 38, 0 if number == 19 else 0x80, 3, b"A;1"
        struct.pack_into("<I", record, 10, blocks * SECTOR)
        data[at : at + 38] = record
        at += 38
    image = IsoImage(io.BytesIO(data), len(data))
    with pytest.raises(ImageError, match=rf"'A' claims {20 * blocks * SECTOR} bytes, the whole image has {len(data)}"):
        list(image.files())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 90 * SECTOR))
def test_an_iso_that_is_cut_off(iso_bytes: bytes, length: int) -> None:
    content_end = len(iso_bytes) - 8 * SECTOR
    length = min(length, content_end - SECTOR)
    with pytest.raises(ImageError, match=r"cut off|not an ISO image|ended"):
        read_everything(iso_bytes[:length])


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3 * SECTOR))
def test_garbage(noise: bytes, repeat: int) -> None:
    data = bytes(0x8000) + noise * (1 + repeat // (len(noise) or 1))
    with pytest.raises(ImageError, match="not an ISO image"):
        read_everything(data)


def test_the_whole_content_is_what_was_hashed(iso_bytes: bytes) -> None:
    image = IsoImage(io.BytesIO(iso_bytes), len(iso_bytes))
    entry = next(entry for entry in image.files() if entry.path == "efi.img")
    assert hashlib.sha256(b"".join(image.chunks(entry))).digest() == hashlib.sha256(UEFI).digest()


# --- the layout of the linux environment ----------------------------------------------------------------------------


def test_the_layout_of_the_linux_environment() -> None:
    files = LinuxBootFiles(
        image_id="0f3a",
        kernel=b"k",
        initrd=b"i",
        shim=b"MZshim",
        grub=b"MZgrub",
        bios_image=BIOS,
        grub_config=b"cfg",
        image_json=b"{}",
        mok_manager=b"MZmm",
    )
    wanted = linux_iso_layout(files, epoch=EPOCH)
    assert [file.path for file in wanted.files] == [
        "Bluelift/0f3a.id",
        "Bluelift/image.json",
        "Bluelift/initrd.img",
        "Bluelift/vmlinuz",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/grubx64.efi",
        "EFI/BOOT/mmx64.efi",
        "boot/grub/efi.img",
        "boot/grub/eltorito.img",
        "boot/grub/grub.cfg",
    ]
    # Copied by hand to a FAT32 stick it must boot as well: every name fits there.
    copied = [FatFile(path=file.path, data=b"") for file in wanted.files]
    assert fat_image(copied, label="STICK", serial=1, epoch=EPOCH)
    assert wanted == linux_iso_layout(files, epoch=EPOCH)


@pytest.mark.parametrize("image_id", ["", "a b", "../x", "a'b", "$x", "x" * 65, "-x"])
def test_image_ids_that_grub_or_fat_could_not_take(image_id: str) -> None:
    with pytest.raises(OutputError, match="cannot be an image id"):
        marker(image_id)
