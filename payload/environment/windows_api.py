"""The Windows calls that the payload makes, through ctypes: handles, device control, error codes in plain words.

Every function has its argument types declared, for a handle or a pointer has 64 bits. Nothing is bound that the base
image's kernel32 or advapi32 may lack; what a system may lack is looked up when it is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
from collections.abc import Iterator
from ctypes import wintypes

GENERIC_READ, GENERIC_WRITE = 0x80000000, 0x40000000
FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES = 0x1, 0x80
SHARE_READ, SHARE_WRITE, SHARE_DELETE = 0x1, 0x2, 0x4
SHARE_ALL = SHARE_READ | SHARE_WRITE | SHARE_DELETE
CREATE_NEW, OPEN_EXISTING = 1, 3
FLAG_WRITE_THROUGH, FLAG_BACKUP_SEMANTICS, FLAG_OPEN_REPARSE_POINT = 0x80000000, 0x02000000, 0x00200000
ATTRIBUTE_READ_ONLY, ATTRIBUTE_DIRECTORY, ATTRIBUTE_REPARSE_POINT = 0x1, 0x10, 0x400
ATTRIBUTE_DEVICE = 0x40
MOVE_REPLACE, MOVE_WRITE_THROUGH = 0x1, 0x8
OWNER_AND_LIST = 0x1 | 0x2 | 0x4  # OWNER_, GROUP_ and DACL_SECURITY_INFORMATION
FILE_ID_BOTH_DIRECTORY_INFO = 10
DRIVE_CDROM, DRIVE_RAMDISK = 5, 6

#: winerror.h
ERROR_INVALID_FUNCTION, ERROR_FILE_NOT_FOUND, ERROR_ACCESS_DENIED = 1, 2, 5
ERROR_NO_MORE_FILES, ERROR_HANDLE_EOF, ERROR_INSUFFICIENT_BUFFER, ERROR_MORE_DATA = 18, 38, 122, 234
FVE_E_LOCKED_VOLUME = 0x80310000
_ERRNO = {
    1: errno.ENOSYS, 2: errno.ENOENT, 3: errno.ENOENT, 5: errno.EACCES, 15: errno.ENODEV, 19: errno.EROFS,
    20: errno.ENODEV, 21: errno.ENXIO, 23: errno.EIO, 27: errno.EIO, 29: errno.EIO, 30: errno.EIO, 31: errno.EIO,
    32: errno.EBUSY, 33: errno.EBUSY, 39: errno.ENOSPC, 50: errno.ENOSYS, 55: errno.ENODEV, 80: errno.EEXIST,
    112: errno.ENOSPC, 123: errno.EINVAL, 145: errno.ENOTEMPTY, 183: errno.EEXIST, 206: errno.ENAMETOOLONG,
    66: errno.ENOSYS, 267: errno.ENOTDIR,
    433: errno.ENODEV, 483: errno.EIO, 1117: errno.EIO, 1167: errno.ENODEV, 1392: errno.EIO,
    1393: errno.EIO, 6009: errno.EACCES, FVE_E_LOCKED_VOLUME: errno.EACCES,
}  # fmt: skip
_WORDS = {errno.EBUSY: "another program has it open", errno.EROFS: "it is write-protected"}
_INVALID_HANDLE = ctypes.c_void_p(-1).value

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)


class SecurityAttributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES; `descriptor` points at a self-relative security descriptor."""

    _fields_ = [("length", wintypes.DWORD), ("descriptor", ctypes.c_void_p), ("inherit", wintypes.BOOL)]


class FileInformation(ctypes.Structure):
    """BY_HANDLE_FILE_INFORMATION; times are 100 ns since 1601 in two halves."""

    _fields_ = [
        (name, wintypes.DWORD)
        for name in (
            "attributes", "created_low", "created_high", "accessed_low", "accessed_high", "written_low",
            "written_high", "serial", "size_high", "size_low", "links", "index_high", "index_low",
        )
    ]  # fmt: skip


def _declare(library: ctypes.WinDLL, name: str, result: object, *arguments: object) -> None:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments


_P = ctypes.c_void_p
_DWORDS = ctypes.POINTER(wintypes.DWORD)
_H, _D, _S, _B = wintypes.HANDLE, wintypes.DWORD, wintypes.LPCWSTR, wintypes.BOOL
_declare(kernel32, "CreateFileW", _H, _S, _D, _D, _P, _D, _D, _H)
_declare(kernel32, "CloseHandle", _B, _H)
_declare(kernel32, "ReadFile", _B, _H, _P, _D, _DWORDS, _P)
_declare(kernel32, "WriteFile", _B, _H, _P, _D, _DWORDS, _P)
_declare(kernel32, "SetFilePointerEx", _B, _H, ctypes.c_longlong, _P, _D)
_declare(kernel32, "FlushFileBuffers", _B, _H)
_declare(kernel32, "DeviceIoControl", _B, _H, _D, _P, _D, _P, _D, _DWORDS, _P)
_declare(kernel32, "GetFileInformationByHandle", _B, _H, ctypes.POINTER(FileInformation))
_declare(kernel32, "GetFileInformationByHandleEx", _B, _H, ctypes.c_int, _P, _D)
_declare(kernel32, "CreateDirectoryW", _B, _S, ctypes.POINTER(SecurityAttributes))
_declare(kernel32, "RemoveDirectoryW", _B, _S)
_declare(kernel32, "DeleteFileW", _B, _S)
_declare(kernel32, "MoveFileExW", _B, _S, _S, _D)
_declare(kernel32, "SetFileAttributesW", _B, _S, _D)
_declare(kernel32, "FindFirstVolumeW", _H, wintypes.LPWSTR, _D)
_declare(kernel32, "FindNextVolumeW", _B, _H, wintypes.LPWSTR, _D)
_declare(kernel32, "FindVolumeClose", _B, _H)
_declare(kernel32, "GetVolumePathNamesForVolumeNameW", _B, _S, wintypes.LPWSTR, _D, _DWORDS)
_declare(kernel32, "GetVolumeNameForVolumeMountPointW", _B, _S, wintypes.LPWSTR, _D)
_declare(kernel32, "GetVolumeInformationW", _B, _S, wintypes.LPWSTR, _D, _DWORDS, _DWORDS, _DWORDS, wintypes.LPWSTR, _D)
_declare(kernel32, "GetDriveTypeW", wintypes.UINT, _S)
_declare(kernel32, "GetDiskFreeSpaceExW", _B, _S, _P, ctypes.POINTER(ctypes.c_ulonglong), _P)
_declare(kernel32, "GetWindowsDirectoryW", wintypes.UINT, wintypes.LPWSTR, wintypes.UINT)
_declare(kernel32, "QueryDosDeviceW", _D, _S, wintypes.LPWSTR, _D)
_declare(kernel32, "GetSystemFirmwareTable", wintypes.UINT, _D, _D, _P, _D)
_declare(kernel32, "GetFirmwareEnvironmentVariableW", _D, _S, _S, _P, _D)
_declare(kernel32, "GetCurrentProcess", _H)
_declare(advapi32, "GetFileSecurityW", _B, _S, _D, _P, _D, _DWORDS)
_declare(advapi32, "OpenProcessToken", _B, _H, _D, ctypes.POINTER(_H))
_declare(advapi32, "LookupPrivilegeValueW", _B, _S, _S, ctypes.POINTER(ctypes.c_longlong))
_declare(advapi32, "AdjustTokenPrivileges", _B, _H, _B, _P, _D, _P, _P)


def windows_error(code: int, what: str = "") -> OSError:
    """A Windows error code as the OSError that the rest of the payload knows, with its text."""
    code &= 0xFFFFFFFF
    number = _ERRNO.get(code, errno.EINVAL)
    text = _WORDS.get(number) or ctypes.FormatError(ctypes.c_int(code).value).strip().rstrip(".").replace("\r\n", " ")
    error = OSError(number, " ".join(filter(None, (what, f"{text} (Windows error {code})"))))
    error.winerror = code
    return error


def last_error(what: str = "") -> OSError:
    """The error of the call just made."""
    return windows_error(ctypes.get_last_error(), what)


def open_handle(
    path: str,
    access: int,
    *,
    share: int = SHARE_ALL,
    disposition: int = OPEN_EXISTING,
    flags: int = 0,
    security: SecurityAttributes | None = None,
) -> int:
    """CreateFileW. Raises OSError."""
    attributes = ctypes.byref(security) if security is not None else None
    handle = kernel32.CreateFileW(path, access, share, attributes, disposition, flags, None)
    if handle is None or handle == _INVALID_HANDLE:
        raise last_error()
    return int(handle)


def close_handle(handle: int) -> None:
    """CloseHandle; nothing is to be done about one that does not close."""
    kernel32.CloseHandle(handle)


@contextlib.contextmanager
def opened(path: str, access: int, *, share: int = SHARE_ALL, flags: int = 0) -> Iterator[int]:
    """An existing file, folder or device while the block lasts. Raises OSError."""
    handle = open_handle(path, access, share=share, flags=flags)
    try:
        yield handle
    finally:
        close_handle(handle)


def control(handle: int, code: int, data: bytes = b"", *, size: int = 4096) -> bytes:
    """DeviceIoControl: what the device answers, at most `size` bytes. Raises OSError."""
    answer = ctypes.create_string_buffer(max(size, 1))
    length = wintypes.DWORD()
    question = ctypes.create_string_buffer(data, len(data)) if data else None
    done = kernel32.DeviceIoControl(handle, code, question, len(data), answer, size, ctypes.byref(length), None)
    # A device with more to say than fits has said the part that is wanted.
    if not done and ctypes.get_last_error() != ERROR_MORE_DATA:
        raise last_error()
    return answer.raw[: length.value]


def file_information(handle: int) -> FileInformation:
    """GetFileInformationByHandle. Raises OSError."""
    information = FileInformation()
    if not kernel32.GetFileInformationByHandle(handle, ctypes.byref(information)):
        raise last_error()
    return information


def device_stream(handle: int, size: int) -> io.BufferedReader:
    """A disk or volume (opened for reading) as a stream that reads only whole sectors, as devices want."""
    return io.BufferedReader(_Device(handle, size), buffer_size=_SECTORS)


#: No sector is larger; what is read starts and ends at a multiple of it.
_SECTORS = 64 * 1024
_ALIGNMENT = 4096


class _Device(io.RawIOBase):
    """Reads aligned pieces; a piece at the very end may be shorter."""

    def __init__(self, handle: int, size: int) -> None:
        self._handle = handle
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start = self._at - self._at % _ALIGNMENT
        wanted = min(len(buffer), max(self._size - self._at, 0))
        if not wanted:
            return 0
        end = min(-(-(self._at + wanted) // _ALIGNMENT) * _ALIGNMENT, self._size)
        data = read_at(self._handle, start, end - start)[self._at - start :][:wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_at(handle: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`, fewer at the end; on a device both are multiples of its sector. Raises OSError."""
    if not kernel32.SetFilePointerEx(handle, offset, None, 0):
        raise last_error()
    data = ctypes.create_string_buffer(length)
    got = wintypes.DWORD()
    if not kernel32.ReadFile(handle, data, length, ctypes.byref(got), None):
        if ctypes.get_last_error() == ERROR_HANDLE_EOF:
            return b""
        raise last_error()
    return data.raw[: got.value]


def write_all(handle: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    done = 0
    written = wintypes.DWORD()
    while done < len(data):
        part = data[done : done + (1 << 20)]
        if not kernel32.WriteFile(handle, part, len(part), ctypes.byref(written), None):
            raise last_error()
        if not written.value:
            raise OSError(errno.EIO, "nothing was written")
        done += written.value


def enable_privileges(*names: str) -> None:
    """Enable privileges that the process has; those that it lacks stay off, and what needs them says so."""
    token = wintypes.HANDLE()
    adjust_and_query = 0x20 | 0x8
    if not advapi32.OpenProcessToken(kernel32.GetCurrentProcess(), adjust_and_query, ctypes.byref(token)):
        return
    try:
        for name in names:
            luid = ctypes.c_longlong()
            if advapi32.LookupPrivilegeValueW(None, name, ctypes.byref(luid)):
                # TOKEN_PRIVILEGES: count, then LUID and attributes (2: enabled) without padding.
                state = (1).to_bytes(4, "little") + luid.value.to_bytes(8, "little", signed=True) + b"\x02\0\0\0"
                advapi32.AdjustTokenPrivileges(token, False, state, 0, None, None)
    finally:
        kernel32.CloseHandle(token)


def is_wine() -> bool:
    """Whether this is Wine, which keeps Unix modes where Windows keeps security descriptors."""
    return hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
