"""Rules: what the policies do with a file, and where a pattern may and may not lead."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.classify import Match
from payload.contract import Action, Below, FileClass, FileOutcome, Policy, Rule
from payload.environment import Entry, EntryKind, VolumePath, posix_files
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.channel_file import channel_file_bytes
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291
from payload.rules import (
    Decision,
    any_could_have_matched,
    could_have_matched,
    decide,
    examine,
    file_record,
    find_matches,
)
from payload.windows_install import WindowsInstallation
from tests.payload.broken_windows import (
    CHANNEL_FILES,
    CROWDSTRIKE,
    DURING,
    NEIGHBOURS,
    FaultyOs,
    make_windows,
)

RULE = CROWDSTRIKE_CHANNEL_291
WINDOWS = WindowsInstallation(path=("Windows",))
NAME = "C-00000291-00000000-00000032.sys"
GOOD = channel_file_bytes(291, 32, 400)


# --- policies ----------------------------------------------------------------------------------------------------


def matches(*classes: FileClass, rule: Rule = RULE) -> list[Match]:
    return [
        Match(
            rule=rule, path=("Windows", str(i)), file_class=file_class, reason="because",
            entry=Entry(name=str(i), kind=EntryKind.FILE, size=1, modified_ns=0, identity=(1, i)),
        )
        for i, file_class in enumerate(classes)
    ]  # fmt: skip


ALL = tuple(FileClass)
C, F, X = FileClass.CORRECTED, FileClass.FAULTY, FileClass.FOREIGN


@pytest.mark.parametrize(
    ("policy", "classes", "acted_on"),
    [
        (Policy.VENDOR, ALL, set(ALL) - {FileClass.FOREIGN, FileClass.OTHER}),
        (Policy.VENDOR, (C, C), set()),
        (Policy.VENDOR, (C, X, FileClass.OTHER), set()),
        (Policy.VENDOR, (C, FileClass.OLDER), {C, FileClass.OLDER}),
        (Policy.VENDOR, (C, FileClass.NAME_MISMATCH), {C, FileClass.NAME_MISMATCH}),
        (Policy.VENDOR, (X,), set()),
        (Policy.VENDOR, (), set()),
        (Policy.VENDOR_ALL, ALL, set(ALL) - {FileClass.FOREIGN, FileClass.OTHER}),
        (Policy.VENDOR_ALL, (C, C), {C}),
        (Policy.FAULTY_ONLY, ALL, {F, FileClass.ZERO_FILLED, FileClass.TRUNCATED}),
        (Policy.REPORT_ONLY, ALL, set()),
    ],
)
def test_what_each_policy_acts_on(policy: Policy, classes: tuple[FileClass, ...], acted_on: set[FileClass]) -> None:
    rule = dataclasses.replace(RULE, policy=policy)
    decisions = decide(rule, matches(*classes, rule=rule))
    assert {decision.match.file_class for decision in decisions if decision.changes} == acted_on
    assert [decision.match.file_class for decision in decisions] == list(classes)
    assert all(decision.reason for decision in decisions)


def test_reporting_changes_nothing_and_names_what_is_bad() -> None:
    for rule in (
        dataclasses.replace(RULE, policy=Policy.REPORT_ONLY),
        dataclasses.replace(RULE, action=Action.REPORT),
    ):
        decisions = decide(rule, matches(F, X, FileClass.OLDER, rule=rule))
        assert [decision.action for decision in decisions] == [Action.REPORT, None, Action.REPORT]
        assert not any(decision.changes for decision in decisions)


def test_deletion_is_the_rules_word() -> None:
    rule = dataclasses.replace(RULE, action=Action.DELETE)
    assert decide(rule, matches(F, rule=rule))[0].action is Action.DELETE


def test_records_of_what_was_not_changed() -> None:
    (match,) = matches(F)
    left = file_record(Decision(match=match, action=None, reason="why"))
    assert (left.outcome, left.detail, left.action) == (FileOutcome.LEFT, "why", Action.REPORT)
    reported = file_record(Decision(match=match, action=Action.REPORT, reason="why"))
    assert reported.outcome is FileOutcome.REPORTED
    dry = file_record(Decision(match=match, action=Action.QUARANTINE, reason="why"))
    assert (dry.outcome, dry.action) == (FileOutcome.LEFT, Action.QUARANTINE)
    unread = dataclasses.replace(match, problem="could not be read")
    failed = file_record(Decision(match=unread, action=None, reason="why"))
    assert (failed.outcome, failed.detail) == (FileOutcome.FAILED, "could not be read")
    assert failed.path == r"\Windows\0"


# --- where a pattern leads ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    make_windows(tmp_path)
    return tmp_path


def test_every_class_is_found_and_no_neighbour(disk: Path) -> None:
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    assert {match.path[-1]: match.file_class for match in findings.matches} == {
        name: kind for name, (_, _, kind) in CHANNEL_FILES.items()
    }
    assert not {match.path[-1] for match in findings.matches} & set(NEIGHBOURS)
    assert (findings.notes, findings.left_alone, findings.problems) == ((), (), ())
    (match,) = [match for match in findings.matches if match.path[-1] == NAME]
    assert match.sha256 == hashlib.sha256(CHANNEL_FILES[NAME][0]).hexdigest()
    assert match.entry.modified_ns == DURING


def test_folders_that_differ_only_in_case_are_all_looked_into(disk: Path) -> None:
    other = disk / "Windows" / "SYSTEM32" / "Drivers" / "crowdstrike"
    other.mkdir(parents=True)
    (other / NAME).write_bytes(GOOD)
    found = [match.path for match in find_matches(PosixVolumeFiles(disk), WINDOWS, RULE).matches]
    assert ("Windows", "SYSTEM32", "Drivers", "crowdstrike", NAME) in found
    assert len(found) == len(CHANNEL_FILES) + 1


def test_reparse_points_are_left_alone_and_named(disk: Path, tmp_path: Path) -> None:
    vendor = disk.joinpath(*CROWDSTRIKE)
    (vendor / "C-00000291-link.sys").symlink_to(vendor / NAME)
    (vendor / "C-00000291-folder.sys").mkdir()
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    (link,) = [match for match in findings.matches if match.path[-1] == "C-00000291-link.sys"]
    assert (link.file_class, link.sha256) == (FileClass.OTHER, "")
    assert len(findings.left_alone) == 1
    assert findings.left_alone[0].endswith(r"\C-00000291-link.sys is a reparse point: not read and not touched")
    assert len(findings.notes) == 1
    vendor.rename(disk / "elsewhere")
    vendor.symlink_to(disk / "elsewhere")
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    assert findings.matches == ()
    assert findings.left_alone == (
        r"\Windows\System32\drivers\CrowdStrike is a reparse point: what is below it was not looked at",
    )


def test_a_windows_folder_that_became_a_reparse_point(disk: Path) -> None:
    (disk / "Windows").rename(disk / "Real")
    (disk / "Windows").symlink_to("Real")
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    assert findings.matches == ()
    assert len(findings.left_alone) == 1
    assert find_matches(PosixVolumeFiles(disk), WindowsInstallation(path=("None",)), RULE).left_alone == ()


def test_what_cannot_be_read_is_a_problem(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BadSectors(FaultyOs):
        def fdopen(self, descriptor: int, *rest: object) -> object:
            raise OSError(5, "Input/output error")

    files = PosixVolumeFiles(disk)
    monkeypatch.setattr(posix_files, "os", BadSectors())
    findings = find_matches(files, WINDOWS, RULE)
    assert len(findings.problems) == len(CHANNEL_FILES)
    assert {match.file_class for match in findings.matches} == {FileClass.OTHER}
    assert not any(decision.changes for decision in decide(RULE, findings.matches))

    class BadFolder(FaultyOs):
        def scandir(self, descriptor: int) -> object:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(posix_files, "os", BadFolder())
    assert find_matches(files, WINDOWS, RULE).problems == (r"\Windows could not be listed: Input/output error",)


class BadRecord(FaultyOs):
    """`os` on a volume where one entry's record is damaged: it is listed, and cannot be looked at."""

    def stat(self, name: str, **keywords: Any) -> os.stat_result:
        if name == self.damaged:
            raise OSError(5, "Input/output error")
        return os.stat(name, **keywords)  # noqa: PTH116 - takes dir_fd

    damaged = ""


@pytest.mark.parametrize("damaged", ["CrowdStrike", NAME])
def test_what_cannot_be_looked_at_is_a_problem(disk: Path, monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    bad = BadRecord()
    bad.damaged = damaged
    monkeypatch.setattr(posix_files, "os", bad)
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    (problem,) = findings.problems
    assert problem.endswith(f"\\{damaged} could not be looked at: Input/output error")
    assert findings.left_alone == ()
    found = [match for match in findings.matches if match.path[-1] == NAME]
    assert [(match.file_class, match.problem) for match in found] == (
        [(FileClass.OTHER, problem)] if damaged == NAME else []
    )
    assert not any(decision.changes for decision in decide(RULE, found))


class CountingFiles(PosixVolumeFiles):
    """Files on a volume, and how many of them were opened."""

    opened = 0

    def open_file(self, path: VolumePath) -> BinaryIO:
        self.opened += 1
        return super().open_file(path)


SMALL_DRIVER = Rule(id="x", pattern="big.sys", max_size=100)
SOME_DIGEST = Rule(id="x", pattern="big.sys", sha256=("0" * 64,))
MAGIC = Rule(id="x", pattern="big.sys", magic="AAAAAAAA")


@pytest.mark.parametrize(
    ("rule", "size", "read", "left_alone", "wanted"),
    [
        (MAGIC, 64 << 20, True, False, FileClass.ZERO_FILLED),
        (MAGIC, (64 << 20) + 1, False, True, FileClass.OTHER),
        (MAGIC, 1 << 40, False, True, FileClass.OTHER),
        (dataclasses.replace(MAGIC, max_size=65 << 20), 65 << 20, True, False, FileClass.ZERO_FILLED),
        (dataclasses.replace(MAGIC, max_size=65 << 20), (65 << 20) + 1, False, True, FileClass.OTHER),
        (dataclasses.replace(MAGIC, max_size=100), 101, True, False, FileClass.ZERO_FILLED),
        (dataclasses.replace(MAGIC, max_size=100), 1 << 40, False, True, FileClass.OTHER),
        (SMALL_DRIVER, 100, True, False, FileClass.FAULTY),
        (SMALL_DRIVER, 101, False, False, FileClass.OTHER),
        (SMALL_DRIVER, 1 << 40, False, False, FileClass.OTHER),
        (Rule(id="x", pattern="big.sys", min_size=5), 1 << 40, False, True, FileClass.OTHER),
        (SOME_DIGEST, 65 << 20, True, False, FileClass.OTHER),
        (dataclasses.replace(SOME_DIGEST, max_size=100), 101, False, False, FileClass.OTHER),
    ],
)
def test_a_file_too_large_to_be_meant_is_not_read(
    disk: Path, rule: Rule, size: int, *, read: bool, left_alone: bool, wanted: FileClass
) -> None:
    with (disk / "Windows" / "big.sys").open("wb") as stream:
        stream.truncate(size)
    files = CountingFiles(disk)
    findings = find_matches(files, WINDOWS, rule)
    (match,) = findings.matches
    assert (match.file_class, files.opened, match.problem) == (wanted, int(read), "")
    said = [sentence for sentence in findings.left_alone if "\\big.sys has " in sentence and "not read" in sentence]
    assert (len(said), len(findings.left_alone)) == (int(left_alone), int(left_alone))
    assert read or str(size) in match.reason


def test_special_files_are_left_alone_and_named(disk: Path) -> None:
    vendor = disk.joinpath(*CROWDSTRIKE)
    os.mkfifo(vendor / "C-00000291-fifo.sys")
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    (fifo,) = [match for match in findings.matches if match.path[-1] == "C-00000291-fifo.sys"]
    assert (fifo.file_class, fifo.problem, findings.problems) == (FileClass.OTHER, "", ())
    (said,) = findings.left_alone
    assert said.endswith(r"\C-00000291-fifo.sys is no ordinary file: not read and not touched")
    vendor.rename(disk / "elsewhere")
    os.mkfifo(vendor)
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    assert (findings.matches, findings.problems) == ((), ())
    assert findings.left_alone == (
        r"\Windows\System32\drivers\CrowdStrike is no ordinary file: not read and not touched",
    )


def test_a_name_with_a_backslash_is_left_alone(disk: Path) -> None:
    """Written down, its path would be that of another file."""
    (disk.joinpath(*CROWDSTRIKE) / "C-00000291-a\\b.sys").write_bytes(GOOD)
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, RULE)
    assert len(findings.matches) == len(CHANNEL_FILES)
    assert "has a name that Windows cannot use" in findings.left_alone[0]


def test_wildcards_reach_neither_hives_nor_the_store(disk: Path) -> None:
    store = disk / "ProgramData" / "Bluelift.3"
    store.mkdir()
    (store / "SYSTEM").write_bytes(b"x")
    (disk / "Boot" / "sub").mkdir(parents=True)
    (disk / "Boot" / "sub" / "SYSTEM").write_bytes(b"x")
    in_windows = Rule(id="x", pattern="*\\*\\SYSTEM", min_size=0)
    findings = find_matches(PosixVolumeFiles(disk), WINDOWS, in_windows)
    assert findings.matches == ()
    assert findings.notes == (r"\Windows\System32\config\SYSTEM is where no rule may act: not touched",)
    for pattern in ("*\\*\\*\\SYSTEM", "*\\*\\SYSTEM"):
        rule = Rule(id="x", pattern=pattern, below=Below.VOLUME, min_size=0)
        findings = find_matches(PosixVolumeFiles(disk), WINDOWS, rule)
        assert findings.matches == ()
        assert len(findings.notes) == 1


def test_square_brackets_are_only_themselves(disk: Path) -> None:
    (disk / "Windows" / "file[1].txt").write_bytes(b"x")
    (disk / "Windows" / "file1.txt").write_bytes(b"x")
    rule = Rule(id="x", pattern="file[1].txt")
    assert [m.path[-1] for m in find_matches(PosixVolumeFiles(disk), WINDOWS, rule).matches] == ["file[1].txt"]


def test_examine_gives_each_file_to_the_first_rule_that_names_it(tmp_path: Path) -> None:
    make_windows(tmp_path)
    make_windows(tmp_path, folder="Win2")
    (tmp_path / "root.bad").write_bytes(b"x")
    again = dataclasses.replace(RULE, id="again")
    at_root = Rule(id="at-root", pattern="root.bad", below=Below.VOLUME)
    places = (WINDOWS, WindowsInstallation(path=("Win2",)))
    found = examine(PosixVolumeFiles(tmp_path), places, (RULE, again, at_root))
    counted = [(e.installation.path, e.rule.id, len(e.decisions)) for e in found]
    many = len(CHANNEL_FILES)
    assert counted == [
        (("Windows",), RULE.id, many), (("Windows",), "again", 0), (("Windows",), "at-root", 1),
        (("Win2",), RULE.id, many), (("Win2",), "again", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ((*CROWDSTRIKE, NAME), True),
        (("Windows", "SYSTEM32", "Drivers", "crowdstrike", "c-00000291X.SYS"), True),
        (("Windows", "System32", "config", "SYSTEM"), False),
        (("Other", *CROWDSTRIKE[1:], NAME), False),
        (("windows", *CROWDSTRIKE[1:], NAME), False),
        (CROWDSTRIKE, False),
        ((*CROWDSTRIKE, "sub", NAME), False),
        ((*CROWDSTRIKE, "C-00000290-x.sys"), False),
        ((*CROWDSTRIKE[:3], "..", "C-00000291.sys"), False),
        ((*CROWDSTRIKE, "C-00000291\\..\\..\\config\\SAM.sys"), False),
        ((), False),
        (("Windows",), False),
    ],
)
def test_what_undo_may_write_to(path: VolumePath, wanted: bool) -> None:
    assert could_have_matched(RULE, ("Windows",), path) is wanted
    assert any_could_have_matched((RULE,), (WINDOWS,), path) is wanted
    assert not any_could_have_matched((RULE,), (), path)


def test_undo_never_writes_where_no_rule_may_act() -> None:
    rule = Rule(id="x", pattern="*\\*\\*\\S*", below=Below.VOLUME, min_size=0)
    assert could_have_matched(rule, ("Windows",), ("a", "b", "c", "Sx"))
    assert not could_have_matched(rule, ("Windows",), ("Windows", "System32", "config", "SYSTEM"))
    assert not could_have_matched(rule, ("Windows",), ("ProgramData", "Bluelift", "quarantine", "Sx"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=7))
def test_could_have_matched_never_raises_and_agrees_with_the_search(parts: list[str]) -> None:
    path = tuple(parts)
    assert could_have_matched(RULE, ("Windows",), path) in (True, False)
    assert not could_have_matched(RULE, ("Windows",), (*CROWDSTRIKE[:-1], *path)) or len(path) == 2
