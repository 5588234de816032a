"""What a Linux console sends for each key (console_codes(4), drivers/tty/vt/keyboard.c), as characters and names."""

from __future__ import annotations

import os
import re
import select
import time

from payload.environment import SpecialKey

#: Digits of the keypad arrive as sequences of their own, whether Num Lock is on or not (DECPAM); and back (DECPNM).
KEYPAD_APART, KEYPAD_AS_USUAL = "\x1b=", "\x1b>"

_CONTROLS = {
    b"\r": SpecialKey.ENTER,
    b"\n": SpecialKey.ENTER,
    b"\t": SpecialKey.TAB,
    b"\x08": SpecialKey.BACKSPACE,
    b"\x7f": SpecialKey.BACKSPACE,
    b"\x15": SpecialKey.CLEAR,
}
#: The last byte of ESC O: keyboard.c's app_map against its pad_chars.
_KEYPAD: dict[bytes, str] = {b"%c" % (ord("p") + i): str(i) for i in range(10)} | {
    b"l": "+", b"S": "-", b"R": "*", b"Q": "/", b"n": ".", b"M": SpecialKey.ENTER,
}  # fmt: skip
#: One key: a sequence that ESC begins (F1 to F5 are ESC [ [ A to E), a key with Alt, a character in UTF-8, or a byte.
_KEY = re.compile(
    rb"\x1bO(?P<keypad>.)|(?P<other>\x1b\[\[.|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\[[^@-~]|\x1b[^\[O\x1b])|(?P<escape>\x1b)"
    rb"|(?P<character>[ -~]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})|(?P<byte>.)",
    re.DOTALL,
)
#: What may still become something longer: the beginning of a sequence or of a character.
_UNFINISHED = re.compile(
    rb"\x1b|\x1bO|\x1b\[\[?|\x1b\[[0-?]{1,16}|[\xc2-\xf4]|[\xe0-\xef][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{1,2}"
)
#: A sequence's bytes come at once; Escape alone has nothing behind it.
_SEQUENCE_SECONDS = 0.05


def first_key(data: bytes, *, more_may_come: bool) -> tuple[str | None, int]:
    """The first key in `data`, a character or a SpecialKey, and its length; None where only the beginning of one is."""
    if not data or (more_may_come and _UNFINISHED.fullmatch(data)):
        return None, 0
    found = _KEY.match(data)
    assert found is not None  # the last alternative takes any byte
    if found["character"] is not None:
        return found["character"].decode("utf-8", "replace")[0], found.end()
    if found["escape"] is not None:
        return SpecialKey.ESCAPE, found.end()
    if found["keypad"] is not None:
        return _KEYPAD.get(found["keypad"], SpecialKey.OTHER), found.end()
    return _CONTROLS.get(found[0], SpecialKey.OTHER), found.end()


class TerminalKeys:
    """The keys of a terminal that is in raw mode, one by one; what comes in one burst is kept."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._waiting = b""

    def next(self, seconds: float) -> str | None:
        """The next key pressed within `seconds` (`payload.environment.Keyboard`)."""
        deadline = time.monotonic() + max(seconds, 0)
        while True:
            key, length = first_key(self._waiting, more_may_come=True)
            if key is None and self._waiting and not self._read(_SEQUENCE_SECONDS):
                key, length = first_key(self._waiting, more_may_come=False)
            if key is not None:
                self._waiting = self._waiting[length:]
                return key
            if not self._waiting and not self._read(max(deadline - time.monotonic(), 0)):
                time.sleep(max(deadline - time.monotonic(), 0))  # a terminal that is gone is always ready
                return None

    def _read(self, seconds: float) -> bool:
        try:
            ready, _, _ = select.select([self._terminal], [], [], seconds)
            data = os.read(self._terminal, 256) if ready else b""
        except OSError:
            return False
        self._waiting += data
        return bool(data)
