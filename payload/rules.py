"""What to look for and what to do about it: runs the rules of `payload.rule_schema` on an open volume.

Looking and deciding change nothing: `find_matches` lists what a rule's pattern names and what each file turns out to
be, `decide` says what the rule's policy does with each of them and why.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from payload.contract import STORE_NAME, STORE_PARENT, FileOutcome, FileRecord
from payload.environment import Entry, EntryKind, ReparsePointInPath, VolumeFiles, VolumePath, windows_path
from payload.rule_schema import PROTECTED_FOLDERS, Action, Below, FileClass, HeaderField, Policy, Rule
from payload.windows_install import WindowsInstallation

_BLOCK = 1 << 20
#: Files above this size are read only where the rule itself speaks of larger ones.
_READ_AT_MOST = 64 << 20
#: Classes that no policy ever acts on: not the kind of file the rule is about, or nothing that can be judged.
_NEVER = (FileClass.FOREIGN, FileClass.OTHER)
_PLAINLY_BAD = (FileClass.FAULTY, FileClass.ZERO_FILLED, FileClass.TRUNCATED)


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What reading one file once told: its size in bytes, first bytes, whether all are zero, and its digest."""

    size: int
    head: bytes
    all_zero: bool
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """One entry that a rule's pattern named. `problem` is set where it could not be read: then nothing is known.

    `entry` is the directory entry as it was when it was read.
    """

    rule: Rule
    path: VolumePath
    entry: Entry
    file_class: FileClass
    reason: str
    sha256: str = ""
    problem: str = ""


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
    for index, installation in enumerate(installations):
        for rule in rules:
            if rule.below is Below.VOLUME and index > 0:
                continue
            findings = find_matches(files, installation, rule)
            decisions = tuple(decide(rule, findings.matches))
            examinations.append(
                Examination(installation=installation, rule=rule, findings=findings, decisions=decisions)
            )
    return _each_file_once(examinations)


def find_matches(files: VolumeFiles, installation: WindowsInstallation, rule: Rule) -> Findings:
    """Everything that `rule`'s pattern names below the installation (or the volume, as the rule says), classified.

    Never goes through a reparse point, into Bluelift's own store, or into the folders Windows needs to start.
    """
    search = _Search(files, rule)
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
        modified=utc_text(match.entry.modified_ns),
        sha256=match.sha256,
        quarantined_as=quarantined_as,
        detail=detail or match.problem or decision.reason,
    )


def utc_text(moment_ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 UTC with Z (whole microseconds, rounded down); empty where out of range."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_ns // 1000)
    except OverflowError:
        return ""
    return moment.isoformat().replace("+00:00", "Z")


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


# --- what a file is ----------------------------------------------------------------------------------------------


def read_content(files: VolumeFiles, path: VolumePath, head_length: int = 0) -> FileContent:
    """Read a file once, from end to end, in bounded memory. Raises OSError."""
    digest = hashlib.sha256()
    head = b""
    size = 0
    all_zero = True
    with files.open_file(path) as stream:
        while block := stream.read(_BLOCK):
            if len(head) < head_length:
                head += block[: head_length - len(head)]
            all_zero = all_zero and block.count(0) == len(block)
            digest.update(block)
            size += len(block)
    return FileContent(size=size, head=head, all_zero=all_zero, sha256=digest.hexdigest())


def classify(rule: Rule, name: str, content: FileContent, modified_ns: int) -> tuple[FileClass, str]:
    """What a file that the pattern named is, and the reason in a few words. Pure; never raises.

    A rule without magic and header knows nothing of what the file should start with, so nothing is truncated,
    zero-filled or foreign to it.
    """
    for step in (_by_substance, _by_header, _by_conditions):
        if judged := step(rule, name, content):
            return judged
    return _by_time(rule, modified_ns)


def inspect(files: VolumeFiles, rule: Rule, path: VolumePath, entry: Entry, *, name: str = "") -> Match:
    """Read and classify one entry. `name` is what the file was called where it is now called something else."""

    def other(reason: str, problem: str = "") -> Match:
        return Match(rule=rule, path=path, entry=entry, file_class=FileClass.OTHER, reason=reason, problem=problem)

    if entry.problem:
        return other("could not be looked at", _not_looked_at(path, entry))
    if entry.kind is not EntryKind.FILE:
        what = "a reparse point" if entry.kind is EntryKind.LINK else f"no ordinary file ({entry.kind.value})"
        return other(f"is {what}: never touched")
    if reason := _above_maximum(rule, entry.size) or _too_large(rule, entry.size):
        return other(reason)
    try:
        content = read_content(files, path, rule.header_length)
    except OSError as error:
        sentence = f"{windows_path(path)} could not be read: {error.strerror or error}"
        return other("could not be read", sentence)
    file_class, reason = classify(rule, name or entry.name, content, entry.modified_ns)
    return Match(rule=rule, path=path, entry=entry, file_class=file_class, reason=reason, sha256=content.sha256)


def _above_maximum(rule: Rule, size: int) -> str:
    """Why a file of `size` bytes is surely not one the rule is about; empty where only reading it can tell."""
    if rule.max_size is None or size <= rule.max_size or rule.header_length:
        return ""
    return f"has {size} bytes, the rule is about {rule.max_size} or fewer"


def _too_large(rule: Rule, size: int) -> str:
    """Why a file of `size` bytes is not read; empty where it is. A sparse file of 16 TiB takes hours and no space."""
    if rule.max_size is not None:
        limit = max(rule.max_size, _READ_AT_MOST)
    elif rule.sha256:
        return ""
    else:
        limit = _READ_AT_MOST
    return f"has {size} bytes, at most {limit} are read" if size > limit else ""


def _by_substance(rule: Rule, _name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Empty, zeroed, cut off, or another kind of file: what magic and length tell."""
    needed = rule.header_length
    if needed == 0:
        return None
    if content.size == 0:
        return FileClass.TRUNCATED, "is empty"
    if content.all_zero:
        return FileClass.ZERO_FILLED, f"all {content.size} bytes are zero"
    magic = bytes.fromhex(rule.magic)
    found = content.head[: len(magic)]
    if found != magic[: len(found)]:
        return FileClass.FOREIGN, f"starts with {found.hex(' ').upper()}, not with {magic.hex(' ').upper()}"
    if content.size < needed:
        return FileClass.TRUNCATED, f"has {content.size} bytes, its header alone has {needed}"
    return None


def _by_header(rule: Rule, name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Whether the header says what the name says."""
    groups: dict[str, str | None] = {}
    if rule.name_format:
        parsed = re.fullmatch(rule.name_format, name, re.IGNORECASE)
        if parsed is None:
            return FileClass.NAME_MISMATCH, "its name is not made as such a file's name is"
        groups = parsed.groupdict()
    for header_field in rule.header:
        found = int.from_bytes(content.head[header_field.offset :][: header_field.size], "little")
        if (wanted := _disagreement(header_field, found, groups)) is not None:
            return FileClass.NAME_MISMATCH, f"its header has {header_field.name} {found}, not {wanted}"
    return None


def _disagreement(header_field: HeaderField, found: int, groups: dict[str, str | None]) -> str | None:
    """What the field should have been, None where it is as it should be."""
    if header_field.equals is not None and found != header_field.equals:
        return str(header_field.equals)
    if header_field.in_name is not None:
        text = groups.get(header_field.in_name) or ""
        # isdecimal and not isdigit: int() takes "٣" but not "²".
        if not text.isdecimal() or int(text) != found:
            return f"{text or 'nothing'} as in its name"
    return None


def _by_conditions(rule: Rule, _name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Whether size and digest are those the rule asks for."""
    if rule.min_size is not None and content.size < rule.min_size:
        return FileClass.OTHER, f"has {content.size} bytes, the rule is about {rule.min_size} or more"
    if rule.max_size is not None and content.size > rule.max_size:
        return FileClass.OTHER, f"has {content.size} bytes, the rule is about {rule.max_size} or fewer"
    if rule.sha256 and content.sha256 not in rule.sha256:
        return FileClass.OTHER, "its sha256 is not one the rule names"
    return None


def _by_time(rule: Rule, modified_ns: int) -> tuple[FileClass, str]:
    if rule.window is None:
        return FileClass.FAULTY, "meets every condition of the rule"
    when = utc_text(modified_ns) or "a time out of range"
    if modified_ns < rule.window.faulty_from_ns:
        return FileClass.OLDER, f"modified {when}, before {rule.window.faulty_from}"
    if modified_ns < rule.window.corrected_from_ns:
        return FileClass.FAULTY, f"modified {when}, between {rule.window.faulty_from} and {rule.window.corrected_from}"
    return FileClass.CORRECTED, f"modified {when}, not before {rule.window.corrected_from}"


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

    def __init__(self, files: VolumeFiles, rule: Rule) -> None:
        self._files = files
        self._rule = rule
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
                self.problems.append(_not_looked_at(path, entry))
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
        elif not _above_maximum(self._rule, entry.size) and (reason := _too_large(self._rule, entry.size)):
            self.left_alone.append(f"{windows_path(path)} {reason}: not read and not touched")

    def _leave_link(self, path: VolumePath, consequence: str) -> None:
        self.left_alone.append(f"{windows_path(path)} is a reparse point: {consequence}")

    def _leave_special(self, path: VolumePath) -> None:
        # ntfs-3g shows an empty file with the SYSTEM attribute as a FIFO (as Interix marked them).
        self.left_alone.append(f"{windows_path(path)} is no ordinary file: not read and not touched")

    def _named(self, folder: VolumePath, pattern: str, *, folders: bool) -> list[Entry]:
        """What one part of a pattern names, sorted by name. With `folders`, whatever is no ordinary file."""
        try:
            named = self._files.scan(folder, partial(_names, pattern))
            found = [entry for entry in named if not (folders and entry.kind is EntryKind.FILE)]
            return sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except ReparsePointInPath:
            self._leave_link(folder, "what is below it was not looked at")
        except OSError as error:
            self.problems.append(f"{windows_path(folder)} could not be listed: {error.strerror or error}")
        return []


def _not_looked_at(path: VolumePath, entry: Entry) -> str:
    return f"{windows_path(path)} could not be looked at: {entry.problem}"


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
