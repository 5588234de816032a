"""AES-256-GCM and PBKDF2 as Windows has them: CNG's bcrypt.dll through ctypes.

Source: Microsoft's "bcrypt.h header" reference (BCryptDeriveKeyPBKDF2, BCryptDecrypt,
BCRYPT_AUTHENTICATED_CIPHER_MODE_INFO).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Iterator
from ctypes import wintypes

from payload.formats.vault import NotAuthentic

_KEY_SIZE, _TAG_SIZE = 32, 16
_HMAC = 0x8
_INFO_VERSION = 1
#: ntstatus.h.
_AUTH_TAG_MISMATCH = 0xC000A002
_GCM = "ChainingModeGCM\0".encode("utf-16-le")

bcrypt = ctypes.WinDLL("bcrypt")


class _CipherModeInfo(ctypes.Structure):
    """BCRYPT_AUTHENTICATED_CIPHER_MODE_INFO."""

    _fields_ = [
        ("size", wintypes.ULONG),
        ("version", wintypes.ULONG),
        ("nonce", ctypes.c_char_p),
        ("nonce_size", wintypes.ULONG),
        ("associated", ctypes.c_char_p),
        ("associated_size", wintypes.ULONG),
        ("tag", ctypes.c_char_p),
        ("tag_size", wintypes.ULONG),
        ("mac_context", ctypes.c_char_p),
        ("mac_context_size", wintypes.ULONG),
        ("processed", wintypes.ULONG),
        ("data_size", ctypes.c_ulonglong),
        ("flags", wintypes.ULONG),
    ]


_P, _U = ctypes.c_void_p, wintypes.ULONG
for _name, _arguments in {
    "BCryptOpenAlgorithmProvider": (_P, wintypes.LPCWSTR, wintypes.LPCWSTR, _U),
    "BCryptCloseAlgorithmProvider": (_P, _U),
    "BCryptSetProperty": (_P, wintypes.LPCWSTR, _P, _U, _U),
    "BCryptGenerateSymmetricKey": (_P, _P, _P, _U, _P, _U, _U),
    "BCryptDestroyKey": (_P,),
    "BCryptDecrypt": (_P, _P, _U, _P, _P, _U, _P, _U, _P, _U),
    "BCryptDeriveKeyPBKDF2": (_P, _P, _U, _P, _U, ctypes.c_ulonglong, _P, _U, _U),
}.items():
    getattr(bcrypt, _name).argtypes = _arguments
    getattr(bcrypt, _name).restype = ctypes.c_uint32


class WindowsCipher:
    """`payload.formats.vault.Cipher`. Raises OSError where Windows lacks an algorithm."""

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        """See Cipher."""
        derived = ctypes.create_string_buffer(_KEY_SIZE)
        with _provider("SHA256", _HMAC) as provider:
            status = bcrypt.BCryptDeriveKeyPBKDF2(
                provider, secret, len(secret), salt, len(salt), rounds, derived, _KEY_SIZE, 0
            )
        _check(status, "BCryptDeriveKeyPBKDF2")
        return derived.raw

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """See Cipher."""
        encrypted, tag = sealed[:-_TAG_SIZE], sealed[-_TAG_SIZE:]
        if len(tag) != _TAG_SIZE:
            raise NotAuthentic("it is too short to carry an authentication tag")
        info = _CipherModeInfo(
            size=ctypes.sizeof(_CipherModeInfo),
            version=_INFO_VERSION,
            nonce=nonce,
            nonce_size=len(nonce),
            associated=associated,
            associated_size=len(associated),
            tag=tag,
            tag_size=len(tag),
        )
        plain = ctypes.create_string_buffer(max(len(encrypted), 1))
        length = wintypes.ULONG()
        with _aes_key(key) as handle:
            status = bcrypt.BCryptDecrypt(
                handle, encrypted, len(encrypted), ctypes.byref(info), None, 0, plain, len(encrypted),
                ctypes.byref(length), 0,
            )  # fmt: skip
        if status == _AUTH_TAG_MISMATCH:
            raise NotAuthentic("it was changed, or sealed with another key")
        _check(status, "BCryptDecrypt")
        return plain.raw[: length.value]


@contextlib.contextmanager
def _provider(algorithm: str, flags: int = 0) -> Iterator[ctypes.c_void_p]:
    provider = ctypes.c_void_p()
    _check(bcrypt.BCryptOpenAlgorithmProvider(ctypes.byref(provider), algorithm, None, flags), algorithm)
    try:
        yield provider
    finally:
        bcrypt.BCryptCloseAlgorithmProvider(provider, 0)


@contextlib.contextmanager
def _aes_key(key: bytes) -> Iterator[ctypes.c_void_p]:
    """An AES key for GCM. The provider outlives it, as CNG wants."""
    handle = ctypes.c_void_p()
    with _provider("AES") as provider:
        _check(bcrypt.BCryptSetProperty(provider, "ChainingMode", _GCM, len(_GCM), 0), "AES-GCM")
        status = bcrypt.BCryptGenerateSymmetricKey(provider, ctypes.byref(handle), None, 0, key, len(key), 0)
        _check(status, "BCryptGenerateSymmetricKey")
        try:
            yield handle
        finally:
            bcrypt.BCryptDestroyKey(handle)


def _check(status: int, what: str) -> None:
    if status:
        raise OSError(errno.ENOSYS, f"Windows's own cryptography fails ({what}: status {status:#010x})")
