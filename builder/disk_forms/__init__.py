"""The hybrid image in the forms that hypervisors want: raw, VHDX, fixed VHD. The same image gives the same bytes.

The forms are written here and not by qemu-img, which would put random GUIDs, a random sequence number and the time of
day into them; the tests let qemu-img read them.
"""

from __future__ import annotations

import enum
import os
import uuid
from pathlib import Path

from builder.disk_forms.vhd import COOKIE, fixed_footer
from builder.disk_forms.vhdx import SIGNATURE, write_vhdx
from builder.errors import ImageError, OutputError
from builder.media.gpt_move import SECTOR, read_table

_MIB = 1 << 20


class DiskForm(enum.StrEnum):
    """How a disk lies in a file; the value is the file's suffix."""

    IMG = "img"
    VHDX = "vhdx"
    VHD = "vhd"

    @property
    def qemu_format(self) -> str:
        """What QEMU calls it."""
        return {DiskForm.IMG: "raw", DiskForm.VHDX: "vhdx", DiskForm.VHD: "vpc"}[self]


def form_of(path: Path) -> DiskForm:
    """The form of the file at `path`, by what is in it; IMG for all that is no VHDX or VHD. Raises ImageError."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                return DiskForm.VHDX
            stream.seek(max(stream.seek(0, os.SEEK_END) - SECTOR, 0))
            return DiskForm.VHD if stream.read(len(COOKIE)) == COOKIE else DiskForm.IMG
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}", hint="'bluelift build' makes an image.") from error


def write_form(form: DiskForm, image: Path, target: Path, *, epoch: int) -> None:
    """Write `image`, a hybrid one, to `target` in another form. `epoch`: seconds UTC, for what has a time stamp.

    Raises OutputError where the image is no disk of whole MiB, which Azure asks for.
    """
    size = image.stat().st_size
    with image.open("rb") as stream:
        table = read_table(stream, size)
    if size % _MIB or table.sectors * SECTOR != size:
        raise OutputError(
            f"{image.name} has {size} bytes: a disk for hypervisors has whole MiB, and its partition table at its end"
        )
    identity = uuid.uuid5(table.disk_guid, form.value)
    if form is DiskForm.VHDX:
        with image.open("rb") as source, target.open("wb") as stream:
            write_vhdx(source, stream, size=size, identity=identity)
        return
    _copy(image, target)
    if form is DiskForm.VHD:
        with target.open("ab") as stream:
            stream.write(fixed_footer(size=size, identity=identity, epoch=epoch))


def _copy(source: Path, target: Path) -> None:
    """Copy a file and leave out what is zero, so that it takes no room."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_MIB):
            if chunk.count(0) == len(chunk):
                writer.seek(len(chunk), os.SEEK_CUR)
            else:
                writer.write(chunk)
        writer.truncate()
