"""How the user can call Bluelift again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def program() -> str:
    """`bluelift` where that is on PATH, else as this process was called (`.venv/bin/bluelift`)."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "bluelift" and shutil.which("bluelift") is None else "bluelift"
