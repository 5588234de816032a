"""PyInstaller run by the Python that runs Bluelift: on Windows, where the payload is frozen for the machine itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import struct
import sys
from collections.abc import Mapping, Sequence

from builder import frozen
from builder.console import Step
from builder.errors import ToolMissing
from builder.freeze import FreezeJob
from builder.frozen import FrozenPayload
from builder.import_gate import EXECUTABLE
from builder.pe import Machine
from builder.run import run

#: Seconds; it takes 5 to 20.
TIME_LIMIT = 600.0
#: A module that was left out by mistake shows when the program is started.
STARTS = ("--help",)
START_REASON = "see whether the frozen payload starts"
START_LIMIT = 60.0
_REASON = "freeze the payload for Windows"
#: The line of Python that is known to run in Windows PE: later ones ask WMI, earlier ones lack what the payload uses.
_PYTHON = (3, 11)


class NativeBackend:
    """See builder.freeze.FreezeBackend."""

    @property
    def name(self) -> str:
        """See FreezeBackend."""
        return "native"

    @property
    def machine(self) -> Machine:
        """See FreezeBackend."""
        return Machine.AMD64

    def recipe(self) -> Mapping[str, str]:
        """Python's and PyInstaller's versions."""
        return {"python": platform.python_version(), "pyinstaller": _pyinstaller_version()}

    def freeze(self, job: FreezeJob, step: Step) -> FrozenPayload:
        """See FreezeBackend. Raises ToolMissing for another Python than 64-bit 3.11, or without PyInstaller."""
        check_python()
        step.note(f"Python {platform.python_version()}, PyInstaller {_pyinstaller_version()}")
        spec = job.write_sources()
        output = job.scratch / "output"
        run(
            [sys.executable, *pyinstaller_arguments(str(spec), str(output), str(job.scratch / "build"))],
            reason=_REASON,
            time_limit=TIME_LIMIT,
            env={**reproducible(job.epoch), "PYINSTALLER_CONFIG_DIR": str(job.scratch / "config")},
            cwd=job.scratch,
        )
        run([str(output / "payload" / EXECUTABLE), *STARTS], reason=START_REASON, time_limit=START_LIMIT)
        return frozen.read_folder(output / "payload")


def pyinstaller_arguments(spec: str, output: str, build: str) -> Sequence[str]:
    """What follows `python` on the command line that freezes; paths in the form that this Python understands."""
    return (
        "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=ERROR", f"--distpath={output}",
        f"--workpath={build}", spec,
    )  # fmt: skip


def reproducible(epoch: int) -> dict[str, str]:
    """The environment in which PyInstaller makes the same bytes again (its manual, "Creating a reproducible build")."""
    return {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def check_python() -> None:
    """Raises ToolMissing when this Python cannot freeze for Windows PE, saying why."""
    bits = 8 * struct.calcsize("P")
    if sys.version_info[:2] != _PYTHON or bits != 64:
        raise ToolMissing(
            f"Python 3.11, 64-bit, is needed to {_REASON}; this is {platform.python_version()}, {bits}-bit",
            hint="Run Bluelift with Python 3.11, or give a frozen payload: --payload-exe FOLDER",
        )
    if importlib.util.find_spec("PyInstaller") is None:
        raise ToolMissing(f"PyInstaller was not found; it is needed to {_REASON}", hint="pip install bluelift[freeze]")


def _pyinstaller_version() -> str:
    try:
        return importlib.metadata.version("pyinstaller")
    except importlib.metadata.PackageNotFoundError:
        return ""
