"""Base media for the winpe environment, whatever their kind: one door to `windows_iso`, `adk` and `winre`."""

from __future__ import annotations

from pathlib import Path

from builder.base.adk import open_adk
from builder.base.wim_choice import Choice as Choice
from builder.base.wim_choice import Wanted as Wanted
from builder.base.wim_choice import choose_image as choose_image
from builder.base.windows_iso import open_windows_iso
from builder.base.windows_media import BaseKind as BaseKind
from builder.base.windows_media import WindowsBase as WindowsBase
from builder.base.windows_media import WindowsBaseSettings as WindowsBaseSettings
from builder.base.winre import open_winre
from builder.errors import BaseMediaError


def open_base(settings: WindowsBaseSettings) -> WindowsBase:
    """Open the base media of a profile. Raises BaseMediaError saying what is missing or what was found instead."""
    if settings.kind is BaseKind.WINDOWS_ISO:
        return open_windows_iso(settings.path)
    if settings.kind is BaseKind.ADK:
        return open_adk(settings.path)
    if settings.media is None:
        raise BaseMediaError(
            f"{settings.path} holds no boot files: a winre base needs 'media' too",
            hint="Give a Windows install ISO or an ADK WinPE folder as 'media'.",
        )
    return open_winre(settings.path, open_media(settings.media))


def open_media(path: Path) -> WindowsBase:
    """Media that can lend boot files: a folder is an ADK's, a file an ISO."""
    return open_adk(path) if path.is_dir() else open_windows_iso(path)
