"""The console on a terminal: spinner, bar and elapsed time for the step at work, a line for each one that ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import rich.box
import rich.console
import rich.table
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from builder.console import Step, Summary, Table, amount_text, speed_text

_STYLES = {"": "", "good": "green", "bad": "bold red", "dim": "dim"}


@dataclass
class TerminalStep:
    """A step as one line that redraws itself."""

    progress_bar: Progress
    task: TaskID
    amount: str = ""
    started: float = field(default_factory=time.monotonic)

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        speed = speed_text(done, unit, time.monotonic() - self.started)
        self.amount = amount_text(done, None, unit) + speed
        self.progress_bar.update(self.task, completed=done, total=total, amount=amount_text(done, total, unit) + speed)

    def note(self, text: str) -> None:
        self.progress_bar.console.print(f"      [dim]{escape(text)}[/dim]", highlight=False)

    def warn(self, text: str) -> None:
        self.progress_bar.console.print(f"      [yellow]warning: {escape(text)}[/yellow]", highlight=False)


class TerminalConsole:
    """Steps on standard error, results on standard output, both through rich."""

    def __init__(self) -> None:
        self._out = rich.console.Console(highlight=False)
        self._err = rich.console.Console(stderr=True, highlight=False)
        self._steps = 0
        self._index = 0

    def expect(self, steps: int) -> None:
        self._steps, self._index = steps, 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        label, started = self._label(title), time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._err, transient=True) as progress:
            step = TerminalStep(progress, progress.add_task(escape(label), total=None, amount=""))
            yield step
        self._ended("[green]done[/green]  ", label, ", ".join(filter(None, (step.amount, _seconds(started)))))

    def skipped(self, title: str, why: str) -> None:
        self._ended("[cyan]ready[/cyan] ", self._label(title), why)

    def notice(self, text: str) -> None:
        self._err.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True)

    def say(self, text: str) -> None:
        self._out.print(escape(text))

    def table(self, table: Table) -> None:
        drawn = rich.table.Table(*map(escape, table.columns), title=escape(table.title) or None, box=rich.box.SIMPLE)
        for index, row in enumerate(table.rows):
            drawn.add_row(*map(escape, row), style=_STYLES[table.style(index)])
        self._out.print(drawn)

    def data(self, value: object) -> None:
        self._out.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)

    def summary(self, summary: Summary) -> None:
        grid = rich.table.Table.grid(padding=(0, 2))
        for name, value in summary.facts:
            grid.add_row(f"[bold]{escape(name)}[/bold]", escape(value))
        self._out.print(Panel(grid, title=f"[bold green]{escape(summary.title)}[/bold green]", expand=False))
        if summary.next_steps:
            self._out.print("[bold]What to do next[/bold]")
            for text in summary.next_steps:
                self._out.print(f"  {escape(text)}", soft_wrap=True)

    def error(self, message: str, hint: str, exit_code: int) -> None:  # noqa: ARG002
        self._err.print(f"[bold red]bluelift: error:[/bold red] {escape(message)}", soft_wrap=True)
        if hint:
            self._err.print(f"  [yellow]{escape(hint)}[/yellow]", soft_wrap=True)

    def _label(self, title: str) -> str:
        self._index += 1
        return f"[{self._index}/{self._steps}] {title}" if self._steps else title

    def _ended(self, how: str, label: str, what: str) -> None:
        self._err.print(f"{how} {escape(label)}  [dim]{escape(what)}[/dim]", soft_wrap=True)


def _seconds(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
