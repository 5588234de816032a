"""A rename that the power cut in two, on a volume whose files know their own names, as NTFS's records do.

QEMU showed it first (tests/boot/test_torture.py): both folders list the file, its record knows one of the names, and
whoever takes that one away has lost the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from payload.contract import CROWDSTRIKE_CHANNEL_291, FileOutcome
from payload.environment import EntryKind, VolumePath
from payload.formats.channel_file import channel_file_bytes
from payload.undo import undo
from payload.windows_install import find_installations
from tests.payload.broken_windows import PowerCut, outcomes, repair
from tests.payload.fake_environment import MemoryFiles
from tests.payload.hive_maker import system_hive

FOLDER = "\\Windows\\System32\\drivers\\CrowdStrike"
NAMES = [f"C-00000291-00000000-0000003{n}.sys" for n in range(3)]
RULES = (CROWDSTRIKE_CHANNEL_291,)

#: When the power goes in a rename: the new folder lists the file; its record knows both names; the old one is gone.
CUTS = ("listed", "recorded", "unlisted")


class RecordedNames(MemoryFiles):
    """A volume like NTFS under ntfs-3g: a name that the file's record does not know cannot be taken away (ENOENT), and
    taking away the last that it does know frees the file, whoever still lists it."""

    def __init__(self) -> None:
        super().__init__()
        self.writable = True
        self.known: dict[int, set[VolumePath]] = {}
        self.renames = 0
        self.cut_at: tuple[int, str] | None = None

    def _names(self, path: VolumePath) -> set[VolumePath]:
        return self.known.setdefault(self._node(path).number, {path})

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """As ntfs-3g does it, cut where the test wants."""
        if self.entry(destination) is not None:
            raise FileExistsError(str(destination))
        self.renames += 1
        node, names = self._node(source), self._names(source)
        parent, name = self._parent(destination)
        parent.children[name] = node
        self._cut("listed")
        names.add(destination)
        self._cut("recorded")
        self.remove(source)
        self._cut("unlisted")

    def remove(self, path: VolumePath) -> None:
        """A name gone, and the file with its last one."""
        node, names = self._node(path), self._names(path)
        if node.kind is EntryKind.FILE and path not in names:
            raise FileNotFoundError(str(path))
        names.discard(path)
        parent, name = self._parent(path)
        del parent.children[name]
        if not names:
            node.data = b"freed, and used again by another file"

    def check_disk(self) -> None:
        """What chkdsk and ntfsck do: take away the names that no record knows."""
        for path in [tuple(path.strip("\\").split("\\")) for path in self.paths()]:
            node, names = self._node(path), self._names(path)
            if path not in names:
                parent, name = self._parent(path)
                del parent.children[name]
            assert node.data or not names

    def _cut(self, when: str) -> None:
        if self.cut_at == (self.renames, when):
            self.cut_at = None
            raise PowerCut


def broken_volume() -> tuple[RecordedNames, dict[str, bytes]]:
    files = RecordedNames()
    files.add("\\Windows\\System32\\config\\SYSTEM", system_hive("HALF-WAY"))
    faulty = {name: channel_file_bytes(291, 30 + n, 600 + n) for n, name in enumerate(NAMES)}
    for name, data in faulty.items():
        files.add(f"{FOLDER}\\{name}", data)
    return files, faulty


def every_place(files: RecordedNames, name: str) -> list[tuple[str, bytes]]:
    return [(path, data) for path, data in files.paths().items() if path.endswith(name)]


def cut(files: RecordedNames, moment: tuple[int, str], work: Callable[[RecordedNames], object]) -> None:
    files.renames, files.cut_at = 0, moment
    with pytest.raises(PowerCut):
        work(files)


@pytest.mark.parametrize("again", [None, *CUTS])
@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_move_cut_in_two_loses_and_doubles_nothing(number: int, when: str, again: str | None) -> None:
    files, faulty = broken_volume()
    cut(files, (number, when), repair)
    if again is not None:
        files.renames, files.cut_at = 0, (1, again)
        with contextlib.suppress(PowerCut):
            repair(files)
        files.cut_at = None
    results = repair(files)
    assert all(outcome is FileOutcome.QUARANTINED for outcome in outcomes(results).values())
    files.check_disk()
    for name, data in faulty.items():
        ((path, found),) = every_place(files, name)
        assert found == data
        assert path.startswith("\\ProgramData\\Bluelift\\quarantine\\")
    assert repair(files) == []
    take_back(files)
    assert {path: data for path, data in files.paths().items() if path.startswith(FOLDER)} == {
        f"{FOLDER}\\{name}": data for name, data in faulty.items()
    }


@pytest.mark.parametrize("when", CUTS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_undo_cut_in_two_loses_and_doubles_nothing(number: int, when: str) -> None:
    files, faulty = broken_volume()
    repair(files)
    cut(files, (number, when), take_back)
    first = outcomes(take_back(files)[0])
    if when == "listed":
        assert FileOutcome.FAILED in first.values()
    for name, data in faulty.items():
        assert all(found == data for _, found in every_place(files, name))
    files.check_disk()
    assert all(outcome is FileOutcome.RESTORED for outcome in outcomes(take_back(files)[0]).values())
    for name, data in faulty.items():
        assert every_place(files, name) == [(f"{FOLDER}\\{name}", data)]


def take_back(files: RecordedNames) -> tuple[list, tuple[str, ...]]:  # type: ignore[type-arg]
    now = f"{datetime(2024, 7, 21, tzinfo=UTC):%Y-%m-%dT%H:%M:%SZ}"
    return undo(files, RULES, find_installations(files).installations, now)
