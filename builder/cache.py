"""The content-addressed cache: staged commit, checked when read, locked while used, and it says why it missed.

CACHEDIR.TAG, bluelift-cache.json     the tags; nothing is ever deleted from a folder without them
lock                                  held (flock) by the one build that writes
objects/ID/record.json + files        what the step with the content id ID made
last/NAME.json                        the recipe of the step NAME as it last was, to say why it missed now
resolutions/, pool/, apt/             what packages a mirror offered, the packages, apt's own state
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuilderError, OutputError, UsageError
from payload.formats.records import RecordError, from_json, to_json

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_TAG = "CACHEDIR.TAG"
# The Cache Directory Tagging Specification: backup programs leave such folders out.
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache made by Bluelift.\n"
_OWN_TAG = "bluelift-cache.json"
_KEPT_A_STEP = 4


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of an entry: its name, size in bytes, and sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What an entry says of itself."""

    step: str
    id: str
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a step made, found in the cache and checked."""

    folder: Path
    record: Record

    def path(self, name: str) -> Path:
        """Where the file `name` of the entry is."""
        return self.folder / name

    def file(self, name: str) -> StoredFile:
        """Size and sha256 of the file `name`; KeyError where the step made none of that name."""
        return {stored.name: stored for stored in self.record.files}[name]


@dataclass(frozen=True, kw_only=True)
class Missed:
    """Why a step is not in the cache, in a few words."""

    reason: str


def default_folder() -> Path:
    """$BLUELIFT_CACHE, else bluelift below $XDG_CACHE_HOME (default ~/.cache)."""
    if named := os.environ.get("BLUELIFT_CACHE"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(home).expanduser() / "bluelift"
    except RuntimeError as error:
        raise UsageError("there is no home folder to keep the cache in", hint="Give one: --cache FOLDER") from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex, "" where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


class Cache:
    """A cache at `folder`. Reading needs nothing; what writes needs `locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, *, step: str, content_id: str, recipe: Mapping[str, str]) -> Entry | Missed:
        """The entry of a step, every file of it checked by size and sha256; or why there is none. Writes nothing."""
        folder = self.folder / "objects" / content_id
        try:
            record = from_json(Record, json.loads((folder / "record.json").read_bytes()))
        except FileNotFoundError:
            return Missed(reason=self._why(step, recipe))
        except (OSError, ValueError, RecordError):
            return Missed(reason="its record in the cache cannot be read")
        for stored in record.files:
            if sha256_of(folder / stored.name) != stored.sha256:
                return Missed(reason=f"{stored.name} in the cache is damaged or gone")
        return Entry(folder=folder, record=record)

    def just_stored(self, content_id: str) -> Entry:
        """The entry that `storing` made a moment ago: it was hashed then, and is not again."""
        folder = self.folder / "objects" / content_id
        return Entry(folder=folder, record=from_json(Record, json.loads((folder / "record.json").read_bytes())))

    @contextmanager
    def storing(self, *, step: str, content_id: str, recipe: Mapping[str, str]) -> Iterator[Path]:
        """A folder for a step to put its files into; they become an entry when the block is left without an error.

        Nothing waits for the disk: `find` believes no file before it has hashed it, so that what a power cut damages
        is made again.
        """
        objects = self.folder / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="staged-", dir=objects) as staged_name:
            staged = Path(staged_name)
            yield staged
            files = tuple(
                StoredFile(name=path.name, size=path.stat().st_size, sha256=sha256_of(path))
                for path in sorted(staged.iterdir())
            )
            record = Record(step=step, id=content_id, files=files)
            (staged / "record.json").write_bytes(_json(to_json(record)))
            final = objects / content_id
            # What is there already is damaged, or find() would have found it.
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
            # TemporaryDirectory wants its folder back.
            staged.mkdir()
        self._remember(step, recipe)
        self._prune(step, keep=content_id)

    @contextmanager
    def locked(self, notice: Callable[[str], None]) -> Iterator[None]:
        """Hold the cache for writing; makes and tags the folder. Waits while another build holds it, and says so."""
        self._make()
        with (self.folder / "lock").open("a") as lock:
            if not _lock(lock.fileno(), wait=False):
                notice(f"another bluelift uses the cache {self.folder}; waiting for it to finish")
                _lock(lock.fileno(), wait=True)
            self._sweep()
            yield

    def area(self, name: str) -> Path:
        """A folder of the cache for one purpose (`pool`, `apt`), made if need be."""
        self._make()
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def read_note(self, name: str) -> bytes | None:
        """A small file `resolutions/NAME`, or None."""
        try:
            return (self.folder / "resolutions" / name).read_bytes()
        except FileNotFoundError:
            return None

    def write_note(self, name: str, content: bytes) -> None:
        """Keep a small file `resolutions/NAME`."""
        _replace(self.area("resolutions") / name, content)

    def size(self) -> int:
        """Bytes in use, 0 where there is no cache."""
        if not self.folder.is_dir():
            return 0
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file() or path.is_symlink())

    def clean(self, *, everything: bool) -> int:
        """Remove what steps made; with `everything` the whole folder, packages too. Returns the bytes freed.

        Raises UsageError for a folder that does not carry Bluelift's tag: it is somebody else's.
        """
        before = self.size()
        if not self.folder.exists():
            return 0
        if not (self.folder / _OWN_TAG).is_file():
            raise UsageError(
                f"{self.folder} does not carry Bluelift's tag ({_OWN_TAG}), so nothing in it is deleted",
                hint="Delete it by hand if it is yours to delete.",
            )
        if everything:
            shutil.rmtree(self.folder)
            return before
        for name in ("objects", "last", "resolutions"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return before - self.size()

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _OWN_TAG).is_file():
                if any(self.folder.iterdir()):
                    raise UsageError(
                        f"{self.folder} is not empty and is not a cache of Bluelift's",
                        hint="Give another folder: --cache FOLDER",
                    )
                (self.folder / _TAG).write_text(_TAG_TEXT)
                _replace(self.folder / _OWN_TAG, _json({"what": "a cache made by Bluelift", "layout": 1}))
        except OSError as error:
            raise OutputError(
                f"the cache folder {self.folder} cannot be used: {error.strerror}",
                hint="Give another one: --cache FOLDER, or set BLUELIFT_CACHE",
            ) from error

    def _sweep(self) -> None:
        # We hold the lock: whatever is still staged belongs to a build that was killed.
        for path in (*(self.folder / "objects").glob("staged-*"), *(self.folder / "work").glob("*")):
            shutil.rmtree(path, ignore_errors=True)

    def _why(self, step: str, recipe: Mapping[str, str]) -> str:
        try:
            last = json.loads((self.folder / "last" / f"{step}.json").read_bytes())
        except (OSError, ValueError):
            return "never made with this cache"
        if not isinstance(last, dict):
            return "never made with this cache"
        changed = sorted(key for key in {*last, *recipe} if last.get(key) != recipe.get(key))
        return "changed: " + ", ".join(changed) if changed else "no longer in the cache"

    def _remember(self, step: str, recipe: Mapping[str, str]) -> None:
        _replace(self.area("last") / f"{step}.json", _json(dict(recipe)), synced=False)

    def _prune(self, step: str, *, keep: str) -> None:
        """Keep the newest few entries of a step: profiles take turns, releases come and go."""
        entries = []
        for path in (self.folder / "objects").glob("*/record.json"):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                # One that is no record is a step's that find() will make again.
                if path.parent.name != keep and json.loads(path.read_bytes())["step"] == step:
                    entries.append((path.stat().st_mtime, path.parent))
        for _, folder in sorted(entries, reverse=True)[_KEPT_A_STEP - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Hold the file until it is closed; False where another process does and `wait` is not given."""
    if sys.platform == "win32":
        while True:
            try:
                # Waits for 10 s, then raises.
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _replace(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Write beside, then rename. `synced`: have it on the disk before, for what is believed as it is found."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            if synced:
                stream.flush()
                os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def storage_errors(what: Path) -> Iterator[None]:
    """Turn a full or read-only disk into OutputError, for everything that writes below `what`."""
    try:
        yield
    except BuilderError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {error.filename or what}: {error.strerror}",
            hint="Nothing half-written is left. Make room or give another folder.",
        ) from error
