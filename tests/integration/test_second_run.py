"""The payload's next run on a volume that a power cut left, on this machine (`builder.verify.second_run`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import builder
from builder.errors import VerifyFailed
from builder.verify.second_run import run_again
from payload.contract import Verdict
from payload.formats.ntfs import parse_boot_sector, write_dirty_flag
from tests.payload.broken_windows import make_windows
from tests.payload.linux_fakes import can_mount, make_ntfs

_WHY_NOT = can_mount()
pytestmark = [pytest.mark.mounts, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)]
PROJECT = Path(builder.__file__).parent.parent


@contextmanager
def mounted(volume: Path) -> Iterator[Path]:
    folder = volume.with_suffix(".here")
    folder.mkdir()
    subprocess.run(["ntfs-3g", str(volume), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    volume = make_ntfs(tmp_path / "volume.ntfs")
    with mounted(volume) as root:
        make_windows(root)
    return volume


def test_it_repairs_and_the_next_finds_it_clean(volume: Path) -> None:
    """Also where the file table's mirror was left behind."""
    boot = parse_boot_sector(volume.read_bytes()[:512])
    with volume.open("r+b") as stream:
        write_dirty_flag(stream, dirty=True)
        stream.seek(boot.mft_offset + 8)
        stream.write(b"\x12\x34")
    assert run_again(volume) == Verdict.REPAIRED.headline
    assert run_again(volume) == Verdict.ALREADY_CLEAN.headline


@pytest.mark.parametrize("said", ["", "'[]'", "'{}'", '\'{"verdict": "splendid"}\''])
def test_a_payload_that_gives_no_receipt(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "payload", project / "payload", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "builder").symlink_to(PROJECT / "builder")
    (project / "payload" / "__main__.py").write_text(f"print({said})\n")
    monkeypatch.chdir(tmp_path)  # a folder that Python looks in first
    monkeypatch.setattr(builder, "__file__", str(project / "builder" / "__init__.py"))
    with pytest.raises(VerifyFailed, match="gave no receipt"):
        run_again(volume)
