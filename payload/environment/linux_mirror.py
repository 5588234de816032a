"""The mirror of an NTFS volume's file table, which a power cut may leave behind: `payload.environment.linux_ntfs`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from payload.formats.mft import journal_version
from payload.formats.ntfs import NtfsError, mirror_patches, read_at

#: (offset on the volume, bytes).
Patch = tuple[int, bytes]
_NEWER_JOURNAL = 2


def stale_mirror(node: Path) -> list[Patch]:
    """What makes the mirror what the table is; empty where they agree, or it is not a power cut that parted them."""
    try:
        with node.open("rb") as stream:
            return mirror_patches(stream)
    except (OSError, NtfsError):
        return []


def journal_is_newer(node: Path) -> bool:
    """Whether the journal is one that a running, crashed or hibernated Windows 8 or later leaves, also in doubt."""
    try:
        with node.open("rb") as stream:
            return journal_version(stream) >= _NEWER_JOURNAL
    except (OSError, NtfsError):
        return True


def renew_mirror(node: Path, notes: list[str]) -> list[Patch]:
    """Make the mirror what the table is, where a power cut left it behind; mounting tells if that fails.

    What `write_patches` takes it back with.
    """
    patches = stale_mirror(node)
    try:
        with node.open("rb") as stream:
            before = [(offset, read_at(stream, offset, len(data))) for offset, data in patches]
    except (OSError, NtfsError):
        return []
    if patches and write_patches(node, patches):
        notes.append("The mirror of the volume's file table was renewed: the power had gone between the two.")
    return before


def write_patches(node: Path, patches: Iterable[Patch]) -> bool:
    """Write all of them onto the disk; whether that went well."""
    patches = list(patches)
    if not patches:
        return True
    try:
        with node.open("r+b") as raw:
            for offset, data in patches:
                raw.seek(offset)
                raw.write(data)
            raw.flush()
            os.fsync(raw.fileno())
    except OSError:
        return False
    return True
