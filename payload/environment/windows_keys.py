"""What a Windows console's input events mean: INPUT_RECORD and KEY_EVENT_RECORD of wincon.h, and the keys of winuser.h.

Events say which key was pressed and what it means in one; getwch() gives the same code for a cursor key and for `à`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from payload.environment import SpecialKey

#: INPUT_RECORD with a KEY_EVENT_RECORD: kind, pressed, how often, virtual key, scan code, UTF-16 unit, control keys.
RECORD = struct.Struct("<HxxiHHHHI")
_KEY_EVENT = 1
_ALT, _ENHANCED = 0x1 | 0x2, 0x100
_VK_MENU, _VK_ESCAPE = 0x12, 0x1B
#: Shift, Ctrl, Alt, Pause, Caps Lock, the Windows keys, Num Lock, Scroll Lock, and either Shift, Ctrl and Alt.
_SILENT = frozenset({0x10, 0x11, 0x12, 0x13, 0x14, 0x5B, 0x5C, 0x90, 0x91, *range(0xA0, 0xA6)})
#: The keypad without Num Lock: Insert, End, Down, Page Down, Left, Clear, Right, Home, Up, Page Up.
_KEYPAD = {vk: str(digit) for digit, vk in enumerate((0x2D, 0x23, 0x28, 0x22, 0x25, 0x0C, 0x27, 0x24, 0x26, 0x21))}
_CONTROLS = {
    "\r": SpecialKey.ENTER,
    "\n": SpecialKey.ENTER,
    "\t": SpecialKey.TAB,
    "\x08": SpecialKey.BACKSPACE,
    "\x15": SpecialKey.CLEAR,
    "\x1b": SpecialKey.ESCAPE,
}


def keys_of(records: bytes) -> Iterator[str]:
    """The keys pressed in a row of INPUT_RECORDs, characters and SpecialKeys; other events are passed over."""
    for kind, pressed, count, code, _scan, unit, control in RECORD.iter_unpack(records):
        if kind != _KEY_EVENT:
            continue
        # Letting go of Alt gives the character of Alt+0176, and of a paste that this keyboard does not have.
        composed = chr(unit) if code == _VK_MENU and unit else None
        key = _pressed(code, chr(unit), control) if pressed else composed
        if key is not None:
            yield from [key] * max(count, 1)


def _pressed(code: int, character: str, control: int) -> str | None:
    if code == _VK_ESCAPE:
        return SpecialKey.ESCAPE  # Wine gives no character with it
    if character == "\0":
        if code in _SILENT:
            return None
        if code in _KEYPAD and not control & _ENHANCED:
            return None if control & _ALT else _KEYPAD[code]
        return SpecialKey.OTHER
    if character in _CONTROLS:
        return _CONTROLS[character]
    return character if character.isprintable() else SpecialKey.OTHER
