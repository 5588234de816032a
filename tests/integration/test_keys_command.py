"""`bluelift keys` as it is typed: a vault is made, listed, cut down and re-keyed, and never says a password."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from builder.keys.cipher import OpenSslCipher
from payload.formats import recovery_password
from payload.formats.vault import NotAuthentic, open_vault

ROOT = Path(__file__).parent.parent.parent
IDS = [f"C3E4B5A6-1F2D-4E7C-9A8B-0D1E2F3A4B{number:02X}" for number in range(6)]
PASSWORDS = [recovery_password.text_of(bytes([number]) * 16) for number in range(1, 7)]
ROWS = "".join(f"{{{one}}},{password},PC-{n}\n" for n, (one, password) in enumerate(zip(IDS, PASSWORDS, strict=True)))
GOOD = "correct horse battery staple glue window"


def keys(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "builder", "keys", *map(str, arguments)],
        cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    for password in PASSWORDS:
        assert password not in done.stdout + done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys.csv").write_text("KeyID,RecoveryKey,ComputerName\n" + ROWS)
    (tmp_path / "words").write_text(GOOD + "\n")
    keys("import", "keys.csv", "-o", "all.vault", "--new-passphrase-file", "words", cwd=tmp_path)
    return tmp_path


def held(path: Path, passphrase: str = GOOD) -> dict[str, str]:
    from builder.keys.found import guid_text

    with path.open("rb") as stream:
        vault = open_vault(stream, passphrase, OpenSslCipher())
        return {guid_text(record.key_id): recovery_password.text_of(record.recovery_key) for record in vault.records()}


def test_import_makes_a_vault_that_its_owner_alone_may_read(folder: Path) -> None:
    assert held(folder / "all.vault") == dict(zip(IDS, PASSWORDS, strict=True))
    assert stat.S_IMODE((folder / "all.vault").stat().st_mode) == 0o600
    assert (folder / "all.vault").stat().st_size == 128 + 6 * 64
    assert sorted(path.name for path in folder.iterdir()) == ["all.vault", "keys.csv", "words"]


def test_a_passphrase_is_made_up_and_shown_once(folder: Path) -> None:
    done = keys("import", "keys.csv", "-o", "own.vault", cwd=folder)
    found = re.search(r"passphrase +((?:[a-z]{5} ?){5})", done.stdout)
    assert found is not None, done.stdout
    assert len(held(folder / "own.vault", found[1].strip())) == 6
    assert "write the passphrase down now" in done.stdout


def test_rejects_and_conflicts_are_listed_with_file_and_line(folder: Path) -> None:
    mistyped = PASSWORDS[1].replace("-", "0-", 1)
    (folder / "more.csv").write_text(
        f"KeyID,RecoveryKey\n{IDS[0]},{PASSWORDS[1]}\n{IDS[1]},{mistyped}\n{IDS[2]},{PASSWORDS[2]}\n"
    )
    done = keys("import", "keys.csv", "more.csv", "-o", "two.vault", "--new-passphrase-file", "words", cwd=folder)
    assert f"in conflict: more.csv:2: another recovery password for {IDS[0]} than in keys.csv:2" in done.stderr
    assert "rejected: more.csv:3:" in done.stderr
    assert mistyped not in done.stderr
    assert "1 duplicate" in done.stdout
    assert held(folder / "two.vault") == dict(zip(IDS, PASSWORDS, strict=True))


def test_list_shows_key_ids_and_no_secret(folder: Path) -> None:
    done = keys("list", "all.vault", "--passphrase-file", "words", "--json", cwd=folder)
    data = json.loads(done.stdout)
    assert [one["key_id"] for one in data["keys"]] == sorted(IDS)
    assert all(one["host_known"] for one in data["keys"])


def test_a_subset_by_hosts_and_key_ids(folder: Path) -> None:
    (folder / "hosts").write_text("pc-1\nPC-4\nPC-99\n")
    (folder / "ids").write_text(f"{{{IDS[5].lower()}}}\n")
    done = keys(
        "subset", "all.vault", "--passphrase-file", "words", "--hosts", "hosts", "--key-ids", "ids", "-o", "part.vault",
        cwd=folder,
    )  # fmt: skip
    assert set(held(folder / "part.vault")) == {IDS[1], IDS[4], IDS[5]}
    assert "no key for PC-99" in done.stderr
    again = keys("subset", "part.vault", "--passphrase-file", "words", "--hosts", "hosts", "-o", "x.vault", cwd=folder)
    assert "x.vault is ready" in again.stdout
    assert set(held(folder / "x.vault")) == {IDS[1], IDS[4]}


def test_a_new_passphrase_replaces_the_old_one(folder: Path) -> None:
    done = keys("rekey", "all.vault", "--passphrase-file", "words", cwd=folder)
    found = re.search(r"passphrase +((?:[a-z]{5} ?){5})", done.stdout)
    assert found is not None
    assert held(folder / "all.vault", found[1].strip()) == dict(zip(IDS, PASSWORDS, strict=True))
    assert "6 keys no longer know theirs" in done.stdout
    keys("list", "all.vault", "--passphrase-file", "words", cwd=folder, code=11)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("import", "keys.csv", "-o", "all.vault"), 7, "is there already"),
        (("import", "missing.csv", "-o", "x.vault"), 2, "cannot be read"),
        (("import", "words", "-o", "x.vault"), 2, "holds no recovery password"),
        (("import", "bad.csv", "-o", "x.vault"), 11, "none of the recovery passwords"),
        (("import", "keys.csv", "-o", "missing/x.vault"), 7, "missing"),
        (("import", "keys.csv", "-o", "x.vault", "--new-passphrase-file", "weak"), 11, "24 bits|25 bits"),
        (("import", "keys.csv", "-o", "x.vault", "--new-passphrase-file", "other"), 11, "not every keyboard"),
        (("import", "keys.csv", "-o", "x.vault", "--new-passphrase-file", "long"), 11, "more than 128 can be typed"),
        (("import", "keys.csv", "-o", "x.vault", "--ask"), 2, "no terminal"),
        (("list", "all.vault"), 2, "no terminal"),
        (("list", "all.vault", "--passphrase-file", "weak"), 11, "not this vault's"),
        (("list", "keys.csv", "--passphrase-file", "words"), 11, "not a Bluelift vault"),
        (("list", "short.vault", "--passphrase-file", "words"), 11, "cut off"),
        (("list", "no.vault", "--passphrase-file", "words"), 11, "cannot be read"),
        (("iso", "keys.csv", "-o", "x.iso"), 11, "not a Bluelift vault"),
        (("iso", "short.vault", "-o", "x.iso"), 11, "cut off"),
        (("subset", "all.vault", "--passphrase-file", "words", "-o", "x.vault"), 2, "which keys to keep"),
        (("subset", "all.vault", "--passphrase-file", "words", "--hosts", "weak", "-o", "x.vault"), 11, "none of"),
        (("subset", "all.vault", "--passphrase-file", "words", "--key-ids", "weak", "-o", "x.vault"), 2, "weak:1"),
    ],
)  # fmt: skip
def test_what_is_refused(folder: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    (folder / "weak").write_text("Summer2024!")
    (folder / "long").write_text("gobul tovek ridon hulev sipor " * 5)
    (folder / "other").write_text("Straße und noch viel mehr Wörter als das")
    (folder / "bad.csv").write_text(f"KeyID,RecoveryKey\n{IDS[0]},{PASSWORDS[1][:-1]}\n")
    (folder / "short.vault").write_bytes((folder / "all.vault").read_bytes()[:-3])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = keys(*arguments, cwd=folder, code=code)
    assert re.search(says, done.stderr), done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_weak_passphrase_can_be_forced(folder: Path) -> None:
    (folder / "weak").write_text("Summer2024!")
    keys("import", "keys.csv", "-o", "x.vault", "--new-passphrase-file", "weak", "--weak", cwd=folder)
    assert len(held(folder / "x.vault", "Summer2024!")) == 6


def test_a_vault_on_a_cd_reads_back_by_another_program(folder: Path) -> None:
    keys("iso", "all.vault", "-o", "keys.iso", cwd=folder)
    if shutil.which("7z") is None:
        pytest.skip("7z is not installed")
    subprocess.run(["7z", "x", "-oout", "keys.iso"], cwd=folder, check=True, capture_output=True, timeout=60)
    (vault,) = (folder / "out" / "Bluelift" / "vault").iterdir()
    assert vault.name == "all.vault"
    assert vault.read_bytes() == (folder / "all.vault").read_bytes()


def test_the_cipher_tells_a_changed_text() -> None:
    cipher = OpenSslCipher()
    sealed = cipher.seal(b"k" * 32, b"n" * 12, b"secret", b"with")
    assert cipher.unseal(b"k" * 32, b"n" * 12, sealed, b"with") == b"secret"
    for key, text, associated in (
        (b"j" * 32, sealed, b"with"),
        (b"k" * 32, sealed[:-1] + b"x", b"with"),
        (b"k" * 32, sealed, b""),
    ):
        with pytest.raises(NotAuthentic) as raised:
            cipher.unseal(key, b"n" * 12, text, associated)
        assert isinstance(raised.value.__cause__, InvalidTag)
