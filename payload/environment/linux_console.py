"""The technician's screen and keyboard, and the serial port that machines listen to. None of them may stop a repair."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from payload.contract import EVENT_PREFIX
from payload.environment import Keyboard
from payload.environment.linux_keys import KEYPAD_APART, KEYPAD_AS_USUAL, TerminalKeys
from payload.environment.linux_paths import LinuxPaths

_SIZE = struct.Struct("HHHH")
_DEFAULT_SIZE = (25, 80)
#: console_codes(4): never blank the screen, never switch the monitor off. A verdict must stay readable for hours.
_STAY_LIT = "\x1b[9;0]\x1b[14;0]"
_ESCAPE = b"\x1b"
_HALF_BLOCK = "\u2580"
_WRITE_SECONDS = 5.0
_SERIAL_SECONDS = 5.0
_SERIAL_NAME = re.compile(r"[A-Za-z0-9]+")


class LinuxScreen:
    """The first of several terminals that opens; where none does, writing shows nothing and no key ever comes."""

    def __init__(self, devices: Sequence[Path]) -> None:
        self._terminal = _open_terminal(devices)
        self._alive = True
        if self._terminal is not None:
            self.write(_STAY_LIT)

    @property
    def columns(self) -> int:
        """How many characters fit in a line."""
        return self._size()[1]

    @property
    def lines(self) -> int:
        """How many lines fit."""
        return self._size()[0]

    @property
    def colour(self) -> bool:
        """Linux consoles show ANSI colours."""
        return self._terminal is not None

    @property
    def half_blocks(self) -> bool:
        """A text console in UTF-8 (the kernel's default): the VGA's own font and the kernel's fonts have U+2580."""
        return self._terminal is not None

    @property
    def terminal(self) -> int | None:
        """The terminal's file descriptor, for a shell."""
        return self._terminal

    def write(self, text: str) -> None:
        """Show text. What the console's font may lack is replaced, so that no line ever shows rubbish."""
        if self._terminal is None or not self._alive:
            return
        self._alive = _write_all(self._terminal, _shown(text), _WRITE_SECONDS)

    def key(self, seconds: float) -> str | None:
        """The next key pressed within `seconds`: a lower-case character, `enter`, or `escape` (also function keys)."""
        if self._terminal is None:
            time.sleep(max(seconds, 0))
            return None
        with _raw_keys(self._terminal):
            try:
                ready, _, _ = select.select([self._terminal], [], [], max(seconds, 0))
                return _key_name(os.read(self._terminal, 64)) if ready else None
            except OSError:
                time.sleep(max(seconds, 0))
                return None

    @contextlib.contextmanager
    def typing(self) -> Iterator[Keyboard]:
        """The keyboard for typing text; see `payload.environment.Screen`."""
        if self._terminal is None:
            yield _no_key
            return
        with _raw_keys(self._terminal):
            self.write(KEYPAD_APART)
            try:
                yield TerminalKeys(self._terminal).next
            finally:
                self.write(KEYPAD_AS_USUAL)

    def _size(self) -> tuple[int, int]:
        if self._terminal is None:
            return _DEFAULT_SIZE
        try:
            rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(self._terminal, termios.TIOCGWINSZ, bytes(_SIZE.size)))
        except OSError:
            return _DEFAULT_SIZE
        return rows or _DEFAULT_SIZE[0], columns or _DEFAULT_SIZE[1]


class SerialPort:
    """A serial port at 115200 8N1 for event lines. A missing or stuck port loses lines, and after that all of them."""

    def __init__(self, paths: LinuxPaths, name: str, *, time_limit: float = _SERIAL_SECONDS) -> None:
        self._port = _open_serial(paths.dev / name) if _SERIAL_NAME.fullmatch(name) else None
        self._time_limit = time_limit

    def emit(self, line: str) -> None:
        """Write one event line. It starts on a line of its own: the kernel's messages go to the same port."""
        if self._port is None:
            return
        text = " ".join(line.splitlines())
        if not text.startswith(EVENT_PREFIX):
            text = EVENT_PREFIX + text
        if not _write_all(self._port, f"\r\n{text}\r\n".encode("utf-8", "replace"), self._time_limit):
            self._close()

    def drain(self) -> None:
        """Give the port time to send what is still in its buffer, before the machine goes down."""
        deadline = time.monotonic() + self._time_limit
        while self._port is not None and time.monotonic() < deadline:
            try:
                waiting = struct.unpack("i", fcntl.ioctl(self._port, termios.TIOCOUTQ, bytes(4)))[0]
            except OSError:
                return
            if not waiting:
                return
            time.sleep(0.05)

    def _close(self) -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):
                os.close(self._port)
        self._port = None


def _open_terminal(devices: Sequence[Path]) -> int | None:
    for device in devices:
        with contextlib.suppress(OSError):
            terminal = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            if os.isatty(terminal):
                return terminal
            os.close(terminal)
    return None


def _open_serial(device: Path) -> int | None:
    try:
        # Without O_NONBLOCK opening waits for a carrier on some ports.
        port = os.open(device, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        attributes = termios.tcgetattr(port)
        attributes[0] = termios.IGNPAR
        attributes[1] = 0
        attributes[2] = termios.CS8 | termios.CLOCAL | termios.CREAD
        attributes[3] = 0
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(port, termios.TCSANOW, attributes)
    except (OSError, termios.error):
        # /dev/ttyS0 exists without a port behind it: the kernel makes four nodes whatever the machine has.
        os.close(port)
        return None
    return port


def _shown(text: str) -> bytes:
    return _HALF_BLOCK.encode().join(part.encode("ascii", "replace") for part in text.split(_HALF_BLOCK))


def _no_key(seconds: float) -> None:
    time.sleep(max(seconds, 0))


def _write_all(descriptor: int, data: bytes, time_limit: float) -> bool:
    deadline = time.monotonic() + time_limit
    while data:
        try:
            _, ready, _ = select.select([], [descriptor], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return False
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            time.sleep(0.01)
            if time.monotonic() >= deadline:
                return False
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _raw_keys(terminal: int) -> Iterator[None]:
    """Keys at once and without an echo; the terminal is restored afterwards."""
    try:
        before = termios.tcgetattr(terminal)
        raw = termios.tcgetattr(terminal)
        raw[0] &= ~termios.IXON  # Ctrl-S would stop the screen
        raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(terminal, termios.TCSANOW, raw)
    except (OSError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def _key_name(pressed: bytes) -> str | None:
    if not pressed:
        return None
    if pressed.startswith(_ESCAPE):
        return "escape"
    if pressed[:1] in b"\r\n":
        return "enter"
    return pressed.decode("utf-8", "replace")[0].lower()
