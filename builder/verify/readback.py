"""Reads a volume back with ntfsls, ntfscat, ntfsinfo and ntfsck, not with the payload's code; compares every file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import ToolMissing
from builder.run import run
from builder.verify.windows_tree import Fate, Tree, TreeFile
from payload.contract import (
    JOURNAL_NAME,
    QUARANTINE_FOLDER,
    RECEIPT_NAME,
    STORE_NAME,
    STORE_PARENT,
    UNDOING_NAME,
    UNDONE_NAME,
)

REASON = "read the disk back"
STORE = f"{STORE_PARENT}\\{STORE_NAME}"
_LIMIT = 60
_READERS = 4
#: They only read, but refuse volumes that are flagged dirty or hibernated unless forced.
_ALSO_UNCLEAN = "-f"
_LISTED = re.compile(r" *(\d+) \w{3} [ \d]\d \d\d:\d\d \d{4} (.*)")
_OWN_NAMES = (JOURNAL_NAME, RECEIPT_NAME, UNDOING_NAME, UNDONE_NAME)
#: What a write that a power cut interrupted leaves beside.
_OWN_FILES = (*_OWN_NAMES, *(f".{name}.new" for name in _OWN_NAMES))
_LOST_AND_FOUND = "lost+found"


@dataclass(frozen=True, kw_only=True)
class SeenFile:
    """A file as it was read back. `kind` is "file" or "link" (a reparse point: no content is read).

    `metadata` are lines of ntfsinfo: times, attributes, security, names and sizes of streams.
    """

    path: str
    kind: str
    size: int
    sha256: str
    metadata: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SeenVolume:
    """Everything on a volume. `dirty`: flagged for chkdsk. `ntfsck` is what ntfsck said, "" where it found no error."""

    files: tuple[SeenFile, ...]
    directories: tuple[str, ...]
    dirty: bool
    ntfsck: str

    def file(self, path: str) -> SeenFile | None:
        """The file at `path`."""
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as it should be."""

    path: str
    expected: str
    seen: str


def read_volume(volume: Path, *, ntfsck: Sequence[str]) -> SeenVolume:
    """Read all of an NTFS volume in a plain file. `ntfsck` is the command to run it by, without options.

    Raises ToolMissing with the package's name; ToolFailed when the volume cannot be read at all.
    """
    try:
        listing = _tool("ntfsls", _ALSO_UNCLEAN, "-F", "-R", "-l", str(volume))
        names, directories = parse_listing(listing)
        with ThreadPoolExecutor(_READERS) as pool:
            files = tuple(pool.map(lambda named: _read_file(volume, *named), names))
        dirty = is_flagged(volume)
    except ToolMissing as error:
        raise ToolMissing(error.message, hint="Install the package ntfs-3g (apt install ntfs-3g).") from error
    return SeenVolume(
        files=files,
        directories=directories,
        dirty=dirty,
        ntfsck=check_volume(volume, ntfsck=ntfsck),
    )


def is_flagged(volume: Path) -> bool:
    """Whether Windows checks the volume (chkdsk) at its next start. Raises ToolMissing, ToolFailed."""
    flags = re.search(r"Volume Flags: 0x([0-9a-fA-F]+)", _tool("ntfsinfo", _ALSO_UNCLEAN, "-m", str(volume)))
    return flags is None or bool(int(flags[1], 16) & 1)


def read_file(volume: Path, path: str, *, stream: str = "") -> bytes:
    """The content of the file at `path` (backslashes, below the root) by ntfscat, or of one of its named streams.

    Raises ToolFailed.
    """
    inside = "/" + path.replace("\\", "/")
    named = ("-n", stream) if stream else ()
    return run(["ntfscat", _ALSO_UNCLEAN, *named, str(volume), inside], reason=REASON, time_limit=_LIMIT).stdout


def check_volume(volume: Path, *, ntfsck: Sequence[str]) -> str:
    """What ntfsck says without changing anything; "" for a volume without errors."""
    result = run([*ntfsck, "-n", "-q", str(volume)], reason=REASON, time_limit=_LIMIT, ok=range(256))
    return "" if result.returncode == 0 else f"exit code {result.returncode}: {result.said}"


def repair_volume(volume: Path, *, ntfsck: Sequence[str]) -> str:
    """Let ntfsck repair the volume; "" when it is without errors afterwards, else what it said."""
    run(
        [*ntfsck, "-a", "-q", str(volume)], reason="repair a volume after a power cut", time_limit=_LIMIT, ok=range(256)
    )
    return check_volume(volume, ntfsck=ntfsck)


def parse_listing(text: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """(files as (path, size), directories) of `ntfsls -F -R -l`; every entry that is not a directory is a file."""
    files: list[tuple[str, int]] = []
    directories: list[str] = []
    folder = ""
    for line in text.splitlines():
        if line.startswith("/") and line.endswith(":"):
            folder = line[1:-1].strip("/").replace("/", "\\")
            if folder:
                directories.append(folder)
            continue
        entry = _LISTED.fullmatch(line)
        if entry is None or entry[2].rstrip("/") in (".", "..") or entry[2].endswith("/"):
            continue
        files.append((f"{folder}\\{entry[2]}" if folder else entry[2], int(entry[1])))
    return files, tuple(directories)


def _read_file(volume: Path, path: str, size: int) -> SeenFile:
    inside = "/" + path.replace("\\", "/")
    information = _tool("ntfsinfo", _ALSO_UNCLEAN, "-F", inside, str(volume))
    is_link = "REPARSE_POINT" in information
    content = b"" if is_link else read_file(volume, path)
    streams = re.findall(r"Attribute name:\s+'(.*)'", "\n".join(_attributes(information, "$DATA")))
    metadata = [line for line in parse_metadata(information) if line]
    for stream in sorted(streams):
        data = read_file(volume, path, stream=stream)
        metadata.append(f"stream {stream}: {hashlib.sha256(data).hexdigest()}")
    return SeenFile(
        path=path,
        kind="link" if is_link else "file",
        size=size,
        sha256="" if is_link else hashlib.sha256(content).hexdigest(),
        metadata=tuple(metadata),
    )


def parse_metadata(information: str) -> list[str]:
    """What must survive a move, from `ntfsinfo -F`: creation and change times, attributes, security."""
    kept = []
    for block in _attributes(information, "$STANDARD_INFORMATION"):
        for label in ("File Creation Time", "File Altered Time", "File attributes", "Security ID"):
            found = re.search(rf"{label}:\s*(.*)", block)
            if found:
                kept.append(f"{label}: {found[1].strip()}")
    for block in _attributes(information, "$SECURITY_DESCRIPTOR"):
        found = re.search(r"Data size:\s*(\d+)", block)
        kept.append(f"own security descriptor: {found[1] if found else '?'} bytes")
    return kept


def _attributes(information: str, name: str) -> list[str]:
    parts = re.split(r"^Dumping attribute ", information, flags=re.MULTILINE)
    return [part for part in parts if part.startswith(f"{name} ")]


def _tool(*argv: str) -> str:
    return run(list(argv), reason=REASON, time_limit=_LIMIT).text


# --- comparing -------------------------------------------------------------------------------------------------------


def compare_volume(
    tree: Tree, before: SeenVolume, after: SeenVolume, *, store: str = STORE, after_repair: bool = False
) -> tuple[Difference, ...]:
    """Every way in which `after` is not what `tree` says must have become of `before`.

    Contents are judged by `tree`, times, attributes, security and streams by `before`. A quarantined file must be
    below Bluelift's quarantine exactly once and gone from its place; nothing may be added but Bluelift's own `store`.
    After a power cut and a repair of the file system give `after_repair`: then times, attributes and streams do not
    count, the store may be one of those that the payload takes when the first was spoiled, and a file that was to be
    quarantined may as well be in ntfsck's lost+found, once. Empty files and folders there are what was just begun.
    """
    if after_repair:
        after = _found_again(tree, _in_one_store(_contents_only(after), store), store)
        before = _contents_only(before)
    before_at = {file.path: file for file in before.files}
    after_at = {file.path: file for file in after.files}
    accounted: set[str] = set()
    differences: list[Difference] = []
    for file, path in ((wanted, name) for wanted in tree.files for name in (wanted.path, *wanted.hard_links)):
        if file.fate is Fate.KEPT:
            accounted.add(path)
            differences += _compare_file(path, file, before_at.get(path), after_at.get(path))
        else:
            differences += _compare_quarantined(file, before_at.get(path), after_at, accounted, store)
    for link in (file for file in before.files if file.kind == "link"):
        accounted.add(link.path)
        if after_at.get(link.path) != link:
            differences.append(
                Difference(path=link.path, expected="the same junction", seen=str(after_at.get(link.path)))
            )
    differences += [
        Difference(path=path, expected="nothing", seen=f"a file of {file.size} bytes, sha256 {file.sha256}")
        for path, file in after_at.items()
        if path not in accounted and not _is_own_file(path, store)
    ]
    return (*differences, *_compare_directories(before, after, store))


def _compare_file(path: str, file: TreeFile, before: SeenFile | None, after: SeenFile | None) -> list[Difference]:
    if after is None:
        return [Difference(path=path, expected=_described(file.sha256, len(file.content)), seen="nothing")]
    differences = []
    if (after.sha256, after.size) != (file.sha256, len(file.content)):
        differences.append(
            Difference(
                path=path,
                expected=_described(file.sha256, len(file.content)),
                seen=_described(after.sha256, after.size),
            )
        )
    if before is None or before.metadata != after.metadata:
        was = before.metadata if before else ()
        differences.append(Difference(path=path, expected="; ".join(was), seen="; ".join(after.metadata)))
    return differences


def _compare_quarantined(
    file: TreeFile, before: SeenFile | None, after_at: dict[str, SeenFile], accounted: set[str], store: str
) -> list[Difference]:
    differences = []
    if file.path in after_at:
        differences.append(Difference(path=file.path, expected="nothing (quarantined)", seen="still in its place"))
        accounted.add(file.path)
    tail = "\\" + file.path
    found = [
        path
        for path, seen in after_at.items()
        if path.startswith(f"{store}\\{QUARANTINE_FOLDER}\\") and path.endswith(tail) and seen.sha256 == file.sha256
    ]
    accounted.update(found)
    if len(found) != 1:
        expected = f"once below {store}\\{QUARANTINE_FOLDER}, {_described(file.sha256, len(file.content))}"
        return [*differences, Difference(path=file.path, expected=expected, seen=f"{len(found)} times there")]
    return differences + _compare_file(found[0], file, before, after_at[found[0]])


def _compare_directories(before: SeenVolume, after: SeenVolume, store: str) -> list[Difference]:
    lost = sorted(set(before.directories) - set(after.directories))
    added = sorted(
        path
        for path in set(after.directories) - set(before.directories)
        if path not in (STORE_PARENT, store) and not path.startswith(store + "\\")
    )
    return [
        *(Difference(path=path, expected="a folder", seen="nothing") for path in lost),
        *(Difference(path=path, expected="nothing", seen="a folder") for path in added),
    ]


def _contents_only(volume: SeenVolume) -> SeenVolume:
    return replace(volume, files=tuple(replace(file, metadata=()) for file in volume.files))


def _in_one_store(volume: SeenVolume, store: str) -> SeenVolume:
    """The volume with what lies in the store's alternatives (Bluelift.1 ...) where it would lie in the store."""

    def moved(path: str) -> str:
        found = re.match(re.escape(store) + r"(\.\d)(?=\\|$)", path)
        if found is None:
            return path
        folder = f"\\{QUARANTINE_FOLDER}\\"
        return store + path[found.end() :].replace(folder, f"{folder}{found[1]}", 1)

    return replace(
        volume,
        files=tuple(replace(file, path=moved(file.path)) for file in volume.files),
        directories=tuple(map(moved, volume.directories)),
    )


def _found_again(tree: Tree, volume: SeenVolume, store: str) -> SeenVolume:
    """The volume with each file of lost+found where it was to go, if that place is empty; without that folder."""
    taken = {file.path for file in volume.files}
    kept = {file.sha256 for file in volume.files if file.path.startswith(f"{store}\\{QUARANTINE_FOLDER}\\")}
    wanted = {file.sha256: file for file in tree.files if file.fate is Fate.QUARANTINED}
    files = []
    for file in volume.files:
        if file.path.startswith(_LOST_AND_FOUND + "\\"):
            was = wanted.get(file.sha256)
            if not file.size and (was is None or file.sha256 in kept):
                continue
            if was is not None and was.path not in taken:
                file = replace(file, path=f"{store}\\{QUARANTINE_FOLDER}\\{_LOST_AND_FOUND}\\{was.path}")
        files.append(file)
    lost = (_LOST_AND_FOUND, _LOST_AND_FOUND + "\\")
    folders = tuple(folder for folder in volume.directories if folder != lost[0] and not folder.startswith(lost[1]))
    return replace(volume, files=tuple(files), directories=folders)


def _is_own_file(path: str, store: str) -> bool:
    return path.startswith(store + "\\") and path.rpartition("\\")[2] in _OWN_FILES


def _described(sha256: str, size: int) -> str:
    return f"{size} bytes, sha256 {sha256}"
