"""Locked disks as `verify --bitlocker` makes and reads them: opened by dislocker, compared, and searched for leaks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.verify import leaks
from builder.verify.disks import BrokenDisk, DiskPlan, copy_disk, make_disk
from builder.verify.judge import Template, check_disk, look
from builder.verify.leaks import leaks_in
from builder.verify.locked_media import PASSPHRASE, make_vault, passphrase_stick, stick, vault_cd
from builder.verify.locked_scenarios import LOCKED_SCENARIOS, KeyPlace, LockedDisk
from builder.verify.readback import read_file
from builder.verify.unlocked import WINDOWS_VOLUME, bitlocker_metadata, windows_volume
from builder.verify.windows_tree import faulty_only_windows
from payload.formats.fve import read_volume
from tests.payload.linux_fakes import needs

pytestmark = [
    needs("mkntfs", "ntfscp", "ntfsls", "ntfscat", "dislocker-file", "unshare", "ntfs-3g"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs FUSE"),
    pytest.mark.mounts,
]
NO_NTFSCK = ("true",)
#: One disk for each place of a key.
DISKS = {disk.key: disk for scenario in LOCKED_SCENARIOS for disk in scenario.disks}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[LockedDisk], Template]:
    """Templates, each made once."""
    folder, templates = tmp_path_factory.mktemp("disks"), dict[str, Template]()

    def make(wanted: LockedDisk) -> Template:
        if wanted.name not in templates:
            plan = replace(wanted.plan(), tree=faulty_only_windows())
            disk = make_disk(plan, folder / f"{wanted.name}.raw")
            templates[wanted.name] = Template(disk=disk, seen=look(disk, ntfsck=NO_NTFSCK, scratch=folder))
        return templates[wanted.name]

    return make


@pytest.mark.parametrize("key", [KeyPlace.IN_THE_METADATA, KeyPlace.STICK, KeyPlace.VAULT])
def test_each_lock_opens_and_every_file_is_inside(
    made: Callable[[LockedDisk], Template], key: KeyPlace, tmp_path: Path
) -> None:
    template = made(DISKS[key])
    disk = template.disk
    names = {file.path: file.sha256 for file in template.seen.files}
    assert all(names[file.path] == file.sha256 for file in disk.plan.tree.files)
    assert sum(path.rpartition("\\")[2].startswith("FVE2.{") for path in names) == 4
    with disk.path.open("rb") as stream:
        volume = read_volume(stream, disk.windows.start)
    assert disk.locked is not None
    assert (volume.guid, volume.method) == (disk.locked.guid, DISKS[key].method)
    # The keys that are looked for are those of this volume: nothing of them, nor of the inside, is on the disk.
    secrets = leaks.of_volume(disk.locked, "it")
    assert len(secrets.names) >= 2
    assert not leaks_in(disk.path, secrets)
    windows_volume(disk, tmp_path)
    assert not leaks_in(tmp_path / WINDOWS_VOLUME, secrets)
    assert [path.name for path in tmp_path.iterdir()] == [WINDOWS_VOLUME]


def test_an_untouched_disk_passes_and_every_change_is_seen(
    made: Callable[[LockedDisk], Template], tmp_path: Path
) -> None:
    template = made(DISKS[KeyPlace.VAULT])
    wanted = DISKS[KeyPlace.LOST].expectation
    disk = copy_disk(template.disk, tmp_path / "disk.raw")
    assert disk.locked is not None
    assert all(check.passed for check in check_disk(disk, wanted, template, template.disk, template.seen))
    before = bitlocker_metadata(template.disk)
    assert bitlocker_metadata(disk) == before
    for offset in (0, *(offset + 300 for offset in disk.locked.room.metadata)):
        change_byte(disk, disk.windows.start + offset)
        assert bitlocker_metadata(disk) != before
        assert not all(check.passed for check in check_disk(disk, wanted, template, template.disk, template.seen))
        change_byte(disk, disk.windows.start + offset)
    assert bitlocker_metadata(disk) == before


def test_a_leak_inside_the_locked_volume_is_found(made: Callable[[LockedDisk], Template], tmp_path: Path) -> None:
    wanted = DISKS[KeyPlace.VAULT]
    (password,) = made(wanted).disk.locked.recovery_passwords.values()  # type: ignore[union-attr]
    note = f"unlocked with {password}\r\n".encode()
    tree = faulty_only_windows()
    leaky = tree.with_files(replace(tree.files[0], path="ProgramData\\Bluelift\\log.txt", content=note))
    # The same name gives the same keys.
    disk = make_disk(
        DiskPlan(tree=leaky, windows_size=64 << 20, lock=wanted.plan().lock), tmp_path / f"{wanted.name}.raw"
    )
    assert disk.locked is not None
    assert tuple(disk.locked.recovery_passwords.values()) == (password,)
    secrets = leaks.of_volume(disk.locked, wanted.name)
    assert not leaks_in(disk.path, secrets)
    windows_volume(disk, tmp_path)
    assert read_file(tmp_path / WINDOWS_VOLUME, "ProgramData\\Bluelift\\log.txt") == note
    assert leaks_in(tmp_path / WINDOWS_VOLUME, secrets)


@needs("mtype", "isoinfo")
def test_keys_lie_where_the_payload_looks_for_them(tmp_path: Path) -> None:
    from tests.unit.test_verify_disks import tool

    words = passphrase_stick(tmp_path / "words.img")
    assert tool("mtype", "-i", words, "::/Bluelift/passphrase.txt").strip() == PASSPHRASE
    keys = stick(tmp_path / "keys.img", {"64311DEA-4587-4029-924A-BA299647998E.BEK": b"startup key"})
    assert tool("mtype", "-i", keys, "::/64311DEA-4587-4029-924A-BA299647998E.BEK") == "startup key"
    vault = make_vault(tmp_path / "hosts.vault", {})
    cd = vault_cd(vault.path, tmp_path / "keys.iso")
    assert vault.path.read_bytes() in cd.read_bytes()
    assert "hosts.vault" in tool("isoinfo", "-J", "-f", "-i", cd).lower()


def change_byte(disk: BrokenDisk, offset: int) -> None:
    with disk.path.open("rb+") as stream:
        was = os.pread(stream.fileno(), 1, offset)
        os.pwrite(stream.fileno(), bytes([was[0] ^ 0xFF]), offset)
