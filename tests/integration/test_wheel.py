"""`pip install .` gives a complete program: templates, profiles and the payload's source are inside."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built without a network by the hatchling of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--wheel-dir", folder, ROOT],
        check=True, timeout=300,
    )  # fmt: skip
    (built,) = folder.glob("bluelift-*.whl")
    return built


@pytest.fixture(scope="module")
def bluelift(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a fresh environment that has the wheel, and the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # As a plain path: an editable install's own .pth in there is not followed, so the checkout stays out of reach.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-index",
         "--no-deps", "--force-reinstall", "--ignore-installed", wheel],
        check=True, timeout=300,
    )  # fmt: skip
    return folder / "bin" / "bluelift"


def run(bluelift: Path, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bluelift, *argv], cwd=cwd, env={"HOME": str(cwd), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_what_is_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern, inside in (
        ("templates", "*.j2", "builder/data/templates"),
        ("profiles", "*.yaml", "builder/data/profiles"),
        ("payload", "*.py", "payload"),
        ("builder", "*.py", "builder"),
    ):
        files = [path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob(pattern)]
        assert files
        assert {f"{inside}/{file}" for file in files} <= names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_it_runs_from_an_empty_folder(bluelift: Path, tmp_path: Path) -> None:
    done = run(bluelift, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "bluelift 0.1.0\n"), done.stderr
    where = subprocess.run(
        [bluelift.parent / "python", "-c", "import builder, payload; print(builder.__file__, payload.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert str(ROOT) + "/builder" not in where.stdout
    assert str(ROOT) + "/payload" not in where.stdout


def test_profiles_and_plans_work(bluelift: Path, tmp_path: Path) -> None:
    assert run(bluelift, "init", cwd=tmp_path).returncode == 0
    done = run(bluelift, "plan", "bluelift.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "bluelift-linux.iso"
    for name in ("linux", "unattended", "report-only"):
        assert run(bluelift, "plan", name, cwd=tmp_path).returncode == 0
    assert run(bluelift, "schema", cwd=tmp_path).returncode == 0


def test_it_builds_what_the_checkout_builds(bluelift: Path, tmp_path: Path) -> None:
    """The facts a plan is made of are the same installed as in the checkout, so the image is the same."""
    code = (
        "from builder.build_linux import gather_facts; from dataclasses import asdict; import json; "
        "print(json.dumps(asdict(gather_facts(None)), sort_keys=True, default=dict))"
    )
    installed = subprocess.run(
        [bluelift.parent / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    checkout = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(installed.stdout) == json.loads(checkout.stdout)
