"""The payload's file operations on a volume under Windows, without following anything.

Every component of a path is opened by itself with FILE_FLAG_OPEN_REPARSE_POINT and kept open, without the right for
others to rename or delete it, until the operation is done: neither a reparse point nor somebody's quick exchange of a
folder leads out of the volume. The root is `\\\\?\\Volume{GUID}\\`, so that neither a drive letter nor the length of a
path matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import msvcrt
import os
import struct
from collections.abc import Callable, Iterator
from ctypes import wintypes
from typing import BinaryIO

from payload.environment import (
    Entry,
    EntryKind,
    RenameInstead,
    ReparsePointInPath,
    VolumePath,
    any_name,
    windows_path,
)
from payload.environment import windows_api as api
from payload.formats.security_descriptor import (
    ADMINISTRATORS,
    SYSTEM,
    SecurityDescriptorError,
    is_protected_descriptor,
    parse_security_descriptor,
    protected_descriptor,
)

#: Seconds between 1601 (FILETIME) and 1970.
_EPOCH = 11_644_473_600
#: FILE_ID_BOTH_DIR_INFO up to the name: next, index, four times, size, allocation, attributes, name length,
#: extended attributes' size, short name's length and the name itself, file id.
_DIRECTORY_ENTRY = struct.Struct("<II4qqqIIIB1x24s2xq")
_LISTING_BUFFER = 64 * 1024
_OPEN_AS_IT_IS = api.FLAG_OPEN_REPARSE_POINT | api.FLAG_BACKUP_SEMANTICS
_KEPT_IN_PLACE = api.SHARE_READ | api.SHARE_WRITE


class WindowsVolumeFiles:
    """`VolumeFiles` below `root`, which ends with a backslash. Holds nothing open between calls.

    `flush` makes everything written so far lie on the disk. `keeps_descriptors`: the file system has security
    descriptors (FAT has none); without them a new folder is protected by nothing and never believed later.
    """

    def __init__(self, root: str, *, flush: Callable[[], None] = lambda: None, keeps_descriptors: bool = True) -> None:
        self._root = root
        self._flush = flush
        self._keeps_descriptors = keeps_descriptors

    def scan(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """See VolumeFiles. Every entry comes with what is known of it: none is looked at by itself."""
        with self._folder(directory) as folder:
            serial = api.file_information(folder).serial
            yield from (entry for entry in _directory_entries(folder, serial) if wanted(entry.name))

    def listing(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> list[Entry]:
        """See VolumeFiles."""
        return sorted(self.scan(directory, wanted), key=lambda entry: entry.name)

    def entry(self, path: VolumePath) -> Entry | None:
        """See VolumeFiles. None also where the folder it would be in does not exist."""
        if not path:
            raise IsADirectoryError(errno.EISDIR, "the volume's root is no entry")
        try:
            with self._parent(path):
                return self._entry(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_file(self, path: VolumePath) -> BinaryIO:
        """See VolumeFiles. Raises OSError (EINVAL) for what is no ordinary file."""
        with self._parent(path):
            handle = api.open_handle(self._text(path), api.GENERIC_READ, flags=_OPEN_AS_IT_IS)
            try:
                _require_file(handle, path)
                descriptor = msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY)
            except OSError:
                api.close_handle(handle)
                raise
        return os.fdopen(descriptor, "rb")

    def make_directory(self, path: VolumePath) -> None:
        """See VolumeFiles. A folder that cannot be protected is taken away again."""
        with self._parent(path):
            security, _kept = _security(directory=True)
            if not api.kernel32.CreateDirectoryW(self._text(path), ctypes.byref(security)):
                raise api.last_error()
            if self._keeps_descriptors and not _protected(self._text(path)):
                api.kernel32.RemoveDirectoryW(self._text(path))
                raise OSError(errno.EACCES, "the file system did not take the access list")
            self._flush()

    def is_protected(self, path: VolumePath) -> bool:
        """See VolumeFiles. False for whatever cannot be read."""
        if not self._keeps_descriptors:
            return False
        try:
            with self._folder(path):
                return _protected(self._text(path))
        except OSError:
            return False

    def write_file(self, path: VolumePath, data: bytes) -> None:
        """See VolumeFiles. When it fails, neither the old file is changed nor is a new one left behind."""
        with self._parent(path):
            if self._entry(path) is not None:
                with api.opened(self._text(path), api.FILE_READ_ATTRIBUTES, flags=_OPEN_AS_IT_IS) as handle:
                    _require_file(handle, path)
            beside = self._text((*path[:-1], f".{path[-1]}.new"))
            with contextlib.suppress(FileNotFoundError):
                _delete(beside)  # of an earlier run whose power went
            try:
                self._write_new(beside, data)
                moved = api.kernel32.MoveFileExW(beside, self._text(path), api.MOVE_REPLACE | api.MOVE_WRITE_THROUGH)
                if not moved:
                    raise api.last_error()
            except OSError:
                with contextlib.suppress(OSError):
                    _delete(beside)
                raise
            self._flush()

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """See VolumeFiles. The file keeps its attributes (also read-only), times, streams and security descriptor."""
        with self._parent(source), self._parent(destination):
            with api.opened(self._text(source), api.FILE_READ_ATTRIBUTES, flags=_OPEN_AS_IT_IS) as handle:
                _require_file(handle, source)
            if self._entry(destination) is not None:
                raise FileExistsError(errno.EEXIST, f"{windows_path(destination)} is already there")
            if not api.kernel32.MoveFileExW(self._text(source), self._text(destination), api.MOVE_WRITE_THROUGH):
                raise api.last_error()
            self._flush()

    def copy(self, source: VolumePath, destination: VolumePath) -> None:
        """See VolumeFiles. Windows journals what it does to NTFS."""
        raise RenameInstead(errno.ENOTSUP, f"{windows_path(source)} is to be renamed to {windows_path(destination)}")

    def is_left_to_check(self, path: VolumePath, file_number: int) -> bool:  # noqa: ARG002
        """See VolumeFiles. Never: Windows journals what it does to NTFS."""
        return False

    def settle_removal(self, path: VolumePath, file_number: int) -> None:
        """See VolumeFiles. Nothing: Windows journals what it does to NTFS."""

    def remove(self, path: VolumePath) -> None:
        """See VolumeFiles. A folder is not removed."""
        with self._parent(path):
            _delete(self._text(path))
            self._flush()

    def _text(self, path: VolumePath) -> str:
        return self._root + "\\".join(path)

    def _entry(self, path: VolumePath) -> Entry | None:
        try:
            with api.opened(self._text(path), api.FILE_READ_ATTRIBUTES, flags=_OPEN_AS_IT_IS) as handle:
                found = api.file_information(handle)
        except FileNotFoundError:
            return None
        return Entry(
            name=path[-1],
            kind=_kind(found.attributes),
            size=found.size_high << 32 | found.size_low,
            modified_ns=_nanoseconds(found.written_high << 32 | found.written_low),
            identity=(found.serial, found.index_high << 32 | found.index_low),
        )

    def _write_new(self, text: str, data: bytes) -> None:
        security, _kept = _security(directory=False)
        handle = api.open_handle(
            text,
            api.GENERIC_WRITE,
            share=0,
            disposition=api.CREATE_NEW,
            flags=api.FLAG_WRITE_THROUGH | api.FLAG_OPEN_REPARSE_POINT,
            security=security,
        )
        try:
            api.write_all(handle, data)
            if not api.kernel32.FlushFileBuffers(handle):
                raise api.last_error()
        finally:
            api.close_handle(handle)
        if self._keeps_descriptors and not _protected(text):
            raise OSError(errno.EACCES, "the file system did not take the access list")

    @contextlib.contextmanager
    def _parent(self, path: VolumePath) -> Iterator[int]:
        if not path:
            raise IsADirectoryError(errno.EISDIR, "the volume's root was given where a file is needed")
        _check_name(path[-1])
        with self._folder(path[:-1]) as folder:
            yield folder

    @contextlib.contextmanager
    def _folder(self, path: VolumePath) -> Iterator[int]:
        """The folder's handle; every folder on the way is kept where it is while the block lasts."""
        with contextlib.ExitStack() as kept:
            folder = kept.enter_context(api.opened(self._root, api.FILE_LIST_DIRECTORY, flags=_OPEN_AS_IT_IS))
            for depth, name in enumerate(path, start=1):
                _check_name(name)
                text = self._text(path[:depth])
                folder = kept.enter_context(
                    api.opened(text, api.FILE_LIST_DIRECTORY, share=_KEPT_IN_PLACE, flags=_OPEN_AS_IT_IS)
                )
                kind = _kind(api.file_information(folder).attributes)
                if kind is EntryKind.LINK:
                    raise _reparse_point(path[:depth])
                if kind is not EntryKind.DIRECTORY:
                    raise NotADirectoryError(errno.ENOTDIR, f"{windows_path(path[:depth])} is no folder")
            yield folder


def _directory_entries(folder: int, serial: int) -> Iterator[Entry]:
    """Everything in a folder that is open for listing, but `.` and `..`. Raises OSError."""
    buffer = ctypes.create_string_buffer(_LISTING_BUFFER)
    while api.kernel32.GetFileInformationByHandleEx(folder, api.FILE_ID_BOTH_DIRECTORY_INFO, buffer, len(buffer)):
        yield from _parse_entries(buffer.raw, serial)
    if ctypes.get_last_error() not in (api.ERROR_NO_MORE_FILES, api.ERROR_FILE_NOT_FOUND):
        raise api.last_error()


def _parse_entries(data: bytes, serial: int) -> Iterator[Entry]:
    at = 0
    while True:
        following, _index, _created, _accessed, written, _changed, size, _allocated, attributes, length, *_, number = (
            _DIRECTORY_ENTRY.unpack_from(data, at)
        )
        start = at + _DIRECTORY_ENTRY.size
        name = data[start : start + length].decode("utf-16-le", "surrogatepass")
        if name not in (".", ".."):
            yield Entry(
                name=name,
                kind=_kind(attributes),
                size=size,
                modified_ns=_nanoseconds(written),
                identity=(serial, number & 0xFFFFFFFFFFFFFFFF),
            )
        if not following:
            return
        at += following


def _kind(attributes: int) -> EntryKind:
    if attributes & api.ATTRIBUTE_REPARSE_POINT:
        return EntryKind.LINK
    if attributes & api.ATTRIBUTE_DIRECTORY:
        return EntryKind.DIRECTORY
    return EntryKind.OTHER if attributes & api.ATTRIBUTE_DEVICE else EntryKind.FILE


def _nanoseconds(filetime: int) -> int:
    return filetime * 100 - _EPOCH * 10**9


def _check_name(name: str) -> None:
    """A colon would name a stream; below `\\\\?\\` Windows takes any other name as it is."""
    if name in ("", ".", "..") or any(character in name for character in '\\/:\0*?"<>|'):
        raise OSError(errno.EINVAL, f"{name!r} is no name of a file")


def _reparse_point(path: VolumePath) -> ReparsePointInPath:
    return ReparsePointInPath(errno.ELOOP, f"{windows_path(path)} is a reparse point")


def _require_file(handle: int, path: VolumePath) -> None:
    kind = _kind(api.file_information(handle).attributes)
    if kind is EntryKind.LINK:
        raise _reparse_point(path)
    if kind is not EntryKind.FILE:
        raise OSError(errno.EINVAL, f"{windows_path(path)} is no ordinary file")


def _delete(text: str) -> None:
    """DeleteFileW; a read-only file loses that attribute first, and gets it back where it cannot be deleted."""
    if api.kernel32.DeleteFileW(text):
        return
    error = api.last_error()
    with api.opened(text, api.FILE_READ_ATTRIBUTES, flags=_OPEN_AS_IT_IS) as handle:
        attributes = api.file_information(handle).attributes
    if (
        error.errno != errno.EACCES
        or not attributes & api.ATTRIBUTE_READ_ONLY
        or _kind(attributes) is not EntryKind.FILE
    ):
        raise error
    if not api.kernel32.SetFileAttributesW(text, attributes & ~api.ATTRIBUTE_READ_ONLY):
        raise api.last_error()
    if not api.kernel32.DeleteFileW(text):
        error = api.last_error()
        api.kernel32.SetFileAttributesW(text, attributes)
        raise error


def _security(*, directory: bool) -> tuple[api.SecurityAttributes, ctypes.Array[ctypes.c_char]]:
    """SECURITY_ATTRIBUTES, and the descriptor they point at, which must live as long."""
    data = protected_descriptor(directory=directory)
    kept = ctypes.create_string_buffer(data, len(data))
    attributes = api.SecurityAttributes(
        length=ctypes.sizeof(api.SecurityAttributes), descriptor=ctypes.addressof(kept), inherit=False
    )
    return attributes, kept


def _protected(text: str) -> bool:
    descriptor = _descriptor_of(text)
    return is_protected_descriptor(descriptor) or (api.is_wine() and _protected_under_wine(descriptor))


def _protected_under_wine(descriptor: bytes) -> bool:
    """Wine shows a file's Unix mode as a list: the owner may do everything, others have no entry."""
    try:
        found = parse_security_descriptor(descriptor)
    except SecurityDescriptorError:
        return False
    ours = (SYSTEM, ADMINISTRATORS, found.owner)
    return bool(found.entries) and all(entry.sid in ours for entry in found.entries or ())


def _descriptor_of(text: str) -> bytes:
    """Owner, group and access list of a file. Raises OSError."""
    length = wintypes.DWORD()
    data = ctypes.create_string_buffer(0)
    while not api.advapi32.GetFileSecurityW(text, api.OWNER_AND_LIST, data, len(data), ctypes.byref(length)):
        if ctypes.get_last_error() != api.ERROR_INSUFFICIENT_BUFFER or length.value <= len(data):
            raise api.last_error()
        data = ctypes.create_string_buffer(length.value)
    return data.raw[: length.value]
