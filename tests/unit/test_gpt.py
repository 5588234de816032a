"""GUID partition tables: what other programs read, and what is refused."""

from __future__ import annotations

import io
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from builder.errors import OutputError
from builder.media.gpt import (
    BASIC_DATA,
    EFI_SYSTEM,
    MICROSOFT_RESERVED,
    WINDOWS_RECOVERY,
    GptPartition,
    usable_lbas,
    write_gpt,
)

SECTORS = 64 * 2048
DISK = uuid.UUID("5a3c1c5e-0000-4000-8000-00000000d15c")


def partition(number: int, first: int, last: int, **other: object) -> GptPartition:
    values: dict[str, object] = {
        "type_guid": BASIC_DATA,
        "unique_guid": uuid.UUID(int=number),
        "name": f"part {number}",
    }
    return GptPartition(first_lba=first, last_lba=last, **{**values, **other})  # type: ignore[arg-type]


WINDOWS_DISK = (
    partition(1, 2048, 6143, type_guid=EFI_SYSTEM, name="EFI system partition"),
    partition(2, 6144, 8191, type_guid=MICROSOFT_RESERVED, name="Microsoft reserved partition"),
    partition(3, 8192, 120000, name="Basic data \N{GREEK SMALL LETTER ALPHA}"),
    partition(4, 120001, 131038, type_guid=WINDOWS_RECOVERY, attributes=0x8000000000000001),
)


def write(partitions: tuple[GptPartition, ...], sectors: int = SECTORS, sector_size: int = 512) -> bytes:
    disk = io.BytesIO(bytes(sectors * sector_size))
    write_gpt(disk, disk_guid=DISK, sectors=sectors, partitions=partitions, sector_size=sector_size)
    return disk.getvalue()


@pytest.mark.skipif(not shutil.which("sgdisk"), reason="sgdisk (package gdisk) is not installed")
def test_sgdisk_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(write(WINDOWS_DISK))
    verified = subprocess.run(["sgdisk", "-v", str(path)], capture_output=True, text=True, timeout=60)
    assert verified.returncode == 0 and "No problems found" in verified.stdout, verified.stdout
    printed = subprocess.run(["sgdisk", "-p", str(path)], capture_output=True, text=True, timeout=60).stdout
    assert str(DISK).upper() in printed
    for number, part in enumerate(WINDOWS_DISK, start=1):
        info = subprocess.run(
            ["sgdisk", "-i", str(number), str(path)], capture_output=True, text=True, timeout=60
        ).stdout
        assert f"Partition GUID code: {str(part.type_guid).upper()}" in info
        assert f"Partition unique GUID: {str(part.unique_guid).upper()}" in info
        assert f"First sector: {part.first_lba} " in info and f"Last sector: {part.last_lba} " in info
        assert f"Partition name: '{part.name}'" in info
        assert f"Attribute flags: {part.attributes:016X}" in info


@pytest.mark.skipif(not shutil.which("sgdisk"), reason="sgdisk (package gdisk) is not installed")
def test_the_backup_alone_is_enough(tmp_path: Path) -> None:
    data = bytearray(write(WINDOWS_DISK))
    data[512 : 34 * 512] = bytes(33 * 512)
    path = tmp_path / "disk.img"
    path.write_bytes(data)
    printed = subprocess.run(["sgdisk", "-p", str(path)], capture_output=True, text=True, timeout=60).stdout
    assert "Basic data" in printed and "Caution" in printed


@pytest.mark.skipif(not shutil.which("7z"), reason="7z (package p7zip-full) is not installed")
def test_7z_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(write(WINDOWS_DISK))
    done = subprocess.run(["7z", "l", "-slt", "-tgpt", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    for part in WINDOWS_DISK:
        assert f"Size = {(part.last_lba - part.first_lba + 1) * 512}\n" in done.stdout
        assert f"Offset = {part.first_lba * 512}\n" in done.stdout
        assert str(part.unique_guid).upper() in done.stdout.upper()


@pytest.mark.skipif(not shutil.which("sfdisk"), reason="sfdisk (package fdisk) is not installed")
def test_sfdisk_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    # Sectors of 4096 bytes need util-linux's --sector-size, which Debian 12's sfdisk does not have.
    path.write_bytes(write(WINDOWS_DISK[:2], sectors=16384, sector_size=512))
    done = subprocess.run(["sfdisk", "--dump", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"label-id: {str(DISK).upper()}" in done.stdout
    assert "start=        2048, size=        4096" in done.stdout, done.stdout
    assert done.stderr == ""


def test_boot_code_stays() -> None:
    disk = io.BytesIO(b"\xeb" * 440 + bytes(SECTORS * 512 - 440))
    write_gpt(disk, disk_guid=DISK, sectors=SECTORS, partitions=WINDOWS_DISK)
    assert disk.getvalue()[:440] == b"\xeb" * 440
    assert disk.getvalue()[440:446] == bytes(6)


def test_the_protective_record_of_a_very_large_disk_is_capped() -> None:
    class Sparse(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            return super().seek(min(offset, 1 << 20), whence)

    disk = Sparse()
    write_gpt(disk, disk_guid=DISK, sectors=1 << 33, partitions=())
    assert disk.getvalue()[446 + 12 : 446 + 16] == b"\xff\xff\xff\xff"


def test_usable_blocks() -> None:
    assert usable_lbas(SECTORS) == (34, SECTORS - 34)
    assert usable_lbas(16384, 4096) == (6, 16384 - 6)


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        ((partition(1, 33, 100),), "outside the usable blocks"),
        ((partition(1, 34, SECTORS - 33),), "outside the usable blocks"),
        ((partition(1, 200, 100),), "outside the usable blocks"),
        ((partition(1, 100, 200), partition(2, 200, 300)), "'part 1' and 'part 2' overlap"),
        ((partition(1, 100, 200), partition(1, 300, 400)), "same unique GUID"),
        ((partition(1, 100, 200, name="x" * 37),), "at most 36 characters"),
        ((partition(1, 100, 200, name="\ud800"),), "not valid Unicode"),
        ((partition(1, 100, 200, type_guid=uuid.UUID(int=0)),), "has no type"),
        (tuple(partition(n, 100 + n, 100 + n) for n in range(1, 131)), "room for 128"),
    ],
)
def test_refused(partitions: tuple[GptPartition, ...], message: str) -> None:
    disk = io.BytesIO()
    with pytest.raises(OutputError, match=message):
        write_gpt(disk, disk_guid=DISK, sectors=SECTORS, partitions=partitions)
    assert disk.getvalue() == b""


def test_a_disk_too_small_is_refused() -> None:
    with pytest.raises(OutputError, match="too small"):
        write_gpt(io.BytesIO(), disk_guid=DISK, sectors=60, partitions=())
