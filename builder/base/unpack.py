"""Unpacking .deb files without root rights: only the files an image is made from, and nothing outside the folder."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from builder.console import Step
from builder.errors import BaseMediaError, ToolFailed
from builder.run import run

_KEPT = re.compile(
    r"""
    boot/(vmlinuz|config)-.*
  | usr/lib/modules/[^/]+/modules\..*
  | usr/lib/modules/[^/]+/kernel/(?!sound/|net/|drivers/(net|media|iio|infiniband|staging|gpu/drm/[^/]+)/).*
  | usr/lib/(shim|grub)/.*
  | usr/bin/(busybox|grub-mkimage|ntfs-3g|ntfs-3g\.probe|ntfsfix|ntfsrecover|ntfsck|python3\.\d+)
  | usr/bin/(ckbcomp|loadkeys|perl)
  | usr/lib/x86_64-linux-gnu/perl-base/(strict|warnings)\.pm
  | usr/share/X11/xkb/(keycodes|rules|symbols)/.*
  | usr/sbin/(ntfsck|ntfsrecover)
  | usr/lib/python3\.\d+/(?!lib-dynload/).*
  | (usr/)?lib64/.*
  | usr/lib/x86_64-linux-gnu/[^/]*\.so[^/]*
  | usr/share/doc/[^/]+/copyright
    """,
    re.VERBOSE,
)
#: Of libpython3-stdlib one extension module is wanted: the rest of it is large and not in the image.
_KEPT_OF_STDLIB = re.compile(r"usr/lib/python3\.\d+/lib-dynload/termios\..*|usr/share/doc/[^/]+/copyright")
_UNMERGED = ("bin", "lib", "sbin")


def unpack(debs: Sequence[Path], *, into: Path, step: Step) -> None:
    """Unpack what an image needs of `debs` below `into`. Raises BaseMediaError for a damaged or hostile package."""
    into.mkdir(parents=True, exist_ok=True)
    order = sorted(debs, key=lambda deb: deb.stat().st_size, reverse=True)
    with ThreadPoolExecutor(max_workers=2) as threads:
        for done, _ in enumerate(threads.map(lambda deb: _unpack_one(deb, into), order), 1):
            step.progress(done, len(order), "packages")


def _unpack_one(deb: Path, into: Path) -> None:
    try:
        content = run(
            ["dpkg-deb", "--fsys-tarfile", str(deb)], reason="unpack Debian's packages", time_limit=300
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                _place(archive, member, into=into, deb=deb)
    except (ToolFailed, tarfile.TarError) as error:
        raise BaseMediaError(
            f"{deb.name} cannot be unpacked: {error}",
            hint="The file is damaged. Remove it, and it is downloaded again.",
        ) from error


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, *, into: Path, deb: Path) -> None:
    parts = [part for part in PurePosixPath(member.name).parts if part != "."]
    if member.name.startswith("/") or ".." in parts:
        raise _hostile(deb, member.name)
    if parts and parts[0] in _UNMERGED:
        parts = ["usr", *parts]
    kept = _KEPT_OF_STDLIB if re.match(r"libpython3\.\d+-stdlib_", deb.name) else _KEPT
    if member.isdir() or not kept.fullmatch("/".join(parts)):
        return
    target = into.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(into.resolve()):
        raise _hostile(deb, member.name)
    if member.issym():
        _link(target, member.linkname, into=into, deb=deb)
        return
    stream = archive.extractfile(member) if member.isreg() or member.islnk() else None
    if stream is None:
        raise _hostile(deb, member.name)
    target.unlink(missing_ok=True)
    target.write_bytes(stream.read())
    target.chmod(0o755 if member.mode & 0o111 else 0o644)


def _link(target: Path, linkname: str, *, into: Path, deb: Path) -> None:
    """A symbolic link, relative always: an absolute one would point into the machine's own files."""
    base = into.resolve()
    if linkname.startswith("/"):
        depth = len(target.relative_to(into).parts) - 1
        linkname = "../" * depth + linkname.lstrip("/")
    # resolve() also follows links already there, so a chain of links cannot lead out either.
    if not (target.parent.resolve() / linkname).resolve().is_relative_to(base):
        raise _hostile(deb, f"{target.relative_to(into)} -> {linkname}")
    target.unlink(missing_ok=True)
    target.symlink_to(linkname)


def _hostile(deb: Path, name: str) -> BaseMediaError:
    return BaseMediaError(
        f"{deb.name} holds what a package must not: {name!r}", hint="Do not use this file; get it from Debian again."
    )
