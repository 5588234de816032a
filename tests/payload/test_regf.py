"""The hive reader, on hives made here and on a real one, against hivex, and on garbage."""

from __future__ import annotations

import contextlib
import io
import lzma
import shutil
import subprocess
import time
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.formats.regf import Hive, HiveError, Key, ValueKind
from tests.payload.hive_maker import HiveMaker, MakeKey, dword, software_hive, system_hive, sz

REAL_HIVES = Path(__file__).parents[3] / "shared" / "testdata" / "hives"


def small_hive(list_kind: str = "lh") -> bytes:
    root = MakeKey("ROOT")
    for number in range(7):
        root.at(f"Key{number}").values["Number"] = dword(number)
    root.at("Größe").values["Größe"] = sz("ä€𝄞")
    root.at("Ключ").values["x"] = sz("cyrillic name")
    return HiveMaker(list_kind).make(root)


@pytest.mark.parametrize("list_kind", ["lf", "lh", "li", "ri"])
def test_every_kind_of_list(list_kind: str) -> None:
    hive = Hive(small_hive(list_kind))
    for number in range(7):
        value = hive.value(f"key{number}", "NUMBER")
        assert value is not None
        assert value.number == number
    found = hive.value("GRÖßE", "größe")
    assert found is not None
    assert found.text == "ä€𝄞"
    assert {key.name for key in hive.root.subkeys()} == {*(f"Key{n}" for n in range(7)), "Größe", "Ключ"}
    assert hive.value("Key1", "nothing") is None
    assert hive.value("Key9", "Number") is None
    assert hive.key(r"Key1\deeper\still") is None
    assert hive.key("") is not None
    assert not hive.dirty


def test_big_values_come_in_segments() -> None:
    big = bytes(range(256)) * 250
    root = MakeKey("ROOT", {"big": (3, big), "small": (3, b"12345"), "empty": (3, b"")})
    hive = Hive(HiveMaker().make(root))
    values = {value.name: value.data for value in hive.root.values()}
    assert values == {"big": big, "small": b"12345", "empty": b""}


@pytest.mark.parametrize(
    ("kind", "data", "number", "text", "texts"),
    [
        (ValueKind.DWORD, b"\1\2\0\0", 0x201, None, None),
        (ValueKind.DWORD_BIG_ENDIAN, b"\0\0\2\1", 0x201, None, None),
        (ValueKind.QWORD, b"\1" + bytes(7), 1, None, None),
        (ValueKind.DWORD, b"\1\2", None, None, None),
        (ValueKind.SZ, "ab\0cd".encode("utf-16-le"), None, "ab", None),
        (ValueKind.EXPAND_SZ, "ab".encode("utf-16-le") + b"x", None, "ab", None),
        (ValueKind.MULTI_SZ, "a\0b\0\0".encode("utf-16-le"), None, None, ("a", "b")),
        (77, b"1234", None, None, None),
    ],
)
def test_what_values_mean(
    kind: int, data: bytes, number: int | None, text: str | None, texts: tuple[str, ...] | None
) -> None:
    value = Hive(HiveMaker().make(MakeKey("ROOT", {"v": (kind, data)}))).value("", "v")
    assert value is not None
    assert (value.number, value.text, value.texts) == (number, text, texts)


def test_a_dirty_hive_says_so_and_is_read_as_it_is() -> None:
    hive = Hive(system_hive("PC-7", dirty=True))
    assert hive.dirty
    value = hive.value(r"ControlSet001\Control\ComputerName\ComputerName", "ComputerName")
    assert value is not None
    assert value.text == "PC-7"
    broken_sum = bytearray(system_hive("PC-7"))
    broken_sum[100] ^= 1
    assert Hive(bytes(broken_sum)).dirty


def damaged(hive: bytes, at: int, replacement: bytes) -> Hive:
    return Hive(hive[:at] + replacement + hive[at + len(replacement) :])


def test_damage_raises_hive_error() -> None:
    hive = small_hive()
    with pytest.raises(HiveError, match="starts with 'regf'"):
        Hive(b"MZ" + hive[2:])
    with pytest.raises(HiveError, match="the hive ends at 0x64"):
        Hive(hive[:100])
    with pytest.raises(HiveError, match="the hive ends"):
        _ = damaged(hive, 36, b"\xf0\xff\xff\x7f").root
    with pytest.raises(HiveError, match="leads nowhere"):
        _ = damaged(hive, 36, b"\xff\xff\xff\xff").root
    with pytest.raises(HiveError, match="no key at"):
        damaged(hive, hive.index(b"nk"), b"xx").key("Key1")
    with pytest.raises(HiveError, match="no list of subkeys"):
        damaged(hive, hive.index(b"lh"), b"zz").key("Key1")
    with pytest.raises(HiveError, match="list of 65535 subkeys"):
        damaged(hive, hive.index(b"lh") + 2, b"\xff\xff").key("Key1")
    with pytest.raises(HiveError, match="no value where one should be"):
        damaged(hive, hive.index(b"vk"), b"xx").value("Größe", "Größe")
    with pytest.raises(HiveError, match="a name of 65535 bytes"):
        damaged(hive, hive.index(b"nk") + 72, b"\xff\xff").key("Key1")
    with pytest.raises(HiveError, match="a cell of 0 bytes"):
        damaged(hive, hive.index(b"nk") - 4, bytes(4)).key("Key1")
    with pytest.raises(HiveError, match="600 keys deep"):
        Hive(hive).key("\\".join(["a"] * 600))


def test_a_damaged_sibling_hides_only_what_is_not_found() -> None:
    hive = small_hive()
    at_name = hive.index(b"Key3")
    broken = damaged(hive, at_name - 76, b"xx")
    assert broken.key("Key5") is not None
    with pytest.raises(HiveError, match="no key"):
        broken.key("Key3")


def test_damaged_values_raise() -> None:
    hive = HiveMaker().make(MakeKey("ROOT", {"big": (3, b"x" * 40_000), "v": (3, b"123456")}))
    at_db = hive.index(b"db\x03\0")
    with pytest.raises(HiveError, match="in 1 parts"):
        damaged(hive, at_db + 2, b"\1\0").value("", "big")
    with pytest.raises(HiveError, match="has only"):
        damaged(hive, at_db, b"xx").value("", "big")
    at_v = hive.index(b"vk", hive.index(b"123456"))
    with pytest.raises(HiveError, match="a value of 2147483647 bytes"):
        damaged(hive, at_v + 4, b"\xff\xff\xff\x7f").value("", "v")
    with pytest.raises(HiveError, match="has only"):
        damaged(hive, at_v + 4, b"\xff\x00\x00\x00").value("", "v")
    at_count = hive.index(b"nk") + 36
    with pytest.raises(HiveError, match="list of 65535 values"):
        damaged(hive, at_count, b"\xff\xff\0\0").value("", "v")


def test_a_list_that_leads_in_circles_ends() -> None:
    """Every entry of an ri list is a list of 65,535 keys: the work is bounded."""
    maker = MakeKey("ROOT", subkeys=[MakeKey(f"k{n}") for n in range(4)])
    hive = bytearray(HiveMaker("ri").make(maker))
    at_list = hive.index(b"ri\2\0")
    many = 10_000
    key_offset = hive[hive.index(b"li\2\0") + 4 :][:4]
    long_list = b"li" + many.to_bytes(2, "little") + bytes(key_offset) * many
    offset = len(hive) - 4096
    hive += (-(len(long_list) + 8) & 0xFFFFFFFF).to_bytes(4, "little") + long_list + bytes(4)
    wide = b"ri" + many.to_bytes(2, "little") + offset.to_bytes(4, "little") * many
    second = len(hive) - 4096
    hive += (-(len(wide) + 8) & 0xFFFFFFFF).to_bytes(4, "little") + wide + bytes(4)
    at_root = hive.index(b"nk")
    hive[at_root + 28 : at_root + 32] = second.to_bytes(4, "little")
    assert at_list
    started = time.monotonic()
    with pytest.raises(HiveError, match="circles"):
        Hive(bytes(hive)).key("absent")
    assert time.monotonic() - started < 20


class MeteredStream(io.BytesIO):
    """A stream that counts what is read from it."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.total += len(data)
        return data


def hive_of_large_cells(list_cell: bytes, large: bytes) -> bytes:
    """A hive whose root's list of subkeys is `list_cell`, whose entries ("????") lead to a cell of nearly 1 MiB."""
    hive = bytearray(HiveMaker().make(MakeKey("ROOT", subkeys=[MakeKey("k")])))

    def append(content: bytes) -> bytes:
        offset = len(hive) - 4096
        content = content.ljust(-(-(len(content) + 4) // 8) * 8 - 4, b"\0")
        hive.extend((-(len(content) + 4)).to_bytes(4, "little", signed=True) + content)
        return offset.to_bytes(4, "little")

    at = append(large.ljust((1 << 20) - 8, b"\0"))
    at_root = hive.index(b"nk")
    hive[at_root + 28 : at_root + 32] = append(list_cell.replace(b"????", at))
    return bytes(hive)


MANY = 60_000
LARGE_KEY = b"nk\x20\0" + bytes(68) + (65_000).to_bytes(2, "little") + bytes(2) + b"A" * 65_000
SMALL_KEY = b"nk\x20\0" + bytes(68) + (3).to_bytes(2, "little") + bytes(2) + b"abc"


@pytest.mark.parametrize(
    ("list_cell", "large", "said", "at_most"),
    [
        (b"li" + MANY.to_bytes(2, "little") + b"????" * MANY, LARGE_KEY, "does not fit", 40 << 20),
        (b"li" + MANY.to_bytes(2, "little") + b"????" * MANY, SMALL_KEY, "", 40 << 20),
        (b"ri" + MANY.to_bytes(2, "little") + b"????" * MANY, b"li\0\0", "more than 67108864 bytes", 64 << 20),
    ],
    ids=["long names", "large cells of small keys", "large empty lists"],
)
def test_large_cells_read_again_and_again(list_cell: bytes, large: bytes, said: str, at_most: int) -> None:
    """What a small hive makes the reader read is bounded, in one look-up and in several."""
    stream = MeteredStream(hive_of_large_cells(list_cell, large))
    hive = Hive(stream)
    started = time.monotonic()
    if said:
        with pytest.raises(HiveError, match=said):
            hive.key("absent")
    else:
        assert hive.key("absent") is None
    assert stream.total <= at_most
    with pytest.raises(HiveError):
        for _ in range(10):
            hive.key("absent")
    assert stream.total <= 64 << 20
    assert time.monotonic() - started < 20


class FailingStream(io.BytesIO):
    """A disk with an unreadable sector."""

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset >= 4096:
            raise OSError(5, "Input/output error")
        return super().seek(offset, whence)


def test_a_disk_error_is_a_hive_error() -> None:
    with pytest.raises(HiveError, match="Input/output error"):
        _ = Hive(cast(BinaryIO, FailingStream(small_hive()))).root


def walk(key: Key, seen: list[str], depth: int = 0) -> None:
    seen.append(key.name)
    for value in key.values():
        assert isinstance(value.data, bytes)
        _ = value.text, value.texts, value.number
    if depth < 6 and len(seen) < 500:
        for sub in key.subkeys():
            walk(sub, seen, depth + 1)


def read_all(data: bytes) -> None:
    with contextlib.suppress(HiveError):
        walk(Hive(data).root, [])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8191), st.binary(min_size=1, max_size=8)), max_size=12))
def test_changed_hives_raise_nothing_but_hive_error(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(small_hive())
    for at, new in changes:
        data[at : at + len(new)] = new
    read_all(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 9000))
def test_garbage_and_cut_hives_raise_nothing_but_hive_error(garbage: bytes, length: int) -> None:
    read_all(garbage)
    read_all(b"regf" + garbage)
    read_all(small_hive("ri")[:length])
    read_all(small_hive()[:4096] + garbage)


@pytest.mark.skipif(shutil.which("hivexget") is None, reason="hivexget (libhivex-bin) is not installed")
def test_hivex_reads_the_same_from_made_hives(tmp_path: Path) -> None:
    (tmp_path / "SOFTWARE").write_bytes(software_hive())
    answer = subprocess.run(
        ["hivexget", str(tmp_path / "SOFTWARE"), r"\Microsoft\Windows NT\CurrentVersion", "ProductName"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert answer.stdout.strip() == "Windows 10 Pro", answer.stderr


@pytest.mark.skipif(not (REAL_HIVES / "SYSTEM.xz").exists(), reason="the shared SYSTEM hive is not here")
@pytest.mark.skipif(shutil.which("hivexget") is None, reason="hivexget (libhivex-bin) is not installed")
def test_hivex_reads_the_same_from_a_real_hive(tmp_path: Path) -> None:
    path = tmp_path / "SYSTEM"
    path.write_bytes(lzma.decompress((REAL_HIVES / "SYSTEM.xz").read_bytes()))
    with path.open("rb") as stream:
        hive = Hive(stream)
        for key, name in [
            (r"ControlSet001\Control\ComputerName\ComputerName", "ComputerName"),
            (r"ControlSet001\Services\Tcpip\Parameters", "Hostname"),
            (r"ControlSet001\Services\disk", "ImagePath"),
        ]:
            value = hive.value(key, name)
            answer = subprocess.run(
                ["hivexget", str(path), "\\" + key, name], capture_output=True, text=True, timeout=20
            )
            assert value is not None, (key, name)
            assert value.text == answer.stdout.strip(), answer.stderr
        services = hive.key(r"ControlSet001\Services")
        assert services is not None
        assert len(list(services.subkeys())) > 200
