"""Python files compiled ahead of time by the image's own interpreter, so that a slow host starts the payload at once.

Under emulation the standard library's part of the start goes from 2.5 s to 0.5 s. The files are hash-based and
unchecked (PEP 552): no time of any file goes into them, so the same sources give the same bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builder.debian_root import own_loader, python_folder
from builder.run import run

_COMPILE = """
import json, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for source, compiled, shown in json.load(sys.stdin):
    py_compile.compile(source, compiled, shown, doraise=True, invalidation_mode=mode)
"""


def cache_name(root: Path, name: str) -> str:
    """Where Python looks for the compiled form of the file `name`: `a/__pycache__/b.cpython-313.pyc` (PEP 3147)."""
    folder, _, file = name.rpartition("/")
    tag = python_folder(root).name.replace("python", "cpython-").replace(".", "")
    compiled = f"__pycache__/{file.removesuffix('.py')}.{tag}.pyc"
    return f"{folder}/{compiled}" if folder else compiled


def compile_python(root: Path, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """The compiled form of every source file, by the same names (paths in the image, `usr/lib/python3.13/os.py`).

    Raises ToolFailed with Python's own words when a file does not compile.
    """
    names = sorted(sources)
    with tempfile.TemporaryDirectory(prefix="bluelift-python-") as scratch:
        folder = Path(scratch)
        jobs = []
        for number, name in enumerate(names):
            source, compiled = folder / f"{number}.py", folder / f"{number}.pyc"
            source.write_bytes(sources[name])
            jobs.append((str(source), str(compiled), f"/{name}"))
        run_python(root, _COMPILE, reason="compile the image's Python files", stdin=json.dumps(jobs).encode())
        return {name: (folder / f"{number}.pyc").read_bytes() for number, name in enumerate(names)}


def run_python(root: Path, script: str, *arguments: str, reason: str, stdin: bytes | None = None) -> str:
    """What `script` prints, run by the Python at `root` with the library at `root`, whatever this machine has."""
    python = root / "usr/bin" / python_folder(root).name
    return run(
        [*own_loader(root), str(python), "-s", "-S", "-P", "-B", "-c", script, *arguments],
        reason=reason,
        time_limit=120,
        stdin=stdin,
        env={"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0"},
    ).text
