"""The payload as a Windows program: frozen by one of three backends, held to the gate, kept in the cache.

native: the Python that runs Bluelift, on Windows. wine: a genuine Windows Python under Wine, on Linux. prebuilt: a
folder that somebody froze before, with its manifest.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from builder import frozen, resources
from builder.console import Step, size_text
from builder.errors import ImageError
from builder.frozen import FrozenPayload
from builder.import_gate import EXECUTABLE, EXPECTED_SYSTEM32, Need, check_base, check_folder
from builder.pe import Machine

#: The largest folder that a release may have, in bytes: it lies in the memory of the machine that is repaired.
SIZE_LIMIT = 10_000_000
#: An entry of the cache: the folder as one archive, and its manifest.
ARCHIVE = "payload.zip"
#: What of the payload's source is of no use on Windows.
_ELSEWHERE = ("environment/linux*.py",)
_SPEC = "payload.spec"


@dataclass(frozen=True, kw_only=True)
class FreezeJob:
    """What a backend is given: the payload's source as path below payload/ to content (with payload.spec), the one
    time stamp, an empty folder to work in, and whether downloads are allowed."""

    sources: Mapping[str, bytes]
    epoch: int
    scratch: Path
    offline: bool = False

    def write_sources(self) -> Path:
        """Put the sources into the scratch folder; returns where payload.spec is."""
        for name, content in self.sources.items():
            target = self.scratch / "source" / "payload" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return self.scratch / "source" / "payload" / _SPEC


class FreezeBackend(Protocol):
    """One way to a frozen payload."""

    @property
    def name(self) -> str:
        """`native`, `wine` or `prebuilt`."""
        ...

    @property
    def machine(self) -> Machine:
        """What it freezes for."""
        ...

    def recipe(self) -> Mapping[str, str]:
        """What the frozen bytes depend on beside sources and time stamp. Cheap; starts nothing."""
        ...

    def freeze(self, job: FreezeJob, step: Step) -> FrozenPayload:
        """Freeze. Raises BuilderError."""
        ...


class PrebuiltBackend:
    """A folder with payload.exe in it, frozen elsewhere, and the manifest SHA256SUMS beside it."""

    def __init__(self, folder: Path, *, machine: Machine = Machine.AMD64) -> None:
        self._folder = folder
        self._machine = machine

    @property
    def name(self) -> str:
        """See FreezeBackend."""
        return "prebuilt"

    @property
    def machine(self) -> Machine:
        """See FreezeBackend."""
        return self._machine

    def recipe(self) -> Mapping[str, str]:
        """The manifest says everything. Raises ImageError where there is none, or it does not hold."""
        return {"prebuilt": frozen.read_prebuilt(self._folder).sha256}

    def freeze(self, job: FreezeJob, step: Step) -> FrozenPayload:  # noqa: ARG002
        """See FreezeBackend."""
        return frozen.read_prebuilt(self._folder)


def choose_backend(
    *,
    prebuilt: Path | None = None,
    windows_python: Path | None = None,
    downloads: Path,
    machine: Machine = Machine.AMD64,
) -> FreezeBackend:
    """The backend for this machine and these options.

    `windows_python` is the user's own package of Python for the Wine backend; `downloads` a folder of the cache.
    Raises ImageError for a machine that only a prebuilt payload could serve.
    """
    if prebuilt is not None:
        return PrebuiltBackend(prebuilt, machine=machine)
    if machine != Machine.AMD64:
        raise ImageError(
            "the payload is frozen for x64 only",
            hint="For other machines freeze it there, and give the folder: --payload-exe FOLDER",
        )
    from builder.freeze_native import NativeBackend  # noqa: PLC0415
    from builder.freeze_wine import WineBackend  # noqa: PLC0415

    return NativeBackend() if sys.platform == "win32" else WineBackend(downloads=downloads, given=windows_python)


def sources() -> dict[str, bytes]:
    """The payload's source that goes into a freeze: path below payload/ to content, with payload.spec."""
    files = {
        path: content
        for path, content in resources.payload_files()
        if not any(fnmatchcase(path, pattern) for pattern in _ELSEWHERE)
    }
    return {**files, _SPEC: resources.payload_spec()}


def freeze(
    backend: FreezeBackend, *, epoch: int, work: Path, step: Step, offline: bool = False, into: Path | None = None
) -> FrozenPayload:
    """Freeze the payload and hold it to the gate. `work` is where a scratch folder may be made (about 1 GB with Wine).

    `into`, if given, gets the two files of a cache entry (see `load`). Raises BuilderError.
    """
    with tempfile.TemporaryDirectory(prefix="freeze-", dir=work, ignore_cleanup_errors=True) as scratch:
        job = FreezeJob(sources=sources(), epoch=epoch, scratch=Path(scratch), offline=offline)
        payload = backend.freeze(job, step)
    needs = gate(payload, machine=backend.machine)
    step.note(f"{len(payload.files)} files, {size_text(payload.size)}; needs {len(needs)} DLLs of the base")
    if payload.size > SIZE_LIMIT:
        step.warn(f"the payload has {size_text(payload.size)}, more than the {size_text(SIZE_LIMIT)} it should have")
    if into is not None:
        (into / ARCHIVE).write_bytes(frozen.pack(payload.contents.items(), epoch=epoch, compress=False))
        (into / frozen.SUMS).write_bytes(payload.sums())
    return payload


def gate(payload: FrozenPayload, *, machine: Machine = Machine.AMD64) -> tuple[Need, ...]:
    """Is it whole, and does it ask for no more than every Windows PE has? Returns what it needs from the base.

    Raises ImageError, BaseMediaError. What a certain base has is for builder.import_gate.check_base, with these needs.
    """
    needs = check_folder(payload.contents, machine=machine)
    check_base(needs, EXPECTED_SYSTEM32, base="a plain Windows PE")
    return needs


def load(entry: Path) -> FrozenPayload:
    """The payload from a folder that `freeze` put it `into`."""
    return frozen.unpack(entry / ARCHIVE)


__all__ = [
    "ARCHIVE", "EXECUTABLE", "SIZE_LIMIT", "FreezeBackend", "FreezeJob", "PrebuiltBackend", "choose_backend", "freeze",
    "gate", "load", "sources",
]  # fmt: skip
