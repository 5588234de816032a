"""Fixed VHDs: the disk as it is, then 512 bytes (Microsoft, Virtual Hard Disk Image Format Specification 1.0)."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

COOKIE = b"conectix"
_SECTOR = 512
#: The time stamps count from 2000-01-01 UTC.
_YEAR_2000 = 946_684_800
_FIXED = 2
#: QEMU's mark for "the size is what Current Size says, not cylinders times heads times sectors", which Azure accepts.
_CREATOR = b"qem2"


@dataclass(frozen=True, kw_only=True)
class HardDiskFooter:
    """ "Hard Disk Footer Format" of a fixed disk. `size` is bytes, `time_stamp` seconds since 2000."""

    size: int
    time_stamp: int
    unique_id: uuid.UUID

    _LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")

    def pack(self) -> bytes:
        """The footer, 512 bytes, with its checksum."""
        return self._fields(~sum(self._fields(0)) & 0xFFFFFFFF)

    def _fields(self, checksum: int) -> bytes:
        features, version, no_dynamic_header, saved_state = 2, 0x10000, 0xFFFFFFFFFFFFFFFF, 0
        return self._LAYOUT.pack(
            COOKIE, features, version, no_dynamic_header, self.time_stamp, _CREATOR, version, b"Wi2k", self.size,
            self.size, *geometry(self.size // _SECTOR), _FIXED, checksum, self.unique_id.bytes, saved_state,
        )  # fmt: skip


def fixed_footer(*, size: int, identity: uuid.UUID, epoch: int) -> bytes:
    """What follows a disk of `size` bytes. `epoch`: seconds UTC; years before 2000 count as 2000."""
    return HardDiskFooter(size=size, time_stamp=min(max(epoch - _YEAR_2000, 0), 0xFFFFFFFF), unique_id=identity).pack()


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors of a track for a disk of `sectors` ("Appendix: CHS Calculation")."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        return sectors // per_track // heads, heads, per_track
    per_track = 17
    tracks = sectors // per_track
    heads = max((tracks + 1023) // 1024, 4)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        per_track, heads = 63, 16
        tracks = sectors // per_track
    return tracks // heads, heads, per_track
