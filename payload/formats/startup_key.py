"""Files of startup keys (`GUID.BEK`): which protector, and which volume, a file on a stick opens.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification" ("BitLocker External Key (BEK) file").
The key itself is not returned: what unlocks a volume takes the whole file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime

from payload.formats.fve_entries import (
    METADATA_HEADER,
    Entry,
    EntryType,
    FveError,
    ValueType,
    file_time,
    read_entries,
)
from payload.formats.partition_table import guid_text

#: What Windows writes has 156 or 180 bytes; a file that is larger than this is something else.
LARGEST_FILE = 4096

_EXTERNAL_KEY_FIELDS = struct.Struct("<16sQ")
_KEY_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class StartupKey:
    """A startup key file. GUIDs are upper-case text without braces, `created` is UTC.

    `guid` is that of the protector it opens; `volume_guid` is "" where the file does not say, as older ones do not.
    """

    guid: str
    volume_guid: str
    created: datetime | None


def read_startup_key(data: bytes) -> StartupKey:
    """What a whole .BEK file says. Raises FveError, also where it holds no key of 256 bits."""
    if not METADATA_HEADER.size <= len(data) <= LARGEST_FILE:
        raise FveError(f"a startup key file of {len(data)} bytes")
    size, version, header, _, guid, _, _, _, created = METADATA_HEADER.unpack_from(data)
    if version != 1 or not METADATA_HEADER.size <= header <= size <= len(data):
        raise FveError(f"not a startup key file: version {version}, {size} bytes with a header of {header}")
    entries = [entry for entry in read_entries(data[header:size]) if entry.entry_type == EntryType.STARTUP_KEY]
    if not entries or entries[0].value_type != ValueType.EXTERNAL_KEY:
        raise FveError("there is no startup key in the file")
    properties = _properties_of(entries[0], guid)
    return StartupKey(
        guid=guid_text(guid),
        volume_guid=next((guid_text(e.data[:16]) for e in properties if _names_the_volume(e)), ""),
        created=file_time(created),
    )


def _properties_of(entry: Entry, guid: bytes) -> tuple[Entry, ...]:
    if len(entry.data) < _EXTERNAL_KEY_FIELDS.size or entry.data[:16] != guid:
        raise FveError("the file is for one key protector and its key for another")
    properties = entry.properties(_EXTERNAL_KEY_FIELDS.size)
    if not any(e.value_type == ValueType.KEY and len(e.data) == 4 + _KEY_LENGTH for e in properties):
        raise FveError("the file names a key protector but holds no key")
    return properties


def _names_the_volume(entry: Entry) -> bool:
    return entry.entry_type == EntryType.VOLUME_GUID and entry.value_type == ValueType.GUID and len(entry.data) >= 16
