"""Quarantine and undo on a real NTFS volume through ntfs-3g, read back by other programs after it is unmounted."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from payload.contract import FileClass, FileOutcome, Verdict
from payload.environment import EntryKind, VolumePath, windows_path
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.mft import _offset_of, read_file_record
from payload.formats.ntfs import read_at, read_boot_sector, write_dirty_flag
from payload.formats.security_descriptor import SYSTEM, parse_security_descriptor, protected_descriptor
from payload.repair import repair as repair_volume
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291
from payload.store import StoreRefused, choose_store
from payload.undo import undo
from payload.windows_install import find_installations
from tests.payload.broken_windows import CHANNEL_FILES, CROWDSTRIKE, PowerCut, make_windows, outcomes, repair, snapshot

RULES = (CROWDSTRIKE_CHANNEL_291,)
FAULTY = "C-00000291-00000000-00000032.sys"
IN_PLACE = Path(*CROWDSTRIKE) / FAULTY
ACTED_ON = {name for name, (_, _, kind) in CHANNEL_FILES.items() if kind is not FileClass.FOREIGN}
NEEDED = ("mkntfs", "ntfs-3g", "ntfscat", "ntfsinfo", "ntfssecaudit", "ntfsls", "fusermount3")

pytestmark = pytest.mark.mounts


def tool(name: str) -> str:
    """Where a program is; also in the folders that only root has on its PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def run(*argv: str) -> str:
    done = subprocess.run([tool(argv[0]), *argv[1:]], capture_output=True, text=True, timeout=60, errors="replace")
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


class Ntfs:
    """An NTFS volume in a file."""

    def __init__(self, folder: Path, megabytes: int = 32) -> None:
        self.image = folder / "volume.img"
        self.point = folder / "mounted"
        self.point.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(megabytes << 20)
        run("mkntfs", "-F", "-Q", "-L", "Windows", str(self.image))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        run("ntfs-3g", "-o", "rw,noatime", str(self.image), str(self.point))
        try:
            yield self.point
        finally:
            unmount = ["umount", str(self.point)] if os.geteuid() == 0 else ["fusermount3", "-u", str(self.point)]
            run(*unmount)

    def content(self, path: str) -> bytes:
        """A file's content as ntfscat reads it from the unmounted image."""
        done = subprocess.run([tool("ntfscat"), "-f", str(self.image), path], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def names(self, folder: str) -> set[str]:
        """The names in a folder as ntfsls shows them."""
        return set(run("ntfsls", "-f", "-a", "-p", folder, str(self.image)).split("\n")) - {"", ".", ".."}


@pytest.fixture
def ntfs(tmp_path: Path) -> Ntfs:
    missing = [name for name in NEEDED if not tool(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (apt install ntfs-3g fuse3)")
    volume = Ntfs(tmp_path)
    try:
        with volume.mounted():
            pass
    except AssertionError as error:
        pytest.skip(f"NTFS cannot be mounted here: {error}")
    return volume


def attributes(path: Path) -> dict[str, bytes]:
    """What ntfs-3g tells of a file beyond its content. The times are creation, modification and access."""
    found = {
        name: os.getxattr(path, f"system.ntfs_{name}", follow_symlinks=False) for name in ("acl", "attrib", "times")
    }
    found["times"] = found["times"][:24]
    return found


def everybody(owner_part: int) -> bytes:
    """A descriptor that is nobody's default: owner LocalService or the like, read for Users."""

    def sid(*parts: int) -> bytes:
        return struct.pack("<BB", 1, len(parts)) + b"\0\0\0\0\0\5" + struct.pack(f"<{len(parts)}I", *parts)

    users, owner = sid(32, 545), sid(owner_part)
    ace = struct.pack("<BBHI", 0, 0, 8 + len(users), 0x001200A9) + users
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(ace), 1, 0) + ace
    at_owner = 20 + len(acl)
    return struct.pack("<BBHIIII", 1, 0, 0x8004, at_owner, at_owner + len(owner), 0, 20) + acl + owner + owner


def prepare(root: Path) -> None:
    """The broken Windows, with a faulty file that has a descriptor, attributes and times of its own."""
    make_windows(root)
    faulty = root / IN_PLACE
    os.setxattr(faulty, "system.ntfs_acl", everybody(19))
    os.setxattr(faulty, "system.ntfs_attrib", struct.pack("<I", 0x27))  # archive, system, hidden, read-only
    # The short name is lost by ntfs-3g's rename; everything else about the file has to survive its being there.
    os.setxattr(faulty, "system.ntfs_dos_name", b"C-0000~1.SYS")
    modified = CHANNEL_FILES[FAULTY][1] // 100 + 116444736000000000 + 7
    os.setxattr(faulty, "system.ntfs_times", struct.pack("<QQQ", modified - 10**9, modified, modified + 10**9))


def test_everything_about_a_file_survives_quarantine_and_undo(ntfs: Ntfs) -> None:
    with ntfs.mounted() as root:
        prepare(root)
        before, told = snapshot(root), attributes(root / IN_PLACE)
    with ntfs.mounted() as root:
        results = repair(PosixVolumeFiles(root))
        assert outcomes(results) == dict.fromkeys(ACTED_ON, FileOutcome.QUARANTINED)
        (record,) = [record for record in results[0].records if record.path.endswith(FAULTY)]
        kept = root.joinpath(*record.quarantined_as.split("\\"))
    with ntfs.mounted() as root:
        assert attributes(kept) == told
    inside = record.quarantined_as.replace("\\", "/")
    assert ntfs.content(inside) == CHANNEL_FILES[FAULTY][0]
    left = ntfs.names("/" + "/".join(CROWDSTRIKE))
    assert not left & ACTED_ON
    assert "CSAgent.sys" in left
    assert {"journal.json", "receipt.json", "files"} <= ntfs.names(inside.split("/files/")[0])
    with ntfs.mounted() as root:
        files = PosixVolumeFiles(root)
        results, refused = undo(files, RULES, find_installations(files).installations, "2024-07-21T00:00:00Z")
        assert refused == ()
        assert set(outcomes(results).values()) == {FileOutcome.RESTORED}
    with ntfs.mounted() as root:
        after = {path: what for path, what in snapshot(root).items() if not path.startswith("ProgramData/Bluelift")}
        assert after == before
        assert attributes(root / IN_PLACE) == told
    assert ntfs.content("/" + IN_PLACE.as_posix()) == CHANNEL_FILES[FAULTY][0]


def test_what_a_copy_would_not_keep_is_renamed(ntfs: Ntfs) -> None:
    streamed, linked, packed = (f"C-00000291-00000000-0000003{number}.sys" for number in (4, 6, 7))
    with ntfs.mounted() as root:
        make_windows(root)
        folder = root.joinpath(*CROWDSTRIKE)
        times = {name: (folder / name).stat().st_mtime_ns for name in (streamed, linked, packed)}
        os.setxattr(folder / streamed, "user.Zone", b"a stream")
        os.link(folder / linked, root / "other-name.sys")
        os.setxattr(folder / packed, "system.ntfs_attrib", struct.pack("<I", 0x820))  # compressed from now on
        (folder / packed).write_bytes(bytes(100_000))
        for name, when in times.items():
            os.utime(folder / name, ns=(when, when))
        numbers = {name: (folder / name).stat().st_ino for name in ACTED_ON}
    with ntfs.mounted() as root:
        results = repair(PosixVolumeFiles(root))
        assert outcomes(results) == dict.fromkeys(ACTED_ON, FileOutcome.QUARANTINED)
        kept = {record.path.split("\\")[-1]: root.joinpath(*record.quarantined_as.split("\\")) for record in results[0].records}  # fmt: skip  # noqa: E501
    with ntfs.mounted() as root:
        assert os.getxattr(kept[streamed], "user.Zone") == b"a stream"
        assert kept[linked].samefile(root / "other-name.sys")
        renamed = {name for name in ACTED_ON if kept[name].stat().st_ino == numbers[name]}
        assert linked in renamed
        assert not renamed & {FAULTY, streamed}


@pytest.mark.parametrize("again", [False, True])
def test_no_check_brings_back_what_was_removed_before_the_power_went(ntfs: Ntfs, again: bool) -> None:
    """ntfs-3g takes a file out of its folder before it frees its record: a record that is still in use is freed.

    `again`: another file has the name now, so that nothing is certain and the record stays.
    """
    with ntfs.mounted() as root:
        make_windows(root)
        number = (root / IN_PLACE).stat().st_ino
    with ntfs.image.open("rb") as stream:
        boot = read_boot_sector(stream)
        offset = _offset_of(stream, boot, number)
        record = read_at(stream, offset, boot.record_size)
    with ntfs.mounted() as root:
        (root / IN_PLACE).unlink()
        if again:
            (root / "elsewhere").write_bytes(b"takes the number that was freed")
            (root / IN_PLACE).write_bytes(b"new")
    with ntfs.image.open("r+b") as stream:
        stream.seek(offset)
        stream.write(record)
        assert read_file_record(stream, number).in_use
    with ntfs.mounted() as root:
        PosixVolumeFiles(root).settle_removal(IN_PLACE.parts, number)
        PosixVolumeFiles(root).settle_removal(IN_PLACE.parts, 5)
    with ntfs.image.open("rb") as stream:
        assert read_file_record(stream, number).in_use is again
        assert read_file_record(stream, 5).in_use


def test_a_file_that_lost_its_short_name_in_a_power_cut_is_removed_all_the_same(ntfs: Ntfs) -> None:
    """ntfs-3g takes the 8.3 name out of the folder first; the record still knows it, and ntfs-3g then gives up."""
    with ntfs.mounted() as root:
        make_windows(root)
        os.setxattr(root / IN_PLACE, "system.ntfs_dos_name", b"C-0000~1.SYS")
        number = (root / IN_PLACE).stat().st_ino
    with ntfs.image.open("rb") as stream:
        boot = read_boot_sector(stream)
        offset = _offset_of(stream, boot, number)
        record = read_at(stream, offset, boot.record_size)
    with ntfs.mounted() as root:
        os.removexattr(root / IN_PLACE, "system.ntfs_dos_name")
    with ntfs.image.open("r+b") as stream:
        stream.seek(offset)
        stream.write(record)
    with ntfs.mounted() as root, pytest.raises(OSError, match=r"No such file|Input/output"):
        (root / IN_PLACE).unlink()
    with ntfs.mounted() as root:
        PosixVolumeFiles(root).remove(IN_PLACE.parts)
        assert not {"C-0000~1.SYS", FAULTY} & {path.name for path in (root / IN_PLACE).parent.iterdir()}
    with ntfs.image.open("rb") as stream:
        assert not read_file_record(stream, number).in_use


def test_another_program_reads_the_stores_access_list(ntfs: Ntfs) -> None:
    with ntfs.mounted() as root:
        make_windows(root)
        repair(PosixVolumeFiles(root))
        assert os.getxattr(root / "ProgramData" / "Bluelift", "system.ntfs_acl") == protected_descriptor(directory=True)
        (run_folder,) = (root / "ProgramData" / "Bluelift" / "quarantine").iterdir()
        journal = parse_security_descriptor(os.getxattr(run_folder / "journal.json", "system.ntfs_acl"))
        assert {entry.sid for entry in journal.entries or ()} == {SYSTEM, "S-1-5-32-544"}
        assert journal.protected
        folders = [path.relative_to(root) for path in (root / "ProgramData" / "Bluelift").rglob("*") if path.is_dir()]
    for folder in (Path("ProgramData/Bluelift"), *folders):
        said = run("ntfssecaudit", "-v", str(ntfs.image), f"/{folder.as_posix()}")
        assert re.search(r"owner S-1-5-32-544", said), said
        assert "mode 0700" in said, said
    told = run("ntfsinfo", "-f", "-v", "-F", "/ProgramData/Bluelift", str(ntfs.image))
    assert "SECURITY_DESCRIPTOR" in told or "Security ID" in told
    # ntfs-3g's default, beside it, does not pass.
    with ntfs.mounted() as root:
        assert not PosixVolumeFiles(root).is_protected(("ProgramData",))
        assert PosixVolumeFiles(root).is_protected(("ProgramData", "Bluelift"))


def test_a_store_that_a_user_owns_is_not_used(ntfs: Ntfs) -> None:
    with ntfs.mounted() as root:
        make_windows(root)
        (root / "ProgramData" / "Bluelift").mkdir()
        by_user = bytearray(protected_descriptor(directory=True))
        by_user[-16 * 2 + 12 : -16 * 2 + 16] = struct.pack("<I", 545)  # owner: Users
        os.setxattr(root / "ProgramData" / "Bluelift", "system.ntfs_acl", bytes(by_user))
        files = PosixVolumeFiles(root)
        assert (
            parse_security_descriptor(os.getxattr(root / "ProgramData" / "Bluelift", "system.ntfs_acl")).owner
            == "S-1-5-32-545"
        )
        choice = choose_store(files, "20240719T120000Z-1a2b3c4d")
        assert choice.path == ("ProgramData", "Bluelift.1")
        assert len(choice.notes) == 1
        repair(files)
        assert list((root / "ProgramData" / "Bluelift").iterdir()) == []


def junction(path: Path, target: str) -> None:
    """A directory junction, as Windows makes it ([MS-FSCC] 2.1.2.5 Mount Point Reparse Data Buffer)."""
    path.mkdir()
    substitute, shown = ("\\??\\" + target).encode("utf-16-le"), target.encode("utf-16-le")
    names = substitute + b"\0\0" + shown + b"\0\0"
    data = struct.pack("<HHHH", 0, len(substitute), len(substitute) + 2, len(shown)) + names
    os.setxattr(path, "system.ntfs_reparse_data", struct.pack("<IHH", 0xA0000003, len(data), 0) + data)


def test_junctions_are_left_alone(ntfs: Ntfs) -> None:
    with ntfs.mounted() as root:
        make_windows(root, folder="Real")
        (root / "Real" / "System32" / "drivers" / "CrowdStrike").rename(root / "Vendor")
        junction(root / "Windows", "C:\\Real")
        junction(root / "Real" / "System32" / "drivers" / "CrowdStrike", "C:\\Vendor")
        junction(root / "Cloud", "C:\\nowhere")
        unknown = root / "Vendor" / "C-00000291-00000000-00000040.sys"
        unknown.touch()
        os.setxattr(unknown, "system.ntfs_reparse_data", struct.pack("<IHH", 0x9000001A, 8, 0) + bytes(8))
    with ntfs.mounted() as root:
        before = snapshot(root)
        files = PosixVolumeFiles(root)
        kinds = {entry.name: entry.kind for entry in files.listing(())}
        assert kinds["Windows"] is kinds["Cloud"] is EntryKind.LINK
        assert {e.name: e.kind for e in files.listing(("Vendor",))}[unknown.name] is EntryKind.LINK
        survey = find_installations(files)
        assert [place.path for place in survey.installations] == [("Real",)]
        assert survey.left_alone == (r"\Windows is a reparse point: not followed",)
        assert survey.notes == (r"\Cloud is a reparse point: not followed",)
        assert repair(files) == []
        assert snapshot(root) == before
    with ntfs.mounted() as root:
        (root / "ProgramData").rename(root / "Data")
        junction(root / "ProgramData", "C:\\Data")
    with ntfs.mounted() as root:
        with pytest.raises(StoreRefused, match="ProgramData is a reparse point"):
            choose_store(PosixVolumeFiles(root), "20240719T120000Z-1a2b3c4d")


def fill(root: Path) -> None:
    """Take every free cluster and every free MFT record, so that nothing new fits."""
    for size in (1 << 20, 4096, 700):
        number = 0
        while True:
            path = root / "Fill" / f"{size}-{number}"
            try:
                path.write_bytes(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                path.unlink(missing_ok=True)
                break
            number += 1


def test_a_volume_without_free_space_is_left_as_it_was(tmp_path: Path, ntfs: Ntfs) -> None:
    with ntfs.mounted() as root:
        make_windows(root)
        (root / "Fill").mkdir()
        fill(root)
    with ntfs.mounted() as root:
        before = {path: what for path, what in snapshot(root).items() if not path.startswith("Fill")}
        results = repair(PosixVolumeFiles(root))
        assert results[0].failed
        failed = [record for record in results[0].records if record.outcome is FileOutcome.FAILED]
        assert all("the volume is full" in record.detail for record in failed)
    with ntfs.mounted() as root:
        after = {path: what for path, what in snapshot(root).items() if not path.startswith(("Fill", "ProgramData/Bl"))}
        kept = [record.path for record in results[0].records if record.outcome is FileOutcome.QUARANTINED]
        gone = {path.strip("\\").replace("\\", "/") for path in kept}
        assert after == {path: what for path, what in before.items() if path not in gone}
        for path in (root / "Fill").iterdir():
            path.unlink()
    with ntfs.mounted() as root:
        repair(PosixVolumeFiles(root))
        assert not {path.name for path in root.joinpath(*CROWDSTRIKE).iterdir()} & ACTED_ON
        digests = {
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "ProgramData").rglob("*.[sS][yY][sS]")
        }
        assert digests == {hashlib.sha256(CHANNEL_FILES[name][0]).hexdigest() for name in ACTED_ON}


class LeftBeforeRemoval(PosixVolumeFiles):
    """A volume whose power goes before a moved file is removed from its place."""

    def remove(self, path: VolumePath) -> None:
        """Not any more."""
        raise PowerCut(windows_path(path))


def free_the_record_only(ntfs: Ntfs, path: Path) -> None:
    """Remove a file as ntfs-3g does it in a folder whose own record lists its files, cut off before that is written."""
    with ntfs.mounted() as root:
        folder = (root / path).parent.stat().st_ino
    with ntfs.image.open("rb") as stream:
        boot = read_boot_sector(stream)
        offset = _offset_of(stream, boot, folder)
        record = read_at(stream, offset, boot.record_size)
    with ntfs.mounted() as root:
        (root / path).unlink()
    with ntfs.image.open("r+b") as stream:
        stream.seek(offset)
        stream.write(record)


@pytest.mark.parametrize(
    ("flagged", "flag_is_ours", "verdict"),
    [(True, False, Verdict.REPAIRED), (False, False, Verdict.FAILED), (True, True, Verdict.FAILED)],
)
def test_a_name_without_a_file_is_left_to_a_check_that_will_come(
    ntfs: Ntfs, flagged: bool, flag_is_ours: bool, verdict: Verdict
) -> None:
    with ntfs.mounted() as root:
        make_windows(root)
        shutil.move(root / IN_PLACE, root / FAULTY)
        shutil.rmtree((root / IN_PLACE).parent)
        (root / IN_PLACE).parent.mkdir()
        shutil.move(root / FAULTY, root / IN_PLACE)
        with pytest.raises(PowerCut):
            repair(LeftBeforeRemoval(root))
    free_the_record_only(ntfs, IN_PLACE)
    with ntfs.image.open("r+b") as stream:
        write_dirty_flag(stream, dirty=flagged)
    with ntfs.mounted() as root:
        assert [path.name for path in (root / IN_PLACE).parent.iterdir()] == [FAULTY]
        with pytest.raises(OSError, match="Input/output"):
            (root / IN_PLACE).stat()
        files = PosixVolumeFiles(root, flag_is_ours=flag_is_ours)
        done = repair_volume(files, RULES, run_id="20240720T120000Z-0123abcd", written="2024-07-20T12:00:00Z")
        assert done.conclusion.verdict is verdict, done.conclusion
        (record,) = done.files
        assert (record.outcome is FileOutcome.QUARANTINED) is (verdict is Verdict.REPAIRED)
        kept = [path for path in (root / "ProgramData").rglob(FAULTY) if path.is_file()]
        assert len(kept) == 1
