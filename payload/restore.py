"""`--undo` on every volume: put back what runs of Bluelift quarantined, and say so file by file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from payload.contract import FileOutcome, FileRecord, Rule, Verdict
from payload.environment import Environment, OnlyForChanges, Volume, VolumeNotOpened, VolumeState
from payload.undo import UndoPlan, plan_undo, undo
from payload.verdict import error_note, error_sentence, state_detail
from payload.windows_install import find_installations


@dataclass(frozen=True, kw_only=True)
class RestoredVolume:
    """What `--undo` did on one volume. `problem` is why it could not be opened or, after `files`, not closed well.

    `waiting`: what a dry run would restore. `refused`: runs that were not believed or whose journal cannot be read.
    """

    volume: str
    files: tuple[FileRecord, ...] = ()
    waiting: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What `--undo` did; as JSON it is what `--undo --json` prints."""

    started: str
    dry_run: bool
    volumes: tuple[RestoredVolume, ...]

    @property
    def exit_code(self) -> int:
        """0 when everything that was to be restored is in its place."""
        failed = any(
            volume.problem or volume.refused or any(file.outcome is FileOutcome.FAILED for file in volume.files)
            for volume in self.volumes
        )
        return Verdict.FAILED.exit_code if failed else 0


def restore(
    environment: Environment, rules: Sequence[Rule], *, written: str, dry_run: bool, say: Callable[[str], None]
) -> Restoration:
    """Undo every run on every volume that can be opened; `say` gets a line for each file and each problem."""
    volumes = []
    for volume in environment.volumes():
        if volume.state is VolumeState.NOT_WINDOWS:
            continue
        restored = _restore_volume(environment, volume, rules, written=written, dry_run=dry_run)
        for line in _lines(restored):
            say(line)
        volumes.append(restored)
    if not any(volume.files or volume.waiting or volume.refused or volume.problem for volume in volumes):
        say("Nothing to undo: no quarantined files were found.")
    return Restoration(started=written, dry_run=dry_run, volumes=tuple(volumes))


def _restore_volume(
    environment: Environment, volume: Volume, rules: Sequence[Rule], *, written: str, dry_run: bool
) -> RestoredVolume:
    restored = RestoredVolume(volume=volume.id)
    try:
        planned = _look(environment, volume, rules, dry_run=dry_run)
        if dry_run or not planned.runs:
            waiting = tuple(entry.source for run in planned.runs for entry in run.journal.entries)
            return replace(restored, waiting=waiting, refused=(*planned.refused, *planned.notes))
        with environment.open_volume(volume, for_changes=True) as opened:
            installations = find_installations(opened.files).installations
            results, refused = undo(opened.files, rules, installations, written)
            files = tuple(record for result in results for record in result.records)
            restored = replace(restored, files=files, refused=refused)
        return replace(restored, notes=tuple(opened.notes))
    except VolumeNotOpened as refusal:
        return replace(restored, problem=refusal.detail or state_detail(refusal.state))
    except Exception as error:  # as in a repair: one volume never stops the others
        return replace(restored, problem=error_sentence(error), notes=(error_note(error),))


def _look(environment: Environment, volume: Volume, rules: Sequence[Rule], *, dry_run: bool) -> UndoPlan:
    """What there is to undo. Changes nothing, or nothing but what a power cut left so that nobody can look."""

    def planned(*, for_changes: bool) -> UndoPlan:
        with environment.open_volume(volume, for_changes=for_changes) as opened:
            return plan_undo(opened.files, rules, find_installations(opened.files).installations)

    try:
        return planned(for_changes=False)
    except OnlyForChanges:
        if dry_run:
            raise
    return planned(for_changes=True)


def _lines(restored: RestoredVolume) -> list[str]:
    failed = "could not be closed well" if restored.files else "could not be undone"
    lines = [f"{restored.volume}: {failed}: {restored.problem}"] if restored.problem else []
    for file in restored.files:
        detail = f" ({file.detail})" if file.detail else ""
        lines.append(f"{restored.volume}: {file.outcome.value:<9} {file.path}{detail}")
    lines += [f"{restored.volume}: would restore {path}" for path in restored.waiting]
    lines += [f"{restored.volume}: refused: {sentence}" for sentence in restored.refused]
    return lines + [f"{restored.volume}: {note}" for note in restored.notes]
