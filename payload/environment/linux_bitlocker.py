"""BitLocker volumes through dm-crypt: cryptsetup opens them with a key, a table of our own with a clear key.

What was tried with cryptsetup 2.7.5 (Debian 13):
- `open --type bitlk --key-file -` takes the 48 digits as well as a whole .BEK file on its standard input.
- A password costs 2^20 rounds of SHA-256 for every recovery password that the volume has, in their order.
- A volume with a clear key is refused whatever key is given, also the volume's own ("partially decrypted", which it
  is not). So the clear key is opened here (formats.fve_clear) and the table handed to dmsetup as cryptsetup would.
- A wrong password ends with exit code 1 and no word, a wrong .BEK file with 2; a missing driver with 1 and a message.
- Without udev, dmsetup makes no node in /dev/mapper and leaves stale ones; `dmsetup mknodes` puts them right.
- Nothing is written to the volume by opening or closing it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from payload.environment import VolumeNotOpened, VolumeState
from payload.environment.linux_cipher import MODULES as CIPHER_MODULES
from payload.environment.linux_cipher import LinuxCipher
from payload.environment.linux_commands import TIMED_OUT, Completed, run
from payload.environment.linux_paths import LinuxPaths
from payload.environment.locked import KeyRefused, UnlockKey
from payload.formats import recovery_password
from payload.formats.fve import EncryptionMethod, FveVolume, read_volume
from payload.formats.fve_clear import SECTOR, ClearVolume, Segment, read_clear_volume
from payload.formats.fve_entries import FveError, ProtectorKind
from payload.formats.vault import NotAuthentic

_MODULES = ("dm_mod", "dm_crypt", "dm_zero", "xts", "ecb", *CIPHER_MODULES)
#: cryptsetup(8), "RETURN CODES": 1 wrong parameters, 2 wrong passphrase. It gives either for a wrong key.
_REFUSALS = (1, 2)
_NO_SUCH_KEY = "No key available"
_MODULES_SECONDS = 60.0
#: A slow machine takes a quarter of a minute for each recovery password that the volume has.
_OPEN_SECONDS = 300.0
_CLOSE_SECONDS = 60.0
_CIPHERS = {
    EncryptionMethod.AES_CBC_128_DIFFUSER: "aes-cbc-elephant",
    EncryptionMethod.AES_CBC_256_DIFFUSER: "aes-cbc-elephant",
    EncryptionMethod.AES_CBC_128: "aes-cbc-eboiv",
    EncryptionMethod.AES_CBC_256: "aes-cbc-eboiv",
    EncryptionMethod.AES_XTS_128: "aes-xts-plain64",
    EncryptionMethod.AES_XTS_256: "aes-xts-plain64",
}

PARTLY_DETAIL = "Windows has not finished encrypting or decrypting this volume, and only Windows can open such a one."
PARTLY_ADVICE = (
    "Use the WinPE image, which opens it with this volume's recovery password, or attach the disk to another Windows."
)
OLD_DETAIL = "The volume was encrypted by Windows Vista, in a way that only Windows can open."
UNKNOWN_DETAIL = "The volume is encrypted in a way that this image does not know."
LEFT_OPEN_DETAIL = "The volume is open already: an earlier run was ended before it could close it."
LEFT_OPEN_ADVICE = "Restart this machine and start Bluelift again."
IN_USE_DETAIL = "The volume is open already: something else on this machine has unlocked it."
IN_USE_ADVICE = "Unmount and lock it there, then start Bluelift again."
NOT_OPENED_ADVICE = "Use the WinPE image with this volume's recovery password; Windows's own BitLocker opens it there."


@dataclass(frozen=True, kw_only=True)
class Unlocked:
    """A volume that is open: the device of what is inside. `notes` grow while it is closed."""

    node: Path
    notes: list[str]


def locked_metadata(node: Path) -> FveVolume:
    """What a locked volume's metadata says. Raises FveError, OSError; VolumeNotOpened where no key would help here."""
    with node.open("rb") as stream:
        volume = read_volume(stream)
    if volume.state.partly_encrypted:
        raise VolumeNotOpened(VolumeState.PARTLY_ENCRYPTED, PARTLY_DETAIL, PARTLY_ADVICE)
    if volume.version == 1:
        raise VolumeNotOpened(VolumeState.PARTLY_ENCRYPTED, OLD_DETAIL, PARTLY_ADVICE)
    if volume.method not in _CIPHERS:
        raise VolumeNotOpened(VolumeState.PARTLY_ENCRYPTED, UNKNOWN_DETAIL, PARTLY_ADVICE)
    return volume


@contextlib.contextmanager
def unlocked(paths: LinuxPaths, node: Path, size: int, key: UnlockKey) -> Iterator[Unlocked]:
    """Open the volume of `size` bytes at `node` while the context lasts. Raises KeyRefused, VolumeNotOpened.

    It is closed again whatever ends it: an interruption or the time limit may come when the device has just been made.
    """
    prepare(paths)
    name = f"bluelift-{node.name}"
    _close_left_open(paths, name)
    _refuse_in_use(paths, node)
    command, secret = _told(node, size, name, key)
    notes: list[str] = []
    may_be_open = True
    try:
        opened = run(command, time_limit=_OPEN_SECONDS, given=secret)
        may_be_open = opened.ok or opened.returncode == TIMED_OUT
        if key.kind is not ProtectorKind.CLEAR_KEY and _is_refusal(opened):
            raise KeyRefused(f"the {key.kind} does not open {node.name}")
        if not opened.ok:
            raise VolumeNotOpened(
                VolumeState.UNREADABLE, f"The volume could not be unlocked. ({opened.sentence}.)", NOT_OPENED_ADVICE
            )
        yield Unlocked(node=_device_of(paths, name), notes=notes)
    finally:
        if may_be_open and not (closed := _close(name)).ok:
            notes.append(f"{node.name} was not locked again before the end: {closed.sentence}.")


def _close(name: str) -> Completed:
    return run(["dmsetup", "remove", "--retry", "--noudevsync", name], time_limit=_CLOSE_SECONDS)


def _close_left_open(paths: LinuxPaths, name: str) -> None:
    """Close what a run that was killed left open. Raises VolumeNotOpened where it is in use."""
    if (paths.dev / "mapper" / name).exists() and not _close(name).ok:
        raise VolumeNotOpened(VolumeState.UNREADABLE, LEFT_OPEN_DETAIL, LEFT_OPEN_ADVICE)


def _refuse_in_use(paths: LinuxPaths, node: Path) -> None:
    """Raises VolumeNotOpened where a device lies over the volume: the kernel would let two be mounted and changed.

    cryptsetup refuses that by itself, dmsetup does not. In the image nothing else is there; a rescue machine's desktop
    may have opened it.
    """
    holders = paths.sysfs / "class/block" / node.name / "holders"
    if holders.is_dir() and any(holders.iterdir()):
        raise VolumeNotOpened(VolumeState.UNREADABLE, IN_USE_DETAIL, IN_USE_ADVICE)


def _device_of(paths: LinuxPaths, name: str) -> Path:
    """The node of a device that was made: ntfs-3g finds no other than the one in /dev/mapper."""
    made = run(["dmsetup", "mknodes", name], time_limit=_CLOSE_SECONDS)
    node = paths.dev / "mapper" / name
    if made.ok and node.exists():
        return node
    raise VolumeNotOpened(VolumeState.UNREADABLE, "The volume was unlocked, but did not appear.", NOT_OPENED_ADVICE)


def _is_refusal(ended: Completed) -> bool:
    said = ended.output.strip()
    return ended.returncode in _REFUSALS and (not said or _NO_SUCH_KEY in said)


def prepare(paths: LinuxPaths) -> None:
    """Load what dm-crypt and AF_ALG need, where it is not there; what then lacks shows when it is used."""
    if not (paths.dev / "mapper/control").exists():
        run(["modprobe", "-a", "-q", *_MODULES], time_limit=_MODULES_SECONDS)


def _told(node: Path, size: int, name: str, key: UnlockKey) -> tuple[list[str], bytes]:
    """The command that opens a volume, and what it reads from its standard input. Raises KeyRefused, OSError."""
    if key.kind is ProtectorKind.CLEAR_KEY:
        return ["dmsetup", "create", "--noudevsync", name], _clear_table(node, size)
    is_password = key.kind is ProtectorKind.RECOVERY_PASSWORD
    return open_command(node, name), recovery_password.text_of(key.secret).encode() if is_password else key.secret


def open_command(node: Path, name: str) -> list[str]:
    """How cryptsetup opens a volume with the key on its standard input."""
    return ["cryptsetup", "open", "--type", "bitlk", "--batch-mode", "--key-file", "-", str(node), name]


def _clear_table(node: Path, size: int) -> bytes:
    try:
        with node.open("rb") as stream:
            clear = read_clear_volume(stream, size, LinuxCipher().unseal_ccm)
    except (FveError, NotAuthentic) as error:
        raise KeyRefused(f"the clear key does not open {node.name}: {error}") from error
    return crypt_table(clear, node).encode()


def crypt_table(clear: ClearVolume, node: Path) -> str:
    """The device-mapper table of a volume (Linux Documentation/admin-guide/device-mapper, dm-crypt). It is a secret."""
    large = f" 2 sector_size:{clear.sector_size} iv_large_sectors" if clear.sector_size != SECTOR else ""

    def line(segment: Segment) -> str:
        place = f"{segment.start // SECTOR} {segment.length // SECTOR}"
        if segment.source is None:
            return f"{place} zero"
        source = segment.source // SECTOR
        return f"{place} crypt {_CIPHERS[clear.method]} {clear.key.hex()} {source} {node} {source}{large}"

    return "".join(f"{line(segment)}\n" for segment in clear.segments)
