"""Undo: everything back byte for byte, nothing overwritten, nothing believed that a user could have planted."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from payload.contract import Action, FileOutcome
from payload.environment import posix_files
from payload.environment.posix_files import PosixVolumeFiles
from payload.quarantine import RunResult
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291
from payload.undo import plan_undo, undo
from payload.windows_install import find_installations
from tests.payload.broken_windows import CROWDSTRIKE, FaultyOs, PowerCut, make_windows, outcomes, repair, snapshot

RULES = (CROWDSTRIKE_CHANNEL_291,)
FOLDER = Path(*CROWDSTRIKE)
FAULTY = "C-00000291-00000000-00000032.sys"
WHEN = "2024-07-21T00:00:00Z"


@pytest.fixture
def repaired(tmp_path: Path) -> tuple[Path, dict[str, tuple[str, int]]]:
    """A repaired disk and what it was before."""
    make_windows(tmp_path)
    before = snapshot(tmp_path)
    repair(PosixVolumeFiles(tmp_path))
    return tmp_path, before


def take_back(disk: Path) -> tuple[list[RunResult], tuple[str, ...]]:
    files = PosixVolumeFiles(disk)
    return undo(files, RULES, find_installations(files).installations, WHEN)


def without_store(disk: Path) -> dict[str, tuple[str, int]]:
    return {path: what for path, what in snapshot(disk).items() if not path.startswith("ProgramData/Bluelift")}


def quarantined(disk: Path, name: str = FAULTY) -> Path:
    (found,) = disk.glob(f"ProgramData/Bluelift/quarantine/*/files/{FOLDER}/{name}")
    return found


def test_everything_is_back_byte_for_byte(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, before = repaired
    results, refused = take_back(disk)
    assert refused == ()
    assert set(outcomes(results).values()) == {FileOutcome.RESTORED}
    assert without_store(disk) == before
    (said,) = disk.glob("ProgramData/Bluelift/quarantine/*/undone.json")
    assert len(json.loads(said.read_text())["records"]) == len(results[0].records)
    assert take_back(disk) == ([], ())
    # An undone run is not taken for an interrupted one; the files are simply found again.
    assert len(repair(PosixVolumeFiles(disk))) == 1


def test_planning_changes_nothing(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, _ = repaired
    after = snapshot(disk)
    files = PosixVolumeFiles(disk)
    planned = plan_undo(files, RULES, find_installations(files).installations)
    assert len(planned.runs) == 1
    assert planned.refused == ()
    assert snapshot(disk) == after


def test_the_newest_run_is_taken_back_first(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, _ = repaired
    again = disk / FOLDER / FAULTY
    again.write_bytes(b"\xaa\xaa\xaa\xaa" + bytes(30))
    quarantine = disk / "ProgramData/Bluelift/quarantine"
    (first,) = quarantine.iterdir()
    repair(PosixVolumeFiles(disk))
    (second,) = set(quarantine.iterdir()) - {first}
    newest = quarantine / "20250101T000000Z-00000000"
    second.rename(newest)
    journal = newest / "journal.json"
    journal.write_text(journal.read_text().replace(second.name, newest.name))
    results, _ = take_back(disk)
    assert [result.run.run_id for result in results if result.run] == [newest.name, first.name]
    assert again.read_bytes() == b"\xaa\xaa\xaa\xaa" + bytes(30)
    (failed,) = [record for record in results[1].records if record.outcome is FileOutcome.FAILED]
    assert failed.path.endswith(FAULTY)
    assert "is not overwritten" in failed.detail
    assert (newest / "undone.json").exists()
    assert not (first / "undone.json").exists()


@pytest.mark.parametrize("name", [FAULTY, FAULTY.lower(), FAULTY.upper()])
def test_nothing_is_overwritten_whatever_its_case(repaired: tuple[Path, dict[str, tuple[str, int]]], name: str) -> None:
    disk, _ = repaired
    (disk / FOLDER / name).write_bytes(b"a file of Windows's own since")
    results, _ = take_back(disk)
    assert outcomes(results)[FAULTY] is FileOutcome.FAILED
    assert (disk / FOLDER / name).read_bytes() == b"a file of Windows's own since"
    assert quarantined(disk).exists()
    assert not list(disk.glob("ProgramData/Bluelift/quarantine/*/undone.json"))
    (disk / FOLDER / name).unlink()
    results, _ = take_back(disk)
    assert set(outcomes(results).values()) == {FileOutcome.RESTORED}


def test_a_changed_copy_is_not_restored(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, _ = repaired
    kept = quarantined(disk)
    when = kept.stat().st_mtime_ns
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    os.utime(kept, ns=(when, when))
    results, _ = take_back(disk)
    (failed,) = [record for record in results[0].records if record.outcome is FileOutcome.FAILED]
    assert failed.path.endswith(FAULTY)
    assert "another sha256" in failed.detail
    assert not (disk / FOLDER / FAULTY).exists()


def test_a_lost_copy_and_a_lost_folder_are_failures(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, _ = repaired
    quarantined(disk).unlink()
    results, _ = take_back(disk)
    assert outcomes(results)[FAULTY] is FileOutcome.FAILED
    (note,) = results[0].notes
    assert note.endswith(f"{FAULTY}: is no longer in quarantine")


def test_a_missing_target_folder_is_a_failure(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    disk, _ = repaired
    (disk / FOLDER).rename(disk / "elsewhere")
    results, _ = take_back(disk)
    assert set(outcomes(results).values()) == {FileOutcome.FAILED}
    (disk / FOLDER).symlink_to(disk / "elsewhere")
    results, _ = take_back(disk)
    assert set(outcomes(results).values()) == {FileOutcome.FAILED}
    assert not (disk / "elsewhere" / FAULTY).exists()


def test_deleted_files_cannot_come_back(tmp_path: Path) -> None:
    make_windows(tmp_path)
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=Action.DELETE)
    repair(PosixVolumeFiles(tmp_path), (rule,))
    results, _ = take_back(tmp_path)
    assert set(outcomes(results).values()) == {FileOutcome.LEFT}
    assert len(results[0].notes) == len(results[0].records)


def test_a_power_cut_at_every_step_of_an_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(name: str) -> tuple[Path, dict[str, tuple[str, int]]]:
        make_windows(tmp_path / name)
        before = snapshot(tmp_path / name)
        repair(PosixVolumeFiles(tmp_path / name))
        return tmp_path / name, before

    disk, _ = prepare("count")
    counting = FaultyOs()
    monkeypatch.setattr(posix_files, "os", counting)
    take_back(disk)
    assert counting.steps > 20
    for number in range(counting.steps):
        monkeypatch.setattr(posix_files, "os", os)
        disk, before = prepare(str(number))
        monkeypatch.setattr(posix_files, "os", faulty := FaultyOs(fault_at=number))
        with pytest.raises(PowerCut):
            take_back(disk)
        monkeypatch.setattr(posix_files, "os", os)
        take_back(disk)
        where = (number, faulty.log[-1])
        assert without_store(disk) == before, where
        assert not list(disk.glob("ProgramData/Bluelift/quarantine/*/files/**/*.sys")), where
        assert take_back(disk) == ([], ()), where


def test_a_full_disk_leaves_the_run_to_be_undone_again(
    repaired: tuple[Path, dict[str, tuple[str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, before = repaired
    monkeypatch.setattr(posix_files, "os", FaultyOs(fault_at=0, error=errno.ENOSPC, lasting=True))
    results, _ = take_back(disk)
    assert set(outcomes(results).values()) == {FileOutcome.FAILED}
    assert results[0].records[0].detail == "could not be restored: the volume is full"
    monkeypatch.setattr(posix_files, "os", os)
    take_back(disk)
    assert without_store(disk) == before


def test_restored_but_not_written_down(
    repaired: tuple[Path, dict[str, tuple[str, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, before = repaired

    class NoNewFiles(FaultyOs):
        def write(self, descriptor: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(posix_files, "os", NoNewFiles())
    results, _ = take_back(disk)
    assert without_store(disk) == before
    assert "could not be written down: the volume is full" in results[0].notes[-1]
    monkeypatch.setattr(posix_files, "os", os)
    results, _ = take_back(disk)
    assert {record.detail for record in results[0].records} == {"was already in its place"}


def test_a_planted_store_is_refused_and_reported(repaired: tuple[Path, dict[str, tuple[str, int]]]) -> None:
    """A folder that a user made, with a journal that would put a file of his into System32\\config."""
    disk, _ = repaired
    run_id = "20240701T000000Z-deadbeef"
    run = disk / "ProgramData" / "Bluelift.1" / "quarantine" / run_id
    evil = run / "files" / "Windows" / "System32" / "config" / "SAM"
    evil.parent.mkdir(parents=True)
    evil.write_bytes(b"evil")
    entry = {
        "rule": CROWDSTRIKE_CHANNEL_291.id, "action": "quarantine", "source": r"\Windows\System32\config\SAM",
        "destination": rf"\ProgramData\Bluelift.1\quarantine\{run_id}\files\Windows\System32\config\SAM",
        "size": 4, "modified_ns": evil.stat().st_mtime_ns,
        "sha256": "4e6d4d7c0b4b1a1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b",
    }  # fmt: skip
    (run / "journal.json").write_text(json.dumps({"run_id": run_id, "written": WHEN, "entries": [entry], "schema": 1}))
    (disk / "ProgramData" / "Bluelift.1").chmod(0o777)
    _, refused = take_back(disk)
    assert len(refused) == 1
    assert refused[0].startswith(r"\ProgramData\Bluelift.1 was not believed: others than SYSTEM")
    assert not (disk / "Windows" / "System32" / "config" / "SAM").exists()
    # Even in a folder that passes for ours, the target gives it away.
    for folder in (disk / "ProgramData" / "Bluelift.1", *(disk / "ProgramData" / "Bluelift.1").rglob("*")):
        if folder.is_dir():
            folder.chmod(0o700)
    _, refused = take_back(disk)
    assert len(refused) == 1
    assert "which no rule could have matched" in refused[0]
    assert not (disk / "Windows" / "System32" / "config" / "SAM").exists()


@pytest.mark.parametrize("rule_id", [CROWDSTRIKE_CHANNEL_291.id, "some-other-rule"])
@pytest.mark.parametrize(
    ("content", "outcome"), [(b"MZ\x90\0" + bytes(600), FileOutcome.FAILED), (bytes(604), FileOutcome.RESTORED)]
)
def test_a_program_is_not_put_back_as_a_driver(
    repaired: tuple[Path, dict[str, tuple[str, int]]], content: bytes, outcome: FileOutcome, rule_id: str
) -> None:
    """A journal that tells the truth about a file that no run would have moved, whatever rule it names."""
    disk, _ = repaired
    kept = quarantined(disk)
    when = kept.stat().st_mtime_ns
    kept.write_bytes(content)
    os.utime(kept, ns=(when, when))
    (path,) = disk.glob("ProgramData/Bluelift/quarantine/*/journal.json")
    journal = json.loads(path.read_text())
    (entry,) = [entry for entry in journal["entries"] if entry["source"].endswith(FAULTY)]
    entry.update(rule=rule_id, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_text(json.dumps(journal))
    results, refused = take_back(disk)
    assert refused == ()
    assert outcomes(results)[FAULTY] is outcome
    assert (disk / FOLDER / FAULTY).exists() is (outcome is FileOutcome.RESTORED)
    if outcome is FileOutcome.FAILED:
        (record,) = [record for record in results[0].records if record.path.endswith(FAULTY)]
        assert record.detail.startswith("its copy in quarantine starts with 4D 5A 90 00, not with AA AA AA AA:")
        assert record.detail.endswith("so it is not put back")
        assert kept.read_bytes() == content
