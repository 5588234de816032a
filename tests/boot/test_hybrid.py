"""The image on sticks: its files copied by hand, and a stick that is pulled out while the receipt is written to it."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from builder.errors import ImageError
from builder.media.fat_reader import FatReader
from builder.verify.firmware import Firmware
from builder.verify.inspect import inspect_image
from builder.verify.machine import started, state_folder
from builder.verify.qemu import Attach, Controller, MachineConfig
from builder.verify.write_log import Write, read_write_log
from tests.integration.test_standin_boot import boot

MIB = 1 << 20
LIMIT = 180
OLD = b'{"verdict": "an earlier receipt"}\n'
ENDING = '"event":"ending"'


def run(*argv: str | Path) -> bytes:
    return subprocess.run([str(word) for word in argv], check=True, capture_output=True, timeout=120).stdout


def receipt_of(console: str) -> dict[str, object]:
    """The receipt among the events that the payload wrote to the serial port."""
    lines = (line.partition("BLUELIFT ")[2] for line in console.splitlines())
    events = [json.loads(line) for line in lines if line.startswith("{") and line.rstrip().endswith("}")]
    found: dict[str, object] = next(event["receipt"] for event in events if event.get("event") == "receipt")
    return found


def hand_made_stick(image: Path, folder: Path) -> Path:
    """An MBR disk with one FAT32 partition, onto which somebody copied what a CD drive shows."""
    stick, files = folder / "stick.img", folder / "files"
    run("xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", files)
    run("chmod", "-R", "u+w", files)
    with stick.open("wb") as stream:
        stream.truncate(128 * MIB)
        stream.seek(446)
        stream.write(struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x0C, b"\xfe\xff\xff", 2048, 127 * 2048))
        stream.seek(510)
        stream.write(b"\x55\xaa")
    volume = f"{stick}@@1M"
    run("mformat", "-F", "-i", volume, "-T", str(127 * 2048), "-h", "255", "-s", "63", "::")
    run("mcopy", "-s", "-Q", "-i", volume, *sorted(files.iterdir()), "::/")
    return stick


@pytest.mark.parametrize("firmware", [Firmware.UEFI, Firmware.SECUREBOOT])
@pytest.mark.skipif(not shutil.which("mformat") or not shutil.which("xorriso"), reason="needs mtools and xorriso")
def test_files_copied_by_hand_to_a_fat32_stick_boot(default_image: Path, firmware: Firmware, tmp_path: Path) -> None:
    stick = hand_made_stick(default_image, tmp_path)
    _, console = boot(stick, firmware, lambda seen: ENDING in seen, attach=Attach.USB)
    receipt = receipt_of(console)
    identity = inspect_image(default_image).identity
    assert identity is not None and receipt["image_id"] == identity["image_id"]
    assert [(d["bus"], d["state"]) for d in receipt["disks"]] == [("usb", "boot-medium")]  # type: ignore[attr-defined]


@pytest.mark.skipif(not shutil.which("mcopy"), reason="needs mtools")
def test_a_stick_pulled_out_in_mid_write_loses_at_most_the_receipt_in_flight(
    default_image: Path, tmp_path: Path
) -> None:
    """After each of the writes that reached the stick: every file, and the receipt of an earlier run, is as it was."""
    stick, at_start = tmp_path / "stick.img", tmp_path / "start.img"
    shutil.copyfile(default_image, at_start)
    report = inspect_image(at_start)
    assert report.disk is not None
    (part,) = report.disk.partitions
    (tmp_path / "old.json").write_bytes(OLD)
    run("mcopy", "-i", f"{at_start}@@{part.start}", tmp_path / "old.json", "::/Bluelift/receipts/OLD.json")
    shutil.copyfile(at_start, stick)
    writes = recorded_writes(stick, tmp_path)
    volume = f"{at_start}@@{part.start}"
    before, contents = places(at_start, part.start, part.size), copied_out(volume, tmp_path)
    assert "Bluelift/receipts/OLD.json" in before and len(writes) > 5
    for write in writes:
        assert part.start <= write.offset < part.start + part.size, "a write beside the partition"
        with at_start.open("r+b") as stream:
            stream.seek(write.offset)
            stream.write(write.data)
        try:
            after = places(at_start, part.start, part.size)
        except ImageError:
            # In the middle of a rename the new receipt has both names, which only a driver takes as it is.
            assert contents.items() <= copied_out(volume, tmp_path).items()
            continue
        assert {path: after.get(path) for path in before} == before
        assert run("mtype", "-i", volume, "::/Bluelift/receipts/OLD.json") == OLD
    # The log ends with the last flush; the stick itself has been unmounted, and is clean.
    assert copied_out(volume, tmp_path) == copied_out(f"{stick}@@{part.start}", tmp_path)
    (name,) = places(stick, part.start, part.size).keys() - before.keys()
    assert name.startswith("Bluelift/receipts/pulled-") and name.endswith(".json")
    said = run("mtype", "-i", f"{stick}@@{part.start}", f"::/{name}")
    assert json.loads(said)["verdict"] == "no-windows-found"
    with stick.open("rb") as stream:
        stream.seek(part.start)
        (tmp_path / "partition.img").write_bytes(stream.read(part.size))
    run("fsck.vfat", "-n", tmp_path / "partition.img")


def copied_out(volume: str, folder: Path) -> dict[str, str]:
    """The sha256 of every file that mtools copies from the volume."""
    target = folder / uuid.uuid4().hex
    target.mkdir()
    run("mcopy", "-s", "-n", "-Q", "-i", volume, "::/*", target)
    files = (path for path in sorted(target.rglob("*")) if path.is_file())
    found = {str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    shutil.rmtree(target)
    return found


def places(image: Path, start: int, size: int) -> dict[str, tuple[int, tuple[tuple[int, int], ...]]]:
    """Size and place of every file on the FAT32 volume."""
    with image.open("rb") as stream:
        entries = FatReader(stream, start=start, size=size).entries()
        return {entry.path: (entry.size, entry.pieces) for entry in entries if not entry.is_folder}


def recorded_writes(stick: Path, folder: Path) -> list[Write]:
    """What a run on a machine without any other disk writes to its stick."""
    log = folder / "writes.log"
    log.touch()
    with state_folder() as state:
        config = MachineConfig(
            firmware=Firmware.BIOS,
            disk=stick,
            controller=Controller.USB,
            uuid=str(uuid.UUID(int=291)),
            serial_number="pulled",
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
            write_log=log,
        )
        with started(config, qemu_log=state / "qemu.log") as machine:
            while machine.ended is None and machine.seconds < LIMIT and ENDING not in machine.console:
                machine.watch(0.5)
            assert ENDING in machine.console, machine.console
            console = machine.console
    assert not [note for note in receipt_of(console)["notes"] if "no receipt" in note]  # type: ignore[attr-defined]
    with log.open("rb") as stream:
        return list(read_write_log(stream))
