"""The only place that prints: steps with progress on a terminal, lines in CI, JSON lines for machines."""

from __future__ import annotations

from typing import Protocol


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
