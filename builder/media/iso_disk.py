"""How an ISO that is written becomes a disk too: what `builder.media.hybrid` plans, put into the writing of the ISO."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import BinaryIO

from builder.errors import ImageError, OutputError
from builder.extents import Joined
from builder.media.fat_reader import FatEntry, FatReader
from builder.media.fat_structures import SECTOR
from builder.media.hybrid import HybridPlan, plan_hybrid, with_core_block
from builder.media.iso9660 import SECTOR as ISO_SECTOR
from builder.media.iso_layout import DiskBoot, HybridDisk
from builder.media.iso_master import IsoJob, IsoSource, place
from builder.media.udf import ANCHOR


def as_disk(job: IsoJob, disk: HybridDisk) -> tuple[IsoJob, HybridPlan]:
    """The job with RESERVE in it, and the plan of the disk. Raises OutputError for what FAT32 cannot hold."""
    layout = job.layout
    placed = place(replace(job, reserve=bytes(ISO_SECTOR)))
    plan = plan_hybrid(
        disk,
        placed,
        bios_image=layout.bios_image,
        uefi_image=layout.uefi_image,
        udf=layout.form.udf,
        epoch=layout.epoch,
    )
    sources = job.sources
    if disk.bios is DiskBoot.GRUB and layout.bios_image is not None:
        block = placed.files[layout.bios_image][0]
        sources = tuple(_on_disk(s, block) if s.file.path == layout.bios_image else s for s in sources)
    job = replace(job, sources=sources, reserve=plan.reserve())
    lies = place(job)
    if lies.blocks != plan.iso.blocks or any(lies.files[path] != at for path, at in plan.iso.files.items() if at[1]):
        raise OutputError("the ISO's files do not lie where its FAT32 volume needs them")
    return job, plan


def end_disk(plan: HybridPlan, stream: BinaryIO, *, udf: bool) -> None:
    """What stands at the end of the disk; the ISO has just been written to `stream`."""
    anchor = None
    if udf:
        stream.seek(ANCHOR * ISO_SECTOR)
        anchor = stream.read(SECTOR)
    plan.write_end(stream, anchor)


def read_back_disk(plan: HybridPlan, stream: BinaryIO) -> int:
    """Compare where the finished disk's FAT32 volume says each file is with where the ISO has it.

    Returns the bytes that are free on it. Raises OutputError where they differ.
    """
    start, size = plan.partition_lba * SECTOR, plan.bpb.total_sectors * SECTOR
    try:
        volume = FatReader(stream, start=start, size=size)
        found = {entry.path: entry for entry in volume.entries()}
    except ImageError as error:
        raise OutputError(f"the FAT32 volume that was just written cannot be read: {error.message}") from error
    for path, (block, length) in plan.iso.files.items():
        pieces = ((block * ISO_SECTOR, length),) if length else ()
        if found.get(path) != FatEntry(path=path, is_folder=False, size=length, pieces=pieces):
            raise OutputError(f"'{path}' cannot be found on the FAT32 volume that was just written")
    return volume.free


def _on_disk(source: IsoSource, block: int) -> IsoSource:
    """GRUB's BIOS image as it has to be to boot from a disk, too."""
    content = source.file.source
    assert not isinstance(content, Joined)
    patched = with_core_block(content if isinstance(content, bytes) else content.read_bytes(), block)
    return replace(source, file=replace(source.file, source=patched), sha256=hashlib.sha256(patched).hexdigest())
