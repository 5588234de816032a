"""A disk opened for overwriting: claimed for us alone, and read and written past the kernel's cache (open(2))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import OutputError
from builder.media.gpt_move import SECTOR
from builder.usb.disks import BlockDisk

#: At most this many bytes are handed over at a time.
LARGEST = 4 << 20
#: <linux/fs.h>: _IO(0x12, 95), "re-read partition table".
_BLKRRPART = 0x125F


class DeviceGone(OutputError):
    """The disk no longer answers: unplugged, or broken."""


class RawDisk:
    """An open disk. Offsets and lengths are multiples of 512; every error names the place.

    With O_DIRECT a write is on the device when it returns, as far as the device tells, and a read comes from it.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        # O_DIRECT needs memory that is aligned; anonymous maps begin at a page.
        self._buffer = mmap.mmap(-1, LARGEST)

    def write(self, offset: int, data: bytes) -> None:
        """Write at most LARGEST bytes. Raises DeviceGone."""
        self._buffer[: len(data)] = data
        with memoryview(self._buffer) as memory, self._told("written to", offset):
            done = 0
            while done < len(data):
                count = os.pwritev(self._descriptor, [memory[done : len(data)]], offset + done)
                if count <= 0 or count % SECTOR:
                    raise OSError(errno.EIO, f"{count} bytes were taken")
                done += count

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from the device, at most LARGEST. Raises DeviceGone."""
        with memoryview(self._buffer) as memory, self._told("read", offset):
            done = 0
            while done < length:
                count = os.preadv(self._descriptor, [memory[done:length]], offset + done)
                if count <= 0 or count % SECTOR:
                    raise OSError(errno.EIO, f"{count} bytes came")
                done += count
            return bytes(memory[:length])

    def sync(self) -> None:
        """Have the device write what it keeps in a cache of its own. Raises DeviceGone."""
        with self._told("synced", 0):
            os.fsync(self._descriptor)

    def reread_partitions(self) -> bool:
        """Let the kernel look at the new partitions; False where it does not want to."""
        try:
            fcntl.ioctl(self._descriptor, _BLKRRPART)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give the disk back."""
        self._buffer.close()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    @contextmanager
    def _told(self, what: str, offset: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DeviceGone(
                f"{self._path} could not be {what} at byte {offset}: {error.strerror or error}",
                hint="Was it unplugged, or is it broken? Plug it in again, or take another one.",
            ) from error


@contextmanager
def opened(disk: BlockDisk) -> Iterator[RawDisk]:
    """The disk for the time of the block, claimed: nobody can mount it meanwhile. Raises OutputError."""
    flags = os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC
    try:
        descriptor = os.open(disk.node, flags)
    except OSError as error:
        raise _cannot_open(disk, error) from error
    raw = RawDisk(descriptor, disk.node)
    try:
        _check_same(descriptor, disk)
        yield raw
    finally:
        raw.close()


def _check_same(descriptor: int, disk: BlockDisk) -> None:
    """What was opened is what was looked at: names of devices are given anew when one is unplugged."""
    status = os.fstat(descriptor)
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if not stat.S_ISBLK(status.st_mode) or number != disk.number or size != disk.size:
        raise OutputError(
            f"{disk.node} is not the disk any more that was looked at",
            hint="Was another one plugged in meanwhile? Begin again with 'bluelift usb list'.",
        )


def _cannot_open(disk: BlockDisk, error: OSError) -> OutputError:
    if error.errno == errno.EBUSY:
        return OutputError(
            f"{disk.node} is in use: a program, a mount or a volume of several disks has claimed it",
            hint="Unmount and close what uses it; 'lsblk' and 'fuser' show what.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return OutputError(
            f"{disk.node} may not be written: {error.strerror}", hint="Run the same command as root: sudo ..."
        )
    return OutputError(f"{disk.node} cannot be opened: {error.strerror}", hint="Unplug it and plug it in again.")
