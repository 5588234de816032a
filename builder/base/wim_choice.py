"""Which image of a WIM to start from: judged by what it contains, not by its number or build.

The smallest image that qualifies wins. Every other one is named with the reason why not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from builder.console import size_text
from builder.errors import BaseMediaError
from builder.wim import Wim
from builder.wim_build import Rename
from builder.wim_format import WimImageInfo

SYSTEM32 = "Windows/System32"
#: What WinPE's own chain of start needs (Windows docs, "Winpeshl.ini Reference", "Wpeinit and Startnet.cmd").
_CHAIN = tuple(f"{SYSTEM32}/{name}" for name in ("winpeshl.exe", "wpeinit.exe", "wpeutil.exe", "cmd.exe"))
_LOADERS = (f"{SYSTEM32}/boot/winload.exe", f"{SYSTEM32}/boot/winload.efi")
#: What manage-bde needs of WinPE-SecureStartup; the provider is only warned about, for its name is unverified.
_BITLOCKER = tuple(f"{SYSTEM32}/{name}" for name in ("manage-bde.exe", "fveapi.dll"))
_BITLOCKER_PROVIDER = f"{SYSTEM32}/wbem/win32_encryptablevolume.dll"
_API_SET_SCHEMA = f"{SYSTEM32}/apisetschema.dll"
_API_SETS = ("api-ms-", "ext-ms-")
#: Windows Setup takes over from startnet.cmd where it finds one of these.
_SETUP = ("setup.exe", "sources/setup.exe")
_RENAMED = ".not-started"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an image must have. `dlls`: names the frozen payload imports from outside itself ("KERNEL32.dll").

    `index`: the image that the profile insists on, or None to choose. `architectures`: those a payload exists for.
    """

    bitlocker: bool
    dlls: tuple[str, ...] = ()
    index: int | None = None
    architectures: tuple[str, ...] = ("x64",)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An image that was not chosen, and why: complete sentences."""

    index: int
    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The image to start from. `renames`: what must be renamed in it so that Windows Setup does not take over.

    `reason` is one sentence for people; `notes` are warnings.
    """

    image: WimImageInfo
    reason: str
    rejected: tuple[Rejected, ...]
    renames: tuple[Rename, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        """1-based number of the image."""
        return self.image.index


def choose_image(wim: Wim, wanted: Wanted) -> Choice:
    """Choose an image. Raises BaseMediaError naming every image and what it lacks when none qualifies, ImageError where
    an image's folders are damaged."""
    if wanted.index is not None:
        wim.image(wanted.index)
    lacking = {image.index: missing(wim, image, wanted) for image in wim.images}
    candidates = [i for i in wim.images if not lacking[i.index] and wanted.index in (None, i.index)]
    if not candidates:
        for image in wim.images:
            # Files that folders lost to damage are not lacking.
            wim.check(image.index)
        raise _none_qualifies(wim, wanted, lacking)
    chosen = min(candidates, key=lambda image: (image.size, image.index))
    rejected = tuple(
        Rejected(index=i.index, name=i.name, reasons=tuple(lacking[i.index]) or (_why_not(i, chosen, wanted),))
        for i in wim.images
        if i is not chosen
    )
    return Choice(
        image=chosen,
        reason=_reason(wim, chosen, candidates, wanted),
        rejected=rejected,
        renames=setup_renames(wim, chosen.index),
        notes=_notes(wim, chosen, wanted),
    )


def missing(wim: Wim, image: WimImageInfo, wanted: Wanted) -> list[str]:
    """What `image` lacks of what is wanted, as sentences; empty where it qualifies."""
    reasons = []
    if image.architecture and image.architecture not in wanted.architectures:
        reasons.append(f"It is for {image.architecture}, the payload for {' and '.join(wanted.architectures)}.")
    dlls = [f"{SYSTEM32}/{name}" for name in sorted({name.lower() for name in wanted.dlls})]
    present = wim.contains(image.index, [*_CHAIN, *_LOADERS, *_BITLOCKER, _API_SET_SCHEMA, *dlls])
    chain = _names(path for path in _CHAIN if not present[path])
    if chain:
        reasons.append(f"It is not a WinPE that runs startnet.cmd: {chain} missing.")
    if not any(present[path] for path in _LOADERS):
        reasons.append("It has no Windows loader (System32\\boot\\winload.exe or winload.efi).")
    bitlocker = _names(path for path in _BITLOCKER if not present[path])
    if wanted.bitlocker and bitlocker:
        reasons.append(f"It cannot open BitLocker volumes: {bitlocker} missing (WinPE-SecureStartup).")
    absent = _names(d for d in dlls if not present[d] and not (present[_API_SET_SCHEMA] and _is_api_set(d)))
    if absent:
        reasons.append(f"The payload needs {absent}, which it does not have.")
    return reasons


def setup_renames(wim: Wim, index: int) -> tuple[Rename, ...]:
    """The renames that keep Windows Setup from starting in place of startnet.cmd."""
    found = (wim.find(index, path) for path in _SETUP)
    return tuple(Rename(path=entry.path, target=entry.path + _RENAMED) for entry in found if entry is not None)


def _reason(wim: Wim, chosen: WimImageInfo, candidates: list[WimImageInfo], wanted: Wanted) -> str:
    has = "it has WinPE's chain of start" + (", manage-bde" if wanted.bitlocker else "")
    has += f" and all {len(wanted.dlls)} DLLs of the payload" if wanted.dlls else ""
    if wanted.index is not None:
        return f"Image {chosen.index} ({chosen.name}), as the profile says; {has}."
    if wim.header.image_count == 1:
        return f"Image 1 ({chosen.name}), the only one; {has}."
    if len(candidates) == 1:
        return f"Image {chosen.index} ({chosen.name}), the only one that qualifies: {has}."
    return f"Image {chosen.index} ({chosen.name}), the smallest of {len(candidates)} that qualify: {has}."


def _why_not(image: WimImageInfo, chosen: WimImageInfo, wanted: Wanted) -> str:
    if wanted.index is not None:
        return f"The profile asks for image {wanted.index}."
    if image.size == chosen.size:
        return "It qualifies, but comes later."
    return f"It qualifies, but is larger by {size_text(image.size - chosen.size)}."


def _notes(wim: Wim, chosen: WimImageInfo, wanted: Wanted) -> tuple[str, ...]:
    notes = []
    if not chosen.architecture:
        notes.append("The WIM does not say what architecture its images are for; x64 is assumed.")
    if wanted.bitlocker and wim.find(chosen.index, _BITLOCKER_PROVIDER) is None:
        notes.append("wbem\\Win32_EncryptableVolume.dll was not found; manage-bde may need it.")
    return tuple(notes)


def _none_qualifies(wim: Wim, wanted: Wanted, lacking: dict[int, list[str]]) -> BaseMediaError:
    images = [image for image in wim.images if wanted.index in (None, image.index)]
    lines = [f"  image {i.index} ({i.name or 'no name'}): {' '.join(lacking[i.index])}" for i in images]
    only_bitlocker = any(all("BitLocker" in reason for reason in lacking[i.index]) for i in images)
    hint = "Use the boot.wim of a Windows install ISO or a winre.wim; a plain ADK winpe.wim lacks optional components."
    if only_bitlocker:
        hint += " Without encrypted volumes, 'bitlocker: false' in the profile does without."
    what = "no image" if wanted.index is None else f"image {wanted.index} is not one that"
    return BaseMediaError(f"{what} of {wim.name} can be used\n" + "\n".join(lines), hint=hint)


def _is_api_set(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_API_SETS)


def _names(paths: Iterable[str]) -> str:
    return ", ".join(path.rpartition("/")[2] for path in paths)
