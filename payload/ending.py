"""What happens once the verdict stands: a countdown that any key stops, then a menu of restart, power off, shell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from payload.contract import AfterRepair, Ending, PayloadConfig, Receipt, Verdict
from payload.display import FullScreen
from payload.environment import Environment
from payload.receipt import verdict_screen

_WORDS = {AfterRepair.REBOOT: "Restarting", AfterRepair.POWER_OFF: "Powering off"}
_KEYS = {"r": AfterRepair.REBOOT, "p": AfterRepair.POWER_OFF}
#: How long one look at the keyboard lasts while the screen stays, in seconds.
_POLL = 5.0


def ending_action(verdict: Verdict, ending: Ending, *, nobody: bool = False, safe_mode: bool = False) -> AfterRepair:
    """What the profile says about a verdict. Only a repaired host restarts by itself: any other would come back here
    as long as the medium is in, so there "reboot" becomes "power off". `nobody` could be asked for a key.

    `safe_mode` was chosen in place of a key by somebody, who wants the host to start in it."""
    if verdict is Verdict.REPAIRED:
        return ending.repaired
    if verdict is Verdict.NEEDS_A_KEY and safe_mode and not nobody:
        return AfterRepair.REBOOT
    otherwise = ending.nobody if nobody and verdict is Verdict.NEEDS_A_KEY else ending.otherwise
    return AfterRepair.POWER_OFF if otherwise is AfterRepair.REBOOT else otherwise


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
    sleep: Callable[[float], None] = time.sleep

    def run(self, action: AfterRepair) -> None:
        """Show the verdict; count down to `action` unless a key stops it; then R, P and S work until R or P."""
        key = None
        if action is AfterRepair.STAY:
            self._show("")
        else:
            key = self._count_down(action)
            if key is not None:
                self._show("Stopped. This screen stays until you press one of the keys below.")
            elif self._end(action):
                return
        self._menu(key)

    def _count_down(self, action: AfterRepair) -> str | None:
        """The key that stopped the countdown; None when it ran out."""
        deadline = self.clock() + self.config.ending.countdown
        while (left := deadline - self.clock()) > 0:
            self._show(f"{_WORDS[action]} in {math.ceil(left)} s - press any key to stop")
            key = self._wait_for_key(min(left, 1.0))
            if key is not None:
                return key
        return None

    def _menu(self, key: str | None) -> None:
        """Obey R, P and S until the machine ends. Drawn anew at every look, over whatever else wrote on the screen."""
        while True:
            if key in _KEYS and self._end(_KEYS[key]):
                return
            if key == "s" and self.config.shell:
                self._shell()
            self.display.refresh()
            key = self._wait_for_key(_POLL)

    def _wait_for_key(self, seconds: float) -> str | None:
        """A key pressed within `seconds`. Without a keyboard `key` may return at once, so the time is kept here too."""
        started = self.clock()
        key = self.environment.screen.key(seconds)
        if key is None and (left := seconds - (self.clock() - started)) > 0:
            self.sleep(left)
        return key

    def _shell(self) -> None:
        problem = ""
        try:
            self.environment.shell()
        except Exception:  # a missing shell must not end the payload
            problem = "No shell could be started."
        self.display.redraw()
        self._show(problem)

    def _end(self, action: AfterRepair) -> bool:
        """Restart or power off; False, and a line on the screen, where that does not work."""
        self._show(f"{_WORDS[action]} now")
        self.chosen(action)
        try:
            self.environment.end(action)
        except Exception:  # the technician still has the machine's own button
            self._show("This machine could not be restarted or powered off: hold its power button.")
            return False
        return True

    def _show(self, countdown: str) -> None:
        self.display.verdict(
            verdict_screen(
                self.receipt,
                contact=contact_line(self.config),
                countdown=countdown,
                keys=keys_line(self.config),
            )
        )
