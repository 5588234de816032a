"""What base media that the user owns give: a boot.wim, the files around it, and what boots them.

`windows_iso`, `adk` and `winre` each turn a path into a `WindowsBase`; `builder.base.windows` picks one.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError
from builder.extents import Extents

BOOT_WIM = "sources/boot.wim"
ETFSBOOT = "boot/etfsboot.com"
EFISYS = "efi/microsoft/boot/efisys.bin"
EFISYS_NOPROMPT = "efi/microsoft/boot/efisys_noprompt.bin"
BOOTFIX = "boot/bootfix.bin"
BCD_BIOS = "boot/bcd"
BCD_UEFI = "efi/microsoft/boot/bcd"
#: UEFI's loader on the medium by architecture (UEFI specification, 3.5.1.1).
LOADERS = {"x64": "efi/boot/bootx64.efi", "arm64": "efi/boot/bootaa64.efi", "x86": "efi/boot/bootia32.efi"}
_LARGEST_SMALL_FILE = 64 << 20
_LARGEST_BOOT_IMAGE = 64 << 20


class BaseKind(enum.StrEnum):
    """The kinds of base media for the winpe environment, as a profile names them."""

    WINDOWS_ISO = "windows-iso"
    ADK = "adk"
    WINRE = "winre"


@dataclass(frozen=True, kw_only=True)
class WindowsBaseSettings:
    """What a profile says about its base. `media`: for winre, the ISO or ADK folder that lends its boot files."""

    kind: BaseKind
    path: Path
    media: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A file of the base media: `path` in lower case, "/" between parts, and its bytes."""

    path: str
    content: Extents


@dataclass(frozen=True, kw_only=True)
class WindowsBase:
    """Base media, opened and looked at; nothing was copied or mounted.

    `files`: bootmgr, bootmgr.efi, and everything below boot/ and efi/, sorted by path. `bios_image` is etfsboot.com
    (4096 bytes, no boot information table), None where the media have none (ARM64); `uefi_image` is efisys.bin, and
    `uefi_image_noprompt` its sibling that asks for no key. `architecture`: x64, arm64, x86, or "" where unknown.
    `source` and `media_source` are what the user gave; `notes` are facts worth a line.
    """

    kind: BaseKind
    source: Path
    media_source: Path
    boot_wim: Extents
    files: tuple[MediaFile, ...]
    bios_image: bytes | None
    uefi_image: bytes | None
    uefi_image_noprompt: bytes | None
    architecture: str
    volume_id: str
    notes: tuple[str, ...] = ()

    def file(self, path: str) -> MediaFile | None:
        """The media file at `path`, ignoring case."""
        wanted = path.lower()
        return next((file for file in self.files if file.path == wanted), None)

    def content(self, path: str) -> bytes:
        """The bytes of a media file. Raises BaseMediaError naming it when it is not there."""
        found = self.file(path)
        if found is None:
            raise BaseMediaError(f"{self.media_source} has no {path}", hint=WHERE_TO_GET_MEDIA)
        return small(found.content)


WHERE_TO_GET_MEDIA = (
    "Give a Windows 10, 11 or Server install ISO, or an ADK WinPE folder as copype makes it "
    "(base: {kind: windows-iso | adk, path: ...})."
)


def refuse_architecture(base: WindowsBase, *, payload_architectures: Iterable[str]) -> None:
    """BaseMediaError for media that no frozen payload fits, for example ARM64 ones without an ARM64 payload."""
    given = tuple(payload_architectures)
    if base.architecture and base.architecture not in given:
        raise BaseMediaError(
            f"{base.source} is for {base.architecture} machines; the frozen payload is for {' and '.join(given)}",
            hint="WinPE runs programs of its own architecture only. Use x64 media, or give a payload frozen for "
            f"{base.architecture} with --payload-exe.",
        )


def media_files(found: Mapping[str, Extents]) -> tuple[MediaFile, ...]:
    """Of all files by path, those a bootable medium needs beside boot.wim, sorted."""
    lower = {path.lower(): content for path, content in found.items()}
    wanted = (p for p in lower if p in ("bootmgr", "bootmgr.efi") or p.startswith(("boot/", "efi/")))
    return tuple(MediaFile(path=path, content=lower[path]) for path in sorted(wanted))


def small(content: Extents) -> bytes:
    """The bytes of a file that is never large. Raises BaseMediaError when it is."""
    if content.size > _LARGEST_SMALL_FILE:
        raise BaseMediaError(f"{content.name} has {content.size} bytes, which is not what it should be")
    return content.read_all()


def architecture_of(files: Iterable[MediaFile]) -> str:
    """The architecture of media, by their UEFI loaders; "" where there is none or there are several."""
    paths = {file.path for file in files}
    found = [architecture for architecture, loader in LOADERS.items() if loader in paths]
    return found[0] if len(found) == 1 else ""


def fat_size(head: bytes) -> int:
    """Bytes of the FAT volume that begins with `head` (FAT specification, "BPB"); 0 where it is not one."""
    if len(head) < 512 or head[510:512] != b"\x55\xaa":
        return 0
    sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    total = int.from_bytes(head[19:21], "little") or int.from_bytes(head[32:36], "little")
    plausible = sector in (512, 1024, 2048, 4096) and per_cluster and reserved and fats in (1, 2)
    size = total * sector
    return size if plausible and size <= _LARGEST_BOOT_IMAGE else 0
