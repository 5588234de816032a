"""Safe mode in offline boot stores: others read the edits, what is not whole is refused, a power cut does no harm."""

from __future__ import annotations

import contextlib
import errno
import lzma
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regipy.registry import RegistryHive

from payload.environment import OpenVolume, Volume, VolumeNotOpened, VolumeState, posix_files
from payload.environment.boot_partitions import STORES, BootPartition, stores_on
from payload.environment.linux_boot_partitions import ntfs_boot_partitions
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.bcd import BOOT_MANAGER, BcdStore, Element, ObjectType
from payload.formats.fve import EncryptionMethod, FveState, FveVolume
from payload.formats.fve_entries import Protector, ProtectorKind
from payload.formats.regf import Hive
from payload.formats.regf_log import is_ahead, numbered_after
from payload.formats.regf_writer import base_checksum
from payload.safe_mode import (
    SafeModeRefused,
    clear_safe_mode,
    describe_safe_mode,
    set_safe_mode,
    why_no_safe_mode,
)
from tests.payload.broken_windows import FaultyOs, PowerCut

REAL = Path(__file__).parents[3] / "shared" / "testdata" / "hives" / "BCD.xz"
LOADER = "{b2721d73-1db4-4c62-bf78-c548a880142d}"
RECOVERY = "{733b62e6-f608-11eb-825c-c112f60133ab}"
EFI, BIOS = STORES
VOLUME = Volume(id="D:", disk="PhysicalDrive0", label="", file_system="BitLocker", size=1, state=VolumeState.LOCKED)


def made_store(*, safe_boot: int | None = None, path: str = r"\Windows\system32\winload.efi") -> bytes:
    """A store as a UEFI host has it: Windows, started without a menu, and its recovery environment."""
    store = BcdStore.new(written=132_000_000_000_000_000)
    manager = store.add(BOOT_MANAGER, ObjectType.BOOT_MANAGER)
    manager.set_text(Element.DEFAULT_OBJECT, LOADER)
    manager.set_objects(Element.DISPLAY_ORDER, (LOADER,))
    for id, name in ((LOADER, "Windows 11"), (RECOVERY, "Windows Recovery Environment")):
        loader = store.add(id, ObjectType.LOADER)
        loader.set_text(Element.DESCRIPTION, name)
        loader.set_text(Element.APPLICATION_PATH, path)
    if safe_boot is not None:
        store.add(LOADER, ObjectType.LOADER).set_number(Element.SAFE_BOOT, safe_boot)
    return store.pack()


def real_store() -> bytes:
    if not REAL.is_file():
        pytest.skip(f"no real store: {REAL} is not there")
    return lzma.decompress(REAL.read_bytes())


class Disk:
    """A disk whose boot partitions are folders."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots

    @contextlib.contextmanager
    def boot_partitions(self, disk: str) -> Iterator[Iterator[BootPartition]]:
        assert disk == VOLUME.disk
        yield (BootPartition(name=root.name, files=PosixVolumeFiles(root)) for root in self.roots)


def put(root: Path, data: bytes, place: tuple[str, ...] = EFI) -> Path:
    path = root.joinpath(*place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def log_of(hive: bytes, *numbers: int) -> bytes:
    """A transaction log in the new format with entries of these sequence numbers."""
    base = bytearray(hive[:512])
    struct.pack_into("<II", base, 4, numbers[0], numbers[0])
    struct.pack_into("<I", base, 28, 6)
    struct.pack_into("<I", base, 508, base_checksum(base))
    return bytes(base) + b"".join(struct.pack("<4sIII", b"HvLE", 512, 0, n).ljust(512, b"\0") for n in numbers)


def sequence(hive: bytes) -> int:
    return int(struct.unpack_from("<I", hive, 8)[0])


def safe_boot(data: bytes, id: str = LOADER) -> int | None:
    loader = BcdStore.read(data).object(id)
    assert loader is not None
    return loader.number(Element.SAFE_BOOT)


# --- setting and taking back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", STORES, ids=("EFI", "BIOS"))
def test_the_default_loader_starts_in_safe_mode_and_nothing_else_changes(
    tmp_path: Path, place: tuple[str, ...]
) -> None:
    before = made_store()
    path = put(tmp_path, before, place)
    done = set_safe_mode(Disk(tmp_path), VOLUME)
    assert (done.entry, done.path) == ("Windows 11", "\\" + "\\".join(place))
    assert done.kept == done.path + ".before-bluelift"
    assert path.with_name("BCD.before-bluelift").read_bytes() == before
    after = path.read_bytes()
    assert (safe_boot(after), safe_boot(after, RECOVERY)) == (0, None)
    assert sequence(after) == sequence(before) + 1
    assert not Hive(after).dirty
    store = BcdStore.read(after)
    loader = store.object(LOADER)
    assert loader is not None and loader.remove(Element.SAFE_BOOT)
    assert store.pack() == before


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    path = put(tmp_path, made_store())
    set_safe_mode(Disk(tmp_path), VOLUME)
    once = path.read_bytes()
    again = set_safe_mode(Disk(tmp_path), VOLUME)
    assert (again.kept, path.read_bytes()) == ("", once)
    assert safe_boot(path.with_name("BCD.before-bluelift").read_bytes()) is None


@pytest.mark.parametrize("earlier", [None, 1])
def test_it_can_be_taken_back(tmp_path: Path, earlier: int | None) -> None:
    path = put(tmp_path, made_store(safe_boot=earlier))
    set_safe_mode(Disk(tmp_path), VOLUME)
    assert safe_boot(path.read_bytes()) == 0
    clear_safe_mode(Disk(tmp_path), VOLUME)
    assert safe_boot(path.read_bytes()) == earlier
    assert [entry.name for entry in path.parent.iterdir()] == ["BCD"]


def test_a_real_store(tmp_path: Path) -> None:
    path = put(tmp_path, real_store())
    before = BcdStore.read(path.read_bytes()).default_loader()
    assert before is not None
    done = set_safe_mode(Disk(tmp_path), VOLUME)
    after = BcdStore.read(path.read_bytes()).object(before.id)
    assert after is not None
    assert after.number(Element.SAFE_BOOT) == 0
    assert set(after.elements) == {*before.elements, Element.SAFE_BOOT}
    assert done.entry == before.text(Element.DESCRIPTION)


@pytest.mark.skipif(not shutil.which("hivexget"), reason="hivexget (package libhivex-bin) is not installed")
@pytest.mark.parametrize("real", [False, True])
def test_hivex_reads_it(tmp_path: Path, real: bool) -> None:
    path = put(tmp_path, real_store() if real else made_store())
    loader = BcdStore.read(path.read_bytes()).default_loader()
    assert loader is not None
    before = dump(path)
    set_safe_mode(Disk(tmp_path), VOLUME)
    key = f"\\Objects\\{loader.id}\\Elements\\25000080"
    done = subprocess.run(["hivexget", str(path), key, "Element"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.rstrip(b"\n")) == (0, bytes(8))
    clear_safe_mode(Disk(tmp_path), VOLUME)
    assert dump(path) == before


def dump(path: Path) -> bytes:
    done = subprocess.run(["hivexml", str(path)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # Where a cell lies in the file is the writer's own affair.
    return re.sub(rb"<byte_run[^>]*>|</byte_runs>", b"", done.stdout)


def test_regipy_reads_it(tmp_path: Path) -> None:
    path = put(tmp_path, made_store())
    set_safe_mode(Disk(tmp_path), VOLUME)
    key = RegistryHive(str(path)).get_key(f"\\Objects\\{LOADER}\\Elements\\25000080")
    assert key.get_value("Element") in (bytes(8), bytes(8).hex())


# --- refusals --------------------------------------------------------------------------------------------------------


def dirty(data: bytes) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<I", changed, 4, sequence(data) + 1)
    struct.pack_into("<I", changed, 508, base_checksum(changed))
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (dirty(made_store()), "not finished"),
        (made_store()[:3000], "was not changed"),
        (b"", "was not changed"),
        (made_store(path=r"\memtest.efi"), "is no Windows"),
        (BcdStore.new(written=1).pack(), "which Windows starts"),
    ],
    ids=["dirty", "cut-off", "empty", "another-loader", "no-loader"],
)
def test_a_store_that_is_not_whole_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = put(tmp_path, data)
    with pytest.raises(SafeModeRefused, match=words) as refused:
        set_safe_mode(Disk(tmp_path), VOLUME)
    assert refused.value.sentence.endswith(".")
    assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["BCD"]


@pytest.mark.parametrize("name", ["BCD.LOG", "BCD.LOG1", "BCD.LOG2"])
def test_a_log_that_is_ahead_is_refused(tmp_path: Path, name: str) -> None:
    hive = numbered_after(made_store(), made_store())
    path = put(tmp_path, hive)
    log = path.with_name(name)
    log.write_bytes(log_of(hive, sequence(hive), sequence(hive) + 1))
    with pytest.raises(SafeModeRefused, match="changes that are not in it yet"):
        set_safe_mode(Disk(tmp_path), VOLUME)
    assert path.read_bytes() == hive
    log.write_bytes(log_of(hive, sequence(hive) - 1, sequence(hive)))
    set_safe_mode(Disk(tmp_path), VOLUME)
    assert not is_ahead(log.read_bytes(), path.read_bytes())


def test_empty_and_foreign_logs_say_nothing() -> None:
    hive = made_store()
    for log in (b"", bytes(4096), b"regf", hive[:512], log_of(hive, 99)[:500], b"regf" + bytes(508)):
        assert not is_ahead(log, hive)
    assert is_ahead(log_of(hive, 99), hive)
    # An entry of no length would never end.
    assert not is_ahead(log_of(hive, 1)[:512] + b"HvLE" + bytes(508), hive)


@settings(deadline=None)
@given(st.binary(max_size=2048))
def test_no_log_is_misread(log: bytes) -> None:
    assert is_ahead(log, HIVE) is False
    is_ahead(log_of(HIVE, 1)[:512] + log, HIVE)


HIVE = made_store()


def test_without_a_store_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(SafeModeRefused, match="No boot store"):
        set_safe_mode(Disk(tmp_path), VOLUME)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    other = put(tmp_path / "other", made_store())
    (tmp_path / "esp").mkdir()
    (tmp_path / "esp" / "EFI").symlink_to(tmp_path / "other" / "EFI")
    with pytest.raises(SafeModeRefused, match="No boot store"):
        set_safe_mode(Disk(tmp_path / "esp"), VOLUME)
    assert other.read_bytes() == made_store()


def test_the_second_partition_has_its_turn(tmp_path: Path) -> None:
    first, second = tmp_path / "esp", tmp_path / "system"
    put(first, dirty(made_store()))
    path = put(second, made_store(path=r"\Windows\system32\winload.exe"), BIOS)
    assert set_safe_mode(Disk(first, second), VOLUME).partition == "system"
    assert safe_boot(path.read_bytes()) == 0
    assert stores_on(PosixVolumeFiles(second)) == [BIOS]


def test_what_a_bios_starts_from_is_an_ntfs_volume(tmp_path: Path) -> None:
    """Only of the volume's own disk, and only what is in order; a volume that takes no changes is said to be so."""
    ready, asleep = VolumeState.READY, VolumeState.HIBERNATED
    volumes = [
        replace(VOLUME, id=name, disk=name[:3], state=state)
        for name, state in {"sda1": ready, "sda2": ready, "sda3": asleep, "sdb1": ready}.items()
    ]
    for name in ("sda2", "sda3", "sdb1"):
        put(tmp_path / name, made_store(path=r"\Windows\system32\winload.exe"), BIOS)
    (tmp_path / "sda1").mkdir()
    opened: list[tuple[str, bool]] = []
    writable = True

    @contextlib.contextmanager
    def open_volume(volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        opened.append((volume.id, for_changes))
        files = PosixVolumeFiles(tmp_path / volume.id)
        yield OpenVolume(volume=volume, files=files, writable=for_changes and writable)

    assert [found.name for found in ntfs_boot_partitions(volumes, open_volume, "sda")] == ["sda2"]
    assert opened == [("sda1", False), ("sda2", False), ("sda2", True)]
    writable = False
    with pytest.raises(OSError, match="cannot be written"):
        list(ntfs_boot_partitions(volumes, open_volume, "sda"))


def test_a_volume_that_cannot_be_looked_at_hides_no_boot_partition(tmp_path: Path) -> None:
    volumes = [replace(VOLUME, id=name, disk="sda", state=VolumeState.READY) for name in ("sda1", "sda2")]
    put(tmp_path / "sda2", made_store(path=r"\Windows\system32\winload.exe"), BIOS)

    @contextlib.contextmanager
    def open_volume(volume: Volume, *, for_changes: bool) -> Iterator[OpenVolume]:
        if volume.id == "sda1":
            raise VolumeNotOpened(VolumeState.UNREADABLE, "It is damaged.", "")
        yield OpenVolume(volume=volume, files=PosixVolumeFiles(tmp_path / volume.id), writable=for_changes)

    assert [found.name for found in ntfs_boot_partitions(volumes, open_volume, "sda")] == ["sda2"]


def test_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    place = ("efi", "MICROSOFT", "boot", "bcd")
    path = put(tmp_path, made_store(), place)
    assert set_safe_mode(Disk(tmp_path), VOLUME).path == "\\efi\\MICROSOFT\\boot\\bcd"
    assert safe_boot(path.read_bytes()) == 0


# --- power cuts and full disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [set_safe_mode, clear_safe_mode])
def test_a_power_cut_leaves_a_store_that_starts_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: object
) -> None:
    """After every step: the old store or the new one, whole; and another run comes to the same end."""
    assert callable(act)

    def fresh(name: str) -> Path:
        path = put(tmp_path / name, made_store())
        if act is clear_safe_mode:
            set_safe_mode(Disk(tmp_path / name), VOLUME)
        return path

    counted = fresh("counted")
    old = counted.read_bytes()
    monkeypatch.setattr(posix_files, "os", counting := FaultyOs(fault_at=1 << 30))
    act(Disk(tmp_path / "counted"), VOLUME)
    new = counted.read_bytes()
    assert counting.steps > 8
    seen = set()
    for number in range(counting.steps):
        monkeypatch.undo()
        path = fresh(f"cut-{number}")
        monkeypatch.setattr(posix_files, "os", FaultyOs(fault_at=number))
        with pytest.raises(PowerCut):
            act(Disk(tmp_path / f"cut-{number}"), VOLUME)
        monkeypatch.undo()
        assert path.read_bytes() in (old, new), number
        seen.add(path.read_bytes() == new)
        act(Disk(tmp_path / f"cut-{number}"), VOLUME)
        assert safe_boot(path.read_bytes()) == safe_boot(new)
    assert seen == {False, True}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_or_failing_partition_is_said_and_keeps_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    for number in range(4):
        path = put(tmp_path / str(number), made_store())
        monkeypatch.setattr(posix_files, "os", FaultyOs(fault_at=number, error=error, lasting=True))
        with pytest.raises(SafeModeRefused, match="cannot be changed"):
            set_safe_mode(Disk(tmp_path / str(number)), VOLUME)
        monkeypatch.undo()
        assert path.read_bytes() == made_store()


# --- what is told first ----------------------------------------------------------------------------------------------


def metadata(*kinds: ProtectorKind) -> FveVolume:
    protectors = tuple(
        Protector(guid=f"{i:08X}-0000-0000-0000-000000000000", kind=k, code=0) for i, k in enumerate(kinds)
    )
    return FveVolume(
        version=2, guid="", description="", created=None, method=EncryptionMethod.AES_XTS_128, state=FveState.LOCKED,
        to_go=False, sector_size=512, encrypted_size=0, protectors=protectors, metadata_offsets=(), block=0,
        checksum_ok=True,
    )  # fmt: skip


def test_what_is_told_before() -> None:
    plain = "\n".join(describe_safe_mode(metadata(ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD)))
    assert "local administrator" in plain
    assert "\\Bluelift\\safe-mode.cmd" in plain
    assert "bcdedit /deletevalue {current} safeboot" in plain
    assert "PIN" not in plain
    assert plain.isascii()
    with_pin = "\n".join(describe_safe_mode(metadata(ProtectorKind.TPM_PIN, ProtectorKind.RECOVERY_PASSWORD)))
    assert "asks for its BitLocker PIN" in with_pin
    assert "stick" in "\n".join(describe_safe_mode(metadata(ProtectorKind.TPM_STARTUP_KEY)))


@pytest.mark.parametrize(
    ("kinds", "offered"),
    [
        ((ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD), True),
        ((ProtectorKind.TPM_PIN,), True),
        ((ProtectorKind.CLEAR_KEY, ProtectorKind.PASSWORD), True),
        ((ProtectorKind.RECOVERY_PASSWORD, ProtectorKind.STARTUP_KEY), False),
        ((ProtectorKind.PASSWORD,), False),
    ],
)
def test_it_is_offered_where_windows_unlocks_by_itself(kinds: tuple[ProtectorKind, ...], offered: bool) -> None:
    assert (why_no_safe_mode(metadata(*kinds)) == "") == offered
