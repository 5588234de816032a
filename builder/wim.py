"""Windows images (WIM): what is in one, read from a file or from byte runs inside an ISO, without a copy.

Folders are read by `builder.wim_metadata`, chunks decompressed by libwim. `builder.wim_build` writes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from builder.errors import BaseMediaError, ImageError
from builder.extents import Extents, whole_file
from builder.wim_format import (
    HEADER_SIZE,
    LARGEST_METADATA,
    Compression,
    Resource,
    WimHeader,
    WimImageInfo,
    chunk_offsets,
    parse_header,
    parse_lookup_table,
    parse_xml,
    refuse_solid,
)
from builder.wim_library import Decompressor, Progress
from builder.wim_metadata import ImageMetadata, WimEntry

_LARGEST_FILE = 256 << 20
_SMALL_FILE = 64 << 10
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WimInfo:
    """A WIM at a glance. `boot_index`: 1-based image that boots, 0 for none; `integrity`: it has sha1 sums."""

    size: int
    compression: Compression
    solid: bool
    boot_index: int
    integrity: bool
    guid: str
    images: tuple[WimImageInfo, ...]


@dataclass(kw_only=True)
class Wim:
    """A WIM to read from. Methods raise ImageError where it is damaged, ToolMissing where libwim is not there."""

    source: Extents
    header: WimHeader
    _metadata: dict[int, ImageMetadata] = field(default_factory=dict)
    _threads: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source.name

    @cached_property
    def images(self) -> tuple[WimImageInfo, ...]:
        """What the XML data says about every image; needs no libwim."""
        xml = self.header.xml
        raw = self._resource(xml) if xml.compressed else self.source.read(xml.offset, xml.stored)
        return parse_xml(raw, image_count=self.header.image_count, name=self.name)

    @property
    def info(self) -> WimInfo:
        """The WIM at a glance; needs no libwim."""
        header = self.header
        return WimInfo(
            size=self.source.size,
            compression=header.compression,
            solid=header.solid,
            boot_index=header.boot_index,
            integrity=header.integrity.size > 0,
            guid=header.guid.hex(),
            images=self.images,
        )

    def image(self, index: int) -> WimImageInfo:
        """Image `index`, 1-based."""
        self._check_index(index)
        return self.images[index - 1]

    def find(self, index: int, path: str) -> WimEntry | None:
        """A file or folder of an image by its path, ignoring case ("Windows/System32/cmd.exe"); None when absent."""
        metadata = self._image_metadata(index)
        at, found, wanted = metadata.root(), None, [part for part in path.replace("\\", "/").split("/") if part]
        for depth, part in enumerate(wanted):
            above = "/".join(wanted[:depth])
            found = next((e for e in metadata.folder(at, above) if _same(e.path.rpartition("/")[2], part)), None)
            if found is None:
                return None
            at = found.children if found.is_folder else 0
        return found

    def contains(self, index: int, paths: Iterable[str]) -> dict[str, bool]:
        """Whether image `index` holds each of `paths`, ignoring case. Each folder is read once."""
        listed: dict[str, frozenset[str]] = {}
        answer = {}
        for path in paths:
            folder, _, name = path.replace("\\", "/").strip("/").rpartition("/")
            key = folder.casefold()
            if key not in listed:
                listed[key] = frozenset(_last(entry).casefold() for entry in self.list_folder(index, folder))
            answer[path] = name.casefold() in listed[key]
        return answer

    def list_folder(self, index: int, path: str = "") -> tuple[WimEntry, ...]:
        """What a folder of image `index` holds; nothing where there is no such folder."""
        metadata = self._image_metadata(index)
        if not path.strip("/\\"):
            return tuple(metadata.folder(metadata.root()))
        found = self.find(index, path)
        return tuple(metadata.folder(found.children, found.path)) if found is not None and found.is_folder else ()

    def walk(self, index: int) -> Iterator[WimEntry]:
        """Every file and folder of image `index`. Raises ImageError for a cycle or a name that leaves its folder."""
        return self._image_metadata(index).walk()

    def read(self, index: int, path: str) -> bytes:
        """The content of one file. Raises BaseMediaError when it is absent, ImageError when it is damaged."""
        entry = self.find(index, path)
        if entry is None or entry.is_folder:
            raise BaseMediaError(f"image {index} of {self.name} has no file {path}")
        return self.read_entry(entry)

    def read_if_present(self, index: int, path: str) -> bytes | None:
        """The content of one file; None where there is none."""
        entry = self.find(index, path)
        return self.read_entry(entry) if entry is not None and not entry.is_folder else None

    def names(self, index: int, path: str) -> tuple[str, ...]:
        """The names of what a folder of image `index` holds; none where there is no such folder."""
        return tuple(_last(entry) for entry in self.list_folder(index, path))

    def read_entry(self, entry: WimEntry) -> bytes:
        """The content of one file, checked against its sha1."""
        if entry.is_empty:
            return b""
        resource = self._tables[1].get(entry.sha1)
        if resource is None:
            raise ImageError(f"{self.name} is damaged: the content of '{entry.path}' is missing")
        if resource.size > _LARGEST_FILE:
            raise ImageError(f"'{entry.path}' in {self.name} has {resource.size} bytes, more than is ever needed")
        data = self._resource(resource)
        if hashlib.sha1(data, usedforsecurity=False).digest() != entry.sha1:
            raise ImageError(
                f"'{entry.path}' in {self.name} is damaged: its sha1 is not what the WIM says",
                hint="The download or the copy is incomplete. Compare its sha256 with the publisher's.",
            )
        return data

    def size_of(self, entry: WimEntry) -> int:
        """Bytes of one file."""
        resource = self._tables[1].get(entry.sha1)
        return resource.size if resource is not None else 0

    def metadata_resource(self, index: int) -> Resource:
        """Where the folders of image `index` lie."""
        self._check_index(index)
        return self._tables[0][index - 1][0]

    def check(self, index: int) -> None:
        """Read every folder of image `index`: raises ImageError for what libwim must not be given."""
        self._image_metadata(index).check()

    def damaged(self, progress: Progress | None = None, *, image: int | None = None) -> tuple[str, ...]:
        """Decompress every file and compare its sha1: the paths ("1:Windows/System32/a.dll") of those that differ.

        `image`: those of one image alone. Uses every processor; about 150 MB of files a second on each. `progress`
        gets bytes done and total.
        """
        return self._damaged(self._tables[1] if image is None else self._resources_of(image), progress)

    def damaged_of_sample(self, count: int) -> tuple[str, ...]:
        """As `damaged`, of at most `count` small files from all over the WIM."""
        small = [item for item in self._tables[1].items() if item[1].size <= _SMALL_FILE]
        small.sort(key=lambda item: item[1].offset)
        return self._damaged(dict(small[:: -(-len(small) // count) or 1]), None)

    def _damaged(self, resources: Mapping[bytes, Resource], progress: Progress | None) -> tuple[str, ...]:
        total = sum(resource.size for resource in resources.values())
        done, bad = 0, set[bytes]()
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            checked = pool.map(lambda item: (item[0], item[1].size, self._matches(*item)), resources.items())
            for sha1, size, matches in checked:
                done += size
                if not matches:
                    bad.add(sha1)
                if progress is not None:
                    progress(done, total)
        return tuple(self._paths_of(bad)) if bad else ()

    def _matches(self, sha1: bytes, resource: Resource) -> bool:
        digest = hashlib.sha1(usedforsecurity=False)
        try:
            for chunk in self._chunks(resource) if resource.compressed else self._pieces(resource):
                digest.update(chunk)
        except ImageError:
            return False
        return digest.digest() == sha1

    def _resources_of(self, index: int) -> dict[bytes, Resource]:
        """All but what other images alone hold: named streams, which no folder lists as a file's content, stay in."""
        own = {entry.sha1 for entry in self.walk(index)}
        numbers = range(1, self.header.image_count + 1)
        others = {entry.sha1 for number in numbers if number != index for entry in self.walk(number)} - own
        return {sha1: resource for sha1, resource in self._tables[1].items() if sha1 not in others}

    def _paths_of(self, hashes: Collection[bytes]) -> Iterator[str]:
        named = set()
        for index in range(1, self.header.image_count + 1):
            for entry in self.walk(index):
                if entry.sha1 in hashes:
                    named.add(entry.sha1)
                    yield f"{index}:{entry.path}"
        yield from (f"a named stream, sha1 {sha1.hex()}" for sha1 in sorted(set(hashes) - named))

    def _pieces(self, resource: Resource) -> Iterator[bytes]:
        for at in range(0, resource.size, _PIECE):
            yield self.source.read(resource.offset + at, min(_PIECE, resource.size - at))

    @cached_property
    def _tables(self) -> tuple[tuple[tuple[Resource, bytes], ...], dict[bytes, Resource]]:
        refuse_solid(self.header, self.name)
        raw = self._resource(self.header.lookup_table)
        metadata, by_hash = parse_lookup_table(raw, file_size=self.source.size, name=self.name)
        if len(metadata) != self.header.image_count:
            raise ImageError(
                f"{self.name} is damaged: it has {self.header.image_count} images, but folders for {len(metadata)}"
            )
        return metadata, by_hash

    def _image_metadata(self, index: int) -> ImageMetadata:
        self._check_index(index)
        if index not in self._metadata:
            resource, sha1 = self._tables[0][index - 1]
            if resource.size > LARGEST_METADATA:
                raise ImageError(f"the folders of image {index} of {self.name} claim {resource.size} bytes")
            name = f"image {index} of {self.name}"
            raw = self._resource(resource)
            if hashlib.sha1(raw, usedforsecurity=False).digest() != sha1:
                raise ImageError(f"the folders of {name} are damaged: their sha1 is not what the WIM says")
            self._metadata[index] = ImageMetadata(raw, name)
        return self._metadata[index]

    def _resource(self, resource: Resource) -> bytes:
        if not resource.compressed:
            return self.source.read(resource.offset, resource.size)
        return b"".join(self._chunks(resource))

    def _chunks(self, resource: Resource) -> Iterator[bytes]:
        chunk_size = self.header.chunk_size
        if self.header.compression is Compression.NONE:
            raise ImageError(f"{self.name} is damaged: it has a compressed resource, but no compression")
        count = -(-resource.size // chunk_size)
        entry = 4 if resource.size < 1 << 32 else 8
        table_size = (count - 1) * entry
        # LZX packs 32 KiB into hardly less than 20 bytes; a resource cannot claim more than that.
        if count < 1 or table_size >= resource.stored or resource.size > resource.stored * 4096:
            raise ImageError(f"{self.name} is damaged: a resource of {resource.size} bytes in {resource.stored}")
        data = self.source.read(resource.offset, resource.stored)
        left = resource.size
        decompress = self._decompressor()
        for at, length in chunk_offsets(data[:table_size], count=count, entry=entry, stored=resource.stored):
            size = min(chunk_size, left)
            chunk = data[table_size + at : table_size + at + length]
            yield chunk if length == size else decompress(chunk, size)
            left -= size

    def _decompressor(self) -> Decompressor:
        """One for each thread: libwim's are not to be shared."""
        found: Decompressor | None = getattr(self._threads, "decompressor", None)
        if found is None:
            found = self._threads.decompressor = Decompressor(self.header.compression, self.header.chunk_size)
        return found

    def _check_index(self, index: int) -> None:
        if not 1 <= index <= self.header.image_count:
            raise BaseMediaError(f"{self.name} has no image {index}; it has {self.header.image_count}")


def open_wim(source: Extents | Path) -> Wim:
    """Read a WIM's header. Raises ImageError when it is not one, is cut off, split or pipable; solid ones only open."""
    extents = whole_file(source) if isinstance(source, Path) else source
    head = extents.read(0, min(HEADER_SIZE, extents.size))
    return Wim(source=extents, header=parse_header(head, file_size=extents.size, name=extents.name))


def check_integrity(wim: Wim) -> bool:
    """Compare the raw bytes with the table of sha1 sums; False when it has none. Raises ImageError on a difference."""
    table = wim.header.integrity
    if not table.size:
        return False
    raw = wim.source.read(table.offset, table.stored)
    size, count, chunk = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4, 8))
    end = wim.header.lookup_table.offset + wim.header.lookup_table.stored
    if len(raw) < 12 or size != len(raw) or size != 12 + 20 * count or not chunk or count != -(-(end - 208) // chunk):
        raise ImageError(f"the integrity table of {wim.name} is damaged")
    for number in range(count):
        at = HEADER_SIZE + number * chunk
        data = wim.source.read(at, min(chunk, end - at))
        if hashlib.sha1(data, usedforsecurity=False).digest() != raw[12 + 20 * number : 32 + 20 * number]:
            raise ImageError(f"{wim.name} is damaged between the bytes {at} and {at + len(data)}")
    return True


def _last(entry: WimEntry) -> str:
    return entry.path.rpartition("/")[2]


def _same(name: str, other: str) -> bool:
    return name.casefold() == other.casefold()
