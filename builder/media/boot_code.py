"""What BIOS starts from the first block of a disk: at most 440 bytes, loaded to 0000:7c00 with the drive in dl.

Sources: BIOS interrupts 10h, 13h, 16h and 18h; "BIOS Enhanced Disk Drive Services", function 42h; GNU GRUB's `ntldr`
command for how Windows's BOOTMGR is started; GNU xorriso's documentation of "grub2-mbr".
"""

from __future__ import annotations

import struct

from builder.errors import OutputError
from builder.media.assembler import Assembler, flat_segments, word

LONGEST = 440
_SECTOR = 512
#: Where GRUB's boot_hybrid.img keeps the disk's block at which the core image begins.
_CORE_AT = 0x1B0
#: BOOTMGR is loaded to 2000:0000, and below a000:0000 the BIOS has data of its own.
LARGEST_BOOTMGR = 0x7C000
_HOME = 0x0600
#: Sectors that are read at once: half a segment, so that no transfer crosses one.
_AT_ONCE = 64
#: How far every `bootmgr_code` is the same.
_SAME = 34
_UEFI_ONLY = "This disk starts hosts with UEFI firmware.\r\nFor BIOS, burn the image to a disc or attach it as one.\r\n"
_FAILED = "The disk cannot be read.\r\n"


def grub_code(boot_hybrid: bytes, core: int) -> bytes:
    """GRUB's boot_hybrid.img, told that its core image begins at block `core` (of 512 bytes) of the disk."""
    code = bytearray(boot_hybrid.ljust(LONGEST, b"\0"))
    if len(code) != LONGEST:
        raise OutputError(f"boot code of {len(code)} bytes does not fit before a partition table ({LONGEST})")
    struct.pack_into("<Q", code, _CORE_AT, core)
    return bytes(code)


def uefi_only_code() -> bytes:
    """Says that this disk is for UEFI, and lets the firmware try the next one after a key."""
    code = Assembler(0x7C00)
    code.emit("31 C0 8E D8", "xor ax, ax; mov ds, ax")
    code.emit("BE {message}", "mov si, message")
    _say_and_give_up(code)
    code.data("message", _UEFI_ONLY.encode() + b"\0")
    return code.assembled()


def bootmgr_code(*, first: int, size: int, partition: int) -> bytes:
    """Loads Windows's BOOTMGR, which lies in one piece, and starts it as the boot sector of its FAT32 volume does.

    `first`: BOOTMGR's first block of 512 bytes on the disk, `size` in bytes; `partition`: the volume's first block,
    whose boot sector BOOTMGR finds at 0000:7c00. Raises OutputError for a BOOTMGR that memory cannot hold.
    """
    if not 0 < size <= LARGEST_BOOTMGR:
        raise OutputError(f"bootmgr has {size} bytes; at most {LARGEST_BOOTMGR} can be loaded")
    code = Assembler(_HOME)
    _move_home(code)
    code.emit(f"BD {word(-(-size // _SECTOR))}", "mov bp, sectors of bootmgr")
    code.label("next")
    code.emit(f"B8 {word(_AT_ONCE)}", "mov ax, the most at once")
    code.emit("39 C5", "cmp bp, ax")
    code.emit("73 {+enough}", "jae enough")
    code.emit("89 E8", "mov ax, bp")
    code.label("enough")
    code.emit("A3 {count}", "mov [count], ax")
    _read(code)
    code.emit("A1 {count}", "mov ax, [count]")
    code.emit("29 C5", "sub bp, ax")
    code.emit("01 06 {block}", "add [block], ax")
    code.emit("83 16 {block_high} 00", "adc word [block_high], 0")
    code.emit("C1 E0 05", "shl ax, 5: sectors as paragraphs")
    code.emit("01 06 {segment}", "add [segment], ax")
    code.emit("85 ED", "test bp, bp")
    code.emit("75 {+next}", "jnz next")
    code.emit("C7 06 {count} 01 00", "mov word [count], 1")
    code.emit("C7 06 {offset} 00 7C", "mov word [offset], 7c00")
    code.emit("C7 06 {segment} 00 00", "mov word [segment], 0")
    code.emit(f"C7 06 {{block}} {word(partition & 0xFFFF)}", "mov word [block], partition")
    code.emit(f"C7 06 {{block_high}} {word(partition >> 16)}", "mov word [block_high], partition >> 16")
    _read(code)
    code.emit("8A 16 {drive}", "mov dl, [drive]")
    code.emit("EA 00 00 00 20", "jmp 2000:0000")
    code.label("failed")
    code.emit("BE {message}", "mov si, message")
    _say_and_give_up(code)
    code.data("message", _FAILED.encode() + b"\0")
    code.data("drive", b"\x80")
    code.data("packet", struct.pack("<BB", 16, 0))
    code.data("count", struct.pack("<H", 1))
    code.data("offset", struct.pack("<H", 0))
    code.data("segment", struct.pack("<H", 0x2000))
    code.data("block", struct.pack("<H", first & 0xFFFF))
    code.data("block_high", struct.pack("<HI", first >> 16, 0))
    return code.assembled()


def bios_starts(sector: bytes) -> str:
    """In words, what the boot code in a disk's first block starts; "unknown" for code that is not known here."""
    code = sector[:LONGEST]
    if not any(code):
        return "nothing"
    if code.startswith(uefi_only_code()):
        return "a sentence: UEFI only"
    if code.startswith(bootmgr_code(first=0, size=1, partition=0)[:_SAME]):
        return "BOOTMGR (experimental)"
    return "GRUB" if b"GRUB" in code else "unknown"


def _move_home(code: Assembler) -> None:
    """Away from 0000:7c00, which BOOTMGR wants for its volume's boot sector; the stack below it."""
    code.emit("FA", "cli")
    flat_segments(code)
    code.emit("BE 00 7C", "mov si, 7c00")
    code.emit(f"BF {word(_HOME)}", "mov di, home")
    code.emit("B9 00 01", "mov cx, 256")
    code.emit("F3 A5", "rep movsw")
    code.emit("EA {home} 00 00", "jmp 0000:home")
    code.label("home")
    code.emit("88 16 {drive}", "mov [drive], dl")


def _read(code: Assembler) -> None:
    """Read what the packet says (INT 13h AH=42h)."""
    code.emit("B4 42", "mov ah, 42")
    code.emit("8A 16 {drive}", "mov dl, [drive]")
    code.emit("BE {packet}", "mov si, packet")
    code.emit("CD 13", "int 13")
    code.emit("72 {+failed}", "jc failed")


def _say_and_give_up(code: Assembler) -> None:
    """Print the text at si up to its zero, wait for a key, and have the firmware try the next disk (INT 18h)."""
    code.label("say")
    code.emit("AC", "lodsb")
    code.emit("84 C0", "test al, al")
    code.emit("74 {+said}", "jz said")
    code.emit("B4 0E BB 07 00 CD 10", "mov ah, 0e; mov bx, 7; int 10")
    code.emit("EB {+say}", "jmp say")
    code.label("said")
    code.emit("31 C0 CD 16", "xor ax, ax; int 16")
    code.emit("CD 18", "int 18")
    code.label("halt")
    code.emit("F4 EB {+halt}", "hlt; jmp halt")
