"""Which packages: asked of the mirror at most once a day, kept in the cache between builds."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from builder import resources
from builder.base.packages import LinuxBaseSettings, PackageSet
from builder.cache import Cache
from builder.console import Step
from builder.plan import PackagePin, digest
from builder.profile import BaseSettings
from payload.formats.records import RecordError, from_json, to_json

#: For how long an answer of the mirror is good enough, seconds.
KEPT = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The packages, and how long ago (seconds) the mirror was asked for them."""

    packages: PackageSet
    age: float

    @property
    def fresh(self) -> bool:
        """Whether the mirror need not be asked again. An age below zero is a clock that was set back."""
        return 0 <= self.age < KEPT


@dataclass(frozen=True, kw_only=True)
class _Note:
    asked: int
    packages: PackageSet


def stored_resolution(settings: BaseSettings, cache: Cache) -> Resolution | None:
    """What the mirror last answered for these settings, None where it was never asked. Writes nothing."""
    content = cache.read_note(_name(settings))
    if content is None:
        return None
    try:
        note = from_json(_Note, json.loads(content))
    except (ValueError, RecordError):
        return None
    return Resolution(packages=note.packages, age=time.time() - note.asked)


def resolution(settings: BaseSettings, cache: Cache, *, offline: bool, step: Step) -> Resolution:
    """Ask the mirror (offline: its lists as they were last read), and keep the answer."""
    from builder.base.linux import resolve  # noqa: PLC0415

    base = LinuxBaseSettings(
        suite=settings.suite,
        mirror=settings.mirror,
        security_mirror=settings.security_mirror,
        keyring=settings.keyring,
        debs=settings.debs,
    )
    packages = resolve(base, workspace=cache.area("apt"), offline=offline, step=step)
    if not offline:
        note = _Note(asked=int(time.time()), packages=packages)
        cache.write_note(_name(settings), json.dumps(to_json(note)).encode())
    return Resolution(packages=packages, age=0)


def pins(packages: PackageSet) -> tuple[PackagePin, ...]:
    """What of the packages a plan depends on: not where they came from."""
    return tuple(
        PackagePin(name=p.name, version=p.version, architecture=p.architecture, sha256=p.sha256)
        for p in sorted(packages.packages, key=lambda package: (package.name, package.architecture))
    )


def _name(settings: BaseSettings) -> str:
    """The file name of the answer: other settings, another list of packages or another folder's content is another."""
    source = resources.builder_source() / "base" / "packages.py"
    asked = {
        "suite": settings.suite,
        "mirror": settings.mirror,
        "security_mirror": settings.security_mirror,
        "keyring": str(settings.keyring and settings.keyring.absolute()),
        "debs": _listing(settings.debs) if settings.debs else None,
        "wanted": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    return f"{digest(asked)[:32]}.json"


def _listing(folder: Path) -> list[tuple[str, str, int, int]]:
    files = ((path, path.stat()) for path in sorted(folder.iterdir()))
    return [(str(path.absolute()), path.name, stat.st_size, stat.st_mtime_ns) for path, stat in files]
