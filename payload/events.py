"""The JSON lines on the serial port: one object a line, after `contract.EVENT_PREFIX`, ASCII only.

Every line has `event` (see contract.EventName), `run_id` and `seconds` (since the run started, a float), then the
fields of the event's dataclass below. `{"event": "receipt", ..., "receipt": {...}}` carries the whole receipt.
A run emits `started`, `disks`, then for each volume `volume` (after `plan` and `acted` where something is to be done),
`receipt`, and `ending` (again when a technician chooses something else).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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


Event = Started | Disks | VolumeSeen | Planned | Acted | Received | EndingNow


def event_line(event: Event, *, run_id: str, seconds: float) -> str:
    """The line for an event, without a line break. Whatever a volume's label holds, it stays one line of ASCII."""
    data = {"event": event.name.value, "run_id": run_id, "seconds": round(seconds, 3), **to_json(event)}
    return EVENT_PREFIX + json.dumps(data, ensure_ascii=True, separators=(",", ":"))


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
