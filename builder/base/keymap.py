"""A console keymap for the Linux image, by the packages' own ckbcomp and loadkeys: only the one layout goes in.

ckbcomp (console-setup, a Perl script) writes xkeyboard-config's layout as a keymap(5); loadkeys (kbd) makes of it the
binary table that busybox's loadkmap reads: `bkeymap`, a byte for each of 256 possible maps that says whether it is
there, then 128 little-endian 16-bit key codes for each map that is. Both run through the packages' own loader and read
the packages' files only, so that it does not matter what the machine has.
"""

from __future__ import annotations

from pathlib import Path

from builder.console import Step
from builder.debian_root import LIBRARY_FOLDERS, own_loader
from builder.errors import BaseMediaError
from builder.keyboards import XKB
from builder.run import run

_REASON = "make the keyboard's keymap"
_TIME_LIMIT = 60
#: Ends ckbcomp's own text. After it comes what this machine's /etc/console-setup says.
_LAST_LINE = "strings as usual\n"
#: What ckbcomp says of a variant that its layout lacks; it goes on without.
_NOT_FOUND = b"Can not find"
_MAGIC, _MAPS, _KEYS = b"bkeymap", 256, 128


def ckbcomp_command(root: Path, name: str) -> list[str]:
    """How ckbcomp is called for the layout `name` (a key of XKB). Compact: Caps Lock works with its light."""
    return [
        *own_loader(root), str(root / "usr/bin/perl"), "-I", str(root / LIBRARY_FOLDERS[0] / "perl-base"),
        str(root / "usr/bin/ckbcomp"), f"-I{root / 'usr/share/X11/xkb'}", "-compact", "-model", "pc105", *XKB[name],
    ]  # fmt: skip


def loadkeys_command(root: Path) -> list[str]:
    """How loadkeys is called: the console speaks Unicode, the keymap comes by standard input, the table goes out."""
    return [*own_loader(root), str(root / "usr/bin/loadkeys"), "--quiet", "--unicode", "--bkeymap", "-"]


def console_keymap(root: Path, name: str, *, step: Step) -> bytes:
    """The table for the layout `name` (a key of XKB), from packages unpacked at `root`.

    Raises BaseMediaError where the packages have no such layout, ToolFailed in their programs' own words.
    """
    written = run(ckbcomp_command(root, name), reason=_REASON, time_limit=_TIME_LIMIT)
    keymap, last_line, _ = written.text.partition(_LAST_LINE)
    if not last_line or _NOT_FOUND in written.stderr:
        raise BaseMediaError(
            f"ckbcomp wrote no keymap for {name} ({' '.join(XKB[name])})",
            hint="xkb-data renamed a layout; see builder/keyboards.py.",
        )
    table = run(loadkeys_command(root), reason=_REASON, time_limit=_TIME_LIMIT, stdin=keymap.encode()).stdout
    maps = table[len(_MAGIC) : len(_MAGIC) + _MAPS].count(1)
    if not maps or not table.startswith(_MAGIC) or len(table) != len(_MAGIC) + _MAPS + 2 * _KEYS * maps:
        raise BaseMediaError(f"loadkeys made no table of the keymap for {name}", hint="Please report this.")
    step.note(f"{' '.join(XKB[name])}, {maps} maps")
    return table
