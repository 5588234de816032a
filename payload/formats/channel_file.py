"""CrowdStrike Falcon channel files: names and headers.

Source: CrowdStrike, "Falcon Content Update Remediation and Guidance Hub" and the header check of its
falcon-windows-host-recovery scripts (`AA AA AA AA 01 00 23 01`); second field and version: public analyses of samples.

    offset  size  meaning (little-endian)
    0x00    4     magic, AA AA AA AA
    0x04    2     1 in every sample
    0x06    2     channel number (291 = 23 01)
    0x0C    4     the name's second field, 0 in every sample
    0x10    4     version, the name's third field
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

MAGIC = b"\xaa\xaa\xaa\xaa"
HEADER = struct.Struct("<4sHHIII")
HEADER_LENGTH = HEADER.size
_NAME = re.compile(r"C-([0-9]{8})-([0-9]{8})-([0-9]{8})\.sys", re.IGNORECASE)


class ChannelFileError(ValueError):
    """Bytes or a name that do not belong to a channel file; the message says what was found instead."""


@dataclass(frozen=True, kw_only=True)
class ChannelFileName:
    """The three decimal fields of `C-00000291-00000000-00000032.sys`."""

    channel: int
    second: int
    version: int

    def __str__(self) -> str:
        return f"C-{self.channel:08d}-{self.second:08d}-{self.version:08d}.sys"


@dataclass(frozen=True, kw_only=True)
class ChannelFileHeader:
    """The first 20 bytes of a channel file."""

    channel: int
    second: int
    version: int


def parse_name(name: str) -> ChannelFileName:
    """The fields of a channel file's name, without regard to case. Raises ChannelFileError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ChannelFileError(f"{name!r} is not a channel file's name (C-00000000-00000000-00000000.sys)")
    channel, second, version = (int(digits) for digits in match.groups())
    return ChannelFileName(channel=channel, second=second, version=version)


def parse_header(data: bytes) -> ChannelFileHeader:
    """The header at the start of `data`. Raises ChannelFileError when it is short or has another magic."""
    if len(data) < HEADER_LENGTH:
        raise ChannelFileError(f"a channel file's header has {HEADER_LENGTH} bytes, only {len(data)} are there")
    magic, _one, channel, _reserved, second, version = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ChannelFileError(f"a channel file starts with AA AA AA AA, this one with {magic.hex(' ').upper()}")
    return ChannelFileHeader(channel=channel, second=second, version=version)


def channel_file_bytes(channel: int, version: int, size: int) -> bytes:
    """A channel file with a valid header and `size` bytes (at least 20) in all, the same for the same arguments.

    The body is a pattern that depends on channel and version, so that no two files have the same content.
    Raises ValueError for numbers that do not fit the header.
    """
    if size < HEADER_LENGTH or not 0 <= channel < 1 << 16 or not 0 <= version < 1 << 32:
        raise ValueError(f"no channel file has channel {channel}, version {version} and {size} bytes")
    header = HEADER.pack(MAGIC, 1, channel, 0, 0, version)
    seed = (channel * 2654435761 + version * 40503 + 1) & 0xFFFFFFFF
    block = b"".join(struct.pack("<I", (seed * (2 * i + 1) + i) & 0xFFFFFFFF) for i in range(1024))
    repeats = size // len(block) + 1
    return (header + block * repeats)[:size]
