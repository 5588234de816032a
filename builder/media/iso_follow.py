"""Large sources of an ISO: copied by the kernel, and read back and hashed while the rest is written.

pycdlib asks a source for its next block and hands that to the output. A large source gives a `Stretch`, which only says
which bytes they are, and the output has the kernel copy them: they never pass through this program. Threads follow the
writer and hash what lies in the output, the image as a whole and each large file; hashing takes longer than copying.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError
from builder.extents import Joined

#: What is read and hashed at once. After each of these a thread waits for its turn at Python, up to 5 ms.
_BLOCK = 1 << 20
#: Seconds between two times that what is written is sent to the disk.
_SYNC_EVERY = 0.05


class SourceShrank(OSError):
    """A source ended before the size it had when the work began."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """`length` bytes at `offset` of a large source, which are still where they were."""

    source: LargeSource
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


class Follower:
    """A thread that takes the sha256 of a file from byte `start` on, as far as the file is said to be written."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.start = start
        self._file = io.FileIO(path)
        self._digest = hashlib.sha256()
        self._end = start
        self._complete = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def written_to(self, end: int, *, complete: bool = False) -> None:
        """All before `end` is there to stay; `complete`: no more will come."""
        with self._changed:
            self._end, self._complete = max(self._end, end), complete
            self._changed.notify()

    def finish(self, end: int) -> str:
        """The sha256 of the bytes from `start` to `end`, in hex. Raises OSError where they cannot be read."""
        self.written_to(end, complete=True)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread, whatever it has done so far."""
        with self._changed:
            self._end, self._complete = 0, True
            self._changed.notify()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        position, block = self.start, memoryview(bytearray(_BLOCK))
        try:
            self._file.seek(position)
            while position < (end := self._awaited(position)):
                count = self._file.readinto(block[: min(_BLOCK, end - position)])
                if not count:
                    raise OSError(f"{self._file.name} ended while it was read back")
                self._digest.update(block[:count])
                position += count
        except OSError as error:
            self._error = error

    def _awaited(self, position: int) -> int:
        """How far the file may be read, once that is beyond `position` or no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._complete or self._end > position)
            return self._end


class FollowedOutput(io.FileIO):
    """An unbuffered output file, hashed from its beginning while it is written; close it to end its threads.

    Nothing but large sources may be written after the first of them, and each to its end: what lies before the place
    where one is written is final. Where a writer goes back all the same, `disturbed` says so.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._path = path
        self._whole = Follower(path)
        self._files: dict[LargeSource, Follower] = {}
        self._syncing: _Syncing | None = None
        self._final = 0
        self.disturbed = False

    def write(self, data: object) -> int:
        """Write all of `data`, bytes or a Stretch. Raises OSError, of which SourceShrank is one."""
        if isinstance(data, Stretch):
            return self._copy(data)
        if self.tell() < self._final:
            self.disturbed = True
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        total = len(view)
        while view:
            view = view[super().write(view) or 0 :]
        return total

    def start_of(self, source: LargeSource) -> int | None:
        """Where the first byte of `source` lies; None where it was not written."""
        return self._files[source].start if source in self._files else None

    def complete(self) -> None:
        """All is written: have it go to the disk, and hashed to its end.

        Most of it has gone there already. Without waiting for the disk, a power cut could leave a damaged image under
        the right name.
        """
        self._whole.written_to(self.seek(0, os.SEEK_END), complete=True)
        self._syncing = self._syncing or _Syncing(self.fileno())
        self._syncing.complete()

    def finish(self) -> str:
        """After `complete`: the sha256 of the whole file, as read back, in hex; it is on the disk. Raises OSError."""
        size = self.seek(0, os.SEEK_END)
        sha256 = self._whole.finish(size)
        if self._syncing is not None:
            self._syncing.finish()
        return _sha256_of(self._path, 0, size) if self.disturbed else sha256

    def finish_file(self, source: LargeSource) -> str:
        """The sha256 of what was written of `source`, as read back, in hex. Raises OSError."""
        follower = self._files[source]
        sha256 = follower.finish(follower.start + source.size)
        return _sha256_of(self._path, follower.start, source.size) if self.disturbed else sha256

    def close(self) -> None:
        """End the threads and close the file."""
        if not self.closed:
            for follower in (self._whole, *self._files.values()):
                follower.close()
            if self._syncing is not None:
                self._syncing.close()
        super().close()

    def _copy(self, stretch: Stretch) -> int:
        source, position = stretch.source, self.tell()
        if position < self._final:
            self.disturbed = True
        if source not in self._files:
            self._files[source] = Follower(self._path, position)
        self._syncing = self._syncing or _Syncing(self.fileno())
        try:
            source.content.part(stretch.offset, stretch.length).append_to(self.fileno())
        except BaseMediaError as error:
            raise SourceShrank(f"{source.content.name} became shorter while it was read") from error
        self._final = self.tell()
        self._whole.written_to(self._final)
        self._files[source].written_to(self._final)
        return stretch.length


class LargeSource(io.RawIOBase):
    """A large source as pycdlib reads it: in order, once, as Stretches."""

    def __init__(self, content: Joined) -> None:
        super().__init__()
        self.content = content
        self.size = content.size
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where the next read begins."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def read(self, size: int = -1) -> Stretch:
        """The next `size` bytes, not yet read."""
        left = self.size - self._position
        stretch = Stretch(source=self, offset=self._position, length=left if size < 0 else min(size, left))
        self._position += stretch.length
        return stretch


class _Syncing:
    """A thread that has a file go to the disk while it is written, and to its end once that is there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._error: OSError | None = None
        self._complete = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def complete(self) -> None:
        """All is written."""
        self._complete.set()

    def finish(self) -> None:
        """Wait for it. Raises OSError."""
        self.complete()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, whatever the disk says."""
        self.complete()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._complete.wait(_SYNC_EVERY):
                os.fsync(self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = error


def _sha256_of(path: Path, offset: int, length: int) -> str:
    """The sha256 of `length` bytes at `offset`, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(offset)
        for at in range(0, length, _BLOCK):
            digest.update(stream.read(min(_BLOCK, length - at)))
    return digest.hexdigest()
