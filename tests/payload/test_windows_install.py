"""Windows installations are found whatever their folder is called, and none is found through a reparse point."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.environment import posix_files
from payload.environment.posix_files import PosixVolumeFiles
from payload.quarantine import interrupted, plan
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291, Action, Below, Rule
from payload.rules import examine
from payload.windows_install import WindowsInstallation, find_installations
from tests.payload.broken_windows import FaultyOs, make_windows
from tests.payload.hive_maker import HiveMaker, MakeKey, software_hive, system_hive, sz


def look(root: Path) -> list[WindowsInstallation]:
    return list(find_installations(PosixVolumeFiles(root)).installations)


def test_an_installation_and_whose_it_is(tmp_path: Path) -> None:
    make_windows(tmp_path, computer="KASSE-07")
    assert look(tmp_path) == [
        WindowsInstallation(
            path=("Windows",), computer_name="KASSE-07", product="Windows 10 Pro 22H2", build="19045.4529"
        )
    ]


def test_several_under_any_name(tmp_path: Path) -> None:
    for folder in ("Windows", "WINDOWS", "Win11-neu", "Übung"):
        make_windows(tmp_path, folder=folder, computer=f"PC-{folder}")
    (tmp_path / "Users").mkdir()
    (tmp_path / "pagefile.sys").write_bytes(b"")
    found = {place.path: place.computer_name for place in look(tmp_path)}
    assert found == {(name,): f"PC-{name}" for name in ("Windows", "WINDOWS", "Win11-neu", "Übung")}


def test_none_is_fine(tmp_path: Path) -> None:
    (tmp_path / "Windows" / "System32").mkdir(parents=True)
    (tmp_path / "Data" / "System32" / "config" / "SYSTEM").mkdir(parents=True)
    survey = find_installations(PosixVolumeFiles(tmp_path))
    assert survey.installations == ()
    assert survey.problems == ()
    assert survey.left_alone == ()


def test_names_in_any_case_and_twice(tmp_path: Path) -> None:
    (tmp_path / "w" / "system32" / "CONFIG").mkdir(parents=True)
    (tmp_path / "w" / "SYSTEM32" / "Config").mkdir(parents=True)
    (tmp_path / "w" / "SYSTEM32" / "Config" / "system").write_bytes(b"not a hive")
    (tmp_path / "w" / "system32" / "CONFIG" / "System").write_bytes(system_hive("LOWER"))
    (found,) = look(tmp_path)
    assert found.computer_name == "LOWER"
    assert found.detail == "Windows version unknown: the hive is missing"


def test_the_selected_control_set_counts(tmp_path: Path) -> None:
    make_windows(tmp_path)
    hive = tmp_path / "Windows" / "System32" / "config" / "SYSTEM"
    hive.write_bytes(system_hive("SECOND", control_set=2, dirty=True))
    assert look(tmp_path)[0].computer_name == "SECOND"
    root = MakeKey("ROOT")
    root.at(r"ControlSet001\Control\ComputerName\ComputerName").values["ComputerName"] = sz("NO-SELECT")
    hive.write_bytes(HiveMaker().make(root))
    assert look(tmp_path)[0].computer_name == "NO-SELECT"


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (b"", "the hive ends at 0x0"),
        (bytes(8192), "a hive starts with 'regf'"),
        (system_hive("X")[:4200], "the hive ends"),
        (software_hive(), "holds no computer name"),
    ],
)
def test_a_broken_hive_leaves_the_name_unknown_and_says_why(tmp_path: Path, system: bytes, said: str) -> None:
    make_windows(tmp_path)
    (tmp_path / "Windows" / "System32" / "config" / "SYSTEM").write_bytes(system)
    (found,) = look(tmp_path)
    assert found.computer_name == ""
    assert found.detail.startswith("computer name unknown: ")
    assert said in found.detail
    assert found.build == "19045.4529"


def test_a_software_hive_without_a_version(tmp_path: Path) -> None:
    make_windows(tmp_path)
    software = tmp_path / "Windows" / "System32" / "config" / "SOFTWARE"
    software.write_bytes(system_hive("X"))
    (found,) = look(tmp_path)
    assert (found.product, found.build) == ("", "")
    assert "holds no build number" in found.detail
    root = MakeKey("ROOT")
    root.at(r"Microsoft\Windows NT\CurrentVersion").values["CurrentBuildNumber"] = sz("7601")
    software.write_bytes(HiveMaker().make(root))
    assert look(tmp_path)[0].build == "7601"


def test_a_windows_folder_that_is_a_reparse_point(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    make_windows(outside)
    root = tmp_path / "root"
    root.mkdir()
    (root / "Windows").symlink_to(outside / "Windows")
    (root / "Documents and Settings").symlink_to(outside)
    (root / "D").symlink_to(outside)
    survey = find_installations(PosixVolumeFiles(root))
    assert survey.installations == ()
    assert survey.left_alone == (r"\Windows is a reparse point: not followed",)
    assert survey.notes == (r"\D is a reparse point: not followed",)


@pytest.mark.parametrize("inner", ["System32", "System32/config"])
def test_a_reparse_point_deeper_down(tmp_path: Path, inner: str) -> None:
    make_windows(tmp_path)
    path = tmp_path / "Windows" / inner
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    survey = find_installations(PosixVolumeFiles(tmp_path))
    assert survey.installations == ()
    backslashed = inner.replace("/", "\\")
    assert survey.left_alone == (f"\\Windows\\{backslashed} is a reparse point: not followed",)


def test_a_hive_that_is_a_reparse_point_is_not_read(tmp_path: Path) -> None:
    make_windows(tmp_path)
    hive = tmp_path / "Windows" / "System32" / "config" / "SYSTEM"
    hive.rename(tmp_path / "SYSTEM")
    hive.symlink_to(tmp_path / "SYSTEM")
    (found,) = look(tmp_path)
    assert found.computer_name == ""
    assert "is a reparse point" in found.detail


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BadSectors(FaultyOs):
        def scandir(self, descriptor: int) -> object:
            raise OSError(5, "Input/output error")

    files = PosixVolumeFiles(tmp_path)
    monkeypatch.setattr(posix_files, "os", BadSectors())
    assert find_installations(files).problems == ("\\ could not be listed: Input/output error",)


@pytest.mark.parametrize("damaged", ["Windows", "System32", "config"])
def test_a_folder_that_cannot_be_looked_at_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    class BadRecord(FaultyOs):
        def stat(self, name: str, **keywords: Any) -> os.stat_result:
            if name in (damaged, "other"):
                raise OSError(5, "Input/output error")
            return os.stat(name, **keywords)  # noqa: PTH116 - takes dir_fd

    make_windows(tmp_path)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(posix_files, "os", BadRecord())
    survey = find_installations(PosixVolumeFiles(tmp_path))
    (problem,) = survey.problems
    assert problem.endswith(f"\\{damaged} could not be looked at: Input/output error")
    assert survey.notes == (r"\other could not be looked at: Input/output error",)
    assert (survey.installations, survey.left_alone) == ((), ())


def test_special_files_where_folders_should_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "windows")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "Win2").mkdir()
    os.mkfifo(tmp_path / "Win2" / "System32")
    survey = find_installations(PosixVolumeFiles(tmp_path))
    assert survey.problems == (r"\windows is no ordinary file or folder",)
    assert survey.notes == (r"\pipe is no ordinary file or folder",)
    assert survey.left_alone == (r"\Win2\System32 is no ordinary file or folder",)


def test_windows_by_its_name_comes_first(tmp_path: Path) -> None:
    for folder in ("Aaa", "Evil", "WINDOWS", "zzz"):
        make_windows(tmp_path, folder=folder)
    assert [place.path for place in look(tmp_path)] == [("WINDOWS",), ("Aaa",), ("Evil",), ("zzz",)]


def test_huge_folders_cost_no_memory(tmp_path: Path) -> None:
    """Every entry that is kept costs 360 bytes, and a recovery image must run with 512 MB."""
    make_windows(tmp_path)
    huge = [tmp_path, tmp_path / "Data", tmp_path / "ProgramData", tmp_path / "Windows" / "System32" / "drivers"]
    for folder in huge:
        folder.mkdir(exist_ok=True)
        for number in range(7_000):
            os.close(os.open(folder / f"mail-{number:08}.eml", os.O_CREAT | os.O_WRONLY))
    files = PosixVolumeFiles(tmp_path)
    rules = [
        CROWDSTRIKE_CHANNEL_291,
        Rule(id="below-any", below=Below.VOLUME, pattern=r"*\bad-*.sys", action=Action.REPORT),
    ]
    tracemalloc.start()
    try:
        survey = find_installations(files)
        decisions = [d for found in examine(files, survey.installations, rules) for d in found.decisions]
        planned = plan(files, "20240720T120000Z-0123abcd", "", decisions)
        runs = interrupted(files, rules, survey.installations).runs
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(survey.installations), runs, bool(planned.decisions)) == (1, (), True)
    assert peak < 1_800_000, "of which 1 MiB is the block that files are read by"


def test_what_is_told_of_planted_folders_has_an_end(tmp_path: Path) -> None:
    make_windows(tmp_path)
    hive = b"not a hive"
    for number in range(150):
        config = tmp_path / f"planted-{number}" / "System32" / "config"
        config.mkdir(parents=True)
        (config / "SYSTEM").write_bytes(hive)
        (tmp_path / f"link-{number}").symlink_to("Windows")
    survey = find_installations(PosixVolumeFiles(tmp_path))
    assert survey.installations[0].path == ("Windows",)
    assert len(survey.installations) == 100
    assert survey.left_alone == ("more than 100 folders look like Windows; others were not treated",)
    assert len(survey.notes) == 101
    assert survey.notes[-1] == "there are more like these"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), max_size=20))
def test_hives_never_stop_the_search(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, changes: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("volume")
    config = root / "Windows" / "System32" / "config"
    config.mkdir(parents=True)
    (config / "SOFTWARE").write_bytes(garbage)
    changed = bytearray(system_hive("PC"))
    for at, value in changes:
        changed[at] = value
    (config / "SYSTEM").write_bytes(changed)
    assert len(look(root)) == 1
