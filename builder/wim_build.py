"""One bootable WIM made from an image of another, in one pass of libwim's, and read back.

`change_wim` makes what is new of it, without a copy of what stays (`builder.wim_splice`); the rest comes from the base
when the WIM is written, to a file (`build_wim`) or straight into an ISO.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BaseMediaError, ImageError, OutputError
from builder.extents import Extents
from builder.wim import Wim, open_wim
from builder.wim_format import Compression, refuse_solid
from builder.wim_library import Progress, WimStruct, set_compression_level
from builder.wim_splice import SplicedWim, splice, write_skeleton

#: LZX at level 20 is three times as fast as libwim's default, for a file 0.2 % larger (FACTS, "Working on a WIM").
LEVEL = 20
_FILETIME_UNIX_EPOCH = 11_644_473_600
#: How many of the files that were taken over are read back.
_SAMPLE = 16


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
class ChangedWim:
    """A WIM to be written. `injected`: sha256 in hex by path of every file that was put in."""

    spliced: SplicedWim
    injected: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class WimOrder:
    """A bootable WIM to be made: image `index` of `source` with `changes`, as the only and bootable image.

    The same order gives the same bytes: every time stamp is `epoch` (seconds UTC), `guid` has 16 bytes. `packed`: what
    `pack` made of some of the puts, which are then not compressed again. `threads` 0: one a processor.
    """

    source: Extents
    index: int
    changes: WimChanges
    epoch: int
    guid: bytes
    packed: Path | None = None
    level: int = LEVEL
    threads: int = 0


def change_wim(order: WimOrder, new: Path, *, progress: Progress | None = None) -> ChangedWim:
    """Make what is new of the WIM of `order`, the file `new`.

    Raises ImageError for a source that libwim must not be given or that is damaged, OutputError where there is no room.
    """
    wim = open_wim(order.source)
    refuse_solid(wim.header, wim.name)
    wim.image(order.index)
    for index in range(1, wim.header.image_count + 1):
        wim.check(index)
    # The last byte says at once whether the file is complete.
    order.source.read(max(0, order.source.size - 1), min(1, order.source.size))
    with tempfile.TemporaryDirectory(prefix=".wim-", dir=new.parent) as name:
        work = Path(name)
        try:
            staged = _stage(order.changes.puts, work / "stage", order.epoch)
            skeleton = work / "skeleton.wim"
            write_skeleton(wim, skeleton)
            _change(wim, skeleton, order, work / "stage" if staged else None, progress)
            return ChangedWim(spliced=splice(skeleton, order.source.size, new), injected=tuple(staged))
        except OSError as error:
            raise OutputError(f"cannot write {new}: {error.strerror}", hint="Make room there.") from error


def pack(
    puts: Sequence[Put], target: Path, *, compression: Compression, epoch: int, progress: Progress | None = None
) -> None:
    """Compress `puts` into a WIM of their own, for `WimOrder.packed`. Raises BaseMediaError, OutputError."""
    with tempfile.TemporaryDirectory(prefix=".wim-", dir=target.parent) as name:
        stage = Path(name) / "stage"
        stage.mkdir()
        _stage(puts, stage, epoch)
        set_compression_level(compression, LEVEL)
        with WimStruct(None, name=target.name, compression=compression) as wim:
            wim.set_guid(bytes(16))
            wim.add_image(stage, "packed")
            wim.write(target, integrity=False, threads=0, progress=progress)


def build_wim(order: WimOrder, target: Path, *, progress: Progress | None = None) -> ChangedWim:
    """Write the WIM of `order` to `target`, beside it first, and read it back.

    Raises what `change_wim` and `read_back` do; then `target` is as it was before.
    """
    with tempfile.TemporaryDirectory(prefix=".wim-", dir=target.parent) as name:
        part = Path(name) / target.name
        changed = change_wim(order, Path(name) / "new", progress=progress)
        changed.spliced.joined(order.source, name=target.name).copy_to(part)
        read_back(part, changed.injected, order.changes.deletions)
        part.replace(target)
    return changed


def read_back(source: Path | Extents, expected: Sequence[tuple[str, str]], absent: Sequence[str] = ()) -> None:
    """Check a written WIM: one image, the one that boots; its tables and folders; the sha256 of every file put in.

    `expected`: (path, sha256 in hex); `absent`: paths that must be gone unless they are expected. Of the files that
    were taken over a sample is decompressed and compared with its sha1. Raises OutputError.
    """
    try:
        wim = open_wim(source)
        wim.check(1)
        what, images, boots = _short(wim.name), wim.header.image_count, wim.header.boot_index
        if (images, boots) != (1, 1):
            raise OutputError(f"{what} has {images} images and boots number {boots}; 1 and 1 were expected")
        if wim.header.boot_metadata.offset != wim.metadata_resource(1).offset:
            raise OutputError(f"{what} does not say where the folders of the image that boots are")
        for file, sha256 in expected:
            if hashlib.sha256(wim.read(1, file)).hexdigest() != sha256:
                raise OutputError(f"'{file}' in {what} is not what was put in")
        kept = {file.casefold() for file, _ in expected}
        for gone in absent:
            plain = gone.replace("\\", "/").strip("/").casefold()
            if not any(file == plain or file.startswith(plain + "/") for file in kept) and wim.find(1, gone):
                raise OutputError(f"'{gone}' is still in {what}")
        if damaged := wim.damaged_of_sample(_SAMPLE):
            raise OutputError(f"'{damaged[0].partition(':')[2]}' in {what} is not what it was in the base")
    except (ImageError, BaseMediaError) as error:
        raise OutputError(f"the WIM that was just written cannot be read back: {error.message}") from error


def _change(wim: Wim, skeleton: Path, order: WimOrder, stage: Path | None, progress: Progress | None) -> None:
    """Have libwim make the changes of `order` in the skeleton of `wim`."""
    changes = order.changes
    set_compression_level(wim.header.compression, order.level)
    with WimStruct(skeleton, name=wim.name, writable=True) as opened:
        for image in range(wim.header.image_count, 0, -1):
            if image != order.index:
                opened.delete_image(image)
        if order.packed is not None:
            opened.refer_to(order.packed)
        opened.update(
            1,
            renames=[(_inside(r.path), _inside(r.target)) for r in changes.renames],
            deletions=[_inside(path) for path in changes.deletions],
            additions=[(stage, "/")] if stage is not None else [],
        )
        opened.set_boot_index(1)
        opened.set_guid(order.guid)
        opened.append(threads=order.threads, progress=progress)
    with WimStruct(skeleton, name=wim.name, writable=True) as written:
        # libwim puts the time of writing there; set afterwards, it stays.
        _set_times(written, order.epoch)
        written.overwrite(integrity=False)


def _set_times(wim: WimStruct, epoch: int) -> None:
    filetime = (epoch + _FILETIME_UNIX_EPOCH) * 10_000_000
    wim.set_property(1, "LASTMODIFICATIONTIME/HIGHPART", f"0x{filetime >> 32:08X}")
    wim.set_property(1, "LASTMODIFICATIONTIME/LOWPART", f"0x{filetime & 0xFFFFFFFF:08X}")


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


def _short(name: str) -> str:
    """A WIM's name without the folders that it lies in."""
    return Path(name).name if "/" in name and " in " not in name else name


def _inside(path: str) -> str:
    """A path within an image as libwim wants it; BaseMediaError for one that leaves the image."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if not parts or any(part in (".", "..") or "\0" in part for part in parts):
        raise BaseMediaError(f"{path!r} is not a path within an image")
    return "/" + "/".join(parts)
