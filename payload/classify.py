"""What one file is to a rule: read once, and judged by its start, its name, its size, its digest and its time.

`inspect` reads a file and says which class it is of; `classify` is the judgement alone. Neither changes anything, and
neither decides what happens with the file: that is `payload.rules`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from payload.environment import Entry, EntryKind, VolumeFiles, VolumePath, windows_path
from payload.rule_schema import FileClass, HeaderField, Rule, utc_ns_text

_BLOCK = 1 << 20
#: Files above this size are read only where the rule itself speaks of larger ones.
_READ_AT_MOST = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What reading one file once told: its size in bytes, first bytes, whether all are zero, and its digest."""

    size: int
    head: bytes
    all_zero: bool
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """One entry that a rule's pattern named. `problem` is set where it could not be read: then nothing is known.

    `entry` is the directory entry as it was when it was read.
    """

    rule: Rule
    path: VolumePath
    entry: Entry
    file_class: FileClass
    reason: str
    sha256: str = ""
    problem: str = ""


def read_content(files: VolumeFiles, path: VolumePath, head_length: int = 0) -> FileContent:
    """Read a file once, from end to end, in bounded memory. Raises OSError."""
    digest = hashlib.sha256()
    head = b""
    size = 0
    all_zero = True
    with files.open_file(path) as stream:
        while block := stream.read(_BLOCK):
            if len(head) < head_length:
                head += block[: head_length - len(head)]
            all_zero = all_zero and block.count(0) == len(block)
            digest.update(block)
            size += len(block)
    return FileContent(size=size, head=head, all_zero=all_zero, sha256=digest.hexdigest())


def classify(rule: Rule, name: str, content: FileContent, modified_ns: int) -> tuple[FileClass, str]:
    """What a file that the pattern named is, and the reason in a few words. Pure; never raises.

    A rule without magic and header knows nothing of what the file should start with, so nothing is truncated,
    zero-filled or foreign to it.
    """
    for step in (_by_substance, _by_header, _by_conditions):
        if judged := step(rule, name, content):
            return judged
    return _by_time(rule, modified_ns)


def inspect(files: VolumeFiles, rule: Rule, path: VolumePath, entry: Entry, *, name: str = "") -> Match:
    """Read and classify one entry. `name` is what the file was called where it is now called something else."""

    def other(reason: str, problem: str = "") -> Match:
        return Match(rule=rule, path=path, entry=entry, file_class=FileClass.OTHER, reason=reason, problem=problem)

    if entry.problem:
        return other("could not be looked at", not_looked_at(path, entry))
    if entry.kind is not EntryKind.FILE:
        what = "a reparse point" if entry.kind is EntryKind.LINK else f"no ordinary file ({entry.kind.value})"
        return other(f"is {what}: never touched")
    if reason := _above_maximum(rule, entry.size) or _too_large(rule, entry.size):
        return other(reason)
    try:
        content = read_content(files, path, rule.header_length)
    except OSError as error:
        sentence = f"{windows_path(path)} could not be read: {error.strerror or error}"
        return other("could not be read", sentence)
    file_class, reason = classify(rule, name or entry.name, content, entry.modified_ns)
    return Match(rule=rule, path=path, entry=entry, file_class=file_class, reason=reason, sha256=content.sha256)


def left_unread(rule: Rule, size: int) -> str:
    """Why a file of `size` bytes is left, though the rule may be about it; empty where it is read, or surely is not."""
    return "" if _above_maximum(rule, size) else _too_large(rule, size)


def not_looked_at(path: VolumePath, entry: Entry) -> str:
    """The sentence on an entry that the file system would not even describe."""
    return f"{windows_path(path)} could not be looked at: {entry.problem}"


def _above_maximum(rule: Rule, size: int) -> str:
    """Why a file of `size` bytes is surely not one the rule is about; empty where only reading it can tell."""
    if rule.max_size is None or size <= rule.max_size or rule.header_length:
        return ""
    return f"has {size} bytes, the rule is about {rule.max_size} or fewer"


def _too_large(rule: Rule, size: int) -> str:
    """Why a file of `size` bytes is not read; empty where it is. A sparse file of 16 TiB takes hours and no space."""
    if rule.max_size is not None:
        limit = max(rule.max_size, _READ_AT_MOST)
    elif rule.sha256:
        return ""
    else:
        limit = _READ_AT_MOST
    return f"has {size} bytes, at most {limit} are read" if size > limit else ""


def _by_substance(rule: Rule, _name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Empty, zeroed, cut off, or another kind of file: what magic and length tell."""
    needed = rule.header_length
    if needed == 0:
        return None
    if content.size == 0:
        return FileClass.TRUNCATED, "is empty"
    if content.all_zero:
        return FileClass.ZERO_FILLED, f"all {content.size} bytes are zero"
    magic = bytes.fromhex(rule.magic)
    found = content.head[: len(magic)]
    if found != magic[: len(found)]:
        return FileClass.FOREIGN, f"starts with {found.hex(' ').upper()}, not with {magic.hex(' ').upper()}"
    if content.size < needed:
        return FileClass.TRUNCATED, f"has {content.size} bytes, its header alone has {needed}"
    return None


def _by_header(rule: Rule, name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Whether the header says what the name says."""
    groups: dict[str, str | None] = {}
    if rule.name_format:
        parsed = re.fullmatch(rule.name_format, name, re.IGNORECASE)
        if parsed is None:
            return FileClass.NAME_MISMATCH, "its name is not made as such a file's name is"
        groups = parsed.groupdict()
    for header_field in rule.header:
        found = int.from_bytes(content.head[header_field.offset :][: header_field.size], "little")
        if (wanted := _disagreement(header_field, found, groups)) is not None:
            return FileClass.NAME_MISMATCH, f"its header has {header_field.name} {found}, not {wanted}"
    return None


def _disagreement(header_field: HeaderField, found: int, groups: dict[str, str | None]) -> str | None:
    """What the field should have been, None where it is as it should be."""
    if header_field.equals is not None and found != header_field.equals:
        return str(header_field.equals)
    if header_field.in_name is not None:
        text = groups.get(header_field.in_name) or ""
        # isdecimal and not isdigit: int() takes "٣" but not "²".
        if not text.isdecimal() or int(text) != found:
            return f"{text or 'nothing'} as in its name"
    return None


def _by_conditions(rule: Rule, _name: str, content: FileContent) -> tuple[FileClass, str] | None:
    """Whether size and digest are those the rule asks for."""
    if rule.min_size is not None and content.size < rule.min_size:
        return FileClass.OTHER, f"has {content.size} bytes, the rule is about {rule.min_size} or more"
    if rule.max_size is not None and content.size > rule.max_size:
        return FileClass.OTHER, f"has {content.size} bytes, the rule is about {rule.max_size} or fewer"
    if rule.sha256 and content.sha256 not in rule.sha256:
        return FileClass.OTHER, "its sha256 is not one the rule names"
    return None


def _by_time(rule: Rule, modified_ns: int) -> tuple[FileClass, str]:
    if rule.window is None:
        return FileClass.FAULTY, "meets every condition of the rule"
    when = utc_ns_text(modified_ns) or "a time out of range"
    if modified_ns < rule.window.faulty_from_ns:
        return FileClass.OLDER, f"modified {when}, before {rule.window.faulty_from}"
    if modified_ns < rule.window.corrected_from_ns:
        return FileClass.FAULTY, f"modified {when}, between {rule.window.faulty_from} and {rule.window.corrected_from}"
    return FileClass.CORRECTED, f"modified {when}, not before {rule.window.corrected_from}"
