"""The keys of a BitLocker volume that is made here: where they come from, and how they seal one another.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification" ("Keys", "AES-CCM", "BitLocker External
Key (BEK) file"). The ciphers are those of `cryptography`. What a protector holds opens the volume master key (VMK),
and that opens the full volume encryption key (FVEK), which encrypts the sectors.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from payload.formats.fve_entries import ENTRY, EntryType, ValueType

#: Gives as many fresh bytes as it is asked for: os.urandom, or `seeded`.
KeySource = Callable[[int], bytes]

KEY_LENGTH = 32
_STRETCH_ROUNDS = 1 << 20
_TAG_LENGTH = 16
_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class KeyType:
    """What a key in an entry is, or what is done with it."""

    STRETCHED = 0x1000
    CLEAR = 0x2000
    EXTERNAL = 0x2002
    VOLUME_MASTER = 0x2003
    SHA256 = 0x2005
    FROM_RECOVERY_PASSWORD = 0x2008


def seeded(seed: bytes) -> KeySource:
    """A source that gives the same bytes for the same seed: for test volumes, never for anybody's data."""
    counter = 0

    def fresh(length: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(struct.pack("<Q", counter) + seed).digest(length)

    return fresh


def stretched(key: bytes, salt: bytes) -> bytes:
    """What a recovery password's 16 bytes become after 2^20 rounds of SHA-256 (about a second)."""
    initial, last = hashlib.sha256(key).digest() + salt, bytes(KEY_LENGTH)
    for count in range(_STRETCH_ROUNDS):
        last = hashlib.sha256(last + initial + count.to_bytes(8, "little")).digest()
    return last


class Nonces:
    """The nonces of one volume: a time and a counter that never comes twice."""

    def __init__(self, created: datetime) -> None:
        self._time = filetime(created)
        self.next_counter = 1

    def fresh(self) -> bytes:
        """Twelve bytes."""
        self.next_counter += 1
        return struct.pack("<QI", self._time, self.next_counter - 1)


def filetime(time: datetime) -> int:
    """`time` as Windows counts: 100 ns since 1601."""
    since = time - _FILETIME_EPOCH
    return (since.days * 86400 + since.seconds) * 10_000_000 + since.microseconds * 10


def entry(entry_type: EntryType, value_type: ValueType, *data: bytes, version: int = 1) -> bytes:
    """A metadata entry, with its header."""
    content = b"".join(data)
    return ENTRY.pack(ENTRY.size + len(content), entry_type, value_type, version) + content


def text_entry(entry_type: EntryType, text: str) -> bytes:
    """An entry that holds a text."""
    return entry(entry_type, ValueType.TEXT, (text + "\0").encode("utf-16-le"))


def key_entry(key_type: int, key: bytes, *, version: int = 1) -> bytes:
    """An entry that holds a key as it is."""
    return entry(EntryType.PROPERTY, ValueType.KEY, struct.pack("<HH", key_type, 0), key, version=version)


def sealed_entry(
    sealing_key: bytes, nonce: bytes, key_type: int, key: bytes, *, entry_type: EntryType = EntryType.PROPERTY
) -> bytes:
    """An entry that holds a key encrypted with another, by AES-CCM."""
    plain = key_entry(key_type, key, version=0)
    encrypted = AESCCM(sealing_key, tag_length=_TAG_LENGTH).encrypt(nonce, plain, None)
    # The format has the tag before the text, the library after it.
    tag_and_text = encrypted[-_TAG_LENGTH:] + encrypted[:-_TAG_LENGTH]
    return entry(entry_type, ValueType.SEALED_KEY, nonce, tag_and_text)
