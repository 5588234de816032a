"""Runs a plan for the winpe environment: base media, the frozen payload, boot.wim, boot menus, ISOs.

Everything that can be refused is refused before the first large file is written. An ISO of the cache's that lies in the
output folder is checked against what it must be, and not written again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import RELEASE_EPOCH, __version__, resources
from builder.base_check import check_base_once
from builder.build_forms import make_forms, read_facts, write_facts
from builder.build_steps import Steps, read_record, write_record
from builder.cache import Cache, Entry, Missed, sha256_of, storage_errors
from builder.console import Console, size_text
from builder.import_gate import EXECUTABLE, Need
from builder.outputs import (
    MANIFEST,
    SUMS,
    BuildOptions,
    Built,
    Forecast,
    StepForecast,
    digests,
    prepare_output,
    put_in_place,
    staged_in,
)
from builder.pe import Machine, PeError, read_pe
from builder.plan import Facts, PlannedStep, epoch_from
from builder.plan_winpe import MANIFEST as MANIFEST_STEP
from builder.plan_winpe import PAYLOAD, STORES, WinpeFacts, boot_cas, image_name, iso_step, make_winpe_plan
from builder.profile import Profile
from builder.report import DiskFile, WinpeFiles, WinpeImage, sha256sums, winpe_manifest
from builder.secure_boot import SecureBootFiles
from builder.windows_payload import FreezeOptions, backend_for, content_id, recipe, windows_payload
from builder.winpe_base import ARCHITECTURES, ChosenBase, choose, open_media_of
from builder.winpe_iso import IsoFacts, IsoParts, put_stores, write_winpe_iso
from builder.winpe_wim import BootWim

#: Base media, payload, image, boot menus, payload compressed, boot.wim, one ISO of two at most, manifest, output.
_STEPS = 9
_ISO_FACTS = "iso.json"


def build_winpe(profile: Profile, options: BuildOptions, console: Console) -> Built:
    """Build the image (or, with boot_ca: both, the two images) of `profile`. See `builder.build.build`."""
    started = time.monotonic()
    cache = Cache(options.cache)
    console.expect(_STEPS + len(boot_cas(profile)) - 1 + bool(profile.disk_forms))
    freezing = _freezing(profile, options)
    with console.step("base media") as step:
        media, wim = open_media_of(profile.winpe, machine=freezing.machine)
        step.note(f"{media.kind.value}, {wim.header.image_count} images, {size_text(wim.source.size)}")
    prepare_output(options.output)
    with storage_errors(options.cache), cache.locked(console.notice):
        payload = windows_payload(freezing, cache=cache, console=console, epoch=_epoch(), offline=options.offline)
        with console.step("image and boot files") as step:
            base = choose(profile, media, wim, payload.needs, machine=freezing.machine)
            for note in base.notes:
                step.note(note)
        plan = make_winpe_plan(profile, _facts(freezing, cache, base))
        steps = Steps(plan=plan, cache=cache, console=console)
        boot_wim = BootWim(profile=profile, base=base, payload=payload, steps=steps)
        work = _Work(profile=profile, base=base, boot_wim=boot_wim, steps=steps)
        with storage_errors(options.output), staged_in(options.output) as staged:
            images = tuple(work.image(ca, files, options.output, staged) for ca, files in _by_ca(base))
            forms = work.disk_forms(images, options.output, staged)
            manifest = work.manifest_entry(images, forms)
            files = {image.file: image.sha256 for image in images} | {form.file: form.sha256 for form in forms}
            _publish(options.output, staged, files, manifest, console)
    first = images[0]
    return Built(
        image=options.output / first.file,
        size=first.size,
        sha256=first.sha256,
        image_id=plan.image_id or "",
        made=tuple([PAYLOAD] if payload.made else []) + tuple(steps.made),
        seconds=time.monotonic() - started,
        others=tuple(options.output / name for name in files if name != first.file),
    )


def forecast_winpe(profile: Profile, options: BuildOptions, cache: Cache) -> Forecast:
    """See `builder.build.forecast`."""
    freezing = _freezing(profile, options)
    media, wim = open_media_of(profile.winpe, machine=freezing.machine)
    needs = _known_needs(freezing, cache)
    notes: tuple[str, ...] = ()
    if needs is None:
        notes = ("The payload is not frozen yet: what it needs of the base may still lead to another image.",)
    base = choose(profile, media, wim, needs or (), machine=freezing.machine)
    plan = make_winpe_plan(profile, _facts(freezing, cache, base if needs is not None else None))
    steps = tuple(_forecast(step, cache) for step in plan.steps)
    return Forecast(plan=plan, steps=steps, notes=(*base.notes, *notes))


@dataclass(kw_only=True)
class _Work:
    """The images of one build and what stands beside them; boot.wim and the boot menus are made only if an ISO is."""

    profile: Profile
    base: ChosenBase
    boot_wim: BootWim
    steps: Steps

    def image(self, ca: str, files: SecureBootFiles, output: Path, staged: Path) -> WinpeImage:
        """The ISO with the boot files of `ca`: the one in the output folder, or written now into `staged`."""
        step, name = self.steps.plan.step(iso_step(ca)), image_name(self.profile, ca)
        entry = self.steps.find(step.name)
        if isinstance(entry, Entry):
            facts = read_record(entry, _ISO_FACTS, IsoFacts)
            if sha256_of(output / name) == facts.sha256:
                self.steps.console.skipped(step.title, "already there, checked")
                return facts.image(name, ca)
        parts = self._iso_parts()
        reason = entry.reason if isinstance(entry, Missed) else f"{name} is not in the output folder, or another"
        with self.steps.console.step(step.title) as shown:
            shown.note(reason)
            # Also where boot.wim's new parts are in the cache: most of it comes from the base, as that lies there now.
            check_base_once(
                self.base.wim, self.base.choice.index, identity=self.base.facts.wim, cache=self.steps.cache, step=shown
            )
            facts = write_winpe_iso(parts, files, staged / name, step=shown)
        self.steps.made.append(step.name)
        if isinstance(entry, Missed):
            with self.steps.storing(step.name) as into:
                write_record(into, _ISO_FACTS, facts)
        return facts.image(name, ca)

    def disk_forms(self, images: tuple[WinpeImage, ...], output: Path, staged: Path) -> tuple[DiskFile, ...]:
        """The images in the forms that the profile asks for: those in the output folder, or written into `staged`."""
        if not self.profile.disk_forms:
            return ()
        step = self.steps.plan.step("disk-forms")
        entry = self.steps.find(step.name)
        if isinstance(entry, Entry):
            forms = read_facts(entry)
            if all(sha256_of(output / form.file) == form.sha256 for form in forms):
                self.steps.console.skipped(step.title, "already there, checked")
                return forms
        names = [image.file for image in images]
        paths = {name: (staged if (staged / name).exists() else output) / name for name in names}
        with self.steps.console.step(step.title) as shown:
            forms = make_forms(self.profile, paths, staged, epoch=self.steps.plan.epoch, step=shown)
        self.steps.made.append(step.name)
        if isinstance(entry, Missed):
            with self.steps.storing(step.name) as into:
                write_facts(into, forms)
        return forms

    def manifest_entry(self, images: tuple[WinpeImage, ...], forms: tuple[DiskFile, ...]) -> Entry:
        """The manifest, from what was read back of the finished images."""
        return self.steps.entry(MANIFEST_STEP, lambda into, _: self._put_manifest(into, images, forms))

    def _iso_parts(self) -> IsoParts:
        plan = self.steps.plan
        stores = self.steps.entry(STORES, lambda into, _: put_stores(self.profile, self.base, into, epoch=plan.epoch))
        self.boot_wim.make()
        return IsoParts(profile=self.profile, plan=plan, base=self.base, boot_wim=self.boot_wim, stores=stores)

    def _put_manifest(self, into: Path, images: tuple[WinpeImage, ...], forms: tuple[DiskFile, ...]) -> None:
        content = winpe_manifest(
            profile=self.profile,
            plan=self.steps.plan,
            files=WinpeFiles(base=self.base.summary, injected=self.boot_wim.injected(), images=images, forms=forms),
            tools=_tool_versions(),
            bluelift=__version__,
        )
        (into / MANIFEST).write_bytes(content)


def _freezing(profile: Profile, options: BuildOptions) -> FreezeOptions:
    given = profile.winpe.payload_exe
    return FreezeOptions(
        payload_exe=given,
        windows_python=options.windows_python,
        machine=_machine_of(given) if given is not None else Machine.AMD64,
    )


def _machine_of(folder: Path) -> Machine:
    """What a payload that was frozen before is for; x64 where it cannot be said, which the gate then does."""
    try:
        machine = read_pe((folder / EXECUTABLE).read_bytes()).machine
        return Machine(machine) if Machine(machine) in ARCHITECTURES else Machine.AMD64
    except (OSError, PeError, ValueError):
        return Machine.AMD64


def _known_needs(freezing: FreezeOptions, cache: Cache) -> tuple[Need, ...] | None:
    """What the payload needs of the base, as far as it was frozen before; None where it was not."""
    from builder import freeze  # noqa: PLC0415

    backend = backend_for(freezing, cache)
    ingredients = recipe(backend, epoch=_epoch())
    found = cache.find(step=PAYLOAD, content_id=content_id(ingredients), recipe=ingredients)
    return freeze.gate(freeze.load(found.folder), machine=backend.machine) if isinstance(found, Entry) else None


def _facts(freezing: FreezeOptions, cache: Cache, base: ChosenBase | None) -> WinpeFacts:
    common = Facts(
        bluelift=__version__,
        epoch=_epoch(),
        packages=(),
        payload={},
        templates=digests(resources.templates(), "*.j2"),
        sources=digests(resources.builder_source(), "*.py"),
        tools=_tool_versions(),
    )
    payload = recipe(backend_for(freezing, cache), epoch=_epoch())
    return WinpeFacts(common=common, payload=payload, base=base.facts if base else None)


def _epoch() -> int:
    return epoch_from(os.environ.get("SOURCE_DATE_EPOCH"), RELEASE_EPOCH)


def _tool_versions() -> Mapping[str, str]:
    from importlib.metadata import version  # noqa: PLC0415

    from builder.wim_library import version as libwim_version  # noqa: PLC0415

    return {
        "python": platform.python_version(),
        "pycdlib": version("pycdlib"),
        "jinja2": version("jinja2"),
        "libwim": libwim_version(),
    }


def _forecast(step: PlannedStep, cache: Cache) -> StepForecast:
    if step.id is None:
        return StepForecast(step=step, cached=False, reason="its id is known once the payload is frozen")
    entry = cache.find(step=step.name, content_id=step.id, recipe=step.recipe)
    if isinstance(entry, Missed):
        return StepForecast(step=step, cached=False, reason=entry.reason)
    made_before = step.name.startswith("iso-")
    return StepForecast(
        step=step, cached=True, reason="made before; build checks it" if made_before else "in the cache"
    )


def _by_ca(base: ChosenBase) -> Iterator[tuple[str, SecureBootFiles]]:
    return ((files.ca.value, files) for files in base.boot_files)


def _publish(folder: Path, staged: Path, files: Mapping[str, str], manifest: Entry, console: Console) -> None:
    """Rename those of `files` (names to sha256) that were written beside, the manifest and the sums into the folder."""
    content = manifest.path(MANIFEST).read_bytes()
    sums = sha256sums({**files, MANIFEST: hashlib.sha256(content).hexdigest()})
    fresh = [name for name in files if (staged / name).exists()]
    for name, data in ((MANIFEST, content), (SUMS, sums)):
        if fresh or sha256_of(folder / name) != hashlib.sha256(data).hexdigest():
            (staged / name).write_bytes(data)
            fresh.append(name)
    if not fresh:
        console.skipped(f"output to {folder}", "already there, checked")
        return
    with console.step(f"output to {folder}"):
        put_in_place(staged, folder, fresh)
