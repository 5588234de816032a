"""Security descriptors: the one Bluelift makes, and everything that must not pass for it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.security_descriptor import (
    ADMINISTRATORS,
    FULL_CONTROL,
    SYSTEM,
    SecurityDescriptorError,
    is_protected_descriptor,
    parse_security_descriptor,
    protected_descriptor,
)

#: What ntfs-3g gives a new folder: owner Administrators, everyone may do everything, not protected.
NTFS_3G_DEFAULT = bytes.fromhex(
    "0100048014000000240000000000000034000000010200000000000520000000200200000102000000000005200000002002000002001c0001"
    "00000000031400ff011f00010100000000000100000000"
)


def test_ours_reads_back() -> None:
    for directory, flags in ((True, 3), (False, 0)):
        found = parse_security_descriptor(protected_descriptor(directory=directory))
        assert found.owner == found.group == ADMINISTRATORS
        assert found.protected
        assert found.entries is not None
        assert [(e.kind, e.flags, e.mask, e.sid) for e in found.entries] == [
            (0, flags, FULL_CONTROL, SYSTEM),
            (0, flags, FULL_CONTROL, ADMINISTRATORS),
        ]
        assert is_protected_descriptor(protected_descriptor(directory=directory))


def test_ntfs_3gs_default_is_not_protected() -> None:
    found = parse_security_descriptor(NTFS_3G_DEFAULT)
    assert found.entries is not None
    assert found.entries[0].sid == "S-1-1-0"
    assert not is_protected_descriptor(NTFS_3G_DEFAULT)


def changed(at: int, new: bytes) -> bytes:
    data = bytearray(protected_descriptor(directory=True))
    data[at : at + len(new)] = new
    return bytes(data)


OURS = protected_descriptor(directory=True)
OWNER_AT = struct.unpack_from("<I", OURS, 4)[0]


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("inherits", changed(2, b"\x04\x80")),
        ("no list", changed(2, b"\x00\x90")),
        ("a list that is null", changed(16, bytes(4))),
        ("an empty list", changed(24, b"\0\0")),
        ("a deny entry", changed(28, b"\x01")),
        ("an audit entry", changed(28, b"\x02")),
        ("less than full control", changed(32, b"\x89\x00\x12\x00")),
        ("another user in the list", changed(28 + 8 + 8, struct.pack("<I", 11))),
        ("another owner", changed(OWNER_AT + 12, struct.pack("<I", 545))),
        ("no owner", changed(4, bytes(4))),
        ("cut", OURS[:-1]),
        ("empty", b""),
    ],
)
def test_what_is_not_exactly_ours_is_not_protected(what: str, data: bytes) -> None:
    assert not is_protected_descriptor(data), what


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (changed(0, b"\x02"), "revision 2"),
        (changed(2, b"\x04\x10"), "not a self-relative"),
        (changed(16, b"\xff\0\0\0"), "access list at 255"),
        (changed(22, b"\xff\xff"), "65535 bytes"),
        (changed(24, b"\xff\xff"), "65535 entries"),
        (changed(24, b"\x09\0"), "lies outside its list"),
        (changed(30, b"\x02\0"), "access entry of 2 bytes"),
        (changed(30, b"\xff\0"), "access entry of 255 bytes"),
        (changed(4, b"\xff\0\0\0"), "SID at 255"),
        (changed(OWNER_AT, b"\x07"), "SID with revision 7"),
        (changed(OWNER_AT + 1, b"\x10"), "16 parts"),
    ],
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(SecurityDescriptorError, match=message):
        parse_security_descriptor(data)


@given(st.binary(max_size=200))
def test_garbage_is_never_protected_and_raises_only_its_error(data: bytes) -> None:
    with contextlib.suppress(SecurityDescriptorError):
        parse_security_descriptor(data)
    assert not is_protected_descriptor(data) or data[:2] == b"\1\0"


@given(st.lists(st.tuples(st.integers(0, 91), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_descriptors_never_raise(changes: list[tuple[int, int]]) -> None:
    data = bytearray(OURS)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(SecurityDescriptorError):
        found = parse_security_descriptor(bytes(data))
        if is_protected_descriptor(bytes(data)):
            assert found.owner in (SYSTEM, ADMINISTRATORS)
            assert {entry.sid for entry in found.entries or ()} <= {SYSTEM, ADMINISTRATORS}
