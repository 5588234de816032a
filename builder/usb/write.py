"""Writes a stick so that it is whole or not bootable: what was on it goes first, its first MiB comes last."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from builder.console import Step
from builder.errors import OutputError
from builder.usb.device import LARGEST, RawDisk
from builder.usb.layout import Span, StickLayout


class StickState(enum.Enum):
    """What is on a stick at the moment."""

    UNTOUCHED = enum.auto()
    NOT_BOOTABLE = enum.auto()
    COMPLETE = enum.auto()


@dataclass(kw_only=True)
class StickWriter:
    """Writes one layout to one open disk: `write`, then `read_back`, then `finish`. `state` is true at any moment.

    What was written is remembered as one sha256 for each chunk.
    """

    layout: StickLayout
    disk: RawDisk
    state: StickState = StickState.UNTOUCHED
    _digests: dict[Span, bytes] = field(default_factory=dict)

    def write(self, step: Step) -> None:
        """Blank both ends of the stick, then write all but its head. Raises DeviceGone, ImageError."""
        self.state = StickState.NOT_BOOTABLE
        for span in self.layout.old_ends:
            for chunk in span.chunks(LARGEST):
                self.disk.write(chunk.offset, bytes(chunk.length))
        self.disk.sync()
        self._write(self.layout.body, step)

    def read_back(self, step: Step) -> None:
        """Compare what is on the stick with what was written. Raises OutputError where it is not the same."""
        self._compare(self.layout.body, step)

    def finish(self, step: Step) -> None:
        """Write the head, which makes the stick bootable, and compare it."""
        self._write((self.layout.head,), step)
        self._compare((self.layout.head,), step)
        self.state = StickState.COMPLETE

    def _write(self, spans: Iterable[Span], step: Step) -> None:
        chunks = [chunk for span in spans for chunk in span.chunks(LARGEST)]
        done, total = 0, sum(chunk.length for chunk in chunks)
        with self.layout.image.path.open("rb") as image:
            for chunk in chunks:
                data = self.layout.content(image, chunk)
                self._digests[chunk] = hashlib.sha256(data).digest()
                self.disk.write(chunk.offset, data)
                done += chunk.length
                step.progress(done, total, "bytes")
        self.disk.sync()

    def _compare(self, spans: Iterable[Span], step: Step) -> None:
        chunks = [chunk for span in spans for chunk in span.chunks(LARGEST)]
        done, total = 0, sum(chunk.length for chunk in chunks)
        for chunk in chunks:
            if hashlib.sha256(self.disk.read(chunk.offset, chunk.length)).digest() != self._digests[chunk]:
                raise OutputError(
                    f"the stick gives back something else than was written to it, "
                    f"between byte {chunk.offset} and {chunk.offset + chunk.length}",
                    hint="It is worn, or smaller than it pretends to be. Take another one.",
                )
            done += chunk.length
            step.progress(done, total, "bytes")
