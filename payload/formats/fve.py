"""BitLocker volumes (FVE, full volume encryption): who they are, what state they are in, what would open them.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification"; the states and the checksum as
dislocker's metadata.c and cryptsetup's lib/bitlk have them. Nothing is decrypted here, and no key is read.

A volume's boot sector names three places where the same metadata block stands. Each block ends in a CRC-32 of itself
(and in its SHA-256, sealed by the master key, which is of no use without a key). The first sound block is taken.

On Windows, read from the physical disk at the partition's offset: a volume device passes through BitLocker's filter.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from payload.formats.fve_entries import (
    METADATA_HEADER,
    Entry,
    EntryType,
    FveError,
    Protector,
    ProtectorKind,
    file_time,
    first_text,
    read_entries,
    read_protector,
)
from payload.formats.partition_table import guid_text

SIGNATURE = b"-FVE-FS-"
TO_GO_SIGNATURE = b"MSWIN4.1"
#: In the boot sector, before the three offsets: {4967D63B-2E29-4AD8-8399-F6A339E3D001}.
INFORMATION_GUID = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
#: Instead of it while Windows encrypts in the background: {92A84D3B-DD80-4D0E-9E4E-B1E3284EAED8}.
ENCRYPT_ON_WRITE_GUID = bytes.fromhex("3b4da89280dd0e4d9e4eb1e3284eaed8")
#: A metadata block and its checksum are never larger, and lie in a region of this size, in bytes.
REGION_SIZE = 64 * 1024
#: Signature, size (version 2: in units of 16 bytes), version, current state, next state, encrypted size, conversion
#: size, sectors of the volume header, three block offsets, offset of the volume header (version 1: of the MFT mirror).
BLOCK_HEADER = struct.Struct("<8sHHHHQIIQQQQ")
#: Behind the block: size, version, CRC-32 of the block.
VALIDATION = struct.Struct("<HHI")

_VISTA_BOOT_CODE = b"\xeb\x52\x90"
_OFFSETS = struct.Struct("<QQQ")
_DECRYPTED, _ENCRYPTED = 1, 4


class EncryptionMethod(enum.StrEnum):
    """The cipher of a volume's sectors."""

    AES_CBC_128_DIFFUSER = "AES-CBC 128 with diffuser"
    AES_CBC_256_DIFFUSER = "AES-CBC 256 with diffuser"
    AES_CBC_128 = "AES-CBC 128"
    AES_CBC_256 = "AES-CBC 256"
    AES_XTS_128 = "AES-XTS 128"
    AES_XTS_256 = "AES-XTS 256"
    UNKNOWN = "unknown"


METHODS = {
    0x8000: EncryptionMethod.AES_CBC_128_DIFFUSER,
    0x8001: EncryptionMethod.AES_CBC_256_DIFFUSER,
    0x8002: EncryptionMethod.AES_CBC_128,
    0x8003: EncryptionMethod.AES_CBC_256,
    0x8004: EncryptionMethod.AES_XTS_128,
    0x8005: EncryptionMethod.AES_XTS_256,
}


class FveState(enum.StrEnum):
    """What a volume at rest is like, whoever has it open now."""

    #: Encrypted as a whole, and one of its protectors is needed.
    LOCKED = "locked"
    #: Encrypted as a whole, and the key lies open beside it.
    SUSPENDED = "suspended"
    #: Encryption was started and has not come to its end; a bitmap says what is encrypted.
    ENCRYPT_ON_WRITE = "encrypt-on-write"
    ENCRYPTING = "being encrypted"
    DECRYPTING = "being decrypted"
    #: Only the metadata is there.
    DECRYPTED = "decrypted"

    @property
    def partly_encrypted(self) -> bool:
        """Whether some of it is encrypted and some is not: cryptsetup refuses such a volume."""
        return self in (FveState.ENCRYPT_ON_WRITE, FveState.ENCRYPTING, FveState.DECRYPTING)


@dataclass(frozen=True, kw_only=True)
class FveVolume:
    """What the metadata of a BitLocker volume says. Offsets and sizes are bytes from the volume's start, times UTC.

    `version` is 1 (Windows Vista) or 2. `guid` is upper-case text without braces. `description` usually holds the
    computer's name, the drive and a date in the user's own format. `to_go`: dressed as FAT32 for older Windows.
    `encrypted_size` is how far the volume is encrypted while Windows converts it, else its size. `block` is which of
    the three metadata blocks was read (0-2), and `checksum_ok` whether its CRC-32 holds.
    """

    version: int
    guid: str
    description: str
    created: datetime | None
    method: EncryptionMethod
    state: FveState
    to_go: bool
    sector_size: int
    encrypted_size: int
    protectors: tuple[Protector, ...]
    metadata_offsets: tuple[int, ...]
    block: int
    checksum_ok: bool

    @property
    def suspended(self) -> bool:
        """Whether a clear key opens it: protection is suspended, or not yet on."""
        return bool(self.protectors_of(ProtectorKind.CLEAR_KEY))

    @property
    def recovery_passwords(self) -> tuple[Protector, ...]:
        """The protectors that a 48-digit recovery password opens, in the order of the metadata."""
        return self.protectors_of(ProtectorKind.RECOVERY_PASSWORD)

    @property
    def startup_keys(self) -> tuple[Protector, ...]:
        """The protectors that a file `GUID.BEK` alone opens."""
        return self.protectors_of(ProtectorKind.STARTUP_KEY)

    @property
    def only_tpm(self) -> bool:
        """Whether nothing but its own computer opens it: no key can be looked up."""
        return bool(self.protectors) and all(protector.kind.uses_tpm for protector in self.protectors)

    def protectors_of(self, kind: ProtectorKind) -> tuple[Protector, ...]:
        """The protectors of one kind."""
        return tuple(protector for protector in self.protectors if protector.kind is kind)


@dataclass(frozen=True, kw_only=True)
class _BootSector:
    to_go: bool
    encrypt_on_write: bool
    sector_size: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Block:
    version: int
    states: tuple[int, int]
    encrypted_size: int
    offsets: tuple[int, ...]
    guid: str
    method: int
    created: datetime | None
    entries: tuple[Entry, ...]
    checksum_ok: bool


def read_volume(stream: BinaryIO, start: int = 0) -> FveVolume:
    """The BitLocker volume that begins at byte `start` of a volume or disk.

    A block whose checksum fails is taken only where no other can be read. Raises FveError, and OSError where not even
    the first sector can be read.
    """
    return read_volume_and_entries(stream, start)[0]


def read_volume_and_entries(stream: BinaryIO, start: int = 0) -> tuple[FveVolume, tuple[Entry, ...]]:
    """As `read_volume`, with all entries of the metadata block that was taken: keys that lie open among them."""
    boot = _read_boot_sector(_read(stream, start, 512))
    offsets, found, reasons = list(boot.offsets), list[tuple[int, _Block]](), list[str]()
    for index in range(3):
        if index >= len(offsets):
            break
        try:
            block = _read_block(_read(stream, start + offsets[index], REGION_SIZE), offsets[index])
            volume = _volume(boot, block, index)
        except (FveError, OSError) as error:
            reasons.append(f"block {index + 1}: {error}")
            continue
        if block.checksum_ok:
            return volume, block.entries
        found.append((index, block))
        # The boot sector of a Vista volume knows only the first place.
        offsets += block.offsets[len(offsets) :]
    if found:
        index, block = found[0]
        return _volume(boot, block, index), block.entries
    raise FveError("no metadata block can be read: " + "; ".join(reasons))


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    try:
        stream.seek(offset)
    except (ValueError, OverflowError) as error:
        raise FveError(f"offset {offset} lies outside any disk") from error
    return stream.read(length)


def _read_boot_sector(sector: bytes) -> _BootSector:
    if len(sector) < 512:
        raise FveError(f"a boot sector of {len(sector)} bytes")
    signature = sector[3:11]
    sector_size, per_cluster = struct.unpack_from("<HB", sector, 11)
    # Windows's own driver looks for the GUID wherever it stands; it moves with the volume's dress.
    places = {guid: sector.find(guid, 0, 510) for guid in (INFORMATION_GUID, ENCRYPT_ON_WRITE_GUID)}
    guid, at = max(places.items(), key=lambda place: place[1])
    if at >= 0 and at + 16 + _OFFSETS.size <= 510:
        offsets = _OFFSETS.unpack_from(sector, at + 16)
    elif sector[:3] == _VISTA_BOOT_CODE and signature == SIGNATURE:
        (cluster,) = struct.unpack_from("<Q", sector, 56)
        offsets = (cluster * per_cluster * sector_size,)
    else:
        raise FveError(f"not a BitLocker boot sector: found {signature!r} where {SIGNATURE!r} should be")
    return _BootSector(
        to_go=signature == TO_GO_SIGNATURE,
        encrypt_on_write=guid == ENCRYPT_ON_WRITE_GUID and at >= 0,
        # exFAT's boot sector has no such field.
        sector_size=sector_size or 512,
        offsets=offsets,
    )


def _read_block(region: bytes, offset: int) -> _Block:
    if len(region) < BLOCK_HEADER.size + METADATA_HEADER.size or region[:8] != SIGNATURE:
        raise FveError(f"found {region[:8]!r} at {offset} where {SIGNATURE!r} should be")
    _, size, version, now, then, encrypted, _, _, *offsets, _ = BLOCK_HEADER.unpack_from(region)
    if version not in (1, 2):
        raise FveError(f"version {version} of the metadata is not known")
    size = size * 16 if version == 2 else size
    length, _, header, _, guid, _, method, _, created = METADATA_HEADER.unpack_from(region, BLOCK_HEADER.size)
    if not METADATA_HEADER.size <= header <= length <= size - BLOCK_HEADER.size or size > len(region):
        raise FveError(f"{length} bytes of metadata with a header of {header} do not fit a block of {size}")
    if offset not in offsets:
        raise FveError(f"it says that it belongs elsewhere than at {offset}")
    return _Block(
        version=version,
        states=(now, then),
        encrypted_size=encrypted,
        offsets=tuple(offsets),
        guid=guid_text(guid),
        method=method,
        created=file_time(created),
        entries=tuple(read_entries(region[BLOCK_HEADER.size + header : BLOCK_HEADER.size + length])),
        checksum_ok=_checksum_holds(region, size),
    )


def _checksum_holds(region: bytes, size: int) -> bool:
    if size + VALIDATION.size > len(region):
        return False
    _, _, crc = VALIDATION.unpack_from(region, size)
    return zlib.crc32(region[:size]) == int(crc)


def _volume(boot: _BootSector, block: _Block, index: int) -> FveVolume:
    protectors = tuple(
        read_protector(entry) for entry in block.entries if entry.entry_type == EntryType.VOLUME_MASTER_KEY
    )
    return FveVolume(
        version=block.version,
        guid=block.guid,
        description=first_text([entry for entry in block.entries if entry.entry_type == EntryType.DESCRIPTION]),
        created=block.created,
        method=METHODS.get(block.method, EncryptionMethod.UNKNOWN),
        state=_state(boot, block, protectors),
        to_go=boot.to_go,
        sector_size=boot.sector_size,
        encrypted_size=block.encrypted_size,
        protectors=protectors,
        metadata_offsets=block.offsets,
        block=index,
        checksum_ok=block.checksum_ok,
    )


def _state(boot: _BootSector, block: _Block, protectors: tuple[Protector, ...]) -> FveState:
    now, then = block.states
    if boot.encrypt_on_write:
        return FveState.ENCRYPT_ON_WRITE
    if now == then == _DECRYPTED:
        return FveState.DECRYPTED
    if (now, then) != (_ENCRYPTED, _ENCRYPTED):
        return FveState.DECRYPTING if then == _DECRYPTED else FveState.ENCRYPTING
    if any(protector.kind is ProtectorKind.CLEAR_KEY for protector in protectors):
        return FveState.SUSPENDED
    return FveState.LOCKED
