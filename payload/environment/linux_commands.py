"""The one place in the payload that runs programs: argument lists, a time limit, output captured, no exceptions."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from payload.environment.completed import NOT_FOUND as NOT_FOUND
from payload.environment.completed import TIMED_OUT as TIMED_OUT
from payload.environment.completed import Completed as Completed


def run(argv: Sequence[str], *, time_limit: float, given: bytes | None = None) -> Completed:
    """Run `argv` to its end, at most `time_limit` seconds. A program that is missing or stuck is a result as well.

    `given` is what it reads from its standard input: the one way in which it is told a secret. What is told one ends
    with us: where we are interrupted, nothing may be opened by it afterwards.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        return Completed(argv=tuple(argv), returncode=NOT_FOUND, output=str(error))
    try:
        output, _ = process.communicate(given, timeout=time_limit)
        code = process.returncode
    except subprocess.TimeoutExpired as late:
        _end_group(process)
        output, code = late.output or b"", TIMED_OUT
    except BaseException:
        if given is not None:
            _end_group(process)
        raise
    return Completed(argv=tuple(argv), returncode=code, output=output.decode("utf-8", "replace"))


def run_on_terminal(argv: Sequence[str], terminal: int) -> Completed:
    """Run `argv` with the terminal (a file descriptor) as its input and output until it ends; no time limit."""
    blocking = os.get_blocking(terminal)
    try:
        # A shell reads its terminal as a file that waits; the flag belongs to the open file, not to the descriptor.
        os.set_blocking(terminal, True)
        code = subprocess.run(
            list(argv), stdin=terminal, stdout=terminal, stderr=terminal, env=_environment(), check=False
        ).returncode
    except OSError as error:
        return Completed(argv=tuple(argv), returncode=NOT_FOUND, output=str(error))
    finally:
        os.set_blocking(terminal, blocking)
    return Completed(argv=tuple(argv), returncode=code, output="")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TERM": "linux", "HOME": "/"}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A program in an uninterruptible wait (a dying disk) outlives SIGKILL; do not wait for it.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    if process.stdout:
        process.stdout.close()
