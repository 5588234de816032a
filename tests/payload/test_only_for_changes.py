"""A volume that a power cut left so that nobody can look at it: mended only where a repair or an undo may change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from payload.contract import BUILT_IN_RULES, HibernatedVolumes, Policy, Verdict
from payload.environment import OnlyForChanges, OpenVolume, VolumeState
from payload.restore import restore
from tests.payload.fake_environment import FAULTY_PATH, FakeEnvironment, FakeVolume, MemoryFiles, volume, windows_files
from tests.payload.session_runs import RUN_ID, config, final_text, run, with_policy

NOTE = "The mirror was renewed."


class CutOff(FakeEnvironment):
    """Its volumes cannot be looked at before they have been opened for changes."""

    mended = False

    @contextmanager
    def open_volume(self, volume: Any, *, for_changes: bool) -> Iterator[OpenVolume]:
        if not for_changes and not self.mended:
            self.opened.append((volume.id, False))
            raise OnlyForChanges(VolumeState.UNCLEAN, "The power went. Nothing may be changed.", "Run chkdsk.")
        with super().open_volume(volume, for_changes=for_changes) as opened:
            if not self.mended:
                opened.notes.append(NOTE)
            self.mended = True
            yield opened


def cut_off(files: MemoryFiles, state: VolumeState = VolumeState.UNCLEAN) -> CutOff:
    return CutOff(FakeVolume(volume(state=state, detail="Asleep.", advice="Wake it."), files))


def test_a_repair_mends_it_first_and_then_says_what_it_will_do() -> None:
    files = windows_files()
    environment = cut_off(files)
    receipt = run(environment)
    assert receipt.verdict is Verdict.REPAIRED
    assert FAULTY_PATH not in files.paths()
    assert environment.opened == [("sda3", False), ("sda3", True), ("sda3", True)]
    assert list(receipt.volumes[0].notes).count(NOTE) == 1
    shown = environment.memory_screen.shown[-1]
    said = ("Will mend sda3", "Will quarantine 1 file on sda3")
    assert -1 < shown.index(said[0]) < shown.index(said[1])


def test_a_host_that_is_clean_is_mended_and_found_clean() -> None:
    environment = cut_off(windows_files(faulty=False))
    receipt = run(environment)
    assert receipt.verdict is Verdict.ALREADY_CLEAN
    assert NOTE in receipt.volumes[0].notes
    assert environment.fake_volumes[0].files.changes == []


@pytest.mark.parametrize("how", ["dry run", "report-only"])
def test_what_may_not_change_anything_does_not_mend(how: str) -> None:
    environment = cut_off(windows_files())
    settings = with_policy(Policy.REPORT_ONLY) if how == "report-only" else config()
    receipt = run(environment, settings, dry_run=how == "dry run")
    assert environment.opened == [("sda3", False)]
    assert receipt.verdict is Verdict.FAILED
    assert receipt.volumes[0].state == "unclean"
    assert 'Volume sda3 "Windows" could not be opened: The power went. Nothing may be changed.' in receipt.sentence
    assert "Run chkdsk." in final_text(receipt)


@pytest.mark.parametrize("policy", list(HibernatedVolumes))
def test_one_that_may_belong_to_a_hibernated_windows(policy: HibernatedVolumes) -> None:
    environment = cut_off(windows_files(), VolumeState.HIBERNATED)
    receipt = run(environment, config(hibernated=policy))
    if policy is HibernatedVolumes.DISCARD:
        assert receipt.verdict is Verdict.REPAIRED
        return
    assert receipt.verdict is Verdict.LEFT_ALONE
    assert receipt.volumes[0].detail == "Asleep"
    assert environment.opened == [("sda3", False)]


@pytest.mark.parametrize("dry_run", [True, False])
def test_undo(dry_run: bool) -> None:
    files = windows_files()
    before = files.paths()
    run(FakeEnvironment(FakeVolume(volume(), files)), run_id=RUN_ID)
    environment = cut_off(files)
    said: list[str] = []
    done = restore(environment, BUILT_IN_RULES, written="2024-07-21T00:00:00Z", dry_run=dry_run, say=said.append)
    assert done.exit_code == (Verdict.FAILED.exit_code if dry_run else 0)
    assert [changes for _, changes in environment.opened] == ([False] if dry_run else [False, True, True])
    assert (files.paths().get(FAULTY_PATH) == before[FAULTY_PATH]) is not dry_run
    assert ("could not be undone: The power went" in said[0]) is dry_run
