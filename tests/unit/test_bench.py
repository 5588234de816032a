"""The benchmark's own arithmetic, its JSON, and what it does where a measured program fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import bench, bench_hybrid
from builder.bench import Measured, Report
from builder.bench_hybrid import HybridCost, hybrid_table
from builder.errors import ToolFailed, ToolMissing

POSITIVE = st.floats(0.001, 1000)


def measured(ours: tuple[float, ...], theirs: tuple[float, ...], *, goal: float = 0.5) -> Measured:
    return Measured(name="build", unit="s", ours=ours, theirs=theirs, goal=goal)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio", "met"),
    [
        ((1.0,), (4.0,), 0.25, True),
        ((2.0,), (4.0,), 0.5, True),
        ((2.1,), (4.0,), 0.525, False),
        # A round in which the machine was busy with something else slows both down, and counts as any other.
        ((1.0, 10.0, 1.0), (4.0, 40.0, 4.0), 0.25, True),
        # The median of the ratios, not the ratio of the best or of the sums.
        ((1.0, 3.0, 3.0), (4.0, 4.0, 4.0), 0.75, False),
        ((1.0, 2.0), (1.0, 1.0), 1.5, False),
    ],
)
def test_a_ratio_is_the_median_of_the_rounds(
    ours: tuple[float, ...], theirs: tuple[float, ...], ratio: float, met: bool
) -> None:
    line = measured(ours, theirs)
    assert line.ratio == pytest.approx(ratio)
    assert line.met is met


def hybrid_cost(hybrid_size: int = 1510, seconds: float = 1.25) -> HybridCost:
    return HybridCost(
        name="linux", plain_size=1000, hybrid_size=hybrid_size, free=500, plain_seconds=1.0, hybrid_seconds=seconds
    )


@pytest.mark.parametrize(
    ("size", "seconds", "met"),
    [(1520, 1.5, True), (1521, 1.5, False), (1520, 1.51, False), (1490, 0.9, True)],
)
def test_the_free_tail_is_no_cost_of_the_hybrid_form(size: int, seconds: float, *, met: bool) -> None:
    cost = hybrid_cost(size, seconds)
    assert cost.met is met
    assert hybrid_table((cost,)).styles == ("good" if met else "bad",)


def test_the_hybrid_form_alone_wants_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_hybrid.main([]) == 2
    assert "a folder is wanted" in capsys.readouterr().err


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=9))
def test_one_lucky_round_decides_nothing(rounds: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*rounds, strict=True)
    ratio = measured(ours, theirs).ratio
    ratios = [one / other for one, other in rounds]
    assert min(ratios) <= ratio <= max(ratios)
    assert sum(one <= ratio for one in ratios) * 2 >= len(ratios) <= sum(one >= ratio for one in ratios) * 2


def test_rounds_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = measured((1.0, 2.0), (1.0,)).ratio


def test_the_json_says_everything_and_the_table_the_same() -> None:
    lines = (
        measured((1.0, 3.0, 2.0), (4.0, 4.0, 4.0)),
        Measured(name="size", unit="B", ours=(3e6,), theirs=(2e6,), goal=1),
    )
    report = Report(lines=lines, beside={"nothing_changed": 0.25}, hybrid=(hybrid_cost(),))
    data = json.loads(json.dumps(report.as_json()))
    assert (data["schema"], data["rounds"], data["nothing_changed"]) == (3, 3, 0.25)
    assert data["hybrid"] == [
        {
            "name": "linux", "plain_size": 1000, "hybrid_size": 1510, "free": 500, "plain_seconds": 1.0,
            "hybrid_seconds": 1.25, "size": 0.01, "size_goal": 0.02, "seconds": 0.25, "seconds_goal": 0.5, "met": True,
        }
    ]  # fmt: skip
    assert data["lines"][0] == {
        "name": "build", "unit": "s", "ours": 2.0, "theirs": 4.0, "ratio": 0.5, "goal": 0.5, "met": True,
        "rounds": {"ours": [1.0, 3.0, 2.0], "theirs": [4.0, 4.0, 4.0]},
    }  # fmt: skip
    table = report.as_table()
    assert table.rows == (
        ("build", "2.00 s", "4.00 s", "0.50x", "at most 0.5x"),
        ("size", "3.0 MB", "2.0 MB", "1.50x", "at most 1x"),
    )
    assert table.styles == ("good", "bad")


@pytest.mark.parametrize("argv", [[], ["a", "b"], ["a", "0"], ["a", "-1"], ["a", "1", "2"]])
def test_what_cannot_be_meant(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(argv) == 2
    assert "python -m builder.bench" in capsys.readouterr().err


def test_a_program_that_is_not_there_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "from before").touch()
    assert bench.main([str(tmp_path / "out")]) == ToolMissing.exit_code
    assert "mkwinpeimg was not found; it is needed to measure" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["from before"]


@pytest.mark.programs
def test_a_program_that_fails_is_not_measured(tmp_path: Path) -> None:
    program = tmp_path / "fails"
    program.write_text("#!/bin/sh\necho no room left >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ToolFailed, match=r"(?s)fails failed with exit code 3 \(it was run to measure\).*no room left"):
        bench.seconds_of([str(program)])
    assert bench.seconds_of(["sleep", "0.2"]) >= 0.2


@pytest.mark.programs
def test_a_failure_in_a_round_ends_the_benchmark_without_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of no use stand for all of them; the first that is run for its result fails."""
    for name in bench._PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\necho cannot read it >&2\nexit 2\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bench, "make_bootable_standin", lambda path, size: path.write_bytes(b""))
    monkeypatch.setattr(bench, "boot_wim_of", lambda _: _Wim)
    assert bench.main([str(tmp_path / "out")]) == ToolFailed.exit_code
    assert "7z failed with exit code 2 (it was run to measure)\ncannot read it" in capsys.readouterr().err
    assert not (tmp_path / "out" / "bench.json").exists()


class _Wim:
    class source:
        size = 1
