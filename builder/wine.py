"""A Wine prefix of one's own: made, given drives, started, and ended with everything that runs in it.

    prefix = WinePrefix(folder=scratch / "prefix")
    prefix.make()
    prefix.map_drive("X", image_folder)
    with prefix.started():
        prefix.run([r"X:\\payload\\payload.exe", "--help"], reason="try the payload", time_limit=60)

Only mapped drives and C: (the prefix's own) are visible inside: there is no Z:, so what runs in there neither sees this
machine's files nor depends on where they lie. An exit code is Windows's modulo 256.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.errors import OutOfTime, ToolFailed, ToolMissing
from builder.run import Completed, child_environment, run

#: Seconds that Wine's own programs may take; making a prefix takes 2 to 5.
_OWN_LIMIT = 120.0
_SERVERS = ("wineserver", "wineserver-stable", "/usr/lib/wine/wineserver", "/usr/lib/wine/wineserver64")
#: Mono and Gecko would be downloaded, menus would be written into the user's desktop.
_OVERRIDES = {"mscoree": "", "mshtml": "", "winemenubuilder.exe": ""}
_DRIVES_KEY = r"Software\\Wine\\Drives"


class DriveKind(enum.StrEnum):
    """What GetDriveType says of a drive; the values are those of Wine's registry key Software\\Wine\\Drives."""

    FIXED = "hd"
    REMOVABLE = "floppy"
    CDROM = "cdrom"
    NETWORK = "network"


class WinePrefix:
    """A prefix in `folder`, which must be its own.

    `environment` goes to every program in it; `overrides` are entries of WINEDLLOVERRIDES (`{"vcruntime140": "n"}`).
    """

    def __init__(
        self, *, folder: Path, environment: Mapping[str, str] | None = None, overrides: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.absolute()
        self._extra = dict(environment or {})
        self._overrides = {**_OVERRIDES, **(overrides or {})}
        self._drives: dict[str, Path] = {"c": self.folder / "drive_c"}
        self._up = False

    @property
    def environment(self) -> dict[str, str]:
        """What Wine's programs get beside the inherited variables. There is never a DISPLAY."""
        by_way = {
            way: [name for name, how in self._overrides.items() if how == way] for way in self._overrides.values()
        }
        return {
            "WINEPREFIX": str(self.folder),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": ";".join(f"{','.join(names)}={way}" for way, names in by_way.items()),
            # Wine links the user's own folders into the prefix otherwise.
            "HOME": str(self.folder),
            # Debian's puts the folder of its server's socket there, and leaves it behind.
            "TMPDIR": str(self.folder),
            **self._extra,
        }

    def make(self) -> None:
        """Make the prefix, unless it is there. Raises ToolMissing where there is no Wine."""
        require_wine("run Windows programs")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "system.reg").is_file():
            try:
                self._initialise()
            except ToolFailed:
                # Seen once in many hundred times, on a busy machine, with exit code 53; why is not known.
                self._initialise()
        (self.folder / "dosdevices" / "z:").unlink(missing_ok=True)

    def _initialise(self) -> None:
        try:
            self._own(["wine", "wineboot", "-i"], "make a Wine prefix")
        finally:
            self._end()

    def map_drive(
        self,
        letter: str,
        folder: Path,
        *,
        kind: DriveKind = DriveKind.FIXED,
        label: str | None = None,
        serial: int | None = None,
    ) -> None:
        """Make `folder` the drive `letter`; before `started`, for the volume to be listed among Windows's volumes.

        A `label` or a `serial` (32 bits) is put into the folder's root, where Wine looks for them.
        """
        name = letter.lower()
        link = self.folder / "dosdevices" / f"{name}:"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.absolute(), target_is_directory=True)
        if label is not None:
            (folder / ".windows-label").write_text(label + "\n")
        if serial is not None:
            (folder / ".windows-serial").write_text(f"{serial:08x}\n")
        self._drives[name] = folder.absolute()
        # The server reads the file when it starts; a later section of the same key adds to an earlier one.
        with (self.folder / "system.reg").open("a") as registry:
            registry.write(f'\n[{_DRIVES_KEY}] 1\n"{name}:"="{kind.value}"\n')

    def unmap_drive(self, letter: str) -> None:
        """Take the drive `letter` away; its folder stays as it is."""
        (self.folder / "dosdevices" / f"{letter.lower()}:").unlink(missing_ok=True)
        self._drives.pop(letter.lower(), None)

    def windows_path(self, path: Path) -> str:
        r"""`path` as a program inside sees it (`X:\payload\payload.exe`), by the innermost drive it lies on.

        Raises ValueError for a path on no drive.
        """
        absolute = path.absolute()
        for name, folder in sorted(self._drives.items(), key=lambda drive: -len(drive[1].parts)):
            if absolute.is_relative_to(folder):
                return f"{name.upper()}:\\" + "\\".join(absolute.relative_to(folder).parts)
        raise ValueError(f"{path} is on no drive of the Wine prefix")

    @contextmanager
    def started(self) -> Iterator[None]:
        """Wine's server and services, up as long as the block lasts; then everything in the prefix is ended.

        They are started here with no output of ours: a service holds on to its first caller's pipe for ever.
        """
        try:
            self._own(["wineserver", "--persistent"], "start Wine")
            self._own(["wine", "cmd", "/c", "exit"], "start Wine's services")
            self._up = True
            yield
        finally:
            self._up = False
            self._end()

    def run(
        self,
        argv: Sequence[str],
        *,
        reason: str,
        time_limit: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        ok: Sequence[int] = (0,),
    ) -> Completed:
        r"""Run a program by its Windows path (`X:\payload\payload.exe`) or name, within `started`; see builder.run.run.

        `cwd` is a folder of this machine that lies on a drive. Standard output and error are pipes, for a Unix file as
        standard output stops Python under Wine. On the time limit everything in the prefix is ended.
        """
        if not self._up:
            raise RuntimeError("the Wine prefix is not started")
        try:
            return run(
                ["wine", *argv], reason=reason, time_limit=time_limit, stdin=stdin, ok=ok,
                cwd=cwd or self._drives["c"],
                env={**self.environment, **(env or {})},
            )  # fmt: skip
        except OutOfTime:
            self._end()
            self._up = False
            raise

    def remove(self) -> None:
        """Delete the prefix's folder; the drives' folders stay."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _own(self, argv: Sequence[str], reason: str) -> None:
        program = _server() if argv[0] == "wineserver" else argv[0]
        run([program, *argv[1:]], reason=reason, time_limit=_OWN_LIMIT, env=self.environment, capture=False)

    def _end(self) -> None:
        if not self.folder.is_dir():
            return
        # 2: there is none. -k returns when the server is gone, and with it everything that it served.
        run([_server(), "-k"], reason="end Wine", time_limit=30, env=self.environment, ok=(0, 1, 2), capture=False)


def require_wine(reason: str) -> str:
    """The version of the Wine on this machine, "wine-8.0". Raises ToolMissing where there is none."""
    search = child_environment()["PATH"]
    if shutil.which("wine", path=search) is None:
        raise ToolMissing(f"wine was not found; it is needed to {reason}", hint="apt-get install wine wine64")
    said = run(["wine", "--version"], reason=reason, time_limit=30, env={"WINEDEBUG": "-all"})
    return said.text.split("\n")[0].strip()


def _server() -> str:
    search = child_environment()["PATH"]
    found = next((path for name in _SERVERS if (path := shutil.which(name, path=search))), None)
    if found is None:
        raise ToolMissing("wineserver was not found; it is needed to start Wine", hint="apt-get install wine wine64")
    return found
