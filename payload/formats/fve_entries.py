"""The entries of BitLocker's metadata: a tree of (type, value type, data), and what the values mean.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification" ("FVE metadata entry", "Key protection
types"); names that it lacks from cryptsetup's lib/bitlk and dislocker's datums.h. The same entries make up the metadata
blocks of a volume (fve.py) and the files of startup keys (startup_key.py). All numbers are little-endian.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from payload.formats.partition_table import guid_text

#: The header of an entry: size (with the header), entry type, value type, version.
ENTRY = struct.Struct("<HHHH")
#: The metadata header that entries follow: size, version, header size, size again, GUID, next nonce, encryption method
#: (16 bits, and 16 bits of no known meaning), creation time.
METADATA_HEADER = struct.Struct("<IIII16sIHHQ")

_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class FveError(ValueError):
    """Not BitLocker metadata, or so damaged that it cannot be read."""


class EntryType(enum.IntEnum):
    """What an entry is for. Entries within entries are properties, nearly always."""

    PROPERTY = 0x0000
    VOLUME_MASTER_KEY = 0x0002
    FULL_VOLUME_ENCRYPTION_KEY = 0x0003
    STARTUP_KEY = 0x0006
    DESCRIPTION = 0x0007
    VOLUME_HEADER = 0x000F
    #: Within a recovery password's stretch key: the password itself and what it stretches to, sealed by the master key.
    RECOVERY_PASSWORD = 0x0012
    RECOVERY_KEY = 0x0013
    VOLUME_GUID = 0x0019


class ValueType(enum.IntEnum):
    """How an entry's data is laid out."""

    KEY = 0x0001
    TEXT = 0x0002
    STRETCH_KEY = 0x0003
    USE_KEY = 0x0004
    SEALED_KEY = 0x0005
    TPM_SEALED_KEY = 0x0006
    VOLUME_MASTER_KEY = 0x0008
    EXTERNAL_KEY = 0x0009
    OFFSET_AND_SIZE = 0x000F
    GUID = 0x0017


class ProtectorKind(enum.StrEnum):
    """What opens a volume, as manage-bde calls it."""

    CLEAR_KEY = "clear key"
    TPM = "TPM"
    TPM_PIN = "TPM and PIN"
    TPM_STARTUP_KEY = "TPM and startup key"
    TPM_PIN_STARTUP_KEY = "TPM, PIN and startup key"
    #: A key file on a stick, or kept in the registry of another volume that unlocks this one automatically.
    STARTUP_KEY = "external key"
    RECOVERY_PASSWORD = "recovery password"
    SMART_CARD = "smart card"
    PASSWORD = "password"
    UNKNOWN = "unknown"

    @property
    def uses_tpm(self) -> bool:
        """Whether only the computer that the volume belongs to can use it."""
        return self in _BOUND_TO_THE_TPM


_BOUND_TO_THE_TPM = frozenset(
    {
        ProtectorKind.TPM,
        ProtectorKind.TPM_PIN,
        ProtectorKind.TPM_STARTUP_KEY,
        ProtectorKind.TPM_PIN_STARTUP_KEY,
    }
)
#: The high byte of a protector's type is a set of flags (1 TPM, 2 external key, 4 PIN, 8 recovery password, ...); the
#: low byte is its rank among others of its kind.
_KINDS = {
    0x00: ProtectorKind.CLEAR_KEY,
    0x01: ProtectorKind.TPM,
    0x02: ProtectorKind.STARTUP_KEY,
    0x03: ProtectorKind.TPM_STARTUP_KEY,
    0x05: ProtectorKind.TPM_PIN,
    0x07: ProtectorKind.TPM_PIN_STARTUP_KEY,
    0x08: ProtectorKind.RECOVERY_PASSWORD,
    0x10: ProtectorKind.SMART_CARD,
    0x20: ProtectorKind.PASSWORD,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry; `data` is without its header."""

    entry_type: int
    value_type: int
    data: bytes

    def properties(self, skip: int) -> tuple[Entry, ...]:
        """The entries within this one, behind `skip` bytes of its own fields. Raises FveError."""
        return tuple(read_entries(self.data[skip:]))


@dataclass(frozen=True, kw_only=True)
class Protector:
    """One way to open a volume. `guid` is upper-case text without braces, `modified` is UTC.

    `code` is the type as the metadata has it. `name` is what Windows says ("DiskPassword", "ExternalKey"); often "".
    """

    guid: str
    kind: ProtectorKind
    code: int
    name: str = ""
    modified: datetime | None = None

    @property
    def key_id(self) -> str:
        """The eight digits that the recovery screen shows first, and that help desks ask for."""
        return self.guid.partition("-")[0]


def read_entries(data: bytes) -> Iterator[Entry]:
    """The entries in `data`, to its end or to the first that has no size. Raises FveError on one that does not fit."""
    offset = 0
    while offset + ENTRY.size <= len(data):
        size, entry_type, value_type, _version = ENTRY.unpack_from(data, offset)
        if not size:
            return
        if size < ENTRY.size or offset + size > len(data):
            raise FveError(f"a metadata entry of {size} bytes does not fit at {offset} of {len(data)}")
        yield Entry(entry_type=entry_type, value_type=value_type, data=data[offset + ENTRY.size : offset + size])
        offset += size


def read_protector(entry: Entry) -> Protector:
    """What a volume master key entry says about its protector. Raises FveError."""
    if entry.value_type != ValueType.VOLUME_MASTER_KEY or len(entry.data) < 28:
        raise FveError(f"a key protector of {len(entry.data)} bytes and value type {entry.value_type} cannot be read")
    guid, modified, _unknown, code = struct.unpack_from("<16sQHH", entry.data)
    return Protector(
        guid=guid_text(guid),
        kind=_KINDS.get(code >> 8, ProtectorKind.UNKNOWN),
        code=code,
        name=_name_of(entry),
        modified=file_time(modified),
    )


def _name_of(entry: Entry) -> str:
    """The protector's name; its other properties are of no use here, so damage among them is let pass."""
    try:
        return first_text(entry.properties(28))
    except FveError:
        return ""


def first_text(entries: Sequence[Entry]) -> str:
    """The first text among `entries`, "" where there is none."""
    return next((text_of(entry) for entry in entries if entry.value_type == ValueType.TEXT), "")


def text_of(entry: Entry) -> str:
    """A text entry's text (UTF-16, ends at the first NUL); what is no character becomes U+FFFD."""
    return entry.data.decode("utf-16-le", "replace").split("\0", 1)[0]


def file_time(value: int) -> datetime | None:
    """A FILETIME (100 ns since 1601) in UTC; None for 0, and for years that no calendar has."""
    try:
        return _FILETIME_EPOCH + timedelta(microseconds=value // 10) if value else None
    except OverflowError:
        return None
