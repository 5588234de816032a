"""Programs that the payload runs under Windows (drvload, wpeutil, shutdown): a time limit, output captured."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence

from payload.environment.completed import NOT_FOUND, TIMED_OUT, Completed


def run(argv: Sequence[str], *, time_limit: float) -> Completed:
    """Run `argv` to its end, at most `time_limit` seconds. A program that is missing or stuck is a result as well."""
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        return Completed(argv=tuple(argv), returncode=NOT_FOUND, output=str(error))
    try:
        output, _ = process.communicate(timeout=time_limit)
        code = process.returncode
    except subprocess.TimeoutExpired as late:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        output, code = late.output or b"", TIMED_OUT
    return Completed(argv=tuple(argv), returncode=code, output=output.decode("ascii", "replace"))


def run_on_console(argv: Sequence[str]) -> Completed:
    """Run `argv` on the console until it ends, wherever our own output goes; no time limit."""
    try:
        with open("CONIN$", "rb", buffering=0) as keyboard, open("CONOUT$", "r+b", buffering=0) as screen:  # noqa: PTH123
            code = subprocess.run(list(argv), stdin=keyboard, stdout=screen, stderr=screen, check=False).returncode
    except OSError as error:
        return Completed(argv=tuple(argv), returncode=NOT_FOUND, output=str(error))
    return Completed(argv=tuple(argv), returncode=code, output="")
