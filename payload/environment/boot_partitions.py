"""The partitions that a host starts from, which BitLocker never encrypts: where they are, behind one Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from payload.environment import EntryKind, VolumeFiles, VolumePath, called

#: Where a boot store lies: on an EFI system partition, and on the partition that a BIOS starts.
STORES: tuple[VolumePath, ...] = (("EFI", "Microsoft", "Boot", "BCD"), ("Boot", "BCD"))


@dataclass(frozen=True, kw_only=True)
class BootPartition:
    """A partition with a boot store on it, open for changes. `name` is for the screen and the receipt."""

    name: str
    files: VolumeFiles


class BootPartitions(Protocol):
    """What an environment knows of the partitions that a host starts from."""

    def boot_partitions(self, disk: str) -> AbstractContextManager[Iterator[BootPartition]]:
        """Those of a disk (as in `Volume.disk`) that have a boot store, one after another, each open for changes.

        The EFI system partition comes first. Each is closed when the iterator goes on; closing raises OSError.
        """
        ...


def stores_on(files: VolumeFiles) -> list[VolumePath]:
    """The boot stores of a partition, under the names that they have there; none of one that cannot be read."""
    found = (_find(files, path) for path in STORES)
    return [path for path in found if path is not None]


def _find(files: VolumeFiles, path: VolumePath) -> VolumePath | None:
    """The file at `path` without regard to case; nothing is followed."""
    here: VolumePath = ()
    for name, kind in zip(path, (*[EntryKind.DIRECTORY] * (len(path) - 1), EntryKind.FILE), strict=True):
        try:
            entry = next((entry for entry in files.listing(here, called(name)) if entry.kind is kind), None)
        except OSError:
            return None
        if entry is None:
            return None
        here = (*here, entry.name)
    return here
