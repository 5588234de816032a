"""A move that the power cut in two: one file with two names, of which only one may be true.

ntfs-3g renames by writing the second name into its folder, then into the file's own record, then taking the first name
away (ntfs_link and ntfs_delete in libntfs-3g's dir.c). Cut between the first two, both folders list the file, but
its record knows only the old name: taking that one away frees the file and loses it. The link count does not tell the
cases apart, for Windows counts 8.3 names too. So neither name is ever removed before the file has a third one that is
certainly true; removing a name that the record does not know fails in ntfs-3g and changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace

from payload.contract import JournalEntry
from payload.environment import Entry, EntryKind, ReparsePointInPath, VolumeFiles, VolumePath, windows_path
from payload.store import Run, all_destinations, volume_path, write_journal


def entry_or_none(files: VolumeFiles, path: VolumePath) -> Entry | None:
    """The entry at `path`, None also where a folder on the way is missing. Raises OSError."""
    try:
        return files.entry(path)
    except FileNotFoundError:
        return None


def is_half_moved(files: VolumeFiles, first: VolumePath, second: VolumePath) -> bool:
    """Whether both names are there and lead to one file. Raises OSError."""
    one, other = entry_or_none(files, first), entry_or_none(files, second)
    return bool(one and other and one.kind is EntryKind.FILE and one.identity == other.identity)


def with_fresh_destinations(files: VolumeFiles, run: Run, moved: set[VolumePath]) -> Run:
    """The run with a fresh destination for each file whose source is in `moved`; its journal is written first.

    Raises OSError, also where a file has used up its places.
    """
    if not moved:
        return run
    entries = tuple(
        replace(entry, destination=windows_path(_fresh(files, run, entry)))
        if volume_path(entry.source) in moved
        else entry
        for entry in run.journal.entries
    )
    journal = replace(run.journal, entries=entries)
    write_journal(files, run.folder, journal)
    return replace(run, journal=journal)


def drop_other_names(files: VolumeFiles, run: Run, entry: JournalEntry) -> None:
    """Take away the names that earlier attempts left in the run's folder, now that the file has a true one.

    One that the file's record does not know stays listed; Windows takes it away when it checks the volume, for which
    a volume that came from a power cut is flagged.
    """
    true_name = volume_path(entry.destination)
    for path in all_destinations(run.folder, volume_path(entry.source)):
        if path != true_name:
            with contextlib.suppress(OSError):
                if is_half_moved(files, path, true_name):
                    files.remove(path)


def make_parents(files: VolumeFiles, path: VolumePath, *, below: VolumePath) -> None:
    """Make the protected folders that lead from `below`, which exists, to `path`. Raises OSError."""
    for depth in range(len(below) + 1, len(path)):
        folder = path[:depth]
        found = files.entry(folder)
        if found is None:
            files.make_directory(folder)
        elif found.kind is not EntryKind.DIRECTORY:
            raise ReparsePointInPath(errno.ELOOP, f"{windows_path(folder)} is not a folder")


def _fresh(files: VolumeFiles, run: Run, entry: JournalEntry) -> VolumePath:
    for path in all_destinations(run.folder, volume_path(entry.source)):
        if entry_or_none(files, path) is None:
            return path
    raise OSError(errno.EEXIST, f"{entry.source} has used up its places in quarantine")
