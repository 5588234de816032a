"""A technician at the machine's keyboard: types what the screen asks for, when it asks, through QMP.

The payload says by an event that it asks, so nobody guesses when. An answer whose keys were lost (a PS/2 keyboard holds
16 bytes) is typed again after a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.verify.machine import GuestEvent, Machine
from payload.contract import EventName

_DRAW_SECONDS = 2.0
_KEY_SECONDS = 0.12
#: Longer than any key takes to be tried on a slow machine.
_PATIENCE = 180.0
_TICK = 0.1
#: QEMU's names of the keys that are not called as what they type.
_NAMED = {" ": "spc", "-": "minus"}


@dataclass(frozen=True, kw_only=True)
class Typist:
    """Answers by key id: the passwords to type one after the other. Volumes without any are skipped, by Esc and K.

    Before each answer the screen is kept in `folder`, as key-screen-1.png and so on. `limit` is seconds after power-on.
    """

    folder: Path
    limit: float
    passphrase: str = field(default="", repr=False)
    passwords: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def attend(self, machine: Machine) -> int:
        """Answer until the receipt comes, the machine ends, or the limit is there; how many questions were answered.

        Raises nothing for what the guest does.
        """
        answered, since = 0, 0.0
        while machine.ended is None and machine.seconds < self.limit and machine.event(EventName.RECEIPT) is None:
            questions = [event for event in machine.events if event.name == EventName.KEY_WANTED]
            if len(questions) > answered:
                machine.watch(_DRAW_SECONDS)
                machine.screenshot(self.folder / f"key-screen-{len(questions)}.png")
            if len(questions) > answered or (questions and machine.seconds > since + _PATIENCE):
                self._answer(machine, questions[-1])
                answered, since = len(questions), machine.seconds
            machine.watch(_TICK)
        return answered

    def _answer(self, machine: Machine, question: GuestEvent) -> None:
        text = self._text(question)
        if text is None:
            strokes: list[tuple[str, ...]] = [("esc",), ("k",)]
        else:
            strokes = [("ctrl", "u"), *((_NAMED.get(character, character),) for character in text), ("ret",)]
        for keys in strokes:
            machine.press(*keys)
            machine.watch(_KEY_SECONDS)

    def _text(self, question: GuestEvent) -> str | None:
        """What to type; None where nothing is known."""
        if not question.data.get("volume"):
            return self.passphrase or None
        key_ids = question.data.get("key_ids")
        if not isinstance(key_ids, list):
            return None
        known = (key_id for key_id in key_ids if isinstance(key_id, str) and key_id in self.passwords)
        passwords = next((self.passwords[key_id] for key_id in known), ())
        failed = question.data.get("failed")
        return passwords[min(failed if isinstance(failed, int) else 0, len(passwords) - 1)] if passwords else None
