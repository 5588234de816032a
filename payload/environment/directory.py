"""Mounted disks given on the command line (`--root PATH`): every folder is one volume, mounted by somebody else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from payload.contract import AfterRepair, ControllerRecord, DiskRecord, HibernatedVolumes, HostIdentity
from payload.environment import Keyboard, Medium, OpenVolume, Screen, Volume, VolumeNotOpened, VolumeState
from payload.environment.boot_partitions import BootPartition
from payload.formats.hiberfil import HEADER_LENGTH, HIBERFIL_NAME, hibernation_state

if sys.platform == "win32":
    from payload.environment.windows_folder import (
        folder_files,
        folder_is_read_only,
        folder_is_running,
        folder_is_unprotectable,
        folder_size,
    )
else:
    from payload.environment.posix_folder import (
        folder_files,
        folder_is_read_only,
        folder_is_running,
        folder_is_unprotectable,
        folder_size,
    )

_HIBERNATED_DETAIL = "Windows is hibernated on it (or fast startup is on)"
_HIBERNATED_ADVICE = (
    "Changing its disk now could damage that Windows. Start it once and shut it down with Shift held, then run again; "
    "or give a configuration (--config) that says hibernated: discard."
)


class TerminalScreen:
    """A text stream as the screen: colours only where it is a terminal; keys are never read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._columns = self._terminal_columns()

    @property
    def columns(self) -> int:
        """The terminal's width, 80 to 160; 100 for a pipe."""
        return self._columns

    @property
    def lines(self) -> int:
        """Enough for everything: the terminal scrolls."""
        return 200

    @property
    def colour(self) -> bool:
        """Whether the stream is a terminal that shows colours (see no-color.org)."""
        return self._terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    @property
    def half_blocks(self) -> bool:
        """Not known of a terminal."""
        return False

    def write(self, text: str) -> None:
        """Show text at once; a reader that has gone away stops nothing."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    def key(self, seconds: float) -> str | None:  # noqa: ARG002
        """None: nobody is asked anything."""
        return None

    @contextmanager
    def typing(self) -> Iterator[Keyboard]:
        """A keyboard that gives nothing: nobody is asked anything."""
        yield self.key

    def _terminal_columns(self) -> int:
        try:
            return max(20, min(160, os.get_terminal_size(self._stream.fileno()).columns)) if self._terminal else 100
        except (OSError, ValueError):
            return 80


class DirectoryEnvironment:
    """`payload.environment.Environment` for mounted disks. It mounts, unlocks, waits for and restarts nothing."""

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        stream: TextIO | None = None,
        hibernated: HibernatedVolumes = HibernatedVolumes.LEAVE,
    ) -> None:
        self._roots = list(roots)
        self._hibernated = hibernated
        self._screen = TerminalScreen(stream or sys.stdout)

    @property
    def name(self) -> str:
        """As in the receipt."""
        return "directory"

    @property
    def screen(self) -> Screen:
        """The terminal."""
        return self._screen

    def emit(self, line: str) -> None:
        """Nothing: no machine listens here; `--json` prints the receipt."""

    def notes(self) -> Sequence[str]:
        """None."""
        return ()

    def host(self) -> HostIdentity:
        """Nobody: the disk is attached to a machine that is not its own."""
        return HostIdentity()

    def wait_for_disks(self, limit: float) -> None:
        """Nothing: the folders are there."""

    def disks(self) -> Sequence[DiskRecord]:
        """None: folders stand on disks that somebody else has opened."""
        return []

    def controllers(self) -> Sequence[ControllerRecord]:
        """None."""
        return []

    def volumes(self) -> Sequence[Volume]:
        """One for each folder."""
        return [_volume(root) for root in self._roots]

    @property
    def unlocking(self) -> None:
        """Nothing: whoever mounted the disks has unlocked them."""

    @contextmanager
    def open_volume(self, volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        """The folder as a volume. Raises VolumeNotOpened where it cannot be changed, or not so that undo believes it.

        What lies on FAT, or on NTFS mounted by what shows no access lists, could be anybody's quarantine later.
        """
        root = Path(volume.id)
        if for_changes and volume.state is VolumeState.HIBERNATED and self._hibernated is HibernatedVolumes.LEAVE:
            raise VolumeNotOpened(volume.state, volume.detail, volume.advice)
        if for_changes and folder_is_read_only(root):
            raise VolumeNotOpened(
                VolumeState.UNREADABLE, "it is mounted read-only", "Mount it for writing and run again."
            )
        if for_changes and (why := folder_is_unprotectable(root)):
            raise VolumeNotOpened(
                VolumeState.UNREADABLE,
                f"{why}, so a quarantine on it could not be protected; nothing was changed",
                "Windows is on NTFS: mount it with ntfs-3g and run again.",
            )
        yield OpenVolume(volume=volume, files=folder_files(root), writable=for_changes)

    @contextmanager
    def boot_partitions(self, disk: str) -> Iterator[Iterator[BootPartition]]:  # noqa: ARG002
        """The folders, whichever disk they are of (`payload.environment.boot_partitions.BootPartitions`)."""
        yield (BootPartition(name=str(root), files=folder_files(root)) for root in self._roots)

    @contextmanager
    def boot_media(self) -> Iterator[Iterator[Medium]]:
        """None."""
        yield iter(())

    @contextmanager
    def media(self, image_id: str) -> Iterator[Iterator[Medium]]:  # noqa: ARG002
        """None."""
        yield iter(())

    def end(self, action: AfterRepair) -> None:
        """Nothing: the machine is not ours."""

    def shell(self) -> None:
        """Nothing: the technician has one."""


def _volume(root: Path) -> Volume:
    sleeps = _is_hibernated(root)
    return Volume(
        id=str(root),
        disk="",
        label="",
        file_system="",
        size=folder_size(root),
        state=VolumeState.HIBERNATED if sleeps else VolumeState.READY,
        detail=_HIBERNATED_DETAIL if sleeps else "",
        advice=_HIBERNATED_ADVICE if sleeps else "",
    )


def _is_hibernated(root: Path) -> bool:
    """Whether a Windows may resume from the volume: Windows mounts such a one for changes, and ntfs3 does."""
    if folder_is_running(root):
        return False
    try:
        with folder_files(root).open_file((HIBERFIL_NAME,)) as stream:
            return hibernation_state(stream.read(HEADER_LENGTH)).owned
    except OSError:
        return False
