"""Dynamic VHDX ([MS-VHDX]: Virtual Hard Disk v2 (VHDX) File Format): written once, whole, with an empty log."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"vhdxfile"
_KIB, _MIB = 1 << 10, 1 << 20
_SECTOR, _PHYSICAL_SECTOR = 512, 4096
_BLOCK = 2 * _MIB
#: Payload blocks between two entries for sector bitmaps (2.5, "chunk ratio").
_CHUNK = (1 << 23) * _SECTOR // _BLOCK
#: 2.5.1.1: what a payload block is.
_NOT_PRESENT, _FULLY_PRESENT = 0, 6
_HEADERS, _REGIONS = (64 * _KIB, 128 * _KIB), (192 * _KIB, 256 * _KIB)
_LOG, _METADATA, _BAT = 1 * _MIB, 2 * _MIB, 3 * _MIB
_BAT_REGION = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA_REGION = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
#: 2.6.1.2: the item describes the virtual disk; a reader must know it.
_VIRTUAL_DISK, _REQUIRED = 2, 4


@dataclass(frozen=True, kw_only=True)
class Header:
    """2.2.2. The header with the greater sequence number is the current one."""

    sequence_number: int
    file_write_guid: uuid.UUID
    data_write_guid: uuid.UUID

    def pack(self) -> bytes:
        """The header, 4096 bytes; a log GUID of zero says that the log is empty."""
        fields = struct.pack(
            "<4sIQ16s16s16sHHIQ", b"head", 0, self.sequence_number, self.file_write_guid.bytes_le,
            self.data_write_guid.bytes_le, bytes(16), 0, 1, _MIB, _LOG,
        )  # fmt: skip
        return _checked(fields.ljust(4 * _KIB, b"\0"))


@dataclass(frozen=True, kw_only=True)
class Region:
    """2.2.3.2: one entry of the region table."""

    guid: uuid.UUID
    offset: int
    length: int

    def pack(self) -> bytes:
        """The entry, 32 bytes; a reader must know the region."""
        return struct.pack("<16sQII", self.guid.bytes_le, self.offset, self.length, 1)


@dataclass(frozen=True, kw_only=True)
class MetadataItem:
    """2.6.1.2: one item; `content` is what 2.6.2 says."""

    guid: uuid.UUID
    flags: int
    content: bytes

    def pack(self, offset: int) -> bytes:
        """The entry, 32 bytes, of an item that lies `offset` bytes into the region."""
        return struct.pack("<16sIIII", self.guid.bytes_le, offset, len(self.content), self.flags, 0)


def write_vhdx(source: BinaryIO, target: BinaryIO, *, size: int, identity: uuid.UUID) -> None:
    """Write the disk in `source`, `size` bytes, as a VHDX; blocks of zeros are left out. `identity` gives its GUIDs."""
    blocks = -(-size // _BLOCK)
    entries = [_NOT_PRESENT] * (blocks + (blocks - 1) // _CHUNK)
    bat_length = -(-len(entries) * 8 // _MIB) * _MIB
    end = _BAT + bat_length
    for block in range(blocks):
        source.seek(block * _BLOCK)
        data = source.read(min(_BLOCK, size - block * _BLOCK))
        if data.count(0) != len(data):
            target.seek(end)
            target.write(data.ljust(_BLOCK, b"\0"))
            entries[block + block // _CHUNK] = end | _FULLY_PRESENT
            end += _BLOCK
    _write_at(target, 0, SIGNATURE + "Bluelift".encode("utf-16-le"))
    for number, offset in enumerate(_HEADERS, start=1):
        header = Header(
            sequence_number=number,
            file_write_guid=uuid.uuid5(identity, "file"),
            data_write_guid=uuid.uuid5(identity, "data"),
        )
        _write_at(target, offset, header.pack())
    regions = (
        Region(guid=_BAT_REGION, offset=_BAT, length=bat_length),
        Region(guid=_METADATA_REGION, offset=_METADATA, length=_MIB),
    )
    for offset in _REGIONS:
        _write_at(target, offset, _region_table(regions))
    _write_at(target, _METADATA, _metadata(size, identity))
    _write_at(target, _BAT, struct.pack(f"<{len(entries)}Q", *entries))
    target.truncate(end)


def _region_table(regions: Sequence[Region]) -> bytes:
    """2.2.3: 64 KiB."""
    table = struct.pack("<4sIII", b"regi", 0, len(regions), 0) + b"".join(region.pack() for region in regions)
    return _checked(table.ljust(64 * _KIB, b"\0"))


def _metadata(size: int, identity: uuid.UUID) -> bytes:
    """2.6: the table, 64 KiB, and the items behind it."""
    disk = _VIRTUAL_DISK | _REQUIRED
    items = (
        # File Parameters, Virtual Disk Size, Virtual Disk ID, Logical Sector Size, Physical Sector Size
        _item("caa16737-fa36-4d43-b3b6-33f0aa44e76b", _REQUIRED, struct.pack("<II", _BLOCK, 0)),
        _item("2fa54224-cd1b-4876-b211-5dbed83bf4b8", disk, struct.pack("<Q", size)),
        _item("beca12ab-b2e6-4523-93ef-c309e000c746", disk, identity.bytes_le),
        _item("8141bf1d-a96f-4709-ba47-f233a8faab5f", disk, struct.pack("<I", _SECTOR)),
        _item("cda348c7-445d-4471-9cc9-e9885251c556", disk, struct.pack("<I", _PHYSICAL_SECTOR)),
    )
    table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
    contents = b""
    for item in items:
        table += item.pack(64 * _KIB + len(contents))
        contents += item.content
    return table.ljust(64 * _KIB, b"\0") + contents


def _item(guid: str, flags: int, content: bytes) -> MetadataItem:
    return MetadataItem(guid=uuid.UUID(guid), flags=flags, content=content)


def _write_at(target: BinaryIO, offset: int, data: bytes) -> None:
    target.seek(offset)
    target.write(data)


def _checked(structure: bytes) -> bytes:
    """The structure with its CRC-32C in bytes 4 to 7, which count as zero."""
    return structure[:4] + struct.pack("<I", crc32c(structure)) + structure[8:]


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4 (Castagnoli's polynomial)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = tuple(_crc32c_of_byte(byte) for byte in range(256))
