"""A host that needs a key and has nobody at it: the image asks once, waits, and switches the host off."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from builder import profile
from builder.build import BuildOptions, build
from builder.cache import default_folder
from builder.console import PlainConsole
from builder.verify.bitlocker import BitLockerPlan
from builder.verify.disks import DiskPlan, first_difference, make_disk
from builder.verify.machine import Ended, started, state_folder
from builder.verify.windows_tree import broken_windows
from payload.contract import EventName
from payload.formats.fve_entries import ProtectorKind
from tests.boot.test_safe_mode import config

_LIMIT = 300


def test_it_is_asked_once_and_powered_off(tmp_path: Path) -> None:
    """As by default, but for how long it waits."""
    wanted = profile.load(profile.find(None))
    wanted = replace(wanted, key_wait=5, ending=replace(wanted.ending, countdown=3))
    options = BuildOptions(output=tmp_path / "image", cache=default_folder())
    image = build(wanted, options, PlainConsole(out=sys.stdout, err=sys.stderr)).image
    lock = BitLockerPlan(protectors=(ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD))
    disk = make_disk(DiskPlan(tree=broken_windows(), lock=lock), tmp_path / "disk.img")
    after = Path(shutil.copyfile(disk.path, tmp_path / "after.img"))
    with state_folder() as folder, started(config(folder, image, after), qemu_log=folder / "qemu.log") as machine:
        ended = machine.wait_for_end(limit=_LIMIT)
    assert ended is Ended.POWERED_OFF, machine.console[-3000:]
    names = [event.name for event in machine.events]
    assert names.count(EventName.KEY_WANTED) == 1
    assert names[-2:] == [EventName.ENDING, EventName.ENDING]
    assert [event.data["action"] for event in machine.events[-2:]] == ["power-off", "power-off"]
    receipt = machine.event(EventName.RECEIPT)
    assert receipt is not None
    assert receipt.data["receipt"]["verdict"] == "needs-a-key"
    assert first_difference(disk.path, after) is None
