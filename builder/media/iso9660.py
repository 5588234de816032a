"""Reading ISO images back: ECMA-119 (ISO9660) with Rock Ridge (IEEE P1282) or Joliet, and El Torito 1.0.

Independent of pycdlib, which writes them: `write_iso` checks its output with this, and `bluelift inspect` reads any
file with it. It never trusts what it reads: everything it cannot make sense of is an ImageError.
"""

from __future__ import annotations

import calendar
import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import ImageError

SECTOR = 2048
DESCRIPTORS_AT = 16 * SECTOR
_MOST_DESCRIPTORS = 64
_MOST_ENTRIES = 500_000
_DEEPEST = 64
_LARGEST_FOLDER = 16 << 20
_CHUNK = 1 << 20


class Tree(enum.Enum):
    """Which names of an image to read: the primary volume's (Rock Ridge where it has them) or Joliet's."""

    PRIMARY = "primary"
    JOLIET = "joliet"


@dataclass(frozen=True, kw_only=True)
class IsoEntry:
    """A file of an image: its path ("/" between parts), size in bytes, and where its pieces lie (offset, length).

    `hidden`: systems that heed the flag do not list it (ECMA-119 9.1.6, existence).
    """

    path: str
    size: int
    pieces: tuple[tuple[int, int], ...]
    hidden: bool = False

    @property
    def offset(self) -> int:
        """Byte offset of its first byte; 0 for an empty file."""
        return self.pieces[0][0] if self.pieces else 0


@dataclass(frozen=True, kw_only=True)
class VolumeDescriptor:
    """A primary or Joliet volume descriptor (ECMA-119 8.4, 8.5). `sectors`: size in units of 2048 bytes."""

    volume_id: str
    sectors: int
    root: bytes
    created: int | None

    @classmethod
    def unpack(cls, sector: bytes, *, joliet: bool) -> VolumeDescriptor:
        """The descriptor in one sector."""
        encoding = "utf-16-be" if joliet else "latin-1"
        volume_id = sector[40:72].decode(encoding, "replace").rstrip(" \0")
        block_size = int.from_bytes(sector[128:130], "little")
        if block_size != SECTOR:
            raise ImageError(f"the ISO has blocks of {block_size} bytes; only {SECTOR} are read")
        sectors = int.from_bytes(sector[80:84], "little")
        return cls(volume_id=volume_id, sectors=sectors, root=sector[156:190], created=_long_date(sector[813:830]))


@dataclass(frozen=True, kw_only=True)
class BootCatalogEntry:
    """One El Torito entry: platform (0 BIOS, 0xEF UEFI), media type (0: no emulation), load size in units of 512."""

    platform: int
    bootable: bool
    media_type: int
    load_segment: int
    load_size: int
    lba: int


@dataclass(frozen=True, kw_only=True)
class DirectoryRecord:
    """One record of a folder (ECMA-119 9.1) with its Rock Ridge name, empty where it has none."""

    identifier: bytes
    rock_ridge_name: str
    lba: int
    length: int
    is_folder: bool
    continues: bool
    relocated: bool
    hidden: bool


class IsoImage:
    """An open image. `stream` must stay open while it is used; `size` is its length in bytes.

    Raises ImageError when it is not an ISO image, or, from the methods, when it is damaged.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self.udf = False
        self.catalog_lba: int | None = None
        self.joliet: VolumeDescriptor | None = None
        self.primary = self._descriptors()
        self._skip = 0
        self.rock_ridge = self._has_rock_ridge()

    def read(self, offset: int, length: int, what: str) -> bytes:
        """`length` bytes at `offset`; ImageError naming `what` where the file ends before."""
        if length < 0 or offset + length > self.size:
            raise ImageError(
                f"the image is cut off: it has {self.size} bytes, {what} lies at bytes {offset} to {offset + length}"
            )
        self.stream.seek(offset)
        data = self.stream.read(length)
        if len(data) != length:
            raise ImageError(f"the image ended while {what} was read")
        return data

    def files(self, tree: Tree = Tree.PRIMARY) -> Iterator[IsoEntry]:
        """Every file of a tree, folder by folder in the order on the disc."""
        volume = self.primary if tree is Tree.PRIMARY else self.joliet
        if volume is None:
            raise ImageError("the image has no Joliet names")
        yield from self._walk(volume, tree)

    def chunks(self, entry: IsoEntry) -> Iterator[bytes]:
        """The content of a file, at most 1 MiB at a time."""
        for offset, length in entry.pieces:
            for at in range(0, length, _CHUNK):
                yield self.read(offset + at, min(_CHUNK, length - at), f"the file '{entry.path}'")

    def boot_entries(self) -> tuple[BootCatalogEntry, ...]:
        """The entries of the boot catalog; none where the image does not boot."""
        if self.catalog_lba is None:
            return ()
        catalog = self.read(self.catalog_lba * SECTOR, SECTOR, "the boot catalog")
        words = struct.unpack("<16H", catalog[:32])
        if catalog[0] != 1 or catalog[30:32] != b"\x55\xaa" or sum(words) & 0xFFFF:
            raise ImageError(f"the boot catalog's validation entry is damaged: {catalog[:32].hex(' ')}")
        entries = [_catalog_entry(catalog[32:64], catalog[1])]
        platform, left = 0, 0
        for at in range(64, SECTOR, 32):
            raw = catalog[at : at + 32]
            if left:
                entries.append(_catalog_entry(raw, platform))
                left -= 1
            elif raw[0] in (0x90, 0x91):
                platform, left = raw[1], int.from_bytes(raw[2:4], "little")
            else:
                break
        return tuple(entries)

    def _descriptors(self) -> VolumeDescriptor:
        """Read the volume descriptors; returns the primary one."""
        primary: VolumeDescriptor | None = None
        for number in range(_MOST_DESCRIPTORS):
            at = DESCRIPTORS_AT + number * SECTOR
            if number and at + SECTOR > self.size:
                break
            sector = self._first_sector() if number == 0 else self.read(at, SECTOR, "a volume descriptor")
            kind, identifier = sector[0], sector[1:6]
            if identifier in (b"BEA01", b"NSR02", b"NSR03", b"TEA01"):
                self.udf = self.udf or identifier.startswith(b"NSR")
            elif identifier != b"CD001":
                break
            elif kind == 1 and primary is None:
                primary = VolumeDescriptor.unpack(sector, joliet=False)
            elif kind == 2 and sector[88:91] in (b"%/@", b"%/C", b"%/E"):
                self.joliet = VolumeDescriptor.unpack(sector, joliet=True)
            elif kind == 0 and sector[7:39].rstrip(b"\0") == b"EL TORITO SPECIFICATION":
                self.catalog_lba = int.from_bytes(sector[71:75], "little")
        if primary is None:
            raise ImageError("not an ISO image: it has volume descriptors, but no primary one")
        return primary

    def _first_sector(self) -> bytes:
        """The first volume descriptor; ImageError saying what is there instead."""
        if self.size < DESCRIPTORS_AT + SECTOR:
            raise ImageError(
                f"not an ISO image: a volume descriptor is expected at offset 0x8000, the file ends at {self.size:#x}"
            )
        sector = self.read(DESCRIPTORS_AT, SECTOR, "the first volume descriptor")
        if sector[1:6] not in (b"CD001", b"BEA01"):
            raise ImageError(
                f"not an ISO image: 'CD001' is expected at offset 0x8001, found {sector[1:6].hex(' ')}"
                f" ({sector[1:6].decode('ascii', 'replace')!r})"
            )
        return sector

    def _has_rock_ridge(self) -> bool:
        """Whether the root's first record carries SUSP's SP entry (IEEE P1281 5.3)."""
        _, lba, length, _, _ = _record_head(self.primary.root)
        if not SECTOR <= length <= _LARGEST_FOLDER:
            raise ImageError(f"the image's root folder claims {length} bytes")
        first = self.read(lba * SECTOR, SECTOR, "the root folder")
        area = first[34 : first[0]] if first[0] >= 34 else b""
        if area[:2] == b"SP" and area[4:6] == b"\xbe\xef":
            self._skip = area[6]
            return True
        return False

    def _walk(self, volume: VolumeDescriptor, tree: Tree) -> Iterator[IsoEntry]:
        _, lba, length, _, _ = _record_head(volume.root)
        pending = [("", lba, length, 0)]
        seen = {lba}
        count = 0
        while pending:
            path, lba, length, depth = pending.pop(0)
            pieces: list[tuple[int, int]] = []
            for record in self._records(lba, length, path, rock_ridge=tree is Tree.PRIMARY and self.rock_ridge):
                count += 1
                if count > _MOST_ENTRIES:
                    raise ImageError(f"the image has more than {_MOST_ENTRIES} files")
                below = f"{path}/{_name(record, tree)}" if path else _name(record, tree)
                if record.is_folder:
                    # A circle is damage; the same folder under a second name is only listed once.
                    if record.lba not in seen and depth < _DEEPEST:
                        seen.add(record.lba)
                        pending.append((below, record.lba, record.length, depth + 1))
                    continue
                if record.relocated:
                    continue
                offset = record.lba * SECTOR
                if record.length:
                    if offset + record.length > self.size:
                        raise ImageError(
                            f"the image is cut off: it has {self.size} bytes, '{below}' lies at bytes {offset} to"
                            f" {offset + record.length}"
                        )
                    pieces.append((offset, record.length))
                if not record.continues:
                    size = sum(piece[1] for piece in pieces)
                    if size > self.size:
                        # Its extents lie over each other: reading it all could take for ever.
                        raise ImageError(f"'{below}' claims {size} bytes, the whole image has {self.size}")
                    yield IsoEntry(path=below, size=size, pieces=tuple(pieces), hidden=record.hidden)
                    pieces = []

    def _records(self, lba: int, length: int, path: str, *, rock_ridge: bool) -> Iterator[DirectoryRecord]:
        if length > _LARGEST_FOLDER:
            raise ImageError(f"the image's folder '{path or '/'}' claims {length} bytes")
        data = self.read(lba * SECTOR, length, f"the folder '{path or '/'}'")
        at = 0
        while at < len(data):
            size = data[at]
            if size == 0:
                # Records do not cross sectors; the rest of this one is empty.
                at = (at // SECTOR + 1) * SECTOR
                continue
            raw = data[at : at + size]
            at += size
            if size < 34 or len(raw) != size or 33 + raw[32] > size:
                raise ImageError(f"a record of the image's folder '{path or '/'}' is damaged: {raw[:34].hex(' ')}")
            identifier, record_lba, record_length, is_folder, continues = _record_head(raw)
            if identifier in (b"\0", b"\1"):
                continue
            name, relocated = self._rock_ridge_name(raw) if rock_ridge else ("", False)
            yield DirectoryRecord(
                identifier=identifier,
                rock_ridge_name=name,
                lba=record_lba,
                length=record_length,
                is_folder=is_folder,
                continues=continues,
                relocated=relocated,
                hidden=bool(raw[25] & 1),
            )

    def _rock_ridge_name(self, record: bytes) -> tuple[str, bool]:
        """The NM entries of a record (IEEE P1282 4.1.4), and whether CL says that the folder lies elsewhere."""
        start = 33 + record[32]
        area = record[start + (start & 1) + self._skip :]
        name, relocated = b"", False
        for _ in range(32):
            following = b""
            while len(area) >= 4 and 4 <= area[2] <= len(area):
                tag, entry, area = area[:2], area[: area[2]], area[area[2] :]
                if tag == b"NM" and len(entry) >= 5:
                    name += entry[5:]
                elif tag == b"CL":
                    relocated = True
                elif tag == b"CE" and len(entry) >= 28:
                    block, offset, length = (int.from_bytes(entry[i : i + 4], "little") for i in (4, 12, 20))
                    following = self.read(block * SECTOR + offset, min(length, SECTOR), "a Rock Ridge continuation")
                elif tag == b"ST":
                    break
            if not following:
                break
            area = following
        return name.decode("utf-8", "replace"), relocated


def _record_head(record: bytes) -> tuple[bytes, int, int, bool, bool]:
    """Identifier, first block, length in bytes, whether it is a folder, whether the next record continues the file."""
    lba, length = int.from_bytes(record[2:6], "little"), int.from_bytes(record[10:14], "little")
    flags = record[25]
    return record[33 : 33 + record[32]], lba, length, bool(flags & 2), bool(flags & 0x80)


def _name(record: DirectoryRecord, tree: Tree) -> str:
    name = record.rock_ridge_name
    if not name:
        encoding = "utf-16-be" if tree is Tree.JOLIET else "latin-1"
        name = record.identifier.decode(encoding, "replace")
        if not record.is_folder:
            name = name.partition(";")[0].removesuffix("." if tree is Tree.PRIMARY else "")
    # Names come from the image: they must not look like a path or break a terminal's line.
    return "".join(c if c.isprintable() and c != "/" else "\N{REPLACEMENT CHARACTER}" for c in name)


def _catalog_entry(raw: bytes, platform: int) -> BootCatalogEntry:
    indicator, media_type, segment, _, _, load_size, lba = struct.unpack_from("<BBHBBHI", raw)
    return BootCatalogEntry(
        platform=platform,
        bootable=indicator == 0x88,
        media_type=media_type & 0x0F,
        load_segment=segment,
        load_size=load_size,
        lba=lba,
    )


def _long_date(field: bytes) -> int | None:
    """A 17-byte date (ECMA-119 8.4.26.1) as seconds UTC; None where it is not set or not a date."""
    digits = field[:14]
    if not digits.isdigit() or digits == b"0" * 14:
        return None
    numbers = [int(digits[:4])] + [int(digits[i : i + 2]) for i in range(4, 14, 2)]
    year, month, day, hour, minute, second = numbers
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return None
    offset = int.from_bytes(field[16:17], "little", signed=True)
    return calendar.timegm((year, month, day, hour, minute, second)) - offset * 900
