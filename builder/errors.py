"""Every fatal error of the builder: its exit code, its message, and the way out.

Only `builder.__main__` turns one of these into text and an exit. A message says what and why; the hint says what to
do. Exit codes are part of the interface (README, "Exit codes").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class BuilderError(Exception):
    """Something the user can act on. `message` says what and why, `hint` says what to do next."""

    exit_code = 1
    #: The hint where none is given.
    usual_hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class UsageError(BuilderError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong in a file the user wrote: where (`path` inside the file, 1-based `line`) and what."""

    path: str
    line: int | None
    message: str


class ProfileError(BuilderError):
    """A profile does not parse or does not make sense; carries every problem at once."""

    exit_code = 3

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        lines = [f"{file}:{p.line or 1}: {p.path + ': ' if p.path else ''}{p.message}" for p in self.problems]
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the profile\n" + "\n".join(lines),
            hint="'bluelift init' writes a commented profile to start from.",
        )


class ToolMissing(BuilderError):
    """A program that a step needs is not on this machine."""

    exit_code = 4


class ToolFailed(BuilderError):
    """A program ended with an error or ran out of time; the message carries what it said."""

    exit_code = 5


class OutOfTime(ToolFailed):
    """A program was still running at its time limit, and was ended."""


class BaseMediaError(BuilderError):
    """Base media (packages, ISO, WIM) cannot be had, or are not what they should be."""

    exit_code = 6


class OutputError(BuilderError):
    """The output cannot be written: no permission, no space, not a folder."""

    exit_code = 7


class ImageError(BuilderError):
    """A file given as an image is not one, or is damaged."""

    exit_code = 8
    usual_hint = "Is it the right file? If so, get it anew and compare its sha256 with the publisher's."


class VerifyFailed(BuilderError):
    """An image was booted and did not do what it should; the evidence lies in the output folder."""

    exit_code = 9


class TemplateError(BuilderError):
    """A template uses a name that nobody gave, is no template, or makes what its target cannot use."""

    exit_code = 10
