"""Put quarantined files back: byte for byte, only to where a rule could have found them.

Only runs in stores that nobody but SYSTEM and Administrators can have made are believed (`payload.store`), every
sha256 is checked, and nothing is overwritten. Interrupted or repeated, it finds what is already in place.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from payload.classify import inspect
from payload.contract import FileOutcome, FileRecord, JournalEntry
from payload.environment import EntryKind, VolumeFiles, VolumePath, called, windows_path
from payload.moving import difference, drop_other_places, free_place, is_one_file, kept_at, move, what_is_kept
from payload.quarantine import RunResult, reason
from payload.rule_schema import Action, FileClass, Rule, utc_ns_text
from payload.rules import could_have_matched
from payload.store import PutBack, Run, read_runs, read_undoing, volume_path, write_undoing, write_undone
from payload.windows_install import WindowsInstallation

#: Larger files are not told from what else may stand in their place.
_MOST_COMPARED = 64 << 20
_CHECK_FIRST = "an earlier undo was cut off in the middle of it: let Windows check the volume (chkdsk), then undo again"


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
    begun = _begin(files, run)
    records = [
        _record(files, e, rules, *_restore(files, run, e, rules, begun.get(e.source))) for e in run.journal.entries
    ]
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


def _begin(files: VolumeFiles, run: Run) -> dict[str, PutBack]:
    """Write down what is put back now, and say what an earlier undo had begun to put back.

    Only what stands in the place of such a file may be a part of a copy that a power cut left.
    """
    begun = read_undoing(files, run)
    now = {}
    with contextlib.suppress(OSError):
        for entry in run.journal.entries:
            kept = kept_at(files, run.folder, entry) if entry.action is Action.QUARANTINE else None
            found = files.entry(kept) if kept and _occupant(files, volume_path(entry.source)) is None else None
            if kept and found:
                now[entry.source] = PutBack(source=entry.source, kept=windows_path(kept), file_number=found.identity[1])
        if now.items() - begun.items():
            write_undoing(files, run, (begun | now).values())
    return begun


def _restore(
    files: VolumeFiles, run: Run, entry: JournalEntry, rules: Sequence[Rule], begun: PutBack | None
) -> tuple[FileOutcome, str]:
    if entry.action is not Action.QUARANTINE:
        return FileOutcome.LEFT, "was deleted, not quarantined: it cannot be brought back"
    try:
        return _restore_quarantined(files, run, entry, rules, begun)
    except OSError as error:
        if begun is not None and error.errno == errno.EIO:
            return FileOutcome.FAILED, _CHECK_FIRST
        return FileOutcome.FAILED, f"could not be restored: {reason(error)}"


def _restore_quarantined(
    files: VolumeFiles, run: Run, entry: JournalEntry, rules: Sequence[Rule], begun: PutBack | None
) -> tuple[FileOutcome, str]:
    source = volume_path(entry.source)
    kept, occupant = kept_at(files, run.folder, entry), _occupant(files, source)
    if kept is None:
        if occupant is not None and not difference(files, occupant, entry):
            return _find_restored(files, run, entry, begun)
        if problem := what_is_kept(files, run.folder, entry):
            return FileOutcome.FAILED, f"its copy in quarantine is not what it was: {problem}"
        return FileOutcome.FAILED, "is no longer in quarantine"
    if why := _foreign(files, kept, entry, rules):
        return FileOutcome.FAILED, f"its copy in quarantine {why}: no run moves such a file, so it is not put back"
    if occupant is not None:
        if is_one_file(files, kept, occupant):
            kept = _settle_half_restored(files, run, entry, kept)
        elif not difference(files, occupant, entry):
            return _find_restored(files, run, entry, begun)
        elif occupant != source or begun is None or not _is_beginning(files, occupant, kept):
            return FileOutcome.FAILED, f"{windows_path(occupant)} is there already and is not overwritten"
        with contextlib.suppress(OSError):
            files.remove(occupant)
        if _occupant(files, source) is not None:
            return FileOutcome.FAILED, _CHECK_FIRST
    if problem := move(files, kept, source, entry):
        return FileOutcome.FAILED, problem
    drop_other_places(files, run.folder, entry, source)
    return FileOutcome.RESTORED, ""


def _find_restored(files: VolumeFiles, run: Run, entry: JournalEntry, begun: PutBack | None) -> tuple[FileOutcome, str]:
    drop_other_places(files, run.folder, entry, volume_path(entry.source))
    if begun is not None:
        files.settle_removal(volume_path(begun.kept), begun.file_number)
    return FileOutcome.RESTORED, "was already in its place"


def _settle_half_restored(files: VolumeFiles, run: Run, entry: JournalEntry, kept: VolumePath) -> VolumePath:
    """Give a file whose rename an earlier undo was cut off in a third, true name in quarantine; its new place there.

    Raises OSError.
    """
    place = free_place(files, run.folder, entry)
    if problem := move(files, kept, place, entry):
        raise OSError(errno.EIO, problem)
    return place


def _is_beginning(files: VolumeFiles, occupant: VolumePath, kept: VolumePath) -> bool:
    """Whether what stands in the file's place is the beginning of what is kept, as a copy that was cut off leaves it.

    What was not written yet reads as zeros, or not at all. Raises OSError.
    """
    with files.open_file(kept) as stream:
        whole = stream.read(_MOST_COMPARED)
    found = files.entry(occupant)
    if found is None or found.kind is not EntryKind.FILE or found.size > len(whole):
        return False
    try:
        with files.open_file(occupant) as stream:
            begun = stream.read(len(whole))
    except OSError as error:
        return error.errno == errno.EIO
    return whole.startswith(begun.rstrip(b"\0"))


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
        modified=utc_ns_text(entry.modified_ns),
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
