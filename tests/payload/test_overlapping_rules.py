"""Rules that name the same file: what one of them leaves alone is no word on what another is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from payload.contract import Action, Below, FileOutcome, Policy, Rule, TimeWindow, Verdict
from payload.environment.posix_files import PosixVolumeFiles
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291
from payload.rules import Decision, examine
from payload.windows_install import WindowsInstallation
from tests.payload.broken_windows import CHANNEL_FILES, make_windows
from tests.payload.fake_environment import FAULTY_PATH, FakeEnvironment, FakeVolume, volume, windows_files
from tests.payload.session_runs import config, run

PATTERN = "System32\\drivers\\CrowdStrike\\C-00000291*.sys"
CORRECTED = "c-00000291-00000000-00000033.SYS"
#: Names the same files, and is about another one.
ELSEWHERE = Rule(id="elsewhere", pattern="System32\\drivers\\CrowdStrike\\*.sys", sha256=("0" * 64,))
WATCHING = Rule(id="watching", pattern=PATTERN, policy=Policy.REPORT_ONLY, min_size=0)
#: The same channel's next incident.
NEXT = dataclasses.replace(
    CROWDSTRIKE_CHANNEL_291,
    id="next-incident",
    window=TimeWindow(faulty_from="2024-07-19T05:27:00Z", corrected_from="2024-07-19T09:00:00Z"),
    policy=Policy.FAULTY_ONLY,
)
ANYWHERE = Rule(
    id="anywhere", pattern="Windows\\System32\\drivers\\CrowdStrike\\C-*.sys", below=Below.VOLUME, min_size=0
)


def decided(root: Path, *rules: Rule) -> dict[str, Decision]:
    """The decision on each file, by its name."""
    make_windows(root)
    found = examine(PosixVolumeFiles(root), (WindowsInstallation(path=("Windows",)),), rules)
    decisions = [decision for examination in found for decision in examination.decisions]
    named = {decision.match.path[-1]: decision for decision in decisions}
    assert len(named) == len(decisions), "each file once"
    return named


@pytest.mark.parametrize(
    "rules",
    [
        (ELSEWHERE, CROWDSTRIKE_CHANNEL_291),
        (WATCHING, CROWDSTRIKE_CHANNEL_291),
        (CROWDSTRIKE_CHANNEL_291, WATCHING),
        (WATCHING, ELSEWHERE, CROWDSTRIKE_CHANNEL_291, NEXT),
    ],
)
def test_a_rule_that_does_not_act_hides_no_file_from_one_that_does(tmp_path: Path, rules: tuple[Rule, ...]) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    alone = decided(tmp_path / "alone", CROWDSTRIKE_CHANNEL_291)
    together = decided(tmp_path / "together", *rules)
    acted = {name for name, decision in alone.items() if decision.changes}
    assert len(acted) == len(CHANNEL_FILES) - 1, "all but the foreign one"
    assert {name for name, decision in together.items() if decision.changes} == acted
    assert all(together[name].match.rule.id == CROWDSTRIKE_CHANNEL_291.id for name in acted)


def test_the_next_incident_with_the_same_files(tmp_path: Path) -> None:
    """The built-in rule calls them corrected, and comes first."""
    make_windows(tmp_path)
    for path in (tmp_path / "Windows" / "System32" / "drivers" / "CrowdStrike").iterdir():
        if path.name not in (CORRECTED, "CSAgent.sys"):
            path.unlink()
    files, places = PosixVolumeFiles(tmp_path), (WindowsInstallation(path=("Windows",)),)
    found = examine(files, places, (CROWDSTRIKE_CHANNEL_291, NEXT))
    assert [(d.match.rule.id, d.match.path[-1], d.action) for examination in found for d in examination.decisions] == [
        (NEXT.id, CORRECTED, Action.QUARANTINE)
    ]


def test_of_two_that_act_the_first_decides_and_of_two_that_leave_it_too(tmp_path: Path) -> None:
    delete = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, id="delete", action=Action.DELETE)
    named = decided(tmp_path, delete, CROWDSTRIKE_CHANNEL_291, ANYWHERE)
    foreign = "C-00000291-00000000-00000038.sys"
    assert named[foreign].match.rule.id == ANYWHERE.id
    assert {d.match.rule.id for name, d in named.items() if name.startswith("C-00000291") and name != foreign} == {
        "delete"
    }
    assert named["C-00000290-00000000-00000001.sys"].match.rule.id == ANYWHERE.id


@pytest.mark.parametrize("first", [WATCHING, ELSEWHERE])
def test_a_host_with_such_rules_is_repaired(first: Rule) -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    receipt = run(environment, config(rules=(first, CROWDSTRIKE_CHANNEL_291)))
    assert receipt.verdict is Verdict.REPAIRED
    assert FAULTY_PATH not in files.paths()
    outcomes = [(f.path, f.rule, f.outcome) for f in receipt.volumes[0].installations[0].files]
    assert outcomes == [(FAULTY_PATH, CROWDSTRIKE_CHANNEL_291.id, FileOutcome.QUARANTINED)]
