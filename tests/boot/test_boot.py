"""The default image boots and repairs: each firmware, each scenario, the disk controllers spread over them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.verify.report import VerifyReport
from builder.verify.scenarios import SCENARIOS
from tests.boot.conftest import Prove

#: One boot each; "second-run" repairs first, so it stands for "repair" on its controller too.
CONTROLLER_OF = {
    "second-run": "ide",
    "already-clean": "pvscsi",
    "no-windows": "sd",
    "dirty-flag": "megasas",
    "broken-journal": "virtio",
    "hibernated": "uas",
    "raid-member": "ahci",
    "bitlocker-locked": "virtio-scsi",
    "reparse-windows": "usb",
    "planted-store": "lsi",
}


def assert_passed(report: VerifyReport) -> None:
    assert report.passed, "\n".join(report.problem_lines())


@pytest.mark.parametrize(("firmware", "disk"), [("bios", "nvme"), ("uefi", "ahci"), ("secureboot", "nvme")])
def test_the_image_repairs_a_disk_under_every_firmware(
    prove: Prove, default_image: Path, firmware: str, disk: str
) -> None:
    report = prove(default_image, firmware=firmware, disk=disk)
    assert_passed(report)
    (boot,) = report.boots
    assert (boot.headline, boot.ended.value) == ("REPAIRED", "restarted")
    assert (boot.folder / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert boot.nonce in (boot.folder / "serial.log").read_text("utf-8", "replace")
    verdict = json.loads((report.folder / "verdict.json").read_text())
    assert verdict["boots"][0]["verdict"] == "REPAIRED"


@pytest.mark.parametrize("scenario", CONTROLLER_OF)
def test_scenario(prove: Prove, default_image: Path, scenario: str) -> None:
    assert_passed(prove(default_image, disk=CONTROLLER_OF[scenario], scenario=scenario))


def test_every_scenario_is_booted() -> None:
    assert {scenario.name for scenario in SCENARIOS} == {"repair", *CONTROLLER_OF}


def test_without_a_serial_port_the_receipt_on_the_disk_carries_the_verdict(prove: Prove, default_image: Path) -> None:
    report = prove(default_image, disk="virtio", serial_port=False, memory_mib=512)
    assert_passed(report)
    (boot,) = report.boots
    assert (boot.headline, boot.ended.value, boot.receipt_seconds) == ("REPAIRED", "restarted", None)
