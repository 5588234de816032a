"""What Bluelift puts into a Windows PE image beside the payload: the chain of start and the configuration.

    winpeshl.ini -> cmd.exe /k startnet.cmd -> X:\\Bluelift\\payload\\payload.exe -> config.json

A winpeshl.ini of the base (as the recovery environment has) is replaced: there is exactly one chain.
"""

from __future__ import annotations

import json
import re

from builder.errors import TemplateError
from builder.render import render
from builder.startnet_lint import lint_startnet
from builder.wim_build import Put
from payload.contract import MEDIUM_FOLDER, PayloadConfig
from payload.formats.records import to_json

#: Paths inside the image.
PAYLOAD_FOLDER = f"{MEDIUM_FOLDER}/payload"
DRIVERS_FOLDER = f"{MEDIUM_FOLDER}/drivers"
CONFIG = f"{MEDIUM_FOLDER}/config.json"
STARTNET = "Windows/System32/startnet.cmd"
WINPESHL = "Windows/System32/winpeshl.ini"
#: The system drive of every Windows PE (the registry of the image says so).
_DRIVE = "X:"
_EXECUTABLE = "payload.exe"
LOG = f"{MEDIUM_FOLDER}/payload.log"
#: "Wpeutil Command-Line Options": language and keyboard identifier, as in 0407:00000407.
_KEYBOARD = re.compile(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{8}")
#: cmd.exe obeys these even in what echo prints.
_OBEYED = str.maketrans(dict.fromkeys('&|<>^%"!', " "))


def winpe_files(config: PayloadConfig, *, keyboard: str = "") -> tuple[Put, ...]:
    """startnet.cmd, winpeshl.ini and config.json, in the bytes they have in the image.

    `keyboard` is a keyboard layout as wpeutil takes it (`0407:00000407`), empty for the base's own. Raises ValueError
    for one that is none.
    """
    return (
        Put(target=STARTNET, source=startnet_cmd(config, keyboard=keyboard)),
        Put(target=WINPESHL, source=winpeshl_ini()),
        Put(target=CONFIG, source=(json.dumps(to_json(config), indent=1) + "\n").encode("ascii")),
    )


def startnet_cmd(config: PayloadConfig, *, keyboard: str = "") -> bytes:
    """startnet.cmd: ASCII, CR LF, linted. Raises ValueError for a keyboard that is none."""
    if keyboard and not _KEYBOARD.fullmatch(keyboard):
        raise ValueError(f"{keyboard!r} is no keyboard layout; one looks like 0407:00000407")
    values = {
        "bluelift": _printed(config.bluelift),
        "contact": _printed("   ".join(filter(None, (config.organisation, config.contact)))),
        "keyboard": keyboard,
        "payload": in_windows(f"{PAYLOAD_FOLDER}/{_EXECUTABLE}"),
        "log": in_windows(LOG),
    }
    script = render("winpe/startnet.cmd.j2", values, newline="\r\n", encoding="ascii")
    if problems := lint_startnet(script):
        found = "\n".join(f"startnet.cmd:{problem.line}: {problem.reason}: {problem.text}" for problem in problems)
        raise TemplateError(f"the template of startnet.cmd cannot be used\n{found}", hint="Mend templates/winpe.")
    return script


def winpeshl_ini() -> bytes:
    """winpeshl.ini, with the one command that Windows PE starts ("Winpeshl.ini Files": a comma before the options)."""
    return render("winpe/winpeshl.ini.j2", {"startnet": in_windows(STARTNET)}, newline="\r\n", encoding="ascii")


def in_windows(path: str) -> str:
    """A path inside the image as the running Windows PE has it: `X:\\Windows\\System32\\startnet.cmd`."""
    return _DRIVE + "\\" + path.replace("/", "\\")


def _printed(text: str) -> str:
    """A text of the profile as one that `echo` prints on any code page."""
    plain = text.encode("ascii", "replace").decode("ascii").translate(_OBEYED)
    return " ".join("".join(c for c in plain if c.isprintable()).split())[:200]
