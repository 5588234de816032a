"""Finding things below a folder that Debian packages were unpacked into, and running its programs on any amd64 host."""

from __future__ import annotations

from pathlib import Path

from builder.errors import BaseMediaError

LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64")
_START_AGAIN = "Remove the unpacked packages with 'bluelift clean' and build again."


def kernel_version(root: Path) -> str:
    """The version of the one kernel unpacked at `root`, as its file names carry it."""
    versions = sorted(file.name.removeprefix("vmlinuz-") for file in (root / "boot").glob("vmlinuz-*"))
    if len(versions) != 1:
        raise BaseMediaError(
            f"expected one kernel in {root / 'boot'}, found {', '.join(versions) or 'none'}", hint=_START_AGAIN
        )
    return versions[0]


def python_folder(root: Path) -> Path:
    """The standard library of the one Python unpacked at `root` (`usr/lib/python3.13`)."""
    candidates = sorted((root / "usr/lib").glob("python3.*"))
    folders = [folder for folder in candidates if any((folder / name).is_file() for name in ("os.py", "os.pyc"))]
    if len(folders) != 1:
        found = ", ".join(folder.name for folder in folders) or "none"
        raise BaseMediaError(f"expected one Python in {root / 'usr/lib'}, found {found}", hint=_START_AGAIN)
    return folders[0]


def find_library(root: Path, library: str, *, needed_by: str) -> str:
    """Where a shared library lies below `root`. Raises BaseMediaError naming it when no package brought it."""
    for folder in LIBRARY_FOLDERS:
        if (root / folder / library).exists():
            return f"{folder}/{library}"
    raise BaseMediaError(
        f"the library {library}, needed by {needed_by}, is in none of the packages",
        hint="Its package is missing from the list in builder/base/packages.py.",
    )


def merged(path: str) -> str:
    """A path as it is after Debian's usrmerge, relative: /lib64/x -> usr/lib64/x."""
    path = path.strip("/")
    return f"usr/{path}" if path.split("/")[0] in ("bin", "sbin", "lib", "lib64") else path


def own_loader(root: Path) -> tuple[str, ...]:
    """The start of a command line that runs an unpacked program with the C library it was built for."""
    libraries = root / LIBRARY_FOLDERS[0]
    return (str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries))
