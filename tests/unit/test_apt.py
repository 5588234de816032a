"""The private apt root: which mirrors are Debian's, the configuration, and what apt prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.base import apt
from builder.base.packages import REQUIRED, LinuxBaseSettings, resolve
from builder.console import SilentStep
from builder.errors import BaseMediaError

UNKNOWN = "$(ORIGIN)|$(LABEL)"
MAIN = "http://mirror.example/debian/|bookworm|main|Debian|Debian|$(SIGNED_BY)"
SECURITY = "http://mirror.example/debian-security/|bookworm-security|main|Debian|Debian-Security|"


@pytest.mark.parametrize(
    ("lines", "main", "security"),
    [
        ([MAIN, SECURITY], "http://mirror.example/debian/", "http://mirror.example/debian-security/"),
        ([SECURITY, MAIN], "http://mirror.example/debian/", "http://mirror.example/debian-security/"),
        ([MAIN], "http://mirror.example/debian/", ""),
        (
            [
                "https://apt.vendor.example/debian|bookworm|main|Vendor|Vendor|/etc/apt/keyrings/vendor.gpg",
                "https://download.other.example/linux/debian|bookworm|stable|Other|Other|",
                MAIN,
            ],
            "http://mirror.example/debian/",
            "",
        ),
        (
            ["http://mirror.example/debian/|bookworm-backports|main|Debian Backports|Debian Backports|", MAIN],
            "http://mirror.example/debian/",
            "",
        ),
        # A container that never updated its lists.
        (
            [
                f"http://mirror.example/debian/|stable|main|{UNKNOWN}|/usr/share/keyrings/debian-archive-keyring.gpg",
                f"http://mirror.example/debian-security/|stable-security|main|{UNKNOWN}|",
                f"https://apt.vendor.example/apt|stable|main|{UNKNOWN}|",
                f"https://apt.vendor.example/debian|bookworm|main|{UNKNOWN}|/etc/apt/keyrings/vendor.gpg",
            ],
            "http://mirror.example/debian/",
            "http://mirror.example/debian-security/",
        ),
        (["cdrom:[Debian 13]/|trixie|main|Debian|Debian|", MAIN], "http://mirror.example/debian/", ""),
    ],
)
def test_debians_archives_are_found_among_others(lines: list[str], main: str, security: str) -> None:
    found = apt.parse_targets("\n".join(lines) + "\n")
    assert found == apt.Mirrors(main=main, security=security)


@pytest.mark.parametrize(
    "listing",
    [
        "",
        "\n|||||\n",
        SECURITY,
        "http://ubuntu.example/ubuntu|noble|main|Ubuntu|Ubuntu|",
        f"http://ubuntu.example/ubuntu|noble|main|{UNKNOWN}|",
        f"https://apt.vendor.example/debian|vendor-bookworm|main|{UNKNOWN}|",
        "http://mirror.example/debian/|bookworm|contrib|Debian|Debian|",
    ],
)
def test_a_machine_without_a_debian_archive(listing: str) -> None:
    assert apt.parse_targets(listing) is None


def test_the_sources_of_a_suite() -> None:
    mirrors = apt.Mirrors(main="http://m.example/debian", security="http://m.example/debian-security")
    lines = apt.source_lines(mirrors, suite="trixie", keyring=Path("/k.gpg")).splitlines()
    assert lines == [
        "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie main",
        "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie-updates main",
        "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian-security trixie-security main",
    ]
    without = apt.Mirrors(main="http://m.example/debian", security="")
    assert "security" not in apt.source_lines(without, suite="trixie", keyring=Path("/k.gpg"))
    assert "trixie-backports main" in apt.source_lines(without, suite="trixie", keyring=Path("/k"), backports=True)


def test_nothing_of_the_private_root_lies_outside_of_it() -> None:
    config = apt.apt_config(Path("/scratch/apt"))
    folders = [line.split('"')[1] for line in config.splitlines() if line.startswith("Dir")]
    assert folders and all(folder.startswith("/scratch/apt") for folder in folders)
    assert 'Acquire::Languages "none";' in config


def test_a_keyring_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="is not there"):
        apt.debian_keyring(tmp_path / "none.gpg")
    given = tmp_path / "given.gpg"
    given.write_bytes(b"key")
    assert apt.debian_keyring(given) == given


def test_a_machine_without_debians_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "_KEYRING_FOLDER", tmp_path)
    with pytest.raises(BaseMediaError) as caught:
        apt.debian_keyring(None)
    assert "debian-archive-keyring" in caught.value.hint and "--keyring" in caught.value.hint
    (tmp_path / "debian-archive-keyring.pgp").write_bytes(b"key")
    assert apt.debian_keyring(None).suffix == ".pgp"


STANZAS = """\
Package: ntfs-3g
Version: 1:2022.10.3-5+deb13u3
Architecture: amd64
Pre-Depends: fuse3
Depends: libc6 (>= 2.38), libntfs-3g89t64 (= 1:2022.10.3-5+deb13u3), python3:any, a | b
Description-en: read/write NTFS driver
 Package: not-a-field
 .
 More.

Package: zlib1g
Version: 1:1.3
Architecture: amd64

N: a line of apt's own
"""


def test_stanzas_of_apt_cache_show() -> None:
    first, second = apt.parse_stanzas(STANZAS)
    assert first.name == "ntfs-3g" and first.version == "1:2022.10.3-5+deb13u3"
    assert first.depends == ("fuse3", "libc6", "libntfs-3g89t64", "python3", "a")
    assert second == apt.Stanza(name="zlib1g", version="1:1.3", architecture="amd64", depends=())


def test_uris_of_apt_get_download() -> None:
    digest = "b88c3b899e16bf64347d63235128df9efbcf1f964e4841bc9b37d7856bed35bf"
    uri = "http://m.example/debian/pool/main/b/busybox/busybox_1.37.0-6%2bb9_amd64.deb"
    line = f"'{uri}' busybox_1%3a1.37.0-6+b9_amd64.deb 484988 SHA256:{digest}"
    assert apt.parse_uris(f"{line}\nN: something else\n") == [
        apt.Download(uri=uri, file="busybox_1%3a1.37.0-6+b9_amd64.deb", size=484988, sha256=digest)
    ]
    assert apt.parse_uris(line.replace("SHA256", "MD5Sum")) == []


@given(st.text(max_size=300))
def test_the_parsers_take_any_text(text: str) -> None:
    apt.parse_stanzas(text)
    apt.parse_uris(text)
    apt.parse_targets(text)


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_parsers_take_any_field(name: str, depends: str) -> None:
    apt.parse_stanzas(f"Package: {name}\nVersion: 1\nDepends: {depends}\n")


def test_offline_without_lists(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="no package lists") as caught:
        resolve(LinuxBaseSettings(), workspace=tmp_path, offline=True, step=SilentStep())
    assert "--debs" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "machine_mirrors", lambda: None)
    keyring = tmp_path / "k.gpg"
    keyring.write_bytes(b"key")
    with pytest.raises(BaseMediaError, match="no Debian mirror") as caught:
        resolve(LinuxBaseSettings(keyring=keyring), workspace=tmp_path, offline=False, step=SilentStep())
    assert "--mirror" in caught.value.hint
    with pytest.raises(BaseMediaError, match="not a mirror's URL"):
        settings = LinuxBaseSettings(keyring=keyring, mirror="nonsense")
        resolve(settings, workspace=tmp_path, offline=False, step=SilentStep())


def test_the_packages_are_named_without_versions_of_anything() -> None:
    assert not [name for name in REQUIRED if "6.12" in name or "3.13" in name]


def test_a_machine_that_never_read_its_lists_still_knows_its_mirrors() -> None:
    """As `apt-get update --print-uris` (apt 3.0, Debian 13) prints it in a fresh container."""
    printed = (
        "'https://one.example/debian/dists/trixie/InRelease' one.example_debian_dists_trixie_InRelease 0 \n"
        "'https://one.example/debian/dists/trixie/main/binary-amd64/Packages.xz' one.example_x 0 \n"
        "'https://other.example/tool/dists/stable/main/binary-amd64/Packages.xz' other.example_x 0 \n"
        "'https://two.example/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz' two.example_x 0 \n"
    )
    found = apt.parse_targets(apt.targets_of_update(printed))
    assert found == apt.Mirrors(main="https://one.example/debian/", security="https://two.example/debian-security/")
    assert apt.targets_of_update("E: nothing\n") == ""
