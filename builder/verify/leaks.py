"""Whether a secret got to where it does not belong: every form that it could have, in files and disks byte for byte.

A secret that was put on a medium before the boot may stay there. So a leak is a form of a secret at a place where it
was not before: only what has changed on a disk is searched. Everything else (logs, receipts) is searched whole.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from uuid import UUID

from builder.keys.cipher import OpenSslCipher
from builder.verify.bitlocker import BitLockerVolume
from payload.formats import recovery_password
from payload.formats.vault import VaultHeader, derive_keys, normalised

_AT_ONCE = 1 << 20
#: As long as the longest form; a form that lies across a boundary is found from both sides.
_MARGIN = 256
_ENCODINGS = ("ascii", "utf-16-le")
_KEY_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What must not be found: bytes, and the words that say what they are. Neither shows the other in a repr."""

    forms: Mapping[bytes, str] = field(repr=False)

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets(forms={**self.forms, **other.forms})

    @property
    def names(self) -> tuple[str, ...]:
        """What the secrets are, each once."""
        return tuple(dict.fromkeys(self.forms.values()))

    @property
    def longest(self) -> int:
        """The length of the longest form in bytes."""
        return max(map(len, self.forms), default=0)


def no_secrets() -> Secrets:
    """Nothing to be kept."""
    return Secrets(forms={})


def of_password(password: str, name: str) -> Secrets:
    """A recovery password: any two groups that follow one another, however divided; and the 16 bytes behind it."""
    groups = password.split("-")
    parts = [one + between + other for one, other in pairwise(groups) for between in ("-", "", " ")]
    key = recovery_password.parse(password)
    return _texts(parts, f"the recovery password {name}") | of_key(key, f"the key of the recovery password {name}")


def of_passphrase(passphrase: str) -> Secrets:
    """A passphrase: any two words of it that follow one another."""
    return _texts([f"{one} {other}" for one, other in pairwise(passphrase.split())], "the vault's passphrase")


def of_key(key: bytes, name: str) -> Secrets:
    """A key as it is, as hexadecimal digits, as Base64."""
    texts = (key.hex(), key.hex().upper(), key.hex(" "), base64.b64encode(key).decode().rstrip("="))
    return _texts(texts, name) | Secrets(forms={key: name})


def of_volume(volume: BitLockerVolume, name: str) -> Secrets:
    """All that opens a volume: recovery passwords, startup keys, its master key and what encrypts its sectors."""
    found = of_key(volume.keys[0], f"the volume master key of {name}")
    found |= of_key(volume.keys[1], f"the volume encryption key of {name}")
    for guid, password in volume.recovery_passwords.items():
        found |= of_password(password, guid)
    for file, content in volume.startup_key_files.items():
        found |= of_key(content[-_KEY_LENGTH:], f"the startup key {file}")
    return found


def of_vault(header: VaultHeader, passphrase: str) -> Secrets:
    """The keys that a passphrase gives for a vault, and the passphrase."""
    cipher = OpenSslCipher()
    master = cipher.pbkdf2(normalised(passphrase).encode(), header.salt, header.rounds)
    keys = derive_keys(passphrase, header, cipher)
    found = of_passphrase(passphrase) | of_key(master, "the vault's derived key")
    for name in ("index", "record", "host", "check"):
        found |= of_key(getattr(keys, name), f"the vault's {name} key")
    return found


def of_key_ids(key_ids: Iterable[str]) -> Secrets:
    """Key ids: no secrets but in a vault, where nobody shall be able to see whose keys it has."""
    found = no_secrets()
    for key_id in key_ids:
        guid, name = UUID(key_id), f"the key id {key_id}"
        found |= _texts((key_id.upper(), key_id.lower(), guid.hex, guid.hex.upper()), name)
        found |= Secrets(forms={guid.bytes: name, guid.bytes_le: name})
    return found


def leaks_in(path: Path, secrets: Secrets, *, before: Path | None = None) -> tuple[str, ...]:
    """What was found in a file and where, in words without the secret. `before` is the file as it was."""
    found = set()
    for start, after, earlier in _changed(path, before):
        for form, name in secrets.forms.items():
            at = after.find(form)
            while at >= 0:
                if earlier[at : at + len(form)] != form:
                    found.add((start + at, name))
                at = after.find(form, at + 1)
    return tuple(f"{name} at byte {at} of {path.name}" for at, name in sorted(found))


def leaks_below(folder: Path, secrets: Secrets) -> tuple[str, ...]:
    """The same for every file in a folder and its folders."""
    return tuple(leak for path in sorted(folder.rglob("*")) if path.is_file() for leak in leaks_in(path, secrets))


def _changed(path: Path, before: Path | None) -> Iterator[tuple[int, bytes, bytes]]:
    """(offset, bytes, what they were before) of every piece that is not as before, with a margin on both sides."""
    with path.open("rb") as one, (before or Path(os.devnull)).open("rb") as other:
        size = os.fstat(one.fileno()).st_size
        for at in range(0, size, _AT_ONCE):
            start = max(0, at - _MARGIN)
            length = at + _AT_ONCE + _MARGIN - start
            after, earlier = os.pread(one.fileno(), length, start), os.pread(other.fileno(), length, start)
            if after != earlier:
                yield start, after, earlier


def _texts(texts: Iterable[str], name: str) -> Secrets:
    return Secrets(forms={text.encode(encoding): name for text in texts for encoding in _ENCODINGS})
