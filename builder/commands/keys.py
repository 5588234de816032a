"""`bluelift keys`: recovery passwords into an encrypted vault, and what can be done with one."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from builder.commands.program import program
from builder.console import Console, Summary, Table, size_text
from builder.errors import KeysError, OutputError, UsageError
from builder.keys import passphrase, vault_file
from builder.keys.found import GUID, Collection, FoundKey, guid_bytes, guid_text
from builder.keys.importers import read_keys
from builder.keys.vault_iso import write_vault_iso
from builder.plan import epoch_from
from payload.formats.vault import LONGEST_PASSPHRASE, TagsCollide, VaultRecord, normalised

#: How many rejects or conflicts are shown; the rest is counted.
_SHOWN = 20


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Do one of the actions."""
    action = {"import": _import, "list": _list, "subset": _subset, "rekey": _rekey, "iso": _iso}[arguments.action]
    return action(arguments, console)


# --- the actions -------------------------------------------------------------------------------------------------


def _import(arguments: argparse.Namespace, console: Console) -> int:
    _refuse_existing(arguments)
    console.expect(3)
    collection = Collection()
    with console.step("read the keys") as step:
        for file in arguments.files:
            collection.add(read_keys(file))
            step.note(f"{file.name}: {len(collection.keys)} keys so far")
    _tell_problems(collection, console)
    if not collection.keys:
        raise KeysError(
            "none of the recovery passwords can be used", hint="The lines above say what is wrong with them."
        )
    words, made_up = _new_passphrase(arguments)
    size = _write(arguments, console, collection.keys.values(), words)
    hosts = sum(1 for key in collection.keys.values() if key.host)
    console.summary(
        Summary(
            title=f"{arguments.output} is ready: {_count(len(collection.keys), 'key')}",
            facts=(
                *((("passphrase", words),) if made_up else ()),
                ("hosts", f"{hosts} of the keys name one"),
                ("merged", _count(collection.duplicates, "duplicate")),
                (
                    "left out",
                    f"{_count(len(collection.rejects), 'reject')}, {_count(len(collection.conflicts), 'conflict')}",
                ),
                ("size", size_text(size)),
            ),
            next_steps=(
                *(("write the passphrase down now: it is shown this once and stored nowhere",) if made_up else ()),
                f"copy {arguments.output} to \\Bluelift\\vault on the stick (or build it in: `vault:` in the profile)",
                f"{program()} keys list {arguments.output}",
            ),
        )
    )
    return 0


def _list(arguments: argparse.Namespace, console: Console) -> int:
    with vault_file.opened(arguments.vault, _passphrase(arguments, "Passphrase: ")) as vault:
        rows = sorted((guid_text(record.key_id), "yes" if any(record.host) else "no") for record in vault.records())
        written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(vault.header.written))
    if arguments.json:
        console.data({"written": written, "keys": [{"key_id": one, "host_known": host == "yes"} for one, host in rows]})
        return 0
    title = f"{arguments.vault}: {_count(len(rows), 'key')}, written {written}"
    console.table(Table(title=title, columns=("key id", "host known"), rows=tuple(rows)))
    return 0


def _subset(arguments: argparse.Namespace, console: Console) -> int:
    _refuse_existing(arguments)
    if not arguments.hosts and not arguments.key_ids:
        raise UsageError("nothing says which keys to keep", hint="Give --hosts FILE or --key-ids FILE, or both.")
    wanted_ids = _key_ids(arguments.key_ids)
    hosts = _lines(arguments.hosts)
    console.expect(2)
    words = _passphrase(arguments, "Passphrase: ")
    with vault_file.opened(arguments.vault, words) as vault:
        tags = {vault.keys.host_tag(host): host for host in hosts}
        kept = [record for record in vault.records() if record.key_id in wanted_ids or record.host in tags]
        names = {record.key_id: tags.get(record.host, "") for record in kept}
    missing = [tags[tag] for tag in tags if tag not in {record.host for record in kept}]
    missing += [guid_text(one) for one in sorted(wanted_ids - {record.key_id for record in kept})]
    for one in missing[:_SHOWN]:
        console.notice(f"no key for {one}")
    if not kept:
        raise KeysError("none of these hosts and key ids is in the vault", hint=f"See {program()} keys list.")
    # A vault keeps no names, so those that were not asked for by host lose their host tag: the salt is another one.
    found = [FoundKey(record.key_id, record.recovery_key, names[record.key_id], "", 0) for record in kept]
    size = _write(arguments, console, found, words)
    facts = (("keys", str(len(kept))), ("without a key", str(len(missing))), ("size", size_text(size)))
    console.summary(Summary(title=f"{arguments.output} is ready: the same passphrase opens it", facts=facts))
    return 0


def _rekey(arguments: argparse.Namespace, console: Console) -> int:
    """Under the old salt's host key nothing can be kept, for names are not known: `--hosts` gives them again."""
    hosts = _lines(arguments.hosts)
    console.expect(2)
    with vault_file.opened(arguments.vault, _passphrase(arguments, "Old passphrase: ")) as vault:
        tags = {vault.keys.host_tag(host): host for host in hosts}
        found = [FoundKey(r.key_id, r.recovery_key, tags.get(r.host, ""), "", 0) for r in vault.records()]
        lost = sum(1 for record in vault.records() if any(record.host) and record.host not in tags)
    words, made_up = _new_passphrase(arguments)
    arguments.output = arguments.output or arguments.vault
    arguments.force = arguments.force or arguments.output == arguments.vault
    _refuse_existing(arguments)
    size = _write(arguments, console, found, words)
    console.summary(
        Summary(
            title=f"{arguments.output} is ready: {_count(len(found), 'key')} under the new passphrase",
            facts=(
                *((("passphrase", words),) if made_up else ()),
                *(
                    (("hosts", f"{lost} keys no longer know theirs; --hosts FILE with the names keeps them"),)
                    if lost
                    else ()
                ),
                ("size", size_text(size)),
            ),
            next_steps=(
                *(("write the passphrase down now: it is shown this once and stored nowhere",) if made_up else ()),
                "destroy the copies of the old vault: its passphrase still opens them",
            ),
        )
    )
    return 0


def _iso(arguments: argparse.Namespace, console: Console) -> int:
    _refuse_existing(arguments)
    console.expect(1)
    with console.step("write the ISO and read it back") as step:
        made = write_vault_iso(arguments.vault, arguments.output, step=step)
    console.summary(
        Summary(
            title=f"{arguments.output} is ready",
            facts=(("size", size_text(made.size)), ("sha256", made.sha256)),
            next_steps=("attach it to the VM as a second CD; the passphrase is asked for once",),
        )
    )
    return 0


# --- their parts -------------------------------------------------------------------------------------------------


def _write(arguments: argparse.Namespace, console: Console, found: Iterable[FoundKey], words: str) -> int:
    """The keys into a new vault, and its size; once more with another salt where two tags are the same."""
    found = list(found)
    while True:
        with console.step("make the vault's keys of the passphrase"):
            header, keys = vault_file.new_keys(words, epoch_from(os.environ.get("SOURCE_DATE_EPOCH"), int(time.time())))
        records = [
            VaultRecord(key_id=key.key_id, recovery_key=key.recovery_key, host=keys.host_tag(key.host)) for key in found
        ]
        try:
            with console.step("write the vault and read it back") as step:
                return vault_file.write(arguments.output, records, header, keys, force=arguments.force, step=step)
        except TagsCollide:
            continue


def _refuse_existing(arguments: argparse.Namespace) -> None:
    """Before a minute of work and not after it."""
    if arguments.output.exists() and not arguments.force:
        raise OutputError(f"{arguments.output} is there already", hint="Give another name, or --force to replace it.")


def _tell_problems(collection: Collection, console: Console) -> None:
    for what, problems in (("rejected", collection.rejects), ("in conflict", collection.conflicts)):
        for problem in problems[:_SHOWN]:
            console.notice(f"{what}: {problem}")
        if len(problems) > _SHOWN:
            console.notice(f"{what}: {len(problems) - _SHOWN} more")


def _new_passphrase(arguments: argparse.Namespace) -> tuple[str, bool]:
    """The passphrase of a new vault, and whether it was made up here. Raises KeysError, UsageError."""
    if not arguments.new_passphrase_file and not arguments.ask:
        return passphrase.generate(), True
    if arguments.new_passphrase_file:
        words = _first_line(arguments.new_passphrase_file)
    else:
        words = _asked("New passphrase: ")
        if words != _asked("Again: "):
            raise UsageError("the two passphrases differ", hint="Start again.")
    if not passphrase.typable(words):
        raise KeysError(
            "the passphrase has characters that not every keyboard has", hint="Use letters, digits and ASCII signs."
        )
    if len(words) > LONGEST_PASSPHRASE:
        raise KeysError(
            f"the passphrase has {len(words)} characters, and no more than {LONGEST_PASSPHRASE} can be typed",
            hint="Take a shorter one.",
        )
    worth = passphrase.bits(words)
    if worth < passphrase.LEAST_BITS and not arguments.weak:
        raise KeysError(
            f"the passphrase is worth about {worth:.0f} bits of guessing instead of {passphrase.LEAST_BITS:.0f}",
            hint="Leave the option out and one is made up, or take more words; --weak takes it nevertheless.",
        )
    return words, False


def _passphrase(arguments: argparse.Namespace, prompt: str) -> str:
    return _first_line(arguments.passphrase_file) if arguments.passphrase_file else _asked(prompt)


def _asked(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to type a passphrase on", hint="Give it with --passphrase-file FILE.")
    return normalised(getpass.getpass(prompt))


def _first_line(file: Path) -> str:
    try:
        words = normalised(next(iter(file.read_text(encoding="utf-8-sig").splitlines()), ""))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the passphrase file {file} cannot be read", hint="It holds one line of text.") from error
    if not words:
        raise UsageError(f"the passphrase file {file} is empty", hint="It holds one line of text.")
    return words


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read", hint="It holds one name a line.") from error


def _key_ids(file: Path | None) -> set[bytes]:
    ids = set()
    for number, line in enumerate(_lines(file), 1):
        if not (found := re.search(GUID, line)):
            raise UsageError(f"{file}:{number}: no key id (a GUID)", hint="Give one key id a line.")
        ids.add(guid_bytes(found[0]))
    return ids


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
