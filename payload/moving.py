"""Moving one file so that a power cut at any instant loses and doubles nothing.

Where the file system journals what it does, a move is a rename. ntfs-3g does not: it renames by writing a second name
into the folder and then into the file's own record, and takes the first away (ntfs_link and ntfs_delete in libntfs-3g's
dir.c). A record that has no room for both names is spread over two, in several writes; cut between them, the content is
lost. So there a second file is made, synced and read back before the first is removed: at any instant one of them is
whole, and who comes later can tell by sha256 which.

What a copy would not keep (hard links, named streams ...), and what has no room for one, is renamed all the same. Cut
in two, both folders may list the file while its record knows one of the names, and taking that one away frees the file.
The link count does not tell the cases apart, for Windows counts 8.3 names too. So neither name is removed before the
file has a third one that is certainly true; removing one that the record does not know fails and changes nothing.
"""

from __future__ import annotations

import contextlib
import errno

from payload.classify import read_content
from payload.contract import JournalEntry
from payload.environment import (
    Entry,
    EntryKind,
    RenameInstead,
    ReparsePointInPath,
    VolumeFiles,
    VolumePath,
    windows_path,
)
from payload.rule_schema import utc_ns_text
from payload.store import all_destinations, used_destinations, volume_path

_FULL = (errno.ENOSPC, errno.EDQUOT)


def move(files: VolumeFiles, source: VolumePath, destination: VolumePath, entry: JournalEntry) -> str:
    """Move `source`, just found to be what the journal says, and verify; the problem, or "" when all is well.

    The folder of `destination` exists. Raises OSError; the source is untouched then.
    """
    try:
        files.copy(source, destination)
    except OSError as error:
        if not isinstance(error, RenameInstead) and error.errno not in _FULL:
            raise
        return _rename(files, source, destination, entry)
    if problem := difference(files, destination, entry):
        return f"{windows_path(destination)} did not become what it was to be ({problem})"
    files.remove(source)
    return _still_there(files, source)


def difference(files: VolumeFiles, path: VolumePath, entry: JournalEntry) -> str:
    """How the file at `path` differs from what the journal says of it; empty when it does not. Raises OSError."""
    found = entry_or_none(files, path)
    if found is None:
        return "it is gone"
    if found.kind is not EntryKind.FILE:
        return f"it is a {found.kind.value}"
    if found.size != entry.size:
        return f"{found.size} bytes instead of {entry.size}"
    if found.modified_ns != entry.modified_ns:
        return f"modified {utc_ns_text(found.modified_ns)} instead of {utc_ns_text(entry.modified_ns)}"
    if read_content(files, path).sha256 != entry.sha256:
        return "another sha256"
    return ""


def entry_or_none(files: VolumeFiles, path: VolumePath) -> Entry | None:
    """The entry at `path`, None also where a folder on the way is missing. Raises OSError."""
    try:
        return files.entry(path)
    except FileNotFoundError:
        return None


def is_one_file(files: VolumeFiles, first: VolumePath, second: VolumePath) -> bool:
    """Whether both names are there and lead to one file: a rename that was cut in two. Raises OSError."""
    one, other = entry_or_none(files, first), entry_or_none(files, second)
    return bool(one and other and one.kind is EntryKind.FILE and one.identity == other.identity)


def kept_at(files: VolumeFiles, run_folder: VolumePath, entry: JournalEntry) -> VolumePath | None:
    """Where the run keeps the whole file. The last of its places counts: earlier ones were given up. Raises OSError."""
    places = used_destinations(files, run_folder, volume_path(entry.source))
    for path in reversed(places):
        with contextlib.suppress(OSError):
            if not difference(files, path, entry):
                return path
    return None


def what_is_kept(files: VolumeFiles, run_folder: VolumePath, entry: JournalEntry) -> str:
    """How what the run keeps differs from what the journal says; empty where it keeps nothing. Raises OSError."""
    for path in used_destinations(files, run_folder, volume_path(entry.source)):
        if entry_or_none(files, path) is not None:
            return difference(files, path, entry)
    return ""


def free_place(files: VolumeFiles, run_folder: VolumePath, entry: JournalEntry) -> VolumePath:
    """The first place where the run may keep the file, its folders made. Places that a power cut spoiled are passed.

    Raises OSError, also where there is none left.
    """
    problem = OSError(errno.EEXIST, f"{entry.source} has used up its places in quarantine")
    for path in all_destinations(run_folder, volume_path(entry.source)):
        try:
            if entry_or_none(files, path) is None:
                _make_parents(files, path, below=run_folder)
                return path
        except OSError as error:
            if error.errno in _FULL:
                raise
            problem = error
    raise problem


def drop_other_places(files: VolumeFiles, run_folder: VolumePath, entry: JournalEntry, kept: VolumePath) -> None:
    """Take away what earlier attempts left in the run's folder, now that the file is whole at `kept`.

    A name that the file's record does not know stays listed; Windows takes it away when it checks the volume, for which
    a volume that came from a power cut is flagged.
    """
    places: tuple[VolumePath, ...] = ()
    with contextlib.suppress(OSError):
        places = used_destinations(files, run_folder, volume_path(entry.source))
    for path in places:
        if path != kept:
            with contextlib.suppress(OSError):
                if entry_or_none(files, path) is not None:
                    files.remove(path)


def _rename(files: VolumeFiles, source: VolumePath, destination: VolumePath, entry: JournalEntry) -> str:
    """Where the rename itself fails half-way, the second name is taken back, so that the source is untouched.

    No power went, so both names are true, or ntfs-3g refuses to take away the one that is not.
    """
    try:
        files.rename(source, destination)
    except OSError:
        if is_one_file(files, source, destination):
            files.remove(destination)
        raise
    if still := _still_there(files, source):
        return still
    if problem := difference(files, destination, entry):
        return f"after the move {windows_path(destination)} is not what it was ({problem})"
    return ""


def _still_there(files: VolumeFiles, path: VolumePath) -> str:
    return f"{windows_path(path)} is still there after the move" if files.entry(path) is not None else ""


def _make_parents(files: VolumeFiles, path: VolumePath, *, below: VolumePath) -> None:
    """Make the protected folders that lead from `below`, which exists, to `path`. Raises OSError."""
    for depth in range(len(below) + 1, len(path)):
        folder = path[:depth]
        if files.entry(folder) is None:
            files.make_directory(folder)
        elif not files.is_protected(folder):
            raise ReparsePointInPath(errno.ELOOP, f"{windows_path(folder)} is not a folder of Bluelift's own")
