"""Self-relative security descriptors: the protected one that Bluelift gives its folders, and a reader to check it.

Source: [MS-DTYP] 2.4.6 SECURITY_DESCRIPTOR, 2.4.5 ACL, 2.4.4 ACE, 2.4.2 SID.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SYSTEM = "S-1-5-18"
ADMINISTRATORS = "S-1-5-32-544"
FULL_CONTROL = 0x001F01FF

_HEADER = struct.Struct("<BBHIIII")
_ACL = struct.Struct("<BBHHH")
_ACE = struct.Struct("<BBH")
_SELF_RELATIVE = 0x8000
_DACL_PROTECTED = 0x1000
_DACL_PRESENT = 0x0004
_ACCESS_ALLOWED = 0
_OBJECT_AND_CONTAINER_INHERIT = 0x03
_MAX_ACES = 256


class SecurityDescriptorError(ValueError):
    """Bytes that are not a self-relative security descriptor; the message says where they stop making sense."""


@dataclass(frozen=True, kw_only=True)
class AccessEntry:
    """One ACE. `sid` is empty for kinds that are neither plain allow nor plain deny."""

    kind: int
    flags: int
    mask: int
    sid: str


@dataclass(frozen=True, kw_only=True)
class SecurityDescriptor:
    """Owner, group and discretionary list. `entries` is None where there is no list (everyone may do everything)."""

    control: int
    owner: str
    group: str
    entries: tuple[AccessEntry, ...] | None

    @property
    def protected(self) -> bool:
        """Whether the parent folder's entries are kept out (SE_DACL_PROTECTED)."""
        return bool(self.control & _DACL_PROTECTED)


def parse_security_descriptor(data: bytes) -> SecurityDescriptor:
    """Read a self-relative descriptor. Raises SecurityDescriptorError."""
    if len(data) < _HEADER.size:
        raise SecurityDescriptorError(f"{len(data)} bytes are too few for a security descriptor")
    revision, _reserved, control, owner, group, _sacl, dacl = _HEADER.unpack_from(data)
    if revision != 1 or not control & _SELF_RELATIVE:
        raise SecurityDescriptorError(f"revision {revision}, control {control:#06x}: not a self-relative descriptor")
    entries = _parse_acl(data, dacl) if control & _DACL_PRESENT and dacl else None
    return SecurityDescriptor(
        control=control,
        owner=_parse_sid(data, owner) if owner else "",
        group=_parse_sid(data, group) if group else "",
        entries=entries,
    )


def protected_descriptor(*, directory: bool) -> bytes:
    """The descriptor of everything Bluelift makes: owner Administrators, only SYSTEM and Administrators, protected.

    On a directory both entries are inherited by what is put into it.
    """
    flags = _OBJECT_AND_CONTAINER_INHERIT if directory else 0
    aces = b""
    for sid in (_sid_bytes(SYSTEM), _sid_bytes(ADMINISTRATORS)):
        aces += _ACE.pack(_ACCESS_ALLOWED, flags, 8 + len(sid)) + struct.pack("<I", FULL_CONTROL) + sid
    acl = _ACL.pack(2, 0, _ACL.size + len(aces), 2, 0) + aces
    owner = _sid_bytes(ADMINISTRATORS)
    at_owner = _HEADER.size + len(acl)
    control = _SELF_RELATIVE | _DACL_PROTECTED | _DACL_PRESENT
    header = _HEADER.pack(1, 0, control, at_owner, at_owner + len(owner), 0, _HEADER.size)
    return header + acl + owner + owner


def is_protected_descriptor(data: bytes) -> bool:
    """Whether only SYSTEM and Administrators have any say: owner, protected list, nothing but full control for them.

    Never raises: what cannot be read is not protected.
    """
    try:
        descriptor = parse_security_descriptor(data)
    except SecurityDescriptorError:
        return False
    ours = (SYSTEM, ADMINISTRATORS)
    return (
        descriptor.owner in ours
        and descriptor.protected
        and bool(descriptor.entries)
        and all(
            entry.kind == _ACCESS_ALLOWED and entry.sid in ours and entry.mask == FULL_CONTROL
            for entry in descriptor.entries or ()
        )
    )


def _parse_acl(data: bytes, at: int) -> tuple[AccessEntry, ...]:
    if at + _ACL.size > len(data):
        raise SecurityDescriptorError(f"the access list at {at} lies outside the descriptor")
    _revision, _zero, size, count, _zero2 = _ACL.unpack_from(data, at)
    end = at + size
    if end > len(data) or count > _MAX_ACES:
        raise SecurityDescriptorError(f"an access list of {size} bytes and {count} entries does not fit")
    entries = []
    position = at + _ACL.size
    for _ in range(count):
        if position + _ACE.size > end:
            raise SecurityDescriptorError("an access entry lies outside its list")
        kind, flags, length = _ACE.unpack_from(data, position)
        if length < 8 or position + length > end:
            raise SecurityDescriptorError(f"an access entry of {length} bytes does not fit its list")
        (mask,) = struct.unpack_from("<I", data, position + 4)
        sid = _parse_sid(data[: position + length], position + 8) if kind in (0, 1) else ""
        entries.append(AccessEntry(kind=kind, flags=flags, mask=mask, sid=sid))
        position += length
    return tuple(entries)


def _parse_sid(data: bytes, at: int) -> str:
    if at + 8 > len(data):
        raise SecurityDescriptorError(f"a SID at {at} lies outside the descriptor")
    revision, count = data[at], data[at + 1]
    if revision != 1 or count > 15 or at + 8 + 4 * count > len(data):
        raise SecurityDescriptorError(f"a SID with revision {revision} and {count} parts does not fit")
    authority = int.from_bytes(data[at + 2 : at + 8], "big")
    parts = struct.unpack_from(f"<{count}I", data, at + 8)
    return "-".join(["S", "1", str(authority), *map(str, parts)])


def _sid_bytes(sid: str) -> bytes:
    authority, *parts = (int(part) for part in sid.split("-")[2:])
    return bytes([1, len(parts)]) + authority.to_bytes(6, "big") + struct.pack(f"<{len(parts)}I", *parts)
