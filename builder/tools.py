"""The programs that Bluelift runs: what for, from which version on, and how to get them."""

from __future__ import annotations

import enum
import os
import re
import shutil
from dataclasses import dataclass

from builder.errors import ToolFailed, ToolMissing
from builder.run import child_environment, run


class Purpose(enum.StrEnum):
    """What a machine needs a tool for."""

    BUILD = "build"
    WINPE = "build winpe"
    VERIFY = "verify"
    WINPE_PROOF = "prove winpe"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One program. `package` is Debian's name for what brings it; `version_option` makes it print its version."""

    name: str
    purpose: Purpose
    reason: str
    package: str
    minimum: tuple[int, ...] = ()
    version_option: str = "--version"
    alternatives: tuple[str, ...] = ()

    @property
    def how_to_get(self) -> str:
        """One line to type, or one sentence."""
        return f"apt-get install {self.package}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A tool as it is on this machine. `path` is empty where it is missing, `version` where it does not say."""

    tool: Tool
    path: str
    version: str
    problem: str


TOOLS: tuple[Tool, ...] = (
    Tool(
        name="apt-get",
        purpose=Purpose.BUILD,
        reason="resolve and download Debian's packages",
        package="apt",
        minimum=(2, 6),
    ),
    Tool(name="dpkg-deb", purpose=Purpose.BUILD, reason="unpack Debian's packages", package="dpkg"),
    Tool(
        name="qemu-system-x86_64", purpose=Purpose.VERIFY, reason="boot images", package="qemu-system-x86", minimum=(7,)
    ),
    Tool(name="unshare", purpose=Purpose.VERIFY, reason="mount in a name space of its own", package="util-linux"),
    Tool(name="mkntfs", purpose=Purpose.VERIFY, reason="make broken Windows disks", package="ntfs-3g"),
    Tool(name="ntfs-3g", purpose=Purpose.VERIFY, reason="fill broken Windows disks", package="ntfs-3g"),
    Tool(name="ntfscat", purpose=Purpose.VERIFY, reason="read repaired disks back", package="ntfs-3g"),
    Tool(name="ntfsls", purpose=Purpose.VERIFY, reason="read repaired disks back", package="ntfs-3g"),
    Tool(
        name="fusermount3",
        purpose=Purpose.VERIFY,
        reason="mount broken Windows disks without root",
        package="fuse3",
        alternatives=("fusermount",),
    ),
    Tool(name="mdir", purpose=Purpose.VERIFY, reason="read receipts back from sticks", package="mtools"),
    Tool(name="fsck.vfat", purpose=Purpose.VERIFY, reason="check sticks after a boot", package="dosfstools"),
    Tool(name="qemu-img", purpose=Purpose.VERIFY, reason="boot VHDs and VHDXs", package="qemu-utils"),
    Tool(name="dislocker-file", purpose=Purpose.VERIFY, reason="read unlocked volumes back", package="dislocker"),
    Tool(name="wine", purpose=Purpose.WINPE, reason="freeze the payload as a Windows program", package="wine wine64"),
    Tool(name="osslsigncode", purpose=Purpose.WINPE, reason="check Python's signatures", package="osslsigncode"),
    Tool(
        name="x86_64-w64-mingw32-gcc",
        purpose=Purpose.WINPE_PROOF,
        reason="make stand-ins for Windows's own programs (make winpe-demo)",
        package="gcc-mingw-w64-x86-64-win32",
    ),
    Tool(
        name="wimlib-imagex",
        purpose=Purpose.WINPE_PROOF,
        reason="read built WIMs by another program",
        package="wimtools",
    ),
    Tool(
        name="7z",
        purpose=Purpose.WINPE_PROOF,
        reason="read built ISOs and WIMs by another program",
        package="p7zip-full",
    ),
    Tool(
        name="genisoimage", purpose=Purpose.WINPE_PROOF, reason="compare the speed (make bench)", package="genisoimage"
    ),
)


def find(tool: Tool) -> Found:
    """Where `tool` is and what version it says it is. Never raises: what is wrong is in `problem`."""
    search = child_environment()["PATH"]
    names = (tool.name, *tool.alternatives)
    path = next((found for name in names if (found := shutil.which(name, path=search))), "")
    if not path:
        return Found(tool=tool, path="", version="", problem="not found")
    version = _version(path, tool)
    if tool.minimum and version and numbers(version) < tool.minimum:
        wanted = ".".join(map(str, tool.minimum))
        return Found(tool=tool, path=path, version=version, problem=f"version {version}, at least {wanted} is needed")
    return Found(tool=tool, path=path, version=version, problem="")


def numbers(version: str) -> tuple[int, ...]:
    """`7.2.19` as (7, 2, 19), for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def is_root() -> bool:
    """Whether this process may do everything."""
    return os.geteuid() == 0


def _version(path: str, tool: Tool) -> str:
    try:
        said = run([path, tool.version_option], reason="ask for its version", time_limit=10, ok=range(256))
    except (ToolFailed, ToolMissing):
        return ""
    match = re.search(r"\d+(?:\.\d+)+", said.said)
    return match.group() if match else ""
