"""What to look for and what to do about it: runs the rules of `payload.rule_schema` on an open volume.

Looking and deciding change nothing: `find_matches` lists what a rule's pattern names and what each file turns out to
be, `decide` says what the rule's policy does with each of them and why.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from payload.classify import Match, inspect, left_unread, not_looked_at
from payload.contract import STORE_NAME, STORE_PARENT, FileOutcome, FileRecord
from payload.environment import Entry, EntryKind, ReparsePointInPath, VolumeFiles, VolumePath, windows_path
from payload.rule_schema import PROTECTED_FOLDERS, Action, Below, FileClass, Policy, Rule, utc_ns_text
from payload.windows_install import WindowsInstallation

#: Classes that no policy ever acts on: not the kind of file the rule is about, or nothing that can be judged.
_NEVER = (FileClass.FOREIGN, FileClass.OTHER)
_PLAINLY_BAD = (FileClass.FAULTY, FileClass.ZERO_FILLED, FileClass.TRUNCATED)
#: In one volume and run. Users may make folders that look like Windows: what these cost has an end, and the journal of
#: so many, whatever their names, can be written.
MOST_MATCHES = 2000


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one rule found below one installation.

    `left_alone`: sentences about reparse points, special files and files too large to be read, which hide what may be
    bad (verdict LEFT ALONE).
    `problems`: what could not be looked at or read (verdict FAILED: nobody can say that such a volume is clean).
    `notes`: what else is worth a line.
    """

    matches: tuple[Match, ...] = ()
    notes: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens with one match, and why. `action` is None for what is left as it is."""

    match: Match
    action: Action | None
    reason: str

    @property
    def changes(self) -> bool:
        """Whether the file is to be moved or deleted."""
        return self.action in (Action.QUARANTINE, Action.DELETE)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """One rule on one installation: what was found and what is to be done."""

    installation: WindowsInstallation
    rule: Rule
    findings: Findings
    decisions: tuple[Decision, ...]


def examine(
    files: VolumeFiles, installations: Sequence[WindowsInstallation], rules: Sequence[Rule]
) -> list[Examination]:
    """Every rule on every installation of a volume, each rule for itself; each file is decided on by one of them.

    That is the first that acts on it, else the first that reports it, else the first that names it: a rule that leaves
    a file as it is says nothing about what another rule is for. Rules below the volume's root run once, with the first
    installation.
    """
    examinations = []
    room = MOST_MATCHES
    for index, installation in enumerate(installations):
        for rule in rules:
            if rule.below is Below.VOLUME and index > 0:
                continue
            findings = find_matches(files, installation, rule, most=room)
            room -= len(findings.matches)
            decisions = tuple(decide(rule, findings.matches))
            examinations.append(
                Examination(installation=installation, rule=rule, findings=findings, decisions=decisions)
            )
    return _each_file_once(examinations)


def find_matches(
    files: VolumeFiles, installation: WindowsInstallation, rule: Rule, *, most: int = MOST_MATCHES
) -> Findings:
    """Everything that `rule`'s pattern names below the installation (or the volume, as the rule says), classified.

    Never goes through a reparse point, into Bluelift's own store, or into the folders Windows needs to start. No more
    than `most` names are followed; that there are others is told.
    """
    search = _Search(files, rule, most)
    search.descend(() if rule.below is Below.VOLUME else installation.path, rule.pattern_parts)
    return Findings(
        matches=tuple(search.matches),
        notes=tuple(search.notes),
        left_alone=tuple(search.left_alone),
        problems=tuple(search.problems),
    )


def decide(rule: Rule, matches: Sequence[Match]) -> list[Decision]:
    """What `rule`'s policy does with each of the matches of one installation, in their order."""
    judged = [match for match in matches if match.file_class not in _NEVER]
    clean = all(match.file_class is FileClass.CORRECTED for match in judged)
    return [_decision(rule, match, all_corrected=clean) for match in matches]


def could_have_matched(rule: Rule, installation_path: VolumePath, path: VolumePath) -> bool:
    """Whether the rule's pattern names `path` below that installation: the only places undo may write to."""
    base = () if rule.below is Below.VOLUME else installation_path
    parts = path[len(base) :]
    return (
        path[: len(base)] == base
        and len(parts) == len(rule.pattern_parts)
        and all(map(_names, rule.pattern_parts, parts))
        and all(map(_usable_name, path))
        and not _forbidden(path)
    )


def any_could_have_matched(
    rules: Iterable[Rule], installations: Sequence[WindowsInstallation], path: VolumePath
) -> bool:
    """Whether one of the rules could have matched `path` below one of the installations."""
    return any(could_have_matched(rule, place.path, path) for rule in rules for place in installations)


def file_record(
    decision: Decision, outcome: FileOutcome | None = None, *, quarantined_as: str = "", detail: str = ""
) -> FileRecord:
    """The receipt's line on one file. Without an outcome: what is so when nothing was changed (also in a dry run)."""
    match = decision.match
    if outcome is None:
        reported = FileOutcome.REPORTED if decision.action is Action.REPORT else FileOutcome.LEFT
        outcome = FileOutcome.FAILED if match.problem else reported
    return FileRecord(
        path=windows_path(match.path),
        rule=match.rule.id,
        file_class=match.file_class,
        action=decision.action or Action.REPORT,
        outcome=outcome,
        size=match.entry.size,
        modified=utc_ns_text(match.entry.modified_ns),
        sha256=match.sha256,
        quarantined_as=quarantined_as,
        detail=detail or match.problem or decision.reason,
    )


def _each_file_once(examinations: Sequence[Examination]) -> list[Examination]:
    """The examinations with only those decisions that count."""
    counting: dict[VolumePath, Decision] = {}
    for decision in (decision for examination in examinations for decision in examination.decisions):
        held = counting.setdefault(decision.match.path, decision)
        if _weight(decision) > _weight(held):
            counting[decision.match.path] = decision
    return [
        replace(one, decisions=tuple(d for d in one.decisions if counting[d.match.path] is d)) for one in examinations
    ]


def _weight(decision: Decision) -> int:
    return 2 if decision.changes else 0 if decision.action is None else 1


# --- what happens with it ----------------------------------------------------------------------------------------


def _decision(rule: Rule, match: Match, *, all_corrected: bool) -> Decision:
    if match.file_class in _NEVER:
        return Decision(match=match, action=None, reason=match.reason)
    named, why = _policy_names(rule.policy, match.file_class, all_corrected=all_corrected)
    if not named:
        return Decision(match=match, action=None, reason=f"{match.reason}; {why}")
    action = Action.REPORT if rule.policy is Policy.REPORT_ONLY else rule.action
    return Decision(match=match, action=action, reason=f"{match.reason}; {why}")


def _policy_names(policy: Policy, file_class: FileClass, *, all_corrected: bool) -> tuple[bool, str]:
    if policy is Policy.FAULTY_ONLY:
        return file_class in _PLAINLY_BAD, f"policy {policy.value}"
    if policy is Policy.REPORT_ONLY:
        return file_class is not FileClass.CORRECTED, f"policy {policy.value}"
    if policy is Policy.VENDOR and all_corrected:
        return False, "every such file of this Windows is corrected"
    return True, f"policy {policy.value}"


# --- where to look -----------------------------------------------------------------------------------------------


class _Search:
    """One walk along a rule's pattern, component by component."""

    def __init__(self, files: VolumeFiles, rule: Rule, room: int) -> None:
        self._files = files
        self._rule = rule
        self._room = room
        self.matches: list[Match] = []
        self.notes: list[str] = []
        self.left_alone: list[str] = []
        self.problems: list[str] = []

    def descend(self, folder: VolumePath, pattern: tuple[str, ...]) -> None:
        """Look in `folder` for what the pattern's parts name, the first of them here."""
        for entry in self._named(folder, pattern[0], folders=len(pattern) > 1):
            path = (*folder, entry.name)
            if not _usable_name(entry.name):
                self.left_alone.append(f"{windows_path(path)} has a name that Windows cannot use: left alone")
            elif len(pattern) == 1:
                self._take(path, entry)
            elif entry.kind is EntryKind.DIRECTORY:
                if not _is_store(path):
                    self.descend(path, pattern[1:])
            elif entry.kind is EntryKind.LINK:
                self._leave_link(path, "what is below it was not looked at")
            elif entry.problem:
                self.problems.append(not_looked_at(path, entry))
            elif entry.kind is EntryKind.OTHER:
                self._leave_special(path)

    def _take(self, path: VolumePath, entry: Entry) -> None:
        if entry.kind is EntryKind.DIRECTORY:
            self.notes.append(f"{windows_path(path)} is a folder, not a file: not touched")
            return
        if _forbidden(path):
            self.notes.append(f"{windows_path(path)} is where no rule may act: not touched")
            return
        match = inspect(self._files, self._rule, path, entry)
        self.matches.append(match)
        if match.problem:
            self.problems.append(match.problem)
        if entry.kind is EntryKind.LINK:
            self._leave_link(path, "not read and not touched")
        elif entry.kind is EntryKind.OTHER and not entry.problem:
            self._leave_special(path)
        elif reason := left_unread(self._rule, entry.size):
            self.left_alone.append(f"{windows_path(path)} {reason}: not read and not touched")

    def _leave_link(self, path: VolumePath, consequence: str) -> None:
        self.left_alone.append(f"{windows_path(path)} is a reparse point: {consequence}")

    def _leave_rest(self) -> None:
        sentence = f"more than {MOST_MATCHES} files and folders are what rules name: the others wait for another run"
        if sentence not in self.left_alone:
            self.left_alone.append(sentence)

    def _leave_special(self, path: VolumePath) -> None:
        # ntfs-3g shows an empty file with the SYSTEM attribute as a FIFO (as Interix marked them).
        self.left_alone.append(f"{windows_path(path)} is no ordinary file: not read and not touched")

    def _named(self, folder: VolumePath, pattern: str, *, folders: bool) -> list[Entry]:
        """What one part of a pattern names, sorted by name. With `folders`, whatever is no ordinary file."""
        try:
            named = self._files.scan(folder, partial(_names, pattern))
            wanted = (entry for entry in named if not (folders and entry.kind is EntryKind.FILE))
            found = list(islice(wanted, self._room + 1))
            if len(found) > self._room:
                found.pop()
                self._leave_rest()
            self._room -= len(found)
            return sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except ReparsePointInPath:
            self._leave_link(folder, "what is below it was not looked at")
        except OSError as error:
            self.problems.append(f"{windows_path(folder)} could not be listed: {error.strerror or error}")
        return []


def _names(pattern: str, name: str) -> bool:
    """Whether one part of a pattern names `name`: * and ? only, without regard to case."""
    return fnmatch.fnmatchcase(name.casefold(), pattern.casefold().replace("[", "[[]"))


def _usable_name(name: str) -> bool:
    """A backslash in a name (Linux allows it) would make its path, written down, mean another file."""
    return bool(name) and name not in (".", "..") and not set(name) & {"\\", "/", "\0"}


def _is_store(path: VolumePath) -> bool:
    folded = [part.casefold() for part in path[:2]]
    return len(folded) == 2 and folded[0] == STORE_PARENT.casefold() and folded[1].startswith(STORE_NAME.casefold())


def _forbidden(path: VolumePath) -> bool:
    """Whether a file lies in a folder that Windows needs to start (below any Windows folder) or in Bluelift's store."""
    folders = [part.casefold() for part in path[:-1]]
    for start in (folders, folders[1:]):
        joined = "\\".join(start) + "\\"
        if any(joined.startswith(protected + "\\") for protected in PROTECTED_FOLDERS):
            return True
    return _is_store(path)
