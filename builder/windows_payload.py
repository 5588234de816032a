"""The frozen payload through the cache: frozen once for the same sources, pins and backend, checked each time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from builder import freeze, resources
from builder.cache import Cache, Entry, Missed
from builder.console import Console
from builder.errors import OutputError
from builder.freeze import FreezeBackend, choose_backend
from builder.frozen import FrozenPayload
from builder.import_gate import Need
from builder.pe import Machine
from builder.plan import digest

STEP = "windows-payload"
TITLE = "payload for Windows"
#: The builder's modules that shape the frozen bytes.
_SOURCES = ("freeze*.py", "frozen.py", "windows_python.py", "resources.py")


@dataclass(frozen=True, kw_only=True)
class FreezeOptions:
    """What of the command line concerns freezing: a prebuilt folder, a Python of the user's, for which machine."""

    payload_exe: Path | None = None
    windows_python: Path | None = None
    machine: Machine = Machine.AMD64


@dataclass(frozen=True, kw_only=True)
class WindowsPayload:
    """The payload, what it needs of the base's System32, its content id, and whether it was frozen just now."""

    payload: FrozenPayload
    needs: tuple[Need, ...]
    id: str
    made: bool


def backend_for(options: FreezeOptions, cache: Cache) -> FreezeBackend:
    """The way to freeze on this machine with these options."""
    return choose_backend(
        prebuilt=options.payload_exe,
        windows_python=options.windows_python,
        downloads=cache.folder / "windows-python",
        machine=options.machine,
    )


def recipe(backend: FreezeBackend, *, epoch: int) -> Mapping[str, str]:
    """Everything the frozen bytes depend on, in keys that the cache can name when one changed."""
    made_by = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(resources.builder_source().glob("*.py"))
        if any(fnmatchcase(path.name, pattern) for pattern in _SOURCES)
    }
    payload = {path: hashlib.sha256(content).hexdigest() for path, content in freeze.sources().items()}
    return {
        "backend": backend.name,
        "epoch": str(epoch),
        "payload": digest(payload),
        "builder": digest(made_by),
        **backend.recipe(),
    }


def content_id(recipe: Mapping[str, str]) -> str:
    """The id of the cache's entry: as a plan's steps have it."""
    return digest({"step": STEP, **recipe})


def windows_payload(
    options: FreezeOptions, *, cache: Cache, console: Console, epoch: int, offline: bool = False
) -> WindowsPayload:
    """The frozen payload: from the cache, or frozen now. The caller holds the cache locked. Raises BuilderError."""
    backend = backend_for(options, cache)
    ingredients = recipe(backend, epoch=epoch)
    wanted = content_id(ingredients)
    found = cache.find(step=STEP, content_id=wanted, recipe=ingredients)
    made = isinstance(found, Missed)
    if isinstance(found, Missed):
        with console.step(TITLE) as step:
            step.note(f"{found.reason}; {backend.name} backend")
            with cache.storing(step=STEP, content_id=wanted, recipe=ingredients) as into:
                freeze.freeze(backend, epoch=epoch, work=cache.area("work"), step=step, offline=offline, into=into)
        found = cache.find(step=STEP, content_id=wanted, recipe=ingredients)
    else:
        console.skipped(TITLE, "in the cache")
    if not isinstance(found, Entry):
        raise OutputError(f"{TITLE}: {found.reason}", hint="Is the disk of the cache failing? Try --cache.")
    payload = freeze.load(found.folder)
    return WindowsPayload(payload=payload, needs=freeze.gate(payload, machine=backend.machine), id=wanted, made=made)
