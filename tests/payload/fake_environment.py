"""An environment and a volume in memory, with a fault for every method. Not a mock: files really move in it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from builder.keys.cipher import OpenSslCipher
from payload.contract import AfterRepair, ControllerRecord, DiskRecord, HostIdentity
from payload.environment import (
    Entry,
    EntryKind,
    Keyboard,
    Medium,
    OpenVolume,
    RenameInstead,
    ReparsePointInPath,
    Screen,
    Volume,
    VolumeNotOpened,
    VolumePath,
    VolumeState,
    any_name,
)
from payload.environment.boot_partitions import BootPartition
from payload.environment.locked import KeyRefused, UnlockKey
from payload.formats.fve import FveVolume
from payload.formats.fve_entries import ProtectorKind
from payload.formats.vault import Cipher
from payload.key_prompt import Instead, PassphraseQuestion, RecoveryQuestion

FAULTY_NS = 1721362200 * 10**9  # 2024-07-19T04:10:00Z
CORRECTED_NS = 1721367600 * 10**9  # 2024-07-19T05:40:00Z


@dataclass
class Node:
    """A file (data), a directory (children by name) or a reparse point."""

    kind: EntryKind
    data: bytes = b""
    modified_ns: int = FAULTY_NS
    children: dict[str, Node] = field(default_factory=dict)
    protected: bool = False
    number: int = 0


class MemoryFiles:
    """`VolumeFiles` in memory; names compare without regard to case. `fail` maps a method to what it raises."""

    def __init__(self) -> None:
        self.root = Node(EntryKind.DIRECTORY)
        self.fail: dict[str, BaseException] = {}
        self.changes: list[str] = []
        self.writable = False
        self._numbers = 0

    # building

    def add(self, path: str, data: bytes = b"", *, modified_ns: int = FAULTY_NS) -> None:
        """A file at a Windows-style path; its folders appear."""
        *folders, name = path.strip("\\").split("\\")
        node = self.root
        for folder in folders:
            node = node.children.setdefault(folder, self._new(EntryKind.DIRECTORY))
        node.children[name] = self._new(EntryKind.FILE, data, modified_ns)

    def add_link(self, path: str) -> None:
        """A reparse point at a path."""
        self.add(path)
        parent, name = self._parent(tuple(path.strip("\\").split("\\")))
        parent.children[name] = self._new(EntryKind.LINK)

    def paths(self) -> dict[str, bytes]:
        """Every file and its content."""
        found: dict[str, bytes] = {}

        def walk(node: Node, path: str) -> None:
            for name, child in node.children.items():
                if child.kind is EntryKind.DIRECTORY:
                    walk(child, f"{path}\\{name}")
                else:
                    found[f"{path}\\{name}"] = child.data

        walk(self.root, "")
        return found

    # VolumeFiles

    def scan(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> Iterator[Entry]:
        """The entries of a directory, the last one made first."""
        self._fault("listing")
        node = self._directory(directory)
        yield from (_entry(name, child) for name, child in reversed(node.children.items()) if wanted(name))

    def listing(self, directory: VolumePath, wanted: Callable[[str], bool] = any_name) -> list[Entry]:
        """The entries of a directory, sorted by name."""
        return sorted(self.scan(directory, wanted), key=lambda entry: entry.name)

    def entry(self, path: VolumePath) -> Entry | None:
        """The entry at a path."""
        self._fault("entry")
        try:
            node = self._node(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _entry(path[-1] if path else "", node)

    def open_file(self, path: VolumePath) -> BinaryIO:
        """A file for reading."""
        self._fault("open_file")
        node = self._node(path)
        if node.kind is EntryKind.LINK:
            raise ReparsePointInPath(str(path))
        if node.kind is not EntryKind.FILE:
            raise IsADirectoryError(str(path))
        return io.BytesIO(node.data)

    def make_directory(self, path: VolumePath) -> None:
        """A protected directory."""
        self._change("make_directory", path)
        parent, name = self._parent(path)
        if _find(parent, name) is not None:
            raise FileExistsError(str(path))
        parent.children[name] = self._new(EntryKind.DIRECTORY)
        parent.children[name].protected = True

    def is_protected(self, path: VolumePath) -> bool:
        """Whether make_directory made it."""
        self._fault("is_protected")
        node = self._node(path)
        return node.kind is EntryKind.DIRECTORY and node.protected

    def write_file(self, path: VolumePath, data: bytes) -> None:
        """A file whole."""
        self._change("write_file", path)
        parent, name = self._parent(path)
        parent.children[_find(parent, name) or name] = self._new(EntryKind.FILE, data)

    def rename(self, source: VolumePath, destination: VolumePath) -> None:
        """A move that never overwrites."""
        self._change("rename", source)
        node = self._node(source)
        to, name = self._parent(destination)
        if _find(to, name) is not None:
            raise FileExistsError(str(destination))
        parent, old = self._parent(source)
        del parent.children[_find(parent, old) or old]
        to.children[name] = node

    def copy(self, source: VolumePath, destination: VolumePath) -> None:
        """Never: this volume's renames are whole."""
        raise RenameInstead(str(source), str(destination))

    def settle_removal(self, path: VolumePath, file_number: int) -> None:
        """Nothing: so are its removals."""

    def is_left_to_check(self, path: VolumePath, file_number: int) -> bool:
        """Never."""
        return False

    def remove(self, path: VolumePath) -> None:
        """A file gone."""
        self._change("remove", path)
        parent, name = self._parent(path)
        found = _find(parent, name)
        if found is None:
            raise FileNotFoundError(str(path))
        del parent.children[found]

    # inside

    def _new(self, kind: EntryKind, data: bytes = b"", modified_ns: int = FAULTY_NS) -> Node:
        self._numbers += 1
        return Node(kind, data, modified_ns, number=self._numbers)

    def _fault(self, method: str) -> None:
        if method in self.fail:
            raise self.fail[method]

    def _change(self, method: str, path: VolumePath) -> None:
        self._fault(method)
        if not self.writable:
            raise OSError(30, "Read-only file system")
        self.changes.append(f"{method} {'/'.join(path)}")

    def _node(self, path: VolumePath) -> Node:
        node = self.root
        for i, name in enumerate(path):
            if node.kind is EntryKind.LINK:
                raise ReparsePointInPath(str(path[:i]))
            if node.kind is not EntryKind.DIRECTORY:
                raise NotADirectoryError(str(path))
            found = _find(node, name)
            if found is None:
                raise FileNotFoundError(str(path))
            node = node.children[found]
        return node

    def _directory(self, path: VolumePath) -> Node:
        node = self._node(path)
        if node.kind is EntryKind.LINK:
            raise ReparsePointInPath(str(path))
        if node.kind is not EntryKind.DIRECTORY:
            raise NotADirectoryError(str(path))
        return node

    def _parent(self, path: VolumePath) -> tuple[Node, str]:
        return self._directory(path[:-1]), path[-1]


def _find(node: Node, name: str) -> str | None:
    return next((known for known in node.children if known.casefold() == name.casefold()), None)


def _entry(name: str, node: Node) -> Entry:
    return Entry(
        name=name, kind=node.kind, size=len(node.data), modified_ns=node.modified_ns, identity=(1, node.number)
    )


class MemoryScreen:
    """Keeps everything shown; replays `keys` (None is a wait without a key)."""

    def __init__(self) -> None:
        self.columns = 80
        self.lines = 25
        self.colour = False
        self.half_blocks = False
        self.shown: list[str] = []
        self.keys: list[str | None] = []

    def write(self, text: str) -> None:
        """Show text."""
        self.shown.append(text)

    def key(self, seconds: float) -> str | None:
        """The next scripted key; when there are no more, the technician powers the machine off."""
        return self.keys.pop(0) if self.keys else "p"

    @contextmanager
    def typing(self) -> Iterator[Keyboard]:
        """The scripted keys again."""
        yield self.key


class FakePrompt:
    """`KeyPrompt` that gives scripted answers and keeps the questions; without any more, nobody is there."""

    def __init__(self, *answers: str | bytes | Instead) -> None:
        self.answers = list(answers)
        self.questions: list[PassphraseQuestion | RecoveryQuestion] = []

    def passphrase(self, question: PassphraseQuestion) -> str | Instead:
        """The next answer, which must be a passphrase or something instead."""
        answer = self._next(question)
        assert isinstance(answer, str | Instead)
        return answer

    def recovery_key(self, question: RecoveryQuestion) -> bytes | Instead:
        """The next answer, which must be a key or something instead."""
        answer = self._next(question)
        assert isinstance(answer, bytes | Instead)
        return answer

    def _next(self, question: PassphraseQuestion | RecoveryQuestion) -> str | bytes | Instead:
        self.questions.append(question)
        return self.answers.pop(0) if self.answers else Instead.NOBODY


@dataclass
class FakeVolume:
    """A volume and its files. `refuses` is raised when it is opened (at all, or for changes)."""

    volume: Volume
    files: MemoryFiles
    refuses: VolumeNotOpened | None = None
    refuses_changes: VolumeNotOpened | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class FakeLock:
    """A lock on a volume: what its metadata says, the keys (kind, secret) that open it, and what is inside.

    `metadata` may be what reading it raises; `refuses` is raised whatever the key.
    """

    metadata: FveVolume | Exception
    inside: FakeVolume
    opens: list[tuple[ProtectorKind, bytes]] = field(default_factory=list)
    refuses: Exception | None = None


class FakeUnlocking:
    """`Unlocking` in memory, for an environment whose locked volumes have the ids of `locks`."""

    def __init__(self, locks: dict[str, FakeLock], *, media: Sequence[Medium] = ()) -> None:
        self.locks = locks
        self.key_files = list(media)
        self.fake_volumes: list[FakeVolume] = []
        self.tried: list[tuple[str, ProtectorKind, str]] = []
        self.open_now: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.starts: dict[str, list[MemoryFiles]] = {}

    @property
    def cipher(self) -> Cipher:
        """The builder's."""
        return OpenSslCipher()

    def locked_metadata(self, volume: Volume) -> FveVolume:
        """What the test said."""
        metadata = self.locks[volume.id].metadata
        if isinstance(metadata, Exception):
            raise metadata
        return metadata

    @contextmanager
    def unlocked(self, volume: Volume, key: UnlockKey) -> Iterator[None]:
        """Shows what is inside instead of the locked volume."""
        lock = self.locks[volume.id]
        self.tried.append((volume.id, key.kind, key.protector))
        if lock.refuses is not None:
            raise lock.refuses
        if (key.kind, key.secret) not in lock.opens:
            raise KeyRefused("wrong key")
        at = next(i for i, fake in enumerate(self.fake_volumes) if fake.volume.id == volume.id)
        outside, self.fake_volumes[at] = self.fake_volumes[at], lock.inside
        self.open_now.append(volume.id)
        try:
            yield
        finally:
            self.fake_volumes[at] = outside
            self.open_now.remove(volume.id)

    @contextmanager
    def key_media(self) -> Iterator[Iterator[Medium]]:
        """The media, one after another."""
        if "key_media" in self.fail:
            raise self.fail["key_media"]
        yield iter(self.key_files)

    @contextmanager
    def boot_partitions(self, disk: str) -> Iterator[Iterator[BootPartition]]:
        """Those of a disk that the test said."""
        yield iter(BootPartition(name=f"{disk}1", files=files) for files in self.starts.get(disk, ()))


class FakeEnvironment:
    """`Environment` in memory. `fail` maps a method's name to the exception it raises."""

    def __init__(self, *volumes: FakeVolume) -> None:
        self.fake_volumes = list(volumes)
        self.memory_screen = MemoryScreen()
        self.lines: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.disk_records: list[DiskRecord] = [disk()] if volumes else []
        self.controller_records: list[ControllerRecord] = []
        self.media_files: list[MemoryFiles] = []
        self.boot_files: list[MemoryFiles] = []
        self.ended: list[AfterRepair] = []
        self.opened: list[tuple[str, bool]] = []
        self.shells = 0
        self.fake_unlocking: FakeUnlocking | None = None

    @property
    def name(self) -> str:
        """As in the receipt."""
        return "fake"

    @property
    def screen(self) -> Screen:
        """The screen."""
        return self.memory_screen

    def emit(self, line: str) -> None:
        """Keeps the line."""
        self.lines.append(line)

    def notes(self) -> Sequence[str]:
        """None."""
        return ()

    def host(self) -> HostIdentity:
        """A host."""
        self._fault("host")
        return HostIdentity(smbios_uuid="4c4c4544-0042", smbios_serial="PF3K9Z2A", manufacturer="LENOVO", product="T14")

    def wait_for_disks(self, limit: float) -> None:
        """No waiting."""
        self._fault("wait_for_disks")

    def disks(self) -> Sequence[DiskRecord]:
        """The disks."""
        self._fault("disks")
        return self.disk_records

    def controllers(self) -> Sequence[ControllerRecord]:
        """The controllers."""
        self._fault("controllers")
        return self.controller_records

    def volumes(self) -> Sequence[Volume]:
        """The volumes."""
        self._fault("volumes")
        return [fake.volume for fake in self.fake_volumes]

    @property
    def unlocking(self) -> FakeUnlocking | None:
        """What the test gave."""
        if self.fake_unlocking is not None:
            self.fake_unlocking.fake_volumes = self.fake_volumes
        return self.fake_unlocking

    @contextmanager
    def open_volume(self, volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        """Opens a volume; what is written while it is not open for changes is refused."""
        self._fault("open_volume")
        fake = next(fake for fake in self.fake_volumes if fake.volume == volume)
        self.opened.append((volume.id, for_changes))
        if fake.refuses is not None:
            raise fake.refuses
        if for_changes:
            self._fault("open_for_changes")
            if fake.refuses_changes is not None:
                raise fake.refuses_changes
        fake.files.writable = for_changes
        try:
            yield OpenVolume(volume=volume, files=fake.files, writable=for_changes, notes=fake.notes)
        finally:
            fake.files.writable = False
        self._fault("close_volume")

    @contextmanager
    def boot_media(self) -> Iterator[Iterator[Medium]]:
        """What the test said."""
        self._fault("boot_media")
        yield iter(Medium(name=f"boot medium {i}", files=files) for i, files in enumerate(self.boot_files))

    @contextmanager
    def media(self, image_id: str) -> Iterator[Iterator[Medium]]:
        """The media."""
        self._fault("media")
        with contextlib.ExitStack():
            yield (Medium(name=f"stick{i}", files=files) for i, files in enumerate(self.media_files))

    def end(self, action: AfterRepair) -> None:
        """Keeps the action."""
        self.ended.append(action)
        self._fault("end")

    def shell(self) -> None:
        """Counts."""
        self._fault("shell")
        self.shells += 1

    def _fault(self, method: str) -> None:
        if method in self.fail:
            raise self.fail[method]


def disk(name: str = "sda", *, state: str = "ok", detail: str = "") -> DiskRecord:
    """A disk."""
    return DiskRecord(id=name, model="QEMU", serial="S1", size=64 * 10**9, bus="sata", state=state, detail=detail)


def volume(
    name: str = "sda3",
    *,
    state: VolumeState = VolumeState.READY,
    label: str = "Windows",
    detail: str = "",
    advice: str = "",
) -> Volume:
    """An NTFS volume."""
    return Volume(
        id=name, disk="sda", label=label, file_system="ntfs", size=60 * 10**9, state=state, detail=detail, advice=advice
    )


def channel_file(version: int = 31, channel: int = 291) -> bytes:
    """A genuine-looking channel file: AA AA AA AA, channel at 6, version at 16."""
    head = bytearray(64)
    head[0:4] = b"\xaa" * 4
    head[4:6] = (1).to_bytes(2, "little")
    head[6:8] = channel.to_bytes(2, "little")
    head[16:20] = version.to_bytes(4, "little")
    return bytes(head) + b"content"


CHANNEL_FOLDER = "\\Windows\\System32\\drivers\\CrowdStrike"
FAULTY_PATH = f"{CHANNEL_FOLDER}\\C-00000291-00000000-00000031.sys"


def windows_files(*, faulty: bool = True, clean: bool = False) -> MemoryFiles:
    """A volume with a Windows folder; with a faulty channel file, a corrected one, or none."""
    files = MemoryFiles()
    files.add("\\Windows\\System32\\config\\SYSTEM", b"regf" + bytes(4092))
    files.add("\\Windows\\System32\\config\\SOFTWARE", b"regf" + bytes(4092))
    files.add("\\Windows\\System32\\drivers\\ntfs.sys", b"MZ")
    files.add("\\ProgramData\\x.txt", b"x")
    if faulty:
        files.add(FAULTY_PATH, channel_file(31))
    if clean:
        files.add(f"{CHANNEL_FOLDER}\\C-00000291-00000000-00000032.sys", channel_file(32), modified_ns=CORRECTED_NS)
    return files
