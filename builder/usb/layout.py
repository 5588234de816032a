"""What shall be where on a stick: the image, a partition table that fits the stick, and a volume in its rest."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from builder import RELEASE_EPOCH
from builder.console import size_text
from builder.errors import ImageError, OutputError
from builder.media.gpt import BASIC_DATA, GptPartition, usable_lbas
from builder.media.gpt_move import SECTOR, DiskTable, NoTable, Patch, read_table, table_patches
from builder.usb.data_volume import FEWEST_SECTORS, data_volume

DATA_PARTITION = "BLUELIFT-DATA"
#: Partitions begin and the head ends at whole MiB.
MIB = 1 << 20
_OTHER_FORMS = {b"vhdxfile": "a VHDX", b"conectix": "a dynamic VHD", b"QFI\xfb": "a QCOW2", b"KDMV": "a VMDK"}


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a disk, in bytes."""

    offset: int
    length: int

    def chunks(self, largest: int) -> Iterator[Span]:
        """The same piece in pieces of at most `largest` bytes."""
        for at in range(self.offset, self.offset + self.length, largest):
            yield Span(offset=at, length=min(largest, self.offset + self.length - at))


@dataclass(frozen=True, kw_only=True)
class StickImage:
    """An image that can be written to a stick: its size in bytes and its partition table."""

    path: Path
    size: int
    table: DiskTable


@dataclass(frozen=True, kw_only=True)
class StickLayout:
    """A whole stick of `size` bytes. Without `head`, which comes last, nothing starts from it.

    `body` are the other pieces in the order in which they are written; what is in none of them stays as it was.
    `data`: bytes of the second partition, 0 without one.
    """

    image: StickImage
    size: int
    head: Span
    body: tuple[Span, ...]
    patches: tuple[Patch, ...]
    data: int = 0

    @property
    def old_ends(self) -> tuple[Span, ...]:
        """Where partition tables of whatever was on the stick lie."""
        last = min(MIB, self.size - self.head.length)
        return (self.head, Span(offset=self.size - last, length=last))

    def content(self, image: BinaryIO, span: Span) -> bytes:
        """The bytes of a piece, from the open `image` and what lies over it."""
        piece = bytearray(span.length)
        if span.offset < self.image.size:
            image.seek(span.offset)
            found = image.read(min(span.length, self.image.size - span.offset))
            if len(found) < min(span.length, self.image.size - span.offset):
                raise ImageError(f"{self.image.path} became shorter while it was read", hint="Begin again.")
            piece[: len(found)] = found
        for patch in self.patches:
            start, end = max(patch.offset, span.offset), min(patch.offset + len(patch.data), span.offset + span.length)
            if start < end:
                piece[start - span.offset : end - span.offset] = patch.data[start - patch.offset : end - patch.offset]
        return bytes(piece)


def open_image(path: Path) -> StickImage:
    """The image at `path`, as far as a stick can be made of it. Raises ImageError, which says why it cannot."""
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is no file", hint="Give the .iso that was built, not a device or a folder.")
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            stream.seek(16 * 2048 + 1)
            is_iso = stream.read(5) == b"CD001"
            table = read_table(stream, size)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}", hint="'bluelift build' makes an image.") from error
    except NoTable as error:
        form = next((form for magic, form in _OTHER_FORMS.items() if start.startswith(magic)), "")
        if form:
            raise ImageError(f"{path} is {form} disk for hypervisors", hint="Give the .iso or the .img.") from error
        if is_iso:
            raise ImageError(
                f"{path} is a plain ISO: it can be burned, but nothing starts from it on a stick",
                hint="Build a hybrid image: leave out `hybrid: false` in the profile.",
            ) from error
        raise ImageError(f"{path} is no image: {error.message}", hint="Give the .iso that was built.") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error.message}", hint="Copy or build it again.") from error
    return StickImage(path=path, size=-(-size // SECTOR) * SECTOR, table=table)


def plan_stick(image: StickImage, *, size: int, data: bool, identity: uuid.UUID) -> StickLayout:
    """How a stick of `size` bytes becomes `image`. Raises OutputError where the rest is too small for `data`.

    `identity` is the stick's own: sticks of one image must not pretend to be the same disk, since Windows takes the
    second of two such disks offline.
    """
    sectors = size // SECTOR
    table = replace(image.table, disk_guid=uuid.uuid5(identity, "disk"))
    head = Span(offset=0, length=MIB)
    body = [Span(offset=MIB, length=image.size - MIB)]
    patches: list[Patch] = []
    data_size = 0
    if data:
        partition = _data_partition(image, sectors, identity)
        table = table.with_partition(partition)
        start = partition.first_lba * SECTOR
        data_size = (partition.last_lba + 1) * SECTOR - start
        volume = data_volume(
            sectors=data_size // SECTOR,
            first_lba=partition.first_lba,
            serial=identity.int & 0xFFFFFFFF,
            epoch=RELEASE_EPOCH,
        )
        body.append(Span(offset=start, length=volume.length))
        patches += [Patch(offset=start + patch.offset, data=patch.data) for patch in volume.patches]
    patches = [*table_patches(table, sectors), *patches]
    backup = (usable_lbas(sectors)[1] + 1) * SECTOR
    body.append(Span(offset=backup, length=sectors * SECTOR - backup))
    return StickLayout(
        image=image, size=sectors * SECTOR, head=head, body=tuple(body), patches=tuple(patches), data=data_size
    )


def _data_partition(image: StickImage, sectors: int, identity: uuid.UUID) -> GptPartition:
    per_mib = MIB // SECTOR
    first = -(-max(image.size // SECTOR, image.table.end) // per_mib) * per_mib
    # A FAT32 volume has at most 2^32 - 1 sectors.
    last = min((usable_lbas(sectors)[1] + 1) // per_mib * per_mib - 1, first + 0xFFFFFFFF // per_mib * per_mib - 1)
    if last - first + 1 < FEWEST_SECTORS:
        raise OutputError(
            f"there is no room for a second partition: behind the image the stick has "
            f"{size_text(max(sectors - first, 0) * SECTOR)}, FAT32 needs {size_text(FEWEST_SECTORS * SECTOR)}",
            hint="Leave --data out (the image's own volume has some room, too), or take a larger stick.",
        )
    return GptPartition(
        type_guid=BASIC_DATA,
        unique_guid=uuid.uuid5(identity, DATA_PARTITION),
        name=DATA_PARTITION,
        first_lba=first,
        last_lba=last,
    )
