"""Under Windows: a copy of the image's files hides nothing that Windows could be on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from payload.environment.boot_media import (
    can_be_image_alone,
    can_be_medium,
    disks_of_media,
    is_plugged_in,
    may_hold_windows,
    plugged_in_of,
)
from payload.formats.partition_table import BASIC_DATA, EFI_SYSTEM, Partition, PartitionTable, TableKind
from payload.formats.raid_metadata import RaidKind, RaidMetadata


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume on disk 0 (the host's own) or 1 (a stick), or a CD."""

    file_system: str
    disks: frozenset[int]


OWN, STICK = frozenset({0}), frozenset({1})
CD = Volume(file_system="CDFS", disks=frozenset())


@pytest.mark.parametrize(
    ("medium", "others", "is_medium", "left_out", "drivers", "whole_disks"),
    [
        (Volume(file_system="FAT32", disks=STICK), [], True, True, True, STICK),
        (CD, [], True, True, True, frozenset()),
        (Volume(file_system="FAT32", disks=STICK), [("exFAT", STICK)], True, True, True, STICK),
        # The host's own EFI system partition, or a FAT data volume, with a copy: only that one.
        (Volume(file_system="FAT32", disks=OWN), [("NTFS", OWN)], True, True, False, frozenset()),
        # A folder that a user made on C:.
        (Volume(file_system="NTFS", disks=OWN), [], False, False, False, frozenset()),
        (Volume(file_system="", disks=OWN), [], False, False, False, frozenset()),
        (Volume(file_system="NTFS", disks=frozenset()), [], False, False, False, frozenset()),
        # A stick that is NTFS, as for large boot.wim files: looked at like any other.
        (Volume(file_system="NTFS", disks=STICK), [], True, False, True, frozenset()),
        # A host's disk at a USB port: Windows beside, or locked by BitLocker.
        (Volume(file_system="FAT32", disks=STICK), [("NTFS", STICK)], True, True, True, frozenset()),
        (Volume(file_system="FAT32", disks=STICK), [("", STICK)], True, True, True, frozenset()),
        # A volume that spans both.
        (Volume(file_system="NTFS", disks=OWN | STICK), [], False, False, False, frozenset()),
    ],
)
def test_what_is_the_medium(
    *,
    medium: Volume,
    others: list[tuple[str, frozenset[int]]],
    is_medium: bool,
    left_out: bool,
    drivers: bool,
    whole_disks: frozenset[int],
) -> None:
    volumes = [medium, *(Volume(file_system=name, disks=disks) for name, disks in others)]
    assert can_be_medium(medium, STICK) is is_medium
    assert (can_be_medium(medium, STICK) and not may_hold_windows(medium)) is left_out
    assert (can_be_medium(medium, STICK) and is_plugged_in(medium, STICK)) is drivers
    assert disks_of_media(volumes, [medium] if is_medium else [], STICK) == whole_disks


@pytest.mark.parametrize(
    ("volumes", "carrying", "read"),
    [
        # A stick with BLUELIFT-DATA behind the image: both.
        ([("FAT32", STICK), ("exFAT", STICK), ("NTFS", OWN), ("FAT32", OWN)], 0, [0, 1]),
        # The host's own disk with a copy on its EFI system partition: not even the copy.
        ([("FAT32", OWN), ("exFAT", OWN), ("NTFS", OWN)], 0, []),
        # A host's disk at a USB port: the copy, and nothing beside it.
        ([("FAT32", STICK), ("exFAT", STICK), ("NTFS", STICK)], 0, [0]),
        # From a CD, with another stick plugged in.
        ([("CDFS", frozenset()), ("FAT32", STICK)], 0, [0]),
    ],
)
def test_drivers_and_configuration_are_read_from_every_volume_of_the_medium_that_was_plugged_in(
    volumes: list[tuple[str, frozenset[int]]], carrying: int, read: list[int]
) -> None:
    every = [Volume(file_system=name, disks=disks) for name, disks in volumes]
    media = [every[carrying]]
    found = plugged_in_of(every, media, STICK, disks_of_media(every, media, STICK))
    assert found == [every[i] for i in read]


def table(*types: str) -> PartitionTable:
    """A GPT with partitions of these types."""
    partitions = (
        Partition(number=number, start=number << 20, size=1 << 20, type=kind) for number, kind in enumerate(types, 1)
    )
    return PartitionTable(kind=TableKind.GPT, partitions=tuple(partitions))


@pytest.mark.parametrize(
    ("disk", "others", "medium"),
    [
        # The image as a virtual machine's disk; the disk may be named its boot medium.
        (table(BASIC_DATA), [], True),
        # The host's own disk with a copy on its EFI system partition: beside it lies more, whether it can be seen,
        (table(EFI_SYSTEM, BASIC_DATA), [("NTFS", OWN)], False),
        # or not: damaged, hidden, or without a driver.
        (table(EFI_SYSTEM, BASIC_DATA), [], False),
        # A disk whose table nobody can read.
        (None, [], False),
        # One partition, on which there is room for Windows: a volume that spans two disks.
        (table(BASIC_DATA), [("NTFS", OWN)], False),
    ],
)
def test_a_disk_of_a_virtual_machine_is_the_medium_where_nothing_else_is_on_it(
    disk: PartitionTable | None, others: list[tuple[str, frozenset[int]]], *, medium: bool
) -> None:
    copy = Volume(file_system="FAT32", disks=OWN)
    volumes = [copy, *(Volume(file_system=name, disks=disks) for name, disks in others)]
    alone = OWN if can_be_image_alone(disk, None) else frozenset()
    assert disks_of_media(volumes, [copy], STICK | alone) == (OWN if medium else frozenset())
    assert not disks_of_media(volumes, [], STICK | alone)


def test_a_part_of_a_raid_is_never_the_medium() -> None:
    assert not can_be_image_alone(table(BASIC_DATA), RaidMetadata(kind=RaidKind.INTEL, offset=1024))
