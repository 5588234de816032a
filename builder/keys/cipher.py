"""The vault's ciphers from `cryptography` and OpenSSL (payload.formats.vault says what they are for)."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from payload.formats.vault import NotAuthentic


class OpenSslCipher:
    """`payload.formats.vault.SealingCipher`. Keeps the schedule of the key used last, for a vault uses one."""

    def __init__(self) -> None:
        self._key = b""
        self._gcm: AESGCM | None = None

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        """32 bytes of PBKDF2-HMAC-SHA256."""
        return hashlib.pbkdf2_hmac("sha256", secret, salt, rounds)

    def seal(self, key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
        """The ciphertext with its authentication tag at the end."""
        return self._with(key).encrypt(nonce, plain, associated)

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """What `seal` sealed. Raises NotAuthentic."""
        try:
            return self._with(key).decrypt(nonce, sealed, associated)
        except InvalidTag as error:
            raise NotAuthentic("it was changed, or sealed with another key") from error

    def _with(self, key: bytes) -> AESGCM:
        if self._gcm is None or key != self._key:
            self._key, self._gcm = key, AESGCM(key)
        return self._gcm
