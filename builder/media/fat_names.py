"""Names on FAT volumes: long, short, and of the volume (Microsoft FAT32 File System Specification 1.03)."""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import OutputError

_SHORT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")
_FORBIDDEN = frozenset('"*/:<>?\\|') | frozenset(map(chr, range(32)))
_LONGEST_NAME = 255


def short_names(names: Mapping[str, object]) -> dict[str, bytes]:
    """The 11-byte short name of every name of one folder, all different ("The Numeric-Tail Generation Algorithm")."""
    chosen = {name: exact for name in sorted(names) if (exact := exact_short_name(name))}
    taken = set(chosen.values())
    for name in sorted(names):
        if name not in chosen:
            chosen[name] = _numbered_short_name(name, taken)
            taken.add(chosen[name])
    return {name: chosen[name] for name in sorted(names)}


def exact_short_name(name: str) -> bytes | None:
    """The short name of a name that needs no long one, None for all others."""
    base, dot, extension = name.partition(".")
    if not 0 < len(base) <= 8 or len(extension) > 3 or (dot and not extension):
        return None
    if not _SHORT_CHARACTERS.issuperset(base + extension):
        return None
    return base.encode().ljust(8) + extension.encode().ljust(3)


def _numbered_short_name(name: str, taken: set[bytes]) -> bytes:
    stripped = name.lstrip(".").replace(" ", "").upper()
    base, _, extension = stripped.rpartition(".") if "." in stripped else (stripped, "", "")
    base, extension = (
        "".join(c if c in _SHORT_CHARACTERS else "_" for c in part if c != ".") for part in (base, extension)
    )
    for number in range(1, 1000000):
        tail = f"~{number}"
        short = (base[: 8 - len(tail)] + tail).encode().ljust(8) + extension[:3].encode().ljust(3)
        if short not in taken:
            return short
    raise OutputError(f"too many names like '{name}' in one folder of a FAT volume")


def label_entry(label: str) -> bytes:
    """The 11 bytes of a volume's label. Raises OutputError for one that FAT cannot have."""
    upper = label.upper()
    if not upper.strip() or len(upper) > 11 or not _SHORT_CHARACTERS.issuperset(upper.replace(" ", "")):
        raise OutputError(
            f"'{label}' cannot be the label of a FAT volume",
            hint="A label has 1 to 11 characters: letters, digits, space and !#$%&'()-@^_`{}~",
        )
    return upper.encode().ljust(11)


def name_problem(name: str) -> str:
    """Why FAT cannot hold a file or folder of this name; empty where it can."""
    if not name:
        return "is empty"
    if name in (".", "..") or name.endswith((" ", ".")):
        return "ends in a dot or a space"
    bad = sorted(_FORBIDDEN.intersection(name))
    if bad:
        return f"holds {', '.join(map(repr, bad))}"
    try:
        units = len(name.encode("utf-16-le")) // 2
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return f"has {units} characters, more than {_LONGEST_NAME}" if units > _LONGEST_NAME else ""
