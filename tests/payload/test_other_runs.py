"""Runs that another image had to do without: it knew other rules, or its rules only report."""

from __future__ import annotations

import dataclasses

import pytest

from payload.contract import CROWDSTRIKE_CHANNEL_291, FileOutcome, Policy, Receipt, Rule, Verdict
from tests.payload.broken_windows import PowerCut
from tests.payload.fake_environment import (
    CHANNEL_FOLDER,
    FAULTY_PATH,
    FakeEnvironment,
    FakeVolume,
    MemoryFiles,
    volume,
    windows_files,
)
from tests.payload.session_runs import config, final_text, run

SECOND = "20240721T100000Z-0a1b2c3d"
THIRD = "20240722T100000Z-0a1b2c3d"
OTHER_PATH = f"{CHANNEL_FOLDER}\\other.bin"
OTHER = Rule(id="other", pattern="System32\\drivers\\CrowdStrike\\other.bin")
ONLY_REPORTED = dataclasses.replace(OTHER, policy=Policy.REPORT_ONLY)
BOTH = (CROWDSTRIKE_CHANNEL_291, OTHER)


def cut_off_before_the_first_move() -> MemoryFiles:
    files = windows_files()
    files.add(OTHER_PATH, b"other")
    files.fail["rename"] = PowerCut()
    with pytest.raises(PowerCut):
        run(FakeEnvironment(FakeVolume(volume(), files)), config(rules=BOTH))
    files.fail.clear()
    assert {FAULTY_PATH, OTHER_PATH} <= files.paths().keys()
    return files


def again(files: MemoryFiles, run_id: str, *rules: Rule) -> Receipt:
    return run(FakeEnvironment(FakeVolume(volume(), files)), config(rules=rules), run_id=run_id)


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ((CROWDSTRIKE_CHANNEL_291, ONLY_REPORTED), Verdict.REPORTED),
        ((CROWDSTRIKE_CHANNEL_291,), Verdict.REPAIRED),
    ],
    ids=["one rule only reports", "one rule is not known"],
)
def test_a_run_that_waited_finds_what_another_moved(rules: tuple[Rule, ...], wanted: Verdict) -> None:
    files = cut_off_before_the_first_move()
    second = again(files, SECOND, *rules)
    assert second.verdict is wanted
    assert FAULTY_PATH not in files.paths()
    assert OTHER_PATH in files.paths(), "its rule is not there, or only reports"
    third = again(files, THIRD, *BOTH)
    assert third.verdict is Verdict.REPAIRED, third.sentence
    found = {file.path: file for file in third.volumes[0].installations[0].files}
    assert {file.outcome for file in found.values()} == {FileOutcome.QUARANTINED}
    assert found[FAULTY_PATH].detail == f"was moved by run {SECOND}"
    assert SECOND in found[FAULTY_PATH].quarantined_as
    assert OTHER_PATH not in files.paths()
    assert again(files, "20240723T100000Z-0a1b2c3d", *BOTH).verdict is Verdict.ALREADY_CLEAN


def test_what_no_run_has_is_a_failure() -> None:
    files = cut_off_before_the_first_move()
    again(files, SECOND, CROWDSTRIKE_CHANNEL_291)
    files.writable = True
    (kept,) = (path for path in files.paths() if path.endswith(FAULTY_PATH) and path != FAULTY_PATH)
    files.remove(tuple(kept.split("\\")[1:]))
    third = again(files, THIRD, *BOTH)
    assert third.verdict is Verdict.FAILED
    assert "is neither in its place nor in quarantine" in third.sentence


def test_what_cannot_be_read_wants_chkdsk() -> None:
    files = windows_files()
    files.fail["open_file"] = OSError(5, "Input/output error")
    receipt = again(files, SECOND, CROWDSTRIKE_CHANNEL_291)
    assert receipt.verdict is Verdict.FAILED
    assert "could not be read" in receipt.sentence
    assert "Run chkdsk on this volume" in receipt.advice
    assert "chkdsk" in final_text(receipt)
