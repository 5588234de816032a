"""The command line by hand (real folders, a real process) and the whole-machine run (an environment in memory)."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from payload.__main__ import Place, _this_platform, main
from payload.contract import (
    BUILT_IN_RULES,
    EVENT_PREFIX,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    AfterRepair,
    Ending,
    PayloadConfig,
    Receipt,
    Rule,
    Verdict,
)
from payload.display import FullScreen
from payload.ending import FinalScreen, ending_action
from payload.environment import SpecialKey, VolumeNotOpened, VolumeState
from payload.environment.directory import DirectoryEnvironment
from payload.formats.fve_entries import Protector
from payload.formats.records import from_json, to_json
from payload.receipt import receipt_schema
from payload.safe_mode import set_safe_mode
from tests.payload.fake_environment import (
    CORRECTED_NS,
    FAULTY_NS,
    FAULTY_PATH,
    FakeEnvironment,
    FakeUnlocking,
    FakeVolume,
    MemoryFiles,
    channel_file,
    volume,
    windows_files,
)
from tests.payload.test_receipt import a_receipt, schema_problems
from tests.payload.test_safe_mode import made_store, safe_boot
from tests.payload.test_unlock import BY_RECOVERY, boot_partition, lock

PROJECT = Path(__file__).resolve().parents[2]
CHANNEL = "Windows/System32/drivers/CrowdStrike"
FAULTY = f"{CHANNEL}/C-00000291-00000000-00000031.sys"


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """A mounted Windows volume with a faulty channel file and neighbours."""
    root = tmp_path / "disk"
    for folder in ("Windows/System32/config", CHANNEL, "ProgramData", "Users"):
        (root / folder).mkdir(parents=True)
    (root / "Windows/System32/config/SYSTEM").write_bytes(b"regf" + bytes(4092))
    (root / FAULTY).write_bytes(channel_file(31))
    os.utime(root / FAULTY, ns=(FAULTY_NS, FAULTY_NS))
    (root / CHANNEL / "C-00000292-00000000-00000001.sys").write_bytes(channel_file(1, 292))
    (root / CHANNEL / "CSAgent.sys").write_bytes(b"MZ")
    return root


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its content and time."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def payload(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m payload` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "payload", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


# --- a real folder, a real process -----------------------------------------------------------------------------------


def test_repaired_then_already_clean_then_undone(windows: Path) -> None:
    before = snapshot(windows)
    first = payload("--root", windows)
    assert first.returncode == 0
    assert "is repaired: 1 file moved to quarantine" in first.stdout
    assert "Will quarantine 1 file" in first.stdout
    after = snapshot(windows)
    assert FAULTY not in after
    kept = [path for path in after if path.endswith("C-00000291-00000000-00000031.sys")]
    assert len(kept) == 1
    assert after[kept[0]] == before[FAULTY], "content and time survive"
    assert {k: v for k, v in after.items() if "Bluelift" not in k} == {k: v for k, v in before.items() if k != FAULTY}

    second = payload("--root", windows)
    assert second.returncode == 0
    assert "Nothing was changed" in second.stdout
    assert snapshot(windows) == after

    undone = payload("--root", windows, "--undo")
    assert undone.returncode == 0
    assert f"restored  \\{FAULTY.replace('/', chr(92))}" in undone.stdout
    assert {k: v for k, v in snapshot(windows).items() if "Bluelift" not in k} == before

    again = payload("--root", windows, "--undo")
    assert (again.returncode, again.stdout) == (0, "Nothing to undo: no quarantined files were found.\n")


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--policy", "report-only"]])
def test_looking_only_changes_nothing(windows: Path, arguments: list[str]) -> None:
    before = snapshot(windows)
    done = payload("--root", windows, *arguments)
    assert done.returncode == Verdict.REPORTED.exit_code == 11
    assert snapshot(windows) == before


def test_json_is_one_receipt_on_standard_output(windows: Path) -> None:
    done = payload("--root", windows, "--json")
    data = json.loads(done.stdout)
    assert schema_problems(data, receipt_schema(), receipt_schema()) == []
    receipt = from_json(Receipt, data)
    assert receipt.verdict is Verdict.REPAIRED
    assert receipt.environment == "directory"
    assert receipt.volumes[0].id == str(windows)
    assert "is repaired" in done.stderr
    (on_volume,) = windows.glob("ProgramData/Bluelift/quarantine/*/receipt.json")
    assert from_json(Receipt, json.loads(on_volume.read_bytes())).run_id == receipt.run_id


def test_undo_as_json_and_dry(windows: Path) -> None:
    payload("--root", windows)
    before = snapshot(windows)
    dry = payload("--root", windows, "--undo", "--dry-run")
    assert dry.returncode == 0
    assert "would restore \\Windows" in dry.stdout
    assert snapshot(windows) == before
    data = json.loads(payload("--root", windows, "--undo", "--json").stdout)
    assert [file["outcome"] for file in data["volumes"][0]["files"]] == ["restored"]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_undo_without_the_profile_of_the_run_fails_and_asks_for_it(
    windows: Path, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    rule = Rule(id="acme", pattern="System32\\drivers\\acme*.dat", max_size=100)
    (windows / "Windows/System32/drivers/acme1.dat").write_bytes(b"bad")
    profile = tmp_path / "config.json"
    profile.write_text(json.dumps(to_json(PayloadConfig(image_id="", rules=(rule,)))))
    assert payload("--root", windows, "--config", profile).returncode == 0
    before = snapshot(windows)
    refused = payload("--root", windows, "--undo", *dry)
    assert refused.returncode == Verdict.FAILED.exit_code
    assert "acme1.dat, which no rule could have matched" in refused.stdout
    assert "give that image's configuration (--config)" in refused.stdout
    assert "Nothing to undo" not in refused.stdout
    assert snapshot(windows) == before
    assert payload("--root", windows, "--undo", "--config", profile, *dry).returncode == 0
    assert (windows / "Windows/System32/drivers/acme1.dat").exists() is not bool(dry)


@pytest.mark.parametrize("journal", ["{", '{"run_id": 1}', "[" * 100_000])
def test_undo_fails_where_a_journal_cannot_be_read(windows: Path, journal: str) -> None:
    payload("--root", windows)
    (path,) = windows.glob("ProgramData/Bluelift/quarantine/*/journal.json")
    path.write_text(journal)
    done = payload("--root", windows, "--undo", "--json")
    assert done.returncode == Verdict.FAILED.exit_code
    assert "has no journal that can be read" in done.stderr
    assert "Nothing to undo" not in done.stderr
    (refused,) = json.loads(done.stdout)["volumes"][0]["refused"]
    assert "has no journal that can be read" in refused
    assert not (windows / FAULTY).exists()


def test_undo_does_not_overwrite_and_says_so(windows: Path) -> None:
    payload("--root", windows)
    (windows / FAULTY).write_bytes(b"something new")
    done = payload("--root", windows, "--undo")
    assert done.returncode == Verdict.FAILED.exit_code
    assert "not overwritten" in done.stdout
    assert (windows / FAULTY).read_bytes() == b"something new"


def test_several_roots_and_one_without_windows(windows: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = payload("--root", windows, tmp_path / "data", "--json")
    receipt = from_json(Receipt, json.loads(done.stdout))
    assert [record.verdict for record in receipt.volumes] == [Verdict.REPAIRED, Verdict.NO_WINDOWS_FOUND]
    assert done.returncode == 0


def test_no_windows_found(tmp_path: Path) -> None:
    assert payload("--root", tmp_path).returncode == Verdict.NO_WINDOWS_FOUND.exit_code == 10


def test_a_corrected_file_is_already_clean(windows: Path) -> None:
    os.utime(windows / FAULTY, ns=(CORRECTED_NS, CORRECTED_NS))
    assert payload("--root", windows).returncode == 0
    assert (windows / FAULTY).exists()


def test_a_windows_that_leads_elsewhere_is_left_alone(windows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "Windows").symlink_to(windows / "Windows")
    done = payload("--root", other)
    assert done.returncode == Verdict.LEFT_ALONE.exit_code == 13
    assert (windows / FAULTY).exists()


def test_a_name_with_an_escape_does_not_reach_the_terminal(windows: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "disk\033[2J\n\udcff"
    windows.rename(hostile)
    done = main_here("--root", str(hostile), "--json")
    assert done.code == 0
    assert "\033" not in done.out + done.err
    assert json.loads(done.out)["volumes"][0]["id"] == str(hostile)


def test_a_reader_that_goes_away_does_not_stop_a_repair(windows: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        subprocess.run([sys.executable, "-m", "payload", "--root", windows], cwd=PROJECT, stdout=gone, timeout=60)
    assert not (windows / FAULTY).exists()
    assert len(list(windows.glob("ProgramData/Bluelift/quarantine/*/receipt.json"))) == 1


def test_help_has_examples_and_exit_codes() -> None:
    done = payload("--help")
    assert done.returncode == 0
    assert "--root /mnt/windows --dry-run" in done.stdout
    assert "14 failed" in done.stdout


def test_the_receipts_schema_is_printed() -> None:
    assert json.loads(payload("--receipt-schema").stdout) == receipt_schema()


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    """A FIFO cannot block it, so a volume with very many folders keeps it busy until the signal comes."""
    root = tmp_path / "disk"
    for number in range(3000):
        (root / f"folder{number}" / "System32" / "config").mkdir(parents=True)
    started = subprocess.Popen(
        [sys.executable, "-m", "payload", "--root", root, *[root] * 400],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    started.stdout.readline()
    time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=300)  # it ends at once, but a busy machine may let it wait
    assert started.returncode == EXIT_INTERRUPTED == 130
    assert "Stopped before anything was left half-way" in err
    assert "Traceback" not in err


# --- bad input -------------------------------------------------------------------------------------------------------


class Here:
    """What `main` did in this process."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def main_here(*arguments: str, environment: FakeEnvironment | None = None, image_config: Path | None = None) -> Here:
    """`main` in this process, with an environment in memory for the whole machine."""
    out, err = io.StringIO(), io.StringIO()
    seen = environment or FakeEnvironment()
    place = Place(
        image_config=image_config or Path("/nonexistent/config.json"),
        stdout=out,
        stderr=err,
        environment=lambda config: seen,
    )
    code = main(arguments, place)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Here(code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Give --root PATH"),
        (["--root", "/nonexistent/disk"], "not a folder: /nonexistent/disk"),
        (["--root", ".", "--all-disks"], "not both"),
        (["--clear-safe-mode"], "--clear-safe-mode takes --root PATH alone"),
        (["--clear-safe-mode", "--root", ".", "--dry-run"], "--clear-safe-mode takes --root PATH alone"),
        (["--clear-safe-mode", "--root", "/nonexistent/disk"], "not a folder: /nonexistent/disk"),
        (["--root", ".", "--config", "/nonexistent.json"], "cannot be read: No such file"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], says: str) -> None:
    done = main_here(*arguments)
    assert done.code == EXIT_USAGE == 2
    assert says in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", ["is not JSON"]),
        ("[" * 100000, ["is not JSON"]),
        ("[]", ["should be an object"]),
        (
            '{"image_id": 5, "rules": [{"id": "X", "pattern": "..\\\\a"}], "more": 1}',
            ["image_id: should be a text", "more: unknown key", "rules[0]: id must be"],
        ),
        ('{"image_id": "i", "rules": [], "disk_wait": 9999}', ["a waiting time is out of range"]),
    ],
)
def test_a_configuration_that_cannot_be_used_shows_every_problem(tmp_path: Path, text: str, says: list[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    done = main_here("--root", str(tmp_path), "--config", str(config))
    assert done.code == EXIT_USAGE
    for expected in says:
        assert expected in done.err


def test_an_unknown_option_is_a_usage_error() -> None:
    done = payload("--nonsense")
    assert done.returncode == EXIT_USAGE
    assert "usage: python -m payload" in done.stderr


def test_safe_mode_is_taken_back_on_a_mounted_boot_partition(tmp_path: Path) -> None:
    boot = tmp_path / "EFI" / "Microsoft" / "Boot"
    boot.mkdir(parents=True)
    (boot / "BCD").write_bytes(made_store())
    environment = DirectoryEnvironment([tmp_path])
    set_safe_mode(environment, environment.volumes()[0])
    assert safe_boot((boot / "BCD").read_bytes()) == 0
    for _again in range(2):
        done = main_here("--clear-safe-mode", "--root", str(tmp_path))
        assert (done.code, done.err) == (0, "")
        assert "'Windows 11' starts as it did before safe mode (\\EFI\\Microsoft\\Boot\\BCD on " in done.out
        assert safe_boot((boot / "BCD").read_bytes()) is None
        assert [file.name for file in boot.iterdir()] == ["BCD"]


def test_a_boot_store_that_cannot_be_changed_is_left(tmp_path: Path, image_config: Path) -> None:
    done = main_here("--clear-safe-mode", "--root", str(tmp_path), image_config=image_config)
    assert done.code == Verdict.FAILED.exit_code
    assert "No boot store was found" in done.out
    boot = tmp_path / "Boot"
    boot.mkdir()
    (boot / "BCD").write_bytes(b"regf, or not")
    done = main_here("--clear-safe-mode", "--root", str(tmp_path))
    assert done.code == Verdict.FAILED.exit_code
    assert "The boot store was not changed" in done.out
    assert (boot / "BCD").read_bytes() == b"regf, or not"


def test_a_volume_that_is_mounted_read_only_fails_with_advice(windows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Any, real: Any = os.statvfs) -> Any:
        status = list(real(path))
        status[8] |= os.ST_RDONLY
        return os.statvfs_result(status)

    monkeypatch.setattr(os, "statvfs", read_only)
    done = main_here("--root", str(windows))
    assert done.code == Verdict.FAILED.exit_code
    assert "mounted read-only" in done.out
    assert "Mount it for writing" in done.out


# --- the whole machine -----------------------------------------------------------------------------------------------


@pytest.fixture
def image_config(tmp_path: Path) -> Path:
    """The configuration of an image whose countdown is over at once."""
    return write_config(tmp_path, ending=Ending(countdown=0))


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    values = {"image_id": "image-1", "rules": BUILT_IN_RULES, "organisation": "Example Corp", "contact": "phone 4242"}
    path.write_text(json.dumps(to_json(PayloadConfig(**{**values, **changes}))))
    return path


def ending_events(environment: FakeEnvironment) -> list[dict[str, Any]]:
    lines = [json.loads(line.removeprefix(EVENT_PREFIX)) for line in environment.lines]
    return [line for line in lines if line["event"] == "ending"]


def test_a_repaired_host_restarts(image_config: Path) -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    done = main_here(environment=environment, image_config=image_config)
    assert done.code == 0
    assert environment.ended == [AfterRepair.REBOOT]
    assert [event["action"] for event in ending_events(environment)] == ["reboot", "reboot"]
    last = environment.memory_screen.shown[-1]
    assert "Restarting now" in last
    assert "Example Corp   phone 4242" in last
    assert done.out == ""


@pytest.mark.parametrize("protectors", [(), BY_RECOVERY], ids=["no recovery password", "a recovery password"])
def test_a_host_that_was_sent_into_safe_mode_restarts(image_config: Path, protectors: tuple[Protector, ...]) -> None:
    environment = FakeEnvironment(FakeVolume(volume("sda3", state=VolumeState.LOCKED), MemoryFiles()))
    environment.fake_unlocking = FakeUnlocking({"sda3": lock(protectors=protectors)})
    environment.fake_unlocking.starts = {"sda": [boot_partition()]}
    to_the_choices = [SpecialKey.ESCAPE] if protectors else []
    environment.memory_screen.keys = [*to_the_choices, "h", SpecialKey.ENTER]
    done = main_here(environment=environment, image_config=image_config)
    assert done.code == Verdict.NEEDS_A_KEY.exit_code
    assert environment.ended == [AfterRepair.REBOOT]
    assert [event["action"] for event in ending_events(environment)] == ["reboot", "reboot"]
    last = " ".join(environment.memory_screen.shown[-1].split())
    assert "This host will start in safe mode: log in there as a local administrator" in last
    assert "run \\Bluelift\\safe-mode.cmd from this medium." in last
    assert "Restarting now" in last


@pytest.mark.parametrize(
    ("state", "faulty", "verdict"),
    [
        (VolumeState.READY, False, Verdict.ALREADY_CLEAN),
        (VolumeState.LOCKED, True, Verdict.NEEDS_A_KEY),
        (VolumeState.RAID_MEMBER, True, Verdict.LEFT_ALONE),
        (VolumeState.UNREADABLE, True, Verdict.FAILED),
        (VolumeState.NOT_WINDOWS, True, Verdict.NO_WINDOWS_FOUND),
    ],
)
def test_everything_else_stays_until_a_key(
    image_config: Path, state: VolumeState, faulty: bool, verdict: Verdict
) -> None:
    environment = FakeEnvironment(FakeVolume(volume(state=state), windows_files(faulty=faulty)))
    environment.memory_screen.keys = ["x", "s", "r"]
    done = main_here(environment=environment, image_config=image_config)
    assert done.code == verdict.exit_code
    assert environment.shells == 1
    assert environment.ended == [AfterRepair.REBOOT]
    assert [event["action"] for event in ending_events(environment)] == ["stay", "reboot"]


def test_a_configuration_that_cannot_be_used_still_gets_a_screen(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"image_id": 1}')
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.memory_screen.keys = [None, "s", "r"]
    done = main_here(environment=environment, image_config=path)
    assert done.code == EXIT_USAGE
    text = environment.memory_screen.shown[-1]
    assert "configuration of this image cannot be used" in text
    assert "rules: missing" in text
    assert environment.opened == []
    assert environment.shells == 1
    assert environment.ended == [AfterRepair.REBOOT]


def test_all_disks_by_hand_does_not_restart_the_machine() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    done = main_here("--all-disks", environment=environment)
    assert done.code == 0
    assert "is repaired" in done.out
    assert environment.ended == []
    assert environment.memory_screen.shown == []
    undone = main_here("--all-disks", "--undo", environment=environment)
    assert "restored" in undone.out


@pytest.mark.parametrize("arguments", [("--undo",), ("--undo", "--dry-run"), ("--all-disks", "--undo")])
def test_undo_in_the_images_shell_repairs_nothing_and_restarts_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    other = Rule(id="other", pattern="System32\\drivers\\other.bin")
    image = write_config(tmp_path, rules=(*BUILT_IN_RULES, other), ending=Ending(countdown=0))
    files = windows_files()
    files.add("\\Windows\\System32\\drivers\\other.bin", b"other")
    before = files.paths()
    main_here(environment=FakeEnvironment(FakeVolume(volume(), files)), image_config=image)
    assert len(files.paths().keys() & before.keys()) == len(before) - 2
    quarantined = files.paths()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    done = main_here(*arguments, environment=environment, image_config=image)
    assert done.code == 0
    assert environment.ended == []
    assert environment.memory_screen.shown == []
    if "--dry-run" in arguments:
        assert done.out.count("would restore") == 2
        assert files.paths() == quarantined
    else:
        assert done.out.count("restored") == 2, "also what the image's own rule had moved"
        assert before.items() <= files.paths().items()


def test_undo_goes_on_after_a_volume_that_cannot_be_opened() -> None:
    good = windows_files()
    locked = FakeVolume(volume("sda1"), windows_files())
    environment = FakeEnvironment(
        locked, FakeVolume(volume("sda2", state=VolumeState.NOT_WINDOWS), good), FakeVolume(volume("sda3"), good)
    )
    main_here("--all-disks", environment=environment)
    locked.files.fail["listing"] = RuntimeError("boom")
    done = main_here("--all-disks", "--undo", environment=environment)
    assert done.code == Verdict.FAILED.exit_code
    assert "sda1: could not be undone: something unexpected happened" in done.out
    assert "sda1: RuntimeError: boom at fake_environment.py" in done.out
    assert "sda3: restored" in done.out


def test_undo_tells_what_it_did_even_where_closing_the_volume_fails() -> None:
    class CloseFails(FakeEnvironment):
        def _fault(self, method: str) -> None:
            if method == "close_volume" and self.opened[-1][1] and self.fails:
                raise VolumeNotOpened(VolumeState.UNREADABLE, "the changes may not have reached the disk", "")

        fails = False

    environment = CloseFails(FakeVolume(volume(), windows_files()))
    main_here("--all-disks", environment=environment)
    environment.fails = True
    done = main_here("--all-disks", "--undo", environment=environment)
    assert done.code == Verdict.FAILED.exit_code
    assert "sda3: could not be closed well: the changes may not have reached the disk" in done.out
    assert f"sda3: restored  {FAULTY_PATH}" in done.out


def test_undo_of_a_locked_volume_says_why() -> None:
    fake = FakeVolume(volume(), windows_files())
    environment = FakeEnvironment(fake)
    main_here("--all-disks", environment=environment)
    dry = main_here("--all-disks", "--undo", "--dry-run", environment=environment)
    assert f"sda3: would restore {FAULTY_PATH}" in dry.out
    fake.refuses_changes = VolumeNotOpened(VolumeState.LOCKED, "", "")
    done = main_here("--all-disks", "--undo", environment=environment)
    assert done.code == Verdict.FAILED.exit_code
    assert "sda3: could not be undone: it is locked by BitLocker" in done.out


def test_the_unexpected_is_one_sentence(image_config: Path) -> None:
    environment = FakeEnvironment()

    def broken(config: PayloadConfig) -> FakeEnvironment:
        raise RuntimeError("boom\033[2J")

    err = io.StringIO()
    place = Place(image_config=image_config, stdout=io.StringIO(), stderr=err, environment=broken)
    assert main([], place) == Verdict.FAILED.exit_code
    assert "Bluelift stopped: something unexpected happened." in err.getvalue()
    assert "RuntimeError: boom?[2J at test_main.py" in err.getvalue()
    assert environment.ended == []


def test_an_interruption_while_changing_says_to_run_again() -> None:
    files = windows_files()
    files.fail["rename"] = KeyboardInterrupt()
    done = main_here("--all-disks", environment=FakeEnvironment(FakeVolume(volume(), files)))
    assert done.code == EXIT_INTERRUPTED
    assert "Stopped while sda3 was being changed: run Bluelift again." in done.err


# --- the countdown ---------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def finish(
    environment: FakeEnvironment, action: AfterRepair, *, countdown: int = 3, shell: bool = True
) -> tuple[list[AfterRepair], Clock]:
    chosen: list[AfterRepair] = []
    clock = Clock()
    config = PayloadConfig(image_id="i", rules=BUILT_IN_RULES, ending=Ending(countdown=countdown), shell=shell)
    FinalScreen(
        environment=environment,
        display=FullScreen(environment.screen, "Bluelift"),
        config=config,
        receipt=a_receipt(),
        chosen=chosen.append,
        clock=clock,
        sleep=clock.sleep,
    ).run(action)
    return chosen, clock


@pytest.mark.parametrize(
    ("action", "words"), [(AfterRepair.REBOOT, "Restarting"), (AfterRepair.POWER_OFF, "Powering off")]
)
def test_a_countdown_runs_out_without_a_keyboard(action: AfterRepair, words: str) -> None:
    environment = FakeEnvironment()
    environment.memory_screen.keys = [None] * 10
    chosen, clock = finish(environment, action)
    assert clock.now == 3
    assert environment.ended == chosen == [action]
    text = "".join(environment.memory_screen.shown)
    for expected in (f"{words} in 3 s - press any key to stop", f"{words} in 1 s", f"{words} now"):
        assert expected in text


@pytest.mark.parametrize(("key", "ends"), [("r", AfterRepair.REBOOT), ("p", AfterRepair.POWER_OFF)])
def test_r_and_p_act_at_once(key: str, ends: AfterRepair) -> None:
    environment = FakeEnvironment()
    environment.memory_screen.keys = [None, key]
    _, clock = finish(environment, AfterRepair.REBOOT, countdown=30)
    assert clock.now == 1
    assert environment.ended == [ends]


def test_any_other_key_stops_the_countdown() -> None:
    environment = FakeEnvironment()
    environment.memory_screen.keys = ["x", *[None] * 20, "p"]
    _, clock = finish(environment, AfterRepair.REBOOT, countdown=30)
    assert clock.now == 100, "twenty looks at the keyboard, far beyond the countdown"
    assert environment.ended == [AfterRepair.POWER_OFF]
    assert "Stopped." in environment.memory_screen.shown[1]


def test_no_shell_where_the_profile_has_none() -> None:
    environment = FakeEnvironment()
    environment.memory_screen.keys = ["s", "p"]
    finish(environment, AfterRepair.STAY, shell=False)
    assert environment.shells == 0
    assert "[S]" not in environment.memory_screen.shown[-1]


def test_a_shell_that_cannot_start_and_a_machine_that_cannot_restart() -> None:
    environment = FakeEnvironment()
    environment.fail = {"shell": OSError("none"), "end": OSError("none")}

    def recover(seconds: float, keys: list[str] = ["s", "r", "p"]) -> str:  # noqa: B006
        if len(keys) == 1:
            environment.fail.clear()
        return keys.pop(0)

    environment.memory_screen.key = recover  # type: ignore[method-assign]
    finish(environment, AfterRepair.STAY)
    text = "".join(environment.memory_screen.shown)
    assert "No shell could be started." in text
    assert "hold its power button" in text
    assert environment.ended == [AfterRepair.REBOOT, AfterRepair.POWER_OFF]


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("otherwise", AfterRepair)
def test_only_a_repaired_host_ever_restarts_by_itself(verdict: Verdict, otherwise: AfterRepair) -> None:
    action = ending_action(verdict, Ending(repaired=AfterRepair.REBOOT, otherwise=otherwise))
    assert (action is AfterRepair.REBOOT) == (verdict is Verdict.REPAIRED)
    if otherwise is AfterRepair.STAY and verdict is not Verdict.REPAIRED:
        assert action is AfterRepair.STAY


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("nobody", [False, True])
def test_safe_mode_that_somebody_chose_restarts_the_host(verdict: Verdict, nobody: bool) -> None:
    """Whatever the profile says: it speaks of hosts that nobody decided about."""
    quiet = Ending(repaired=AfterRepair.STAY, otherwise=AfterRepair.STAY)
    action = ending_action(verdict, quiet, nobody=nobody, safe_mode=True)
    assert (action is AfterRepair.REBOOT) == (verdict is Verdict.NEEDS_A_KEY and not nobody)


# --- in this process, for what a process of its own showed above -----------------------------------------------------


def test_schema_policy_and_undo_here(windows: Path) -> None:
    assert json.loads(main_here("--receipt-schema").out) == receipt_schema()
    assert main_here("--root", str(windows), "--policy", "report-only").code == Verdict.REPORTED.exit_code
    assert main_here("--root", str(windows)).code == 0
    undone = main_here("--root", str(windows), "--undo", "--json")
    assert json.loads(undone.out)["volumes"][0]["files"][0]["outcome"] == "restored"
    assert "restored" in undone.err


def test_an_interruption_before_any_change_says_so() -> None:
    environment = FakeEnvironment()
    environment.fail["volumes"] = KeyboardInterrupt()
    done = main_here("--all-disks", environment=environment)
    assert done.code == EXIT_INTERRUPTED
    assert "Stopped before anything was left half-way." in done.err


def test_sigterm_is_an_interruption_here() -> None:
    class Terminated(FakeEnvironment):
        def volumes(self) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().volumes()

    assert main_here("--all-disks", environment=Terminated()).code == EXIT_INTERRUPTED


def test_the_whole_machine_of_this_platform_is_linux() -> None:
    assert _this_platform(PayloadConfig(image_id="", rules=())).name == "linux"
