"""Broken disks, read by other programs; and the comparison of what was read back, fed with every kind of damage."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.verify.disks import (
    BrokenDisk,
    DiskPlan,
    Mark,
    copy_disk,
    extract_partition,
    first_difference,
    make_disk,
)
from builder.verify.ntfs_volume import NtfsPatcher
from builder.verify.readback import (
    STORE,
    Difference,
    SeenFile,
    SeenVolume,
    compare_volume,
    parse_listing,
    parse_metadata,
    read_volume,
)
from builder.verify.windows_tree import (
    COMPUTER_NAME,
    Fate,
    Tree,
    TreeFile,
    broken_windows,
    clean_windows,
    faulty_only_windows,
)
from payload.contract import FileClass
from payload.formats.regf import Hive

NO_NTFSCK = ("true",)
RUN = "20260719-0900-abcdef"


def missing_programs(*names: str) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return ", ".join(name for name in names if shutil.which(name, path=path) is None)


needs_ntfs = pytest.mark.skipif(
    bool(missing_programs("mkntfs", "ntfs-3g", "ntfsls", "unshare")) or not Path("/dev/fuse").exists(),
    reason=f"not here: {missing_programs('mkntfs', 'ntfs-3g', 'ntfsls', 'unshare') or '/dev/fuse'}",
)


def tool(*argv: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    result = subprocess.run([str(word) for word in argv], capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode in ok, result.stdout + result.stderr
    return result.stdout


# --- the tree --------------------------------------------------------------------------------------------------------


def test_the_tree_is_the_same_every_time_and_names_every_fate() -> None:
    assert broken_windows() == broken_windows()
    fates = {
        file.path.rpartition("\\")[2]: file.fate for file in broken_windows().files if "CrowdStrike\\" in file.path
    }
    assert fates["C-00000291-00000000-00000099.sys"] is Fate.KEPT  # a driver
    assert fates["C-00000291-00000000-00000033.sys"] is Fate.QUARANTINED  # corrected, but not alone
    assert fates["CSAgent.sys"] is Fate.KEPT
    assert sum(file.fate is Fate.QUARANTINED for file in broken_windows().files) == 15
    assert all(file.fate is Fate.KEPT for file in clean_windows().files)


def test_quarantined_contents_differ_from_each_other() -> None:
    digests = [file.sha256 for file in broken_windows().files if file.fate is Fate.QUARANTINED]
    assert len(set(digests)) == len(digests)


def test_channel_headers_are_what_facts_say() -> None:
    first = next(f for f in broken_windows().files if f.fate is Fate.QUARANTINED and f.path.endswith("00000032.sys"))
    assert first.content[:8] == bytes.fromhex("AAAAAAAA01002301")
    assert int.from_bytes(first.content[0x10:0x14], "little") == 32


def test_the_hives_can_be_read_by_the_payload_and_by_hivex(tmp_path: Path) -> None:
    system = next(file.content for file in broken_windows().files if file.path == "Windows\\System32\\config\\SYSTEM")
    Hive(system)
    if missing_programs("hivexget"):
        pytest.skip("hivexget is not here")
    path = tmp_path / "SYSTEM"
    path.write_bytes(system)
    assert (
        tool("hivexget", path, "ControlSet001\\Control\\ComputerName\\ComputerName", "ComputerName").strip()
        == COMPUTER_NAME
    )


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> BrokenDisk:
    return make_disk(DiskPlan(tree=broken_windows()), tmp_path_factory.mktemp("disk") / "disk.raw")


@pytest.mark.mounts
@needs_ntfs
def test_the_disk_holds_exactly_the_tree(disk: BrokenDisk, tmp_path: Path) -> None:
    seen = read_volume(extract_partition(disk.path, disk.windows, tmp_path / "w.ntfs"), ntfsck=NO_NTFSCK)
    assert compare_volume(disk.plan.tree.all_kept(), seen, seen) == ()
    names = sum(1 + len(file.hard_links) for file in disk.plan.tree.files)
    assert sum(file.kind == "file" for file in seen.files) == names
    assert {file.path for file in seen.files if file.kind == "link"} == {path for path, _ in disk.plan.tree.junctions}
    assert not seen.dirty
    faulty = seen.file("Windows\\System32\\drivers\\CrowdStrike\\C-00000291-00000000-00000032.sys")
    assert faulty is not None
    assert "File Altered Time: Fri Jul 19 04:09:27 2024 UTC" in faulty.metadata
    assert any(line.startswith("stream Zone.Identifier: ") for line in faulty.metadata)


@pytest.mark.mounts
@needs_ntfs
@pytest.mark.skipif(bool(missing_programs("sgdisk")), reason="sgdisk is not here")
def test_sgdisk_finds_no_fault(disk: BrokenDisk) -> None:
    assert "No problems found" in tool("sgdisk", "-v", disk.path)
    table = tool("sgdisk", "-p", disk.path)
    assert [line.split()[5] for line in table.splitlines() if line[:4].strip().isdigit()] == [
        "EF00",
        "0C01",
        "0700",
        "2700",
    ]


@pytest.mark.mounts
@needs_ntfs
@pytest.mark.skipif(bool(missing_programs("mdir")), reason="mtools are not here")
def test_the_esp_holds_windows_boot_manager(disk: BrokenDisk, tmp_path: Path) -> None:
    esp = extract_partition(disk.path, disk.partition("esp"), tmp_path / "esp")
    assert "::/EFI/Microsoft/Boot/bootmgfw.efi" in tool("mdir", "-b", "-/", "-i", esp)


@pytest.mark.mounts
@needs_ntfs
def test_a_copy_is_equal_and_as_sparse(disk: BrokenDisk, tmp_path: Path) -> None:
    copy = copy_disk(disk, tmp_path / "copy.raw")
    assert first_difference(disk.path, copy.path) is None
    assert copy.path.stat().st_blocks <= disk.path.stat().st_blocks + 64


@pytest.mark.mounts
@needs_ntfs
@pytest.mark.parametrize(("mark", "code"), [(Mark.DIRTY_FLAG, 0), (Mark.BROKEN_JOURNAL, 15)])
def test_marks_are_seen_by_ntfs_3g(tmp_path: Path, mark: Mark, code: int) -> None:
    made = make_disk(DiskPlan(tree=faulty_only_windows(), marks=(mark,)), tmp_path / "disk.raw")
    volume = extract_partition(made.path, made.windows, tmp_path / "w.ntfs")
    tool("ntfs-3g.probe", "--readwrite", volume, ok=(code,))
    with volume.open("rb") as stream:
        assert NtfsPatcher(stream).dirty is (mark is Mark.DIRTY_FLAG)


@pytest.mark.mounts
@needs_ntfs
def test_a_hibernated_volume_is_seen_by_ntfs_3g(tmp_path: Path) -> None:
    hibernated = TreeFile(
        path="hiberfil.sys", content=b"HIBR" + bytes(8000), modified=broken_windows().files[0].modified
    )
    made = make_disk(DiskPlan(tree=faulty_only_windows().with_files(hibernated)), tmp_path / "disk.raw")
    tool("ntfs-3g.probe", "--readwrite", extract_partition(made.path, made.windows, tmp_path / "w.ntfs"), ok=(14,))


@pytest.mark.mounts
@needs_ntfs
def test_a_raid_member_has_its_signature_two_sectors_before_the_end(tmp_path: Path) -> None:
    made = make_disk(DiskPlan(tree=faulty_only_windows(), marks=(Mark.RAID_MEMBER,)), tmp_path / "disk.raw")
    with made.path.open("rb") as stream:
        stream.seek(-1024, os.SEEK_END)
        assert stream.read(24) == b"Intel Raid ISM Cfg Sig. "


def test_no_ntfs_is_not_patched(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as stream, pytest.raises(ValueError, match="no NTFS boot sector"):
        NtfsPatcher(stream)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_the_first_difference_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, draw: st.DataObject
) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    folder = tmp_path_factory.mktemp("pair")
    (folder / "a").write_bytes(data)
    (folder / "b").write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    assert first_difference(folder / "a", folder / "a") is None
    assert first_difference(folder / "a", folder / "b") == at
    (folder / "b").write_bytes(data[:at])
    assert first_difference(folder / "a", folder / "b") == at


# --- comparing -------------------------------------------------------------------------------------------------------


def seen_file(path: str, content: bytes, *, metadata: tuple[str, ...] = ("File Altered Time: then",)) -> SeenFile:
    digest = hashlib.sha256(content).hexdigest()
    return SeenFile(path=path, kind="file", size=len(content), sha256=digest, metadata=metadata)


def before_of(tree: Tree) -> SeenVolume:
    files = [seen_file(path, file.content) for file in tree.files for path in (file.path, *file.hard_links)]
    links = [
        SeenFile(path=path, kind="link", size=0, sha256="", metadata=("REPARSE_POINT",)) for path, _ in tree.junctions
    ]
    return SeenVolume(files=(*files, *links), directories=("Windows", "ProgramData"), dirty=False, ntfsck="")


def repaired(tree: Tree) -> SeenVolume:
    gone = {file.path for file in tree.files if file.fate is Fate.QUARANTINED}
    before = before_of(tree)
    files = [
        replace(file, path=f"{STORE}\\quarantine\\{RUN}\\files\\{file.path}") if file.path in gone else file
        for file in before.files
    ]
    own = [seen_file(f"{STORE}\\quarantine\\{RUN}\\{name}", b"{}") for name in ("journal.json", "receipt.json")]
    return replace(before, files=(*files, *own), directories=(*before.directories, STORE, f"{STORE}\\quarantine"))


def differences(change: Callable[[SeenVolume], SeenVolume]) -> tuple[Difference, ...]:
    tree = broken_windows()
    return compare_volume(tree, before_of(tree), change(repaired(tree)))


def changed(volume: SeenVolume, which: str, /, **fields: object) -> SeenVolume:
    assert volume.file(which) is not None
    return replace(volume, files=tuple(replace(f, **fields) if f.path == which else f for f in volume.files))  # type: ignore[arg-type]


KERNEL = "Windows\\System32\\ntoskrnl.exe"
KERNEL_LINK = "Windows\\WinSxS\\amd64_microsoft-windows-os-kernel_31bf3856ad364e35\\ntoskrnl.exe"
BAD = "Windows\\System32\\drivers\\CrowdStrike\\C-00000291-00000000-00000032.sys"
HELD = f"{STORE}\\quarantine\\{RUN}\\files\\{BAD}"


def test_a_right_repair_has_no_difference() -> None:
    assert differences(lambda volume: volume) == ()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda v: changed(v, KERNEL, sha256="0" * 64), KERNEL),
        (lambda v: changed(v, KERNEL, metadata=("File Altered Time: now",)), KERNEL),
        (lambda v: replace(v, files=tuple(f for f in v.files if f.path != KERNEL_LINK)), KERNEL_LINK),
        (lambda v: replace(v, files=(*v.files, seen_file("Windows\\new.exe", b"MZ"))), "Windows\\new.exe"),
        (lambda v: replace(v, files=(*v.files, seen_file(f"{STORE}\\x.exe", b"MZ"))), f"{STORE}\\x.exe"),
        (lambda v: replace(v, files=(*v.files, seen_file("receipt.json", b""))), "receipt.json"),
        (lambda v: replace(v, files=tuple(f for f in v.files if f.path != HELD)), BAD),
        (lambda v: changed(v, HELD, sha256="0" * 64), BAD),
        (lambda v: changed(v, HELD, metadata=("File Altered Time: now",)), HELD),
        (lambda v: changed(v, HELD, path=BAD), BAD),
        (lambda v: changed(v, HELD, path=f"{STORE}\\quarantine\\{RUN}\\files\\lost.sys"), BAD),
        (lambda v: changed(v, "Documents and Settings", kind="file"), "Documents and Settings"),
        (lambda v: replace(v, directories=("ProgramData", STORE)), "Windows"),
        (lambda v: replace(v, directories=(*v.directories, "Windows\\Temp2")), "Windows\\Temp2"),
    ],
)  # fmt: skip
def test_every_kind_of_damage_is_named(change: Callable[[SeenVolume], SeenVolume], path: str) -> None:
    found = differences(change)
    assert path in {difference.path for difference in found}
    assert all(difference.expected and difference.seen for difference in found)


def test_a_file_in_quarantine_twice_is_named() -> None:
    other = f"{STORE}\\quarantine\\another-run\\files\\{BAD}"
    found = differences(lambda v: replace(v, files=(*v.files, replace(v.file(HELD) or v.files[0], path=other))))
    assert [(d.path, d.seen) for d in found] == [(BAD, "2 times there")]


FOUND = f"lost+found\\{BAD.rpartition(chr(92))[2]}"


def after_a_cut(change: Callable[[SeenVolume], SeenVolume]) -> list[str]:
    tree = broken_windows()
    return [d.path for d in compare_volume(tree, before_of(tree), change(repaired(tree)), after_repair=True)]


def test_after_a_power_cut_contents_and_names_count() -> None:
    assert after_a_cut(lambda v: changed(v, HELD, metadata=("File Altered Time: now",))) == []
    assert after_a_cut(lambda v: replace(v, directories=(*v.directories, "lost+found"))) == []
    assert after_a_cut(lambda v: changed(v, HELD, path=FOUND)) == []
    assert after_a_cut(lambda v: replace(v, directories=(*v.directories, "lost+found\\Bluelift"))) == []
    assert after_a_cut(lambda v: replace(v, files=(*v.files, seen_file(FOUND, b"")))) == []
    assert after_a_cut(lambda v: changed(v, HELD, path=HELD.replace(STORE, f"{STORE}.1"))) == []
    assert after_a_cut(lambda v: changed(v, HELD, path=HELD.replace(STORE, f"{STORE}.10"))) != []
    assert after_a_cut(lambda v: changed(v, HELD, sha256="0" * 64)) != []
    assert BAD in after_a_cut(lambda v: replace(v, files=tuple(f for f in v.files if f.path != HELD)))


def test_after_a_power_cut_doubles_count() -> None:
    def doubled(volume: SeenVolume, path: str) -> SeenVolume:
        held = volume.file(HELD)
        assert held is not None
        return replace(volume, files=(*volume.files, replace(held, path=path)))

    assert BAD in after_a_cut(lambda v: doubled(v, FOUND))
    assert BAD in after_a_cut(lambda v: doubled(v, BAD))
    assert BAD in after_a_cut(lambda v: doubled(v, HELD.replace(STORE, f"{STORE}.1")))
    assert "lost+found\\other" in after_a_cut(
        lambda v: replace(v, files=(*v.files, seen_file("lost+found\\other", b"x")))
    )


def test_ntfsls_output_is_understood() -> None:
    text = """/:
     100 Nov 20 12:41 2026 boot: mgr/x
       0 Nov  2 12:41 2026 Windows/

/Windows/:
       0 Nov 20 12:41 2026 ./
       0 Nov 20 12:41 2026 ..
     300 Nov 20 12:41 2026  two  spaces .dat
"""
    files, folders = parse_listing(text)
    assert files == [("boot: mgr/x", 100), ("Windows\\ two  spaces .dat", 300)]
    assert folders == ("Windows",)


@given(st.text())
def test_what_tools_print_never_raises(text: str) -> None:
    parse_listing(text)
    parse_metadata(text)


def test_the_classes_of_the_issue_are_all_on_the_disk() -> None:
    """The tree's own list of classes, by construction of the names; a new class must get a file."""
    covered = {"faulty", "corrected", "older", "zero-filled", "truncated", "foreign", "name-mismatch", "other"}
    assert {member.value for member in FileClass} == covered
