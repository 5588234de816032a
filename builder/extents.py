"""Where a file's bytes lie: a file of its own, or runs of bytes inside an ISO that is neither mounted nor extracted.

`Extents` are runs within one file, `Joined` a file that is put together from several such.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError, OutputError

_BLOCK = 1 << 20
#: What one copy_file_range is asked for; the kernel stops at 2 GiB.
_MOST_AT_ONCE = 1 << 30
#: Kernels and file systems that cannot copy between these two files.
_CANNOT_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY)


@dataclass(frozen=True, kw_only=True)
class Extents:
    """The bytes of one file: `pieces` are (offset, length) in bytes within `path`, in the file's order.

    `name` is what messages call it ("sources/boot.wim in C:\\win.iso").
    """

    path: Path
    pieces: tuple[tuple[int, int], ...]
    name: str

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return sum(length for _, length in self.pieces)

    @property
    def is_whole_file(self) -> bool:
        """Whether it is a file of its own, which programs can open by `path`."""
        return (
            len(self.pieces) <= 1 and all(offset == 0 for offset, _ in self.pieces) and self._file_size() == self.size
        )

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset` of the file. Raises BaseMediaError where the file or its ISO ends before."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self._cut_off(offset + length)
        try:
            with self.path.open("rb", buffering=0) as stream:
                return b"".join(self._read(stream.fileno(), at, count) for at, count in self._runs(offset, length))
        except OSError as error:
            raise BaseMediaError(f"cannot read {self.name}: {error.strerror}") from error

    def read_all(self) -> bytes:
        """The whole file."""
        return self.read(0, self.size)

    def chunks(self) -> Iterator[bytes]:
        """The whole file, at most 1 MiB at a time."""
        for at in range(0, self.size, _BLOCK):
            yield self.read(at, min(_BLOCK, self.size - at))

    def sha256(self) -> str:
        """The sha256 of the whole file, in hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def part(self, offset: int, length: int) -> Extents:
        """`length` bytes at `offset` of the file. Raises BaseMediaError where it ends before."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self._cut_off(offset + length)
        return Extents(path=self.path, pieces=tuple(self._runs(offset, length)), name=self.name)

    def append_to(self, output: int) -> None:
        """Write the file to the descriptor `output`, where that stands, by the kernel where it can.

        Raises BaseMediaError when the source ends early, OSError when `output` cannot be written.
        """
        try:
            source = self.path.open("rb", buffering=0)
        except OSError as error:
            raise BaseMediaError(f"cannot read {self.name}: {error.strerror}") from error
        with source:
            for offset, length in self.pieces:
                _copy(source.fileno(), output, offset, length, self)

    def copy_to(self, target: Path) -> None:
        """Write the file to `target`, by the kernel where it can.

        Raises BaseMediaError when the source ends early, OutputError when `target` cannot be written.
        """
        self.read(max(0, self.size - 1), min(1, self.size))
        Joined(parts=(self,), name=self.name).copy_to(target)

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The (offset in `path`, length) runs that hold `length` bytes at `offset` of the file."""
        start = 0
        for piece, size in self.pieces:
            first, last = max(offset, start), min(offset + length, start + size)
            if first < last:
                yield piece + first - start, last - first
            start += size

    def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        parts = []
        while length:
            part = _read_at(descriptor, min(length, _MOST_AT_ONCE), offset)
            if not part:
                raise self._cut_off(self.size)
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _cut_off(self, end: int) -> BaseMediaError:
        return BaseMediaError(
            f"{self.name} is cut off: {self.path} has {self._file_size()} bytes, {end} bytes of it were asked for",
            hint="The download or the copy is incomplete. Compare its size and sha256 with the publisher's.",
        )

    def _file_size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A file that is nowhere yet: the bytes of `parts`, one after the other. `name` is what messages call it."""

    parts: tuple[Extents, ...]
    name: str

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return sum(part.size for part in self.parts)

    def part(self, offset: int, length: int) -> Joined:
        """`length` bytes at `offset` of the file; fewer where it ends before."""
        found, start = [], 0
        for part in self.parts:
            first, last = max(offset, start), min(offset + length, start + part.size)
            if first < last:
                found.append(part.part(first - start, last - first))
            start += part.size
        return Joined(parts=tuple(found), name=self.name)

    def append_to(self, output: int) -> None:
        """Write the file to the descriptor `output`; raises as `Extents.append_to`."""
        for part in self.parts:
            part.append_to(output)

    def copy_to(self, target: Path) -> None:
        """Write the file to `target`; raises as `Extents.copy_to`."""
        try:
            with target.open("wb", buffering=0) as output:
                self.append_to(output.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                hint = "Free some space, or set TMPDIR to a folder with room."
                raise OutputError(
                    f"no room for {self.size} bytes of {self.name} in {target.parent}", hint=hint
                ) from error
            raise OutputError(f"cannot copy {self.name} to {target}: {error.strerror}") from error


def whole_file(path: Path) -> Extents:
    """A file of its own. Raises BaseMediaError when it cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb"):
            return Extents(path=path, pieces=((0, size),), name=str(path))
    except OSError as error:
        raise BaseMediaError(f"cannot read {path}: {error.strerror}") from error


def merged(pieces: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """`pieces` with those that follow each other without a gap as one, and empty ones left out."""
    joined: list[tuple[int, int]] = []
    for offset, length in pieces:
        if joined and joined[-1][0] + joined[-1][1] == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        elif length:
            joined.append((offset, length))
    return tuple(joined)


def _copy(source: int, output: int, offset: int, length: int, extents: Extents) -> None:
    while length:
        done = _copy_some(source, output, offset, min(length, _MOST_AT_ONCE))
        if not done:
            raise extents._cut_off(extents.size)
        offset, length = offset + done, length - done


def _copy_some(source: int, output: int, offset: int, length: int) -> int:
    """Copy up to `length` bytes to the end of `output`; how many it were, 0 at the end of the source."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, output, length, offset_src=offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_RANGE:
                raise
    data = _read_at(source, min(length, _BLOCK), offset)
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]
    return len(data)


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)
