"""What keys lie on in a boot: vaults, the CD of `bluelift keys iso`, sticks with startup keys or a passphrase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.console import SilentStep
from builder.keys.cipher import OpenSslCipher
from builder.keys.vault_iso import write_vault_iso
from builder.media.fat import FatFile, fat_image
from builder.run import run
from builder.verify.bitlocker_keys import seeded
from builder.verify.medium import read_volumes
from payload.contract import MEDIUM_FOLDER, MEDIUM_VAULT
from payload.formats import recovery_password
from payload.formats.partition_table import guid_bytes
from payload.formats.vault import LEAST_ROUNDS, SALT_SIZE, VaultHeader, VaultRecord, derive_keys, write_vault

#: As `bluelift keys import` makes them: on one key on US, German and French keyboards.
PASSPHRASE = "gobul tovek ridon hulev sipor"
#: A recovery password that is well-formed and no volume's.
WRONG_PASSWORD = recovery_password.text_of(seeded(b"wrong password")(16))
_REASON = "put the vault on the boot stick"
_LIMIT = 60
_STICK_SIZE = 40 << 20
#: 2024-07-19.
_EPOCH = 1_721_347_200
#: Keys of other hosts in every vault.
_OTHERS = 300


@dataclass(frozen=True, kw_only=True)
class MadeVault:
    """A vault in a file, its header, and the key ids that are in it."""

    path: Path
    header: VaultHeader
    key_ids: tuple[str, ...]


def make_vault(path: Path, passwords: Mapping[str, str]) -> MadeVault:
    """A vault with these recovery passwords by key id, among those of other hosts. Its passphrase is PASSPHRASE."""
    random, cipher = seeded(b"vault of verify"), OpenSslCipher()
    header = VaultHeader(rounds=LEAST_ROUNDS, salt=random(SALT_SIZE), records=0, written=_EPOCH)
    records = [
        VaultRecord(key_id=guid_bytes(key_id), recovery_key=recovery_password.parse(password))
        for key_id, password in passwords.items()
    ]
    records += [VaultRecord(key_id=random(16), recovery_key=random(16)) for _ in range(_OTHERS)]
    path.write_bytes(b"".join(write_vault(records, header, derive_keys(PASSPHRASE, header, cipher), cipher)))
    return MadeVault(path=path, header=header, key_ids=tuple(passwords))


def put_on_boot_stick(vault: Path, medium: Path) -> None:
    """Copy a vault to where the payload looks for it in the writable end of a raw image."""
    start = read_volumes(medium)[0].partition.start
    folder = f"::/{MEDIUM_FOLDER}/{MEDIUM_VAULT}/"
    argv = ["mcopy", "-i", f"{medium}@@{start}", str(vault), folder]
    run(argv, reason=_REASON, time_limit=_LIMIT, env={"MTOOLS_SKIP_CHECK": "1"})


def vault_cd(vault: Path, path: Path) -> Path:
    """The CD of `bluelift keys iso`."""
    write_vault_iso(vault, path, step=SilentStep())
    return path


def stick(path: Path, files: Mapping[str, bytes]) -> Path:
    """A USB stick with one FAT file system over all of it."""
    content = [FatFile(path=name, data=data) for name, data in files.items()]
    path.write_bytes(fat_image(content, label="STICK", serial=0x0291_0719, epoch=_EPOCH, size=_STICK_SIZE))
    return path


def passphrase_stick(path: Path) -> Path:
    """A stick with nothing but the passphrase, with a line end as Notepad writes it."""
    return stick(path, {f"{MEDIUM_FOLDER}/passphrase.txt": PASSPHRASE.encode() + b"\r\n"})
