"""The default image boots and repairs: each firmware, each scenario, the disk controllers spread over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from builder.verify.qemu import Attach
from builder.verify.report import VerifyReport
from builder.verify.scenarios import SCENARIOS
from tests.boot.conftest import Boot

Proofs = Mapping[str, Future[VerifyReport]]

#: One boot each; "second-run" repairs first, so it stands for "repair" on its controller too. Spread over them: the
#: image as stick and as disk, under each firmware.
SCENARIO = [
    Boot(scenario="second-run", disk="ide", attach="disk"),
    Boot(scenario="already-clean", disk="pvscsi"),
    Boot(scenario="no-windows", disk="sd"),
    Boot(scenario="dirty-flag", disk="megasas", attach="usb", firmware="uefi"),
    Boot(scenario="broken-journal", disk="virtio", attach="disk", form="vhdx", firmware="uefi"),
    Boot(scenario="hibernated", disk="uas"),
    Boot(scenario="raid-member", disk="ahci", attach="usb"),
    Boot(scenario="reparse-windows", disk="usb"),
    Boot(scenario="planted-store", disk="lsi", attach="disk", form="vhd"),
]


def assert_passed(report: VerifyReport) -> None:
    assert report.passed, "\n".join(report.problem_lines())


FIRMWARE = [
    Boot(firmware="bios", disk="nvme"),
    Boot(firmware="uefi", disk="ahci"),
    Boot(firmware="secureboot", disk="nvme"),
]
#: Nobody presses a key here: the countdown runs out. And 512 MB of memory must be enough.
UNHEARD = Boot(disk="virtio", serial_port=False, memory_mib=512)


@pytest.mark.parametrize("boot", FIRMWARE, ids=lambda boot: boot.firmware)
def test_the_image_repairs_a_disk_under_every_firmware(proofs: Proofs, boot: Boot) -> None:
    report = proofs[boot.name].result()
    assert_passed(report)
    (seen,) = report.boots
    assert (seen.headline, seen.ended.value) == ("REPAIRED", "restarted")
    assert (seen.folder / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert seen.nonce in (seen.folder / "serial.log").read_text("utf-8", "replace")
    verdict = json.loads((report.folder / "verdict.json").read_text())
    assert verdict["boots"][0]["verdict"] == "REPAIRED"


@pytest.mark.parametrize("boot", SCENARIO, ids=lambda boot: f"{boot.scenario}-{boot.disk}")
def test_scenario(proofs: Proofs, boot: Boot) -> None:
    report = proofs[boot.name].result()
    assert_passed(report)
    checks = {check.name for seen in report.boots for check in seen.checks}
    assert ("one receipt came back on the boot medium" in checks) == (boot.attach != "cd")


@pytest.mark.parametrize("boot", [UNHEARD], ids=["no-serial"])
def test_without_a_serial_port_the_receipt_on_the_disk_carries_the_verdict(proofs: Proofs, boot: Boot) -> None:
    report = proofs[boot.name].result()
    assert_passed(report)
    (seen,) = report.boots
    assert (seen.headline, seen.ended.value, seen.receipt_seconds) == ("REPAIRED", "restarted", None)


def test_every_scenario_is_booted() -> None:
    assert {scenario.name for scenario in SCENARIOS} == {"repair", *(boot.scenario for boot in SCENARIO)}
    assert {boot.attach for boot in SCENARIO} == {attach.value for attach in Attach}
