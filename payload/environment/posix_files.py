"""The payload's file operations on a mounted volume, through folders' file descriptors and without following anything.

Every component of every path is opened by itself with O_NOFOLLOW, so that neither a reparse point nor somebody's quick
exchange of a folder leads out of the volume. ntfs-3g shows every reparse point (junctions, and tags it does not know)
as a symbolic link. A folder on another device (something mounted below the volume) counts as a reparse point as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
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
from payload.environment.posix_ntfs import copy_whole, forget_removed, is_only_a_name, short_name_of, streams_of_plain
from payload.formats.security_descriptor import is_protected_descriptor, protected_descriptor

#: ntfs-3g's extended attribute that is the file's whole security descriptor ("Extended attributes", ntfs-3g wiki).
NTFS_ACL = "system.ntfs_acl"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: For the folders on the way to one, which the file system then need not open: with FUSE two calls less for each.
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: a FIFO that stands where a file should be must not stop the payload.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: What `_file_system` may say where owner and mode of a file are its own, and not made up for the whole mount.
_POSIX_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "ubifs", "xfs", "zfs")
)
#: These hold no Windows and no store that could be believed later, but the receipts on the boot medium.
_FAT_FILE_SYSTEMS = frozenset(("vfat", "msdos", "exfat"))
_FUSE_FILE_SYSTEMS = frozenset(("fuseblk", "fuse"))
_PROC = Path("/proc/self")
#: How mountinfo writes spaces and the like (proc(5)).
_OCTAL = re.compile(r"\\([0-7]{3})")
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.ENOSYS)


class PosixVolumeFiles:
    """`VolumeFiles` below `root`, the folder where the volume is mounted. Holds nothing open between calls."""

    def __init__(self, root: Path, *, flag_is_ours: bool = False) -> None:
        """`flag_is_ours`: whoever mounted the volume flagged it dirty himself and clears that when he is done."""
        self._root = root
        self._flag_is_ours = flag_is_ours

    def scan(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """See VolumeFiles. An entry that cannot be looked at is given as OTHER, with its `problem`."""
        with self._folder(directory) as folder, os.scandir(folder) as found:
            device = os.fstat(folder).st_dev
            for item in found:
                if wanted(item.name):
                    yield _entry_as_it_is(folder, item.name, device)

    def listing(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> list[Entry]:
        """See VolumeFiles."""
        return sorted(self.scan(directory, wanted), key=lambda entry: entry.name)

    def entry(self, path: VolumePath) -> Entry | None:
        """See VolumeFiles. None also where the folder it would be in does not exist."""
        if not path:
            raise IsADirectoryError(errno.EISDIR, "the volume's root is no entry")
        try:
            with self._parent(path) as folder:
                found = os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
                return _entry(path[-1], found, os.fstat(folder).st_dev)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_file(self, path: VolumePath) -> BinaryIO:
        """See VolumeFiles. Raises OSError (EINVAL) for what is no ordinary file."""
        with self._parent(path) as folder:
            try:
                descriptor = os.open(path[-1], _FILE_FLAGS, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _reparse_point(path) from error
                raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, f"{windows_path(path)} is no ordinary file")
        return os.fdopen(descriptor, "rb")

    def make_directory(self, path: VolumePath) -> None:
        """See VolumeFiles. A folder that cannot be protected is taken away again."""
        with self._parent(path) as parent:
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            try:
                folder = os.open(path[-1], _FOLDER_FLAGS, dir_fd=parent)
                try:
                    _protect(folder, directory=True)
                    _sync(folder)
                finally:
                    os.close(folder)
                _sync(parent)
            except OSError:
                with contextlib.suppress(OSError):
                    os.rmdir(path[-1], dir_fd=parent)
                raise

    def is_protected(self, path: VolumePath) -> bool:
        """See VolumeFiles. False for whatever cannot be read."""
        try:
            with self._folder(path) as folder:
                return _protected(folder)
        except OSError:
            return False

    def write_file(self, path: VolumePath, data: bytes) -> None:
        """See VolumeFiles. When it fails, neither the old file is changed nor is a new one left behind."""
        with self._parent(path) as folder:
            _refuse_special(folder, path)
            beside = f".{path[-1]}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=folder)  # of an earlier run whose power went
            descriptor = os.open(beside, _NEW_FILE_FLAGS, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as stream:
                    _protect(stream.fileno(), directory=False)
                    _write_all(stream.fileno(), data)
                    _sync(stream.fileno())
                os.rename(beside, path[-1], src_dir_fd=folder, dst_dir_fd=folder)
                _sync(folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside, dir_fd=folder)
                raise

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """See VolumeFiles. Looks before it renames: the volume is offline, nobody else makes files on it."""
        with self._parent(source) as old, self._parent(destination) as new:
            _require_file(old, source)
            if _exists(new, destination[-1]):
                raise FileExistsError(errno.EEXIST, f"{windows_path(destination)} is already there")
            os.rename(source[-1], destination[-1], src_dir_fd=old, dst_dir_fd=new)
            _sync(new)
            _sync(old)

    def copy(self, source: VolumePath, destination: VolumePath) -> None:
        """See VolumeFiles. Only on NTFS through ntfs-3g, which journals nothing, and only for a plain file."""
        with self.open_file(source) as original, self._parent(destination) as folder:
            device = _ntfs_device(original.fileno())
            streams = streams_of_plain(device, original.fileno()) if device else None
            if streams is None:
                raise RenameInstead(errno.ENOTSUP, f"{windows_path(source)} is better renamed than copied")
            descriptor = os.open(destination[-1], _NEW_FILE_FLAGS, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as copied:
                    copy_whole(original.fileno(), copied.fileno(), streams)
                    _sync(copied.fileno())
                _sync(folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(destination[-1], dir_fd=folder)
                raise

    def remove(self, path: VolumePath) -> None:
        """See VolumeFiles. A folder is not removed."""
        with self._parent(path) as folder:
            try:
                os.unlink(path[-1], dir_fd=folder)
            except OSError:
                if not _finish_removal(folder, path[-1]):
                    raise
            _sync(folder)

    def settle_removal(self, path: VolumePath, file_number: int) -> None:
        """See VolumeFiles. On NTFS through ntfs-3g, whose removals can be cut in two."""
        with self._parent(path) as folder:
            device = _ntfs_device(folder)
            if device is not None and file_number and not _exists(folder, path[-1]):
                forget_removed(device, file_number, folder=os.fstat(folder).st_ino, names=path[-1:])

    def is_left_to_check(self, path: VolumePath, file_number: int) -> bool:
        """See VolumeFiles. On NTFS through ntfs-3g, whose removals can be cut in two."""
        with self._parent(path) as folder:
            device = _ntfs_device(folder)
            if device is None or self._flag_is_ours:
                return False
            return is_only_a_name(device, file_number, folder=folder, name=path[-1])

    @contextlib.contextmanager
    def _parent(self, path: VolumePath) -> Iterator[int]:
        if not path:
            raise IsADirectoryError(errno.EISDIR, "the volume's root was given where a file is needed")
        _check_name(path[-1])
        with self._folder(path[:-1]) as folder:
            yield folder

    @contextlib.contextmanager
    def _folder(self, path: VolumePath) -> Iterator[int]:
        """The folder's descriptor, reached one component after the other; on the volume, whatever was on the way."""
        # The mount point itself is the caller's word: the environment made it, or a person gave it with --root.
        folder = os.open(self._root, (_ON_THE_WAY if path else _FOLDER_FLAGS) & ~os.O_NOFOLLOW)
        try:
            device = os.fstat(folder).st_dev
            for depth, name in enumerate(path, start=1):
                _check_name(name)
                inner = _open_folder(folder, path[:depth], _ON_THE_WAY if depth < len(path) else _FOLDER_FLAGS)
                os.close(folder)
                folder = inner
            if os.fstat(folder).st_dev != device:
                raise _reparse_point(path)
            yield folder
        finally:
            os.close(folder)


def _open_folder(parent: int, path: VolumePath, flags: int) -> int:
    try:
        return os.open(path[-1], flags, dir_fd=parent)
    except OSError as error:
        # A symbolic link gives ELOOP or, with O_DIRECTORY, ENOTDIR.
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(parent, path[-1]):
            raise _reparse_point(path) from error
        raise


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _check_name(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, f"{name!r} is no name of a file")


def _reparse_point(path: VolumePath) -> ReparsePointInPath:
    return ReparsePointInPath(errno.ELOOP, f"{windows_path(path)} is a reparse point")


def _entry_as_it_is(folder: int, name: str, device: int) -> Entry:
    try:
        return _entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False), device)
    except OSError as error:
        problem = error.strerror or str(error) or "unknown error"
        return Entry(name=name, kind=EntryKind.OTHER, size=0, modified_ns=0, identity=(0, 0), problem=problem)


def _entry(name: str, found: os.stat_result, device: int) -> Entry:
    kind = EntryKind.OTHER
    if stat.S_ISREG(found.st_mode):
        kind = EntryKind.FILE
    elif stat.S_ISDIR(found.st_mode):
        kind = EntryKind.DIRECTORY
    elif stat.S_ISLNK(found.st_mode):
        kind = EntryKind.LINK
    if found.st_dev != device:
        kind = EntryKind.LINK
    return Entry(
        name=name,
        kind=kind,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
        identity=(found.st_dev, found.st_ino),
    )


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _require_file(folder: int, path: VolumePath) -> None:
    mode = os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise _reparse_point(path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{windows_path(path)} is no ordinary file")


def _finish_removal(folder: int, name: str) -> bool:
    """Remove a file that ntfs-3g cannot remove since the power went while it did; whether it is gone.

    ntfs-3g takes the 8.3 name out of the folder first, and gives up where the folder does not list what the file's
    record knows. So that name is listed again.
    """
    device = _ntfs_device(folder)
    if device is None or not _exists(folder, name):
        return False
    number, within = os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino, os.fstat(folder).st_ino
    short = short_name_of(device, number, folder=within)
    if not short:
        return False
    with contextlib.suppress(OSError):
        os.link(name, short, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=folder)
    if _exists(folder, name):
        return False
    forget_removed(device, number, folder=within, names=(name, short))
    return True


def _refuse_special(folder: int, path: VolumePath) -> None:
    if _exists(folder, path[-1]):
        _require_file(folder, path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def unprotectable(root: Path) -> str:
    """Why nothing below `root` can be protected from users, in words; empty where it can. Raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _shows_access_lists(folder) or (kind := _file_system(folder)) in _POSIX_FILE_SYSTEMS:
            return ""
    finally:
        os.close(folder)
    return f"its file system ({kind or 'unknown'}) shows no access lists"


def _sync(descriptor: int) -> None:
    """fsync; some FUSE and network file systems do not know it for folders and say so by EINVAL."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *_UNSUPPORTED):
            raise


def _protect(descriptor: int, *, directory: bool) -> None:
    """Give a new file or folder its ACL where the file system has such; elsewhere its mode already protects it.

    On FAT nothing protects it. Raises OSError where NTFS is mounted by what shows no ACL (ntfs3, or FUSE's others).
    """
    if _descriptor_of(descriptor) is None:
        kind = _file_system(descriptor)
        if kind not in _POSIX_FILE_SYSTEMS | _FAT_FILE_SYSTEMS:
            what = kind or "unknown"
            raise OSError(errno.ENOTSUP, f"its file system ({what}) shows no access lists: mount it with ntfs-3g")
        return
    os.setxattr(descriptor, NTFS_ACL, protected_descriptor(directory=directory))
    if not is_protected_descriptor(_descriptor_of(descriptor) or b""):
        raise OSError(errno.EACCES, "the file system did not take the access list")


def _protected(descriptor: int) -> bool:
    security = _descriptor_of(descriptor)
    if security is not None:
        return is_protected_descriptor(security)
    # ntfs3, FUSE and FAT show every file as the mounting user's own, with a mode from the mount's options.
    if _file_system(descriptor) not in _POSIX_FILE_SYSTEMS:
        return False
    found = os.fstat(descriptor)
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _shows_access_lists(descriptor: int) -> bool:
    try:
        return _descriptor_of(descriptor) is not None
    except OSError:
        return True  # ntfs-3g cannot read that of a root folder which mkntfs made (EIO)


def _descriptor_of(descriptor: int) -> bytes | None:
    """The security descriptor, None on file systems that have none. Raises OSError."""
    try:
        return os.getxattr(descriptor, NTFS_ACL)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise


def _file_system(descriptor: int) -> str:
    """The type of the file system, such as "ext4" or "fuseblk"; empty where the kernel does not say."""
    return _mount_of(descriptor)[0]


def _ntfs_device(descriptor: int) -> Path | None:
    """The device (or the image) of an NTFS that ntfs-3g has mounted; None for every other file system."""
    kind, source = _mount_of(descriptor)
    if kind not in _FUSE_FILE_SYSTEMS or not _shows_access_lists(descriptor) or not source.startswith("/"):
        return None
    return Path(source)


def _mount_of(descriptor: int) -> tuple[str, str]:
    """The type and the source of a file's mount, both empty where the kernel does not say (proc(5))."""
    try:
        facts = (_PROC / "fdinfo" / str(descriptor)).read_text("ascii", "replace")
        mounts = (_PROC / "mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return "", ""
    # Not by st_dev: btrfs gives every subvolume a device of its own, which mountinfo does not have.
    mount = next((line.split()[1] for line in facts.splitlines() if line.startswith("mnt_id:")), "")
    for line in mounts.split("\n"):
        if mount and line.split(" ", 1)[0] == mount:
            kind, source = (*line.rpartition(" - ")[2].split(" "), "", "")[:2]
            return kind, _OCTAL.sub(lambda found: chr(int(found[1], 8)), source)
    return "", ""
