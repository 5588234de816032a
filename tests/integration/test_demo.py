"""`bluelift demo`: a built WinPE ISO, taken apart, repairs drives by its own chain of start under Wine."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.commands.demo import last_screen
from tests.command_line import bluelift
from tests.winpe_builds import lacking


@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_the_demo_repairs_and_tells_what_is_next(tmp_path: Path) -> None:
    done = bluelift("demo", "-o", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the WinPE way works" in done.stdout
    assert "######" in done.stdout and "moved to quarantine" in done.stdout
    assert "wpeinit, wpeutil reboot" in done.stdout
    assert "make iso WINDOWS_ISO=" in done.stdout
    quarantine = tmp_path / "demo" / "machine" / "D" / "ProgramData" / "Bluelift" / "quarantine"
    assert len(list(quarantine.glob("*/receipt.json"))) == 1
    # A second demo takes the place of the first, but never that of anything else.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    refused = bluelift("demo", "-o", "mine", cwd=tmp_path)
    assert (refused.returncode, "is not empty" in refused.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_last_screen_is_the_one_with_the_verdict() -> None:
    screen = "   ####   ##\n\n  HOST is repaired.\n\n"
    log = f"  Bluelift 1\n\n  > Looking\n  Bluelift 1\n  [R] Restart\n{screen}  Bluelift 1\n  Restarting now\n"
    assert last_screen(log)[-1] == "  HOST is repaired."
    assert last_screen("only a message\n") == ["only a message"]
