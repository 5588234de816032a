"""The steps of a build through the cache: found or made, once, and believed only while their files are as they were."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.build_steps import Steps, read_record, write_record
from builder.cache import Cache, Entry, Missed
from builder.console import PlainConsole, Step
from builder.errors import ImageError
from builder.plan import Plan, PlannedStep

PLAN = Plan(
    steps=tuple(PlannedStep(name=name, title=f"the {name}", recipe={"of": name}, id=name * 3) for name in ("a", "b")),
    image_id=None,
    epoch=0,
)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    with cache.locked(print):
        yield cache


class Maker:
    """Makes a file, and counts how often it was asked to."""

    def __init__(self, content: bytes = b"made") -> None:
        self.content, self.calls = content, 0

    def __call__(self, into: Path, _: Step) -> None:
        self.calls += 1
        (into / "file").write_bytes(self.content)


def steps_of(cache: Cache, plan: Plan = PLAN) -> tuple[Steps, Callable[[], str]]:
    said = io.StringIO()
    return Steps(plan=plan, cache=cache, console=PlainConsole(out=said, err=said)), said.getvalue


def test_a_step_is_made_once_and_found_by_the_next_build(cache: Cache) -> None:
    make = Maker()
    steps, said = steps_of(cache)
    assert not steps.has("a")
    entry = steps.entry("a", make)
    assert entry.path("file").read_bytes() == b"made"
    assert steps.has("a") and steps.entry("a", make) is entry
    assert (make.calls, steps.made) == (1, ["a"])
    assert "the a" in said() and "in the cache" not in said()

    later, said = steps_of(cache)
    assert later.has("a") and not later.has("b")
    assert later.entry("a", make).record == entry.record
    assert (make.calls, later.made) == (1, [])
    assert "the a" in said() and "in the cache" in said()


def test_a_damaged_entry_is_made_anew(cache: Cache) -> None:
    make = Maker()
    entry = steps_of(cache)[0].entry("a", make)
    entry.path("file").write_bytes(b"mada")
    steps, said = steps_of(cache)
    assert isinstance(steps.find("a"), Missed) and not steps.has("a")
    assert steps.entry("a", make).path("file").read_bytes() == b"made"
    assert (make.calls, steps.made) == (2, ["a"])
    assert "damaged" in said()


def test_what_fails_leaves_no_entry(cache: Cache) -> None:
    def fails(into: Path, _: Step) -> None:
        (into / "file").write_bytes(b"half")
        raise ImageError("no")

    steps, _ = steps_of(cache)
    with pytest.raises(ImageError):
        steps.entry("a", fails)
    assert steps.made == [] and isinstance(steps.find("a"), Missed)
    assert isinstance(steps.entry("a", Maker()), Entry)


def test_a_step_that_makes_another_first(cache: Cache) -> None:
    """As boot.wim does, which is put together from what another step compressed."""
    steps, _ = steps_of(cache)

    def needs_b(into: Path, _: Step) -> None:
        (into / "copy").write_bytes(steps.entry("b", Maker(b"of b")).path("file").read_bytes())

    assert steps.entry("a", needs_b).path("copy").read_bytes() == b"of b"
    assert steps.made == ["b", "a"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a step might know of what it made."""

    size: int
    runs: tuple[tuple[int, int], ...] = ()


def test_records_come_back(cache: Cache) -> None:
    known = Known(size=7, runs=((0, 3), (5, 4)))
    steps, _ = steps_of(cache)
    entry = steps.entry("a", lambda into, _: write_record(into, "known.json", known))
    assert read_record(entry, "known.json", Known) == known


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"size": "7"}', b'{"size": 7, "more": 1}', b"\xff"])
def test_a_record_that_is_none(cache: Cache, content: bytes) -> None:
    steps, _ = steps_of(cache)
    entry = steps.entry("a", Maker(content))
    with pytest.raises(ImageError, match=r"the cache's file cannot be read") as refused:
        read_record(entry, "file", Known)
    assert refused.value.hint == "bluelift clean"
