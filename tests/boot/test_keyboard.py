"""The technician's keyboard: keys pressed by QEMU, as scan codes of their places, arrive as what is printed on them.

The image's own shell is the witness: what is typed there (a pipe, a redirection and the sentence itself) goes out by
the serial port.
"""

from __future__ import annotations

import base64
import lzma
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from builder import cpio, profile
from builder.build import BuildOptions, build
from builder.cache import default_folder
from builder.console import PlainConsole
from builder.initramfs import KEYMAP_NAME
from builder.verify.firmware import Firmware
from builder.verify.machine import Machine, started, state_folder
from builder.verify.qemu import Controller, MachineConfig
from builder.verify.torture import direct_kernel
from tests.integration.test_keymap import read_table

#: Keys by QEMU's names, which are those of a US keyboard's places. Left out: where both keyboards have the same there.
GERMAN = {
    "y": "z", "z": "y", "ß": "minus", "ü": "bracket_left", "ö": "semicolon", "ä": "apostrophe",
    "-": "slash", "/": "shift 7", '"': "shift 2", "|": "alt_r less", ">": "shift less",
    "@": "alt_r q", "€": "alt_r e", "\\": "alt_r minus", "#": "backslash", "^": "grave_accent, spc",
    "ê": "grave_accent, e",
}  # fmt: skip
FRENCH = {
    "a": "q", "q": "a", "z": "w", "w": "z", "m": "semicolon", "&": "1", "é": "2", "-": "6", "è": "7",
    "ç": "9", "à": "0", "1": "shift 1", "2": "shift 2", "3": "shift 3", "4": "shift 4", "6": "shift 6", "0": "shift 0",
    "/": "shift dot", ">": "shift less", '"': "3", "|": "alt_r 6", "@": "alt_r 0", "€": "alt_r e",
    "#": "alt_r 3", "\\": "alt_r 8", ".": "shift comma", "ù": "apostrophe", "ê": "bracket_left, e",
}  # fmt: skip
TYPED = {
    "de": (GERMAN, "zyZ äöüßÄ @€#\\ ^ê 0123456789-"),
    "fr": (FRENCH, "azqwmA éèçàù &@€#. ê 012346-"),
}
_COMMON = {" ": "spc", "\n": "ret"}
_LIMIT = 300
_PATIENCE = 5
#: How often a sentence may lack a key: one that the layout has elsewhere is wrong every time.
_LOST_KEYS = 3


def chords(character: str, keyboard: dict[str, str]) -> list[list[str]]:
    """The keys to press for one character, one chord after the other."""
    key = character.lower()
    pressed = keyboard.get(key) or _COMMON.get(key) or key
    pressed = f"shift {pressed}" if character.isupper() else pressed
    return [chord.split() for chord in pressed.split(", ")]


def press(machine: Machine, text: str, keyboard: dict[str, str]) -> None:
    for character in text:
        for chord in chords(character, keyboard):
            machine.command("send-key", keys=[{"type": "qcode", "data": key} for key in chord], hold_time=5)
            machine.watch(0.05)


def screen(machine: Machine) -> str:
    """What stands on the screen, from the graphics card's text memory: its lines."""
    with tempfile.NamedTemporaryFile() as file:
        machine.command("pmemsave", val=0xB8000, size=80 * 25 * 2, filename=file.name)
        shown = Path(file.name).read_bytes()[::2].decode("cp437")
    return "\n".join(shown[at : at + 80].rstrip() for at in range(0, len(shown), 80)).strip()


def wait_for_the_shell(machine: Machine) -> None:
    """Not a key before its prompt is on the screen: the keyboard's driver may be asking the keyboard what it is."""
    while machine.ended is None and machine.seconds < _LIMIT:
        shown = screen(machine)
        if "has changed nothing" in shown and "/ #" in shown:
            return
        machine.watch(0.5)
    raise AssertionError(f"no shell: {machine.ended}, {shown}")


def answer(machine: Machine, lines: str, pattern: str, keyboard: dict[str, str]) -> str:
    """What the first group of `pattern` matches of what the serial port says to `lines`.

    They are typed again where nothing comes: a slow machine's PS/2 queue of 16 bytes loses keys. Ctrl-C ends what a
    lost key left open.
    """
    while machine.seconds < _LIMIT:
        machine.command("send-key", keys=[{"type": "qcode", "data": key} for key in ("ctrl", "c")], hold_time=5)
        machine.watch(0.2)
        before = len(machine.console)
        press(machine, lines, keyboard)
        asked = machine.seconds
        while machine.ended is None and machine.seconds < asked + _PATIENCE:
            if found := re.search(pattern, machine.console[before:], re.DOTALL):
                return found[1]
            machine.watch(0.1)
    raise AssertionError(f"no answer to {lines!r}: {machine.ended}, {machine.console[-2000:]!r}, {screen(machine)}")


def answers(image: Path, keyboard: dict[str, str], sentence: str) -> tuple[str, bytes]:
    """What arrives of the sentence's keys, and the kernel's keymap as busybox's dumpkmap reads it."""
    with state_folder() as folder:
        direct = direct_kernel(image, folder)
        config = MachineConfig(
            firmware=Firmware.BIOS, disk=None, controller=Controller.AHCI, uuid="11111111-2222-4333-8444-555555555555",
            serial_number="KEYS", qmp_socket=folder / "qmp", serial_log=folder / "serial.log", memory_mib=512,
            direct=replace(direct, append=f"{direct.append} bluelift.shell"),
        )  # fmt: skip
        with started(config, qemu_log=folder / "qemu.log") as machine:
            wait_for_the_shell(machine)
            answer(machine, "\necho here > /dev/ttyS0\n", "(here)\r\n", keyboard)
            typed = f"head -n 1 > /dev/ttyS0\nT {sentence} T\n"
            arrived = answer(machine, typed, "T (.*) T\r\n", keyboard)
            for _ in range(_LOST_KEYS):
                arrived = arrived if arrived == sentence else answer(machine, typed, "T (.*) T\r\n", keyboard)
            dump = "dumpkmap | base64 > /dev/ttyS0\necho end > /dev/ttyS0\n"
            return arrived, base64.b64decode(answer(machine, dump, r"(Ymtl[A-Za-z0-9+/=\s]*)end\r\n", keyboard))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The default image, once for each layout."""
    return {name: image_with(name, tmp_path_factory.mktemp(name)) for name in TYPED}


@pytest.fixture(scope="module")
def seen(images: dict[str, Path]) -> Iterator[dict[str, Future[tuple[str, bytes]]]]:
    """The boots of all layouts, under way."""
    with ThreadPoolExecutor(1) as pool:
        yield {name: pool.submit(answers, images[name], *typed) for name, typed in TYPED.items()}
        pool.shutdown(cancel_futures=True)


def image_with(keyboard: str, folder: Path) -> Path:
    wanted = replace(profile.load(profile.find(None)), keyboard=keyboard)
    return build(
        wanted, BuildOptions(output=folder, cache=default_folder()), PlainConsole(out=sys.stdout, err=sys.stderr)
    ).image


@pytest.mark.parametrize("name", TYPED)
def test_what_is_printed_on_the_keys_is_what_arrives(seen: dict[str, Future[tuple[str, bytes]]], name: str) -> None:
    arrived, _ = seen[name].result()
    assert arrived == TYPED[name][1]


def keymap_in(initrd: bytes) -> bytes:
    while initrd := initrd.lstrip(b"\0"):
        stream = lzma.LZMADecompressor()
        found = [entry.data for entry in cpio.unpack(stream.decompress(initrd)) if entry.name == KEYMAP_NAME]
        if found:
            return found[0]
        initrd = stream.unused_data
    raise AssertionError(f"{KEYMAP_NAME} is not in the initramfs")


@pytest.mark.parametrize("name", TYPED)
def test_the_kernel_has_the_keymap_that_is_in_the_image(
    seen: dict[str, Future[tuple[str, bytes]]], images: dict[str, Path], tmp_path: Path, name: str
) -> None:
    _, dumped = seen[name].result()
    initrd = direct_kernel(images[name], tmp_path).initrd.read_bytes()
    kernel, image = read_table(dumped), read_table(keymap_in(initrd))
    # dumpkmap shows maps of its own choice: Shift, AltGr, Ctrl and Alt, never three of them at once.
    shared = kernel.keys() & image.keys()
    assert shared >= {0, 1, 2, 4, 8}
    # Key code 0 is no key; there the kernel keeps whether it has the map.
    assert {number: kernel[number][1:] for number in shared} == {number: image[number][1:] for number in shared}
