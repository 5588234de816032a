"""A WIM put together from its base and new parts: what stays, what goes, what other programs' tables may say."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BaseMediaError, ImageError
from builder.extents import Extents, whole_file
from builder.wim import open_wim
from builder.wim_build import Put, WimChanges, WimOrder, build_wim, change_wim, pack
from builder.wim_format import HEADER_SIZE, Compression
from builder.wim_splice import _with_total, splice, write_skeleton
from tests.unit.wim_maker import PE_FILES, SETUP_FILES, libwim_wim, need_libwim, plain_wim

EPOCH = 1751328000
NOISE = random.Random(291).randbytes(400_000)
SHARED, FIRST, SECOND = NOISE[:100_000], NOISE[100_000:200_000], NOISE[200_000:]
LARGE = (Put(target="Bluelift/payload/a.dll", source=NOISE[::-1]), Put(target="Bluelift/b.bin", source=b"b" * 90_000))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    first = {**PE_FILES, "shared.bin": SHARED, "first.bin": FIRST}
    second = {**PE_FILES, **SETUP_FILES, "shared.bin": SHARED, "second.bin": SECOND}
    return libwim_wim(tmp_path / "base.wim", [first, second, {"third.txt": b"3"}], boot_index=2, integrity=True)


def order(path: Path, index: int = 2, text: bytes = b"text", **other: object) -> WimOrder:
    changes = WimChanges(puts=(*LARGE, Put(target="Windows/System32/startnet.cmd", source=text)))
    standard = WimOrder(source=whole_file(path), index=index, changes=changes, epoch=EPOCH, guid=bytes(range(16)))
    return replace(standard, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(("index", "own", "gone"), [(1, FIRST, SECOND), (2, SECOND, FIRST)])
def test_what_stays_and_what_goes(tmp_path: Path, base: Path, index: int, own: bytes, gone: bytes) -> None:
    build_wim(order(base, index), tmp_path / "out.wim")
    raw, wim = (tmp_path / "out.wim").read_bytes(), open_wim(tmp_path / "out.wim")
    # Noise does not compress, so libwim keeps it as it is.
    assert own in raw and SHARED in raw and gone not in raw
    assert wim.damaged() == () and wim.read(1, "Bluelift/payload/a.dll") == NOISE[::-1]
    # Nothing but what the tables name, without a gap.
    resources = [wim.metadata_resource(1), wim.header.lookup_table, wim.header.xml, *wim._tables[1].values()]
    places = sorted((resource.offset, resource.stored) for resource in resources)
    assert places[0][0] == HEADER_SIZE and sum(places[-1]) == len(raw)
    assert all(sum(one) == other[0] for one, other in itertools.pairwise(places))
    assert wim.header.integrity.size == 0
    xml = wim.source.read(wim.header.xml.offset, wim.header.xml.stored).decode("utf-16-le")
    assert int(re.findall(r"</IMAGE><TOTALBYTES>(\d+)<", xml)[0]) == wim.header.xml.offset


def test_only_what_is_new_is_written(tmp_path: Path, base: Path) -> None:
    changed = change_wim(order(base), tmp_path / "new")
    kept = sum(length for _, length in changed.spliced.kept)
    assert kept > len(SHARED + SECOND)
    joined = changed.spliced.joined(whole_file(base), name="boot.wim")
    assert joined.size == kept + (tmp_path / "new").stat().st_size
    build_wim(order(base), tmp_path / "out.wim")
    joined.copy_to(tmp_path / "again.wim")
    assert (tmp_path / "again.wim").read_bytes() == (tmp_path / "out.wim").read_bytes()
    # The same, where the base is not a file of its own and does not lie in one piece.
    content = base.read_bytes()
    (tmp_path / "iso").write_bytes(b"x" * 77 + content[70_000:] + b"y" * 9 + content[:70_000])
    pieces = ((77 + len(content) - 70_000 + 9, 70_000), (77, len(content) - 70_000))
    inside = Extents(path=tmp_path / "iso", pieces=pieces, name="boot.wim in iso")
    changed.spliced.joined(inside, name="boot.wim").copy_to(tmp_path / "third.wim")
    assert (tmp_path / "third.wim").read_bytes() == (tmp_path / "out.wim").read_bytes()


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.XPRESS, Compression.LZX])
def test_what_was_packed_before_gives_the_same_bytes_as_what_is_packed_now(
    tmp_path: Path, compression: Compression
) -> None:
    files = {**PE_FILES, "noise.bin": SHARED}
    base = libwim_wim(tmp_path / "base.wim", [files], compression=compression)
    (tmp_path / "now").mkdir()
    for place in ("before.wim", "now/packed.wim"):
        pack(LARGE, tmp_path / place, compression=compression, epoch=EPOCH)
        time.sleep(1.1)
    # Another text first, as a rebuild finds it.
    build_wim(order(base, 1, b"other", packed=tmp_path / "before.wim"), tmp_path / "other.wim")
    build_wim(order(base, 1, packed=tmp_path / "before.wim"), tmp_path / "again.wim")
    build_wim(order(base, 1, packed=tmp_path / "now" / "packed.wim", threads=1), tmp_path / "full.wim")
    assert (tmp_path / "again.wim").read_bytes() == (tmp_path / "full.wim").read_bytes()
    assert (tmp_path / "again.wim").read_bytes() != (tmp_path / "other.wim").read_bytes()
    # And the same contents as without.
    build_wim(order(base, 1), tmp_path / "plain.wim")
    packed, plain = open_wim(tmp_path / "again.wim"), open_wim(tmp_path / "plain.wim")
    assert packed.damaged() == () and packed.info.compression is compression
    assert {e.path: e.sha1 for e in packed.walk(1)} == {e.path: e.sha1 for e in plain.walk(1)}
    assert (tmp_path / "again.wim").stat().st_size == (tmp_path / "plain.wim").stat().st_size


def test_a_base_that_says_it_is_only_to_be_read(tmp_path: Path, base: Path) -> None:
    raw = bytearray(base.read_bytes())
    raw[16] |= 4
    base.write_bytes(raw)
    build_wim(order(base), tmp_path / "out.wim")
    assert open_wim(tmp_path / "out.wim").damaged() == ()


def test_a_base_that_ends_between_looking_and_writing(tmp_path: Path, base: Path) -> None:
    source = whole_file(base)
    changed = change_wim(order(base), tmp_path / "new")
    with base.open("r+b") as stream:
        stream.truncate(150_000)
    with pytest.raises(BaseMediaError, match="cut off"):
        changed.spliced.joined(source, name="boot.wim").copy_to(tmp_path / "out.wim")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<WIM><TOTALBYTES>7</TOTALBYTES><IMAGE><TOTALBYTES>8</TOTALBYTES></IMAGE></WIM>", ["99", "8"]),
        ("<WIM>\n<IMAGE><TOTALBYTES>8</TOTALBYTES></IMAGE>\n<TOTALBYTES>7</TOTALBYTES></WIM>", ["8", "99"]),
        ("<WIM><IMAGE><TOTALBYTES>8</TOTALBYTES></IMAGE></WIM>", ["8"]),
    ],
)
def test_the_size_of_all_is_told_apart_from_an_images(before: str, after: list[str]) -> None:
    xml = _with_total(("\ufeff" + before).encode("utf-16-le"), 99).decode("utf-16-le")
    assert re.findall(r"<TOTALBYTES>(\d+)", xml) == after and xml.startswith("\ufeff<WIM>")


def test_a_skeleton_takes_no_room(tmp_path: Path) -> None:
    need_libwim()
    base = libwim_wim(tmp_path / "base.wim", [{"large.bin": NOISE * 20}])
    write_skeleton(open_wim(base), tmp_path / "skeleton.wim")
    assert (tmp_path / "skeleton.wim").stat().st_size == base.stat().st_size
    assert (tmp_path / "skeleton.wim").stat().st_blocks * 512 < 100_000


def test_resources_that_overlap(tmp_path: Path) -> None:
    raw = bytearray(plain_wim([("a", b"1" * 100), ("b", b"2" * 100)]))
    table = open_wim_table(bytes(raw))
    struct.pack_into("<Q", raw, table + 50 + 8, struct.unpack_from("<Q", raw, table + 8)[0] + 1)
    (tmp_path / "a.wim").write_bytes(raw)
    with pytest.raises(ImageError, match="two resources at byte"):
        splice(tmp_path / "a.wim", len(raw), tmp_path / "new")


def open_wim_table(raw: bytes) -> int:
    """Where the lookup table of an uncompressed WIM lies."""
    return int.from_bytes(raw[56:64], "little")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=6), st.integers(0, 2000))
def test_garbage_is_an_image_error(tmp_path: Path, changes: list[tuple[int, int]], base_size: int) -> None:
    raw = bytearray(plain_wim([("a", b"1" * 100), ("folder/b", b"2" * 100)]))
    for at, value in changes:
        raw[at % len(raw)] = value
    (tmp_path / "a.wim").write_bytes(raw)
    with contextlib.suppress(ImageError, BaseMediaError):
        splice(tmp_path / "a.wim", base_size, tmp_path / "new")
