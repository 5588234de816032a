"""Quarantine: what moves, what stays, and that a power cut or a full disk at any step loses and doubles nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from payload.contract import Action, FileClass, FileOutcome, Policy, Rule
from payload.environment import VolumeFiles, posix_files
from payload.environment.posix_files import PosixVolumeFiles
from payload.quarantine import apply, complete, complete_interrupted, interrupted, plan
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291
from payload.rules import Decision, examine
from payload.store import Run, StoreRefused, choose_store, new_run_id, read_runs, volume_path, write_receipt
from payload.windows_install import find_installations
from tests.payload.broken_windows import (
    CHANNEL_FILES,
    CROWDSTRIKE,
    FaultyOs,
    PowerCut,
    make_windows,
    outcomes,
    repair,
    snapshot,
)

RULES = (CROWDSTRIKE_CHANNEL_291,)
RUN = "20240720T120000Z-0123abcd"
STORE = Path("ProgramData/Bluelift")
ACTED_ON = {name for name, (_, _, kind) in CHANNEL_FILES.items() if kind is not FileClass.FOREIGN}
FOLDER = Path(*CROWDSTRIKE)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    make_windows(tmp_path)
    return tmp_path


def decisions_on(files: PosixVolumeFiles, rules: tuple[Rule, ...] = RULES) -> list[Decision]:
    installations = find_installations(files).installations
    return [decision for found in examine(files, installations, rules) for decision in found.decisions]


def kept_files(disk: Path) -> dict[str, tuple[str, int]]:
    """Quarantined files by their original path."""
    found = {}
    for path, what in snapshot(disk).items():
        parts = Path(path).parts
        if parts[0] == "ProgramData" and parts[1].startswith("Bluelift") and "files" in "".join(parts[4:5]):
            original = str(Path(*parts[5:]))
            assert original not in found, f"{original} is in quarantine twice"
            found[original] = what
    return found


def assert_nothing_lost_or_doubled(disk: Path, before: dict[str, tuple[str, int]], where: object = "") -> None:
    after = snapshot(disk)
    kept = kept_files(disk)
    for path, what in before.items():
        places = [found for found in (after.get(path), kept.get(path)) if found is not None]
        assert places == [what], (path, where)
    others = {path for path in after if not path.startswith("ProgramData/Bluelift")}
    assert others <= set(before), where


# --- the main path -----------------------------------------------------------------------------------------------


def test_what_the_policy_names_moves_and_nothing_else_changes(disk: Path) -> None:
    before = snapshot(disk)
    results = repair(PosixVolumeFiles(disk))
    assert outcomes(results) == dict.fromkeys(ACTED_ON, FileOutcome.QUARANTINED)
    assert set(kept_files(disk)) == {str(FOLDER / name) for name in ACTED_ON}
    assert_nothing_lost_or_doubled(disk, before)
    (run,) = list((disk / STORE / "quarantine").iterdir())
    assert {path.name for path in run.iterdir()} == {"journal.json", "receipt.json", "files"}
    journal = json.loads((run / "journal.json").read_text("ascii"))
    assert journal["run_id"] == run.name
    assert len(journal["entries"]) == len(ACTED_ON)
    (record,) = [record for record in results[0].records if record.path.endswith("00000032.sys")]
    assert record.file_class is FileClass.FAULTY
    assert record.modified == "2024-07-19T04:09:00Z"
    assert record.quarantined_as == rf"\ProgramData\Bluelift\quarantine\{run.name}\files{record.path}"


def test_a_second_run_finds_nothing_to_do(disk: Path) -> None:
    repair(PosixVolumeFiles(disk))
    after = snapshot(disk)
    assert repair(PosixVolumeFiles(disk)) == []
    assert snapshot(disk) == after


def test_every_folder_of_the_store_is_protected(disk: Path) -> None:
    old = os.umask(0)
    try:
        repair(PosixVolumeFiles(disk))
    finally:
        os.umask(old)
    files = PosixVolumeFiles(disk)
    folders = [path for path in (disk / STORE).rglob("*") if path.is_dir()]
    assert len(folders) == 7
    for folder in (disk / STORE, *folders):
        assert files.is_protected(folder.relative_to(disk).parts), folder
        assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (disk / STORE).rglob("*.json"))


def test_planning_and_looking_change_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = FaultyOs()
    monkeypatch.setattr(posix_files, "os", faulty)
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files))
    interrupted(files, RULES, find_installations(files).installations)
    assert faulty.log == []
    assert described.folder == ("ProgramData", "Bluelift", "quarantine", RUN)
    assert [path[-1] for path in described.missing] == ["Bluelift", "quarantine", RUN]


def test_delete_removes_and_journals(disk: Path) -> None:
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=Action.DELETE, policy=Policy.FAULTY_ONLY)
    before = snapshot(disk)
    results = repair(PosixVolumeFiles(disk), (rule,))
    deleted = {name for name, outcome in outcomes(results).items() if outcome is FileOutcome.DELETED}
    assert deleted == {f"C-00000291-00000000-000000{n}.sys" for n in (32, 34, 35, 36)}
    gone = set(before) - set(snapshot(disk))
    assert gone == {str(FOLDER / name) for name in deleted}
    assert kept_files(disk) == {}


def test_report_only_makes_no_store(disk: Path) -> None:
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, policy=Policy.REPORT_ONLY)
    before = snapshot(disk)
    assert repair(PosixVolumeFiles(disk), (rule,)) == []
    files = PosixVolumeFiles(disk)
    nothing = apply(files, plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files, (rule,))))
    assert nothing.run is None
    assert nothing.records == ()
    assert snapshot(disk) == before
    assert not (disk / STORE).exists()


def test_a_file_that_changes_after_the_look_is_not_moved(disk: Path) -> None:
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files))
    changed = disk / FOLDER / "C-00000291-00000000-00000032.sys"
    changed.write_bytes(b"another content, another time")
    (disk / FOLDER / "C-00000291-00000000-00000029.sys").unlink()
    result = apply(files, described)
    assert result.failed
    by_name = {record.path.rsplit("\\", 1)[1]: record for record in result.records}
    assert by_name[changed.name].outcome is FileOutcome.FAILED
    assert "changed while" in by_name[changed.name].detail
    assert by_name["C-00000291-00000000-00000029.sys"].outcome is FileOutcome.FAILED
    assert changed.read_bytes() == b"another content, another time"


def test_run_ids_are_utc_and_differ() -> None:
    here = datetime(2024, 7, 19, 14, 0, 0, tzinfo=timezone(timedelta(hours=2)))
    first, second = new_run_id(here), new_run_id(here)
    assert first.startswith("20240719T120000Z-")
    assert first != second
    assert datetime.strptime(first[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) == here


@pytest.mark.parametrize("text", ["", "\\", "Windows", "\\..\\x", "\\a\\\\b", "\\a\\.", "\\a/b", "C:\\x", "\\a\0b"])
def test_paths_that_were_never_written(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        volume_path(text)


# --- where the store may be --------------------------------------------------------------------------------------


def test_a_planted_folder_is_passed_over(disk: Path) -> None:
    (disk / STORE).mkdir(mode=0o777)
    (disk / STORE).chmod(0o777)
    (disk / "ProgramData" / "BLUELIFT.1").symlink_to(disk / "Windows")
    (disk / "ProgramData" / "Bluelift.2").write_text("a file")
    (disk / "ProgramData" / "Bluelift.3").mkdir(mode=0o700)
    (disk / "ProgramData" / "Bluelift.3" / "quarantine").mkdir()
    (disk / "ProgramData" / "Bluelift.3" / "quarantine").chmod(0o755)
    (disk / "ProgramData" / "Bluelift.4").mkdir(mode=0o700)
    (disk / "ProgramData" / "bluelift.4").mkdir(mode=0o700)
    before = snapshot(disk)
    (result,) = repair(PosixVolumeFiles(disk))
    assert result.run is not None
    assert result.run.folder[:2] == ("ProgramData", "Bluelift.5")
    assert [note.split(" was not used: ")[0] for note in result.notes] == [
        r"\ProgramData\Bluelift", r"\ProgramData\BLUELIFT.1", r"\ProgramData\Bluelift.2", r"\ProgramData\Bluelift.3",
        r"\ProgramData\Bluelift.4",
    ]  # fmt: skip
    assert_nothing_lost_or_doubled(disk, before)
    assert list((disk / STORE).iterdir()) == []


def test_an_own_store_is_used_again(disk: Path) -> None:
    repair(PosixVolumeFiles(disk))
    choice = choose_store(PosixVolumeFiles(disk), RUN)
    assert choice.path == ("ProgramData", "Bluelift")
    assert choice.missing == ()
    assert choice.notes == ()


def test_planting_every_usual_store_stops_no_repair(disk: Path) -> None:
    for name in ["Bluelift", *(f"Bluelift.{n}" for n in range(1, 10)), "Bluelift-20240719T120000Z-00000000"]:
        (disk / "ProgramData" / name).mkdir(mode=0o777)
    before = snapshot(disk)
    files = PosixVolumeFiles(disk)
    (result,) = repair(files)
    assert result.run is not None
    assert result.run.folder[:2] == ("ProgramData", f"Bluelift-{result.run.run_id}")
    assert_nothing_lost_or_doubled(disk, before)
    installations = find_installations(files).installations
    found = read_runs(files, RULES, installations)
    assert [run.folder for run in found.runs] == [result.run.folder]
    assert len(found.refused) == 10, "what anybody may plant any number of is not told"


def test_program_data_elsewhere_is_refused(disk: Path) -> None:
    (disk / "ProgramData").rename(disk / "Elsewhere")
    (disk / "ProgramData").symlink_to("Elsewhere")
    with pytest.raises(StoreRefused, match=r"\\ProgramData is a reparse point"):
        repair(PosixVolumeFiles(disk))
    (disk / "ProgramData").unlink()
    (disk / "ProgramData").write_text("a file")
    with pytest.raises(StoreRefused, match="is not a folder"):
        repair(PosixVolumeFiles(disk))


def test_a_missing_program_data_is_made(tmp_path: Path) -> None:
    make_windows(tmp_path)
    (tmp_path / "ProgramData" / "Vendor" / "settings.ini").unlink()
    (tmp_path / "ProgramData" / "Vendor").rmdir()
    (tmp_path / "ProgramData").rmdir()
    before = snapshot(tmp_path)
    repair(PosixVolumeFiles(tmp_path))
    assert len(kept_files(tmp_path)) == len(ACTED_ON)
    assert_nothing_lost_or_doubled(tmp_path, before)


# --- power cuts and full disks -----------------------------------------------------------------------------------


def count_steps(disk: Path, monkeypatch: pytest.MonkeyPatch, rules: tuple[Rule, ...] = RULES) -> FaultyOs:
    faulty = FaultyOs()
    monkeypatch.setattr(posix_files, "os", faulty)
    repair(PosixVolumeFiles(disk), rules)
    monkeypatch.setattr(posix_files, "os", os)
    return faulty


@pytest.mark.parametrize("action", [Action.QUARANTINE, Action.DELETE])
def test_a_power_cut_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action) -> None:
    rules = (dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=action),)
    make_windows(tmp_path / "count")
    steps = count_steps(tmp_path / "count", monkeypatch, rules).steps
    assert steps > 30
    for number in range(steps):
        disk = tmp_path / str(number)
        make_windows(disk)
        before = snapshot(disk)
        faulty = FaultyOs(fault_at=number)
        monkeypatch.setattr(posix_files, "os", faulty)
        with pytest.raises(PowerCut):
            repair(PosixVolumeFiles(disk), rules)
        monkeypatch.setattr(posix_files, "os", os)
        where = (number, faulty.log[-1])
        second = repair(PosixVolumeFiles(disk), rules)
        assert not any(result.failed for result in second), where
        still_there = {path.name for path in (disk / FOLDER).iterdir()}
        assert not still_there & ACTED_ON, where
        if action is Action.QUARANTINE:
            assert_nothing_lost_or_doubled(disk, before, where)
        else:
            rest = {path: what for path, what in before.items() if Path(path).name not in ACTED_ON}
            assert_nothing_lost_or_doubled(disk, rest, where)
        third = snapshot(disk)
        assert repair(PosixVolumeFiles(disk), rules) == [], where
        assert snapshot(disk) == third, where


def test_two_power_cuts_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that completes an interrupted one is itself interrupted, in its own middle."""
    make_windows(tmp_path / "count")
    steps = count_steps(tmp_path / "count", monkeypatch).steps
    for first in range(0, steps, 7):
        for second in range(0, steps - first, 11):
            disk = tmp_path / f"{first}-{second}"
            make_windows(disk)
            before = snapshot(disk)
            for number in (first, second):
                monkeypatch.setattr(posix_files, "os", FaultyOs(fault_at=number))
                with contextlib.suppress(PowerCut):
                    repair(PosixVolumeFiles(disk))
            monkeypatch.setattr(posix_files, "os", os)
            assert not any(result.failed for result in repair(PosixVolumeFiles(disk)))
            assert len(kept_files(disk)) == len(ACTED_ON)
            assert_nothing_lost_or_doubled(disk, before, (first, second))


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_or_failing_disk_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool, error: int
) -> None:
    make_windows(tmp_path / "count")
    monkeypatch.setattr(posix_files, "os", counting := FaultyOs(fault_at=1 << 30, error=error))
    repair(PosixVolumeFiles(tmp_path / "count"))
    for number in range(counting.steps):
        disk = tmp_path / str(number)
        make_windows(disk)
        before = snapshot(disk)
        monkeypatch.setattr(posix_files, "os", faulty := FaultyOs(fault_at=number, error=error, lasting=lasting))
        failed = True
        with contextlib.suppress(OSError):
            failed = any(result.failed for result in repair(PosixVolumeFiles(disk)))
        monkeypatch.setattr(posix_files, "os", os)
        where = (number, faulty.log[number])
        if error == errno.ENOSPC or not lasting:
            # (A disk that can no longer even remove a name keeps the second one; the next run takes it away.)
            assert_nothing_lost_or_doubled(disk, before, where)
        if lasting:
            assert failed, where
        repair(PosixVolumeFiles(disk))
        assert_nothing_lost_or_doubled(disk, before, where)
        assert len(kept_files(disk)) == len(ACTED_ON), where


def test_a_full_disk_is_a_plain_sentence(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_files, "os", FaultyOs(fault_at=0, error=errno.ENOSPC, lasting=True))
    (result,) = repair(PosixVolumeFiles(disk))
    assert result.run is None
    assert {record.outcome for record in result.records} == {FileOutcome.FAILED}
    assert result.records[0].detail == ("nothing was changed: the journal could not be written (the volume is full)")


# --- completing what was cut off ---------------------------------------------------------------------------------


def cut_off(disk: Path) -> Run:
    """A run whose files are moved and whose receipt was never written."""
    files = PosixVolumeFiles(disk)
    result = apply(files, plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files)))
    assert result.run is not None
    return result.run


def test_a_run_without_receipt_is_found_done(disk: Path) -> None:
    run = cut_off(disk)
    files = PosixVolumeFiles(disk)
    (result,) = repair(files)
    assert result.run is not None
    assert result.run.run_id == run.run_id
    assert set(outcomes([result]).values()) == {FileOutcome.QUARANTINED}
    classes = {record.path.rsplit("\\", 1)[1]: record.file_class for record in result.records}
    assert classes == {name: CHANNEL_FILES[name][2] for name in ACTED_ON}
    assert interrupted(files, RULES, find_installations(files).installations).runs == ()


def test_every_state_a_file_can_be_found_in(disk: Path) -> None:
    run = cut_off(disk)
    kept = disk.joinpath(*run.folder) / "files" / FOLDER
    place = disk / FOLDER
    names = {n: f"C-00000291-00000000-000000{n}.sys" for n in (29, 32, 34, 35, 36)}
    os.link(kept / names[29], place / names[29])  # both, one file
    (place / names[32]).write_bytes(b"a new file of that name")  # both, different
    (kept / names[34]).unlink()  # neither
    (kept / names[35]).write_bytes(b"changed in quarantine")
    (kept / names[36]).unlink()
    (place / names[36]).write_bytes(b"there, but another one")
    result = complete(PosixVolumeFiles(disk), run, RULES)
    found = {record.path.rsplit("\\", 1)[1]: record for record in result.records}
    assert found[names[29]].outcome is FileOutcome.QUARANTINED
    assert not (place / names[29]).exists()
    assert found[names[32]].outcome is FileOutcome.LEFT
    assert (place / names[32]).read_bytes() == b"a new file of that name"
    assert found[names[34]].outcome is FileOutcome.FAILED
    assert found[names[34]].detail == "is neither in its place nor in quarantine"
    assert found[names[35]].outcome is FileOutcome.FAILED
    assert found[names[36]].outcome is FileOutcome.LEFT
    assert (place / names[36]).read_bytes() == b"there, but another one"
    assert len(result.notes) == 4


def test_deletions_are_completed(disk: Path) -> None:
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=Action.DELETE)
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files, (rule,)))
    kept_back = (disk / FOLDER / "C-00000291-00000000-00000032.sys").read_bytes()
    result = apply(files, described)
    assert result.run is not None
    (disk / FOLDER / "C-00000291-00000000-00000032.sys").write_bytes(kept_back + b"x")
    again = complete(files, result.run, (rule,))
    found = outcomes([again])
    assert found.pop("C-00000291-00000000-00000032.sys") is FileOutcome.LEFT
    assert set(found.values()) == {FileOutcome.DELETED}


def test_an_unknown_rule_gives_no_class(disk: Path) -> None:
    run = cut_off(disk)
    other = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, id="another")
    assert {record.file_class for record in complete(PosixVolumeFiles(disk), run, (other,)).records} == {
        FileClass.OTHER
    }


def edit_journal(disk: Path, run: Run, **changes: object) -> None:
    path = disk.joinpath(*run.folder) / "journal.json"
    data = json.loads(path.read_text())
    data["entries"] = [data["entries"][0] | changes]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": r"\Windows\System32\config\SYSTEM"}, "which no rule could have matched"),
        ({"source": r"\Windows\System32\drivers\CrowdStrike\..\..\config\SYSTEM"}, "is not a path below"),
        ({"source": r"\Other\System32\drivers\CrowdStrike\C-00000291-1.sys"}, "which no rule could have matched"),
        ({"destination": r"\Windows\System32\config\SYSTEM"}, "its journal moves"),
        ({"action": "delete"}, "its journal moves"),
        ({"action": "report"}, "its journal moves"),
    ],
)
def test_a_hostile_journal_is_refused(disk: Path, changes: dict[str, object], message: str) -> None:
    run = cut_off(disk)
    edit_journal(disk, run, **changes)
    before = snapshot(disk)
    files = PosixVolumeFiles(disk)
    results, notes = complete_interrupted(files, RULES, find_installations(files).installations)
    assert results == []
    assert any(message in note and "was not believed" in note for note in notes), notes
    assert snapshot(disk) == before


def test_folders_that_are_no_runs_are_passed_over(disk: Path) -> None:
    run = cut_off(disk)
    quarantine = disk / STORE / "quarantine"
    (quarantine / "20240101T000000Z-00000000").mkdir(mode=0o700)  # never came as far as a journal
    (quarantine / "20240101T000000Z-00000001").mkdir(mode=0o755)
    (quarantine / "20240101T000000Z-00000001").chmod(0o755)
    (quarantine / "20240101T000000Z-00000001" / "journal.json").write_bytes(b"{}")
    cut = quarantine / "20240101T000000Z-00000006"
    cut.mkdir(mode=0o700)
    (cut / ".journal.json.new").write_bytes(b"{}")
    os.link(cut / ".journal.json.new", cut / "journal.json")  # the power went in the rename
    (quarantine / "notes").mkdir(mode=0o700)
    garbled = quarantine / "20240101T000000Z-00000002"
    garbled.mkdir(mode=0o700)
    (garbled / "journal.json").write_bytes(b"\0" * 100)
    other = quarantine / "20240101T000000Z-00000003"
    other.mkdir(mode=0o700)
    (other / "journal.json").write_bytes((disk.joinpath(*run.folder) / "journal.json").read_bytes())
    linked = quarantine / "20240101T000000Z-00000004"
    linked.mkdir(mode=0o700)
    (linked / "journal.json").symlink_to(disk.joinpath(*run.folder) / "journal.json")
    huge = quarantine / "20240101T000000Z-00000005"
    huge.mkdir(mode=0o700)
    with (huge / "journal.json").open("wb") as stream:
        stream.truncate((16 << 20) + 1)
    files = PosixVolumeFiles(disk)
    found = interrupted(files, RULES, find_installations(files).installations)
    assert [r.run_id for r in found.runs] == [RUN]
    said = "\n".join(found.notes)
    for wanted in ("00000001 was not believed: others than", "notes was not believed", "00000002 has no journal",
                   "00000003 was not believed: its journal is that of", "00000004 has no journal",
                   "larger than any journal"):  # fmt: skip
        assert wanted in said, said
    assert "00000000 " not in said
    assert "00000006 " not in said


def test_a_finished_run_is_not_completed_again(disk: Path) -> None:
    run = cut_off(disk)
    files = PosixVolumeFiles(disk)
    write_receipt(files, run, b"{}\n")
    assert interrupted(files, RULES, find_installations(files).installations).runs == ()


def test_a_link_on_the_way_to_the_quarantine_is_not_followed(disk: Path) -> None:
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files))
    for folder in described.missing:
        files.make_directory(folder)
    disk.joinpath(*described.folder, "files").symlink_to(disk / "Windows")
    result = apply(files, dataclasses.replace(described, missing=()))
    assert {record.outcome for record in result.records} == {FileOutcome.QUARANTINED}
    assert all("\\files.2\\" in record.quarantined_as for record in result.records)
    assert not (disk / "Windows" / "Windows").exists()


def test_without_a_place_in_quarantine_nothing_moves(disk: Path) -> None:
    files = PosixVolumeFiles(disk)
    before = snapshot(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files))
    for folder in described.missing:
        files.make_directory(folder)
    for area in ("files", *(f"files.{number}" for number in range(2, 10))):
        disk.joinpath(*described.folder, area).symlink_to(disk / "Windows")
    result = apply(files, dataclasses.replace(described, missing=()))
    assert {record.outcome for record in result.records} == {FileOutcome.FAILED}
    assert_nothing_lost_or_doubled(disk, before)
    assert not (disk / "Windows" / "Windows").exists()


class Unsteady:
    """Files that do something unexpected once: each method of `spoil` is called instead of the real one."""

    def __init__(self, files: PosixVolumeFiles, **spoil: Callable[..., Any]) -> None:
        self._files = files
        self._spoil = spoil

    def __getattr__(self, name: str) -> Any:
        return self._spoil.get(name) or getattr(self._files, name)


def act_with(disk: Path, rule: Rule = CROWDSTRIKE_CHANNEL_291, **spoil: Callable[..., Any]) -> dict[str, str]:
    """One run on files that misbehave after the plan was made; the details of what failed, by name."""
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files, (rule,)))
    result = apply(cast(VolumeFiles, Unsteady(files, **spoil)), described)
    return {
        record.path.rsplit("\\", 1)[1]: record.detail
        for record in result.records
        if record.outcome is FileOutcome.FAILED
    }


def test_a_rename_that_did_nothing_is_noticed(disk: Path) -> None:
    before = snapshot(disk)
    said = act_with(disk, rename=lambda source, destination: None)
    assert set(said) == ACTED_ON
    assert all(text.endswith("is still there after the move") for text in said.values())
    assert_nothing_lost_or_doubled(disk, before)


def test_a_rename_that_changed_the_file_is_noticed(disk: Path) -> None:
    files = PosixVolumeFiles(disk)

    def spoiling(source: tuple[str, ...], destination: tuple[str, ...]) -> None:
        files.rename(source, destination)
        os.utime(disk.joinpath(*destination), ns=(0, 0))

    said = act_with(disk, rename=spoiling)
    assert set(said) == ACTED_ON
    assert all("after the move" in text and "modified 1970-01-01T00:00:00Z" in text for text in said.values())


def test_a_deletion_that_did_nothing_is_noticed(disk: Path) -> None:
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=Action.DELETE)
    said = act_with(disk, rule, remove=lambda path: None)
    assert set(said.values()) == {"is still there after it was deleted"}


def test_a_file_that_became_a_link_is_not_moved(disk: Path) -> None:
    files = PosixVolumeFiles(disk)
    described = plan(files, RUN, "2024-07-20T12:00:00Z", decisions_on(files))
    name = "C-00000291-00000000-00000032.sys"
    (disk / FOLDER / name).rename(disk / "moved")
    (disk / FOLDER / name).symlink_to(disk / "moved")
    said = {record.path.rsplit("\\", 1)[1]: record.detail for record in apply(files, described).records}
    assert said[name] == "it changed while it was being looked at (left to a new run: it is a link)"
    assert (disk / "moved").exists()


def test_a_class_that_can_no_longer_be_read_is_other(disk: Path) -> None:
    run = cut_off(disk)
    files = PosixVolumeFiles(disk)
    asked: list[object] = []

    def failing(path: tuple[str, ...]) -> object:
        asked.append(path)
        if asked.count(path) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return files.entry(path)

    result = complete(cast(VolumeFiles, Unsteady(files, entry=failing)), run, RULES)
    assert {record.file_class for record in result.records} == {FileClass.OTHER}
