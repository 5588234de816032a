"""Reading FAT volumes back (Microsoft FAT32 File System Specification 1.03). Never trusts what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import ImageError
from builder.media.fat import FatFile
from builder.media.fat_structures import ENTRY_SIZE, Attribute, Bpb, DirectoryEntry, FatKind, LongNameEntry

_DEEPEST = 32
_MOST_ENTRIES = 200_000


@dataclass(frozen=True, kw_only=True)
class FatVolume:
    """What a FAT volume holds: its kind, label, serial number, and every file in the order of the folders."""

    kind: FatKind
    label: str
    serial: int
    files: tuple[FatFile, ...]


def read_fat(image: bytes) -> FatVolume:
    """The files of the FAT volume that `image` starts with. Raises ImageError when it is not one or is damaged."""
    bpb = Bpb.unpack(image)
    if bpb.total_sectors * bpb.bytes_per_sector > len(image):
        raise ImageError(
            f"the FAT volume is cut off: {bpb.total_sectors * bpb.bytes_per_sector} bytes expected, {len(image)} there"
        )
    reader = _Reader(image, bpb)
    files = tuple(reader.files())
    label = reader.label or bpb.volume_label
    return FatVolume(kind=bpb.kind, label=label.decode("cp437").rstrip(), serial=bpb.volume_serial, files=files)


class _Reader:
    def __init__(self, image: bytes, bpb: Bpb) -> None:
        self.image = image
        self.bpb = bpb
        self.label = b""
        self.entries_read = 0
        self.used = bytearray(bpb.clusters + 2)

    def files(self) -> Iterator[FatFile]:
        bpb = self.bpb
        if bpb.kind is FatKind.FAT32 or not bpb.root_entries:
            root = self.chain(bpb.root_cluster, None)
        else:
            start = bpb.first_root_sector * bpb.bytes_per_sector
            root = self.image[start : start + bpb.root_entries * ENTRY_SIZE]
        yield from self.folder(root, "", 0)

    def folder(self, data: bytes, path: str, depth: int) -> Iterator[FatFile]:
        if depth > _DEEPEST:
            raise ImageError(f"the FAT volume has folders more than {_DEEPEST} deep")
        for name, entry in self.names(data):
            below = f"{path}/{name}" if path else name
            if entry.attributes & Attribute.DIRECTORY:
                yield from self.folder(self.chain(entry.first_cluster, None), below, depth + 1)
            else:
                yield FatFile(path=below, data=self.chain(entry.first_cluster, entry.size) if entry.size else b"")

    def names(self, data: bytes) -> Iterator[tuple[str, DirectoryEntry]]:
        """The entries of a folder with their long names, or their short ones where the long one does not fit."""
        long: list[LongNameEntry] = []
        for at in range(0, len(data) - len(data) % ENTRY_SIZE, ENTRY_SIZE):
            raw = data[at : at + ENTRY_SIZE]
            if raw[0] == 0:
                return
            self.entries_read += 1
            if self.entries_read > _MOST_ENTRIES:
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
                    self.label = self.label or entry.name
                elif name not in (".", ".."):
                    yield name, entry

    def chain(self, cluster: int, size: int | None) -> bytes:
        """The bytes of a chain of clusters: `size` of them, or all where None."""
        parts: list[bytes] = []
        length = 0
        while size is None or length < size:
            if not 2 <= cluster < self.bpb.clusters + 2:
                if size is None and parts and cluster >= self.bpb.kind.bad_cluster:
                    break
                raise ImageError(f"a FAT chain leads to cluster {cluster} of {self.bpb.clusters}")
            if self.used[cluster]:
                raise ImageError("the FAT volume's chains overlap or run in a circle")
            self.used[cluster] = 1
            start = self.bpb.offset(cluster)
            parts.append(self.image[start : start + self.bpb.cluster_bytes])
            length += self.bpb.cluster_bytes
            cluster = self.entry(cluster)
        return b"".join(parts)[:size]

    def entry(self, cluster: int) -> int:
        """The table's entry for a cluster."""
        start = self.bpb.reserved_sectors * self.bpb.bytes_per_sector
        kind = self.bpb.kind
        at = start + cluster * kind // 8
        if at + 4 > len(self.image):
            raise ImageError("the FAT volume's table is cut off")
        if kind is FatKind.FAT12:
            both = int.from_bytes(self.image[at : at + 2], "little")
            return both >> 4 if cluster & 1 else both & 0xFFF
        width = 2 if kind is FatKind.FAT16 else 4
        return int.from_bytes(self.image[at : at + width], "little") & kind.end_of_chain


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
