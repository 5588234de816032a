"""Debian packages for tests, written byte by byte (deb(5)), so that they can hold what dpkg-deb would not build."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> (
    tuple[tarfile.TarInfo, bytes]
):  # fmt: skip
    """One entry of a package's file system."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def write_deb(folder: Path, name: str, members: Sequence[tuple[tarfile.TarInfo, bytes]], *, version: str = "1.0-1",
              depends: str = "") -> Path:  # fmt: skip
    """A package file `name_version_amd64.deb` in `folder`."""
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: amd64", "Maintainer: nobody <nobody@localhost>"]
    lines += [f"Depends: {depends}"] if depends else []
    control = "\n".join([*lines, "Description: for tests", ""]).encode()
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar": _tar([member("./control", control)]),
        "data.tar": _tar(members),
    }
    file = folder / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    with file.open("wb") as out:
        out.write(b"!<arch>\n")
        for part, data in parts.items():
            out.write(f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data)
            out.write(b"\n" * (len(data) % 2))
    return file


def _tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
