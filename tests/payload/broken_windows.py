"""A broken Windows as a folder tree, with channel files of every class and neighbours that must not be touched."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from payload.contract import FileClass, FileOutcome, Rule
from payload.environment import VolumeFiles, posix_files
from payload.formats.channel_file import channel_file_bytes
from payload.quarantine import RunResult, apply, complete_interrupted, plan
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291, parse_utc_ns
from payload.rules import Decision, examine
from payload.store import new_run_id, write_receipt
from payload.windows_install import find_installations
from tests.payload.hive_maker import software_hive, system_hive

BEFORE = parse_utc_ns("2024-07-18T10:00:00Z")
DURING = parse_utc_ns("2024-07-19T04:09:00Z")
AFTER = parse_utc_ns("2024-07-19T05:27:00Z")
CROWDSTRIKE = ("Windows", "System32", "drivers", "CrowdStrike")

#: name -> (content, time, what it is)
CHANNEL_FILES: dict[str, tuple[bytes, int, FileClass]] = {
    "C-00000291-00000000-00000029.sys": (channel_file_bytes(291, 29, 900), BEFORE, FileClass.OLDER),
    "C-00000291-00000000-00000032.sys": (channel_file_bytes(291, 32, 1200), DURING, FileClass.FAULTY),
    "c-00000291-00000000-00000033.SYS": (channel_file_bytes(291, 33, 1300), AFTER, FileClass.CORRECTED),
    "C-00000291-00000000-00000034.sys": (bytes(5000), DURING, FileClass.ZERO_FILLED),
    "C-00000291-00000000-00000035.sys": (b"", DURING, FileClass.TRUNCATED),
    "C-00000291-00000000-00000036.sys": (channel_file_bytes(291, 36, 20)[:9], DURING, FileClass.TRUNCATED),
    "C-00000291-00000000-00000037.sys": (channel_file_bytes(291, 99, 700), DURING, FileClass.NAME_MISMATCH),
    "C-00000291-copy.sys": (channel_file_bytes(291, 1, 600), DURING, FileClass.NAME_MISMATCH),
    "C-00000291-00000000-00000038.sys": (b"MZ\x90\0" + bytes(600), DURING, FileClass.FOREIGN),
}
NEIGHBOURS = {
    "C-00000290-00000000-00000001.sys": channel_file_bytes(290, 1, 800),
    "C-00002910-00000000-00000001.sys": channel_file_bytes(2910, 1, 800),
    "CSAgent.sys": b"MZ" + b"agent" * 100,
    "C-00000291-00000000-00000032.sys.bak": channel_file_bytes(291, 32, 400),
}


def make_windows(root: Path, *, folder: str = "Windows", computer: str = "PC-0042") -> None:
    """The whole tree below `root`, ProgramData included."""
    config = root / folder / "System32" / "config"
    config.mkdir(parents=True)
    (config / "SYSTEM").write_bytes(system_hive(computer))
    (config / "SOFTWARE").write_bytes(software_hive())
    (root / "ProgramData" / "Vendor").mkdir(parents=True, exist_ok=True)
    (root / "ProgramData" / "Vendor" / "settings.ini").write_text("[a]\n")
    vendor = root / folder / "System32" / "drivers" / "CrowdStrike"
    vendor.mkdir(parents=True)
    for name, (content, modified, _) in CHANNEL_FILES.items():
        (vendor / name).write_bytes(content)
        os.utime(vendor / name, ns=(modified, modified))
    for name, content in NEIGHBOURS.items():
        (vendor / name).write_bytes(content)
        os.utime(vendor / name, ns=(DURING, DURING))


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    """sha256 and time of every file, by its path below `root`."""
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def repair(files: VolumeFiles, rules: tuple[Rule, ...] = (CROWDSTRIKE_CHANNEL_291,)) -> list[RunResult]:
    """What a session does on one volume, without its screen."""
    installations = find_installations(files).installations
    results, _ = complete_interrupted(files, rules, installations)
    decisions: list[Decision] = []
    for examination in examine(files, installations, rules):
        decisions += examination.decisions
    if any(decision.changes for decision in decisions):
        now = datetime(2024, 7, 20, 12, 0, 0, tzinfo=UTC)
        results.append(apply(files, plan(files, new_run_id(now), "2024-07-20T12:00:00Z", decisions)))
    for result in results:
        if result.run is not None and not result.failed:
            write_receipt(files, result.run, b"{}\n")
    return results


def outcomes(results: list[RunResult]) -> dict[str, FileOutcome]:
    """What became of each file, by its name."""
    return {record.path.rsplit("\\", 1)[1]: record.outcome for result in results for record in result.records}


class PowerCut(BaseException):
    """The power goes: nothing that runs afterwards counts."""


@dataclass
class FaultyOs:
    """The `os` module as `posix_files` sees it, with a fault before the n-th step that changes the disk.

    Really changes the disk until then. A rename is what ntfs-3g makes of it: a second name, then the first removed,
    with a fault point between. `error` None: a power cut; otherwise that errno, once or from the n-th
    step on (`lasting`).
    """

    fault_at: int = -1
    error: int | None = None
    lasting: bool = False
    steps: int = 0
    log: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _step(self, what: str) -> None:
        number = self.steps
        self.steps += 1
        self.log.append(what)
        if number == self.fault_at or (self.lasting and self.error and 0 <= self.fault_at <= number):
            if self.error is None:
                raise PowerCut(what)
            raise OSError(self.error, os.strerror(self.error))

    def mkdir(self, *args: Any, **keywords: Any) -> None:
        self._step("mkdir")
        os.mkdir(*args, **keywords)  # noqa: PTH102
        if self.error is None:
            self._step("after mkdir")

    def write(self, descriptor: int, data: bytes) -> int:
        self._step("write")
        half = max(1, len(data) // 2)
        written = os.write(descriptor, data[:half])
        if self.error is None:
            self._step("half written")
        return written

    def unlink(self, *args: Any, **keywords: Any) -> None:
        # A full disk can always remove a name.
        if self.error != errno.ENOSPC:
            self._step("unlink")
        os.unlink(*args, **keywords)

    def rename(self, source: str, destination: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._step("rename")
        try:
            os.link(source, destination, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
        except FileExistsError:
            os.rename(source, destination, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        self._step("second name made")
        os.unlink(source, dir_fd=src_dir_fd)

    def fsync(self, descriptor: int) -> None:
        self._step("fsync")
        os.fsync(descriptor)


def claim_file_system(proc: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel say that every file lies on a file system of type `kind`."""
    fdinfo = proc / "fdinfo"
    fdinfo.mkdir(parents=True)
    for descriptor in range(64):
        (fdinfo / str(descriptor)).write_text("pos:\t0\nflags:\t0100000\nmnt_id:\t24\nino:\t3\n")
    (proc / "mountinfo").write_text(
        "2 1 8:1 / /boot rw,relatime - ext4 /dev/sda1 rw\n"
        f"24 2 8:2 / /mnt/a\\040-\\040b rw,relatime shared:2 - {kind} /dev/sda2 rw\n"
    )
    monkeypatch.setattr(posix_files, "_PROC", proc)
