"""Boot programs of our own that stand in for Microsoft's, so that a built WinPE ISO can be proven to boot.

`etfsboot` is what BIOS starts from a CD: it prints a nonce and whether all of its 8 sectors were loaded; `bootmgr` is
the same for a hybrid image that is a disk. `efisys` is what UEFI starts: a FAT floppy with a program that reads
`\\sources\\boot.wim` through the medium's own file system and prints its sha256. All print to the screen and to COM1,
and power the machine off. None of them starts Windows.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ToolMissing, UsageError
from builder.media.assembler import Assembler, flat_segments, word
from builder.media.fat import FatFile, fat_image
from builder.resources import templates
from builder.run import run

COMPILER = "x86_64-w64-mingw32-gcc"
ETFSBOOT_SIZE = 4096
#: More than a segment, and no whole number of what is read at once.
_UNIT = 2048
BOOTMGR_SIZE = 49 * _UNIT
EFISYS_SIZE = 1_474_560
_SAYS = "BLUELIFT-STANDIN"
_NONCE = re.compile(r"[0-9A-Za-z-]{1,64}")
_SOURCE = "standin/uefi_boot.c"
_REPORT = re.compile(
    r"BLUELIFT-STANDIN (?P<firmware>bios|uefi) (?P<nonce>[0-9A-Za-z-]{1,64}) "
    r"(?:8 sectors loaded|bootmgr loaded|boot\.wim (?P<size>\d+) sha256 (?P<sha256>[0-9a-f]{64})"
    r"|(?P<problem>[^\r\n]*)) end"
)


@dataclass(frozen=True, kw_only=True)
class StandinReport:
    """What a stand-in said: `problem` is empty where all is well. `size` (bytes) and `sha256` are boot.wim's (UEFI)."""

    firmware: str
    nonce: str
    problem: str = ""
    size: int = 0
    sha256: str = ""


def parse_report(console: str, nonce: str) -> StandinReport | None:
    """The report with this nonce in what a guest wrote to its serial port; None where there is none."""
    for found in _REPORT.finditer(console):
        if found["nonce"] == nonce:
            return StandinReport(
                firmware=found["firmware"],
                nonce=nonce,
                problem=found["problem"] or "",
                size=int(found["size"] or 0),
                sha256=found["sha256"] or "",
            )
    return None


def etfsboot(nonce: str) -> bytes:
    """A BIOS boot program of 4096 bytes, as etfsboot.com: El Torito loads its 8 sectors to 0x7c00 and starts it.

    The sum of its 16-bit words is zero, and its later sectors are not: fewer sectors loaded is a wrong sum.
    """
    _check(nonce)
    good = f"\r\n{_SAYS} bios {nonce} 8 sectors loaded end\r\n".encode() + b"\0"
    bad = f"\r\n{_SAYS} bios {nonce} not all sectors were loaded end\r\n".encode() + b"\0"
    code = Assembler(0x7C00)
    _setup(code)
    _sum_of_words(code)
    code.emit("BE {good}", "mov si, good")
    code.emit("74 {+print}", "jz print")
    code.emit("BE {bad}", "mov si, bad")
    code.label("print")
    _print_loop(code)
    _power_off(code)
    code.data("good", good)
    code.data("bad", bad)
    return _summing_to_zero(code.assembled(), nonce, ETFSBOOT_SIZE)


def bootmgr(nonce: str) -> bytes:
    """A program of BOOTMGR_SIZE bytes, as bootmgr: a disk's boot code loads it to 2000:0000 and starts it.

    It checks, as `etfsboot` does, that all of it was loaded, and that the boot sector at 0000:7c00 is one of FAT32.
    """
    _check(nonce)
    code = Assembler(0)
    code.emit("8C C8 8E D8", "mov ax, cs; mov ds, ax")
    code.emit("31 C0 8E C0", "xor ax, ax; mov es, ax")
    code.emit("FC", "cld")
    _serial_port(code)
    _sum_of_units(code)
    code.emit("BE {partly}", "mov si, partly")
    code.emit("75 {+print}", "jnz print")
    code.emit("BE {sector}", "mov si, sector")
    code.emit("26 81 3E 52 7C 46 41", "cmp word [es:7c52], 'FA'")
    code.emit("75 {+print}", "jne print")
    code.emit("26 81 3E FE 7D 55 AA", "cmp word [es:7dfe], aa55")
    code.emit("75 {+print}", "jne print")
    code.emit("BE {good}", "mov si, good")
    code.label("print")
    _print_loop(code)
    _power_off(code)
    for name, text in (
        ("good", "bootmgr loaded"),
        ("partly", "bootmgr was loaded partly"),
        ("sector", "no boot sector of FAT32 at 7c00"),
    ):
        code.data(name, f"\r\n{_SAYS} bios {nonce} {text} end\r\n".encode() + b"\0")
    return _summing_to_zero(code.assembled(), nonce, BOOTMGR_SIZE)


def uefi_program(nonce: str) -> bytes:
    """The UEFI program as an x64 PE file. Raises ToolMissing without mingw's compiler, ToolFailed."""
    _check(nonce)
    source = templates() / _SOURCE
    with tempfile.TemporaryDirectory(prefix="bl-") as folder:
        output = Path(folder) / "bootx64.efi"
        try:
            run(
                compile_argv(source, output, nonce),
                reason="make the stand-in for Windows's boot manager",
                time_limit=120,
            )
        except ToolMissing as error:
            raise ToolMissing(
                error.message, hint="Install gcc-mingw-w64-x86-64-win32 (apt install gcc-mingw-w64-x86-64-win32)."
            ) from error
        return output.read_bytes()


def compile_argv(source: Path, output: Path, nonce: str) -> tuple[str, ...]:
    """The command that compiles the UEFI program: an EFI application (subsystem 10) without time stamps."""
    return (
        COMPILER,
        *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f'-DNONCE="{nonce}"'),
        *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-mno-stack-arg-probe", "-mno-red-zone"),
        *("-fno-tree-loop-distribute-patterns", "-fno-ident", "-nostdlib", "-s"),
        *("-Wl,--subsystem,10", "-Wl,--dynamicbase", "-Wl,--no-insert-timestamp", "-e", "efi_main"),
        *("-o", str(output), str(source)),
    )


def efisys(program: bytes, *, epoch: int) -> bytes:
    """A FAT floppy of 1.44 MB with `program` as EFI/BOOT/BOOTX64.EFI. `epoch`: seconds UTC."""
    files = [FatFile(path="EFI/BOOT/BOOTX64.EFI", data=program)]
    return fat_image(files, label="EFISECTOR", serial=0x291, epoch=epoch, size=EFISYS_SIZE)


def _check(nonce: str) -> None:
    if not _NONCE.fullmatch(nonce):
        raise UsageError(f"'{nonce}' cannot be a stand-in's nonce: 1 to 64 letters, digits and '-'")


def _summing_to_zero(program: bytes, nonce: str, size: int) -> bytes:
    """`program` with something behind it, so that the 16-bit words of all its `size` bytes add up to zero."""
    filler = b"".join(hashlib.sha256(f"{nonce}/{n}".encode()).digest() for n in range(size // 32))
    whole = program + filler[len(program) : size - 2]
    total = sum(struct.unpack(f"<{(size - 2) // 2}H", whole))
    return whole + struct.pack("<H", -total & 0xFFFF)


def _setup(code: Assembler) -> None:
    """Segments, a stack, and COM1 at 115200 8N1."""
    code.emit("FA", "cli")
    code.emit("EA 06 7C 00 00", "jmp 0000:7c06, wherever cs was")
    flat_segments(code)
    _serial_port(code)


def _serial_port(code: Assembler) -> None:
    """COM1 at 115200 8N1."""
    for port, value in ((0x3F9, 0x00), (0x3FB, 0x80), (0x3F8, 0x01), (0x3F9, 0x00), (0x3FB, 0x03), (0x3FA, 0xC7)):
        code.emit(f"BA {word(port)}", f"mov dx, {port:#x}")
        code.emit(f"B0 {value:02x} EE", f"mov al, {value:#x}; out dx, al")


def _sum_of_words(code: Assembler) -> None:
    """bx = the sum of the 2048 words from 7c00; the zero flag says whether it is zero."""
    code.emit("BE 00 7C", "mov si, 7c00")
    code.emit("B9 00 08", "mov cx, 2048")
    code.emit("31 DB", "xor bx, bx")
    code.label("add")
    code.emit("AD", "lodsw")
    code.emit("01 C3", "add bx, ax")
    code.emit("E2 {+add}", "loop add")
    code.emit("85 DB", "test bx, bx")


def _sum_of_units(code: Assembler) -> None:
    """bx = the sum of the words of BOOTMGR_SIZE bytes from cs:0; the zero flag says whether it is zero."""
    code.emit(f"BA {word(BOOTMGR_SIZE // _UNIT)}", "mov dx, units")
    code.emit("31 DB", "xor bx, bx")
    code.label("unit")
    code.emit("31 F6", "xor si, si")
    code.emit(f"B9 {word(_UNIT // 2)}", "mov cx, words of a unit")
    code.label("add")
    code.emit("AD", "lodsw")
    code.emit("01 C3", "add bx, ax")
    code.emit("E2 {+add}", "loop add")
    code.emit("8C D8", "mov ax, ds")
    code.emit(f"05 {word(_UNIT // 16)}", "add ax, paragraphs of a unit")
    code.emit("8E D8", "mov ds, ax")
    code.emit("4A", "dec dx")
    code.emit("75 {+unit}", "jnz unit")
    code.emit("8C C8 8E D8", "mov ax, cs; mov ds, ax")
    code.emit("85 DB", "test bx, bx")


def _print_loop(code: Assembler) -> None:
    """Print the text at si, up to its zero, to the screen and to COM1, and wait until it is sent."""
    code.label("next")
    code.emit("AC", "lodsb")
    code.emit("84 C0", "test al, al")
    code.emit("74 {+sent}", "jz sent")
    code.emit("50 56", "push ax; push si")
    code.emit("B4 0E BB 07 00 CD 10", "mov ah, 0e; mov bx, 7; int 10")
    code.emit("5E", "pop si")
    code.emit("BA FD 03", "mov dx, 3fd")
    code.label("busy")
    code.emit("EC A8 20", "in al, dx; test al, 20: room for a byte")
    code.emit("74 {+busy}", "jz busy")
    code.emit("58", "pop ax")
    code.emit("B2 F8 EE", "mov dl, f8; out dx, al")
    code.emit("EB {+next}", "jmp next")
    code.label("sent")
    code.emit("BA FD 03", "mov dx, 3fd")
    code.label("sending")
    code.emit("EC A8 40", "in al, dx; test al, 40: the transmitter is empty")
    code.emit("74 {+sending}", "jz sending")


def _power_off(code: Assembler) -> None:
    """APM 1.2: connect, say that 1.2 is understood, power everything off (INT 15h AX=5301h, 530Eh, 5307h)."""
    code.emit("B8 01 53 31 DB CD 15", "mov ax, 5301; xor bx, bx; int 15")
    code.emit("B8 0E 53 31 DB B9 02 01 CD 15", "mov ax, 530e; xor bx, bx; mov cx, 0102; int 15")
    code.emit("B8 07 53 BB 01 00 B9 03 00 CD 15", "mov ax, 5307; mov bx, 1; mov cx, 3; int 15")
    code.label("halt")
    code.emit("F4 EB {+halt}", "hlt; jmp halt")
