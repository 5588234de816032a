"""Leaving under Windows: wpeutil in WinPE, shutdown.exe elsewhere.

No BootNext is set: WinPE's own boot manager restarts into the firmware's order, and the medium asks for a key.
"""

from __future__ import annotations

import ctypes
import errno
import sys
import winreg
from pathlib import Path

from payload.contract import AfterRepair
from payload.environment import windows_api as api
from payload.environment.windows_commands import run, run_on_console

_MINI_NT = r"SYSTEM\CurrentControlSet\Control\MiniNT"
#: Where the image has its configuration, below `image_folder`.
IMAGE_CONFIG = "config.json"
_LIMIT = 60.0
_NAME_LENGTH = 261
_IN_WINPE = {AfterRepair.REBOOT: ("wpeutil", "reboot"), AfterRepair.POWER_OFF: ("wpeutil", "shutdown")}
_IN_WINDOWS = {
    AfterRepair.REBOOT: ("/r", "/t", "0"),
    AfterRepair.POWER_OFF: ("/s", "/t", "0"),
}


def is_winpe() -> bool:
    """Whether this is Windows PE (or the recovery environment), by the key that only it has."""
    try:
        winreg.CloseKey(winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _MINI_NT))
    except OSError:
        return False
    return True


def image_folder() -> Path | None:
    """Bluelift's own folder inside the image that runs (X:\\Bluelift), one above the frozen payload's.

    None outside Windows PE, for there users may have made such a folder, and where there is no configuration: the
    portable payload on a stick, in the recovery environment.
    """
    folder = Path(sys.executable).parent.parent
    return folder if is_winpe() and (folder / IMAGE_CONFIG).is_file() else None


def leave(action: AfterRepair) -> None:
    """Restart or power off. Raises OSError where the program that does it says that it could not."""
    if action is AfterRepair.STAY:
        return
    if is_winpe():
        done = run(_IN_WINPE[action], time_limit=_LIMIT)
    else:
        done = run([_windows_own("shutdown.exe"), *_IN_WINDOWS[action]], time_limit=_LIMIT)
    if not done.ok:
        raise OSError(errno.EIO, done.sentence)


def shell() -> str:
    """A command prompt on the console until it is left; why there was none, or empty."""
    ended = run_on_console([_windows_own("cmd.exe"), "/k", "title Bluelift: type exit to come back"])
    return "" if ended.returncode >= 0 and not ended.output else ended.sentence


def _windows_own(name: str) -> str:
    """The path of a program of the Windows that runs: by its bare name, one in the current folder would be started."""
    folder = ctypes.create_unicode_buffer(_NAME_LENGTH)
    api.kernel32.GetWindowsDirectoryW(folder, len(folder))
    return rf"{folder.value}\System32\{name}"
