"""The embedded Linux environment: an initramfs with busybox, ntfs-3g and Python, run as root."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from payload.contract import AfterRepair, ControllerRecord, DiskRecord, HostIdentity, PayloadConfig
from payload.environment import Medium, OpenVolume, Volume, VolumeNotOpened, VolumeState
from payload.environment.boot_partitions import BootPartition
from payload.environment.linux_bitlocker import locked_metadata, unlocked
from payload.environment.linux_boot_partitions import fat_boot_partitions, ntfs_boot_partitions
from payload.environment.linux_cipher import LinuxCipher
from payload.environment.linux_commands import NOT_FOUND, run_on_terminal
from payload.environment.linux_console import LinuxScreen, SerialPort
from payload.environment.linux_controllers import list_controllers
from payload.environment.linux_disks import Disk, list_disks, wait_for_disks
from payload.environment.linux_host import host_identity, is_uefi
from payload.environment.linux_media import (
    BootMedium,
    MediumNode,
    boot_file_systems,
    find_boot_medium,
    key_media,
    medium_places,
    ntfs_sticks,
    receipt_media,
)
from payload.environment.linux_ntfs import mounted_for_changes, mounted_to_look
from payload.environment.linux_paths import LinuxPaths
from payload.environment.linux_power import eject, is_own_machine, leave, set_boot_next
from payload.environment.linux_volumes import SurveyedDisk, boot_medium, survey_disk, volumes_of, without
from payload.environment.locked import UnlockKey
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.fve import FveVolume

_SHELL_GREETING = "\r\nA shell. Type exit to come back to Bluelift.\r\n"
#: How long what this image was started from is waited for, once the host's disks are there.
_MEDIUM_SECONDS = 10.0
_POLL_SECONDS = 0.25
_NOT_OPENABLE = (VolumeState.RAID_MEMBER, VolumeState.LOCKED, VolumeState.NOT_WINDOWS)


def _medium_name(medium: MediumNode) -> str:
    if medium.disk is None:
        return f"CD {medium.name}"
    return f"{'stick' if medium.disk.is_stick else 'disk'} {medium.name}"


class LinuxEnvironment:
    """`payload.environment.Environment` for the embedded Linux."""

    def __init__(self, config: PayloadConfig, *, paths: LinuxPaths | None = None) -> None:
        self._config = config
        self._paths = paths or LinuxPaths()
        self._unlocked: dict[str, Path] = {}
        self._notes: list[str] = []

    @property
    def name(self) -> str:
        """As in the receipt."""
        return "linux"

    @cached_property
    def screen(self) -> LinuxScreen:
        """The technician's screen: the first virtual terminal, else whatever the kernel's console is."""
        if is_own_machine(self._paths):
            # Later kernel messages would land in the middle of the verdict; only emergencies may.
            with contextlib.suppress(OSError):
                (self._paths.proc / "sys/kernel/printk").write_text("1")
        return LinuxScreen([self._paths.dev / name for name in ("tty1", "console", "tty")])

    def emit(self, line: str) -> None:
        """One line to the serial port; lost where there is none."""
        self._serial.emit(line)

    def notes(self) -> Sequence[str]:
        """Volumes that could not be locked again."""
        return tuple(self._notes)

    def host(self) -> HostIdentity:
        """Who this host is, from SMBIOS and the firmware's variables."""
        return host_identity(self._paths)

    def wait_for_disks(self, limit: float) -> None:
        """Return once the set of disks is stable; with no fixed disk at all only after `limit` seconds.

        What this image was started from may come later than the host's own disks: a stick takes seconds after its
        port, and on it are keys, configuration, and the place for the receipt.
        """
        wait_for_disks(self._paths, limit)
        self._forget()
        until = time.monotonic() + min(limit, _MEDIUM_SECONDS)
        seen = medium_places(self._paths)
        while self._config.image_id and not self._boot_medium.found and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            if (now := medium_places(self._paths)) != seen:
                seen = now
                wait_for_disks(self._paths, limit)
                self._forget()

    def disks(self) -> Sequence[DiskRecord]:
        """Every physical disk, also those that are left alone."""
        return [surveyed.record for surveyed in self._surveyed]

    def controllers(self) -> Sequence[ControllerRecord]:
        """Every storage controller on the PCI bus."""
        return list_controllers(self._paths)

    def volumes(self) -> Sequence[Volume]:
        """Every volume of every disk but the boot medium. Writes to none of them."""
        return volumes_of(self._surveyed, self._unlocked)

    @property
    def unlocking(self) -> LinuxEnvironment:
        """This environment itself: it is `payload.environment.locked.Unlocking` as well."""
        return self

    @property
    def cipher(self) -> LinuxCipher:
        """The kernel's ciphers and OpenSSL's PBKDF2."""
        return LinuxCipher()

    def locked_metadata(self, volume: Volume) -> FveVolume:
        """What a locked volume's metadata says. Raises FveError, OSError, VolumeNotOpened."""
        return locked_metadata(self._node_of(volume))

    @contextlib.contextmanager
    def unlocked(self, volume: Volume, key: UnlockKey) -> Iterator[None]:
        """Open a locked volume: `volumes` and `open_volume` then have what is inside. See `Unlocking`."""
        with unlocked(self._paths, self._node_of(volume), volume.size, key) as opened:
            self._unlocked[volume.id] = opened.node
            try:
                yield
            finally:
                del self._unlocked[volume.id]
        self._notes += opened.notes

    @contextlib.contextmanager
    def key_media(self) -> Iterator[Iterator[Medium]]:
        """The boot medium, sticks, CDs and small partitions, mounted one after another, read-only."""
        with (
            contextlib.closing(key_media(self._paths, self._mountable)) as found,
            contextlib.closing(self._ntfs_sticks()) as ntfs,
        ):
            small = (
                Medium(
                    name=_medium_name(medium),
                    files=PosixVolumeFiles(root),
                    disk=medium.disk.name if medium.disk else medium.name,
                )
                for medium, root in found
            )
            yield chain(small, ntfs)

    def _ntfs_sticks(self) -> Generator[Medium, None, None]:
        for name, node, disk in ntfs_sticks(self._mountable):
            with contextlib.suppress(VolumeNotOpened), mounted_to_look(self._paths, node) as ntfs:
                yield Medium(name=f"stick {name}", files=PosixVolumeFiles(ntfs.root), disk=disk.name)

    @contextlib.contextmanager
    def boot_partitions(self, disk: str) -> Iterator[Iterator[BootPartition]]:
        """See `BootPartitions`."""
        with (
            contextlib.closing(fat_boot_partitions(self._paths, self._mountable, disk)) as fat,
            contextlib.closing(ntfs_boot_partitions(self.volumes(), self.open_volume, disk)) as ntfs,
        ):
            yield chain(fat, ntfs)

    @contextlib.contextmanager
    def open_volume(self, volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        """Mount an NTFS volume to look at it, or to change it. Raises VolumeNotOpened.

        `notes` is complete only after the context has been left: closing adds to it.
        """
        if volume.state in _NOT_OPENABLE:
            raise VolumeNotOpened(volume.state, volume.detail, volume.advice)
        node = self._node_of(volume)
        mounted = (
            mounted_for_changes(self._paths, node, self._config.hibernated, crashed=volume.state is VolumeState.UNCLEAN)
            if for_changes
            else mounted_to_look(self._paths, node)
        )
        with mounted as ntfs:
            files = PosixVolumeFiles(ntfs.root, flag_is_ours=ntfs.flag_is_ours)
            yield OpenVolume(volume=volume, files=files, writable=ntfs.writable, notes=ntfs.notes)

    @contextlib.contextmanager
    def boot_media(self) -> Iterator[Iterator[Medium]]:
        """Every file system of the stick or CD this image was started from, BLUELIFT-DATA too; mounted one by one."""
        with contextlib.closing(boot_file_systems(self._paths, self._mountable, self._boot_medium)) as found:
            yield (Medium(name=f"boot medium {medium.name}", files=PosixVolumeFiles(root)) for medium, root in found)

    @contextlib.contextmanager
    def media(self, image_id: str) -> Iterator[Iterator[Medium]]:
        """The boot medium, where it can be written, and sticks with a Bluelift folder; mounted one after another."""
        with contextlib.closing(receipt_media(self._paths, self._mountable, image_id)) as found:
            yield (Medium(name=name, files=PosixVolumeFiles(root)) for name, root in found)

    def end(self, action: AfterRepair) -> None:
        """Restart into Windows, power off, or do nothing. Does nothing on a machine that runs another system."""
        if action is AfterRepair.STAY or not is_own_machine(self._paths):
            return
        self._serial.drain()
        if action is AfterRepair.REBOOT:
            next_is_windows = is_uefi(self._paths) and set_boot_next(self._paths)
            if not next_is_windows and self._boot_medium.drive is not None:
                eject(self._boot_medium.drive)
        leave(self._paths, action)

    def shell(self) -> None:
        """A shell on the screen until the technician leaves it."""
        terminal = self.screen.terminal
        if terminal is None or not self._config.shell:
            return
        self.screen.write(_SHELL_GREETING)
        ended = run_on_terminal(["setsid", "-c", "sh"], terminal)
        if ended.returncode == NOT_FOUND:
            self.screen.write("\r\nThis image has no shell.\r\n")

    def _node_of(self, volume: Volume) -> Path:
        return self._unlocked.get(volume.id) or self._paths.dev / volume.id.replace("!", "/")

    @cached_property
    def _serial(self) -> SerialPort:
        return SerialPort(self._paths, self._config.serial)

    @cached_property
    def _disks(self) -> list[SurveyedDisk]:
        """Every disk, before it is known which of them this image was started from."""
        return [survey_disk(disk) for disk in list_disks(self._paths)]

    @property
    def _mountable(self) -> list[Disk]:
        """The disks whose FAT volumes may be mounted: no member of a RAID, not even read-only."""
        return [surveyed.disk for surveyed in self._disks if surveyed.raid is None]

    @cached_property
    def _boot_medium(self) -> BootMedium:
        return find_boot_medium(self._paths, self._mountable, self._config.image_id)

    @cached_property
    def _surveyed(self) -> list[SurveyedDisk]:
        boot = self._boot_medium
        return [
            boot_medium(surveyed) if surveyed.disk.name in boot.disks else without(surveyed, boot.file_systems)
            for surveyed in self._disks
        ]

    def _forget(self) -> None:
        for name in ("_disks", "_boot_medium", "_surveyed"):
            self.__dict__.pop(name, None)
