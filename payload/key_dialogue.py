"""Asking somebody at the screen for keys: the `KeyPrompt` of a machine that is ours.

Every question counts down until a key is pressed; then it waits for as long as it takes. What is typed is in the
answer and on the screen, nowhere else.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from payload.contract import PayloadConfig
from payload.ending import contact_line
from payload.environment import Environment, Keyboard, Screen, SpecialKey
from payload.formats.fve import FveVolume
from payload.key_entry import Outcome, PassphraseEntry, RecoveryPasswordEntry
from payload.key_prompt import ATTEMPTS, Instead, PassphraseQuestion, RecoveryQuestion
from payload.key_screen import KeyScreen, LockedVolume, render_key
from payload.safe_mode import describe_safe_mode, why_no_safe_mode
from payload.screen import CLEAR, HOME, size_text

_TITLE = "Locked by BitLocker"
_ALL_RIGHT = "All eight groups are right: press Enter."
#: Letters that are on one key in all layouts, and no hexadecimal digits: a scanner may type a key id at any moment.
_TRY, _SKIP, _SHELL, _SAFE_MODE = "t", "k", "s", "h"
#: How often a countdown is drawn, in seconds: each second, or seldom where every drawing is a screen further down.
_TICK, _SLOW_TICK = 1, 30


class _Step(enum.Enum):
    """What a question for a recovery password is at."""

    TYPE = "type"
    CHOOSE = "choose"
    CONFIRM = "confirm"
    SHELL = "shell"


class _NobodyThere(Exception):
    """The countdown ran out."""


@dataclass(frozen=True, kw_only=True)
class KeyDialogue:
    """Asks on the environment's screen. Where no key is pressed within `config.key_wait` seconds, nobody is there."""

    environment: Environment
    config: PayloadConfig
    clock: Callable[[], float] = time.monotonic

    def passphrase(self, question: PassphraseQuestion) -> str | Instead:
        """The passphrase as typed; SKIP for Escape; NOBODY."""
        entry = PassphraseEntry()
        look = _Look(self.environment.screen, self.config.key_wait, self.clock)
        try:
            with self.environment.screen.typing() as keyboard:
                while True:
                    outcome = entry.press(look.key(keyboard, lambda: self._passphrase_screen(question, entry)))
                    if outcome is Outcome.DONE:
                        return entry.text
                    if outcome is Outcome.LEFT:
                        return Instead.SKIP
        except _NobodyThere:
            return Instead.NOBODY

    def recovery_key(self, question: RecoveryQuestion) -> bytes | Instead:
        """The key behind 48 right digits, or what was chosen instead."""
        entry = RecoveryPasswordEntry()
        look = _Look(self.environment.screen, self.config.key_wait, self.clock)
        types = question.has_password and question.failed < ATTEMPTS
        answer: bytes | Instead | _Step = _Step.TYPE if types else _Step.CHOOSE
        try:
            while isinstance(answer, _Step):
                if answer is _Step.SHELL:
                    answer = self._shell(look)
                with self.environment.screen.typing() as keyboard:
                    while isinstance(answer, _Step) and answer is not _Step.SHELL:
                        answer = self._take(answer, question, entry, look, keyboard)
        except _NobodyThere:
            return Instead.NOBODY
        return answer

    # --- the steps ------------------------------------------------------------------------------------------------

    def _take(
        self,
        step: _Step,
        question: RecoveryQuestion,
        entry: RecoveryPasswordEntry,
        look: _Look,
        keyboard: Keyboard,
    ) -> bytes | Instead | _Step:
        """One key, and where it leads."""
        if step is _Step.TYPE:
            outcome = entry.press(look.key(keyboard, lambda: self._recovery_screen(question, entry)))
            return entry.key() if outcome is Outcome.DONE else _Step.CHOOSE if outcome is Outcome.LEFT else step
        if step is _Step.CONFIRM:
            key = look.key(keyboard, lambda: self._safe_mode_screen(question))
            if key == SpecialKey.ENTER:
                return Instead.SAFE_MODE
            return _Step.CHOOSE if key == SpecialKey.ESCAPE else step
        key = look.key(keyboard, lambda: self._choice_screen(question))
        ways: dict[str, Instead | _Step] = {_SKIP: Instead.SKIP}
        if question.has_password:
            ways |= {_TRY: _Step.TYPE, SpecialKey.ESCAPE: _Step.TYPE}
        if self.config.shell:
            ways[_SHELL] = _Step.SHELL
        if _safe_mode_offered(question):
            ways[_SAFE_MODE] = _Step.CONFIRM
        return ways.get(key.lower(), step)

    def _shell(self, look: _Look) -> _Step:
        try:
            self.environment.shell()
        except Exception:  # a missing shell must not end the payload
            look.remark = "No shell could be started."
        look.redraw()
        return _Step.CHOOSE

    # --- the screens ----------------------------------------------------------------------------------------------

    def _passphrase_screen(self, question: PassphraseQuestion, entry: PassphraseEntry) -> KeyScreen:
        return KeyScreen(
            title="The key vault's passphrase",
            facts=(
                "A key vault was found. Its passphrase opens every volume whose key is in it:",
                *(f"- {vault}" for vault in question.vaults[:3]),
            ),
            passphrase=entry.shown,
            notice=_refused(question.problem, question.failed) or question.remark,
            contact=contact_line(self.config),
            keys=("[Enter] Open", "[Tab] Hide" if entry.visible else "[Tab] Show", "[Esc] Go on without it"),
        )

    def _recovery_screen(self, question: RecoveryQuestion, entry: RecoveryPasswordEntry) -> KeyScreen:
        return KeyScreen(
            title=_TITLE,
            locked=_locked(question),
            groups=entry.groups,
            wrong_group=entry.wrong_group,
            problem=entry.problem,
            notice=_ALL_RIGHT if entry.complete else _refused(question.problem, question.failed) or question.remark,
            contact=contact_line(self.config),
            keys=("[Enter] Unlock", "[Ctrl-U] Clear", "[Esc] Other ways out"),
        )

    def _choice_screen(self, question: RecoveryQuestion) -> KeyScreen:
        choices = ["[T] Type the password"] if question.has_password else []
        choices += ["[H] Windows in safe mode"] if _safe_mode_offered(question) else []
        choices += ["[K] Skip this volume"]
        choices += ["[S] Shell"] if self.config.shell else []
        if question.safe_mode:
            choices += filter(None, [why_no_safe_mode(question.metadata)])
        return KeyScreen(
            title=_TITLE,
            locked=_locked(question),
            facts=() if question.has_password else _without_password(question.metadata),
            choices=tuple(choices),
            notice=_refused(question.problem, question.failed),
            contact=contact_line(self.config),
            keys=("[Esc] Back",) if question.has_password else (),
        )

    def _safe_mode_screen(self, question: RecoveryQuestion) -> KeyScreen:
        return KeyScreen(
            title="Safe mode instead of a key",
            facts=describe_safe_mode(question.metadata),
            choices=("Shall Windows start in safe mode?",),
            keys=("[Enter] Yes, set safe mode", "[Esc] Back"),
        )


class _Look:
    """What is on the screen while a key is awaited, with the countdown until the first one."""

    def __init__(self, screen: Screen, wait: float, clock: Callable[[], float]) -> None:
        self._screen = screen
        self._clock = clock
        self._deadline: float | None = clock() + wait
        self._size: tuple[int, int] | None = None
        self._text = ""
        #: A line about what just went wrong, until the next key.
        self.remark = ""

    def key(self, keyboard: Keyboard, screen: Callable[[], KeyScreen]) -> str:
        """The next key. A burst is taken whole before the screen is drawn. Raises _NobodyThere."""
        key = keyboard(0)
        while key is None:
            left = self._deadline - self._clock() if self._deadline is not None else None
            if left is not None and left <= 0:
                raise _NobodyThere
            self._draw(screen(), left)
            key = keyboard(_TICK if left is None else min(left, _TICK))
        self._deadline = None
        self.remark = ""
        return key

    def redraw(self) -> None:
        """The next drawing clears the screen first (after a shell wrote on it)."""
        self._size = None

    def _draw(self, shown: KeyScreen, left: float | None) -> None:
        """Over what is there, so that nothing flickers; without colour, below it, and only what is new."""
        countdown = ""
        if left is not None:
            tick = _TICK if self._screen.colour else _SLOW_TICK
            countdown = f"Going on without a key in {math.ceil(left / tick) * tick} s - any key stops"
        size = (self._screen.columns, self._screen.lines)
        text = render_key(
            replace(shown, countdown=countdown, problem=self.remark or shown.problem),
            columns=size[0],
            lines=size[1] if self._screen.colour else size[1] - 1,
            colour=self._screen.colour,
            half_blocks=self._screen.half_blocks,
        )
        if self._screen.colour:
            self._screen.write((HOME if size == self._size else CLEAR) + text)
        elif text != self._text or self._size is None:
            self._screen.write(f"{text}\n")
        self._size, self._text = size, text


def _safe_mode_offered(question: RecoveryQuestion) -> bool:
    return question.safe_mode and not why_no_safe_mode(question.metadata)


def _without_password(metadata: FveVolume) -> tuple[str, ...]:
    """Why no key is asked for, and what would open the volume."""
    files = [f"Its startup key file would open it: {protector.guid}.BEK" for protector in metadata.startup_keys]
    return ("No recovery password exists for this volume: there is none to look up.", *files[:2])


def _locked(question: RecoveryQuestion) -> LockedVolume:
    volume, host = question.volume, question.host
    return LockedVolume(
        volume="   ".join(filter(None, (volume.label, volume.id, size_text(volume.size)))),
        key_ids=tuple(protector.guid for protector in question.metadata.recovery_passwords),
        description=question.metadata.description,
        serial=host.smbios_serial,
        model=f"{host.manufacturer} {host.product}".strip(),
    )


def _refused(problem: str, failed: int) -> str:
    """What came of the last attempt, and how many are left."""
    if not failed:
        return problem
    left = ATTEMPTS - failed
    return f"{problem} {f'{left} of {ATTEMPTS} attempts left.' if left > 0 else f'{failed} attempts failed.'}".strip()
