"""`bluelift demo`: watch the WinPE way work, without any Windows media and without a machine to boot."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from builder import profile
from builder.build import build
from builder.commands.profile_arguments import options_from
from builder.commands.program import program
from builder.console import Console, Summary
from builder.errors import UsageError, VerifyFailed
from builder.profile import Profile
from builder.verify.standin_media import make_bootable_standin
from builder.verify.windows_tree import Fate, broken_windows, data_volume
from builder.verify.wine_run import WineBoot, WineMachine, WineVolume, winpe_machine
from builder.verify.winpe_image import boot_wim_of, take_apart

_MARK = "demo-of-bluelift"
_PROFILE = b"""\
environment: winpe
organisation: Bluelift demo
base: {kind: windows-iso, path: stand-in.iso}
ending: {countdown: 5}
output: bluelift-winpe-demo
"""
_TIME_LIMIT = 300.0


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Stand-in, recovery ISO, boot.wim taken apart, its chain of start under Wine on two drives."""
    folder: Path = arguments.output
    _prepare(folder)
    with console.step("a stand-in for a Windows install ISO") as step:
        make_bootable_standin(folder / "stand-in.iso")
        step.note("the shape of Microsoft's media, with Wine's DLLs; Windows itself is not in it")
    built = build(_profile(folder, arguments.payload_exe), options_from(arguments), console)
    console.expect(2)
    with console.step("take boot.wim apart") as step:
        wim = boot_wim_of(built.image)
        image = take_apart(wim, 1, folder / "X")
        step.note(f"{wim.images[0].name}, in {image}")
    with winpe_machine(folder / "machine", image) as machine:
        volumes = (
            WineVolume(letter="D", tree=broken_windows(), label="Windows"),
            WineVolume(letter="E", tree=data_volume(), label="Data"),
        )
        for volume in volumes:
            machine.attach(volume)
        with console.step("start its startnet.cmd under Wine") as step:
            step.note("D: is a broken Windows, E: holds data; winpeshl.ini -> startnet.cmd -> payload.exe")
            boot = machine.boot(time_limit=_TIME_LIMIT)
        _check(machine, boot, volumes)
    console.say("")
    console.say("What the technician saw at last:")
    for line in last_screen(boot.log):
        console.say(f"  | {line}")
    moved = sum(file.fate is Fate.QUARANTINED for file in broken_windows().files)
    console.summary(
        Summary(
            title="the WinPE way works",
            facts=(
                ("quarantined", f"{moved} files on D:, each where the receipt says"),
                ("untouched", "every other file on D: and E:, byte for byte"),
                ("called", ", ".join(boot.calls)),
                ("not shown here", "Windows's own boot manager and kernel: they need media of yours"),
            ),
            next_steps=(
                f"look at {folder / 'machine' / 'D' / 'ProgramData' / 'Bluelift'}: quarantine, journal, receipt",
                f"{program()} inspect {built.image}",
                "the real thing: make iso WINDOWS_ISO=path-of-a-Windows-install-ISO",
            ),
        )
    )
    return 0


def last_screen(log: str) -> list[str]:
    """The last whole screen in what the payload printed: from its verdict in large letters on."""
    blocks = [block for block in log.replace("\r", "").split("\n  Bluelift ") if "####" in block]
    # The screen's foot, with its keys, comes after the line that `split` took away.
    lines = blocks[-1].split("\n") if blocks else log.split("\n")[-25:]
    first = next((number for number, line in enumerate(lines) if "##" in line), 0)
    kept = [line.rstrip() for line in lines[first:]]
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _profile(folder: Path, payload: Path | None) -> Profile:
    read = profile.parse(_PROFILE, file="demo.yaml", folder=folder)
    return replace(read, winpe=replace(read.winpe, payload_exe=payload))


def _prepare(folder: Path) -> None:
    """An empty folder that only ever held a demo."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise UsageError(f"{folder} is not empty and holds no demo", hint="Give another folder: -o FOLDER")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()


def _check(machine: WineMachine, boot: WineBoot, volumes: tuple[WineVolume, ...]) -> None:
    """Raises VerifyFailed for anything that is not as it must be after a repair."""
    problems = [
        f"{volume.letter}:\\{found.path}: expected {found.expected}, seen {found.seen}"
        for volume in volumes
        for found in machine.differences(volume.letter)
    ]
    if boot.code != 0:
        problems.append(f"the payload ended with {boot.code}, not 0")
    if "wpeutil reboot" not in boot.calls:
        problems.append(f"wpeutil reboot was not called, only {', '.join(boot.calls) or 'nothing'}")
    if len(machine.receipts("D")) != 1:
        problems.append(f"there are {len(machine.receipts('D'))} receipts on D:, not one")
    if problems:
        raise VerifyFailed("the demo did not do what it should\n" + "\n".join(problems), hint=boot.log[-2000:])
