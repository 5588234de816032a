"""A frozen payload as data: the files of PyInstaller's folder, their hashes, the forms it is kept and shipped in."""

from __future__ import annotations

import hashlib
import io
import re
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from builder.errors import ImageError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
#: Unix, an ordinary file: run-bluelift.cmd needs no more on Windows.
_MODE = 0o100644 << 16


@dataclass(frozen=True, kw_only=True)
class FrozenFile:
    """One file: its path below the folder (`_internal/python311.dll`) and its content."""

    path: str
    content: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FrozenPayload:
    """PyInstaller's folder, `payload.exe` and `_internal`, sorted by path."""

    files: tuple[FrozenFile, ...]

    @property
    def size(self) -> int:
        """Bytes, all files together."""
        return sum(file.size for file in self.files)

    @property
    def contents(self) -> dict[str, bytes]:
        """Path to content."""
        return {file.path: file.content for file in self.files}

    @property
    def sha256(self) -> str:
        """Of the manifest: the same files, the same digest."""
        return hashlib.sha256(self.sums()).hexdigest()

    def sums(self) -> bytes:
        """The manifest, as `sha256sum` writes and checks it."""
        return "".join(f"{file.sha256}  {file.path}\n" for file in self.files).encode()

    def write(self, folder: Path) -> None:
        """Put the files and their manifest below `folder`."""
        for file in self.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
        (folder / SUMS).write_bytes(self.sums())


def payload_of(contents: Mapping[str, bytes]) -> FrozenPayload:
    """Path to content, as a payload."""
    return FrozenPayload(files=tuple(FrozenFile(path=path, content=contents[path]) for path in sorted(contents)))


def read_folder(folder: Path) -> FrozenPayload:
    """What is below `folder`, the manifest aside. Raises ImageError for anything but files and folders."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ImageError(
                f"{folder} holds {name}, which is no ordinary file", hint="Give the folder as it was frozen."
            )
        if path.is_file() and name != SUMS:
            contents[name] = path.read_bytes()
    return payload_of(contents)


def read_prebuilt(folder: Path) -> FrozenPayload:
    """A frozen payload that somebody gives, held to the manifest SHA256SUMS in its folder. Raises ImageError."""
    how = f"In the folder: find . -type f ! -name {SUMS} | sort | xargs -d '\\n' sha256sum > {SUMS}"
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder", hint="--payload-exe takes the folder with payload.exe in it.")
    try:
        listed = parse_sums((folder / SUMS).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ImageError(f"there is no {SUMS} in {folder}, so nothing says what should be there", hint=how) from error
    except ValueError as error:
        raise ImageError(f"{folder / SUMS} cannot be used: {error}", hint=how) from error
    payload = read_folder(folder)
    found = {file.path: file.sha256 for file in payload.files}
    problems = [
        *(f"{path} is missing" for path in sorted(listed.keys() - found.keys())),
        *(f"{path} is not in {SUMS}" for path in sorted(found.keys() - listed.keys())),
        *(f"{path} was changed" for path in sorted(listed.keys() & found.keys()) if listed[path] != found[path]),
    ]
    if problems:
        raise ImageError(f"{folder} is not as its {SUMS} says\n" + "\n".join(problems), hint="Get it again, or freeze.")
    return payload


def parse_sums(text: str) -> dict[str, str]:
    """`sha256sum`'s lines as path to sha256. Raises ValueError naming the first line that is none."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line.rstrip())
        path = PurePosixPath(match[2].replace("\\", "/")) if match else PurePosixPath("/")
        if match is None or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"line {number} is {line[:80]!r}")
        sums[str(path)] = match[1]
    return sums


# --- archives --------------------------------------------------------------------------------------------------------


def pack(files: Iterable[tuple[str, bytes]], *, epoch: int, compress: bool) -> bytes:
    """A ZIP archive of (path, content), in this order, every time stamp `epoch` (UTC): same files, same bytes."""
    stream = io.BytesIO()
    stamp = time.gmtime(epoch)[:6]
    with zipfile.ZipFile(stream, "w") as archive:
        for path, content in files:
            info = zipfile.ZipInfo(path, date_time=stamp)
            info.create_system = 3
            info.external_attr = _MODE
            info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            archive.writestr(info, content, compresslevel=9 if compress else None)
    return stream.getvalue()


def unpack(archive: Path) -> FrozenPayload:
    """What `pack` put into a file. Raises ImageError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return payload_of({name: opened.read(name) for name in opened.namelist()})
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ImageError(f"{archive} cannot be read: {error}", hint="Run 'bluelift clean' and build again.") from error
