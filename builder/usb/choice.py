"""Which disk may be overwritten: everything that speaks against one, before anything is touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from builder.errors import OutputError, UsageError
from builder.media.gpt_move import SECTOR
from builder.usb.disks import BlockDisk, LinuxRoot

NOT_REMOVABLE = "it does not say that it is removable"


def find_disk(device: str, disks: Sequence[BlockDisk], root: LinuxRoot) -> BlockDisk:
    """The disk that a user calls `sdb`, /dev/sdb or /dev/disk/by-id/...; nothing is guessed. Raises UsageError."""
    name = device.removeprefix("/dev/")
    path = root.dev / name
    if path.is_symlink():
        name = os.path.relpath(path.resolve(), root.dev.resolve())
    for disk in disks:
        if disk.name == name:
            return disk
        if name in disk.partitions:
            raise UsageError(
                f"{device} is a partition; the image is written to the whole disk",
                hint=f"Give {disk.name}: all of {disk.name} is then overwritten, not only {name}.",
            )
    raise UsageError(f"there is no disk {device}", hint="'bluelift usb list' shows the disks of this machine.")


def backed_by(disk: BlockDisk, image: Path) -> tuple[str, ...]:
    """Why a loop device must not be overwritten with `image`: it is that very file, which would be read and blanked."""
    with contextlib.suppress(OSError):
        if disk.bus == "loop" and Path(disk.model).samefile(image):
            return ("the image itself is behind it",)
    return ()


def check_same(disk: BlockDisk, now: Sequence[BlockDisk]) -> None:
    """See that the disk among `now` that bears this one's name is the one that was shown and agreed to.

    Names are given anew when one disk is unplugged and another plugged in. Raises OutputError.
    """
    found = next((other for other in now if other.name == disk.name), None)
    if found is None or replace(found, uses=()) != replace(disk, uses=()):
        raise OutputError(
            f"{disk.node} is not the disk any more that was looked at",
            hint="Was another one plugged in meanwhile? Nothing was written. Begin again with 'bluelift usb list'.",
        )


def objections(disk: BlockDisk, *, needed: int, forced: str = "") -> tuple[str, ...]:
    """Why `disk` must not be overwritten with an image of `needed` bytes; empty where nothing speaks against it.

    `forced` is the name that the user typed out to say that a disk that is not removable is meant. It overrides
    nothing else.
    """
    return tuple(_objections(disk, needed, forced))


def _objections(disk: BlockDisk, needed: int, forced: str) -> Iterator[str]:
    if any(use.system for use in disk.uses):
        yield "it is a disk of the running system"
    yield from (use.what for use in disk.uses)
    if disk.size == 0:
        yield "there is no medium in it"
        return
    if disk.read_only:
        yield "it is write-protected"
    if disk.size < needed:
        yield f"it is too small: it has {disk.size:,} bytes, the image needs {needed:,}"
    if disk.sector_size != SECTOR:
        yield f"its sectors have {disk.sector_size} bytes; the image's partition table is for sectors of {SECTOR}"
    if not disk.removable and forced != disk.name:
        yield NOT_REMOVABLE
