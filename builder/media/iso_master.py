"""Has pycdlib write an ISO: its names, its boot catalog, and the differences between the forms."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pycdlib

from builder.console import Step
from builder.errors import OutputError
from builder.extents import Joined
from builder.media.hybrid import RESERVE, PlacedIso
from builder.media.iso9660 import SECTOR
from builder.media.iso_follow import LargeSource, SourceShrank
from builder.media.iso_layout import BiosImage, IsoFile, IsoForm, IsoLayout
from builder.media.iso_names import IsoNames, NamedPath
from builder.media.reproducible import pycdlib_at

#: Sources of this size or more are copied by the kernel, and hashed by other threads meanwhile.
LARGE = 8 << 20
BLOCK = 4 << 20
#: The catalog's load size is 16 bits of 512-byte sectors.
_LARGEST_BOOT_IMAGE = 0xFFFF * 512
_BIOS, _UEFI = 0, 0xEF
_STUB_PATH, _CATALOG_PATH = "/README.TXT;1", "/BOOT.CAT;1"
_STUB = b'This disc contains a "UDF" file system and requires an operating system that supports it.\r\n'


@dataclass(frozen=True, kw_only=True)
class IsoSource:
    """A file of the layout as it was when the work began. `sha256` is None for a Joined one."""

    file: IsoFile
    size: int
    sha256: str | None

    @property
    def large(self) -> bool:
        """Whether it is followed while it is written, not read back afterwards."""
        source = self.file.source
        return isinstance(source, Joined) or (isinstance(source, Path) and self.size >= LARGE)


@dataclass(frozen=True, kw_only=True)
class IsoJob:
    """All that is known before the first byte is written. `followed`: the large sources by path.

    `reserve`: of a hybrid image, the content of its hidden file RESERVE.
    """

    layout: IsoLayout
    names: IsoNames
    sources: tuple[IsoSource, ...]
    followed: Mapping[str, LargeSource]
    reserve: bytes | None = None


def place(job: IsoJob) -> PlacedIso:
    """Where pycdlib will put everything; nothing is written. Of a job with a `reserve` of any length."""
    assert job.reserve is not None
    with pycdlib_at(job.layout.epoch), _assembled(job) as iso:
        iso.force_consistency()
        files = {}
        for source in job.sources:
            name = job.names.files[source.file.path]
            udf_only = job.layout.form is IsoForm.MICROSOFT
            record = iso.get_record(udf_path=name.path) if udf_only else iso.get_record(iso_path=name.iso)
            files[source.file.path] = (_first_block(record), source.size)
        return PlacedIso(
            files=files,
            reserve=_first_block(iso.get_record(iso_path=_reserve_path(job.layout.form))),
            reserve_blocks=-(-len(job.reserve) // SECTOR),
            blocks=iso.pvd.space_size,
        )


def master(job: IsoJob, stream: BinaryIO, step: Step) -> None:
    """Have pycdlib write the ISO to `stream`."""
    try:
        with pycdlib_at(job.layout.epoch), _assembled(job) as iso:
            iso.write_fp(
                stream, blocksize=BLOCK, progress_cb=lambda done, total, _: step.progress(done, total, "bytes")
            )
    except SourceShrank as error:
        raise OutputError(
            f"{error}, so the ISO was not made", hint="Let nothing write to it meanwhile, and build again."
        ) from error
    stream.seek(0, os.SEEK_END)


def _first_block(record: Any) -> int:
    """Where a file's content will lie, from its record in any tree; 0 for an empty file, which lies nowhere."""
    return record.inode.extent_location() if record.inode.get_data_length() else 0


@contextmanager
def _assembled(job: IsoJob) -> Iterator[pycdlib.PyCdlib]:
    """pycdlib's ISO with everything in it, not written yet."""
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident=job.layout.volume_id, sys_ident="", app_ident_str="BLUELIFT", **_FORMS[job.layout.form])
    try:
        if job.reserve is not None:
            _add_reserve(iso, job.layout.form, job.reserve)
        for folder in job.names.folders:
            iso.add_directory(**_folder_paths(job.layout.form, folder))
        if job.layout.form is IsoForm.MICROSOFT:
            iso.add_fp(io.BytesIO(_STUB), len(_STUB), iso_path=_STUB_PATH)
        # Large files last: what lies before them is finished then, and is read back meanwhile.
        for source in sorted(job.sources, key=lambda source: source.large):
            _add_file(iso, job, source)
        _add_boot_entries(iso, job)
        yield iso
    finally:
        iso.close()


def _add_reserve(iso: pycdlib.PyCdlib, form: IsoForm, content: bytes) -> None:
    """RESERVE, in the primary tree alone and hidden even there."""
    path = _reserve_path(form)
    names: dict[str, Any] = {}
    if form is IsoForm.ROCK_RIDGE:
        names = {"rr_name": RESERVE.lower(), "file_mode": 0o100444}
    iso.add_fp(io.BytesIO(content), len(content), iso_path=path, **names)
    iso.set_hidden(iso_path=path)


def _reserve_path(form: IsoForm) -> str:
    return f"/{RESERVE}" if form is IsoForm.BRIDGE else f"/{RESERVE};1"


#: pycdlib's "2.60" writes the structures of UDF 1.02.
_FORMS: dict[IsoForm, dict[str, Any]] = {
    IsoForm.ROCK_RIDGE: {"interchange_level": 3, "joliet": 3, "rock_ridge": "1.09"},
    IsoForm.BRIDGE: {"interchange_level": 4, "joliet": 3, "udf": "2.60"},
    IsoForm.MICROSOFT: {"interchange_level": 1, "udf": "2.60"},
}


def _folder_paths(form: IsoForm, folder: NamedPath) -> dict[str, Any]:
    """The names under which pycdlib shall make a folder."""
    if form is IsoForm.ROCK_RIDGE:
        return {"iso_path": folder.iso, "rr_name": folder.name, "joliet_path": folder.joliet, "file_mode": 0o040555}
    if form is IsoForm.BRIDGE:
        return {"iso_path": folder.iso, "joliet_path": folder.joliet, "udf_path": folder.path}
    return {"udf_path": folder.path}


def _file_paths(layout: IsoLayout, name: NamedPath) -> dict[str, Any]:
    """The names under which pycdlib shall add a file."""
    if layout.form is IsoForm.ROCK_RIDGE:
        return {**_folder_paths(layout.form, name), "file_mode": 0o100444}
    paths = _folder_paths(layout.form, name)
    if layout.form is IsoForm.MICROSOFT and name.path[1:] in (layout.bios_image, layout.uefi_image):
        # pycdlib finds boot images by their ISO9660 names; these are taken away again.
        paths["iso_path"] = _boot_image_path(layout, name.path[1:])
    return paths


def _boot_image_path(layout: IsoLayout, path: str) -> str:
    return "/BIOS.IMG;1" if path == layout.bios_image else "/UEFI.IMG;1"


def _add_file(iso: pycdlib.PyCdlib, job: IsoJob, source: IsoSource) -> None:
    content = source.file.source
    paths = _file_paths(job.layout, job.names.files[source.file.path])
    if isinstance(content, bytes):
        iso.add_fp(io.BytesIO(content), len(content), **paths)
    elif isinstance(content, Path) and content.stat().st_size != source.size:
        raise changed(source)
    elif source.large:
        iso.add_fp(cast(BinaryIO, job.followed[source.file.path]), source.size, **paths)
    else:
        iso.add_file(str(content), **paths)


def _add_boot_entries(iso: pycdlib.PyCdlib, job: IsoJob) -> None:
    """The boot catalog: BIOS first, as the validation entry's platform, then UEFI in a section of its own."""
    layout = job.layout
    microsoft = layout.form is IsoForm.MICROSOFT
    sizes = {source.file.path: source.size for source in job.sources}
    images = [path for path in (layout.bios_image, layout.uefi_image) if path is not None]
    for path in images:
        size = sizes[path]
        if not 64 <= size <= _LARGEST_BOOT_IMAGE:
            raise OutputError(f"the boot image '{path}' has {size} bytes; El Torito allows 64 to {_LARGEST_BOOT_IMAGE}")
        bios = path == layout.bios_image
        iso.add_eltorito(
            _boot_image_path(layout, path) if microsoft else job.names.files[path].iso,
            boot_load_size=layout.bios_loading.load_size if bios else None,
            boot_info_table=bios and layout.bios_loading is BiosImage.GRUB,
            platform_id=_BIOS if bios else _UEFI,
            efi=not bios,
            **_catalog_paths(layout.form, job.names.boot_catalog),
        )
    if microsoft and images:
        for path in images:
            iso.rm_hard_link(iso_path=_boot_image_path(layout, path))
        iso.rm_hard_link(iso_path=_CATALOG_PATH)


def _catalog_paths(form: IsoForm, catalog: NamedPath) -> dict[str, Any]:
    if form is IsoForm.ROCK_RIDGE:
        return {"bootcatfile": catalog.iso, "rr_bootcatname": catalog.name, "joliet_bootcatfile": catalog.joliet}
    if form is IsoForm.BRIDGE:
        return {"bootcatfile": catalog.iso, "joliet_bootcatfile": catalog.joliet, "udf_bootcatfile": catalog.path}
    return {"bootcatfile": _CATALOG_PATH, "udf_bootcatfile": catalog.path}


def changed(source: IsoSource) -> OutputError:
    """The error for a source that is not what it was."""
    return OutputError(
        f"'{source.file.path}' in the ISO is not what its source held when the work began",
        hint="Something changed the source meanwhile, or the disk is failing. Build again.",
    )
