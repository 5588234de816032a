"""`outputs: [iso, img, vhdx, vhd]`: the files beside the image are the same disk to qemu-img, and listed as such."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.build import Built
from builder.disk_forms import DiskForm
from builder.verify.standin_media import make_bootable_standin
from tests.command_line import bluelift
from tests.winpe_builds import lacking

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img (package qemu-utils) is not here")


def linux(folder: Path) -> tuple[str, set[str]]:
    return "outputs: [iso, img, vhdx, vhd]\noutput: x\n", {"x.iso"}


def winpe(folder: Path) -> tuple[str, set[str]]:
    make_bootable_standin(folder / "install.iso")
    base = "base: {kind: windows-iso, path: install.iso}"
    return f"environment: winpe\nboot_ca: both\n{base}\noutput: x\noutputs: [iso, vhdx]\n", {"x-2011.iso", "x-2023.iso"}


@pytest.mark.parametrize(
    ("make", "forms"),
    [
        pytest.param(linux, ("img", "vhdx", "vhd"), id="linux"),
        pytest.param(winpe, ("vhdx",), id="winpe", marks=pytest.mark.skipif(bool(lacking()), reason=lacking())),
    ],
)
@pytest.mark.usefixtures("default_build")
def test_the_files_beside_the_image(
    tmp_path: Path, make: Callable[[Path], tuple[str, set[str]]], forms: tuple[str, ...]
) -> None:
    profile, images = make(tmp_path)
    (tmp_path / "p.yaml").write_text(profile)
    done = bluelift("build", "p.yaml", "-o", "dist", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dist = tmp_path / "dist"
    listed = json.loads((dist / "manifest.json").read_text())["disk_forms"]
    assert {(entry["image"], entry["form"]) for entry in listed} == {
        (image, form) for image in images for form in forms
    }
    for entry in listed:
        content = (dist / entry["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size"], entry["sha256"])
        compared = subprocess.run(
            ["qemu-img", "compare", "-f", DiskForm(entry["form"]).qemu_format, "-F", "raw",
             dist / entry["file"], dist / entry["image"]],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert compared.returncode == 0, compared.stdout
        assert str(dist / entry["file"]).removeprefix(f"{tmp_path}/") in done.stdout
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=dist, capture_output=True, text=True, timeout=60)
    assert sums.returncode == 0, sums.stdout
    assert sums.stdout.count(": OK") == len(images) * (1 + len(forms)) + 1
    assert {path.name for path in dist.iterdir()} == {
        "manifest.json", "SHA256SUMS", *images, *(entry["file"] for entry in listed)
    }  # fmt: skip
    again = bluelift("build", "p.yaml", "-o", "dist", "--offline", cwd=tmp_path)
    assert "nothing: everything was in the cache" in again.stdout, again.stderr
    # A form that was changed is found out, and written again as it was.
    damaged = dist / listed[0]["file"]
    damaged.write_bytes(b"x")
    assert bluelift("build", "p.yaml", "-o", "dist", "--offline", cwd=tmp_path).returncode == 0
    assert hashlib.sha256(damaged.read_bytes()).hexdigest() == listed[0]["sha256"]


def test_a_plain_image_has_no_forms(default_build: Built, tmp_path: Path) -> None:
    assert json.loads((default_build.image.parent / "manifest.json").read_text())["disk_forms"] == []
    (tmp_path / "p.yaml").write_text("hybrid: false\noutputs: [iso, vhd]\n")
    done = bluelift("build", "p.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert "p.yaml:2: outputs: img, vhdx and vhd are for hybrid: true" in done.stderr
