"""Every layout's keymap, made from Debian's real packages: what each key gives, and that nothing cannot be typed."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from builder import keyboards, profile
from builder.base.keymap import ckbcomp_command, console_keymap
from builder.base.linux import fetch, unpack
from builder.build import Built
from builder.cache import Cache, default_folder
from builder.console import SilentStep
from builder.errors import BaseMediaError, ToolFailed
from builder.keyboards import XKB
from builder.packages import stored_resolution
from builder.run import run

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed (a Debian machine)")

_NEEDED = {"console-setup", "kbd", "libc6", "libcrypt1", "perl-base", "xkb-data"}
#: Key codes (linux/input-event-codes.h): the four rows with the key left of 1, and the key right of the left Shift.
_ROWS = (*range(2, 14), *range(16, 28), *range(30, 42), *range(43, 54), 86)
_NOTHING = "?"
#: What the kernel gives for a dead key and a space (drivers/tty/vt/keyboard.c, ret_diacr), the first five.
_DEAD_AND_SPACE = "`'^~\""
#: What is printed on the keys of _ROWS, without and with Shift (Windows Keyboard Layouts, Microsoft Learn); ? is the
#: question mark, a dead key, or a key that gives no character.
PRINTED = {
    "at": ("1234567890ß?qwertzuiopü+asdfghjklöä?#yxcvbnm,.-<", "!\"§$%&/()=??QWERTZUIOPÜ*ASDFGHJKLÖÄ°'YXCVBNM;:_>"),
    "be": ("&é\"'(§è!çà)-azertyuiop?$qsdfghjklmù²µwxcvbn,;:=<", "1234567890°_AZERTYUIOP?*QSDFGHJKLM%³£WXCVBN?./+>"),
    "br": ("1234567890-=qwertyuiop?[asdfghjklç?']zxcvbnm,.;\\", '!@#$%?&*()_+QWERTYUIOP?{ASDFGHJKLÇ?"}ZXCVBNM<>:|'),
    "ca-fr": ("1234567890-=qwertyuiop??asdfghjkl;?#<zxcvbnm,.é«", "!\"/$%?&*()_+QWERTYUIOP??ASDFGHJKL:?|>ZXCVBNM'.É»"),
    "ch-de": ("1234567890'?qwertzuiopü?asdfghjklöä§$yxcvbnm,.-<", '+"*ç%&/()=??QWERTZUIOPè!ASDFGHJKLéà°£YXCVBNM;:_>'),
    "ch-fr": ("1234567890'?qwertzuiopè?asdfghjkléà§$yxcvbnm,.-<", '+"*ç%&/()=??QWERTZUIOPü!ASDFGHJKLöä°£YXCVBNM;:_>'),
    "cz": ("+ěščřžýáíé=?qwertzuiopú)asdfghjklů§;?yxcvbnm,.-\\", "1234567890%?QWERTZUIOP/(ASDFGHJKL\"!?'YXCVBNM?:_|"),
    "de": ("1234567890ß?qwertzuiopü+asdfghjklöä?#yxcvbnm,.-<", "!\"§$%&/()=??QWERTZUIOPÜ*ASDFGHJKLÖÄ°'YXCVBNM;:_>"),
    "dk": ("1234567890+?qwertyuiopå?asdfghjklæø½'zxcvbnm,.-<", '!"#¤%&/()=??QWERTYUIOPÅ?ASDFGHJKLÆØ§*ZXCVBNM;:_>'),
    "es": ("1234567890'¡qwertyuiop?+asdfghjklñ?ºçzxcvbnm,.-<", '!"·$%&/()=?¿QWERTYUIOP?*ASDFGHJKLÑ?ªÇZXCVBNM;:_>'),
    "fi": ("1234567890+?qwertyuiopå?asdfghjklöä§'zxcvbnm,.-<", '!"#¤%&/()=??QWERTYUIOPÅ?ASDFGHJKLÖÄ½*ZXCVBNM;:_>'),
    "fr": ("&é\"'(-è_çà)=azertyuiop?$qsdfghjklmù²*wxcvbn,;:!<", "1234567890°+AZERTYUIOP?£QSDFGHJKLM%²µWXCVBN?./§>"),
    "hu": ("123456789öüóqwertzuiopőúasdfghjkléá0űyxcvbnm,.-í", "'\"+!%/=()ÖÜÓQWERTZUIOPŐÚASDFGHJKLÉÁ§ŰYXCVBNM?:_Í"),
    "it": ("1234567890'ìqwertyuiopè+asdfghjklòà\\ùzxcvbnm,.-<", '!"£$%&/()=?^QWERTYUIOPé*ASDFGHJKLç°|§ZXCVBNM;:_>'),
    "jp": ("1234567890-^qwertyuiop@[asdfghjkl;:?]zxcvbnm,./<", "!\"#$%&'()~=~QWERTYUIOP`{ASDFGHJKL+*?}ZXCVBNM<>?>"),
    "latam": ("1234567890'¿qwertyuiop?+asdfghjklñ{|}zxcvbnm,.-<", '!"#$%&/()=?¡QWERTYUIOP?*ASDFGHJKLÑ[°]ZXCVBNM;:_>'),
    "nl": ("1234567890-=qwertyuiop[]asdfghjkl;??\\zxcvbnm,./\\", "!@#$%?&*()_+QWERTYUIOP{}ASDFGHJKL:??|ZXCVBNM<>?|"),
    "no": ("1234567890+\\qwertyuiopå?asdfghjkløæ|'zxcvbnm,.-<", '!"#¤%&/()=??QWERTYUIOPÅ?ASDFGHJKLØÆ§*ZXCVBNM;:_>'),
    "pl": ("1234567890-=qwertyuiop[]asdfghjkl;'`\\zxcvbnm,./<", '!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:"~|ZXCVBNM<>?>'),
    "pt": ("1234567890'«qwertyuiop+?asdfghjklçº\\?zxcvbnm,.-<", '!"#$%&/()=?»QWERTYUIOP*?ASDFGHJKLÇª|?ZXCVBNM;:_>'),
    "ro": ("1234567890-=qwertyuiopăîasdfghjklșț„âzxcvbnm,./\\", "!@#$%^&*()_+QWERTYUIOPĂÎASDFGHJKLȘȚ”ÂZXCVBNM;:?|"),
    "se": ("1234567890+?qwertyuiopå?asdfghjklöä§'zxcvbnm,.-<", '!"#¤%&/()=??QWERTYUIOPÅ?ASDFGHJKLÖÄ½*ZXCVBNM;:_>'),
    "sk": ("+ľščťžýáíé=?qwertzuiopúäasdfghjklô§;ňyxcvbnm,.-\\", '1234567890%?QWERTZUIOP/(ASDFGHJKL"!?)YXCVBNM?:_|'),
    "tr": ('1234567890*-qwertyu\u0131opğüasdfghjklşi",zxcvbnmöç.<', "!'^+%&/()=?_QWERTYUIOPĞÜASDFGHJKLŞİé;ZXCVBNMÖÇ:>"),
    "uk": ("1234567890-=qwertyuiop[]asdfghjkl;'`#zxcvbnm,./\\", '!"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@¬~ZXCVBNM<>?|'),
    "us": ("1234567890-=qwertyuiop[]asdfghjkl;'`\\zxcvbnm,./<", '!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:"~|ZXCVBNM<>?>'),
}


@pytest.fixture(scope="module")
def root(default_build: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that keymaps are made with, unpacked."""
    cache = Cache(default_folder())
    found = stored_resolution(profile.load(profile.find(None)).base, cache)
    assert found is not None, "the default image was built, so its packages are known"
    debs = fetch(found.packages, pool=cache.area("pool"), offline=False, step=SilentStep())
    needed = [deb for deb in debs if deb.name.partition("_")[0] in _NEEDED]
    assert len(needed) == len(_NEEDED)
    folder = tmp_path_factory.mktemp("keymap")
    unpack(needed, into=folder / "root", step=SilentStep())
    return folder / "root"


def read_table(data: bytes) -> dict[int, tuple[int, ...]]:
    """The maps of a `bkeymap`, by their number (the sum of Shift 1, AltGr 2, Ctrl 4, Alt 8)."""
    flags = data[7:263]
    maps: dict[int, tuple[int, ...]] = {}
    for number in (number for number in range(256) if flags[number]):
        maps[number] = struct.unpack_from("<128H", data, 263 + 256 * len(maps))
    assert data[:7] == b"bkeymap"
    assert len(data) == 263 + 256 * len(maps)
    return maps


def character(code: int) -> str | None:
    """What a key code of the kernel gives (linux/keyboard.h): Latin-1, letters, Unicode."""
    kind, value = code >> 8, code & 0xFF
    if kind in (0, 11):
        return chr(value)
    return chr(code ^ 0xF000) if kind >= 16 else None


@pytest.mark.parametrize("name", XKB)
def test_a_layout_gives_what_is_printed_on_its_keys(root: Path, name: str) -> None:
    table = console_keymap(root, name, step=SilentStep())
    maps = read_table(table)
    plain, shift = ("".join(character(maps[number][key]) or _NOTHING for key in _ROWS) for number in (0, 1))
    assert (plain, shift) == PRINTED[name]
    codes = {maps[number][key] for number in range(4) for key in range(1, 128)}
    dead = {_DEAD_AND_SPACE[code & 0xFF] for code in codes if 0x400 <= code < 0x405}
    given = {character(code) for code in codes} | dead
    assert [sign for sign in map(chr, range(32, 127)) if sign not in given] == []
    assert console_keymap(root, name, step=SilentStep()) == table


def test_what_is_no_character_is_where_every_pc_has_it(root: Path) -> None:
    """Esc, Backspace, Tab, Enter, left Ctrl, left Shift, Caps Lock, F1, up: the same codes on every keyboard."""
    keys = (1, 14, 15, 28, 29, 42, 58, 59, 103)
    tables = {read_table(console_keymap(root, name, step=SilentStep()))[0] for name in ("de", "fr", "jp", "us")}
    assert {tuple(table[key] for key in keys) for table in tables} == {
        (0x1B, 0x7F, 0x09, 0x201, 0x702, 0x700, 0x207, 0x100, 0x603)
    }


def test_this_machines_own_console_setup_is_left_out(root: Path, tmp_path: Path) -> None:
    """ckbcomp appends a remap.inc; one in its own tree stands for the machine's here."""
    own = tmp_path / "root"
    shutil.copytree(root, own, symlinks=True)
    remap = own / "usr/etc/console-setup/remap.inc"
    remap.parent.mkdir(parents=True)
    remap.write_text("keycode 30 = x\n")
    assert "keycode 30 = x" in run(ckbcomp_command(own, "de"), reason="see it appended", time_limit=30).text
    assert console_keymap(own, "de", step=SilentStep()) == console_keymap(root, "de", step=SilentStep())


def test_a_layout_that_the_packages_lack(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keyboards.XKB, "de", ("de", "nonesuch"))
    with pytest.raises(BaseMediaError, match=r"no keymap for de \(de nonesuch\)"):
        console_keymap(root, "de", step=SilentStep())
    monkeypatch.setitem(keyboards.XKB, "de", ("nonesuch",))
    with pytest.raises(ToolFailed, match="Can not find file"):
        console_keymap(root, "de", step=SilentStep())
