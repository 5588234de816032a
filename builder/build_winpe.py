"""Runs a plan for the winpe environment: base media, the frozen payload, boot.wim in one pass, boot menus, ISOs.

Everything that can be refused is refused before the first large file is written. The contents of the base's boot.wim
go from the base media straight into the ISO. So the cache keeps what is new of boot.wim, and of an ISO what it must be:
the one in the output folder is checked against that.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from builder import RELEASE_EPOCH, __version__, resources
from builder.base_check import check_base_once
from builder.bcd import BcdFirmware, edit_store, new_store
from builder.build_forms import make_forms, read_facts, write_facts
from builder.cache import Cache, Entry, Missed, storage_errors
from builder.console import Console, Step, size_text
from builder.errors import ImageError
from builder.extents import Extents, Joined
from builder.import_gate import EXECUTABLE, Need
from builder.outputs import (
    MANIFEST,
    SUMS,
    BuildOptions,
    Built,
    Forecast,
    StepForecast,
    digests,
    identity,
    prepare_output,
    put_in_place,
    sha256_of,
    staged_in,
)
from builder.pe import Machine, PeError, read_pe
from builder.plan import Facts, Plan, PlannedStep, epoch_from
from builder.plan_winpe import (
    BOOT_WIM,
    PACKED,
    PAYLOAD,
    STORES,
    WinpeFacts,
    boot_cas,
    image_name,
    iso_step,
    make_winpe_plan,
)
from builder.plan_winpe import MANIFEST as MANIFEST_STEP
from builder.profile import Profile
from builder.report import DiskFile, ListedFile, WinpeFiles, WinpeImage, json_bytes, sha256sums, winpe_manifest
from builder.secure_boot import SecureBootFiles
from builder.windows_payload import FreezeOptions, WindowsPayload, backend_for, content_id, recipe, windows_payload
from builder.winpe_base import ARCHITECTURES, ChosenBase, choose, open_media_of
from payload.contract import MEDIUM_FOLDER
from payload.formats.records import RecordError, from_json, to_json

if TYPE_CHECKING:
    from builder.wim_build import Put

#: Base media, payload, image, boot menus, payload compressed, boot.wim, one ISO of two at most, manifest, output.
_STEPS = 9
_PACKED_WIM = "packed.wim"
_WIM_NEW, _WIM_FACTS, _ISO_FACTS = "boot.wim.new", "boot.wim.json", "iso.json"
_BACKGROUND = "Windows/System32/winpe.jpg"
#: What an earlier Bluelift put there is not to stay.
_DELETIONS = (MEDIUM_FOLDER,)
_Facts = TypeVar("_Facts")


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
        work = _Work(profile=profile, plan=plan, base=base, payload=payload, cache=cache, console=console)
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
        made=tuple([PAYLOAD] if payload.made else []) + tuple(work.made),
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


@dataclass(frozen=True, kw_only=True)
class _IsoFacts:
    """What an ISO must be: kept in the cache in the place of the ISO."""

    size: int
    sha256: str
    media: tuple[ListedFile, ...]
    free: int = 0


@dataclass(frozen=True, kw_only=True)
class _WimFacts:
    """What the cache keeps of boot.wim beside its new parts: the runs of the base that stay, and what was put in."""

    kept: tuple[tuple[int, int], ...]
    injected: tuple[ListedFile, ...]


@dataclass(kw_only=True)
class _Work:
    """The steps of one build, in their order; boot.wim and the boot menus are made only if an ISO is."""

    profile: Profile
    plan: Plan
    base: ChosenBase
    payload: WindowsPayload
    cache: Cache
    console: Console
    made: list[str] = field(default_factory=list)
    _needed: dict[str, Entry] = field(default_factory=dict)

    def image(self, ca: str, files: SecureBootFiles, output: Path, staged: Path) -> WinpeImage:
        """The ISO with the boot files of `ca`: the one in the output folder, or written now into `staged`."""
        step, name = self.plan.step(iso_step(ca)), image_name(self.profile, ca)
        entry = self._find(step.name)
        if isinstance(entry, Entry):
            facts = _read_facts(entry, _ISO_FACTS, _IsoFacts)
            if sha256_of(output / name) == facts.sha256:
                self.console.skipped(step.title, "already there, checked")
                return _image_of(name, ca, facts)
        stores = self._entry(STORES, self._put_stores)
        boot_wim = self._wim()
        reason = entry.reason if isinstance(entry, Missed) else f"{name} is not in the output folder, or another"
        with self.console.step(step.title) as shown:
            shown.note(reason)
            # Also where boot.wim's new parts are in the cache: most of it comes from the base, as that lies there now.
            check_base_once(
                self.base.wim, self.base.choice.index, identity=self.base.facts.wim, cache=self.cache, step=shown
            )
            facts = self._write_iso(files, boot_wim, stores, staged / name, shown)
        self.made.append(step.name)
        if isinstance(entry, Missed):
            with self._storing(step) as into:
                (into / _ISO_FACTS).write_bytes(json_bytes(to_json(facts)))
        return _image_of(name, ca, facts)

    def disk_forms(self, images: tuple[WinpeImage, ...], output: Path, staged: Path) -> tuple[DiskFile, ...]:
        """The images in the forms that the profile asks for: those in the output folder, or written into `staged`."""
        if not self.profile.disk_forms:
            return ()
        step = self.plan.step("disk-forms")
        entry = self._find(step.name)
        if isinstance(entry, Entry):
            forms = read_facts(entry)
            if all(sha256_of(output / form.file) == form.sha256 for form in forms):
                self.console.skipped(step.title, "already there, checked")
                return forms
        names = [image.file for image in images]
        paths = {name: (staged if (staged / name).exists() else output) / name for name in names}
        with self.console.step(step.title) as shown:
            forms = make_forms(self.profile, paths, staged, epoch=self.plan.epoch, step=shown)
        self.made.append(step.name)
        if isinstance(entry, Missed):
            with self._storing(step) as into:
                write_facts(into, forms)
        return forms

    def manifest_entry(self, images: tuple[WinpeImage, ...], forms: tuple[DiskFile, ...]) -> Entry:
        """The manifest, from what was read back of the finished images."""
        return self._entry(MANIFEST_STEP, lambda into, _: self._put_manifest(into, images, forms))

    def _write_iso(self, files: SecureBootFiles, wim: Entry, stores: Entry, target: Path, step: Step) -> _IsoFacts:
        from builder.media.iso import DiskBoot, IsoForm, write_iso  # noqa: PLC0415
        from builder.media.layout import hybrid_disk  # noqa: PLC0415
        from builder.media.windows_layout import WindowsMedium, windows_iso_layout  # noqa: PLC0415
        from builder.safe_mode_script import safe_mode_files  # noqa: PLC0415

        media, settings = self.base.media, self.profile.winpe
        contents: dict[str, bytes | Path] = {file.path: file.content.read_all() for file in media.files}
        contents |= files.files
        medium = WindowsMedium(
            image_id=self.plan.image_id or "",
            image_json=identity(self.profile, self.plan.image_id or ""),
            files=contents,
            boot_wim=self._boot_wim(wim),
            check_boot_wim=lambda written: self._check_wim(wim, written),
            bcd_bios=_store(stores, BcdFirmware.BIOS),
            bcd_uefi=_store(stores, BcdFirmware.UEFI),
            bios_image=media.bios_image,
            uefi_image=media.uefi_image,
            uefi_image_noprompt=media.uefi_image_noprompt,
            uefi_image_path=files.uefi_image,
            prompt=self.base.facts.prompt,
            form=IsoForm(settings.layout),
            volume_id=self.profile.volume_id,
            extra={
                **safe_mode_files(self.profile.payload_config(image_id=self.plan.image_id or "", bluelift=__version__)),
                **({self.profile.vault.target: self.profile.vault.path} if self.profile.vault else {}),
            },
        )
        layout = windows_iso_layout(medium, epoch=self.plan.epoch)
        if self.profile.tail is not None:
            disk = hybrid_disk(medium.image_id, volume_id=medium.volume_id, tail=self.profile.tail)
            bios = DiskBoot.BOOTMGR if layout.bios_image is not None else DiskBoot.UEFI_ONLY
            layout = replace(layout, hybrid=replace(disk, bios=bios))
        sizes = {file.path: _size(file.source) for file in layout.files}
        written = write_iso(layout, target, step=step)
        step.note(written.words)
        listed = tuple(
            ListedFile(path=path, size=sizes.get(path, 0), sha256=digest) for path, digest in written.files.items()
        )
        return _IsoFacts(size=written.size, sha256=written.sha256, media=listed, free=written.free)

    def _wim(self) -> Entry:
        """What the cache keeps of boot.wim: it is put together when it is written."""
        if BOOT_WIM not in self._needed and isinstance(self._find(BOOT_WIM), Missed):
            self._entry(PACKED, self._put_packed)
        return self._entry(BOOT_WIM, self._put_wim)

    def _large_puts(self) -> list[Put]:
        """What goes into boot.wim and does not depend on the profile's text."""
        from builder.wim_build import Put  # noqa: PLC0415
        from builder.winpe_files import PAYLOAD_FOLDER  # noqa: PLC0415

        puts = [Put(target=f"{PAYLOAD_FOLDER}/{f.path}", source=f.content) for f in self.payload.payload.files]
        puts += [Put(target=inside, source=path) for inside, path in self.base.drivers.items()]
        if self.base.background is not None:
            puts.append(Put(target=_BACKGROUND, source=self.base.background))
        return puts

    def _put_packed(self, into: Path, step: Step) -> None:
        from builder.wim_build import pack  # noqa: PLC0415

        pack(
            self._large_puts(),
            into / _PACKED_WIM,
            compression=self.base.wim.header.compression,
            epoch=self.plan.epoch,
            progress=lambda done, total: step.progress(done, total, "bytes"),
        )

    def _put_wim(self, into: Path, step: Step) -> None:
        from builder.wim_build import WimChanges, WimOrder, change_wim  # noqa: PLC0415
        from builder.winpe_files import winpe_files  # noqa: PLC0415

        config = self.profile.payload_config(image_id=self.plan.image_id or "", bluelift=__version__)
        puts = [*self._large_puts(), *winpe_files(config, keyboard=self.profile.winpe.keyboard)]
        order = WimOrder(
            source=self.base.media.boot_wim,
            index=self.base.choice.index,
            changes=WimChanges(puts=tuple(puts), deletions=_DELETIONS, renames=self.base.choice.renames),
            epoch=self.plan.epoch,
            guid=hashlib.sha256((self.plan.step(BOOT_WIM).id or "").encode()).digest()[:16],
            packed=self._entry(PACKED, self._put_packed).path(_PACKED_WIM),
        )
        changed = change_wim(order, into / _WIM_NEW, progress=lambda done, total: step.progress(done, total, "bytes"))
        sizes = {put.target: _size(put.source) for put in puts}
        injected = tuple(ListedFile(path=path, size=sizes[path], sha256=digest) for path, digest in changed.injected)
        facts = _WimFacts(kept=changed.spliced.kept, injected=injected)
        (into / _WIM_FACTS).write_bytes(json_bytes(to_json(facts)))
        kept = sum(length for _, length in facts.kept)
        step.note(f"{size_text(kept)} of the base stay as they are; {len(injected)} files put in")

    def _boot_wim(self, wim: Entry) -> Joined:
        """boot.wim, as it is to be put together."""
        from builder.wim_splice import SplicedWim  # noqa: PLC0415

        spliced = SplicedWim(new=wim.path(_WIM_NEW), kept=_read_facts(wim, _WIM_FACTS, _WimFacts).kept)
        return spliced.joined(self.base.media.boot_wim, name="boot.wim")

    def _check_wim(self, wim: Entry, written: Extents) -> None:
        """Read boot.wim back, in the ISO."""
        from builder.wim_build import read_back  # noqa: PLC0415

        injected = _read_facts(wim, _WIM_FACTS, _WimFacts).injected
        read_back(written, [(file.path, file.sha256) for file in injected], _DELETIONS)

    def _put_stores(self, into: Path, _: Step) -> None:
        for firmware in BcdFirmware:
            file = self.base.media.file(firmware.value)
            settings = self.profile.winpe.bcd
            store = (
                edit_store(file.content.read_all(), settings, firmware)
                if file is not None
                else new_store(firmware, settings, epoch=self.plan.epoch)
            )
            (into / f"bcd-{firmware.name.lower()}").write_bytes(store)

    def _put_manifest(self, into: Path, images: tuple[WinpeImage, ...], forms: tuple[DiskFile, ...]) -> None:
        injected = _read_facts(self._wim(), _WIM_FACTS, _WimFacts).injected
        content = winpe_manifest(
            profile=self.profile,
            plan=self.plan,
            files=WinpeFiles(base=self.base.summary, injected=injected, images=images, forms=forms),
            tools=_tool_versions(),
            bluelift=__version__,
        )
        (into / MANIFEST).write_bytes(content)

    def _entry(self, name: str, make: Callable[[Path, Step], None]) -> Entry:
        """What the step `name` made: looked for, or made, once in a build."""
        if name not in self._needed:
            self._needed[name] = self._made_or_found(self.plan.step(name), make)
        return self._needed[name]

    def _made_or_found(self, planned: PlannedStep, make: Callable[[Path, Step], None]) -> Entry:
        found = self._find(planned.name)
        if isinstance(found, Entry):
            self.console.skipped(planned.title, "in the cache")
            return found
        with self.console.step(planned.title) as step:
            step.note(found.reason)
            with self._storing(planned) as into:
                make(into, step)
        self.made.append(planned.name)
        return self.cache.just_stored(planned.id or "")

    def _find(self, name: str) -> Entry | Missed:
        step = self.plan.step(name)
        assert step.id is not None, "the base is known by now"
        return self.cache.find(step=name, content_id=step.id, recipe=step.recipe)

    def _storing(self, step: PlannedStep) -> AbstractContextManager[Path]:
        return self.cache.storing(step=step.name, content_id=step.id or "", recipe=step.recipe)


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


def _size(source: bytes | Path | Joined) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.size if isinstance(source, Joined) else source.stat().st_size


def _store(stores: Entry, firmware: BcdFirmware) -> bytes:
    return stores.path(f"bcd-{firmware.name.lower()}").read_bytes()


def _image_of(name: str, ca: str, facts: _IsoFacts) -> WinpeImage:
    return WinpeImage(file=name, size=facts.size, sha256=facts.sha256, boot_ca=ca, media=facts.media, free=facts.free)


def _read_facts(entry: Entry, name: str, kind: type[_Facts]) -> _Facts:
    try:
        return from_json(kind, json.loads(entry.path(name).read_bytes()))
    except (ValueError, RecordError) as error:
        raise ImageError(f"the cache's {name} cannot be read: {error}", hint="bluelift clean") from error


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
