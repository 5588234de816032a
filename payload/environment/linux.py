"""The embedded Linux environment: an initramfs with busybox, ntfs-3g and Python, run as root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from payload.contract import AfterRepair, ControllerRecord, DiskRecord, HostIdentity, PayloadConfig
from payload.environment import Medium, OpenVolume, Screen, Volume
from payload.environment.linux_paths import LinuxPaths


class LinuxEnvironment:
    """`payload.environment.Environment` for the embedded Linux."""

    def __init__(self, config: PayloadConfig, *, paths: LinuxPaths | None = None) -> None:
        self._config = config
        self._paths = paths or LinuxPaths()

    @property
    def name(self) -> str:
        """As in the receipt."""
        return "linux"

    @property
    def screen(self) -> Screen:
        """The technician's screen, the first virtual terminal."""
        raise NotImplementedError

    def emit(self, line: str) -> None:
        """One line to the serial port; lost where there is none."""
        raise NotImplementedError

    def host(self) -> HostIdentity:
        """Who this host is, from SMBIOS and the firmware's variables."""
        raise NotImplementedError

    def wait_for_disks(self, limit: float) -> None:
        """Return once the set of disks is stable; with no disk at all only after `limit` seconds."""
        raise NotImplementedError

    def disks(self) -> Sequence[DiskRecord]:
        """Every physical disk, also those that are left alone."""
        raise NotImplementedError

    def controllers(self) -> Sequence[ControllerRecord]:
        """Every storage controller on the PCI bus."""
        raise NotImplementedError

    def volumes(self) -> Sequence[Volume]:
        """Every volume of every disk but the boot medium. Writes to none of them."""
        raise NotImplementedError

    def open_volume(self, volume: Volume, *, for_changes: bool) -> AbstractContextManager[OpenVolume]:
        """Mount an NTFS volume to look at it, or to change it. Raises VolumeNotOpened."""
        raise NotImplementedError

    def media(self, image_id: str) -> AbstractContextManager[Iterator[Medium]]:
        """The boot medium, where it can be written, and sticks with a Bluelift folder."""
        raise NotImplementedError

    def end(self, action: AfterRepair) -> None:
        """Restart into Windows, power off, or do nothing."""
        raise NotImplementedError

    def shell(self) -> None:
        """A shell on the screen until the technician leaves it."""
        raise NotImplementedError
