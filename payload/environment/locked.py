"""What an environment can do with volumes that BitLocker has locked, behind one Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from payload.environment import Medium, Volume
from payload.formats.fve import FveVolume
from payload.formats.fve_entries import ProtectorKind
from payload.formats.vault import Cipher


@dataclass(frozen=True, kw_only=True, repr=False)
class UnlockKey:
    """What opens a volume. `kind` is CLEAR_KEY, RECOVERY_PASSWORD or STARTUP_KEY; `protector` its GUID in the metadata.

    `secret` is nothing for a clear key, the 16-byte key behind a recovery password
    (`formats.recovery_password`), or the whole content of a .BEK file. It appears in no text, log or receipt.
    """

    kind: ProtectorKind
    protector: str
    secret: bytes = b""


class KeyRefused(Exception):
    """The key does not open the volume: it belongs to another volume, or was replaced. The volume is as it was."""


class Unlocking(Protocol):
    """Locked volumes, and where keys for them may lie."""

    @property
    def cipher(self) -> Cipher:
        """AES-256-GCM and PBKDF2 as the platform has them."""
        ...

    def locked_metadata(self, volume: Volume) -> FveVolume:
        """What the volume's own metadata says, read from the disk. Raises FveError, OSError."""
        ...

    def unlocked(self, volume: Volume, key: UnlockKey) -> AbstractContextManager[Volume]:
        """The volume behind the lock, as `volumes()` would have listed it (READY, UNCLEAN, HIBERNATED ...).

        Its id is what `open_volume` takes; its label and size are those of what is inside. On leaving it is locked
        again, as protected as it was: nothing is decrypted, suspended or added. Raises KeyRefused, and VolumeNotOpened
        where the volume cannot be opened with any key (partly encrypted, no driver).
        """
        ...

    def key_media(self) -> AbstractContextManager[Iterator[Medium]]:
        """Every attached volume on which keys may lie: the boot medium, sticks, CDs, small FAT partitions; read-only.

        No volume of a RAID or with a Windows of the host on it. A medium's name is for the screen and the receipt.
        """
        ...
