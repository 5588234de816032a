"""A run never writes a journal that the next run would refuse to read."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

import pytest

from payload import store
from payload.contract import FileOutcome, Journal, JournalEntry
from payload.environment.posix_files import PosixVolumeFiles
from payload.quarantine import interrupted
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291, Action
from payload.store import journal_bytes, write_journal
from payload.windows_install import find_installations
from tests.payload.broken_windows import make_windows, outcomes, repair, snapshot

RULES = (CROWDSTRIKE_CHANNEL_291,)


def test_the_real_limit() -> None:
    entry = JournalEntry(
        rule="r", action=Action.DELETE, source="\\" + "a" * (1 << 20), destination="", size=1, modified_ns=1, sha256=""
    )
    journal = Journal(run_id="20240719T120000Z-1a2b3c4d", written="2024-07-19T12:00:00Z", entries=(entry,) * 15)
    assert 15 << 20 < len(journal_bytes(journal)) < 16 << 20
    with pytest.raises(OSError, match=re.escape("16 files are more than one run can take")) as caught:
        journal_bytes(replace(journal, entries=(entry,) * 16))
    assert caught.value.errno == errno.EFBIG


def test_one_byte_too_many_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_windows(tmp_path / "fits")
    repair(PosixVolumeFiles(tmp_path / "fits"))
    (written,) = tmp_path.glob("fits/ProgramData/Bluelift/quarantine/*/journal.json")
    size = written.stat().st_size

    monkeypatch.setattr(store, "_MAX_JOURNAL", size)
    make_windows(tmp_path / "exact")
    files = PosixVolumeFiles(tmp_path / "exact")
    results = repair(files)
    assert set(outcomes(results).values()) == {FileOutcome.QUARANTINED}
    found = store.read_runs(files, RULES, find_installations(files).installations)
    assert (len(found.runs), found.refused, found.notes) == (1, (), ()), "what was written can be read"

    monkeypatch.setattr(store, "_MAX_JOURNAL", size - 1)
    make_windows(tmp_path / "large")
    before = snapshot(tmp_path / "large")
    files = PosixVolumeFiles(tmp_path / "large")
    (result,) = repair(files)
    assert result.run is None
    assert set(outcomes([result]).values()) == {FileOutcome.FAILED}
    for record in result.records:
        assert record.detail.startswith("nothing was changed: the journal could not be written (")
        assert record.detail.endswith("files are more than one run can take)")
    assert snapshot(tmp_path / "large") == before
    assert not (tmp_path / "large/ProgramData/Bluelift").exists(), "not even a folder was made"


def test_too_large_a_journal_is_not_written_over_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_windows(tmp_path)
    repair(PosixVolumeFiles(tmp_path))
    (path,) = tmp_path.glob("ProgramData/Bluelift/quarantine/*/journal.json")
    (path.parent / "receipt.json").unlink()
    files = PosixVolumeFiles(tmp_path)
    (run,) = interrupted(files, RULES, find_installations(files).installations).runs
    good = path.read_bytes()
    monkeypatch.setattr(store, "_MAX_JOURNAL", len(good) - 1)
    with pytest.raises(OSError, match="more than one run can take"):
        write_journal(files, run.folder, run.journal)
    assert path.read_bytes() == good
