"""`bluelift usb`: shows disks, and writes an image to one of them."""

from __future__ import annotations

import argparse
import hashlib
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from builder.commands.program import program
from builder.console import Console, Summary, Table, ask, size_text
from builder.errors import BuilderError, ImageError, OutputError, UsageError
from builder.outputs import SUMS
from builder.usb.choice import NOT_REMOVABLE, backed_by, check_same, find_disk, objections
from builder.usb.disks import BlockDisk, LinuxRoot, list_disks
from builder.usb.layout import StickImage, StickLayout, open_image, plan_stick

if TYPE_CHECKING:
    from builder.usb.write import StickWriter

_ROOT = LinuxRoot()


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Do what `usb list` or `usb write` asks for."""
    if sys.platform != "linux":
        raise UsageError(
            "bluelift usb works on Linux alone",
            hint="Write the image, which is a disk image as it is, with Rufus (in DD mode), balenaEtcher, or dd.",
        )
    if arguments.action == "list":
        _list(console)
    else:
        _write(arguments, console)
    return 0


def _list(console: Console) -> None:
    disks = list_disks(_ROOT)
    against = [objections(disk, needed=0) for disk in disks]
    rows = tuple(
        (disk.name, *_facts(disk), "; ".join(reasons) or "can be written to")
        for disk, reasons in zip(disks, against, strict=True)
    )
    columns = ("device", "size", "model", "serial number", "bus", "for an image")
    console.table(
        Table(title="", columns=columns, rows=rows, styles=tuple("dim" if reasons else "good" for reasons in against))
    )
    if all(against):
        console.notice("There is no stick to write to: plug one in, and wait until this lists it.")


def _facts(disk: BlockDisk) -> tuple[str, ...]:
    return (size_text(disk.size), disk.model or "-", disk.serial or "-", disk.bus)


def _known(disk: BlockDisk) -> str:
    return ", ".join(fact for fact in _facts(disk) if fact != "-")


def _write(arguments: argparse.Namespace, console: Console) -> None:
    image = open_image(arguments.image)
    disk = find_disk(arguments.device, list_disks(_ROOT), _ROOT)
    _check(disk, image, arguments.force_device)
    layout = plan_stick(image, size=disk.size, data=arguments.data, identity=uuid.uuid4())
    _agree(disk, layout, console, asked=not arguments.yes)
    console.expect(4)
    with console.step("check the image") as step:
        step.note(_check_sums(arguments.image))
    _overwrite(disk, layout, console)
    console.summary(
        Summary(
            title=f"{disk.node} is {arguments.image.name}, and can be unplugged",
            facts=(
                ("stick", _known(disk)),
                ("read back", "every byte that was written, past the cache: the same"),
                *((("BLUELIFT-DATA", size_text(layout.data)),) if layout.data else ()),
            ),
            next_steps=(
                "boot the broken host from it; receipts come back in its folder Bluelift/receipts",
                f"{program()} verify {arguments.image} --as usb    boots the same image as a stick",
            ),
        )
    )


def _check(disk: BlockDisk, image: StickImage, forced: str) -> None:
    if forced and forced != disk.name:
        raise UsageError(
            f"--force-device says {forced}, but the device is {disk.name}",
            hint="Type the device's own name: it is what will be overwritten.",
        )
    reasons = (*objections(disk, needed=image.size, forced=forced), *backed_by(disk, image.path))
    if reasons:
        raise OutputError(
            f"{disk.name} ({_known(disk)}) is not overwritten:\n" + "\n".join(f"  {why}" for why in reasons),
            hint=f"If it is meant all the same: --force-device {disk.name}"
            if reasons == (NOT_REMOVABLE,)
            else f"'{program()} usb list' shows the disks of this machine.",
        )


def _agree(disk: BlockDisk, layout: StickLayout, console: Console, *, asked: bool) -> None:
    """Say what will be lost, and have the user type the device's name. Raises UsageError without that."""
    size, model, serial, bus = _facts(disk)
    parts = f", with {', '.join(disk.partitions)}" if disk.partitions else ""
    console.notice(f"All of {disk.name} will be lost: {model}, {size}, serial number {serial}, {bus}{parts}")
    if layout.data:
        console.notice(f"It gets a second partition of {size_text(layout.data)}.")
    if not asked:
        return
    answer = ask(f"Type {disk.name} to overwrite it: ")
    if answer is None:
        raise UsageError("nobody can be asked here", hint="In a script: --yes")
    if answer != disk.name:
        raise UsageError("nothing was written", hint=f"Only the name typed in full, {disk.name}, overwrites it.")


def _check_sums(image: Path) -> str:
    """Compare the image with SHA256SUMS beside it, where that lists it. Raises ImageError."""
    try:
        lines = (image.parent / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"there is no {SUMS} beside it"
    # sha256sum(1): the digest, a space, a space or an asterisk, the name.
    wanted = next((line.partition(" ")[0] for line in lines if line.partition(" ")[2][1:] == image.name), None)
    if wanted is None:
        return f"{SUMS} beside it does not list it"
    with image.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        raise ImageError(
            f"{image} is damaged: its sha256 is {found}, {SUMS} says {wanted}", hint="Copy or build it again."
        )
    return f"sha256 {found}, as {SUMS} says"


def _overwrite(disk: BlockDisk, layout: StickLayout, console: Console) -> None:
    from builder.usb.device import opened  # noqa: PLC0415
    from builder.usb.write import StickWriter  # noqa: PLC0415

    with opened(disk) as raw:
        # From here on it is ours, so that whatever bears its name now is what will be written to.
        check_same(disk, list_disks(_ROOT))
        writer = StickWriter(layout=layout, disk=raw)
        try:
            with console.step(f"write {disk.name}") as step:
                writer.write(step)
            with console.step("read back and compare") as step:
                writer.read_back(step)
            with console.step("make it bootable") as step:
                writer.finish(step)
                if not raw.reread_partitions():
                    step.note("the kernel still shows the old partitions: unplug the stick and plug it in again")
        except BuilderError as error:
            raise OutputError(f"{error.message}\n{_state(disk, writer)}", hint=error.hint) from error
        except KeyboardInterrupt:
            console.notice(_state(disk, writer))
            raise


def _state(disk: BlockDisk, writer: StickWriter) -> str:
    """One sentence on what is on the stick now."""
    from builder.usb.write import StickState  # noqa: PLC0415

    return {
        StickState.UNTOUCHED: f"{disk.node} is as it was.",
        StickState.NOT_BOOTABLE: f"{disk.node} is not bootable, and what was on it is lost. Write it again.",
        StickState.COMPLETE: f"{disk.node} is complete: everything was written and read back.",
    }[writer.state]
