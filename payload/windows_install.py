"""Find offline Windows installations: every top-level folder, whatever its name, holding System32\\config\\SYSTEM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from payload.environment import Entry, EntryKind, VolumeFiles, VolumePath, any_name, called, windows_path
from payload.formats.regf import Hive, HiveError

T = TypeVar("T")
_CONFIG = ("System32", "config")
#: Root folders that are Windows by their name: as a reparse point they are worth a verdict of their own.
_WINDOWS_NAMES = ("windows", "winnt")
#: A junction to \\Users on every Windows since Vista.
_USUAL_JUNCTIONS = ("documents and settings",)
#: Users may make folders and junctions in the root: what is told of them, and believed, has an end.
_MOST_SENTENCES = 100
_MOST_INSTALLATIONS = 100
#: A value may have millions of characters.
_LONGEST_TEXT = 256
_VERSION_KEY = r"Microsoft\Windows NT\CurrentVersion"


@dataclass(frozen=True, kw_only=True)
class WindowsInstallation:
    """One Windows folder. Empty texts are unknown, and `detail` says why."""

    path: VolumePath
    computer_name: str = ""
    product: str = ""
    build: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class WindowsSurvey:
    """The installations of one volume.

    `left_alone`: sentences about reparse points and special files where a Windows may be behind. `problems`: folders
    that could not be looked at or read. `notes`: the root's other reparse points and what else is no folder or file.
    """

    installations: tuple[WindowsInstallation, ...] = ()
    left_alone: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_installations(files: VolumeFiles) -> WindowsSurvey:
    """Look through the volume's top-level folders. Never raises for what is on the disk; follows no reparse point.

    A folder named Windows comes first, so that no other, however slow to read, delays it.
    """
    survey = _Survey(files)
    is_windows = called(_WINDOWS_NAMES[0])
    for wanted in (is_windows, lambda name: not is_windows(name)):
        for entry in survey.scan((), wanted):
            if entry.kind is EntryKind.LINK:
                survey.note_root_link(entry)
            elif entry.kind is EntryKind.DIRECTORY:
                survey.look_into((entry.name,))
            elif entry.kind is EntryKind.OTHER:
                survey.note_root_other(entry)
    return WindowsSurvey(
        installations=tuple(sorted(survey.installations, key=lambda one: (not is_windows(one.path[0]), one.path))),
        left_alone=tuple(survey.left_alone),
        problems=tuple(survey.problems),
        notes=tuple(survey.notes),
    )


class _Survey:
    """Collects what is found on the way through the root's folders."""

    def __init__(self, files: VolumeFiles) -> None:
        self._files = files
        self.installations: list[WindowsInstallation] = []
        self.left_alone: list[str] = []
        self.problems: list[str] = []
        self.notes: list[str] = []

    def look_into(self, folder: VolumePath) -> None:
        """Add the installation in `folder`, if there is one."""
        configs = list(self._folders(folder, _CONFIG))
        systems = [path for config in configs for path in self._hives(config, "SYSTEM")]
        if not systems:
            return
        if len(self.installations) == _MOST_INSTALLATIONS:
            _say(self.left_alone, f"more than {_MOST_INSTALLATIONS} folders look like Windows; others were not treated")
            return
        softwares = [path for config in configs for path in self._hives(config, "SOFTWARE")]
        name, name_problem = _first(self._files, systems, _computer_name)
        version, version_problem = _first(self._files, softwares, _version)
        product, build = version or ("", "")
        details = []
        if not name:
            details.append(f"computer name unknown: {name_problem}")
        if not build:
            details.append(f"Windows version unknown: {version_problem}")
        self.installations.append(
            WindowsInstallation(
                path=folder, computer_name=name or "", product=product, build=build, detail="; ".join(details)
            )
        )

    def note_root_link(self, entry: Entry) -> None:
        """A reparse point in the root: worth a verdict where it stands for the Windows folder."""
        sentence = f"{windows_path((entry.name,))} is a reparse point: not followed"
        if entry.name.casefold() in _WINDOWS_NAMES:
            _say(self.left_alone, sentence)
        elif entry.name.casefold() not in _USUAL_JUNCTIONS:
            _say(self.notes, sentence)

    def note_root_other(self, entry: Entry) -> None:
        """What is neither folder, file nor reparse point: a problem where it stands for the Windows folder."""
        sentence = _what_other(entry, (entry.name,))
        _say(self.problems if entry.name.casefold() in _WINDOWS_NAMES else self.notes, sentence)

    def scan(self, folder: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """The folder's entries of those names, no more and a problem noted where they cannot be read."""
        try:
            yield from self._files.scan(folder, wanted)
        except OSError as error:
            _say(self.problems, f"{windows_path(folder)} could not be listed: {error.strerror or error}")

    def _folders(self, folder: VolumePath, names: tuple[str, ...]) -> Iterator[VolumePath]:
        """Every folder that `names` lead to, without regard to case: several may differ only in that."""
        if not names:
            yield folder
            return
        for entry in self._called(folder, names[0]):
            path = (*folder, entry.name)
            if entry.kind is EntryKind.DIRECTORY:
                yield from self._folders(path, names[1:])
            elif entry.kind is EntryKind.LINK:
                _say(self.left_alone, f"{windows_path(path)} is a reparse point: not followed")
            elif entry.kind is EntryKind.OTHER:
                _say(self.problems if entry.problem else self.left_alone, _what_other(entry, path))

    def _hives(self, config: VolumePath, name: str) -> list[VolumePath]:
        return [(*config, entry.name) for entry in self._called(config, name) if entry.kind is not EntryKind.DIRECTORY]

    def _called(self, folder: VolumePath, name: str) -> list[Entry]:
        return sorted(self.scan(folder, called(name)), key=lambda entry: entry.name)


def _say(sentences: list[str], sentence: str) -> None:
    """Add a sentence that is not there yet; after many of them only that there are more."""
    if len(sentences) < _MOST_SENTENCES and sentence not in sentences:
        sentences.append(sentence)
    elif len(sentences) == _MOST_SENTENCES and sentence not in sentences:
        sentences.append("there are more like these")


def _what_other(entry: Entry, path: VolumePath) -> str:
    if entry.problem:
        return f"{windows_path(path)} could not be looked at: {entry.problem}"
    return f"{windows_path(path)} is no ordinary file or folder"


def _first(files: VolumeFiles, hives: list[VolumePath], read: Callable[[Hive], T]) -> tuple[T | None, str]:
    """What `read` gets from the first hive it can be got from, or None and why not."""
    problem = "the hive is missing"
    for path in hives:
        try:
            with files.open_file(path) as stream:
                return read(Hive(stream)), ""
        except HiveError as error:
            problem = f"{windows_path(path)}: {error}"
        except OSError as error:
            problem = f"{windows_path(path)} could not be read: {error.strerror or error}"
    return None, problem


def _computer_name(hive: Hive) -> str:
    """Of the control set that `Select\\Current` names, as Windows does at the next start."""
    selected = hive.value("Select", "Current")
    number = selected.number if selected else None
    for control_set in dict.fromkeys([f"ControlSet{number or 1:03d}", "ControlSet001"]):
        value = hive.value(rf"{control_set}\Control\ComputerName\ComputerName", "ComputerName")
        if value and value.text:
            return value.text[:_LONGEST_TEXT]
    raise HiveError("the SYSTEM hive holds no computer name")


def _version(hive: Hive) -> tuple[str, str]:
    """Product and build, such as ("Windows 10 Pro 22H2", "19045.4529")."""

    def text(name: str) -> str:
        value = hive.value(_VERSION_KEY, name)
        return ((value.text if value else None) or "")[:_LONGEST_TEXT]

    revision = hive.value(_VERSION_KEY, "UBR")
    build = text("CurrentBuild") or text("CurrentBuildNumber")
    if not build:
        raise HiveError("the SOFTWARE hive holds no build number")
    if revision is not None and revision.number is not None:
        build = f"{build}.{revision.number}"
    return " ".join(filter(None, [text("ProductName"), text("DisplayVersion")])), build
