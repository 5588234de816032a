"""Partition tables read back whole, and moved to disks of other sizes: sgdisk agrees, damage is named."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ImageError, OutputError
from builder.media.gpt_move import NoTable, read_table, table_patches
from tests.unit.stick_maker import DISK_GUID, FIRST_LBA, MIB, SIZE, make_image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "image.iso")


def head_of(image: Path) -> bytes:
    with image.open("rb") as stream:
        return stream.read(34 * 512)


def test_what_is_read_is_what_was_written(image: Path) -> None:
    with image.open("rb") as stream:
        table = read_table(stream, SIZE)
    assert (table.disk_guid, table.sectors, table.backup) == (DISK_GUID, SIZE // 512, SIZE // 512 - 33)
    (partition,) = table.partitions
    assert (partition.name, partition.first_lba, table.end) == ("Bluelift", FIRST_LBA, partition.last_lba + 1)


@pytest.mark.skipif(not shutil.which("sgdisk"), reason="sgdisk (package gdisk) is not installed")
@pytest.mark.programs
@pytest.mark.parametrize("size", [SIZE, SIZE + 512, SIZE + 20 * 512, SIZE + MIB, 10 * SIZE + 512])
def test_a_moved_table_is_sound_to_sgdisk(image: Path, tmp_path: Path, size: int) -> None:
    disk = Path(shutil.copyfile(image, tmp_path / "disk"))
    with disk.open("rb+") as stream:
        table = read_table(stream, SIZE)
        stream.truncate(size)
        for patch in table_patches(table, size // 512):
            stream.seek(patch.offset)
            stream.write(patch.data)
    done = subprocess.run(["sgdisk", "-v", str(disk)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "No problems found" in done.stdout, done.stdout
    content = disk.read_bytes()
    assert content[:440] == head_of(image)[:440]
    # Exactly two headers: the old backup does not stay behind in the middle of the disk.
    assert content.count(b"EFI PART") == 2
    with disk.open("rb") as stream:
        moved = read_table(stream, size)
    assert (moved.partitions, moved.sectors) == (table.partitions, size // 512)


def test_a_disk_that_is_too_small_is_refused(image: Path) -> None:
    with image.open("rb") as stream:
        table = read_table(stream, SIZE)
    with pytest.raises(OutputError, match="outside the usable blocks"):
        table_patches(table, table.end + 20)


@pytest.mark.parametrize(
    ("at", "error", "message"),
    [
        (512, NoTable, "there is no partition table"),
        (512 + 40, ImageError, "header is damaged"),
        (512 + 16, ImageError, "header is damaged"),
        (1024 + 5, ImageError, "table is damaged"),
    ],
)
def test_damage_is_named(image: Path, at: int, error: type[ImageError], message: str) -> None:
    head = bytearray(head_of(image))
    head[at] ^= 1
    with pytest.raises(error, match=message):
        read_table(io.BytesIO(head), SIZE)


def test_a_backup_that_claims_terabytes_is_not_blanked(image: Path) -> None:
    head = bytearray(head_of(image))
    sectors = 1 << 40
    struct.pack_into("<Q", head, 512 + 32, sectors - 1)
    struct.pack_into("<I", head, 512 + 16, 0)
    struct.pack_into("<I", head, 512 + 16, zlib.crc32(head[512 : 512 + 92]))
    with pytest.raises(ImageError, match="its backup claims 10995"):
        read_table(io.BytesIO(head), sectors * 512)


def test_an_image_that_is_cut_off_is_refused(image: Path) -> None:
    with image.open("rb") as stream, pytest.raises(ImageError, match="cut off"):
        read_table(stream, SIZE - 512)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 34 * 512), st.integers(0, 1 << 40))
def test_garbage_never_raises_anything_else(image: Path, garbage: bytes, at: int, size: int) -> None:
    head = bytearray(head_of(image))
    head[at : at + len(garbage)] = garbage
    for content in (bytes(head), garbage, b"\0" * 512 + b"EFI PART" + garbage):
        try:
            read_table(io.BytesIO(content), size)
        except ImageError as error:
            assert error.message
