"""Profile and facts -> a Plan for the winpe environment. Pure, as `builder.plan` is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.plan import SOURCES as LINUX_SOURCES
from builder.plan import Facts, Maker, Plan, PlannedStep, digest, disk_forms, matching
from builder.profile import Profile
from payload.formats.records import to_json

PAYLOAD, PACKED, BOOT_WIM, STORES = "windows-payload", "packed-payload", "boot-wim", "boot-stores"
MANIFEST = "manifest-winpe"
#: The builder's modules that each step's bytes depend on, as patterns below builder/; of PAYLOAD its own recipe says.
SOURCES: Mapping[str, tuple[str, ...]] = {
    PACKED: ("build_winpe.py", "winpe_wim.py", "wim*.py", "extents.py"),
    BOOT_WIM: ("build_winpe.py", "winpe_wim.py", "winpe_base.py", "wim*.py", "winpe_files.py", "startnet_lint.py",
               "render.py", "resources.py", "extents.py"),
    STORES: ("build_winpe.py", "winpe_iso.py", "bcd.py"),
    "disk-forms": LINUX_SOURCES["disk-forms"],
    "iso": ("build_winpe.py", "winpe_iso.py", "winpe_wim.py", "media/*.py", "secure_boot.py", "extents.py",
            "safe_mode_script.py", "startnet_lint.py", "render.py", "resources.py"),
    MANIFEST: ("build_winpe.py", "winpe_wim.py", "report.py"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What a plan takes from base media that were looked at. Mappings go from a path to the sha256 of its content.

    `wim`: sha256 over boot.wim's header, tables and size, which name every content in it by sha1. `renames`: files of
    the image, as path and new path. `boot_files`: for each of the profile's `boot_ca`, what it puts over `media`.
    `prompt`: whether a key is asked for. `compression`: how the files of boot.wim are compressed.
    """

    wim: str
    index: int
    renames: tuple[tuple[str, str], ...]
    media: Mapping[str, str]
    boot_files: Mapping[str, Mapping[str, str]]
    drivers: Mapping[str, str]
    background: str
    architecture: str
    prompt: bool = False
    compression: str = "LZX"


@dataclass(frozen=True, kw_only=True)
class WinpeFacts:
    """What a plan depends on beside the profile. `payload`: the recipe that the frozen payload's id is made of.

    `base` is None while the payload was never frozen: which image will do depends on what it needs.
    """

    common: Facts
    payload: Mapping[str, str]
    base: BaseFacts | None


def iso_step(ca: str) -> str:
    """The name of the step that makes the ISO with the boot files of `ca`."""
    return f"iso-{ca}"


def boot_cas(profile: Profile) -> tuple[str, ...]:
    """2011, 2023, or both."""
    setting = profile.winpe.boot_ca
    return ("2011", "2023") if setting == "both" else (setting,)


def image_name(profile: Profile, ca: str) -> str:
    """The file name of an image: OUTPUT.iso, or with both: OUTPUT-2011.iso and OUTPUT-2023.iso."""
    return f"{profile.output}-{ca}.iso" if profile.winpe.boot_ca == "both" else f"{profile.output}.iso"


def make_winpe_plan(profile: Profile, facts: WinpeFacts) -> Plan:
    """What `build` would do for this profile, given these facts."""
    cas, settings, base = boot_cas(profile), profile.winpe, facts.base
    maker = Maker(facts=facts.common, sources={**SOURCES, **{iso_step(ca): SOURCES["iso"] for ca in cas}})
    # The recipe is that of builder.windows_payload, so that `bluelift freeze` fills the same entry of the cache.
    payload = digest({"step": PAYLOAD, **facts.payload})
    maker.steps.append(PlannedStep(name=PAYLOAD, title="payload for Windows", recipe=facts.payload, id=payload))
    in_wim, on_media = _in_wim(profile, facts), _on_media(profile, base)
    known = base is not None
    packed = maker.step(
        PACKED, "payload and drivers, compressed", {"payload": payload},
        extra={**_large(facts), "compression": base.compression if base else ""}, known=known,
    )  # fmt: skip
    image_id = maker.identity("image", {"payload": payload}, {**in_wim, **on_media, "source": _all_sources(facts)})
    image_id = image_id if known else None
    made_of = {"payload": payload, "packed": packed}
    wim = maker.step(BOOT_WIM, "boot.wim", made_of, extra={**in_wim, "image": image_id or ""}, known=known)
    stores = maker.step(
        STORES, "boot menus (BCD)", {},
        extra={"settings": digest(to_json(settings.bcd)),
               **({path: base.media.get(path, "") for path in ("boot/bcd", "efi/microsoft/boot/bcd")} if base else {})},
        known=known,
    )  # fmt: skip
    isos = {}
    for ca in cas:
        isos[ca] = maker.step(
            iso_step(ca), f"ISO image, boot files of {ca}", {"boot-wim": wim, "boot-stores": stores},
            extra={**on_media, "boot files": digest(dict(base.boot_files[ca])) if base else "", "image": image_id or "",
                   "pycdlib": facts.common.tools.get("pycdlib", "")},
        )  # fmt: skip
    made = {iso_step(ca): isos[ca] for ca in cas}
    maker.step(
        MANIFEST, "manifest", {**made, **disk_forms(maker, profile, made)},
        extra={"profile": profile.sha256, "name": profile.output, "tools": digest(dict(facts.common.tools))},
    )  # fmt: skip
    return Plan(steps=tuple(maker.steps), image_id=image_id, epoch=facts.common.epoch)


def _in_wim(profile: Profile, facts: WinpeFacts) -> dict[str, str]:
    """What boot.wim depends on beside the payload, in keys that the cache can name when one changed."""
    config = profile.payload_config(image_id="", bluelift=facts.common.bluelift)
    base = facts.base
    templates = {
        path: value for path, value in facts.common.templates.items() if path.startswith(("winpe/", "windows/"))
    }
    return {
        "configuration": digest(to_json(config)),
        "keyboard": profile.winpe.keyboard,
        "templates": digest(templates),
        "base boot.wim": base.wim if base else "",
        "image of it": str(base.index) if base else "",
        "renamed": digest(base.renames) if base else "",
        **_large(facts),
    }


def _large(facts: WinpeFacts) -> dict[str, str]:
    """What is put into boot.wim beside the payload, and does not change with the profile's text; and who packs it."""
    base = facts.base
    return {
        "drivers": digest(dict(base.drivers)) if base else "",
        "background": base.background if base else "",
        "libwim": facts.common.tools.get("libwim", ""),
    }


def _on_media(profile: Profile, base: BaseFacts | None) -> dict[str, str]:
    """What the medium depends on beside boot.wim and the boot menus."""
    return {
        "name": profile.name,
        "organisation": profile.organisation,
        "volume": profile.volume_id,
        "tail": str(profile.tail),
        "vault": profile.vault.sha256 if profile.vault else "",
        "prompt": str(base.prompt) if base else "",
        "layout": profile.winpe.layout,
        "base media": digest(dict(base.media)) if base else "",
    }


def _all_sources(facts: WinpeFacts) -> str:
    patterns = {pattern for name, some in SOURCES.items() if name not in ("disk-forms", MANIFEST) for pattern in some}
    return digest(matching(facts.common.sources, patterns))
