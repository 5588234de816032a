"""Machine code in hex with its listing beside it, for the few bytes that firmware starts."""

from __future__ import annotations

import struct


class Assembler:
    """Machine code in hex with a listing beside it. {name} stands for a label's address, {+name} for a short jump's
    distance to it.
    """

    def __init__(self, origin: int) -> None:
        self._origin = origin
        self._parts: list[str] = []
        self._labels: dict[str, int] = {}
        self._at = origin

    def emit(self, code: str, listing: str) -> None:
        """Add an instruction; `listing` is what it says in assembly."""
        assert listing
        for part in code.split():
            self._parts.append(part)
            self._at += 2 if part.startswith("{") and not part.startswith("{+") else 1

    def label(self, name: str) -> None:
        """The next instruction's address is `name`."""
        self._labels[name] = self._at

    def data(self, name: str, data: bytes) -> None:
        """Add `data`, at `name`."""
        self.label(name)
        self.emit(data.hex(" "), f"{name}: db")

    def assembled(self) -> bytes:
        """All of it, with the labels put in."""
        code = bytearray()
        for part in self._parts:
            if part.startswith("{+"):
                distance = self._labels[part[2:-1]] - (self._origin + len(code) + 1)
                code += struct.pack("<b", distance)
            elif part.startswith("{"):
                code += struct.pack("<H", self._labels[part[1:-1]])
            else:
                code += bytes.fromhex(part)
        return bytes(code)


def word(value: int) -> str:
    """16 bits as `Assembler.emit` takes them."""
    return struct.pack("<H", value).hex(" ")


def flat_segments(code: Assembler) -> None:
    """ds, es and ss are 0, the stack lies below 7c00. The caller has turned interrupts off; they are on again."""
    code.emit("31 C0", "xor ax, ax")
    code.emit("8E D8 8E C0 8E D0", "mov ds, ax; mov es, ax; mov ss, ax")
    code.emit("BC 00 7C", "mov sp, 7c00")
    code.emit("FC FB", "cld; sti")
