"""The hive writer: what it writes is read by our reader, hivex and regipy alike; real stores survive the round trip."""

from __future__ import annotations

import contextlib
import lzma
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regipy.registry import RegistryHive

from payload.formats.regf import Hive, HiveError, Key, Value
from payload.formats.regf_writer import (
    DEFAULT_SECURITY,
    HiveKey,
    HiveTree,
    filetime,
    hive_bytes,
    multi_sz,
    read_tree,
    string_value,
    upcase,
)
from tests.payload.hive_maker import HiveMaker, MakeKey, dword, sz

REAL = Path(__file__).parents[3] / "shared" / "testdata" / "hives"
STORES = ("BCD.xz", "windeploy-BCD", "windeploy-BCD-efi")
EPOCH = 1_751_328_000


def real_store(name: str) -> bytes:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"no real hive: {path} is not there")
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def flat(key: Key, path: str = "") -> dict[str, Any]:
    """Everything that the reader sees in a hive, by path."""
    found: dict[str, Any] = {
        path: (
            [(value.name, value.kind, value.data) for value in key.values()],
            key.security,
            key.class_name,
            key.written,
            key.flags,
            key.control,
        )
    }
    for subkey in key.subkeys():
        found |= flat(subkey, f"{path}\\{subkey.name}")
    return found


def sample(minor_version: int = 3) -> HiveTree:
    root = HiveKey(name="ROOT", written=filetime(EPOCH))
    root.make(r"a\b\c").set("text", 1, "ä€𝄞\0".encode("utf-16-le"))
    root.make("a").values += [string_value("", "default"), Value(name="n", kind=4, data=struct.pack("<I", 7))]
    root.make("Größe").set("Ключ", 7, multi_sz("one", "two"))
    root.make("Ключ").class_name = "class".encode("utf-16-le")
    other = root.make("other")
    other.security, other.control, other.written = DEFAULT_SECURITY[:-4] + b"\1\2\0\0", 0x300, 5
    for size in (0, 1, 4, 5, 16343, 16344, 16345, 32689, 70_000):
        other.set(f"bytes{size}", 3, bytes(range(256)) * (size // 256) + bytes(range(size % 256)))
    many = root.make("many")
    for number in range(1203):
        many.make(f"k{number}").set("n", 4, struct.pack("<I", number))
    return HiveTree(
        root=root, minor_version=minor_version, written=filetime(EPOCH), file_name=b"B\0C\0D\0".ljust(64, b"\0")
    )


@pytest.mark.parametrize("name", STORES)
def test_real_stores_survive_with_everything(name: str) -> None:
    data = real_store(name)
    tree = read_tree(data)
    written = hive_bytes(tree)
    assert flat(Hive(written).root) == flat(Hive(data).root)
    assert not Hive(written).dirty
    assert read_tree(written) == tree
    assert hive_bytes(read_tree(written)) == written
    assert Hive(written).file_name == Hive(data).file_name


@pytest.mark.parametrize("minor_version", [3, 4, 5, 6])
def test_every_kind_of_key_and_value(minor_version: int) -> None:
    tree = sample(minor_version)
    data = hive_bytes(tree)
    assert data == hive_bytes(sample(minor_version))
    hive = Hive(data)
    assert not hive.dirty and hive.minor_version == minor_version
    assert (b"db\5\0" in data) is (minor_version >= 4)
    value = hive.value("other", "bytes70000")
    assert value is not None and len(value.data) == 70_000
    again = read_tree(data)
    # Written, keys come sorted; everything else is as it was.
    for key in (*tree.root.walk(), *again.root.walk()):
        key.subkeys.sort(key=lambda below: upcase(below.name).encode("utf-16-be"))
    assert again == tree


def test_bins_and_cells_tile_the_file() -> None:
    """Every bin starts where the last ended, every cell lies in one bin, and no byte is outside of both."""
    data = hive_bytes(sample(5))
    length = struct.unpack_from("<I", data, 40)[0]
    assert len(data) == 4096 + length and length % 4096 == 0
    at, used = 4096, 0
    while at < len(data):
        assert data[at : at + 4] == b"hbin"
        offset, size = struct.unpack_from("<II", data, at + 4)
        assert offset == at - 4096 and size % 4096 == 0
        cell, end = at + 32, at + size
        while cell < end:
            (cell_size,) = struct.unpack_from("<i", data, cell)
            assert abs(cell_size) >= 8 and cell_size % 8 == 0
            used += cell_size < 0
            cell += abs(cell_size)
        assert cell == end
        at = end
    assert used > 1203 * 3


def test_lists_are_sorted_and_hashed() -> None:
    root = HiveKey(name="R", subkeys=[HiveKey(name=name) for name in ("b", "A", "_", "é", "ß", "Ab")])
    data = hive_bytes(HiveTree(root=root))
    names = [key.name for key in Hive(data).root.subkeys()]
    assert names == ["A", "Ab", "b", "_", "é", "ß"]
    at = data.index(b"lh\6\0")
    hashes = [struct.unpack_from("<I", data, at + 8 + 8 * index)[0] for index in range(6)]
    assert hashes[:3] == [0x41, 0x41 * 37 + 0x42, 0x42]
    assert hashes[4] == 0xC9 and hashes[5] == 0xDF


def test_editing() -> None:
    root = HiveKey(name="R")
    assert root.make(r"A\B") is root.make(r"a\b")
    root.make("A").set("Name", 4, b"\1\0\0\0")
    root.make("A").set("NAME", 4, b"\2\0\0\0")
    assert [(v.name, v.data) for v in root.make("A").values] == [("Name", b"\2\0\0\0")]
    assert root.key(r"A\B\C") is None and root.key("x") is None
    assert root.make("A").remove("b") and not root.make("A").remove("b")
    assert [key.name for key in root.walk()] == ["R", "A"]


@pytest.mark.parametrize(
    ("root", "says"),
    [
        (HiveKey(name=""), "cannot be the name"),
        (HiveKey(name="a\\b"), "cannot be the name"),
        (HiveKey(name="x" * 256), "cannot be the name"),
        (HiveKey(name="\ud800"), "is not Unicode"),
        (HiveKey(name="R", subkeys=[HiveKey(name="a"), HiveKey(name="A")]), "of one name"),
        (HiveKey(name="R", values=[string_value("a", ""), string_value("A", "")]), "of one name"),
        (HiveKey(name="R", values=[string_value("v" * 16384, "")]), "too long"),
        (HiveKey(name="R", values=[Value(name="v", kind=3, data=bytes((16 << 20) + 1))]), "too long"),
        (HiveKey(name="R", class_name=bytes(65536)), "class name"),
    ],
)
def test_what_no_hive_can_hold(root: HiveKey, says: str) -> None:
    with pytest.raises(HiveError, match=says):
        hive_bytes(HiveTree(root=root))


def test_depth_is_limited_on_both_ways() -> None:
    root = HiveKey(name="R")
    root.make("\\".join(["d"] * 499))
    assert sum(1 for _ in read_tree(hive_bytes(HiveTree(root=root))).root.walk()) == 500
    root.make("\\".join(["d"] * 500))
    with pytest.raises(HiveError, match="500 keys deep"):
        hive_bytes(HiveTree(root=root))
    with pytest.raises(HiveError, match=r"version 1\.2"):
        hive_bytes(HiveTree(root=HiveKey(name="R"), minor_version=2))


def test_what_is_not_to_be_edited() -> None:
    tree = MakeKey("R", {"a": dword(1)})
    with pytest.raises(HiveError, match="is dirty"):
        read_tree(HiveMaker().make(tree, dirty=True))
    broken = bytearray(HiveMaker().make(tree))
    broken[200] ^= 1
    with pytest.raises(HiveError, match="is dirty"):
        read_tree(bytes(broken))
    # A name that is no UTF-16 would come back as another one.
    data = bytearray(HiveMaker().make(MakeKey("R", subkeys=[MakeKey("Ж")])))
    at = data.index("Ж".encode("utf-16-le"))
    data[at : at + 2] = b"\0\xd8"
    with pytest.raises(HiveError, match="not UTF-16"):
        read_tree(bytes(data))


def test_a_hive_whose_values_share_their_cells_is_refused() -> None:
    root = MakeKey("R", {f"v{n}": (3, b"x" * 9000) for n in range(3)})
    data = bytearray(HiveMaker().make(root))
    first = None
    at = 0
    while (at := data.find(b"vk\2\0", at + 1)) >= 0:
        first = first or data[at + 8 : at + 12]
        data[at + 8 : at + 12] = first
    assert read_tree(bytes(data)).root.values[2].data == b"x" * 9000
    crowded = MakeKey("R", {f"v{n}": (3, b"x" * 4000) for n in range(3)} | {f"w{n}": (3, b"xxxxx") for n in range(400)})
    data = bytearray(HiveMaker().make(crowded))
    at = data.index(b"vk\2\0")
    where = data[at + 4 : at + 12]
    while (at := data.find(b"vk", at + 1)) >= 0:
        data[at + 4 : at + 12] = where
    with pytest.raises(HiveError, match="share their cells"):
        read_tree(bytes(data))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\\\ufffd"), min_size=1, max_size=12)
VALUES = st.lists(
    st.tuples(NAMES | st.just(""), st.integers(0, 0xFFFFFFFF), st.binary(max_size=40)),
    max_size=4,
    unique_by=lambda value: upcase(value[0]),
)


def keys(below: st.SearchStrategy[list[HiveKey]]) -> st.SearchStrategy[list[HiveKey]]:
    key = st.builds(
        HiveKey,
        name=NAMES,
        values=VALUES.map(lambda values: [Value(name=n, kind=k, data=d) for n, k, d in values]),
        subkeys=below,
        security=st.sampled_from([DEFAULT_SECURITY, b"\1\2\3", b"s" * 300]),
        class_name=st.sampled_from([b"", b"c\0", b"c\0" * 60]),
        written=st.integers(0, 2**64 - 1),
        flags=st.sampled_from([0, 0x10]),
        control=st.integers(0, 0xFFFF),
    )
    return st.lists(key, max_size=4, unique_by=lambda found: upcase(found.name))


@settings(max_examples=100, deadline=None)
@given(st.recursive(keys(st.just([])), keys, max_leaves=12), st.sampled_from([3, 5]))
def test_any_tree_comes_back(subkeys: list[HiveKey], minor_version: int) -> None:
    tree = HiveTree(root=HiveKey(name="R", subkeys=subkeys), minor_version=minor_version)
    for key in tree.root.walk():
        key.subkeys.sort(key=lambda below: upcase(below.name).encode("utf-16-be"))
    assert read_tree(hive_bytes(tree)) == tree


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(4096, 8191), st.binary(min_size=1, max_size=8)), max_size=12))
def test_damaged_hives_raise_nothing_but_hive_error(changes: list[tuple[int, bytes]]) -> None:
    root = MakeKey("R", {"v": sz("text"), "big": (3, b"b" * 600)}, [MakeKey("a", {"n": dword(1)}), MakeKey("b")])
    data = bytearray(HiveMaker().make(root))
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    with contextlib.suppress(HiveError):
        hive_bytes(read_tree(bytes(data[:8192])))


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("hivexml"), reason="hivexml (package libhivex-bin) is not installed")
@pytest.mark.parametrize("name", STORES)
def test_hivex_reads_the_same(name: str, tmp_path: Path) -> None:
    """hivexml's whole dump of the hive written is the dump of the real one."""
    original, written = tmp_path / "original", tmp_path / "written"
    original.write_bytes(real_store(name))
    written.write_bytes(hive_bytes(read_tree(original.read_bytes())))
    done = [subprocess.run(["hivexml", str(path)], capture_output=True, timeout=60) for path in (original, written)]
    assert done[1].returncode == 0, done[1].stderr
    # Where a cell lies in the file is the writer's own affair.
    dumps = [re.sub(rb"<byte_run[^>]*>|</byte_runs>", b"", dump.stdout) for dump in done]
    assert len(dumps[1]) > 1000
    assert dumps[0] == dumps[1]


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("hivexget"), reason="hivexget (package libhivex-bin) is not installed")
def test_hivex_reads_what_we_made(tmp_path: Path) -> None:
    path = tmp_path / "hive"
    path.write_bytes(hive_bytes(sample(5)))
    got = {
        (key, value): subprocess.run(["hivexget", str(path), key, value], capture_output=True, timeout=60).stdout
        for key, value in (("\\a\\b\\c", "text"), ("\\many\\k1202", "n"), ("\\a", "@"))
    }
    assert list(got.values()) == ["ä€𝄞\n".encode(), b"1202\n", b"default\n"]
    listed = subprocess.run(["hivexsh", str(path)], input=b"cd many\nls\n", capture_output=True, timeout=60)
    assert listed.returncode == 0 and len(listed.stdout.split()) == 1203


def test_regipy_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "hive"
    tree = sample(5)
    path.write_bytes(hive_bytes(tree))
    hive = RegistryHive(str(path))
    assert hive.header.checksum == struct.unpack_from("<I", path.read_bytes(), 508)[0]
    # regipy reads one-byte names as UTF-8, so "Größe" comes out otherwise.
    names = [key.name for key in hive.root.iter_subkeys()]
    assert [*names[:1], *names[2:]] == ["a", "many", "other", "Ключ"]
    assert hive.get_key("\\other").get_value("bytes70000") == next(
        value.data for value in tree.root.make("other").values if value.name == "bytes70000"
    )
    assert hive.get_key("\\many\\k777").get_value("n") == 777
    for name in STORES:
        if not (REAL / name).is_file():
            continue
        path.write_bytes(real_store(name))
        before = regipy_dump(RegistryHive(str(path)))
        path.write_bytes(hive_bytes(read_tree(path.read_bytes())))
        assert regipy_dump(RegistryHive(str(path))) == before


def regipy_dump(hive: RegistryHive) -> list[tuple[Any, ...]]:
    found = []
    for entry in hive.recurse_subkeys(as_json=True):
        found.append((entry.path, entry.timestamp, entry.values))
    assert len(found) > 5
    return found
