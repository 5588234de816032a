"""Channel files' names and headers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.channel_file import (
    ChannelFileError,
    ChannelFileName,
    channel_file_bytes,
    parse_header,
    parse_name,
)


def test_names_round_trip_without_regard_to_case() -> None:
    name = parse_name("c-00000291-00000000-00000032.SYS")
    assert name == ChannelFileName(channel=291, second=0, version=32)
    assert str(name) == "C-00000291-00000000-00000032.sys"


@pytest.mark.parametrize(
    "name",
    ["", "CSAgent.sys", "C-291-0-32.sys", "C-00000291-00000000-00000032.sys ", "C-00000291-00000000-0000003x.sys",
     "C-٠٠٠٠٠٢٩١-00000000-00000032.sys", "C-00000291-00000000-00000032.sys\n"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ChannelFileError, match="is not a channel file's name"):
        parse_name(name)


def test_the_vendors_own_first_eight_bytes() -> None:
    data = channel_file_bytes(291, 32, 4000)
    assert data[:8] == bytes.fromhex("AAAAAAAA01002301")
    assert len(data) == 4000
    header = parse_header(data)
    assert (header.channel, header.second, header.version) == (291, 0, 32)


def test_made_files_differ_and_repeat() -> None:
    assert channel_file_bytes(291, 1, 9000) == channel_file_bytes(291, 1, 9000)
    assert len({channel_file_bytes(c, v, 9000)[20:] for c in (290, 291) for v in range(5)}) == 10
    assert len(channel_file_bytes(291, 1, 20)) == 20


@pytest.mark.parametrize(("channel", "version", "size"), [(291, 1, 19), (-1, 1, 20), (65536, 1, 20), (1, 1 << 32, 20)])
def test_impossible_files_are_refused(channel: int, version: int, size: int) -> None:
    with pytest.raises(ValueError, match="no channel file has"):
        channel_file_bytes(channel, version, size)


def test_bad_headers_say_what_was_found() -> None:
    with pytest.raises(ChannelFileError, match="only 5 are there"):
        parse_header(b"\xaa" * 5)
    with pytest.raises(ChannelFileError, match="this one with 4D 5A 90 00"):
        parse_header(b"MZ\x90\0" + bytes(60))


@given(st.binary(max_size=40), st.text(max_size=40))
def test_nothing_but_its_own_error(data: bytes, name: str) -> None:
    with contextlib.suppress(ChannelFileError):
        parse_header(data)
    with contextlib.suppress(ChannelFileError):
        parse_name(name)


@given(st.integers(0, 65535), st.integers(0, 99_999_999), st.integers(20, 5000))
def test_headers_round_trip(channel: int, version: int, size: int) -> None:
    header = parse_header(channel_file_bytes(channel, version, size))
    assert (header.channel, header.version) == (channel, version)
