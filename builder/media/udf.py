"""Reading UDF volumes back: UDF 1.02 on ECMA-167, as Windows install media and our WinPE images have it.

Independent of pycdlib, which writes them. One type-1 partition, file entries with short, long or embedded allocation
descriptors; no metadata partitions (UDF 2.50). It never trusts what it reads: everything it cannot make sense of is an
ImageError.
"""

from __future__ import annotations

import binascii
import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import ImageError
from builder.media.iso9660 import IsoEntry

SECTOR = 2048
#: The block of the first anchor; another is in the last block.
ANCHOR = 256
_MOST_DESCRIPTORS = 64
_MOST_FILES = 500_000
_MOST_EXTENTS = 65_536
_DEEPEST = 64
_LARGEST_FOLDER = 16 << 20
_CHUNK = 1 << 20
_EXTENT_LENGTH = 0x3FFFFFFF


class TagId(enum.IntEnum):
    """Descriptor tags (ECMA-167 3/7.2.1 and 4/7.2.1)."""

    PRIMARY_VOLUME = 1
    ANCHOR = 2
    PARTITION = 5
    LOGICAL_VOLUME = 6
    TERMINATING = 8
    FILE_SET = 256
    FILE_IDENTIFIER = 257
    ALLOCATION_EXTENT = 258
    FILE_ENTRY = 261
    EXTENDED_FILE_ENTRY = 266


class FileType(enum.IntEnum):
    """ICB file types (ECMA-167 4/14.6.6)."""

    FOLDER = 4
    FILE = 5


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A file entry: what it is, its size, where its bytes lie (offset, length)."""

    kind: int
    size: int
    pieces: tuple[tuple[int, int], ...]


class UdfVolume:
    """An open UDF volume. `stream` must stay open while it is used; `size` is its length in bytes.

    Raises ImageError when it is not one, or, from the methods, when it is damaged.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream = stream
        self.size = size
        self.volume_id = ""
        self._partition = 0
        self._partition_length = 0
        self._root = self._mount()

    def files(self) -> Iterator[IsoEntry]:
        """Every file, folder by folder in the order on the disc."""
        pending = [("", self._root, 0)]
        seen = {self._root}
        count = 0
        while pending:
            path, block, depth = pending.pop(0)
            folder = self._node(block, path or "/")
            if folder.kind != FileType.FOLDER:
                raise ImageError(f"the image's folder '{path or '/'}' is of type {folder.kind}")
            for name, child, is_folder in self._children(folder, path or "/"):
                count += 1
                if count > _MOST_FILES:
                    raise ImageError(f"the image has more than {_MOST_FILES} files")
                below = f"{path}/{name}" if path else name
                if is_folder:
                    # A circle is damage; the same folder under a second name is only listed once.
                    if child not in seen and depth < _DEEPEST:
                        seen.add(child)
                        pending.append((below, child, depth + 1))
                    continue
                node = self._node(child, below)
                yield IsoEntry(path=below, size=node.size, pieces=node.pieces)

    def chunks(self, entry: IsoEntry) -> Iterator[bytes]:
        """The content of a file, at most 1 MiB at a time."""
        for offset, length in entry.pieces:
            for at in range(0, length, _CHUNK):
                yield self._read(offset + at, min(_CHUNK, length - at), f"the file '{entry.path}'")

    def _mount(self) -> int:
        """Follow the anchor to the root folder; returns its block in the partition."""
        if self.size < (ANCHOR + 1) * SECTOR:
            raise ImageError(f"not a UDF image: an anchor is expected in block {ANCHOR}, the file ends before")
        anchor = self._descriptor(ANCHOR * SECTOR, TagId.ANCHOR, "the UDF anchor")
        length, location = struct.unpack_from("<II", anchor, 16)
        file_set: tuple[int, int] | None = None
        for number in range(min(length // SECTOR, _MOST_DESCRIPTORS)):
            at = (location + number) * SECTOR
            tag = self._tag(self._read(at, SECTOR, "a UDF volume descriptor"), "a UDF volume descriptor")
            if tag == TagId.PARTITION:
                raw = self._descriptor(at, TagId.PARTITION, "the UDF partition descriptor")
                self._partition, self._partition_length = struct.unpack_from("<II", raw, 188)
            elif tag == TagId.LOGICAL_VOLUME:
                raw = self._descriptor(at, TagId.LOGICAL_VOLUME, "the UDF logical volume descriptor")
                file_set = self._logical_volume(raw)
            elif tag == TagId.TERMINATING:
                break
        if file_set is None or not self._partition_length:
            raise ImageError("the UDF volume descriptors name no logical volume or no partition")
        raw = self._descriptor(self._at(file_set[1]), TagId.FILE_SET, "the UDF file set")
        _, root, _ = struct.unpack_from("<IIH", raw, 400)
        return int(root)

    def _logical_volume(self, raw: bytes) -> tuple[int, int]:
        """Check what is supported; the extent (length, block) of the file set (ECMA-167 3/10.6)."""
        self.volume_id = _dstring(raw[84:212])
        block_size, maps = struct.unpack_from("<I", raw, 212)[0], struct.unpack_from("<I", raw, 268)[0]
        if block_size != SECTOR or maps != 1 or raw[440:442] != b"\1\6":
            raise ImageError(
                f"the UDF volume has blocks of {block_size} bytes and {maps} partition maps; not supported"
            )
        length, block = struct.unpack_from("<II", raw, 248)
        return length, block

    def _node(self, block: int, what: str) -> _Node:
        """The file entry in `block` of the partition (ECMA-167 4/14.9, 4/14.17)."""
        at = self._at(block)
        tag = self._tag(self._read(at, SECTOR, f"the entry of '{what}'"), what)
        if tag not in (TagId.FILE_ENTRY, TagId.EXTENDED_FILE_ENTRY):
            raise ImageError(f"the UDF entry of '{what}' has the tag {tag}")
        raw = self._descriptor(at, TagId(tag), f"the entry of '{what}'")
        lengths, start = (168, 176) if tag == TagId.FILE_ENTRY else (208, 216)
        (size,) = struct.unpack_from("<Q", raw, 56)
        attributes, allocation = struct.unpack_from("<II", raw, lengths)
        start += attributes
        if start + allocation > SECTOR:
            raise ImageError(f"the UDF entry of '{what}' is damaged: its descriptors do not fit")
        kind, form = raw[16 + 11], struct.unpack_from("<H", raw, 16 + 18)[0] & 7
        if form == 3:
            pieces: tuple[tuple[int, int], ...] = ((at + start, size),) if size else ()
            if size > allocation:
                raise ImageError(f"the UDF entry of '{what}' is damaged: {size} bytes are not in it")
        elif form in (0, 1):
            pieces = self._pieces(raw[start : start + allocation], long_form=form == 1, size=size, what=what)
        else:
            raise ImageError(f"the UDF entry of '{what}' has allocation descriptors of form {form}")
        return _Node(kind=kind, size=size, pieces=pieces)

    def _pieces(self, raw: bytes, *, long_form: bool, size: int, what: str) -> tuple[tuple[int, int], ...]:
        """Where `size` bytes lie, from short or long allocation descriptors (ECMA-167 4/14.14)."""
        step = 16 if long_form else 8
        pieces: list[tuple[int, int]] = []
        left, at, seen = size, 0, 0
        while left > 0:
            seen += 1
            if at + step > len(raw) or seen > _MOST_EXTENTS:
                raise ImageError(f"'{what}' in the image has {size} bytes, {left} of them lie nowhere")
            word, block = struct.unpack_from("<II", raw, at)
            at += step
            length, kind = word & _EXTENT_LENGTH, word >> 30
            if kind == 3:
                head = self._descriptor(self._at(block), TagId.ALLOCATION_EXTENT, f"more extents of '{what}'")
                (count,) = struct.unpack_from("<I", head, 20)
                raw, at = head[24 : 24 + count], 0
                continue
            if kind or not length:
                raise ImageError(f"'{what}' in the image has an extent that was not recorded")
            length = min(length, left)
            offset = self._at(block)
            if offset + length > self.size:
                raise self._cut_off(f"the file '{what}'", offset, length)
            if pieces and sum(pieces[-1]) == offset:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
            else:
                pieces.append((offset, length))
            left -= length
        if size > self.size:
            # Its extents lie over each other: reading it all could take for ever.
            raise ImageError(f"'{what}' in the image claims {size} bytes, the whole image has {self.size}")
        return tuple(pieces)

    def _children(self, folder: _Node, path: str) -> Iterator[tuple[str, int, bool]]:
        """Name, block and whether it is a folder, for each file identifier (ECMA-167 4/14.4)."""
        if folder.size > _LARGEST_FOLDER:
            raise ImageError(f"the image's folder '{path}' claims {folder.size} bytes")
        data = b"".join(self._read(offset, length, f"the folder '{path}'") for offset, length in folder.pieces)
        at = 0
        while at + 38 <= len(data):
            characteristics, name_length = data[at + 18], data[at + 19]
            (block,) = struct.unpack_from("<I", data, at + 24)
            (use_length,) = struct.unpack_from("<H", data, at + 36)
            end = at + 38 + use_length + name_length
            if end > len(data) or self._tag(data[at:end], f"the folder '{path}'") != TagId.FILE_IDENTIFIER:
                raise ImageError(f"the image's folder '{path}' is damaged at byte {at}")
            # Writers differ in whether the checksum covers the padding.
            _check_crc(data[at : (end + 3) & ~3], f"the folder '{path}'")
            # Deleted entries and the parent are not children.
            if not characteristics & 0x0C:
                yield _file_name(data[end - name_length : end]), block, bool(characteristics & 2)
            at = (end + 3) & ~3

    def _at(self, block: int) -> int:
        """Byte offset of a block of the partition."""
        if block >= self._partition_length:
            raise ImageError(f"the UDF volume refers to block {block}; its partition has {self._partition_length}")
        return (self._partition + block) * SECTOR

    def _descriptor(self, at: int, tag: TagId, what: str) -> bytes:
        """The descriptor at `at`, which must have that tag and be whole."""
        raw = self._read(at, SECTOR, what)
        found = self._tag(raw, what)
        if found != tag:
            raise ImageError(f"{what} is expected at byte {at:#x} (tag {tag.value}), found tag {found}")
        _check_crc(raw, what)
        return raw

    def _tag(self, raw: bytes, what: str) -> int:
        if len(raw) < 16 or (sum(raw[:16]) - raw[4]) & 0xFF != raw[4]:
            raise ImageError(f"{what} is damaged: its tag's checksum is wrong: {raw[:16].hex(' ')}")
        return int.from_bytes(raw[:2], "little")

    def _read(self, offset: int, length: int, what: str) -> bytes:
        if length < 0 or offset + length > self.size:
            raise self._cut_off(what, offset, length)
        self.stream.seek(offset)
        data = self.stream.read(length)
        if len(data) != length:
            raise ImageError(f"the image ended while {what} was read")
        return data

    def _cut_off(self, what: str, offset: int, length: int) -> ImageError:
        return ImageError(
            f"the image is cut off: it has {self.size} bytes, {what} lies at bytes {offset} to {offset + length}"
        )


def anchor_at(anchor: bytes, block: int) -> bytes:
    """The anchor (ECMA-167 3/10.2) of one block as it has to be in another: its tag says where it is (3/7.2)."""
    moved = bytearray(anchor)
    struct.pack_into("<I", moved, 12, block)
    moved[4] = (sum(moved[:16]) - moved[4]) & 0xFF
    return bytes(moved)


def _check_crc(raw: bytes, what: str) -> None:
    expected, length = struct.unpack_from("<HH", raw, 8)
    if length > len(raw) - 16 or binascii.crc_hqx(raw[16 : 16 + length], 0) != expected:
        raise ImageError(f"{what} is damaged: its checksum is wrong")


def _characters(raw: bytes) -> str:
    """Text in OSTA compressed Unicode (UDF 2.1.1): 8 or 16 bits a character."""
    if raw[:1] == b"\x10":
        return raw[1 : 1 + (len(raw) - 1 & ~1)].decode("utf-16-be", "replace")
    return raw[1:].decode("latin-1")


def _file_name(raw: bytes) -> str:
    # Names come from the image: they must not look like a path or break a terminal's line.
    name = "".join(c if c.isprintable() and c != "/" else "\N{REPLACEMENT CHARACTER}" for c in _characters(raw))
    return name if name not in ("", ".", "..") else "\N{REPLACEMENT CHARACTER}"


def _dstring(field: bytes) -> str:
    """A fixed-length string: its last byte says how many are used (ECMA-167 1/7.2.12)."""
    return _characters(field[: min(field[-1], len(field) - 1)]).rstrip("\0 ")
