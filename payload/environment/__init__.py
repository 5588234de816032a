"""What differs between the places the payload runs in, behind one Protocol.

`linux` (the embedded environment), `windows` (WinPE, safe mode; arrives with the WinPE issue) and `directory` (a
mounted disk given with --root) each implement `Environment`. Nothing above this package knows device names, mounts,
ioctls or ACL calls. Paths on a volume are tuples of names below the volume's root; no name is ever "..", and no
implementation ever follows a reparse point (symbolic link, junction, mount point).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol

from payload.contract import AfterRepair, ControllerRecord, DiskRecord, HostIdentity

if TYPE_CHECKING:
    from payload.environment.locked import Unlocking

VolumePath = tuple[str, ...]


def any_name(_name: str) -> bool:
    """Every name is wanted (see VolumeFiles.scan)."""
    return True


def called(name: str) -> Callable[[str], bool]:
    """Whether a name is `name` without regard to case, as Windows compares names."""
    folded = name.casefold()
    return lambda other: other.casefold() == folded


def windows_path(path: VolumePath) -> str:
    """A path below a volume's root as people know it: `\\Windows\\System32`."""
    return "\\" + "\\".join(path)


class EntryKind(enum.StrEnum):
    """What a directory entry is. LINK is every kind of reparse point; OTHER is whatever is neither."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A directory entry as it is, nothing followed. `identity` is equal for two names of one file.

    `problem` says why the entry could not be looked at: nothing but its name is known then, and its kind is OTHER.
    """

    name: str
    kind: EntryKind
    size: int
    modified_ns: int
    identity: tuple[int, int]
    problem: str = ""


class VolumeFiles(Protocol):
    """The file operations the payload needs on one open volume.

    Every method raises OSError as the platform does (FileNotFoundError, FileExistsError, ENOSPC ...), and
    `ReparsePointInPath` when a component on the way is a reparse point.
    """

    def scan(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """The entries of a directory whose names are wanted, one by one as the file system has them.

        A folder may hold millions: what is not wanted is neither looked at nor kept. Raises when the first is asked
        for, and on the way.
        """
        ...

    def listing(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> list[Entry]:
        """What `scan` gives, sorted by name."""
        ...

    def entry(self, path: VolumePath) -> Entry | None:
        """The entry at exactly `path`, None where there is none. The last component may be a reparse point."""
        ...

    def open_file(self, path: VolumePath) -> BinaryIO:
        """An ordinary file, for reading."""
        ...

    def make_directory(self, path: VolumePath) -> None:
        """Create one directory that only SYSTEM and Administrators may enter (protected ACL). Its parent exists."""
        ...

    def is_protected(self, path: VolumePath) -> bool:
        """Whether `path` is a true directory with exactly the owner and ACL that make_directory gives."""
        ...

    def write_file(self, path: VolumePath, data: bytes) -> None:
        """Write a protected file whole: beside it, synced, renamed over `path`, the directory synced."""
        ...

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """Move a file within the volume and sync both directories. Raises FileExistsError, never overwrites."""
        ...

    def copy(self, source: VolumePath, destination: VolumePath) -> None:
        """Make a second file with the content, times, attributes and access list of `source`, and sync it.

        Raises RenameInstead where that is no safer way to move the file than `rename`. When it fails, a part of the
        copy is left behind only where it cannot be removed; it never overwrites.
        """
        ...

    def remove(self, path: VolumePath) -> None:
        """Remove one file name and sync its directory."""
        ...

    def settle_removal(self, path: VolumePath, file_number: int) -> None:
        """Make sure that no check of the volume brings back the file that was removed from `path`.

        `file_number` is the second part of its `Entry.identity`; 0 where it is not known. Does nothing where removing
        cannot be cut in two, or was not.
        """
        ...

    def is_left_to_check(self, path: VolumePath, file_number: int) -> bool:
        """Whether `path` is but a name, listed for `file_number`, whose record is that file's no more.

        A removal that was cut in two can leave it; nobody can look at it. Windows takes it away when it checks the
        volume: also False where the volume is not flagged for that, or will not stay so.
        """
        ...


class RenameInstead(OSError):
    """A file is better renamed than copied: the file system journals renames, or a copy would lose a part of it."""


class ReparsePointInPath(OSError):
    """A component of a path is a symbolic link, junction or mount point; the payload does not go there."""


class VolumeState(enum.StrEnum):
    """What a volume is before anything is done to it."""

    READY = "ready"
    UNCLEAN = "unclean"  # NTFS whose journal has to be replayed first
    HIBERNATED = "hibernated"
    RAID_MEMBER = "raid-member"  # also members of dynamic disks and Storage Spaces: never opened
    LOCKED = "locked"  # BitLocker
    PARTLY_ENCRYPTED = "partly-encrypted"  # BitLocker, in a state that no key opens here
    NOT_WINDOWS = "not-windows"  # a file system that cannot hold a Windows installation
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One volume (partition, or a disk without partitions). `id` is what the environment opens it by."""

    id: str
    disk: str
    label: str
    file_system: str
    size: int
    state: VolumeState
    detail: str = ""
    advice: str = ""


class VolumeNotOpened(Exception):
    """A volume could not be opened for what was asked. `state` replaces the volume's own; `advice` says what to do."""

    def __init__(self, state: VolumeState, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.state = state
        self.detail = detail
        self.advice = advice


class OnlyForChanges(VolumeNotOpened):
    """A power cut left a volume so that nobody can look at it; opening it for changes mends that first."""


@dataclass(frozen=True, kw_only=True)
class OpenVolume:
    """A volume that is open, and whether it may be changed. `notes` go into the receipt."""

    volume: Volume
    files: VolumeFiles
    writable: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Medium:
    """Somewhere a receipt can be left, or keys lie: the boot medium, a stick, a CD.

    `disk` is the same for everything that is on one disk, stick or CD: what is lost or found together.
    """

    name: str
    files: VolumeFiles
    disk: str = ""


class SpecialKey(enum.StrEnum):
    """What a `Keyboard` gives for keys that are no character. CLEAR is Ctrl-U, OTHER every cursor or function key."""

    ENTER = "enter"
    TAB = "tab"
    BACKSPACE = "backspace"
    CLEAR = "clear"
    ESCAPE = "escape"
    OTHER = "other"


#: The next character typed within so many seconds, as typed; or a SpecialKey; None when there was none.
Keyboard = Callable[[float], str | None]


class Screen(Protocol):
    """The technician's screen and keyboard."""

    @property
    def columns(self) -> int:
        """How many characters fit in a line."""
        ...

    @property
    def lines(self) -> int:
        """How many lines fit."""
        ...

    @property
    def colour(self) -> bool:
        """Whether ANSI colours show as colours."""
        ...

    @property
    def half_blocks(self) -> bool:
        """Whether U+2580, the upper half block, shows as itself: the one character beyond ASCII."""
        ...

    def write(self, text: str) -> None:
        """Show text; it may carry ANSI SGR, clear and home sequences where `colour` is true."""
        ...

    def key(self, seconds: float) -> str | None:
        """The next key pressed within `seconds`, lower-case; None when there was none (or there is no keyboard)."""
        ...

    def typing(self) -> AbstractContextManager[Keyboard]:
        """The keyboard for typing text: nothing is lost in a burst, nothing echoed, also between two characters.

        The digits of the keypad are digits, with or without Num Lock.
        """
        ...


class Environment(Protocol):
    """Where the payload runs."""

    @property
    def name(self) -> str:
        """`linux`, `winpe`, `windows` or `directory`: as in the receipt."""
        ...

    @property
    def screen(self) -> Screen:
        """The technician's screen."""
        ...

    def emit(self, line: str) -> None:
        """One line to the serial port (or wherever machines listen). Never raises: a missing port loses the line."""
        ...

    def notes(self) -> Sequence[str]:
        """What happened on the way that the receipt should tell: drivers loaded, disks brought online."""
        ...

    def host(self) -> HostIdentity:
        """Who this host is."""
        ...

    def wait_for_disks(self, limit: float) -> None:
        """Return once the set of disks is stable; with no disk at all only after `limit` seconds."""
        ...

    def disks(self) -> Sequence[DiskRecord]:
        """Every physical disk, also those that are left alone."""
        ...

    def controllers(self) -> Sequence[ControllerRecord]:
        """Every storage controller."""
        ...

    def volumes(self) -> Sequence[Volume]:
        """Every volume of every disk, and what state it is in. Changes nothing on any of them."""
        ...

    @property
    def unlocking(self) -> Unlocking | None:
        """What opens locked volumes; None where that is somebody else's business."""
        ...

    def open_volume(self, volume: Volume, *, for_changes: bool) -> AbstractContextManager[OpenVolume]:
        """Open a volume to look at it, or to change it.

        Looking writes nothing. For changes, an unclean journal is replayed first, the volume is flagged dirty until it
        is closed cleanly, and "writable" is verified rather than assumed. Raises VolumeNotOpened, OnlyForChanges.
        """
        ...

    def boot_media(self) -> AbstractContextManager[Iterator[Medium]]:
        """The file systems of what this image was started from, to be read; none that lies on a host's own disk."""
        ...

    def media(self, image_id: str) -> AbstractContextManager[Iterator[Medium]]:
        """The writable media among the boot medium of this very image and sticks with a Bluelift folder."""
        ...

    def end(self, action: AfterRepair) -> None:
        """Restart into Windows (BootNext, ejecting the CD first), power off, or do nothing."""
        ...

    def shell(self) -> None:
        """A shell on the screen until the technician leaves it."""
        ...
