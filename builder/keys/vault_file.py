"""Vaults as files: written beside, read back, renamed; opened with a passphrase."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.cache import storage_errors
from builder.console import Step
from builder.errors import KeysError, OutputError
from builder.keys.cipher import OpenSslCipher
from payload.formats.vault import (
    LEAST_ROUNDS,
    RECORD_SIZE,
    SALT_SIZE,
    Vault,
    VaultDamaged,
    VaultHeader,
    VaultKeys,
    VaultRecord,
    WrongPassphrase,
    derive_keys,
    open_vault,
    write_vault,
)

_PIECE = 1 << 20


@contextmanager
def opened(path: Path, passphrase: str) -> Iterator[Vault]:
    """The vault in a file. Raises KeysError: no vault, damaged, another passphrase."""
    try:
        with path.open("rb") as stream:
            yield open_vault(stream, passphrase, OpenSslCipher())
    except WrongPassphrase as error:
        raise KeysError(
            f"{path}: {error}", hint="Type it again; capitals count. Without it, import the keys again."
        ) from error
    except VaultDamaged as error:
        raise KeysError(f"{path} cannot be used: {error}", hint="Import the keys again.") from error
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror or error}", hint="Check its name.") from error


def new_keys(passphrase: str, written: int) -> tuple[VaultHeader, VaultKeys]:
    """A fresh salt, and the keys that it and the passphrase give. `written` is seconds since 1970 UTC."""
    salt = secrets.token_bytes(SALT_SIZE)
    header = VaultHeader(rounds=LEAST_ROUNDS, salt=salt, records=0, written=written)
    return header, derive_keys(passphrase, header, OpenSslCipher())


def write(
    path: Path, records: Sequence[VaultRecord], header: VaultHeader, keys: VaultKeys, *, force: bool, step: Step
) -> int:
    """Write a vault that its owner alone may read, and read it back. Returns its size in bytes.

    Raises OutputError (there is a file already and no `force`; no room) and payload.formats.vault.TagsCollide.
    """
    if path.exists() and not force:
        raise OutputError(f"{path} is there already", hint="Give another name, or --force to replace it.")
    with storage_errors(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        beside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                total = len(records) * RECORD_SIZE
                for number, piece in enumerate(write_vault(records, header, keys, OpenSslCipher())):
                    stream.write(piece)
                    if number % 10_000 == 0:
                        step.progress(number * RECORD_SIZE, total, "bytes")
                stream.flush()
                os.fsync(stream.fileno())
            _read_back(beside, records, keys)
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
    return path.stat().st_size


def _read_back(path: Path, records: Sequence[VaultRecord], keys: VaultKeys) -> None:
    """Every record of the written vault against what was to be in it; the keys need not be derived again."""
    expected = {record.key_id: record for record in records}
    with path.open("rb") as stream:
        vault = Vault.of_keys(stream, lambda _: keys, OpenSslCipher())
        for record in vault.records():
            if expected.pop(record.key_id, None) != record:
                raise OutputError(f"{path} does not read back as it was written", hint="Check the disk.")
    if expected:
        raise OutputError(f"{path} does not read back as it was written", hint="Check the disk.")
