"""ntfs-3g on real volumes on loop devices: looking writes nothing, changing flags, closing clears."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from payload.contract import HibernatedVolumes
from payload.environment import VolumeNotOpened, VolumeState
from payload.environment import linux_ntfs as ntfs_module
from payload.environment.linux_ntfs import mounted_for_changes, mounted_to_look, ntfs_label, ntfs_state
from payload.formats.ntfs import parse_boot_sector, read_volume_information, write_dirty_flag
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


@pytest.fixture
def node(image: Path) -> Iterator[Path]:
    """The image as a block device. Tests change the image before they ask for it."""
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "-d", device], check=True)


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


def set_unclean(image: Path) -> None:
    """Two restart pages in $LogFile that say that the volume is in use (as prototypes/linux/ntfspatch.py)."""
    with image.open("r+b") as stream:
        offset, size = _log_file(stream.read(512), image)
        page = bytearray(4096)
        struct.pack_into("<4sHHQIIHhh", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, 1, 1)
        struct.pack_into("<QHHHHIHHqIHHII", page, 48, 0x100, 1, 0xFFFF, 0, 0, 64 - (size.bit_length() - 3), 0xD0, 0x30, size, 0, 0x30, 0x40, 0, 0)  # fmt: skip  # noqa: E501
        struct.pack_into("<QQHHH6sI", page, 96, 0x100, 0x100, 0xFFFF, 0xFFFF, 0, b"", 8)
        page[128:136] = "NTFS".encode("utf-16-le")
        page[30:32] = b"\1\0"
        for i in range(8):
            end = (i + 1) * 512 - 2
            page[32 + 2 * i : 34 + 2 * i] = page[end : end + 2]
            page[end : end + 2] = b"\1\0"
        stream.seek(offset)
        stream.write(bytes(page) * 2)


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


MAKE = {"clean": lambda image: None, "dirty": set_dirty, "unclean": set_unclean, "hibernated": set_hibernated}


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("clean", VolumeState.READY),
        ("dirty", VolumeState.READY),
        ("unclean", VolumeState.UNCLEAN),
        ("hibernated", VolumeState.HIBERNATED),
    ],
)
def test_looking_writes_not_one_byte(machine: FakeMachine, image: Path, kind: str, state: VolumeState) -> None:
    with image.open("r+b") as stream:
        stream.flush()
    MAKE[kind](image)
    before = image.read_bytes()
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        assert ntfs_state(Path(device)).state is state
        assert ntfs_label(Path(device)) == "Windows"
        with mounted_to_look(machine.paths, Path(device)) as mounted:
            assert not mounted.writable
            list(mounted.root.iterdir())
            with pytest.raises(OSError, match="Read-only"):
                (mounted.root / "x").write_text("x")
        assert mounted.notes == []
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert image.read_bytes() == before


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


def test_hibernated_is_discarded_where_the_profile_says_so(machine: FakeMachine, image: Path) -> None:
    set_hibernated(image)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with mounted_for_changes(machine.paths, Path(device), DISCARD) as mounted:
            assert not (mounted.root / "hiberfil.sys").exists()
        assert "discarded" in mounted.notes[0]
        assert "chkdsk" in mounted.notes[1]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert is_dirty(image)
    assert ntfs_state(image).state is VolumeState.READY


def test_a_journal_that_cannot_be_replayed(machine: FakeMachine, image: Path) -> None:
    set_unclean(image)
    with (
        pytest.raises(VolumeNotOpened, match="journal could not be replayed") as failure,
        mounted_for_changes(machine.paths, image, LEAVE),
    ):
        pass
    assert failure.value.state is VolumeState.UNCLEAN
    assert "chkdsk" in failure.value.advice
    assert not is_dirty(image)


def test_a_replayed_journal(machine: FakeMachine, image: Path) -> None:
    """A stand-in for ntfsrecover empties the journal: no real unclean journal can be made here."""
    set_unclean(image)
    offset, _ = _log_file(image.read_bytes()[:512], image)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    machine.program("ntfsrecover", f'printf "%8192s" | tr " " "\\377" | dd of="$1" bs=1 seek={offset} conv=notrunc status=none')  # fmt: skip  # noqa: E501
    try:
        with mounted_for_changes(machine.paths, Path(device), LEAVE) as mounted:
            (mounted.root / "new").write_text("new")
        assert machine.calls == [f"ntfsrecover {device}"]
        assert "replayed" in mounted.notes[0]
        assert "chkdsk" in mounted.notes[1]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert is_dirty(image)


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
    with mounted_for_changes(machine.paths, node, LEAVE) as mounted:
        (serving,) = _processes_with(node)
        os.kill(serving, signal.SIGKILL)
    assert is_dirty(node)
    assert "could not be closed cleanly" in mounted.notes[0]


def _processes_with(node: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        command = (entry / "cmdline").read_bytes().split(b"\0")
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
