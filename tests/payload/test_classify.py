"""What a file is: its class by start, header, name, size, digest and time, and the reason in words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.classify import FileContent, classify, read_content
from payload.contract import FileClass, HeaderField, Rule, TimeWindow
from payload.environment.posix_files import PosixVolumeFiles
from payload.formats.channel_file import channel_file_bytes
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291, utc_ns_text
from tests.payload.broken_windows import AFTER, BEFORE, DURING

RULE = CROWDSTRIKE_CHANNEL_291
NAME = "C-00000291-00000000-00000032.sys"
GOOD = channel_file_bytes(291, 32, 400)


def content(data: bytes, head: int = 20) -> FileContent:
    return FileContent(
        size=len(data), head=data[:head], all_zero=not any(data), sha256=hashlib.sha256(data).hexdigest()
    )


@pytest.mark.parametrize(
    ("name", "data", "modified", "wanted"),
    [
        (NAME, GOOD, BEFORE, FileClass.OLDER),
        (NAME, GOOD, DURING - 1, FileClass.OLDER),
        (NAME, GOOD, DURING, FileClass.FAULTY),
        (NAME, GOOD, AFTER - 1, FileClass.FAULTY),
        (NAME, GOOD, AFTER, FileClass.CORRECTED),
        (NAME.lower(), GOOD, DURING, FileClass.FAULTY),
        (NAME, bytes(400), DURING, FileClass.ZERO_FILLED),
        (NAME, bytes(3), DURING, FileClass.ZERO_FILLED),
        (NAME, bytes(400), AFTER, FileClass.ZERO_FILLED),
        (NAME, b"", DURING, FileClass.TRUNCATED),
        (NAME, b"\xaa\xaa", DURING, FileClass.TRUNCATED),
        (NAME, GOOD[:19], DURING, FileClass.TRUNCATED),
        (NAME, GOOD[:20], DURING, FileClass.FAULTY),
        (NAME, b"M", DURING, FileClass.FOREIGN),
        (NAME, b"MZ" + bytes(400), DURING, FileClass.FOREIGN),
        (NAME, b"\xaa\xaa\xaa\xab" + GOOD[4:], DURING, FileClass.FOREIGN),
        (NAME, bytes(4) + GOOD[4:], DURING, FileClass.FOREIGN),
        (NAME, channel_file_bytes(290, 32, 400), DURING, FileClass.NAME_MISMATCH),
        (NAME, channel_file_bytes(291, 33, 400), AFTER, FileClass.NAME_MISMATCH),
        ("C-00000291.sys", GOOD, DURING, FileClass.NAME_MISMATCH),
        ("C-00000291-00000000-0000003².sys", GOOD, DURING, FileClass.NAME_MISMATCH),
        (NAME, GOOD, -(10**30), FileClass.OLDER),
        (NAME, GOOD, 10**30, FileClass.CORRECTED),
    ],
)
def test_channel_file_291(name: str, data: bytes, modified: int, wanted: FileClass) -> None:
    found, reason = classify(RULE, name, content(data), modified)
    assert found is wanted
    assert reason


def test_the_reasons_say_what_was_found() -> None:
    assert (
        classify(RULE, NAME, content(b"MZ\x90\0" + bytes(99)), 0)[1] == "starts with 4D 5A 90 00, not with AA AA AA AA"
    )
    assert classify(RULE, NAME, content(channel_file_bytes(291, 33, 99)), 0)[1] == (
        "its header has version 33, not 00000032 as in its name"
    )
    assert classify(RULE, NAME, content(channel_file_bytes(7, 32, 99)), 0)[1] == "its header has channel 7, not 291"
    assert classify(RULE, NAME, content(GOOD), DURING)[1] == (
        "modified 2024-07-19T04:09:00Z, between 2024-07-19T04:09:00Z and 2024-07-19T05:27:00Z"
    )


SHA = hashlib.sha256(b"bad driver").hexdigest()


@pytest.mark.parametrize(
    ("rule", "name", "data", "wanted"),
    [
        (Rule(id="x", pattern="a\\bad.sys", sha256=(SHA,)), "bad.sys", b"bad driver", FileClass.FAULTY),
        (Rule(id="x", pattern="a\\bad.sys", sha256=(SHA,)), "bad.sys", b"good driver", FileClass.OTHER),
        # Nothing is known of how such a file starts: neither empty nor zeroed ones are called bad.
        (Rule(id="x", pattern="a\\bad.sys", sha256=(SHA,)), "bad.sys", b"", FileClass.OTHER),
        (Rule(id="x", pattern="a\\bad.sys", sha256=(SHA,)), "bad.sys", bytes(9), FileClass.OTHER),
        (Rule(id="x", pattern="a\\bad.sys", min_size=5, max_size=6), "bad.sys", b"1234", FileClass.OTHER),
        (Rule(id="x", pattern="a\\bad.sys", min_size=5, max_size=6), "bad.sys", b"12345", FileClass.FAULTY),
        (Rule(id="x", pattern="a\\bad.sys", min_size=5, max_size=6), "bad.sys", b"1234567", FileClass.OTHER),
        (Rule(id="x", pattern="a\\bad.sys"), "bad.sys", b"anything", FileClass.FAULTY),
        (Rule(id="x", pattern="a\\bad.sys", magic="4D5A", sha256=(SHA,)), "bad.sys", b"MZ", FileClass.OTHER),
        (Rule(id="x", pattern="a\\b*.sys", magic="4D5A"), "b1.sys", b"", FileClass.TRUNCATED),
        (
            Rule(
                id="x", pattern="a\\b*.bin", name_format=r"b(?P<n>\d+)?\.bin",
                header=(HeaderField(name="n", offset=0, size=1, in_name="n"),),
            ),
            "b.bin", b"\1", FileClass.NAME_MISMATCH,
        ),
        (
            Rule(
                id="x", pattern="a\\b*.bin", name_format=r"b(?P<n>.*)\.bin",
                header=(HeaderField(name="n", offset=0, size=8, in_name="n"),),
            ),
            "b1.bin", (1).to_bytes(8, "little"), FileClass.FAULTY,
        ),
        (
            Rule(
                id="x", pattern="a\\bad.sys", sha256=(SHA,),
                window=TimeWindow(faulty_from="1970-01-01T00:00:00Z", corrected_from="1970-01-02T00:00:00Z"),
            ),
            "bad.sys", b"bad driver", FileClass.FAULTY,
        ),
    ],
)  # fmt: skip
def test_other_rules(rule: Rule, name: str, data: bytes, wanted: FileClass) -> None:
    assert classify(rule, name, content(data, rule.header_length), 0)[0] is wanted


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.just(NAME), st.binary(max_size=40), st.integers())
def test_classifying_never_raises(name: str, data: bytes, modified: int) -> None:
    found, _ = classify(RULE, name, content(data), modified)
    assert isinstance(found, FileClass)


@settings(max_examples=200, deadline=None)
@given(
    st.from_regex(r"[Cc]-00000291[ -~]{0,20}\.[sS][yY][sS]", fullmatch=True),
    st.sampled_from([b"", b"\xaa", b"\xaa" * 4, GOOD]),
    st.binary(max_size=40),
    st.integers(0, 2**62),
)
def test_a_foreign_start_is_foreign_whatever_follows(name: str, start: bytes, rest: bytes, modified: int) -> None:
    data = start + rest
    found, _ = classify(RULE, name, content(data), modified)
    genuine = data[:4] == b"\xaa\xaa\xaa\xaa"[: len(data)]
    assert (found is FileClass.FOREIGN) == (not genuine and any(data))


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (DURING, "2024-07-19T04:09:00Z"),
        (DURING + 1_234_567, "2024-07-19T04:09:00.001234Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (10**30, ""),
    ],
)
def test_times_are_utc_with_z(moment: int, text: str) -> None:
    assert utc_ns_text(moment) == text


def test_reading_takes_bounded_memory(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(64 << 20)
    found = read_content(PosixVolumeFiles(tmp_path), ("big",), 20)
    assert (found.size, found.all_zero, found.head) == (64 << 20, True, bytes(20))
    with (tmp_path / "big").open("r+b") as stream:
        stream.seek(50 << 20)
        stream.write(b"x")
    assert not read_content(PosixVolumeFiles(tmp_path), ("big",), 20).all_zero
