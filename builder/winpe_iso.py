"""The ISO of a WinPE image: the base's files, the boot files of one certificate, the boot menus, and boot.wim.

An ISO is as large as its base. So the cache keeps only what one must be, and the ISO itself stays in the output folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from builder import __version__
from builder.bcd import BcdFirmware, edit_store, new_store
from builder.cache import Entry
from builder.console import Step
from builder.outputs import identity
from builder.plan import Plan
from builder.profile import Profile
from builder.report import ListedFile, WinpeImage
from builder.secure_boot import SecureBootFiles
from builder.winpe_base import ChosenBase
from builder.winpe_wim import BootWim, size_of


@dataclass(frozen=True, kw_only=True)
class IsoFacts:
    """What an ISO must be: kept in the cache in the place of the ISO. `free`: bytes free on the disk that it is."""

    size: int
    sha256: str
    media: tuple[ListedFile, ...]
    free: int = 0

    def image(self, name: str, ca: str) -> WinpeImage:
        """The ISO as the manifest has it."""
        return WinpeImage(file=name, size=self.size, sha256=self.sha256, boot_ca=ca, media=self.media, free=self.free)


@dataclass(frozen=True, kw_only=True)
class IsoParts:
    """What the ISOs of one build have in common. `stores`: what `put_stores` made."""

    profile: Profile
    plan: Plan
    base: ChosenBase
    boot_wim: BootWim
    stores: Entry


def put_stores(profile: Profile, base: ChosenBase, into: Path, *, epoch: int) -> None:
    """Write the boot menus into an entry of the cache: those of the base, edited, or new ones where it has none."""
    for firmware in BcdFirmware:
        file = base.media.file(firmware.value)
        settings = profile.winpe.bcd
        store = (
            edit_store(file.content.read_all(), settings, firmware)
            if file is not None
            else new_store(firmware, settings, epoch=epoch)
        )
        (into / _store_name(firmware)).write_bytes(store)


def write_winpe_iso(parts: IsoParts, files: SecureBootFiles, target: Path, *, step: Step) -> IsoFacts:
    """Write the ISO with these boot files to `target`, and read boot.wim back in it. Raises BuilderError."""
    from builder.media.iso import DiskBoot, IsoForm, write_iso  # noqa: PLC0415
    from builder.media.layout import hybrid_disk  # noqa: PLC0415
    from builder.media.windows_layout import WindowsMedium, windows_iso_layout  # noqa: PLC0415
    from builder.safe_mode_script import safe_mode_files  # noqa: PLC0415

    profile, media, image_id = parts.profile, parts.base.media, parts.plan.image_id or ""
    contents: dict[str, bytes | Path] = {file.path: file.content.read_all() for file in media.files}
    contents |= files.files
    medium = WindowsMedium(
        image_id=image_id,
        image_json=identity(profile, image_id),
        files=contents,
        boot_wim=parts.boot_wim.joined(),
        check_boot_wim=parts.boot_wim.read_back,
        bcd_bios=parts.stores.path(_store_name(BcdFirmware.BIOS)).read_bytes(),
        bcd_uefi=parts.stores.path(_store_name(BcdFirmware.UEFI)).read_bytes(),
        bios_image=media.bios_image,
        uefi_image=media.uefi_image,
        uefi_image_noprompt=media.uefi_image_noprompt,
        uefi_image_path=files.uefi_image,
        prompt=parts.base.facts.prompt,
        form=IsoForm(profile.winpe.layout),
        volume_id=profile.volume_id,
        extra={
            **safe_mode_files(profile.payload_config(image_id=image_id, bluelift=__version__)),
            **({profile.vault.target: profile.vault.path} if profile.vault else {}),
        },
    )
    layout = windows_iso_layout(medium, epoch=parts.plan.epoch)
    if profile.tail is not None:
        disk = hybrid_disk(image_id, volume_id=medium.volume_id, tail=profile.tail)
        bios = DiskBoot.BOOTMGR if layout.bios_image is not None else DiskBoot.UEFI_ONLY
        layout = replace(layout, hybrid=replace(disk, bios=bios))
    sizes = {file.path: size_of(file.source) for file in layout.files}
    written = write_iso(layout, target, step=step)
    step.note(written.words)
    listed = tuple(
        ListedFile(path=path, size=sizes.get(path, 0), sha256=digest) for path, digest in written.files.items()
    )
    return IsoFacts(size=written.size, sha256=written.sha256, media=listed, free=written.free)


def _store_name(firmware: BcdFirmware) -> str:
    return f"bcd-{firmware.name.lower()}"
