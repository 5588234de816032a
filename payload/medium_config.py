"""What a technician changed on the medium after it was written: \\Bluelift\\config\\config.json.

A JSON object with any of CHANGEABLE, each as in the image's own configuration; all else stays the image's. It counts
only on what this image was started from, and only where a technician plugged that in: whoever can write there can
replace this payload as well, but what lies on a host's own disk may be anybody's. One that cannot be used is not
passed over, for somebody wanted something else than what the image does by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from payload.contract import MEDIUM_CONFIG, MEDIUM_FOLDER, PayloadConfig
from payload.environment import EntryKind, Medium, windows_path
from payload.formats.records import RecordError, from_json, to_json

CHANGEABLE = ("rules", "ending")
CONFIG_PATH = (MEDIUM_FOLDER, MEDIUM_CONFIG, "config.json")
_LARGEST = 1 << 20


class MediumConfigError(Exception):
    """A configuration on the medium that cannot be used; `problems` are plain sentences, at least one."""

    def __init__(self, medium: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"{windows_path(CONFIG_PATH)} on {medium} cannot be used: {problems[0]}")


@dataclass(frozen=True, kw_only=True)
class MediumConfig:
    """The configuration as the medium has it, a sentence on where it lies and what it changes, its sha256 in hex."""

    config: PayloadConfig
    sentence: str
    sha256: str


def read_medium_config(media: Iterable[Medium], image: PayloadConfig) -> MediumConfig | None:
    """What the media change in the image's own configuration; None where they have nothing to say.

    Raises MediumConfigError for what cannot be used, and where two media want different things.
    """
    found: tuple[str, bytes] | None = None
    for medium in media:
        data = _content(medium)
        if data is None:
            continue
        if found is not None and found[1] != data:
            raise MediumConfigError(medium.name, [f"the one on {found[0]} says something else"])
        found = found or (medium.name, data)
    return _changed(*found, image) if found else None


def _content(medium: Medium) -> bytes | None:
    try:
        entry = medium.files.entry(CONFIG_PATH)
        if entry is None:
            return None
        if entry.kind is not EntryKind.FILE or entry.size > _LARGEST:
            raise MediumConfigError(medium.name, [f"it is no file, or has more than {_LARGEST} bytes"])
        with medium.files.open_file(CONFIG_PATH) as stream:
            return stream.read(_LARGEST)
    except OSError as error:
        raise MediumConfigError(medium.name, [f"it cannot be read: {error.strerror or error}"]) from error


def _changed(medium: str, data: bytes, image: PayloadConfig) -> MediumConfig:
    try:
        changes = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MediumConfigError(medium, [f"it is not JSON: {error}"]) from error
    if problems := list(_misfits(changes)):
        raise MediumConfigError(medium, problems)
    own = to_json(image)
    if isinstance(changes.get("ending"), dict):
        changes["ending"] = own["ending"] | changes["ending"]
    try:
        config = from_json(PayloadConfig, own | changes)
    except RecordError as error:
        raise MediumConfigError(medium, [f"{where or 'it'}: {message}" for where, message in error.problems]) from error
    what = [f"rules ({', '.join(rule.id for rule in config.rules)})"] if "rules" in changes else []
    what += ["ending"] if "ending" in changes else []
    return MediumConfig(
        config=config,
        sentence=f"{windows_path(CONFIG_PATH)} on {medium} takes the place of the image's own {' and '.join(what)}.",
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _misfits(changes: Any) -> Iterable[str]:
    """Why this cannot be a change of a configuration."""
    if not isinstance(changes, dict) or not changes:
        yield f"it should be an object with {' or '.join(CHANGEABLE)}"
        return
    for key in changes:
        if key not in CHANGEABLE:
            yield f"{key[:40]}: only {' and '.join(CHANGEABLE)} can be changed here, all else is in the image's profile"
    if changes.get("rules") == []:
        yield "rules: there are none, so nothing would be looked for"
