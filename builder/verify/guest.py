"""What an image boots, as far as it says so itself, and what a machine for it needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from builder.base.windows_iso import read_iso
from builder.base.windows_media import BOOT_WIM, small
from builder.errors import BuilderError
from payload.contract import MEDIUM_FOLDER, MEDIUM_IDENTITY

_IDENTITY = f"{MEDIUM_FOLDER}/{MEDIUM_IDENTITY}".lower()


@dataclass(frozen=True, kw_only=True)
class Guest:
    """The environment ("linux", "winpe"), the memory in MiB that it needs, and seconds that a boot may take."""

    environment: str
    memory_mib: int
    limit: float


LINUX = Guest(environment="linux", memory_mib=1024, limit=180)
#: boot.wim lies in memory as a whole; under TCG Windows takes many minutes.
WINPE = Guest(environment="winpe", memory_mib=2048, limit=1800)


def guest_of(image: Path) -> Guest:
    """What the image says it boots; where it says nothing, WinPE if it holds a boot.wim, else Linux."""
    try:
        files = {path.lower(): content for path, content in read_iso(image).files.items()}
        identity = json.loads(small(files[_IDENTITY])) if _IDENTITY in files else {}
    except (BuilderError, ValueError):
        return LINUX
    said = identity.get("environment") if isinstance(identity, dict) else None
    if said in (LINUX.environment, WINPE.environment):
        return WINPE if said == WINPE.environment else LINUX
    return WINPE if BOOT_WIM in files else LINUX
