"""Keys typed on a Windows console, under Wine: a terminal's bytes become console events, and these a recovery password.

Wine's console gives what Windows's gives for characters; cursor keys it tells in its own way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cache import Cache, default_folder
from builder.console import PlainConsole
from builder.freeze_wine import RUNTIME_OVERRIDES
from builder.windows_python import fetch, lay_out_pinned_python, write_search_path
from builder.wine import WinePrefix
from payload.formats.recovery_password import parse
from tests.winpe_builds import lacking

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())

PASSWORD = "111683-110561-484748-281314-666028-066605-065384-470547"
FRENCH = str.maketrans("1234567890", "&é\"'(-è_çà")
_LIMIT = 120
#: Types into an entry what comes, and says every key that is no character of a password.
_SCRIPT = r"""
from payload.environment.windows_console import WindowsScreen
from payload.key_entry import Outcome, RecoveryPasswordEntry

with open(r"T:\said", "w", encoding="utf-8") as said:
    def say(text):
        print(text, file=said, flush=True)

    screen, entry, outcome = WindowsScreen(), RecoveryPasswordEntry(), None
    with screen.typing() as keyboard:
        say(f"{screen.columns} {screen.lines} {screen.half_blocks}")
        while outcome is not Outcome.LEFT and (key := keyboard(60)) is not None:
            if len(key) > 1:
                say(key)
            outcome = entry.press(key)
            if outcome is Outcome.DONE:
                say(entry.key().hex())
    say("end")
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WinePrefix]:
    """Wine with Windows's Python and the payload's modules on W:, and a script on T:."""
    folder = tmp_path_factory.mktemp("windows-keyboard")
    cache, console = Cache(default_folder()), PlainConsole(out=sys.stdout, err=sys.stderr)
    with cache.locked(console.notice), console.step("Python for Windows") as step:
        fetch(cache.area("windows-python"), offline=False, with_python=True, step=step)
        lay_out_pinned_python(cache.area("windows-python"), folder / "windows" / "python")
    write_search_path(folder / "windows" / "python", "..\\source")
    payload = Path(__file__).parents[2] / "payload"
    shutil.copytree(payload, folder / "windows/source/payload", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "files").mkdir()
    (folder / "files" / "script.py").write_text(_SCRIPT)
    prefix = WinePrefix(folder=folder / "prefix", overrides=RUNTIME_OVERRIDES)
    prefix.make()
    prefix.map_drive("W", folder / "windows")
    prefix.map_drive("T", folder / "files")
    with prefix.started():
        yield prefix
    prefix.remove()


def wait_until_said(said: Path, wanted: str) -> list[str]:
    """All lines, once `wanted` is among them."""
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        lines = said.read_text("utf-8").splitlines() if said.exists() else []
        if wanted in lines:
            return lines
        time.sleep(0.1)
    raise AssertionError(f"{wanted!r} was never said: {said.read_text('utf-8') if said.exists() else ''}")


def test_a_password_typed_on_a_windows_console(prefix: WinePrefix) -> None:
    said = prefix.folder.parent / "files" / "said"
    key = parse(PASSWORD).hex()
    terminal, end = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    tty.setraw(end)
    process = subprocess.Popen(
        ["wine", "W:\\python\\python.exe", "T:\\script.py"],
        env={**os.environ, **prefix.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        cwd=prefix.folder.parent / "files", stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until_said(said, "80 25 False")
        # Plain and pasted at once; then cleared, and with a French keyboard's digit row, a slip corrected.
        os.write(terminal, f"{PASSWORD}\r".encode())
        wait_until_said(said, key)
        os.write(terminal, f"\x15{PASSWORD.replace('-', '').translate(FRENCH)}".encode())
        os.write(terminal, "\x7fé\x7fè\t\x1b".encode())
        lines = wait_until_said(said, "end")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(end)
    assert lines == ["80 25 False", "enter", key, "clear", "backspace", "backspace", "tab", key, "escape", "end"]
