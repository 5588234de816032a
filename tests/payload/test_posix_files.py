"""File operations on a volume: nothing is followed, nothing is overwritten, nothing half-written stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from payload.environment import Entry, EntryKind, ReparsePointInPath, VolumePath, posix_files
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.security_descriptor import protected_descriptor
from tests.payload.broken_windows import claim_file_system


@pytest.fixture
def files(tmp_path: Path) -> PosixVolumeFiles:
    """A volume in tmp_path/volume with a tree, and things outside that must never be reached."""
    root = tmp_path / "volume"
    (root / "folder" / "inner").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"content")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "file-link").symlink_to(tmp_path / "outside" / "secret")
    (root / "folder" / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return PosixVolumeFiles(root)


def test_a_listing_shows_things_as_they_are(files: PosixVolumeFiles, tmp_path: Path) -> None:
    kinds = {entry.name: entry.kind for entry in files.listing(())}
    assert kinds == {
        "file-link": EntryKind.LINK, "folder": EntryKind.DIRECTORY, "link": EntryKind.LINK, "pipe": EntryKind.OTHER,
    }  # fmt: skip
    assert list(kinds) == sorted(kinds)
    os.link(tmp_path / "volume/folder/file", tmp_path / "volume/folder/same")
    first, second = files.entry(("folder", "file")), files.entry(("folder", "same"))
    assert first is not None
    assert second is not None
    assert first.identity == second.identity
    assert first.size == 7
    assert first.modified_ns == (tmp_path / "volume/folder/file").stat().st_mtime_ns


def test_an_entry_that_cannot_be_looked_at_is_listed(files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def stat(self, name: str, **keywords: object) -> os.stat_result:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(posix_files, "os", Broken())
    listed = files.listing(("folder",))
    assert {entry.kind for entry in listed} == {EntryKind.OTHER}
    assert {entry.problem for entry in listed} == {"Input/output error"}


def test_entries_that_are_not_there(files: PosixVolumeFiles) -> None:
    assert files.entry(("nothing",)) is None
    assert files.entry(("nothing", "below")) is None
    assert files.entry(("folder", "file", "below")) is None
    found = files.entry(("folder", "dangling"))
    assert found is not None
    assert found.kind is EntryKind.LINK
    with pytest.raises(IsADirectoryError):
        files.entry(())


@pytest.mark.parametrize("path", [("link", "secret"), ("link",), ("file-link", "x")])
def test_links_are_never_gone_through(files: PosixVolumeFiles, path: VolumePath, tmp_path: Path) -> None:
    for operation in (
        lambda: files.listing(path),
        lambda: files.open_file((*path, "x")),
        lambda: files.make_directory((*path, "x")),
        lambda: files.write_file((*path, "x"), b""),
        lambda: files.remove((*path, "x")),
        lambda: files.rename(("folder", "file"), (*path, "x")),
        lambda: files.rename((*path, "x"), ("folder", "y")),
        lambda: files.entry((*path, "x")),
    ):
        with pytest.raises(ReparsePointInPath):
            operation()
    assert not files.is_protected(path)
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["secret"]


def test_only_ordinary_files_are_opened(files: PosixVolumeFiles) -> None:
    with files.open_file(("folder", "file")) as stream:
        assert stream.read() == b"content"
    with pytest.raises(ReparsePointInPath):
        files.open_file(("file-link",))
    for path in (("pipe",), ("folder",)):
        with pytest.raises(OSError, match="no ordinary file"):
            files.open_file(path)
    with pytest.raises(FileNotFoundError):
        files.open_file(("folder", "nothing"))
    with pytest.raises(IsADirectoryError):
        files.open_file(())


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0b"])
def test_names_that_are_no_names(files: PosixVolumeFiles, name: str) -> None:
    for path in ((name,), ("folder", name), (name, "file")):
        with pytest.raises(OSError, match="is no name"):
            files.open_file(path)
        with pytest.raises(OSError, match="is no name"):
            files.write_file(path, b"")


def test_a_mount_point_counts_as_a_link(files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherDevice:
        """Shows `folder` on another device, as a file system mounted there would be."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def stat(self, name: str, **keywords: int) -> os.stat_result:
            found = os.stat(name, dir_fd=keywords["dir_fd"], follow_symlinks=False)
            return os.stat_result((*found[:2], found.st_dev + (name == "folder"), *found[3:]))

        def fstat(self, descriptor: int) -> os.stat_result:
            found = os.fstat(descriptor)
            inside = Path(f"/proc/self/fd/{descriptor}").readlink().name == "folder"
            return os.stat_result((*found[:2], found.st_dev + inside, *found[3:]))

    monkeypatch.setattr(posix_files, "os", OtherDevice())
    assert {entry.name: entry.kind for entry in files.listing(())}["folder"] is EntryKind.LINK
    with pytest.raises(ReparsePointInPath):
        files.open_file(("folder", "file"))


def test_folders_are_made_for_nobody_else(files: PosixVolumeFiles, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files.make_directory(("folder", "new"))
    finally:
        os.umask(old)
    assert (tmp_path / "volume/folder/new").stat().st_mode & 0o777 == 0o700
    assert files.is_protected(("folder", "new"))
    (tmp_path / "volume/folder/new").chmod(0o750)
    assert not files.is_protected(("folder", "new"))
    assert not files.is_protected(("folder", "file"))
    assert not files.is_protected(("folder", "nothing"))
    with pytest.raises(FileExistsError):
        files.make_directory(("folder", "new"))
    with pytest.raises(FileNotFoundError):
        files.make_directory(("nothing", "new"))


def test_a_folder_of_another_user_is_not_protected(files: PosixVolumeFiles, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    files.make_directory(("theirs",))
    os.chown(tmp_path / "volume" / "theirs", 12345, 12345)
    assert not files.is_protected(("theirs",))


class AclOs:
    """`os` on a file system with ntfs-3g's attribute, kept in a dictionary here; `refuses` says how it fails."""

    def __init__(self, refuses: str = "") -> None:
        self.kept: dict[int, bytes] = {}
        self.refuses = refuses

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def getxattr(self, descriptor: int, name: str) -> bytes:
        assert name == "system.ntfs_acl"
        return self.kept.get(os.fstat(descriptor).st_ino, b"default")

    def setxattr(self, descriptor: int, name: str, value: bytes) -> None:
        if self.refuses == "loudly":
            raise OSError(28, "No space left on device")
        if not self.refuses:
            self.kept[os.fstat(descriptor).st_ino] = value


def test_the_acl_is_set_before_anything_is_written(files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = AclOs()
    monkeypatch.setattr(posix_files, "os", fake)
    assert not files.is_protected(("folder",))
    files.make_directory(("folder", "new"))
    files.write_file(("folder", "new", "receipt.json"), b"{}")
    assert files.is_protected(("folder", "new"))
    assert set(fake.kept.values()) == {protected_descriptor(directory=True), protected_descriptor(directory=False)}


@pytest.mark.parametrize("refuses", ["loudly", "silently"])
def test_what_cannot_be_protected_is_not_left(
    files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    monkeypatch.setattr(posix_files, "os", AclOs(refuses))
    before = files.listing(("folder",))
    with pytest.raises(OSError, match=r"access list|No space"):
        files.make_directory(("folder", "new"))
    with pytest.raises(OSError, match=r"access list|No space"):
        files.write_file(("folder", "new"), b"x")
    assert [entry.name for entry in files.listing(("folder",))] == [entry.name for entry in before]


def test_an_unreadable_acl_is_no_protection(files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable(AclOs):
        def getxattr(self, descriptor: int, name: str) -> bytes:
            raise OSError(5, "Input/output error")

    files.make_directory(("new",))
    assert files.is_protected(("new",))
    monkeypatch.setattr(posix_files, "os", Unreadable())
    assert not files.is_protected(("new",))


@pytest.mark.parametrize("kind", ["ntfs3", "ntfs", "fuseblk", "fuse", "fuse.ntfs-3g", "9p", ""])
def test_ntfs_without_access_lists_protects_nothing(
    files: PosixVolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A planted store looks like root's own with mode 0700 on such a mount."""
    files.make_directory(("planted",))
    assert files.is_protected(("planted",))
    claim_file_system(tmp_path / "proc", kind, monkeypatch)
    assert not files.is_protected(("planted",))
    with pytest.raises(OSError, match="mount it with ntfs-3g"):
        files.make_directory(("new",))
    with pytest.raises(OSError, match="mount it with ntfs-3g"):
        files.write_file(("folder", "receipt.json"), b"x")
    assert files.entry(("new",)) is None
    assert [entry.name for entry in files.listing(("folder",))] == ["dangling", "file", "inner"]


def test_a_kernel_that_says_nothing(files: PosixVolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.make_directory(("planted",))
    monkeypatch.setattr(posix_files, "_PROC", tmp_path / "nothing")
    assert not files.is_protected(("planted",))
    claim_file_system(tmp_path / "proc", "ext4", monkeypatch)
    assert files.is_protected(("planted",))
    (tmp_path / "proc" / "mountinfo").write_text("2 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n")
    assert not files.is_protected(("planted",))


@pytest.mark.parametrize("kind", ["vfat", "exfat", "msdos"])
def test_fat_takes_receipts_and_protects_nothing(
    files: PosixVolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    claim_file_system(tmp_path / "proc", kind, monkeypatch)
    files.make_directory(("Bluelift",))
    files.write_file(("Bluelift", "receipt.json"), b"{}")
    assert not files.is_protected(("Bluelift",))


def test_files_are_written_whole_or_not_at_all(
    files: PosixVolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_file(("folder", "receipt.json"), b"one")
    files.write_file(("folder", "receipt.json"), b"two" * 100_000)
    path = tmp_path / "volume" / "folder" / "receipt.json"
    assert path.read_bytes() == b"two" * 100_000
    assert path.stat().st_mode & 0o777 == 0o600
    (path.parent / ".receipt.json.new").write_text("left by a power cut")
    files.write_file(("folder", "receipt.json"), b"three")
    assert path.read_bytes() == b"three"

    class Full(AclOs):
        def getxattr(self, descriptor: int, name: str) -> bytes:
            return os.getxattr(descriptor, name)

        def write(self, descriptor: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(posix_files, "os", Full())
    with pytest.raises(OSError, match="No space"):
        files.write_file(("folder", "receipt.json"), b"four")
    assert path.read_bytes() == b"three"
    assert not (path.parent / ".receipt.json.new").exists()


def test_special_files_are_not_written_over(files: PosixVolumeFiles, tmp_path: Path) -> None:
    with pytest.raises(ReparsePointInPath):
        files.write_file(("file-link",), b"x")
    for path in (("pipe",), ("folder",)):
        with pytest.raises(OSError, match="no ordinary file"):
            files.write_file(path, b"x")
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("destination", [("link",), ("folder", "inner"), ("folder", "dangling"), ("pipe",)])
def test_a_rename_never_overwrites(files: PosixVolumeFiles, destination: VolumePath) -> None:
    with pytest.raises(FileExistsError):
        files.rename(("folder", "file"), destination)
    assert files.entry(("folder", "file")) is not None


def test_only_files_are_renamed(files: PosixVolumeFiles) -> None:
    files.rename(("folder", "file"), ("folder", "inner", "moved"))
    assert files.entry(("folder", "file")) is None
    moved = files.entry(("folder", "inner", "moved"))
    assert isinstance(moved, Entry)
    assert moved.size == 7
    with pytest.raises(ReparsePointInPath):
        files.rename(("file-link",), ("x",))
    with pytest.raises(OSError, match="no ordinary file"):
        files.rename(("folder",), ("x",))
    with pytest.raises(FileNotFoundError):
        files.rename(("nothing",), ("x",))


def test_removing_takes_one_name_away(files: PosixVolumeFiles) -> None:
    files.remove(("folder", "file"))
    assert files.entry(("folder", "file")) is None
    with pytest.raises(OSError, match=r"directory|permitted"):
        files.remove(("folder", "inner"))
    with pytest.raises(FileNotFoundError):
        files.remove(("folder", "file"))


def test_file_systems_without_fsync_for_folders(files: PosixVolumeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoFsync(AclOs):
        def __init__(self, error: int) -> None:
            super().__init__()
            self.error = error

        def getxattr(self, descriptor: int, name: str) -> bytes:
            return os.getxattr(descriptor, name)

        def fsync(self, descriptor: int) -> None:
            raise OSError(self.error, os.strerror(self.error))

    monkeypatch.setattr(posix_files, "os", NoFsync(22))
    files.remove(("folder", "file"))
    monkeypatch.setattr(posix_files, "os", NoFsync(5))
    with pytest.raises(OSError, match="Input/output"):
        files.make_directory(("new",))
    assert files.entry(("new",)) is None
