"""FAT12, FAT16 and FAT32 volumes in pure Python (Microsoft FAT32 File System Specification 1.03).

`fat_image` makes a whole volume. Its parts stand alone, so that folders can also describe files that already lie
somewhere else on a disk: `folder_tree` checks the names, `FatTable` holds the chains, `folder_bytes` writes a folder
whose children were given their clusters by the caller.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from builder.errors import OutputError
from builder.media.fat_names import exact_short_name, label_entry, name_problem, short_names
from builder.media.fat_structures import (
    ENTRY_SIZE,
    LARGEST_FILE,
    SECTOR,
    Attribute,
    Bpb,
    DirectoryEntry,
    FatKind,
    FsInfo,
    long_name_entries,
    short_name_checksum,
)

_LONGEST_PATH = 259
_LARGEST_FOLDER = 65536 * ENTRY_SIZE
#: Volumes of at most this many sectors are FAT12, of at least that many FAT32 (DskTableFAT16, DskTableFAT32).
_LAST_FAT12, _FIRST_FAT32 = 8400, 1048577
#: Cluster counts that every driver judges alike: 16 away from the limits, as "FAT Type Determination" asks.
_CLUSTERS = {FatKind.FAT12: (1, 4068), FatKind.FAT16: (4101, 65508), FatKind.FAT32: (65541, 268435444)}
_SMALLEST = {FatKind.FAT12: 64, FatKind.FAT16: 4180, FatKind.FAT32: 66608}


@dataclass(frozen=True, kw_only=True)
class FatFile:
    """One file of a FAT volume; `path` with "/" between its parts, without a leading one ("EFI/BOOT/BOOTX64.EFI")."""

    path: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a file or folder lies: first cluster (0: none) and size in bytes (0 for a folder)."""

    first_cluster: int
    size: int


@dataclass(kw_only=True)
class Folder:
    """A folder by its path ("" is the root) and its children by name: folders, or the sizes in bytes of files."""

    path: str
    parent: Folder | None = None
    children: dict[str, Folder | int] = field(default_factory=dict)

    def child_path(self, name: str) -> str:
        """The path of a child."""
        return f"{self.path}/{name}" if self.path else name

    def walk(self) -> Iterator[Folder]:
        """This folder and all below it, parents first, in the order of their names."""
        yield self
        for _, child in sorted(self.children.items()):
            if isinstance(child, Folder):
                yield from child.walk()


class FatTable:
    """The file allocation table of a volume in the making: chains of clusters, packed as 12, 16 or 32 bits each."""

    def __init__(self, kind: FatKind, clusters: int, media: int = 0xF8) -> None:
        self.kind = kind
        self.entries = [0] * (clusters + 2)
        self.entries[0] = kind.end_of_chain & ~0xFF | media
        self.entries[1] = kind.end_of_chain

    def chain(self, first: int, count: int) -> None:
        """A chain of `count` clusters in a row from `first`. Raises ValueError where one is taken or missing."""
        if first < 2 or first + count > len(self.entries):
            raise ValueError(f"clusters {first} to {first + count - 1} of {len(self.entries) - 2}")
        if any(self.entries[first : first + count]):
            raise ValueError(f"clusters {first} to {first + count - 1} are in use")
        self.entries[first : first + count] = [*range(first + 1, first + count), self.kind.end_of_chain]

    def withhold(self, first: int, count: int) -> None:
        """Mark those of `count` clusters from `first` that belong to nothing as not to be used."""
        for cluster in range(first, min(first + count, len(self.entries))):
            self.entries[cluster] = self.entries[cluster] or self.kind.bad_cluster

    @property
    def free(self) -> int:
        """Clusters that belong to nothing."""
        return self.entries.count(0)

    def pack(self, sectors: int) -> bytes:
        """One copy of the table, `sectors` long."""
        if self.kind is FatKind.FAT12:
            pairs = zip(self.entries[::2], [*self.entries[1::2], 0], strict=False)
            packed = b"".join((low | high << 12).to_bytes(3, "little") for low, high in pairs)
        else:
            packed = struct.pack(f"<{len(self.entries)}{'I' if self.kind is FatKind.FAT32 else 'H'}", *self.entries)
        return packed.ljust(sectors * SECTOR, b"\0")[: sectors * SECTOR]


def fat_image(
    files: Sequence[FatFile],
    *,
    label: str,
    serial: int,
    epoch: int,
    size: int | None = None,
    kind: FatKind | None = None,
) -> bytes:
    """A FAT volume holding `files`, as bytes.

    `label`: at most 11 characters. `serial`: 32 bits. `epoch`: every time stamp, seconds UTC. `size`: bytes, a multiple
    of 512; the smallest that holds the files when None. `kind`: by the size when None.
    Raises OutputError for names, sizes or labels that FAT cannot hold.
    """
    label_name = label_entry(label)
    root = folder_tree({file.path: len(file.data) for file in _unique(files)})
    bpb = _geometry(root, size=size, kind=kind, serial=serial & 0xFFFFFFFF, label=label_name)
    placements, table = _place(root, bpb)
    image = bytearray(bpb.total_sectors * SECTOR)
    _put(image, 0, reserved_and_tables(bpb, table))
    for folder in root.walk():
        data = folder_bytes(folder, placements, epoch=epoch, label=label_name)
        _put(image, _folder_offset(folder, placements, bpb), data)
    for file in files:
        if file.data:
            _put(image, bpb.offset(placements[file.path].first_cluster), file.data)
    return bytes(image)


def folder_tree(sizes: Mapping[str, int], folders: Sequence[str] = ()) -> Folder:
    """The folders of a volume from its files' paths and sizes in bytes, and from the paths of further `folders`.

    Raises OutputError for what FAT cannot hold.
    """
    root = Folder(path="")
    for path, size in sorted(sizes.items()):
        _check_path(path, size)
        above, _, name = path.rpartition("/")
        folder = _folder_at(root, above)
        if name in folder.children:
            raise OutputError(f"'{path}' cannot be both a file and a folder")
        folder.children[name] = size
    for path in folders:
        _check_path(path, 0)
        _folder_at(root, path)
    for folder in root.walk():
        _check_folder(folder)
    return root


def _folder_at(root: Folder, path: str) -> Folder:
    """The folder `path` below `root`, made if it is not there."""
    folder = root
    for part in filter(None, path.split("/")):
        child = folder.children.setdefault(part, Folder(path=folder.child_path(part), parent=folder))
        if not isinstance(child, Folder):
            raise OutputError(f"'{folder.child_path(part)}' cannot be both a file and a folder")
        folder = child
    return folder


def folder_bytes(folder: Folder, placements: Mapping[str, Placement], *, epoch: int, label: bytes) -> bytes:
    """The entries of one folder; `placements` says where its children, itself and its parent lie."""
    parts = []
    if folder.parent is None:
        parts.append(
            DirectoryEntry(name=label, attributes=Attribute.VOLUME_ID, first_cluster=0, size=0, epoch=epoch).pack()
        )
    else:
        # ".." of a folder in the root is 0, even on FAT32 where the root has a cluster.
        above = placements[folder.parent.path].first_cluster if folder.parent.path else 0
        for dots, cluster in ((b".", placements[folder.path].first_cluster), (b"..", above)):
            entry = DirectoryEntry(
                name=dots.ljust(11), attributes=Attribute.DIRECTORY, first_cluster=cluster, size=0, epoch=epoch
            )
            parts.append(entry.pack())
    for name, short in short_names(folder.children).items():
        if short != exact_short_name(name):
            parts.append(long_name_entries(name, short_name_checksum(short)))
        is_folder = isinstance(folder.children[name], Folder)
        placed = placements[folder.child_path(name)]
        entry = DirectoryEntry(
            name=short,
            attributes=Attribute.DIRECTORY if is_folder else Attribute.ARCHIVE,
            first_cluster=placed.first_cluster,
            size=0 if is_folder else placed.size,
            epoch=epoch,
        )
        parts.append(entry.pack())
    return b"".join(parts)


def _unique(files: Sequence[FatFile]) -> Sequence[FatFile]:
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            raise OutputError(f"'{file.path}' is given twice")
        seen.add(file.path)
    return files


def _check_path(path: str, size: int) -> None:
    if size > LARGEST_FILE:
        raise OutputError(f"'{path}' has {size} bytes; a file on a FAT volume has at most {LARGEST_FILE} (4 GiB - 1)")
    if len(path) > _LONGEST_PATH:
        raise OutputError(f"the path '{path[:60]}...' has {len(path)} characters; FAT allows {_LONGEST_PATH}")
    for part in path.split("/"):
        problem = name_problem(part)
        if problem:
            raise OutputError(f"a FAT volume cannot hold {path!r}: the part {part!r} {problem}")


def _check_folder(folder: Folder) -> None:
    seen: dict[str, str] = {}
    for name in sorted(folder.children):
        other = seen.setdefault(name.upper(), name)
        if other != name:
            raise OutputError(
                f"'{folder.child_path(other)}' and '{folder.child_path(name)}' differ only in case; FAT holds only one"
            )
    if folder_size(folder) > _LARGEST_FOLDER:
        raise OutputError(f"the folder '{folder.path or '/'}' has too many entries for a FAT volume")


def folder_size(folder: Folder) -> int:
    """Bytes of a folder's entries."""
    slots = 1 if folder.parent is None else 2
    for name in folder.children:
        exact = exact_short_name(name) is not None
        slots += 1 if exact else 1 + -(-len(name.encode("utf-16-le")) // 26)
    return slots * ENTRY_SIZE


def _clusters_needed(root: Folder, bpb: Bpb) -> int:
    needed = 0
    for folder in root.walk():
        if folder.parent is not None or bpb.root_entries == 0:
            needed += -(-folder_size(folder) // bpb.cluster_bytes)
        sizes = (child for child in folder.children.values() if not isinstance(child, Folder))
        needed += sum(-(-size // bpb.cluster_bytes) for size in sizes)
    return needed


def _geometry(root: Folder, *, size: int | None, kind: FatKind | None, serial: int, label: bytes) -> Bpb:
    """The boot sector of a volume of `size` bytes, or of the smallest that holds everything below `root`."""
    if size is not None:
        if size % SECTOR or not 0 < size // SECTOR < 1 << 32:
            raise OutputError(f"a FAT volume of {size} bytes: the size must be a multiple of {SECTOR} and below 2 TiB")
        bpb = _fitting(root, size // SECTOR, kind, serial, label)
        lack = _clusters_needed(root, bpb) - bpb.clusters
        if lack > 0:
            smallest = _geometry(root, size=None, kind=kind, serial=serial, label=label).total_sectors * SECTOR
            raise OutputError(f"the files need a FAT volume of at least {smallest} bytes; {size} were asked for")
        return bpb
    sectors = _SMALLEST[kind or FatKind.FAT12]
    while True:
        bpb = _fitting(root, sectors, kind, serial, label)
        lack = _clusters_needed(root, bpb) - bpb.clusters
        if lack <= 0:
            return bpb
        # Whole CD sectors, so that the image is as long as the file system in it.
        sectors = -(-(sectors + lack * bpb.sectors_per_cluster) // 4) * 4


def _fitting(root: Folder, sectors: int, kind: FatKind | None, serial: int, label: bytes) -> Bpb:
    """The boot sector for `sectors`, with clusters that give the kind that is asked for or usual at that size."""
    if kind is None:
        kind = FatKind.FAT12 if sectors <= _LAST_FAT12 else FatKind.FAT16 if sectors < _FIRST_FAT32 else FatKind.FAT32
    lowest, highest = _CLUSTERS[kind]
    entries = 0 if kind is FatKind.FAT32 else max(512, -(-folder_size(root) // SECTOR) * SECTOR // ENTRY_SIZE)
    for per_cluster in _cluster_sizes(kind, sectors):
        bpb = Bpb(
            sectors_per_cluster=per_cluster,
            reserved_sectors=32 if kind is FatKind.FAT32 else 1,
            root_entries=entries,
            total_sectors=sectors,
            fat_sectors=_fat_sectors(kind, sectors, per_cluster, entries),
            volume_serial=serial,
            volume_label=label,
        )
        if entries <= 65520 and lowest <= bpb.clusters <= highest:
            return bpb
    raise OutputError(f"{sectors * SECTOR} bytes cannot be a FAT{kind:d} volume for these files")


def _cluster_sizes(kind: FatKind, sectors: int) -> Sequence[int]:
    """Sectors in a cluster to try, best first: as small as the kind allows; for FAT32 as in DskTableFAT32."""
    if kind is not FatKind.FAT32:
        return (1, 2, 4, 8, 16, 32, 64)
    limits = ((532480, 1), (16777216, 8), (33554432, 16), (67108864, 32))
    usual = next((per_cluster for limit, per_cluster in limits if sectors <= limit), 64)
    return [per_cluster for per_cluster in (64, 32, 16, 8, 4, 2, 1) if per_cluster <= usual]


def _fat_sectors(kind: FatKind, sectors: int, per_cluster: int, root_entries: int) -> int:
    """Sectors of one table: the fewest that have an entry for every cluster beside them."""
    fixed = (32 if kind is FatKind.FAT32 else 1) + root_entries * ENTRY_SIZE // SECTOR

    def enough(size: int) -> bool:
        clusters = max(0, sectors - fixed - 2 * size) // per_cluster
        return size * 8 * SECTOR >= (clusters + 2) * kind

    return 1 + bisect.bisect_left(range(1, sectors), True, key=enough)


def _place(root: Folder, bpb: Bpb) -> tuple[dict[str, Placement], FatTable]:
    """Folders first, then files, each in one piece, in the order of their paths."""
    table = FatTable(bpb.kind, bpb.clusters, bpb.media)
    placements: dict[str, Placement] = {}
    following = 2

    def claim(path: str, length: int, size: int) -> None:
        nonlocal following
        count = -(-length // bpb.cluster_bytes)
        placements[path] = Placement(first_cluster=following if count else 0, size=size)
        if count:
            table.chain(following, count)
        following += count

    for folder in root.walk():
        if folder.parent is None and bpb.root_entries:
            placements[""] = Placement(first_cluster=0, size=0)
        else:
            claim(folder.path, folder_size(folder), 0)
    for folder in root.walk():
        for name, child in sorted(folder.children.items()):
            if not isinstance(child, Folder):
                claim(folder.child_path(name), child, child)
    return placements, table


def reserved_and_tables(bpb: Bpb, table: FatTable, *, next_free: int | None = None) -> bytes:
    """The volume up to its first data sector or fixed root folder: boot sectors, FSInfo, the copies of the table.

    `next_free`: the cluster from which to look for free ones; the first after what is in use when None.
    """
    head = bytearray(bpb.reserved_sectors * SECTOR)
    boot = bpb.pack()
    _put(head, 0, boot)
    if bpb.kind is FatKind.FAT32:
        if next_free is None:
            next_free = min(len(table.entries) - table.free, len(table.entries) - 1)
        info = FsInfo(free_count=table.free, next_free=next_free).pack()
        third = bytes(510) + boot[510:]
        for start in (0, bpb.backup_boot_sector):
            _put(head, start * SECTOR, boot + info + third)
    return bytes(head) + table.pack(bpb.fat_sectors) * bpb.fats


def _folder_offset(folder: Folder, placements: Mapping[str, Placement], bpb: Bpb) -> int:
    if folder.parent is None and bpb.root_entries:
        return bpb.first_root_sector * SECTOR
    return bpb.offset(placements[folder.path].first_cluster)


def _put(image: bytearray, offset: int, data: bytes) -> None:
    image[offset : offset + len(data)] = data
