"""The look for secrets finds every planted one, whatever its form and place, and is silent where there is none."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from builder.keys.cipher import OpenSslCipher
from builder.verify import leaks
from builder.verify.bitlocker_keys import seeded
from builder.verify.leaks import Secrets, leaks_below, leaks_in
from builder.verify.locked_media import PASSPHRASE, WRONG_PASSWORD, make_vault
from builder.verify.typist import Typist
from payload.formats.recovery_password import parse, text_of
from payload.formats.vault import derive_keys, open_vault

KEY = bytes(range(1, 17))
PASSWORD = text_of(KEY)
GUID = "64311DEA-4587-4029-924A-BA299647998E"
SECRETS = leaks.of_password(PASSWORD, GUID) | leaks.of_passphrase(PASSPHRASE) | leaks.of_key(KEY * 2, "a volume's key")
_CHUNK = 1 << 20

PLANTED = {
    "with dashes": PASSWORD.encode(),
    "without dashes": PASSWORD.replace("-", "").encode(),
    "with spaces": PASSWORD.replace("-", " ").encode(),
    "in UTF-16": PASSWORD.encode("utf-16-le"),
    "two groups of it": PASSWORD[14:27].encode(),
    "in JSON": json.dumps({"note": f"tried {PASSWORD}."}).encode(),
    "the key behind it": KEY,
    "in hexadecimal": KEY.hex().encode(),
    "in capital hexadecimal": KEY.hex().upper().encode(),
    "a passphrase": PASSPHRASE.encode(),
    "two words of it": b" ".join(PASSPHRASE.encode().split()[1:3]),
    "a passphrase in UTF-16": PASSPHRASE.encode("utf-16-le"),
    "a dm-crypt table": f"0 131072 crypt aes-xts-plain64 {(KEY * 2).hex()} 0 /dev/sda3 0".encode(),
    "in Base64": base64.b64encode(KEY * 2),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=list(PLANTED))
@pytest.mark.parametrize("at", [0, 5000, _CHUNK - 7, 2 * _CHUNK + 1])
def test_a_planted_secret_is_found_wherever_it_lies(tmp_path: Path, planted: bytes, at: int) -> None:
    file = tmp_path / "disk.raw"
    before = tmp_path / "before.raw"
    before.write_bytes(seeded(b"noise")(3 * _CHUNK))
    content = bytearray(before.read_bytes())
    content[at : at + len(planted)] = planted
    file.write_bytes(content)
    for found in (leaks_in(file, SECRETS), leaks_in(file, SECRETS, before=before)):
        assert found
        assert all("disk.raw" in leak for leak in found)
        # What is told of it does not leak it once more.
        told = tmp_path / "told"
        told.write_text("\n".join(found))
        assert not leaks_in(told, SECRETS)


def test_where_it_was_before_it_may_stay_but_nowhere_else(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    start = seeded(b"stick")(20_000)
    before.write_bytes(start + PASSPHRASE.encode() + bytes(20_000))
    after.write_bytes(start + PASSPHRASE.encode() + b"\r\nsomething new" + bytes(20_000))
    assert not leaks_in(before, SECRETS, before=before)
    assert not leaks_in(after, SECRETS, before=before)
    after.write_bytes(start + PASSPHRASE.encode() + bytes(3000) + PASSPHRASE.encode() + bytes(20_000))
    found = leaks_in(after, SECRETS, before=before)
    assert found
    assert all(str(20_000 + len(PASSPHRASE)) not in leak.split(" ") for leak in found)


def test_a_file_that_grew_is_searched_to_its_end(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(bytes(100))
    after.write_bytes(bytes(100) + PASSWORD.encode())
    assert leaks_in(after, SECRETS, before=before)


def test_folders_are_searched_to_their_depth(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/serial.log").write_text(f"a line\nkey id {GUID}, serial BL-1\n")
    assert not leaks_below(tmp_path, SECRETS)
    (tmp_path / "a/b/serial.log").write_text(f"a line\nBLUELIFT {json.dumps({'note': PASSWORD})}\n")
    assert leaks_below(tmp_path, SECRETS)


def test_no_form_is_so_short_that_chance_could_find_it() -> None:
    assert min(map(len, SECRETS.forms)) >= 11
    assert SECRETS.longest <= 256
    assert not leaks.no_secrets().forms


def test_secrets_show_in_no_repr(tmp_path: Path) -> None:
    for shown in (
        repr(SECRETS),
        repr(Typist(folder=tmp_path, limit=1, passphrase=PASSPHRASE, passwords={GUID: (PASSWORD,)})),
    ):
        (tmp_path / "shown").write_text(shown)
        assert not leaks_in(tmp_path / "shown", SECRETS)


def test_key_ids_are_found_as_text_and_as_bytes(tmp_path: Path) -> None:
    ids = leaks.of_key_ids([GUID])
    for form in (GUID.encode(), GUID.lower().encode(), bytes.fromhex("ea1d3164874529 40924aba299647998e")):
        (tmp_path / "file").write_bytes(b"..." + form)
        assert leaks_in(tmp_path / "file", ids)


def test_the_vault_of_verify_hides_its_key_ids_and_opens(tmp_path: Path) -> None:
    vault = make_vault(tmp_path / "keys.vault", {GUID: PASSWORD})
    assert vault.key_ids == (GUID,)
    hidden = SECRETS | leaks.of_key_ids(vault.key_ids) | leaks.of_vault(vault.header, PASSPHRASE)
    assert not leaks_in(vault.path, hidden)
    with vault.path.open("rb") as stream:
        opened = open_vault(stream, PASSPHRASE, OpenSslCipher())
        keys = {record.key_id: record.recovery_key for record in opened.records()}
    assert len(keys) > 100
    assert KEY in keys.values()
    # Its derived keys are among what is looked for.
    (tmp_path / "leak").write_bytes(os.urandom(50) + derive_keys(PASSPHRASE, vault.header, OpenSslCipher()).record)
    assert leaks_in(tmp_path / "leak", hidden)


def test_the_wrong_password_is_one_that_could_be_right() -> None:
    assert len(parse(WRONG_PASSWORD)) == 16


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert not leaks_in(tmp_path / "empty", SECRETS)
    assert not leaks_in(tmp_path / "empty", Secrets(forms={}))
