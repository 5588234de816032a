"""The command line: what is accepted, what each mistake costs, and that mistakes leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from builder import __main__ as entry
from builder import __version__, build_linux, cli, profile
from builder.base.packages import Package, PackageSet
from builder.cache import Cache
from builder.errors import UsageError
from builder.packages import Resolution

COMMANDS = ("build", "plan", "verify", "inspect", "usb", "doctor", "clean", "init", "schema")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and a cache below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUELIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return tmp_path


def run(*argv: str) -> int:
    return entry.main(argv)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert f"bluelift {command}" in shown


def test_version_and_overall_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"bluelift {__version__}\n"
    with pytest.raises(SystemExit):
        run("--help")
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["bild"], "invalid choice: 'bild'"),
        (["build", "--nope"], "--nope"),
        (["build", "--out", "x"], ""),
        (["build", "--mirror", "x"], "should start with http"),
        (["build", "--mirror", "http://m", "--debs", "."], "--debs cannot be given together"),
        (["build", "--debs", "nowhere"], "there is no folder nowhere"),
        (["build", "--keyring", "nowhere"], "there is no file nowhere"),
        (["build", "linux", "--windows-iso", "x.iso"], "are for winpe; linux.yaml is for linux"),
        (["build", "linux", "--payload-exe", "x"], "are for winpe"),
        (["build", "winpe"], "none are given"),
        (["build", "winpe", "--mirror", "http://m"], "are for linux"),
        (["build", "--windows-iso", "a", "--adk", "b"], "give one of them"),
        (["build", "--windows-iso", "a", "--media", "b"], "--media is for --winre"),
        (["build", "nothing"], "neither a file nor a profile's name"),
        (["plan", "--plain", "--json-lines"], "exclude each other"),
        (["verify"], "IMAGE"),
        (["verify", "x.iso", "--firmware", ","], "at least one word"),
        (["verify", "x.iso", "--firmware", "bios,efi"], "there is no efi"),
        (["verify", "x.iso", "--disk", "floppy"], "there is no floppy"),
        (["verify", "x.iso", "--scenario", "apocalypse"], "apocalypse"),
        (["verify", "x.iso", "--as", "tape"], "there is no tape"),
        (["usb"], "ACTION"),
        (["usb", "wipe"], "invalid choice: 'wipe'"),
        (["usb", "write", "x.iso"], "DEVICE"),
        (["usb", "write", "x.iso", "sdb", "--force"], "--force"),
        (["verify", "x.iso", "--timeout", "0"], "is not a number of seconds"),
        (["verify", "x.iso", "--accel", "xen"], "invalid choice: 'xen'"),
    ],
)
def test_usage_errors(argv: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if argv[1:2] == ["--out"]:
        assert run(*argv[:2]) == 2
        return
    assert run(*argv) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert list(elsewhere.iterdir()) == []


def test_a_profile_with_problems(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "p.yaml").write_text("nam: x\nshell: 3\n")
    assert run("build", "p.yaml") == 3
    shown = capsys.readouterr().err
    assert "p.yaml:1: nam: unknown key" in shown
    assert "p.yaml:2: shell:" in shown
    assert [path.name for path in elsewhere.iterdir()] == ["p.yaml"]


def test_a_profile_that_does_not_parse(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "p.yaml").write_text("name: [x\n")
    assert run("plan", "p.yaml") == 3
    assert "p.yaml:2: not valid YAML" in capsys.readouterr().err


def test_a_bad_epoch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert run("plan") == 2
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["empty.iso", "text.iso"])
def test_an_image_that_is_not_one(elsewhere: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "empty.iso").write_bytes(b"")
    (elsewhere / "text.iso").write_bytes(b"not an image " * 10_000)
    for command in ("inspect", "verify"):
        assert run(command, name) == 8
        assert name in capsys.readouterr().err or command == "inspect"
    assert run("inspect", "missing.iso") == 8
    assert run("inspect", ".") == 8


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_is_a_file(elsewhere: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "file").write_text("mine")
    assert run("build", "-o", output) == 7
    assert "is a file, not a folder" in capsys.readouterr().err
    assert (elsewhere / "file").read_text() == "mine"
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "locked").mkdir(mode=0o500)
    assert run("build", "-o", "locked") == 7
    assert "Permission denied" in capsys.readouterr().err


def test_an_output_below_proc_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "-o", "/proc/bluelift") == 7
    assert "nothing can be written to /proc/bluelift" in capsys.readouterr().err


def test_plan_writes_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan") == 0
    assert "the mirror has not been asked yet" in capsys.readouterr().out
    assert run("plan", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["image_id"] is None
    assert [step["name"] for step in data["steps"]] == [
        "packages", "boot-files", "bios-boot-image", "base-initramfs", "payload-segment", "iso", "manifest",
    ]  # fmt: skip
    assert list(elsewhere.iterdir()) == []


def test_plan_knows_ids_once_packages_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = Package(name="a", version="1", architecture="all", sha256="00" * 32, size=1, file="a.deb", uri="")
    found = Resolution(packages=PackageSet(packages=(package,), resolved_at=0), age=7200)
    monkeypatch.setattr(build_linux, "stored_resolution", lambda settings, cache: found)
    assert run("plan", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["image_id"]) == 32
    assert data["steps"][0] | {"recipe": 0, "id": 0} == {
        "name": "packages", "id": 0, "cached": True, "reason": "1 packages, as resolved 2 h ago", "recipe": 0,
    }  # fmt: skip
    assert data["steps"][1]["reason"] == "never made with this cache"


def test_init_and_the_profile_it_writes(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init") == 0
    assert "bluelift build bluelift.yaml" in capsys.readouterr().out
    assert (elsewhere / "bluelift.yaml").read_text().startswith("# yaml-language-server: $schema=")
    assert run("plan", "bluelift.yaml") == 0
    (elsewhere / "bluelift.yaml").write_text("mine")
    assert run("init") == 2
    assert (elsewhere / "bluelift.yaml").read_text() == "mine"
    assert run("init", "nowhere/x.yaml") == 7


def test_init_of_a_profile_by_name(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "winpe") == 0
    assert "bluelift build winpe.yaml --windows-iso FILE" in capsys.readouterr().out
    assert run("init", "winpe", "site.yaml") == 0
    assert run("init", "linux", "mine.yaml") == 0
    written = {name: profile.load(elsewhere / f"{name}.yaml").environment for name in ("winpe", "site", "mine")}
    assert written == {"winpe": "winpe", "site": "winpe", "mine": "linux"}
    assert run("init", "winpe") == 2
    capsys.readouterr()
    assert run("init", "nonsense", "x.yaml") == 2
    assert "linux, report-only, unattended, winpe" in capsys.readouterr().err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["mine.yaml", "site.yaml", "winpe.yaml"]


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Bluelift profile"


def test_clean(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clean") == 0
    with Cache(elsewhere / "cache").locked(lambda _: None):
        (elsewhere / "cache" / "pool").mkdir()
    assert run("clean") == 0
    assert (elsewhere / "cache" / "pool").exists()
    assert run("clean", "--all") == 0
    assert not (elsewhere / "cache").exists()
    (elsewhere / "mine").mkdir()
    assert run("clean", "--all", "--cache", "mine") == 2
    assert (elsewhere / "mine").exists()


@pytest.mark.programs
def test_doctor_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("doctor", "--json")
    data = json.loads(capsys.readouterr().out)
    assert {"checks", "can_build", "can_build_winpe", "can_verify"} == set(data)
    assert run("doctor") in (0, 4)
    assert "can build" in capsys.readouterr().out


def test_json_lines_carry_errors_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "nothing", "--json-lines") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) | {"hint": ""} == {
        "event": "error", "message": "nothing is neither a file nor a profile's name", "hint": "", "exit_code": 2,
    }  # fmt: skip
    assert shown.err == ""


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("the cause")

    monkeypatch.setattr(cli, "run_command", broken)
    assert run("schema") == 70
    shown = capsys.readouterr().err
    assert "this is a defect of Bluelift" in shown
    assert "RuntimeError: the cause" in shown
    assert "Please report it" in shown


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", interrupted)
    assert run("schema") == 130
    assert capsys.readouterr().err == "bluelift: error: interrupted; temporary files are removed\n"


def test_sigterm_ends_it_like_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "run_command", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert run("schema") == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.programs
def test_a_reader_that_goes_away_is_no_defect() -> None:
    import subprocess

    command = f"{sys.executable} -m builder schema | head -c 1; echo ${{PIPESTATUS[0]}}"
    root = Path(cli.__file__).parent.parent
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout in ("{141\n", "{0\n")


def test_abbreviated_options_are_refused() -> None:
    with pytest.raises(UsageError):
        cli.parse(["build", "--off"])


def test_what_verify_asks_for_by_default() -> None:
    arguments = cli.parse(["verify", "x.iso"])
    # Firmware and scenario depend on --bitlocker.
    assert (arguments.firmware, arguments.scenario, arguments.bitlocker) == ((), (), False)
    assert (arguments.disk, arguments.attach) == (("nvme",), ())
    assert (arguments.timeout, arguments.accel) == (None, "tcg")
    assert cli.parse(["verify", "x.iso", "--disk", "nvme, ahci,nvme"]).disk == ("nvme", "ahci")
