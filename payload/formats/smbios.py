"""SMBIOS: who a machine is, from the table that firmware leaves.

Sources: DSP0134 "System Management BIOS Reference Specification" 3.7, 6.1 (structures and their strings) and 7.2
(System Information, type 1; the byte order of the UUID); Microsoft's page "GetSystemFirmwareTable function"
(RawSMBIOSData, the header before the table).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<BBH")
_RAW_HEADER = struct.Struct("<BBBBI")
_SYSTEM_INFORMATION, _END_OF_TABLE = 1, 127
_UUID_AT, _UUID_LENGTH = 8, 16
_NO_UUIDS = (bytes(16), b"\xff" * 16)


class SmbiosError(ValueError):
    """Bytes that are no SMBIOS table, or one without System Information."""


@dataclass(frozen=True, kw_only=True)
class SystemInformation:
    """Structure type 1. `uuid` is lower-case text; empty texts are what the firmware leaves out."""

    manufacturer: str
    product: str
    serial: str
    uuid: str


def parse_raw_smbios(data: bytes) -> SystemInformation:
    """What GetSystemFirmwareTable("RSMB") gives: a header with the version, then the table. Raises SmbiosError."""
    if len(data) < _RAW_HEADER.size:
        raise SmbiosError(f"{len(data)} bytes are too few for an SMBIOS table")
    _calling, major, minor, _revision, length = _RAW_HEADER.unpack_from(data)
    return system_information(data[_RAW_HEADER.size : _RAW_HEADER.size + length], version=(major, minor))


def system_information(table: bytes, *, version: tuple[int, int]) -> SystemInformation:
    """The first System Information structure of a table of that SMBIOS version. Raises SmbiosError."""
    for kind, fields, strings in _structures(table):
        if kind == _SYSTEM_INFORMATION:
            return SystemInformation(
                manufacturer=_string(strings, fields, 4),
                product=_string(strings, fields, 5),
                serial=_string(strings, fields, 7),
                uuid=_uuid(fields, version),
            )
    raise SmbiosError("the SMBIOS table holds no System Information")


def _structures(table: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
    """(type, formatted area, strings) of each structure, up to the end-of-table one or the first that does not fit."""
    at = 0
    while at + _HEADER.size <= len(table):
        kind, length, _handle = _HEADER.unpack_from(table, at)
        end = table.find(b"\0\0", at + length)
        if length < _HEADER.size or end < 0:
            return
        raw = table[at + length : end]
        yield kind, table[at : at + length], [text.decode("utf-8", "replace") for text in raw.split(b"\0")]
        if kind == _END_OF_TABLE:
            return
        at = end + 2


def _string(strings: list[str], fields: bytes, offset: int) -> str:
    """The string whose number stands at `offset`; numbers count from 1, 0 is none."""
    number = fields[offset] if offset < len(fields) else 0
    return " ".join(strings[number - 1].split()) if 0 < number <= len(strings) else ""


def _uuid(fields: bytes, version: tuple[int, int]) -> str:
    raw = fields[_UUID_AT : _UUID_AT + _UUID_LENGTH]
    if len(raw) < _UUID_LENGTH or raw in _NO_UUIDS:
        return ""
    # Since SMBIOS 2.6 the first three fields are little-endian.
    order = "<" if version >= (2, 6) else ">"
    a, b, c = struct.unpack(f"{order}IHH", raw[:8])
    return f"{a:08x}-{b:04x}-{c:04x}-{raw[8:10].hex()}-{raw[10:].hex()}"
