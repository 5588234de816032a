"""Base media for WinPE, looked at: which image of boot.wim, which boot files and drivers, and what the plan needs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.base.windows import BaseKind, Choice, Wanted, WindowsBase, WindowsBaseSettings, choose_image, open_base
from builder.base.windows_media import EFISYS_NOPROMPT, LOADERS, refuse_architecture
from builder.drivers_inf import require_drivers
from builder.errors import BaseMediaError, UsageError
from builder.import_gate import RESOLVED_API_SETS, Need, check_base
from builder.pe import Machine
from builder.plan_winpe import BaseFacts, boot_cas
from builder.profile import Profile, WinpeSettings
from builder.secure_boot import BootCa, SecureBootFiles, secure_boot_files
from builder.wim import Wim, open_wim
from builder.wim_format import HEADER_SIZE, refuse_solid
from builder.winpe_files import DRIVERS_FOLDER

_SYSTEM32 = "Windows/System32"
#: What BaseMedia call the machines that a payload can be frozen for.
ARCHITECTURES: Mapping[Machine, str] = {Machine.AMD64: "x64", Machine.ARM64: "arm64"}


@dataclass(frozen=True, kw_only=True)
class ChosenBase:
    """Base media with everything decided. `boot_files`: one for each of the profile's boot_ca.

    `drivers`: path inside the image to the file. `facts`: the same, for the plan. `summary`: for people and manifest.
    """

    media: WindowsBase
    wim: Wim
    choice: Choice
    boot_files: tuple[SecureBootFiles, ...]
    drivers: Mapping[str, Path]
    background: Path | None
    facts: BaseFacts

    @property
    def summary(self) -> dict[str, str]:
        """What it is, in words that hold on every machine."""
        image = self.choice.image
        return {
            "kind": self.media.kind.value,
            "file": self.media.source.name,
            "volume_id": self.media.volume_id,
            "wim": self.facts.wim,
            "image": str(image.index),
            "name": image.name,
            "build": image.version,
            "architecture": image.architecture,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """Which image and why, and what else is worth a line."""
        rejected = tuple(f"Not image {other.index}: {' '.join(other.reasons)}" for other in self.choice.rejected)
        setup = ", ".join(rename.path for rename in self.choice.renames)
        renamed = (f"Windows Setup is kept from starting: {setup} renamed inside the image.",) if setup else ()
        prompt = (f"The media have no {EFISYS_NOPROMPT}: UEFI will ask for a key.",) if self._only_prompts else ()
        return (self.choice.reason, *rejected, *renamed, *self.choice.notes, *self.media.notes, *prompt)

    @property
    def _only_prompts(self) -> bool:
        return self.facts.prompt and self.media.uefi_image_noprompt is None


def open_media_of(settings: WinpeSettings, *, machine: Machine = Machine.AMD64) -> tuple[WindowsBase, Wim]:
    """The base media of a profile and their boot.wim. Raises UsageError where none are given, BaseMediaError,
    ImageError."""
    base = settings.base
    if base.kind is None or base.path is None:
        raise UsageError(
            "winpe is made of media of your own, and none are given",
            hint="--windows-iso FILE, --adk DIR, or --winre FILE with --media PATH; or 'base' in the profile. "
            "Without any Windows media, 'make winpe-demo' shows how it works.",
        )
    media = open_base(WindowsBaseSettings(kind=BaseKind(base.kind), path=base.path, media=base.media))
    refuse_architecture(media, payload_architectures=(ARCHITECTURES[machine],))
    wim = open_wim(media.boot_wim)
    refuse_solid(wim.header, wim.name)
    return media, wim


def choose(
    profile: Profile, media: WindowsBase, wim: Wim, needs: Collection[Need], *, machine: Machine = Machine.AMD64
) -> ChosenBase:
    """Decide on everything: raises BaseMediaError for an image that lacks what the payload needs, for a base without
    the boot files of 2023, for driver folders that are not complete."""
    architecture = ARCHITECTURES[machine]
    choice = _image(profile.winpe, wim, needs, architecture)
    settings = profile.winpe
    prompt = settings.prompt if settings.prompt is not None else _must_prompt(media)
    boot_files = tuple(
        secure_boot_files(
            BootCa(ca),
            read=lambda path: wim.read_if_present(choice.index, path),
            list_folder=lambda path: wim.names(choice.index, path),
            architecture=architecture,
            prompt=prompt,
        )
        for ca in boot_cas(profile)
    )
    require_drivers(settings.drivers, architecture=architecture)
    drivers = _driver_files(settings.drivers)
    facts = BaseFacts(
        wim=_identity(wim),
        index=choice.index,
        renames=tuple((rename.path, rename.target) for rename in choice.renames),
        media=_media_digests(media),
        boot_files={some.ca.value: _digests({**some.files, "boots": some.uefi_image.encode()}) for some in boot_files},
        drivers={inside: hashlib.sha256(path.read_bytes()).hexdigest() for inside, path in drivers.items()},
        background=hashlib.sha256(settings.background.read_bytes()).hexdigest() if settings.background else "",
        architecture=architecture,
        prompt=prompt,
        compression=wim.header.compression.name,
    )
    return ChosenBase(
        media=media,
        wim=wim,
        choice=choice,
        boot_files=boot_files,
        drivers=drivers,
        background=settings.background,
        facts=facts,
    )


def _must_prompt(media: WindowsBase) -> bool:
    """Whether the media can boot only with "Press any key": copype leaves the other boot image in the ADK."""
    return media.uefi_image is not None and media.uefi_image_noprompt is None


def _image(settings: WinpeSettings, wim: Wim, needs: Collection[Need], architecture: str) -> Choice:
    """The image to start from; where only the payload's DLLs are missing, the error names who wants them."""
    plain = Wanted(bitlocker=settings.bitlocker, index=settings.base.index, architectures=(architecture,))
    dlls = tuple(need.library for need in needs if need.library not in RESOLVED_API_SETS)
    wanted = Wanted(bitlocker=plain.bitlocker, dlls=dlls, index=plain.index, architectures=plain.architectures)
    try:
        choice = choose_image(wim, wanted)
    except BaseMediaError:
        choice = choose_image(wim, plain)
        _gate(wim, choice, needs)
        raise
    _gate(wim, choice, needs)
    return choice


def _gate(wim: Wim, choice: Choice, needs: Collection[Need]) -> None:
    check_base(needs, wim.names(choice.index, _SYSTEM32), base=f"image {choice.index} of {wim.name}")


def _identity(wim: Wim) -> str:
    """A digest of the header, the tables and the size: they name every content of the WIM by its sha1."""
    header = wim.header
    digest = hashlib.sha256(wim.source.read(0, HEADER_SIZE))
    for resource in (header.lookup_table, header.xml):
        digest.update(wim.source.read(resource.offset, resource.stored))
    digest.update(str(wim.source.size).encode())
    return digest.hexdigest()


def _media_digests(media: WindowsBase) -> dict[str, str]:
    images = {
        "BIOS boot image": media.bios_image,
        "UEFI boot image": media.uefi_image,
        "UEFI boot image without prompt": media.uefi_image_noprompt,
    }
    return {
        **{file.path: file.content.sha256() for file in media.files},
        **_digests({name: content for name, content in images.items() if content is not None}),
    }


def _driver_files(folders: Collection[Path]) -> dict[str, Path]:
    """Path inside the image to the file: each folder is numbered, so that two of one name do not meet."""
    return {
        f"{DRIVERS_FOLDER}/{number}-{folder.resolve().name}/{path.relative_to(folder).as_posix()}": path
        for number, folder in enumerate(folders, 1)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


assert set(ARCHITECTURES.values()) <= set(LOADERS)
