"""Under Windows: a copy of the image's files hides nothing that Windows could be on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from payload.environment.boot_media import can_be_medium, disks_of_media, is_plugged_in, may_hold_windows


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
