"""The key screen on a real console: a QR reader reads its code off screenshots, and what a technician types opens.

French keys in the VGA's text mode: the digit row without Shift. German keys on UEFI's framebuffer: digits from the row
and from the keypad, and dashes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from builder.verify.bitlocker import BitLockerPlan, BitLockerVolume, format_volume, make_room, seeded
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.machine import Machine, started, state_folder
from builder.verify.ntfs_volume import make_volume
from builder.verify.qemu import Attach, Controller, MachineConfig
from builder.verify.windows_tree import broken_windows
from payload.contract import EventName
from payload.formats.fve_entries import ProtectorKind
from tests.boot.conftest import at_a_time
from tests.boot.test_keyboard import FRENCH, GERMAN, image_with, press
from tests.payload.console_picture import codes_in

SERIAL = "PF3K9Z2A"
_LIMIT = 300
_MIB = 1 << 20
#: How long one password may take to arrive and to open the volume, in seconds; it is typed again where a key was lost.
_PATIENCE = 150
#: Keys for what a technician corrects with.
_EDITING = {"\b": "backspace", "\x15": "ctrl u"}
#: Half of the digits from the keypad: nobody has pressed Num Lock.
_KEYPAD = {digit: f"kp_{digit}" for digit in "56789"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine and its keyboard: how a recovery password is written with what is printed on it, and by which keys."""

    firmware: Firmware
    keyboard: str
    written: Callable[[str], str]
    keys: dict[str, str]


PLACES = {
    "bios-fr": Place(
        firmware=Firmware.BIOS,
        keyboard="fr",
        written=lambda text: text.replace("-", "").translate(str.maketrans("1234567890", "&é\"'(-è_çà")),
        keys=FRENCH | {"'": "4", "(": "5", "_": "8"} | _EDITING,
    ),
    "uefi-de": Place(firmware=Firmware.UEFI, keyboard="de", written=str, keys=GERMAN | _KEYPAD | _EDITING),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a boot: what the reader read off each screenshot, and the record of the volume at the end."""

    codes: dict[str, list[str]]
    volume: dict[str, object]
    shown_elsewhere: str


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> BitLockerVolume:
    """A broken Windows behind BitLocker."""
    folder = tmp_path_factory.mktemp("locked")
    make_volume(folder / "plain", size=64 * _MIB, label="Windows", tree=broken_windows())
    plan = BitLockerPlan(protectors=(ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD))
    room = make_room(folder / "plain")
    return format_volume(folder / "plain", folder / "locked", plan, room=room, random=seeded(b"key screen"))


@pytest.fixture(scope="module")
def boots(locked: BitLockerVolume, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Seen]]]:
    """The boots of all places, under way, `at_a_time`."""
    images = {name: image_with(place.keyboard, tmp_path_factory.mktemp(name)) for name, place in PLACES.items()}
    with ThreadPoolExecutor(at_a_time()) as pool:
        yield {name: pool.submit(boot, images[name], place, locked) for name, place in PLACES.items()}
        pool.shutdown(cancel_futures=True)


def boot(image: Path, place: Place, locked: BitLockerVolume) -> Seen:
    """Start the image, read the code, type a wrong group and then the password. Pictures stay beside the image."""
    ((_, password),) = locked.recovery_passwords.items()
    wrong = password[:5] + str((int(password[5]) + 1) % 10)
    codes: dict[str, list[str]] = {}
    with machine_with(image, place.firmware, locked.path) as machine:
        codes["asked"] = code_on(machine, image.parent / "asked.png")
        press(machine, place.written(wrong), place.keys)
        machine.watch(2)
        codes["wrong group"] = code_on(machine, image.parent / "wrong-group.png")
        for _ in range(3):
            # Backspace over the wrong group would do; a lost key would not be noticed.
            press(machine, "\x15" + place.written(password), place.keys)
            machine.watch(2)
            machine.screenshot(image.parent / "typed.png")
            press(machine, "\n", place.keys)
            if machine.wait_for_event(EventName.RECEIPT, limit=machine.seconds + _PATIENCE):
                break
        volume = machine.event(EventName.VOLUME)
        assert volume is not None, machine.console[-3000:]
        return Seen(codes=codes, volume=volume.data["volume"], shown_elsewhere=machine.console)


@contextmanager
def machine_with(image: Path, firmware: Firmware, disk: Path) -> Iterator[Machine]:
    """The image on a CD, started by its own boot loader; the disk is a copy."""
    files = find_firmware(firmware)
    with state_folder() as folder:
        shutil.copyfile(disk, folder / "disk.img")
        if files.variables is not None:
            shutil.copyfile(files.variables, folder / "variables.fd")
        config = MachineConfig(
            firmware=firmware, disk=folder / "disk.img", controller=Controller.AHCI, image=image, attach=Attach.CD,
            uuid="11111111-2222-4333-8444-555555555555", serial_number=SERIAL, qmp_socket=folder / "qmp",
            serial_log=folder / "serial.log", code=files.code,
            variables=folder / "variables.fd" if files.variables is not None else None,
        )  # fmt: skip
        with started(config, qemu_log=folder / "qemu.log") as machine:
            yield machine


def code_on(machine: Machine, picture: Path) -> list[str]:
    """What a reader reads off the screen, as soon as there is something to read."""
    while machine.ended is None and machine.seconds < _LIMIT:
        if machine.screenshot(picture) and (found := codes_in(Image.open(picture))):
            return found
        machine.watch(0.5)
    raise AssertionError(f"no code on the screen: {machine.ended}, {machine.console[-3000:]}")


@pytest.mark.parametrize("name", PLACES)
def test_the_code_is_read_off_the_screen(boots: dict[str, Future[Seen]], locked: BitLockerVolume, name: str) -> None:
    ((key_id, _),) = locked.recovery_passwords.items()
    wanted = [f"{key_id} {SERIAL}"]
    assert boots[name].result().codes == {"asked": wanted, "wrong group": wanted}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_typed_opens_the_volume(boots: dict[str, Future[Seen]], name: str) -> None:
    volume = boots[name].result().volume
    assert (volume["verdict"], volume["unlocked_by"]) == ("repaired", "recovery password typed")


@pytest.mark.parametrize("name", PLACES)
def test_nothing_of_what_is_typed_goes_to_the_serial_port(
    boots: dict[str, Future[Seen]], locked: BitLockerVolume, name: str
) -> None:
    ((_, password),) = locked.recovery_passwords.items()
    said = boots[name].result().shown_elsewhere
    assert not any(group in said for group in password.split("-") if group != "000000")
