"""NTFS volumes as plain files: made by mkntfs, filled through ntfs-3g, and brought into the states a crash leaves.

On-disk structures: "NTFS Documentation" (Richard Russon, Yuval Fledel): boot sector, FILE records, $VOLUME_INFORMATION,
$LogFile restart pages.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import builder
from builder.errors import ToolMissing
from builder.run import run
from builder.verify import populate
from builder.verify.windows_tree import Tree

_LIMIT = 120
_MIB = 1 << 20
_PACKAGES = {
    "mkntfs": "ntfs-3g",
    "ntfs-3g": "ntfs-3g",
    "unshare": "util-linux",
    "umount": "util-linux",
}


def make_volume(path: Path, *, size: int, label: str, tree: Tree) -> None:
    """Make an NTFS volume of `size` bytes that holds `tree` in the sparse file `path`.

    Raises ToolMissing (with the package's name) or ToolFailed.
    """
    with path.open("wb") as volume:
        volume.truncate(size)
    try:
        run(
            [
                "mkntfs",
                "-F",
                "-Q",
                "-q",
                "-s",
                "512",
                "-c",
                "4096",
                "-p",
                "2048",
                "-H",
                "255",
                "-S",
                "63",
                "-L",
                label,
                str(path),
            ],
            reason="make the broken disk's NTFS volumes",
            time_limit=_LIMIT,
        )
        _populate(path, tree)
    except ToolMissing as error:
        program = error.message.partition(" ")[0]
        package = _PACKAGES.get(program, "ntfs-3g")
        raise ToolMissing(error.message, hint=f"Install the package {package} (apt install {package}).") from error


def _populate(path: Path, tree: Tree) -> None:
    mount_point = path.with_suffix(".mnt")
    mount_point.mkdir()
    child = (sys.executable, "-m", populate.__name__, str(path), str(mount_point))
    own_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    try:
        run(
            ["unshare", *own_root, "--mount", "--propagation", "private", *child],
            reason=populate.REASON,
            time_limit=_LIMIT,
            stdin=populate.tree_json(tree),
            env={"PYTHONPATH": str(Path(builder.__file__).parent.parent)},
        )
    finally:
        mount_point.rmdir()


# --- states ----------------------------------------------------------------------------------------------------------

_VOLUME_RECORD, _LOG_RECORD = 3, 2
_VOLUME_INFORMATION, _DATA, _END = 0x70, 0x80, 0xFFFFFFFF
_DIRTY = 0x0001


@dataclass(frozen=True, kw_only=True)
class _Attribute:
    kind: int
    offset: int


class NtfsPatcher:
    """Edits the raw bytes of an NTFS volume that begins at `start` of an open file."""

    def __init__(self, volume: BinaryIO, *, start: int = 0) -> None:
        self._volume = volume
        self._start = start
        boot = self._read(0, 512)
        if boot[3:11] != b"NTFS    ":
            raise ValueError(f"no NTFS boot sector: found {boot[3:11]!r}")
        sector, sectors_per_cluster = struct.unpack_from("<HB", boot, 11)
        self._cluster = sector * sectors_per_cluster
        self._tables = [lcn * self._cluster for lcn in struct.unpack_from("<QQ", boot, 48)]
        (code,) = struct.unpack_from("<b", boot, 64)
        self._record_size = 1 << -code if code < 0 else code * self._cluster

    @property
    def flags(self) -> int:
        """The volume flags of $VOLUME_INFORMATION; bit 0 means: check me (chkdsk)."""
        record = self._record(self._tables[0], _VOLUME_RECORD)
        return int(struct.unpack_from("<H", record, self._flags_offset(record))[0])

    @property
    def dirty(self) -> bool:
        """Whether Windows will check the volume at its next start."""
        return bool(self.flags & _DIRTY)

    def set_dirty(self) -> None:
        """Set the dirty flag, in the MFT and in its mirror."""
        for table in self._tables:
            record = self._record(table, _VOLUME_RECORD)
            offset = self._flags_offset(record)
            struct.pack_into("<H", record, offset, struct.unpack_from("<H", record, offset)[0] | _DIRTY)
            self._write(table + _VOLUME_RECORD * self._record_size, bytes(record))

    def break_journal(self) -> None:
        """Write restart pages into $LogFile that name a client still in use, with no log records behind them.

        ntfs-3g calls such a volume unclean; ntfsrecover finds nothing it could replay and refuses.
        """
        record = self._record(self._tables[0], _LOG_RECORD)
        data = next(a for a in self._attributes(record) if a.kind == _DATA)
        (size,) = struct.unpack_from("<Q", record, data.offset + 48)
        (runs,) = struct.unpack_from("<H", record, data.offset + 32)
        at = data.offset + runs
        length_bytes, offset_bytes = record[at] & 15, record[at] >> 4
        first = at + 1 + length_bytes
        cluster = int.from_bytes(record[first : first + offset_bytes], "little", signed=True)
        self._write(cluster * self._cluster, _restart_page(size) * 2)

    def _flags_offset(self, record: bytes | bytearray) -> int:
        attribute = next(a for a in self._attributes(record) if a.kind == _VOLUME_INFORMATION)
        (value,) = struct.unpack_from("<H", record, attribute.offset + 20)
        return int(attribute.offset + value + 10)

    def _record(self, table: int, number: int) -> bytearray:
        return bytearray(self._read(table + number * self._record_size, self._record_size))

    def _attributes(self, record: bytes | bytearray) -> Iterator[_Attribute]:
        (offset,) = struct.unpack_from("<H", record, 20)
        while True:
            kind, length = struct.unpack_from("<II", record, offset)
            if kind == _END or not length:
                return
            yield _Attribute(kind=kind, offset=offset)
            offset += length

    def _read(self, offset: int, size: int) -> bytes:
        self._volume.seek(self._start + offset)
        return self._volume.read(size)

    def _write(self, offset: int, data: bytes) -> None:
        self._volume.seek(self._start + offset)
        self._volume.write(data)


def _restart_page(log_size: int, *, page_size: int = 4096) -> bytes:
    """One RSTR page with the client NTFS in use and the clean flag off, update sequence array applied."""
    page = bytearray(page_size)
    array, count, sequence = 30, page_size // 512 + 1, b"\1\0"
    area = (array + count * 2 + 7) & ~7
    lsn = 0x100
    struct.pack_into("<4sHHQIIHhh", page, 0, b"RSTR", array, count, 0, page_size, page_size, area, 1, 1)
    sequence_bits = 67 - log_size.bit_length()
    struct.pack_into(
        "<QHHHHIHHqIHHII",
        page,
        area,
        lsn,
        1,
        0xFFFF,
        0,
        0,
        sequence_bits,
        0x30 + 160,
        0x30,
        log_size,
        0,
        0x30,
        0x40,
        0,
        0,
    )
    client = area + 0x30
    struct.pack_into("<QQHHH6sI", page, client, lsn, lsn, 0xFFFF, 0xFFFF, 0, b"", 8)
    page[client + 32 : client + 40] = "NTFS".encode("utf-16-le")
    page[array : array + 2] = sequence
    for sector in range(page_size // 512):
        end = (sector + 1) * 512 - 2
        slot = array + 2 + 2 * sector
        page[slot : slot + 2] = page[end : end + 2]
        page[end : end + 2] = sequence
    return bytes(page)
