"""A genuine Windows CPython and PyInstaller for it, by pinned packages or from the user's file, all of it checked.

What is trusted: the Python Software Foundation's Authenticode signature on each of its binaries, its signed catalog for
the library's source files, and the sha256 pins in freeze_pins.toml for the rest. Where a file came from counts nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import lzma
import os
import re
import struct
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from builder.authenticode import check_signatures
from builder.console import Step
from builder.errors import BaseMediaError, ToolFailed, ToolMissing
from builder.pe import Machine, PeError, is_pe, machine_name, read_pe
from builder.resources import freeze_pins
from builder.run import run

_REASON = "fetch Python and PyInstaller for Windows"
_GIVE_YOUR_OWN = "Or give python.org's embeddable package or the NuGet package of Python {}: --windows-python FILE"
_CATALOG = "python.cat"
_NEEDED = ("python.exe", "python311.dll", "vcruntime140.dll", "_ctypes.pyd", "libffi-8.dll")
#: Folders of the library that a freeze does not need, and that no catalog lists.
_LEFT_OUT = ("site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "__pycache__")
#: What zipfile raises at a damaged archive, as its members' compression has it.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_LARGEST_MEMBER = 64_000_000
_LARGEST_PACKAGE = 400_000_000


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file of a package index: pip's name for it (`name==version`), the file's name, its sha256."""

    requirement: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pins:
    """freeze_pins.toml. `files` are the sha256 of Python's files that no signature covers."""

    python: PinnedFile
    python_version: str
    member: str
    folder: str
    files: Mapping[str, str]
    wheels: tuple[PinnedFile, ...]


@cache
def pins() -> Pins:
    """What the payload is frozen with."""
    data = tomllib.loads(freeze_pins().decode())
    python = data["python"]
    return Pins(
        python=PinnedFile(requirement=python["requirement"], file=python["file"], sha256=python["sha256"]),
        python_version=python["version"],
        member=python["member"],
        folder=python["folder"],
        files=dict(python["files"]),
        wheels=tuple(
            PinnedFile(requirement=f"{w['name']}=={w['version']}", file=w["file"], sha256=w["sha256"])
            for w in data["wheels"]
        ),
    )


# --- packages --------------------------------------------------------------------------------------------------------


def fetch(downloads: Path, *, offline: bool, with_python: bool, step: Step) -> None:
    """Have the pinned packages in the folder `downloads`, by pip from the index this machine's pip uses.

    What is there and has the right sha256 is kept. Raises ToolMissing without pip, BaseMediaError when a package cannot
    be had, or is another than the one pinned.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = pins()
    wheels = [wheel for wheel in wanted.wheels if not _is(downloads / wheel.file, wheel.sha256)]
    python = with_python and not _is(downloads / wanted.python.file, wanted.python.sha256)
    missing = [*wheels, *([wanted.python] if python else [])]
    if not missing:
        return
    if offline:
        raise BaseMediaError(
            f"not in the cache, and nothing is to be downloaded: {', '.join(pin.file for pin in missing)}",
            hint="Build once without --offline, or give a frozen payload: --payload-exe FOLDER",
        )
    step.note(f"downloading {len(missing)} packages")
    if wheels:
        _download(wheels, downloads, wheel_options(), {})
    if python:
        # pip runs a source package's setup.py, and that wants setuptools: the pinned one, none from elsewhere.
        with tempfile.TemporaryDirectory(prefix="bluelift-setuptools-") as folder:
            unpack_wheels(downloads, Path(folder), only="setuptools")
            _download([wanted.python], downloads, source_options(wanted.python), {"PYTHONPATH": folder})


def wheel_options() -> list[str]:
    """pip's options for wheels of another platform than this."""
    return ["--only-binary=:all:", "--platform=win_amd64", "--python-version=3.11", "--implementation=cp"]


def source_options(pin: PinnedFile) -> list[str]:
    """pip's options for a source package, prepared without fetching anything else."""
    return [f"--no-binary={pin.requirement.partition('==')[0]}", "--no-build-isolation"]


def requirements(wanted: Sequence[PinnedFile]) -> str:
    """A requirements file with one hash for each package (pip's documentation, "Secure installs")."""
    return "".join(f"{pin.requirement} --hash=sha256:{pin.sha256}\n" for pin in wanted)


def unpack_wheels(downloads: Path, into: Path, *, only: str | None = None) -> None:
    """Unpack the pinned wheels, all pure Python or for Windows, below `into`."""
    for pin in pins().wheels:
        if only is not None and pin.requirement.partition("==")[0] != only:
            continue
        with _archive(downloads / pin.file, pin.file) as wheel:
            for name in _members(wheel):
                _put(into, name, wheel.read(name))


def _download(wanted: Sequence[PinnedFile], downloads: Path, options: Sequence[str], env: Mapping[str, str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ToolMissing(
            f"the Python that runs Bluelift has no pip; it is needed to {_REASON}",
            hint="python -m ensurepip, or apt-get install python3-pip. " + _GIVE_YOUR_OWN.format(pins().python_version),
        )
    with tempfile.TemporaryDirectory(prefix="staged-", dir=downloads) as name:
        staged = Path(name)
        (staged / "requirements.txt").write_text(requirements(wanted))
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
                "--no-deps", "--require-hashes", *options, "--dest", str(staged / "files"),
                "--requirement", str(staged / "requirements.txt")]  # fmt: skip
        try:
            run(argv, reason=_REASON, time_limit=900, env={**_pip_settings(), **env})
        except ToolFailed as error:
            raise _not_downloaded(wanted, error) from error
        for pin in wanted:
            if not _is(staged / "files" / pin.file, pin.sha256):
                raise BaseMediaError(f"pip did not bring {pin.file}", hint=f"It was asked for {pin.requirement}.")
            (staged / "files" / pin.file).replace(downloads / pin.file)


def _not_downloaded(wanted: Sequence[PinnedFile], error: ToolFailed) -> BaseMediaError:
    names = ", ".join(pin.requirement for pin in wanted)
    if "DO NOT MATCH THE HASHES" in error.message:
        return BaseMediaError(
            f"the package index has another file than the one pinned, among {names}\n{error.message}",
            hint="Somebody changed a package. Nothing of it was used.",
        )
    return BaseMediaError(
        f"cannot download {names}\n{error.message}",
        hint="pip needs a package index that it can reach. " + _GIVE_YOUR_OWN.format(pins().python_version),
    )


def _pip_settings() -> dict[str, str]:
    # Where the index is and how it is reached is the machine's own business; the hashes are ours.
    kept = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NETRC")
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in kept}


# --- Python ----------------------------------------------------------------------------------------------------------


def lay_out_pinned_python(downloads: Path, into: Path) -> None:
    """The pinned package's Python in the folder `into`, checked."""
    wanted = pins()
    archive = downloads / wanted.python.file
    with tempfile.TemporaryFile() as inner:
        try:
            with tarfile.open(archive) as package:
                name = f"{wanted.python.file.removesuffix('.tar.gz')}/{wanted.member}"
                member = package.extractfile(name)
                if member is None:
                    raise BaseMediaError(f"{archive.name} has no {wanted.member}", hint="The pins do not fit together.")
                while block := member.read(1 << 20):
                    inner.write(block)
        except (OSError, tarfile.TarError, EOFError, zlib.error, KeyError) as error:
            raise BaseMediaError(f"{archive.name} cannot be read: {error}", hint="Remove it from the cache.") from error
        with _archive(inner, archive.name) as package:
            _unpack_python(package, f"{wanted.folder}/", into)
    check_python(into)


def lay_out_given_python(given: Path, into: Path) -> None:
    """A Python of the user's in the folder `into`, checked: python.org's embeddable package, or the NuGet package."""
    with _archive(given, given.name) as package:
        names = {name.lower() for name in _members(package)}
        prefix = next((prefix for prefix in ("", "tools/") if f"{prefix}python.exe" in names), None)
        if prefix is None:
            raise BaseMediaError(
                f"there is no python.exe in {given.name}",
                hint=_which_python(),
            )
        _unpack_python(package, prefix, into)
    check_python(into)


def check_python(folder: Path) -> None:
    """Is everything in `folder` as the Python Software Foundation made it? Raises BaseMediaError with what is not."""
    missing = [name for name in _NEEDED if not _find(folder, name)]
    if missing:
        raise BaseMediaError(f"the Python for Windows lacks {', '.join(missing)}", hint=_which_python())
    if not _find(folder, "python311.zip") and not (folder / "Lib").is_dir():
        raise BaseMediaError("the Python for Windows has no library (python311.zip or Lib)", hint=_which_python())
    signed = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        pinned = pins().files.get(path.name.lower())
        if pinned is not None:
            _check_pin(path, pinned)
        elif is_pe(path.read_bytes()):
            _check_machine(path)
            signed.append(path)
    if (folder / "Lib").is_dir():
        signed.append(folder / _CATALOG)
        _check_library(folder)
    check_signatures(signed)


def write_search_path(folder: Path, *more: str) -> None:
    """python311._pth: where this Python looks for modules, and nowhere else. `more` is relative to `folder`."""
    own = [name for name in ("python311.zip", "Lib", "DLLs") if (folder / name).exists()]
    (folder / "python311._pth").write_text("".join(f"{line}\r\n" for line in (*own, ".", *more)), newline="")


def _check_pin(path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise BaseMediaError(
            f"{path.name} is not that of Python {pins().python_version}: its sha256 is {found}", hint=_which_python()
        )


def _check_machine(path: Path) -> None:
    try:
        machine = read_pe(path.read_bytes()).machine
    except PeError as error:
        raise BaseMediaError(f"{path.name}: {error}", hint=_which_python()) from error
    if machine != Machine.AMD64:
        raise BaseMediaError(f"{path.name} is for {machine_name(machine)}, not for x64", hint=_which_python())


def _check_library(folder: Path) -> None:
    """Every source file of the library is listed in the catalog, by its sha256 (or, in older ones, its sha1)."""
    try:
        catalog = (folder / _CATALOG).read_bytes()
    except FileNotFoundError as error:
        raise BaseMediaError(
            f"the Python for Windows has no {_CATALOG}, the signed list of its library's files",
            hint="The embeddable package works without one.",
        ) from error
    unknown = []
    for path in sorted((folder / "Lib").rglob("*.py")):
        content = path.read_bytes()
        digests = (hashlib.sha256(content).digest(), hashlib.sha1(content, usedforsecurity=False).digest())
        if content and not any(digest in catalog for digest in digests):
            unknown.append(path.relative_to(folder).as_posix())
    if unknown:
        raise BaseMediaError(
            f"not as the Python Software Foundation signed it: {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            hint="Do not use this package. Get it again from its maker, or another one.",
        )


def _which_python() -> str:
    return f"It must be the 64-bit Python {pins().python_version}, the embeddable package or the NuGet package."


def _find(folder: Path, name: str) -> Path | None:
    places = (folder / name, folder / "DLLs" / name)
    return next((path for path in places if path.is_file()), None)


# --- archives --------------------------------------------------------------------------------------------------------


@contextmanager
def _archive(source: Path | IO[bytes], name: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST_PACKAGE:
                raise BaseMediaError(f"{name} holds far more than Python does", hint=_which_python())
            yield archive
    except FileNotFoundError as error:
        raise BaseMediaError(f"{name} is not there", hint="--windows-python takes a file.") from error
    except _UNREADABLE as error:
        raise BaseMediaError(f"{name} is not a ZIP archive that can be read: {error}", hint=_which_python()) from error


def _members(archive: zipfile.ZipFile) -> list[str]:
    """The names of files. Raises BaseMediaError for one that leads out of the folder it is unpacked to."""
    names = []
    for info in archive.infolist():
        parts = PurePosixPath(info.filename).parts
        escapes = info.filename.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", info.filename)
        if escapes or info.file_size > _LARGEST_MEMBER:
            raise BaseMediaError(f"the archive has a member {info.filename[:80]!r}", hint="Do not use this package.")
        if not info.is_dir():
            names.append(info.filename)
    return names


def _unpack_python(package: zipfile.ZipFile, prefix: str, into: Path) -> None:
    for name in _members(package):
        if not name.lower().startswith(prefix):
            continue
        inside = name[len(prefix) :]
        parts = PurePosixPath(inside).parts
        if _belongs(parts):
            _put(into, inside, package.read(name))


def _belongs(parts: tuple[str, ...]) -> bool:
    if len(parts) == 1:
        return PurePosixPath(parts[0]).suffix.lower() in (".exe", ".dll", ".pyd", ".zip", ".cat")
    if parts[0] == "DLLs" and len(parts) == 2:
        return PurePosixPath(parts[1]).suffix.lower() in (".dll", ".pyd")
    return parts[0] == "Lib" and parts[-1].endswith(".py") and not set(parts) & set(_LEFT_OUT)


def _put(folder: Path, name: str, content: bytes) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _is(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False
