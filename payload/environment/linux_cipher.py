"""AES and PBKDF2 as Linux has them: the kernel's ciphers through AF_ALG sockets, OpenSSL through Python's hashlib.

Source: Linux Documentation/crypto/userspace-if ("User Space Interface"); Python's `socket`, "AF_ALG".
"""

from __future__ import annotations

import errno
import hashlib
import socket

from payload.formats.vault import NotAuthentic

#: What the kernel does not load by itself where it was built without aliases.
MODULES = ("af_alg", "algif_aead", "aesni_intel", "aes_generic", "gcm", "ghash_generic", "ctr", "ccm", "cbc")
_TAG = 16
#: CCM's IV in the kernel: one byte, 2 for a nonce of 12 bytes (RFC 3610's L - 1), the nonce, room for the counter.
_CCM_LENGTH, _CCM_COUNTER = b"\x02", bytes(3)


class LinuxCipher:
    """`payload.formats.vault.Cipher`, and AES-CCM for BitLocker's own keys. Raises OSError where the kernel cannot."""

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        """32 bytes of PBKDF2-HMAC-SHA256."""
        return hashlib.pbkdf2_hmac("sha256", secret, salt, rounds, 32)

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """AES-GCM: the plain text of a ciphertext that ends in its tag. Raises NotAuthentic."""
        return _opened("gcm(aes)", key, nonce, sealed, associated)

    def unseal_ccm(self, key: bytes, nonce: bytes, sealed: bytes) -> bytes:
        """AES-CCM with a nonce of 12 bytes, otherwise as `unseal`. Raises NotAuthentic."""
        return _opened("ccm(aes)", key, _CCM_LENGTH + nonce + _CCM_COUNTER, sealed, b"")


def _opened(algorithm: str, key: bytes, iv: bytes, sealed: bytes, associated: bytes) -> bytes:
    size = len(associated) + len(sealed) - _TAG
    if len(sealed) <= _TAG:
        raise NotAuthentic("there is nothing but a tag")
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as cipher:
        cipher.bind(("aead", algorithm))
        cipher.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
        cipher.setsockopt(socket.SOL_ALG, socket.ALG_SET_AEAD_AUTHSIZE, None, _TAG)
        operation, _ = cipher.accept()
        with operation:
            operation.sendmsg_afalg([associated, sealed], op=socket.ALG_OP_DECRYPT, iv=iv, assoclen=len(associated))
            try:
                # Exactly as much as comes: the kernel waits for more data until the buffer is full.
                opened = operation.recv(size)
            except OSError as error:
                if error.errno == errno.EBADMSG:
                    raise NotAuthentic("it was changed, or sealed with another key") from error
                raise
    return opened[len(associated) :]
