"""The JSON lines on the serial port: one object a line, after `contract.EVENT_PREFIX`, ASCII only.

Every line has `event` (see contract.EventName), `run_id` and `seconds` (since the run started, a float), then the
fields of the event's dataclass below. `{"event": "receipt", ..., "receipt": {...}}` carries the whole receipt.
A run emits `started`, `disks`, `key-wanted` for each question on the screen, then for each volume `volume` (after
`plan` and `acted` where something is to be done), `receipt`, and `ending` (again when a technician chooses something
else).

A serial port sends 11,520 bytes a second, and environments give a port up that does not take a line in 5 s. So no line
is longer than LONGEST_LINE: one that would be has its lists cut to their first items, its texts to their first
characters, and `"cut": true`. The whole receipt is on the volume.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from payload.contract import (
    EVENT_PREFIX,
    AfterRepair,
    ControllerRecord,
    DiskRecord,
    EventName,
    FileRecord,
    HostIdentity,
    Receipt,
    Verdict,
    VolumeRecord,
)
from payload.formats.records import to_json

#: In bytes.
LONGEST_LINE = 40_000
#: Items of a list and characters of a text that are left, from one attempt to the next.
_CUTS = ((500, 2000), (100, 500), (20, 200), (3, 100), (0, 60))
#: No record has as many fields: an object with more is a table.
_MOST_KEYS = 40


@dataclass(frozen=True, kw_only=True)
class Started:
    """The payload runs."""

    name: ClassVar = EventName.STARTED
    image_id: str
    bluelift: str
    environment: str
    host: HostIdentity
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class Disks:
    """The disks have settled."""

    name: ClassVar = EventName.DISKS
    disks: tuple[DiskRecord, ...]
    controllers: tuple[ControllerRecord, ...]


@dataclass(frozen=True, kw_only=True)
class KeyWanted:
    """Somebody is asked on the screen for the recovery password of one of `key_ids`, or for a vault's passphrase.

    `volume` is the locked one, "" for a passphrase. One without `key_ids` has no recovery password: what to do about it
    is asked. `failed` counts the wrong answers so far. No event has an answer.
    """

    name: ClassVar = EventName.KEY_WANTED
    volume: str = ""
    key_ids: tuple[str, ...] = ()
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class VolumeSeen:
    """A volume has been looked at (and, after its `acted`, has come out so)."""

    name: ClassVar = EventName.VOLUME
    volume: VolumeRecord


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What will now be done to a volume; nothing on it has changed yet."""

    name: ClassVar = EventName.PLAN
    volume: str
    files: tuple[str, ...]
    interrupted_runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Acted:
    """What was done to a volume."""

    name: ClassVar = EventName.ACTED
    volume: str
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Received:
    """The whole receipt."""

    name: ClassVar = EventName.RECEIPT
    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class EndingNow:
    """What the machine does next, once `countdown` seconds have passed without a key."""

    name: ClassVar = EventName.ENDING
    verdict: Verdict
    exit_code: int
    action: AfterRepair
    countdown: int


Event = Started | Disks | KeyWanted | VolumeSeen | Planned | Acted | Received | EndingNow


def event_line(event: Event, *, run_id: str, seconds: float) -> str:
    """The line for an event, without a line break. Whatever a volume's label holds, it stays one line of ASCII."""
    data = {"event": event.name.value, "run_id": run_id, "seconds": round(seconds, 3), **to_json(event)}
    line = _line(data)
    for items, characters in _CUTS:
        if len(line) <= LONGEST_LINE:
            break
        line = _line({**_cut(data, items, characters), "cut": True})
    return line


def _line(data: dict[str, Any]) -> str:
    return EVENT_PREFIX + json.dumps(data, ensure_ascii=True, separators=(",", ":"))


def _cut(data: Any, items: int, characters: int) -> Any:
    """JSON data with shorter lists and texts; records keep all of their fields."""
    if isinstance(data, str):
        return data if len(data) <= characters else data[:characters] + "..."
    if isinstance(data, list):
        return [_cut(item, items, characters) for item in data[:items]]
    if isinstance(data, dict):
        return {key: _cut(value, items, characters) for key, value in list(data.items())[:_MOST_KEYS]}
    return data


class EventLog:
    """Sends one run's events to wherever machines listen."""

    def __init__(self, emit: Callable[[str], None], run_id: str) -> None:
        self._emit = emit
        self._run_id = run_id
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the run started."""
        return time.monotonic() - self._start

    def send(self, event: Event) -> None:
        """One line for `event`."""
        with contextlib.suppress(Exception):  # a serial port that breaks must not keep a host from being repaired
            self._emit(event_line(event, run_id=self._run_id, seconds=self.seconds))
