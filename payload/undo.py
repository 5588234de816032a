"""Put quarantined files back: byte for byte, by rename, only to where a rule could have found them.

Only runs in stores that nobody but SYSTEM and Administrators can have made are believed (`payload.store`), every
sha256 is checked, and nothing is overwritten. Interrupted or repeated, it finds what is already in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from payload.contract import FileOutcome, FileRecord, JournalEntry
from payload.environment import VolumeFiles, VolumePath, called, windows_path
from payload.half_moves import entry_or_none, is_half_moved, make_parents, with_fresh_destinations
from payload.quarantine import RunResult, difference, move, reason
from payload.rule_schema import Action, FileClass, Rule
from payload.rules import could_have_matched, inspect, utc_text
from payload.store import Run, all_destinations, read_runs, volume_path, write_undone
from payload.windows_install import WindowsInstallation


@dataclass(frozen=True, kw_only=True)
class UndoPlan:
    """The runs to take back, newest first. `refused`: what was found and not believed (verdict FAILED)."""

    runs: tuple[Run, ...]
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What is written as undone.json: when, and what became of each file."""

    run_id: str
    written: str
    records: tuple[FileRecord, ...]


def plan_undo(files: VolumeFiles, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]) -> UndoPlan:
    """The runs of the volume that are not undone yet. Changes nothing. Raises OSError."""
    found = read_runs(files, rules, installations)
    return UndoPlan(
        runs=tuple(run for run in reversed(found.runs) if not run.undone), refused=found.refused, notes=found.notes
    )


def undo_run(files: VolumeFiles, run: Run, rules: Sequence[Rule], written: str) -> RunResult:
    """Restore one run's files and write its undone.json when all are in place. Never raises OSError."""
    try:
        run = _settle_half_restored(files, run)
    except OSError as error:
        why = f"an earlier undo was cut off, and could not be finished: {reason(error)}"
        failed = [_record(files, entry, rules, FileOutcome.FAILED, why) for entry in run.journal.entries]
        return RunResult(run=run, records=tuple(failed), notes=(f"run {run.run_id}: {why}",))
    records = [_record(files, entry, rules, *_restore(files, run, entry, rules)) for entry in run.journal.entries]
    notes = [
        f"run {run.run_id}: {record.path}: {record.detail}"
        for record in records
        if record.outcome in (FileOutcome.FAILED, FileOutcome.LEFT)
    ]
    if not any(record.outcome is FileOutcome.FAILED for record in records):
        try:
            write_undone(files, run, Undone(run_id=run.run_id, written=written, records=tuple(records)))
        except OSError as error:
            notes.append(f"run {run.run_id} is undone, but that could not be written down: {reason(error)}")
    return RunResult(run=run, records=tuple(records), notes=tuple(notes))


def undo(
    files: VolumeFiles, rules: Sequence[Rule], installations: Sequence[WindowsInstallation], written: str
) -> tuple[list[RunResult], tuple[str, ...]]:
    """Undo every run of the volume, newest first; the results and what was not believed. Raises OSError."""
    planned = plan_undo(files, rules, installations)
    return [undo_run(files, run, rules, written) for run in planned.runs], (*planned.refused, *planned.notes)


def _restore(files: VolumeFiles, run: Run, entry: JournalEntry, rules: Sequence[Rule]) -> tuple[FileOutcome, str]:
    if entry.action is not Action.QUARANTINE:
        return FileOutcome.LEFT, "was deleted, not quarantined: it cannot be brought back"
    try:
        return _restore_quarantined(files, run, entry, rules)
    except OSError as error:
        return FileOutcome.FAILED, f"could not be restored: {reason(error)}"


def _restore_quarantined(
    files: VolumeFiles, run: Run, entry: JournalEntry, rules: Sequence[Rule]
) -> tuple[FileOutcome, str]:
    source = volume_path(entry.source)
    kept_at = _kept_at(files, run, entry)
    occupant = _occupant(files, source)
    if kept_at is None:
        if occupant is not None and not difference(files, occupant, entry):
            return FileOutcome.RESTORED, "was already in its place"
        return FileOutcome.FAILED, "is no longer in quarantine"
    if problem := difference(files, kept_at, entry):
        return FileOutcome.FAILED, f"its copy in quarantine is not what it was: {problem}"
    if why := _foreign(files, kept_at, entry, rules):
        return FileOutcome.FAILED, f"its copy in quarantine {why}: no run moves such a file, so it is not put back"
    if occupant is None:
        problem = move(files, kept_at, source, entry)
        return (FileOutcome.FAILED, problem) if problem else (FileOutcome.RESTORED, "")
    if is_half_moved(files, kept_at, occupant):
        again = "let Windows check the volume (chkdsk), then undo again"
        return FileOutcome.FAILED, f"an earlier undo was cut off in the middle of it: {again}"
    return FileOutcome.FAILED, f"{windows_path(occupant)} is there already and is not overwritten"


def _foreign(files: VolumeFiles, kept_at: VolumePath, entry: JournalEntry, rules: Sequence[Rule]) -> str:
    """How the file is another kind than its rule is about; empty when it is not.

    A rule that these rules do not have is judged by those that name the file's place. Raises OSError.
    """
    source = volume_path(entry.source)
    naming = [rule for rule in rules if could_have_matched(rule, source[: -len(rule.pattern_parts)], source)]
    judges = [rule for rule in naming if rule.id == entry.rule] or naming
    found = files.entry(kept_at)
    if found is None:
        return ""
    for rule in judges:
        match = inspect(files, rule, kept_at, found, name=source[-1])
        if match.file_class is FileClass.FOREIGN:
            return match.reason
    return ""


def _kept_at(files: VolumeFiles, run: Run, entry: JournalEntry) -> VolumePath | None:
    """Where the run keeps the file: where its journal says, or where a move that was cut in two left it."""
    places = (volume_path(entry.destination), *all_destinations(run.folder, volume_path(entry.source)))
    return next((place for place in places if entry_or_none(files, place) is not None), None)


def _settle_half_restored(files: VolumeFiles, run: Run) -> Run:
    """Finish what cut an earlier undo in two: each such file gets a third, true name in quarantine, then only that.

    A name in its old place that the file's record does not know stays, and `_restore` then finds it occupied. Raises
    OSError.
    """
    half = {}
    for entry in run.journal.entries:
        source = volume_path(entry.source)
        kept_at = _kept_at(files, run, entry) if entry.action is Action.QUARANTINE else None
        if kept_at is not None and is_half_moved(files, kept_at, source):
            half[source] = kept_at
    run = with_fresh_destinations(files, run, set(half))
    for entry in run.journal.entries:
        source = volume_path(entry.source)
        if source in half:
            fresh = volume_path(entry.destination)
            make_parents(files, fresh, below=run.folder)
            files.rename(half[source], fresh)
            with contextlib.suppress(OSError):
                files.remove(source)
    return run


def _occupant(files: VolumeFiles, path: VolumePath) -> VolumePath | None:
    """What has the name of `path` in its folder: Windows knows only one name without regard to case. Raises OSError."""
    names = [entry.name for entry in files.listing(path[:-1], called(path[-1]))]
    name = min(names, key=lambda name: name != path[-1], default=None)
    return (*path[:-1], name) if name is not None else None


def _record(
    files: VolumeFiles, entry: JournalEntry, rules: Sequence[Rule], outcome: FileOutcome, detail: str
) -> FileRecord:
    return FileRecord(
        path=entry.source,
        rule=entry.rule,
        file_class=_class_of(files, entry, rules) if outcome is FileOutcome.RESTORED else FileClass.OTHER,
        action=entry.action,
        outcome=outcome,
        size=entry.size,
        modified=utc_text(entry.modified_ns),
        sha256=entry.sha256,
        detail=detail,
    )


def _class_of(files: VolumeFiles, entry: JournalEntry, rules: Sequence[Rule]) -> FileClass:
    path: VolumePath = volume_path(entry.source)
    rule = next((rule for rule in rules if rule.id == entry.rule), None)
    try:
        found = files.entry(path)
    except OSError:
        found = None
    return inspect(files, rule, path, found).file_class if rule and found else FileClass.OTHER
