"""safe-mode.cmd under Wine's cmd.exe, as it lies on a medium, against a broken Windows on C:.

bcdedit, shutdown, icacls and fsutil are stand-ins that write down how they were called. Not proven: Windows's own
cmd.exe, and what the true programs answer in safe mode.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from builder.freeze_wine import RUNTIME_OVERRIDES
from builder.frozen import FrozenPayload
from builder.safe_mode_script import safe_mode_files
from builder.verify.wine_stand_ins import FOLDER, answer, calls, put_stand_ins
from builder.wine import WinePrefix
from payload.contract import BUILT_IN_RULES, QUARANTINE_FOLDER, PayloadConfig, Rule
from tests.payload.broken_windows import CHANNEL_FILES, CROWDSTRIKE, make_windows
from tests.winpe_builds import lacking

_MISSING = [name for name in ("wine", "x86_64-w64-mingw32-gcc") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")

CONFIG = PayloadConfig(image_id="id", rules=BUILT_IN_RULES, bluelift="0.1.0", contact="call 555")
PROGRAMS = ("bcdedit", "shutdown", "icacls", "fsutil")
LAST_CALLS = ["bcdedit /deletevalue {current} safeboot", "shutdown /r /t 15"]


class SafeMode:
    """A Windows in safe mode, a medium in drive E:, and where the stand-ins write (X:)."""

    def __init__(self, folder: Path) -> None:
        self.medium, self.stand_ins = folder / "medium", folder / "stand-ins"
        overrides = {f"{name}.exe": "n" for name in PROGRAMS} | RUNTIME_OVERRIDES
        self._prefix = WinePrefix(folder=folder / "prefix", overrides=overrides)
        self._prefix.make()
        self.c = self._prefix.folder / "drive_c"
        for letter, place in (("E", self.medium), ("X", self.stand_ins)):
            place.mkdir()
            self._prefix.map_drive(letter, place)
        put_stand_ins(self.stand_ins, scratch=folder)
        for name in PROGRAMS:
            program = self.c / "windows" / "system32" / f"{name}.exe"
            program.unlink(missing_ok=True)
            shutil.copyfile(folder / "stand_in.exe", program)
        make_windows(folder / "windows")
        self._windows = folder / "windows"

    def reset(self) -> None:
        """The Windows is broken as at first, the medium fresh, and no program has been called."""
        for made in (*self.kept, self.store, self.crowdstrike, self.medium / "Bluelift", self.stand_ins / FOLDER):
            shutil.rmtree(made, ignore_errors=True)
        (self.stand_ins / FOLDER).mkdir()
        answer(self.stand_ins, "fsutil", code=1)
        for file in self._windows.rglob("*"):
            target = self._in_c(file.relative_to(self._windows))
            if file.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
        self.put(CONFIG)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Wine's server is up."""
        with self._prefix.started():
            yield

    def _in_c(self, path: Path) -> Path:
        """Where Wine has it: its own names are in small letters."""
        place = self.c
        for part in path.parts:
            known = {child.name.lower(): child for child in place.iterdir()} if place.is_dir() else {}
            place = known.get(part.lower(), place / part)
        return place

    @property
    def crowdstrike(self) -> Path:
        return self._in_c(Path(*CROWDSTRIKE))

    @property
    def kept(self) -> list[Path]:
        """The folders that the script made."""
        return sorted(self._in_c(Path("ProgramData")).glob("Bluelift-safe-mode-*"))

    @property
    def store(self) -> Path:
        """Where Bluelift itself keeps what it moves."""
        return self._in_c(Path("ProgramData/Bluelift"))

    def put(self, config: PayloadConfig) -> None:
        """The medium's files."""
        for name, content in safe_mode_files(config).items():
            path = self.medium / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    def run(self, *, safe_mode: bool = True) -> tuple[str, list[str]]:
        """What the script showed, and the calls it made."""
        before = len(calls(self.stand_ins))
        done = self._prefix.run(
            ["cmd", "/c", "E:\\Bluelift\\safe-mode.cmd"],
            reason="try safe-mode.cmd",
            time_limit=120,
            stdin=b"\r\n",
            env={"SAFEBOOT_OPTION": "MINIMAL"} if safe_mode else {},
            ok=range(256),
        )
        return done.text.replace("\r\n", "\n"), list(calls(self.stand_ins)[before:])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SafeMode]:
    folder = tmp_path_factory.mktemp("safe-mode")
    (folder / "windows").mkdir()
    made = SafeMode(folder)
    with made.started():
        yield made


@pytest.fixture
def host(machine: SafeMode) -> SafeMode:
    machine.reset()
    return machine


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_files_are_kept_apart_and_safe_mode_is_taken_back(host: SafeMode) -> None:
    before = files_in(host.crowdstrike)
    doomed = {name for name in before if fnmatch(name.lower(), "c-00000291*.sys")}
    assert len(doomed & set(CHANNEL_FILES)) > 3
    said, called = host.run()
    (kept,) = host.kept
    windows = f"C:\\ProgramData\\{kept.name}"
    assert called == [
        "bcdedit /enum {current}",
        f"icacls {windows} /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F",
        "fsutil reparsepoint query C:\\windows\\System32\\drivers\\CrowdStrike",
        *LAST_CALLS,
    ]
    assert files_in(kept / "crowdstrike-channel-291") == {name: before[name] for name in doomed}
    assert files_in(host.crowdstrike) == {name: data for name, data in before.items() if name not in doomed}
    assert "Windows restarts as usual" in said


def test_a_windows_without_such_files_is_only_restarted(host: SafeMode) -> None:
    for path in host.crowdstrike.iterdir():
        path.unlink()
    said, called = host.run()
    assert called[-2:] == LAST_CALLS
    assert "Windows restarts as usual" in said


@pytest.mark.parametrize(
    ("program", "code", "words", "calls_made"),
    [
        ("bcdedit", 1, "needs an administrator", ["bcdedit"]),
        ("icacls", 5, "stays in safe mode", ["bcdedit", "icacls"]),
        ("fsutil", 0, "stays in safe mode", ["bcdedit", "icacls", "fsutil"]),
    ],
)
def test_what_is_not_as_it_should_be_ends_it(
    host: SafeMode, program: str, code: int, words: str, calls_made: list[str]
) -> None:
    """No administrator; a folder that cannot be protected; a junction where the files should be."""
    before = files_in(host.crowdstrike)
    answer(host.stand_ins, program, code=code)
    said, called = host.run()
    assert [call.split()[0] for call in called] == calls_made
    assert words in said
    assert files_in(host.crowdstrike) == before


def test_outside_safe_mode_nothing_is_done(host: SafeMode) -> None:
    before = files_in(host.crowdstrike)
    said, called = host.run(safe_mode=False)
    assert "not in safe mode" in said
    assert called == []
    assert files_in(host.crowdstrike) == before


def test_rules_that_need_bluelift_itself_are_named(host: SafeMode) -> None:
    before = files_in(host.crowdstrike)
    rule = Rule(id="by-digest", pattern="System32\\drivers\\CrowdStrike\\*.sys", sha256=("ab" * 32,))
    host.put(replace(CONFIG, rules=(rule,)))
    said, called = host.run()
    assert "The rule by-digest needs Bluelift itself" in said
    assert [call.split()[0] for call in called] == ["bcdedit"]
    assert files_in(host.crowdstrike) == before


@pytest.mark.parametrize(("code", "goes_on"), [(0, True), (13, False), (-1073741819, False)])
def test_a_payload_on_the_medium_does_it(host: SafeMode, code: int, goes_on: bool) -> None:
    before = files_in(host.crowdstrike)
    (host.medium / "Bluelift" / "payload").mkdir()
    shutil.copyfile(host.c / "windows/system32/bcdedit.exe", host.medium / "Bluelift/payload/payload.exe")
    answer(host.stand_ins, "payload", code=code)
    said, called = host.run()
    payload = "payload --root C:\\ --config E:\\Bluelift\\safe-mode.json"
    assert called == ["bcdedit /enum {current}", payload, *(LAST_CALLS if goes_on else [])]
    assert ("stays in safe mode" in said) != goes_on
    assert files_in(host.crowdstrike) == before


@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_the_frozen_payload_on_the_medium_repairs_the_windows_that_runs(host: SafeMode, frozen: FrozenPayload) -> None:
    """The true one, where README says to unpack it; its quarantine can be undone, unlike cmd.exe's."""
    frozen.write(host.medium / "Bluelift" / "payload")
    before = files_in(host.crowdstrike)
    doomed = {name for name in before if fnmatch(name.lower(), "c-00000291*.sys")}
    said, called = host.run()
    assert called == ["bcdedit /enum {current}", *LAST_CALLS], said
    assert host.kept == []
    assert "is repaired" in " ".join(said.split())
    left = files_in(host.crowdstrike)
    assert left == {name: before[name] for name in left}
    assert doomed - set(left), "files went"
    (run,) = (host.store / QUARANTINE_FOLDER).iterdir()
    assert {path.name for path in run.iterdir()} >= {"journal.json", "receipt.json"}
