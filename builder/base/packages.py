"""Which of Debian's packages an image is made of, and getting them: chosen, downloaded, checked, unpacked.

Not apt's whole dependency closure: only the packages named here and the libraries their programs are linked to. What is
linked against what is checked when the files are used (builder.initramfs), which names a library that is missing.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from builder.base import apt
from builder.console import Step
from builder.errors import BaseMediaError

#: What to ask apt for. The `*` are packages that only point at the current version of another.
_ROOTS = (
    "busybox",
    "console-setup",
    "cryptsetup-bin",
    "dmsetup",
    "grub-common",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "kbd",
    "libpython3-stdlib",
    "linux-image-amd64",
    "ntfs-3g",
    "perl-base",
    "python3-minimal",
    "shim-signed",
)
_POINTERS = ("libpython3-stdlib", "linux-image-amd64", "python3-minimal")
#: Every package of an image, by patterns that outlast a new kernel or Python. Dependencies that match are followed.
REQUIRED = (
    "busybox",
    "console-setup",
    "cryptsetup-bin",
    "dmsetup",
    "grub-common",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "kbd",
    "libblkid1",
    "libc6",
    "libcap2",
    "libcrypt1",
    "libcryptsetup12",
    "libdevmapper1.02.1*",
    "libexpat1",
    "libgcc-s1",
    "libjson-c[0-9]*",
    "liblzma5",
    "libntfs-3g[0-9]*",
    "libpcre2-8-0*",
    "libpopt0",
    "libpython3.*-minimal",
    "libpython3.*-stdlib",
    "libselinux1*",
    "libssl3*",
    "libudev1*",
    "libuuid1*",
    "libzstd1",
    "linux-image-[0-9]*-amd64",
    "ntfs-3g",
    "perl-base",
    "python3.*-minimal",
    "shim-helpers-amd64-signed",
    "shim-signed",
    "xkb-data",
    "zlib1g",
)
SUMS_NAME = "SHA256SUMS"
_SUM_LINE = re.compile(r"^([0-9a-f]{64}) [ *](\S.*)$")
_DEB_NAME = re.compile(r"^([a-z0-9][a-z0-9+.-]+)_([^_]+)_([a-z0-9]+)\.deb$")
_DOWNLOAD_LIMIT = 3600.0


@dataclass(frozen=True, kw_only=True)
class LinuxBaseSettings:
    """Where Debian's packages come from. `debs`: a folder of .deb files with SHA256SUMS, used instead of a mirror."""

    suite: str = "trixie"
    mirror: str | None = None
    security_mirror: str | None = None
    keyring: Path | None = None
    debs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package, pinned. `file` is its name in the pool; that of a folder of .deb files has a path and no `uri`."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    file: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class PackageSet:
    """The packages of an image, sorted by name; `resolved_at`: when the lists they come from were read (epoch)."""

    packages: tuple[Package, ...]
    resolved_at: int


# --- choosing ------------------------------------------------------------------------------------------------------


def resolve(settings: LinuxBaseSettings, *, workspace: Path, offline: bool, step: Step) -> PackageSet:
    """Choose the packages: from `settings.debs`, or by a private apt root in `workspace`.

    Offline, the lists that the workspace holds are used. Raises BaseMediaError naming what is missing.
    """
    if settings.debs is not None:
        return from_folder(settings.debs)
    root = open_apt_root(settings, folder=workspace / "apt", offline=offline, step=step)
    stanzas = _walk(root)
    _require(tuple(stanza.name for stanza in stanzas), where=f"Debian {settings.suite}")
    return PackageSet(packages=pinned(root, stanzas), resolved_at=root.updated_at or 0)


def open_apt_root(
    settings: LinuxBaseSettings, *, folder: Path, offline: bool, step: Step, backports: bool = False
) -> apt.AptRoot:
    """A private apt root with current lists (offline: with lists at all)."""
    root = apt.AptRoot(folder)
    if offline:
        if root.updated_at is None:
            raise BaseMediaError(
                f"--offline: there are no package lists in {folder} yet",
                hint="Build once without --offline, or give a folder of .deb files with --debs FOLDER.",
            )
        return root
    keyring = apt.debian_keyring(settings.keyring).resolve()
    sources = apt.source_lines(_mirrors(settings, step), suite=settings.suite, keyring=keyring, backports=backports)
    root.prepare(sources=sources, settings=apt.machine_settings())
    root.update(step)
    return root


def pinned(root: apt.AptRoot, stanzas: Sequence[apt.Stanza]) -> tuple[Package, ...]:
    """The stanzas' packages with their files and hashes, sorted by name."""
    downloads = {_name_of(item.file): item for item in root.downloads(stanzas)}
    packages = []
    for stanza in sorted(stanzas, key=lambda stanza: stanza.name):
        item = downloads.get(stanza.name)
        if item is None:
            raise BaseMediaError(
                f"apt names no sha256 for {stanza.name} {stanza.version}", hint="Is the mirror a full Debian archive?"
            )
        packages.append(
            Package(
                name=stanza.name,
                version=stanza.version,
                architecture=stanza.architecture,
                sha256=item.sha256,
                size=item.size,
                file=item.file,
                uri=item.uri,
            )
        )
    return tuple(packages)


def from_folder(folder: Path) -> PackageSet:
    """The packages that a folder's SHA256SUMS lists. The .deb files themselves are checked by `fetch`."""
    packages = []
    for file, sha256 in sorted(_read_sums(folder).items()):
        name, version, architecture = _parse_name(file)
        path = folder / file
        if not path.is_file():
            raise BaseMediaError(f"{file} is listed in {folder / SUMS_NAME} but is not there", hint=_FOLDER_HINT)
        packages.append(
            Package(
                name=name,
                version=version,
                architecture=architecture,
                sha256=sha256,
                size=path.stat().st_size,
                file=str(path.resolve()),
                uri="",
            )
        )
    _require(tuple(package.name for package in packages), where=str(folder))
    return PackageSet(packages=tuple(packages), resolved_at=0)


_FOLDER_HINT = (
    "The folder must hold the .deb files of one build and their SHA256SUMS; "
    "the cache's pool of a machine that has built an image is such a folder."
)


def _mirrors(settings: LinuxBaseSettings, step: Step) -> apt.Mirrors:
    own = None
    if settings.mirror is None or settings.security_mirror is None:
        own = apt.machine_mirrors()
    main = settings.mirror or (own.main if own else "")
    security = settings.security_mirror or (own.security if own else "")
    if not main:
        raise BaseMediaError(
            "this machine's apt sources name no Debian mirror",
            hint="Give one with --mirror URL and --security-mirror URL, or a folder of .deb files with --debs FOLDER.",
        )
    for uri in filter(None, (main, security)):
        if not re.match(r"^[a-z][a-z0-9+]*:/\S*$", uri):
            raise BaseMediaError(f"not a mirror's URL: {uri!r}", hint="Give something like https://HOST/debian.")
    if not security:
        step.warn("no Debian security mirror is known: packages may lack the latest fixes (--security-mirror URL)")
    return apt.Mirrors(main=main, security=security)


def _walk(root: apt.AptRoot) -> list[apt.Stanza]:
    """The roots and every dependency that REQUIRED names, without the pointers."""
    found: dict[str, apt.Stanza] = {}
    waiting = list(_ROOTS)
    while waiting:
        shown = root.show(sorted(waiting))
        found.update(shown)
        named = {name for stanza in shown.values() for name in stanza.depends if _wanted(name) or name in _POINTERS}
        waiting = sorted(named - found.keys())
        if not shown:
            break
    return [stanza for name, stanza in found.items() if name not in _POINTERS]


def _wanted(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in REQUIRED)


def _require(names: Sequence[str], *, where: str) -> None:
    missing = [pattern for pattern in REQUIRED if not fnmatch.filter(names, pattern)]
    if missing:
        raise BaseMediaError(f"{where} lacks these packages: {', '.join(missing)}", hint=_FOLDER_HINT)
    twice = sorted({name for name in names if names.count(name) > 1})
    kernels = fnmatch.filter(names, "linux-image-[0-9]*-amd64")
    if twice or len(kernels) > 1:
        raise BaseMediaError(
            f"{where} has more than one version of {', '.join(twice or sorted(kernels))}", hint=_FOLDER_HINT
        )


# --- getting -------------------------------------------------------------------------------------------------------


def fetch(packages: PackageSet, *, pool: Path, offline: bool, step: Step) -> tuple[Path, ...]:
    """The .deb files, in `pool` or the folder they were given in: every one checked, downloaded where it is missing or
    (after a power cut) damaged.

    Raises BaseMediaError naming a file that cannot be downloaded and whose sha256 is wrong, with what was expected.
    """
    wrong = _wrong(packages.packages, pool)
    renewed = [package for package in wrong if not wrong[package] or (package.uri and not offline)]
    if renewed:
        _download(renewed, pool=pool, offline=offline, step=step)
        wrong = {package: found for package, found in wrong.items() if package not in renewed} | _wrong(renewed, pool)
    for package, found in wrong.items():
        raise BaseMediaError(
            f"{pool / package.file} has the wrong sha256: expected {package.sha256}, found {found}",
            hint="The file is damaged or was changed. Remove it, and it is downloaded again.",
        )
    files = tuple(pool / package.file for package in packages.packages)
    if any(package.uri for package in packages.packages):
        _write_sums(packages, pool)
    return files


def _wrong(packages: Sequence[Package], pool: Path) -> dict[Package, str]:
    """The packages whose file is not as it should be, and its sha256; "" where there is no file."""
    files = [pool / package.file for package in packages]
    with ThreadPoolExecutor(max_workers=2) as threads:
        found = threads.map(lambda file: sha256_of(file) if file.is_file() else "", files)
        return {package: digest for package, digest in zip(packages, found, strict=True) if digest != package.sha256}


def sha256_of(file: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(missing: Sequence[Package], *, pool: Path, offline: bool, step: Step) -> None:
    names = ", ".join(package.file for package in missing)
    if offline or not all(package.uri for package in missing):
        raise BaseMediaError(
            f"{len(missing)} packages are not in {pool}: {names}",
            hint="Build once without --offline, or give a folder that has them with --debs FOLDER.",
        )
    partial = pool / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    wanted = [
        apt.Download(uri=package.uri, file=package.file, size=package.size, sha256=package.sha256)
        for package in missing
    ]
    apt.download(wanted, into=partial, time_limit=_DOWNLOAD_LIMIT, step=step)
    for package in missing:
        (partial / package.file).replace(pool / package.file)


def _write_sums(packages: PackageSet, pool: Path) -> None:
    beside = pool / f".{SUMS_NAME}.new"
    beside.write_text("".join(f"{package.sha256}  {package.file}\n" for package in packages.packages), encoding="utf-8")
    beside.replace(pool / SUMS_NAME)


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        text = (folder / SUMS_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BaseMediaError(f"{folder / SUMS_NAME} cannot be read: {error.strerror}", hint=_FOLDER_HINT) from error
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _SUM_LINE.match(line)
        if match is None:
            raise BaseMediaError(
                f"{folder / SUMS_NAME}, line {number} is not a sha256 and a file name: {line[:80]!r}",
                hint="Write it with: sha256sum *.deb > SHA256SUMS",
            )
        if match[2].endswith(".deb"):
            sums[match[2].removeprefix("./")] = match[1]
    return sums


def _parse_name(file: str) -> tuple[str, str, str]:
    match = _DEB_NAME.match(file)
    if match is None:
        raise BaseMediaError(
            f"{file!r} is not called as a Debian package is (name_version_architecture.deb)", hint=_FOLDER_HINT
        )
    return match[1], unquote(match[2]), match[3]


def _name_of(file: str) -> str:
    return file.partition("_")[0]
