"""What an environment can do with volumes that BitLocker has locked, behind one Protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from payload.environment import Medium, Volume
from payload.environment.boot_partitions import BootPartitions
from payload.formats.fve import FveVolume
from payload.formats.fve_entries import ProtectorKind
from payload.formats.vault import Cipher


@dataclass(frozen=True, kw_only=True, repr=False)
class UnlockKey:
    """What opens a volume. `kind` is CLEAR_KEY, RECOVERY_PASSWORD or STARTUP_KEY; `protector` its GUID in the metadata.

    `protector` is "" for a password that somebody typed where several protectors could be meant.
    `secret` is nothing for a clear key, the 16-byte key behind a recovery password
    (`formats.recovery_password`), or the whole content of a .BEK file. It appears in no text, log or receipt.
    """

    kind: ProtectorKind
    protector: str
    secret: bytes = b""


class KeyRefused(Exception):
    """The key does not open the volume: it belongs to another volume, or was replaced. The volume is as it was."""


class Unlocking(BootPartitions, Protocol):
    """Locked volumes, where keys for them may lie, and from where their Windows starts."""

    @property
    def cipher(self) -> Cipher:
        """AES-256-GCM and PBKDF2 as the platform has them."""
        ...

    def locked_metadata(self, volume: Volume) -> FveVolume:
        """What the volume's own metadata says, read from the disk.

        Raises FveError, OSError; VolumeNotOpened where no key would open the volume here (partly encrypted ...).
        """
        ...

    def unlocked(self, volume: Volume, key: UnlockKey) -> AbstractContextManager[None]:
        """Open a volume while the context lasts: `volumes()` lists what is inside in its place, under the same id.

        On leaving it is locked again, as protected as it was: nothing is decrypted, suspended or added. What goes wrong
        then is told by the environment's `notes`. Raises KeyRefused, and VolumeNotOpened where the key is not to
        blame (no driver).
        """
        ...

    def key_media(self) -> AbstractContextManager[Iterator[Medium]]:
        """Every attached volume on which keys may lie: the boot medium, sticks, CDs, small FAT partitions; read-only.

        No volume of a RAID or with a Windows of the host on it. A medium's name is for the screen and the receipt; no
        two have the same. The next one is there until the iterator goes on.
        """
        ...
