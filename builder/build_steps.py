"""The steps of a plan through the cache: each is found there, or made now, with its line on the console.

What a step knows of what it made, rather than the thing itself, is kept as a record: a dataclass as JSON in its entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from builder.cache import Cache, Entry, Missed
from builder.console import Console, Step
from builder.errors import ImageError
from builder.plan import Plan, PlannedStep
from builder.report import json_bytes
from payload.formats.records import RecordError, from_json, to_json

_Record = TypeVar("_Record")


@dataclass(kw_only=True)
class Steps:
    """The plan's steps in one build. `made`: the names of those that were not in the cache, as they were made.

    Every id must be known by now, and who makes a step holds the cache locked.
    """

    plan: Plan
    cache: Cache
    console: Console
    made: list[str] = field(default_factory=list)
    _looked_up: dict[str, Entry | Missed] = field(default_factory=dict)
    _needed: dict[str, Entry] = field(default_factory=dict)

    def find(self, name: str) -> Entry | Missed:
        """What the cache has of the step, every file of it checked; or why it has nothing."""
        step = self.plan.step(name)
        return self.cache.find(step=name, content_id=_id(step), recipe=step.recipe)

    def has(self, name: str) -> bool:
        """Whether `entry` would make nothing."""
        if name in self._needed:
            return True
        if name not in self._looked_up:
            self._looked_up[name] = self.find(name)
        return isinstance(self._looked_up[name], Entry)

    def entry(self, name: str, make: Callable[[Path, Step], None]) -> Entry:
        """What the step made: looked for, or made by `make(folder, shown)`, the first time that it is asked for."""
        if name not in self._needed:
            self._needed[name] = self._found_or_made(name, make)
        return self._needed[name]

    def storing(self, name: str) -> AbstractContextManager[Path]:
        """A folder whose files become the step's entry. Whoever uses it itself shows the step, and tells `made`."""
        step = self.plan.step(name)
        return self.cache.storing(step=name, content_id=_id(step), recipe=step.recipe)

    def _found_or_made(self, name: str, make: Callable[[Path, Step], None]) -> Entry:
        step, found = self.plan.step(name), self._looked_up.get(name) or self.find(name)
        if isinstance(found, Entry):
            self.console.skipped(step.title, "in the cache")
            return found
        with self.console.step(step.title) as shown:
            shown.note(found.reason)
            with self.storing(name) as into:
                make(into, shown)
        self.made.append(name)
        return self.cache.just_stored(_id(step))


def write_record(into: Path, name: str, record: object) -> None:
    """Put the dataclass `record` into an entry as its file `name`."""
    (into / name).write_bytes(json_bytes(to_json(record)))


def read_record(entry: Entry, name: str, kind: type[_Record]) -> _Record:
    """What `write_record` wrote. Raises ImageError."""
    try:
        return from_json(kind, json.loads(entry.path(name).read_bytes()))
    except (ValueError, RecordError) as error:
        raise ImageError(f"the cache's {name} cannot be read: {error}", hint="bluelift clean") from error


def _id(step: PlannedStep) -> str:
    assert step.id is not None, "what the step depends on is known by now"
    return step.id
