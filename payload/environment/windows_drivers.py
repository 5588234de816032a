"""Drivers for controllers that WinPE does not know: `drvload` for each INF of the image and of the boot medium."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from payload.environment.windows_commands import run

DRIVERS_FOLDER = "drivers"
_INF_SECONDS = 60.0
_ALL_SECONDS = 300.0
_DEEPEST = 4
_MOST = 200


def load_drivers(folder: Path) -> list[str]:
    """Load every INF below `folder`, in the order of their paths; a sentence for each with drvload's exit code.

    A driver for hardware that is not there is refused by drvload, which is no reason to stop.
    """
    notes = []
    started = time.monotonic()
    for number, inf in enumerate(sorted(_inf_files(folder))):
        if number >= _MOST or time.monotonic() - started >= _ALL_SECONDS:
            notes.append(f"No more drivers were loaded from {folder}: there are too many, or they took too long.")
            break
        done = run(["drvload", str(inf)], time_limit=_INF_SECONDS)
        what = "loaded" if done.ok else f"not loaded: {done.sentence}"
        notes.append(f"Driver {inf.relative_to(folder)}: {what}")
    return notes


def _inf_files(folder: Path) -> Iterator[Path]:
    """The INF files below a folder, not deeper than vendors' archives have them."""
    for place, folders, names in os.walk(folder, onerror=None, followlinks=False):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = [name for name in folders if depth < _DEEPEST]
        yield from (Path(place) / name for name in names if name.lower().endswith(".inf"))
