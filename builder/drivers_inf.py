"""Are driver folders complete? Every file that an INF's sections name must be there, and it must be for x64.

Source: Windows driver documentation, "Overview of INF files" (INF Version, SourceDisksNames, SourceDisksFiles,
CopyFiles, Manufacturer and Models sections). `drvload` fails on an incomplete folder, without saying what it misses, on
a host where nobody can look it up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError

_LARGEST_INF = 16 << 20
_MOST_SUBSTITUTIONS = 8
#: Architectures in section names, as INF writes them, with what a profile calls them.
_ARCHITECTURES = {"amd64": "x64", "arm64": "arm64", "x86": "x86", "arm": "arm", "ia64": "ia64"}
_DECORATION = re.compile(r"nt(amd64|arm64|x86|arm|ia64)?(\..*)?", re.IGNORECASE)
_INF_ARCHITECTURE = {other: inf for inf, other in _ARCHITECTURES.items()}


class InfError(ValueError):
    """A file that is not an INF; the message says what it is instead."""


@dataclass(frozen=True, kw_only=True)
class InfLine:
    """One line of a section: `key` before "=" ("" where there is none), and the values between commas."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class InfFile:
    """A parsed INF: sections by name in lower case (sections of one name are one), strings by name in lower case."""

    sections: dict[str, tuple[InfLine, ...]]
    strings: dict[str, str]

    def lines(self, section: str) -> tuple[InfLine, ...]:
        """The lines of a section; none where it is not there."""
        return self.sections.get(section.lower(), ())

    def value(self, section: str, key: str) -> str:
        """The first value of a key, with its strings put in; "" where there is none."""
        for line in self.lines(section):
            if line.key.lower() == key.lower() and line.values:
                return self.text(line.values[0])
        return ""

    def text(self, value: str) -> str:
        """`value` with every %name% replaced by its string; unknown ones stay."""
        for _ in range(_MOST_SUBSTITUTIONS):
            replaced = re.sub(r"%([^%]+)%", lambda found: self.strings.get(found[1].lower(), found[0]), value)
            if replaced == value:
                break
            value = replaced[:4096]
        return value.replace("%%", "%")


@dataclass(frozen=True, kw_only=True)
class DriverPackage:
    """A driver that an INF installs. `architectures`: x64, arm64, x86 ..., as its Models sections are decorated.
    `files`: what it names, relative to the INF's folder, "/" between parts.
    """

    inf: Path
    device_class: str
    provider: str
    catalog: str
    architectures: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DriverProblem:
    """One thing wrong with a driver folder: the file concerned, and what."""

    path: Path
    message: str


@dataclass(frozen=True, kw_only=True)
class DriverCheck:
    """What a driver folder holds, and everything that is wrong with it."""

    packages: tuple[DriverPackage, ...]
    problems: tuple[DriverProblem, ...]


def check_drivers(folders: Sequence[Path], *, architecture: str = "x64") -> DriverCheck:
    """Read every INF below `folders` and look for the files it names.

    An INF for another architecture only is a problem; so is a folder without any INF. A missing catalogue is one, for
    Windows then does not load the driver.
    """
    packages: list[DriverPackage] = []
    problems: list[DriverProblem] = []
    for folder in folders:
        infs = _infs_below(folder, problems)
        problems += _links_out_of(folder)
        for path in infs:
            try:
                package = read_package(path, architecture=architecture)
            except InfError as error:
                problems.append(DriverProblem(path=path, message=str(error)))
                continue
            packages.append(package)
            problems += _problems(package, architecture)
    return DriverCheck(packages=tuple(packages), problems=tuple(problems))


def require_drivers(folders: Sequence[Path], *, architecture: str = "x64") -> tuple[DriverPackage, ...]:
    """The drivers below `folders`. Raises BaseMediaError with everything that is wrong, where anything is."""
    found = check_drivers(folders, architecture=architecture)
    if found.problems:
        lines = "\n".join(f"  {problem.path}: {problem.message}" for problem in found.problems)
        raise BaseMediaError(
            f"the driver folders are not complete\n{lines}",
            hint="Give the folder that the manufacturer's package unpacks to, with the .inf, .sys and .cat together.",
        )
    return found.packages


def read_package(path: Path, *, architecture: str = "x64") -> DriverPackage:
    """The driver that the INF at `path` installs on `architecture`. Raises InfError."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_INF:
            raise InfError(f"an INF of {size} bytes")
        inf = parse_inf(path.read_bytes())
    except OSError as error:
        raise InfError(f"cannot be read: {error.strerror}") from error
    catalog = inf.value("version", f"CatalogFile.nt{_INF_ARCHITECTURE.get(architecture, '')}")
    return DriverPackage(
        inf=path,
        device_class=inf.value("version", "Class"),
        provider=inf.value("version", "Provider"),
        catalog=catalog or inf.value("version", "CatalogFile.nt") or inf.value("version", "CatalogFile"),
        architectures=_architectures(inf),
        files=_named_files(inf, architecture),
    )


def parse_inf(data: bytes) -> InfFile:
    """An INF in UTF-16 or UTF-8 with a byte order mark, else UTF-8 or Windows-1252. Raises InfError."""
    sections: dict[str, list[InfLine]] = {}
    current: list[InfLine] | None = None
    for line in _logical_lines(_decode(data)):
        if line.startswith("["):
            name = line[1:].partition("]")[0].strip().strip('"').lower()
            current = sections.setdefault(name, [])
        elif current is not None:
            current.append(_inf_line(line))
    if not sections:
        raise InfError("it is not an INF: it has no [sections]")
    signature = next((line.values[0] for line in sections.get("version", ()) if line.key.lower() == "signature"), "")
    if signature.strip().lower() not in ("$windows nt$", "$windows 95$", "$chicago$"):
        raise InfError(f"it is not a driver's INF: its [Version] has the signature {signature[:40]!r}")
    strings = {line.key.lower(): ",".join(line.values) for line in sections.get("strings", ()) if line.key}
    return InfFile(sections={name: tuple(lines) for name, lines in sections.items()}, strings=strings)


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) & ~1].decode("utf-16", "replace")
    if data[1:2] == b"\0" and data[3:4] == b"\0":
        return data[: len(data) & ~1].decode("utf-16-le", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments and blanks; a backslash at the end of one continues it."""
    pending = ""
    for raw in re.split(r"\r\n|\n|\r", text.replace("\0", "")):
        line = _without_comment(raw).strip()
        if line.endswith("\\") and not line.startswith("["):
            pending += line[:-1]
            continue
        whole, pending = (pending + line).strip(), ""
        if whole:
            yield whole
    if pending.strip():
        yield pending.strip()


def _without_comment(line: str) -> str:
    quoted = False
    for at, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == ";" and not quoted:
            return line[:at]
    return line


def _inf_line(line: str) -> InfLine:
    key, values = "", line
    quoted = False
    for at, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "=" and not quoted:
            key, values = line[:at].strip().strip('"'), line[at + 1 :]
            break
    return InfLine(key=key, values=tuple(_split(values)))


def _split(text: str) -> Iterator[str]:
    """The values between commas, without their quotes; a doubled quote inside quotes is one."""
    value, quoted, at = "", False, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            if quoted and text[at + 1 : at + 2] == '"':
                value += '"'
                at += 1
            else:
                quoted = not quoted
        elif character == "," and not quoted:
            yield value.strip()
            value = ""
        else:
            value += character
        at += 1
    yield value.strip()


def _models(inf: InfFile) -> Iterator[tuple[str, str]]:
    """(architecture, section) of every Models section that [Manufacturer] names; architecture "" where undecorated."""
    for line in inf.lines("manufacturer"):
        names = [inf.text(value) for value in line.values] or [inf.text(line.key)]
        yield "", names[0]
        for decoration in names[1:]:
            found = _DECORATION.fullmatch(decoration)
            if found:
                yield _ARCHITECTURES.get((found[1] or "").lower(), ""), f"{names[0]}.{decoration}"


def _architectures(inf: InfFile) -> tuple[str, ...]:
    """The architectures whose Models sections have devices; an undecorated one is x86's (or any, as in old INFs)."""
    found = {architecture or "x86" for architecture, section in _models(inf) if inf.lines(section)}
    return tuple(sorted(found))


def _named_files(inf: InfFile, architecture: str) -> tuple[str, ...]:
    """Every file that the INF's sections for `architecture` copy or list, with the source folder it is to be in."""
    listed = _source_files(inf, architecture)
    named = dict.fromkeys(listed)
    for name in _copied_files(inf, architecture):
        named.setdefault(name.lower())
    return tuple(sorted(_source_path(inf, architecture, name, listed.get(name)) for name in named))


def _source_files(inf: InfFile, architecture: str) -> dict[str, tuple[str, str]]:
    """[SourceDisksFiles] and its decorated sibling: name in lower case -> (disk number, subfolder)."""
    found: dict[str, tuple[str, str]] = {}
    for section in ("sourcedisksfiles", f"sourcedisksfiles.{_INF_ARCHITECTURE.get(architecture, '')}"):
        for line in inf.lines(section):
            name = inf.text(line.key).lower()
            values = [inf.text(value) for value in (*line.values, "", "")]
            if name:
                found[name] = (values[0], values[1])
    return found


def _copied_files(inf: InfFile, architecture: str) -> Iterator[str]:
    """The source names in every section that a CopyFiles of this architecture names, and those given by @."""
    listed = set[str]()
    for section, lines in inf.sections.items():
        if _other_architecture(section, architecture):
            continue
        for line in lines:
            if line.key.lower() not in ("copyfiles", "copyinf"):
                continue
            for value in line.values:
                name = inf.text(value)
                if line.key.lower() == "copyinf" or name.startswith("@"):
                    yield name.lstrip("@")
                elif name.lower() not in listed:
                    # Thousands of lines may name the same list.
                    listed.add(name.lower())
                    yield from _file_list(inf, name)


def _file_list(inf: InfFile, section: str) -> Iterator[str]:
    """The source file of every line of a file-list section: destination, source (where it differs), ..."""
    for line in inf.lines(section):
        if line.key:
            continue
        values = [inf.text(value) for value in (*line.values, "")]
        name = values[1] or values[0]
        if name:
            yield name


def _other_architecture(section: str, architecture: str) -> bool:
    """Whether a section's decoration says that it is for another architecture only."""
    decorated = {
        _ARCHITECTURES[part[2:]] for part in section.split(".") if part[2:] in _ARCHITECTURES and part[:2] == "nt"
    }
    return bool(decorated) and architecture not in decorated


def _source_path(inf: InfFile, architecture: str, name: str, listed: tuple[str, str] | None) -> str:
    """Where a file is to be, relative to the INF: the disk's path and the file's subfolder."""
    disk, subfolder = listed or ("", "")
    parts = []
    for section in (f"sourcedisksnames.{_INF_ARCHITECTURE.get(architecture, '')}", "sourcedisksnames"):
        for line in inf.lines(section):
            if disk and inf.text(line.key) == disk and len(line.values) > 3:
                parts = [inf.text(line.values[3])]
                break
        else:
            continue
        break
    whole = "\\".join((*parts, subfolder, name)).replace("/", "\\")
    return "/".join(part for part in whole.split("\\") if part not in ("", "."))


def _infs_below(folder: Path, problems: list[DriverProblem]) -> list[Path]:
    if not folder.is_dir():
        problems.append(DriverProblem(path=folder, message="is not a folder"))
        return []
    infs = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".inf" and path.is_file())
    if not infs:
        problems.append(DriverProblem(path=folder, message="has no .inf in it or below it"))
    return infs


def _links_out_of(folder: Path) -> Iterator[DriverProblem]:
    """Links to what is not in the folder: every file below it goes into the image, and an archive is made by others."""
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_file() and not path.resolve().is_relative_to(inside):
            yield DriverProblem(path=path, message="is a link to a file outside of the folder")


def _problems(package: DriverPackage, architecture: str) -> Iterator[DriverProblem]:
    if package.architectures and architecture not in package.architectures:
        supported = ", ".join(package.architectures)
        yield DriverProblem(path=package.inf, message=f"is for {supported}; the image is {architecture}")
        return
    folder = package.inf.parent
    if not package.catalog:
        yield DriverProblem(path=package.inf, message="names no catalogue (CatalogFile), so Windows does not load it")
    for name in (*package.files, *((package.catalog,) if package.catalog else ())):
        if any(part == ".." for part in name.split("/")):
            yield DriverProblem(path=package.inf, message=f"names '{name}', outside of its folder")
        elif not _is_there(folder, name):
            yield DriverProblem(path=package.inf, message=f"names '{name}', which is not there")


def _is_there(folder: Path, name: str) -> bool:
    """Whether a file is below `folder`, ignoring case. Manufacturers' packages unpack flat, too."""
    return _found(folder, name.split("/")) or _found(folder, name.split("/")[-1:])


def _found(folder: Path, parts: Sequence[str]) -> bool:
    candidates = [folder]
    for part in parts:
        wanted = part.lower()
        candidates = [
            entry for above in candidates if above.is_dir() for entry in above.iterdir() if entry.name.lower() == wanted
        ]
    return any(entry.is_file() for entry in candidates)
