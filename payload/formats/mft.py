"""NTFS file records: what one says of its file, beyond what a file system driver shows of it.

Source: the Linux-NTFS project's documentation ("NTFS Documentation": FILE record, Attributes, Data Runs, $FILE_NAME).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from payload.formats.ntfs import BootSector, NtfsError, read_at, read_boot_sector, without_fixups

#: The low bits of a file reference are the record's number, the others count how often it was used again.
RECORD_NUMBER_BITS = 48

_STANDARD_INFORMATION, _FILE_NAME, _SECURITY_DESCRIPTOR, _DATA, _END = 0x10, 0x30, 0x50, 0x80, 0xFFFFFFFF
_SURVIVE_A_COPY = (_STANDARD_INFORMATION, _FILE_NAME, _SECURITY_DESCRIPTOR, _DATA)
_FLAGS_OFFSET, _IN_USE = 22, 0x01
_LOG_RECORD = 2
_RESTART_PAGE = struct.Struct("<4s24xh")
_ONLY_SHORT = 2  # the namespace of an 8.3 name that stands beside a long one


@dataclass(frozen=True, kw_only=True)
class RecordedName:
    """A name that the file has by its record: in the folder whose record is `parent`. `short`: only the 8.3 one."""

    parent: int
    name: str
    short: bool


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file record. `plain`: one name (beside its 8.3 one) and bytes that are stored as they are.

    `streams` are the names of what it has beside its content. Not plain are files with hard links, extended attributes,
    an object identifier or a reparse point, those that are compressed, sparse or encrypted, and those that need more
    than one record.
    """

    in_use: bool
    names: tuple[RecordedName, ...]
    streams: tuple[str, ...]
    plain: bool


def read_file_record(stream: BinaryIO, number: int) -> FileRecord:
    """The file record of that number of the volume in `stream`. Raises NtfsError, OSError."""
    boot = read_boot_sector(stream)
    raw = read_at(stream, _offset_of(stream, boot, number), boot.record_size)
    record = _plain(raw)
    attributes = list(_attributes(record))
    names = tuple(_recorded_name(record, attribute) for attribute in attributes if attribute.kind == _FILE_NAME)
    data = [attribute.name for attribute in attributes if attribute.kind == _DATA]
    (base,) = struct.unpack_from("<Q", record, 32)
    return FileRecord(
        in_use=bool(record[_FLAGS_OFFSET] & _IN_USE),
        names=names,
        streams=tuple(name for name in data if name),
        plain=not base
        and all(a.kind in _SURVIVE_A_COPY and not a.flags and (a.kind == _DATA or not a.name) for a in attributes)
        and data.count("") == 1
        and len({(name.parent, name.name) for name in names if not name.short}) == 1,
    )


def journal_version(stream: BinaryIO) -> int:
    """The major version of the volume's journal ($LogFile); 0 for one that is empty. Raises NtfsError, OSError.

    Source: Linux-NTFS's logfile.h, RESTART_PAGE_HEADER. Windows 8 and later write version 2 while they run.
    """
    boot = read_boot_sector(stream)
    record = _plain(read_at(stream, _offset_of(stream, boot, _LOG_RECORD), boot.record_size))
    data = next((a for a in _attributes(record) if a.kind == _DATA and not a.resident and not a.name), None)
    runs = list(_runs(record, data)) if data else []
    if not runs:
        raise NtfsError("the journal's record says nothing about where it lies")
    page = read_at(stream, runs[0][1] * boot.cluster_size, _RESTART_PAGE.size)
    magic, major = _RESTART_PAGE.unpack(page)
    return major if magic == b"RSTR" else 0


def free_file_record(stream: BinaryIO, number: int) -> None:
    """Mark a file record as not in use, by one byte; the stream is not flushed. Raises NtfsError, OSError.

    What the file had occupied stays marked as occupied until the volume is checked.
    """
    boot = read_boot_sector(stream)
    offset = _offset_of(stream, boot, number)
    raw = read_at(stream, offset, boot.record_size)
    _plain(raw)
    stream.seek(offset + _FLAGS_OFFSET)
    stream.write(bytes([raw[_FLAGS_OFFSET] & ~_IN_USE & 0xFF]))


@dataclass(frozen=True, kw_only=True)
class _Attribute:
    kind: int
    offset: int
    length: int
    resident: bool
    name: str
    flags: int


def _plain(raw: bytes) -> bytes:
    if raw[:4] != b"FILE":
        raise NtfsError(f"not a file record: it starts with {raw[:4]!r}")
    return without_fixups(raw)


def _offset_of(stream: BinaryIO, boot: BootSector, number: int) -> int:
    """Where on the volume a record lies. Raises NtfsError also where the table's own record is in several parts."""
    table = _plain(read_at(stream, boot.mft_offset, boot.record_size))
    data = next((a for a in _attributes(table) if a.kind == _DATA and not a.resident and not a.name), None)
    if data is None:
        raise NtfsError("the file table's own record says nothing about where it lies")
    place = number * boot.record_size
    for length, cluster in _runs(table, data):
        if place < length * boot.cluster_size:
            return cluster * boot.cluster_size + place
        place -= length * boot.cluster_size
    raise NtfsError(f"there is no file record {number}, or the file table is in too many parts")


def _attributes(record: bytes) -> Iterator[_Attribute]:
    (offset,) = struct.unpack_from("<H", record, 20)
    while offset + 8 <= len(record):
        kind, length = struct.unpack_from("<II", record, offset)
        if kind == _END:
            return
        if length < 24 or offset + length > len(record):
            break
        non_resident, name_length, name_offset, flags = struct.unpack_from("<BBHH", record, offset + 8)
        name_at = offset + name_offset
        yield _Attribute(
            kind=kind,
            offset=offset,
            length=length,
            resident=not non_resident,
            name=record[name_at : name_at + 2 * name_length].decode("utf-16-le", "replace"),
            flags=flags,
        )
        offset += length
    raise NtfsError("a file record's attributes are damaged")


def _runs(record: bytes, attribute: _Attribute) -> Iterator[tuple[int, int]]:
    """(how many clusters, the first of them) of each run of a non-resident attribute that has no holes."""
    (pairs,) = struct.unpack_from("<H", record, attribute.offset + 32)
    at, end, cluster = attribute.offset + pairs, attribute.offset + attribute.length, 0
    while at < end and record[at]:
        length_size, offset_size = record[at] & 15, record[at] >> 4
        if at + 1 + length_size + offset_size > end or not offset_size:
            raise NtfsError("the file table's data runs are damaged")
        length = int.from_bytes(record[at + 1 : at + 1 + length_size], "little")
        at += 1 + length_size
        cluster += int.from_bytes(record[at : at + offset_size], "little", signed=True)
        at += offset_size
        if cluster < 0:
            raise NtfsError("the file table's data runs are damaged")
        yield length, cluster


def _recorded_name(record: bytes, attribute: _Attribute) -> RecordedName:
    value_length, value_offset = struct.unpack_from("<IH", record, attribute.offset + 16)
    start, length = attribute.offset + value_offset, min(value_length, attribute.length - value_offset)
    value = record[start : start + length] if length > 0 else b""
    if not attribute.resident or len(value) < 66 or len(value) < 66 + 2 * value[64]:
        raise NtfsError("a file record's name is damaged")
    (parent,) = struct.unpack_from("<Q", value)
    return RecordedName(
        parent=parent & (1 << RECORD_NUMBER_BITS) - 1,
        name=value[66 : 66 + 2 * value[64]].decode("utf-16-le", "surrogatepass"),
        short=value[65] == _ONLY_SHORT,
    )
