"""What verifying came to: one record a boot, the table's rows, and verdict.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.verify.firmware import Firmware
from builder.verify.machine import Ended
from builder.verify.qemu import Attach, Controller

SCHEMA = 1
#: In the place of a headline, where no receipt came.
NO_VERDICT = "no verdict"
TABLE_HEADINGS = ("", "as", "firmware", "disk", "scenario", "boot", "verdict", "receipt after", "end", "checks")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at after a boot. `expected` and `seen` are for people."""

    name: str
    passed: bool
    expected: str = ""
    seen: str = ""


@dataclass(frozen=True, kw_only=True)
class BootReport:
    """One boot. `receipt_seconds` is None where no receipt came; `attempts` is 2 after the one retry."""

    firmware: Firmware
    controller: Controller
    scenario: str
    number: int
    nonce: str
    headline: str
    ended: Ended
    receipt_seconds: float | None
    seconds: float
    checks: tuple[Check, ...]
    folder: Path
    attempts: int = 1
    attach: Attach = Attach.CD

    @property
    def passed(self) -> bool:
        """Whether every check passed. A boot without any check has proven nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def table_row(self) -> tuple[str, ...]:
        """The cells under TABLE_HEADINGS."""
        return (
            "passed" if self.passed else "FAILED",
            self.attach.value,
            self.firmware.value,
            self.controller.value,
            self.scenario,
            str(self.number) + (f" (attempt {self.attempts})" if self.attempts > 1 else ""),
            self.headline,
            f"{self.receipt_seconds:.1f} s" if self.receipt_seconds is not None else "-",
            self.ended.value,
            f"{len(self.checks) - len(self.failures)} of {len(self.checks)}",
        )


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All boots of one `bluelift verify`."""

    image: Path
    image_sha256: str
    qemu: str
    boots: tuple[BootReport, ...]
    folder: Path

    @property
    def passed(self) -> bool:
        """Whether every boot passed, and there was one."""
        return bool(self.boots) and all(boot.passed for boot in self.boots)

    def table_rows(self) -> list[tuple[str, ...]]:
        """One row a boot, under TABLE_HEADINGS."""
        return [boot.table_row() for boot in self.boots]

    def problem_lines(self, *, limit: int = 20) -> list[str]:
        """What failed, expected beside seen, and where the evidence lies."""
        lines = []
        for boot in self.boots:
            if boot.passed:
                continue
            lines.append(
                f"{boot.attach.value}, {boot.firmware.value}, {boot.controller.value}, {boot.scenario}, "
                f"boot {boot.number}:"
            )
            for check in boot.failures[:limit]:
                lines.append(f"  {check.name}")
                lines.append(f"    expected: {check.expected}")
                lines.append(f"    seen:     {check.seen}")
            if len(boot.failures) > limit:
                lines.append(f"  ... and {len(boot.failures) - limit} more")
            lines.append(f"  evidence: {boot.folder}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The content of verdict.json."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "image": self.image.name,
            "image_sha256": self.image_sha256,
            "qemu": self.qemu,
            "boots": [_boot_json(boot) for boot in self.boots],
        }


def write_report(report: VerifyReport) -> Path:
    """Write verdict.json into the report's folder, beside first, then renamed."""
    path = report.folder / "verdict.json"
    write_beside(path, json.dumps(report.to_json(), indent=2) + "\n")
    return path


def write_beside(path: Path, text: str) -> None:
    """Write a text file whole: beside it, then renamed."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, "utf-8")
    beside.replace(path)


def comparison_text(checks: tuple[Check, ...]) -> str:
    """expected-vs-seen.txt: every check, the failed ones first."""
    lines = []
    for check in sorted(checks, key=lambda check: check.passed):
        lines.append(f"{'passed' if check.passed else 'FAILED'}  {check.name}")
        lines += [f"        expected: {check.expected}", f"        seen:     {check.seen}"]
    return "\n".join(lines) + "\n"


def _boot_json(boot: BootReport) -> dict[str, Any]:
    return {
        "passed": boot.passed,
        "as": boot.attach.value,
        "firmware": boot.firmware.value,
        "disk": boot.controller.value,
        "scenario": boot.scenario,
        "boot": boot.number,
        "attempts": boot.attempts,
        "nonce": boot.nonce,
        "verdict": boot.headline,
        "ended": boot.ended.value,
        "receipt_seconds": boot.receipt_seconds,
        "seconds": boot.seconds,
        "evidence": boot.folder.name,
        "checks": [
            {"name": check.name, "passed": check.passed, "expected": check.expected, "seen": check.seen}
            for check in boot.checks
        ],
    }
