"""A move that the power cuts, on a volume whose files know their own names, as NTFS's records do.

QEMU showed each of these states first (tests/boot/test_torture.py): a folder that lists what no record knows, a record
that knows a name which no folder lists, a copy of which a part is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO

import pytest

from payload.contract import CROWDSTRIKE_CHANNEL_291, Action, FileOutcome, Verdict
from payload.environment import Entry, EntryKind, RenameInstead, VolumePath, any_name
from payload.formats.channel_file import channel_file_bytes
from payload.quarantine import RunResult
from payload.repair import conclude, look
from payload.store import volume_path
from payload.undo import undo
from payload.windows_install import find_installations
from tests.payload.broken_windows import PowerCut, outcomes, repair
from tests.payload.fake_environment import MemoryFiles, Node
from tests.payload.hive_maker import system_hive

FOLDER = "\\Windows\\System32\\drivers\\CrowdStrike"
NAMES = [f"C-00000291-00000000-0000003{n}.sys" for n in range(3)]
RULES = (CROWDSTRIKE_CHANNEL_291,)

#: When the power goes in a rename: the new folder lists the file; its record knows both names; the old one is gone.
RENAME_CUTS = ("listed", "recorded", "unlisted")
#: When it goes in a copy and the removal after it: nothing can be told of the new file; it is empty; half of it is
#: written; of its content nothing can be read; all of it is written; it has its times; the old one is listed no more,
#: and its record is still in use; it is still listed, and its record is free.
COPY_CUTS = ("created", "empty", "half", "unreadable", "written", "copied", "delisted", "freed")
CUTS = [*((False, when) for when in RENAME_CUTS), *((True, when) for when in COPY_CUTS)]


class RecordedNames(MemoryFiles):
    """A volume like NTFS under ntfs-3g.

    A name that the file's record does not know cannot be taken away (ENOENT); taking away the last that it does know
    frees the file, whoever still lists it. `copies`: whether files are plain, so that they are copied, not renamed.
    """

    def __init__(self, *, copies: bool) -> None:
        super().__init__()
        self.writable = True
        self.copies = copies
        self.known: dict[int, set[VolumePath]] = {}
        self.in_use: dict[int, Node] = {}
        self.unwritten: set[int] = set()
        self.unreadable: set[int] = set()
        self.freed: set[int] = set()
        self.flagged = True
        self.moves = 0
        self.cut_at: tuple[int, str] | None = None

    def _names(self, path: VolumePath) -> set[VolumePath]:
        node = self._node(path)
        self.in_use[node.number] = node
        return self.known.setdefault(node.number, {path})

    def entry(self, path: VolumePath) -> Entry | None:
        """EIO for what is listed and whose record is not written, or is free."""
        found = super().entry(path)
        if found is not None and found.identity[1] in self.unwritten | self.freed:
            raise OSError(errno.EIO, "Input/output error")
        return found

    def scan(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """Such an entry with its problem."""
        for entry in super().scan(directory, wanted):
            try:
                self.entry((*directory, entry.name))
                yield entry
            except OSError as error:
                yield dataclasses.replace(entry, kind=EntryKind.OTHER, problem=str(error.strerror))

    def open_file(self, path: VolumePath) -> BinaryIO:
        """EIO for what has a size and no content yet."""
        if self._node(path).number in self.unreadable:
            raise OSError(errno.EIO, "Input/output error")
        return super().open_file(path)

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """As ntfs-3g does it, cut where the test wants."""
        if self.entry(destination) is not None:
            raise FileExistsError(str(destination))
        self.moves += 1
        node, names = self._node(source), self._names(source)
        parent, name = self._parent(destination)
        parent.children[name] = node
        self._cut("listed")
        names.add(destination)
        self._cut("recorded")
        self.remove(source)
        self._cut("unlisted")

    def copy(self, source: VolumePath, destination: VolumePath) -> None:
        """Create, write, set the times; cut where the test wants."""
        if not self.copies:
            raise RenameInstead(str(source))
        self.moves += 1
        whole = self._node(source)
        if self.entry(destination) is not None:
            raise FileExistsError(str(destination))
        parent, name = self._parent(destination)
        parent.children[name] = copy = self._new(EntryKind.FILE, b"", 0)
        self.unwritten.add(copy.number)
        self._cut("created")
        self.unwritten.discard(copy.number)
        self._names(destination)
        self._cut("empty")
        copy.data = whole.data[: len(whole.data) // 2] + bytes(40)
        self._cut("half")
        self.unreadable.add(copy.number)
        self._cut("unreadable")
        self.unreadable.discard(copy.number)
        copy.data = whole.data
        self._cut("written")
        copy.modified_ns = whole.modified_ns
        self._cut("copied")

    def remove(self, path: VolumePath) -> None:
        """A name gone, and the file with its last one."""
        self.entry(path)
        node, names = self._node(path), self._names(path)
        if node.kind is EntryKind.FILE and path not in names:
            raise FileNotFoundError(str(path))
        if names == {path} and self.cut_at == (self.moves, "freed"):
            self.freed.add(node.number)
            del self.in_use[node.number]
            node.data = b""
            self._cut("freed")
        parent, name = self._parent(path)
        del parent.children[name]
        self._cut("delisted")
        names.discard(path)
        if not names:
            del self.in_use[node.number]
            node.data = b"freed, and used again by another file"

    def settle_removal(self, path: VolumePath, file_number: int) -> None:
        """Free a record that is in use although no folder lists it."""
        if self.entry(path) is None and self.known.get(file_number) == {path}:
            self.in_use.pop(file_number, None)

    def is_left_to_check(self, path: VolumePath, file_number: int) -> bool:
        """Whether the record is free, and the volume flagged."""
        return self.flagged and file_number in self.freed and self._node(path).number == file_number

    def check_disk(self) -> None:
        """What chkdsk and ntfsck do: names that no record knows go, files that no folder lists come back."""
        listed = [tuple(path.strip("\\").split("\\")) for path in self.paths()]
        numbers = {self._node(path).number for path in listed}
        for path in listed:
            node = self._node(path)
            if node.number in self.unwritten | self.freed or path not in self._names(path):
                parent, name = self._parent(path)
                del parent.children[name]
        for number, node in self.in_use.items():
            if number not in numbers:
                for path in self.known[number]:
                    parent, name = self._parent(path)
                    parent.children[name] = node

    def _cut(self, when: str) -> None:
        if self.cut_at == (self.moves, when):
            self.cut_at = None
            raise PowerCut


def broken_volume(*, copies: bool) -> tuple[RecordedNames, dict[str, bytes]]:
    files = RecordedNames(copies=copies)
    files.add("\\Windows\\System32\\config\\SYSTEM", system_hive("HALF-WAY"))
    faulty = {name: channel_file_bytes(291, 30 + n, 600 + n) for n, name in enumerate(NAMES)}
    for name, data in faulty.items():
        files.add(f"{FOLDER}\\{name}", data)
    return files, faulty


def verdict_on(files: RecordedNames, results: list[RunResult]) -> Verdict:
    return conclude(look(files, RULES), results).verdict


def every_place(files: RecordedNames, name: str) -> list[tuple[str, bytes]]:
    return [(path, data) for path, data in files.paths().items() if path.endswith(name)]


def cut(files: RecordedNames, moment: tuple[int, str], work: Callable[[RecordedNames], object]) -> None:
    files.moves, files.cut_at = 0, moment
    with pytest.raises(PowerCut):
        work(files)


def assert_quarantined(files: RecordedNames, faulty: dict[str, bytes]) -> None:
    for name, data in faulty.items():
        ((path, found),) = every_place(files, name)
        assert found == data
        assert path.startswith("\\ProgramData\\Bluelift\\quarantine\\")


def assert_in_place(files: RecordedNames, faulty: dict[str, bytes]) -> None:
    for name, data in faulty.items():
        assert every_place(files, name) == [(f"{FOLDER}\\{name}", data)]


def take_back(files: RecordedNames) -> tuple[list, tuple[str, ...]]:  # type: ignore[type-arg]
    now = f"{datetime(2024, 7, 21, tzinfo=UTC):%Y-%m-%dT%H:%M:%SZ}"
    return undo(files, RULES, find_installations(files).installations, now)


@pytest.mark.parametrize("again", [None, 0, 2, 5, 7])
@pytest.mark.parametrize(("copies", "when"), CUTS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_move_cut_in_two_loses_and_doubles_nothing(number: int, copies: bool, when: str, again: int | None) -> None:
    files, faulty = broken_volume(copies=copies)
    cut(files, (number, when), repair)
    if again is not None:
        cuts = COPY_CUTS if copies else RENAME_CUTS
        files.moves, files.cut_at = 0, (1, cuts[again % len(cuts)])
        with contextlib.suppress(PowerCut):
            repair(files)
        files.cut_at = None
    results = repair(files)
    assert verdict_on(files, results) is (Verdict.REPAIRED if results else Verdict.ALREADY_CLEAN)
    assert all(outcome is FileOutcome.QUARANTINED for outcome in outcomes(results).values())
    files.check_disk()
    assert_quarantined(files, faulty)
    assert repair(files) == []
    assert verdict_on(files, []) is Verdict.ALREADY_CLEAN
    take_back(files)
    assert_in_place(files, faulty)


def freed_last(files: RecordedNames) -> None:
    cut(files, (3, "freed"), repair)


def unflag(files: RecordedNames) -> None:
    files.flagged = False


def spoil_the_copy(files: RecordedNames) -> None:
    (copy,) = (path for path, _ in every_place(files, NAMES[2]) if "quarantine" in path)
    files._node(volume_path(copy)).data += b"x"


def list_another(files: RecordedNames) -> None:
    (number,) = files.freed
    files.add(f"{FOLDER}\\{NAMES[2]}", b"another file")
    files.freed = {number, files._node(volume_path(f"{FOLDER}\\{NAMES[2]}")).number}


def damage_a_stranger(files: RecordedNames) -> None:
    files.add(f"{FOLDER}\\C-00000291-stranger.sys", b"of no run")
    files.unwritten.add(files._node(volume_path(f"{FOLDER}\\C-00000291-stranger.sys")).number)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("state", [unflag, spoil_the_copy, list_another, damage_a_stranger])
def test_any_other_name_that_cannot_be_looked_at_is_a_failure(
    state: Callable[[RecordedNames], object], finished: bool
) -> None:
    """Only what a run removed, and has whole in quarantine, on a volume that will be checked."""
    files, _ = broken_volume(copies=True)
    freed_last(files)
    if finished:
        repair(files)
    state(files)
    found = conclude(look(files, RULES), repair(files))
    assert found.verdict is Verdict.FAILED
    assert found.unread


def test_a_look_reads_nothing_of_finished_runs() -> None:
    """They may hold large files, and there may be many of them."""
    files, _ = broken_volume(copies=True)
    repair(files)
    read: list[VolumePath] = []
    opening = files.open_file

    def open_file(path: VolumePath) -> BinaryIO:
        read.append(path)
        return opening(path)

    files.open_file = open_file  # type: ignore[method-assign]
    assert look(files, RULES).interrupted.finished != ()
    assert [path[-1] for path in read if path[0] == "ProgramData"] == ["journal.json"]


def test_a_third_run_before_the_volume_is_checked_finds_it_clean() -> None:
    """The medium was left in: the host came back to it before Windows had checked the volume."""
    files, faulty = broken_volume(copies=True)
    freed_last(files)
    assert repair(files) != []
    assert repair(files) == []
    knowledge = look(files, RULES)
    assert not knowledge.something_to_do
    found = conclude(knowledge)
    assert found.verdict is Verdict.ALREADY_CLEAN
    assert not found.unread
    told = "was taken away by an earlier run; its old name is left for Windows's check of the volume to remove"
    assert f"{FOLDER}\\{NAMES[2]} {told}" in found.notes
    (record,) = (file for file in found.installations[0].files if file.path.endswith(NAMES[2]))
    assert (record.outcome, record.detail) == (FileOutcome.LEFT, told)
    files.check_disk()
    assert_quarantined(files, faulty)
    take_back(files)
    assert conclude(look(files, RULES)).notes == ()


def test_a_name_that_is_left_is_told() -> None:
    files, _ = broken_volume(copies=True)
    freed_last(files)
    results = repair(files)
    assert results[0].only_names == (f"{FOLDER}\\{NAMES[2]}",)
    told = "was already moved; its old name is left for Windows's check of the volume to remove"
    assert results[0].records[2].detail == told
    assert any(note.endswith(f"{NAMES[2]}: {told}") for note in conclude(look(files, RULES), results).notes)


@pytest.mark.parametrize(("copies", "when"), CUTS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_undo_cut_in_two_loses_and_doubles_nothing(number: int, copies: bool, when: str) -> None:
    files, faulty = broken_volume(copies=copies)
    repair(files)
    cut(files, (number, when), take_back)
    first = outcomes(take_back(files)[0])
    assert (FileOutcome.FAILED in first.values()) is (when in ("listed", "created", "freed"))
    for name, data in faulty.items():
        assert any(found == data for _, found in every_place(files, name))
    files.check_disk()
    assert all(outcome is FileOutcome.RESTORED for outcome in outcomes(take_back(files)[0]).values())
    assert_in_place(files, faulty)


@pytest.mark.parametrize("when", ["delisted", "freed"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_deletion_cut_in_two_is_not_taken_back_by_a_check_of_the_volume(number: int, when: str) -> None:
    files, faulty = broken_volume(copies=True)
    rule = dataclasses.replace(CROWDSTRIKE_CHANNEL_291, action=Action.DELETE)
    removals = 0

    def counted(path: VolumePath) -> None:
        nonlocal removals
        removals += path[-1] in NAMES
        files.moves = removals
        RecordedNames.remove(files, path)

    files.remove = counted  # type: ignore[method-assign]
    cut(files, (number, when), lambda files: repair(files, (rule,)))
    results = repair(files, (rule,))
    assert verdict_on(files, results) is Verdict.REPAIRED
    assert set(outcomes(results).values()) == {FileOutcome.DELETED}
    files.check_disk()
    assert not any(every_place(files, name) for name in faulty)


def test_what_stands_in_the_way_is_only_replaced_where_an_undo_was_cut_off() -> None:
    """An empty file in the place of a quarantined one is a rest of ours, or Windows's own."""
    files, faulty = broken_volume(copies=True)
    repair(files)
    files.add(f"{FOLDER}\\{NAMES[0]}", b"")
    assert outcomes(take_back(files)[0])[NAMES[0]] is FileOutcome.FAILED
    assert (f"{FOLDER}\\{NAMES[0]}", b"") in every_place(files, NAMES[0])
    assert (f"{FOLDER}\\{NAMES[1]}", faulty[NAMES[1]]) in every_place(files, NAMES[1])


def test_a_full_volume_is_renamed_on() -> None:
    files, faulty = broken_volume(copies=True)

    def full(source: VolumePath, destination: VolumePath) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.copy = full  # type: ignore[method-assign]
    assert set(outcomes(repair(files)).values()) == {FileOutcome.QUARANTINED}
    assert_quarantined(files, faulty)


def test_a_copy_that_is_not_equal_leaves_the_file_where_it_is() -> None:
    files, faulty = broken_volume(copies=True)

    def spoiling(source: VolumePath, destination: VolumePath) -> None:
        RecordedNames.copy(files, source, destination)
        files._node(destination).data = bytes(len(files._node(source).data))

    files.copy = spoiling  # type: ignore[method-assign]
    results = repair(files)
    assert set(outcomes(results).values()) == {FileOutcome.FAILED}
    assert "did not become what it was to be (another sha256)" in results[0].records[0].detail
    assert all((f"{FOLDER}\\{name}", data) in every_place(files, name) for name, data in faulty.items())
    del files.copy
    repair(files)
    assert_quarantined(files, faulty)
