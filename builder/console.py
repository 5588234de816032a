"""The only place that prints: steps with progress on a terminal, lines in CI, JSON lines for machines.

Steps, warnings and errors go to standard error, results to standard output, so that results can be piped. With
`--json-lines` everything is an event on standard output, one JSON object a line, each with the key "event".
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from builder.errors import UsageError

#: Seconds between two progress lines where nobody can redraw one.
_LINE_INTERVAL = 10.0
_EVENT_INTERVAL = 1.0
#: Seconds of work after which a speed is worth showing.
_FIRST_SPEED = 0.5


class Step(Protocol):
    """One step of long work, as the code that does it sees it."""

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """How far it is; `unit` is "bytes", "files" ... Cheap to call often."""
        ...

    def note(self, text: str) -> None:
        """A fact worth a line: a version, a size, why a cache was missed."""
        ...

    def warn(self, text: str) -> None:
        """Something the user should know although the work goes on."""
        ...


class SilentStep:
    """A Step that shows nothing, for tests and for work inside other steps."""

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text below headings. `style` of a row is "", "good", "bad" or "dim"."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    styles: tuple[str, ...] = ()

    def style(self, index: int) -> str:
        """The style of row `index`."""
        return self.styles[index] if index < len(self.styles) else ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a command ended: a title, facts as (name, value), and what to do next, one command or sentence a line."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    next_steps: tuple[str, ...] = ()


class Console(Protocol):
    """What commands show themselves through."""

    def expect(self, steps: int) -> None:
        """How many steps are ahead, for "[2/7]"."""
        ...

    def step(self, title: str) -> AbstractContextManager[Step]:
        """One step of work, timed; how it ended is shown when the block is left."""
        ...

    def skipped(self, title: str, why: str) -> None:
        """A step that needs no work."""
        ...

    def notice(self, text: str) -> None:
        """Something worth knowing between steps."""
        ...

    def say(self, text: str) -> None:
        """A line of the result."""
        ...

    def table(self, table: Table) -> None:
        """A table of the result."""
        ...

    def data(self, value: object) -> None:
        """The result as JSON."""
        ...

    def summary(self, summary: Summary) -> None:
        """The end of a command that went well."""
        ...

    def error(self, message: str, hint: str, exit_code: int) -> None:
        """The end of a command that did not."""
        ...


def open_console(*, plain: bool = False, json_lines: bool = False) -> Console:
    """The console that fits the options and the terminal (NO_COLOR and TERM=dumb are heeded by rich)."""
    if plain and json_lines:
        raise UsageError("--plain and --json-lines exclude each other", hint="Give one of them.")
    if json_lines:
        return JsonConsole(sys.stdout)
    if plain or not sys.stderr.isatty():
        return PlainConsole(out=sys.stdout, err=sys.stderr)
    # rich takes a tenth of a second to import; pipes and CI do without it.
    from builder.console_terminal import TerminalConsole  # noqa: PLC0415

    return TerminalConsole()


def ask(question: str) -> str | None:
    """What the user types, without spaces around it; None where nobody can be asked."""
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()


def size_text(size: float) -> str:
    """A number of bytes for people, in powers of 1000: `103 MB`, `4.2 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def amount_text(done: float, total: float | None, unit: str) -> str:
    """How far something is: `12.0 MB of 103 MB`, `3 of 48 files`."""
    if unit == "bytes":
        return size_text(done) + (f" of {size_text(total)}" if total else "")
    return f"{done:g}" + (f" of {total:g}" if total else "") + (f" {unit}" if unit else "")


def speed_text(done: float, unit: str, seconds: float) -> str:
    """How fast bytes go by (`, 21.3 MB/s`); empty for other units, and before there is anything to tell."""
    return f", {size_text(done / seconds)}/s" if unit == "bytes" and done and seconds >= _FIRST_SPEED else ""


@dataclass
class PlainStep:
    """A step as lines."""

    stream: TextIO
    done: float = 0
    total: float | None = None
    unit: str = ""
    started: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        self.done, self.total, self.unit = done, total, unit
        if time.monotonic() - self.shown >= _LINE_INTERVAL:
            self.shown = time.monotonic()
            _line(self.stream, f"      {amount_text(done, total, unit)}{self.speed}")

    @property
    def speed(self) -> str:
        return speed_text(self.done, self.unit, time.monotonic() - self.started)

    def note(self, text: str) -> None:
        _line(self.stream, f"      {text}")

    def warn(self, text: str) -> None:
        _line(self.stream, f"      warning: {text}")


class PlainConsole:
    """Lines only: for CI, pipes, and terminals that ask for it."""

    def __init__(self, *, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._steps = 0
        self._index = 0

    def expect(self, steps: int) -> None:
        self._steps, self._index = steps, 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        label = self._label(title)
        _line(self._err, f"{label} ...")
        step, started = PlainStep(self._err), time.monotonic()
        yield step
        amount = f"{amount_text(step.done, None, step.unit)}{step.speed}, " if step.done else ""
        _line(self._err, f"      {amount}{time.monotonic() - started:.1f} s")

    def skipped(self, title: str, why: str) -> None:
        _line(self._err, f"{self._label(title)}: {why}")

    def notice(self, text: str) -> None:
        _line(self._err, text)

    def say(self, text: str) -> None:
        _line(self._out, text)

    def table(self, table: Table) -> None:
        for line in table_lines(table):
            _line(self._out, line)

    def data(self, value: object) -> None:
        _line(self._out, json.dumps(value, indent=2, ensure_ascii=False))

    def summary(self, summary: Summary) -> None:
        for line in summary_lines(summary):
            _line(self._out, line)

    def error(self, message: str, hint: str, exit_code: int) -> None:  # noqa: ARG002
        _line(self._err, f"bluelift: error: {message}")
        if hint:
            _line(self._err, f"  {hint}")

    def _label(self, title: str) -> str:
        self._index += 1
        return f"[{self._index}/{self._steps}] {title}" if self._steps else title


@dataclass
class JsonStep:
    """A step as events."""

    emit: Any
    title: str
    shown: float = 0.0

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        if time.monotonic() - self.shown >= _EVENT_INTERVAL:
            self.shown = time.monotonic()
            self.emit("progress", step=self.title, done=done, total=total, unit=unit)

    def note(self, text: str) -> None:
        self.emit("note", step=self.title, text=text)

    def warn(self, text: str) -> None:
        self.emit("warning", step=self.title, text=text)


class JsonConsole:
    """One JSON object a line on standard output."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._steps = 0

    def expect(self, steps: int) -> None:
        self._steps = steps
        self._emit("expect", steps=steps)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        started = time.monotonic()
        self._emit("step-started", step=title)
        yield JsonStep(self._emit, title)
        self._emit("step-finished", step=title, seconds=round(time.monotonic() - started, 3))

    def skipped(self, title: str, why: str) -> None:
        self._emit("step-skipped", step=title, why=why)

    def notice(self, text: str) -> None:
        self._emit("notice", text=text)

    def say(self, text: str) -> None:
        self._emit("text", text=text)

    def table(self, table: Table) -> None:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        self._emit("table", title=table.title, rows=rows)

    def data(self, value: object) -> None:
        self._emit("result", data=value)

    def summary(self, summary: Summary) -> None:
        self._emit("finished", title=summary.title, facts=dict(summary.facts), next=list(summary.next_steps))

    def error(self, message: str, hint: str, exit_code: int) -> None:
        self._emit("error", message=message, hint=hint, exit_code=exit_code)

    def _emit(self, event: str, **fields: object) -> None:
        _line(self._out, json.dumps({"event": event, **fields}, ensure_ascii=False))


def table_lines(table: Table) -> list[str]:
    """A table as aligned text."""
    widths = [max(len(row[i]) for row in (table.columns, *table.rows)) for i in range(len(table.columns))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    rule = "  ".join("-" * width for width in widths)
    title = [table.title, ""] if table.title else []
    return [*title, line(table.columns), rule, *(line(row) for row in table.rows)]


def summary_lines(summary: Summary) -> list[str]:
    """A summary as text."""
    width = max((len(name) for name, _ in summary.facts), default=0)
    lines = ["", summary.title, *(f"  {name.ljust(width)}  {value}" for name, value in summary.facts)]
    if summary.next_steps:
        lines += ["", "What to do next:", *(f"  {text}" for text in summary.next_steps)]
    return lines


def _line(stream: TextIO, text: str) -> None:
    # A console in a legacy encoding must not end a build over one character.
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
