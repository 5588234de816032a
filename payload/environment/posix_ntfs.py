"""What ntfs-3g has no call for: a copy of a file with all that NTFS knows of it, and what the file's record says.

The record is read from the device (or the image) behind the mount. Both see the same bytes at any time: ntfs-3g writes
through the same cache, and keeps back nothing of a file that nobody has open.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from pathlib import Path

from payload.formats.mft import RECORD_NUMBER_BITS, free_file_record, read_file_record
from payload.formats.ntfs import NtfsError, read_volume_information

#: ntfs-3g's extended attributes ("Extended attributes", ntfs-3g wiki). The times are last: writing changes them.
_METADATA = ("system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_times")
#: Named streams are shown as user attributes, unless the mount says otherwise (ntfs-3g(8), streams_interface).
_STREAM = "user."
_AT_ONCE = 1 << 20


def streams_of_plain(device: Path, descriptor: int) -> dict[str, bytes] | None:
    """The named streams of an open file of which a copy loses nothing but its 8.3 name; None for every other file.

    Also None where that cannot be told, and where ntfs-3g was mounted so that it does not show all streams.
    """
    try:
        with device.open("rb") as stream:
            record = read_file_record(stream, os.fstat(descriptor).st_ino)
        shown = {name for name in os.listxattr(descriptor) if name.startswith(_STREAM)}
        if record.plain and shown == {_STREAM + name for name in record.streams}:
            return {name: os.getxattr(descriptor, name) for name in sorted(shown)}
    except (OSError, NtfsError):
        pass
    return None


def copy_whole(source: int, target: int, streams: dict[str, bytes]) -> None:
    """Give the new, empty file `target` the content, access list, attributes and times of `source`, and the streams.

    Raises OSError.
    """
    access, attributes, times = (os.getxattr(source, name) for name in _METADATA)
    if os.getxattr(target, _METADATA[0]) != access:
        os.setxattr(target, _METADATA[0], access)
    while data := os.read(source, _AT_ONCE):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    for name, content in streams.items():
        os.setxattr(target, name, content)
    os.setxattr(target, _METADATA[1], attributes)
    os.setxattr(target, _METADATA[2], times)


def short_name_of(device: Path, number: int, *, folder: int) -> str:
    """The 8.3 name that the file's record gives it in `folder` (a record's number); empty where it has none."""
    with contextlib.suppress(OSError, NtfsError), device.open("rb") as stream:
        names = read_file_record(stream, number).names
        return next((known.name for known in names if known.short and known.parent == folder), "")
    return ""


def is_only_a_name(device: Path, number: int, *, folder: int, name: str) -> bool:
    """Whether an open folder lists `name` for a file whose record knows it no more, on a volume that is flagged dirty.

    ntfs-3g frees a removed file's record first where the folder's own record holds the list of its files. False also
    where that cannot be told.
    """
    with contextlib.suppress(OSError, NtfsError), device.open("rb") as stream, os.scandir(folder) as entries:
        if [entry.inode() for entry in entries if entry.name == name] != [number]:
            return False
        record, parent = read_file_record(stream, number), os.fstat(folder).st_ino
        known = record.in_use and any((named.parent, named.name) == (parent, name) for named in record.names)
        return not known and read_volume_information(stream).dirty
    return False


def forget_removed(device: Path, number: int, *, folder: int, names: Container[str]) -> None:
    """Free the record of a file that its folder lists no more, where the power went before ntfs-3g did that itself.

    ntfs-3g takes a file out of its folder first and frees its record afterwards. Cut between, Windows' check of the
    volume finds a file that no folder lists, and puts it back where the record says it was. Only a record that has no
    other long names than `names` in `folder` (a record's number) is freed. Does nothing where it cannot be read or
    written.
    """
    number &= (1 << RECORD_NUMBER_BITS) - 1
    with contextlib.suppress(OSError, NtfsError), device.open("r+b") as stream:
        record = read_file_record(stream, number)
        here = [known.parent == folder and (known.short or known.name in names) for known in record.names]
        if record.in_use and here and all(here):
            free_file_record(stream, number)
            stream.flush()
            os.fsync(stream.fileno())
