"""What a build leaves in the output folder, and what it says of itself: the parts that every environment shares."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import __version__
from builder.cache import sha256_of, storage_errors
from builder.console import Console
from builder.errors import OutputError
from builder.plan import Plan, PlannedStep
from builder.profile import Profile
from builder.report import json_bytes, sha256sums

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build: where to, with which cache, and whether the mirror may or must be asked.

    `windows_python`: winpe's own package of Python to freeze with, instead of the pinned one.
    """

    output: Path
    cache: Path
    offline: bool = False
    refresh: bool = False
    windows_python: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build left: the image, its size in bytes, sha256 and id; `made` are the steps that were not cached.

    `others`: further images of the same build (boot_ca: both).
    """

    image: Path
    size: int
    sha256: str
    image_id: str
    made: tuple[str, ...]
    seconds: float
    others: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepForecast:
    """What `build` would do about one step: `cached`, or work for the reason given."""

    step: PlannedStep
    cached: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a build would do: its plan, each step, and facts for people (which image of a WIM was chosen, and why)."""

    plan: Plan
    steps: tuple[StepForecast, ...]
    notes: tuple[str, ...] = ()


def prepare_output(folder: Path) -> None:
    """Make the output folder, and see that it can be written to. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{error.filename or folder} is a file, not a folder", hint="Give another: -o FOLDER"
        ) from error
    except OSError as error:
        raise OutputError(
            f"nothing can be written to {folder}: {error.strerror}", hint="Give another: -o FOLDER"
        ) from error


def publish(
    folder: Path, *, images: Mapping[str, str], manifest_file: Path, manifest_sha256: str,
    put: Callable[[Path, str], None], console: Console,
) -> None:  # fmt: skip
    """Put images, manifest and sums into the output folder: all are written beside before one is renamed.

    `images`: file names to sha256; `put` writes the image of a name to a path. What is there already is checked, not
    written again. Raises OutputError; then the folder is as it was before.
    """
    digests = {**images, MANIFEST: manifest_sha256}
    sums = sha256sums(digests)
    if all(sha256_of(folder / file) == digest for file, digest in digests.items()) and _is(folder / SUMS, sums):
        console.skipped(f"output to {folder}", "already there, checked")
        return
    with console.step(f"output to {folder}"), storage_errors(folder), staged_in(folder) as staged:
        for name in images:
            put(staged / name, name)
        shutil.copyfile(manifest_file, staged / MANIFEST)
        (staged / SUMS).write_bytes(sums)
        put_in_place(staged, folder, (*images, MANIFEST, SUMS))


def put_in_place(staged: Path, folder: Path, names: Sequence[str]) -> None:
    """Sync the files `names` in `staged`, then rename them into `folder`: no power cut leaves a part of one there."""
    for file in names:
        _sync(staged / file)
    for file in names:
        (staged / file).replace(folder / file)


def identity(profile: Profile, image_id: str) -> bytes:
    """Bluelift/image.json on the medium: which image this is."""
    return json_bytes(
        {
            "schema": 1,
            "image_id": image_id,
            "bluelift": __version__,
            "environment": profile.environment,
            "profile": profile.name,
            "organisation": profile.organisation,
        }
    )


@contextmanager
def staged_in(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write files beside; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".bluelift-", dir=folder) as name:
        yield Path(name)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _is(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """The files below `folder` that match: path below it to sha256."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob(pattern))}
