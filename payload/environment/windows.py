"""WinPE, safe mode and rescue VMs: Windows's own NTFS, Windows's own drivers.

In WinPE the volume that it started from is never looked at. In a running Windows (also in safe mode) that Windows's
own volume is looked at only where it was asked for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from payload.contract import (
    MEDIUM_FOLDER,
    AfterRepair,
    ControllerRecord,
    DiskRecord,
    HibernatedVolumes,
    HostIdentity,
    PayloadConfig,
)
from payload.environment import Medium, OpenVolume, Volume, VolumeNotOpened, VolumeState
from payload.environment import windows_api as api
from payload.environment import windows_bitlocker as bitlocker
from payload.environment.boot_media import (
    can_be_image_alone,
    can_be_medium,
    disks_of_media,
    may_hold_windows,
    plugged_in_of,
)
from payload.environment.boot_partitions import BootPartition
from payload.environment.locked import UnlockKey
from payload.environment.windows_cipher import WindowsCipher
from payload.environment.windows_console import SerialPort, WindowsScreen
from payload.environment.windows_controllers import list_controllers
from payload.environment.windows_disks import BOOT_MEDIUM, WindowsDisk, bring_online, is_member, judge, list_disks
from payload.environment.windows_drivers import DRIVERS_FOLDER, load_drivers
from payload.environment.windows_host import host_identity
from payload.environment.windows_media import boot_partitions, carries_image, key_media, receipt_media
from payload.environment.windows_power import image_folder, is_winpe, leave, shell
from payload.environment.windows_volumes import SeenVolume, describe, is_on, list_volumes, running_drive
from payload.formats.fve import FveVolume
from payload.formats.hiberfil import HIBERFIL_NAME

#: How long the set of disks and volumes must not change, in seconds.
STABLE_SECONDS = 1.5
_POLL_SECONDS = 0.25
_NOT_OPENABLE = (VolumeState.RAID_MEMBER, VolumeState.LOCKED, VolumeState.NOT_WINDOWS)
_NOT_LISTED = (api.DRIVE_CDROM, api.DRIVE_RAMDISK)
_PRIVILEGES = ("SeBackupPrivilege", "SeRestorePrivilege", "SeSystemEnvironmentPrivilege")


class WindowsEnvironment:
    """`payload.environment.Environment` for Windows. `running_windows`: the running Windows is looked at as well."""

    def __init__(self, config: PayloadConfig, *, running_windows: bool = False) -> None:
        self._config = config
        self._winpe = is_winpe()
        self._running_windows = running_windows and not self._winpe
        self._notes: list[str] = []
        api.enable_privileges(*_PRIVILEGES)

    @property
    def name(self) -> str:
        """As in the receipt."""
        return "winpe" if self._winpe else "windows"

    @cached_property
    def screen(self) -> WindowsScreen:
        """The technician's console."""
        return WindowsScreen()

    def emit(self, line: str) -> None:
        """One line to the serial port; lost where there is none."""
        self._serial.emit(line)

    def notes(self) -> Sequence[str]:
        """The drivers that were loaded, or not, disks that were brought online, volumes that did not lock again."""
        return tuple(self._notes)

    def host(self) -> HostIdentity:
        """Who this host is, from SMBIOS and the firmware."""
        return host_identity()

    def wait_for_disks(self, limit: float) -> None:
        """Load drivers, then return once the set of disks is stable; with no fixed disk only after `limit` seconds.

        What is still offline then is brought online for this session.
        """
        if (image := image_folder()) is not None:
            self._notes += load_drivers(image / DRIVERS_FOLDER)
        self._settle(limit)
        if self._winpe and (loaded := self._load_drivers_of_medium()):
            self._notes += loaded
            self._settle(limit)
        if notes := bring_online(self._disks):
            self._notes += notes
            self._settle(limit)

    def disks(self) -> Sequence[DiskRecord]:
        """Every physical disk, also those that are left alone."""
        return [disk.record for disk in self._judged]

    def controllers(self) -> Sequence[ControllerRecord]:
        """Every storage controller on the PCI bus."""
        return list_controllers()

    def volumes(self) -> Sequence[Volume]:
        """Every volume of every disk but the boot medium's and, unless it was asked for, the running Windows's."""
        return list(self._volumes)

    @property
    def unlocking(self) -> WindowsEnvironment:
        """This environment itself: it is `payload.environment.locked.Unlocking` as well."""
        return self

    @property
    def cipher(self) -> WindowsCipher:
        """Windows's own."""
        return WindowsCipher()

    def locked_metadata(self, volume: Volume) -> FveVolume:
        """What a locked volume's metadata says, read from its disk. Raises FveError, OSError."""
        return bitlocker.read_metadata(self._seen_as(volume))

    @contextlib.contextmanager
    def unlocked(self, volume: Volume, key: UnlockKey) -> Iterator[None]:
        """Open a locked volume: `volumes` and `open_volume` then have what is inside. See `Unlocking`."""
        locked = self._seen_as(volume)
        self._replace(locked, opened := bitlocker.unlock(locked, key))
        try:
            yield
        finally:
            if problem := bitlocker.lock(opened):
                self._notes.append(problem)
            self._replace(opened, locked)

    @contextlib.contextmanager
    def key_media(self) -> Iterator[Iterator[Medium]]:
        """The image itself, the boot medium, sticks, CDs and FAT partitions."""
        members = frozenset(disk.number for disk in self._disks if is_member(disk))
        candidates = [volume for volume in self._seen if not volume.disks & members]
        image = image_folder()
        yield key_media(candidates, self._boot_media, self._sticks, running_drive(image) if image else "")

    @contextlib.contextmanager
    def boot_partitions(self, disk: str) -> Iterator[Iterator[BootPartition]]:
        """See `BootPartitions`. The partitions of a running Windows are its own business."""
        running = running_drive(image_folder())
        yield boot_partitions(self._of_disk(disk), running)

    @contextlib.contextmanager
    def open_volume(self, volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        """The volume by its `\\\\?\\Volume{GUID}\\` name. Raises VolumeNotOpened; OSError where closing fails."""
        seen = self._volumes.get(volume)
        if seen is None or volume.state in _NOT_OPENABLE:
            raise VolumeNotOpened(volume.state, volume.detail, volume.advice)
        notes: list[str] = []
        if for_changes:
            self._make_ready(volume, seen, notes)
        yield OpenVolume(volume=volume, files=seen.files(flush=for_changes), writable=for_changes, notes=notes)
        if for_changes:
            seen.flush()

    @contextlib.contextmanager
    def boot_media(self) -> Iterator[Iterator[Medium]]:
        """Every volume of the stick or CD this image was started from, BLUELIFT-DATA too."""
        yield (Medium(name=f"boot medium {volume.id}", files=volume.files()) for volume in self._plugged_in)

    @contextlib.contextmanager
    def media(self, image_id: str) -> Iterator[Iterator[Medium]]:  # noqa: ARG002 - the boot medium is already known
        """The boot medium, where it can be written, and sticks with a Bluelift folder."""
        yield receipt_media(self._seen, self._boot_media, self._disks)

    def end(self, action: AfterRepair) -> None:
        """Restart or power off, or do nothing. Raises OSError where Windows refuses."""
        self._serial.drain()
        leave(action)

    def shell(self) -> None:
        """A command prompt on the screen until the technician leaves it."""
        if self._config.shell and (problem := shell()):
            self.screen.write(f"\r\nNo shell: {problem}\r\n")

    @cached_property
    def _serial(self) -> SerialPort:
        return SerialPort(self._config.serial)

    @cached_property
    def _seen(self) -> list[SeenVolume]:
        return list_volumes()

    @cached_property
    def _disks(self) -> list[WindowsDisk]:
        return list_disks()

    @cached_property
    def _boot_media(self) -> list[SeenVolume]:
        return [
            volume
            for volume in self._seen
            if can_be_medium(volume, self._sticks) and carries_image(volume, self._config.image_id)
        ]

    @cached_property
    def _boot_disks(self) -> frozenset[int]:
        virtual = frozenset(disk.number for disk in self._disks if can_be_image_alone(disk.table, disk.raid))
        return disks_of_media(self._seen, self._boot_media, self._sticks | virtual)

    @property
    def _plugged_in(self) -> list[SeenVolume]:
        """The boot medium's, unless they lie on a host's own disk: that may be anybody's."""
        return plugged_in_of(self._seen, self._boot_media, self._sticks, self._boot_disks)

    @property
    def _sticks(self) -> frozenset[int]:
        return frozenset(disk.number for disk in self._disks if disk.is_stick)

    @cached_property
    def _judged(self) -> list[WindowsDisk]:
        used = {number for volume in self._seen for number in volume.disks}
        judged = [judge(disk, holds_volumes=disk.number in used, others=self._disks) for disk in self._disks]
        return [
            replace(disk, state=BOOT_MEDIUM, detail="This image was started from it.")
            if disk.number in self._boot_disks
            else disk
            for disk in judged
        ]

    @cached_property
    def _volumes(self) -> dict[Volume, SeenVolume]:
        running = running_drive(image_folder())
        found = {}
        for seen in self._seen:
            is_running = is_on(seen, running)
            is_medium = seen in self._boot_media and not may_hold_windows(seen)
            if seen.drive_type in _NOT_LISTED or is_medium or seen.disks & self._boot_disks:
                continue
            if is_running and not self._running_windows:
                continue
            found[describe(seen, self._disks, is_running=is_running)] = seen
        return found

    def _make_ready(self, volume: Volume, seen: SeenVolume, notes: list[str]) -> None:
        """Refuse what must not or cannot be changed; throw a hibernated session away where the profile says so."""
        if volume.state is VolumeState.HIBERNATED:
            if self._config.hibernated is not HibernatedVolumes.DISCARD:
                raise VolumeNotOpened(volume.state, volume.detail, volume.advice)
            try:
                seen.files(flush=True).remove((HIBERFIL_NAME,))
            except OSError as error:
                detail = f"The hibernated session could not be discarded: {error.strerror}."
                raise VolumeNotOpened(volume.state, detail, volume.advice) from error
            notes.append("The hibernated session of Windows was discarded, as the profile says.")
        if seen.read_only:
            raise VolumeNotOpened(
                VolumeState.UNREADABLE,
                "Windows opened the volume only for reading, so nothing was changed.",
                "Check whether the disk is write-protected, and run chkdsk on this volume.",
            )

    def _of_disk(self, disk: str) -> list[SeenVolume]:
        """The volumes that lie on one disk, as `Volume.disk` names it."""
        numbers = {found.number for found in self._disks if found.id == disk}
        return [seen for seen in self._seen if seen.disks == numbers]

    def _seen_as(self, volume: Volume) -> SeenVolume:
        """Raises VolumeNotOpened for a volume that is gone."""
        for listed, seen in self._volumes.items():
            if listed.id == volume.id:
                return seen
        raise VolumeNotOpened(VolumeState.UNREADABLE, "The volume is gone.", "Check the disk and its cable.")

    def _replace(self, before: SeenVolume, after: SeenVolume) -> None:
        """List a volume as it is now; the others are not looked at again."""
        self._seen[self._seen.index(before)] = after
        self.__dict__.pop("_volumes", None)

    def _load_drivers_of_medium(self) -> list[str]:
        folders = [Path(volume.path) / MEDIUM_FOLDER / DRIVERS_FOLDER for volume in self._plugged_in]
        return [note for folder in folders for note in load_drivers(folder)]

    def _settle(self, limit: float) -> None:
        started = changed = time.monotonic()
        before = self._look_again()
        while True:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if (found := self._look_again()) != before:
                before, changed = found, now
            fixed = any(not disk.is_stick for disk in self._disks)
            if now - changed >= STABLE_SECONDS and (fixed or now - started >= limit):
                return
            if now - started >= limit + 10 * STABLE_SECONDS:
                return

    def _look_again(self) -> tuple[frozenset[int], frozenset[str]]:
        for name in ("_seen", "_disks", "_boot_media", "_boot_disks", "_judged", "_volumes"):
            self.__dict__.pop(name, None)
        return frozenset(disk.number for disk in self._disks), frozenset(volume.root for volume in self._seen)
