"""A registry hive of a few keys, so that broken disks hold hives that readers can read."""

from __future__ import annotations

from dataclasses import dataclass

from payload.formats import regf_writer
from payload.formats.regf import Value, ValueKind
from payload.formats.regf_writer import HiveTree, sz

#: 2023-10-12 as a FILETIME: hives carry their own times.
_WRITTEN = 133_416_000_000_000_000
_MINOR_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class HiveKey:
    """A key: its values are (name, type, bytes)."""

    name: str
    values: tuple[tuple[str, int, bytes], ...] = ()
    keys: tuple[HiveKey, ...] = ()


def text_value(name: str, text: str) -> tuple[str, int, bytes]:
    """A REG_SZ value."""
    return name, ValueKind.SZ, sz(text)


def hive_bytes(root: HiveKey) -> bytes:
    """The hive whose root key is `root`, clean (both sequence numbers equal) and with a right checksum."""
    return regf_writer.hive_bytes(HiveTree(root=_tree(root), minor_version=_MINOR_VERSION, written=_WRITTEN))


def _tree(key: HiveKey) -> regf_writer.HiveKey:
    return regf_writer.HiveKey(
        name=key.name,
        values=[Value(name=name, kind=kind, data=data) for name, kind, data in key.values],
        subkeys=[_tree(below) for below in key.keys],
        written=_WRITTEN,
    )
