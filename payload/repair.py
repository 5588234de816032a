"""What is known about one open volume, what is done to it, and how it comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from payload import quarantine
from payload.contract import FileOutcome, FileRecord, InstallationRecord, Rule, Verdict, worst
from payload.environment import VolumeFiles, windows_path
from payload.quarantine import ONLY_NAME, RunResult
from payload.rule_schema import Action
from payload.rules import Examination, examine, file_record
from payload.store import Run, StoreRefused
from payload.verdict import done_all_the_same, done_text
from payload.windows_install import WindowsInstallation, WindowsSurvey, find_installations


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Everything that looking at a volume told; nothing was changed for it."""

    survey: WindowsSurvey
    examinations: tuple[Examination, ...]
    interrupted: quarantine.Interrupted

    @property
    def something_to_do(self) -> bool:
        """Whether the volume has to be changed."""
        return bool(self.interrupted.runs or self.files_to_change)

    @property
    def files_to_change(self) -> tuple[str, ...]:
        """The files that would be moved or deleted, each as `\\Windows\\...`."""
        return tuple(windows_path(d.match.path) for e in self.examinations for d in e.decisions if d.changes)

    @property
    def deletes(self) -> bool:
        """Whether one of the files is to be deleted rather than moved."""
        return any(d.action is Action.DELETE for e in self.examinations for d in e.decisions)


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """How a volume came out, ready for its record. `unread`: it failed, because something on it could not be read."""

    verdict: Verdict
    detail: str
    notes: tuple[str, ...]
    installations: tuple[InstallationRecord, ...]
    unread: bool = False


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done: the conclusion, every file that was acted on, and the runs that now need their receipt."""

    conclusion: Conclusion
    files: tuple[FileRecord, ...]
    runs: tuple[Run, ...]


def look(files: VolumeFiles, rules: Sequence[Rule]) -> Knowledge:
    """Find installations, interrupted runs and what the rules name. Changes nothing. Raises OSError."""
    survey = find_installations(files)
    return Knowledge(
        survey=survey,
        examinations=tuple(examine(files, survey.installations, rules)),
        interrupted=quarantine.interrupted(files, rules, survey.installations),
    )


def repair(files: VolumeFiles, rules: Sequence[Rule], *, run_id: str, written: str) -> Repair:
    """Complete interrupted runs, look again, quarantine what the rules name now. Raises OSError."""
    before = find_installations(files).installations
    completed, notes = quarantine.complete_interrupted(files, rules, before)
    knowledge = look(files, rules)
    decisions = [decision for examination in knowledge.examinations for decision in examination.decisions]
    refusal = ""
    results = list(completed)
    if any(decision.changes for decision in decisions):
        try:
            results.append(quarantine.apply(files, quarantine.plan(files, run_id, written, decisions)))
        except StoreRefused as error:
            refusal = str(error).rstrip(".")
    conclusion = conclude(knowledge, results, refusal=refusal)
    return Repair(
        conclusion=replace(conclusion, notes=tuple(dict.fromkeys((*conclusion.notes, *notes)))),
        files=tuple(record for result in results for record in result.records),
        runs=tuple(result.run for result in results if result.run is not None),
    )


def conclude(
    knowledge: Knowledge, results: Sequence[RunResult] = (), *, would_change: bool = False, refusal: str = ""
) -> Conclusion:
    """The verdict on a volume. `would_change`: nothing was done because of a dry run; `refusal`: why nothing could be.

    Several things may be true of a volume; the worst of them is its verdict.
    """
    acted = {record.path: record for result in results for record in result.records}
    installations = tuple(
        _installation_record(knowledge, installation, acted, would_change=would_change)
        for installation in knowledge.survey.installations
    )
    installations = _with_rest(installations, acted)
    records = [record for installation in installations for record in installation.files]
    left_alone, problems, notes = _remarks(knowledge, results)
    waiting = [*knowledge.interrupted.waiting, *(knowledge.interrupted.runs if would_change else ())]
    notes += [f"an interrupted run, {run.run_id}, waits: it is not completed where nothing may be changed" for run in waiting]  # fmt: skip  # noqa: E501
    if refusal:
        problems.insert(0, refusal)
    problems += [f"{record.path}: {record.detail}" for record in records if record.outcome is FileOutcome.FAILED]
    problems = list(dict.fromkeys(problems))
    unread = {*knowledge.survey.problems, *(text for e in knowledge.examinations for text in e.findings.problems)}
    true_of_it = [Verdict.ALREADY_CLEAN if installations else Verdict.NO_WINDOWS_FOUND]
    if any(result.run is not None for result in results):
        true_of_it.append(Verdict.REPAIRED)
    if any(record.outcome is FileOutcome.REPORTED for record in records) or (
        knowledge.interrupted.waiting or (would_change and knowledge.something_to_do)
    ):
        true_of_it.append(Verdict.REPORTED)
    if left_alone:
        true_of_it.append(Verdict.LEFT_ALONE)
    if problems:
        true_of_it.append(Verdict.FAILED)
    verdict = worst(true_of_it)
    return Conclusion(
        verdict=verdict,
        detail=_detail(verdict, installations, left_alone, problems)
        + (done_all_the_same(list(acted.values())) if verdict in (Verdict.FAILED, Verdict.LEFT_ALONE) else ""),
        notes=tuple(dict.fromkeys((*left_alone, *problems, *notes))),
        installations=installations,
        unread=verdict is Verdict.FAILED and problems[0] in unread,
    )


def _installation_record(
    knowledge: Knowledge,
    installation: WindowsInstallation,
    acted: dict[str, FileRecord],
    *,
    would_change: bool,
) -> InstallationRecord:
    records = []
    for examination in knowledge.examinations:
        if examination.installation.path != installation.path:
            continue
        for decision in examination.decisions:
            outcome = FileOutcome.REPORTED if would_change and decision.changes else None
            record = file_record(decision, outcome)
            if record.path in knowledge.interrupted.only_names:
                record = replace(
                    record, outcome=FileOutcome.LEFT, detail=f"was taken away by an earlier run; {ONLY_NAME}"
                )
            records.append(acted.get(record.path, record))
    return InstallationRecord(
        path=windows_path(installation.path),
        computer_name=installation.computer_name,
        product=installation.product,
        build=installation.build,
        detail=installation.detail,
        files=tuple(records),
    )


def _with_rest(
    installations: tuple[InstallationRecord, ...], acted: dict[str, FileRecord]
) -> tuple[InstallationRecord, ...]:
    """The files of completed runs, which are in their place no more, below the installation they came from."""
    known = {record.path for installation in installations for record in installation.files}
    rest = [record for path, record in acted.items() if path not in known]
    placed: list[InstallationRecord] = []
    for number, installation in enumerate(installations):
        below = tuple(record for record in rest if _owner(installations, record.path) == number)
        placed.append(replace(installation, files=(*installation.files, *below)))
    return tuple(placed)


def _owner(installations: Sequence[InstallationRecord], path: str) -> int:
    """The index of the installation that a path is below; the first for a path that is below none."""
    folded = path.casefold()
    for number, installation in enumerate(installations):
        if folded.startswith(f"{installation.path}\\".casefold()):
            return number
    return 0


def _remarks(knowledge: Knowledge, results: Sequence[RunResult]) -> tuple[list[str], list[str], list[str]]:
    """Why something was left alone, what could not be read, and what else goes into the receipt."""
    findings = [examination.findings for examination in knowledge.examinations]
    left_alone = [*knowledge.survey.left_alone, *(text for f in findings for text in f.left_alone)]
    settled = _settled(knowledge, results)
    problems = [*knowledge.survey.problems, *(text for f in findings for text in f.problems if text not in settled)]
    notes = [
        *knowledge.survey.notes,
        *knowledge.interrupted.notes,
        *(text for f in findings for text in f.notes),
        *(f"{path} was taken away by an earlier run; {ONLY_NAME}" for path in knowledge.interrupted.only_names),
        *(text for result in results for text in result.notes),
    ]
    return list(dict.fromkeys(left_alone)), problems, notes


def _settled(knowledge: Knowledge, results: Sequence[RunResult]) -> set[str]:
    """What could not be looked at and need not be: names of files that are in quarantine, whole (see RunResult)."""
    only_names = {path for result in results for path in result.only_names} | {*knowledge.interrupted.only_names}
    matches = [match for examination in knowledge.examinations for match in examination.findings.matches]
    return {match.problem for match in matches if windows_path(match.path) in only_names}


def _detail(
    verdict: Verdict,
    installations: Sequence[InstallationRecord],
    left_alone: Sequence[str],
    problems: Sequence[str],
) -> str:
    """The volume's line in the table."""
    if verdict is Verdict.FAILED:
        return problems[0]
    if verdict is Verdict.LEFT_ALONE:
        return left_alone[0]
    if verdict is Verdict.NO_WINDOWS_FOUND:
        return ""
    records = [record for installation in installations for record in installation.files]
    names = ", ".join(dict.fromkeys(i.computer_name or i.path for i in installations))
    done = done_text(records).replace("moved to quarantine", "quarantined")
    return f"{names}: {done}" if names else done
