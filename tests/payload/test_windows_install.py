"""Windows installations are found whatever their folder is called, and none is found through a reparse point."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.environment import posix_files
from payload.environment.posix_files import PosixVolumeFiles
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
        def listdir(self, descriptor: int) -> list[str]:
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
