"""One running virtual machine: it owns the process, its control socket, its serial log and its state folder."""

from __future__ import annotations

import enum
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ToolFailed
from builder.run import command_line, running
from builder.verify.qemu import QEMU_REASON, MachineConfig, machine_argv
from builder.verify.qmp import QmpClient, QmpClosed, QmpError
from payload.contract import EVENT_PREFIX, EventName

if TYPE_CHECKING:
    from subprocess import Popen

_TICK = 0.05
_START_LIMIT = 30
#: By which GRUB says on the serial port that it will not start a kernel whose signature does not fit.
_REFUSAL = re.compile(rb"bad shim signature")


class Ended(enum.StrEnum):
    """How a machine came to its end."""

    POWERED_OFF = "powered off"
    RESTARTED = "restarted"
    PANICKED = "panicked"
    DIED = "QEMU ended by itself"
    KILLED = "killed"
    REFUSED = "refused to start a kernel with a bad signature"
    STILL_RUNNING = "still running at the time limit"

    @property
    def normal(self) -> bool:
        """Whether the guest itself asked for it."""
        return self in (Ended.POWERED_OFF, Ended.RESTARTED)


@dataclass(frozen=True, kw_only=True)
class GuestEvent:
    """One of the payload's JSON lines: its name, its fields, and when it was seen (seconds after power-on)."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def parse_event(line: str) -> GuestEvent | None:
    """The event in a line of the serial console, None where there is none; never raises on what a guest sends.

    Kernel messages may precede it on the same line.
    """
    _, found, text = line.partition(EVENT_PREFIX)
    if not found:
        return None
    try:
        data, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        return None
    return GuestEvent(name=data["event"], data=data)


class Machine:
    """A started machine. Waits are named for what is seen; every one of them ends at its time limit."""

    def __init__(self, *, process: Popen[bytes], qmp: QmpClient, serial_log: Path) -> None:
        self._process = process
        self._qmp = qmp
        self._serial_log = serial_log
        self._read = 0
        self._partial = b""
        self._started = time.monotonic()
        self._ended: Ended | None = None
        self._refused = False
        self.events: list[GuestEvent] = []

    @property
    def seconds(self) -> float:
        """How long the machine has been running."""
        return time.monotonic() - self._started

    @property
    def ended(self) -> Ended | None:
        """How the machine ended; None while it runs."""
        return self._ended

    @property
    def console(self) -> str:
        """Everything the guest wrote to its serial port so far."""
        return self._serial_log.read_bytes().decode("utf-8", "replace") if self._serial_log.exists() else ""

    def event(self, name: EventName) -> GuestEvent | None:
        """The last event of that name seen so far."""
        return next((event for event in reversed(self.events) if event.name == name), None)

    def wait_for_event(self, name: EventName, *, limit: float) -> GuestEvent | None:
        """The event `name`; None when the machine ended, or `limit` seconds after power-on passed, without it.

        Neither is waited for where the boot loader has refused to start the kernel.
        """
        while (found := self.event(name)) is None:
            if self._ended is not None or self._refused or self.seconds > limit:
                return None
            self._observe(_TICK)
        return found

    def wait_for_end(self, *, limit: float) -> Ended:
        """How the machine ended, or STILL_RUNNING `limit` seconds after power-on, or REFUSED before that."""
        while self._ended is None and not self._refused and self.seconds <= limit:
            self._observe(_TICK)
        self._read_serial(last=True)
        return self._ended or (Ended.REFUSED if self._refused else Ended.STILL_RUNNING)

    def watch(self, seconds: float) -> None:
        """Let the machine run for `seconds` (less when it ends)."""
        deadline = time.monotonic() + seconds
        while self._ended is None and time.monotonic() < deadline:
            self._observe(min(_TICK, max(0.001, deadline - time.monotonic())))

    def screenshot(self, path: Path) -> bool:
        """What the machine shows, as a PNG at `path`; False when the machine has ended already."""
        beside = path.with_name(path.name + ".part")
        try:
            self._qmp.execute("screendump", filename=str(beside), format="png")
        except (QmpError, TimeoutError):
            return False
        beside.replace(path)
        return True

    def press(self, *keys: str) -> None:
        """Press keys at once, named as QEMU names them ("r", "ret", "ctrl"). A machine that has ended does not mind."""
        try:
            self._qmp.execute("send-key", keys=[{"type": "qcode", "data": key} for key in keys])
        except (QmpError, TimeoutError):
            self._observe(0)

    def command(self, name: str, **arguments: Any) -> Any:
        """A QMP command. Raises QmpError."""
        return self._qmp.execute(name, **arguments)

    def kill(self) -> None:
        """SIGKILL: for the guest, a power cut."""
        self._process.kill()
        self._process.wait()
        self._ended = self._ended or Ended.KILLED
        self._read_serial(last=True)

    def _observe(self, wait: float) -> None:
        try:
            for event in self._qmp.events(wait):
                if event.name == "SHUTDOWN" and self._ended is None:
                    reason = str(event.data.get("reason", ""))
                    self._ended = {
                        "guest-shutdown": Ended.POWERED_OFF,
                        "guest-reset": Ended.RESTARTED,
                        "guest-panic": Ended.PANICKED,
                    }.get(reason, Ended.DIED)
                elif event.name == "GUEST_PANICKED":
                    self._ended = Ended.PANICKED
        except QmpClosed:
            self._ended = self._ended or Ended.DIED
        self._read_serial(last=self._ended is not None)

    def _read_serial(self, *, last: bool) -> None:
        if not self._serial_log.exists():
            return
        with self._serial_log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        self._read += len(data)
        self._refused = self._refused or _REFUSAL.search(self._partial + data) is not None
        *lines, self._partial = (self._partial + data).split(b"\n")
        if last and self._partial:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            event = parse_event(line.decode("utf-8", "replace"))
            if event is not None:
                self.events.append(replace(event, seconds=round(self.seconds, 2)))


@contextmanager
def started(config: MachineConfig, *, qemu_log: Path) -> Iterator[Machine]:
    """A running machine for the time of the block; killed on the way out. Raises ToolMissing, ToolFailed."""
    argv = machine_argv(config)
    with running(argv, reason=QEMU_REASON, log=qemu_log) as process:
        try:
            qmp = QmpClient.connect(config.qmp_socket, time_limit=_START_LIMIT, alive=lambda: process.poll() is None)
        except (QmpError, TimeoutError) as error:
            said = qemu_log.read_text("utf-8", "replace").strip()[-2000:]
            raise ToolFailed(
                f"QEMU did not start: {said or error}", hint=f"The command was: {command_line(argv)}"
            ) from error
        with qmp:
            yield Machine(process=process, qmp=qmp, serial_log=config.serial_log)


@contextmanager
def state_folder() -> Iterator[Path]:
    """A temporary folder with a short path (sockets) for one machine's changeable state, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bl-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
