"""Bootable ISO images by pycdlib: ISO9660 level 3, Rock Ridge, Joliet, El Torito for BIOS and UEFI.

The same layout gives the same bytes. What was written is read back by `builder.media.iso9660` and compared by sha256:
pycdlib fills a source that became shorter with zeroes and says nothing.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from builder.console import Step
from builder.errors import OutputError
from builder.media.iso9660 import SECTOR, IsoEntry, IsoImage, Tree
from builder.media.iso_names import IsoNames, NamedPath, plan_names
from builder.media.reproducible import pycdlib_at

#: GRUB under SeaBIOS reads past the end of the file system; without this its last files come out wrong.
PADDING = 150 * SECTOR
#: The catalog's load size is 16 bits of 512-byte sectors.
_LARGEST_BOOT_IMAGE = 0xFFFF * 512
_BIOS, _UEFI = 0, 0xEF
_BLOCK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class IsoFile:
    """One file of an ISO: `path` inside it, "/" between parts ("Bluelift/initrd.img"), and the source of its bytes."""

    path: str
    source: Path | bytes


@dataclass(frozen=True, kw_only=True)
class IsoLayout:
    """What an ISO holds. `bios_image` and `uefi_image` are paths among `files`, or None.

    `bios_image` is one of GRUB's: its first 2048 bytes are loaded and it gets a boot information table at offset 8.
    `volume_id`: A-Z, 0-9 and "_", at most 16 characters (Joliet's limit). `epoch`: every time stamp, seconds UTC.
    """

    volume_id: str
    files: tuple[IsoFile, ...]
    bios_image: str | None
    uefi_image: str | None
    epoch: int


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A file of the layout as it was when the work began."""

    file: IsoFile
    size: int
    sha256: str


def write_iso(layout: IsoLayout, output: Path, *, step: Step) -> None:
    """Write `layout` to `output`, beside it first, and read every file back.

    Raises OutputError where the layout does not fit an ISO, where there is no room, or where what can be read back is
    not what went in; then `output` is as it was before.
    """
    _check_layout(layout)
    names = plan_names([file.path for file in layout.files])
    sources = [_measure(file) for file in layout.files]
    needed = _space_needed(sources, names)
    with _beside(output, needed) as part:
        with part.open("w+b") as stream:
            _master(layout, names, sources, stream, step)
            stream.write(bytes(PADDING))
            stream.flush()
            os.fsync(stream.fileno())
            _read_back(layout, names, sources, stream)
        part.replace(output)
    step.note(f"{output.name}: {output.stat().st_size} bytes, {len(sources)} files read back")


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


def _measure(file: IsoFile) -> _Source:
    """Size and sha256 of a source, read once from its beginning to its end."""
    digest = hashlib.sha256()
    size = 0
    if isinstance(file.source, bytes):
        return _Source(file=file, size=len(file.source), sha256=hashlib.sha256(file.source).hexdigest())
    try:
        with file.source.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise OutputError(f"cannot read {file.source} for '{file.path}' in the ISO: {error.strerror}") from error
    return _Source(file=file, size=size, sha256=digest.hexdigest())


def _space_needed(sources: list[_Source], names: IsoNames) -> int:
    """Bytes the ISO will have, at most: contents in whole sectors, folders, descriptors, padding."""
    contents = sum(-(-source.size // SECTOR) * SECTOR for source in sources)
    folders = (len(names.folders) + 1) * 2 * SECTOR + len(sources) * 1024
    return contents + folders + 64 * SECTOR + PADDING


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
        raise OutputError(f"cannot write {output}: {error.strerror}", hint="Give another folder with -o.") from error
    except PyCdlibException as error:
        raise OutputError(f"cannot make {output.name}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _no_room(output: Path, needed: int, free: int) -> OutputError:
    return OutputError(
        f"no room for {output}: {needed} bytes are needed, {free} are free",
        hint="Free some space, or give a folder on another disk with -o. Nothing was left behind.",
    )


def _master(layout: IsoLayout, names: IsoNames, sources: list[_Source], stream: BinaryIO, step: Step) -> None:
    """Have pycdlib write the ISO to `stream`."""
    with pycdlib_at(layout.epoch):
        iso = pycdlib.PyCdlib()
        iso.new(
            interchange_level=3,
            joliet=3,
            rock_ridge="1.09",
            vol_ident=layout.volume_id,
            sys_ident="",
            app_ident_str="BLUELIFT",
        )
        try:
            for folder in names.folders:
                iso.add_directory(folder.iso, rr_name=folder.name, joliet_path=folder.joliet, file_mode=0o040555)
            for source in sources:
                _add_file(iso, source, names.files[source.file.path])
            _add_boot_entries(iso, layout, names, {source.file.path: source for source in sources})
            iso.write_fp(
                stream, blocksize=_BLOCK, progress_cb=lambda done, total, _: step.progress(done, total, "bytes")
            )
        finally:
            iso.close()
    stream.seek(0, os.SEEK_END)


def _add_file(iso: pycdlib.PyCdlib, source: _Source, name: NamedPath) -> None:
    content = source.file.source
    if isinstance(content, bytes):
        iso.add_fp(
            io.BytesIO(content), len(content), name.iso, rr_name=name.name, joliet_path=name.joliet, file_mode=0o100444
        )
    elif content.stat().st_size != source.size:
        raise _changed(source)
    else:
        iso.add_file(str(content), name.iso, rr_name=name.name, joliet_path=name.joliet, file_mode=0o100444)


def _add_boot_entries(iso: pycdlib.PyCdlib, layout: IsoLayout, names: IsoNames, sources: dict[str, _Source]) -> None:
    """The boot catalog: BIOS first, as the validation entry's platform, then UEFI in a section of its own."""
    catalog = names.boot_catalog
    for path in (layout.bios_image, layout.uefi_image):
        if path is None:
            continue
        size = sources[path].size
        if not 64 <= size <= _LARGEST_BOOT_IMAGE:
            raise OutputError(f"the boot image '{path}' has {size} bytes; El Torito allows 64 to {_LARGEST_BOOT_IMAGE}")
        bios = path == layout.bios_image
        iso.add_eltorito(
            names.files[path].iso,
            bootcatfile=catalog.iso,
            rr_bootcatname=catalog.name,
            joliet_bootcatfile=catalog.joliet,
            boot_load_size=4 if bios else None,
            boot_info_table=bios,
            platform_id=_BIOS if bios else _UEFI,
            efi=not bios,
        )


def _read_back(layout: IsoLayout, names: IsoNames, sources: list[_Source], stream: BinaryIO) -> None:
    """Compare every file under both of its names with what went in; raises OutputError where they differ."""
    image = IsoImage(stream, stream.seek(0, os.SEEK_END))
    primary = {entry.path: entry for entry in image.files(Tree.PRIMARY)}
    joliet = {entry.path: entry for entry in image.files(Tree.JOLIET)}
    for source in sources:
        path = source.file.path
        entry, second = primary.get(path), joliet.get(names.files[path].joliet[1:])
        if entry is None or second is None or entry.pieces != second.pieces:
            raise OutputError(f"'{path}' cannot be found in the ISO that was just written")
        expected = source.sha256
        if path == layout.bios_image:
            expected = _with_boot_info_table(source, entry)
        digest = hashlib.sha256()
        for chunk in image.chunks(entry):
            digest.update(chunk)
        if entry.size != source.size or digest.hexdigest() != expected:
            raise _changed(source)


def _with_boot_info_table(source: _Source, entry: IsoEntry) -> str:
    """The sha256 a boot image has once its boot information table is in it."""
    content = source.file.source
    data = content if isinstance(content, bytes) else content.read_bytes()
    if len(data) != source.size:
        raise _changed(source)
    return hashlib.sha256(data[:8] + boot_info_table(data, entry.offset // SECTOR) + data[64:]).hexdigest()


def _changed(source: _Source) -> OutputError:
    return OutputError(
        f"'{source.file.path}' in the ISO is not what its source held when the work began",
        hint="Something changed the source meanwhile, or the disk is failing. Build again.",
    )
