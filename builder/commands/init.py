"""`bluelift init`: a commented profile to start from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from builder import profile, resources
from builder.commands.program import program
from builder.console import Console, Summary
from builder.errors import OutputError, UsageError

_WHAT_FOR = {profile.WINPE: " --windows-iso FILE"}


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Write a profile that comes with Bluelift, with its comments, to a new file."""
    name, file = _wanted(arguments.words)
    content = (resources.profiles() / f"{name}.yaml").read_bytes()
    media = _WHAT_FOR.get(name, "")
    try:
        with file.open("xb") as stream:
            stream.write(content)
    except FileExistsError as error:
        raise UsageError(f"{file} exists already", hint="Give another name: bluelift init FILE") from error
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}", hint="Give another place.") from error
    console.summary(
        Summary(
            title=f"wrote {file}",
            next_steps=(
                f"edit {file}; every key in it is explained",
                f"{program()} plan {file}{media}     checks it and shows what would be built",
                f"{program()} build {file}{media} -o dist",
            ),
        )
    )
    return 0


def _wanted(words: Sequence[str]) -> tuple[str, Path]:
    """The name of the profile to copy, and the file to write: either may be left out. Raises UsageError."""
    names = profile.names()
    if len(words) > 2 or (len(words) == 2 and words[0] not in names):
        raise UsageError(
            f"init takes a profile's name and a file, not {' '.join(words)!r}",
            hint=f"Profiles that come with Bluelift: {', '.join(names)}. For example: bluelift init winpe site.yaml",
        )
    if words and words[0] in names:
        return words[0], Path(words[1] if len(words) == 2 else f"{words[0]}.yaml")
    return profile.DEFAULT, Path(words[0] if words else "bluelift.yaml")
