"""A Windows PE image's own chain of start, run under Wine against broken Windows trees, and what became of them.

    with winpe_machine(scratch, image) as machine:      # image: the WIM's files in a folder
        machine.attach(WineVolume(letter="D", tree=broken_windows()))
        boot = machine.boot()

X: is the image, the other drives are folders filled with trees. winpeshl.exe is ours and does what Windows's does;
wpeinit, wpeutil, drvload, manage-bde and diskpart are stand-ins that write down how they were called; cmd.exe is
Wine's; payload.exe is the image's own. What is not proven by it is in FACTS, "Running startnet.cmd and the exe under
Wine": Wine keeps no security descriptors, no alternate streams, and shows no sectors of a disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import ImageError, OutOfTime
from builder.run import Completed, running
from builder.verify.readback import STORE, Difference, SeenFile, SeenVolume, compare_volume
from builder.verify.windows_tree import Tree
from builder.verify.wine_stand_ins import HELD, calls, keep_locked, put_stand_ins
from builder.wine import DriveKind, WinePrefix
from payload.contract import MEDIUM_FOLDER, QUARANTINE_FOLDER, RECEIPT_NAME, Receipt
from payload.formats.records import RecordError, from_json

REASON = "run a Windows PE image's own chain of start"
_LIMIT = 120.0
_HOLD_LIMIT = 20.0
_WINPESHL = r"X:\Windows\System32\winpeshl.exe"
#: The drive on which volumes without a letter lie, as far as Wine is concerned.
_WAY_IN = "W"
_BESIDE = r"X:\Windows\System32\wpeinit.exe"
_PAYLOAD = r"X:\Bluelift\payload\payload.exe"
_LOG = f"{MEDIUM_FOLDER}/payload.log"
_MINI_NT = r"System\\CurrentControlSet\\Control\\MiniNT"
#: Typed at the prompt that `cmd /k` ends with.
_TYPED = b"echo BLUELIFT-CODE %ERRORLEVEL%\r\nexit\r\n"
_CODE = "BLUELIFT-CODE "
#: Wine keeps a file's Windows attributes there, where its Unix mode does not say them.
_ATTRIBUTES = "user.DOSATTRIB"
_WINE_FILES = (".windows-label", ".windows-serial")


@dataclass(frozen=True, kw_only=True)
class WineLock:
    """What BitLocker makes of a volume: what its sectors begin with, and the keys that open it: recovery passwords and
    contents of startup key files."""

    sectors: bytes
    keys: tuple[str | bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WineVolume:
    """A drive: its tree. `lettered` False: the volume is there, but has lost its drive letter when the image starts.

    `read_only` are paths of files that get that attribute. `lock`: the volume is locked, and manage-bde (a stand-in)
    unlocks it: a file that becomes a folder.
    """

    letter: str
    tree: Tree
    label: str = ""
    lettered: bool = True
    kind: DriveKind = DriveKind.FIXED
    read_only: tuple[str, ...] = ()
    lock: WineLock | None = None


@dataclass(frozen=True, kw_only=True)
class WineBoot:
    """One run of the chain. `code` is the exit code that the script ended with, None where no prompt came.

    `calls`: the stand-ins' calls; `output`: what cmd.exe showed; `log`: what the payload itself said.
    """

    code: int | None
    calls: tuple[str, ...]
    output: str
    log: str
    seconds: float


class WineMachine:
    """A machine with an image and drives. Made by `winpe_machine`."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._folder = folder
        self.image = image
        self._prefix = WinePrefix(folder=folder / "prefix", overrides={"vcruntime140": "n"})
        self._volumes: dict[str, WineVolume] = {}
        self._before: dict[str, SeenVolume] = {}

    def prepare(self) -> None:
        """Make the prefix and the stand-ins. Raises ToolMissing."""
        self._prefix.make()
        put_stand_ins(self.image, scratch=self._folder)
        with (self._prefix.folder / "system.reg").open("a") as registry:
            registry.write(f"\n[{_MINI_NT}] 1\n")
        self._map("X", self.image)
        name_volume(self._prefix, "C", self.root("C"))

    def attach(self, volume: WineVolume) -> None:
        """Fill a folder with the volume's tree and make it a drive; C: is Wine's own, with the tree beside it."""
        self._volumes[volume.letter] = volume
        root = self.root(volume.letter)
        fill(root, volume.tree)
        for path in volume.read_only:
            _below(root, path).chmod(0o444)
        self._map(volume.letter, root, label=volume.label, kind=volume.kind)
        if volume.lock is not None:
            self._keep_locked(volume, volume.lock)
        elif not volume.lettered:
            # Wine opens by its GUID only what lies on some drive: one with nothing but that folder in it.
            self._map(_WAY_IN, root.parent)
        self._before[volume.letter] = self.see(volume.letter)

    def boot(self, *, in_use: str = "", time_limit: float = _LIMIT) -> WineBoot:
        """Start the image's chain and wait until a prompt is there. Raises OutOfTime where none ever is.

        The file `in_use` (`D:\\...`) is one that another program has open for itself alone.
        """
        (self.image / _LOG).unlink(missing_ok=True)
        earlier = len(calls(self.image))
        with self._prefix.started(), self._other_program(in_use):
            # Wine points COM1 at this machine's own serial port.
            for port in (self._prefix.folder / "dosdevices").glob("com*"):
                port.unlink()
            for volume in self._volumes.values():
                if not volume.lettered:
                    # The volume keeps its GUID path; the letter leads nowhere.
                    (self._prefix.folder / "dosdevices" / f"{volume.letter.lower()}:").unlink(missing_ok=True)
            done = self._prefix.run(
                [_WINPESHL],
                reason=REASON,
                time_limit=time_limit,
                stdin=_TYPED,
                env={"WINEPATH": r"X:\Windows\System32"},
                cwd=self.image,
                ok=range(256),
            )
        output = done.text.replace("\r\n", "\n")
        code = next((line.partition(_CODE)[2] for line in output.split("\n") if _CODE in line), "")
        return WineBoot(
            code=int(code) if code.strip().lstrip("-").isdigit() else None,
            calls=calls(self.image)[earlier:],
            output=output,
            log=_text(self.image / _LOG),
            seconds=done.seconds,
        )

    def run_payload(self, *arguments: str, time_limit: float = _LIMIT) -> Completed:
        """Run the image's payload by hand, as a technician does at the prompt; any exit code is fine."""
        with self._prefix.started():
            return self._prefix.run(
                [_PAYLOAD, *arguments], reason=REASON, time_limit=time_limit, cwd=self.image, ok=range(256)
            )

    def root(self, letter: str) -> Path:
        """The folder behind a drive."""
        if letter == "X":
            return self.image
        if letter == "C":
            return self._prefix.folder / "drive_c"
        volume = self._volumes.get(letter)
        if volume is not None and volume.lock is not None:
            return self._sectors(letter).with_name(f"{letter}.open")
        return self._folder / letter if volume is None or volume.lettered else self._folder / "unlettered" / letter

    def is_locked(self, letter: str) -> bool:
        """Whether a volume with a lock shows nothing but its sectors."""
        return self._sectors(letter).is_file() and self.root(letter).is_dir()

    def see(self, letter: str) -> SeenVolume:
        """Everything on a drive now, as this machine sees it; of C: only what is not Wine's."""
        seen = read_folder(self.root(letter))
        return _without_wine(seen, self._volumes[letter].tree) if letter == "C" else seen

    def differences(self, letter: str, *, tree: Tree | None = None, store: str = STORE) -> tuple[Difference, ...]:
        """Every way in which a drive is not what its tree (or `tree`) says must have become of it."""
        wanted = under_wine(tree or self._volumes[letter].tree)
        return compare_volume(wanted, self._before[letter], self.see(letter), store=store)

    def receipts(self, letter: str, *, store: str = STORE) -> tuple[Receipt, ...]:
        """The receipts in a drive's quarantine, oldest run first. Raises ImageError for one that follows no schema."""
        found = sorted(_below(self.root(letter), f"{store}\\{QUARANTINE_FOLDER}").glob(f"*/{RECEIPT_NAME}"))
        return tuple(read_receipt(path) for path in found)

    def _sectors(self, letter: str) -> Path:
        """Where a volume with a lock lies, locked or unlocked."""
        return self._folder / "unlettered" / letter

    def _keep_locked(self, volume: WineVolume, lock: WineLock) -> None:
        place = self._sectors(volume.letter)
        place.write_bytes(lock.sectors)
        self._map(volume.letter, place, kind=volume.kind)
        self._map(_WAY_IN, place.parent)
        for key in lock.keys:
            keep_locked(self.image, f"\\\\?\\{_volume_name(volume.letter)}\\", key, f"{_WAY_IN}:\\{volume.letter}")

    @contextmanager
    def _other_program(self, in_use: str) -> Iterator[None]:
        """A program that runs beside, as Wine's services end when nothing runs; it may have a file open."""
        (self.image / HELD).unlink(missing_ok=True)
        argv = ["wine", _BESIDE, *(["--hold", in_use] if in_use else ["--stay"])]
        with running(argv, reason=REASON, log=self._folder / "beside.log", env=self._prefix.environment):
            # What runs after it has been started.
            self._prefix.run(["cmd", "/c", "exit"], reason=REASON, time_limit=_LIMIT)
            deadline = time.monotonic() + _HOLD_LIMIT
            while in_use and not (self.image / HELD).exists():
                if time.monotonic() > deadline:
                    raise OutOfTime(f"{in_use} could not be opened within {_HOLD_LIMIT:g} s", hint="Is it there?")
                time.sleep(0.05)
            yield

    def _map(self, letter: str, folder: Path, *, label: str = "", kind: DriveKind = DriveKind.FIXED) -> None:
        self._prefix.map_drive(letter, folder, kind=kind, label=label or None)
        name_volume(self._prefix, letter, folder)


@contextmanager
def winpe_machine(folder: Path, image: Path) -> Iterator[WineMachine]:
    """A machine in `folder` (which is scratch) that starts the image tree at `image`, which it changes.

    Raises ToolMissing where there is no Wine or no mingw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = WineMachine(folder, image)
    machine.prepare()
    yield machine


def name_volume(prefix: WinePrefix, letter: str, place: Path) -> None:
    """Wine's server names volumes by GUIDs with the letter's code in them; to open one it needs a link."""
    link = prefix.folder / "dosdevices" / _volume_name(letter).lower()
    link.unlink(missing_ok=True)
    link.symlink_to(place.absolute(), target_is_directory=True)


def fill(root: Path, tree: Tree) -> None:
    """Write a tree into a folder as Wine wants it: junctions are links to folders; there are no alternate streams."""
    for directory in tree.directories:
        _below(root, directory).mkdir(parents=True, exist_ok=True)
    for file in tree.files:
        path = _below(root, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        for name in file.hard_links:
            _below(root, name).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, _below(root, name))
        if file.attributes is not None:
            _set_attributes(path, file.attributes)
        modified = round(file.modified.timestamp() * 1_000_000) * 1000
        os.utime(path, ns=(modified, modified))
    for name, target in tree.junctions:
        path = _below(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(_below(root, target.partition("\\")[2]), target_is_directory=True)


def under_wine(tree: Tree) -> Tree:
    """The same tree without what Wine has not."""
    return replace(tree, files=tuple(replace(file, streams=(), short_name="") for file in tree.files))


def read_folder(root: Path) -> SeenVolume:
    """Everything below a folder: contents, times, permissions, Windows attributes. Follows nothing."""
    files, directories = [], []
    for place, folders, names in os.walk(root):
        for name in sorted(folders + names):
            path = Path(place) / name
            inside = "\\".join(path.relative_to(root).parts)
            if path.is_symlink():
                files.append(SeenFile(path=inside, kind="link", size=0, sha256="", metadata=(str(path.readlink()),)))
            elif path.is_dir():
                directories.append(inside)
            elif inside not in _WINE_FILES:
                files.append(_seen_file(path, inside))
    return SeenVolume(files=tuple(files), directories=tuple(directories), dirty=False, ntfsck="")


def read_receipt(path: Path) -> Receipt:
    """A receipt from a file. Raises ImageError for one that follows no schema."""
    try:
        return from_json(Receipt, json.loads(path.read_bytes()))
    except (ValueError, RecordError) as error:
        raise ImageError(f"the receipt {path} cannot be read: {error}") from error


def _seen_file(path: Path, inside: str) -> SeenFile:
    status = path.lstat()
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    metadata = (f"modified {status.st_mtime_ns}", f"mode {status.st_mode:o}", f"attributes {_attributes(path)}")
    return SeenFile(path=inside, kind="file", size=status.st_size, sha256=sha256, metadata=metadata)


def _without_wine(seen: SeenVolume, tree: Tree) -> SeenVolume:
    """C: without what Wine keeps there: only the folders that the tree has in its root, and files in the root."""
    paths = [file.path for file in tree.files] + list(tree.directories)
    ours = {path.split("\\")[0] for path in paths} | {STORE.split("\\", maxsplit=1)[0]}
    return replace(
        seen,
        files=tuple(file for file in seen.files if file.path.split("\\")[0] in ours),
        directories=tuple(path for path in seen.directories if path.split("\\")[0] in ours),
    )


def _set_attributes(path: Path, attributes: int) -> None:
    try:
        os.setxattr(path, _ATTRIBUTES, f"0x{attributes:x}".encode())
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def _attributes(path: Path) -> str:
    try:
        return os.getxattr(path, _ATTRIBUTES).decode("ascii", "replace")
    except OSError:
        return "none"


def _volume_name(letter: str) -> str:
    return f"Volume{{00000000-0000-0000-0000-0000000000{ord(letter):02x}}}"


def _below(root: Path, path: str) -> Path:
    return root.joinpath(*path.split("\\"))


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""
