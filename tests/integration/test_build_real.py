"""Builds with real packages: the same bytes everywhere, quick when nothing changed, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.build import Built
from builder.build_linux import SIZE_LIMIT
from builder.cache import default_folder
from builder.plan import PackagePin
from tests.command_line import ROOT, bluelift, command

OUTPUT = {"bluelift-linux.iso", "manifest.json", "SHA256SUMS"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def packages_folder(default_build: Built, folder: Path) -> Path:
    """The .deb files of the default build, as links, with their SHA256SUMS."""
    pool = default_folder() / "pool"
    pins = json.loads((default_build.image.parent / "manifest.json").read_text())["packages"]
    wanted = {PackagePin(**pin).sha256 for pin in pins}
    folder.mkdir()
    lines = [line for line in (pool / "SHA256SUMS").read_text().splitlines() if line.split()[0] in wanted]
    assert len(lines) == len(wanted)
    for line in lines:
        shutil.copy(pool / line.split(maxsplit=1)[1], folder)
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    return folder


def test_the_image_is_small_enough_and_everything_beside_it_agrees(default_build: Built) -> None:
    folder = default_build.image.parent
    assert {path.name for path in folder.iterdir()} == OUTPUT
    assert default_build.image.stat().st_size == default_build.size
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["image"]["sha256"] == sha256(default_build.image)
    assert manifest["image"]["image_id"] == default_build.image_id
    (volume,) = (partition["volume"] for partition in manifest["image"]["disk"]["partitions"])
    assert default_build.size - volume["free"] <= SIZE_LIMIT
    assert volume["shared"] == volume["files"] and volume["free"] >= 32_000_000
    names = {package["name"] for package in manifest["packages"]}
    assert {"shim-signed", "grub-efi-amd64-signed", "ntfs-3g", "busybox"} <= names


def test_the_manifest_agrees_with_what_another_program_reads(default_build: Built, tmp_path: Path) -> None:
    if shutil.which("xorriso") is None:
        pytest.skip("xorriso is not installed")
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", default_build.image, "-extract", "/", tmp_path / "out"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    manifest = json.loads((default_build.image.parent / "manifest.json").read_text())
    listed = {file["path"]: file["sha256"] for file in manifest["media"]}
    seen = {
        path.relative_to(tmp_path / "out").as_posix(): sha256(path)
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "out"], check=True, timeout=60)
    boot_image = "boot/grub/eltorito.img"
    # xorriso and the manifest may see the boot information table that the ISO patches into GRUB's image.
    assert {path: digest for path, digest in seen.items() if path != boot_image and not path.endswith("boot.cat")} == {
        path: digest for path, digest in listed.items() if path != boot_image and not path.endswith("boot.cat")
    }
    assert boot_image in listed
    identity = json.loads((tmp_path / "out" / "Bluelift" / "image.json").read_text())
    assert identity["image_id"] == default_build.image_id


def test_two_builds_are_byte_identical(default_build: Built, tmp_path: Path) -> None:
    """Another cache, path, time zone, locale, hash seed and umask; the packages from a folder, not a mirror."""
    debs = packages_folder(default_build, tmp_path / "debs")
    done = bluelift(
        "build", "linux", "-o", tmp_path / "a folder" / "dist", "--debs", debs, "--cache", tmp_path / "cache",
        cwd=tmp_path,
        env={"TZ": "Pacific/Kiritimati", "LANG": "C", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path)},
        prelude="import os; os.umask(0o077)",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in OUTPUT:
        assert sha256(tmp_path / "a folder" / "dist" / name) == sha256(default_build.image.parent / name), name


@pytest.fixture
def in_the_cache(default_build: Built, tmp_path: Path) -> Built:
    """`default_build`, in the cache now: of each step it keeps the last few, and other tests build other images."""
    done = bluelift("build", "-o", default_build.image.parent, "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return default_build


def test_a_second_build_makes_nothing(in_the_cache: Built, tmp_path: Path) -> None:
    output = in_the_cache.image.parent
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()}
    done = bluelift("build", "-o", output, "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing: everything was in the cache" in done.stdout
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()} == before
    planned = bluelift("plan", "--json", cwd=tmp_path)
    assert all(step["cached"] for step in json.loads(planned.stdout)["steps"])


def test_a_changed_profile_rebuilds_only_what_depends_on_it(in_the_cache: Built, tmp_path: Path) -> None:
    new_every_time = secrets.token_hex(8)  # the cache is the user's own and remembers earlier runs
    (tmp_path / "p.yaml").write_text(f"contact: 'Tel. {new_every_time}'\noutput: mine\n")
    planned = bluelift("plan", "p.yaml", "--json", cwd=tmp_path)
    steps = {step["name"]: step for step in json.loads(planned.stdout)["steps"]}
    assert [name for name, step in steps.items() if not step["cached"]] == ["payload-segment", "iso", "manifest"]
    assert "configuration" in steps["payload-segment"]["reason"]
    done = bluelift("build", "p.yaml", "-o", "dist", "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "payload-segment, iso, manifest" in done.stdout
    assert sha256(tmp_path / "dist" / "mine.iso") != in_the_cache.sha256


def test_another_epoch_is_another_image(in_the_cache: Built, tmp_path: Path) -> None:
    planned = bluelift("plan", "--json", cwd=tmp_path, env={"SOURCE_DATE_EPOCH": "1700000000"})
    data = json.loads(planned.stdout)
    assert data["epoch"] == 1_700_000_000
    assert data["image_id"] != in_the_cache.image_id
    assert [step["name"] for step in data["steps"] if step["cached"]] == ["packages"]


def test_a_package_with_a_wrong_hash_stops_the_build(default_build: Built, tmp_path: Path) -> None:
    debs = packages_folder(default_build, tmp_path / "debs")
    victim = next(debs.glob("busybox_*.deb"))
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.write_bytes(content)
    done = bluelift("build", "-o", "dist", "--debs", debs, "--cache", "cache", cwd=tmp_path)
    assert done.returncode == 6
    assert f"{victim.name} has the wrong sha256" in done.stderr
    assert list((tmp_path / "dist").iterdir()) == []


@pytest.mark.parametrize("epoch", [None, "1600000000"], ids=["copied from the cache", "written anew"])
def test_a_write_that_fails_in_its_middle_leaves_nothing_behind(
    in_the_cache: Built, tmp_path: Path, epoch: str | None
) -> None:
    """A limit on the size of files, which fails a write in its middle as FAT32 does at 4 GiB; the ISO is larger.

    Another epoch's is never in the cache, as a step that fails leaves nothing there.
    """
    env = {} if epoch is None else {"SOURCE_DATE_EPOCH": epoch}
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "bluelift-linux.iso").write_text("from before")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))"
    for _ in range(2):
        done = bluelift("build", "-o", "dist", "--offline", cwd=tmp_path, env=env, prelude=limit)
        assert done.returncode == 7, done.stderr
        assert ("ISO image: in the cache" in done.stderr) == (epoch is None)
        assert "cannot write" in done.stderr and "File too large" in done.stderr
        assert [path.name for path in (tmp_path / "dist").iterdir()] == ["bluelift-linux.iso"]
        assert (tmp_path / "dist" / "bluelift-linux.iso").read_text() == "from before"


def test_a_really_full_disk(default_build: Built, tmp_path: Path) -> None:
    own_root = ["unshare", "--mount", "--propagation", "private"] + ([] if os.geteuid() == 0 else ["-r"])
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=8m tmpfs {tmp_path / 'small'}"
    if subprocess.run([*own_root, "sh", "-c", mount], capture_output=True, timeout=30).returncode != 0:
        pytest.skip("no mount name spaces here")
    script = f"{mount} && {sys.executable} -m builder build --plain --offline -o {tmp_path / 'small'}; echo code $?; ls -A {tmp_path / 'small'}"  # noqa: E501
    done = subprocess.run(
        [*own_root, "sh", "-c", script],
        cwd=ROOT, env={**os.environ, "BLUELIFT_CACHE": str(default_folder())},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "code 7", done.stderr
    assert "No space left on device" in done.stderr


def test_ctrl_c_leaves_nothing_behind(default_build: Built, tmp_path: Path) -> None:
    debs = packages_folder(default_build, tmp_path / "debs")
    process = subprocess.Popen(
        command("build", "-o", "dist", "--debs", debs, "--cache", "cache"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "unpack packages ..." in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted; temporary files are removed" in said
    assert list((tmp_path / "dist").iterdir()) == []
    assert list((tmp_path / "cache").glob("*/staged-*")) == []
    assert list((tmp_path / "cache" / "work").iterdir()) == []


def test_damage_in_the_cache_is_noticed(in_the_cache: Built, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(default_folder(), cache, ignore=shutil.ignore_patterns("pool", "apt", "tools", "work"))
    image = next(path for path in cache.glob("objects/*/image.iso") if sha256(path) == in_the_cache.sha256)
    with image.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"damage")
    data = json.loads(bluelift("plan", "--json", "--cache", cache, cwd=tmp_path).stdout)
    reasons = {step["name"]: step["reason"] for step in data["steps"] if not step["cached"]}
    assert reasons == {"iso": "image.iso in the cache is damaged or gone"}
    done = bluelift("build", "-o", "dist", "--offline", "--cache", cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "dist" / "bluelift-linux.iso") == in_the_cache.sha256
