"""The default image opens and repairs what BitLocker has locked, and no key is left where it does not belong.

Left to `bluelift verify --bitlocker`: the host whose only volume nobody has a key for, which "key-by-hand" has too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from builder.verify.locked_scenarios import LOCKED_SCENARIOS, KeyPlace
from builder.verify.report import VerifyReport
from tests.boot.conftest import Boot
from tests.boot.test_boot import assert_passed
from tests.payload.linux_fakes import needs

LOCKED = [
    Boot(scenario="keys-on-stick", attach="usb", firmware="uefi"),
    Boot(scenario="vault-on-cd", disk="ahci"),
    Boot(scenario="key-by-hand", firmware="secureboot"),
]
_SCENARIOS = {scenario.name: scenario for scenario in LOCKED_SCENARIOS}


@needs("dislocker-file", "mcopy")
@pytest.mark.parametrize("boot", LOCKED, ids=lambda boot: boot.scenario)
def test_locked_volumes_come_out_as_they_should(proofs: Mapping[str, Future[VerifyReport]], boot: Boot) -> None:
    report = proofs[boot.name].result()
    assert_passed(report)
    (seen,) = report.boots
    scenario = _SCENARIOS[boot.scenario]
    assert seen.headline == scenario.verdict.headline
    pictures = {path.name for path in seen.folder.glob("key-screen-*.png")}
    assert pictures == {f"key-screen-{number}.png" for number in range(1, scenario.questions + 1)}
    names = [check.name for check in seen.checks]
    for disk in scenario.disks:
        assert {f"{disk.name}: as protected as it was", f"{disk.name}: no secret in the disk"} <= set(names)
        inside = {f"{disk.name}: ntfsck", f"{disk.name}: no secret in the volume, unlocked"}
        assert (inside <= set(names)) == (disk.key is not KeyPlace.LOST)
    assert any(name.startswith("no secret in what this boot wrote") for name in names)
    assert json.loads((report.folder / "verdict.json").read_text())["passed"] is True


def test_every_place_of_a_key_is_booted() -> None:
    booted = {disk.key for boot in LOCKED for disk in _SCENARIOS[boot.scenario].disks}
    assert booted == {disk.key for scenario in LOCKED_SCENARIOS for disk in scenario.disks}
