"""`vault:` in a profile: built in, with room for a newer one; and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.build import Built
from builder.keys.cipher import OpenSslCipher
from payload.formats.vault import LEAST_ROUNDS, VaultHeader, VaultRecord, derive_keys, write_vault
from tests.command_line import bluelift


@pytest.fixture(scope="module")
def vault() -> bytes:
    header = VaultHeader(rounds=LEAST_ROUNDS, salt=bytes(range(32)), records=0)
    keys = derive_keys("words", header, OpenSslCipher())
    records = [VaultRecord(key_id=hashlib.md5(b"%d" % n).digest(), recovery_key=bytes(16)) for n in range(1000)]
    return b"".join(write_vault(records, header, keys, OpenSslCipher()))


def test_a_vault_is_built_in_and_read_back_by_another_program(
    default_build: Built, vault: bytes, tmp_path: Path
) -> None:
    if shutil.which("7z") is None:
        pytest.skip("7z is not installed")
    (tmp_path / "site.vault").write_bytes(vault)
    (tmp_path / "p.yaml").write_text("output: mine\nvault: site.vault\n")
    done = bluelift("build", "p.yaml", "-o", "dist", "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    subprocess.run(
        ["7z", "x", "-oout", "dist/mine.iso", "Bluelift/vault"], cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "out/Bluelift/vault/site.vault").read_bytes() == vault
    manifest = (tmp_path / "dist" / "manifest.json").read_text()
    assert "Bluelift/vault/site.vault" in manifest
    assert hashlib.sha256(vault).hexdigest() in manifest
    again = bluelift("plan", "p.yaml", "--json", cwd=tmp_path)
    assert all(step["cached"] for step in json.loads(again.stdout)["steps"])
    (tmp_path / "site.vault").write_bytes(vault[:64] + vault[64:])
    (tmp_path / "other.vault").write_bytes(_newer(vault))
    (tmp_path / "p.yaml").write_text("output: mine\nvault: other.vault\n")
    changed = bluelift("plan", "p.yaml", "--json", cwd=tmp_path)
    steps = {step["name"]: step["cached"] for step in json.loads(changed.stdout)["steps"]}
    assert steps["payload-segment"]
    assert not steps["iso"]


def _newer(vault: bytes) -> bytes:
    header = VaultHeader(rounds=LEAST_ROUNDS, salt=bytes(32), records=0)
    keys = derive_keys("other words", header, OpenSslCipher())
    return b"".join(write_vault([], header, keys, OpenSslCipher()))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"KeyID,RecoveryKey\n", "not a Bluelift vault"),
        (b"cut", "not a Bluelift vault"),
    ],
)
def test_what_is_no_vault_is_refused_with_its_line(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "site.vault").write_bytes(content)
    (tmp_path / "p.yaml").write_text("output: mine\nvault: site.vault\n")
    done = bluelift("plan", "p.yaml", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "p.yaml:2: vault: " in done.stderr
    assert says in done.stderr


def test_a_vault_that_was_cut_off_is_refused(vault: bytes, tmp_path: Path) -> None:
    (tmp_path / "site.vault").write_bytes(vault[:-1])
    (tmp_path / "p.yaml").write_text("vault: site.vault\n")
    done = bluelift("plan", "p.yaml", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "cut off or added to" in done.stderr


def test_the_stick_has_room_for_a_newer_vault(tmp_path: Path) -> None:
    from builder import profile

    header = VaultHeader(rounds=LEAST_ROUNDS, salt=bytes(32), records=1_000_000)
    with (tmp_path / "site.vault").open("wb") as stream:
        stream.write(header.packed() + bytes(32))
        stream.truncate(header.vault_size)
    (tmp_path / "p.yaml").write_text("vault: site.vault\n")
    loaded = profile.load(profile.find(str(tmp_path / "p.yaml")))
    assert loaded.vault is not None
    assert loaded.vault.target == "Bluelift/vault/site.vault"
    assert loaded.tail is not None
    assert loaded.tail > header.vault_size
