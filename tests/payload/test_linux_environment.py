"""The whole environment on made-up machines whose disks hold real partition tables and file systems."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from payload.contract import BUILT_IN_RULES, AfterRepair, FileOutcome, Verdict
from payload.display import FullScreen
from payload.ending import ending_action
from payload.environment import Environment, Volume, VolumeNotOpened, VolumeState
from payload.environment import linux as linux_module
from payload.environment import linux_media as media_module
from payload.environment import linux_power as power_module
from payload.environment.linux import LinuxEnvironment
from payload.environment.linux_disks import list_disks
from payload.environment.linux_paths import LinuxPaths
from payload.environment.linux_volumes import survey_disk, volumes_of
from payload.formats.partition_table import BASIC_DATA, EFI_SYSTEM, LDM_DATA, MICROSOFT_RESERVED, STORAGE_SPACES
from payload.formats.raid_metadata import INTEL_SIGNATURE
from payload.medium_config import CONFIG_PATH
from payload.session import RunOptions, Session
from tests.payload.broken_windows import make_windows
from tests.payload.linux_fakes import IMAGE_ID, MIB, FakeMachine, can_mount, config, gpt, make_ntfs, mbr, needs
from tests.payload.test_linux_ntfs import as_device, is_dirty, lose_flushes, set_crashed

_WHY_NOT = can_mount()
OWN = "none / rootfs rw 0 0\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(root=tmp_path, programs=tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{machine.programs}{os.pathsep}{os.environ['PATH']}")
    machine.program("busybox", "exit 0")
    return machine


def environment(machine: FakeMachine, **changes: object) -> LinuxEnvironment:
    return LinuxEnvironment(config(**changes), paths=machine.paths)


def fake_mount(machine: FakeMachine) -> None:
    """`mount` and `umount` over folders: a device's content is the folder `media/<its name>`; ro is mode 0555."""
    machine.program(
        "mount",
        f'for last; do :; done\nsource="{machine.root}/media/$(basename $5)"\n'
        '[ -d "$source" ] || exit 32\nrmdir "$6" && ln -s "$source" "$6"',
    )
    machine.program("umount", '[ -L "$1" ] || exit 32\nrm "$1"; mkdir "$1"')


def put(node: Path, offset: int, data: bytes) -> None:
    with node.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def gpt_disk(machine: FakeMachine, name: str, types: list[str], **attributes: str) -> Path:
    """A disk with a GPT; partition n is 8 MiB at (1 + 8 * (n - 1)) MiB, its node a file of its own."""
    size = (2 + 8 * len(types)) * MIB
    disk = machine.disk(name, size, where=f"pci/{name}", **attributes)  # type: ignore[arg-type]
    entries = [
        (kind, (1 + 8 * i) * MIB // 512, (9 + 8 * i) * MIB // 512 - 1, f"part {i}") for i, kind in enumerate(types)
    ]
    start, end = gpt(entries, size // 512)
    node = machine.paths.dev / name
    put(node, 0, start)
    put(node, size - len(end), end)
    for i in range(len(types)):
        machine.partition(disk, i + 1, (1 + 8 * i) * MIB, 8 * MIB)
    return node


def test_it_is_an_environment(machine: FakeMachine) -> None:
    checked: Environment = environment(machine)
    assert checked.name == "linux"
    checked.emit("lost")
    assert checked.host().firmware == "bios"
    assert list(checked.controllers()) == []
    assert (list(checked.disks()), list(checked.volumes())) == ([], [])
    assert checked.screen.columns == 80
    checked.wait_for_disks(0.1)


def states(env: LinuxEnvironment) -> dict[str, tuple[str, VolumeState]]:
    return {volume.id: (volume.file_system, volume.state) for volume in env.volumes()}


@needs("mkntfs", "ntfs-3g.probe", "mkfs.vfat")
def test_volumes_of_an_ordinary_disk(machine: FakeMachine) -> None:
    gpt_disk(machine, "sda", [EFI_SYSTEM, MICROSOFT_RESERVED, BASIC_DATA, BASIC_DATA, BASIC_DATA, BASIC_DATA])
    dev = machine.paths.dev
    subprocess.run(["mkfs.vfat", str(dev / "sda1")], check=True, capture_output=True)
    make_ntfs(dev / "sda3", size=8 * MIB, label="Windows")
    put(dev / "sda4", 0, b"\xebX\x90-FVE-FS-")
    put(dev / "sda5", 3, b"ReFS\0\0\0\0")
    (dev / "sda6").unlink()
    before = {path.name: path.read_bytes() for path in dev.iterdir()}
    env = environment(machine)
    assert states(env) == {
        "sda1": ("FAT12", VolumeState.NOT_WINDOWS),
        "sda3": ("NTFS", VolumeState.READY),
        "sda4": ("BitLocker", VolumeState.LOCKED),
        "sda5": ("ReFS", VolumeState.NOT_WINDOWS),
        "sda6": ("", VolumeState.UNREADABLE),
    }
    volumes = {volume.id: volume for volume in env.volumes()}
    assert (volumes["sda3"].label, volumes["sda3"].size, volumes["sda3"].disk) == ("Windows", 8 * MIB, "sda")
    assert volumes["sda4"].detail == "The volume is encrypted with BitLocker."
    assert "does not start from" in volumes["sda5"].detail
    assert "cannot be read" in volumes["sda6"].detail
    assert [(disk.id, disk.state) for disk in env.disks()] == [("sda", "ok")]
    assert {path.name: path.read_bytes() for path in dev.iterdir()} == before


@needs("mkntfs", "ntfs-3g.probe")
def test_a_disk_without_partitions(machine: FakeMachine) -> None:
    machine.disk("sda", 8 * MIB, where="a")
    make_ntfs(machine.paths.dev / "sda", size=8 * MIB, label="Data")
    machine.disk("sdb", 8 * MIB, where="b")
    machine.disk("sdc", 8 * MIB, where="c")
    put(machine.paths.dev / "sdc", 0, mbr([(0xEE, 1, 1000)]))
    machine.disk("sdd", 8 * MIB, where="d")
    (machine.paths.dev / "sdd").unlink()
    env = environment(machine)
    assert states(env) == {
        "sda": ("NTFS", VolumeState.READY), "sdc": ("", VolumeState.UNREADABLE), "sdd": ("", VolumeState.UNREADABLE),
    }  # fmt: skip
    records = {disk.id: disk for disk in env.disks()}
    assert {name: record.state for name, record in records.items()} == {
        "sda": "ok", "sdb": "ok", "sdc": "unreadable", "sdd": "unreadable",
    }  # fmt: skip
    assert "both copies" in records["sdc"].detail


@needs("mkntfs", "mkfs.vfat")
def test_raid_members_are_never_opened(machine: FakeMachine) -> None:
    fake_mount(machine)
    machine.program("ntfs-3g.probe", "exit 0")
    for name, types in (("sda", [EFI_SYSTEM, BASIC_DATA]), ("sdb", [LDM_DATA]), ("sdc", [STORAGE_SPACES, BASIC_DATA])):
        gpt_disk(machine, name, types)
    dev = machine.paths.dev
    put(dev / "sda", 18 * MIB - 1024, INTEL_SIGNATURE + b"1.3.00")
    subprocess.run(["mkfs.vfat", str(dev / "sda1")], check=True, capture_output=True)
    for name in ("sda2", "sdb1", "sdc2"):
        make_ntfs(dev / name, size=8 * MIB)
    env = environment(machine)
    volumes = {volume.id: volume for volume in env.volumes()}
    assert {id: volume.state for id, volume in volumes.items()} == dict.fromkeys(
        ["sda1", "sda2", "sdb1", "sdc1", "sdc2"], VolumeState.RAID_MEMBER
    )
    assert {disk.id: disk.state for disk in env.disks()} == {
        "sda": "intel-rst", "sdb": "dynamic-disk", "sdc": "storage-spaces",
    }  # fmt: skip
    for volume in volumes.values():
        assert "WinPE" in volume.advice
        for for_changes in (False, True):
            with pytest.raises(VolumeNotOpened) as failure, env.open_volume(volume, for_changes=for_changes):
                pass
            assert failure.value.state is VolumeState.RAID_MEMBER
    with env.media(IMAGE_ID) as media:
        assert list(media) == []
    assert machine.calls == []


def test_a_storage_spaces_partition_by_its_content_alone(machine: FakeMachine) -> None:
    gpt_disk(machine, "sda", [BASIC_DATA])
    put(machine.paths.dev / "sda1", 0, b"SPACEDB ")
    assert states(environment(machine)) == {"sda1": ("Storage Spaces member", VolumeState.RAID_MEMBER)}


@pytest.mark.mounts
@pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
def test_opening_a_volume(machine: FakeMachine, tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "image")
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        machine.disk("sda", 24 * MIB, node=Path(device))
        env = environment(machine)
        (volume,) = env.volumes()
        with env.open_volume(volume, for_changes=True) as opened:
            assert opened.writable
            opened.files.make_directory(("Bluelift",))
            opened.files.write_file(("Bluelift", "x"), b"content")
        assert opened.notes == []
        with env.open_volume(volume, for_changes=False) as opened:
            assert not opened.writable
            assert opened.files.is_protected(("Bluelift",))
            with opened.files.open_file(("Bluelift", "x")) as stream:
                assert stream.read() == b"content"
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.mounts
@pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
def test_a_repair_that_the_disk_lost_is_failed_and_told(
    machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_ntfs(tmp_path / "image")
    (tmp_path / "making").mkdir()
    subprocess.run(["ntfs-3g", str(image), str(tmp_path / "making")], check=True)
    make_windows(tmp_path / "making")
    subprocess.run(["umount", str(tmp_path / "making")], check=True)
    with as_device(image) as device:
        machine.disk("sda", 24 * MIB, node=device)
        env = environment(machine, disk_wait=0.1)
        options = RunOptions(run_id="20240720T100000Z-0a1b2c3d", started=1721469600.0)
        lose_flushes(monkeypatch, device, working=1)
        receipt = Session(env, config(rules=BUILT_IN_RULES), FullScreen(env.screen, "Bluelift"), options).run()
    assert receipt.verdict is Verdict.FAILED
    assert "may not have reached the disk" in receipt.sentence
    assert ending_action(receipt.verdict, config().ending) is AfterRepair.STAY
    (record,) = receipt.volumes
    assert "Run Bluelift again" in record.advice
    outcomes = [file.outcome for file in record.installations[0].files]
    assert FileOutcome.QUARANTINED in outcomes
    assert is_dirty(image)


@pytest.mark.parametrize(
    ("other", "state"),
    [
        (b"", VolumeState.UNCLEAN),
        (b"\xebX\x90-FVE-FS-", VolumeState.HIBERNATED),
        (b"SPACEDB ", VolumeState.HIBERNATED),
        (b"\xebR\x90NTFS    ", VolumeState.HIBERNATED),
    ],
    ids=["alone", "beside a locked volume", "beside a pool", "beside a damaged volume"],
)
@needs("mkntfs", "ntfs-3g.probe")
def test_a_crashed_windows_is_not_hibernated_unless_it_may_be(
    machine: FakeMachine, other: bytes, state: VolumeState
) -> None:
    gpt_disk(machine, "sda", [BASIC_DATA, BASIC_DATA])
    set_crashed(make_ntfs(machine.paths.dev / "sda1", size=8 * MIB))
    put(machine.paths.dev / "sda2", 0, other)
    (volume, _) = environment(machine).volumes()
    assert volume.state is state
    assert ("hibernated" in volume.detail) == (state is VolumeState.HIBERNATED)


def _raid(machine: FakeMachine) -> None:
    gpt_disk(machine, "sdb", [BASIC_DATA])
    put(machine.paths.dev / "sdb", 10 * MIB - 1024, INTEL_SIGNATURE + b"1.3.00")


def _raid_of_reserved_partitions(machine: FakeMachine) -> None:
    gpt_disk(machine, "sdb", [MICROSOFT_RESERVED])
    put(machine.paths.dev / "sdb", 10 * MIB - 1024, INTEL_SIGNATURE + b"1.3.00")


def _lost_table(machine: FakeMachine) -> None:
    machine.disk("sdb", 8 * MIB, where="b")
    put(machine.paths.dev / "sdb", 0, mbr([(0xEE, 1, 1000)]))


def _dead_disk(machine: FakeMachine) -> None:
    machine.disk("sdb", 8 * MIB, where="b")
    (machine.paths.dev / "sdb").unlink()


def _dead_partition(machine: FakeMachine) -> None:
    gpt_disk(machine, "sdb", [BASIC_DATA])
    (machine.paths.dev / "sdb1").unlink()


def _other_systems(machine: FakeMachine) -> None:
    gpt_disk(machine, "sdb", [MICROSOFT_RESERVED, BASIC_DATA])
    put(machine.paths.dev / "sdb2", 3, b"ReFS\0\0\0\0")


def _empty_disk(machine: FakeMachine) -> None:
    machine.disk("sdb", 8 * MIB, where="b")


@pytest.mark.parametrize(
    ("other", "state"),
    [
        (_raid, VolumeState.HIBERNATED),
        (_raid_of_reserved_partitions, VolumeState.HIBERNATED),
        (_lost_table, VolumeState.HIBERNATED),
        (_dead_disk, VolumeState.HIBERNATED),
        (_dead_partition, VolumeState.HIBERNATED),
        (_other_systems, VolumeState.UNCLEAN),
        (_empty_disk, VolumeState.UNCLEAN),
    ],
)
@needs("mkntfs", "ntfs-3g.probe")
def test_a_windows_that_cannot_be_seen_may_be_hibernated(
    machine: FakeMachine, other: Callable[[FakeMachine], None], state: VolumeState
) -> None:
    gpt_disk(machine, "sda", [BASIC_DATA])
    set_crashed(make_ntfs(machine.paths.dev / "sda1", size=8 * MIB))
    other(machine)
    volume, *_ = environment(machine).volumes()
    assert (volume.id, volume.state) == ("sda1", state)


def test_a_disk_that_cannot_be_read_and_has_no_volumes(machine: FakeMachine, tmp_path: Path) -> None:
    """No disk of today comes out like that; a Windows may be on it all the same."""
    gpt_disk(machine, "sda", [BASIC_DATA])
    gpt_disk(machine, "sdb", [MICROSOFT_RESERVED])
    machine.program("ntfs-3g.probe", "echo Metadata kept in Windows cache; exit 14")
    put(machine.paths.dev / "sda1", 0, b"\xebR\x90NTFS    ")
    fine, reserved = (survey_disk(disk) for disk in list_disks(machine.paths))
    for state, expected in (("ok", VolumeState.UNCLEAN), ("unreadable", VolumeState.HIBERNATED)):
        (volume,) = volumes_of([fine, replace(reserved, state=state)])
        assert volume.state is expected


def identity(machine: FakeMachine, name: str, content: object) -> Path:
    return machine.text(f"media/{name}/bluelift/image.json", json.dumps(content))


@pytest.fixture
def sticks(machine: FakeMachine) -> FakeMachine:
    """sda: the host's disk with an ESP; sdb: the stick this image is on; sdc, sdd: other sticks; sr0: a CD."""
    fake_mount(machine)
    if needs("mkfs.vfat").args[0]:
        pytest.skip("needs mkfs.vfat")
    gpt_disk(machine, "sda", [EFI_SYSTEM])
    for name in ("sdb", "sdc", "sdd"):
        gpt_disk(machine, name, [EFI_SYSTEM], removable="1")
    for name in ("sda1", "sdb1", "sdc1", "sdd1"):
        subprocess.run(["mkfs.vfat", str(machine.paths.dev / name)], check=True, capture_output=True)
        (machine.root / "media" / name).mkdir(parents=True)
    machine.disk("sr0", MIB, where="cd")
    put(machine.paths.dev / "sr0", 32769, b"CD001")
    return machine


def test_the_boot_stick_and_other_sticks_take_receipts(sticks: FakeMachine) -> None:
    identity(sticks, "sdb1", {"image_id": IMAGE_ID})
    (sticks.root / "media/sdc1/Bluelift").mkdir()
    (sticks.root / "media/sda1/Bluelift").mkdir()  # on the host's own disk: not a stick
    env = environment(sticks)
    assert {disk.id: disk.state for disk in env.disks()} == {
        "sda": "ok", "sdb": "boot-medium", "sdc": "ok", "sdd": "ok",
    }  # fmt: skip
    assert "sdb1" not in states(env)
    with env.media(IMAGE_ID) as media:
        names = []
        for medium in media:
            names.append(medium.name)
            assert [entry.name.lower() for entry in medium.files.listing(())] == ["bluelift"]
    assert names == ["boot medium sdb1", "stick sdc1"]
    writing = [call for call in sticks.calls if " rw," in call]
    assert [call.split()[5] for call in writing] == [str(sticks.paths.dev / name) for name in ("sdb1", "sdc1")]
    assert list(sticks.paths.mounts.iterdir()) == []


@pytest.mark.parametrize("removable", ["", "1"], ids=["the host's own disk", "a stick"])
@needs("mkntfs", "ntfs-3g.probe", "mkfs.vfat")
def test_our_files_beside_a_windows_hide_only_their_own_volume(machine: FakeMachine, removable: str) -> None:
    fake_mount(machine)
    gpt_disk(machine, "sda", [EFI_SYSTEM, BASIC_DATA, BASIC_DATA], **({"removable": removable} if removable else {}))
    for name in ("sda1", "sda3"):
        subprocess.run(["mkfs.vfat", str(machine.paths.dev / name)], check=True, capture_output=True)
    make_ntfs(machine.paths.dev / "sda2", size=8 * MIB)
    identity(machine, "sda1", {"image_id": IMAGE_ID})
    (machine.root / "media/sda3").mkdir()
    env = environment(machine)
    assert states(env) == {"sda2": ("NTFS", VolumeState.READY), "sda3": ("FAT12", VolumeState.NOT_WINDOWS)}
    assert [(disk.id, disk.state) for disk in env.disks()] == [("sda", "ok")]


@needs("mkfs.vfat")
def test_our_files_beside_a_locked_windows_hide_only_their_own_volume(machine: FakeMachine) -> None:
    fake_mount(machine)
    gpt_disk(machine, "sda", [EFI_SYSTEM, BASIC_DATA], removable="1")
    subprocess.run(["mkfs.vfat", str(machine.paths.dev / "sda1")], check=True, capture_output=True)
    put(machine.paths.dev / "sda2", 0, b"\xebX\x90-FVE-FS-")
    identity(machine, "sda1", {"image_id": IMAGE_ID})
    assert states(environment(machine)) == {"sda2": ("BitLocker", VolumeState.LOCKED)}


@needs("mkfs.vfat")
def test_our_files_on_a_disk_of_the_host_without_partitions(machine: FakeMachine) -> None:
    fake_mount(machine)
    machine.disk("sda", 8 * MIB, where="a")
    subprocess.run(["mkfs.vfat", str(machine.paths.dev / "sda")], check=True, capture_output=True)
    identity(machine, "sda", {"image_id": IMAGE_ID})
    env = environment(machine)
    assert [(disk.id, disk.state) for disk in env.disks()] == [("sda", "ok")]
    assert states(env) == {}


def test_our_files_on_an_iso_hybrid_stick(machine: FakeMachine) -> None:
    """Written to a stick as it is, the ISO 9660 file system is the whole disk's, whatever partitions lie in it."""
    fake_mount(machine)
    gpt_disk(machine, "sdb", [BASIC_DATA], removable="1")
    put(machine.paths.dev / "sdb", 32769, b"CD001")
    identity(machine, "sdb", {"image_id": IMAGE_ID})
    env = environment(machine)
    assert [(disk.id, disk.state) for disk in env.disks()] == [("sdb", "boot-medium")]
    assert states(env) == {}


@pytest.mark.parametrize(
    ("iso", "beside", "state"),
    [(True, "FAT", "boot-medium"), (False, "FAT", "ok"), (True, "NTFS", "ok"), (True, "BitLocker", "ok")],
    ids=["the image", "its files alone", "beside a Windows", "beside an encrypted volume"],
)
@needs("mkfs.vfat")
def test_the_image_as_a_disk_of_a_virtual_machine(machine: FakeMachine, iso: bool, beside: str, state: str) -> None:
    """A hybrid image that a hypervisor was given as a disk does not count as the host's, and takes the receipt."""
    fake_mount(machine)
    gpt_disk(machine, "vda", [BASIC_DATA, BASIC_DATA])
    for name in ("vda1", "vda2"):
        subprocess.run(["mkfs.vfat", str(machine.paths.dev / name)], check=True, capture_output=True)
    if beside != "FAT":
        put(machine.paths.dev / "vda2", 3, {"NTFS": b"NTFS    ", "BitLocker": b"-FVE-FS-"}[beside])
    machine.program("ntfs-3g.probe", "exit 0")
    identity(machine, "vda1", {"image_id": IMAGE_ID})
    (machine.root / "media/vda2").mkdir()
    if iso:
        put(machine.paths.dev / "vda", 32769, b"CD001")
        identity(machine, "vda", {"image_id": IMAGE_ID})
    env = environment(machine)
    assert [(disk.id, disk.state) for disk in env.disks()] == [("vda", state)]
    assert "vda1" not in states(env)
    with env.media(IMAGE_ID) as media:
        assert [medium.name for medium in media] == ["boot medium vda1"]


def test_the_configuration_is_read_from_both_volumes_of_the_boot_stick_alone(sticks: FakeMachine) -> None:
    """BLUELIFT-DATA too; not from another stick, nor from the host's own disk with a copy of the image's files."""
    sticks.partition((sticks.paths.sysfs / "class/block/sdb").resolve(), 2, 9 * MIB, 8 * MIB)
    subprocess.run(["mkfs.vfat", str(sticks.paths.dev / "sdb2")], check=True, capture_output=True)
    for name in ("sda1", "sdb1"):
        identity(sticks, name, {"image_id": IMAGE_ID})
    for name in ("sda1", "sdb2", "sdc1"):
        sticks.text(f"media/{name}/Bluelift/config/config.json", name)
    env = environment(sticks)
    found = {}
    with env.boot_media() as media:
        for medium in media:
            entry = medium.files.entry(CONFIG_PATH)
            found[medium.name] = medium.files.open_file(CONFIG_PATH).read() if entry else None
    assert found == {"boot medium sdb1": None, "boot medium sdb2": b"sdb2"}
    assert not [call for call in sticks.calls if " rw," in call]
    assert list(sticks.paths.mounts.iterdir()) == []


def test_a_stick_that_comes_later_than_the_hosts_disk_is_waited_for(
    sticks: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's NVMe disk is there at once, a stick seconds later: after all was thought to be stable."""
    identity(sticks, "sdb1", {"image_id": IMAGE_ID})
    shown = [sticks.paths.sysfs / "class/block" / name for name in ("sdb", "sdb1")]
    targets = [link.readlink() for link in shown]
    for link in shown:
        link.unlink()
    waited: list[float] = []

    def stable_at_once(paths: LinuxPaths, limit: float) -> None:
        waited.append(limit)

    def plugged_in(seconds: float) -> None:
        for link, target in zip(shown, targets, strict=True):
            if not link.is_symlink():
                link.symlink_to(target)

    monkeypatch.setattr(linux_module, "wait_for_disks", stable_at_once)
    monkeypatch.setattr(linux_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=plugged_in))
    env = environment(sticks)
    env.wait_for_disks(30)
    assert waited == [30, 30], "and its partitions are waited for, too"
    assert {disk.id: disk.state for disk in env.disks()}["sdb"] == "boot-medium"


def test_a_medium_that_never_comes_is_waited_for_only_so_long(
    sticks: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(linux_module, "wait_for_disks", lambda paths, limit: None)
    monkeypatch.setattr(linux_module, "time", clock)
    environment(sticks).wait_for_disks(30)
    assert sum(slept) == 10
    environment(sticks, image_id="").wait_for_disks(30)
    assert sum(slept) == 10, "by hand there is none"


def test_leaving_early_unmounts(sticks: FakeMachine) -> None:
    identity(sticks, "sdb1", {"image_id": IMAGE_ID})
    with environment(sticks).media(IMAGE_ID) as media:
        next(media)
    assert list(sticks.paths.mounts.iterdir()) == []


@pytest.mark.parametrize("content", [{"image_id": "another"}, [], "x", {"id": IMAGE_ID}])
def test_another_image_is_not_ours(sticks: FakeMachine, content: object) -> None:
    identity(sticks, "sdb1", content)
    assert {disk.state for disk in environment(sticks).disks()} == {"ok"}


def test_broken_identities(sticks: FakeMachine) -> None:
    sticks.text("media/sdb1/Bluelift/image.json", "{")
    (sticks.root / "media/sdc1/Bluelift/image.json").mkdir(parents=True)
    sticks.text("media/sdd1/Bluelift", "a file")
    assert {disk.state for disk in environment(sticks).disks()} == {"ok"}


def test_a_medium_that_does_not_mount(sticks: FakeMachine) -> None:
    identity(sticks, "sdb1", {"image_id": IMAGE_ID})
    sticks.program("mount", "exit 32")
    env = environment(sticks)
    with env.media(IMAGE_ID) as media:
        assert list(media) == []
    sticks.paths.mounts.rmdir()
    sticks.text("run", "a file where the folder should be")
    with env.media(IMAGE_ID) as media:
        assert list(media) == []


def test_mount_commands(sticks: FakeMachine) -> None:
    env = environment(sticks)
    nodes = {medium.node.name: medium for medium in media_module.medium_nodes(sticks.paths, env._mountable)}
    root = Path("/m")
    dev = sticks.paths.dev
    assert media_module.mount_command(nodes["sdb1"], root, writable=True) == [
        "mount", "-t", "vfat", "-o", "rw,noatime,sync", str(dev / "sdb1"), "/m",
    ]  # fmt: skip
    assert media_module.mount_command(nodes["sr0"], root, writable=False) == [
        "mount", "-t", "iso9660", "-o", "ro,noatime", str(dev / "sr0"), "/m",
    ]  # fmt: skip


def _own(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.paths.proc / "mounts").unlink()
    (machine.paths.proc / "mounts").write_text(OWN)
    machine.text("proc/sys/kernel/printk", "7")
    monkeypatch.setattr(power_module, "_POWER_SECONDS", 0.1)
    monkeypatch.setattr(power_module.leave, "__kwdefaults__", {"patience": 0.1})


def test_restarting_under_bios_from_cd_ejects(sticks: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    _own(sticks, monkeypatch)
    identity(sticks, "sr0", {"image_id": IMAGE_ID})
    ejected: list[Path] = []
    monkeypatch.setattr("payload.environment.linux.eject", ejected.append)
    env = environment(sticks)
    assert env.screen.columns == 80
    assert (sticks.paths.proc / "sys/kernel/printk").read_text() == "1"
    env.end(AfterRepair.REBOOT)
    assert ejected == [sticks.paths.dev / "sr0"]
    assert sticks.calls[-2:] == ["busybox sync", "busybox reboot -f"]
    ejected.clear()
    env.end(AfterRepair.POWER_OFF)
    assert ejected == []
    assert sticks.calls[-1] == "busybox poweroff -f"


def test_ending_elsewhere_does_nothing(sticks: FakeMachine) -> None:
    for action in AfterRepair:
        environment(sticks).end(action)
    assert not any("busybox" in call for call in sticks.calls)


def test_shell(machine: FakeMachine) -> None:
    other_end, end = os.openpty()
    try:
        (machine.paths.dev / "tty1").symlink_to(os.ttyname(end))
        machine.program("setsid", "exit 0")
        environment(machine, shell=False).shell()
        assert machine.calls == []
        environment(machine).shell()
        assert machine.calls == ["setsid -c sh"]
        assert b"exit" in os.read(other_end, 4000)
        (machine.programs / "setsid").unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(machine.programs))
            environment(machine).shell()
        shown = b""
        while b"no shell" not in shown:
            shown += os.read(other_end, 4000)
    finally:
        os.close(end)
        os.close(other_end)
    environment(FakeMachine(root=machine.root / "other", programs=machine.root / "other/bin")).shell()


def test_a_locked_volume_is_not_opened(machine: FakeMachine) -> None:
    locked = Volume(
        id="sda1", disk="sda", label="", file_system="BitLocker", size=1, state=VolumeState.LOCKED, detail="x"
    )
    with pytest.raises(VolumeNotOpened), environment(machine).open_volume(locked, for_changes=False):
        pass
