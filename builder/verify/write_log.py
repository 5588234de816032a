"""The log of a disk's writes as QEMU's blklogwrites driver keeps it.

Source: Linux, Documentation/admin-guide/device-mapper/log-writes.rst and include "struct log_write_super",
"struct log_write_entry" (dm-log-writes.c), whose format QEMU writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import VerifyFailed

#: What the log's sectors are to be: blklogwrites' log-sector-size.
SECTOR = 512
_MAGIC, _VERSION = 0x6A736677736872, 1
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_DISCARD, _MARK = 4, 8


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write that reached the disk: where (bytes from the start), and what."""

    offset: int
    data: bytes


def read_write_log(log: BinaryIO) -> Iterator[Write]:
    """The writes in the order in which they reached the disk; what a flush or a discard says is left out.

    Raises VerifyFailed for what is no such log.
    """
    head = log.read(SECTOR)
    if len(head) < SECTOR:
        raise VerifyFailed("the log of the disk's writes is empty")
    magic, version, entries, sector = _SUPER.unpack_from(head)
    if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
        raise VerifyFailed(f"not a log of writes: it starts with {head[:32].hex(' ')}")
    for number in range(entries):
        entry = log.read(SECTOR)
        if len(entry) < SECTOR:
            raise VerifyFailed(f"the log of the disk's writes ends before entry {number} of {entries}")
        at, count, flags, length = _ENTRY.unpack_from(entry)
        if flags & _MARK:
            log.seek(-(-length // SECTOR) * SECTOR, 1)
        elif count and not flags & _DISCARD:
            data = log.read(count * SECTOR)
            if len(data) < count * SECTOR:
                raise VerifyFailed(f"the log of the disk's writes ends in entry {number} of {entries}")
            yield Write(offset=at * SECTOR, data=data)
