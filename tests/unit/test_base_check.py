"""A base is looked at once: what is damaged is named, a whole one is remembered, another copy is not believed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from builder.base_check import check_base_once
from builder.cache import Cache
from builder.console import SilentStep
from builder.errors import ImageError
from builder.wim import Wim, open_wim
from tests.unit.wim_maker import PE_FILES, libwim_wim

#: Compressible, but no byte of what they are compressed to is idle.
LARGE = {f"Windows/large-{n}.bin": bytes(random.Random(n).choices(range(16), k=40_000)) for n in range(7)}
OTHER = {"Windows/other.bin": bytes(random.Random(291).choices(range(16), k=40_000))}


class CountingStep(SilentStep):
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """See Step."""
        self.notes.append(text)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def base(folder: Path) -> Path:
    """Two images; the second has a file of its own."""
    return libwim_wim(folder / "base.wim", [{**PE_FILES, **LARGE}, {**PE_FILES, **OTHER}])


def flip(path: Path, name: str, index: int = 1) -> None:
    """One bit of the file's compressed bytes; the file system notes no change."""
    wim, before = open_wim(path), path.stat()
    entry = wim.find(index, name)
    assert entry is not None
    resource = wim._tables[1][entry.sha1]
    assert resource.compressed
    with path.open("r+b") as stream:
        stream.seek(resource.offset + resource.stored // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def look(path: Path, cache: Cache, index: int = 1) -> list[str]:
    """The notes of one look at an image; none where it was looked at before."""
    step = CountingStep()
    wim: Wim = open_wim(path)
    with cache.locked(lambda _: None):
        check_base_once(wim, index, identity="the same tables", cache=cache, step=step)
    return step.notes


def test_it_is_looked_at_once(tmp_path: Path, cache: Cache) -> None:
    path = base(tmp_path)
    (said,) = look(path, cache)
    assert said.startswith("every file of image 1 compared with its sha1, once for this base: ")
    assert look(path, cache) == []
    assert look(path, cache, index=2) != [], "another image was not looked at"
    copy = Path(shutil.copy(path, tmp_path / "copy.wim"))
    assert look(copy, cache) != [], "another copy may be damaged"


def test_damage_is_named_and_not_remembered_as_whole(tmp_path: Path, cache: Cache) -> None:
    path = base(tmp_path)
    flip(path, "Windows/large-3.bin")
    for _ in range(2):
        with pytest.raises(ImageError, match=r"base\.wim is damaged: Windows/large-3\.bin is not as the WIM's sha1"):
            look(path, cache)
    for name in LARGE:
        if "3" not in name:
            flip(path, name)
    with pytest.raises(ImageError, match=r"large-4\.bin and 2 more are not as") as caught:
        look(path, cache)
    assert "Get it anew" in caught.value.hint


def test_damage_in_the_image_that_is_not_taken_does_not_matter(tmp_path: Path, cache: Cache) -> None:
    path = base(tmp_path)
    flip(path, "Windows/other.bin", index=2)
    assert look(path, cache) != []
    with pytest.raises(ImageError, match=r"Windows/other\.bin is not"):
        look(path, cache, index=2)


def test_a_copy_that_came_later_is_looked_at(tmp_path: Path, cache: Cache) -> None:
    """The first copy was whole; the second, at the same place, is not, and its tables are the same."""
    path = base(tmp_path)
    assert look(path, cache) != []
    again = Path(shutil.copy(path, tmp_path / "again.wim"))
    flip(again, "Windows/large-0.bin")
    again.replace(path)
    with pytest.raises(ImageError, match=r"Windows/large-0\.bin"):
        look(path, cache)
