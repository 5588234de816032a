"""A small disk image of the shape that a hybrid one has: a GPT, one FAT32 partition, whole MiB."""

from __future__ import annotations

import random
import uuid
from functools import cache
from pathlib import Path

from builder.media.fat import FatFile, fat_image
from builder.media.fat_structures import FatKind
from builder.media.gpt import BASIC_DATA, GptPartition, write_gpt

MIB = 1 << 20
SIZE = 38 * MIB
FIRST_LBA = 2048
DISK_GUID = uuid.UUID("5a3c1c5e-0000-4000-8000-00000000d15c")
FILES = (
    FatFile(path="EFI/BOOT/BOOTX64.EFI", data=random.Random(291).randbytes(1_036_152)),
    FatFile(path="Bluelift/image.json", data=b"{}\n"),
    FatFile(path="Bluelift/receipts/earlier.json", data=b"{}\n"),
)


@cache
def volume() -> bytes:
    """The partition's content."""
    return fat_image(
        FILES, label="BLUELIFT", serial=0x291, epoch=1_721_365_740, size=SIZE - 2 * MIB, kind=FatKind.FAT32
    )


def make_image(path: Path) -> Path:
    """Write the image to `path`."""
    partition = GptPartition(
        type_guid=BASIC_DATA,
        unique_guid=uuid.UUID(int=291),
        name="Bluelift",
        first_lba=FIRST_LBA,
        last_lba=FIRST_LBA + len(volume()) // 512 - 1,
    )
    with path.open("wb+") as disk:
        disk.truncate(SIZE)
        disk.write(b"\xeb\x63" + b"boot code".ljust(438, b"\x90"))
        disk.seek(FIRST_LBA * 512)
        disk.write(volume())
        write_gpt(disk, disk_guid=DISK_GUID, sectors=SIZE // 512, partitions=[partition])
    return path
