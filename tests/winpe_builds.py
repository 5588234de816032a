"""WinPE builds for tests: from the stand-in install ISO, with the payload frozen once for all tests; and from media
and a payload of a few kilobytes, which a build takes and nothing could run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from builder.bcd import BcdFirmware, BcdSettings, new_store
from builder.errors import ToolMissing
from builder.frozen import payload_of
from builder.verify.standin import wine_folder
from builder.verify.standin_boot import COMPILER
from builder.wim_library import library
from tests.unit.pe_maker import AMD64, pe_file
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, libwim_wim
from tests.unit.windows_media_maker import EPOCH, windows_iso

#: What a small WinPE has in it.
SMALL_WINPE = {**PE_FILES, **BITLOCKER_FILES}


def lacking() -> str:
    """What this machine lacks to make the stand-in and build from it; "" where nothing is missing."""
    missing = [name for name in ("wine", COMPILER) if shutil.which(name) is None]
    for needed in (wine_folder, library):
        try:
            needed()
        except ToolMissing as error:
            missing.append(error.message)
    return ", ".join(missing)


def small_iso(path: Path, wim: bytes | Path | None = None, more: Mapping[str, bytes | Path | None] | None = None) -> Path:  # fmt: skip  # noqa: E501
    """A Windows install ISO that a build takes. `wim` is its boot.wim, `more` other files; None leaves one out."""
    if wim is None:
        wim = libwim_wim(path.with_suffix(".wim"), [SMALL_WINPE], boot_index=1)
    stores = {firmware.value: new_store(firmware, BcdSettings(timeout=30), epoch=EPOCH) for firmware in BcdFirmware}
    return windows_iso(path, {**stores, "sources/boot.wim": wim, **(more or {})})


def small_payload(folder: Path, machine: int = AMD64) -> Path:
    """A frozen payload as far as the builder looks at one."""
    runtime = pe_file(["KERNEL32.dll"], machine=machine)
    program = pe_file(["KERNEL32.dll", "VCRUNTIME140.dll"], machine=machine)
    payload_of({"payload.exe": program, "_internal/vcruntime140.dll": runtime}).write(folder)
    return folder


def libwim_is_missing() -> bool:
    """Whether this machine cannot even make small media."""
    try:
        library()
    except ToolMissing:
        return True
    return False
