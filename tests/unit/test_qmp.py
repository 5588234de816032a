"""QMP against a socket that says what it is told to, and against QEMU; event lines of the serial console."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import ToolFailed
from builder.verify.firmware import Firmware
from builder.verify.machine import Ended, parse_event, started, state_folder
from builder.verify.qemu import Controller, MachineConfig
from builder.verify.qmp import QmpClient, QmpClosed, QmpError
from payload.contract import EVENT_PREFIX, EventName

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not here")


@pytest.fixture
def server() -> Iterator[Callable[[list[bytes]], Path]]:
    """Start a server that greets, then answers each request with the next of the given byte strings."""
    with state_folder() as folder:
        listening: list[socket.socket] = []

        def start(answers: list[bytes], greeting: bytes = GREETING) -> Path:
            path = folder / "qmp"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            listening.append(listener)

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(greeting)
                    for answer in answers:
                        if not connection.recv(65536):
                            return
                        if not answer:
                            connection.recv(65536)  # silence, until the other side hangs up
                        # In pieces: a message may arrive in several reads.
                        for at in range(0, len(answer), 7):
                            connection.sendall(answer[at : at + 7])

            threading.Thread(target=serve, daemon=True).start()
            return path

        yield start
        for listener in listening:
            listener.close()


def test_answers_and_events_are_told_apart(server: Callable[[list[bytes]], Path]) -> None:
    event = b'{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}, "timestamp": {}}\n'
    path = server([b'{"return": {}}\n', event + b'{"return": {"status": "running"}}\n' + event])
    with QmpClient.connect(path, time_limit=5) as qmp:
        assert qmp.execute("query-status") == {"status": "running"}
        events = qmp.events()
        while len(events) < 2:
            events += qmp.events(1)
    assert [(event.name, event.data) for event in events] == [("SHUTDOWN", {"reason": "guest-reset"})] * 2


def test_a_refusal_carries_qemus_words(server: Callable[[list[bytes]], Path]) -> None:
    path = server([b'{"return": {}}\n', b'{"error": {"class": "GenericError", "desc": "no such device"}}\n'])
    with QmpClient.connect(path, time_limit=5) as qmp, pytest.raises(QmpError, match="no such device"):
        qmp.execute("device_del", id="x")


def test_the_end_is_noticed(server: Callable[[list[bytes]], Path]) -> None:
    with QmpClient.connect(server([b'{"return": {}}\n']), time_limit=5) as qmp, pytest.raises(QmpClosed):
        qmp.events(5)


def test_silence_ends_at_the_time_limit(server: Callable[[list[bytes]], Path]) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        QmpClient.connect(server([b""]), time_limit=0.3)
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("said", [b"220 mail.example ESMTP\n", b"[1]\n", b'{"no": "greeting"}\n'])
def test_what_is_not_qmp_is_refused(server: Callable[..., Path], said: bytes) -> None:
    path = server([], greeting=said)
    with pytest.raises(QmpError):
        QmpClient.connect(path, time_limit=5)


def test_no_socket_while_qemu_is_dead(tmp_path: Path) -> None:
    with pytest.raises(QmpClosed):
        QmpClient.connect(tmp_path / "nothing", time_limit=60, alive=lambda: False)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (EVENT_PREFIX + '{"event": "receipt", "receipt": {}}', "receipt"),
        ("[    5.9] nvme0n1: p1 p2" + EVENT_PREFIX + '{"event": "started"} trailing', "started"),
        (EVENT_PREFIX + '{"event": "started"', None),
        (EVENT_PREFIX + '["event"]', None),
        (EVENT_PREFIX + '{"event": 5}', None),
        ('{"event": "receipt"}', None),
        (EVENT_PREFIX + "[" * 100_000, None),
        ("", None),
    ],
)
def test_event_lines(line: str, name: str | None) -> None:
    event = parse_event(line)
    assert (event.name if event else None) == name


@given(st.text())
def test_garbage_on_the_console_never_raises(text: str) -> None:
    parse_event(text)
    parse_event(EVENT_PREFIX + text)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_every_object_with_an_event_comes_back(fields: dict[str, object]) -> None:
    event = parse_event("noise " + EVENT_PREFIX + json.dumps({**fields, "event": "volume"}))
    assert event is not None
    assert event.data == {**fields, "event": "volume"}


@needs_qemu
def test_a_real_machine_without_anything_to_boot(tmp_path: Path) -> None:
    with state_folder() as state:
        config = bare_machine(state)
        with started(config, qemu_log=tmp_path / "qemu.log") as machine:
            assert machine.wait_for_event(EventName.RECEIPT, limit=0.5) is None
            assert machine.screenshot(tmp_path / "screen.png")
            assert machine.wait_for_end(limit=machine.seconds + 0.2) is Ended.STILL_RUNNING
            machine.command("system_powerdown")
            machine.kill()
            assert machine.wait_for_end(limit=5) is Ended.KILLED
            assert not machine.screenshot(tmp_path / "late.png")
            machine.press("r")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "late.png").exists()


@needs_qemu
def test_a_refused_machine_shows_what_qemu_said(tmp_path: Path) -> None:
    with state_folder() as state:
        config = bare_machine(state, disk=state / "there-is-no-such-disk.raw")
        with pytest.raises(ToolFailed, match=r"there-is-no-such-disk\.raw"):
            with started(config, qemu_log=tmp_path / "qemu.log"):
                pass


def bare_machine(state: Path, disk: Path | None = None) -> MachineConfig:
    return MachineConfig(
        firmware=Firmware.BIOS,
        disk=disk,
        controller=Controller.NVME,
        uuid="6f1b0d8e-0000-4000-8000-000000000291",
        serial_number="BL-1",
        qmp_socket=state / "qmp",
        serial_log=state / "serial.log",
        memory_mib=64,
    )
