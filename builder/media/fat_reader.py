"""Reading FAT volumes back (Microsoft FAT32 File System Specification 1.03). Never trusts what it reads."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import ImageError
from builder.media.fat import FatFile
from builder.media.fat_structures import ENTRY_SIZE, SECTOR, Attribute, Bpb, DirectoryEntry, FatKind, LongNameEntry

_DEEPEST = 32
_MOST_ENTRIES = 200_000
_LARGEST_FOLDER = 65536 * ENTRY_SIZE


@dataclass(frozen=True, kw_only=True)
class FatVolume:
    """What a FAT volume holds: its kind, label, serial number, and every file in the order of the folders."""

    kind: FatKind
    label: str
    serial: int
    files: tuple[FatFile, ...]


@dataclass(frozen=True, kw_only=True)
class FatEntry:
    """A file or folder of a FAT volume: its path, size in bytes, and where its pieces lie (offset, length)."""

    path: str
    is_folder: bool
    size: int
    pieces: tuple[tuple[int, int], ...]


def read_fat(image: bytes) -> FatVolume:
    """The files of the FAT volume that `image` starts with. Raises ImageError when it is not one or is damaged."""
    reader = FatReader(io.BytesIO(image), size=len(image))
    entries = [entry for entry in reader.entries() if not entry.is_folder]
    files = tuple(FatFile(path=e.path, data=b"".join(image[at : at + n] for at, n in e.pieces)) for e in entries)
    return FatVolume(kind=reader.bpb.kind, label=reader.label, serial=reader.bpb.volume_serial, files=files)


class FatReader:
    """An open FAT volume of at most `size` bytes from `start` of `stream`, which must stay open while it is used.

    Offsets are from the beginning of `stream`. Raises ImageError when it is not a FAT volume or, later, is damaged.
    """

    def __init__(self, stream: BinaryIO, *, start: int = 0, size: int) -> None:
        self._stream = stream
        self._start = start
        self.bpb = bpb = Bpb.unpack(self._read(0, SECTOR))
        if bpb.total_sectors * bpb.bytes_per_sector > size:
            raise ImageError(
                f"the FAT volume is cut off: {bpb.total_sectors * bpb.bytes_per_sector} bytes expected, {size} there"
            )
        self._label = b""
        self._entries_read = 0
        self._used = bytearray(bpb.clusters + 2)
        self._table = self._read_table()

    @property
    def label(self) -> str:
        """The volume's label: the root folder's, once `entries` has seen it, else the boot sector's."""
        return (self._label or self.bpb.volume_label).decode("cp437").rstrip()

    @property
    def free(self) -> int:
        """Bytes in clusters that belong to nothing."""
        return self._table[2:].count(0) * self.bpb.cluster_bytes

    def entries(self) -> Iterator[FatEntry]:
        """Every file and folder, a folder before what is in it. To be called once."""
        bpb = self.bpb
        if bpb.kind is FatKind.FAT32 or not bpb.root_entries:
            root = self._folder_data(bpb.root_cluster)
        else:
            root = self._read(bpb.first_root_sector * bpb.bytes_per_sector, bpb.root_entries * ENTRY_SIZE)
        yield from self._folder(root, "", 0)

    def _folder(self, data: bytes, path: str, depth: int) -> Iterator[FatEntry]:
        if depth > _DEEPEST:
            raise ImageError(f"the FAT volume has folders more than {_DEEPEST} deep")
        for name, entry in self._names(data):
            below = f"{path}/{name}" if path else name
            if entry.attributes & Attribute.DIRECTORY:
                yield FatEntry(path=below, is_folder=True, size=0, pieces=())
                yield from self._folder(self._folder_data(entry.first_cluster), below, depth + 1)
            else:
                pieces = self._chain(entry.first_cluster, entry.size) if entry.size else ()
                yield FatEntry(path=below, is_folder=False, size=entry.size, pieces=pieces)

    def _folder_data(self, first: int) -> bytes:
        pieces = self._chain(first, None)
        if sum(length for _, length in pieces) > _LARGEST_FOLDER:
            raise ImageError(f"a folder of the FAT volume has more than {_LARGEST_FOLDER} bytes")
        return b"".join(self._read(at - self._start, length) for at, length in pieces)

    def _names(self, data: bytes) -> Iterator[tuple[str, DirectoryEntry]]:
        """The entries of a folder with their long names, or their short ones where the long one does not fit."""
        long: list[LongNameEntry] = []
        for at in range(0, len(data) - len(data) % ENTRY_SIZE, ENTRY_SIZE):
            raw = data[at : at + ENTRY_SIZE]
            if raw[0] == 0:
                return
            self._entries_read += 1
            if self._entries_read > _MOST_ENTRIES:
                raise ImageError(f"the FAT volume has more than {_MOST_ENTRIES} entries")
            if raw[0] == 0xE5:
                long = []
            elif raw[11] & 0x3F == Attribute.LONG_NAME:
                long.append(LongNameEntry.unpack(raw))
            else:
                entry = DirectoryEntry.unpack(raw)
                name = _long_name(long, entry) or _short_name(entry)
                long = []
                if entry.attributes & Attribute.VOLUME_ID:
                    self._label = self._label or entry.name
                elif name not in (".", ".."):
                    yield name, entry

    def _chain(self, cluster: int, size: int | None) -> tuple[tuple[int, int], ...]:
        """Where the bytes of a chain of clusters lie: `size` of them, or all where None."""
        step, clusters, used = self.bpb.cluster_bytes, self.bpb.clusters, self._used
        bad = self.bpb.kind.bad_cluster
        if size is not None and self._claim_row(cluster, -(-size // step)):
            return ((self._start + self.bpb.offset(cluster), size),)
        runs: list[list[int]] = []
        length = 0
        while size is None or length < size:
            if not 2 <= cluster < clusters + 2:
                if size is None and runs and cluster >= bad:
                    break
                raise ImageError(f"a FAT chain leads to cluster {cluster} of {clusters}")
            if used[cluster]:
                raise ImageError("the FAT volume's chains overlap or run in a circle")
            used[cluster] = 1
            if runs and sum(runs[-1]) == cluster:
                runs[-1][1] += 1
            else:
                runs.append([cluster, 1])
            length += step
            cluster = self._table[cluster]
        pieces = [(self._start + self.bpb.offset(first), count * step) for first, count in runs]
        if size is not None and pieces:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] - (length - size))
        return tuple(pieces)

    def _claim_row(self, first: int, count: int) -> bool:
        """Whether the chain from `first` is `count` clusters in a row, as nearly every one is; they are used then."""
        end = first + count
        if first < 2 or end > self.bpb.clusters + 2 or self._used.find(1, first, end) >= 0:
            return False
        if self._table[first : end - 1] != list(range(first + 1, end)):
            return False
        self._used[first:end] = b"\1" * count
        return True

    def _read_table(self) -> list[int]:
        """The table's entry for every cluster, by its number."""
        bpb, kind = self.bpb, self.bpb.kind
        count = bpb.clusters + 2
        needed = (count * kind + 7) // 8
        if needed > bpb.fat_sectors * bpb.bytes_per_sector:
            raise ImageError(f"the FAT volume's table has {bpb.fat_sectors} sectors, too few for its clusters")
        raw = self._read(bpb.reserved_sectors * bpb.bytes_per_sector, needed)
        if kind is FatKind.FAT12:
            pairs = (int.from_bytes(raw[at : at + 3], "little") for at in range(0, len(raw), 3))
            return [entry for pair in pairs for entry in (pair & 0xFFF, pair >> 12)][:count]
        # The highest four bits of FAT32's entries are reserved.
        words = struct.unpack(f"<{count}{'I' if kind is FatKind.FAT32 else 'H'}", raw)
        mask = kind.end_of_chain
        return [word & mask for word in words]

    def _read(self, offset: int, length: int) -> bytes:
        self._stream.seek(self._start + offset)
        data = self._stream.read(length)
        if len(data) != length:
            raise ImageError(f"the FAT volume is cut off: {length} bytes expected at byte {offset}, {len(data)} there")
        return data


def _long_name(parts: list[LongNameEntry], entry: DirectoryEntry) -> str:
    """The long name that stands before `entry`; empty where there is none or its parts do not belong together."""
    if not parts or not parts[0].last or [part.order for part in parts] != list(range(len(parts), 0, -1)):
        return ""
    if any(part.checksum != entry.checksum for part in parts):
        return ""
    units = b"".join(part.units for part in reversed(parts))
    name = units.decode("utf-16-le", "replace").partition("\0")[0]
    return name if name not in (".", "..") else ""


def _short_name(entry: DirectoryEntry) -> str:
    raw = b"\xe5" + entry.name[1:] if entry.name[0] == 0x05 else entry.name
    base, extension = raw[:8].decode("cp437").rstrip(), raw[8:].decode("cp437").rstrip()
    return f"{base}.{extension}" if extension else base
