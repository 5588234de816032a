"""ntfs-3g on real volumes on loop devices: looking writes nothing, changing flags, closing clears."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from payload.contract import HibernatedVolumes
from payload.environment import OnlyForChanges, VolumeNotOpened, VolumeState
from payload.environment import linux_ntfs as ntfs_module
from payload.environment.linux_mirror import journal_is_newer
from payload.environment.linux_ntfs import (
    maybe_hibernated,
    mounted_for_changes,
    mounted_to_look,
    ntfs_label,
    ntfs_state,
)
from payload.formats.ntfs import mirror_patches, parse_boot_sector, read_volume_information, write_dirty_flag
from tests.payload.linux_fakes import FakeMachine, can_mount, make_ntfs

_WHY_NOT = can_mount()
pytestmark = [pytest.mark.mounts, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)]
LEAVE, DISCARD = HibernatedVolumes.LEAVE, HibernatedVolumes.DISCARD


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(root=tmp_path, programs=tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{machine.programs}{os.pathsep}{os.environ['PATH']}")
    return machine


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_ntfs(tmp_path / "image")


@contextlib.contextmanager
def as_device(image: Path) -> Iterator[Path]:
    """An image as a block device."""
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def node(image: Path) -> Iterator[Path]:
    """A clean volume as a block device."""
    with as_device(image) as device:
        yield device


def set_dirty(image: Path) -> None:
    with image.open("r+b") as stream:
        write_dirty_flag(stream, dirty=True)


def is_dirty(image: Path) -> bool:
    with image.open("rb") as stream:
        return read_volume_information(stream).dirty


def set_hibernated(image: Path) -> None:
    folder = image.parent / "hibernating"
    folder.mkdir()
    subprocess.run(["ntfs-3g", str(image), str(folder)], check=True)
    (folder / "hiberfil.sys").write_bytes(b"HIBR" + bytes(8192))
    subprocess.run(["umount", str(folder)], check=True)


def set_unclean(image: Path, *, version: int = 1, replayable: bool = True) -> None:
    """What a Windows that stopped leaves in $LogFile: restart pages in use, one checkpoint (linux-ntfs, $LogFile).

    Version 1 is what Windows up to 7 writes (1.1), version 2 what 8 and later do while they run (2.0). Without the
    checkpoint ntfsrecover finds nothing to start from.
    """
    with image.open("r+b") as stream:
        offset, size = _log_file(stream.read(512), image)
        lsn = 5 << (size.bit_length() - 4) | (2 * 4096 + 64) >> 3
        area = struct.pack("<QHHHHIHHqIHHII", lsn, 1, 0xFFFF, 0, 0, 67 - size.bit_length(), 0xD0, 0x30, size, 0x68, 0x30, 0x40, 0, 0)  # fmt: skip  # noqa: E501
        client = struct.pack("<QQHHH6sI", lsn, lsn, 0xFFFF, 0xFFFF, 0, b"", 8) + "NTFS".encode("utf-16-le")
        header = struct.pack("<4sHHQIIHHH", b"RSTR", 30, 9, 0, 4096, 4096, 48, 2 - version, version)
        restart = _protected(header.ljust(48, b"\0") + area + client, 30)
        checkpoint = struct.pack("<QQQIHHIIH6sHHHH", lsn, 0, 0, 0x68, 0, 0, 2, 0, 0, b"", 0, 0, 0, 0)
        pages = [restart, restart]
        if replayable:
            pages += [_record_page(end, checkpoint) for end in (lsn, lsn - 16)]
            pages += [_record_page(1, b"", torn=True)] * (size // 4096 - 4)
        stream.seek(offset)
        stream.write(b"".join(pages))


def _record_page(last_end_lsn: int, record: bytes, *, torn: bool = False) -> bytes:
    end = 64 + 48 + 0x68
    header = struct.pack("<4sHHQIHHH6sQ", b"RCRD", 40, 9, 4 * 4096, 1, 1, 1, end, b"", last_end_lsn)
    page = _protected(header.ljust(64, b"\0") + record, 40)
    return page[:510] + b"zz" + page[512:] if torn else page


def _protected(page: bytes, array: int) -> bytes:
    """A page of 4096 bytes with update sequence number 1."""
    data = bytearray(page.ljust(4096, b"\0"))
    data[array : array + 2] = b"\1\0"
    for i in range(8):
        end = (i + 1) * 512 - 2
        data[array + 2 + 2 * i : array + 4 + 2 * i] = data[end : end + 2]
        data[end : end + 2] = b"\1\0"
    return bytes(data)


def _log_file(boot: bytes, image: Path) -> tuple[int, int]:
    """(offset, size) of $LogFile: record 2's unnamed data, one run."""
    geometry = parse_boot_sector(boot)
    with image.open("rb") as stream:
        stream.seek(geometry.mft_offset + 2 * geometry.record_size)
        record = stream.read(geometry.record_size)
    (at,) = struct.unpack_from("<H", record, 20)
    while struct.unpack_from("<I", record, at)[0] != 0x80:
        at += struct.unpack_from("<I", record, at + 4)[0]
    run = at + struct.unpack_from("<H", record, at + 32)[0]
    lengths, offsets = record[run] & 15, record[run] >> 4
    cluster = int.from_bytes(record[run + 1 + lengths : run + 1 + lengths + offsets], "little")
    return cluster * geometry.cluster_size, struct.unpack_from("<Q", record, at + 48)[0]


def set_crashed(image: Path) -> None:
    """As a Windows 10 that stopped with a blue screen."""
    set_unclean(image, version=2)


def set_asleep(image: Path) -> None:
    """As a Windows 10 with fast startup: the hibernation file and the newer journal."""
    set_hibernated(image)
    set_crashed(image)


MAKE = {
    "clean": lambda image: None,
    "dirty": set_dirty,
    "unclean": set_unclean,
    "crashed": set_crashed,
    "hibernated": set_hibernated,
    "asleep": set_asleep,
}


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("clean", VolumeState.READY),
        ("dirty", VolumeState.READY),
        ("unclean", VolumeState.UNCLEAN),
        ("crashed", VolumeState.UNCLEAN),
        ("asleep", VolumeState.HIBERNATED),
        ("hibernated", VolumeState.HIBERNATED),
    ],
)
def test_looking_writes_not_one_byte(machine: FakeMachine, image: Path, kind: str, state: VolumeState) -> None:
    with image.open("r+b") as stream:
        stream.flush()
    MAKE[kind](image)
    before = image.read_bytes()
    with as_device(image) as device:
        assert ntfs_state(device).state is state
        assert ntfs_label(device) == "Windows"
        with mounted_to_look(machine.paths, device) as mounted:
            assert not mounted.writable
            list(mounted.root.iterdir())
            with pytest.raises(OSError, match="Read-only"):
                (mounted.root / "x").write_text("x")
        assert mounted.notes == []
    assert image.read_bytes() == before


def set_torn(image: Path) -> bytes:
    """As a power cut between the file table's first record and its mirror leaves it; what the volume is then."""
    set_dirty(image)
    boot = parse_boot_sector(image.read_bytes()[:512])
    with image.open("r+b") as stream:
        stream.seek(boot.mft_offset + 8)  # the record's LSN, which ntfs-3g does not look at
        stream.write(b"\x12\x34")
    return image.read_bytes()


def test_a_mirror_that_a_power_cut_left_behind(machine: FakeMachine, image: Path) -> None:
    """ntfs-3g mounts such a volume no more: nobody looks at it before it is opened for changes."""
    before = set_torn(image)
    boot = parse_boot_sector(before)
    with as_device(image) as device:
        found = ntfs_state(device)
        assert (found.state, found.detail, found.newer_journal) == (
            VolumeState.UNCLEAN,
            "The power went while this volume was being changed.",
            False,
        )
        with pytest.raises(OnlyForChanges, match="before anybody can look"), mounted_to_look(machine.paths, device):
            pass
        assert image.read_bytes() == before, "looking writes not one byte"
        with mounted_for_changes(machine.paths, device, LEAVE) as mounted:
            (mounted.root / "new").write_text("new")
            assert mounted.notes[0].startswith("The mirror of the volume's file table was renewed")
        assert ntfs_state(device).state is VolumeState.READY
        with mounted_to_look(machine.paths, device) as mounted:
            assert (mounted.root / "new").read_text() == "new"
            assert mounted.notes == []
        with mounted_for_changes(machine.paths, device, LEAVE) as mounted:
            assert all("mirror" not in note for note in mounted.notes)
        assert is_dirty(device)  # so that Windows checks it
    size = boot.record_size
    mended = bytearray(before)
    mended[boot.mirror_offset : boot.mirror_offset + size] = before[boot.mft_offset : boot.mft_offset + size]
    assert mirror_patches(io.BytesIO(bytes(mended))) == []


@pytest.mark.parametrize("kind", ["hibernated", "asleep", "crashed"])
def test_a_mirror_left_behind_on_what_is_left_alone(machine: FakeMachine, image: Path, kind: str) -> None:
    """Whether a Windows is hibernated shows only once the mirror is well; then it is put back as it was."""
    MAKE[kind](image)
    before = set_torn(image)
    with as_device(image) as device:
        found = ntfs_state(device)
        assert (found.state, found.newer_journal) == (VolumeState.UNCLEAN, kind != "hibernated")
        assert maybe_hibernated(found).state is (
            VolumeState.UNCLEAN if kind == "hibernated" else VolumeState.HIBERNATED
        )
        with pytest.raises(VolumeNotOpened) as failure, mounted_for_changes(machine.paths, device, LEAVE):
            pass
    assert failure.value.state is VolumeState.HIBERNATED
    assert image.read_bytes() == before


def test_a_disk_that_takes_no_mirror(machine: FakeMachine, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set_torn(image)

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(VolumeNotOpened) as failure, mounted_for_changes(machine.paths, image, LEAVE):
        pass
    assert not isinstance(failure.value, OnlyForChanges)
    boot, after = parse_boot_sector(before), image.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    assert all(boot.mirror_offset <= at < boot.mirror_offset + boot.record_size for at in changed)


def test_no_journal_to_look_at_may_be_a_newer_one(image: Path, tmp_path: Path) -> None:
    assert not journal_is_newer(image)
    set_crashed(image)
    assert journal_is_newer(image)
    assert journal_is_newer(tmp_path / "gone")
    (tmp_path / "noise").write_bytes(b"\xff" * 8192)
    assert journal_is_newer(tmp_path / "noise")


def test_changing_a_clean_volume(machine: FakeMachine, image: Path, node: Path) -> None:
    with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
        assert mounted.writable
        assert is_dirty(node)
        (mounted.root / "new").write_text("new")
        options = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(mounted.root) in line)
        assert "fuseblk" in options
        assert {"rw", "sync", "noatime"} <= set(options.split()[3].split(","))
    assert mounted.notes == []
    assert not mounted.root.exists()
    assert not is_dirty(node)
    with mounted_to_look(machine.paths, node) as again:
        assert (again.root / "new").read_text() == "new"


def test_names_are_case_sensitive_here(machine: FakeMachine, node: Path) -> None:
    with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
        (mounted.root / "Windows").mkdir()
        assert not (mounted.root / "windows").exists()


def test_a_volume_that_came_flagged_stays_flagged(machine: FakeMachine, image: Path, node: Path) -> None:
    set_dirty(node)
    with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
        assert mounted.notes == []
    assert is_dirty(node)
    assert "chkdsk" in mounted.notes[0]


def test_an_error_inside_still_closes_the_volume(machine: FakeMachine, node: Path) -> None:
    with pytest.raises(OSError, match="full"), mounted_for_changes(machine.paths, node, LEAVE) as mounted:
        raise OSError("full")
    assert not mounted.root.exists()
    assert not is_dirty(node)


def test_hibernated_is_left_alone(machine: FakeMachine, image: Path) -> None:
    set_hibernated(image)
    before = image.read_bytes()
    with (
        pytest.raises(VolumeNotOpened, match="hibernated") as failure,
        mounted_for_changes(machine.paths, image, LEAVE),
    ):
        pass
    assert failure.value.state is VolumeState.HIBERNATED
    assert "Restart" in failure.value.advice
    assert image.read_bytes() == before


@pytest.mark.parametrize("kind", ["hibernated", "asleep"])
def test_hibernated_is_discarded_where_the_profile_says_so(machine: FakeMachine, image: Path, kind: str) -> None:
    MAKE[kind](image)
    with as_device(image) as device, mounted_for_changes(machine.paths, device, DISCARD) as mounted:
        assert not (mounted.root / "hiberfil.sys").exists()
    assert "discarded" in mounted.notes[0]
    assert "chkdsk" in mounted.notes[1]
    assert is_dirty(image)
    assert ntfs_state(image).state is VolumeState.READY


def test_a_journal_that_cannot_be_replayed(machine: FakeMachine, image: Path) -> None:
    set_unclean(image, replayable=False)
    before = image.read_bytes()
    with (
        pytest.raises(VolumeNotOpened, match="journal could not be replayed") as failure,
        mounted_for_changes(machine.paths, image, LEAVE),
    ):
        pass
    assert failure.value.state is VolumeState.UNCLEAN
    assert "chkdsk" in failure.value.advice
    assert image.read_bytes() == before


@pytest.mark.parametrize("kind", ["unclean", "crashed"])
def test_a_journal_is_replayed_by_the_real_ntfsrecover(machine: FakeMachine, image: Path, kind: str) -> None:
    MAKE[kind](image)
    with as_device(image) as device:
        with mounted_for_changes(machine.paths, device, LEAVE, crashed=True) as mounted:
            (mounted.root / "new").write_text("new")
        assert "replayed" in mounted.notes[0]
        assert "chkdsk" in mounted.notes[1]
        assert ntfs_state(device).state is VolumeState.READY
        with mounted_to_look(machine.paths, device) as again:
            assert (again.root / "new").read_text() == "new"
    assert is_dirty(image)


def test_a_newer_journal_is_left_alone_where_windows_may_be_hibernated(machine: FakeMachine, image: Path) -> None:
    set_crashed(image)
    before = image.read_bytes()
    with pytest.raises(VolumeNotOpened) as failure, mounted_for_changes(machine.paths, image, LEAVE):
        pass
    assert failure.value.state is VolumeState.HIBERNATED
    assert image.read_bytes() == before


def test_an_image_file_is_not_fuseblk_so_it_is_not_trusted(machine: FakeMachine, image: Path) -> None:
    with (
        pytest.raises(VolumeNotOpened, match="only for reading"),
        mounted_for_changes(machine.paths, image, LEAVE),
    ):
        pass
    assert not is_dirty(image)


@pytest.mark.parametrize(
    ("code", "words"), [(12, "valid NTFS"), (13, "fault"), (21, "FUSE"), (99, "exit code 99"), (127, "missing")]
)
def test_probe_results(machine: FakeMachine, node: Path, code: int, words: str) -> None:
    machine.program("ntfs-3g.probe", f"exit {code}")
    state = ntfs_state(node)
    assert state.state is VolumeState.UNREADABLE
    assert words in state.detail
    assert state.advice
    with pytest.raises(VolumeNotOpened), mounted_for_changes(machine.paths, node, LEAVE):
        pass


def test_a_mount_that_fails_takes_the_flag_back(machine: FakeMachine, node: Path) -> None:
    machine.program("ntfs-3g", "echo no; exit 1")
    with pytest.raises(VolumeNotOpened, match="no"), mounted_for_changes(machine.paths, node, LEAVE):
        pass
    assert not is_dirty(node)
    with pytest.raises(VolumeNotOpened), mounted_to_look(machine.paths, node):
        pass


def test_fuse_is_loaded_when_it_is_not_there(machine: FakeMachine, node: Path) -> None:
    (machine.paths.dev / "fuse").unlink()
    machine.program("modprobe", "")
    with mounted_to_look(machine.paths, node):
        pass
    assert machine.calls == ["modprobe fuse"]


def test_a_volume_that_stays_busy_stays_flagged(
    machine: FakeMachine, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ntfs_module, "_UNMOUNT_SECONDS", 1.0)
    with pytest.raises(VolumeNotOpened, match="not have reached"):
        with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
            busy = (mounted.root / "open").open("w")
    try:
        assert "could not be closed" in mounted.notes[0]
        assert is_dirty(node)
    finally:
        busy.close()
        subprocess.run(["umount", str(mounted.root)], check=True)


def test_looking_at_a_volume_that_stays_busy(machine: FakeMachine, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntfs_module, "_UNMOUNT_SECONDS", 1.0)
    with mounted_to_look(machine.paths, node) as mounted:
        busy = os.open(mounted.root, os.O_RDONLY)
    os.close(busy)
    assert "could not be closed" in mounted.notes[0]
    subprocess.run(["umount", str(mounted.root)], check=True)


def test_ntfs_3g_that_died_leaves_the_flag(machine: FakeMachine, node: Path) -> None:
    with pytest.raises(VolumeNotOpened) as failure:
        with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
            (serving,) = _processes_with(node)
            os.kill(serving, signal.SIGKILL)
    assert failure.value.state is VolumeState.UNREADABLE
    assert "Run Bluelift again" in failure.value.advice
    assert is_dirty(node)
    assert "could not be closed cleanly" in mounted.notes[0]


def lose_flushes(monkeypatch: pytest.MonkeyPatch, node: Path, *, working: int) -> None:
    """From now on the first `working` flushes of the device succeed; the disk loses what came before each later one."""
    real, left = os.fsync, [working]

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == node:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_changes_that_the_disk_lost_are_not_called_done(
    machine: FakeMachine, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_flushes(monkeypatch, node, working=1)  # that of the dirty flag
    with pytest.raises(VolumeNotOpened, match="not have reached"):
        with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
            pass
    assert is_dirty(node)
    assert not mounted.root.exists()
    assert "chkdsk" in mounted.notes[0]


def test_an_error_inside_is_not_hidden_by_one_of_closing(
    machine: FakeMachine, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_flushes(monkeypatch, node, working=1)
    with pytest.raises(OSError, match="full"), mounted_for_changes(machine.paths, node, LEAVE):
        raise OSError("full")
    assert is_dirty(node)


def _processes_with(node: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # another program of this machine, which has just ended
        if command[0] == b"ntfs-3g" and str(node).encode() in command:
            found.append(int(entry.name))
    return found


def test_a_volume_that_is_gone(machine: FakeMachine, tmp_path: Path) -> None:
    machine.program("ntfs-3g.probe", "exit 0")
    with pytest.raises(VolumeNotOpened, match="does not accept"):
        with mounted_for_changes(machine.paths, tmp_path / "gone", LEAVE):
            pass
    assert ntfs_label(tmp_path / "gone") == ""


def test_a_damaged_volume_record_is_not_mounted(machine: FakeMachine, image: Path) -> None:
    boot = parse_boot_sector(image.read_bytes()[:512])
    with image.open("r+b") as stream:
        stream.seek(boot.mirror_offset + 3 * boot.record_size)
        stream.write(b"BAAD")
    machine.program("ntfs-3g.probe", "exit 0")
    with pytest.raises(VolumeNotOpened, match="could not be flagged"):
        with mounted_for_changes(machine.paths, image, LEAVE):
            pass


def test_no_folder_to_mount_on(machine: FakeMachine, node: Path) -> None:
    machine.text("run", "a file where the folder should be")
    with pytest.raises(VolumeNotOpened, match="No folder"), mounted_to_look(machine.paths, node):
        pass


def test_without_proc_a_mount_is_not_trusted(machine: FakeMachine, node: Path) -> None:
    (machine.paths.proc / "mounts").unlink()
    with pytest.raises(VolumeNotOpened, match="only for reading"):
        with mounted_for_changes(machine.paths, node, LEAVE):
            pass
    assert not is_dirty(node)
