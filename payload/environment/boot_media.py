"""What of the volumes that carry this image's files it was started from, on any platform that names file systems.

The image's files can be copied onto a host's own disk: into its EFI system partition or into a folder of C:, by a
technician or by somebody who wants the repair not to happen, and any user of a host may do the latter. Windows can
also be on a disk at a USB port. So nothing that Windows could be on is ever left out for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from payload.formats.partition_table import PartitionTable
from payload.formats.raid_metadata import RaidMetadata

#: As Windows names them; it cannot be installed on any of these.
_NO_WINDOWS_ON = frozenset(("FAT", "FAT32", "exFAT", "CDFS", "UDF"))


class PlacedVolume(Protocol):
    """A volume: what its file system is called (empty where it could not be opened), and the disks that it lies on."""

    @property
    def file_system(self) -> str:
        """As GetVolumeInformation has it."""
        ...

    @property
    def disks(self) -> frozenset[int]:
        """The numbers of its disks; none for a CD."""
        ...


Placed = TypeVar("Placed", bound=PlacedVolume)


def may_hold_windows(volume: PlacedVolume) -> bool:
    """Whether Windows could be on it, as far as its file system tells."""
    return volume.file_system not in _NO_WINDOWS_ON


def is_plugged_in(volume: PlacedVolume, sticks: frozenset[int]) -> bool:
    """Whether a technician put it there: a CD, or a volume that lies on `sticks` alone."""
    return volume.disks <= sticks if volume.disks else volume.file_system in ("CDFS", "UDF")


def can_be_medium(volume: PlacedVolume, sticks: frozenset[int]) -> bool:
    """Whether a volume that carries this image's files may have been what it was started from."""
    return not may_hold_windows(volume) or is_plugged_in(volume, sticks)


def plugged_in_of(
    volumes: Iterable[Placed], media: Collection[Placed], sticks: frozenset[int], boot_disks: frozenset[int]
) -> list[Placed]:
    """Those of the boot medium's volumes that a technician plugged in: the `media`, and what else is on their disks.

    A stick's second volume carries nothing of the image; `boot_disks` (see `disks_of_media`) tell that it is one.
    """
    return [
        volume
        for volume in volumes
        if is_plugged_in(volume, sticks) and (volume in media or (volume.disks and volume.disks <= boot_disks))
    ]


def can_be_image_alone(table: PartitionTable | None, raid: RaidMetadata | None) -> bool:
    """Whether a disk can be this image and nothing else, as attached to a virtual machine: it has one partition."""
    return raid is None and table is not None and len(table.partitions) == 1


def disks_of_media(
    volumes: Iterable[PlacedVolume], media: Iterable[PlacedVolume], candidates: frozenset[int]
) -> frozenset[int]:
    """The disks that are the boot medium as a whole: those with one of the media on them and no room for Windows.

    `candidates`: sticks, and disks for which `can_be_image_alone` holds.
    """
    carrying = {number for medium in media for number in medium.disks}
    windows_own = {number for volume in volumes if may_hold_windows(volume) for number in volume.disks}
    return frozenset((carrying & candidates) - windows_own)
