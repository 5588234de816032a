"""Reading WIM files: by our own reader, from files and from inside others, and whatever else claims to be one."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BaseMediaError, BuilderError, ImageError
from builder.extents import Extents
from builder.wim import Wim, check_integrity, open_wim
from builder.wim_format import Compression, parse_xml
from builder.wim_library import Decompressor
from tests.unit.wim_maker import BITLOCKER_FILES, PE_FILES, libwim_wim, need_libwim, plain_wim

SAMPLES = Path(__file__).parents[3] / "shared" / "testdata" / "wim"
NOISE = random.Random(291)
#: More than one chunk, compressible and not.
LARGE = {"Windows/large.bin": b"abcdefgh" * 20_000, "Windows/noise.bin": NOISE.randbytes(100_000), "empty": b""}


def plain(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "plain.wim"
    path.write_bytes(data)
    return path


def test_an_uncompressed_one_needs_no_libwim(tmp_path: Path) -> None:
    files = [("Windows/System32/cmd.exe", b"MZ cmd"), ("readme.txt", b"hello"), ("Windows/empty", b"")]
    wim = open_wim(plain(tmp_path, plain_wim(files)))
    image = wim.info.images[0]
    assert (image.name, image.architecture, image.version) == ("plain", "x64", "10.0.17763.1")
    assert (image.build, image.language, image.languages, image.size) == (17763, "de-DE", ("de-DE",), 11)
    assert (wim.info.boot_index, wim.info.compression, wim.info.solid) == (1, Compression.NONE, False)
    assert {e.path: e.is_folder for e in wim.walk(1)} == {
        "Windows": True,
        "Windows/System32": True,
        "Windows/System32/cmd.exe": False,
        "Windows/empty": False,
        "readme.txt": False,
    }
    assert wim.read(1, "windows\\SYSTEM32\\Cmd.EXE") == b"MZ cmd"
    assert wim.read(1, "Windows/empty") == b""
    assert wim.damaged() == ()


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.XPRESS, Compression.LZX])
def test_what_libwim_wrote(tmp_path: Path, compression: Compression) -> None:
    files = {**PE_FILES, **LARGE}
    path = libwim_wim(
        tmp_path / "a.wim", [files, BITLOCKER_FILES], boot_index=2, compression=compression, integrity=True
    )
    wim = open_wim(path)
    assert (wim.info.compression, wim.info.boot_index, wim.info.integrity) == (compression, 2, True)
    assert check_integrity(wim)
    for name, content in files.items():
        assert wim.read(1, name) == content, name
        entry = wim.find(1, name)
        assert entry is not None and wim.size_of(entry) == len(content)
    assert {e.path for e in wim.walk(2) if not e.is_folder} == set(BITLOCKER_FILES)
    assert wim.damaged() == ()


def test_inside_another_file_in_two_pieces(tmp_path: Path) -> None:
    data = libwim_wim(tmp_path / "a.wim", [{**PE_FILES, **LARGE}]).read_bytes()
    middle = len(data) // 2 + 1
    outer = tmp_path / "outer"
    outer.write_bytes(b"x" * 77 + data[middle:] + b"y" * 5 + data[:middle])
    pieces = ((77 + len(data) - middle + 5, middle), (77, len(data) - middle))
    wim = open_wim(Extents(path=outer, pieces=pieces, name="inside"))
    assert wim.read(1, "Windows/noise.bin") == LARGE["Windows/noise.bin"]
    assert wim.damaged() == ()


def test_contains_ignores_case_and_separators(tmp_path: Path) -> None:
    wim = open_wim(plain(tmp_path, plain_wim([("Windows/System32/a.DLL", b"a"), ("top", b"t")])))
    asked = ["windows/system32/A.dll", "WINDOWS\\System32", "/TOP", "top/below", "nowhere/a", "Windows/System32/b"]
    assert list(wim.contains(1, asked).values()) == [True, True, True, False, False, False]
    assert wim.list_folder(1, "nowhere") == () and wim.list_folder(1, "top") == ()


def test_what_is_not_there(tmp_path: Path) -> None:
    wim = open_wim(plain(tmp_path, plain_wim([("a", b"a")])))
    with pytest.raises(BaseMediaError, match=r"image 1 of .* has no file b"):
        wim.read(1, "b")
    for index in (0, 2, -1):
        with pytest.raises(BaseMediaError, match=rf"has no image {index}; it has 1"):
            wim.image(index)
    with pytest.raises(BaseMediaError, match=r"No such file"):
        open_wim(tmp_path / "gone.wim")


@pytest.mark.parametrize("name", ["..", ".", "a\\b", "..\\..\\x", "nul\0x"])
def test_a_name_that_leaves_its_folder(tmp_path: Path, name: str) -> None:
    wim = open_wim(plain(tmp_path, plain_wim([("a", b"1"), (name, b"2")])))
    with pytest.raises(ImageError, match=r"would leave its folder"):
        wim.check(1)


def test_a_folder_that_contains_itself(tmp_path: Path) -> None:
    wim = open_wim(plain(tmp_path, plain_wim([("a", b"1")], cycle=True)))
    with pytest.raises(ImageError, match=r"its folder 'loop/loop' contains itself"):
        wim.check(1)


def test_too_deep(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"more than 128 deep"):
        open_wim(plain(tmp_path, plain_wim([("/".join("d" * 200), b"1")]))).check(1)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("cyclic.wim", r"its folder '1' contains itself"),
        ("dotdot.wim", r"holds a file named '\.\.' in '/'"),
    ],
)
def test_hostile_samples_of_others(sample: str, message: str) -> None:
    path = SAMPLES / sample
    if not path.is_file():
        pytest.skip("the test data of others are not here")
    need_libwim()
    with pytest.raises(ImageError, match=message):
        open_wim(path).check(1)


def test_a_damaged_file_of_others() -> None:
    path = SAMPLES / "corrupted_file_1.wim"
    if not path.is_file():
        pytest.skip("the test data of others are not here")
    wim = open_wim(path)
    wim.check(1)
    assert wim.damaged() == ("1:file",)
    with pytest.raises(ImageError, match=r"'file' in .* is damaged"):
        wim.read(1, "file")


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, b"WLPWM\0\0\0"), "pipable"),
        ((0, b"PK\3\4"), "is not a WIM: 'MSWIM' is expected"),
        ((8, struct.pack("<I", 200)), "header of 200 bytes"),
        ((12, struct.pack("<I", 0x10E00)), "version 0x10e00, which is not known"),
        ((16, struct.pack("<I", 0xC0)), "a write is in progress"),
        ((16, struct.pack("<I", 0x82)), "a compression that is not known"),
        ((16, struct.pack("<I", 0x40082)), "chunks of 0 bytes"),
        ((16, struct.pack("<I", 0x88)), "part 1 of a WIM split"),
        ((40, struct.pack("<HH", 2, 3)), "part 2 of a WIM split into 3"),
        ((44, struct.pack("<I", 0)), "holds 0 images"),
        ((44, struct.pack("<I", 0xFFFFFFFF)), "holds 4294967295 images"),
        ((120, struct.pack("<I", 7)), "boots image 7, but has only 1"),
        ((56, struct.pack("<Q", 1 << 40)), r"cut off: it has .* its lookup table"),
        ((80, struct.pack("<Q", 1 << 62)), "cut off: it has .* its XML data"),
        ((64, struct.pack("<Q", 1 << 40)), "the lookup table of .* claims"),
    ],
)
def test_a_header_that_libwim_is_not_given(tmp_path: Path, change: tuple[int, bytes], message: str) -> None:
    path = plain(tmp_path, patched(plain_wim([("a", b"1")]), *change))
    with pytest.raises(ImageError, match=message):
        open_wim(path)


@pytest.mark.parametrize(("version", "flags"), [(0xE00, 0x80082), (0x10D00, 0x80082), (0xE00, 0x80)])
def test_solid_and_lzms_are_described_but_not_read(tmp_path: Path, version: int, flags: int) -> None:
    data = bytearray(plain_wim([("a", b"1")], version=version, flags=flags))
    data[20:24] = struct.pack("<I", 1 << 17)
    wim = open_wim(plain(tmp_path, bytes(data)))
    assert wim.info.images[0].build == 17763
    with pytest.raises(ImageError, match=r"LZMS .an ESD., which boot loaders cannot read") as caught:
        wim.check(1)
    assert "--compress=LZX" in caught.value.hint


def test_solid_by_libwim(tmp_path: Path) -> None:
    path = libwim_wim(tmp_path / "a.esd", [LARGE], compression=Compression.LZMS)
    with pytest.raises(ImageError, match=r"LZMS"):
        open_wim(path).check(1)


@pytest.mark.parametrize(
    ("xml", "message"),
    [("<WIM>", "the XML data of .* is damaged"), ("<!DOCTYPE a [<!ENTITY b 'c'>]><WIM/>", "defines entities")],
)
def test_xml_that_is_none(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        _ = open_wim(plain(tmp_path, plain_wim([("a", b"1")], xml=xml))).info


def test_xml_that_says_nothing(tmp_path: Path) -> None:
    image = open_wim(plain(tmp_path, plain_wim([("a", b"1")], xml="<WIM/>"))).images[0]
    assert (image.name, image.architecture, image.build, image.size) == ("", "", 0, 0)


def test_cut_off(tmp_path: Path) -> None:
    data = libwim_wim(tmp_path / "a.wim", [LARGE]).read_bytes()
    for length in (0, 7, 100, 207, 208, len(data) // 2, len(data) - 1):
        path = plain(tmp_path, data[:length])
        with pytest.raises(ImageError):
            open_wim(path)


def test_a_wrong_integrity_table(tmp_path: Path) -> None:
    path = libwim_wim(tmp_path / "a.wim", [LARGE], integrity=True)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"is damaged between the bytes 208 and"):
        check_integrity(open_wim(path))


def read_everything(wim: Wim) -> None:
    """All that is ever asked of a WIM."""
    _ = wim.info
    for index in range(1, wim.header.image_count + 1):
        for entry in wim.walk(index):
            if not entry.is_folder:
                wim.read_entry(entry)
        wim.contains(index, ["Windows/System32/cmd.exe", "a"])
    wim.damaged()
    check_integrity(wim)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sample") / "a.wim"
    return libwim_wim(path, [{"Windows/a.txt": b"abc" * 30_000, "b": b"b"}], integrity=True).read_bytes()


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.booleans())
def test_a_damaged_one_gives_only_our_errors(
    tmp_path: Path, sample: bytes, changes: list[tuple[int, bytes]], by_hand: bool
) -> None:
    data = bytearray(plain_wim([("d/a", b"1"), ("b", b"2" * 100)]) if by_hand else sample)
    for at, new in changes:
        at %= len(data) - 8
        data[at : at + len(new)] = new
    path = plain(tmp_path, bytes(data))
    try:
        read_everything(open_wim(path))
    except BuilderError as error:
        assert error.message


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=600), st.integers(0, 2000))
def test_garbage_and_truncation(tmp_path: Path, sample: bytes, noise: bytes, length: int) -> None:
    for data in (noise, b"MSWIM\0\0\0" + noise, sample[: length % len(sample)] + noise):
        path = plain(tmp_path, data)
        try:
            read_everything(open_wim(path))
        except BuilderError as error:
            assert error.message


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_xml_garbage(raw: bytes) -> None:
    try:
        assert len(parse_xml(raw, image_count=3, name="x")) == 3
    except ImageError as error:
        assert "x" in error.message


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 32768), st.sampled_from([Compression.LZX, Compression.XPRESS]))
def test_the_decompressor_survives_anything(data: bytes, size: int, compression: Compression) -> None:
    need_libwim()
    with suppress(ImageError):
        assert len(Decompressor(compression, 32768)(data, size)) == size
