"""Built WinPE ISOs boot under SeaBIOS and OVMF, as far as stand-ins for Microsoft's boot programs can show it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from builder.media.boot_code import uefi_only_code
from builder.verify.firmware import Firmware
from builder.verify.qemu import Attach
from builder.verify.standin_boot import parse_report
from builder.verify.standin_media import StandinNonces, make_bootable_standin
from tests.command_line import bluelift
from tests.integration.test_standin_boot import boot
from tests.winpe_builds import lacking

pytestmark = [pytest.mark.boot, pytest.mark.skipif(bool(lacking()), reason=lacking())]
NONCES = StandinNonces(bios="nonce-b", bios_disk="nonce-d", uefi_2011="nonce-2011", uefi_2023="nonce-2023")


@pytest.fixture(scope="module", params=["bridge", "microsoft"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a build with both kinds of boot files, one for each layout of the ISO."""
    folder: Path = tmp_path_factory.mktemp("winpe")
    make_bootable_standin(folder / "install.iso", nonces=NONCES)
    (folder / "p.yaml").write_text(
        f"environment: winpe\nboot_ca: both\nlayout: {request.param}\noutput: pe\n"
        "base: {kind: windows-iso, path: install.iso}\n"
    )
    done = bluelift("build", "p.yaml", "-o", "dist", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


def boot_wim_sha256(built: Path, image: str) -> str:
    manifest = json.loads((built / "manifest.json").read_text())
    media = next(one["media"] for one in manifest["images"] if one["file"] == image)
    sha256: str = next(file["sha256"] for file in media if file["path"] == "sources/boot.wim")
    return sha256


@pytest.mark.parametrize("ca", ["2011", "2023"])
def test_bios_starts_its_boot_program_with_all_sectors(built: Path, ca: str) -> None:
    _, console = boot(built / f"pe-{ca}.iso", Firmware.BIOS)
    report = parse_report(console, NONCES.bios)
    assert report is not None and report.problem == "", console


@pytest.mark.parametrize(("ca", "nonce"), [("2011", NONCES.uefi_2011), ("2023", NONCES.uefi_2023)])
def test_uefi_starts_its_boot_program_which_reads_the_built_boot_wim(built: Path, ca: str, nonce: str) -> None:
    _, console = boot(built / f"pe-{ca}.iso", Firmware.UEFI)
    report = parse_report(console, nonce)
    assert report is not None and report.problem == "", console
    assert report.sha256 == boot_wim_sha256(built, f"pe-{ca}.iso")


@pytest.mark.parametrize("attach", [Attach.USB, Attach.DISK])
@pytest.mark.parametrize(("firmware", "nonce"), [(Firmware.BIOS, NONCES.bios_disk), (Firmware.UEFI, NONCES.uefi_2011)])
def test_the_same_file_starts_as_stick_and_as_disk(built: Path, attach: Attach, firmware: Firmware, nonce: str) -> None:
    """Under BIOS the first block loads BOOTMGR; under UEFI from FAT32. Secure Boot would want signatures."""
    _, console = boot(built / "pe-2011.iso", firmware, attach=attach)
    report = parse_report(console, nonce)
    assert report is not None and report.problem == "", console
    if firmware is Firmware.UEFI:
        assert report.sha256 == boot_wim_sha256(built, "pe-2011.iso")


def test_bios_starts_nothing_where_a_disk_is_for_uefi_only(built: Path, tmp_path: Path) -> None:
    """The check can fail: without the code that loads BOOTMGR no stand-in speaks."""
    image = Path(shutil.copyfile(built / "pe-2011.iso", tmp_path / "stick.img"))
    with image.open("r+b") as stream:
        stream.write(uefi_only_code())
    until = time.monotonic() + 15
    _, console = boot(image, Firmware.BIOS, lambda _: time.monotonic() > until, attach=Attach.USB)
    assert parse_report(console, NONCES.bios_disk) is None


def test_verify_says_that_a_stand_in_gives_no_verdict(built: Path, tmp_path: Path) -> None:
    done = bluelift(
        "verify", built / "pe-2011.iso", "--firmware", "bios", "--timeout", "60", "-o", "proof", cwd=tmp_path
    )
    assert done.returncode == 9, done.stderr
    assert "no verdict" in done.stdout
    assert "1 gave no verdict" in done.stderr
    verdict = json.loads((tmp_path / "proof" / "verdict.json").read_text())
    assert (verdict["passed"], verdict["boots"][0]["verdict"]) == (False, "no verdict")
    assert "-m 2048" in (tmp_path / "proof" / "repair-bios-nvme" / "qemu-argv.txt").read_text()
