"""FAT volumes: read back by our own reader here, by fsck.vfat and mtools in tests/integration/test_media_fat.py."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.errors import ImageError, OutputError
from builder.media.fat import FatFile, FatTable, fat_image
from builder.media.fat_names import short_names
from builder.media.fat_reader import read_fat
from builder.media.fat_structures import (
    Attribute,
    Bpb,
    DirectoryEntry,
    FatKind,
    FsInfo,
    fat_date_time,
    long_name_entries,
    short_name_checksum,
)

EPOCH = 1721365740
ESP = (
    FatFile(path="EFI/BOOT/BOOTX64.EFI", data=b"MZ" + bytes(5000)),
    FatFile(path="EFI/BOOT/grubx64.efi", data=b"MZgrub" * 900),
    FatFile(path="boot/grub/grub.cfg", data=b"set timeout=3\n"),
    FatFile(path="empty", data=b""),
)


def make(files: tuple[FatFile, ...] = ESP, **other: Any) -> bytes:
    return fat_image(files, **{"label": "BLUELIFT", "serial": 0xC5291291, "epoch": EPOCH, **other})


def contents(image: bytes) -> dict[str, bytes]:
    return {file.path: file.data for file in read_fat(image).files}


@pytest.mark.parametrize("kind", list(FatKind))
def test_every_kind_is_read_back(kind: FatKind) -> None:
    image = make(kind=kind)
    volume = read_fat(image)
    assert volume.kind is kind
    assert (volume.label, volume.serial) == ("BLUELIFT", 0xC5291291)
    assert contents(image) == {file.path: file.data for file in ESP}
    assert make(kind=kind) == image


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (1474560, FatKind.FAT12),
        (8400 * 512, FatKind.FAT12),
        (8401 * 512, FatKind.FAT16),
        (32 << 20, FatKind.FAT16),
    ],
)
def test_the_size_decides_the_kind(size: int, kind: FatKind) -> None:
    image = make(size=size)
    assert len(image) == size
    assert read_fat(image).kind is kind


def test_the_smallest_size_has_room_for_the_files_and_little_more() -> None:
    image = make((FatFile(path="a.bin", data=bytes(3_000_000)),))
    assert 3_000_000 < len(image) < 3_040_000
    assert len(image) % 2048 == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is empty"),
        ("/EFI", "is empty"),
        ("EFI//BOOT", "is empty"),
        ("..", "ends in a dot"),
        ("EFI/../x", "ends in a dot"),
        ("name.", "ends in a dot or a space"),
        ("name ", "ends in a dot or a space"),
        ("a:b", "holds ':'"),
        ("what?", r"holds '\?'"),
        ("new\nline", r"holds '\\n'"),
        ("back\\slash", "holds"),
        ("\ud800", "not valid Unicode"),
        ("x" * 256, "more than 255"),
        ("/".join("x" * 100 for _ in range(3)), "FAT allows 259"),
    ],
)
def test_names_that_fat_cannot_hold(path: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        make((FatFile(path=path, data=b""),))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("a", "a"), "given twice"),
        (("readme", "README"), "differ only in case"),
        (("dir/x", "DIR/y"), "differ only in case"),
        (("a", "a/b"), "both a file and a folder"),
    ],
)
def test_names_that_exclude_each_other(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        make(tuple(FatFile(path=path, data=b"") for path in paths))


@pytest.mark.parametrize("label", ["", " ", "TWELVE CHARS", "a.b", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "x\n"])
def test_bad_labels(label: str) -> None:
    with pytest.raises(OutputError, match="cannot be the label"):
        make(label=label)


def test_a_label_is_written_in_capitals() -> None:
    assert read_fat(make(label="My Stick")).label == "MY STICK"


@pytest.mark.parametrize("size", [0, -512, 1000, 1 << 50])
def test_sizes_that_are_none(size: int) -> None:
    with pytest.raises(OutputError, match="a multiple of 512"):
        make(size=size)


def test_a_volume_too_small_says_what_is_needed() -> None:
    big = (FatFile(path="big", data=bytes(200_000)),)
    smallest = len(make(big))
    with pytest.raises(OutputError, match=f"at least {smallest} bytes; 100352 were asked for"):
        make(big, size=100352)
    assert contents(make(big, size=smallest))["big"] == bytes(200_000)


@pytest.mark.parametrize(
    ("kind", "size"), [(FatKind.FAT32, 32 << 20), (FatKind.FAT16, 1 << 20), (FatKind.FAT12, 1 << 30)]
)
def test_a_kind_that_the_size_excludes(kind: FatKind, size: int) -> None:
    with pytest.raises(OutputError, match=f"cannot be a FAT{kind:d} volume"):
        make(kind=kind, size=size)


def test_a_file_of_4_gib_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(OutputError, match="4 GiB"):
        make((FatFile(path="install.wim", data=Huge()),))
    with pytest.raises(ValueError, match="at most 4294967295"):
        DirectoryEntry(name=bytes(11), attributes=Attribute.ARCHIVE, first_cluster=2, size=1 << 32).pack()


def test_a_root_folder_with_more_than_512_entries() -> None:
    files = tuple(FatFile(path=f"a long name number {i}.dat", data=b"x") for i in range(300))
    image = make(files)
    assert Bpb.unpack(image).root_entries > 512
    assert len(contents(image)) == 300


def test_short_names() -> None:
    given_names = [
        "BOOTX64.EFI",
        "grubx64.efi",
        "a+b.c",
        "LONGFILENAME.TXT",
        "LONGFI~1.TXT",
        ".hidden",
        "x.tar.gz",
        "NO EXT",
    ]
    chosen = short_names(dict.fromkeys(given_names))
    assert chosen["BOOTX64.EFI"] == b"BOOTX64 EFI"
    assert chosen["LONGFI~1.TXT"] == b"LONGFI~1TXT"
    assert chosen["LONGFILENAME.TXT"] == b"LONGFI~2TXT"
    assert chosen["grubx64.efi"] == b"GRUBX6~1EFI"
    assert chosen[".hidden"] == b"HIDDEN~1   "
    assert chosen["x.tar.gz"] == b"XTAR~1  GZ "
    assert chosen["a+b.c"] == b"A_B~1   C  "
    assert chosen["NO EXT"] == b"NOEXT~1    "
    assert len(set(chosen.values())) == len(given_names)


def test_structures_as_the_specification_shows_them() -> None:
    # The worked example of "FAT Long Directory Entries": "The quick brown.fox" = THEQUI~1.FOX.
    checksum = short_name_checksum(b"THEQUI~1FOX")
    entries = long_name_entries("The quick brown.fox", checksum)
    assert len(entries) == 64
    assert entries[0] == 0x42 and entries[32] == 0x01
    assert entries[11] == 0x0F and entries[13] == checksum == entries[45]
    assert entries[33:43] == "The q".encode("utf-16-le")
    assert entries[1:11] == "wn.fo".encode("utf-16-le")
    assert entries[14:26] == "x\0".encode("utf-16-le") + b"\xff" * 8
    info = FsInfo(free_count=7, next_free=3).pack()
    assert (info[:4], info[484:488], info[508:]) == (b"RRaA", b"rrAa", b"\x00\x00\x55\xaa")
    assert struct.unpack_from("<II", info, 488) == (7, 3)


def test_dates() -> None:
    assert fat_date_time(EPOCH) == ((2024 - 1980) << 9 | 7 << 5 | 19, 5 << 11 | 9 << 5)
    assert fat_date_time(0) == (1 << 5 | 1, 0)
    assert fat_date_time(1 << 40) == (127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29)


def test_a_chain_never_takes_a_cluster_twice() -> None:
    table = FatTable(FatKind.FAT16, 5000)
    table.chain(10, 5)
    with pytest.raises(ValueError, match="in use"):
        table.chain(14, 1)
    with pytest.raises(ValueError, match="of 5000"):
        table.chain(5000, 3)
    table.chain(5001, 1)
    assert table.free == 5000 - 6


SMALL = make()


# --- the reader -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.lists(
            st.text(
                st.characters(
                    codec="utf-8", exclude_characters='"*/:<>?\\|', categories=("L", "N", "P", "S", "Z", "M")
                ),
                min_size=1,
                max_size=40,
            )
            .map(lambda name: name.rstrip(". ").strip())
            .filter(bool),
            min_size=1,
            max_size=4,
        ).map("/".join),
        st.binary(max_size=3000),
        max_size=12,
    ),
    st.sampled_from([FatKind.FAT12, FatKind.FAT16]),
)
@example({"\N{GRINNING FACE}" * 127: b"x"}, FatKind.FAT12)
@example({"ffi \N{LATIN SMALL LIGATURE FFI}": b"", "x" * 13: b"1", "y" * 26: b"2"}, FatKind.FAT12)
def test_any_names_and_sizes_come_back(files: dict[str, bytes], kind: FatKind) -> None:
    try:
        image = make(tuple(FatFile(path=path, data=data) for path, data in files.items()), kind=kind)
    except OutputError as error:
        assert "differ only in case" in error.message or "both a file and a folder" in error.message
        return
    assert contents(image) == files


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40000), st.integers(0, 255)), min_size=1, max_size=40))
def test_a_damaged_volume_is_an_image_error_or_readable(changes: list[tuple[int, int]]) -> None:
    image = bytearray(SMALL)
    for at, value in changes:
        image[at % len(image)] = value
    try:
        volume = read_fat(bytes(image))
    except ImageError:
        return
    assert sum(len(file.data) for file in volume.files) <= len(image)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000) | st.integers(0, len(SMALL) - 1).map(lambda n: SMALL[:n]))
def test_garbage_and_cut_off_volumes(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_fat(data)


def test_a_chain_in_a_circle_is_an_image_error() -> None:
    image = bytearray(make((FatFile(path="BIG", data=bytes(4096)),), kind=FatKind.FAT16))
    struct.pack_into("<H", image, 512 + 2 * 2, 2)
    with pytest.raises(ImageError, match="circle"):
        read_fat(bytes(image))
