"""What was found in a file of recovery passwords, and putting several files together.

A password is checked as soon as it is read; nothing that leaves this package in a message holds one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from payload.formats import recovery_password
from payload.formats.recovery_password import RecoveryPasswordError

GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
#: Something that is meant as a recovery password, right or wrong: eight groups of digits.
PASSWORD = re.compile(r"(?<!\d)\d{5,7}(?:[-\u2010-\u2015\u2212 ]\d{5,7}){7}(?!\d)|(?<!\d)\d{48}(?!\d)")


@dataclass(frozen=True, slots=True, repr=False)
class FoundKey:
    """A checked key: `key_id` 16 bytes as on disk, the 16-byte recovery key, the host's name ("" where unknown)."""

    key_id: bytes
    recovery_key: bytes
    host: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A place in a file that was meant as a key and is none, or contradicts another; `why` never holds a password."""

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


@dataclass
class Collection:
    """The keys of several files by key id."""

    keys: dict[bytes, FoundKey] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    conflicts: list[Reject] = field(default_factory=list)
    duplicates: int = 0

    def add(self, found: Iterable[FoundKey | Reject]) -> None:
        """Take what one file holds: the same key again is merged, another password for a known key id a conflict."""
        for one in found:
            if isinstance(one, Reject):
                self.rejects.append(one)
            elif (known := self.keys.get(one.key_id)) is None:
                self.keys[one.key_id] = one
            elif known.recovery_key != one.recovery_key:
                self.conflicts.append(_conflict(known, one))
            else:
                self.duplicates += 1
                if one.host and not known.host:
                    self.keys[one.key_id] = one


def checked(key_id: str, password: str, host: str, file: str, line: int) -> FoundKey | Reject:
    """A key of its texts, or why it is none. `key_id` may have braces around it and text before."""
    guid = GUID.search(key_id)
    if guid is None:
        return Reject(file=file, line=line, why="no key id (a GUID) stands beside the recovery password")
    try:
        key = recovery_password.parse(password)
    except RecoveryPasswordError as error:
        return Reject(file=file, line=line, why=f"the recovery password of {guid[0].upper()} is wrong: {error}")
    return FoundKey(guid_bytes(guid[0]), key, host.strip(), file, line)


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID as on disk (mixed-endian)."""
    data = bytes.fromhex(text.replace("-", ""))
    return data[3::-1] + data[5:3:-1] + data[7:5:-1] + data[8:]


def guid_text(key_id: bytes) -> str:
    """A key id as Windows shows it, without braces."""
    return str(UUID(bytes_le=key_id)).upper()


def host_of_name(distinguished_name: str) -> str:
    """The computer that a recovery object of Active Directory lies below: the second component of its name."""
    parts = re.split(r"(?<!\\),", distinguished_name)
    return parts[1].partition("=")[2].strip() if len(parts) > 1 and parts[1].strip()[:3].upper() == "CN=" else ""


def lines_with_numbers(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text from 1, without their ends."""
    return enumerate(text.splitlines(), 1)


def _conflict(known: FoundKey, other: FoundKey) -> Reject:
    where = f"{known.file}:{known.line}"
    why = f"another recovery password for {guid_text(other.key_id)} than in {where}; that one is kept"
    return Reject(file=other.file, line=other.line, why=why)
