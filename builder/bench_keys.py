"""What a vault of a million keys costs: importing it, and finding keys in it, for `make bench`.

python -m builder.bench_keys FOLDER [KEYS]      a table, and FOLDER/keys.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter

from builder.console import SilentStep, Table, open_console, size_text
from builder.errors import KeysError, UsageError
from builder.keys import vault_file
from builder.keys.cipher import OpenSslCipher
from builder.keys.found import Collection, guid_text
from builder.keys.importers import read_keys
from payload.formats import recovery_password
from payload.formats.vault import Vault, VaultRecord

#: What the project allows for a million keys: seconds to import, and to find one; bytes of a record.
IMPORT_GOAL, LOOKUP_GOAL, RECORD_GOAL = 60.0, 0.050, 64
_MILLION = 1_000_000
_LOOKUPS = 500


@dataclass(frozen=True, kw_only=True)
class VaultCost:
    """`keys` keys: seconds to read and check the CSV, to write the vault and read it back; the slowest lookup."""

    keys: int
    read_seconds: float
    write_seconds: float
    slowest_lookup: float
    size: int

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """What was measured beside what is allowed (for a million)."""
        return (
            ("read and check the CSV", f"{self.read_seconds:.1f} s", ""),
            ("write the vault and read it back", f"{self.write_seconds:.1f} s", ""),
            ("import, in all", f"{self.read_seconds + self.write_seconds:.1f} s", f"{IMPORT_GOAL:.0f} s"),
            ("find a key, the slowest", f"{self.slowest_lookup * 1000:.1f} ms", f"{LOOKUP_GOAL * 1000:.0f} ms"),
            ("size", size_text(self.size), f"{RECORD_GOAL} B a key"),
        )


def measure_vault(folder: Path, keys: int = _MILLION) -> VaultCost:
    """Import a CSV of `keys` keys that is made up in `folder`, and find some of them again."""
    folder.mkdir(parents=True, exist_ok=True)
    table, vault = folder / "keys.csv", folder / "keys.vault"
    with table.open("w", encoding="ascii") as stream:
        stream.write("KeyID,RecoveryKey,ComputerName\n")
        stream.writelines(_rows(keys))
    started = monotonic()
    collection = Collection()
    collection.add(read_keys(table))
    read = monotonic()
    header, derived = vault_file.new_keys("bench", 0)
    records = [
        VaultRecord(key_id=key.key_id, recovery_key=key.recovery_key, host=derived.host_tag(key.host))
        for key in collection.keys.values()
    ]
    size = vault_file.write(vault, records, header, derived, force=True, step=SilentStep())
    written = monotonic()
    with vault.open("rb") as stream_of_vault:
        opened = Vault.of_keys(stream_of_vault, lambda _: derived, OpenSslCipher())
        slowest = max(_lookup(opened, number) for number in range(0, keys, max(1, keys // _LOOKUPS)))
    table.unlink()
    vault.unlink()
    return VaultCost(
        keys=keys, read_seconds=read - started, write_seconds=written - read, slowest_lookup=slowest, size=size
    )


def main(arguments: list[str]) -> int:
    """Measure, print the table, write the JSON."""
    if len(arguments) not in (1, 2) or not all(word.isdigit() for word in arguments[1:]):
        raise UsageError("one folder is wanted", hint="python -m builder.bench_keys FOLDER [KEYS]")
    folder = Path(arguments[0])
    cost = measure_vault(folder, *map(int, arguments[1:]))
    (folder / "keys.json").write_text(json.dumps(asdict(cost), indent=2) + "\n", encoding="utf-8")
    title = f"A vault of {cost.keys} keys"
    open_console(plain=True).table(Table(title=title, columns=("", "measured", "goal"), rows=cost.rows()))
    return 0


def _made_up(number: int) -> tuple[bytes, bytes]:
    digest = hashlib.sha256(b"%d" % number).digest()
    return digest[:16], digest[16:]


def _rows(keys: int) -> Iterator[str]:
    for number in range(keys):
        key_id, key = _made_up(number)
        yield f"{guid_text(key_id)},{recovery_password.text_of(key)},PC-{number}\n"


def _lookup(vault: Vault, number: int) -> float:
    key_id, key = _made_up(number)
    started = perf_counter()
    found = vault.find(key_id)
    seconds = perf_counter() - started
    if found is None or found.recovery_key != key:
        raise KeysError(f"key {number} of the vault was not found again")
    return seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
