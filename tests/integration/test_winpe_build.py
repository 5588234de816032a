"""WinPE builds from the stand-in install ISO, read back by other programs. What is refused: test_winpe_refusals."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.bcd import BcdFirmware, summary
from builder.verify.standin import make_adk_folder
from builder.verify.standin_media import bootable_standin, make_bootable_standin
from builder.verify.winpe_image import boot_wim_of
from builder.winpe_files import STARTNET, WINPESHL
from tests.command_line import bluelift
from tests.winpe_builds import lacking, small_payload

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())
OUTPUT = {"bluelift-winpe.iso", "manifest.json", "SHA256SUMS"}
INF = b"""[Version]\nSignature="$WINDOWS NT$"\nClass=SCSIAdapter\nProvider="Contoso"\nCatalogFile=c.cat\n
[Manufacturer]\n"Contoso"=Models,NTamd64\n[Models.NTamd64]\n"Disk"=Install,PCI\\VEN_1234\n
[Install]\nCopyFiles=Files\n[Files]\nc.sys\n[SourceDisksNames]\n1="d"\n[SourceDisksFiles]\nc.sys=1\n"""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in install ISO."""
    path: Path = tmp_path_factory.mktemp("media") / "install.iso"
    make_bootable_standin(path)
    return path


@pytest.fixture(scope="module")
def built(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a build with the built-in profile."""
    folder: Path = tmp_path_factory.mktemp("built")
    done = bluelift("build", "winpe", "--windows-iso", media, "-o", "dist", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest(folder: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return data


def test_everything_beside_the_image_agrees(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == OUTPUT
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=built, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
    images = manifest(built)["images"]
    assert isinstance(images, list)
    assert [image["sha256"] for image in images] == [sha256(built / "bluelift-winpe.iso")]


def test_7z_and_wimlib_take_out_what_the_manifest_says(built: Path, tmp_path: Path) -> None:
    for program in ("7z", "wimlib-imagex"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    argv = ["7z", "x", f"-o{tmp_path / 'iso'}", str(built / "bluelift-winpe.iso")]
    # 1 is a warning: of what a hybrid image has behind its UDF volume.
    assert subprocess.run(argv, capture_output=True, timeout=120, check=False).returncode in (0, 1)
    data = manifest(built)
    media_files = {file["path"]: file["sha256"] for file in data["images"][0]["media"]}  # type: ignore[index]
    seen = {path.relative_to(tmp_path / "iso").as_posix(): path for path in (tmp_path / "iso").rglob("*")}
    for path, digest in media_files.items():
        assert sha256(seen[path]) == digest, path
    wim = tmp_path / "iso" / "sources" / "boot.wim"
    subprocess.run(["wimlib-imagex", "verify", wim], check=True, capture_output=True, timeout=120)
    subprocess.run(["wimlib-imagex", "apply", wim, "1", tmp_path / "X"], check=True, capture_output=True, timeout=120)
    injected = {file["path"]: file for file in data["boot_wim"]}  # type: ignore[attr-defined]
    assert {STARTNET, WINPESHL, "Bluelift/config.json", "Bluelift/payload/payload.exe"} <= set(injected)
    for path, file in injected.items():
        target = tmp_path / "X" / path
        assert (sha256(target), target.stat().st_size) == (file["sha256"], file["size"]), path
    config = json.loads((tmp_path / "X" / "Bluelift" / "config.json").read_text())
    assert config["image_id"] == data["image"]["image_id"]  # type: ignore[index]
    identity = json.loads((tmp_path / "iso" / "Bluelift" / "image.json").read_text())
    assert (identity["environment"], identity["image_id"]) == ("winpe", config["image_id"])
    assert not (tmp_path / "iso" / "boot" / "bootfix.bin").exists()


def test_the_same_bytes_elsewhere_and_nothing_made_twice(media: Path, built: Path, tmp_path: Path) -> None:
    env = {"TZ": "Pacific/Kiritimati", "LANG": "C", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path)}
    cache = tmp_path / "cache"
    # What freezing makes does not depend on the place either (test_freeze_real); here it is taken over.
    payload = tmp_path / "payload"
    wim = boot_wim_of(built / "bluelift-winpe.iso")
    lines = []
    for entry in wim.walk(1):
        if entry.path.startswith("Bluelift/payload/") and not entry.is_folder:
            name = entry.path.removeprefix("Bluelift/payload/")
            (payload / name).parent.mkdir(parents=True, exist_ok=True)
            (payload / name).write_bytes(wim.read_entry(entry))
            lines.append(f"{sha256(payload / name)}  {name}\n")
    (payload / "SHA256SUMS").write_text("".join(sorted(lines)))
    argv = ("build", "winpe", "--windows-iso", media, "--payload-exe", payload, "--cache", cache)
    for place in ("one", "two"):
        done = bluelift(*argv, "-o", tmp_path / place, cwd=tmp_path, env=env, prelude="import os; os.umask(0o077)")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(cache) if place == "one" else None
    for name in OUTPUT:
        assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name), name
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").iterdir()}
    done = bluelift(*argv, "-o", tmp_path / "two", cwd=tmp_path, env=env)
    assert "nothing: everything was in the cache" in done.stdout, done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").iterdir()} == before


def test_a_rebuild_after_a_change_of_the_text_gives_the_bytes_of_a_full_build(media: Path, tmp_path: Path) -> None:
    small_payload(tmp_path / "payload")
    argv = ("build", "p.yaml", "--windows-iso", media, "--payload-exe", "payload")

    def build(text: str, cache: str, output: str) -> str:
        (tmp_path / "p.yaml").write_text(f"environment: winpe\nbitlocker: false\ncontact: {text}\n")
        done = bluelift(*argv, "--cache", cache, "-o", output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    build("first", "cache", "first")
    said = build("second", "cache", "second")
    assert "payload and drivers, compressed: in the cache" in said
    build("second", "empty", "full")
    for name in OUTPUT:
        assert sha256(tmp_path / "second" / name) == sha256(tmp_path / "full" / name), name
    assert sha256(tmp_path / "second" / "bluelift-winpe.iso") != sha256(tmp_path / "first" / "bluelift-winpe.iso")
    # The cache holds what is new, not boot.wim once more.
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept < boot_wim_of(tmp_path / "second" / "bluelift-winpe.iso").source.size


def test_plan_says_which_image_and_why_and_what_is_cached(media: Path, built: Path, tmp_path: Path) -> None:
    done = bluelift("plan", "winpe", "--windows-iso", media, "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert all(step["cached"] for step in data["steps"]), data
    assert "the smallest of 2 that qualify" in data["notes"][0]
    (tmp_path / "p.yaml").write_text("environment: winpe\nbase: {index: 2}\ncontact: Tel. 1\n")
    data = json.loads(bluelift("plan", "p.yaml", "--windows-iso", media, "--json", cwd=tmp_path).stdout)
    assert "as the profile says" in data["notes"][0]
    assert any("Windows Setup is kept from starting" in note for note in data["notes"])
    reasons = {step["name"]: step["reason"] for step in data["steps"]}
    assert {"configuration", "image of it"} <= set(reasons["boot-wim"].removeprefix("changed: ").split(", "))


def test_a_profile_with_everything(media: Path, tmp_path: Path) -> None:
    (tmp_path / "vmd").mkdir()
    for name, content in (("c.inf", INF), ("c.sys", b"MZ"), ("c.cat", b"cat")):
        (tmp_path / "vmd" / name).write_bytes(content)
    (tmp_path / "back.jpg").write_bytes(b"\xff\xd8\xff\xe0 picture")
    (tmp_path / "p.yaml").write_text(
        f"environment: winpe\nbase: {{kind: windows-iso, path: '{media}', index: 2}}\nprompt: true\n"
        "layout: microsoft\ndrivers: [vmd]\nkeyboard: de\nbackground: back.jpg\nboot_ca: both\noutput: all\n"
        "bcd: {timeout: 7, description: Contoso rescue, legacy_menu: true, ignore_failures: true, ems: 2}\n"
    )
    done = bluelift("build", "p.yaml", "-o", "dist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {
        "all-2011.iso", "all-2023.iso", "manifest.json", "SHA256SUMS",
    }  # fmt: skip
    wim = boot_wim_of(tmp_path / "dist" / "all-2011.iso")
    assert wim.read(1, "Windows/System32/winpe.jpg") == b"\xff\xd8\xff\xe0 picture"
    assert wim.read(1, "Bluelift/drivers/1-vmd/c.inf") == INF
    assert b"SetKeyboardLayout 0407:00000407" in wim.read(1, STARTNET)
    assert wim.find(1, "setup.exe") is None and wim.find(1, "setup.exe.not-started") is not None
    from builder.base.windows_iso import read_iso

    for ca in ("2011", "2023"):
        files = read_iso(tmp_path / "dist" / f"all-{ca}.iso").files
        for firmware in BcdFirmware:
            store = summary(files[firmware.value].read_all())
            assert (store.timeout, store.entries[0].description, store.entries[0].ems) == (7, "Contoso rescue", True)
        assert ("efi/microsoft/boot/boot.stl" in files) is (ca == "2023")
        assert "boot/bootfix.bin" in files


def test_an_adk_folder_and_a_winre(media: Path, tmp_path: Path) -> None:
    make_adk_folder(bootable_standin(), tmp_path / "adk")
    done = bluelift("build", "winpe", "--adk", "adk", "-o", "dist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # copype leaves the boot image that asks for no key in the ADK.
    assert "UEFI will ask for a key" in done.stderr
    (tmp_path / "p.yaml").write_text("environment: winpe\nprompt: false\n")
    done = bluelift("build", "p.yaml", "--adk", "adk", "-o", "dist3", cwd=tmp_path)
    assert (done.returncode, "Set prompt: true" in done.stderr) == (6, True)
    assert list((tmp_path / "dist3").iterdir()) == []
    boot_wim_of(media).source.copy_to(tmp_path / "winre.wim")
    done = bluelift("build", "--winre", "winre.wim", "--media", media, "-o", "dist2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Boot files are borrowed" in done.stderr


def test_a_base_without_the_boot_files_of_2023_names_them(tmp_path: Path) -> None:
    from dataclasses import replace

    from builder.verify.standin import make_standin_iso

    make_standin_iso(replace(bootable_standin(), boot_2023=False), tmp_path / "old.iso")
    (tmp_path / "p.yaml").write_text("environment: winpe\nboot_ca: both\n")
    done = bluelift("build", "p.yaml", "--windows-iso", "old.iso", "-o", "dist", cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "bootmgfw_EX.efi" in done.stderr and "boot.stl" in done.stderr
    assert "media of April 2024 or later have these files" in done.stderr
    assert list((tmp_path / "dist").iterdir()) == []
