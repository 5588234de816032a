"""What stands beside an image: manifest.json with all that went in, and SHA256SUMS. No times, no absolute paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from builder.plan import PackagePin, Plan
from builder.profile import Profile
from payload.formats.records import to_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file that is in the image: where, size in bytes, sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DiskFile:
    """An image once more, as a disk for hypervisors: its own file, its form, and the file of the image it is."""

    file: str
    form: str
    image: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is in one built image. `media` are the files of the ISO, `initramfs` those of the system it boots.

    `disk`: the record that says what it is as a disk; None for a plain ISO. `forms`: the files that it is again.
    """

    file: str
    size: int
    sha256: str
    kernel_version: str
    media: tuple[ListedFile, ...]
    initramfs: tuple[ListedFile, ...]
    disk: object = None
    forms: tuple[DiskFile, ...] = ()


def manifest(
    *, profile: Profile, plan: Plan, packages: tuple[PackagePin, ...], image: ImageFacts, tools: Mapping[str, str],
    bluelift: str,
) -> bytes:  # fmt: skip
    """manifest.json: the same inputs give the same bytes, on every machine."""
    config = profile.payload_config(image_id=plan.image_id or "", bluelift=bluelift)
    return json_bytes(
        {
            "schema": SCHEMA_VERSION,
            "bluelift": bluelift,
            "image": {
                "file": image.file,
                "size": image.size,
                "sha256": image.sha256,
                "image_id": plan.image_id,
                "environment": profile.environment,
                "volume_id": profile.volume_id,
                "kernel": image.kernel_version,
                "disk": to_json(image.disk),
            },
            "epoch": plan.epoch,
            "profile": {
                "name": profile.name,
                "file": profile.label,
                "sha256": profile.sha256,
                "suite": profile.base.suite,
            },
            "configuration": to_json(config),
            "steps": {step.name: step.id for step in plan.steps if not step.name.startswith("manifest")},
            "tools": dict(sorted(tools.items())),
            "packages": to_json(sorted(packages, key=lambda pin: (pin.name, pin.architecture))),
            "media": to_json(sorted(image.media, key=lambda file: file.path)),
            "initramfs": to_json(sorted(image.initramfs, key=lambda file: file.path)),
            "disk_forms": to_json(image.forms),
        }
    )


@dataclass(frozen=True, kw_only=True)
class WinpeImage:
    """One built WinPE ISO. `boot_ca`: whose signature its boot manager has; `media`: its files.

    `free`: bytes that are free on the disk that it is too; 0 for a plain ISO.
    """

    file: str
    size: int
    sha256: str
    boot_ca: str
    media: tuple[ListedFile, ...]
    free: int = 0


@dataclass(frozen=True, kw_only=True)
class WinpeFiles:
    """What the images were made from (in words, see ChosenBase.summary), what was put into boot.wim, and the images."""

    base: Mapping[str, str]
    injected: tuple[ListedFile, ...]
    images: tuple[WinpeImage, ...]
    forms: tuple[DiskFile, ...] = ()


def winpe_manifest(
    *, profile: Profile, plan: Plan, files: WinpeFiles, tools: Mapping[str, str], bluelift: str
) -> bytes:
    """manifest.json of a WinPE build, which may have two images."""
    config = profile.payload_config(image_id=plan.image_id or "", bluelift=bluelift)
    return json_bytes(
        {
            "schema": SCHEMA_VERSION,
            "bluelift": bluelift,
            "image": {
                "image_id": plan.image_id,
                "environment": profile.environment,
                "volume_id": profile.volume_id,
            },
            "epoch": plan.epoch,
            "profile": {"name": profile.name, "file": profile.label, "sha256": profile.sha256},
            "configuration": to_json(config),
            "steps": {step.name: step.id for step in plan.steps if not step.name.startswith("manifest")},
            "tools": dict(sorted(tools.items())),
            "base": dict(sorted(files.base.items())),
            "boot_wim": to_json(sorted(files.injected, key=lambda file: file.path)),
            "images": to_json(files.images),
            "disk_forms": to_json(files.forms),
        }
    )


def sha256sums(digests: Mapping[str, str]) -> bytes:
    """SHA256SUMS as `sha256sum -c` reads it: file names to digests."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def json_bytes(value: object) -> bytes:
    """JSON for people and programs: two spaces, UTF-8, one newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
