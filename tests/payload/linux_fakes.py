"""What the tests of the Linux environment stand on: sysfs trees, programs and NTFS volumes of their own."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid5

import pytest

from payload.contract import PayloadConfig
from payload.environment.linux_paths import LinuxPaths

IMAGE_ID = "test-image-1"
MIB = 1 << 20
_NAMESPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


def config(**changes: object) -> PayloadConfig:
    """A configuration without rules."""
    values: dict[str, object] = {"image_id": IMAGE_ID, "rules": (), "serial": "ttyS9", **changes}
    return PayloadConfig(**values)  # type: ignore[arg-type]


def gpt(partitions: Sequence[tuple[str, int, int, str]], sectors: int, sector_size: int = 512) -> tuple[bytes, bytes]:
    """(start of the disk, end of the disk) of a GPT; partitions are (type, first LBA, last LBA, name)."""
    entries = b"".join(
        UUID(kind).bytes_le
        + uuid5(_NAMESPACE, f"{name}{first}").bytes_le
        + struct.pack("<QQQ", first, last, 0)
        + name.encode("utf-16-le").ljust(72, b"\0")
        for kind, first, last, name in partitions
    ).ljust(128 * 128, b"\0")
    table_sectors = len(entries) // sector_size

    def header(own: int, other: int, table: int) -> bytes:
        raw = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, own, other, 2 + table_sectors,
            sectors - table_sectors - 2, uuid5(_NAMESPACE, "disk").bytes_le, table, 128, 128, zlib.crc32(entries),
        )  # fmt: skip
        return (raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]).ljust(sector_size, b"\0")

    protective = mbr([(0xEE, 1, min(sectors - 1, 0xFFFFFFFF))]).ljust(sector_size, b"\0")
    last = sectors - 1
    return protective + header(1, last, 2) + entries, entries + header(last, 1, last - table_sectors)


def mbr(entries: Sequence[tuple[int, int, int]], status: int = 0) -> bytes:
    """An MBR of (type, first sector, sectors)."""
    table = b"".join(struct.pack("<B3sB3sII", status, bytes(3), kind, bytes(3), first, n) for kind, first, n in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


@dataclass
class FakeMachine:
    """Trees for sysfs, /dev, /proc, efivars and a folder of fake programs, which come before the real ones."""

    root: Path
    programs: Path
    paths: LinuxPaths = field(init=False)

    def __post_init__(self) -> None:
        self.paths = LinuxPaths(
            sysfs=self.root / "sys",
            dev=self.root / "dev",
            proc=self.root / "proc",
            efivars=self.root / "sys/firmware/efi/efivars",
            mounts=self.root / "run",
        )
        for path in (self.paths.sysfs / "class/block", self.paths.dev, self.paths.proc, self.programs):
            path.mkdir(parents=True, exist_ok=True)
        (self.paths.dev / "fuse").touch()
        # Nothing here may take this for the machine that an image has started.
        (self.paths.proc / "mounts").symlink_to("/proc/mounts")

    def text(self, path: str, text: str | bytes) -> Path:
        """A file below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        return target

    def disk(
        self,
        name: str,
        size: int,
        *,
        where: str = "pci0000:00/ata1/host0/target0:0:0/0:0:0:0",
        node: Path | None = None,
        removable: bool = False,
        **attributes: str | bytes,
    ) -> Path:
        """A disk in sysfs and its node in /dev: a link to `node`, or a sparse file."""
        real = self.paths.sysfs / "devices" / where / "block" / name
        real.mkdir(parents=True)
        (self.paths.sysfs / "class/block" / name).symlink_to(real)
        values = {"size": str(size // 512), "removable": str(int(removable)), "ro": "0", **attributes}
        for attribute, value in values.items():
            target = real / attribute.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(value.encode() if isinstance(value, str) else value)
        self._node(name, size, node)
        return real

    def partition(self, disk: Path, number: int, start: int, size: int, node: Path | None = None) -> str:
        """A partition of such a disk."""
        name = disk.name + ("p" if disk.name[-1].isdigit() else "") + str(number)
        real = disk / name
        real.mkdir()
        (self.paths.sysfs / "class/block" / name).symlink_to(real)
        for attribute, value in (("partition", number), ("start", start // 512), ("size", size // 512)):
            (real / attribute).write_text(f"{value}\n")
        self._node(name, size, node)
        return name

    def program(self, name: str, script: str) -> Path:
        """A program that goes before the real one of that name; it logs its arguments to `calls`."""
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.root}/calls\n{script}\n')
        path.chmod(0o755)
        return path

    @property
    def calls(self) -> list[str]:
        """What fake programs were called as."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def _node(self, name: str, size: int, node: Path | None) -> None:
        target = self.paths.dev / name
        if node is not None:
            target.symlink_to(node)
        else:
            with target.open("wb") as stream:
                stream.truncate(size)


def make_ntfs(path: Path, *, size: int = 24 * MIB, label: str = "Windows") -> Path:
    """An NTFS volume in a file."""
    with path.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mkntfs", "-q", "-F", "-L", label, str(path)], check=True, capture_output=True)
    return path


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where a program is missing, and say which."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def can_mount() -> str:
    """Why NTFS volumes cannot be mounted here; empty where they can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists():
        return "mounting needs FUSE and loop devices"
    missing = [name for name in ("ntfs-3g", "mkntfs", "losetup") if shutil.which(name) is None]
    return f"mounting needs {', '.join(missing)}" if missing else ""
