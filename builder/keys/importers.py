"""Recovery passwords out of what people really have: CSV, JSON, LDIF and plain text, told apart by their content.

Sources: CrowdStrike falcon-windows-host-recovery README (CSV with KeyID, RecoveryKey); Microsoft Graph,
"bitlockerRecoveryKey resource type" (id, key, deviceId, createdDateTime); [MS-ADA2] and [MS-ADLS],
msFVE-RecoveryInformation (msFVE-RecoveryGuid is 16 bytes as on disk; the object lies below its computer and is named
date, time and {GUID}); RFC 2849 (LDIF); Windows, `manage-bde -protectors -get` and the file
"BitLocker Recovery Key GUID.TXT", whose words are in the user's language, so only GUIDs and digits are looked at.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.errors import UsageError
from builder.keys.found import GUID, PASSWORD, FoundKey, Reject, checked, guid_text, host_of_name, lines_with_numbers

#: A file of keys is never larger; a million keys in JSON are about 300 MB.
_LARGEST = 2 << 30
_KEY_ID_NAMES = ("keyid", "id", "recoveryguid", "msfverecoveryguid", "recoverykeyid", "bitlockerkeyid", "passwordid", "keyprotectorid")  # fmt: skip  # noqa: E501
_PASSWORD_NAMES = ("recoverykey", "key", "msfverecoverypassword", "recoverypassword", "bitlockerrecoverykey", "password")  # fmt: skip  # noqa: E501
_HOST_NAMES = ("computername", "hostname", "devicename", "host", "computer", "device", "displayname", "devicedisplayname")  # fmt: skip  # noqa: E501
_DN_NAMES = ("distinguishedname", "dn")
_NOT_A_NAME = re.compile(r"[^a-z]")


def read_keys(path: Path) -> Iterator[FoundKey | Reject]:
    """The keys of one file. Raises UsageError where it cannot be read or holds nothing that could be a key."""
    text = _text(path)
    reader = _reader(text)
    nothing = True
    for found in reader(text, path.name):
        nothing = False
        yield found
    if nothing:
        raise UsageError(
            f"{path} holds no recovery password",
            hint="Give a CSV, JSON, LDIF or text file with key ids (GUIDs) and 48-digit recovery passwords.",
        )


def _text(path: Path) -> str:
    """The file's text: UTF-8, or UTF-16 as Windows PowerShell and Windows itself write it, or Windows-1252."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is larger than 2 GiB", hint="Split it, and give all of its parts.")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Check its name and its rights.") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if 0 in data[:2]:  # UTF-16 whose mark was lost on the way: all of these files begin with an ASCII character
        return data.decode("utf-16-le" if data[0] else "utf-16-be", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _reader(text: str) -> Callable[[str, str], Iterator[FoundKey | Reject]]:
    start = text.lstrip()
    if start[:1] in ("{", "["):
        return _json_keys if not GUID.match(start[1:]) else _text_keys
    if re.search(r"^dn::? ", text, re.MULTILINE | re.IGNORECASE):
        return _ldif_keys
    first = next((line for line in start.splitlines() if line and not line.startswith("#TYPE")), "")
    names = {_plain(cell) for cell in re.split(r"[,;\t]", first)}
    return _csv_keys if names & set(_PASSWORD_NAMES) else _text_keys


def _plain(name: str) -> str:
    return _NOT_A_NAME.sub("", name.lower())


# --- tables ------------------------------------------------------------------------------------------------------


def _csv_keys(text: str, file: str) -> Iterator[FoundKey | Reject]:
    """Rows below a heading, divided by whatever divides the heading. Export-Csv's `#TYPE` line may stand before it."""
    lines = io.StringIO(text, newline=None)  # a line may end in CR alone (Excel's "CSV (Macintosh)")
    headings = ((line, at) for at, line in enumerate(lines, 1) if line.strip() and not line.startswith("#TYPE"))
    heading, skipped = next(headings, ("", 0))
    divider = max(",;\t", key=heading.count)
    rows = csv.reader(lines, delimiter=divider)
    try:
        names = [_plain(name) for name in next(csv.reader([heading], delimiter=divider), [])]
        for row in rows:
            if any(row):
                yield _from_fields(dict(zip(names, row, strict=False)), file, skipped + rows.line_num)
    except csv.Error as error:
        yield Reject(file=file, line=skipped + rows.line_num, why=f"the table cannot be read on: {error}")


def _from_fields(fields: Mapping[str, str], file: str, line: int) -> FoundKey | Reject:
    """A key of named fields, whatever its source calls them."""
    password = _first(fields, _PASSWORD_NAMES)
    name = _first(fields, _DN_NAMES)
    key_id = _first(fields, _KEY_ID_NAMES, _is_key_id)
    if not key_id:
        key_id = next((value for value in (fields.get("name", ""), name) if GUID.search(value)), "")
    host = _first(fields, _HOST_NAMES) or host_of_name(name)
    return checked(_guid_of(key_id), password, host, file, line)


def _first(fields: Mapping[str, str], names: Sequence[str], fits: Callable[[str], object] = bool) -> str:
    return next((fields[name] for name in names if fits(fields.get(name, ""))), "")


def _is_key_id(value: str) -> bool:
    return bool(GUID.search(_guid_of(value)))


def _guid_of(value: str) -> str:
    """A key id's GUID: itself, or its 16 bytes as PowerShell's CSV ("1 2 255 ...") or base64 has them."""
    if not value or GUID.search(value):
        return value
    numbers = value.split()
    if len(numbers) == 16 and all(number.isdigit() and int(number) < 256 for number in numbers):
        return guid_text(bytes(map(int, numbers)))
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value
    return guid_text(data) if len(data) == 16 else value


# --- JSON --------------------------------------------------------------------------------------------------------


def _json_keys(text: str, file: str) -> Iterator[FoundKey | Reject]:
    """Graph's answers (`{"value": [...]}`), lists, ConvertTo-Json of AD objects, and one object a line."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield from _json_lines(text, file, error)
        return
    lines = _LineFinder(text)
    for found in _objects(data):
        yield _from_object(found, file, lines)


def _json_lines(text: str, file: str, error: Exception) -> Iterator[FoundKey | Reject]:
    for line, content in lines_with_numbers(text):
        if not content.strip():
            continue
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            where = getattr(error, "lineno", line)
            yield Reject(file=file, line=where, why="it is not JSON from here on")
            return
        for found in _objects(data):
            yield _from_fields(_texts(found), file, line)


def _objects(data: Any) -> Iterator[dict[str, Any]]:
    """Every object with a field that is named as a recovery password, at any depth."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if any(_plain(name) in _PASSWORD_NAMES and isinstance(value, str) for name, value in one.items()):
                yield one
            waiting.extend(reversed([value for value in one.values() if isinstance(value, dict | list)]))
        elif isinstance(one, list):
            waiting.extend(reversed(one))


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    texts = {_plain(name): value for name, value in found.items() if isinstance(value, str)}
    for name, value in found.items():
        if isinstance(value, list) and len(value) == 16 and all(isinstance(n, int) for n in value):
            texts[_plain(name)] = " ".join(map(str, value))
    return texts


def _from_object(found: Mapping[str, Any], file: str, lines: _LineFinder) -> FoundKey | Reject:
    fields = _texts(found)
    key = _from_fields(fields, file, 0)
    line = lines.next_line(next((str(value) for value in found.values() if isinstance(value, str)), ""))
    if isinstance(key, Reject):
        return Reject(file=file, line=line, why=key.why)
    return FoundKey(key.key_id, key.recovery_key, key.host, file, line)


class _LineFinder:
    """Where texts stand that are asked for in their own order; looked for only forwards, so that it stays linear."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def next_line(self, wanted: str) -> int:
        """The line of the next place of `wanted`; the last line known where it is written in another way."""
        found = self._text.find(f'"{wanted}"', self._at)
        if found >= 0:
            self._line += self._text.count("\n", self._at, found)
            self._at = found
        return self._line


# --- LDIF --------------------------------------------------------------------------------------------------------


def _ldif_keys(text: str, file: str) -> Iterator[FoundKey | Reject]:
    """Entries of attribute lines, folded where a line begins with a space; entries without keys are skipped."""
    for line, attributes in _ldif_entries(text):
        if "msfverecoverypassword" in attributes:
            yield _from_fields(attributes, file, line)


def _ldif_entries(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    entry: dict[str, str] = {}
    start = 1
    for line, content in _unfolded(text):
        if not content:
            if entry:
                yield start, entry
            entry = {}
        elif not content.startswith("#"):
            name, _, value = content.partition(":")
            start = line if not entry else start
            entry[_plain(name)] = _ldif_value(value)
    if entry:
        yield start, entry


def _unfolded(text: str) -> Iterator[tuple[int, str]]:
    waiting: tuple[int, str] | None = None
    for line, content in lines_with_numbers(text):
        if waiting is not None and content.startswith(" "):
            waiting = (waiting[0], waiting[1] + content[1:])
            continue
        if waiting is not None:
            yield waiting
        waiting = (line, content)
    if waiting is not None:
        yield waiting


def _ldif_value(value: str) -> str:
    """A value after its first colon; one of base64 that is text is decoded, 16 bytes stay as they are."""
    if not value.startswith(":"):
        return value.strip()
    encoded = value[1:].strip()
    try:
        data = base64.b64decode(encoded, validate=True)
        return encoded if len(data) == 16 else data.decode("utf-8")
    except (binascii.Error, ValueError):
        return encoded


# --- plain text --------------------------------------------------------------------------------------------------


def _text_keys(text: str, file: str) -> Iterator[FoundKey | Reject]:
    """Each password with the GUID before it in the text (or on its line), in whatever language the words are."""
    key_id = ""
    for line, content in lines_with_numbers(text):
        guids = list(GUID.finditer(content))
        passwords = list(PASSWORD.finditer(content))
        for password in passwords:
            before = [guid[0] for guid in guids if guid.start() < password.start()]
            own = before[-1] if before else guids[0][0] if guids and len(passwords) == 1 else key_id
            yield checked(own, password[0], "", file, line)
            key_id = ""
        if guids and not passwords:
            key_id = guids[-1][0]
