"""The folders of a WIM's image: directory entries of its metadata resource ([MS-WIM], "DIRENTRY"; wimlib, dentry.c).

libwim gets to see an image only after `ImageMetadata.check`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import ImageError

#: A directory entry's attributes, start of children, sha1, number of extra streams and length of its name in bytes.
_DENTRY = struct.Struct("<8xI4xQ40x20s12xH2xH")
_STREAM_ENTRY_SIZE = 38
#: Names that are no names of a file in this folder.
_LEAVES_FOLDER = re.compile(r"^\.{0,2}\Z|[/\\\0]")
_MOST_ENTRIES = 1_000_000
_DEEPEST = 128
_ATTRIBUTE_FOLDER = 0x10
_ATTRIBUTE_REPARSE_POINT = 0x400
_FOLDER_OR_REPARSE_POINT = _ATTRIBUTE_FOLDER | _ATTRIBUTE_REPARSE_POINT
_NO_HASH = bytes(20)


@dataclass(frozen=True, kw_only=True)
class WimEntry:
    """A file or folder of an image. `path`: "/" between parts, none at the front. `sha1`: of its content, or zeroes."""

    path: str
    is_folder: bool
    is_reparse_point: bool
    attributes: int
    sha1: bytes
    children: int

    @property
    def is_empty(self) -> bool:
        """Whether it has no content."""
        return self.sha1 == _NO_HASH


@dataclass(frozen=True)
class ImageMetadata:
    """The decompressed metadata resource of one image: its folders."""

    raw: bytes
    name: str

    def root(self) -> int:
        """Where the root folder's children begin; 0 when there are none."""
        length = int.from_bytes(self.raw[:4], "little")
        at = max(8, (length + 7) & ~7)
        if at + _DENTRY.size > len(self.raw):
            raise self._damaged("it has no root folder")
        return int.from_bytes(self.raw[at + 16 : at + 24], "little")

    def folder(self, at: int, path: str = "") -> Iterator[WimEntry]:
        """The entries of the folder whose children begin at `at`; `path` is put before their names.

        Raises ImageError for what cannot be: names that leave the folder, entries that leave the data.
        """
        for name, attributes, children, sha1 in self._entries(at, path):
            yield WimEntry(
                path=f"{path}/{name}" if path else name,
                is_folder=attributes & _FOLDER_OR_REPARSE_POINT == _ATTRIBUTE_FOLDER,
                is_reparse_point=bool(attributes & _ATTRIBUTE_REPARSE_POINT),
                attributes=attributes,
                sha1=sha1,
                children=children,
            )

    def walk(self) -> Iterator[WimEntry]:
        """Every file and folder. Raises ImageError as `check` does."""
        for path, at in self._folders():
            yield from self.folder(at, path)

    def check(self) -> None:
        """Read every entry. Raises ImageError for a cycle, too deep a tree, too many entries, names with "..": for
        what libwim must not be given. About 5 microseconds an entry.
        """
        for _ in self._folders():
            pass

    def _folders(self) -> Iterator[tuple[str, int]]:
        """(path, where its children begin) of every folder, the root first; each was read to its end."""
        pending = [("", self.root(), frozenset[int]())]
        count = 0
        while pending:
            path, at, above = pending.pop()
            if len(above) > _DEEPEST:
                raise self._damaged(f"its folders are more than {_DEEPEST} deep")
            for name, attributes, children, _ in self._entries(at, path):
                count += 1
                if count > _MOST_ENTRIES:
                    raise self._damaged(f"it has more than {_MOST_ENTRIES} entries")
                if children and attributes & _FOLDER_OR_REPARSE_POINT == _ATTRIBUTE_FOLDER:
                    below = f"{path}/{name}" if path else name
                    if children == at or children in above:
                        raise ImageError(f"{self.name} is damaged: its folder '{below}' contains itself")
                    pending.append((below, children, above | {at}))
            yield path, at

    def _entries(self, at: int, path: str) -> Iterator[tuple[str, int, int, bytes]]:
        """(name, attributes, where its children begin, sha1) of what the folder `path` holds."""
        raw, size = self.raw, len(self.raw)
        while at:
            if at + 8 > size:
                raise self._damaged(f"the folder '{path}' leaves it")
            length = int.from_bytes(raw[at : at + 8], "little")
            if length <= 8:
                return
            if length < _DENTRY.size or at + length > size:
                raise self._damaged(f"an entry of the folder '{path}' has {length} bytes")
            attributes, children, sha1, streams, name_length = _DENTRY.unpack_from(raw, at)
            if _DENTRY.size + name_length > length:
                raise self._damaged(f"a name in the folder '{path}' has {name_length} bytes")
            name_at = at + _DENTRY.size
            name = raw[name_at : name_at + name_length].decode("utf-16-le", "replace")
            if _LEAVES_FOLDER.search(name):
                raise self._leaves(name, path)
            at += (length + 7) & ~7
            if streams:
                at, unnamed = self._streams(at, streams, path)
                sha1 = unnamed or sha1
            yield name, attributes, children, sha1

    def _streams(self, at: int, count: int, path: str) -> tuple[int, bytes]:
        """Where the `count` extra stream entries at `at` end, and the sha1 of the unnamed one among them."""
        unnamed = b""
        for _ in range(count):
            if at + _STREAM_ENTRY_SIZE > len(self.raw):
                raise self._damaged(f"a stream in the folder '{path}' leaves it")
            length = int.from_bytes(self.raw[at : at + 8], "little")
            if length < _STREAM_ENTRY_SIZE or at + length > len(self.raw):
                raise self._damaged(f"a stream in the folder '{path}' has {length} bytes")
            sha1, name_length = self.raw[at + 16 : at + 36], self.raw[at + 36 : at + 38]
            if name_length == b"\0\0" and sha1 != _NO_HASH:
                unnamed = sha1
            at += (length + 7) & ~7
        return at, unnamed

    def _leaves(self, name: str, path: str) -> ImageError:
        return ImageError(
            f"{self.name} holds a file named {name!r} in '{path or '/'}', which would leave its folder",
            hint="Windows's own tools write no such names: the file was tampered with. Get it anew.",
        )

    def _damaged(self, what: str) -> ImageError:
        return ImageError(f"the metadata of {self.name} is damaged: {what}")
