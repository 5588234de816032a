"""A winre.wim as base media: the recovery environment of an installed Windows, on boot files borrowed from other media.

`winre.wim` lies on the recovery partition (Recovery\\WindowsRE) or in System32\\Recovery; inside an install.wim it is
Windows\\System32\\Recovery\\Winre.wim. It holds no boot files: an install ISO or an ADK folder lends them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.base.windows_media import BaseKind, WindowsBase
from builder.errors import BaseMediaError, ImageError
from builder.extents import whole_file
from builder.wim import open_wim
from builder.wim_format import refuse_solid

_HINT = "Give winre.wim itself as 'path', and a Windows install ISO or an ADK WinPE folder as 'media'."


def open_winre(path: Path, lender: WindowsBase) -> WindowsBase:
    """Read a winre.wim, or a folder that holds one. Raises BaseMediaError when it and `lender` do not fit."""
    wim_path = _winre_file(path)
    try:
        wim = open_wim(wim_path)
        refuse_solid(wim.header, wim.name)
        architectures = {image.architecture for image in wim.images} - {""}
    except ImageError as error:
        raise BaseMediaError(error.message, hint=error.hint or _HINT) from error
    if lender.architecture and architectures and lender.architecture not in architectures:
        raise BaseMediaError(
            f"{path} is for {' and '.join(sorted(architectures))}, {lender.source} boots {lender.architecture}",
            hint="Take both from media of the same architecture.",
        )
    note = f"Boot files are borrowed from {lender.source}; they must not be older than {path.name}."
    return replace(
        lender,
        kind=BaseKind.WINRE,
        source=path,
        media_source=lender.media_source,
        boot_wim=whole_file(wim_path),
        notes=(*lender.notes, note),
    )


def _winre_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise BaseMediaError(f"{path} does not exist", hint=_HINT)
    found = sorted(p for p in path.rglob("*") if p.name.lower() == "winre.wim" and p.is_file())
    if not found:
        raise BaseMediaError(f"{path} holds no winre.wim", hint=_HINT)
    if len(found) > 1:
        raise BaseMediaError(
            f"{path} holds {len(found)} files named winre.wim: {', '.join(map(str, found))}", hint=_HINT
        )
    return found[0]
