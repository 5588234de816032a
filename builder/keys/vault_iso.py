"""A vault on a CD of its own: a VM that was booted from one CD sees a second, and no stick."""

from __future__ import annotations

from pathlib import Path

from builder.console import Step
from builder.errors import KeysError
from builder.media.iso import WrittenIso, write_iso
from builder.media.iso_layout import IsoFile, IsoLayout
from payload.contract import MEDIUM_FOLDER, MEDIUM_VAULT
from payload.formats.vault import HEADER_SIZE, VaultDamaged, read_header

VOLUME_ID = "BLUELIFT_KEYS"


def write_vault_iso(vault: Path, output: Path, *, step: Step) -> WrittenIso:
    """An ISO that holds the vault where the payload looks for it. No passphrase is needed.

    Its times are the vault's. Raises KeysError where the file is no whole vault, OutputError.
    """
    try:
        with vault.open("rb") as stream:
            header = read_header(stream.read(HEADER_SIZE))
    except VaultDamaged as error:
        raise KeysError(f"{vault} cannot be used: {error}", hint="Give a vault that `keys import` made.") from error
    except OSError as error:
        raise KeysError(f"{vault} cannot be read: {error.strerror or error}", hint="Check its name.") from error
    if vault.stat().st_size != header.vault_size:
        raise KeysError(f"{vault} cannot be used: it was cut off or added to", hint="Import the keys again.")
    name = vault.name if vault.suffix == ".vault" else f"{vault.name}.vault"
    layout = IsoLayout(
        volume_id=VOLUME_ID,
        files=(IsoFile(path=f"{MEDIUM_FOLDER}/{MEDIUM_VAULT}/{name}", source=vault),),
        bios_image=None,
        uefi_image=None,
        epoch=header.written,
    )
    return write_iso(layout, output, step=step)
