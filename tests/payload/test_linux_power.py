"""BootNext, ejecting, restarting: what is written and called, and that no other machine is ever restarted."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from payload.contract import AfterRepair
from payload.environment.linux_commands import NOT_FOUND, TIMED_OUT, run, run_on_terminal
from payload.environment.linux_paths import LinuxPaths
from payload.environment.linux_power import eject, is_own_machine, leave, set_boot_next
from payload.formats.efi_variables import GLOBAL_GUID
from tests.payload.linux_fakes import FakeMachine
from tests.payload.test_efi_variables import WINDOWS_PATH, load_option

OWN = "none / rootfs rw 0 0\nproc /proc proc rw 0 0\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(root=tmp_path, programs=tmp_path / "bin")
    # Only fakes and coreutils: whatever goes wrong, this machine's own busybox must not be found.
    monkeypatch.setenv("PATH", f"{machine.programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    machine.program("busybox", "exit 0")
    return machine


def _own(machine: FakeMachine, mounts: str = OWN) -> None:
    (machine.paths.proc / "mounts").unlink()
    (machine.paths.proc / "mounts").write_text(mounts)
    (machine.paths.proc / "sysrq-trigger").touch()


def _variable(machine: FakeMachine, name: str, value: bytes, guid: str = GLOBAL_GUID) -> Path:
    machine.paths.efivars.mkdir(parents=True, exist_ok=True)
    path = machine.paths.efivars / f"{name}-{guid}"
    path.write_bytes(b"\7\0\0\0" + value)
    return path


def _entries(machine: FakeMachine) -> None:
    _variable(machine, "Boot0000", load_option("debian", "\\EFI\\debian\\shimx64.efi"))
    _variable(machine, "Boot0004", load_option("Windows Boot Manager", WINDOWS_PATH))
    _variable(machine, "Boot0005", b"\1")
    _variable(machine, "Boot0001", load_option("Windows Boot Manager", WINDOWS_PATH), guid="other")
    _variable(machine, "BootOrder", b"\0\0\4\0")


def test_boot_next(machine: FakeMachine) -> None:
    _entries(machine)
    assert set_boot_next(machine.paths)
    assert (machine.paths.efivars / f"BootNext-{GLOBAL_GUID}").read_bytes() == b"\7\0\0\0\4\0"


def test_boot_next_that_is_immutable(machine: FakeMachine) -> None:
    _entries(machine)
    path = _variable(machine, "BootNext", b"\0\0")
    if subprocess.run(["chattr", "+i", str(path)], capture_output=True).returncode != 0:
        pytest.skip("this file system has no immutable flag (or chattr is missing)")
    try:
        with pytest.raises(PermissionError):
            path.open("r+b")
        assert set_boot_next(machine.paths)
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)
    assert path.read_bytes() == b"\7\0\0\0\4\0"


def test_no_windows_entry_or_no_efivars(machine: FakeMachine) -> None:
    assert not set_boot_next(machine.paths)
    _variable(machine, "Boot0000", load_option("debian", "\\EFI\\debian\\shimx64.efi"))
    assert not set_boot_next(machine.paths)


def test_boot_next_that_cannot_be_written(machine: FakeMachine) -> None:
    _entries(machine)
    (machine.paths.efivars / f"BootNext-{GLOBAL_GUID}").mkdir()
    assert not set_boot_next(machine.paths)


def test_a_full_variable_store(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    _entries(machine)
    (machine.paths.efivars / f"BootNext-{GLOBAL_GUID}").symlink_to("/dev/full")
    assert not set_boot_next(machine.paths)


def test_eject(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = machine.text("dev/sr0", "")
    assert not eject(drive)  # an ordinary file knows no ejecting
    assert not eject(machine.root / "dev/sr1")
    asked = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _, request, *rest: asked.append(request))
    assert eject(drive)
    assert asked == [0x5329, 0x5309]


@pytest.mark.parametrize(
    ("action", "command", "key"), [(AfterRepair.REBOOT, "reboot", "b"), (AfterRepair.POWER_OFF, "poweroff", "o")]
)
def test_leaving(machine: FakeMachine, action: AfterRepair, command: str, key: str) -> None:
    _own(machine)
    leave(machine.paths, action, patience=0.2)
    assert machine.calls == ["busybox sync", f"busybox {command} -f"]
    assert (machine.paths.proc / "sysrq-trigger").read_text() == key


@pytest.mark.parametrize(
    "mounts",
    ["/dev/vda / ext4 rw 0 0\n", "rootfs / rootfs rw 0 0\n/dev/sda1 / ext4 rw 0 0\n", ""],
    ids=["an installed system", "an initramfs that has switched", "nothing"],
)
def test_another_machine_is_never_restarted(machine: FakeMachine, mounts: str) -> None:
    _own(machine, mounts)
    assert not is_own_machine(machine.paths)
    leave(machine.paths, AfterRepair.REBOOT, patience=0.1)
    assert machine.calls == []
    assert (machine.paths.proc / "sysrq-trigger").read_text() == ""


def test_staying(machine: FakeMachine) -> None:
    _own(machine)
    leave(machine.paths, AfterRepair.STAY, patience=0.1)
    assert machine.calls == []


def test_without_proc_no_machine_is_ours(machine: FakeMachine) -> None:
    (machine.paths.proc / "mounts").unlink()
    assert not is_own_machine(machine.paths)


def test_the_machine_that_runs_this_test_is_not_ours(machine: FakeMachine) -> None:
    assert not is_own_machine(LinuxPaths())


def test_running_programs(machine: FakeMachine) -> None:
    machine.program("speaks", "echo out; echo err >&2; exit 3")
    done = run(["speaks", "a b"], time_limit=5)
    assert (done.returncode, done.output, done.ok) == (3, "out\nerr\n", False)
    assert done.sentence == "speaks ended with exit code 3: out err"
    assert run(["true"], time_limit=5).ok
    missing = run(["no-such-program"], time_limit=5)
    assert (missing.returncode, missing.sentence) == (NOT_FOUND, "no-such-program is missing from this image")


def test_a_program_that_hangs(machine: FakeMachine) -> None:
    machine.program("hangs", "echo started; sleep 60 & wait")
    done = run(["hangs"], time_limit=0.3)
    assert (done.returncode, done.sentence) == (TIMED_OUT, "hangs did not finish in time")


def test_a_program_on_a_terminal(machine: FakeMachine) -> None:
    other_end, end = os.openpty()
    os.set_blocking(end, False)
    try:
        machine.program("asks", "read answer; echo got $answer; exit 4")
        os.write(other_end, b"this\n")
        assert run_on_terminal(["asks"], end).returncode == 4
        assert b"got this" in os.read(other_end, 1000)
        assert not os.get_blocking(end)
        assert run_on_terminal(["no-such-program"], end).returncode == NOT_FOUND
    finally:
        os.close(end)
        os.close(other_end)
