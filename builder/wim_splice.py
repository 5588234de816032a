"""A WIM changed without reading, copying or compressing again what stays: libwim works on its tables alone.

libwim is given a skeleton: the base's header, tables and folders in their places, and a hole where the contents are. It
appends what is new and writes new tables. `splice` then puts header, kept contents and new parts one behind the other,
without what only other images had; all that changes are the offsets in the header and the lookup table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ImageError
from builder.extents import Extents, Joined, merged, whole_file
from builder.wim import Wim, open_wim
from builder.wim_format import HEADER_SIZE, LOOKUP_ENTRY_SIZE, Resource

_FLAGS_AT, _READ_ONLY = 16, 0x4
#: Where the header has its resource headers.
_TABLE_AT, _XML_AT, _BOOT_METADATA_AT, _INTEGRITY_AT = 48, 72, 96, 124
_COUNT_AT = 26
#: The size of all contents, in the XML data beside what describes the images.
_TOTAL = re.compile(r"(<WIM>\s*(?:<IMAGE\b.*?</IMAGE>\s*)*<TOTALBYTES>)\d+", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class SplicedWim:
    """A WIM that is nowhere yet. `kept`: (offset, length) in the base, in order. `new`: a file with the header, and
    with all that comes behind what is kept."""

    new: Path
    kept: tuple[tuple[int, int], ...]

    def joined(self, base: Extents, *, name: str) -> Joined:
        """The WIM as a file to be; raises BaseMediaError where `base` ends before."""
        new = whole_file(self.new)
        kept = tuple(base.part(offset, length) for offset, length in self.kept)
        return Joined(parts=(new.part(0, HEADER_SIZE), *kept, new.part(HEADER_SIZE, new.size - HEADER_SIZE)), name=name)


def write_skeleton(wim: Wim, target: Path) -> None:
    """Write `wim` without its contents: a sparse file of the same size."""
    header = wim.header
    folders = [wim.metadata_resource(number) for number in range(1, header.image_count + 1)]
    with target.open("wb") as stream:
        stream.write(_writable(wim.source.read(0, HEADER_SIZE)))
        for resource in (*folders, header.lookup_table, header.xml):
            stream.seek(resource.offset)
            stream.write(wim.source.read(resource.offset, resource.stored))
        stream.truncate(wim.source.size)


def splice(changed: Path, base_size: int, new: Path) -> SplicedWim:
    """Put together what libwim appended to the skeleton `changed`, which had `base_size` bytes; writes the file `new`.

    Raises ImageError where libwim's tables do not make sense.
    """
    wim = open_wim(changed)
    header, source = wim.header, wim.source
    entries = list(_entries(source.read(header.lookup_table.offset, header.lookup_table.stored)))
    places = sorted((resource.offset, resource.stored) for resource, _ in entries)
    kept = merged([place for place in places if place[0] < base_size])
    appended = merged([place for place in places if place[0] >= base_size])
    moved, end = _moved(places)
    table = b"".join(_at(raw, moved[resource.offset]) for resource, raw in entries)
    xml = _with_total(source.read(header.xml.offset, header.xml.stored), end + len(table))
    head = bytearray(source.read(0, HEADER_SIZE))
    head[_TABLE_AT : _TABLE_AT + 24] = _plain(head[_TABLE_AT + 7], len(table), end)
    head[_XML_AT : _XML_AT + 24] = _plain(head[_XML_AT + 7], len(xml), end + len(table))
    boots = bytes(head[_BOOT_METADATA_AT : _BOOT_METADATA_AT + 24])
    if header.boot_metadata.offset:
        if header.boot_metadata.offset not in moved:
            raise ImageError("the WIM's header and its lookup table name different folders to boot from")
        head[_BOOT_METADATA_AT : _BOOT_METADATA_AT + 24] = _at(boots, moved[header.boot_metadata.offset])
    head[_INTEGRITY_AT : _INTEGRITY_AT + 24] = bytes(24)
    with new.open("wb", buffering=0) as stream:
        stream.write(head)
        Extents(path=changed, pieces=appended, name=wim.name).append_to(stream.fileno())
        stream.write(table + xml)
    return SplicedWim(new=new, kept=kept)


def _entries(table: bytes) -> Iterator[tuple[Resource, bytes]]:
    """The entries of a lookup table that something refers to."""
    for at in range(0, len(table) - LOOKUP_ENTRY_SIZE + 1, LOOKUP_ENTRY_SIZE):
        raw = table[at : at + LOOKUP_ENTRY_SIZE]
        if any(raw[_COUNT_AT : _COUNT_AT + 4]):
            yield Resource.unpack(raw[:24]), raw


def _moved(places: list[tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Where each resource comes to lie, by where it lay, in the same order without gaps; and where they end."""
    moved: dict[int, int] = {}
    position, before = HEADER_SIZE, HEADER_SIZE
    for offset, stored in places:
        if offset < before:
            raise ImageError(f"the WIM's lookup table has two resources at byte {offset}")
        moved[offset] = position
        position, before = position + stored, offset + stored
    return moved, position


def _at(raw: bytes, offset: int) -> bytes:
    """A resource header, or what begins with one, with another offset."""
    return bytes(raw[:8]) + offset.to_bytes(8, "little") + bytes(raw[16:])


def _plain(flags: int, size: int, offset: int) -> bytes:
    """The resource header of something that is not compressed."""
    return size.to_bytes(7, "little") + bytes([flags]) + offset.to_bytes(8, "little") + size.to_bytes(8, "little")


def _with_total(xml: bytes, total: int) -> bytes:
    """The XML data (UTF-16LE) with `total` as the size of all contents."""
    try:
        text = xml.decode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ImageError(f"the WIM's XML data is no text: {error}") from error
    return _TOTAL.sub(rf"\g<1>{total}", text, count=1).encode("utf-16-le", "surrogatepass")


def _writable(header: bytes) -> bytes:
    """The header without the flag that tells programs to leave the file as it is: this is a copy."""
    flags = int.from_bytes(header[_FLAGS_AT : _FLAGS_AT + 4], "little") & ~_READ_ONLY
    return header[:_FLAGS_AT] + flags.to_bytes(4, "little") + header[_FLAGS_AT + 4 :]
