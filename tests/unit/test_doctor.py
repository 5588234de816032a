"""What `doctor` finds, on machines made of fake programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import doctor, tools
from builder.doctor import diagnose
from builder.tools import TOOLS, Purpose, Tool, find, numbers

pytestmark = pytest.mark.programs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setattr(tools, "child_environment", lambda: {"PATH": str(tmp_path)})
    return tmp_path


def install(machine: Path, name: str, says: str, code: int = 0) -> None:
    (machine / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (machine / name).chmod(0o755)


QEMU = Tool(name="qemu", purpose=Purpose.VERIFY, reason="boot", package="qemu-system-x86", minimum=(7, 2))


@pytest.mark.parametrize(
    ("says", "code", "version", "problem"),
    [
        ("QEMU emulator version 7.2.19 (Debian)", 0, "7.2.19", ""),
        ("version 10.0", 0, "10.0", ""),
        ("version 7.1.9", 0, "7.1.9", "version 7.1.9, at least 7.2 is needed"),
        ("ntfsls v2022.10.3 (libntfs-3g)", 1, "2022.10.3", ""),
        ("no number here", 0, "", ""),
    ],
)
def test_versions(machine: Path, says: str, code: int, version: str, problem: str) -> None:
    install(machine, "qemu", says, code)
    found = find(QEMU)
    assert (found.version, found.problem, found.path) == (version, problem, str(machine / "qemu"))


def test_a_missing_tool(machine: Path) -> None:
    assert find(QEMU).problem == "not found"
    assert QEMU.how_to_get == "apt-get install qemu-system-x86"


def test_an_alternative_counts(machine: Path) -> None:
    install(machine, "fusermount", "fusermount version: 2.9.9")
    tool = next(tool for tool in TOOLS if tool.name == "fusermount3")
    assert find(tool).version == "2.9.9"


def test_versions_compare_as_numbers() -> None:
    assert numbers("10.0.2") > numbers("7.2.19")
    assert numbers("2022.10.3-1+b2") == (2022, 10, 3, 1)


def test_an_empty_machine_is_told_what_to_install(machine: Path, tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path / "cache" / "deep")
    assert not diagnosis.can_build
    assert not diagnosis.can_verify
    assert {"apt", "dpkg", "qemu-system-x86", "ntfs-3g", "fuse3"} <= set(diagnosis.missing_packages)
    assert all(check.reason for check in diagnosis.checks)
    assert all(check.how_to_get for check in diagnosis.checks if not check.ok)
    assert not (tmp_path / "cache").exists()


def test_a_machine_with_everything_can_build(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in TOOLS:
        install(machine, tool.name, "version 99.9")
    monkeypatch.setattr(doctor, "_ROOM", 0)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.can_build, [check for check in diagnosis.checks if not check.ok]


def test_too_little_room_is_a_problem(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ROOM", 10**18)
    check = next(check for check in diagnose(tmp_path).checks if check.name == "cache")
    assert not check.ok
    assert "--cache" in check.how_to_get
