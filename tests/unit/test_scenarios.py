"""The table of scenarios, and how a request chooses from it; images that are none; reports."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.cli import parse
from builder.commands.verify import firmware_names, scenario_names
from builder.console import SilentStep
from builder.errors import ImageError, ToolMissing, UsageError
from builder.verify import prove
from builder.verify.firmware import Firmware
from builder.verify.locked_scenarios import LOCKED_SCENARIOS, UNLOCKED_BY, KeyPlace, VaultPlace, find_scenarios
from builder.verify.machine import Ended
from builder.verify.prove import VerifyRequest, check_image, verify_image, ways
from builder.verify.qemu import Attach, Controller
from builder.verify.report import TABLE_HEADINGS, BootReport, Check, VerifyReport, write_report
from builder.verify.scenarios import DEFAULT_SCENARIO, SCENARIOS, Afterwards
from builder.verify.windows_tree import Fate
from payload.contract import Verdict
from payload.formats.fve_entries import ProtectorKind


def test_every_scenario_asks_for_something_that_can_fail() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.boots, scenario.name
        named = any(file.fate is Fate.QUARANTINED for file in scenario.tree().files)
        repaired = any(boot.afterwards is Afterwards.REPAIRED for boot in scenario.boots)
        assert named == repaired, scenario.name


def test_each_verdict_is_expected_somewhere() -> None:
    expected = {boot.verdict for scenario in SCENARIOS for boot in scenario.boots}
    expected |= {scenario.verdict for scenario in LOCKED_SCENARIOS}
    assert set(Verdict) - expected == {Verdict.REPORTED}


def test_the_cases_that_issue_5_lists_are_all_there() -> None:
    names = [scenario.name for scenario in SCENARIOS] + [scenario.name for scenario in LOCKED_SCENARIOS]
    assert len(set(names)) == len(names)
    disks = [(scenario, disk) for scenario in LOCKED_SCENARIOS for disk in scenario.disks]
    assert {disk.key for _, disk in disks} == set(KeyPlace) - {KeyPlace.HANDS} == set(UNLOCKED_BY) - {KeyPlace.HANDS}
    vaulted = {(scenario.vault, scenario.passphrase_file) for scenario, disk in disks if disk.key is KeyPlace.VAULT}
    assert vaulted == {(VaultPlace.BOOT_STICK, False), (VaultPlace.SECOND_CD, True)}
    mixed = {Verdict.NEEDS_A_KEY, Verdict.REPAIRED}
    assert [one.name for one in LOCKED_SCENARIOS if {disk.expectation.verdict for disk in one.disks} == mixed] == [
        "key-by-hand"
    ]
    assert len({disk.method for _, disk in disks}) == 4


def test_each_locked_disk_can_be_opened_only_as_its_scenario_says() -> None:
    for scenario in LOCKED_SCENARIOS:
        for disk in scenario.disks:
            kinds = set(disk.protectors)
            assert (ProtectorKind.CLEAR_KEY in kinds) == (disk.key is KeyPlace.IN_THE_METADATA)
            assert (ProtectorKind.STARTUP_KEY in kinds) == (disk.key is KeyPlace.STICK)
            assert (ProtectorKind.RECOVERY_PASSWORD in kinds) == (disk.key is not KeyPlace.STICK)
            assert disk.plan().lock is not None
        assert (scenario.vault is VaultPlace.NONE) == all(disk.key is not KeyPlace.VAULT for disk in scenario.disks)
        # A vault in the image's writable end needs an image that can be written.
        assert (scenario.vault is VaultPlace.BOOT_STICK) == (scenario.attach is Attach.USB)


@pytest.mark.parametrize(
    ("name", "questions"), [("keys-on-stick", 1), ("vault-on-cd", 0), ("key-by-hand", 3), ("bitlocker-locked", 1)]
)
def test_how_often_somebody_is_asked(name: str, questions: int) -> None:
    assert [scenario.questions for scenario in LOCKED_SCENARIOS if scenario.name == name] == [questions]


def test_a_scenario_that_knows_but_one_way_to_attach_the_image_gets_it() -> None:
    assert ways(find_scenarios(["repair", "bitlocker-locked"]), (Attach.DISK,)) == (Attach.DISK,)
    assert ways(find_scenarios(["keys-on-stick"]), (Attach.CD,)) == (Attach.USB,)
    assert ways(find_scenarios(["repair", "keys-on-stick"]), (Attach.CD,)) == (Attach.CD, Attach.USB)


def arguments(*words: str) -> argparse.Namespace:
    return parse(["verify", "image.iso", *words])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ("repair",)),
        (("--scenario", "hibernated,repair"), ("hibernated", "repair")),
        (("--bitlocker",), ("keys-on-stick", "vault-on-cd", "key-by-hand", "bitlocker-locked")),
        (
            ("--bitlocker", "--scenario", "repair,vault-on-cd"),
            ("repair", "keys-on-stick", "vault-on-cd", "key-by-hand", "bitlocker-locked"),
        ),
    ],
)
def test_what_a_command_line_asks_for(words: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert scenario_names(arguments(*words)) == names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ("bios", "uefi", "secureboot")),
        (("--bitlocker",), ("bios",)),
        (("--bitlocker", "--firmware", "uefi,secureboot"), ("uefi", "secureboot")),
    ],
)
def test_which_firmware_a_command_line_asks_for(words: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert firmware_names(arguments(*words)) == names


def test_choosing() -> None:
    assert find_scenarios(["all"]) == (*SCENARIOS, *LOCKED_SCENARIOS)
    assert find_scenarios([DEFAULT_SCENARIO]) == SCENARIOS[:1]
    assert [scenario.name for scenario in find_scenarios(["vault-on-cd"])] == ["vault-on-cd"]
    assert [scenario.name for scenario in find_scenarios(["hibernated", "repair"])] == ["hibernated", "repair"]
    with pytest.raises(UsageError) as caught:
        find_scenarios(["repair", "repiar"])
    assert "repiar" in caught.value.message
    assert "already-clean" in caught.value.hint


def iso(path: Path, *, claimed: int, size: int) -> Path:
    data = bytearray(size)
    data[32768:32774] = b"\x01CD001"
    data[32768 + 80 : 32768 + 84] = (claimed // 2048).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_a_whole_image_is_accepted(tmp_path: Path) -> None:
    check_image(iso(tmp_path / "a.iso", claimed=2 << 20, size=(2 << 20) + 300 * 512))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "cannot be read"),
        (lambda path: path.mkdir() or path, "cannot be read"),
        (lambda path: path.write_bytes(b"") and path, "not an ISO image"),
        (lambda path: path.write_bytes(b"PK\x03\x04" * 20_000) and path, "not an ISO image"),
        (lambda path: iso(path, claimed=2 << 20, size=(2 << 20) - 1), "truncated"),
        (lambda path: iso(path, claimed=2048, size=40_000), "truncated"),
    ],
)
def test_what_is_no_image_is_refused_before_a_machine_starts(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "image.iso"
    assert callable(make)
    make(path)
    with pytest.raises(ImageError, match=message) as caught:
        verify_image(VerifyRequest(image=path, output=tmp_path / "out", ntfsck=("true",)), step=SilentStep())
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_missing_qemu_and_ovmf_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = iso(tmp_path / "a.iso", claimed=2 << 20, size=2 << 20)
    request = VerifyRequest(image=image, output=tmp_path / "out", ntfsck=("true",))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(prove, "qemu_version", lambda: prove_version("qemu-not-installed"))
    with pytest.raises(ToolMissing, match="qemu-not-installed"):
        verify_image(request, step=SilentStep())


def prove_version(program: str) -> str:
    from builder.verify.qemu import qemu_version

    return qemu_version(program=program)


BOOT = BootReport(
    firmware=Firmware.UEFI,
    controller=Controller.AHCI,
    scenario="repair",
    number=1,
    nonce="n",
    headline="REPAIRED",
    ended=Ended.RESTARTED,
    receipt_seconds=12.34,
    seconds=15.0,
    checks=(Check(name="the verdict", passed=True, expected="REPAIRED", seen="REPAIRED"),),
    folder=Path("proof/repair-uefi-ahci"),
)


def report(*boots: BootReport, folder: Path = Path("proof")) -> VerifyReport:
    return VerifyReport(image=Path("a.iso"), image_sha256="0" * 64, qemu="QEMU 7", boots=boots, folder=folder)


def test_nothing_proven_is_not_a_pass() -> None:
    assert report(BOOT).passed
    assert not report().passed
    assert not report(replace(BOOT, checks=())).passed
    assert not report(BOOT, replace(BOOT, checks=(Check(name="x", passed=False),))).passed


def test_rows_fit_their_headings_and_problems_show_both_sides() -> None:
    bad = replace(BOOT, attempts=2, checks=(*BOOT.checks, Check(name="ntfsck", passed=False, expected="a", seen="b")))
    assert all(len(row) == len(TABLE_HEADINGS) for row in report(BOOT, bad).table_rows())
    assert BOOT.table_row()[0] == "passed"
    assert bad.table_row()[5] == "1 (attempt 2)"
    text = "\n".join(report(BOOT, bad).problem_lines())
    assert "expected: a" in text
    assert "seen:     b" in text
    assert "proof/repair-uefi-ahci" in text


def test_the_verdict_file(tmp_path: Path) -> None:
    path = write_report(report(BOOT, folder=tmp_path))
    data = json.loads(path.read_text())
    assert path.name == "verdict.json"
    assert data["passed"] is True
    assert data["boots"][0]["evidence"] == "repair-uefi-ahci"
    assert [file.name for file in tmp_path.iterdir()] == ["verdict.json"]
