"""Keyboard layouts by the names that people type, as Windows PE and as the console of the Linux image want them.

Sources: Windows documentation, "Default Input Profiles (Input Locales)": language and keyboard, as in 0407:00000407;
xkeyboard-config, rules/base.lst: of each country's layouts the one that Windows has under the same name.
"""

from __future__ import annotations

import re

WINDOWS = {
    "at": "0c07:00000407",
    "be": "080c:0000080c",
    "br": "0416:00000416",
    "ca-fr": "0c0c:00001009",
    "ch-de": "0807:00000807",
    "ch-fr": "100c:0000100c",
    "cz": "0405:00000405",
    "de": "0407:00000407",
    "dk": "0406:00000406",
    "es": "0c0a:0000040a",
    "fi": "040b:0000040b",
    "fr": "040c:0000040c",
    "hu": "040e:0000040e",
    "it": "0410:00000410",
    "jp": "0411:00000411",
    "latam": "080a:0000080a",
    "nl": "0413:00020409",
    "no": "0414:00000414",
    "pl": "0415:00000415",
    "pt": "0816:00000816",
    "ro": "0418:00010418",
    "se": "041d:0000041d",
    "sk": "041b:0000041b",
    "tr": "041f:0000041f",
    "uk": "0809:00000809",
    "us": "0409:00000409",
}
#: xkeyboard-config's layout, and its variant where Windows's keyboard is not the layout's own.
XKB: dict[str, tuple[str, ...]] = {
    "at": ("at",),
    "be": ("be",),
    "br": ("br",),
    "ca-fr": ("ca",),
    "ch-de": ("ch",),
    "ch-fr": ("ch", "fr"),
    "cz": ("cz",),
    "de": ("de",),
    "dk": ("dk", "winkeys"),
    "es": ("es",),
    "fi": ("fi", "classic"),
    "fr": ("fr", "azerty"),
    "hu": ("hu",),
    "it": ("it",),
    "jp": ("jp",),
    "latam": ("latam",),
    "nl": ("us", "intl"),
    "no": ("no", "winkeys"),
    "pl": ("pl",),
    "pt": ("pt",),
    "ro": ("ro", "std"),
    "se": ("se",),
    "sk": ("sk",),
    "tr": ("tr",),
    "uk": ("gb",),
    "us": ("us",),
}
_IDENTIFIER = re.compile(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{8}")


def windows_layout(keyboard: str) -> str:
    """What `wpeutil SetKeyboardLayout` takes for a name ("de") or an identifier ("0407:00000407"); "" stays "".

    Raises ValueError for a layout that is not known.
    """
    if not keyboard or _IDENTIFIER.fullmatch(keyboard):
        return keyboard.lower()
    if keyboard.lower() not in WINDOWS:
        raise ValueError(f"there is no layout {keyboard!r}; known are {', '.join(WINDOWS)}, and 0407:00000407 and such")
    return WINDOWS[keyboard.lower()]


def linux_layout(keyboard: str) -> str:
    """The name, a key of XKB, of a layout given by its name or Windows's identifier; "" (the kernel's own) stays "".

    Raises ValueError for a layout that the Linux image cannot have.
    """
    name = keyboard.lower()
    if name and name not in XKB:
        name = next((known for known, identifier in WINDOWS.items() if identifier == name), "")
        if not name:
            raise ValueError(f"there is no layout {keyboard!r} for linux; known are {', '.join(XKB)}")
    return name
