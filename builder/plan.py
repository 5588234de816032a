"""Profile and facts -> a Plan of Steps with content ids. Pure: nothing is read, nothing written.

A step's id is the sha256 of the canonical JSON of its name and recipe: its options, the ids of the steps it takes its
input from, the epoch, and the hash of the builder's modules that do the work. So two plans with the same ids make the
same bytes, and a plan can be shown without building anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from builder.errors import UsageError
from builder.profile import Profile
from payload.formats.records import to_json

#: FAT and ISO 9660 have no earlier and no later years.
_EARLIEST, _LATEST = 315_532_800, 4_102_444_799

_BASE = ("base/*.py", "debian_root.py")
_INITRAMFS = ("initramfs.py", "cpio.py", "drivers.py", "elf.py", "kernel_modules.py", "debian_root.py",
              "python_bytecode.py")  # fmt: skip
#: The builder's modules that each step's bytes depend on, as patterns below builder/. A test compares this with what
#: the modules import.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "boot-files": ("build_linux.py", *_BASE),
    "bios-boot-image": ("build_linux.py", *_BASE),
    "base-initramfs": ("build_linux.py", *_INITRAMFS),
    "keymap": ("build_linux.py", "keyboards.py", *_BASE),
    "payload-segment": ("build_linux.py", "render.py", "resources.py", *_INITRAMFS),
    "iso": ("build_linux.py", "media/*.py", "extents.py", "render.py", "resources.py", "safe_mode_script.py",
            "startnet_lint.py"),
    "disk-forms": ("build_forms.py", "disk_forms/*.py", "media/gpt*.py"),
    "manifest": ("build_linux.py", "report.py", "verify/inspect.py", "verify/inspect_disk.py"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PackagePin:
    """One package that goes in: name, version, architecture, sha256 of the .deb."""

    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan depends on beside the profile. The mappings go from a path to the sha256 of its content.

    `packages` is None while nobody has asked the mirror yet. `tools` maps names to versions.
    """

    bluelift: str
    epoch: int
    packages: tuple[PackagePin, ...] | None
    payload: Mapping[str, str]
    templates: Mapping[str, str]
    sources: Mapping[str, str]
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step. `recipe` is everything its bytes depend on; `id` is None while an input is not known yet."""

    name: str
    title: str
    recipe: Mapping[str, str]
    id: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps in their order. `image_id` names what the image is made of; None while packages are not known."""

    steps: tuple[PlannedStep, ...]
    image_id: str | None
    epoch: int

    def step(self, name: str) -> PlannedStep:
        """The step called `name`."""
        return next(step for step in self.steps if step.name == name)


def epoch_from(value: str | None, default: int) -> int:
    """The one time stamp of a build: SOURCE_DATE_EPOCH's value if it is set, else `default`. Raises UsageError."""
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or not _EARLIEST <= int(value) <= _LATEST:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {value!r}",
            hint="It is a number of seconds since 1970, in the years 1980 to 2099: what FAT and ISO 9660 can say.",
        )
    return int(value)


def make_plan(profile: Profile, facts: Facts) -> Plan:
    """What `build` would do for this profile, given these facts."""
    maker = Maker(facts=facts)
    packages = maker.step("packages", "packages", {}, known=facts.packages is not None, extra=_packages(facts))
    from_packages = {"packages": packages}
    boot_files = maker.step("boot-files", "signed shim, GRUB and kernel", from_packages)
    bios = maker.step("bios-boot-image", "boot image for BIOS", from_packages)
    initramfs = maker.step("base-initramfs", "initramfs from packages", from_packages)
    keymap = {"keymap": _keymap(maker, profile, from_packages)} if profile.keyboard else {}
    made_of = {"boot-files": boot_files, "bios-boot-image": bios, "base-initramfs": initramfs, **keymap}
    image_id = maker.identity("image", made_of, {**_content(profile, facts), "source": _all_sources(facts)})
    payload = maker.step(
        "payload-segment", "payload and configuration", {"base-initramfs": initramfs, **keymap},
        extra={**_content(profile, facts), "image": image_id or ""}, known=image_id is not None,
    )  # fmt: skip
    iso = maker.step(
        "iso", "ISO image", {**made_of, "payload-segment": payload},
        extra={"image": image_id or "", "tail": str(profile.tail), "pycdlib": facts.tools.get("pycdlib", ""),
               "vault": profile.vault.sha256 if profile.vault else ""},
    )  # fmt: skip
    maker.step(
        "manifest", "manifest", {"iso": iso, **disk_forms(maker, profile, {"iso": iso})},
        extra={"profile": profile.sha256, "name": profile.output, "tools": digest(dict(facts.tools))},
    )  # fmt: skip
    return Plan(steps=tuple(maker.steps), image_id=image_id, epoch=facts.epoch)


def disk_forms(maker: Maker, profile: Profile, isos: Mapping[str, str | None]) -> dict[str, str | None]:
    """Add the step that writes these images again as disks, where the profile asks for one: its name and id."""
    if not profile.disk_forms:
        return {}
    name, forms = "disk-forms", ", ".join(profile.disk_forms)
    return {name: maker.step(name, f"for hypervisors: {forms}", isos, extra={"forms": forms, "name": profile.output})}


def _keymap(maker: Maker, profile: Profile, from_packages: Mapping[str, str | None]) -> str | None:
    return maker.step("keymap", "keyboard layout", from_packages, extra={"keyboard": profile.keyboard})


def digest(value: object) -> str:
    """The sha256 of `value` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class Maker:
    """Makes steps one after the other, for plans of every environment."""

    facts: Facts
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: SOURCES)
    steps: list[PlannedStep] = field(default_factory=list)

    def step(
        self,
        name: str,
        title: str,
        inputs: Mapping[str, str | None],
        *,
        extra: Mapping[str, str] | None = None,
        known: bool = True,
    ) -> str | None:
        """Add a step with these inputs (names to ids); its id, None while an input is not `known`."""
        recipe = {
            "epoch": str(self.facts.epoch),
            **{key: value or "" for key, value in inputs.items()},
            **(extra or {}),
        }
        if name in self.sources:
            recipe["builder"] = digest(matching(self.facts.sources, self.sources[name]))
        known = known and all(inputs.values())
        content_id = digest({"step": name, **recipe}) if known else None
        self.steps.append(PlannedStep(name=name, title=title, recipe=recipe, id=content_id))
        return content_id

    def identity(self, name: str, inputs: Mapping[str, str | None], extra: Mapping[str, str]) -> str | None:
        """An id of 32 digits for what is made of these inputs; None while one is not known."""
        if not all(inputs.values()):
            return None
        return digest({"step": name, "epoch": str(self.facts.epoch), **inputs, **extra})[:32]


def _packages(facts: Facts) -> dict[str, str]:
    # One key a package, so that the cache can name the one that changed.
    return {f"{pin.name}:{pin.architecture}": f"{pin.version} {pin.sha256}" for pin in facts.packages or ()}


def _content(profile: Profile, facts: Facts) -> dict[str, str]:
    config = profile.payload_config(image_id="", bluelift=facts.bluelift)
    return {
        "configuration": digest(to_json(config)),
        "name": profile.name,
        "volume": profile.volume_id,
        "tail": str(profile.tail),
        "payload": digest(dict(facts.payload)),
        "templates": digest(dict(facts.templates)),
    }


def _all_sources(facts: Facts) -> str:
    patterns = {pattern for name, some in SOURCES.items() if name not in ("disk-forms", "manifest") for pattern in some}
    return digest(matching(facts.sources, patterns))


def matching(sources: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """Those of `sources` whose path one of the `patterns` matches."""
    some = tuple(patterns)
    return {path: value for path, value in sorted(sources.items()) if any(fnmatchcase(path, p) for p in some)}
