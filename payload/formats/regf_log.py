"""Transaction logs beside a registry hive (.LOG, .LOG1, .LOG2): whether they know more than the hive does.

Source: "Windows registry file format specification" (M. Suhanov), "Format of transaction log files". Windows itself
ignores the logs of a clean hive, also those that are ahead of it; whoever edits a hive must not. A log is never
applied here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from payload.formats.regf import BASE_BLOCK, SIGNATURE
from payload.formats.regf_writer import base_checksum

_SEQUENCES = struct.Struct("<II")
#: The copy of the hive's base block that a log begins with, and what log entries are aligned to.
_SECTOR = 512
_ENTRY = struct.Struct("<4sIII")
_ENTRY_SIGNATURE = b"HvLE"


def is_ahead(log: bytes, hive: bytes) -> bool:
    """Whether a log holds changes that the hive, which is whole, does not have. False for a log that is none."""
    _, current = _SEQUENCES.unpack_from(hive, 4)
    return any(number > current for number in _changes(log))


def numbered_after(data: bytes, before: bytes) -> bytes:
    """The hive `data` as the change that follows the hive `before`: its sequence numbers are the next."""
    number = (max(_SEQUENCES.unpack_from(before, 4)) + 1) & 0xFFFFFFFF
    base = bytearray(data[:BASE_BLOCK])
    _SEQUENCES.pack_into(base, 4, number, number)
    struct.pack_into("<I", base, 508, base_checksum(base))
    return bytes(base) + data[BASE_BLOCK:]


def _changes(log: bytes) -> Iterator[int]:
    """The sequence numbers of the changes in a log: of its base block, which is the first's, and of its entries."""
    if len(log) < _SECTOR or log[:4] != SIGNATURE:
        return
    if struct.unpack_from("<I", log, 508)[0] != base_checksum(log):
        return
    yield _SEQUENCES.unpack_from(log, 4)[0]
    offset = _SECTOR
    while offset + _ENTRY.size <= len(log):
        signature, size, _flags, number = _ENTRY.unpack_from(log, offset)
        if signature != _ENTRY_SIGNATURE or not size or size % _SECTOR:
            return
        yield number
        offset += size
