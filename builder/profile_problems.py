"""What is wrong with a profile, in words for whoever wrote it: keys and values, and what does not fit together."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builder.bcd import BcdSettings, settings_problems
from builder.errors import Problem
from builder.keyboards import linux_layout, windows_layout
from builder.yaml_lines import Document
from payload.formats.vault import HEADER_SIZE, VaultError, read_header

#: Keys that make sense in one environment only.
_LINUX_BASE = ("suite", "mirror", "security_mirror", "keyring", "debs")
_WINPE_BASE = ("kind", "path", "media", "index")
_WINPE_KEYS = (
    "bitlocker", "boot_ca", "prompt", "layout", "drivers", "bcd", "background", "payload_exe",
)  # fmt: skip
_JPEG = b"\xff\xd8\xff"


def schema_problems(data: dict[str, Any], document: Document) -> Iterator[Problem]:
    """What `builder.profile_schema` says against each key and value of a profile, in plain words."""
    # No plugins: pydantic would read what every installed package says of itself to find some.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # pydantic takes a tenth of a second to import; nothing else of a cached build needs it.
    from pydantic import ValidationError  # noqa: PLC0415

    from builder.profile_schema import ProfileFile  # noqa: PLC0415

    try:
        # As JSON, because pydantic's strict mode takes enums from text only there.
        ProfileFile.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = _dotted(found["loc"])
            yield Problem(path=path, line=document.line(path), message=_plainly(found))


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _plainly(found: Any) -> str:
    """A pydantic error in words for somebody who writes a profile."""
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + _did_you_mean(found["loc"])
    shown = f", found {json.dumps(value, ensure_ascii=False)[:60]}"
    quotes = " (put it in quotes)" if isinstance(value, int | float | bool) else ""
    wanted = {
        "string_type": f"should be text{quotes}",
        "bool_type": "should be true or false",
        "int_type": "should be a whole number",
        "int_from_float": "should be a whole number",
        "list_type": "should be a list",
        "model_type": "should hold 'key: value' lines of its own",
        "literal_error": f"should be {context.get('expected')}",
        "enum": f"should be {context.get('expected')}",
        "greater_than_equal": f"should be {context.get('ge')} or more",
        "less_than_equal": f"should be {context.get('le')} or less",
        "string_pattern_mismatch": f"should match {context.get('pattern')}",
        "string_too_long": f"should have at most {context.get('max_length')} characters",
        "string_too_short": "should not be empty",
    }.get(kind)
    return wanted + shown if wanted else str(found["msg"]).removeprefix("Value error, ")


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    from builder.profile_schema import BaseSection, BcdSection, EndingSection, ProfileFile, Section  # noqa: PLC0415

    sections: dict[object, type[Section]] = {"base": BaseSection, "bcd": BcdSection, "ending": EndingSection}
    known = list(sections.get(location[0], ProfileFile).model_fields if len(location) > 1 else ProfileFile.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def combination_problems(data: dict[str, Any], bcd: BcdSettings, folder: Path) -> Iterator[tuple[str, str]]:
    """What is right by itself and impossible together, as (path, message). The rules' own: `builder.profile_rules`.

    `data` is a profile that its schema allows, `bcd` what it says of the boot menu; paths in it start at `folder`.
    """
    ending = data.get("ending", {})
    if data.get("environment") == "winpe":
        yield from _winpe_combinations(data, bcd, folder)
    else:
        yield from _linux_combinations(data, folder)
    if data.get("unattended"):
        for key in ("repaired", "otherwise", "nobody"):
            if ending.get(key) == "stay":
                yield f"ending.{key}", "stay waits for a key for ever, but unattended says that nobody is there"
    if data.get("vault") is not None:
        yield from (("vault", problem) for problem in _vault_problems(folder / data["vault"]))
    if data.get("tail") is not None and not data.get("hybrid", True):
        yield "tail", "is for hybrid: true; a plain ISO has no free space"
    outputs = data.get("outputs", ["iso"])
    if "iso" not in outputs:
        yield "outputs", "must have iso: the others are the same image again"
    if len(outputs) > 1 and not data.get("hybrid", True):
        yield "outputs", "img, vhdx and vhd are for hybrid: true; a plain ISO is no disk"
    if str(data.get("output", "")).lower().endswith(".iso"):
        yield "output", "is the name without .iso"


def _vault_problems(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            header = read_header(stream.read(HEADER_SIZE))
            if header.vault_size != stream.seek(0, os.SEEK_END):
                yield f"{path} was cut off or added to; import the keys again"
    except VaultError as error:
        yield f"{path} cannot be used: {error}; 'bluelift keys import' makes a vault"
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"


def _linux_combinations(data: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    base = data.get("base", {})
    for key in _WINPE_KEYS:
        if key in data:
            yield key, "is for environment: winpe"
    for key in _WINPE_BASE:
        if key in base:
            yield f"base.{key}", "is for environment: winpe; linux is made of Debian packages"
    for key in ("mirror", "security_mirror", "keyring"):
        if base.get("debs") is not None and base.get(key) is not None:
            yield f"base.{key}", "cannot be given together with base.debs: the packages come from that folder"
    if base.get("keyring") is not None and not (folder / base["keyring"]).is_file():
        yield "base.keyring", f"there is no file {folder / base['keyring']}"
    if base.get("debs") is not None and not (folder / base["debs"]).is_dir():
        yield "base.debs", f"there is no folder {folder / base['debs']}"
    yield from _keyboard_problems(data, linux_layout)


def _winpe_combinations(data: dict[str, Any], bcd: BcdSettings, folder: Path) -> Iterator[tuple[str, str]]:
    base = data.get("base", {})
    for key in _LINUX_BASE:
        if key in base:
            yield f"base.{key}", "is for environment: linux; winpe is made of media of your own (kind and path)"
    yield from _winpe_base(base, folder)
    if len(data.get("volume_id") or "") > 16:
        yield "volume_id", "should have at most 16 characters: Joliet and UDF, which WinPE media have, allow no more"
    for index, name in enumerate(data.get("drivers", [])):
        if not (folder / name).is_dir():
            yield f"drivers[{index}]", f"there is no folder {folder / name}"
    if data.get("payload_exe") is not None and not (folder / data["payload_exe"]).is_dir():
        yield "payload_exe", f"there is no folder {folder / data['payload_exe']}"
    if data.get("background") is not None:
        yield from (("background", problem) for problem in _picture_problems(folder / data["background"]))
    yield from _keyboard_problems(data, windows_layout)
    serial = data.get("serial", "ttyS0")
    receipts = int(serial.removeprefix("ttyS")) + 1 if serial else None
    for key, message in settings_problems(bcd, receipt_port=receipts):
        yield f"bcd.{key.partition('.')[0]}", message


def _keyboard_problems(data: dict[str, Any], layout: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    try:
        layout(data.get("keyboard", ""))
    except ValueError as error:
        yield "keyboard", str(error)


def _winpe_base(base: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    kind, path, media = base.get("kind"), base.get("path"), base.get("media")
    if kind is not None and path is None:
        yield "base.kind", "needs base.path beside it"
    if path is not None and kind is None:
        yield "base.path", "needs base.kind beside it: windows-iso, adk or winre"
    if media is not None and kind != "winre":
        yield "base.media", "is for kind: winre, which has no boot files of its own"
    if kind == "winre" and media is None:
        yield "base.kind", "winre needs base.media: the install ISO or ADK folder that lends its boot files"
    for key, value in (("path", path), ("media", media)):
        if value is not None and not (folder / value).exists():
            yield f"base.{key}", f"{folder / value} does not exist"
    if base.get("index", "auto") != "auto" and base["index"] < 1:
        yield "base.index", f"should be 1 or more, or auto, found {base['index']}"


def _picture_problems(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            if stream.read(len(_JPEG)) != _JPEG:
                yield f"{path} is not a JPEG, the only format that Windows PE shows"
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"
