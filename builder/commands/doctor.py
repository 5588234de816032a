"""`bluelift doctor`: what this machine can do."""

from __future__ import annotations

import argparse

from builder.cache import default_folder
from builder.commands.program import program
from builder.console import Console, Summary, Table
from builder.doctor import Diagnosis, diagnose
from builder.errors import ToolMissing
from payload.formats.records import to_json


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Show every check; exit code 4 where this machine cannot build."""
    diagnosis = diagnose(arguments.cache or default_folder())
    if arguments.json:
        console.data(to_json(diagnosis))
    else:
        console.table(_table(diagnosis))
        console.summary(_summary(diagnosis))
    return 0 if diagnosis.can_build else ToolMissing.exit_code


def _table(diagnosis: Diagnosis) -> Table:
    rows = tuple(
        (
            "ok" if check.ok else "MISSING",
            check.purpose.value,
            check.name,
            check.found,
            check.how_to_get or f"to {check.reason}",
        )
        for check in diagnosis.checks
    )
    styles = tuple("" if check.ok else "bad" for check in diagnosis.checks)
    return Table(title="", columns=("", "for", "what", "found", "why, or how to get it"), rows=rows, styles=styles)


def _summary(diagnosis: Diagnosis) -> Summary:
    yes_no = {True: "yes", False: "no"}
    steps: tuple[str, ...] = ()
    if diagnosis.missing_packages:
        steps += (f"apt-get install {' '.join(diagnosis.missing_packages)}",)
    if diagnosis.can_build:
        steps += (f"{program()} build -o dist",)
    return Summary(
        title="this machine",
        facts=(
            ("can build", yes_no[diagnosis.can_build]),
            ("can build winpe", yes_no[diagnosis.can_build and diagnosis.can_build_winpe]),
            ("can verify", yes_no[diagnosis.can_verify]),
        ),
        next_steps=steps,
    )
