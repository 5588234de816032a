"""The QEMU Machine Protocol over a Unix socket: commands, answers, events (QEMU docs/interop/qmp-spec)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from builder.errors import BuilderError

_CHUNK = 65536


class QmpError(BuilderError):
    """QEMU refused a command, said something that is not QMP, or closed the connection."""

    exit_code = 5


class QmpClosed(QmpError):
    """QEMU closed the connection: it has ended."""


@dataclass(frozen=True, kw_only=True)
class QmpEvent:
    """Something QEMU reported by itself, such as SHUTDOWN with its reason."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class QmpClient:
    """One connection. Events that arrive while an answer is awaited are kept for `events`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._events: list[QmpEvent] = []

    @classmethod
    def connect(cls, path: Path, *, time_limit: float, alive: Callable[[], bool] = lambda: True) -> QmpClient:
        """Connect to QEMU's socket at `path`, waiting for it to appear while `alive()` says that QEMU runs.

        Raises QmpError when it does not answer within `time_limit` seconds.
        """
        deadline = time.monotonic() + time_limit
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connection.close()
                if not alive() or time.monotonic() > deadline:
                    raise QmpClosed(f"QEMU did not open its control socket {path}") from error
                time.sleep(0.02)
        client = cls(connection)
        try:
            greeting = client._message(deadline)
            if "QMP" not in greeting:
                raise QmpError(f"the control socket did not greet as QMP does, but with {greeting!r}")
            client.execute("qmp_capabilities", time_limit=max(1.0, deadline - time.monotonic()))
        except BaseException:
            client.close()
            raise
        return client

    def execute(self, command: str, *, time_limit: float = 20, **arguments: Any) -> Any:
        """Run a command and return what it returned. Raises QmpError with QEMU's own words when it is refused."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        deadline = time.monotonic() + time_limit
        try:
            self._connection.settimeout(time_limit)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpClosed(f"QEMU ended before the command {command}") from error
        while True:
            message = self._message(deadline)
            if "error" in message:
                said = message["error"].get("desc", message["error"])
                raise QmpError(f"QEMU refused {command}: {said}")
            if "return" in message:
                return message["return"]

    def events(self, wait: float = 0) -> list[QmpEvent]:
        """The events that arrived since the last call, waiting up to `wait` seconds for a first one.

        Raises QmpClosed when QEMU has ended and everything it said was handed out.
        """
        deadline = time.monotonic() + wait
        while not self._events:
            try:
                self._message(deadline)
            except TimeoutError:
                break
        taken, self._events = self._events, []
        return taken

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        self._connection.close()

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message; an event is kept and returned as well. Raises TimeoutError at `deadline`."""
        line = self._line(deadline)
        try:
            message = json.loads(line)
        except ValueError as error:
            raise QmpError(f"the control socket sent a line that is not JSON: {line[:200]!r}") from error
        if not isinstance(message, dict):
            raise QmpError(f"the control socket sent {message!r} where a JSON object belongs")
        if "event" in message:
            self._events.append(QmpEvent(name=str(message["event"]), data=message.get("data") or {}))
        return message

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            # A socket with time-out 0 does not block, and then raises BlockingIOError instead of TimeoutError.
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._connection.recv(_CHUNK)
            except TimeoutError:
                raise TimeoutError("no message from QEMU in time") from None
            except OSError as error:
                raise QmpClosed("QEMU's control socket broke") from error
            if not data:
                raise QmpClosed("QEMU closed its control socket")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
