"""What happens once the verdict stands: a countdown that any key stops, then a menu of restart, power off, shell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from payload.contract import AfterRepair, Ending, PayloadConfig, Receipt, Verdict
from payload.display import FullScreen
from payload.environment import Environment
from payload.receipt import verdict_screen

_WORDS = {AfterRepair.REBOOT: "Restarting", AfterRepair.POWER_OFF: "Powering off"}
#: How long one look at the keyboard lasts while the screen stays, in seconds.
_POLL = 5.0


def ending_action(verdict: Verdict, ending: Ending) -> AfterRepair:
    """What the profile says about a verdict. Only a repaired host restarts by itself: any other would come back here
    as long as the medium is in, so there "reboot" becomes "power off"."""
    if verdict is Verdict.REPAIRED:
        return ending.repaired
    return AfterRepair.POWER_OFF if ending.otherwise is AfterRepair.REBOOT else ending.otherwise


def contact_line(config: PayloadConfig) -> str:
    """Whose image this is and whom to call, with the versions."""
    image = f"Bluelift {config.bluelift}".strip()
    return "   ".join(part for part in (config.organisation, config.contact, image) if part)


def keys_line(config: PayloadConfig) -> str:
    """The keys that work on the final screen."""
    return "[R] Restart   [P] Power off" + ("   [S] Shell" if config.shell else "")


@dataclass(frozen=True, kw_only=True)
class FinalScreen:
    """The last screen of a run in the whole-machine mode. `chosen` is called with what happens before it does."""

    environment: Environment
    display: FullScreen
    config: PayloadConfig
    receipt: Receipt
    chosen: Callable[[AfterRepair], None]
    clock: Callable[[], float] = time.monotonic

    def run(self, action: AfterRepair, *, wait_forever: bool = True) -> None:
        """Show the verdict; count down to `action` unless a key stops it; then R, P and S work until R or P."""
        key = None
        if action is not AfterRepair.STAY:
            key = self._count_down(action)
            if key is None:
                self._end(action)
                return
        self._menu(key, wait_forever)

    def _count_down(self, action: AfterRepair) -> str | None:
        """The key that stopped the countdown; None when it ran out."""
        deadline = self.clock() + self.config.ending.countdown
        while (left := deadline - self.clock()) > 0:
            seconds = int(left) + (left > int(left))
            self._show(f"{_WORDS[action]} in {seconds} s - press any key to stop")
            key = self.environment.screen.key(min(left, 1.0))
            if key is not None:
                return key
        self._show(f"{_WORDS[action]} now")
        return None

    def _menu(self, key: str | None, wait_forever: bool) -> None:
        self._show("")
        while True:
            if key == "r":
                return self._end(AfterRepair.REBOOT)
            if key == "p":
                return self._end(AfterRepair.POWER_OFF)
            if key == "s" and self.config.shell:
                self.environment.shell()
                self.display.redraw()
                self._show("")
            elif key is None and not wait_forever:
                return None
            key = self._wait_for_key()

    def _wait_for_key(self) -> str | None:
        """A key within the poll time. Without a keyboard `key` may return at once, so the poll is kept here too."""
        started = self.clock()
        key = self.environment.screen.key(_POLL)
        if key is None and self.clock() - started < _POLL / 2:
            time.sleep(_POLL - (self.clock() - started))
        return key

    def _end(self, action: AfterRepair) -> None:
        self._show(f"{_WORDS[action]} now")
        self.chosen(action)
        self.environment.end(action)

    def _show(self, countdown: str) -> None:
        self.display.verdict(
            verdict_screen(
                self.receipt,
                contact=contact_line(self.config),
                countdown=countdown,
                keys=keys_line(self.config),
            )
        )
