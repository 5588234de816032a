"""PyInstaller under Wine, with a genuine Windows Python: how the payload is frozen on Linux."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from builder import frozen
from builder.console import Step
from builder.errors import BaseMediaError, ToolMissing
from builder.freeze import FreezeJob
from builder.freeze_native import START_LIMIT, START_REASON, STARTS, TIME_LIMIT, pyinstaller_arguments, reproducible
from builder.frozen import FrozenPayload
from builder.import_gate import EXECUTABLE
from builder.pe import Machine
from builder.resources import freeze_pins
from builder.windows_python import (
    fetch,
    lay_out_given_python,
    lay_out_pinned_python,
    pins,
    unpack_wheels,
    write_search_path,
)
from builder.wine import WinePrefix, require_wine

_REASON = "freeze the payload for Windows"
#: The drive that holds everything a freeze touches, so that no path of this machine gets into the bytes.
_DRIVE = "W"
#: Without Microsoft's runtime beside it Python is to fail, not to go on with Wine's, which PyInstaller leaves out.
RUNTIME_OVERRIDES = {"vcruntime140": "n", "vcruntime140_1": "n"}


class WineBackend:
    """See builder.freeze.FreezeBackend. `downloads` keeps packages; `given` is the user's own package of Python."""

    def __init__(self, *, downloads: Path, given: Path | None = None) -> None:
        self._downloads = downloads
        self._given = given

    @property
    def name(self) -> str:
        """See FreezeBackend."""
        return "wine"

    @property
    def machine(self) -> Machine:
        """See FreezeBackend."""
        return Machine.AMD64

    def recipe(self) -> Mapping[str, str]:
        """The pins, or the user's package in place of the pinned Python. Wine itself leaves no trace in the bytes."""
        python = pins().python.sha256
        if self._given is not None:
            try:
                python = hashlib.sha256(self._given.read_bytes()).hexdigest()
            except OSError as error:
                raise BaseMediaError(
                    f"{self._given} cannot be read: {error.strerror}", hint="--windows-python takes a file."
                ) from error
        return {"python": python, "pins": hashlib.sha256(freeze_pins()).hexdigest()}

    def freeze(self, job: FreezeJob, step: Step) -> FrozenPayload:
        """See FreezeBackend. Raises ToolMissing without Wine, BaseMediaError for a Python that is not genuine."""
        version = self._wine()
        self._lay_out_python(job, step)
        spec = job.write_sources()
        step.note(f"Python {pins().python_version} for Windows, signatures checked, under {version}")
        prefix = WinePrefix(folder=job.scratch / "prefix", overrides=RUNTIME_OVERRIDES)
        prefix.make()
        prefix.map_drive(_DRIVE, job.scratch)
        with prefix.started():
            prefix.run(
                [
                    prefix.windows_path(job.scratch / "python" / "python.exe"),
                    *pyinstaller_arguments(prefix.windows_path(spec), rf"{_DRIVE}:\output", rf"{_DRIVE}:\build"),
                ],
                reason=_REASON,
                time_limit=TIME_LIMIT,
                env=reproducible(job.epoch),
                cwd=job.scratch,
            )
            program = prefix.windows_path(job.scratch / "output" / "payload" / EXECUTABLE)
            prefix.run([program, *STARTS], reason=START_REASON, time_limit=START_LIMIT)
        return frozen.read_folder(job.scratch / "output" / "payload")

    def _wine(self) -> str:
        try:
            return require_wine(_REASON)
        except ToolMissing as error:
            raise ToolMissing(
                error.message, hint=f"{error.hint}, or give a frozen payload: --payload-exe FOLDER"
            ) from error

    def _lay_out_python(self, job: FreezeJob, step: Step) -> None:
        python = job.scratch / "python"
        if self._given is not None:
            # A package that is not genuine is refused before anything is downloaded for it.
            lay_out_given_python(self._given, python)
        fetch(self._downloads, offline=job.offline, with_python=self._given is None, step=step)
        if self._given is None:
            lay_out_pinned_python(self._downloads, python)
        unpack_wheels(self._downloads, job.scratch / "site")
        write_search_path(python, r"..\site")
