"""The names of every file in an ISO: ISO9660 level 3 or 4, Joliet, and as given (Rock Ridge, UDF)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import OutputError

_DEEPEST = 8
_LONGEST_ROCK_RIDGE = 248
_LONGEST_JOLIET = 64
_LONGEST_ISO_BASE, _LONGEST_ISO_EXTENSION = 22, 5
_LONGEST_LEVEL_4 = 200
#: UDF's longest name in 16-bit characters; with 8-bit ones it is longer than Rock Ridge's.
_LONGEST_UDF_WIDE = 126
_NOT_IN_ISO = re.compile(r"[^A-Z0-9_]")
_NOT_IN_LEVEL_4 = re.compile(r"[^A-Z0-9_.\-]")
_NOT_IN_JOLIET = re.compile(r"[\x00-\x1f*/:;?\\]")


@dataclass(frozen=True, kw_only=True)
class NamedPath:
    """A file or folder: its own name, and its absolute paths as given, by ISO9660's and by Joliet's rules."""

    name: str
    path: str
    iso: str
    joliet: str


@dataclass(frozen=True, kw_only=True)
class IsoNames:
    """Names for a whole ISO: folders (parents first), files by their given paths, and the boot catalog."""

    folders: tuple[NamedPath, ...]
    files: dict[str, NamedPath]
    boot_catalog: NamedPath


def plan_names(paths: Sequence[str], *, level: int = 3) -> IsoNames:
    """Names for `paths` ("/" between parts), all different by every rule. The boot catalog goes to "boot/boot.cat".

    `level`: ISO9660's interchange level. On level 4 names are long, in capitals, without version numbers, and there is
    UDF beside it.

    Raises OutputError for a path that no ISO can hold, or that is given twice.
    """
    planned = _Planned(level)
    files: dict[str, NamedPath] = {}
    for path in sorted(paths):
        _check_path(path, level)
        if path in files:
            raise OutputError(f"'{path}' is given twice for the ISO")
        files[path] = planned.add(path, is_folder=False)
    if "boot/boot.cat" in files or "boot" in files:
        raise OutputError("'boot/boot.cat' in an ISO is its boot catalog and cannot be given")
    catalog = planned.add("boot/boot.cat", is_folder=False)
    return IsoNames(folders=tuple(planned.folders), files=files, boot_catalog=catalog)


class _Planned:
    """Names given out so far."""

    def __init__(self, level: int) -> None:
        self._level = level
        self.folders: list[NamedPath] = []
        self._known: dict[str, tuple[NamedPath, bool]] = {"": (NamedPath(name="", path="", iso="", joliet=""), True)}
        self._taken: set[tuple[str, str]] = set()

    def add(self, path: str, *, is_folder: bool) -> NamedPath:
        """The names of `path`; its folders come first."""
        known = self._known.get(path)
        if known is not None:
            if not (known[1] and is_folder):
                raise OutputError(f"'{path}' cannot be both a file and a folder of the ISO")
            return known[0]
        above, _, name = path.rpartition("/")
        parent = self.add(above, is_folder=True)
        planned = NamedPath(
            name=name,
            path=f"/{path}",
            iso=f"{parent.iso}/{self._iso_name(parent.iso, name, is_folder=is_folder)}",
            joliet=f"{parent.joliet}/{self._joliet_name(parent.joliet, name)}",
        )
        self._known[path] = (planned, is_folder)
        if is_folder:
            self.folders.append(planned)
        return planned

    def _iso_name(self, parent: str, name: str, *, is_folder: bool) -> str:
        if self._level == 4:
            return self._level_4_name(parent, name)
        base, _, extension = (name, "", "") if is_folder else name.rpartition(".")
        if not base:
            base, extension = name, ""
        base = _NOT_IN_ISO.sub("_", base.upper())[:_LONGEST_ISO_BASE]
        extension = _NOT_IN_ISO.sub("_", extension.upper())[:_LONGEST_ISO_EXTENSION]
        ending = "" if is_folder else f".{extension};1"
        number = 0
        while True:
            candidate = base if not number else f"{base[: _LONGEST_ISO_BASE - 6]}_{number}"
            # Folders and files alike, so that no reader that drops the version takes one for the other.
            if self._claim("iso:" + parent, f"{candidate}.{extension}"):
                return candidate + ending
            number += 1

    def _level_4_name(self, parent: str, name: str) -> str:
        clean = _NOT_IN_LEVEL_4.sub("_", name.upper())[:_LONGEST_LEVEL_4]
        number = 0
        while True:
            candidate = clean if not number else f"{clean[: _LONGEST_LEVEL_4 - 6]}_{number}"
            if self._claim("iso:" + parent, candidate):
                return candidate
            number += 1

    def _joliet_name(self, parent: str, name: str) -> str:
        clean = _NOT_IN_JOLIET.sub("_", name)
        number = 0
        while True:
            candidate = _shortened(clean, f"~{number}" if number else "")
            # Windows shows these names and does not tell case apart.
            if self._claim("joliet:" + parent, candidate.upper()):
                return candidate
            number += 1

    def _claim(self, where: str, name: str) -> bool:
        if (where, name) in self._taken:
            return False
        self._taken.add((where, name))
        return True


def _shortened(name: str, tail: str) -> str:
    """`name` with `tail` before its extension, short enough for Joliet."""
    if not tail and _length(name) <= _LONGEST_JOLIET:
        return name
    base, dot, extension = name.rpartition(".")
    if not base or _length(extension) > 16:
        base, dot, extension = name, "", ""
    ending = f"{tail}{dot}{extension}"
    while _length(base) + _length(ending) > _LONGEST_JOLIET:
        base = base[:-1]
    return base + ending


def _length(text: str) -> int:
    # Joliet counts UTF-16 units; pycdlib counts UTF-8 bytes, which are never fewer.
    return len(text.encode("utf-8"))


def _check_path(path: str, level: int) -> None:
    parts = path.split("/")
    if len(parts) > _DEEPEST:
        raise OutputError(f"'{path}' is {len(parts)} levels deep; an ISO has {_DEEPEST}")
    for part in parts:
        if not part or part in (".", "..") or not part.isprintable():
            raise OutputError(f"an ISO cannot hold {path!r}: {part!r} is not a file name")
        if len(part.encode("utf-8")) > _LONGEST_ROCK_RIDGE:
            raise OutputError(f"an ISO cannot hold {path!r}: a name has at most {_LONGEST_ROCK_RIDGE} bytes")
        if level == 4 and not _is_latin_1(part) and _units(part) > _LONGEST_UDF_WIDE:
            raise OutputError(f"an ISO cannot hold {path!r}: UDF's names have at most {_LONGEST_UDF_WIDE} characters")


def _is_latin_1(text: str) -> bool:
    return all(ord(character) < 256 for character in text)


def _units(text: str) -> int:
    return len(text.encode("utf-16-be", "replace")) // 2
