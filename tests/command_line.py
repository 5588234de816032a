"""Bluelift's command line as a user has it: in a process of its own, whatever folder it is started in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from builder.cache import default_folder

ROOT = Path(__file__).parent.parent


def command(*arguments: object, prelude: str = "pass") -> list[str]:
    """What to run. `prelude` is Python that is run first."""
    code = (
        f"import sys; {prelude}; sys.path.insert(0, {str(ROOT)!r}); from builder.__main__ import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, *map(str, arguments), "--plain"]


def bluelift(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None, prelude: str = "pass"
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with the cache of all tests. `env` comes on top of the environment."""
    return subprocess.run(
        command(*arguments, prelude=prelude),
        cwd=cwd,
        env={**os.environ, "BLUELIFT_CACHE": str(default_folder()), **(env or {})},
        capture_output=True,
        text=True,
        timeout=900,
    )
