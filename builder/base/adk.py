"""An ADK WinPE folder as base media.

Two layouts are known: what `copype amd64 FOLDER` makes (media, fwfiles, from 2024 on also bootbins), and the ADK's own
"Windows Preinstallation Environment" (amd64/Media, amd64/en-us/winpe.wim, with the boot sectors in "Deployment
Tools/amd64/Oscdimg"). Names are found whatever their case, for folders are copied between Windows and Linux.
"""

from __future__ import annotations

from pathlib import Path

from builder.base.windows_media import (
    BOOT_WIM,
    EFISYS,
    EFISYS_NOPROMPT,
    ETFSBOOT,
    BaseKind,
    WindowsBase,
    architecture_of,
    media_files,
    small,
)
from builder.errors import BaseMediaError
from builder.extents import Extents, whole_file

_WINPE = "Windows Preinstallation Environment"
_HINT = (
    "Give the folder that 'copype amd64 FOLDER' made, or the ADK's 'Windows Preinstallation Environment' folder. "
    "Copy it whole."
)


def open_adk(folder: Path) -> WindowsBase:
    """Read an ADK folder. Raises BaseMediaError naming what is missing."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise BaseMediaError(f"{folder} {what}", hint=_HINT)
    root = _architecture_folder(folder)
    media = _inside(root, "media")
    if media is None or not media.is_dir():
        raise BaseMediaError(f"{folder} is no ADK WinPE folder: it has no 'media' folder", hint=_HINT)
    found = _tree(media)
    lower = {name.lower(): content for name, content in found.items()}
    files = media_files(found)
    bios = _boot_sector(root, "etfsboot.com", lower, ETFSBOOT)
    uefi = _boot_sector(root, "efisys.bin", lower, EFISYS)
    if bios is None and uefi is None:
        raise BaseMediaError(f"{folder} has neither etfsboot.com nor efisys.bin: nothing of it would boot", hint=_HINT)
    return WindowsBase(
        kind=BaseKind.ADK,
        source=folder,
        media_source=folder,
        boot_wim=lower.get(BOOT_WIM) or _winpe_wim(root, folder),
        files=files,
        bios_image=bios,
        uefi_image=uefi,
        uefi_image_noprompt=_boot_sector(root, "efisys_noprompt.bin", lower, EFISYS_NOPROMPT),
        architecture=architecture_of(files),
        volume_id="",
    )


def _architecture_folder(folder: Path) -> Path:
    """The folder that holds `media`: the given one, or amd64 (arm64) below it or below the ADK's WinPE folder."""
    winpe = _inside(folder, _WINPE)
    candidates = [folder]
    for above in (folder, *((winpe,) if winpe else ())):
        candidates += [below for name in ("amd64", "arm64") if (below := _inside(above, name)) is not None]
    return next((candidate for candidate in candidates if _inside(candidate, "media") is not None), folder)


def _winpe_wim(root: Path, folder: Path) -> Extents:
    """winpe.wim of the ADK's own layout: en-us first, then any language."""
    languages = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: (p.name.lower() != "en-us", p.name))
    for language in languages:
        wim = _inside(language, "winpe.wim")
        if wim is not None:
            return whole_file(wim)
    raise BaseMediaError(f"{folder} has neither media/{BOOT_WIM} nor a winpe.wim", hint=_HINT)


def _boot_sector(root: Path, name: str, media: dict[str, Extents], media_path: str) -> bytes | None:
    """A boot image: beside the media (fwfiles, bootbins), among the ADK's Deployment Tools, or on the media."""
    tools = _inside(root.parent.parent, f"Deployment Tools/{root.name}/Oscdimg")
    for folder in (_inside(root, "fwfiles"), _inside(root, "bootbins"), tools):
        found = _inside(folder, name) if folder is not None else None
        if found is not None:
            return small(whole_file(found))
    return small(media[media_path]) if media_path in media else None


def _tree(folder: Path) -> dict[str, Extents]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise BaseMediaError(f"{path} is a symbolic link; media hold none", hint=_HINT)
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = whole_file(path)
    return files


def _inside(folder: Path, relative: str) -> Path | None:
    """`relative` below `folder`, ignoring case; None where it is not there."""
    at = folder
    for part in relative.split("/"):
        try:
            names = {child.name.lower(): child for child in sorted(at.iterdir(), reverse=True)}
        except OSError:
            return None
        if part.lower() not in names:
            return None
        at = names[part.lower()]
    return at
