"""What this machine can build and verify, and how to get the rest."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import tools, wim_library
from builder.errors import BuilderError, ToolMissing
from builder.tools import Purpose
from builder.verify.firmware import Firmware, find_firmware

#: What a first build needs: packages, their unpacked files, two images.
_ROOM = 2_000_000_000
_PYTHON_PACKAGES = ("jinja2", "pycdlib", "pydantic", "pyyaml", "rich")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing a machine needs. `found` says what is there; `how_to_get` is empty where nothing is missing."""

    purpose: Purpose
    name: str
    ok: bool
    found: str
    reason: str
    how_to_get: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All checks, and what follows from them."""

    checks: tuple[Check, ...]
    can_build: bool
    can_build_winpe: bool
    can_verify: bool

    @property
    def missing_packages(self) -> tuple[str, ...]:
        """Debian packages that would bring what is missing, sorted."""
        prefix = "apt-get install "
        wanted = {check.how_to_get for check in self.checks if not check.ok}
        lines = (line.removeprefix(prefix).partition(" (")[0] for line in wanted if line.startswith(prefix))
        return tuple(sorted({package for line in lines for package in line.split()}))


def diagnose(cache: Path) -> Diagnosis:
    """Look at this machine; `cache` is the folder builds would use. Changes nothing."""
    checks = (*_python(), *_programs(), *_libwim(), *_storage(cache), *_firmware(), *_devices())
    return Diagnosis(
        checks=checks,
        can_build=all(check.ok for check in checks if check.purpose is Purpose.BUILD),
        can_build_winpe=all(check.ok for check in checks if check.purpose is Purpose.WINPE),
        can_verify=all(check.ok for check in checks if check.purpose is Purpose.VERIFY),
    )


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        purpose=Purpose.BUILD,
        name="python",
        ok=sys.version_info >= (3, 11),
        found=version,
        reason="run Bluelift",
        how_to_get="" if sys.version_info >= (3, 11) else "Python 3.11 or later",
    )
    for name in _PYTHON_PACKAGES:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        yield Check(
            purpose=Purpose.BUILD,
            name=f"python: {name}",
            ok=bool(found),
            found=found or "not found",
            reason="build images",
            how_to_get="" if found else "pip install --upgrade bluelift",
        )


def _programs() -> Iterator[Check]:
    for tool in tools.TOOLS:
        found = tools.find(tool)
        yield Check(
            purpose=tool.purpose,
            name=tool.name,
            ok=not found.problem,
            found=found.problem or found.version or "found",
            reason=tool.reason,
            how_to_get=tool.how_to_get if found.problem else "",
        )


def _libwim() -> Iterator[Check]:
    try:
        found, hint = wim_library.version(), ""
    except ToolMissing as error:
        found, hint = "not found", error.hint
    yield Check(
        purpose=Purpose.WINPE,
        name="libwim",
        ok=not hint,
        found=found,
        reason="change boot.wim",
        how_to_get=hint,
    )


def _storage(cache: Path) -> Iterator[Check]:
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK | os.X_OK)
    enough = free >= _ROOM
    yield Check(
        purpose=Purpose.BUILD,
        name="cache",
        ok=writable and enough,
        found=f"{free / 1e9:.1f} GB free" if writable else f"{place} cannot be written",
        reason="keep packages and finished steps",
        how_to_get="" if writable and enough else "another folder with 2 GB of room: --cache FOLDER",
    )


def _firmware() -> Iterator[Check]:
    for kind in Firmware:
        try:
            find_firmware(kind)
            found, hint = "found", ""
        except BuilderError:
            found, hint = "not found", "apt-get install ovmf"
        yield Check(
            purpose=Purpose.VERIFY,
            name=f"firmware: {kind.value}",
            ok=not hint,
            found=found,
            reason=f"boot images under {kind.value}",
            how_to_get=hint,
        )


def _devices() -> Iterator[Check]:
    fuse = os.access("/dev/fuse", os.R_OK | os.W_OK)
    yield Check(
        purpose=Purpose.VERIFY,
        name="/dev/fuse",
        ok=fuse,
        found="usable" if fuse else "not usable",
        reason="fill broken Windows disks",
        how_to_get="" if fuse else "modprobe fuse, or a container with access to /dev/fuse",
    )
