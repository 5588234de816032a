"""The technician's console under Windows, and the serial port that machines listen to. None of them may stop a repair.

The console is opened by its own name, so that it stays the technician's wherever our output goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import msvcrt
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from ctypes import wintypes

from payload.contract import EVENT_PREFIX
from payload.environment import Keyboard
from payload.environment import windows_api as api
from payload.environment.windows_keys import RECORD, keys_of

#: wincon.h: ENABLE_PROCESSED_OUTPUT, ENABLE_WRAP_AT_EOL_OUTPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING.
_PLAIN_MODE, _VIRTUAL_TERMINAL = 0x1 | 0x2, 0x4
_DEFAULT_SIZE = (25, 80)
_POLL = 0.05
#: How many input events are taken at once.
_EVENTS = 64
_SERIAL_SECONDS = 5
_LINUX_SERIAL = re.compile(r"ttyS(\d)")
#: The first of the two codes that a function or cursor key gives.
_KEY_PREFIXES = ("\0", "\xe0")


class _ScreenBuffer(ctypes.Structure):
    """CONSOLE_SCREEN_BUFFER_INFO."""

    _fields_ = [
        (name, wintypes.SHORT)
        for name in (
            "columns", "rows", "cursor_x", "cursor_y", "attributes", "left", "top", "right", "bottom",
            "most_columns", "most_rows",
        )
    ]  # fmt: skip


class _Timeouts(ctypes.Structure):
    """COMMTIMEOUTS, milliseconds."""

    _fields_ = [
        (name, wintypes.DWORD) for name in ("interval", "read_each", "read_constant", "write_each", "write_constant")
    ]


for _name, _arguments in {
    "GetConsoleMode": (wintypes.HANDLE, ctypes.c_void_p),
    "SetConsoleMode": (wintypes.HANDLE, wintypes.DWORD),
    "GetConsoleScreenBufferInfo": (wintypes.HANDLE, ctypes.c_void_p),
    "WriteConsoleW": (wintypes.HANDLE, wintypes.LPCWSTR, wintypes.DWORD, ctypes.c_void_p, ctypes.c_void_p),
    "PeekConsoleInputW": (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD, ctypes.c_void_p),
    "ReadConsoleInputW": (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD, ctypes.c_void_p),
    "BuildCommDCBW": (wintypes.LPCWSTR, ctypes.c_void_p),
    "SetCommState": (wintypes.HANDLE, ctypes.c_void_p),
    "SetCommTimeouts": (wintypes.HANDLE, ctypes.c_void_p),
}.items():
    getattr(api.kernel32, _name).argtypes = _arguments


class WindowsScreen:
    """The console. Where there is none, text goes to standard output without colours and no key ever comes."""

    def __init__(self) -> None:
        self._console = _open_console()
        self._colour = self._console is not None and _enable_colour(self._console)

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
        """Whether the console understands ANSI sequences (Windows 10 1511 and later)."""
        return self._colour

    @property
    def half_blocks(self) -> bool:
        """Never sure: the console's font and code page are those of the image's language."""
        return False

    def write(self, text: str) -> None:
        """Show text. What the console's font may lack is replaced, so that no line ever shows rubbish."""
        shown = text.encode("ascii", "replace").decode("ascii")
        if self._console is None:
            with contextlib.suppress(OSError, ValueError):
                if sys.stdout is not None:
                    sys.stdout.write(shown)
                    sys.stdout.flush()
            return
        if not self._colour:
            shown = shown.replace("\r\n", "\n").replace("\n", "\r\n")
        # A console takes at most 64 KiB at once.
        for start in range(0, len(shown), 8192):
            part = shown[start : start + 8192]
            api.kernel32.WriteConsoleW(self._console, part, len(part), ctypes.byref(wintypes.DWORD()), None)

    def key(self, seconds: float) -> str | None:
        """The next key pressed within `seconds`: a lower-case character, `enter`, or `escape` (also function keys)."""
        deadline = time.monotonic() + max(seconds, 0)
        while True:
            if self._console is not None and msvcrt.kbhit():
                return _key_name(msvcrt.getwch())
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(_POLL, left))

    @contextlib.contextmanager
    def typing(self) -> Iterator[Keyboard]:
        """The keyboard for typing text; see `payload.environment.Screen`.

        None where text goes to standard output: in Windows PE that is a file, and keys that are typed are shown.
        """
        if self._console is None:
            yield _no_key
            return
        try:
            console = api.open_handle("CONIN$", api.GENERIC_READ | api.GENERIC_WRITE)
        except OSError:
            yield _no_key
            return
        try:
            yield _ConsoleKeys(console).next
        finally:
            api.close_handle(console)

    def _size(self) -> tuple[int, int]:
        buffer = _ScreenBuffer()
        if self._console is None or not api.kernel32.GetConsoleScreenBufferInfo(self._console, ctypes.byref(buffer)):
            return _DEFAULT_SIZE
        lines, columns = buffer.bottom - buffer.top + 1, buffer.right - buffer.left + 1
        return (lines, columns) if lines > 0 and columns > 0 else _DEFAULT_SIZE


class _ConsoleKeys:
    """The keys of a console's input buffer, one by one."""

    def __init__(self, console: int) -> None:
        self._console = console
        self._waiting: deque[str] = deque()

    def next(self, seconds: float) -> str | None:
        """The next key pressed within `seconds` (`payload.environment.Keyboard`)."""
        deadline = time.monotonic() + max(seconds, 0)
        while True:
            self._read()
            if self._waiting:
                return self._waiting.popleft()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(_POLL, left))

    def _read(self) -> None:
        """Whatever events there are. Only looking does not wait; and without a look Wine reads nothing."""
        events, count = ctypes.create_string_buffer(_EVENTS * RECORD.size), wintypes.DWORD()
        for call in (api.kernel32.PeekConsoleInputW, api.kernel32.ReadConsoleInputW):
            if not call(self._console, events, _EVENTS, ctypes.byref(count)) or not count.value:
                return
        self._waiting.extend(keys_of(events.raw[: count.value * RECORD.size]))


class SerialPort:
    """A serial port at 115200 8N1 for event lines. A missing or stuck port loses lines, and after that all of them.

    `name` is Linux's, as the profile has it: ttyS0 is COM1. Where Windows keeps EMS on it, it cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self._port = _open_serial(name)

    def emit(self, line: str) -> None:
        """Write one event line, on a line of its own."""
        if self._port is None:
            return
        text = " ".join(line.splitlines())
        if not text.startswith(EVENT_PREFIX):
            text = EVENT_PREFIX + text
        try:
            api.write_all(self._port, f"\r\n{text}\r\n".encode("utf-8", "replace"))
        except OSError:
            api.close_handle(self._port)
            self._port = None

    def drain(self) -> None:
        """Send what is still in the port's buffer, before the machine goes down."""
        if self._port is not None:
            api.kernel32.FlushFileBuffers(self._port)


def _no_key(seconds: float) -> None:
    time.sleep(max(seconds, 0))


def _open_console() -> int | None:
    try:
        return api.open_handle("CONOUT$", api.GENERIC_READ | api.GENERIC_WRITE)
    except OSError:
        return None


def _enable_colour(console: int) -> bool:
    mode = wintypes.DWORD()
    if not api.kernel32.GetConsoleMode(console, ctypes.byref(mode)):
        return False
    return bool(api.kernel32.SetConsoleMode(console, mode.value | _PLAIN_MODE | _VIRTUAL_TERMINAL))


def _open_serial(name: str) -> int | None:
    known = _LINUX_SERIAL.fullmatch(name)
    if known is None:
        return None
    try:
        port = api.open_handle(rf"\\.\COM{int(known[1]) + 1}", api.GENERIC_WRITE, share=0)
    except OSError:
        return None
    # DCB is 28 bytes, the first four its own length.
    control = ctypes.create_string_buffer((28).to_bytes(4, "little"), 28)
    limits = _Timeouts(write_constant=_SERIAL_SECONDS * 1000)
    if (
        api.kernel32.BuildCommDCBW("baud=115200 parity=N data=8 stop=1", control)
        and api.kernel32.SetCommState(port, control)
        and api.kernel32.SetCommTimeouts(port, ctypes.byref(limits))
    ):
        return port
    api.close_handle(port)
    return None


def _key_name(pressed: str) -> str:
    if pressed in _KEY_PREFIXES:
        msvcrt.getwch()
        return "escape"
    if pressed == "\x1b":
        return "escape"
    if pressed in "\r\n":
        return "enter"
    return pressed.lower()
