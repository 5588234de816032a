"""How a program that the payload ran came out, whatever the platform."""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Exit codes for what never ran or never ended, as shells and timeout(1) have them.
NOT_FOUND = 127
TIMED_OUT = 124
_OUTPUT_KEPT = 600


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A program that ended: its exit code (NOT_FOUND, TIMED_OUT, negative for a signal) and what it printed."""

    argv: tuple[str, ...]
    returncode: int
    output: str

    @property
    def ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.returncode == 0

    @property
    def sentence(self) -> str:
        """What happened, on one line, for notes and receipts."""
        name = os.path.basename(self.argv[0])  # noqa: PTH119
        if self.returncode == NOT_FOUND:
            return f"{name} is missing from this image"
        if self.returncode == TIMED_OUT:
            return f"{name} did not finish in time"
        said = " ".join(self.output.split())[-_OUTPUT_KEPT:]
        return f"{name} ended with exit code {self.returncode}" + (f": {said}" if said else "")
