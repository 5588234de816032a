"""What an image holds, read without booting it: boot entries, files, kernel, our own identity and initramfs."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from builder.base.windows_iso import IsoContents, read_iso
from builder.console import SilentStep, Step
from builder.errors import BaseMediaError, ImageError
from builder.extents import Extents
from builder.initramfs import InitramfsEntry, list_initramfs
from builder.media.fat_reader import FatVolume, read_fat
from builder.media.iso9660 import SECTOR, BootCatalogEntry, IsoEntry, IsoImage, Tree
from builder.media.layout import IDENTITY, INITRD
from builder.verify.inspect_disk import DiskReport, inspect_disk
from builder.verify.inspect_windows import WimReport, WindowsReport, inspect_wim, inspect_windows, is_wim

_PLATFORMS = {0: "BIOS", 1: "PowerPC", 2: "Mac", 0xEF: "UEFI"}
_MEDIA = {0: "no emulation", 1: "1.2 MB floppy", 2: "1.44 MB floppy", 3: "2.88 MB floppy", 4: "hard disk"}
_LARGEST_READ_WHOLE = 256 << 20
_LARGEST_BOOT_IMAGE = 64 << 20
#: Larger files of a UDF tree (install.wim) are not hashed: the image as a whole is.
_LARGEST_HASHED = 1 << 30
_WHICH_FILE = "Give the .iso or .wim file itself; of an ADK folder that is media/sources/boot.wim."
_ALONE = (
    "A WIM alone does not boot: 'bluelift build winpe --winre FILE --media PATH' takes boot files from an install ISO"
    " or an ADK folder."
)


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file: path with "/" between parts, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BootEntryReport:
    """One boot entry of the catalog.

    `load_size`: bytes, as the catalog says; `size`: bytes of the file `path` that the entry points at (0 and "" where
    no file does); `program` says what would run; `contents` are the files of a UEFI entry's FAT volume.
    """

    platform: str
    platform_id: int
    bootable: bool
    emulation: str
    load_size: int
    lba: int
    path: str
    size: int
    program: str
    volume_label: str = ""
    contents: tuple[FileReport, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """What an image file holds. `created` is ISO 8601, empty where the image does not say.

    `identity` is the content of Bluelift's image.json as it is, whatever its version; None where there is none.
    `notes` are facts worth a line: what is unusual, damaged or could not be read. `windows`: what it holds of Windows;
    `disk`: what it is as a disk, None for an ISO that is none.
    Of an image whose files are in UDF, as Windows media's are, `files` are those; large ones have no sha256.
    """

    path: str
    size: int
    sha256: str
    volume_id: str
    volume_size: int
    created: str
    rock_ridge: bool
    joliet: bool
    udf: bool
    boot_entries: tuple[BootEntryReport, ...]
    files: tuple[FileReport, ...]
    kernel: str = ""
    identity: dict[str, object] | None = None
    initramfs: tuple[InitramfsEntry, ...] = ()
    notes: tuple[str, ...] = field(default=())
    windows: WindowsReport | None = None
    disk: DiskReport | None = None


def inspect_file(path: Path, step: Step | None = None) -> ImageReport | WimReport:
    """Read an ISO image or a WIM file, whichever `path` is. Raises ImageError or BaseMediaError."""
    step = step or SilentStep()
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError:
        head = b""
    if not is_wim(head):
        return inspect_image(path, step)
    report = inspect_wim(path, step)
    return replace(report, notes=(*report.notes, _ALONE)) if report.chosen else report


def inspect_image(path: Path, step: Step | None = None) -> ImageReport:
    """Read the ISO image `path`. Raises ImageError, saying what was found instead, when it is not one or is damaged."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            return _report(path, IsoImage(stream, size), step or SilentStep())
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not an image", hint=_WHICH_FILE) from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}", hint=_WHICH_FILE) from error


def _report(path: Path, image: IsoImage, step: Step) -> ImageReport:
    notes: list[str] = []
    entries = list(image.files())
    files = tuple(FileReport(path=e.path, size=e.size, sha256=_sha256(image.chunks(e))) for e in entries)
    by_path = {entry.path: entry for entry in entries}
    contents = _contents(path, notes) if _may_be_windows(image, by_path) else None
    if contents is not None and contents.tree == "UDF":
        files = tuple(_udf_file(name, content) for name, content in sorted(contents.files.items()))
        entries = [IsoEntry(path=n, size=c.size, pieces=c.pieces) for n, c in sorted(contents.files.items())]
    if image.joliet is not None:
        _compare_joliet(image, entries, notes)
    if image.primary.sectors * SECTOR > image.size:
        notes.append(f"The volume claims {image.primary.sectors * SECTOR} bytes, the file has {image.size}.")
    identity = _identity(image, by_path, notes)
    places = {entry.pieces[0] for entry in entries if len(entry.pieces) == 1}
    created = image.primary.created
    return ImageReport(
        path=str(path),
        size=image.size,
        sha256=_sha256_of_stream(image.stream),
        volume_id=image.primary.volume_id,
        volume_size=image.primary.sectors * SECTOR,
        created=datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if created is not None else "",
        rock_ridge=image.rock_ridge,
        joliet=image.joliet is not None,
        udf=image.udf,
        boot_entries=tuple(_boot_entry(image, entry, entries, contents, notes) for entry in image.boot_entries()),
        files=files,
        kernel=_kernel(image, entries),
        identity=identity,
        initramfs=_initramfs(image, by_path, notes),
        disk=inspect_disk(image.stream, image.size, places, notes),
        notes=tuple(notes),
        windows=inspect_windows(contents, step) if contents is not None else None,
    )


def kernel_version(head: bytes) -> str:
    """The version in a Linux bzImage's setup header (Documentation/arch/x86/boot.rst); "" where it is not one.

    `head`: the first 64 KiB of the file are enough.
    """
    if len(head) < 0x210 or head[0x202:0x206] != b"HdrS":
        return ""
    at = 0x200 + struct.unpack_from("<H", head, 0x20E)[0]
    text = head[at : at + 256].partition(b"\0")[0].decode("ascii", "replace")
    return text.partition(" ")[0] if text.isprintable() else ""


def _may_be_windows(image: IsoImage, by_path: dict[str, IsoEntry]) -> bool:
    return image.udf or any(path.lower().startswith(("bootmgr", "sources/")) for path in by_path)


def _contents(path: Path, notes: list[str]) -> IsoContents | None:
    """The tree that Windows reads, UDF first."""
    try:
        return read_iso(path)
    except BaseMediaError as error:
        notes.append(f"{error.message}.")
        return None


def _udf_file(name: str, content: Extents) -> FileReport:
    sha256 = content.sha256() if content.size <= _LARGEST_HASHED else ""
    return FileReport(path=name, size=content.size, sha256=sha256)


def _compare_joliet(image: IsoImage, entries: list[IsoEntry], notes: list[str]) -> None:
    joliet = sorted(entry.pieces for entry in image.files(Tree.JOLIET))
    if joliet != sorted(entry.pieces for entry in entries if not entry.hidden):
        notes.append("The Joliet tree (seen by Windows) does not hold the same files as the primary one.")


def _boot_entry(
    image: IsoImage,
    entry: BootCatalogEntry,
    entries: list[IsoEntry],
    contents: IsoContents | None,
    notes: list[str],
) -> BootEntryReport:
    offset = entry.lba * SECTOR
    file = next((candidate for candidate in entries if candidate.size and candidate.offset == offset), None)
    size = file.size if file is not None else 0
    length = min(max(size, entry.load_size * 512), _LARGEST_BOOT_IMAGE, max(0, image.size - offset))
    data = image.read(offset, length, "a boot image") if length else b""
    # Windows media's boot images are no files, and their catalogs say one sector for a floppy image.
    known = (data for _, at, data in (contents.boot_images if contents else ()) if at == offset)
    data = max((data, *known), key=len)
    name = _PLATFORMS.get(entry.platform, f"platform {entry.platform:#x}")
    volume = _fat_volume(data, name, notes) if entry.platform == 0xEF else None
    return BootEntryReport(
        platform=name,
        platform_id=entry.platform,
        bootable=entry.bootable,
        emulation=_MEDIA.get(entry.media_type, f"media type {entry.media_type}"),
        load_size=entry.load_size * 512,
        lba=entry.lba,
        path=file.path if file is not None else "",
        size=size,
        program=_uefi_program(volume) if entry.platform == 0xEF else _bios_program(data),
        volume_label=volume.label if volume is not None else "",
        contents=tuple(
            FileReport(path=f.path, size=len(f.data), sha256=hashlib.sha256(f.data).hexdigest())
            for f in (volume.files if volume is not None else ())
        ),
    )


def _fat_volume(data: bytes, name: str, notes: list[str]) -> FatVolume | None:
    try:
        return read_fat(data)
    except ImageError as error:
        notes.append(f"The {name} boot image cannot be read: {error.message}.")
        return None


def _uefi_program(volume: FatVolume | None) -> str:
    if volume is None:
        return "unknown"
    loaders = [
        f for f in volume.files if f.path.upper().startswith("EFI/BOOT/BOOT") and f.path.upper().endswith(".EFI")
    ]
    kind = f"FAT{volume.kind:d}"
    if not loaders:
        return f"{kind} volume without a boot loader"
    marks = ((b"UEFI SHIM", "shim"), (b"bootmgfw", "Windows boot manager"), (b"GRUB", "GRUB"))
    described = (f"{f.path}{next((f' ({name})' for mark, name in marks if mark in f.data), '')}" for f in loaders)
    return f"{kind} volume with {', '.join(described)}"


def _bios_program(data: bytes) -> str:
    marks = (
        (b"ISOLINUX", "ISOLINUX"),
        (b"BOOTMGR", "Windows boot sector (etfsboot.com)"),
        (b"bootmgr", "Windows boot sector (etfsboot.com)"),
        (b"cdrom read fails", "GRUB (cdboot)"),
        (b"GRUB", "GRUB"),
    )
    return next((name for mark, name in marks if mark in data), "unknown")


def _kernel(image: IsoImage, entries: list[IsoEntry]) -> str:
    """The version of the first Linux kernel among files named like one."""
    for entry in sorted(entries, key=lambda entry: entry.path):
        name = entry.path.rpartition("/")[2].lower()
        if name.startswith(("vmlinuz", "linux", "bzimage")) and entry.pieces:
            version = kernel_version(b"".join(_head(image, entry, 0x10000)))
            if version:
                return version
    return ""


def _head(image: IsoImage, entry: IsoEntry, length: int) -> Iterable[bytes]:
    offset, first = entry.pieces[0]
    yield image.read(offset, min(length, first), f"the file '{entry.path}'")


def _identity(image: IsoImage, by_path: dict[str, IsoEntry], notes: list[str]) -> dict[str, object] | None:
    entry = by_path.get(IDENTITY)
    if entry is None or entry.size > 1 << 20:
        return None
    try:
        value = json.loads(b"".join(image.chunks(entry)))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        notes.append(f"{IDENTITY} is damaged: it is not a JSON object.")
        return None
    return value


def _initramfs(image: IsoImage, by_path: dict[str, IsoEntry], notes: list[str]) -> tuple[InitramfsEntry, ...]:
    entry = by_path.get(INITRD)
    if entry is None or entry.size > _LARGEST_READ_WHOLE:
        return ()
    try:
        return tuple(list_initramfs(b"".join(image.chunks(entry))))
    except ImageError as error:
        notes.append(f"{INITRD}: {error.message}.")
        return ()


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _sha256_of_stream(stream: BinaryIO) -> str:
    stream.seek(0)
    return _sha256(iter(lambda: stream.read(1 << 20), b""))
