"""Drivers from a folder: which INF files, in what order, what is told, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from payload.environment import windows_drivers
from payload.environment.completed import TIMED_OUT, Completed


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The INFs that drvload got, and when; each takes 45 s, `slow.inf` all of its time, `no.inf` is refused."""
    calls: list[tuple[str, float]] = []
    now = [1000.0]

    def run(argv: Sequence[str], *, time_limit: float) -> Completed:
        name = Path(argv[1]).name
        calls.append((name, now[0] - 1000))
        now[0] += time_limit if name == "slow.inf" else 45
        code = {"slow.inf": TIMED_OUT, "no.inf": 3}.get(name, 0)
        return Completed(argv=tuple(argv), returncode=code, output="")

    monkeypatch.setattr(windows_drivers, "run", run)
    monkeypatch.setattr(windows_drivers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return calls


def test_what_is_loaded_and_told(tmp_path: Path, called: list[tuple[str, float]]) -> None:
    for name in ("b/slow.inf", "a/no.INF", "a/readme.txt", "c/c/c/c/deep.inf", "c/c/c/c/c/too-deep.inf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/no.INF").rename(tmp_path / "a/no.inf")
    assert windows_drivers.load_drivers(tmp_path) == [
        f"Driver {Path('a/no.inf')}: not loaded: drvload ended with exit code 3",
        f"Driver {Path('b/slow.inf')}: not loaded: drvload did not finish in time",
        f"Driver {Path('c/c/c/c/deep.inf')}: loaded",
    ]
    assert windows_drivers.load_drivers(tmp_path / "none") == []


def test_slow_ones_come_to_an_end_though_each_is_in_time(tmp_path: Path, called: list[tuple[str, float]]) -> None:
    """Two hundred drivers of 45 s each would keep a host waiting for hours."""
    for number in range(200):
        (tmp_path / f"{number:03}.inf").touch()
    notes = windows_drivers.load_drivers(tmp_path)
    assert notes[-1].startswith("No more drivers were loaded")
    assert max(at for _, at in called) < 300
    assert len(called) == len(notes) - 1 == 7
