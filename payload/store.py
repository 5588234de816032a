"""Bluelift's own folder on a repaired volume: \\ProgramData\\Bluelift, its runs and their journals.

    <store>\\quarantine\\<run id>\\journal.json    what the run was about to do, synced before the first file moves
                                \\files\\...        the moved files, below their original paths (files.2 ... where
                                                  a power cut spoiled the first place, see payload.moving)
                                \\receipt.json    written last: a run that has one is finished
                                \\undoing.json    which files an undo is about to put back
                                \\undone.json     the run's files are back in place

Users may write below ProgramData, so only folders that nobody but SYSTEM and Administrators can have made are used or
believed: everything is created with a protected ACL, and what exists without it is passed over.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from payload.contract import (
    JOURNAL_NAME,
    QUARANTINE_FOLDER,
    RECEIPT_NAME,
    STORE_NAME,
    STORE_PARENT,
    UNDOING_NAME,
    UNDONE_NAME,
    Journal,
    JournalEntry,
)
from payload.environment import Entry, EntryKind, VolumeFiles, VolumePath, called, windows_path
from payload.formats.records import from_json, to_json
from payload.rule_schema import Action, Rule
from payload.rules import any_could_have_matched
from payload.windows_install import WindowsInstallation

FILES_FOLDER = "files"
#: The name that VolumeFiles.write_file writes a journal under first.
_JOURNAL_BEGUN = f".{JOURNAL_NAME}.new"
_NAMES = (JOURNAL_NAME, _JOURNAL_BEGUN, RECEIPT_NAME, UNDONE_NAME)
_ALTERNATIVES = 9
#: How many places a run has for one file: each that a power cut spoiled is followed by the next.
MOST_ATTEMPTS = 9
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
#: A store that is named after the run that made it.
_LAST_RESORT = re.compile(rf"{STORE_NAME}-{_RUN_ID.pattern}")
_MAX_JOURNAL = 16 << 20


class StoreRefused(Exception):
    """There is no place on the volume where a quarantine would be safe; the message is a sentence for the screen."""


@dataclass(frozen=True, kw_only=True)
class StoreChoice:
    """Where the store is or is to be. `missing` folders have to be made, in this order; `notes` say what was passed."""

    path: VolumePath
    missing: tuple[VolumePath, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder in a store and what its journal says."""

    folder: VolumePath
    journal: Journal
    receipt: bool
    undone: bool

    @property
    def run_id(self) -> str:
        """UTC time and eight random hex digits: `20240719T120000Z-1a2b3c4d`."""
        return self.journal.run_id


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The believable runs of a volume, oldest first. `refused`: sentences about folders that are not believed."""

    runs: tuple[Run, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def new_run_id(now: datetime) -> str:
    """A new run's name: the UTC time and eight random hex digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(4).hex()}"


def volume_path(text: str) -> VolumePath:
    """The path that `windows_path` wrote. Raises ValueError for anything it would not have written."""
    parts = tuple(text.split("\\"))
    if len(parts) < 2 or parts[0] or any(part in ("", ".", "..") or set(part) & {"/", "\0"} for part in parts[1:]):
        raise ValueError(f"{text!r} is not a path below a volume's root")
    return parts[1:]


def destination_of(run_folder: VolumePath, source: VolumePath, attempt: int = 1) -> VolumePath:
    """Where a run keeps the file that was at `source`: below files, or files.2 ... for a later attempt."""
    area = FILES_FOLDER if attempt == 1 else f"{FILES_FOLDER}.{attempt}"
    return (*run_folder, area, *source)


def _is_area(name: str) -> bool:
    return name.partition(".")[0] == FILES_FOLDER


def all_destinations(run_folder: VolumePath, source: VolumePath) -> tuple[VolumePath, ...]:
    """Every place where a run may keep the file that was at `source`, in the order of the attempts."""
    return tuple(destination_of(run_folder, source, attempt) for attempt in range(1, MOST_ATTEMPTS + 1))


def used_destinations(files: VolumeFiles, run_folder: VolumePath, source: VolumePath) -> tuple[VolumePath, ...]:
    """Those of `all_destinations` that can hold something, because their area is there. Raises OSError."""
    areas = {entry.name for entry in files.listing(run_folder, _is_area)}
    return tuple(path for path in all_destinations(run_folder, source) if path[len(run_folder)] in areas)


def choose_store(files: VolumeFiles, run_id: str) -> StoreChoice:
    """The store to use: the first of Bluelift, Bluelift.1 ... Bluelift.9 that is absent or protected as ours.

    Where users planted all of these, Bluelift-<run id>, which nobody can have guessed.

    Changes nothing. A missing ProgramData is to be made like everything else, for SYSTEM and Administrators only:
    Windows gives it its own ACL again when an administrator asks for that. Raises StoreRefused, OSError.
    """
    parent = _only(files.listing((), called(STORE_PARENT)), STORE_PARENT)
    if parent is None:
        store = (STORE_PARENT, STORE_NAME)
        return StoreChoice(path=store, missing=((STORE_PARENT,), store, (*store, QUARANTINE_FOLDER)))
    if parent.kind is not EntryKind.DIRECTORY:
        what = "a reparse point" if parent.kind is EntryKind.LINK else "not a folder"
        raise StoreRefused(f"{windows_path((parent.name,))} is {what}, so nothing can be kept there safely.")
    names = [*_usual_stores(), f"{STORE_NAME}-{run_id}"]
    folded = {name.casefold() for name in names}
    entries = files.listing((parent.name,), lambda name: name.casefold() in folded)
    notes: list[str] = []
    for name in names:
        same = [entry for entry in entries if entry.name.casefold() == name.casefold()]
        if not same:
            store = (parent.name, name)
            return StoreChoice(path=store, missing=(store, (*store, QUARANTINE_FOLDER)), notes=tuple(notes))
        store = (parent.name, same[0].name)
        problem = _store_problem(files, store) if len(same) == 1 else "there are several of that name"
        if not problem:
            quarantine = (*store, QUARANTINE_FOLDER)
            missing = () if files.entry(quarantine) else (quarantine,)
            return StoreChoice(path=store, missing=missing, notes=tuple(notes))
        notes.append(f"{windows_path(store)} was not used: {problem}")
    raise StoreRefused(f"Every folder that could hold the quarantine is not Bluelift's own: {'; '.join(notes)}.")


def read_runs(files: VolumeFiles, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]) -> Runs:
    """The runs in every store that is ours. A journal that names what no rule could have matched is refused.

    Changes nothing. Raises OSError where ProgramData itself cannot be read.
    """
    runs: list[Run] = []
    refused: list[str] = []
    notes: list[str] = []
    for store in _existing_stores(files):
        if problem := _store_problem(files, store):
            if not _LAST_RESORT.fullmatch(store[-1]):  # anybody may make any number of those
                refused.append(f"{windows_path(store)} was not believed: {problem}")
            continue
        quarantine = (*store, QUARANTINE_FOLDER)
        if files.entry(quarantine) is None:
            continue
        for entry in files.listing(quarantine):
            folder = (*quarantine, entry.name)
            try:
                run = _read_run(files, folder, rules, installations)
            except _NotBelieved as error:
                refused.append(f"{windows_path(folder)} was not believed: {error}")
                continue
            except (OSError, ValueError, RecursionError) as error:
                notes.append(f"{windows_path(folder)} has no journal that can be read: {error}")
                continue
            if run:
                runs.append(run)
    runs.sort(key=lambda run: run.run_id)
    return Runs(runs=tuple(runs), refused=tuple(refused), notes=tuple(notes))


def write_journal(files: VolumeFiles, folder: VolumePath, journal: Journal) -> None:
    """Write a run's journal and sync it. Raises OSError, also for one that would be too large to be read again."""
    files.write_file((*folder, JOURNAL_NAME), journal_bytes(journal))


def journal_bytes(journal: Journal) -> bytes:
    """The journal as it is written. Raises OSError (EFBIG) where it is larger than what `read_runs` reads."""
    data = _json(journal)
    if len(data) > _MAX_JOURNAL:
        raise OSError(errno.EFBIG, f"{len(journal.entries)} files are more than one run can take")
    return data


def write_receipt(files: VolumeFiles, run: Run, data: bytes) -> None:
    """Leave the receipt in the run's folder: from now on the run is finished. Raises OSError."""
    files.write_file((*run.folder, RECEIPT_NAME), data)


def write_undone(files: VolumeFiles, run: Run, data: object) -> None:
    """Say that a run's files are back in place; `data` is a record. Raises OSError."""
    files.write_file((*run.folder, UNDONE_NAME), _json(data))


@dataclass(frozen=True, kw_only=True)
class PutBack:
    """What an undo is about to put back: `source` from `kept`, whose record on the volume is `file_number`."""

    source: str
    kept: str
    file_number: int


@dataclass(frozen=True, kw_only=True)
class _Undoing:
    """What is written as undoing.json."""

    files: tuple[PutBack, ...]


def write_undoing(files: VolumeFiles, run: Run, begun: Iterable[PutBack]) -> None:
    """Say what an undo is about to put back, before it does. Raises OSError."""
    files.write_file((*run.folder, UNDOING_NAME), _json(_Undoing(files=tuple(begun))))


def read_undoing(files: VolumeFiles, run: Run) -> dict[str, PutBack]:
    """What an earlier undo was about to put back, by its source; nothing where that cannot be read."""
    try:
        data = json.loads(_read_bounded(files, (*run.folder, UNDOING_NAME)))
        return {
            begun.source: begun
            for begun in from_json(_Undoing, data).files
            if volume_path(begun.kept) in all_destinations(run.folder, volume_path(begun.source))
        }
    except (OSError, ValueError, RecursionError):
        return {}


class _NotBelieved(Exception):
    """A run's folder or journal that Bluelift cannot have written."""


def _read_run(
    files: VolumeFiles, folder: VolumePath, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]
) -> Run | None:
    """The run in `folder`; None where it never came as far as a journal."""
    if not _RUN_ID.fullmatch(folder[-1]):
        raise _NotBelieved("its name is not a run's")
    names = {entry.name for entry in files.listing(folder, lambda name: name in _NAMES or _is_area(name))}
    if JOURNAL_NAME not in names:
        return None
    if not files.is_protected(folder):
        raise _NotBelieved("others than SYSTEM and Administrators may write to it")
    if _JOURNAL_BEGUN in names and not any(map(_is_area, names)):
        return None  # the power went while the journal got its name, which it may lose again: nothing was moved yet
    journal = from_json(Journal, json.loads(_read_bounded(files, (*folder, JOURNAL_NAME))))
    if journal.run_id != folder[-1]:
        raise _NotBelieved(f"its journal is that of run {journal.run_id!r}")
    for entry in journal.entries:
        _check_entry(folder, entry, rules, installations)
    return Run(folder=folder, journal=journal, receipt=RECEIPT_NAME in names, undone=UNDONE_NAME in names)


def _check_entry(
    folder: VolumePath, entry: JournalEntry, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]
) -> None:
    try:
        source = volume_path(entry.source)
    except ValueError as error:
        raise _NotBelieved(str(error)) from error
    if not any_could_have_matched(rules, installations, source):
        which = "where another configuration did it, give that image's configuration (--config)"
        raise _NotBelieved(f"its journal names {entry.source}, which no rule could have matched; {which}")
    places = all_destinations(folder, source) if entry.action is Action.QUARANTINE else ()
    wanted = {windows_path(place) for place in places} or {""}
    if entry.destination not in wanted or entry.action is Action.REPORT:
        raise _NotBelieved(f"its journal moves {entry.source} to {entry.destination or 'nowhere'}")


def _read_bounded(files: VolumeFiles, path: VolumePath) -> bytes:
    with files.open_file(path) as stream:
        data = stream.read(_MAX_JOURNAL + 1)
    if len(data) > _MAX_JOURNAL:
        raise ValueError(f"{windows_path(path)} is larger than any journal")
    return data


def _existing_stores(files: VolumeFiles) -> list[VolumePath]:
    parent = _only(files.listing((), called(STORE_PARENT)), STORE_PARENT)
    if parent is None or parent.kind is not EntryKind.DIRECTORY:
        return []
    usual = {name.casefold() for name in _usual_stores()}
    entries = files.listing((parent.name,), lambda name: name.casefold() in usual or bool(_LAST_RESORT.fullmatch(name)))
    return [(parent.name, entry.name) for entry in entries]


def _usual_stores() -> list[str]:
    return [STORE_NAME, *(f"{STORE_NAME}.{number}" for number in range(1, _ALTERNATIVES + 1))]


def _store_problem(files: VolumeFiles, store: VolumePath) -> str:
    """Why a folder is not used as a store; empty when it is ours."""
    for path in (store, (*store, QUARANTINE_FOLDER)):
        try:
            entry = files.entry(path)
        except OSError as error:
            return f"{windows_path(path)} cannot be looked at ({error.strerror or error})"
        if entry is None:
            continue
        if entry.kind is not EntryKind.DIRECTORY:
            return f"{windows_path(path)} is {'a reparse point' if entry.kind is EntryKind.LINK else 'not a folder'}"
        if not files.is_protected(path):
            return f"others than SYSTEM and Administrators own {windows_path(path)} or may write to it"
    return ""


def _only(entries: list[Entry], name: str) -> Entry | None:
    """The entry of that name without regard to case, the one spelled exactly so first."""
    same = [entry for entry in entries if entry.name.casefold() == name.casefold()]
    return min(same, key=lambda entry: entry.name != name, default=None)


def _json(record: object) -> bytes:
    return (json.dumps(to_json(record), indent=1) + "\n").encode("ascii")
