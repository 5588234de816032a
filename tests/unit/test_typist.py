"""Who types at a test machine: what is asked for, when it is asked, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.verify.machine import Ended, GuestEvent, Machine
from builder.verify.typist import Typist

ID, OTHER_ID = "64311DEA-4587-4029-924A-BA299647998E", "83ABDB8F-3218-4BFD-ACED-215E1E189BDF"
PASSPHRASE = "gobul tover"
SKIP = [("esc",), ("k",)]


class FakeMachine(Machine):
    """Time passes only while it is watched; after each answer (Enter, or K) it says the next thing of its script."""

    def __init__(self, script: Sequence[GuestEvent | Ended | None]) -> None:
        self.events = []
        self.pressed: list[tuple[str, ...]] = []
        self.pictures: list[str] = []
        self._script = list(script)
        self._ended = None
        self._now = 0.0
        self._next()

    @property
    def seconds(self) -> float:
        return self._now

    def watch(self, seconds: float) -> None:
        self._now += seconds

    def press(self, *keys: str) -> None:
        self.pressed.append(keys)
        if keys in (("ret",), ("k",)):
            self._next()

    def screenshot(self, path: Path) -> bool:
        self.pictures.append(path.name)
        return True

    def _next(self) -> None:
        said = self._script.pop(0) if self._script else None
        if isinstance(said, GuestEvent):
            self.events.append(said)
        self._ended = said if isinstance(said, Ended) else None


def asks(**data: Any) -> GuestEvent:
    return GuestEvent(name="key-wanted", data={"volume": "", "key_ids": [], "failed": 0, **data})


RECEIPT = GuestEvent(name="receipt")


def typed(text: str) -> list[tuple[str, ...]]:
    keys = [("spc" if character == " " else "minus" if character == "-" else character,) for character in text]
    return [("ctrl", "u"), *keys, ("ret",)]


def attend(machine: FakeMachine, tmp_path: Path, **passwords: tuple[str, ...]) -> int:
    by_id = {ID: passwords.get("one", ()), OTHER_ID: passwords.get("other", ())}
    typist = Typist(folder=tmp_path, limit=600, passphrase=PASSPHRASE, passwords={k: v for k, v in by_id.items() if v})
    return typist.attend(machine)


def test_the_passphrase_is_typed_when_it_is_asked_for(tmp_path: Path) -> None:
    machine = FakeMachine([asks(), RECEIPT])
    assert attend(machine, tmp_path) == 1
    assert machine.pressed == typed(PASSPHRASE)
    assert machine.pictures == ["key-screen-1.png"]


def test_a_volume_gets_its_own_password_and_one_without_is_skipped(tmp_path: Path) -> None:
    machine = FakeMachine(
        [asks(volume="sda3", key_ids=[OTHER_ID]), asks(volume="sda3", key_ids=["another", ID]), RECEIPT]
    )
    assert attend(machine, tmp_path, one=("111-222",)) == 2
    assert machine.pressed == SKIP + typed("111-222")


def test_the_wrong_one_comes_first_and_the_last_one_again(tmp_path: Path) -> None:
    machine = FakeMachine([asks(volume="sda3", key_ids=[ID], failed=n) for n in range(3)] + [RECEIPT])
    assert attend(machine, tmp_path, one=("1", "2")) == 3
    assert machine.pressed == typed("1") + typed("2") + typed("2")


def test_a_volume_that_no_password_opens_is_skipped(tmp_path: Path) -> None:
    machine = FakeMachine([asks(volume="sda3"), RECEIPT])
    assert attend(machine, tmp_path, one=("1",)) == 1
    assert machine.pressed == SKIP


def test_without_a_question_nothing_is_typed(tmp_path: Path) -> None:
    machine = FakeMachine([None])
    assert attend(machine, tmp_path) == 0
    assert machine.pressed == []
    assert machine.seconds >= 600


@pytest.mark.parametrize("said", [RECEIPT, Ended.POWERED_OFF])
def test_the_end_is_the_end(tmp_path: Path, said: GuestEvent | Ended) -> None:
    machine = FakeMachine([said])
    assert attend(machine, tmp_path) == 0
    assert machine.seconds < 1


def test_what_was_lost_is_typed_again_after_a_while(tmp_path: Path) -> None:
    machine = FakeMachine([asks(), None, RECEIPT])
    assert attend(machine, tmp_path) == 1
    assert machine.pressed == typed(PASSPHRASE) * 2
    assert 180 < machine.seconds < 300


@pytest.mark.parametrize("ids", [None, 5, "text", [5], [None, {}]])
def test_whatever_the_guest_says_is_no_error(tmp_path: Path, ids: object) -> None:
    machine = FakeMachine([asks(volume="sda3", key_ids=ids, failed="x"), RECEIPT])
    assert attend(machine, tmp_path) == 1
