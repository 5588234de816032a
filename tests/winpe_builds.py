"""WinPE builds for tests: from the stand-in install ISO, with the payload frozen once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from builder.cache import default_folder
from builder.errors import ToolMissing
from builder.verify.standin import wine_folder
from builder.verify.standin_boot import COMPILER
from builder.wim_library import library

ROOT = Path(__file__).parent.parent


def lacking() -> str:
    """What this machine lacks to make the stand-in and build from it; "" where nothing is missing."""
    missing = [name for name in ("wine", COMPILER) if shutil.which(name) is None]
    for needed in (wine_folder, library):
        try:
            needed()
        except ToolMissing as error:
            missing.append(error.message)
    return ", ".join(missing)


def bluelift(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None, prelude: str = "pass") -> subprocess.CompletedProcess[str]:  # fmt: skip  # noqa: E501
    """Run the command line as a user does, in a process of its own. `prelude` is Python run first."""
    code = (
        f"import sys; {prelude}; sys.path.insert(0, {str(ROOT)!r}); from builder.__main__ import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv), "--plain"],
        cwd=cwd,
        env={**os.environ, "BLUELIFT_CACHE": str(default_folder()), **(env or {})},
        capture_output=True,
        text=True,
        timeout=900,
    )
