"""Hosts with BitLocker: what locks their volumes, where the keys are, and what a boot must make of each volume.

The expectations are written by hand from issue 5. One boot may prove several things, on a disk each.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import UsageError
from builder.verify.bitlocker import BitLockerPlan
from builder.verify.disks import DiskPlan
from builder.verify.qemu import Attach
from builder.verify.scenarios import SCENARIOS, Afterwards, Expectation, Scenario
from builder.verify.windows_tree import broken_windows
from payload.contract import Verdict
from payload.formats.fve import EncryptionMethod
from payload.formats.fve_entries import ProtectorKind

_WINDOWS_SIZE = 64 << 20
_TPM, _CLEAR, _STARTUP, _PASSWORD = (
    ProtectorKind.TPM,
    ProtectorKind.CLEAR_KEY,
    ProtectorKind.STARTUP_KEY,
    ProtectorKind.RECOVERY_PASSWORD,
)


class KeyPlace(enum.Enum):
    """Where a volume's key is."""

    #: Beside the lock: the volume is suspended.
    IN_THE_METADATA = "in the metadata"
    #: A .BEK file on a stick of its own.
    STICK = "stick"
    VAULT = "vault"
    #: Somebody at the screen has it.
    HANDS = "hands"
    #: The same, who types another volume's password first.
    HANDS_AFTER_A_WRONG_ONE = "hands after a wrong one"
    #: Nobody has it.
    LOST = "lost"


class VaultPlace(enum.Enum):
    """Where the vault is."""

    NONE = "none"
    #: In the writable end of the stick that the image is on.
    BOOT_STICK = "boot stick"
    #: On a CD of its own.
    SECOND_CD = "second CD"


#: What the receipt must say opened the volume.
UNLOCKED_BY = {
    KeyPlace.IN_THE_METADATA: "clear key",
    KeyPlace.STICK: "startup key",
    KeyPlace.VAULT: "vault",
    KeyPlace.HANDS: "recovery password typed",
    KeyPlace.HANDS_AFTER_A_WRONG_ONE: "recovery password typed",
    KeyPlace.LOST: "",
}


@dataclass(frozen=True, kw_only=True)
class LockedDisk:
    """A disk with a broken Windows behind a lock."""

    name: str
    protectors: tuple[ProtectorKind, ...]
    key: KeyPlace
    method: EncryptionMethod = EncryptionMethod.AES_XTS_128

    @property
    def expectation(self) -> Expectation:
        """What must become of it."""
        if self.key is KeyPlace.LOST:
            return Expectation(verdict=Verdict.NEEDS_A_KEY, afterwards=Afterwards.UNTOUCHED)
        return Expectation(verdict=Verdict.REPAIRED, afterwards=Afterwards.REPAIRED)

    def plan(self) -> DiskPlan:
        """The disk to make."""
        lock = BitLockerPlan(
            method=self.method, protectors=self.protectors, description=f"{self.name.upper()} C: 3/1/2024"
        )
        return DiskPlan(tree=broken_windows(), windows_size=_WINDOWS_SIZE, lock=lock)


@dataclass(frozen=True, kw_only=True)
class LockedScenario:
    """A host with locked disks. `attach` is how the image must be given to it, None where it does not matter.

    `passphrase_file`: the vault's passphrase lies on a stick of its own, and nobody types.
    """

    name: str
    title: str
    disks: tuple[LockedDisk, ...]
    attach: Attach | None = None
    vault: VaultPlace = VaultPlace.NONE
    passphrase_file: bool = False

    @property
    def verdict(self) -> Verdict:
        """The headline."""
        lost = any(disk.key is KeyPlace.LOST for disk in self.disks)
        return Verdict.NEEDS_A_KEY if lost else Verdict.REPAIRED

    @property
    def questions(self) -> int:
        """How many times the screen must ask: for the passphrase, and for each password that is typed or lacks."""
        by_hand = {KeyPlace.HANDS: 1, KeyPlace.HANDS_AFTER_A_WRONG_ONE: 2, KeyPlace.LOST: 1}
        asked = sum(by_hand.get(disk.key, 0) for disk in self.disks)
        return asked + (self.vault is not VaultPlace.NONE and not self.passphrase_file)

    def ways(self, attach: Sequence[Attach]) -> tuple[Attach, ...]:
        """How the image is given to it, where `attach` is wished for."""
        return (self.attach,) if self.attach else tuple(attach)


LOCKED_SCENARIOS: tuple[LockedScenario, ...] = (
    LockedScenario(
        name="keys-on-stick",
        title="a key in the vault on the boot stick, a suspended volume, a startup key on another stick",
        attach=Attach.USB,
        vault=VaultPlace.BOOT_STICK,
        disks=(
            LockedDisk(
                name="vaulted-01",
                protectors=(_TPM, _PASSWORD),
                key=KeyPlace.VAULT,
                method=EncryptionMethod.AES_XTS_256,
            ),
            LockedDisk(
                name="suspended-02",
                protectors=(_TPM, _PASSWORD, _CLEAR),
                key=KeyPlace.IN_THE_METADATA,
            ),
            LockedDisk(
                name="startup-03",
                protectors=(_STARTUP,),
                key=KeyPlace.STICK,
                method=EncryptionMethod.AES_CBC_256,
            ),
        ),
    ),
    LockedScenario(
        name="vault-on-cd",
        title="a vault on a second CD, its passphrase in a file on a stick, nobody at the keyboard",
        attach=Attach.CD,
        vault=VaultPlace.SECOND_CD,
        passphrase_file=True,
        disks=(LockedDisk(name="virtual-04", protectors=(_TPM, _PASSWORD), key=KeyPlace.VAULT),),
    ),
    LockedScenario(
        name="key-by-hand",
        title="a recovery password typed, a wrong one first; beside it a volume without a key",
        attach=Attach.CD,
        disks=(
            LockedDisk(name="typed-05", protectors=(_TPM, _PASSWORD), key=KeyPlace.HANDS_AFTER_A_WRONG_ONE),
            LockedDisk(
                name="lost-06",
                protectors=(_TPM, _PASSWORD),
                key=KeyPlace.LOST,
                method=EncryptionMethod.AES_CBC_128,
            ),
        ),
    ),
    LockedScenario(
        name="bitlocker-locked",
        title="a BitLocker volume without a key",
        disks=(LockedDisk(name="lost-07", protectors=(_TPM, _PASSWORD), key=KeyPlace.LOST),),
    ),
)


def find_scenarios(names: Sequence[str]) -> tuple[Scenario | LockedScenario, ...]:
    """The scenarios with these names; "all" stands for every one. Raises UsageError for a name that is none."""
    every: tuple[Scenario | LockedScenario, ...] = (*SCENARIOS, *LOCKED_SCENARIOS)
    by_name = {scenario.name: scenario for scenario in every}
    if "all" in names:
        return every
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(f"no such scenario: {', '.join(unknown)}", hint=f"There are: {', '.join(by_name)}, all.")
    return tuple(by_name[name] for name in names)
