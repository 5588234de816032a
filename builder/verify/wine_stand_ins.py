"""The programs that stand in for Windows PE's own under Wine, compiled by mingw from the sources beside this module."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from builder.errors import ToolMissing
from builder.run import run

#: What stands in for what: one program under several names.
STAND_INS = ("wpeinit", "wpeutil", "drvload", "manage-bde", "diskpart")
#: Where they write down how they were called, and find what to answer, on X:.
FOLDER = "stand-ins"
HELD = f"{FOLDER}/held.log"
CALLS = f"{FOLDER}/calls.log"
#: The volumes that manage-bde keeps locked (stand_in.c), and what it says in the system's language.
_LOCKED = f"{FOLDER}/bitlocker.txt"
_SAYS = {"done": f"{FOLDER}/manage-bde.done.txt", "refused": f"{FOLDER}/manage-bde.refused.txt"}
_COMPILER = "x86_64-w64-mingw32-gcc"
_PACKAGE = "gcc-mingw-w64-x86-64-win32"
_REASON = "make programs that stand in for Windows PE's own"
_SYSTEM32 = "Windows/System32"


def put_stand_ins(image: Path, *, scratch: Path) -> None:
    """Put the stand-ins into System32 of the image tree at `image`; those of the base are replaced.

    Raises ToolMissing without mingw.
    """
    system32 = image / _SYSTEM32
    system32.mkdir(parents=True, exist_ok=True)
    (image / FOLDER).mkdir(exist_ok=True)
    tool = _compiled("stand_in", scratch)
    for name in STAND_INS:
        shutil.copyfile(tool, system32 / f"{name}.exe")
    shutil.copyfile(_compiled("winpeshl", scratch), system32 / "winpeshl.exe")


def answer(image: Path, name: str, *, text: str = "", code: int = 0) -> None:
    """What the stand-in `name` prints from now on, and the exit code that it ends with."""
    (image / FOLDER / f"{name}.txt").write_text(text)
    (image / FOLDER / f"{name}.rc").write_text(str(code))


def keep_locked(image: Path, volume: str, key: str | bytes, place: str) -> None:
    """Let `key`, a recovery password or the content of a startup key file, open a volume; see stand_in.c."""
    with (image / _LOCKED).open("a") as listed:
        if isinstance(key, bytes):
            name = f"{hashlib.sha256(key).hexdigest()[:16]}.BEK"
            (image / FOLDER / name).write_bytes(key)
            key = f"@X:\\{FOLDER}\\{name}"
        listed.write(f"{volume}|{key}|{place}\n")


def manage_bde_says(image: Path, *, done: bytes, refused: bytes) -> None:
    """What manage-bde prints from now on, in the code page of some language."""
    for kind, text in (("done", done), ("refused", refused)):
        (image / _SAYS[kind]).write_bytes(text)


def calls(image: Path) -> tuple[str, ...]:
    """How the stand-ins were called, in order: `wpeutil reboot`."""
    log = image / CALLS
    return tuple(log.read_text("utf-8", "replace").split("\n")[:-1]) if log.exists() else ()


def _compiled(source: str, scratch: Path) -> Path:
    target = scratch / f"{source}.exe"
    if not target.exists():
        code = Path(__file__).with_name(f"{source}.c")
        try:
            run([_COMPILER, "-O1", "-s", "-municode", "-o", str(target), str(code)], reason=_REASON, time_limit=120)
        except ToolMissing as error:
            raise ToolMissing(error.message, hint=f"apt-get install {_PACKAGE}") from error
    return target
