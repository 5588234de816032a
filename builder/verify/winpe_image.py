"""A WinPE image taken apart: its boot.wim's files in a folder, as `builder.verify.wine_run` starts them."""

from __future__ import annotations

from pathlib import Path

from builder.base.windows_iso import read_iso
from builder.base.windows_media import BOOT_WIM
from builder.errors import ImageError
from builder.wim import Wim, open_wim


def boot_wim_of(iso: Path) -> Wim:
    """The boot.wim on an ISO, read in place. Raises ImageError, BaseMediaError."""
    files = {path.lower(): content for path, content in read_iso(iso).files.items()}
    if BOOT_WIM not in files:
        raise ImageError(f"{iso} has no {BOOT_WIM}", hint="Give an ISO that 'bluelift build winpe' made.")
    return open_wim(files[BOOT_WIM])


def take_apart(wim: Wim, index: int, into: Path) -> Path:
    """Write every file of image `index` below `into`, each checked against its sha1; returns `into`."""
    for entry in wim.walk(index):
        target = into / entry.path
        if entry.is_folder:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wim.read_entry(entry))
    return into
