"""Test volumes as BitLocker encrypts them, with NTFS inside: for proof that a locked Windows is opened and repaired.

    room = make_room(volume)                     # before anything else is done to the NTFS volume
    made = format_volume(volume, out, BitLockerPlan(), room=room, random=seeded(b"disk 1"))

Source: libyal/libbde, "BitLocker Drive Encryption (BDE) format specification". cryptsetup and dislocker read such a
volume; whether Windows does nobody has tried. Nobody should keep data on one: its keys may come from a seed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from builder.run import run
from builder.verify.bitlocker_keys import KEY_LENGTH, KeySource, Nonces, seeded
from builder.verify.bitlocker_metadata import (
    VOLUME_HEADER_SIZE,
    Layout,
    MadeProtector,
    Room,
    Secrets,
    boot_sector,
    make_protector,
    metadata_region,
)
from builder.verify.windows_tree import noise
from payload.formats.fve import ENCRYPT_ON_WRITE_GUID, INFORMATION_GUID, REGION_SIZE, EncryptionMethod
from payload.formats.fve_entries import ProtectorKind
from payload.formats.ntfs import parse_boot_sector

__all__ = [
    "ROOM_FILES",
    "BitLockerPlan",
    "BitLockerVolume",
    "MadeProtector",
    "Room",
    "format_volume",
    "make_room",
    "seeded",
]

_LIMIT = 60
_AT_ONCE = 1 << 20
_FOLDER = "System Volume Information"
#: The names that Windows gives to the files that keep NTFS away from BitLocker's data.
_FILES = "FVE2.{e40ad34d-dae9-4bc7-95bd-b16218c10f72}"
#: The files that `make_room` makes, and their sizes in bytes.
ROOM_FILES = {_FILES: VOLUME_HEADER_SIZE, **{f"{_FILES}.{number}": REGION_SIZE for number in (1, 2, 3)}}
_KEY_BYTES = {
    EncryptionMethod.AES_CBC_128: 16,
    EncryptionMethod.AES_CBC_256: 32,
    EncryptionMethod.AES_XTS_128: 32,
    EncryptionMethod.AES_XTS_256: 64,
}

#: (sector number, plain sector) -> encrypted sector.
_SectorCipher = Callable[[int, bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class BitLockerPlan:
    """How a volume shall be protected: by what a Windows 11 host has, unless said otherwise. `created` is UTC.

    A volume with a clear key is suspended, whatever protectors it has beside. With `encrypt_on_write` it says that it
    is still being encrypted (though all of it is): nobody but Windows may open such a volume.
    """

    method: EncryptionMethod = EncryptionMethod.AES_XTS_128
    protectors: tuple[ProtectorKind, ...] = (ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD)
    description: str = "FRONTDESK-07 C: 3/1/2024"
    created: datetime = datetime(2024, 3, 1, 8, 30, tzinfo=UTC)
    encrypt_on_write: bool = False


@dataclass(frozen=True, kw_only=True)
class BitLockerVolume:
    """A volume that was made. `guid` is upper-case text without braces; protectors are in the order of the plan.

    `keys` are the volume master key and the full volume encryption key.
    """

    path: Path
    guid: str
    plan: BitLockerPlan
    room: Room
    protectors: tuple[MadeProtector, ...]
    keys: tuple[bytes, bytes] = field(repr=False)

    @property
    def recovery_passwords(self) -> dict[str, str]:
        """The recovery passwords by their protectors' GUIDs."""
        return {made.guid: made.recovery_password for made in self.protectors if made.recovery_password}

    @property
    def startup_key_files(self) -> dict[str, bytes]:
        """The startup key files by name: `GUID.BEK` and what it holds."""
        return {f"{made.guid}.BEK": made.startup_key for made in self.protectors if made.startup_key}


def make_room(volume: Path) -> Room:
    """Keep four places of an NTFS volume (a plain file, not mounted) for BitLocker's data, as files full of zeros.

    They lie in System Volume Information where the volume has that folder, else at its root. Raises ToolMissing,
    ToolFailed, and ValueError where the volume has no contiguous free space for one.
    """
    folder = _FOLDER if _FOLDER in _folders(volume) else ""
    header, *metadata = (_place(volume, f"{folder}/{name}", size) for name, size in ROOM_FILES.items())
    return Room(metadata=(metadata[0], metadata[1], metadata[2]), volume_header=header, folder=folder)


def format_volume(
    ntfs: Path, out: Path, plan: BitLockerPlan, *, room: Room, random: KeySource = os.urandom
) -> BitLockerVolume:
    """Encrypt the NTFS volume in the file `ntfs` into the file `out`, of the same size; `room` is of `make_room`.

    The same volume, plan and random bytes give the same volume. A recovery password costs a second, 200 MB about three.
    Raises NtfsError, ValueError for a plan that cannot be carried out, OSError.
    """
    if plan.method not in _KEY_BYTES:
        raise ValueError(f"{plan.method} cannot be made here")
    secrets = _fresh_secrets(plan, random)
    protectors = [make_protector(kind, secrets) for kind in plan.protectors]
    kind = ENCRYPT_ON_WRITE_GUID if plan.encrypt_on_write else INFORMATION_GUID
    with ntfs.open("rb") as plain:
        head = plain.read(512)
        layout = Layout(
            method=plan.method,
            size=os.fstat(plain.fileno()).st_size,
            sector_size=parse_boot_sector(head).sector_size,
            room=room,
        )
        region = metadata_region(secrets, [entry for _, entry in protectors], layout, plan.description)
        partial = out.with_name(f"{out.name}.part")
        with partial.open("wb") as encrypted:
            _encrypt(plain, encrypted, _sector_cipher(layout, secrets.volume_key), layout)
            for offset in room.metadata:
                _write_at(encrypted, offset, region)
            _write_at(encrypted, 0, boot_sector(head, room, kind))
    partial.replace(out)
    return BitLockerVolume(
        path=out,
        guid=str(secrets.guid).upper(),
        plan=plan,
        room=room,
        protectors=tuple(made for made, _ in protectors),
        keys=(secrets.master_key, secrets.volume_key),
    )


def _fresh_secrets(plan: BitLockerPlan, random: KeySource) -> Secrets:
    return Secrets(
        guid=UUID(bytes=random(16), version=4),
        created=plan.created,
        master_key=random(KEY_LENGTH),
        volume_key=random(_KEY_BYTES[plan.method]),
        nonces=Nonces(plan.created),
        random=random,
    )


# --- room ------------------------------------------------------------------------------------------------------------


def _folders(volume: Path) -> list[str]:
    """The names at the root of the volume."""
    reason = "look for the folder that BitLocker keeps its files in"
    return run(["ntfsls", "-a", "-p", "/", str(volume)], reason=reason, time_limit=_LIMIT).text.splitlines()


def _place(volume: Path, name: str, size: int) -> int:
    """Make a file of zeros on the volume; where on the volume it lies, in bytes.

    It is written full of noise at first, which is found nowhere else, and only in one piece.
    """
    pattern = noise(name, size)
    source = volume.with_name(f"{volume.name}.room")
    source.write_bytes(pattern)
    try:
        run(["ntfscp", str(volume), str(source), name], reason="make room for BitLocker's data", time_limit=_LIMIT)
    finally:
        source.unlink()
    with volume.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as view:
        offset = view.find(pattern)
        if offset < 0:
            raise ValueError(f"{volume} has no {size} bytes of free space in one piece")
        view[offset : offset + size] = bytes(size)
        view.flush()
    return offset


# --- sectors ---------------------------------------------------------------------------------------------------------


def _sector_cipher(layout: Layout, key: bytes) -> _SectorCipher:
    """How one sector is encrypted: XTS takes its number as the tweak, CBC its encrypted byte offset as the first IV."""
    algorithm = algorithms.AES(key)
    if layout.method in (EncryptionMethod.AES_XTS_128, EncryptionMethod.AES_XTS_256):
        return lambda number, plain: (
            Cipher(algorithm, modes.XTS(number.to_bytes(16, "little"))).encryptor().update(plain)
        )
    single = Cipher(algorithm, modes.ECB()).encryptor()

    def cbc(number: int, plain: bytes) -> bytes:
        first = single.update((number * layout.sector_size).to_bytes(16, "little"))
        return Cipher(algorithm, modes.CBC(first)).encryptor().update(plain)

    return cbc


def _encrypt(plain: BinaryIO, encrypted: BinaryIO, cipher: _SectorCipher, layout: Layout) -> None:
    """All sectors; over them, where there is room for it, the volume's start as if it belonged there."""
    for offset in range(0, layout.size, _AT_ONCE):
        plain.seek(offset)
        encrypted.write(_sectors(plain.read(_AT_ONCE), offset, cipher, layout.sector_size))
    plain.seek(0)
    start, kept_at = plain.read(VOLUME_HEADER_SIZE), layout.room.volume_header
    _write_at(encrypted, kept_at, _sectors(start, kept_at, cipher, layout.sector_size))


def _sectors(plain: bytes, offset: int, cipher: _SectorCipher, size: int) -> bytes:
    first = offset // size
    return b"".join(cipher(first + at // size, plain[at : at + size]) for at in range(0, len(plain), size))


def _write_at(stream: BinaryIO, offset: int, data: bytes) -> None:
    stream.seek(offset)
    stream.write(data)
