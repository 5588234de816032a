"""BitLocker volumes whose key lies open beside them, since protection is suspended: that key, and what it decrypts.

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification" ("Keys", "AES-CCM", "Volume header"); the
order of the parts as cryptsetup's lib/bitlk maps them. A clear key opens the volume master key, and that the key of
the sectors. The first sectors of what is inside lie elsewhere; there, and where the metadata lies, zeros are read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from payload.formats.fve import REGION_SIZE, EncryptionMethod, FveVolume, read_volume_and_entries
from payload.formats.fve_entries import (
    ENTRY,
    Entry,
    EntryType,
    FveError,
    ProtectorKind,
    ValueType,
    read_protector,
)

#: AES-CCM: (key, nonce of 12 bytes, ciphertext and then its tag of 16 bytes) -> plain text.
Unseal = Callable[[bytes, bytes, bytes], bytes]

SECTOR = 512
_NONCE, _TAG = 12, 16
#: Before a key: the header of its entry, its type.
_KEY_OFFSET = ENTRY.size + 4
_PROTECTOR_FIELDS = 28
_OFFSET_AND_SIZE = struct.Struct("<QQ")
#: How long the sectors' key is, and what of the sealed bytes it is made of: (offset, length) in bytes.
_KEY_PARTS = {
    EncryptionMethod.AES_CBC_128_DIFFUSER: ((0, 16), (32, 16)),
    EncryptionMethod.AES_CBC_256_DIFFUSER: ((0, 64),),
    EncryptionMethod.AES_CBC_128: ((0, 16),),
    EncryptionMethod.AES_CBC_256: ((0, 32),),
    EncryptionMethod.AES_XTS_128: ((0, 32),),
    EncryptionMethod.AES_XTS_256: ((0, 64),),
}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of what is inside: `start` and `length` in bytes; where on the volume it lies, None where it is zeros."""

    start: int
    length: int
    source: int | None


@dataclass(frozen=True, kw_only=True)
class ClearVolume:
    """A volume that can be opened without anybody's key. `key` is that of its sectors."""

    method: EncryptionMethod
    sector_size: int
    key: bytes = field(repr=False)
    segments: tuple[Segment, ...]


def read_clear_volume(stream: BinaryIO, size: int, unseal: Unseal) -> ClearVolume:
    """What opens the suspended volume of `size` bytes in `stream`.

    Raises FveError where there is no clear key or the metadata contradict themselves, what `unseal` raises, OSError.
    """
    volume, entries = read_volume_and_entries(stream)
    master_key = _opened(*_clear_key_and_seal(entries), unseal)
    sealed = [e for e in entries if e.entry_type == EntryType.FULL_VOLUME_ENCRYPTION_KEY and _is_sealed(e)]
    parts = _KEY_PARTS.get(volume.method)
    if not sealed or parts is None:
        raise FveError(f"there is no key for the volume's sectors ({volume.method})")
    opened = _opened(master_key, sealed[0], unseal)
    if len(opened) < max(offset + length for offset, length in parts):
        raise FveError(f"the key for {volume.method} has {len(opened)} bytes")
    return ClearVolume(
        method=volume.method,
        sector_size=volume.sector_size,
        key=b"".join(opened[offset : offset + length] for offset, length in parts),
        segments=tuple(_segments(volume, entries, size)),
    )


def _clear_key_and_seal(entries: Sequence[Entry]) -> tuple[bytes, Entry]:
    """The key that lies open, and the volume master key that it seals."""
    for entry in entries:
        if entry.entry_type == EntryType.VOLUME_MASTER_KEY and read_protector(entry).kind is ProtectorKind.CLEAR_KEY:
            properties = entry.properties(_PROTECTOR_FIELDS)
            keys = [p.data[4:] for p in properties if p.value_type == ValueType.KEY]
            sealed = [p for p in properties if _is_sealed(p)]
            if keys and sealed and len(keys[0]) == 32:
                return keys[0], sealed[0]
    raise FveError("no clear key opens the volume")


def _is_sealed(entry: Entry) -> bool:
    return entry.value_type == ValueType.SEALED_KEY and len(entry.data) > _NONCE + _TAG + _KEY_OFFSET


def _opened(key: bytes, sealed: Entry, unseal: Unseal) -> bytes:
    nonce, tag, text = sealed.data[:_NONCE], sealed.data[_NONCE : _NONCE + _TAG], sealed.data[_NONCE + _TAG :]
    return unseal(key, nonce, text + tag)[_KEY_OFFSET:]


def _segments(volume: FveVolume, entries: Sequence[Entry], size: int) -> Iterator[Segment]:
    header = next((e for e in entries if e.value_type == ValueType.OFFSET_AND_SIZE), None)
    if header is None or len(header.data) < _OFFSET_AND_SIZE.size or len(volume.metadata_offsets) != 3:
        raise FveError("the metadata do not say where the volume's first sectors are")
    source, length = _OFFSET_AND_SIZE.unpack_from(header.data)
    yield Segment(start=0, length=length, source=source)
    at = length
    for start, zeros in sorted([*((offset, REGION_SIZE) for offset in volume.metadata_offsets), (source, length)]):
        if start < at or not zeros:
            raise FveError("parts of the metadata lie over each other")
        if start > at:
            yield Segment(start=at, length=start - at, source=at)
        yield Segment(start=start, length=zeros, source=None)
        at = start + zeros
    if at > size or any(number % SECTOR for number in (size, source, length, *volume.metadata_offsets)):
        raise FveError("the metadata do not fit the volume")
    if at < size:
        yield Segment(start=at, length=size - at, source=at)
