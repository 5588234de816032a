"""Users may make folders in a volume's root: what looks like a Windows there must not keep the real one from repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from payload import rules
from payload.contract import Action, FileOutcome, Journal, JournalEntry, Receipt, Verdict
from payload.environment.posix_files import PosixVolumeFiles
from payload.rules import MOST_MATCHES
from payload.store import destination_of, journal_bytes, volume_path
from payload.windows_install import find_installations
from tests.payload.broken_windows import make_windows
from tests.payload.fake_environment import (
    FAULTY_PATH,
    FakeEnvironment,
    FakeVolume,
    MemoryFiles,
    channel_file,
    volume,
    windows_files,
)
from tests.payload.hive_maker import software_hive, system_hive
from tests.payload.session_runs import RUN_ID, run

PLANTED = "\\aaa\\System32\\drivers\\CrowdStrike"
LEFT = f"more than {MOST_MATCHES} files and folders are what rules name: the others wait for another run"


def planted(count: int) -> MemoryFiles:
    files = windows_files()
    files.add("\\aaa\\System32\\config\\SYSTEM", b"regf" + bytes(4092))
    for number in range(count):
        files.add(f"{PLANTED}\\C-00000291-{number:05}.sys", channel_file(31))
    return files


def again(files: MemoryFiles, number: int) -> Receipt:
    return run(FakeEnvironment(FakeVolume(volume(), files)), run_id=f"20240720T10000{number}Z-0a1b2c3d")


def left_in(files: MemoryFiles) -> int:
    return sum(path.startswith(PLANTED) for path in files.paths())


def test_windows_is_repaired_first_and_the_rest_waits_for_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_MATCHES", 20)
    files = planted(50)
    receipt = again(files, 1)
    assert receipt.verdict is Verdict.LEFT_ALONE
    assert FAULTY_PATH not in files.paths()
    assert "the others wait for another run; done all the same:" in receipt.volumes[0].detail
    counts = [left_in(files)]
    while receipt.verdict is Verdict.LEFT_ALONE and len(counts) < 9:
        receipt = again(files, 1 + len(counts))
        counts.append(left_in(files))
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    assert receipt.verdict is Verdict.REPAIRED


def test_the_real_limit() -> None:
    files = planted(MOST_MATCHES + 100)
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    done = [file for place in receipt.volumes[0].installations for file in place.files]
    assert MOST_MATCHES - 10 < len(done) <= MOST_MATCHES
    assert {file.outcome for file in done} == {FileOutcome.QUARANTINED}
    assert LEFT in receipt.volumes[0].notes


def test_the_journal_of_as_many_files_as_one_run_takes_can_be_written() -> None:
    """Whatever their names are: the longest that NTFS has, of which JSON writes six bytes a character."""
    name = "\u202e" * 255
    source = f"\\{name}\\System32\\drivers\\CrowdStrike\\C-00000291{name[12:]}"
    folder = ("ProgramData", "Bluelift", "quarantine", RUN_ID)
    entry = JournalEntry(
        rule="crowdstrike-channel-291",
        action=Action.QUARANTINE,
        source=source,
        destination="\\" + "\\".join(destination_of(folder, volume_path(source))),
        size=1 << 40,
        modified_ns=1 << 62,
        sha256="0" * 64,
        file_number=1 << 60,
    )
    journal = Journal(run_id=RUN_ID, written="2024-07-20T10:00:00Z", entries=(entry,) * MOST_MATCHES)
    assert len(journal_bytes(journal)) < 16 << 20


def test_a_computer_name_without_end_is_cut(tmp_path: Path) -> None:
    """A hive that somebody made: 100 of these would take all memory of a small host, and fill its receipt."""
    make_windows(tmp_path)
    config = tmp_path / "Windows" / "System32" / "config"
    (config / "SYSTEM").write_bytes(system_hive("N" * 400_000))
    (config / "SOFTWARE").write_bytes(software_hive(product="P" * 400_000, build="B" * 400_000))
    (found,) = find_installations(PosixVolumeFiles(tmp_path)).installations
    assert found.computer_name == "N" * 256
    assert found.product.startswith("P" * 256 + " ")
    assert len(found.product) + len(found.build) < 1000
