"""Volumes under Windows, by their `\\\\?\\Volume{GUID}\\` names: a volume needs no drive letter to be repaired."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Sequence
from ctypes import wintypes
from dataclasses import dataclass
from pathlib import Path

from payload.environment import Volume, VolumeState
from payload.environment import windows_api as api
from payload.environment.windows_disks import WindowsDisk, is_member
from payload.environment.windows_files import WindowsVolumeFiles
from payload.formats.hiberfil import HEADER_LENGTH, HIBERFIL_NAME, hibernation_state
from payload.formats.storage_device import READ_ONLY, Extent, StorageAnswerError, parse_volume_extents
from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify

_VOLUME_DISK_EXTENTS = 0x00560000
_NAME_LENGTH = 261
#: GetVolumeInformation's flags.
PERSISTENT_ACLS, READ_ONLY_VOLUME = 0x8, 0x80000
#: ERROR_NOT_READY, ERROR_NO_MEDIA_IN_DRIVE.
_NO_MEDIUM = (21, 1112)
_DISK_FAILS = (errno.EIO, errno.ENODEV, errno.ENXIO)
_WINDOWS_FILE_SYSTEMS = ("NTFS", "ReFS")

HIBERNATED_ADVICE = (
    "Windows is hibernated or was shut down with fast startup, and changing its disk now could damage it. Start this "
    "image again after a full restart of Windows (hold Shift while choosing Restart), or build an image whose profile "
    "discards hibernation."
)
LOCKED_ADVICE = (
    "Start this image again with the volume's recovery password at hand, or with a key vault or its startup key "
    "beside the image."
)
MEMBER_ADVICE = (
    "Changing one disk of it alone would tear it apart. Put the controller's driver (INF and its files) into "
    "\\Bluelift\\drivers on the boot medium, so that Windows sees the set as one disk."
)
UNREADABLE_ADVICE = (
    "Check the disk and its cable, and run chkdsk on this volume. If it is failing, save its data first."
)


@dataclass(frozen=True, kw_only=True)
class SeenVolume:
    """A volume as Windows lists it. `root` ends with a backslash; `error` is what kept its file system from opening."""

    root: str
    drive_type: int
    letters: tuple[str, ...]
    label: str
    file_system: str
    flags: int
    size: int
    extents: tuple[Extent, ...]
    error: OSError | None = None

    @property
    def id(self) -> str:
        """The drive letter where it has one, else its name: `D:` or `Volume{...}`."""
        return self.letters[0].rstrip("\\") if self.letters else self.root.removeprefix("\\\\?\\").rstrip("\\")

    @property
    def path(self) -> str:
        """Its root as other programs take it, which do not all know a volume's name: `D:\\` where it has a letter."""
        return self.letters[0] if self.letters else self.root

    @property
    def device(self) -> str:
        """What CreateFile opens the volume itself by."""
        return self.root.rstrip("\\")

    @property
    def disks(self) -> frozenset[int]:
        """The numbers of the disks it lies on."""
        return frozenset(extent.disk for extent in self.extents)

    @property
    def read_only(self) -> bool:
        """Whether the file system takes no changes."""
        return bool(self.flags & READ_ONLY_VOLUME)

    def files(self, *, flush: bool = False) -> WindowsVolumeFiles:
        """Its files. With `flush` everything that is changed is made to lie on the disk at once."""
        return WindowsVolumeFiles(
            self.root,
            flush=self.flush if flush else lambda: None,
            keeps_descriptors=bool(self.flags & PERSISTENT_ACLS),
        )

    def flush(self) -> None:
        """Make everything written so far lie on the disk. Raises OSError where the disk fails.

        Whoever may not open the volume itself goes without: every file was flushed by itself.
        """
        try:
            with api.opened(self.device, api.GENERIC_READ | api.GENERIC_WRITE) as handle:
                if not api.kernel32.FlushFileBuffers(handle):
                    raise api.last_error()
        except OSError as error:
            if error.errno in _DISK_FAILS:
                raise


def list_volumes() -> list[SeenVolume]:
    """Every volume with a medium in it, in the order of its disks; CD drives as well."""
    found = [look_at(root) for root in _volume_names()]
    present = [volume for volume in found if volume.file_system or volume.extents or volume.error is not None]
    return sorted(present, key=_place)


def running_drive(image: Path | None) -> str:
    """The drive that this system runs from, `X:\\`: the image's, else the running Windows's."""
    folder = ctypes.create_unicode_buffer(_NAME_LENGTH)
    if image is not None:
        return image.anchor
    return folder.value[:3] if api.kernel32.GetWindowsDirectoryW(folder, len(folder)) else ""


def is_on(seen: SeenVolume, drive: str) -> bool:
    """Whether a drive (`X:\\`) is that volume, by its letters or by the name that Windows has for the drive."""
    if drive.lower() in (letter.lower() for letter in seen.letters):
        return True
    name = ctypes.create_unicode_buffer(_NAME_LENGTH)
    named = api.kernel32.GetVolumeNameForVolumeMountPointW(drive, name, len(name))
    return bool(named) and name.value.lower() == seen.root.lower()


def describe(seen: SeenVolume, disks: Sequence[WindowsDisk], *, is_running: bool) -> Volume:
    """The volume as the payload knows it: what state it is in, and what to do about it. Changes nothing."""
    state, detail, advice, file_system = _condition(seen, disks, is_running=is_running)
    on = min((disk for disk in disks if disk.number in seen.disks), key=lambda disk: disk.number, default=None)
    return Volume(
        id=seen.id,
        disk=on.id if on else "",
        label=seen.label,
        file_system=file_system,
        size=seen.size,
        state=state,
        detail=detail,
        advice=advice,
    )


def _condition(
    seen: SeenVolume, disks: Sequence[WindowsDisk], *, is_running: bool
) -> tuple[VolumeState, str, str, str]:
    members = [disk for disk in disks if disk.number in seen.disks and is_member(disk) and disk.raid]
    if members and members[0].raid:
        detail = f"The disk is a part of {members[0].raid.kind.words}."
        return VolumeState.RAID_MEMBER, detail, MEMBER_ADVICE, seen.file_system
    if seen.error is not None:
        return _unopened(seen, seen.error)
    if seen.file_system not in _WINDOWS_FILE_SYSTEMS:
        return VolumeState.NOT_WINDOWS, "", "", seen.file_system
    if not is_running and (found := _hibernation(seen)):
        detail = f"Windows is hibernated on this volume (or fast startup is on): hiberfil.sys {found}."
        return VolumeState.HIBERNATED, detail, HIBERNATED_ADVICE, seen.file_system
    read_only = seen.read_only or any(disk.attributes & READ_ONLY for disk in disks if disk.number in seen.disks)
    return VolumeState.READY, "The volume is read-only." if read_only else "", "", seen.file_system


def _unopened(seen: SeenVolume, error: OSError) -> tuple[VolumeState, str, str, str]:
    """A volume whose file system Windows did not open: locked, of another system, or damaged."""
    locked = VolumeState.LOCKED, "The volume is encrypted with BitLocker.", LOCKED_ADVICE
    if error.winerror == api.FVE_E_LOCKED_VOLUME:
        return *locked, VolumeKind.BITLOCKER.value
    try:
        with api.opened(seen.device, api.GENERIC_READ) as handle:
            kind = identify(api.read_at(handle, 0, HEAD_LENGTH))
    except OSError as unread:
        if unread.winerror == api.FVE_E_LOCKED_VOLUME:
            return *locked, VolumeKind.BITLOCKER.value
        detail = f"The volume cannot be read: {unread.strerror}."
        return VolumeState.UNREADABLE, detail, UNREADABLE_ADVICE, ""
    if kind in (VolumeKind.BITLOCKER, VolumeKind.BITLOCKER_TO_GO):
        return *locked, kind.value
    if kind in (VolumeKind.NTFS, VolumeKind.REFS):
        detail = f"Windows cannot open its file system: {error.strerror}."
        return VolumeState.UNREADABLE, detail, UNREADABLE_ADVICE, kind.value
    return VolumeState.NOT_WINDOWS, "", "", kind.value


def _hibernation(seen: SeenVolume) -> str:
    """What hiberfil.sys says or does where a Windows may still resume from it; empty where none can."""
    try:
        with seen.files().open_file((HIBERFIL_NAME,)) as stream:
            state = hibernation_state(stream.read(HEADER_LENGTH))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"holds {state.value}" if state.owned else ""


def look_at(root: str) -> SeenVolume:
    """A volume by its name, as it is now. What keeps its file system from opening is its `error`."""
    label, file_system = ctypes.create_unicode_buffer(_NAME_LENGTH), ctypes.create_unicode_buffer(_NAME_LENGTH)
    flags = wintypes.DWORD()
    opened = api.kernel32.GetVolumeInformationW(
        root, label, len(label), None, None, ctypes.byref(flags), file_system, len(file_system)
    )
    error = _problem_of_root(root) if opened else api.last_error()
    extents = _extents(root)
    drive_type = int(api.kernel32.GetDriveTypeW(root))
    if error is not None and (error.winerror in _NO_MEDIUM or drive_type == api.DRIVE_CDROM):
        error = None
    return SeenVolume(
        root=root,
        drive_type=drive_type,
        letters=_letters(root),
        label=label.value,
        file_system=file_system.value,
        flags=flags.value,
        size=_size(root) or sum(extent.size for extent in extents),
        extents=extents,
        error=error,
    )


def _problem_of_root(root: str) -> OSError | None:
    """Why nothing below the root can be had, although Windows names the file system; None where it can be had, or
    only by somebody else."""
    try:
        with api.opened(root, api.FILE_READ_ATTRIBUTES, flags=api.FLAG_BACKUP_SEMANTICS):
            return None
    except OSError as error:
        return None if error.winerror == api.ERROR_ACCESS_DENIED else error


def _volume_names() -> Iterator[str]:
    name = ctypes.create_unicode_buffer(_NAME_LENGTH)
    search = api.kernel32.FindFirstVolumeW(name, len(name))
    if search is None or search == ctypes.c_void_p(-1).value:
        return
    try:
        yield name.value
        while api.kernel32.FindNextVolumeW(search, name, len(name)):
            yield name.value
    finally:
        api.kernel32.FindVolumeClose(search)


def _letters(root: str) -> tuple[str, ...]:
    """The drive letters of a volume (`D:\\`), not the folders it may be mounted in."""
    names = ctypes.create_unicode_buffer(4 * _NAME_LENGTH)
    length = wintypes.DWORD()
    if not api.kernel32.GetVolumePathNamesForVolumeNameW(root, names, len(names), ctypes.byref(length)):
        return ()
    return tuple(name for name in ctypes.wstring_at(names, length.value).split("\0") if len(name) == 3)


def _extents(root: str) -> tuple[Extent, ...]:
    try:
        with api.opened(root.rstrip("\\"), 0) as handle:
            return parse_volume_extents(api.control(handle, _VOLUME_DISK_EXTENTS, size=64 * 1024))
    except (OSError, StorageAnswerError):
        return ()


def _size(root: str) -> int:
    total = ctypes.c_ulonglong()
    return total.value if api.kernel32.GetDiskFreeSpaceExW(root, None, ctypes.byref(total), None) else 0


def _place(volume: SeenVolume) -> tuple[int, int, str]:
    first = min(((extent.disk, extent.start) for extent in volume.extents), default=(1 << 30, 0))
    return *first, volume.id
