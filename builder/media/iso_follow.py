"""Large sources of an ISO, read once: what was written is read back, compared and hashed while the rest is written.

Hashing 400 MB takes longer than copying it. So a thread reads the output a step behind the writer, compares it byte by
byte with what the source gave, and hashes the image as a whole; another hashes the source where its hash is not known.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20
_AHEAD = 8
#: Blocks that are used in turn: those waiting in a queue, the one at work, the one being read, and one to spare.
_POOL = _AHEAD + 3

#: A whole block is a bytearray from a pool (two of them compare as fast as memory goes), a last, shorter one bytes.
Block = bytes | bytearray


class SourceShrank(OSError):
    """A source ended before the size it had when the work began."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Bytes of the output that have been written, and what they should be, where that is known."""

    offset: int
    length: int
    expected: bytes | bytearray | None = None


class _Worker:
    """A thread that does one thing with each item it is given, in that order."""

    def __init__(self, work: Callable[[Block | _Piece], None]) -> None:
        self._work = work
        self._queue: queue.Queue[Block | _Piece | None] = queue.Queue(_AHEAD)
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, item: Block | _Piece) -> None:
        """Do `item` next; waits while too many are waiting."""
        self._queue.put(item)

    def finish(self) -> None:
        """Wait until all is done. Raises the OSError that stopped the work."""
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._work(item)
            except OSError as error:
                self._error = error


class FollowedOutput(io.FileIO):
    """An unbuffered output file, read back from its beginning while it is written.

    `write` writes everything or raises OSError. `written_to` says that all before an offset is there to stay.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._back = io.FileIO(path)
        self._block = bytearray(_BLOCK)
        self._digest = hashlib.sha256()
        self._given = 0
        self._disturbed = False
        self._differs: list[int] = []
        self._reader = _Worker(self._read_back)

    def write(self, data: object) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        total = len(view)
        if self.tell() < self._given:
            self._disturbed = True
        while view:
            view = view[super().write(view) or 0 :]
        return total

    def written_to(self, offset: int, expected: Block | None = None) -> None:
        """All before `offset` has been written; the last of it should be `expected`."""
        start = offset - len(expected or b"")
        while self._given < start:
            length = min(start - self._given, _BLOCK)
            self._reader.add(_Piece(offset=self._given, length=length))
            self._given += length
        if start < self._given:
            self._disturbed = True
        elif expected:
            self._reader.add(_Piece(offset=start, length=len(expected), expected=expected))
            self._given = offset

    def finish(self) -> str:
        """The sha256 of the whole file as it is now, in hex. Raises OSError."""
        size = self.seek(0, os.SEEK_END)
        self.written_to(size)
        self._reader.finish()
        if not self._disturbed:
            return self._digest.hexdigest()
        self._back.seek(0)
        return hashlib.file_digest(self._back, "sha256").hexdigest()

    def differs_within(self, offset: int, length: int) -> bool | None:
        """Whether what was read back there differs from what was expected; None where it was not compared."""
        if self._disturbed:
            return None
        return any(offset <= at < offset + length for at in self._differs)

    def close(self) -> None:
        """End the thread and close the file."""
        if not self.closed:
            self._reader.stop()
            self._back.close()
        super().close()

    def _read_back(self, item: Block | _Piece) -> None:
        assert isinstance(item, _Piece)
        self._back.seek(item.offset)
        data: Block = self._block
        if item.length == _BLOCK:
            count = self._back.readinto(self._block) or 0
        else:
            data = self._back.read(item.length)
            count = len(data)
        self._digest.update(data)
        if count != item.length or (item.expected is not None and data != item.expected):
            self._differs.append(item.offset)


class FollowedSource(io.RawIOBase):
    """A large source, read once by whoever writes it to `output` as it comes.

    `sha256`: the source's hash where it is known, else it is taken while reading. Raises SourceShrank as soon as the
    source ends before `size` bytes.
    """

    def __init__(self, path: Path, size: int, output: FollowedOutput, *, sha256: str | None) -> None:
        super().__init__()
        self.path = path
        self.size = size
        #: Where its first byte lies in the output; None before the first read.
        self.start: int | None = None
        self._known = sha256
        self._source = io.FileIO(path)
        self._output = output
        self._last: Block = b""
        self._pool = [bytearray(_BLOCK) for _ in range(_POOL)]
        self._turn = 0
        self._digest = hashlib.sha256()
        self._hasher = None if sha256 else _Worker(self._hash)

    def close(self) -> None:
        """Close the source and end the thread."""
        if not self.closed:
            if self._hasher is not None:
                self._hasher.stop()
            self._source.close()
        super().close()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, before the first read."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where the next read begins; only ever the beginning."""
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        """How far it was read."""
        return self._source.tell()

    def read(self, size: int = -1) -> Block:
        """The next `size` bytes, which stay what they are for a while. What was read before is in the output by now."""
        position = self._output.tell()
        if self.start is None:
            self.start = position
        self._output.written_to(position, self._last)
        if size == _BLOCK:
            self._turn = (self._turn + 1) % _POOL
            self._last = self._pool[self._turn]
            count = self._source.readinto(self._last) or 0
        else:
            self._last = self._source.read(size)
            count = len(self._last)
        if count < size:
            raise SourceShrank(f"{self.path} became shorter while it was read")
        if self._hasher is not None:
            self._hasher.add(self._last)
        return self._last

    def finish(self) -> str:
        """All of it was written: the source's sha256 in hex, as known, else as read. Raises OSError."""
        if self.start is not None and self._last:
            self._output.written_to(self.start + self.size, self._last)
        self._last = b""
        if self._hasher is not None:
            self._hasher.finish()
        return self._known or self._digest.hexdigest()

    def _hash(self, item: Block | _Piece) -> None:
        assert not isinstance(item, _Piece)
        self._digest.update(item)
