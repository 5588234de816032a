"""The verifier itself: it must refuse what lies, what was tampered with, and what is damaged."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pycdlib
import pytest

from builder import profile, resources
from builder.build import BuildOptions, build
from builder.cache import default_folder
from builder.console import PlainConsole
from builder.errors import ImageError
from builder.verify.machine import Ended
from tests.boot.conftest import Boot, prove

#: A payload that claims to have repaired this very host, in a receipt that is right in every form, and did nothing.
LIAR = b"""
import subprocess, time
from payload import contract, events

def main():
    uuid = open("/sys/class/dmi/id/product_uuid").read().strip()
    host = contract.HostIdentity(smbios_uuid=uuid)
    port = open("/dev/ttyS0", "w")
    log = events.EventLog(lambda line: (port.write(line + "\\n"), port.flush()), "20240719T120000Z-00000000")
    log.send(events.Started(image_id="", bluelift="", environment="linux", host=host, dry_run=False))
    size = int(open("/sys/class/block/nvme0n1/size").read()) * 512
    disk = contract.DiskRecord(id="nvme0n1", model="", serial="", size=size, bus="nvme", state="ok")
    receipt = contract.Receipt(
        run_id="20240719T120000Z-00000000", image_id="", bluelift="", environment="linux", started="", seconds=1.0,
        host=host, verdict=contract.Verdict.REPAIRED, sentence="All is well.", advice="", dry_run=False,
        disks=(disk,), volumes=(),
    )
    log.send(events.Received(receipt=receipt))
    time.sleep(3)
    subprocess.run(["reboot", "-f"])

main()
"""


def test_a_payload_that_lies_fails(ntfsck: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dict(resources.payload_files())
    source["__main__.py"] = LIAR
    monkeypatch.setattr(resources, "payload_files", lambda: tuple(sorted(source.items())))
    options = BuildOptions(output=tmp_path / "liar", cache=default_folder())
    liar = build(profile.load(profile.find(None)), options, PlainConsole(out=sys.stdout, err=sys.stderr)).image
    report = prove(liar, Boot(), ntfsck=ntfsck, output=tmp_path / "proof")
    (boot,) = report.boots
    checks = {check.name: check.passed for check in boot.checks}
    # It got everything right that can be claimed ...
    assert checks["the verdict"]
    assert checks["the receipt carries the nonce"]
    assert checks["the machine came to a normal end"]
    # ... and is believed nothing.
    assert not checks["every file on the volume"]
    assert not report.passed
    assert any("still in its place" in line for line in report.problem_lines())


def test_a_tampered_kernel_is_refused_under_secure_boot_only(
    default_image: Path, ntfsck: tuple[str, ...], tmp_path: Path
) -> None:
    tampered = shutil.copy(default_image, tmp_path / "tampered.iso")
    with Path(tampered).open("r+b") as iso:
        iso.seek(kernel_offset(default_image))
        setup = iso.read(65536)
        # The version text that the boot protocol's header points at: nothing runs it, but the signature covers it.
        at = int.from_bytes(setup[0x20E:0x210], "little") + 0x200
        assert setup[at : at + 2] == b"6."
        iso.seek(kernel_offset(default_image) + at)
        iso.write(b"9")
    secure = prove(
        Path(tampered),
        Boot(firmware="secureboot"),
        ntfsck=ntfsck,
        output=tmp_path / "secure",
    )
    assert not secure.passed
    (boot,) = secure.boots
    assert not next(check for check in boot.checks if check.name == "a receipt arrived").passed
    said = (boot.folder / "serial.log").read_text("utf-8", "replace")
    assert "bad shim signature" in said
    assert boot.ended is Ended.REFUSED and boot.attempts == 1
    plain = prove(Path(tampered), Boot(firmware="uefi"), ntfsck=ntfsck, output=tmp_path / "plain")
    assert plain.passed, "\n".join(plain.problem_lines())


def kernel_offset(image: Path) -> int:
    iso = pycdlib.PyCdlib()
    iso.open(str(image))
    try:
        record = (
            iso.get_record(rr_path="/Bluelift/vmlinuz")
            if iso.has_rock_ridge()
            else iso.get_record(joliet_path="/Bluelift/vmlinuz")
        )
        return int(record.extent_location()) * 2048
    finally:
        iso.close()


def test_a_truncated_image_is_refused_at_once(default_image: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.iso"
    short.write_bytes(default_image.read_bytes()[: default_image.stat().st_size // 2])
    with pytest.raises(ImageError, match="truncated"):
        prove(short, Boot(), ntfsck=("true",), output=tmp_path / "proof")
