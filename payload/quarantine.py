"""Move what the policy names into quarantine on the same volume (or delete it), and finish what was cut off.

`plan` describes and changes nothing. `apply` makes the protected folders, writes and syncs the journal, then moves file
by file and verifies each. The session writes the receipt last (`store.write_receipt`). Whatever instant the power goes
at, `interrupted` finds the run by its missing receipt and `complete` brings it to its end.

On NTFS a moved file keeps its name, times, attributes, security descriptor and content. Through ntfs-3g it loses its
8.3 short name, which nothing looks for a channel file by; it is not made up again.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from payload.classify import inspect
from payload.contract import QUARANTINE_FOLDER, FileOutcome, FileRecord, Journal, JournalEntry
from payload.environment import VolumeFiles, VolumePath, windows_path
from payload.moving import (
    difference,
    drop_other_places,
    entry_or_none,
    free_place,
    is_one_file,
    kept_at,
    move,
    what_is_kept,
)
from payload.rule_schema import Action, FileClass, Rule, utc_ns_text
from payload.rules import Decision, file_record
from payload.store import Run, choose_store, destination_of, journal_bytes, read_runs, volume_path, write_journal
from payload.windows_install import WindowsInstallation


@dataclass(frozen=True, kw_only=True)
class QuarantinePlan:
    """What `apply` will do: make `missing` folders, write `journal` into `folder`, act on `decisions` in order."""

    folder: VolumePath
    missing: tuple[VolumePath, ...]
    journal: Journal
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What became of one run: a record for each file. `run` is None where not even the journal could be written.

    `only_names` are the paths of files that are gone but for a name that nobody can look at: Windows takes it away when
    it checks the volume, for which it is flagged.
    """

    run: Run | None
    records: tuple[FileRecord, ...]
    notes: tuple[str, ...] = ()
    only_names: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something that was to be done was not."""
        return any(record.outcome is FileOutcome.FAILED for record in self.records)


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """Runs that have a journal and no receipt, and what was not believed.

    `waiting` are those that name a file whose rule only reports now: they stay as they are. `finished` are the runs
    that have a receipt; `only_names` are what these left (see RunResult).
    """

    runs: tuple[Run, ...] = ()
    waiting: tuple[Run, ...] = ()
    finished: tuple[Run, ...] = ()
    only_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(files: VolumeFiles, run_id: str, written: str, decisions: Sequence[Decision]) -> QuarantinePlan:
    """Describe the run that acts on those of the decisions that change something. `written` is the UTC time.

    Changes nothing. Raises StoreRefused where there is no safe place for the quarantine, and OSError.
    """
    store = choose_store(files, run_id)
    folder = (*store.path, QUARANTINE_FOLDER, run_id)
    acting = tuple(decision for decision in decisions if decision.changes)
    entries = tuple(_journal_entry(folder, decision) for decision in acting)
    return QuarantinePlan(
        folder=folder,
        missing=(*store.missing, folder),
        journal=Journal(run_id=run_id, written=written, entries=entries),
        decisions=acting,
        notes=store.notes,
    )


def apply(files: VolumeFiles, plan: QuarantinePlan) -> RunResult:
    """Do what the plan says. Never raises OSError: what could not be done is a FAILED record with a plain sentence."""
    if not plan.decisions:
        return RunResult(run=None, records=(), notes=plan.notes)
    try:
        journal_bytes(plan.journal)  # too large a journal is refused before even a folder is made
        for folder in plan.missing:
            files.make_directory(folder)
        write_journal(files, plan.folder, plan.journal)
    except OSError as error:
        why = f"nothing was changed: the journal could not be written ({reason(error)})"
        failed = tuple(file_record(decision, FileOutcome.FAILED, detail=why) for decision in plan.decisions)
        return RunResult(run=None, records=failed, notes=plan.notes)
    run = Run(folder=plan.folder, journal=plan.journal, receipt=False, undone=False)
    records = []
    for decision, entry in zip(plan.decisions, plan.journal.entries, strict=True):
        done = _act(files, run, entry)
        outcome, detail = done.outcome, done.detail or decision.reason
        if outcome is FileOutcome.LEFT:
            outcome, detail = FileOutcome.FAILED, f"it changed while it was being looked at ({detail})"
        records.append(file_record(decision, outcome, quarantined_as=done.kept_as, detail=detail))
    return RunResult(run=run, records=tuple(records), notes=plan.notes)


def interrupted(files: VolumeFiles, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]) -> Interrupted:
    """The runs that were cut off before their receipt. Changes nothing. Raises OSError."""
    found = read_runs(files, rules, installations)
    unfinished = [run for run in found.runs if not run.receipt and not run.undone]
    waiting = tuple(run for run in unfinished if any(_only_reported(entry, rules) for entry in run.journal.entries))
    finished = tuple(run for run in found.runs if run.receipt and not run.undone)
    return Interrupted(
        runs=tuple(run for run in unfinished if run not in waiting),
        waiting=waiting,
        finished=finished,
        only_names=tuple(name for run in finished for name in _names_left(files, run)),
        notes=(*found.refused, *found.notes),
    )


def _only_reported(entry: JournalEntry, rules: Sequence[Rule]) -> bool:
    """Whether the entry's rule only reports now; where it is unknown, whether all rules do."""
    judges = [rule for rule in rules if rule.id == entry.rule] or rules
    return all(rule.only_reports for rule in judges)


def complete(files: VolumeFiles, run: Run, rules: Sequence[Rule], others: Sequence[Run] = ()) -> RunResult:
    """Bring an interrupted run to its end, or find it done. The caller then writes its receipt.

    A file that is no longer what the journal says is left to a new run (outcome LEFT). One that is gone may be in the
    quarantine of one of the `others`, which had to do without this run. Never raises OSError.
    """
    records, notes, only_names = [], [], []
    for entry in run.journal.entries:
        done = _act(files, run, entry, others)
        records.append(_record_from_journal(files, entry, rules, done))
        if done.only_name:
            only_names.append(entry.source)
        if done.only_name or done.outcome in (FileOutcome.FAILED, FileOutcome.LEFT):
            notes.append(f"interrupted run {run.run_id}: {entry.source}: {done.detail}")
    return RunResult(run=run, records=tuple(records), notes=tuple(notes), only_names=tuple(only_names))


def complete_interrupted(
    files: VolumeFiles, rules: Sequence[Rule], installations: Sequence[WindowsInstallation]
) -> tuple[list[RunResult], tuple[str, ...]]:
    """Complete every interrupted run of the volume; the results and what was not believed. Raises OSError."""
    found = interrupted(files, rules, installations)
    return [complete(files, run, rules, found.finished) for run in found.runs], found.notes


def reason(error: OSError) -> str:
    """An OSError in words for the screen."""
    known = {
        errno.ENOSPC: "the volume is full",
        errno.EDQUOT: "the volume is full",
        errno.EROFS: "the volume can only be read",
        errno.EIO: "the disk reports an error",
        errno.EACCES: "access is denied",
        errno.EPERM: "access is denied",
        errno.EEXIST: "a file of that name is already there",
    }
    return known.get(error.errno or 0, error.strerror or str(error))


def _journal_entry(folder: VolumePath, decision: Decision) -> JournalEntry:
    match = decision.match
    action = decision.action or Action.REPORT
    kept = windows_path(destination_of(folder, match.path)) if action is Action.QUARANTINE else ""
    return JournalEntry(
        rule=match.rule.id,
        action=action,
        source=windows_path(match.path),
        destination=kept,
        size=match.entry.size,
        modified_ns=match.entry.modified_ns,
        sha256=match.sha256,
        file_number=match.entry.identity[1],
    )


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What became of one journal entry; `at` is where its file lies in quarantine. `only_name`: see RunResult."""

    outcome: FileOutcome
    detail: str = ""
    at: VolumePath | None = None
    only_name: bool = False

    @property
    def kept_as(self) -> str:
        return windows_path(self.at) if self.at else ""


#: What is said of RunResult.only_names.
ONLY_NAME = "its old name is left for Windows's check of the volume to remove"
_DONE = {Action.QUARANTINE: "moved", Action.DELETE: "deleted", Action.REPORT: "reported"}


def _act(files: VolumeFiles, run: Run, entry: JournalEntry, others: Sequence[Run] = ()) -> _Done:
    """Do, finish, or find done what one journal entry says. Never raises OSError."""
    try:
        if entry.action is Action.DELETE:
            return _delete(files, entry)
        return _quarantine(files, run, entry, others)
    except OSError as error:
        return _Done(outcome=FileOutcome.FAILED, detail=f"could not be {_DONE[entry.action]}: {reason(error)}")


def _delete(files: VolumeFiles, entry: JournalEntry) -> _Done:
    source = volume_path(entry.source)
    if _is_only_a_name(files, entry):
        return _Done(outcome=FileOutcome.DELETED, detail=f"was already deleted; {ONLY_NAME}", only_name=True)
    if files.entry(source) is None:
        files.settle_removal(source, entry.file_number)
        return _Done(outcome=FileOutcome.DELETED, detail="was already deleted")
    if problem := difference(files, source, entry):
        return _Done(outcome=FileOutcome.LEFT, detail=f"left to a new run: {problem}")
    files.remove(source)
    if files.entry(source) is not None:
        return _Done(outcome=FileOutcome.FAILED, detail="is still there after it was deleted")
    return _Done(outcome=FileOutcome.DELETED)


def _quarantine(files: VolumeFiles, run: Run, entry: JournalEntry, others: Sequence[Run]) -> _Done:
    source = volume_path(entry.source)
    kept = kept_at(files, run.folder, entry)
    if kept is not None and _is_only_a_name(files, entry):
        drop_other_places(files, run.folder, entry, kept)
        detail = f"was already moved; {ONLY_NAME}"
        return _Done(outcome=FileOutcome.QUARANTINED, detail=detail, at=kept, only_name=True)
    if files.entry(source) is None:
        return _find_moved(files, run, entry, kept, others)
    if problem := difference(files, source, entry):
        why = "it is there again, with the earlier one in quarantine" if kept else problem
        return _Done(outcome=FileOutcome.LEFT, detail=f"left to a new run: {why}")
    if kept is None or is_one_file(files, source, kept):
        kept = free_place(files, run.folder, entry)
        problem = move(files, source, kept, entry)
    else:
        files.remove(source)
        problem = "is still there after it was moved" if files.entry(source) is not None else ""
    if problem:
        return _Done(outcome=FileOutcome.FAILED, detail=problem)
    drop_other_places(files, run.folder, entry, kept)
    return _Done(outcome=FileOutcome.QUARANTINED, at=kept)


def _is_only_a_name(files: VolumeFiles, entry: JournalEntry) -> bool:
    """Whether a cut-off removal left the file's name, and no file. Raises OSError."""
    source = volume_path(entry.source)
    try:
        files.entry(source)
    except OSError:
        return files.is_left_to_check(source, entry.file_number)
    return False


def _names_left(files: VolumeFiles, run: Run) -> Iterator[str]:
    """The paths of files that a finished run took away and that are still listed (see RunResult)."""
    for entry in run.journal.entries:
        with contextlib.suppress(OSError):
            if not _is_only_a_name(files, entry):
                continue
            if entry.action is Action.DELETE or kept_at(files, run.folder, entry) is not None:
                yield entry.source


def _find_moved(
    files: VolumeFiles, run: Run, entry: JournalEntry, kept: VolumePath | None, others: Sequence[Run]
) -> _Done:
    """The file is not in its place: whether it is in quarantine."""
    if kept is not None:
        files.settle_removal(volume_path(entry.source), entry.file_number)
        drop_other_places(files, run.folder, entry, kept)
        return _Done(outcome=FileOutcome.QUARANTINED, detail="was already moved", at=kept)
    if problem := what_is_kept(files, run.folder, entry):
        return _Done(outcome=FileOutcome.FAILED, detail=f"its copy in quarantine is not what it was: {problem}")
    for other in others:
        if any(same.source == entry.source for same in other.journal.entries) and (
            place := kept_at(files, other.folder, entry)
        ):
            return _Done(outcome=FileOutcome.QUARANTINED, detail=f"was moved by run {other.run_id}", at=place)
    return _Done(outcome=FileOutcome.FAILED, detail="is neither in its place nor in quarantine")


def _record_from_journal(files: VolumeFiles, entry: JournalEntry, rules: Sequence[Rule], done: _Done) -> FileRecord:
    source = volume_path(entry.source)
    return FileRecord(
        path=entry.source,
        rule=entry.rule,
        file_class=_class_at(files, entry, rules, done.at or source, source[-1]),
        action=entry.action,
        outcome=done.outcome,
        size=entry.size,
        modified=utc_ns_text(entry.modified_ns),
        sha256=entry.sha256,
        quarantined_as=done.kept_as,
        detail=done.detail,
    )


def _class_at(files: VolumeFiles, entry: JournalEntry, rules: Sequence[Rule], path: VolumePath, name: str) -> FileClass:
    """What the file is, judged again where it lies now; OTHER where it cannot be judged (deleted, rule unknown)."""
    rule = next((rule for rule in rules if rule.id == entry.rule), None)
    try:
        found = entry_or_none(files, path)
    except OSError:
        found = None
    if rule is None or found is None:
        return FileClass.OTHER
    return inspect(files, rule, path, found, name=name).file_class
