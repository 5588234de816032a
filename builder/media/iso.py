"""Bootable ISO images by pycdlib: ISO9660 with Rock Ridge, Joliet or UDF, El Torito for BIOS and UEFI.

The same layout gives the same bytes. What was written is read back by `builder.media.iso9660` and `builder.media.udf`
and compared by sha256: pycdlib fills a source that became shorter with zeroes and says nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pycdlib.pycdlibexception import PyCdlibException

from builder.console import Step, size_text
from builder.errors import OutputError
from builder.extents import Extents, Joined, whole_file
from builder.media.iso9660 import SECTOR, IsoEntry, IsoImage, Tree
from builder.media.iso_disk import as_disk, end_disk, read_back_disk
from builder.media.iso_follow import FollowedOutput, LargeSource
from builder.media.iso_layout import PADDING as PADDING
from builder.media.iso_layout import BiosImage as BiosImage
from builder.media.iso_layout import DiskBoot as DiskBoot
from builder.media.iso_layout import HybridDisk as HybridDisk
from builder.media.iso_layout import IsoFile as IsoFile
from builder.media.iso_layout import IsoForm as IsoForm
from builder.media.iso_layout import IsoLayout as IsoLayout
from builder.media.iso_master import BLOCK, IsoJob, IsoSource, changed, master
from builder.media.iso_names import IsoNames, plan_names
from builder.media.udf import UdfVolume

#: Where UDF is, a file has one record in ISO9660, which holds 32 bits of length.
_LARGEST_WITH_UDF = (1 << 32) - 1
_UDF_STRUCTURES = 320 * SECTOR
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class WrittenIso:
    """An ISO that was written: its size in bytes, its sha256 in hex, and the sha256 of every file by its path.

    Boot images are listed as they were given, without a boot information table. `free`: of `size`, the bytes that are
    free on the disk that a hybrid image is.
    """

    size: int
    sha256: str
    files: Mapping[str, str]
    free: int = 0

    @property
    def words(self) -> str:
        """What was written, for a person."""
        free = f"; {size_text(self.free)} more are free to use on a stick" if self.free else ""
        return f"{len(self.files)} files in {size_text(self.size - self.free)}, read back and compared{free}"


def write_iso(layout: IsoLayout, output: Path, *, step: Step) -> WrittenIso:
    """Write `layout` to `output`, beside it first and on to the disk, and read every file back.

    Raises OutputError where the layout does not fit an ISO, where there is no room, or where what can be read back is
    not what went in, and what a file's `check` raises; then `output` is as it was before.
    """
    _check_layout(layout)
    names = plan_names([file.path for file in layout.files], level=4 if layout.form.udf else 3)
    sources = [_measure(file) for file in layout.files]
    _check_sizes(layout, sources)
    needed = _space_needed(layout, sources, names)
    with _beside(output, needed) as part:
        with FollowedOutput(part) as stream:
            followed = {s.file.path: LargeSource(_joined(s.file)) for s in sources if s.large}
            job = IsoJob(layout=layout, names=names, sources=tuple(sources), followed=followed)
            hybrid = None
            if layout.hybrid is not None:
                job, hybrid = as_disk(job, layout.hybrid)
                hybrid.write_front(stream)
            master(job, stream, step)
            if hybrid is not None:
                end_disk(hybrid, stream, udf=layout.form.udf)
            elif not layout.form.udf:
                # UDF's second anchor is in the last block, and must stay there.
                stream.write(bytes(PADDING))
            stream.complete()
            with part.open("rb") as back:
                digests = _read_back(job, stream, back)
                free = read_back_disk(hybrid, back) if hybrid is not None else 0
            sha256, size = stream.finish(), stream.tell()
        part.replace(output)
    # GRUB's BIOS image is listed as it was given, not as it is on a disk.
    given = {source.file.path: source.sha256 for source in sources if source.sha256 is not None}
    return WrittenIso(size=size, sha256=sha256, files={**digests, **given}, free=free)


def boot_info_table(boot_image: bytes, lba: int) -> bytes:
    """The 56 bytes at offset 8 of a boot image at block `lba` (mkisofs(8), "EL TORITO BOOT INFORMATION TABLE")."""
    body = boot_image[64:]
    words = struct.unpack(f"<{-(-len(body) // 4)}I", body + bytes(-len(body) % 4))
    return struct.pack("<IIII40x", 16, lba, len(boot_image), sum(words) & 0xFFFFFFFF)


def _check_layout(layout: IsoLayout) -> None:
    volume_id = layout.volume_id
    allowed = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    if not 1 <= len(volume_id) <= 16 or not allowed.issuperset(volume_id):
        raise OutputError(
            f"'{volume_id}' cannot be the volume id of an ISO",
            hint="A volume id has 1 to 16 characters: A-Z, 0-9 and _",
        )
    if not 0 <= layout.epoch < 4102444800:
        raise OutputError(f"an ISO cannot carry the date {layout.epoch} (seconds since 1970; up to the year 2099)")
    for image in (layout.bios_image, layout.uefi_image):
        if image is not None and image not in {file.path for file in layout.files}:
            raise OutputError(f"the boot image '{image}' is not among the files of the ISO")


def _measure(file: IsoFile) -> IsoSource:
    """Size and sha256 of a source; of a Joined one, the size alone."""
    digest = hashlib.sha256()
    size = 0
    if isinstance(file.source, bytes):
        return IsoSource(file=file, size=len(file.source), sha256=hashlib.sha256(file.source).hexdigest())
    if isinstance(file.source, Joined):
        return IsoSource(file=file, size=file.source.size, sha256=None)
    try:
        with file.source.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise OutputError(f"cannot read {file.source} for '{file.path}' in the ISO: {error.strerror}") from error
    return IsoSource(file=file, size=size, sha256=digest.hexdigest())


def _check_sizes(layout: IsoLayout, sources: list[IsoSource]) -> None:
    for source in sources:
        if layout.form.udf and source.size > _LARGEST_WITH_UDF:
            raise OutputError(
                f"'{source.file.path}' has {source.size} bytes; a file on this ISO must be smaller than 4 GiB",
                hint="A boot.wim of this size holds more than Windows PE: export the one image that boots.",
            )


def _space_needed(layout: IsoLayout, sources: list[IsoSource], names: IsoNames) -> int:
    """Bytes the ISO will have, at most: contents in whole sectors, folders, descriptors, padding."""
    contents = sum(-(-source.size // SECTOR) * SECTOR for source in sources)
    folders = (len(names.folders) + 1) * 2 * SECTOR + len(sources) * 1024
    if layout.form.udf:
        folders += (len(names.folders) + len(sources) + 1) * 2 * SECTOR + _UDF_STRUCTURES
    # FAT32's tables are less than a hundredth of what they are for; its tail is a hole.
    tables = (contents + layout.hybrid.tail) // 64 if layout.hybrid is not None else 0
    return contents + folders + tables + 64 * SECTOR + PADDING


def _joined(file: IsoFile) -> Joined:
    """A large source, wherever its bytes are."""
    source = file.source
    assert not isinstance(source, bytes)
    return source if isinstance(source, Joined) else Joined(parts=(whole_file(source),), name=str(source))


@contextmanager
def _beside(output: Path, needed: int) -> Iterator[Path]:
    """A path beside `output` to write to; removed if anything goes wrong. Errors of the disk become OutputError."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        free = shutil.disk_usage(output.parent).free
        if free < needed:
            raise _no_room(output, needed, free)
        yield part
    except OSError as error:
        if error.errno in _NO_ROOM:
            part.unlink(missing_ok=True)
            raise _no_room(output, needed, shutil.disk_usage(output.parent).free) from error
        large = f" (up to {needed} bytes)" if error.errno == errno.EFBIG else ""
        raise OutputError(
            f"cannot write {output}: {error.strerror}{large}",
            hint="Give a folder on another disk with -o. Nothing was left behind.",
        ) from error
    except PyCdlibException as error:
        raise OutputError(f"cannot make {output.name}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _no_room(output: Path, needed: int, free: int) -> OutputError:
    return OutputError(
        f"no room for {output}: {needed} bytes are needed, {free} are free",
        hint="Free some space, or give a folder on another disk with -o. Nothing was left behind.",
    )


def _trees(job: IsoJob, stream: BinaryIO) -> list[tuple[dict[str, IsoEntry], dict[str, str]]]:
    """Every tree that has the files: its entries by path, and the paths that the layout's files have there."""
    size = stream.seek(0, os.SEEK_END)
    trees = []
    names, layout = job.names, job.layout
    if layout.form is not IsoForm.MICROSOFT:
        image = IsoImage(stream, size)
        rock_ridge = layout.form is IsoForm.ROCK_RIDGE
        primary = {path: path if rock_ridge else name.iso[1:] for path, name in names.files.items()}
        joliet = {path: name.joliet[1:] for path, name in names.files.items()}
        trees.append(({entry.path: entry for entry in image.files(Tree.PRIMARY)}, primary))
        trees.append(({entry.path: entry for entry in image.files(Tree.JOLIET)}, joliet))
    if layout.form.udf:
        volume = UdfVolume(stream, size)
        trees.append(({entry.path: entry for entry in volume.files()}, {path: path for path in names.files}))
    return trees


def _read_back(job: IsoJob, stream: FollowedOutput, back: BinaryIO) -> dict[str, str]:
    """Compare every file under all of its names with what went in; returns the sha256 of each by path.

    `back`: the finished ISO. Large files are hashed by `stream`'s threads. Raises OutputError where something differs,
    and what the files' checks raise.
    """
    trees = _trees(job, back)
    digests = {}
    for source in sorted(job.sources, key=lambda source: source.large):
        path = source.file.path
        found = [entries.get(paths[path]) for entries, paths in trees]
        entry = found[0]
        if entry is None or any(other is None or _merged(other) != _merged(entry) for other in found):
            raise OutputError(f"'{path}' cannot be found in the ISO that was just written")
        if entry.size != source.size:
            raise changed(source)
        if source.file.check is not None:
            source.file.check(Extents(path=Path(back.name), pieces=_merged(entry), name=f"{path} in the new ISO"))
        if source.large:
            digests[path] = _followed(job.followed[path], stream, source, entry)
        elif _sha256_of(entry, back) != _expected(job, source, entry):
            raise changed(source)
        else:
            digests[path] = source.sha256 or ""
    return digests


def _followed(large: LargeSource, stream: FollowedOutput, source: IsoSource, entry: IsoEntry) -> str:
    """The sha256 of a large file as it lies in the ISO; raises OutputError where it is not what it should be."""
    if _merged(entry) != ((stream.start_of(large), source.size),):
        raise OutputError(f"'{source.file.path}' does not lie where it was written in the ISO")
    sha256 = stream.finish_file(large)
    if source.sha256 not in (None, sha256):
        raise changed(source)
    return sha256


def _expected(job: IsoJob, source: IsoSource, entry: IsoEntry) -> str | None:
    """The sha256 that a file should have in the ISO."""
    if source.file.path == job.layout.bios_image and job.layout.bios_loading is BiosImage.GRUB:
        return _with_boot_info_table(source, entry)
    return source.sha256


def _merged(entry: IsoEntry) -> tuple[tuple[int, int], ...]:
    """A file's pieces, those that follow each other as one."""
    pieces: list[tuple[int, int]] = []
    for offset, length in entry.pieces:
        if pieces and sum(pieces[-1]) == offset:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
        else:
            pieces.append((offset, length))
    return tuple(pieces)


def _sha256_of(entry: IsoEntry, stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    for offset, length in entry.pieces:
        stream.seek(offset)
        for at in range(0, length, BLOCK):
            digest.update(stream.read(min(BLOCK, length - at)))
    return digest.hexdigest()


def _with_boot_info_table(source: IsoSource, entry: IsoEntry) -> str:
    """The sha256 a boot image has once its boot information table is in it."""
    content = source.file.source
    assert not isinstance(content, Joined)
    data = content if isinstance(content, bytes) else content.read_bytes()
    if len(data) != source.size:
        raise changed(source)
    return hashlib.sha256(data[:8] + boot_info_table(data, entry.offset // SECTOR) + data[64:]).hexdigest()
