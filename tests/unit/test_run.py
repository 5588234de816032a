"""The doorway to other programs: environment, limits, and errors worth reading. Uses real programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from builder.errors import ToolFailed, ToolMissing
from builder.run import child_environment, command_line, run, running

PYTHON = sys.executable


def test_what_a_program_printed_comes_back() -> None:
    done = run([PYTHON, "-c", "import sys; print('out'); print('err', file=sys.stderr)"], reason="test", time_limit=30)
    assert (done.text, done.stderr, done.returncode, done.said) == ("out\n", b"err\n", 0, "out\nerr")


def test_standard_input_is_closed_or_given() -> None:
    read = [PYTHON, "-c", "import sys; print(len(sys.stdin.read()))"]
    assert run(read, reason="test", time_limit=30).text == "0\n"
    assert run(read, reason="test", time_limit=30, stdin=b"x" * 100_000).text == "100000\n"


def test_a_missing_program_says_what_it_is_for() -> None:
    with pytest.raises(
        ToolMissing, match="bluelift-no-such-program was not found; it is needed to test this"
    ) as caught:
        run(["bluelift-no-such-program"], reason="test this", time_limit=1)
    assert "bluelift doctor" in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_failure_shows_what_was_said_and_how_to_repeat_it() -> None:
    argv = [PYTHON, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"]
    with pytest.raises(ToolFailed, match="exit code 3") as caught:
        run(argv, reason="test", time_limit=30)
    assert "the reason" in caught.value.message
    assert command_line(argv) in caught.value.hint
    assert run(argv, reason="test", time_limit=30, ok=(0, 3)).returncode == 3


def test_a_time_limit_ends_the_program_and_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    grandchild = f"import time, pathlib; time.sleep(2); pathlib.Path({str(alive)!r}).touch()"
    argv = [PYTHON, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"]
    started = time.monotonic()
    with pytest.raises(ToolFailed, match=r"did not finish within 0\.5 s"):
        run(argv, reason="test", time_limit=0.5)
    assert time.monotonic() - started < 2
    time.sleep(2.2)
    assert not alive.exists()


def test_the_environment_is_the_same_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("LANG", "tr_TR.UTF-8")
    monkeypatch.setenv("PATH", "/usr/bin")
    environment = child_environment({"SOURCE_DATE_EPOCH": "1"})
    assert not {"LD_PRELOAD", "PYTHONPATH", "LANG"} & set(environment)
    assert (environment["LC_ALL"], environment["TZ"], environment["SOURCE_DATE_EPOCH"]) == ("C.UTF-8", "UTC", "1")
    assert environment["PATH"].split(":") == ["/usr/bin", "/usr/sbin", "/sbin"]


def test_running_is_killed_when_the_block_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [PYTHON, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with running(argv, reason="test", log=log) as process:
        deadline = time.monotonic() + 20
        while b"up" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
    assert process.returncode == -9
    with pytest.raises(ToolMissing), running(["bluelift-no-such-program"], reason="test", log=log):
        pass


def test_command_lines_can_be_pasted() -> None:
    assert command_line(["a b", "$HOME", "c"]) == "'a b' '$HOME' c"
