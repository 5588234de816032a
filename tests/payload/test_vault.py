"""The key vault and recovery passwords: round trips, damage, fixed vectors, and what must not be readable."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.formats import recovery_password, vault
from payload.formats.recovery_password import RecoveryPasswordError
from payload.formats.vault import (
    HEADER_SIZE,
    LEAST_ROUNDS,
    MOST_ROUNDS,
    RECORD_SIZE,
    NotAuthentic,
    TagsCollide,
    Vault,
    VaultDamaged,
    VaultError,
    VaultHeader,
    VaultKeys,
    VaultRecord,
    WrongPassphrase,
    derive_keys,
    open_vault,
    read_header,
    write_vault,
)

PASSPHRASE = "gobul tovek ridon hulev sipor"
SALT = bytes(range(32))


class Cipher:
    """From `cryptography` and OpenSSL."""

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", secret, salt, rounds)

    def unseal(self, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        try:
            return AESGCM(key).decrypt(nonce, sealed, associated)
        except InvalidTag as error:
            raise NotAuthentic from error

    def seal(self, key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
        return AESGCM(key).encrypt(nonce, plain, associated)


HEADER = VaultHeader(rounds=LEAST_ROUNDS, salt=SALT, records=0, written=1_721_361_600)
KEYS = derive_keys(PASSPHRASE, HEADER, Cipher())


def key_id(number: int) -> bytes:
    return hashlib.md5(b"id %d" % number).digest()


def record(number: int, host: str = "") -> VaultRecord:
    secret = hashlib.md5(b"key %d" % number).digest()
    return VaultRecord(key_id=key_id(number), recovery_key=secret, host=KEYS.host_tag(host))


def written(*records: VaultRecord) -> bytes:
    return b"".join(write_vault(records, HEADER, KEYS, Cipher()))


def opened(data: bytes, passphrase: str = PASSPHRASE) -> Vault:
    return open_vault(io.BytesIO(data), passphrase, Cipher())


def quickly_opened(data: bytes) -> Vault:
    """As `open_vault` does after its half second of PBKDF2."""
    return Vault(io.BytesIO(data), read_header(data), KEYS, data[96:HEADER_SIZE], Cipher())


def test_what_is_put_in_is_found() -> None:
    records = [record(number, f"HOST{number}") for number in range(300)]
    data = written(*records)
    assert len(data) == HEADER_SIZE + 300 * RECORD_SIZE == 128 + 300 * 64
    found = opened(data)
    assert all(found.find(one.key_id) == one for one in records)
    assert found.find(key_id(300)) is None
    assert sorted(found.records(), key=lambda one: one.key_id) == sorted(records, key=lambda one: one.key_id)
    assert found.header.written == 1_721_361_600


def test_an_empty_vault_opens_and_holds_nothing() -> None:
    found = opened(written())
    assert found.find(key_id(1)) is None
    assert list(found.records()) == []


def test_a_vault_by_hand_from_the_description() -> None:
    """The format as its module documents it, put together here from hashlib and AESGCM alone."""
    import hmac

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hashlib.sha256).digest()

    master = hashlib.pbkdf2_hmac("sha256", PASSPHRASE.encode(), SALT, 600_000)
    keys = {name: mac(master, b"bluelift vault 1 " + name) for name in (b"index", b"record", b"host", b"check")}
    start = (
        b"BLVAULT\0" + struct.pack("<HHI", 1, 128, 600_000) + SALT + struct.pack("<QQ", 1, 1_721_361_600) + bytes(16)
    )
    start += hashlib.sha256(start).digest()[:16]
    check = mac(keys[b"check"], start)
    tag = mac(keys[b"index"], key_id(7))[:8]
    plain = key_id(7) + hashlib.md5(b"key 7").digest() + mac(keys[b"host"], b"PC-7")[:8]
    expected = start + check + tag + AESGCM(keys[b"record"]).encrypt(tag + bytes(4), plain, check)
    assert written(record(7, " pc-7 ")) == expected


def test_the_published_vector_opens_and_is_what_is_written() -> None:
    """The one in the module's description: hexadecimal digits, made by hashlib and AESGCM alone."""
    data = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f]{96})$", vault.__doc__ or "", re.MULTILINE)))
    guid = UUID("64311DEA-4587-4029-924A-BA299647998E").bytes_le
    key = recovery_password.parse("002816-008470-014124-019778-025432-031086-036740-042394")
    expected = VaultRecord(key_id=guid, recovery_key=key, host=KEYS.host_tag("PC-7"))
    assert opened(data).find(guid) == expected
    assert written(expected) == data


def test_the_bytes_of_version_1_never_change() -> None:
    data = written(*(record(number) for number in range(3)))
    assert hashlib.sha256(data).hexdigest() == "b1e2d9292d8b92a1313c70eacfe4a5cd3dfdc071bb73935c1356ed772c35a043"


def test_no_key_id_and_no_key_can_be_read() -> None:
    data = written(*(record(number, f"HOST{number}") for number in range(50)))
    for number in range(50):
        one = record(number)
        guid = str(UUID(bytes_le=one.key_id))
        password = recovery_password.text_of(one.recovery_key)
        for secret in (one.key_id, UUID(bytes_le=one.key_id).bytes, guid.encode(), guid.upper().encode(), one.recovery_key, password.encode()):  # fmt: skip  # noqa: E501
            assert secret not in data
        assert f"HOST{number}".encode() not in data
    assert key_id(7).hex() not in repr(record(7)) + repr(KEYS)


def test_a_wrong_passphrase_is_told_from_damage() -> None:
    with pytest.raises(WrongPassphrase, match="not this vault's"):
        opened(written(record(1)), "gobul tovek ridon hulev sipur")
    assert opened(written(record(1)), "  gobul  tovek ridon\thulev sipor\n").find(key_id(1)) == record(1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"", "not a Bluelift vault"),
        (lambda data: b"KeyID,RecoveryKey\n" + data, "not a Bluelift vault"),
        (lambda data: data[:100], "cut off within its header"),
        (lambda data: data[:-1], "cut off or added to"),
        (lambda data: data[:-RECORD_SIZE], "cut off or added to"),
        (lambda data: data + b"\0", "cut off or added to"),
        (lambda data: data[:8] + b"\2" + data[9:], "version 2"),
        (lambda data: data[:20] + b"\xff" + data[21:], "header is damaged"),
        (lambda data: data[:48] + b"\1" + data[49:], "header is damaged"),
    ],
)
def test_a_damaged_vault_is_called_so_before_the_passphrase_is_tried(change: object, says: str) -> None:
    data = change(written(record(1), record(2)))  # type: ignore[operator]
    with pytest.raises(VaultDamaged, match=says):
        opened(data)


@pytest.mark.parametrize("rounds", [0, 1000, LEAST_ROUNDS - 1, MOST_ROUNDS + 1, 2**32 - 1])
def test_rounds_that_are_too_few_or_would_take_hours_are_refused(rounds: int) -> None:
    header = VaultHeader(rounds=rounds, salt=SALT, records=0).packed()
    with pytest.raises(VaultDamaged, match="rounds"):
        read_header(header + bytes(32))


def test_every_changed_byte_of_a_record_is_noticed() -> None:
    data = written(record(1))
    for place in range(HEADER_SIZE, len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        found = quickly_opened(bytes(changed))
        if place < HEADER_SIZE + 8:
            assert found.find(key_id(1)) is None
        else:
            with pytest.raises(VaultDamaged, match="was changed"):
                found.find(key_id(1))
        with pytest.raises(VaultDamaged):
            list(found.records())


def test_a_record_cannot_be_moved_to_another_vault() -> None:
    """Same passphrase and salt, but another header: as an older vault put back in part."""
    other = b"".join(write_vault([record(1)], VaultHeader(rounds=LEAST_ROUNDS, salt=SALT, records=0), KEYS, Cipher()))
    mixed = written(record(1))[:HEADER_SIZE] + other[HEADER_SIZE:]
    with pytest.raises(VaultDamaged, match="was changed"):
        quickly_opened(mixed).find(key_id(1))


def test_records_out_of_order_are_noticed() -> None:
    data = written(record(1), record(2))
    swapped = data[:HEADER_SIZE] + data[HEADER_SIZE + RECORD_SIZE :] + data[HEADER_SIZE : HEADER_SIZE + RECORD_SIZE]
    with pytest.raises(VaultDamaged, match="out of order"):
        list(quickly_opened(swapped).records())


def test_two_records_with_one_tag_are_refused() -> None:
    with pytest.raises(TagsCollide):
        written(record(1), record(1))


def test_hosts_are_matched_by_name_in_any_case() -> None:
    assert KEYS.host_tag("pc-17") == KEYS.host_tag(" PC-17 ") != KEYS.host_tag("PC-18")
    assert KEYS.host_tag("  ") == bytes(8)


def test_one_lookup_reads_a_few_records_of_a_large_vault() -> None:
    """No decrypting of the whole vault: the reads are counted, not timed."""

    class Counting(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().read(size)

    data = written(*(record(number) for number in range(5000)))
    stream = Counting(data)
    found = Vault(stream, read_header(data), KEYS, data[96:HEADER_SIZE], Cipher())
    assert found.find(key_id(4321)) == record(4321)
    assert stream.reads <= 13


@given(st.binary(max_size=400))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    for start in (data, vault.MAGIC + data):
        with pytest.raises(VaultError):
            open_vault(io.BytesIO(start), "x", _Never())


@given(st.integers(0, HEADER_SIZE - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_a_mutated_header_never_raises_anything_else(place: int, change: int) -> None:
    data = bytearray(VaultHeader(rounds=LEAST_ROUNDS, salt=SALT, records=0).packed() + bytes(32))
    data[place] ^= change
    with pytest.raises(VaultError):
        open_vault(io.BytesIO(bytes(data)), "x", _Never())


class _Never(Cipher):
    """Gives keys at once: what a damaged vault must not even ask for, and a changed check cannot match."""

    def pbkdf2(self, secret: bytes, salt: bytes, rounds: int) -> bytes:
        return bytes(32)


# --- recovery passwords ------------------------------------------------------------------------------------------

GOOD = "471207-278498-422125-177177-561902-537405-468006-693451"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("-", ""),
        GOOD.replace("-", " "),
        f"  {GOOD}\r\n",
        GOOD.replace("-", "\u2013"),
        GOOD.replace("-", " - "),
    ],
)
def test_a_password_in_every_dress(text: str) -> None:
    assert recovery_password.text_of(recovery_password.parse(text)) == GOOD


@pytest.mark.parametrize(
    ("text", "group", "says"),
    [
        ("", 0, "other than digits"),
        (GOOD[:-1], 0, "47 digits instead of 48"),
        (GOOD + "1", 0, "49 digits"),
        (GOOD.replace("4", "O", 1), 0, "other than digits"),
        (GOOD.replace("471207", "471208"), 1, "group 1 was mistyped: eleven does not divide it"),
        (GOOD.replace("537405", "537415"), 6, "group 6 was mistyped"),
        ("720896-" + GOOD[7:], 1, "too large"),
        (GOOD.replace("0", "\u0660"), 0, "other than digits"),
    ],
)
def test_a_wrong_password_is_pointed_at_and_never_repeated(text: str, group: int, says: str) -> None:
    with pytest.raises(RecoveryPasswordError, match=says) as raised:
        recovery_password.parse(text)
    assert raised.value.group == group
    assert not any(part in str(raised.value) for part in text.split("-") if part)


@given(st.binary(min_size=16, max_size=16))
def test_every_key_has_a_password(key: bytes) -> None:
    text = recovery_password.text_of(key)
    assert recovery_password.parse(text) == key
    assert all(recovery_password.group_problem(group) == "" for group in text.split("-"))


@given(st.text(max_size=80))
def test_any_text_is_a_password_or_refused(text: str) -> None:
    try:
        key = recovery_password.parse(text)
    except RecoveryPasswordError:
        return
    assert len(key) == 16


def test_keys_are_not_shown() -> None:
    keys = VaultKeys(index=b"i" * 32, record=b"r" * 32, host=b"h" * 32, check=b"c" * 32)
    assert "rrrr" not in repr(keys)
