"""How a run is shown: redrawn on a technician's screen, or line by line in a terminal that belongs to somebody."""

from __future__ import annotations

import contextlib
from typing import Protocol

from payload.contract import Receipt
from payload.environment import Screen
from payload.receipt import verdict_screen
from payload.screen import (
    CLEAR,
    HOME,
    ProgressScreen,
    VerdictScreen,
    plain,
    render_progress,
    render_verdict,
)


class Display(Protocol):
    """What a run tells the person in front of it while it works."""

    def step(self, text: str) -> None:
        """What is being done from now on."""
        ...

    def name_host(self, text: str) -> None:
        """Who the host is, once known."""
        ...


class FullScreen:
    """The whole screen is ours: every change draws it anew."""

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen = screen
        self._title = title
        self._host = ""
        self._steps: list[str] = []
        self._final: VerdictScreen | None = None
        self._drawn: tuple[int, int] | None = None

    def step(self, text: str) -> None:
        """Adds a line to the progress screen."""
        self._steps.append(text)
        self._progress()

    def name_host(self, text: str) -> None:
        """Shows the host above the steps."""
        self._host = text
        self._progress()

    def verdict(self, screen: VerdictScreen) -> None:
        """The final screen."""
        self._final = screen
        self.refresh()

    def refresh(self) -> None:
        """Draws the final screen again. It is cleared only for its first drawing and when the screen's size changed, so
        that a countdown does not flicker."""
        size = (self._screen.columns, self._screen.lines)
        start = HOME if self._drawn == size else CLEAR
        self._drawn = size
        if self._final is not None:
            text = render_verdict(self._final, columns=size[0], lines=size[1], colour=self._screen.colour)
            self._show(start, text)

    def redraw(self) -> None:
        """The next drawing clears the screen first (after a shell wrote on it)."""
        self._drawn = None

    def _progress(self) -> None:
        progress = ProgressScreen(title=self._title, host=self._host, steps=tuple(self._steps))
        self._show(
            CLEAR,
            render_progress(
                progress, columns=self._screen.columns, lines=self._screen.lines, colour=self._screen.colour
            ),
        )

    def _show(self, start: str, text: str) -> None:
        with contextlib.suppress(Exception):  # a screen that breaks must not keep a host from being repaired
            self._screen.write(start + text if self._screen.colour else f"{text}\n")


class LineByLine:
    """A terminal or a pipe: steps are lines, and the final screen stands below them as high as it needs to be."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def step(self, text: str) -> None:
        """One line."""
        self._screen.write(f"{plain(text)}\n")

    def name_host(self, text: str) -> None:
        """Nothing: the final screen names the host."""

    def receipt(self, receipt: Receipt) -> None:
        """The final screen with all of its lines, without keys: nobody is asked anything."""
        screen = verdict_screen(receipt)
        lines = 60 + len(screen.rows) + 2 * len(screen.remarks)
        text = render_verdict(screen, columns=self._screen.columns, lines=lines, colour=self._screen.colour)
        self._screen.write(f"\n{text}\n")
