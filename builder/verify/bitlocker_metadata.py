"""The metadata of a BitLocker volume that is made here: boot sector, metadata block, protectors, startup key file.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification"; the inside of what is sealed as real
volumes have it. Version 2 of the format, as Windows 7 and later write it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from builder.verify.bitlocker_keys import (
    KEY_LENGTH,
    KeySource,
    KeyType,
    Nonces,
    entry,
    filetime,
    key_entry,
    sealed_entry,
    stretched,
    text_entry,
)
from payload.formats.fve import (
    BLOCK_HEADER,
    INFORMATION_GUID,
    METHODS,
    REGION_SIZE,
    SIGNATURE,
    VALIDATION,
    EncryptionMethod,
)
from payload.formats.fve_entries import METADATA_HEADER, EntryType, ProtectorKind, ValueType
from payload.formats.recovery_password import text_of

#: How much of the volume's start is kept elsewhere, encrypted, in bytes.
VOLUME_HEADER_SIZE = 8192

_ENCRYPTED = 4
_VERSION = 2
_METHOD_CODES = {method: code for code, method in METHODS.items()}


@dataclass(frozen=True, kw_only=True)
class MadeProtector:
    """A protector of a volume that was made, with what opens it. `guid` is upper-case text without braces.

    `recovery_password` is "" and `startup_key` (the content of `GUID.BEK`) is empty where the kind has none.
    """

    guid: str
    kind: ProtectorKind
    recovery_password: str = field(default="", repr=False)
    startup_key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where on a volume BitLocker's own data lies: byte offsets, at multiples of the cluster size.

    `folder` is that of the files which keep NTFS away from there.
    """

    metadata: tuple[int, int, int]
    volume_header: int
    folder: str = ""

    @property
    def regions(self) -> tuple[tuple[int, int], ...]:
        """(offset, size) of all four; who opens the volume reads zeros there."""
        return (*((offset, REGION_SIZE) for offset in self.metadata), (self.volume_header, VOLUME_HEADER_SIZE))


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What all protectors of a volume protect, and the volume they are for."""

    guid: UUID
    created: datetime
    master_key: bytes = field(repr=False)
    volume_key: bytes = field(repr=False)
    nonces: Nonces
    random: KeySource


def boot_sector(ntfs: bytes, room: Room, guid: bytes = INFORMATION_GUID) -> bytes:
    """The boot sector of a BitLocker volume whose inside begins with the boot sector `ntfs`; `guid` says its kind."""
    sector = bytearray(512)
    sector[0:11] = b"\xeb\x58\x90" + SIGNATURE
    # Bytes per sector, sectors per cluster; media, geometry, sectors before the volume.
    sector[11:14] = ntfs[11:14]
    sector[21:32] = ntfs[21:32]
    struct.pack_into("<I", sector, 36, 0x1FE0)
    struct.pack_into("<HH", sector, 48, 1, 6)
    sector[64], sector[66] = 0x80, 0x29
    sector[71:90] = b"NO NAME    FAT32   "
    sector[160:176] = guid
    struct.pack_into("<QQQ", sector, 176, *room.metadata)
    sector[510:512] = b"\x55\xaa"
    return bytes(sector)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the metadata says about the volume's sectors. Sizes are bytes."""

    method: EncryptionMethod
    size: int
    sector_size: int
    room: Room


def metadata_region(secrets: Secrets, protectors: Sequence[bytes], layout: Layout, description: str) -> bytes:
    """One of the three metadata regions of a volume, with these protectors' entries; all three are the same."""
    code = _METHOD_CODES[layout.method]
    entries = b"".join(
        (
            text_entry(EntryType.DESCRIPTION, description),
            *protectors,
            sealed_entry(
                secrets.master_key,
                secrets.nonces.fresh(),
                code,
                secrets.volume_key,
                entry_type=EntryType.FULL_VOLUME_ENCRYPTION_KEY,
            ),
            entry(
                EntryType.VOLUME_HEADER,
                ValueType.OFFSET_AND_SIZE,
                struct.pack("<QQ", layout.room.volume_header, VOLUME_HEADER_SIZE),
            ),
        )
    )
    validation_nonce = secrets.nonces.fresh()
    block = _block(secrets, entries, code, layout)
    digest = hashlib.sha256(block).digest()
    validation = VALIDATION.pack(REGION_SIZE - len(block), 2, zlib.crc32(block))
    validation += sealed_entry(secrets.master_key, validation_nonce, KeyType.SHA256, digest)
    return (block + validation).ljust(REGION_SIZE, b"\0")


def _block(secrets: Secrets, entries: bytes, code: int, layout: Layout) -> bytes:
    length = METADATA_HEADER.size + len(entries)
    block_size = -(-(BLOCK_HEADER.size + length) // 16) * 16
    block = BLOCK_HEADER.pack(
        SIGNATURE,
        block_size // 16,
        _VERSION,
        _ENCRYPTED,
        _ENCRYPTED,
        layout.size,
        0,
        VOLUME_HEADER_SIZE // layout.sector_size,
        *layout.room.metadata,
        layout.room.volume_header,
    )
    block += _header(length, secrets.guid, secrets.nonces.next_counter, code, secrets.created) + entries
    return block.ljust(block_size, b"\0")


def _header(length: int, guid: UUID, next_nonce: int, code: int, created: datetime) -> bytes:
    return METADATA_HEADER.pack(
        length, 1, METADATA_HEADER.size, length, guid.bytes_le, next_nonce, code, 0, filetime(created)
    )


# --- protectors ------------------------------------------------------------------------------------------------------


def make_protector(kind: ProtectorKind, secrets: Secrets) -> tuple[MadeProtector, bytes]:
    """A new protector of a kind, and its metadata entry. Raises ValueError for a kind that cannot be made."""
    guid = UUID(bytes=secrets.random(16), version=4)
    if kind is ProtectorKind.RECOVERY_PASSWORD:
        return _by_recovery_password(guid, secrets)
    if kind is ProtectorKind.STARTUP_KEY:
        return _by_startup_key(guid, secrets)
    if kind is ProtectorKind.CLEAR_KEY:
        return _by_clear_key(guid, secrets)
    if kind is ProtectorKind.TPM:
        return _by_tpm(guid, secrets)
    raise ValueError(f"a protector of the kind {kind} cannot be made here")


def _by_recovery_password(guid: UUID, secrets: Secrets) -> tuple[MadeProtector, bytes]:
    key, salt = secrets.random(16), secrets.random(16)
    opening = stretched(key, salt)
    stretch = entry(
        EntryType.PROPERTY,
        ValueType.STRETCH_KEY,
        struct.pack("<HH", KeyType.STRETCHED, 0) + salt,
        # From these, Windows shows the password of a volume that is open.
        sealed_entry(
            secrets.master_key,
            secrets.nonces.fresh(),
            KeyType.STRETCHED,
            key,
            entry_type=EntryType.RECOVERY_PASSWORD,
        ),
        sealed_entry(
            secrets.master_key,
            secrets.nonces.fresh(),
            KeyType.FROM_RECOVERY_PASSWORD,
            opening,
            entry_type=EntryType.RECOVERY_KEY,
        ),
    )
    made = MadeProtector(guid=_guid_text(guid), kind=ProtectorKind.RECOVERY_PASSWORD, recovery_password=text_of(key))
    return made, _protector(guid, 0x0800, secrets, stretch, _sealed_master_key(opening, secrets))


def _by_startup_key(guid: UUID, secrets: Secrets) -> tuple[MadeProtector, bytes]:
    key = secrets.random(KEY_LENGTH)
    name = text_entry(EntryType.PROPERTY, "ExternalKey")
    use_key = entry(
        EntryType.PROPERTY,
        ValueType.USE_KEY,
        struct.pack("<HH", KeyType.EXTERNAL, 0),
        sealed_entry(secrets.master_key, secrets.nonces.fresh(), KeyType.EXTERNAL, key),
    )
    made = MadeProtector(
        guid=_guid_text(guid), kind=ProtectorKind.STARTUP_KEY, startup_key=_startup_key_file(guid, key, secrets)
    )
    return made, _protector(guid, 0x0200, secrets, name, use_key, _sealed_master_key(key, secrets))


def _startup_key_file(guid: UUID, key: bytes, secrets: Secrets) -> bytes:
    """Without the volume's GUID, which newer versions of Windows write and dislocker 0.7.2 cannot pass over."""
    external = entry(
        EntryType.STARTUP_KEY,
        ValueType.EXTERNAL_KEY,
        guid.bytes_le + struct.pack("<Q", filetime(secrets.created)),
        text_entry(EntryType.PROPERTY, "ExternalKey"),
        key_entry(KeyType.EXTERNAL, key),
    )
    return _header(METADATA_HEADER.size + len(external), guid, 1, 0, secrets.created) + external


def _by_clear_key(guid: UUID, secrets: Secrets) -> tuple[MadeProtector, bytes]:
    key = secrets.random(KEY_LENGTH)
    properties = key_entry(KeyType.CLEAR, key), _sealed_master_key(key, secrets)
    return MadeProtector(guid=_guid_text(guid), kind=ProtectorKind.CLEAR_KEY), _protector(guid, 0, secrets, *properties)


def _by_tpm(guid: UUID, secrets: Secrets) -> tuple[MadeProtector, bytes]:
    """As every Windows has one: what it holds is noise, which no TPM will open."""
    sealed_by_tpm = entry(EntryType.PROPERTY, ValueType.TPM_SEALED_KEY, struct.pack("<I", 0x0A00), secrets.random(220))
    # The TPM's secret opens the master key in turn.
    properties = sealed_by_tpm, _sealed_master_key(secrets.random(KEY_LENGTH), secrets)
    return MadeProtector(guid=_guid_text(guid), kind=ProtectorKind.TPM), _protector(guid, 0x0100, secrets, *properties)


def _sealed_master_key(key: bytes, secrets: Secrets) -> bytes:
    return sealed_entry(key, secrets.nonces.fresh(), KeyType.VOLUME_MASTER, secrets.master_key)


def _protector(guid: UUID, code: int, secrets: Secrets, *properties: bytes) -> bytes:
    return entry(
        EntryType.VOLUME_MASTER_KEY,
        ValueType.VOLUME_MASTER_KEY,
        guid.bytes_le + struct.pack("<QHH", filetime(secrets.created), 0, code),
        *properties,
    )


def _guid_text(guid: UUID) -> str:
    return str(guid).upper()
