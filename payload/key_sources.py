"""Keys that lie on attached media: startup keys, vaults, passphrase files, plain CSV files.

    \\Bluelift\\vault\\*.vault     vaults (formats.vault)
    \\Bluelift\\vault\\*.csv       recovery passwords that anybody can read: KeyID,RecoveryKey
    \\Bluelift\\vault\\*.BEK       startup keys; also in the root
    \\Bluelift\\passphrase.txt    the vaults' passphrase, on another medium than theirs

Media are read one after another, and only what volumes of this host want is kept. Anybody may have put anything on a
medium: what cannot be used becomes a note that holds no secret.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, TextIO

from payload.contract import MEDIUM_FOLDER, MEDIUM_VAULT
from payload.environment import EntryKind, Medium, VolumePath, called, windows_path
from payload.formats import recovery_password
from payload.formats.fve_entries import FveError
from payload.formats.partition_table import guid_bytes
from payload.formats.recovery_password import RecoveryPasswordError
from payload.formats.startup_key import LARGEST_FILE, read_startup_key
from payload.formats.vault import (
    Cipher,
    VaultDamaged,
    VaultHeader,
    WrongPassphrase,
    normalised,
    open_vault,
    read_whole_header,
)

PASSPHRASE_NAME = "passphrase.txt"
#: How many files of a kind are looked at on a medium: somebody may have planted thousands.
_MOST_STARTUP_KEYS, _MOST_VAULTS, _MOST_CSV = 1000, 16, 16
_MOST_NOTES = 8
_PASSPHRASE_BYTES = 4096
#: A million keys in a spreadsheet's export take a hundred megabytes. Somebody may have planted a file without an end.
_MOST_LINES, _LONGEST_LINE = 5_000_000, 1 << 16
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """GUIDs of the protectors that keys are looked for, upper-case text without braces."""

    recovery: frozenset[str]
    startup: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class FoundVault:
    """A vault of the right length: the medium it is on, where on it, and its header."""

    medium: str
    disk: str
    path: VolumePath
    header: VaultHeader

    @property
    def words(self) -> str:
        """Where it is, for the screen and the receipt."""
        return f"{windows_path(self.path)} on {self.medium}"


@dataclass(frozen=True, kw_only=True, repr=False)
class FoundPassphrase:
    """A passphrase file. `text` is a secret."""

    medium: str
    disk: str
    text: str

    @property
    def words(self) -> str:
        """Where it is."""
        return f"{windows_path((MEDIUM_FOLDER, PASSPHRASE_NAME))} on {self.medium}"


@dataclass(kw_only=True, repr=False)
class FoundKeys:
    """What the media hold. Startup keys (whole files) and plain keys (16 bytes) by the GUID of their protector."""

    startup: dict[str, bytes] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    plain_files: list[str] = field(default_factory=list)
    vaults: list[FoundVault] = field(default_factory=list)
    passphrases: list[FoundPassphrase] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a sentence for the receipt; of very many only the first."""
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(text)


def look_for_keys(media: Iterable[Medium], wanted: Wanted) -> FoundKeys:
    """Read every medium once. Raises nothing for what is on them; OSError of a medium becomes a note."""
    found = FoundKeys()
    for medium in media:
        try:
            _look_on(medium, wanted, found)
        except OSError as error:
            found.note(f"{medium.name} could not be searched for keys: {error.strerror or error}.")
    found.vaults.sort(key=lambda vault: vault.header.written, reverse=True)
    return found


def _look_on(medium: Medium, wanted: Wanted, found: FoundKeys) -> None:
    folder = _folder(medium, (), MEDIUM_FOLDER)
    vault_folder = _folder(medium, folder, MEDIUM_VAULT) if folder else None
    files = _files(medium, (), _ends_in(".bek"), _MOST_STARTUP_KEYS)
    if folder:
        files += _files(medium, folder, called(PASSPHRASE_NAME), 1)
    if vault_folder:
        files += _files(medium, vault_folder, _ends_in(".bek"), _MOST_STARTUP_KEYS)
        files += _files(medium, vault_folder, _ends_in(".vault"), _MOST_VAULTS)
        files += _files(medium, vault_folder, _ends_in(".csv"), _MOST_CSV)
    for path in files:
        try:
            _take(medium, path, wanted, found)
        except OSError as error:
            found.note(f"{windows_path(path)} on {medium.name} cannot be read: {error.strerror or error}.")


def _take(medium: Medium, path: VolumePath, wanted: Wanted, found: FoundKeys) -> None:
    match path[-1].casefold().rpartition(".")[2]:
        case "bek":
            _take_startup_key(medium, path, wanted, found)
        case "vault":
            _take_vault(medium, path, found)
        case "csv":
            _take_plain(medium, path, wanted, found)
        case _:
            _take_passphrase(medium, path, found)


def _folder(medium: Medium, parent: VolumePath, name: str) -> VolumePath | None:
    entries = (e for e in medium.files.scan(parent, called(name)) if e.kind is EntryKind.DIRECTORY)
    entry = next(entries, None)
    return (*parent, entry.name) if entry else None


def _files(medium: Medium, folder: VolumePath, wanted: Callable[[str], bool], most: int) -> list[VolumePath]:
    """Ordinary files whose names are wanted, by name."""
    entries = (e for e in medium.files.scan(folder, wanted) if e.kind is EntryKind.FILE)
    return [(*folder, name) for name in sorted(entry.name for entry in islice(entries, most))]


def _ends_in(suffix: str) -> Callable[[str], bool]:
    return lambda name: name.casefold().endswith(suffix) and not name.startswith(".")


# --- what is taken from a file ---------------------------------------------------------------------------------------


def _take_startup_key(medium: Medium, path: VolumePath, wanted: Wanted, found: FoundKeys) -> None:
    data = _content(medium, path, LARGEST_FILE + 1)
    try:
        key = read_startup_key(data)
    except FveError as error:
        found.note(f"{windows_path(path)} on {medium.name} is no startup key: {error}.")
        return
    if key.guid in wanted.startup:
        found.startup.setdefault(key.guid, data)


def _take_passphrase(medium: Medium, path: VolumePath, found: FoundKeys) -> None:
    data = _content(medium, path, _PASSPHRASE_BYTES)
    # The first line, as `bluelift keys --passphrase-file` has it: somebody may have written below it what it is for.
    text = next(filter(None, map(normalised, _decoded(data).lstrip("\ufeff").splitlines())), "")
    if text:
        found.passphrases.append(FoundPassphrase(medium=medium.name, disk=medium.disk or medium.name, text=text))
    else:
        found.note(f"{windows_path(path)} on {medium.name} is empty.")


def _take_vault(medium: Medium, path: VolumePath, found: FoundKeys) -> None:
    try:
        with medium.files.open_file(path) as stream:
            header = read_whole_header(stream)
    except VaultDamaged as error:
        # Always: a stick full of other files must not hide why its vault is of no use.
        found.notes.append(f"The vault {windows_path(path)} on {medium.name} cannot be used: {error}.")
        return
    # One stick shows the same files twice where it carries two file systems over each other. A copy that was cut off is
    # not among those found: it must not stand for the whole one.
    if all(vault.header.salt != header.salt for vault in found.vaults):
        found.vaults.append(FoundVault(medium=medium.name, disk=medium.disk or medium.name, path=path, header=header))


def _take_plain(medium: Medium, path: VolumePath, wanted: Wanted, found: FoundKeys) -> None:
    where = f"{windows_path(path)} on {medium.name}"
    with medium.files.open_file(path) as stream:
        try:
            rows = _plain_rows(stream)
            for number, key_id, password in rows:
                if key_id not in wanted.recovery or key_id in found.plain:
                    continue
                try:
                    found.plain[key_id] = recovery_password.parse(password)
                except RecoveryPasswordError as error:
                    found.note(f"{where}, line {number}: the recovery password cannot be right, for {error}.")
        except (csv.Error, ValueError):
            found.note(f"{where} is no table of KeyID and RecoveryKey.")
            return
    found.plain_files.append(where)


def _plain_rows(stream: BinaryIO) -> Iterator[tuple[int, str, str]]:
    """(line, GUID, password) of each row. Raises csv.Error, ValueError: no such columns, or lines as no table has."""
    start = stream.read(2)
    stream.seek(0)
    encoding = "utf-16" if start in _UTF16_MARKS else "utf-8-sig"
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
    header = text.readline(1000)
    delimiter = next((mark for mark in ";\t" if mark in header), ",")
    names = [name.strip(' "\r\n').casefold() for name in header.split(delimiter)]
    at, key_at = names.index("keyid"), names.index("recoverykey")
    rows = csv.reader(islice(_short_lines(text), _MOST_LINES), delimiter=delimiter)
    for row in rows:
        if len(row) > max(at, key_at):
            yield 1 + rows.line_num, row[at].strip(" {}").upper(), row[key_at]


def _short_lines(text: TextIO) -> Iterator[str]:
    """The lines of a text of which no more than one is ever in memory. Raises ValueError for one that is too long."""
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE} characters")
        yield line


def _content(medium: Medium, path: VolumePath, most: int) -> bytes:
    with medium.files.open_file(path) as stream:
        return stream.read(most)


def _decoded(data: bytes) -> str:
    return data.decode("utf-16" if data[:2] in _UTF16_MARKS else "utf-8", "replace")


# --- vaults ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class VaultAnswer:
    """What a passphrase gave: keys by GUID, the vaults that it opened, those that are not its own, and notes."""

    keys: dict[str, bytes] = field(default_factory=dict)
    opened: list[FoundVault] = field(default_factory=list)
    refused: list[FoundVault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_vaults(
    media: Iterable[Medium], vaults: Sequence[FoundVault], passphrase: str, wanted: frozenset[str], cipher: Cipher
) -> VaultAnswer:
    """Look the wanted key ids up in every vault that the passphrase opens; the newest vault's word counts."""
    answer = VaultAnswer()
    results: dict[FoundVault, dict[str, bytes]] = {}
    met = set[FoundVault]()
    for medium in media:
        for vault in vaults:
            if vault.medium != medium.name:
                continue
            met.add(vault)
            try:
                with medium.files.open_file(vault.path) as stream:
                    results[vault] = _look_up(stream, passphrase, wanted, cipher)
                answer.opened.append(vault)
            except WrongPassphrase:
                answer.refused.append(vault)
            except VaultDamaged as error:
                answer.notes.append(f"The vault {vault.words} cannot be used: {error}.")
            except OSError as error:
                answer.notes.append(f"The vault {vault.words} cannot be read: {error.strerror or error}.")
    for vault in reversed(vaults):
        answer.keys |= results.get(vault, {})
    gone = [vault.words for vault in vaults if vault not in met]
    answer.notes += [f"The vault {words} is not there any more." for words in gone]
    return answer


def _look_up(stream: BinaryIO, passphrase: str, wanted: frozenset[str], cipher: Cipher) -> dict[str, bytes]:
    vault = open_vault(stream, passphrase, cipher)
    records = {guid: vault.find(guid_bytes(guid)) for guid in sorted(wanted)}
    return {guid: record.recovery_key for guid, record in records.items() if record is not None}
