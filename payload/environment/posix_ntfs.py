"""What ntfs-3g has no call for: a copy of a file with all that NTFS knows of it, and what the file's record says.

The record is read from the device (or the image) behind the mount. Both see the same bytes at any time: ntfs-3g writes
through the same cache, and keeps back nothing of a file that nobody has open.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from payload.formats.mft import RECORD_NUMBER_BITS, free_file_record, read_file_record
from payload.formats.ntfs import NtfsError

#: ntfs-3g's extended attributes ("Extended attributes", ntfs-3g wiki). The times are last: writing changes them.
_METADATA = ("system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_times")
_AT_ONCE = 1 << 20


def is_plain(device: Path, number: int) -> bool:
    """Whether a copy of the file with that record loses nothing but its 8.3 name; False where that cannot be told."""
    try:
        with device.open("rb") as stream:
            return read_file_record(stream, number).plain
    except (OSError, NtfsError):
        return False


def copy_whole(source: int, target: int) -> None:
    """Give the new, empty file `target` the content, access list, attributes and times of `source`. Raises OSError."""
    access, attributes, times = (os.getxattr(source, name) for name in _METADATA)
    if os.getxattr(target, _METADATA[0]) != access:
        os.setxattr(target, _METADATA[0], access)
    while data := os.read(source, _AT_ONCE):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    os.setxattr(target, _METADATA[1], attributes)
    os.setxattr(target, _METADATA[2], times)


def forget_removed(device: Path, number: int, *, folder: int, name: str) -> None:
    """Free the record of a file that its folder lists no more, where the power went before ntfs-3g did that itself.

    ntfs-3g takes a file out of its folder first and frees its record afterwards. Cut between, Windows' check of the
    volume finds a file that no folder lists, and puts it back where the record says it was. Only a record that has no
    other name than `name` in `folder` (a record's number) is freed. Does nothing where it cannot be read or written.
    """
    with contextlib.suppress(OSError, NtfsError), device.open("r+b") as stream:
        record = read_file_record(stream, number & (1 << RECORD_NUMBER_BITS) - 1)
        here = [known.parent == folder and (known.short or known.name == name) for known in record.names]
        if record.in_use and here and all(here):
            free_file_record(stream, number & (1 << RECORD_NUMBER_BITS) - 1)
            stream.flush()
            os.fsync(stream.fileno())
