"""Runs a plan for the linux environment: packages, what is made of them, the image, and what stands beside it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from builder import RELEASE_EPOCH, __version__, resources
from builder.build_forms import make_forms, read_facts, write_facts
from builder.build_steps import Steps
from builder.cache import Cache, Entry, Missed, storage_errors
from builder.console import Console, Step, size_text
from builder.disk_forms import DiskForm, write_form
from builder.outputs import (
    MANIFEST,
    BuildOptions,
    Built,
    Forecast,
    StepForecast,
    digests,
    identity,
    prepare_output,
    publish,
)
from builder.packages import Resolution, pins, resolution, stored_resolution
from builder.plan import Facts, epoch_from, make_plan
from builder.profile import Profile
from builder.report import DiskFile, ImageFacts, ListedFile, json_bytes, manifest

#: The largest ISO that a release may have, without its free tail.
SIZE_LIMIT = 45_000_000
#: Packages, fetch, unpack, and the six cached steps of a plan after "packages", then the output.
_STEPS = 10


def build_linux(profile: Profile, options: BuildOptions, console: Console) -> Built:
    """Build the image of `profile`. What is in the cache is checked, not made again.

    Raises BuilderError; then the output folder is as it was before.
    """
    started = time.monotonic()
    prepare_output(options.output)
    cache = Cache(options.cache)
    console.expect(_STEPS + bool(profile.keyboard) + bool(profile.disk_forms))
    with storage_errors(options.cache), cache.locked(console.notice):
        found = _resolve(profile, options, cache, console)
        plan = make_plan(profile, gather_facts(found))
        steps = Steps(plan=plan, cache=cache, console=console)
        with _Work(profile=profile, found=found, offline=options.offline, steps=steps) as work:
            work.base_entries()
            work.payload_entry()
            iso = work.iso_entry()
            forms = work.disk_forms()
            manifest_entry = work.manifest_entry()
        name = f"{profile.output}.iso"
        publish(
            options.output,
            images={name: iso.file("image.iso").sha256, **{form.file: form.sha256 for form in forms}},
            manifest_file=manifest_entry.path(MANIFEST),
            manifest_sha256=manifest_entry.file(MANIFEST).sha256,
            put=work.put_image,
            console=console,
        )
    stored = iso.file("image.iso")
    return Built(
        image=options.output / name,
        size=stored.size,
        sha256=stored.sha256,
        image_id=plan.image_id or "",
        made=tuple(steps.made),
        seconds=time.monotonic() - started,
        others=tuple(options.output / form.file for form in forms),
    )


def forecast_linux(profile: Profile, cache: Cache) -> Forecast:
    """What `build` would do, from what the cache knows. Writes nothing and asks no mirror."""
    found = stored_resolution(profile.base, cache)
    plan = make_plan(profile, gather_facts(found))
    steps = [StepForecast(step=plan.step("packages"), cached=found is not None and found.fresh, reason=_asked(found))]
    for step in plan.steps[1:]:
        if step.id is None:
            steps.append(StepForecast(step=step, cached=False, reason="its id is known once the packages are"))
            continue
        entry = cache.find(step=step.name, content_id=step.id, recipe=step.recipe)
        reason = entry.reason if isinstance(entry, Missed) else "in the cache"
        steps.append(StepForecast(step=step, cached=isinstance(entry, Entry), reason=reason))
    return Forecast(plan=plan, steps=tuple(steps))


def gather_facts(found: Resolution | None) -> Facts:
    """Everything beside the profile that a build depends on."""
    return Facts(
        bluelift=__version__,
        epoch=epoch_from(os.environ.get("SOURCE_DATE_EPOCH"), RELEASE_EPOCH),
        packages=pins(found.packages) if found else None,
        payload={path: hashlib.sha256(content).hexdigest() for path, content in resources.linux_payload_files()},
        templates=digests(resources.templates(), "*.j2"),
        sources=digests(resources.builder_source(), "*.py"),
        tools=_tool_versions(),
    )


@dataclass
class _Work:
    """The steps of one build, in their order; what several of them need is made once, and only if it is needed."""

    profile: Profile
    found: Resolution
    offline: bool
    steps: Steps
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def base_entries(self) -> None:
        """Boot files, BIOS boot image, base initramfs, keymap; packages are fetched and unpacked if one is missing."""
        names = ("boot-files", "bios-boot-image", "base-initramfs", *(("keymap",) if self.profile.keyboard else ()))
        if not all(self.steps.has(name) for name in names):
            root = self._unpacked()
        else:
            self.steps.console.skipped("fetch packages", "not needed")
            self.steps.console.skipped("unpack packages", "not needed")
            root = Path()
        self.boot_files = self.steps.entry("boot-files", lambda into, step: _put_boot_files(root, into, step))
        self.bios_image = self.steps.entry("bios-boot-image", lambda into, step: _put_bios_image(root, into, step))
        self.initramfs = self.steps.entry("base-initramfs", lambda into, step: self._put_initramfs(root, into, step))
        if self.profile.keyboard:
            self.keymap = self.steps.entry("keymap", lambda into, step: self._put_keymap(root, into, step))

    def payload_entry(self) -> None:
        """The payload, its configuration and init as the initramfs's last segment."""
        self.payload = self.steps.entry("payload-segment", lambda into, _: self._put_payload(into))

    def iso_entry(self) -> Entry:
        """The image itself."""
        self.iso = self.steps.entry("iso", self._put_iso)
        return self.iso

    def disk_forms(self) -> tuple[DiskFile, ...]:
        """What the image is in the forms that the profile asks for."""
        self.forms: tuple[DiskFile, ...] = ()
        if self.profile.disk_forms:
            self.forms = read_facts(self.steps.entry("disk-forms", self._put_forms))
        return self.forms

    def put_image(self, target: Path, name: str) -> None:
        """Write the image or the form called `name` to `target`."""
        form = next((form for form in self.forms if form.file == name), None)
        if form is None:
            _copy(self.iso.path("image.iso"), target)
        else:
            write_form(DiskForm(form.form), self.iso.path("image.iso"), target, epoch=self.steps.plan.epoch)

    def manifest_entry(self) -> Entry:
        """The manifest, from what can be read back out of the finished image."""
        return self.steps.entry("manifest", self._put_manifest)

    def _unpacked(self) -> Path:
        from builder.base.linux import fetch, unpack  # noqa: PLC0415

        with self.steps.console.step("fetch packages") as step:
            debs = fetch(self.found.packages, pool=self.steps.cache.area("pool"), offline=self.offline, step=step)
        work = self.steps.cache.area("work")
        scratch = tempfile.TemporaryDirectory(prefix="root-", dir=work, ignore_cleanup_errors=True)
        root = Path(self._open.enter_context(scratch))
        with self.steps.console.step("unpack packages") as step:
            unpack(debs, into=root, step=step)
        return root

    def _put_initramfs(self, root: Path, into: Path, step: Step) -> None:
        from builder.initramfs import base_segment  # noqa: PLC0415

        (into / "base.img").write_bytes(base_segment(root, epoch=self.steps.plan.epoch, step=step))

    def _put_keymap(self, root: Path, into: Path, step: Step) -> None:
        from builder.base.keymap import console_keymap  # noqa: PLC0415

        (into / "keymap.bmap").write_bytes(console_keymap(root, self.profile.keyboard, step=step))

    def _put_payload(self, into: Path) -> None:
        from builder.initramfs import KEYMAP_NAME, payload_segment  # noqa: PLC0415
        from builder.render import render  # noqa: PLC0415
        from payload.formats.records import to_json  # noqa: PLC0415

        config = self.profile.payload_config(image_id=self.steps.plan.image_id or "", bluelift=__version__)
        init = {
            "version": __version__,
            "arguments": "--config /bluelift/config.json",
            "keymap": f"/{KEYMAP_NAME}" if self.profile.keyboard else "",
        }
        segment = payload_segment(
            payload=dict(resources.linux_payload_files()),
            init=render("linux/init.j2", init),
            config=json_bytes(to_json(config)),
            base=self.initramfs.path("base.img").read_bytes(),
            epoch=self.steps.plan.epoch,
            keymap=self.keymap.path("keymap.bmap").read_bytes() if self.profile.keyboard else b"",
        )
        (into / "payload.img").write_bytes(segment)

    def _put_iso(self, into: Path, step: Step) -> None:
        from dataclasses import replace  # noqa: PLC0415

        from builder.media.iso import DiskBoot, write_iso  # noqa: PLC0415
        from builder.media.layout import LinuxBootFiles, hybrid_disk, linux_iso_layout  # noqa: PLC0415
        from builder.safe_mode_script import safe_mode_files  # noqa: PLC0415

        image_id = self.steps.plan.image_id or ""
        mok_manager = self.boot_files.path("mmx64.efi")
        files = LinuxBootFiles(
            image_id=image_id,
            kernel=self.boot_files.path("vmlinuz"),
            initrd=self.initramfs.path("base.img").read_bytes() + self.payload.path("payload.img").read_bytes(),
            shim=self.boot_files.path("shimx64.efi").read_bytes(),
            grub=self.boot_files.path("grubx64.efi").read_bytes(),
            bios_image=self.bios_image.path("eltorito.img").read_bytes(),
            grub_config=_grub_config(self.profile, image_id),
            image_json=identity(self.profile, image_id),
            mok_manager=mok_manager.read_bytes() if mok_manager.is_file() else None,
            extra={
                **safe_mode_files(self.profile.payload_config(image_id=image_id, bluelift=__version__)),
                **({self.profile.vault.target: self.profile.vault.path} if self.profile.vault else {}),
            },
        )
        layout = replace(linux_iso_layout(files, epoch=self.steps.plan.epoch), volume_id=self.profile.volume_id)
        if self.profile.tail is not None:
            disk = hybrid_disk(image_id, volume_id=self.profile.volume_id, tail=self.profile.tail)
            code = self.bios_image.path("boot_hybrid.img").read_bytes()
            layout = replace(layout, hybrid=replace(disk, bios=DiskBoot.GRUB, boot_hybrid=code))
        image = into / "image.iso"
        written = write_iso(layout, image, step=step)
        step.note(written.words)
        if (size := written.size - written.free) > SIZE_LIMIT:
            step.warn(f"the image has {size_text(size)}, more than the {size_text(SIZE_LIMIT)} that a release may have")

    def _put_forms(self, into: Path, step: Step) -> None:
        with tempfile.TemporaryDirectory(prefix="forms-", dir=self.steps.cache.area("work")) as scratch:
            images = {f"{self.profile.output}.iso": self.iso.path("image.iso")}
            write_facts(into, make_forms(self.profile, images, Path(scratch), epoch=self.steps.plan.epoch, step=step))

    def _put_manifest(self, into: Path, step: Step) -> None:
        from builder.verify.inspect import inspect_image  # noqa: PLC0415

        stored = self.iso.file("image.iso")
        report = inspect_image(self.iso.path("image.iso"))
        step.note(f"{len(report.files)} files on the medium, {len(report.initramfs)} in the system that it boots")
        content = manifest(
            profile=self.profile,
            plan=self.steps.plan,
            packages=pins(self.found.packages),
            image=ImageFacts(
                file=f"{self.profile.output}.iso",
                size=stored.size,
                sha256=stored.sha256,
                kernel_version=self.boot_files.path("kernel-version").read_text().strip(),
                media=tuple(ListedFile(path=f.path, size=f.size, sha256=f.sha256) for f in report.files),
                disk=report.disk,
                forms=self.forms,
                initramfs=tuple(
                    ListedFile(path=f.name, size=f.size, sha256=f.sha256) for f in report.initramfs if f.sha256
                ),
            ),
            tools=_tool_versions(),
            bluelift=__version__,
        )
        (into / MANIFEST).write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _resolve(profile: Profile, options: BuildOptions, cache: Cache, console: Console) -> Resolution:
    kept = stored_resolution(profile.base, cache)
    if kept and not options.refresh and (kept.fresh or options.offline):
        console.skipped("packages", _asked(kept))
        return kept
    with console.step("packages") as step:
        found = resolution(profile.base, cache, offline=options.offline, step=step)
        step.note(f"{len(found.packages.packages)} packages")
    return found


def _asked(found: Resolution | None) -> str:
    if found is None:
        return "the mirror has not been asked yet"
    hours = found.age / 3600
    ago = f"{hours:.0f} h ago" if hours >= 1 else f"{found.age / 60:.0f} min ago"
    return f"{len(found.packages.packages)} packages, as resolved {ago}" + ("" if found.fresh else "; asked again")


def _put_boot_files(root: Path, into: Path, step: Step) -> None:
    from builder.base.linux import boot_files  # noqa: PLC0415

    files = boot_files(root)
    step.note(f"kernel {files.kernel_version}")
    shutil.copyfile(files.kernel, into / "vmlinuz")
    shutil.copyfile(files.shim, into / "shimx64.efi")
    shutil.copyfile(files.grub, into / "grubx64.efi")
    if files.mok_manager is not None:
        shutil.copyfile(files.mok_manager, into / "mmx64.efi")
    (into / "kernel-version").write_text(files.kernel_version + "\n")


def _put_bios_image(root: Path, into: Path, step: Step) -> None:
    from builder.base.grub import bios_boot_image, disk_boot_code  # noqa: PLC0415

    (into / "eltorito.img").write_bytes(bios_boot_image(root, step=step))
    (into / "boot_hybrid.img").write_bytes(disk_boot_code(root))


def _grub_config(profile: Profile, image_id: str) -> bytes:
    from builder.render import render  # noqa: PLC0415

    # GRUB expands $ and " even inside a title; a technician's screen shows the organisation, GRUB only our name.
    return render(
        "linux/grub.cfg.j2",
        {
            "image_id": image_id,
            "timeout": 3,
            "title": "Bluelift",
            "kernel_arguments": "",
            "serial": profile.serial,
            "shell": profile.shell,
        },
    )


def _tool_versions() -> dict[str, str]:
    """Of what shapes the bytes: Python (its xz), pycdlib, jinja2. Debian's own tools are among the packages."""
    from importlib.metadata import version  # noqa: PLC0415

    return {"python": platform.python_version(), "pycdlib": version("pycdlib"), "jinja2": version("jinja2")}
