"""BitLocker volumes under Windows: Windows's own BitLocker opens them, told by manage-bde.

manage-bde speaks the system's language, so only its exit code counts ("manage-bde unlock", Microsoft Learn: a volume is
named by its letter or its GUID path). The recovery password can be given on its command line alone. In Windows PE
nobody else is there to see it, and what was run is kept nowhere; in a Windows that runs (a rescue VM), administrators
can see it meanwhile, and a policy that audits command lines (event 4688) would keep it.
A suspended volume needs no key: Windows opens it by itself and never shows it as locked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from payload.environment import VolumeNotOpened, VolumeState
from payload.environment import windows_api as api
from payload.environment.completed import NOT_FOUND, TIMED_OUT
from payload.environment.locked import KeyRefused, UnlockKey
from payload.environment.windows_commands import run
from payload.environment.windows_power import is_winpe, windows_own
from payload.environment.windows_volumes import SeenVolume, look_at
from payload.formats import recovery_password
from payload.formats.fve import FveVolume, read_volume
from payload.formats.fve_entries import FveError, ProtectorKind

_UNLOCK_SECONDS = 120.0
_LOCK_SECONDS = 60.0
#: Windows mounts the file system when it is first asked for.
_OPENS_WITHIN = 20.0
_POLL_SECONDS = 0.25
#: What a volume's size is taken for where Windows does not tell it; no read goes so far.
_ANY_SIZE = 1 << 62

MISSING_ADVICE = (
    "Build the image from a base that has it: Windows install media or the recovery environment, with "
    "'bitlocker: true' in the profile."
)
STUCK_ADVICE = "Restart the host from this medium and try again."
DAMAGED_ADVICE = "The key is right. Run chkdsk on this volume; if its disk is failing, save its data first."


def read_metadata(seen: SeenVolume) -> FveVolume:
    """What a locked volume's metadata says, from its place on the disk. Raises FveError, OSError.

    The volume itself passes through BitLocker's filter; it is read where Windows does not tell the place, as under
    Storage Spaces, or where what stands there is no metadata.
    """
    if len(seen.extents) != 1:
        return _read_at(seen.device, 0, _ANY_SIZE)
    (extent,) = seen.extents
    try:
        return _read_at(rf"\\.\PhysicalDrive{extent.disk}", extent.start, extent.start + extent.size)
    except (FveError, OSError):
        with contextlib.suppress(FveError, OSError):
            return _read_at(seen.device, 0, _ANY_SIZE)
        raise


def unlock(seen: SeenVolume, key: UnlockKey) -> SeenVolume:
    """Unlock a volume; what is inside. Raises KeyRefused, VolumeNotOpened.

    Interrupted, or where manage-bde comes to no end, it is locked again: it may have been unlocked just then.
    """
    try:
        return _unlock(seen, key)
    except (KeyRefused, VolumeNotOpened):
        raise
    except BaseException:
        lock(seen)
        raise


def _unlock(seen: SeenVolume, key: UnlockKey) -> SeenVolume:
    with _arguments(key) as arguments:
        code = _manage_bde("-unlock", seen.root, *arguments, time_limit=_UNLOCK_SECONDS)
    if code == NOT_FOUND:
        detail = "The volume is encrypted with BitLocker, and this image has no manage-bde.exe to unlock it with."
        raise VolumeNotOpened(VolumeState.LOCKED, detail, MISSING_ADVICE)
    if code == TIMED_OUT:
        lock(seen)
        raise VolumeNotOpened(VolumeState.UNREADABLE, "Unlocking the volume came to no end.", STUCK_ADVICE)
    if code:
        raise KeyRefused(f"the {key.kind} does not open {seen.id} (manage-bde: exit code {code})")
    opened = _opened(seen)
    if opened.error is not None:
        lock(seen)
        detail = f"The volume was unlocked, but Windows cannot open what is inside: {opened.error.strerror}."
        raise VolumeNotOpened(VolumeState.UNREADABLE, detail, DAMAGED_ADVICE)
    return opened


def lock(seen: SeenVolume) -> str:
    """Lock a volume again; what is to be told where that fails, else empty."""
    for more in ((), ("-ForceDismount",)):
        if not _manage_bde("-lock", seen.root, *more, time_limit=_LOCK_SECONDS):
            return ""
    return f"{seen.id} could not be locked again. Nothing of its protection was changed: a restart locks it."


def _read_at(device: str, start: int, end: int) -> FveVolume:
    with api.opened(device, api.GENERIC_READ) as handle:
        return read_volume(api.device_stream(handle, end), start)


@contextlib.contextmanager
def _arguments(key: UnlockKey) -> Iterator[tuple[str, ...]]:
    """What tells manage-bde the key. Raises KeyRefused for a kind that it does not take."""
    if key.kind is ProtectorKind.RECOVERY_PASSWORD:
        yield "-RecoveryPassword", recovery_password.text_of(key.secret)
    elif key.kind is ProtectorKind.STARTUP_KEY:
        with _file_of(key.secret) as path:
            yield "-RecoveryKey", str(path)
    else:
        raise KeyRefused(f"Windows did not open the volume by its {key.kind}")


@contextlib.contextmanager
def _file_of(secret: bytes) -> Iterator[Path]:
    """A file of the system's own folder for such (in Windows PE it is memory) that is there only as long as needed."""
    path = Path(os.environ.get("TEMP") or windows_own("")) / f"bluelift-{os.urandom(8).hex()}.BEK"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_BINARY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secret)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _manage_bde(*arguments: str, time_limit: float) -> int:
    """Its exit code. Neither the command line nor what it says goes any further: both may hold a password."""
    program = "manage-bde" if is_winpe() else windows_own("manage-bde.exe")
    return run([program, *arguments], time_limit=time_limit).returncode


def _opened(seen: SeenVolume) -> SeenVolume:
    """The volume as Windows shows it now, under the id that it had."""
    deadline = time.monotonic() + _OPENS_WITHIN
    while (found := look_at(seen.root)).error is not None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return replace(found, letters=seen.letters, extents=found.extents or seen.extents)
