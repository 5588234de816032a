"""A Windows 10, 11 or Server install ISO as base media: read in place, neither mounted nor extracted.

Microsoft's ISOs hold their files in UDF 1.02 and show a stub in ISO9660 that says so. ISOs made by others (Rufus,
mkwinpeimg, Bluelift itself) hold them in ISO9660 or Joliet as well; whichever tree has sources/boot.wim is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from builder.base.windows_media import (
    BOOT_WIM,
    EFISYS,
    EFISYS_NOPROMPT,
    ETFSBOOT,
    WHERE_TO_GET_MEDIA,
    BaseKind,
    WindowsBase,
    architecture_of,
    fat_size,
    media_files,
    small,
)
from builder.errors import BaseMediaError, ImageError
from builder.extents import Extents, merged
from builder.media.iso9660 import SECTOR, BootCatalogEntry, IsoImage, Tree
from builder.media.udf import UdfVolume

_BIOS, _UEFI = 0, 0xEF
#: What a BIOS loads of etfsboot.com: 8 sectors of 512 bytes.
_BIOS_IMAGE = 4096
_MOST_FILES = 200_000
#: What pycdlib raises on images that are damaged.
_PYCDLIB_ERRORS = (
    PyCdlibException, struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    RecursionError, MemoryError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class IsoContents:
    """What an ISO holds, whichever tree its files are in: every file by path as written, and its boot images.

    `tree`: "UDF", "Joliet" or "ISO9660". `boot_images`: (platform, offset, bytes) of every entry of the boot catalog.
    """

    tree: str
    volume_id: str
    files: dict[str, Extents]
    boot_images: tuple[tuple[int, int, bytes], ...]


def open_windows_iso(path: Path) -> WindowsBase:
    """Read a Windows ISO. Raises BaseMediaError saying what it is instead, or what it lacks."""
    contents = read_iso(path)
    lower = {name.lower(): content for name, content in contents.files.items()}
    boot_wim = lower.get(BOOT_WIM)
    if boot_wim is None:
        raise BaseMediaError(f"{path} has no {BOOT_WIM}{_what_instead(lower)}", hint=WHERE_TO_GET_MEDIA)
    # The last byte says at once whether the download is complete.
    boot_wim.read(max(0, boot_wim.size - 1), min(1, boot_wim.size))
    files = media_files(contents.files)
    images = {platform: data for platform, _, data in reversed(contents.boot_images)}
    notes = []
    bios, uefi = images.get(_BIOS), images.get(_UEFI)
    if bios is None and ETFSBOOT in lower:
        bios = small(lower[ETFSBOOT])
        notes.append(f"The ISO has no boot entry for BIOS; {ETFSBOOT} is used.")
    if uefi is None and EFISYS in lower:
        uefi = small(lower[EFISYS])
        notes.append(f"The ISO has no boot entry for UEFI; {EFISYS} is used.")
    if bios is None and uefi is None:
        raise BaseMediaError(f"{path} does not boot: it has neither {ETFSBOOT} nor {EFISYS}", hint=WHERE_TO_GET_MEDIA)
    return WindowsBase(
        kind=BaseKind.WINDOWS_ISO,
        source=path,
        media_source=path,
        boot_wim=boot_wim,
        files=files,
        bios_image=bios,
        uefi_image=uefi,
        uefi_image_noprompt=small(lower[EFISYS_NOPROMPT]) if EFISYS_NOPROMPT in lower else None,
        architecture=architecture_of(files),
        volume_id=contents.volume_id,
        notes=tuple(notes),
    )


def read_iso(path: Path) -> IsoContents:
    """Every file and boot image of an ISO. Raises BaseMediaError when it is not one or is damaged."""
    try:
        with path.open("rb") as stream:
            image = IsoImage(stream, stream.seek(0, 2))
            _check_length(image)
            contents = _files(path, image)
            return replace(contents, boot_images=tuple(_boot_images(image, contents.files)))
    except IsADirectoryError as error:
        hint = "A folder with WinPE media is base kind 'adk'."
        raise BaseMediaError(f"{path} is a folder, not an ISO", hint=hint) from error
    except OSError as error:
        raise BaseMediaError(f"cannot read {path}: {error.strerror}", hint=WHERE_TO_GET_MEDIA) from error
    except ImageError as error:
        raise BaseMediaError(f"{path}: {error.message}", hint=WHERE_TO_GET_MEDIA) from error


def _files(path: Path, image: IsoImage) -> IsoContents:
    """The tree that holds boot.wim; where none does, the one with the most files."""
    found = [IsoContents(tree="UDF", volume_id="", files=_udf_files(path, image), boot_images=())] if image.udf else []
    found += [
        IsoContents(tree=name, volume_id="", files=_iso_files(path, image, tree), boot_images=())
        for name, tree in (("Joliet", Tree.JOLIET), ("ISO9660", Tree.PRIMARY))
        if tree is Tree.PRIMARY or image.joliet is not None
    ]
    best = max(found, key=lambda contents: (any(f.lower() == BOOT_WIM for f in contents.files), len(contents.files)))
    return replace(best, volume_id=image.primary.volume_id)


def _iso_files(path: Path, image: IsoImage, tree: Tree) -> dict[str, Extents]:
    files = {
        entry.path: Extents(path=path, pieces=merged(entry.pieces), name=f"{entry.path} in {path}")
        for entry in image.files(tree)
        if not entry.hidden
    }
    for file in files.values():
        _check_complete(file, image.size)
    return files


def _udf_files(path: Path, image: IsoImage) -> dict[str, Extents]:
    """The UDF tree as pycdlib reads it; where it cannot, as our own reader does."""
    try:
        found = _found_by_pycdlib(path)
    except ImageError as error:
        try:
            found = {entry.path: entry.pieces for entry in UdfVolume(image.stream, image.size).files()}
        except ImageError:
            raise error from None
    files = {name: Extents(path=path, pieces=merged(runs), name=f"{name} in {path}") for name, runs in found.items()}
    for file in files.values():
        _check_complete(file, image.size)
    return files


def _found_by_pycdlib(path: Path) -> dict[str, Sequence[tuple[int, int]]]:
    found: dict[str, Sequence[tuple[int, int]]] = {}
    with _opened(path) as iso:
        for folder, _, names in iso.walk(udf_path="/"):
            for name in names:
                udf_path = f"{folder.rstrip('/')}/{name}"
                found[udf_path.lstrip("/")] = iso.get_file_byte_extents(udf_path=udf_path)
                if len(found) > _MOST_FILES:
                    raise ImageError(f"the ISO has more than {_MOST_FILES} files")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[pycdlib.PyCdlib]:
    """The ISO as pycdlib reads it; its many errors become one."""
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
        try:
            yield iso
        finally:
            iso.close()
    except _PYCDLIB_ERRORS as error:
        said = f": {error}" if isinstance(error, PyCdlibException) else ""
        raise ImageError(f"the UDF file system of the ISO is damaged or cut off{said}") from error


def _check_length(image: IsoImage) -> None:
    expected = image.primary.sectors * SECTOR
    if expected > image.size:
        raise ImageError(f"the image is cut off: it has {image.size} bytes of {expected}")


def _check_complete(file: Extents, size: int) -> None:
    end = max((offset + length for offset, length in file.pieces), default=0)
    if end > size:
        raise ImageError(f"the image is cut off: it has {size} bytes, {file.name} ends at byte {end}")
    if file.size > size:
        # Its pieces lie over each other, perhaps a thousand times: reading it would take for ever.
        raise ImageError(f"{file.name} is damaged: it claims {file.size} bytes, the whole image has {size}")


def _boot_images(image: IsoImage, files: dict[str, Extents]) -> Iterator[tuple[int, int, bytes]]:
    for entry in image.boot_entries():
        offset = entry.lba * SECTOR
        if entry.bootable and offset < image.size:
            yield entry.platform, offset, _boot_image(image, entry, files)


def _boot_image(image: IsoImage, entry: BootCatalogEntry, files: dict[str, Extents]) -> bytes:
    """A boot image at its real size: Microsoft's catalogs say one sector for a floppy image of 1.44 MB."""
    offset = entry.lba * SECTOR
    at_offset = (file.size for file in files.values() if file.pieces and file.pieces[0][0] == offset)
    size = max(at_offset, default=0)
    if not size and entry.platform == _UEFI:
        size = fat_size(image.read(offset, min(512, image.size - offset), "a boot image"))
    if not size:
        size = max(entry.load_size * 512, _BIOS_IMAGE if entry.platform == _BIOS else 0)
    return image.read(offset, size, "a boot image")


def _what_instead(lower: dict[str, Extents]) -> str:
    """Words for what an ISO without boot.wim seems to be."""
    if any(name.endswith("boot.esd") for name in lower) or any(name.endswith(".esd") for name in lower):
        return ": its images are ESD files, which boot loaders cannot read"
    linux = ("vmlinuz", "linux", "initrd", "bzimage")
    if any(name.rpartition("/")[2].startswith(linux) for name in lower) or "boot/grub/grub.cfg" in lower:
        return ": it looks like a Linux image"
    if not lower:
        return ": it holds no files"
    return f"; it holds {', '.join(sorted({name.partition('/')[0] for name in lower})[:8])}"
