"""Signatures on Windows binaries, made by openssl and osslsigncode: genuine, changed, unsigned, somebody else's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from builder.authenticode import PYTHON_SOFTWARE_FOUNDATION, ca_bundle, check_signatures, signer_in, verify_argv
from builder.errors import BaseMediaError, ToolMissing
from tests.unit.pe_maker import pe_file

pytestmark = pytest.mark.skipif(
    not shutil.which("osslsigncode") or not shutil.which("openssl"), reason="osslsigncode or openssl is not installed"
)


def sign(folder: Path, common_name: str) -> tuple[Path, Path]:
    """(a signed DLL, the self-made certificate that signed it)."""
    folder.mkdir()
    key, certificate, plain, signed = (folder / name for name in ("key.pem", "cert.pem", "plain.dll", "x.dll"))
    plain.write_bytes(pe_file(["kernel32.dll"]))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "30",
         "-subj", f"/C=US/O=Somebody/CN={common_name}", "-addext", "extendedKeyUsage=codeSigning"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    subprocess.run(
        ["osslsigncode", "sign", "-certs", certificate, "-key", key, "-h", "sha256", "-in", plain, "-out", signed],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return signed, certificate


def test_the_right_signer_with_a_trusted_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed, certificate = sign(tmp_path / "psf", PYTHON_SOFTWARE_FOUNDATION)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ca_bundle() == certificate
    check_signatures([signed, signed])


def test_the_right_name_without_a_trusted_root(tmp_path: Path) -> None:
    signed, _ = sign(tmp_path / "psf", PYTHON_SOFTWARE_FOUNDATION)
    with pytest.raises(BaseMediaError, match=r"x\.dll: its signature does not lead to a trusted root") as caught:
        check_signatures([signed])
    assert caught.value.hint


def test_what_is_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed, certificate = sign(tmp_path / "other", "Somebody Else")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    changed = tmp_path / "changed.dll"
    content = bytearray(signed.read_bytes())
    content[0x400] ^= 1
    changed.write_bytes(content)
    unsigned = tmp_path / "unsigned.dll"
    unsigned.write_bytes(pe_file())
    nothing = tmp_path / "nothing.dll"
    nothing.write_bytes(b"MZ")
    with pytest.raises(BaseMediaError) as caught:
        check_signatures([signed, changed, unsigned, nothing])
    assert caught.value.message.splitlines()[1:] == [
        "x.dll: it is signed by Somebody Else",
        "changed.dll: it was changed after it was signed",
        "unsigned.dll: it is not signed",
        "nothing.dll: it is not signed",
    ]


def test_a_signer_with_a_longer_name_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed, certificate = sign(tmp_path / "near", f"{PYTHON_SOFTWARE_FOUNDATION} Friends")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(BaseMediaError, match="it is signed by Python Software Foundation Friends"):
        check_signatures([signed])


def test_the_command_line() -> None:
    assert verify_argv(Path("/a/x.dll"), Path("/b/ca.crt")) == [
        "osslsigncode", "verify", "-in", "/a/x.dll", "-CAfile", "/b/ca.crt", "-TSA-CAfile", "/b/ca.crt", "-ignore-crl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "signer"),
    [
        ("Signer's certificate:\n\tSigner #0:\n\t\tSubject: /C=US/O=A/CN=B C\n\t\tIssuer : /CN=D\n", "B C"),
        ("Signer's certificate:\n\tSigner #0:\n\t\tSubject: C=US, O=A, CN=B C\n\t\tIssuer : CN=D\n", "B C"),
        ("Signer's certificate:\n\tSigner #0:\n\t\tSubject: /O=CN\n\t\tIssuer : /CN=D\n", ""),
        ("Signer's certificate:\n\tSigner #0:\n\t\tSubject: /O=X/CN=Python Software Foundation/CN=evil\n", ""),
        ("Subject: /CN=Time stamps only\n", ""),
        ("", ""),
    ],
)
def test_the_signer_among_much_text(said: str, signer: str) -> None:
    assert signer_in(said) == signer


def test_no_osslsigncode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.dll"
    file.write_bytes(pe_file())
    monkeypatch.setattr("builder.run.child_environment", lambda *_: {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="osslsigncode was not found; it is needed to check") as caught:
        check_signatures([file])
    assert caught.value.hint == "apt-get install osslsigncode"
