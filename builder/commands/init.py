"""`bluelift init`: a commented profile to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder import profile
from builder.commands.program import program
from builder.console import Console, Summary
from builder.errors import OutputError, UsageError


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Write the default profile, with its comments, to a new file."""
    file: Path = arguments.file
    content = profile.find(profile.DEFAULT).read_bytes()
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
                f"{program()} plan {file}     checks it and shows what would be built",
                f"{program()} build {file} -o dist",
            ),
        )
    )
    return 0
