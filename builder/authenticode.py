"""Who signed a Windows binary: Authenticode signatures, checked by osslsigncode against the machine's CA bundle."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import BaseMediaError, ToolMissing
from builder.run import Completed, run

PYTHON_SOFTWARE_FOUNDATION = "Python Software Foundation"
_REASON = "check the signatures of Windows binaries"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
#: The first subject after this heading is the signer's own; issuers and time stamps follow.
_SIGNER = re.compile(r"Signer's certificate:.*?Subject\s*:\s*(.*?)$", re.DOTALL | re.MULTILINE)
_COMMON_NAME = re.compile(r"(?:^|[/,])\s*CN\s*=\s*([^/,]+)")


def check_signatures(files: Sequence[Path], *, signer: str = PYTHON_SOFTWARE_FOUNDATION) -> None:
    """Every file is unchanged since `signer` signed it, by a chain that ends at a trusted root; else BaseMediaError.

    Raises ToolMissing where osslsigncode or the CA bundle is missing.
    """
    bundle = ca_bundle()
    with ThreadPoolExecutor(max_workers=2) as pool:
        problems = [problem for problem in pool.map(lambda file: _problem(file, signer, bundle), files) if problem]
    if problems:
        raise BaseMediaError(
            f"not as the {signer} signed it\n" + "\n".join(problems),
            hint="Do not use this package. Get it again from its maker, or another one.",
        )


def verify_argv(file: Path, bundle: Path) -> list[str]:
    """The command line that verifies `file`. Revocation lists would have to be downloaded, so they are left out."""
    return [
        "osslsigncode", "verify", "-in", str(file), "-CAfile", str(bundle), "-TSA-CAfile", str(bundle), "-ignore-crl",
    ]  # fmt: skip


def signer_in(said: str) -> str:
    """The signer's common name in what `osslsigncode verify` printed, "" where there is none."""
    subject = _SIGNER.search(said)
    # osslsigncode does not escape a "/" inside a name: with two common names nobody can tell which is one.
    names = _COMMON_NAME.findall(subject[1]) if subject else []
    return names[0].strip() if len(names) == 1 else ""


def ca_bundle() -> Path:
    """The machine's trusted root certificates in one file. Raises ToolMissing where there is none."""
    named = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES)
    for name in named:
        if name and Path(name).is_file():
            return Path(name)
    raise ToolMissing(
        f"no bundle of trusted root certificates was found; it is needed to {_REASON}",
        hint="apt-get install ca-certificates, or set SSL_CERT_FILE",
    )


def _problem(file: Path, signer: str, bundle: Path) -> str:
    try:
        done = run(verify_argv(file, bundle), reason=_REASON, time_limit=60, ok=range(256))
    except ToolMissing as error:
        raise ToolMissing(error.message, hint="apt-get install osslsigncode") from error
    found = signer_in(done.text)
    if done.returncode == 0 and found == signer:
        return ""
    return f"{file.name}: {_what_is_wrong(done, found, signer)}"


def _what_is_wrong(done: Completed, found: str, signer: str) -> str:
    if "MISMATCH" in done.text:
        return "it was changed after it was signed"
    if not found:
        return "it is not signed"
    if found != signer:
        return f"it is signed by {found}"
    return "its signature does not lead to a trusted root certificate"
