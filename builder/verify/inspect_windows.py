"""What Windows media and WIM files hold, and what Bluelift could do with them: anyone's, read and never run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.base.wim_choice import Wanted, choose_image, missing, setup_renames
from builder.base.windows_iso import IsoContents
from builder.base.windows_media import BOOT_WIM, BOOTFIX, EFISYS_NOPROMPT, LOADERS, small
from builder.console import Step
from builder.errors import BaseMediaError, ImageError, ToolMissing
from builder.extents import Extents, whole_file
from builder.pe import PeError, machine_name, read_pe
from builder.wim import Wim, open_wim
from builder.wim_format import MAGIC, PIPABLE_MAGIC, Compression, WimImageInfo

_SYSTEM32 = "Windows/System32"
_PACKAGES = "Windows/servicing/Packages"
_COMPONENT = re.compile(r"(WinPE-[A-Za-z0-9-]+?)-Package~", re.IGNORECASE)
_BOOT_STL = "Windows/Boot/EFI/boot.stl"
#: What a medium for `boot_ca: 2023` is made of, inside the WIM (Make2023BootableMedia.ps1).
_DVD_2023 = "Windows/Boot/DVD_EX/EFI"
_EFISYS_2023 = ("efisys_EX.bin", "efisys_noprompt_EX.bin")
_BOOT_2023 = (
    "Windows/Boot/EFI_EX/bootmgfw_EX.efi",
    "Windows/Boot/FONTS_EX",
    _BOOT_STL,
)
#: The issuers of Microsoft's boot managers, as their certificates name them.
_ISSUERS = ((b"Windows UEFI CA 2023", "2023"), (b"Windows Production PCA 2011", "2011"))
_MOST_NAMED = 5
_PRESS_ANY_KEY = ("Press any key".encode("utf-16-le"), b"Press any key")
_LISTED_BOOT_FILES = ("bootmgr", "bootmgr.efi", *LOADERS.values())


@dataclass(frozen=True, kw_only=True)
class WimImageReport:
    """One image of a WIM. `size`: bytes of its files. `components`: WinPE's optional ones, by name.

    `boot_2023_missing`: what it lacks for `boot_ca: 2023`. `problems`: why Bluelift cannot use it; none where it can.
    `contents_read` is False where its folders could not be read (solid, damaged, or libwim is not there).
    """

    index: int
    name: str
    boots: bool
    architecture: str
    version: str
    language: str
    size: int
    contents_read: bool
    manage_bde: bool = False
    setup_takes_over: bool = False
    boot_stl: bool = False
    components: tuple[str, ...] = ()
    boot_2023_missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WimReport:
    """A WIM file, or one inside an ISO. `chosen`: the sentence that says which image Bluelift would take, or ""."""

    path: str
    size: int
    sha256: str
    compression: str
    solid: bool
    boot_index: int
    integrity: bool
    guid: str
    images: tuple[WimImageReport, ...]
    chosen: str
    can: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BootFileReport:
    """A program on the medium that boots. `machine`: x64, ARM64 ... or "". `signed_by`: "2011", "2023", "other", ""."""

    path: str
    size: int
    sha256: str
    machine: str
    signed_by: str


@dataclass(frozen=True, kw_only=True)
class WindowsReport:
    """Windows media. `prompt_bios`, `prompt_uefi`: it waits for a key; None where that cannot be told.

    `boot_wim` is None where there is none or it cannot be read; `other_wims`: paths of install.wim, install.esd ...
    `can` and `missing`: what Bluelift could do with it and what it would need, in sentences.
    """

    tree: str
    boot_files: tuple[BootFileReport, ...]
    boot_wim: WimReport | None
    other_wims: tuple[str, ...]
    prompt_bios: bool | None
    prompt_uefi: bool | None
    boot_stl: bool
    can: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def is_wim(head: bytes) -> bool:
    """Whether a file that begins with `head` is a WIM, of whatever kind."""
    return head[:8] in (MAGIC, PIPABLE_MAGIC)


def inspect_wim(source: Extents | Path, step: Step) -> WimReport:
    """Read a WIM and every file in it. Raises ImageError when its header or tables are damaged.

    What is inside is reported as it is; damaged files are named in the notes.
    """
    extents = whole_file(source) if isinstance(source, Path) else source
    wim = open_wim(extents)
    info, notes = wim.info, list[str]()
    images = tuple(_image(wim, image, notes) for image in wim.images)
    chosen, can, lacking = _prospects(wim, images)
    damaged = _damaged(wim, step) if all(image.contents_read for image in images) else ()
    if damaged:
        more = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
        notes.append(f"Damaged, by their sha1: {', '.join(damaged[:_MOST_NAMED])}{more}.")
        lacking = ("Files in it are damaged; get it anew before building from it.", *lacking)
    return WimReport(
        path=extents.name,
        size=info.size,
        sha256=extents.sha256(),
        compression=info.compression.name if info.compression is not Compression.NONE else "none",
        solid=info.solid,
        boot_index=info.boot_index,
        integrity=info.integrity,
        guid=info.guid,
        images=images,
        chosen=chosen,
        can=can,
        missing=lacking,
        notes=tuple(dict.fromkeys(notes)),
    )


def inspect_windows(contents: IsoContents, step: Step) -> WindowsReport | None:
    """What an ISO holds of Windows; None where it holds nothing of it."""
    files = {path.lower(): content for path, content in contents.files.items()}
    wims = [path for path in files if path.startswith("sources/") and path.endswith((".wim", ".esd", ".swm"))]
    if not wims and "bootmgr" not in files and "bootmgr.efi" not in files:
        return None
    notes: list[str] = []
    boot_wim = _boot_wim(files, notes, step)
    boot_files = tuple(_boot_file(path, files[path]) for path in _LISTED_BOOT_FILES if path in files)
    uefi = next((data for platform, _, data in contents.boot_images if platform == 0xEF), None)
    lacking = [*(boot_wim.missing if boot_wim else ())]
    if boot_wim is None:
        lacking.append(f"{BOOT_WIM} is not there or cannot be read: nothing can be built from it.")
    if not contents.boot_images:
        lacking.append("The ISO has no boot entries.")
    return WindowsReport(
        tree=contents.tree,
        boot_files=boot_files,
        boot_wim=boot_wim,
        other_wims=tuple(sorted(path for path in wims if path != BOOT_WIM)),
        prompt_bios=BOOTFIX in files if any(platform == 0 for platform, _, _ in contents.boot_images) else None,
        prompt_uefi=_uefi_prompts(uefi, files),
        boot_stl="efi/microsoft/boot/boot.stl" in files,
        can=tuple(_can(boot_wim, boot_files)),
        missing=tuple(lacking),
        notes=tuple(notes),
    )


def signed_by(data: bytes) -> str:
    """Whose certificate a PE file carries: "2011" or "2023" for Microsoft's boot CAs, "other", or "" for none.

    By the issuers' names in the certificate table, newest first; the signature itself is not verified.
    """
    table = certificate_table(data)
    if not table:
        return ""
    return next((year for name, year in _ISSUERS if name in table), "other")


def certificate_table(data: bytes) -> bytes:
    """The attribute certificate table of a PE file ([PE/COFF], "The Attribute Certificate Table"); b"" for none."""
    if data[:2] != b"MZ" or len(data) < 0x40:
        return b""
    optional = int.from_bytes(data[0x3C:0x40], "little") + 24
    directories = {b"\x0b\x01": 96, b"\x0b\x02": 112}.get(data[optional : optional + 2])
    if directories is None or data[optional - 24 : optional - 20] != b"PE\0\0":
        return b""
    at = optional + directories + 4 * 8
    offset, size = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
    return data[offset : offset + size] if offset and offset + size <= len(data) else b""


def _damaged(wim: Wim, step: Step) -> tuple[str, ...]:
    return wim.damaged(lambda done, total: step.progress(done, total, "bytes"))


def _image(wim: Wim, image: WimImageInfo, notes: list[str]) -> WimImageReport:
    basics = WimImageReport(
        index=image.index,
        name=image.name,
        boots=image.index == wim.header.boot_index,
        architecture=image.architecture,
        version=image.version,
        language=image.language,
        size=image.size,
        contents_read=False,
    )
    try:
        wim.check(image.index)
        return _contents(wim, image, basics)
    except (ImageError, BaseMediaError, ToolMissing) as error:
        notes.append(f"{error.message}.")
        return basics


def _contents(wim: Wim, image: WimImageInfo, basics: WimImageReport) -> WimImageReport:
    index = image.index
    names = (entry.path.rpartition("/")[2] for entry in wim.list_folder(index, _PACKAGES))
    present = wim.contains(index, (f"{_SYSTEM32}/manage-bde.exe", *_BOOT_2023))
    return replace(
        basics,
        contents_read=True,
        manage_bde=present[f"{_SYSTEM32}/manage-bde.exe"],
        setup_takes_over=bool(setup_renames(wim, index)),
        boot_stl=present[_BOOT_STL],
        components=tuple(sorted({found[1] for name in names if (found := _COMPONENT.match(name))})),
        boot_2023_missing=(*(path for path in _BOOT_2023 if not present[path]), *_efisys_missing(wim, index)),
        problems=tuple(missing(wim, image, Wanted(bitlocker=False))),
    )


def _efisys_missing(wim: Wim, index: int) -> Iterator[str]:
    """The UEFI boot images of 2023 that are in no language's folder."""
    languages = wim.names(index, _DVD_2023)
    names = {name.lower() for language in languages for name in wim.names(index, f"{_DVD_2023}/{language}")}
    yield from (f"{_DVD_2023}/en-US/{name}" for name in _EFISYS_2023 if name.lower() not in names)


def _prospects(wim: Wim, images: Iterable[WimImageReport]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Which image Bluelift would take, what it could do with it, and what is missing."""
    if wim.header.solid or wim.header.compression is Compression.LZMS:
        return "", (), ("It is compressed as LZMS (an ESD), which boot loaders cannot read. Convert it to LZX first.",)
    read = [image for image in images if image.contents_read]
    if not read:
        return "", (), ("Its folders cannot be read.",)
    for bitlocker in (True, False):
        try:
            choice = choose_image(wim, Wanted(bitlocker=bitlocker))
        except (BaseMediaError, ImageError, ToolMissing):
            continue
        chosen = next(image for image in read if image.index == choice.index)
        return choice.reason, tuple(_image_can(chosen)), tuple(_image_lacks(chosen))
    problems = [f"Image {image.index}: {problem}" for image in read for problem in image.problems]
    if all(image.architecture == "arm64" for image in read):
        problems.append("A payload frozen for ARM64, on a Windows of that kind, makes a build possible: --payload-exe.")
    return "", (), tuple(problems)


def _image_can(image: WimImageReport) -> Iterator[str]:
    yield "Build a recovery ISO that repairs unencrypted volumes."
    if image.manage_bde:
        yield "Have in it what opens BitLocker volumes (manage-bde is there)."
    if not image.boot_2023_missing:
        yield "Boot under the 2023 certificates (boot_ca: 2023 or both)."
    if image.setup_takes_over:
        yield "Keep Windows Setup from starting: its launchers will be renamed."


def _image_lacks(image: WimImageReport) -> Iterator[str]:
    if not image.manage_bde:
        yield (
            "manage-bde.exe is not there: BitLocker volumes stay closed. The boot.wim of an install ISO or a winre.wim"
            " has it."
        )
    if image.boot_2023_missing:
        yield (f"For boot_ca: 2023 it lacks {', '.join(image.boot_2023_missing)}; media from April 2024 on have them.")


def _boot_wim(files: Mapping[str, Extents], notes: list[str], step: Step) -> WimReport | None:
    if BOOT_WIM not in files:
        return None
    try:
        return inspect_wim(files[BOOT_WIM], step)
    except (ImageError, BaseMediaError, ToolMissing) as error:
        notes.append(f"{error.message}.")
        return None


def _boot_file(path: str, content: Extents) -> BootFileReport:
    data = small(content)
    try:
        machine = machine_name(read_pe(data).machine)
    except PeError:
        machine = ""
    return BootFileReport(
        path=path,
        size=content.size,
        sha256=hashlib.sha256(data).hexdigest(),
        machine=machine,
        signed_by=signed_by(data),
    )


def _uefi_prompts(image: bytes | None, files: Mapping[str, Extents]) -> bool | None:
    """Whether the UEFI entry waits for a key: by its text, or by being the image that does not."""
    if image is None:
        return None
    noprompt = files.get(EFISYS_NOPROMPT)
    if any(text in image for text in _PRESS_ANY_KEY):
        return True
    if noprompt is not None and small(noprompt) == image:
        return False
    # Microsoft's efisys.bin says so; one without the text does not ask.
    return False if b"EFI" in image else None


def _can(boot_wim: WimReport | None, boot_files: Iterable[BootFileReport]) -> Iterator[str]:
    yield from boot_wim.can if boot_wim else ()
    years = sorted({file.signed_by for file in boot_files if file.path in LOADERS.values()} & {"2011", "2023"})
    if years:
        yield f"Boot under the {' and '.join(years)} certificates as it is."
