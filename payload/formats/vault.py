"""The key vault: recovery passwords by key id, useless to whoever has no passphrase. Version 1.

A header of 128 bytes, then one record of 64 bytes for each key, sorted. All numbers are little-endian.

    header   0   8  magic "BLVAULT" and a zero
             8   2  version, 1
            10   2  length of the header, 128
            12   4  rounds of PBKDF2-HMAC-SHA256 (RFC 8018), 600,000 to 10,000,000
            16  32  salt
            48   8  number of records
            56   8  when it was written, in seconds since 1970 UTC
            64  16  zeros
            80  16  the first half of SHA-256 of the bytes before: the header is undamaged
            96  32  HMAC-SHA256 of the bytes before under the check key: the passphrase is right
    record   0   8  tag: the first 8 bytes of HMAC-SHA256(index key, key id); records ascend by it
             8  40  sealed: key id (16), recovery key (16), host tag (8)
            48  16  authentication tag of AES-256-GCM (NIST SP 800-38D)

PBKDF2 makes the master key of the passphrase; the keys for index, record, host and check are
HMAC-SHA256(master key, "bluelift vault 1 " and that word). A record's nonce is its tag and four zeros: no two records
of a vault have the same tag, and every vault has a salt of its own. The header's last 32 bytes are a record's
associated data, so that no record can be moved to another vault. A host tag is the first 8 bytes of
HMAC-SHA256(host key, the name in capitals), or zeros: a vault can be cut down to a list of hosts, yet holds no name.
Key ids are 16 bytes as on disk (GUID, mixed-endian).

Test vector: the whole vault of one key. Passphrase "gobul tovek ridon hulev sipor", 600,000 rounds, salt 00 01 ... 1f,
written at 1721361600; key id 64311DEA-4587-4029-924A-BA299647998E of the host PC-7, recovery password
002816-008470-014124-019778-025432-031086-036740-042394.

    424c5641554c540001008000c0270900000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
    0100000000000000c0e499660000000000000000000000000000000000000000598b7be294ac316daec7936c46ec2989
    f2f863447110fd5a7df24bb010da70e11569e5cb62482b36145bf7ddd9973d97050d1d514d9ad1df707450875054fb03
    119464574d6df387748ad3b54ae8e006988383d5d9560288ae0eb2b7c7cdc4540c4899df0728817191266c8144cc6537
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO, Protocol

MAGIC = b"BLVAULT\0"
VERSION = 1
LEAST_ROUNDS = 600_000
#: A planted vault must not keep a host busy for hours.
MOST_ROUNDS = 10_000_000
#: In characters: where a passphrase is typed, no more are taken.
LONGEST_PASSPHRASE = 128
SALT_SIZE = 32
KEY_ID_SIZE = RECOVERY_KEY_SIZE = 16
_HEADER = struct.Struct("<8sHHI32sQQ16x")
_DIGEST, _CHECK = 16, 32
HEADER_SIZE = _HEADER.size + _DIGEST + _CHECK
_TAG = _HOST = 8
_SEALED = KEY_ID_SIZE + RECOVERY_KEY_SIZE + _HOST + 16
RECORD_SIZE = _TAG + _SEALED
_NO_HOST = bytes(_HOST)


class Cipher(Protocol):
    """AES-256-GCM and PBKDF2 as the platform has them; no cipher here is our own."""

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        """32 bytes of PBKDF2-HMAC-SHA256."""
        ...

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """What `seal` sealed. Raises NotAuthentic."""
        ...


class SealingCipher(Cipher, Protocol):
    """What writing a vault wants as well."""

    def seal(self, key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
        """The ciphertext with its 16-byte authentication tag at the end."""
        ...


class NotAuthentic(ValueError):
    """A sealed text that was changed, or belongs to another key."""


class VaultError(ValueError):
    """A vault that cannot be used, in one plain sentence."""


class VaultDamaged(VaultError):
    """It is no vault, of another version, cut off, or changed."""


class WrongPassphrase(VaultError):
    """The vault is whole; the passphrase is another one's."""


@dataclass(frozen=True, kw_only=True)
class VaultHeader:
    """What anyone can read of a vault."""

    rounds: int
    salt: bytes
    records: int
    written: int = 0

    def packed(self) -> bytes:
        """The header up to its digest, which is included."""
        start = _HEADER.pack(MAGIC, VERSION, HEADER_SIZE, self.rounds, self.salt, self.records, self.written)
        return start + hashlib.sha256(start).digest()[:_DIGEST]

    @property
    def vault_size(self) -> int:
        """The size in bytes of the whole vault."""
        return HEADER_SIZE + self.records * RECORD_SIZE


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class VaultRecord:
    """One key: `key_id` as on disk, the 16-byte key behind the recovery password, the host's tag ("no host": zeros)."""

    key_id: bytes
    recovery_key: bytes
    host: bytes = _NO_HOST


@dataclass(frozen=True, kw_only=True, repr=False)
class VaultKeys:
    """The keys that a passphrase and a salt give. They never appear in any text."""

    index: bytes
    record: bytes
    host: bytes
    check: bytes

    def tag(self, key_id: bytes) -> bytes:
        """Where in the vault a key stands."""
        return _mac(self.index, key_id)[:_TAG]

    def host_tag(self, name: str) -> bytes:
        """What stands for a host's name; zeros for no name."""
        return _mac(self.host, name.strip().upper().encode())[:_HOST] if name.strip() else _NO_HOST


def derive_keys(passphrase: str, header: VaultHeader, cipher: Cipher) -> VaultKeys:
    """The keys of a vault. Takes a second or so: that is the point of it."""
    master = cipher.pbkdf2(normalised(passphrase).encode(), header.salt, header.rounds)
    return VaultKeys(**{name: _mac(master, b"bluelift vault 1 " + name.encode()) for name in _PURPOSES})


_PURPOSES = ("index", "record", "host", "check")


def normalised(passphrase: str) -> str:
    """The passphrase as it counts: spaces at its ends, doubled ones and line ends do not."""
    return " ".join(passphrase.split())


def read_header(data: bytes) -> VaultHeader:
    """The header at the beginning of `data`, at least HEADER_SIZE bytes. Raises VaultDamaged."""
    if not data.startswith(MAGIC):
        raise VaultDamaged("it is not a Bluelift vault")
    if len(data) < HEADER_SIZE:
        raise VaultDamaged("it is cut off within its header")
    _, version, length, rounds, salt, records, written = _HEADER.unpack_from(data)
    if version != VERSION or length != HEADER_SIZE:
        raise VaultDamaged(f"it is of version {version}, and this Bluelift reads version {VERSION}")
    header = VaultHeader(rounds=rounds, salt=salt, records=records, written=written)
    if header.packed() != data[: _HEADER.size + _DIGEST]:
        raise VaultDamaged("its header is damaged")
    if not LEAST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise VaultDamaged(f"its {rounds} rounds are out of range")
    return header


def read_whole_header(stream: BinaryIO) -> VaultHeader:
    """The header of a vault that is as long as it says; the stream is left anywhere. Raises VaultDamaged, OSError."""
    header = read_header(stream.read(HEADER_SIZE) if stream.seek(0) == 0 else b"")
    if stream.seek(0, 2) != header.vault_size:
        size = stream.tell()
        raise VaultDamaged(f"it has {size} bytes instead of {header.vault_size}: it was cut off or added to")
    return header


class Vault:
    """An open vault. The stream stays the caller's and must stay open."""

    def __init__(self, stream: BinaryIO, header: VaultHeader, keys: VaultKeys, check: bytes, cipher: Cipher) -> None:
        self._stream = stream
        self._check = check
        self._cipher = cipher
        self.header = header
        self.keys = keys

    @classmethod
    def of_keys(cls, stream: BinaryIO, derive: Callable[[VaultHeader], VaultKeys], cipher: Cipher) -> Vault:
        """The vault in `stream` with the keys that `derive` gives. Raises VaultDamaged, WrongPassphrase, OSError."""
        header = read_whole_header(stream)
        stream.seek(0)
        start = stream.read(HEADER_SIZE)
        keys = derive(header)
        check = start[-_CHECK:]
        if not hmac.compare_digest(check, _mac(keys.check, start[:-_CHECK])):
            raise WrongPassphrase("the passphrase is not this vault's")
        return cls(stream, header, keys, check, cipher)

    def find(self, key_id: bytes) -> VaultRecord | None:
        """The record of a key id (16 bytes as on disk), None where there is none. Raises VaultDamaged, OSError."""
        tag = self.keys.tag(key_id)
        low, high = 0, self.header.records
        while low < high:
            middle = (low + high) // 2
            raw = self._raw(middle)
            if raw[:_TAG] == tag:
                record = self._open(raw)
                return record if record.key_id == key_id else None
            low, high = (middle + 1, high) if raw[:_TAG] < tag else (low, middle)
        return None

    def records(self) -> Iterator[VaultRecord]:
        """All of them, in the order of their tags. Raises VaultDamaged, OSError."""
        before = b""
        for number in range(self.header.records):
            raw = self._raw(number)
            if raw[:_TAG] <= before:
                raise VaultDamaged("its records are out of order")
            before = raw[:_TAG]
            yield self._open(raw)

    def _raw(self, number: int) -> bytes:
        self._stream.seek(HEADER_SIZE + number * RECORD_SIZE)
        raw = self._stream.read(RECORD_SIZE)
        if len(raw) != RECORD_SIZE:
            raise VaultDamaged("it is cut off")
        return raw

    def _open(self, raw: bytes) -> VaultRecord:
        tag, sealed = raw[:_TAG], raw[_TAG:]
        try:
            plain = self._cipher.unseal(self.keys.record, _nonce(tag), sealed, self._check)
        except NotAuthentic as error:
            raise VaultDamaged("a record of it was changed") from error
        key_id, recovery_key, host = plain[:16], plain[16:32], plain[32:]
        if self.keys.tag(key_id) != tag:
            raise VaultDamaged("a record of it stands in the wrong place")
        return VaultRecord(key_id=key_id, recovery_key=recovery_key, host=host)


def open_vault(stream: BinaryIO, passphrase: str, cipher: Cipher) -> Vault:
    """The vault in `stream`, a seekable file. Raises VaultDamaged, WrongPassphrase, OSError."""
    return Vault.of_keys(stream, lambda header: derive_keys(passphrase, header, cipher), cipher)


class TagsCollide(VaultError):
    """Two keys have the same tag under this salt (one chance in 37 million for a million keys): take another salt."""


def write_vault(
    records: Iterable[VaultRecord], header: VaultHeader, keys: VaultKeys, cipher: SealingCipher
) -> Iterator[bytes]:
    """The bytes of a vault, in pieces. `keys` are `derive_keys` of the header; its number of records is set here.

    No two records may have the same key id. Raises TagsCollide.
    """
    tagged = sorted((keys.tag(record.key_id), record.key_id + record.recovery_key + record.host) for record in records)
    if any(one[0] == other[0] for one, other in pairwise(tagged)):
        raise TagsCollide("two keys have the same tag; write the vault with another salt")
    start = replace(header, records=len(tagged)).packed()
    check = _mac(keys.check, start)
    yield start + check
    for tag, plain in tagged:
        yield tag + cipher.seal(keys.record, _nonce(tag), plain, check)


def _nonce(tag: bytes) -> bytes:
    return tag + bytes(4)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
