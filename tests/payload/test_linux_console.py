"""Screen, keyboard and serial port on pseudo-terminals; a port that is stuck or missing."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from payload.environment.linux_console import LinuxScreen, SerialPort
from payload.environment.linux_paths import LinuxPaths


@dataclass(frozen=True)
class Terminal:
    """A pseudo-terminal: what the payload opens, and the end that the test holds."""

    device: Path
    other_end: int

    def shown(self) -> str:
        """What was written so far."""
        time.sleep(0.05)
        try:
            return os.read(self.other_end, 65536).decode()
        except BlockingIOError:
            return ""


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    other_end, end = os.openpty()
    os.set_blocking(other_end, False)
    yield Terminal(device=Path(os.ttyname(end)), other_end=other_end)
    os.close(end)
    os.close(other_end)


def _type(terminal: Terminal, data: bytes, delay: float = 0.1) -> None:
    threading.Timer(delay, os.write, (terminal.other_end, data)).start()


def test_size_and_text(terminal: Terminal, tmp_path: Path) -> None:
    fcntl.ioctl(terminal.other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    screen = LinuxScreen([tmp_path / "missing", tmp_path, terminal.device])
    assert (screen.columns, screen.lines, screen.colour) == (132, 50, True)
    screen.write("\x1b[42m REPAIRED \x1b[0m für\u2580\n")
    shown = terminal.shown()
    assert shown.startswith("\x1b[9;0]")
    assert shown.endswith("\x1b[42m REPAIRED \x1b[0m f?r\u2580\r\n")


def test_a_terminal_without_a_size(terminal: Terminal) -> None:
    assert (LinuxScreen([terminal.device]).columns, LinuxScreen([terminal.device]).lines) == (80, 25)


@pytest.mark.parametrize(
    ("pressed", "key"),
    [(b"R", "r"), (b"\r", "enter"), (b"\n", "enter"), (b"\x1b[11~", "escape"), (b"\x03", "\x03"), (b"xyz", "x")],
)
def test_keys(terminal: Terminal, pressed: bytes, key: str) -> None:
    screen = LinuxScreen([terminal.device])
    before = termios.tcgetattr(terminal.other_end)
    _type(terminal, pressed)
    assert screen.key(5) == key
    assert termios.tcgetattr(terminal.other_end) == before


def test_typing_loses_nothing_and_echoes_nothing(terminal: Terminal) -> None:
    screen = LinuxScreen([terminal.device])
    terminal.shown()
    before = termios.tcgetattr(terminal.other_end)
    with screen.typing() as keyboard:
        _type(terminal, "Bé\x1bOq\x1b[A\x7f\r".encode())
        assert [keyboard(5) for _ in range(6)] == ["B", "é", "1", "other", "backspace", "enter"]
        _type(terminal, b"\x1b")
        assert keyboard(5) == "escape"
        assert keyboard(0) is None
        os.write(terminal.other_end, b"\x1b[")
        os.write(terminal.other_end, b"3~7")
        assert [keyboard(5), keyboard(5)] == ["other", "7"]
    assert terminal.shown() == "\x1b=\x1b>"  # the keypad's digits, and as it was
    assert termios.tcgetattr(terminal.other_end) == before


def test_no_key_in_time(terminal: Terminal) -> None:
    started = time.monotonic()
    assert LinuxScreen([terminal.device]).key(0.2) is None
    assert 0.15 < time.monotonic() - started < 2


def test_no_terminal_at_all(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    screen = LinuxScreen([plain])
    screen.write("lost")
    assert (screen.columns, screen.lines, screen.colour, screen.terminal) == (80, 25, False, None)
    started = time.monotonic()
    assert screen.key(0.2) is None
    assert time.monotonic() - started > 0.15
    assert plain.read_bytes() == b""


def test_a_terminal_that_vanished() -> None:
    other_end, end = os.openpty()
    screen = LinuxScreen([Path(os.ttyname(end))])
    assert screen.terminal is not None
    os.close(other_end)
    os.close(end)
    screen.write("lost")
    screen.write("lost")
    assert screen.key(0.1) is None
    with screen.typing() as keyboard:
        assert keyboard(0.1) is None
    os.close(screen.terminal)
    assert (screen.columns, screen.lines) == (80, 25)
    assert screen.key(0.1) is None


def _serial(terminal: Terminal, tmp_path: Path, limit: float = 0.3) -> SerialPort:
    (tmp_path / "ttyS0").symlink_to(terminal.device)
    return SerialPort(LinuxPaths(dev=tmp_path), "ttyS0", time_limit=limit)


def test_serial_lines(terminal: Terminal, tmp_path: Path) -> None:
    port = _serial(terminal, tmp_path)
    port.emit('BLUELIFT {"event":"started"}')
    port.emit("no prefix\nand two lines")
    port.drain()
    assert terminal.shown() == '\r\nBLUELIFT {"event":"started"}\r\n\r\nBLUELIFT no prefix and two lines\r\n'
    attributes = termios.tcgetattr(terminal.other_end)
    assert attributes[4:6] == [termios.B115200, termios.B115200]
    assert attributes[2] & termios.CSIZE == termios.CS8
    assert not attributes[2] & (termios.CSTOPB | termios.PARENB | termios.CRTSCTS)


def test_a_stuck_port_costs_one_time_limit(terminal: Terminal, tmp_path: Path) -> None:
    port = _serial(terminal, tmp_path)
    started = time.monotonic()
    for _ in range(50):
        port.emit("x" * 10_000)
    port.drain()
    assert time.monotonic() - started < 2


def test_drain_waits_no_longer_than_its_limit(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _serial(terminal, tmp_path, limit=0.2)
    # A pseudo-terminal's buffer empties at once; a port that never sends is this.
    monkeypatch.setattr(fcntl, "ioctl", lambda *arguments: struct.pack("i", 7))
    started = time.monotonic()
    port.drain()
    assert 0.15 < time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["ttyS7", "../../etc/passwd", "", "plain"])
def test_a_missing_port(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").touch()
    port = SerialPort(LinuxPaths(dev=tmp_path), name)
    port.emit("lost")
    port.drain()
    assert (tmp_path / "plain").read_bytes() == b""


def test_a_port_that_goes_away_while_draining(terminal: Terminal, tmp_path: Path) -> None:
    port = _serial(terminal, tmp_path)
    assert port._port is not None
    os.close(port._port)
    port.drain()
    port.emit("lost")
    port.emit("lost")
