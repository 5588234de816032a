"""libwim by ctypes: the few functions of wimlib.h (1.13 to 1.14) that Bluelift uses, on Linux and Windows.

Whoever calls has read the WIM with `builder.wim_format` before: libwim is C code. What libwim writes to its error file
is part of every error. One WIM is worked on at a time, for that file is global to the library.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from builder.errors import BaseMediaError, BuilderError, ImageError, OutputError, ToolMissing
from builder.wim_format import Compression

#: done and total, in bytes.
Progress = Callable[[int, int], None]

_LIBRARIES = ("libwim-15.dll",) if os.name == "nt" else ("libwim.so.15", "libwim.15.dylib")
_ON_WINDOWS = os.name == "nt"
_TEXT: Any = ctypes.c_wchar_p if _ON_WINDOWS else ctypes.c_char_p

_INIT_IGNORE_CASE = 0x20
_CHANGE_GUID, _CHANGE_BOOT_INDEX = 0x2, 0x4
_ADD_NO_ACLS = 0x20
_DELETE_FORCE, _DELETE_RECURSIVE = 0x1, 0x2
_OPEN_WRITE_ACCESS = 0x4
_WRITE_INTEGRITY, _WRITE_NO_INTEGRITY, _WRITE_NOT_PIPABLE, _WRITE_SOFT_DELETE = 0x1, 0x2, 0x8, 0x80
_WRITE_RETAIN_GUID = 0x800
_MESSAGE_WRITE_STREAMS = 12
_ABORT = 1
_ALL_IMAGES = -1
_ERROR_NO_MEMORY, _ERROR_WRITE, _ERROR_ABORTED = 39, 72, 76


class _AddCommand(ctypes.Structure):
    _fields_ = [("source", _TEXT), ("target", _TEXT), ("config", _TEXT), ("flags", ctypes.c_int)]


class _DeleteCommand(ctypes.Structure):
    _fields_ = [("path", _TEXT), ("flags", ctypes.c_int)]


class _RenameCommand(ctypes.Structure):
    _fields_ = [("source", _TEXT), ("target", _TEXT), ("flags", ctypes.c_int)]


class _Commands(ctypes.Union):
    _fields_ = [("add", _AddCommand), ("delete", _DeleteCommand), ("rename", _RenameCommand)]


class _UpdateCommand(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_int), ("what", _Commands)]


class _WimInfo(ctypes.Structure):
    """struct wimlib_wim_info."""

    _fields_ = [
        ("guid", ctypes.c_uint8 * 16),
        ("image_count", ctypes.c_uint32),
        ("boot_index", ctypes.c_uint32),
        ("wim_version", ctypes.c_uint32),
        ("chunk_size", ctypes.c_uint32),
        ("part_number", ctypes.c_uint16),
        ("total_parts", ctypes.c_uint16),
        ("compression_type", ctypes.c_int32),
        ("total_bytes", ctypes.c_uint64),
        ("bits", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 9),
    ]


class _WriteProgress(ctypes.Structure):
    """The first fields of struct wimlib_progress_info_write_streams."""

    _fields_ = [
        ("total_bytes", ctypes.c_uint64),
        ("total_streams", ctypes.c_uint64),
        ("completed_bytes", ctypes.c_uint64),
    ]


_ProgressFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_one_at_a_time = threading.RLock()


@cache
def library() -> Any:
    """libwim, loaded and initialised once. Raises ToolMissing when this machine has none."""
    for name in _LIBRARIES:
        try:
            loaded = ctypes.CDLL(name)
        except OSError:
            continue
        _declare(loaded)
        # Paths inside a WIM are compared as Windows does.
        code = loaded.wimlib_global_init(_INIT_IGNORE_CASE)
        if code:
            raise ToolMissing(f"{name} does not start: {_error_string(loaded, code)}", hint=_how_to_get())
        return loaded
    raise ToolMissing(
        f"{_LIBRARIES[0]} was not found; it is needed to read and write Windows images (WIM)", hint=_how_to_get()
    )


def version() -> str:
    """libwim's version, "1.13.6". Raises ToolMissing."""
    number = library().wimlib_get_version()
    return f"{number >> 20}.{number >> 10 & 0x3FF}.{number & 0x3FF}"


def _how_to_get() -> str:
    if _ON_WINDOWS:
        return "Put libwim-15.dll of wimlib's Windows release (wimlib.net) beside python.exe or into a folder of PATH."
    return "apt-get install libwim15t64 (Debian 13, Ubuntu 24.04) or libwim15 (Debian 12, Ubuntu 22.04)"


def _declare(loaded: Any) -> None:
    """Return and argument types, where ctypes's defaults would cut pointers and sizes off."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.wimlib_get_error_string.restype = _TEXT
    loaded.wimlib_get_version.restype = ctypes.c_uint32
    loaded.wimlib_free.restype = None
    loaded.wimlib_free_decompressor.restype = None
    loaded.wimlib_register_progress_function.restype = None
    arguments: dict[str, list[Any]] = {
        "wimlib_get_error_string": [ctypes.c_int],
        "wimlib_global_init": [ctypes.c_int],
        "wimlib_set_error_file_by_name": [_TEXT],
        "wimlib_set_print_errors": [ctypes.c_bool],
        "wimlib_open_wim": [_TEXT, ctypes.c_int, ctypes.POINTER(pointer)],
        "wimlib_create_new_wim": [ctypes.c_int, ctypes.POINTER(pointer)],
        "wimlib_free": [pointer],
        "wimlib_register_progress_function": [pointer, _ProgressFunction, pointer],
        "wimlib_set_default_compression_level": [ctypes.c_int, ctypes.c_uint],
        "wimlib_set_image_property": [pointer, ctypes.c_int, _TEXT, _TEXT],
        "wimlib_set_wim_info": [pointer, ctypes.POINTER(_WimInfo), ctypes.c_int],
        "wimlib_add_image": [pointer, _TEXT, _TEXT, _TEXT, ctypes.c_int],
        "wimlib_update_image": [pointer, ctypes.c_int, ctypes.POINTER(_UpdateCommand), size, ctypes.c_int],
        "wimlib_delete_image": [pointer, ctypes.c_int],
        "wimlib_reference_resource_files": [pointer, ctypes.POINTER(_TEXT), ctypes.c_uint, ctypes.c_int, ctypes.c_int],
        "wimlib_write": [pointer, _TEXT, ctypes.c_int, ctypes.c_int, ctypes.c_uint],
        "wimlib_overwrite": [pointer, ctypes.c_int, ctypes.c_uint],
        "wimlib_create_decompressor": [ctypes.c_int, size, ctypes.POINTER(pointer)],
        "wimlib_decompress": [pointer, size, pointer, size, pointer],
        "wimlib_free_decompressor": [pointer],
    }
    for name, types in arguments.items():
        getattr(loaded, name).argtypes = types


class Decompressor:
    """libwim's decompressor for chunks of at most `chunk_size` bytes; safe with any input."""

    def __init__(self, compression: Compression, chunk_size: int) -> None:
        self._handle = ctypes.c_void_p()
        self._output = ctypes.create_string_buffer(chunk_size)
        code = library().wimlib_create_decompressor(compression.value, chunk_size, ctypes.byref(self._handle))
        if code:
            raise ImageError(f"libwim cannot decompress {compression.name}: {_error_string(library(), code)}")

    def __call__(self, data: bytes, size: int) -> bytes:
        """`size` bytes from the compressed `data`. Raises ImageError when it is damaged."""
        if size > len(self._output):
            raise ImageError(f"a chunk of {size} bytes is larger than the WIM allows")
        if library().wimlib_decompress(data, len(data), self._output, size, self._handle):
            raise ImageError("compressed data of the WIM is damaged", hint="The download or the copy is incomplete.")
        return self._output.raw[:size]

    def __del__(self) -> None:
        if self._handle:
            library().wimlib_free_decompressor(self._handle)
            self._handle = ctypes.c_void_p()


class WimStruct:
    """A WIM in libwim's hands. A context manager; `name` is what messages call it.

    Its methods raise OutputError where a disk is full, ImageError or BaseMediaError with libwim's own text otherwise.
    """

    def __init__(
        self, path: Path | None, *, name: str, writable: bool = False, compression: Compression | None = None
    ) -> None:
        """Open the WIM at `path`, or begin a new one of `compression` where `path` is None."""
        self.name = name
        self._handle = ctypes.c_void_p()
        self._callback: Any = None
        self._raised: BaseException | None = None
        into = ctypes.byref(self._handle)
        flags = _OPEN_WRITE_ACCESS if writable else 0
        if path is not None:
            self._call("open", lambda loaded: loaded.wimlib_open_wim(_text(str(path)), flags, into))
        else:
            kind = (compression or Compression.LZX).value
            self._call("begin", lambda loaded: loaded.wimlib_create_new_wim(kind, into))

    def __enter__(self) -> WimStruct:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _where: TracebackType | None
    ) -> None:
        library().wimlib_free(self._handle)
        self._handle = ctypes.c_void_p()

    def add_image(self, folder: Path, image_name: str) -> None:
        """Append an image that holds what `folder` holds."""
        arguments = (_text(str(folder)), _text(image_name), None, _ADD_NO_ACLS)
        self._call("add an image to", lambda loaded: loaded.wimlib_add_image(self._handle, *arguments))

    def set_property(self, image: int, name: str, value: str) -> None:
        """Set an element of an image's XML data, for example WINDOWS/LANGUAGES/DEFAULT."""
        arguments = (image, _text(name), _text(value))
        self._call("describe", lambda loaded: loaded.wimlib_set_image_property(self._handle, *arguments))

    def set_boot_index(self, image: int) -> None:
        """Make image `image` (1-based) the one that boots."""
        info = _WimInfo(boot_index=image)
        self._set_info(info, _CHANGE_BOOT_INDEX)

    def set_guid(self, guid: bytes) -> None:
        """Set the WIM's GUID, 16 bytes."""
        info = _WimInfo()
        info.guid[:] = guid
        self._set_info(info, _CHANGE_GUID)

    def update(
        self,
        image: int,
        *,
        renames: Sequence[tuple[str, str]] = (),
        deletions: Sequence[str] = (),
        additions: Sequence[tuple[Path, str]] = (),
    ) -> None:
        """Rename, then delete, then add files and folders. What is to be deleted may be missing."""
        commands = [_rename_command(*rename) for rename in renames]
        commands += [_delete_command(path) for path in deletions]
        commands += [_add_command(source, target) for source, target in additions]
        array = (_UpdateCommand * len(commands))(*commands)
        self._call("change", lambda w: w.wimlib_update_image(self._handle, image, array, len(commands), 0))

    def delete_image(self, image: int) -> None:
        """Take image `image` (1-based) out; those after it move up."""
        self._call("change", lambda loaded: loaded.wimlib_delete_image(self._handle, image))

    def refer_to(self, other: Path) -> None:
        """Take from the WIM `other`, compressed as it is there, the content of files that are added afterwards."""
        paths = (_TEXT * 1)(_text(str(other)))
        self._call("change", lambda w: w.wimlib_reference_resource_files(self._handle, paths, 1, 0, 0))

    def write(self, target: Path, *, integrity: bool, threads: int, progress: Progress | None = None) -> None:
        """Write all images to `target`. `threads` 0: one a processor."""
        flags = (_WRITE_INTEGRITY if integrity else _WRITE_NO_INTEGRITY) | _WRITE_NOT_PIPABLE | _WRITE_RETAIN_GUID
        arguments = (_text(str(target)), _ALL_IMAGES, flags, threads)
        self._report_to(progress)
        self._call("write", lambda w: w.wimlib_write(self._handle, *arguments))

    def append(self, *, threads: int, progress: Progress | None = None) -> None:
        """Write what is new behind what the WIM holds, which is neither read nor moved, and new tables behind that.

        What is no longer needed stays in the table, with a reference count of 0. `threads` 0: one a processor.
        """
        flags = _WRITE_NO_INTEGRITY | _WRITE_NOT_PIPABLE | _WRITE_SOFT_DELETE | _WRITE_RETAIN_GUID
        self._report_to(progress)
        self._call("write", lambda w: w.wimlib_overwrite(self._handle, flags, threads))

    def overwrite(self, *, integrity: bool) -> None:
        """Write changed properties back into the WIM itself."""
        flags = (_WRITE_INTEGRITY if integrity else _WRITE_NO_INTEGRITY) | _WRITE_RETAIN_GUID
        self._call("write", lambda loaded: loaded.wimlib_overwrite(self._handle, flags, 1))

    def _set_info(self, info: _WimInfo, which: int) -> None:
        self._call("set up", lambda w: w.wimlib_set_wim_info(self._handle, ctypes.byref(info), which))

    def _report_to(self, progress: Progress | None) -> None:
        """Have libwim tell `progress`; what `progress` raises ends the work and is raised afterwards."""
        if progress is None:
            return

        def told(message: int, info: int | None, _context: int | None) -> int:
            try:
                if info and message == _MESSAGE_WRITE_STREAMS:
                    written = _WriteProgress.from_address(info)
                    progress(written.completed_bytes, written.total_bytes)
            except (KeyboardInterrupt, BuilderError, OSError, ValueError) as error:
                self._raised = error
                return _ABORT
            return 0

        # libwim keeps the bare pointer: the function object must live as long as the WIM is open.
        self._callback = _ProgressFunction(told)
        library().wimlib_register_progress_function(self._handle, self._callback, None)

    def _call(self, what: str, function: Callable[[Any], int]) -> None:
        with _error_text() as said:
            code = function(library())
            if not code:
                return
            raised, self._raised = self._raised, None
            if code == _ERROR_ABORTED and raised is not None:
                raise raised
            raise _error(code, f"libwim cannot {what} {self.name}", said())


def set_compression_level(compression: Compression, level: int) -> None:
    """How hard libwim compresses what it adds: 20 is fast, 50 libwim's own default, 100 slow."""
    if compression is not Compression.NONE:
        library().wimlib_set_default_compression_level(compression.value, level)


def _error(code: int, what: str, said: str) -> BuilderError:
    text = f"{what}: {_error_string(library(), code)}" + (f"\n{said}" if said else "")
    if code == _ERROR_WRITE:
        return OutputError(text, hint="Is there room in the folder for temporary files? TMPDIR names another.")
    if code == _ERROR_NO_MEMORY:
        return BaseMediaError(text, hint="Close other programs, or build on a machine with more memory.")
    return ImageError(text, hint="The file is damaged or was tampered with. Compare its sha256 with the publisher's.")


def _error_string(loaded: Any, code: int) -> str:
    text = loaded.wimlib_get_error_string(code)
    return str(text if _ON_WINDOWS else text.decode("utf-8", "replace")).rstrip(".")


@contextmanager
def _error_text() -> Iterator[Callable[[], str]]:
    """Inside the block libwim's errors and warnings go to a file; the function gives the last of them."""
    loaded = library()
    with _one_at_a_time:
        descriptor, name = tempfile.mkstemp(prefix="libwim-", suffix=".txt")
        os.close(descriptor)
        path = Path(name)
        try:
            listening = loaded.wimlib_set_error_file_by_name(_text(name)) == 0
            loaded.wimlib_set_print_errors(listening)
            yield lambda: path.read_text(encoding="utf-8", errors="replace").strip()[-1000:]
        finally:
            loaded.wimlib_set_print_errors(False)
            loaded.wimlib_set_error_file_by_name(_text(os.devnull))
            with suppress(OSError):
                path.unlink()


def _text(value: str) -> str | bytes:
    return value if _ON_WINDOWS else os.fsencode(value)


def _add_command(source: Path, target: str) -> _UpdateCommand:
    add = _AddCommand(_text(str(source)), _text(target), None, _ADD_NO_ACLS)
    return _UpdateCommand(0, _Commands(add=add))


def _delete_command(path: str) -> _UpdateCommand:
    return _UpdateCommand(1, _Commands(delete=_DeleteCommand(_text(path), _DELETE_FORCE | _DELETE_RECURSIVE)))


def _rename_command(source: str, target: str) -> _UpdateCommand:
    return _UpdateCommand(2, _Commands(rename=_RenameCommand(_text(source), _text(target), 0)))
