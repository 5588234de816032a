"""The one doorway to other programs: explicit environment, closed stdin, a time limit, and errors worth reading."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import OutOfTime, ToolFailed, ToolMissing

#: What a child may inherit; everything else would make a build depend on who runs it.
_INHERITED = (
    "PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR",
    # Windows, where nothing starts without the first of them.
    "SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "TEMP", "TMP", "LOCALAPPDATA", "USERPROFILE",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
_OUTPUT_SHOWN = 2000


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A program that ended: what it was called as, its exit code, what it printed, how long it took in seconds."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output, decoded; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def said(self) -> str:
        """The end of what the program printed, standard error last, for messages and logs."""
        both = self.stdout.decode("utf-8", "replace").strip(), self.stderr.decode("utf-8", "replace").strip()
        return "\n".join(part for part in both if part)[-_OUTPUT_SHOWN:]


def command_line(argv: Sequence[str]) -> str:
    """`argv` as a line that can be pasted into a shell."""
    return shlex.join(argv)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment every child gets: a short inherited list, fixed locale and time zone, then `extra`."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment.setdefault("PATH", os.defpath)
    if sys.platform != "win32":
        # apt and mkfs live in sbin, which an ordinary user's PATH leaves out on Debian.
        present = environment["PATH"].split(os.pathsep)
        environment["PATH"] = os.pathsep.join(present + [d for d in ("/usr/sbin", "/sbin") if d not in present])
    environment.update(LC_ALL="C.UTF-8", TZ="UTC", DEBIAN_FRONTEND="noninteractive")
    environment.update(extra or {})
    return environment


def run(
    argv: Sequence[str],
    *,
    reason: str,
    time_limit: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ok: Sequence[int] = (0,),
    capture: bool = True,
) -> Completed:
    """Run `argv` to its end and return what it printed.

    `reason` completes the sentence "... is needed to REASON". `ok` lists the exit codes that are not errors. Without
    `capture` the output is thrown away: for what leaves services behind that would hold a pipe open.
    Raises ToolMissing when the program does not exist, ToolFailed on any other exit code, OutOfTime (a
    ToolFailed) after `time_limit` seconds.
    """
    started = time.monotonic()
    output = subprocess.PIPE if capture else subprocess.DEVNULL
    try:
        with subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(env),
            cwd=cwd,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout=time_limit)
            except subprocess.TimeoutExpired:
                _end(process)
                raise OutOfTime(
                    f"{Path(argv[0]).name} did not finish within {time_limit:g} s (it was run to {reason})",
                    hint=f"The command was: {command_line(argv)}",
                ) from None
            except BaseException:
                _end(process)
                raise
    except FileNotFoundError as error:
        raise missing(argv[0], reason) from error
    result = Completed(
        argv=tuple(argv),
        returncode=process.returncode,
        stdout=out or b"",
        stderr=err or b"",
        seconds=time.monotonic() - started,
    )
    if result.returncode not in ok:
        raise ToolFailed(
            f"{Path(argv[0]).name} failed with exit code {result.returncode} (it was run to {reason})\n"
            f"{result.said}".rstrip(),
            hint=f"The command was: {command_line(argv)}",
        )
    return result


@contextmanager
def running(
    argv: Sequence[str],
    *,
    reason: str,
    log: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs as long as the block does (QEMU); its output goes to `log`. Killed on the way out."""
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(env),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise missing(argv[0], reason) from error
        try:
            yield process
        finally:
            _end(process)


def missing(program: str, reason: str) -> ToolMissing:
    """The error for a program that is not there."""
    return ToolMissing(
        f"{Path(program).name} was not found; it is needed to {reason}",
        hint="'bluelift doctor' lists what this machine lacks and how to get it.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
    process.wait()
