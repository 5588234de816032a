"""BitLocker recovery passwords: 48 digits in eight groups, each a 16-bit number times eleven.

Source: libbde, "BitLocker Drive Encryption (BDE) format specification", section "Recovery password": the eight
quotients, 16-bit little-endian, are the 128-bit key. A group that eleven does not divide was mistyped.
"""

from __future__ import annotations

import re
import struct

GROUPS = 8
GROUP_DIGITS = 6
_DIVISOR = 11
_LARGEST = 0xFFFF
_KEY = struct.Struct("<8H")
#: What people put between the groups, or lose on the way: dashes of every kind, spaces, tabs.
_BETWEEN = re.compile(r"[\s\u2010-\u2015\u2212-]+")


class RecoveryPasswordError(ValueError):
    """Text that is no recovery password. `group` is the first wrong group from 1, 0 where the length is wrong.

    The message never holds any of the digits.
    """

    def __init__(self, message: str, *, group: int = 0) -> None:
        super().__init__(message)
        self.group = group


def group_problem(digits: str) -> str:
    """What is wrong with one group, as a plain half sentence without its digits; "" where it can be right."""
    if not (digits.isascii() and digits.isdigit()):
        return "has something other than digits"
    if len(digits) != GROUP_DIGITS:
        return f"has {len(digits)} digits instead of {GROUP_DIGITS}"
    if int(digits) % _DIVISOR:
        return "was mistyped: eleven does not divide it"
    if int(digits) // _DIVISOR > _LARGEST:
        return "was mistyped: it is too large"
    return ""


def parse(text: str) -> bytes:
    """The 16-byte key of a password, written with or without dashes or spaces. Raises RecoveryPasswordError."""
    digits = _BETWEEN.sub("", text)
    if not (digits.isascii() and digits.isdigit()):
        raise RecoveryPasswordError("it has something other than digits and dashes")
    if len(digits) != GROUPS * GROUP_DIGITS:
        raise RecoveryPasswordError(f"it has {len(digits)} digits instead of {GROUPS * GROUP_DIGITS}")
    quotients = []
    for start in range(0, len(digits), GROUP_DIGITS):
        quotient, rest = divmod(int(digits[start : start + GROUP_DIGITS]), _DIVISOR)
        if rest or quotient > _LARGEST:
            number = start // GROUP_DIGITS + 1
            problem = group_problem(digits[start : start + GROUP_DIGITS])
            raise RecoveryPasswordError(f"group {number} {problem}", group=number)
        quotients.append(quotient)
    return _KEY.pack(*quotients)


def text_of(key: bytes) -> str:
    """The password of a 16-byte key as Windows shows it: `000000-000011-...`."""
    return "-".join(f"{quotient * _DIVISOR:0{GROUP_DIGITS}d}" for quotient in _KEY.unpack(key))
