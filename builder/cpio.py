"""The "newc" cpio format (cpio(5), "New ASCII Format"; Linux Documentation/driver-api/early-userspace/buffer-format).

Written sorted, owned by root, with one time for every entry, so that the same entries always give the same bytes and
no root rights are needed for device nodes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
_HEADER_SIZE = 110
_FIELDS = 13
#: The kernel rejects longer names (PATH_MAX).
_LONGEST_NAME = 4096


class CpioError(ValueError):
    """Bytes that are not a newc archive; the message says where (offset in bytes) and what was found."""


@dataclass(frozen=True, kw_only=True)
class CpioEntry:
    """One entry: `name` relative without leading slash, `mode` with file type, `device` (major, minor) of a node.

    `data` is the content of a file, or the target of a symbolic link.
    """

    name: str
    mode: int
    data: bytes = b""
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


class Tree:
    """Entries of an archive under construction. Parent folders come by themselves; a name set twice is an error."""

    def __init__(self) -> None:
        self._entries: dict[str, CpioEntry] = {}

    def __contains__(self, name: str) -> bool:
        return _clean(name) in self._entries

    def directory(self, name: str, *, mode: int = 0o755) -> None:
        """A folder and its parents; one that exists already stays as it is."""
        name = _clean(name)
        if name in self._entries:
            if not stat.S_ISDIR(self._entries[name].mode):
                raise ValueError(f"{name} is in the archive already and is not a folder")
            return
        self._add(CpioEntry(name=name, mode=stat.S_IFDIR | mode))

    def file(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """An ordinary file."""
        self._add(CpioEntry(name=_clean(name), mode=stat.S_IFREG | mode, data=data))

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(CpioEntry(name=_clean(name), mode=stat.S_IFLNK | 0o777, data=target.encode()))

    def character_device(self, name: str, major: int, minor: int, *, mode: int = 0o600) -> None:
        """A character device node."""
        self._add(CpioEntry(name=_clean(name), mode=stat.S_IFCHR | mode, device=(major, minor)))

    def entries(self) -> list[CpioEntry]:
        """Everything so far, sorted by name: a folder comes before what is in it."""
        return [self._entries[name] for name in sorted(self._entries)]

    def pack(self, *, epoch: int) -> bytes:
        """The archive, with `epoch` (seconds) as the time of every entry."""
        return pack(self.entries(), epoch=epoch)

    def _add(self, entry: CpioEntry) -> None:
        if entry.name in self._entries:
            raise ValueError(f"{entry.name} is in the archive already")
        parent = entry.name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._entries[entry.name] = entry


def pack(entries: list[CpioEntry], *, epoch: int) -> bytes:
    """`entries` as an archive in the order given, padded to 512 bytes so that another archive can follow."""
    out = bytearray()
    for inode, entry in enumerate(entries, 1):
        _write(out, entry, inode=inode, mtime=epoch)
    _write(out, CpioEntry(name=TRAILER, mode=0), inode=0, mtime=0)
    out += bytes(-len(out) % 512)
    return bytes(out)


def unpack(data: bytes) -> Iterator[CpioEntry]:
    """The entries of one archive up to its trailer. Raises CpioError when it is damaged."""
    offset = 0
    while True:
        header = data[offset : offset + _HEADER_SIZE]
        if len(header) < _HEADER_SIZE or header[:6] != MAGIC:
            raise CpioError(f"no newc header at byte {offset}: found {header[:6]!r}, expected {MAGIC!r}")
        fields = _numbers(header, offset)
        mode, mtime, size, major, minor, name_size = (fields[i] for i in (1, 5, 6, 9, 10, 11))
        if not 1 <= name_size <= _LONGEST_NAME:
            raise CpioError(f"the entry at byte {offset} has a name of {name_size} bytes")
        name_end = offset + _HEADER_SIZE + name_size
        start = name_end + -name_end % 4
        if start + size > len(data):
            raise CpioError(f"the entry at byte {offset} is cut short: {len(data)} of {start + size} bytes")
        name = data[offset + _HEADER_SIZE : name_end - 1].decode("utf-8", "surrogateescape")
        if name == TRAILER:
            return
        content = data[start : start + size]
        yield CpioEntry(name=name, mode=mode, data=content, mtime=mtime, device=(major, minor))
        offset = start + size + -size % 4


def _numbers(header: bytes, offset: int) -> list[int]:
    digits = header[6:]
    if any(byte not in b"0123456789abcdefABCDEF" for byte in digits):
        raise CpioError(f"the header at byte {offset} is not hexadecimal: {digits!r}")
    return [int(digits[i * 8 : i * 8 + 8], 16) for i in range(_FIELDS)]


def _write(out: bytearray, entry: CpioEntry, *, inode: int, mtime: int) -> None:
    name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, mtime, len(entry.data), 0, 0, *entry.device, len(name), 0)
    out += MAGIC + b"".join(b"%08X" % number for number in numbers) + name
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)


def _clean(name: str) -> str:
    parts = name.strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a path inside an archive: {name!r}")
    return "/".join(parts)
