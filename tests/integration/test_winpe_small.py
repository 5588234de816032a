"""WinPE builds from media of a few kilobytes: what shapes an image without anything having to run in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.base.windows_iso import read_iso
from builder.media.iso9660 import IsoImage, Tree
from builder.verify.winpe_image import boot_wim_of
from tests.command_line import bluelift
from tests.integration.test_winpe_refusals import INF, refused
from tests.unit.pe_maker import AMD64, ARM64, pe_file
from tests.unit.wim_maker import libwim_wim
from tests.winpe_builds import SMALL_WINPE, libwim_is_missing, small_iso, small_payload

pytestmark = pytest.mark.skipif(libwim_is_missing(), reason="libwim is not installed")
NAME = "bluelift-winpe.iso"
AARCH64_LOADER = pe_file(machine=ARM64)


@pytest.fixture(scope="module")
def arm64_payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_payload(tmp_path_factory.mktemp("arm64"), ARM64)


def arm64_iso(path: Path) -> Path:
    """As ARM64 media are: UEFI alone, every program for ARM64, the files of 2023 inside the WIM."""
    system = {
        name: pe_file(machine=ARM64) if name.endswith((".exe", ".dll", ".efi")) else content
        for name, content in SMALL_WINPE.items()
    }
    newer = {
        "Windows/Boot/EFI_EX/bootmgfw_EX.efi": AARCH64_LOADER + b"2023",
        "Windows/Boot/DVD_EX/EFI/en-US/efisys_noprompt_EX.bin": b"efisys of 2023" + bytes(4096),
        "Windows/Boot/FONTS_EX/segoe_slboot_EX.ttf": b"font",
        "Windows/Boot/EFI/boot.stl": b"stl",
    }
    wim = libwim_wim(path.with_suffix(".wim"), [{**system, **newer}], boot_index=1, properties={"WINDOWS/ARCH": "12"})
    more = {
        "efi/boot/bootx64.efi": None,
        "efi/boot/bootaa64.efi": AARCH64_LOADER,
        "boot/etfsboot.com": None,
        "bootmgr": None,
        "boot/bcd": None,
    }
    return small_iso(path, wim, more)


# --- ARM64 -----------------------------------------------------------------------------------------------------------


def test_arm64_media_are_recognised_and_inspected(tmp_path: Path) -> None:
    arm64_iso(tmp_path / "arm64.iso")
    done = bluelift("inspect", "arm64.iso", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    windows = report["windows"]
    assert [image["architecture"] for image in windows["boot_wim"]["images"]] == ["arm64"]
    loaders = {file["path"]: file["machine"] for file in windows["boot_files"]}
    assert loaders["efi/boot/bootaa64.efi"] == "ARM64"
    assert any("It is for arm64, the payload for x64" in sentence for sentence in windows["missing"])
    assert any("--payload-exe" in sentence for sentence in windows["missing"]), windows["missing"]


def test_arm64_media_are_refused_without_an_arm64_payload(tmp_path: Path) -> None:
    arm64_iso(tmp_path / "arm64.iso")
    argv = ("winpe", "--windows-iso", "arm64.iso")
    said = r"arm64\.iso is for arm64 machines; the frozen payload is for x64\n  .*frozen for arm64 with --payload-exe"
    refused(tmp_path, *argv, code=6, said=said)
    small_payload(tmp_path / "x64", AMD64)
    refused(tmp_path, *argv, "--payload-exe", "x64", code=6, said=said)


def test_an_arm64_payload_wants_arm64_media_and_drivers(arm64_payload: Path, tmp_path: Path) -> None:
    small_iso(tmp_path / "x64.iso")
    said = r"x64\.iso is for x64 machines; the frozen payload is for arm64"
    argv = ("--payload-exe", arm64_payload)
    refused(tmp_path, "winpe", "--windows-iso", "x64.iso", *argv, code=6, said=said)
    arm64_iso(tmp_path / "arm64.iso")
    (tmp_path / "vmd").mkdir()
    for name, content in (("c.inf", INF), ("c.sys", b"MZ"), ("c.cat", b"cat")):
        (tmp_path / "vmd" / name).write_bytes(content)
    (tmp_path / "p.yaml").write_text("environment: winpe\ndrivers: [vmd]\n")
    refused(tmp_path, "p.yaml", "--windows-iso", "arm64.iso", *argv, code=6, said=r"c\.inf.*x64.*arm64")


@pytest.mark.parametrize("ca", [2011, 2023])
def test_an_arm64_image(arm64_payload: Path, tmp_path: Path, ca: int) -> None:
    arm64_iso(tmp_path / "arm64.iso")
    (tmp_path / "p.yaml").write_text(f"environment: winpe\nboot_ca: {ca}\n")
    argv = ("build", "p.yaml", "--windows-iso", "arm64.iso", "--payload-exe", arm64_payload, "--cache", "cache")
    done = bluelift(*argv, "-o", "dist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = read_iso(tmp_path / "dist" / NAME)
    newer = b"2023" if ca == 2023 else b""
    assert made.files["efi/boot/bootaa64.efi"].read_all() == AARCH64_LOADER + newer
    assert "efi/boot/bootx64.efi" not in made.files and "bootmgr" not in made.files
    assert [platform for platform, _, _ in made.boot_images] == [0xEF]
    wim = boot_wim_of(tmp_path / "dist" / NAME)
    assert wim.images[0].architecture == "arm64"
    assert wim.read(1, "Bluelift/payload/payload.exe") == (arm64_payload / "payload.exe").read_bytes()


@pytest.mark.skipif(not shutil.which("7z") or not shutil.which("wimlib-imagex"), reason="7z or wimtools is missing")
def test_other_programs_read_the_arm64_image(arm64_payload: Path, tmp_path: Path) -> None:
    arm64_iso(tmp_path / "arm64.iso")
    argv = ("build", "winpe", "--windows-iso", "arm64.iso", "--payload-exe", arm64_payload, "--cache", "cache")
    assert bluelift(*argv, "-o", "dist", cwd=tmp_path).returncode == 0
    image = tmp_path / "dist" / NAME
    subprocess.run(["7z", "x", f"-o{tmp_path / 'out'}", image], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out" / "efi" / "boot" / "bootaa64.efi").read_bytes() == AARCH64_LOADER
    wim = tmp_path / "out" / "sources" / "boot.wim"
    said = subprocess.run(["wimlib-imagex", "info", wim], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "ARM64" in said


# --- profiles --------------------------------------------------------------------------------------------------------


def test_the_profile_that_init_writes_builds(tmp_path: Path) -> None:
    assert bluelift("init", "winpe", cwd=tmp_path).returncode == 0
    small_iso(tmp_path / "x.iso")
    small_payload(tmp_path / "payload")
    text = (tmp_path / "winpe.yaml").read_text()
    # As a user would: the media's place is uncommented, and the payload's.
    for old, new in (
        ("# base:\n#   kind: windows-iso", "base:\n  kind: windows-iso"),
        ("#   path: Win11.iso", "  path: x.iso"),
        ("# payload_exe: payload", "payload_exe: payload"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "winpe.yaml").write_text(text)
    done = bluelift("build", "winpe.yaml", "-o", "dist", "--cache", "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {NAME, "manifest.json", "SHA256SUMS"}


def test_a_winre_that_starts_something_of_its_own(tmp_path: Path) -> None:
    """Its winpeshl.ini, in capitals as Windows does not mind, is replaced: there is one, and it starts Bluelift."""
    own = "Windows/System32/WINPESHL.INI"
    files = {**SMALL_WINPE, own: b"[LaunchApp]\r\nAppPath=X:\\sources\\recovery\\recenv.exe\r\n"}
    libwim_wim(tmp_path / "winre.wim", [files], boot_index=1)
    small_iso(tmp_path / "lender.iso")
    payload = small_payload(tmp_path / "payload")
    argv = ("build", "--winre", "winre.wim", "--media", "lender.iso", "--payload-exe", payload, "--cache", "cache")
    done = bluelift(*argv, "-o", "dist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wim = boot_wim_of(tmp_path / "dist" / NAME)
    found = [entry for entry in wim.list_folder(1, "Windows/System32") if entry.path.lower().endswith("winpeshl.ini")]
    assert len(found) == 1
    assert b"startnet.cmd" in wim.read_entry(found[0]) and b"recenv" not in wim.read_entry(found[0])


@pytest.mark.parametrize(
    ("profile", "line", "said"),
    [
        ("bcd: {ems: 1}\nserial: ttyS0", 2, "EMS takes COM1, where receipts go"),
        ("keyboard: klingon", 2, "there is no layout"),
        ("drivers: [nowhere]", 2, "there is no folder"),
        ("boot_ca: 2012\nlayout: hfs\nprompt: maybe", 2, "3 problems in the profile"),
        ("prmpt: true", 2, "unknown key; did you mean prompt"),
    ],
)
def test_profiles_that_are_refused(profile: str, line: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"environment: winpe\n{profile}\n")
    shown = refused(tmp_path, "p.yaml", "--windows-iso", "not-even-looked-at.iso", code=3, said=said)
    assert f"p.yaml:{line}: " in shown


def test_only_a_hybrid_image_is_said_to_start_from_a_stick(tmp_path: Path) -> None:
    """And a stick refuses the plain one; a tail that is too small says how large it has to be."""
    small_iso(tmp_path / "x.iso")
    payload = small_payload(tmp_path / "payload")
    argv = ("build", "p.yaml", "--windows-iso", "x.iso", "--payload-exe", payload, "--cache", "cache", "-o", "dist")
    said = {}
    for setting in ("hybrid: false", "hybrid: true", "tail: 500 kB"):
        (tmp_path / "p.yaml").write_text(f"environment: winpe\n{setting}\n")
        said[setting] = bluelift(*argv, cwd=tmp_path)
    plain, hybrid, small = said.values()
    assert plain.returncode == hybrid.returncode == 0
    assert "attach it as a CD" in plain.stdout and "usb write" not in plain.stdout
    assert "usb write" in hybrid.stdout
    assert "more are free to use on a stick" in hybrid.stderr
    assert "free" not in plain.stderr
    assert small.returncode == 7
    assert "a tail of 500 kB makes too few clusters for a FAT32 volume" in small.stderr
    assert re.search(r"needs `tail: [0-9]+ MB` or more", small.stderr)


@pytest.mark.parametrize("layout", ["bridge", "microsoft"])
@pytest.mark.parametrize("prompt", [True, False])
def test_prompt_and_layout(prompt: bool, layout: str, tmp_path: Path) -> None:
    small_iso(tmp_path / "x.iso")
    payload = small_payload(tmp_path / "payload")
    (tmp_path / "p.yaml").write_text(f"environment: winpe\nprompt: {str(prompt).lower()}\nlayout: {layout}\n")
    argv = ("build", "p.yaml", "--windows-iso", "x.iso", "--payload-exe", payload, "--cache", "cache")
    assert bluelift(*argv, "-o", "dist", cwd=tmp_path).returncode == 0
    report = json.loads(bluelift("inspect", f"dist/{NAME}", "--json", cwd=tmp_path).stdout)
    windows = report["windows"]
    assert (windows["prompt_bios"], windows["prompt_uefi"]) == (prompt, prompt)
    with (tmp_path / "dist" / NAME).open("rb") as stream:
        image = IsoImage(stream, stream.seek(0, 2))
        on_iso9660 = [entry.path for entry in image.files(Tree.PRIMARY)]
    # Microsoft's media show one file to who cannot read UDF.
    assert (len(on_iso9660) > 5) == (layout == "bridge")
    assert image.udf and (image.joliet is not None) == (layout == "bridge")


def test_plan_names_both_images(tmp_path: Path) -> None:
    small_iso(tmp_path / "x.iso")
    (tmp_path / "p.yaml").write_text("environment: winpe\nboot_ca: both\noutput: rescue\n")
    payload = small_payload(tmp_path / "payload")
    done = bluelift("plan", "p.yaml", "--windows-iso", "x.iso", "--payload-exe", payload, "--json", cwd=tmp_path)
    # The stand-in is too old for 2023.
    assert (done.returncode, "too old for boot_ca 2023" in done.stderr) == (6, True)
    arm64_iso(tmp_path / "arm64.iso")
    payload = small_payload(tmp_path / "arm64", ARM64)
    argv = ("plan", "p.yaml", "--windows-iso", "arm64.iso", "--payload-exe", payload, "--cache", "cache")
    shown = bluelift(*argv, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "rescue-2011.iso and rescue-2023.iso" in shown.stdout
    data = json.loads(bluelift(*argv, "--json", cwd=tmp_path).stdout)
    assert data["outputs"] == ["rescue-2011.iso", "rescue-2023.iso"]
    assert any("not frozen yet" in note for note in data["notes"])
    assert not (tmp_path / "cache").exists()
