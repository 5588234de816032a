"""Runs of the payload in memory, for tests: a configuration, one run on a fake host, and what it said."""

from __future__ import annotations

import json
from typing import Any

from payload.contract import (
    BUILT_IN_RULES,
    EVENT_PREFIX,
    PayloadConfig,
    Policy,
    Receipt,
    Rule,
)
from payload.display import FullScreen
from payload.receipt import verdict_screen
from payload.screen import render_verdict
from payload.session import RunOptions, Session
from tests.payload.fake_environment import FakeEnvironment

RUN_ID = "20240720T100000Z-0a1b2c3d"
STORE = "\\ProgramData\\Bluelift\\quarantine"


def config(**changes: Any) -> PayloadConfig:
    return PayloadConfig(**{"image_id": "image-1", "rules": BUILT_IN_RULES, "bluelift": "0.1.0", **changes})


def with_policy(policy: Policy) -> PayloadConfig:
    return config(rules=tuple(Rule(**{**vars(rule), "policy": policy}) for rule in BUILT_IN_RULES))


def run(
    environment: FakeEnvironment, settings: PayloadConfig | None = None, *, dry_run: bool = False, run_id: str = RUN_ID
) -> Receipt:
    session = Session(
        environment,
        settings or config(),
        FullScreen(environment.screen, "Bluelift"),
        RunOptions(run_id=run_id, started=1721469600.0, dry_run=dry_run),
    )
    return session.run()


def sent(environment: FakeEnvironment) -> list[dict[str, Any]]:
    assert all(line.startswith(EVENT_PREFIX) and "\n" not in line for line in environment.lines)
    return [json.loads(line.removeprefix(EVENT_PREFIX)) for line in environment.lines]


def final_text(receipt: Receipt) -> str:
    return render_verdict(verdict_screen(receipt, keys="[R]"), columns=80, lines=40, colour=False)
