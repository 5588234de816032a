"""Writing one bootable image: what changes, what does not, the same bytes every time, and what is refused."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builder import wim_library
from builder.errors import BaseMediaError, ImageError, OutputError, ToolMissing
from builder.extents import Extents, whole_file
from builder.wim import open_wim
from builder.wim_build import Put, Rename, WimChanges, WimOrder, build_wim, read_back
from builder.wim_format import Compression
from builder.wim_library import WimStruct
from tests.unit.test_wim import LARGE, SAMPLES
from tests.unit.wim_maker import PE_FILES, SETUP_FILES, libwim_wim, need_libwim, plain_wim

EPOCH = 1751328000
GUID = bytes(range(16))
CHANGES = WimChanges(
    puts=(
        Put(target="windows/SYSTEM32/Startnet.cmd", source=b"@echo new\r\n"),
        Put(target="Bluelift/payload.exe", source=b"MZ payload"),
    ),
    deletions=("Windows/System32/winpeshl.ini", "Windows/System32/not-there.ini"),
    renames=(Rename(path="setup.exe", target="setup.exe.not-started"),),
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    files = {**PE_FILES, **LARGE, "Windows/System32/winpeshl.ini": b"[LaunchApp]\r\n"}
    return libwim_wim(tmp_path / "base.wim", [files, {**files, **SETUP_FILES}], boot_index=1)


def order(path: Path, **other: object) -> WimOrder:
    standard = WimOrder(source=whole_file(path), index=2, changes=CHANGES, epoch=EPOCH, guid=GUID)
    return replace(standard, **other)  # type: ignore[arg-type]


def test_one_bootable_image_with_the_changes(tmp_path: Path, base: Path) -> None:
    before = base.read_bytes()
    told: list[tuple[int, int]] = []
    written = build_wim(order(base), tmp_path / "boot.wim", progress=lambda done, total: told.append((done, total)))
    wim = open_wim(tmp_path / "boot.wim")
    assert (wim.header.image_count, wim.header.boot_index, wim.header.guid) == (1, 1, GUID)
    assert wim.info.compression is Compression.LZX
    assert wim.image(1).name == "image 2"
    names = {entry.path: entry for entry in wim.walk(1) if not entry.is_folder}
    startnet = [name for name in names if name.lower().endswith("startnet.cmd")]
    assert len(startnet) == 1 and wim.read(1, startnet[0]) == b"@echo new\r\n"
    assert wim.read(1, "Bluelift/payload.exe") == b"MZ payload"
    assert wim.find(1, "Windows/System32/winpeshl.ini") is None
    assert wim.find(1, "setup.exe") is None and wim.read(1, "setup.exe.not-started") == b"MZ setup"
    for name, content in LARGE.items():
        assert wim.read(1, name) == content
    assert wim.damaged() == ()
    assert dict(written.injected)["Bluelift/payload.exe"] == hashlib.sha256(b"MZ payload").hexdigest()
    assert told and told[-1][0] == told[-1][1] > 0
    assert base.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["base.wim", "boot.wim"]


def test_from_inside_an_iso(tmp_path: Path, base: Path) -> None:
    inside = tmp_path / "outer.iso"
    inside.write_bytes(bytes(2048) + base.read_bytes() + bytes(100))
    source = Extents(path=inside, pieces=((2048, base.stat().st_size),), name="boot.wim in outer.iso")
    build_wim(order(base), tmp_path / "a.wim")
    build_wim(order(base, source=source), tmp_path / "b.wim")
    assert (tmp_path / "a.wim").read_bytes() == (tmp_path / "b.wim").read_bytes()


def test_the_same_order_gives_the_same_bytes(tmp_path: Path, base: Path) -> None:
    payload = tmp_path / "payload"
    (payload / "sub").mkdir(parents=True)
    (payload / "sub" / "a.dll").write_bytes(b"a" * 70_000)
    (payload / "b.exe").write_bytes(b"b")
    changes = replace(CHANGES, puts=(*CHANGES.puts, Put(target="Bluelift", source=payload)))
    build_wim(order(base, changes=changes, threads=1), tmp_path / "1.wim")
    for path in payload.rglob("*"):
        os.utime(path, (1, 1))
    time.sleep(1.1)
    build_wim(order(base, changes=changes, threads=4), tmp_path / "2.wim")
    assert (tmp_path / "1.wim").read_bytes() == (tmp_path / "2.wim").read_bytes()
    build_wim(order(base, changes=changes, epoch=EPOCH + 1), tmp_path / "3.wim")
    assert (tmp_path / "1.wim").read_bytes() != (tmp_path / "3.wim").read_bytes()
    assert open_wim(tmp_path / "1.wim").read(1, "Bluelift/sub/a.dll") == b"a" * 70_000


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.XPRESS, Compression.LZX])
def test_compression_stays_and_sums_that_no_longer_hold_do_not(tmp_path: Path, compression: Compression) -> None:
    base = libwim_wim(tmp_path / "base.wim", [PE_FILES | LARGE], compression=compression, integrity=True)
    build_wim(order(base, index=1, changes=WimChanges()), tmp_path / "out.wim")
    wim = open_wim(tmp_path / "out.wim")
    assert (wim.info.compression, wim.info.integrity, wim.info.boot_index) == (compression, False, 1)
    assert wim.damaged() == ()


@pytest.mark.parametrize("path", ["..", "../x", "Windows/../../x", "", "/", ".", "a/./b"])
def test_a_path_that_leaves_the_image(tmp_path: Path, base: Path, path: str) -> None:
    for changes in (
        WimChanges(puts=(Put(target=path, source=b"x"),)),
        WimChanges(deletions=(path,)),
        WimChanges(renames=(Rename(path="setup.exe", target=path),)),
    ):
        with pytest.raises(BaseMediaError, match=r"is not a path within an image"):
            build_wim(order(base, changes=changes), tmp_path / "out.wim")
    assert not (tmp_path / "out.wim").exists()


def test_what_cannot_be_put_in(tmp_path: Path, base: Path) -> None:
    changes = WimChanges(puts=(Put(target="a", source=tmp_path / "gone"),))
    with pytest.raises(BaseMediaError, match=r"cannot read .*gone: No such file"):
        build_wim(order(base, changes=changes), tmp_path / "out.wim")


def test_libwims_own_words(tmp_path: Path, base: Path) -> None:
    changes = WimChanges(renames=(Rename(path="not-there", target="other"),))
    with pytest.raises(ImageError, match=r"libwim cannot change .*: The path does not exist in the WIM image"):
        build_wim(order(base, changes=changes), tmp_path / "out.wim")


@pytest.mark.parametrize("sample", ["cyclic.wim", "dotdot.wim", "corrupted_file_1.wim"])
def test_hostile_samples_of_others_leave_nothing(tmp_path: Path, sample: str) -> None:
    if not (SAMPLES / sample).is_file():
        pytest.skip("the test data of others are not here")
    need_libwim()
    # What is damaged in the contents alone shows when the new WIM is read back.
    with pytest.raises((ImageError, OutputError)):
        build_wim(order(SAMPLES / sample, index=1, changes=WimChanges()), tmp_path / "out.wim")
    assert list(tmp_path.iterdir()) == []


def test_a_solid_one(tmp_path: Path) -> None:
    base = libwim_wim(tmp_path / "base.esd", [PE_FILES], compression=Compression.LZMS)
    with pytest.raises(ImageError, match=r"boot loaders cannot read"):
        build_wim(order(base, index=1, changes=WimChanges()), tmp_path / "out.wim")


def test_a_source_that_shrinks(tmp_path: Path, base: Path) -> None:
    outer = tmp_path / "outer.iso"
    outer.write_bytes(bytes(2048) + base.read_bytes())
    source = Extents(path=outer, pieces=((2048, base.stat().st_size),), name="boot.wim in outer.iso")
    os.truncate(outer, outer.stat().st_size - 1)
    with pytest.raises(BaseMediaError, match=r"boot.wim in outer.iso is cut off"):
        build_wim(order(base, source=source), tmp_path / "out.wim")


def test_a_full_disk(tmp_path: Path, base: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*: File too large"):
            build_wim(order(base), tmp_path / "out.wim")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["base.wim"]


def test_what_progress_raises_ends_the_work(tmp_path: Path, base: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_wim(order(base), tmp_path / "out.wim", progress=stop)
    assert not (tmp_path / "out.wim").exists()


def test_reading_back_notices(tmp_path: Path, base: Path) -> None:
    built = tmp_path / "out.wim"
    build_wim(order(base), built)
    with pytest.raises(OutputError, match=r"'Bluelift/payload.exe' in out.wim is not what was put in"):
        read_back(built, [("Bluelift/payload.exe", "00")])
    with pytest.raises(OutputError, match=r"has no file Bluelift/other"):
        read_back(built, [("Bluelift/other", "00")])
    with pytest.raises(OutputError, match=r"'Bluelift' is still in out.wim"):
        read_back(built, [], ["Bluelift"])
    with pytest.raises(OutputError, match=r"has 2 images and boots number 1"):
        read_back(base, [])
    unbootable = tmp_path / "plain.wim"
    unbootable.write_bytes(plain_wim([("a", b"1")], boot_index=0))
    with pytest.raises(OutputError, match=r"has 1 images and boots number 0"):
        read_back(unbootable, [])
    unbootable.write_bytes(b"nothing")
    with pytest.raises(OutputError, match=r"cannot be read back: .* is not a WIM"):
        read_back(unbootable, [])


def test_without_libwim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wim_library, "_LIBRARIES", ("libnot-there.so.15",))
    wim_library.library.cache_clear()
    try:
        with pytest.raises(ToolMissing, match=r"libnot-there.so.15 was not found; it is needed to") as caught:
            WimStruct(tmp_path / "a", name="a")
        assert "libwim15t64" in caught.value.hint
    finally:
        wim_library.library.cache_clear()


def test_version() -> None:
    need_libwim()
    major, minor, patch = (int(part) for part in wim_library.version().split("."))
    assert (major, minor) >= (1, 12) and patch >= 0
