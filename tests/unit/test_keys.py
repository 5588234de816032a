"""Recovery passwords from every source people have, and the passphrases of vaults."""

from __future__ import annotations

import base64
import json
import math
import random
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.keys import passphrase
from builder.keys.found import Collection, FoundKey, Reject, guid_bytes, guid_text, host_of_name
from builder.keys.importers import read_keys
from payload.formats import recovery_password
from tests.integration.test_keymap import PRINTED

ID = "C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B5C"
ID2 = "00112233-4455-6677-8899-AABBCCDDEEFF"
PASSWORD = "471207-278498-422125-177177-561902-537405-468006-693451"
PASSWORD2 = "000000-000011-000022-000033-000044-000055-000066-720885"
MISTYPED = PASSWORD.replace("471207", "471208")

CROWDSTRIKE = f"KeyID,RecoveryKey\n{{{ID}}},{PASSWORD}\n{ID2.lower()},{PASSWORD2}\n"
ENTRA_CSV = (
    '"id","createdDateTime","deviceId","deviceName","key"\n'
    f'"{ID}","2024-07-19T05:00:00Z","11111111-2222-3333-4444-555555555555","PC-17","{PASSWORD}"\n'
    f'"{ID2}","2024-07-19T05:00:00Z","","","{PASSWORD2}"\n'
)
GRAPH = {
    "@odata.context": "x",
    "value": [
        {"id": ID, "createdDateTime": "2024-07-19T05:00:00Z", "volumeType": "1", "deviceId": "d-1", "key": PASSWORD},
        {"id": ID2, "deviceId": "d-2", "key": PASSWORD2},
    ],
}
NAME = f"2024-07-19T05:00:00-00:00{{{ID}}}"
LDIF = (
    "version: 1\n\n# a comment\n"
    f"dn: CN={NAME},CN=PC-17,OU=Branch,DC=example,DC=\n org\n"
    "objectClass: msFVE-RecoveryInformation\n"
    f"msFVE-RecoveryGuid:: {base64.b64encode(UUID(ID).bytes_le).decode()}\n"
    f"msFVE-RecoveryPassword: {PASSWORD[:20]}\n {PASSWORD[20:]}\n\n"
    "dn: CN=Users,DC=example,DC=org\nobjectClass: container\n\n"
    f"dn:: {base64.b64encode(f'CN=2024{{{ID2}}},CN=Büro,DC=example'.encode()).decode()}\n"
    f"msFVE-RecoveryPassword: {PASSWORD2}\n"
)
AD_CSV = (
    "#TYPE Selected.Microsoft.ActiveDirectory.Management.ADObject\n"
    '"DistinguishedName","msFVE-RecoveryPassword","Name"\n'
    f'"CN={NAME},CN=PC-17,OU=Branch,DC=example","{PASSWORD}","{NAME}"\n'
    f'"CN=2024{{{ID2}}},CN=PC-18,DC=example","{PASSWORD2}","2024{{{ID2}}}"\n'
)
MANAGE_BDE = f"""\
BitLocker-Laufwerkverschlüsselung: Konfigurationstool, Version 10.0.19041
Volume "C:" [OSDisk]
Alle Schlüsselschutzvorrichtungen

    TPM:
      ID: {{99999999-1F2D-4E7C-9A8B-0D1E2F3A4B5C}}
      PCR-Validierungsprofil:
        7, 11

    Numerisches Kennwort:
      ID: {{{ID}}}
      Kennwort:
        {PASSWORD}

    Numerisches Kennwort:
      ID: {{{ID2}}}
      Kennwort:
        {PASSWORD2}
"""
KEY_FILE = f"""\
BitLocker Drive Encryption recovery key

Identifier:

\t{ID}

Recovery Key:

\t{PASSWORD}
"""


def found_in(tmp_path: Path, content: str | bytes, name: str = "keys.txt") -> list[FoundKey | Reject]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_keys(path))


def keys_of(found: list[FoundKey | Reject]) -> dict[str, str]:
    assert all(isinstance(one, FoundKey) for one in found), [str(one) for one in found]
    return {
        guid_text(one.key_id): recovery_password.text_of(one.recovery_key) for one in found if isinstance(one, FoundKey)
    }


@pytest.mark.parametrize(
    ("content", "lines", "hosts"),
    [
        (CROWDSTRIKE, [2, 3], ["", ""]),
        (CROWDSTRIKE.replace(",", ";").replace("\n", "\r\n"), [2, 3], ["", ""]),
        (CROWDSTRIKE.encode("utf-8-sig"), [2, 3], ["", ""]),
        (CROWDSTRIKE.encode("utf-16"), [2, 3], ["", ""]),
        (CROWDSTRIKE.encode("utf-16-le"), [2, 3], ["", ""]),
        (CROWDSTRIKE.encode("utf-16-be"), [2, 3], ["", ""]),
        (CROWDSTRIKE.replace("\n", "\r"), [2, 3], ["", ""]),
        (AD_CSV.replace("\n", "\r"), [3, 4], ["PC-17", "PC-18"]),
        (ENTRA_CSV, [2, 3], ["PC-17", ""]),
        (AD_CSV, [3, 4], ["PC-17", "PC-18"]),
        (json.dumps(GRAPH), [1, 1], ["", ""]),
        (json.dumps(GRAPH, indent=2), [5, 12], ["", ""]),
        (json.dumps(GRAPH["value"]), [1, 1], ["", ""]),
        ("\n".join(json.dumps(one) for one in GRAPH["value"]), [1, 2], ["", ""]),
        (LDIF, [4, 14], ["PC-17", "Büro"]),
        (MANAGE_BDE, [13, 18], ["", ""]),
        (MANAGE_BDE.encode("cp1252"), [13, 18], ["", ""]),
        (f"{ID} {PASSWORD}\n{ID2} {PASSWORD2}\n", [1, 2], ["", ""]),
        (f"{PASSWORD.replace('-', '')} is of {ID}\n{ID2}: {PASSWORD2.replace('-', ' ')}\n", [1, 2], ["", ""]),
    ],
)  # fmt: skip
def test_every_source(content: str | bytes, lines: list[int], hosts: list[str], tmp_path: Path) -> None:
    found = found_in(tmp_path, content)
    assert keys_of(found) == {ID: PASSWORD, ID2: PASSWORD2}
    assert [one.line for one in found] == lines
    assert [one.host for one in found if isinstance(one, FoundKey)] == hosts


@pytest.mark.parametrize("content", [KEY_FILE, KEY_FILE.encode("utf-16"), KEY_FILE.replace("\n", "\r\n")])
def test_the_file_that_windows_saves(content: str | bytes, tmp_path: Path) -> None:
    assert keys_of(found_in(tmp_path, content)) == {ID: PASSWORD}


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (" ".join(map(str, UUID(ID).bytes_le)), "msFVE-RecoveryGuid"),
        (base64.b64encode(UUID(ID).bytes_le).decode(), "msFVE-RecoveryGuid"),
        (f"{{{ID}}}", "msFVE-RecoveryGuid"),
    ],
)
def test_a_guid_as_bytes(cell: str, name: str, tmp_path: Path) -> None:
    assert keys_of(found_in(tmp_path, f'"{name}","msFVE-RecoveryPassword"\n"{cell}","{PASSWORD}"\n')) == {ID: PASSWORD}


def test_ad_objects_as_json(tmp_path: Path) -> None:
    data = {"DistinguishedName": f"CN={NAME},CN=PC-17,DC=x", "msFVE-RecoveryGuid": list(UUID(ID).bytes_le), "msFVE-RecoveryPassword": PASSWORD}  # fmt: skip  # noqa: E501
    (found,) = found_in(tmp_path, json.dumps(data))
    assert keys_of([found]) == {ID: PASSWORD}
    assert isinstance(found, FoundKey)
    assert found.host == "PC-17"


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (f"KeyID,RecoveryKey\n{ID},{MISTYPED}\n", 2, "group 1 was mistyped"),
        (f"KeyID,RecoveryKey\n{ID},{PASSWORD[:-1]}\n", 2, "47 digits"),
        (f"KeyID,RecoveryKey\n{ID},\n", 2, "other than digits"),
        (f"KeyID,RecoveryKey\nno id,{PASSWORD}\n", 2, "no key id"),
        (f"KeyID,RecoveryKey\n\n,{PASSWORD}\n", 3, "no key id"),
        (json.dumps([{"id": ID, "key": MISTYPED}]), 1, "group 1 was mistyped"),
        (f"dn: CN=x\nmsFVE-RecoveryPassword: {PASSWORD}\n", 1, "no key id"),
        (f"Kennwort: {PASSWORD}\n", 1, "no key id"),
        (f"ID: {{{ID}}}\n  {MISTYPED}\n", 2, "group 1 was mistyped"),
    ],
)
def test_rejects_name_the_line_and_never_the_password(content: str, line: int, why: str, tmp_path: Path) -> None:
    (reject,) = found_in(tmp_path, content)
    assert isinstance(reject, Reject)
    assert (reject.file, reject.line) == ("keys.txt", line)
    assert why in reject.why
    assert not any(group in str(reject) for group in (*PASSWORD.split("-"), *MISTYPED.split("-")))


def test_one_key_id_is_not_used_for_two_passwords(tmp_path: Path) -> None:
    """A password without an id of its own must not get the one before it."""
    first, second = found_in(tmp_path, f"ID: {{{ID}}}\n{PASSWORD}\n\n{PASSWORD2}\n")
    assert isinstance(first, FoundKey)
    assert isinstance(second, Reject)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        "no keys here",
        "KeyID,RecoveryKey\n",
        "{}",
        "[]",
        f"{ID}\n",
        b"\xff\xfe",
        b"\0",
        "#TYPE\vKeyID,RecoveryKey",
    ],
)
def test_a_file_without_keys_is_refused(content: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no recovery password"):
        found_in(tmp_path, content)


def test_a_heading_as_no_table_has_is_a_reject(tmp_path: Path) -> None:
    (reject,) = found_in(tmp_path, f"KeyID,RecoveryKey,{'x' * 200_000}\n{ID},{PASSWORD}\n")
    assert isinstance(reject, Reject)
    assert "the table cannot be read on" in reject.why


def test_json_that_breaks_off_is_a_reject(tmp_path: Path) -> None:
    found = found_in(tmp_path, json.dumps(GRAPH, indent=2)[:-40])
    assert [str(one) for one in found] == ["keys.txt:14: it is not JSON from here on"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_keys(tmp_path / "missing.csv"))


@given(st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    try:
        found = found_in(tmp_path, text.encode("utf-8", "replace"))
    except UsageError:
        return
    assert found


@given(st.text(max_size=30), st.sampled_from('\n\r\v\x85;\t"'), st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_table_is_read_or_refused(tmp_path: Path, before: str, between: str, after: str) -> None:
    try:
        found = found_in(tmp_path, f"{before}{between}KeyID,RecoveryKey{between}{after}".encode("utf-8", "replace"))
    except UsageError:
        return
    assert found


@given(st.sampled_from([CROWDSTRIKE, ENTRA_CSV, LDIF, MANAGE_BDE, json.dumps(GRAPH)]), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_mutation_makes_a_key_of_what_was_none(tmp_path: Path, content: str, data: st.DataObject) -> None:
    """One changed character: every key that is still found is one of the two; a mistyped digit is never taken."""
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + data.draw(st.characters(max_codepoint=255)) + content[place + 1 :]
    try:
        found = found_in(tmp_path, changed)
    except UsageError:
        return
    passwords = {recovery_password.text_of(one.recovery_key) for one in found if isinstance(one, FoundKey)}
    changed_one = next((p for p in passwords - {PASSWORD, PASSWORD2}), "")
    # Eleven tells any single wrong digit; nothing but another digit could make another password.
    assert not changed_one


def test_collections_merge_and_find_conflicts() -> None:
    def key(password: str, host: str = "", line: int = 1) -> FoundKey:
        return FoundKey(guid_bytes(ID), recovery_password.parse(password), host, "a.csv", line)

    collection = Collection()
    collection.add(
        [key(PASSWORD), key(PASSWORD, "PC-17", 2), key(PASSWORD2, "PC-18", 3), Reject(file="a", line=4, why="x")]
    )
    (kept,) = collection.keys.values()
    assert (kept.host, recovery_password.text_of(kept.recovery_key)) == ("PC-17", PASSWORD)
    assert collection.duplicates == 1
    assert [str(one) for one in collection.conflicts] == [
        f"a.csv:3: another recovery password for {ID} than in a.csv:2; that one is kept"
    ]
    assert len(collection.rejects) == 1


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("CN=x,CN=PC-17,OU=a", "PC-17"),
        (r"CN=a\,b,CN=PC-17,OU=a", "PC-17"),
        ("CN=x,OU=a", ""),
        ("", ""),
        ("CN=x", ""),
    ],
)
def test_the_computer_of_a_distinguished_name(name: str, host: str) -> None:
    assert host_of_name(name) == host


def test_guids_are_mixed_endian() -> None:
    assert guid_bytes(ID) == UUID(ID).bytes_le
    assert guid_text(UUID(ID).bytes_le) == ID


# --- passphrases -------------------------------------------------------------------------------------------------


def test_a_made_up_passphrase_has_enough_bits_and_only_letters_that_every_layout_agrees_on() -> None:
    chosen = random.Random(1)
    made = [passphrase.generate(chosen.choice) for _ in range(200)]
    assert len(set(made)) == 200
    assert passphrase.GENERATED_BITS >= 78
    moved_on_some_layout = set("amqwyz")
    assert not moved_on_some_layout & set("".join(made))
    assert all(len(words.split(" ")) == 5 for words in made)
    assert math.isclose(passphrase.GENERATED_BITS, 5 * math.log2(15**3 * 4**2))
    assert all(passphrase.bits(words) >= passphrase.LEAST_BITS for words in made[:20])


@pytest.mark.parametrize("layout", ["us", "de", "fr", "uk", "es", "it", "ch-de", "ch-fr", "be", "se", "pl"])
def test_its_letters_lie_on_the_same_keys(layout: str) -> None:
    """What is printed on each key, which the image's keymaps are compared with."""
    ours, theirs = PRINTED["us"][0], PRINTED[layout][0]
    for letter in passphrase.CONSONANTS + passphrase.VOWELS:
        assert theirs[ours.index(letter)] == letter


@pytest.mark.parametrize(
    "words", ["Summer2024!", "P@ssw0rdP@ssw0rdP@ssw0rd", "abcabcabcabcabcabc", "correct horse battery staple", "a"]
)
def test_weak_passphrases_are_seen(words: str) -> None:
    assert passphrase.bits(words) < passphrase.LEAST_BITS


@pytest.mark.parametrize(("words", "fits"), [("gobul tovek", True), ("Straße", False), ("a\tb", False), ("~!@#", True)])
def test_what_every_keyboard_can_type(words: str, fits: bool) -> None:
    assert passphrase.typable(words) is fits
