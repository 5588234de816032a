"""Logs of writes in dm-log-writes' format, as QEMU's blklogwrites keeps them; the real thing is in tests/boot."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import VerifyFailed
from builder.verify.replay import changing, kinds_of_damage, sample, write_all
from builder.verify.write_log import SECTOR, Write, read_write_log

FLUSH, DISCARD, MARK = 1, 4, 8


def log_of(*entries: tuple[int, int, bytes], count: int | None = None) -> bytes:
    """(sector, flags, data) of each entry."""
    head = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries) if count is None else count, SECTOR)
    parts = [head.ljust(SECTOR, b"\0")]
    for sector, flags, data in entries:
        sectors = 0 if flags & MARK else len(data) // SECTOR
        length = len(data) if flags & MARK else 0
        parts.append(struct.pack("<QQQQ", sector, sectors, flags, length).ljust(SECTOR, b"\0"))
        parts.append(b"" if flags & DISCARD else data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0"))
    return b"".join(parts)


def test_writes_in_their_order() -> None:
    log = log_of((8, 0, b"a" * 1024), (0, FLUSH, b""), (2, DISCARD, bytes(512)), (0, MARK, b"here"), (1, 0, b"b" * 512))
    assert list(read_write_log(io.BytesIO(log))) == [
        Write(offset=4096, data=b"a" * 1024),
        Write(offset=512, data=b"b" * 512),
    ]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"", "is empty"),
        (bytes(512), "not a log of writes"),
        (log_of(count=1), "ends before entry 0 of 1"),
        (log_of((0, 0, b"a" * 512))[:-1], "ends in entry 0 of 1"),
    ],
)
def test_what_is_no_log(log: bytes, message: str) -> None:
    with pytest.raises(VerifyFailed, match=message):
        list(read_write_log(io.BytesIO(log)))


@given(st.binary(max_size=300), st.integers(0, 3))
def test_noise_raises_nothing_else(noise: bytes, entries: int) -> None:
    with contextlib.suppress(VerifyFailed):
        list(read_write_log(io.BytesIO(log_of(count=entries) + noise)))


def test_the_states_between_writes(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(4096))
    writes = [
        Write(offset=512, data=b"a" * 1024),
        Write(offset=512, data=b"a" * 512),  # changes nothing
        Write(offset=1024, data=b"b" * 512),
    ]
    assert changing(volume, writes) == [0, 1, 3]
    assert volume.read_bytes() == bytes(4096)
    write_all(volume, writes)
    assert volume.read_bytes() == bytes(512) + b"a" * 512 + b"b" * 512 + bytes(2560)


@pytest.mark.programs
def test_moments_of_which_the_judge_says_the_same_are_one_kind(tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("import sys; at = open(sys.argv[-1], 'rb').read(); sys.exit(at and f'inode {len(at)}: {at[-1:]}')")
    volume = tmp_path / "volume"
    volume.write_bytes(b"")
    writes = [Write(offset=at, data=data) for at, data in enumerate((b"a", b"b", b"a", b"b", b"c"))]
    command = (sys.executable, str(judge))
    assert kinds_of_damage(volume, writes, [0, 1, 2, 4, 5], ntfsck=command) == [[0], [1], [2, 4], [5]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 99), st.integers())
def test_a_sample_has_every_kind(sizes: list[int], count: int, seed: int) -> None:
    numbers = iter(range(sum(sizes)))
    kinds = [[next(numbers) for _ in range(size)] for size in sizes]
    chosen = sample(kinds, count, random.Random(seed))
    assert chosen == sorted(set(chosen))
    assert all(set(kind) & set(chosen) for kind in kinds)
    assert len(chosen) == min(sum(sizes), max(count, len(kinds)))
