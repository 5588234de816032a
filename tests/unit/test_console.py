"""The console: what is shown where, in each of its three forms."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest

from builder.console import (
    Console,
    JsonConsole,
    PlainConsole,
    Summary,
    Table,
    amount_text,
    ask,
    open_console,
    size_text,
    speed_text,
    table_lines,
)
from builder.errors import UsageError

TABLE = Table(title="steps", columns=("step", "id"), rows=(("iso", "ab"), ("manifest", "c")), styles=("good",))
SUMMARY = Summary(title="ready", facts=(("size", "1 B"), ("sha256", "ab")), next_steps=("do this",))


def work(console: Console) -> None:
    console.expect(2)
    with console.step("fetch") as step:
        step.progress(1_500_000, 3_000_000, "bytes")
        step.note("a note [with brackets]")
        step.warn("a warning")
    console.skipped("unpack", "not needed")


def test_plain_lines() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = PlainConsole(out=out, err=err)
    work(console)
    lines = err.getvalue().splitlines()
    assert lines[0] == "[1/2] fetch ..."
    assert lines[1:3] == ["      a note [with brackets]", "      warning: a warning"]
    assert lines[3].startswith("      1.5 MB, ")
    assert lines[4] == "[2/2] unpack: not needed"
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("done", "unit", "seconds", "shown"),
    [
        (50_000_000, "bytes", 2.0, ", 25.0 MB/s"),
        (50_000_000, "bytes", 0.1, ""),
        (0, "bytes", 2.0, ""),
        (3, "files", 2.0, ""),
    ],
)
def test_speed(done: float, unit: str, seconds: float, shown: str) -> None:
    assert speed_text(done, unit, seconds) == shown


def test_nobody_is_asked_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("sdb\n"))
    assert ask("Which? ") is None
    assert capsys.readouterr() == ("", "")


def test_plain_results_go_to_standard_output() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = PlainConsole(out=out, err=err)
    console.say("said")
    console.table(TABLE)
    console.data({"a": "ü"})
    console.summary(SUMMARY)
    assert err.getvalue() == ""
    assert out.getvalue().splitlines() == [
        "said",
        "steps",
        "",
        "step      id",
        "--------  --",
        "iso       ab",
        "manifest  c",
        "{",
        '  "a": "ü"',
        "}",
        "",
        "ready",
        "  size    1 B",
        "  sha256  ab",
        "",
        "What to do next:",
        "  do this",
    ]


def test_plain_errors_carry_the_way_out() -> None:
    out, err = io.StringIO(), io.StringIO()
    PlainConsole(out=out, err=err).error("no room", "make some", 7)
    assert err.getvalue() == "bluelift: error: no room\n  make some\n"


def test_plain_progress_is_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    err = io.StringIO()
    with PlainConsole(out=io.StringIO(), err=err).step("long") as step:
        step.shown = 0.0  # type: ignore[attr-defined]  # the field's default took the real clock
        for second in range(25):
            now[0] = float(second)
            step.progress(second, 25, "files")
    assert err.getvalue().splitlines() == [
        "long ...",
        "      10 of 25 files",
        "      20 of 25 files",
        "      24 files, 24.0 s",
    ]


def test_json_lines_are_one_object_each() -> None:
    out = io.StringIO()
    console = JsonConsole(out)
    work(console)
    console.notice("notice")
    console.say("said")
    console.table(TABLE)
    console.data([1])
    console.summary(SUMMARY)
    console.error("m", "h", 7)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "expect", "step-started", "progress", "note", "warning", "step-finished", "step-skipped",
        "notice", "text", "table", "result", "finished", "error",
    ]  # fmt: skip
    assert events[2] | {"step": ""} == {
        "event": "progress", "step": "", "done": 1_500_000, "total": 3_000_000, "unit": "bytes",
    }  # fmt: skip
    assert events[9]["rows"] == [{"step": "iso", "id": "ab"}, {"step": "manifest", "id": "c"}]
    assert events[12] == {"event": "error", "message": "m", "hint": "h", "exit_code": 7}


def test_a_step_that_fails_is_not_finished() -> None:
    out = io.StringIO()

    def fail() -> None:
        with JsonConsole(out).step("x"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "step-finished" not in out.getvalue()


def test_the_terminal_shows_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from builder.console_terminal import TerminalConsole

    monkeypatch.setenv("TERM", "dumb")
    console = TerminalConsole()
    work(console)
    console.notice("waiting [for] it")
    console.say("[said]")
    console.table(TABLE)
    console.data({"long": "x" * 200})
    console.summary(SUMMARY)
    console.error("no [room]", "make some", 7)
    shown = capsys.readouterr()
    assert "[1/2] fetch" in shown.err
    assert "a note [with brackets]" in shown.err
    assert "[2/2] unpack  not needed" in shown.err
    assert "waiting [for] it" in shown.err
    assert "error: no [room]" in shown.err
    assert "[said]" in shown.out
    assert "x" * 200 in shown.out
    assert "What to do next" in shown.out
    assert "manifest" in shown.out


def test_a_legacy_encoding_does_not_end_a_build() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    PlainConsole(out=stream, err=stream).say("Zürich \ud800")
    assert raw.getvalue() == b"Z?rich ?\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_950, "100 kB"), (999_600, "1.0 MB"),
     (45_000_000, "45.0 MB"), (103_200_000, "103 MB"), (2.5e9, "2.5 GB"), (5e12, "5000 GB")],
)  # fmt: skip
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


def test_amounts() -> None:
    assert amount_text(1_000_000, 3_000_000, "bytes") == "1.0 MB of 3.0 MB"
    assert amount_text(3, 48, "files") == "3 of 48 files"
    assert amount_text(3, None, "") == "3"


def test_a_table_without_rows() -> None:
    assert table_lines(Table(title="", columns=("a", "b"), rows=())) == ["a  b", "-  -"]


def test_which_console(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_console(plain=True), PlainConsole)
    assert isinstance(open_console(json_lines=True), JsonConsole)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert isinstance(open_console(), PlainConsole)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(open_console()).__name__ == "TerminalConsole"
    with pytest.raises(UsageError, match="exclude each other"):
        open_console(plain=True, json_lines=True)
