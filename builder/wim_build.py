"""One bootable WIM written from an image of another, in one pass of libwim's, and read back."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError, ImageError, OutputError
from builder.extents import Extents
from builder.wim import check_integrity, open_wim
from builder.wim_format import refuse_solid
from builder.wim_library import Progress, WimStruct, set_compression_level

#: LZX at level 20 is three times as fast as libwim's default, for a file 0.2 % larger (FACTS, "Working on a WIM").
LEVEL = 20
_FILETIME_UNIX_EPOCH = 11_644_473_600


@dataclass(frozen=True, kw_only=True)
class Put:
    """A file or folder to add: `target` is its path inside the image ("Windows/System32/startnet.cmd").

    `source`: the file's bytes, a file, or a folder with everything below it. What is there already is replaced.
    """

    target: str
    source: Path | bytes


@dataclass(frozen=True, kw_only=True)
class Rename:
    """A file of the image to rename."""

    path: str
    target: str


@dataclass(frozen=True, kw_only=True)
class WimChanges:
    """What to change in an image: first `renames`, then `deletions` (paths; missing ones are fine), then `puts`."""

    puts: tuple[Put, ...] = ()
    deletions: tuple[str, ...] = ()
    renames: tuple[Rename, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WrittenWim:
    """A WIM that was written and read back. `injected`: sha256 in hex by path of every file that was put in."""

    path: Path
    size: int
    injected: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class WimOrder:
    """A bootable WIM to be made: image `index` of `source` with `changes`, as the only and bootable image.

    The same order gives the same bytes: every time stamp is `epoch` (seconds UTC), `guid` has 16 bytes. `integrity`
    adds a table of sha1 sums. `threads` 0: one a processor.
    """

    source: Extents
    index: int
    changes: WimChanges
    epoch: int
    guid: bytes
    integrity: bool = False
    level: int = LEVEL
    threads: int = 0


def build_wim(order: WimOrder, target: Path, *, progress: Progress | None = None) -> WrittenWim:
    """Write the WIM of `order` to `target`, beside it first, and read it back.

    Raises ImageError for a source that libwim must not be given or that is damaged, OutputError where there is no
    room or what was read back is not what went in; then `target` is as it was before.
    """
    wim = open_wim(order.source)
    refuse_solid(wim.header, wim.name)
    wim.image(order.index)
    wim.check(order.index)
    with tempfile.TemporaryDirectory(prefix=".wim-", dir=target.parent) as name:
        work = Path(name)
        staged = _stage(order.changes.puts, work / "stage", order.epoch)
        source = _as_file(order.source, work / "source.wim")
        part = work / "boot.wim"
        set_compression_level(wim.header.compression, order.level)
        with WimStruct(source, name=wim.name) as opened:
            _change(opened, order, work / "stage" if staged else None)
            opened.write(part, image=order.index, integrity=order.integrity, threads=order.threads, progress=progress)
        with WimStruct(part, name=target.name, writable=True) as written:
            # libwim puts the time of writing there; set afterwards, it stays.
            _set_times(written, 1, order.epoch)
            written.overwrite(integrity=order.integrity)
        result = read_back(part, staged, order.changes.deletions)
        _put_in_place(part, target)
    return WrittenWim(path=target, size=result.size, injected=result.injected)


def read_back(path: Path, expected: Sequence[tuple[str, str]], absent: Sequence[str] = ()) -> WrittenWim:
    """Check a written WIM: one image, the one that boots; its tables and folders; the sha256 of every file put in.

    `expected`: (path, sha256 in hex); `absent`: paths that must be gone unless they are expected. Raises OutputError.
    """
    try:
        wim = open_wim(path)
        wim.check(1)
        images, boots = wim.header.image_count, wim.header.boot_index
        if (images, boots) != (1, 1):
            raise OutputError(f"{path.name} has {images} images and boots number {boots}; 1 and 1 were expected")
        if wim.header.boot_metadata.offset != wim.metadata_resource(1).offset:
            raise OutputError(f"{path.name} does not say where the folders of the image that boots are")
        check_integrity(wim)
        for file, sha256 in expected:
            if hashlib.sha256(wim.read(1, file)).hexdigest() != sha256:
                raise OutputError(f"'{file}' in {path.name} is not what was put in")
        kept = {file.casefold() for file, _ in expected}
        for gone in absent:
            plain = gone.replace("\\", "/").strip("/").casefold()
            if not any(file == plain or file.startswith(plain + "/") for file in kept) and wim.find(1, gone):
                raise OutputError(f"'{gone}' is still in {path.name}")
    except (ImageError, BaseMediaError) as error:
        raise OutputError(f"the WIM that was just written cannot be read back: {error.message}") from error
    return WrittenWim(path=path, size=wim.source.size, injected=tuple(expected))


def _change(opened: WimStruct, order: WimOrder, stage: Path | None) -> None:
    changes = order.changes
    opened.update(
        order.index,
        renames=[(_inside(r.path), _inside(r.target)) for r in changes.renames],
        deletions=[_inside(path) for path in changes.deletions],
        additions=[(stage, "/")] if stage is not None else [],
    )
    _set_times(opened, order.index, order.epoch)
    # Writing an image that does not boot would leave a WIM without one that does.
    opened.set_boot_index(order.index)
    opened.set_guid(order.guid)


def _set_times(wim: WimStruct, image: int, epoch: int) -> None:
    filetime = (epoch + _FILETIME_UNIX_EPOCH) * 10_000_000
    wim.set_property(image, "LASTMODIFICATIONTIME/HIGHPART", f"0x{filetime >> 32:08X}")
    wim.set_property(image, "LASTMODIFICATIONTIME/LOWPART", f"0x{filetime & 0xFFFFFFFF:08X}")


def _stage(puts: Sequence[Put], stage: Path, epoch: int) -> list[tuple[str, str]]:
    """Copy everything that is to be put in below `stage`, as it will lie in the image; (path, sha256) of every file."""
    files: list[tuple[str, str]] = []
    for put in puts:
        target = _inside(put.target).strip("/")
        for path, content in _put_files(put, target):
            place = stage / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            files.append((path, hashlib.sha256(content).hexdigest()))
    for folder, _, names in os.walk(stage, topdown=False):
        for name in (*names, "."):
            os.utime(Path(folder, name), (epoch, epoch))
    # A later put of the same path replaces an earlier one.
    return sorted(dict(files).items())


def _put_files(put: Put, target: str) -> Iterator[tuple[str, bytes]]:
    if isinstance(put.source, bytes):
        yield target, put.source
        return
    try:
        if put.source.is_dir():
            for path in sorted(put.source.rglob("*")):
                if path.is_file():
                    yield f"{target}/{path.relative_to(put.source).as_posix()}", path.read_bytes()
        else:
            yield target, put.source.read_bytes()
    except OSError as error:
        raise BaseMediaError(f"cannot read {error.filename or put.source}: {error.strerror}") from error


def _as_file(source: Extents, copy: Path) -> Path:
    """The WIM as a file of its own, which libwim needs."""
    if source.is_whole_file:
        return source.path
    free = shutil.disk_usage(copy.parent).free
    if free < source.size:
        raise OutputError(
            f"no room in {copy.parent.parent}: a copy of {source.name} needs {source.size} bytes, {free} are free"
        )
    source.copy_to(copy)
    return copy


def _put_in_place(part: Path, target: Path) -> None:
    # Not synced: a WIM is a stage on the way to an ISO, and syncing 400 MB takes longer than making it.
    try:
        part.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def _inside(path: str) -> str:
    """A path within an image as libwim wants it; BaseMediaError for one that leaves the image."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if not parts or any(part in (".", "..") or "\0" in part for part in parts):
        raise BaseMediaError(f"{path!r} is not a path within an image")
    return "/" + "/".join(parts)
