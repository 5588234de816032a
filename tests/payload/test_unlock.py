"""Opening locked volumes: each means, their order, what is told where none helps, and that no key is ever told."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.keys.cipher import OpenSslCipher
from payload.contract import BUILT_IN_RULES, AfterRepair, Ending, HostIdentity, PayloadConfig, Receipt, Verdict
from payload.display import FullScreen
from payload.ending import ending_action
from payload.environment import Medium, VolumeNotOpened, VolumeState
from payload.formats import recovery_password
from payload.formats.fve import EncryptionMethod, FveState, FveVolume
from payload.formats.fve_entries import METADATA_HEADER, EntryType, FveError, Protector, ProtectorKind, ValueType
from payload.formats.partition_table import guid_bytes
from payload.formats.vault import LEAST_ROUNDS, VaultHeader, VaultRecord, derive_keys, write_vault
from payload.key_prompt import Instead, PassphraseQuestion, RecoveryQuestion
from payload.key_sources import Wanted, look_for_keys, open_vaults
from payload.session import RunOptions, Session
from payload.unlock import NO_KEY, NO_METADATA, NO_PASSWORD, Unlocker
from tests.payload.fake_environment import (
    FAULTY_PATH,
    FakeEnvironment,
    FakeLock,
    FakePrompt,
    FakeUnlocking,
    FakeVolume,
    MemoryFiles,
    volume,
    windows_files,
)
from tests.payload.test_safe_mode import made_store, safe_boot

CLEAR, STARTUP, RECOVERY, TPM = (
    ProtectorKind.CLEAR_KEY,
    ProtectorKind.STARTUP_KEY,
    ProtectorKind.RECOVERY_PASSWORD,
    ProtectorKind.TPM,
)
PASSPHRASE, OTHER_PASSPHRASE = "bonu titro fedko sulip nedro", "kolin rube tiso pefon dulor"
KEY, OTHER_KEY = bytes(range(16)), bytes(range(16, 32))
GUID, OTHER_GUID, STARTUP_GUID = (
    "64311DEA-4587-4029-924A-BA299647998E",
    "83ABDB8F-3218-4BFD-ACED-215E1E189BDF",
    "4381F759-C4F8-4DE0-BB61-FC33A831BDA5",
)
VAULT_PATH, CSV_PATH, PASSPHRASE_PATH = (
    "\\Bluelift\\vault\\keys.vault",
    "\\Bluelift\\vault\\keys.csv",
    "\\BLUELIFT\\Passphrase.TXT",
)
RUN_ID = "20240720T100000Z-0a1b2c3d"


# --- what there is ---------------------------------------------------------------------------------------------------


def protector(kind: ProtectorKind, guid: str) -> Protector:
    return Protector(guid=guid, kind=kind, code=0)


def metadata(*protectors: Protector, state: FveState = FveState.LOCKED) -> FveVolume:
    return FveVolume(
        version=2,
        guid="8F595209-F5B9-49A0-85D4-CB8F80258C27",
        description="FRONTDESK-07 C: 3/1/2024",
        created=None,
        method=EncryptionMethod.AES_XTS_128,
        state=state,
        to_go=False,
        sector_size=512,
        encrypted_size=60 * 10**9,
        protectors=(protector(TPM, "0" * 8), *protectors),
        metadata_offsets=(1 << 20, 2 << 20, 3 << 20),
        block=0,
        checksum_ok=True,
    )


BY_RECOVERY = (protector(RECOVERY, GUID),)
BY_BOTH = (*BY_RECOVERY, protector(STARTUP, STARTUP_GUID))


@functools.cache
def vault_bytes(*keys: tuple[str, bytes], passphrase: str = PASSPHRASE, salt: bytes = b"s", written: int = 1) -> bytes:
    header = VaultHeader(rounds=LEAST_ROUNDS, salt=salt * 32, records=0, written=written)
    records = [VaultRecord(key_id=guid_bytes(guid), recovery_key=key) for guid, key in keys]
    return b"".join(write_vault(records, header, derive_keys(passphrase, header, OpenSslCipher()), OpenSslCipher()))


def startup_key_file(guid: str = STARTUP_GUID, key: bytes = bytes(32)) -> bytes:
    raw = UUID(guid).bytes_le
    inner = struct.pack("<HHHH", 44, EntryType.PROPERTY, ValueType.KEY, 1) + struct.pack("<HH", 0x2002, 0) + key
    entry = struct.pack("<HHHH", 8 + 24 + len(inner), EntryType.STARTUP_KEY, ValueType.EXTERNAL_KEY, 1)
    data = entry + raw + bytes(8) + inner
    return METADATA_HEADER.pack(48 + len(data), 1, 48, 48 + len(data), raw, 1, 0, 0, 0) + data


def medium(name: str, files: dict[str, bytes], *, disk: str = "") -> Medium:
    memory = MemoryFiles()
    for path, data in files.items():
        memory.add(path, data)
    return Medium(name=name, files=memory, disk=disk)


def csv_bytes(*rows: tuple[str, bytes], header: str = "KeyID,RecoveryKey") -> bytes:
    lines = [header, *(f"{guid},{recovery_password.text_of(key)}" for guid, key in rows)]
    return "\r\n".join(lines).encode()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run, and everything that it left where anybody can read it."""

    receipt: Receipt
    environment: FakeEnvironment
    unlocking: FakeUnlocking
    prompt: FakePrompt
    session: Session

    @property
    def said(self) -> str:
        screen = "".join(self.environment.memory_screen.shown)
        return "\n".join([repr(self.receipt), *self.environment.lines, screen])


def run(
    locks: dict[str, FakeLock],
    *media: Medium,
    answers: tuple[str | bytes | Instead, ...] = (),
    asking: bool = True,
    dry_run: bool = False,
    starts: dict[str, list[MemoryFiles]] | None = None,
    **fail: Exception,
) -> Ran:
    environment = FakeEnvironment(
        *(FakeVolume(volume(name, state=VolumeState.LOCKED, label=""), MemoryFiles()) for name in locks)
    )
    unlocking = environment.fake_unlocking = FakeUnlocking(locks, media=media)
    unlocking.fail = fail
    unlocking.starts = starts or {}
    prompt = FakePrompt(*answers)
    session = Session(
        environment,
        PayloadConfig(image_id="image-1", rules=BUILT_IN_RULES),
        FullScreen(environment.memory_screen, "Bluelift"),
        RunOptions(run_id=RUN_ID, started=1721469600.0, dry_run=dry_run),
        prompt=prompt if asking else None,
    )
    receipt = session.run()
    assert unlocking.open_now == [], "what was opened is closed again"
    ran = Ran(receipt=receipt, environment=environment, unlocking=unlocking, prompt=prompt, session=session)
    for secret in (PASSPHRASE, OTHER_PASSPHRASE, *map(recovery_password.text_of, (KEY, OTHER_KEY)), KEY.hex()):
        assert secret not in ran.said
    return ran


def lock(
    *opens: tuple[ProtectorKind, bytes],
    protectors: tuple[Protector, ...] = BY_RECOVERY,
    name: str = "sda3",
    state: VolumeState = VolumeState.READY,
    faulty: bool = True,
) -> FakeLock:
    inside = FakeVolume(volume(name, state=state), windows_files(faulty=faulty))
    return FakeLock(metadata=metadata(*protectors), inside=inside, opens=list(opens))


# --- one volume, each means ------------------------------------------------------------------------------------------

VAULT = medium("stick sdb1", {VAULT_PATH: vault_bytes((GUID, KEY), (OTHER_GUID, OTHER_KEY))}, disk="sdb")
PASSPHRASE_FILE = medium("stick sdc1", {PASSPHRASE_PATH: b"\xef\xbb\xbf " + PASSPHRASE.encode() + b" \r\n"}, disk="sdc")
STARTUP_STICK = medium("stick sdd1", {f"\\{STARTUP_GUID}.BEK": startup_key_file()})
CSV = medium("stick sde1", {CSV_PATH: csv_bytes((OTHER_GUID, OTHER_KEY), (GUID, KEY))})

MEANS: list[tuple[str, dict[str, Any], tuple[Medium, ...], tuple[str | bytes, ...], str]] = [
    ("clear key", {"opens": (CLEAR, b""), "protectors": (protector(CLEAR, "C"), *BY_RECOVERY)}, (VAULT,), (), "C"),
    ("startup key", {"opens": (STARTUP, startup_key_file()), "protectors": BY_BOTH}, (VAULT, STARTUP_STICK), (), ""),
    ("vault", {"opens": (RECOVERY, KEY)}, (CSV, VAULT, PASSPHRASE_FILE), (), GUID),
    ("vault", {"opens": (RECOVERY, KEY)}, (VAULT, CSV), ("no", "nor this", f" {PASSPHRASE}"), GUID),
    ("plain CSV", {"opens": (RECOVERY, KEY)}, (CSV,), (), GUID),
    ("recovery password typed", {"opens": (RECOVERY, KEY)}, (), (OTHER_KEY, KEY), GUID),
]


@pytest.mark.parametrize(("means", "how", "media", "answers", "key_id"), MEANS)
def test_each_means_opens_a_volume_and_it_is_repaired(
    means: str, how: dict[str, Any], media: tuple[Medium, ...], answers: tuple[str | bytes, ...], key_id: str
) -> None:
    locked = lock(how["opens"], protectors=how.get("protectors", BY_RECOVERY))
    ran = run({"sda3": locked}, *media, answers=answers)
    (record,) = ran.receipt.volumes
    assert (record.verdict, record.unlocked_by, record.state) == (Verdict.REPAIRED, means, "ready")
    assert record.key_ids == (key_id or STARTUP_GUID,)
    assert FAULTY_PATH not in locked.inside.files.paths()
    assert ran.prompt.answers == [], "as many questions as answers"
    assert not ran.session.nobody
    kept = next(data for path, data in locked.inside.files.paths().items() if path.endswith("receipt.json"))
    assert f'"unlocked_by": "{means}"'.encode() in kept


def test_wrong_answers_are_counted_and_told_to_the_next_question() -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, VAULT, answers=("no", "no", "no", OTHER_KEY, OTHER_KEY, KEY))
    passphrases = [q for q in ran.prompt.questions if isinstance(q, PassphraseQuestion)]
    passwords = [q for q in ran.prompt.questions if isinstance(q, RecoveryQuestion)]
    assert [question.failed for question in passphrases] == [0, 1, 2]
    assert [question.failed for question in passwords] == [0, 1, 2]
    assert [bool(question.problem) for question in passphrases] == [False, True, True]
    assert [bool(question.problem) for question in passwords] == [False, True, True]
    assert passphrases[0].vaults == ("\\Bluelift\\vault\\keys.vault on stick sdb1",)
    assert passwords[0].host.smbios_serial == "PF3K9Z2A"
    assert ran.receipt.verdict is Verdict.REPAIRED
    assert any("3 wrong passphrases" in note for note in ran.receipt.notes)
    assert sum("refused" in note for note in ran.receipt.volumes[0].notes) == 2


def test_a_dry_run_unlocks_and_changes_nothing() -> None:
    locked = lock((RECOVERY, KEY))
    ran = run({"sda3": locked}, VAULT, PASSPHRASE_FILE, dry_run=True)
    assert (ran.receipt.verdict, ran.receipt.volumes[0].unlocked_by) == (Verdict.REPORTED, "vault")
    assert FAULTY_PATH in locked.inside.files.paths()


# --- several volumes -------------------------------------------------------------------------------------------------


def test_one_of_two_volumes_has_no_key() -> None:
    other = lock(name="sda4", protectors=(protector(RECOVERY, STARTUP_GUID),))
    ran = run({"sda3": lock((RECOVERY, KEY)), "sda4": other}, VAULT, PASSPHRASE_FILE, answers=(Instead.SKIP,))
    opened, kept = ran.receipt.volumes
    assert (opened.verdict, kept.verdict) == (Verdict.REPAIRED, Verdict.NEEDS_A_KEY)
    assert ran.receipt.verdict is Verdict.NEEDS_A_KEY
    assert (kept.detail, kept.key_ids) == (NO_KEY, (STARTUP_GUID,))
    for part in (STARTUP_GUID, "FRONTDESK-07 C: 3/1/2024", "PF3K9Z2A"):
        assert part in ran.receipt.advice
    assert ran.unlocking.tried == [("sda3", RECOVERY, GUID)], "nothing is tried that no protector asks for"
    assert not ran.session.nobody


def test_all_are_opened_before_any_is_looked_into() -> None:
    """A volume that is opened late may show that Windows is hibernated, and then the first is not to be changed."""
    first, second = lock((RECOVERY, KEY)), lock((RECOVERY, OTHER_KEY), name="sda4", faulty=False)
    second = replace(second, metadata=metadata(protector(RECOVERY, OTHER_GUID)))
    order: list[str] = []
    locks = {"sda3": first, "sda4": second}
    environment = FakeEnvironment(
        *(FakeVolume(volume(name, state=VolumeState.LOCKED), MemoryFiles()) for name in locks)
    )
    unlocking = environment.fake_unlocking = FakeUnlocking(locks, media=(VAULT, PASSPHRASE_FILE))

    def volumes() -> list[Any]:
        order.append(f"volumes with {unlocking.open_now}")
        return [fake.volume for fake in environment.fake_volumes]

    environment.volumes = volumes  # type: ignore[method-assign]
    Session(
        environment,
        PayloadConfig(image_id="i", rules=BUILT_IN_RULES),
        FullScreen(environment.memory_screen, ""),
        RunOptions(run_id=RUN_ID, started=0.0),
    ).run()
    assert order == ["volumes with []", "volumes with ['sda3', 'sda4']"]
    assert [name for name, _ in environment.opened][:1] == ["sda3"]


def test_an_interrupted_repair_locks_everything_again() -> None:
    """Ctrl-C or a SIGTERM while a volume is being changed; and while the second of two is asked about."""
    for method, answers in (("open_for_changes", (PASSPHRASE,)), ("asked", ())):
        locks = {"sda3": lock((RECOVERY, KEY)), "sda4": lock(name="sda4", protectors=(protector(CLEAR, "C"),))}
        locks["sda4"].opens.append((CLEAR, b""))
        environment = FakeEnvironment(
            *(FakeVolume(volume(name, state=VolumeState.LOCKED), MemoryFiles()) for name in locks)
        )
        unlocking = environment.fake_unlocking = FakeUnlocking(locks, media=(VAULT,))
        environment.fail[method] = KeyboardInterrupt()
        config = PayloadConfig(image_id="i", rules=BUILT_IN_RULES)
        options = RunOptions(run_id=RUN_ID, started=0.0)
        prompt = FakePrompt(*answers) if answers else _Interrupted()
        session = Session(environment, config, FullScreen(environment.memory_screen, ""), options, prompt=prompt)
        with pytest.raises(KeyboardInterrupt):
            session.run()
        assert unlocking.tried[0][0] == "sda4", "by its clear key, first of all"
        assert unlocking.open_now == []


class _Interrupted(FakePrompt):
    def passphrase(self, question: PassphraseQuestion) -> str | Instead:
        raise KeyboardInterrupt


def test_one_passphrase_serves_all_volumes_and_is_asked_once() -> None:
    locks = {
        "sda3": lock((RECOVERY, KEY)),
        "sda4": lock((RECOVERY, OTHER_KEY), name="sda4", protectors=(protector(RECOVERY, OTHER_GUID),)),
    }
    ran = run(locks, VAULT, answers=(PASSPHRASE,))
    assert [record.unlocked_by for record in ran.receipt.volumes] == ["vault", "vault"]
    assert len(ran.prompt.questions) == 1


# --- nobody there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asking", [True, False])
def test_nobody_there_is_asked_only_once(asking: bool) -> None:
    locks = {name: lock((RECOVERY, KEY), name=name) for name in ("sda3", "sda4")}
    ran = run(locks, VAULT, asking=asking)
    assert len(ran.prompt.questions) == (1 if asking else 0)
    assert ran.session.nobody
    assert ran.receipt.verdict is Verdict.NEEDS_A_KEY


@pytest.mark.parametrize(
    ("verdict", "nobody", "expected"),
    [
        (Verdict.NEEDS_A_KEY, True, AfterRepair.POWER_OFF),
        (Verdict.NEEDS_A_KEY, False, AfterRepair.STAY),
        (Verdict.FAILED, True, AfterRepair.STAY),
        (Verdict.REPAIRED, True, AfterRepair.REBOOT),
    ],
)
def test_what_a_host_does_with_nobody_at_it(verdict: Verdict, nobody: bool, expected: AfterRepair) -> None:
    assert ending_action(verdict, Ending(), nobody=nobody) is expected
    never = ending_action(Verdict.NEEDS_A_KEY, Ending(nobody=AfterRepair.REBOOT), nobody=nobody)
    assert never is not AfterRepair.REBOOT


def boot_partition() -> MemoryFiles:
    esp = MemoryFiles()
    esp.writable = True
    esp.add("\\EFI\\Microsoft\\Boot\\BCD", made_store())
    return esp


def test_safe_mode_and_skipping_end_the_questions_for_a_volume() -> None:
    locks = {name: lock((RECOVERY, KEY), name=name) for name in ("sda3", "sda4")}
    esp = boot_partition()
    ran = run(locks, answers=(Instead.SAFE_MODE, Instead.SKIP), starts={"sda": [esp]})
    assert ran.session.safe_mode_chosen
    assert not ran.session.nobody
    assert len(ran.prompt.questions) == 2
    chosen, skipped = ran.receipt.volumes
    assert (chosen.verdict, skipped.verdict) == (Verdict.NEEDS_A_KEY, Verdict.NEEDS_A_KEY)
    assert "'Windows 11' was set to start in safe mode" in chosen.detail
    assert "\\Bluelift\\safe-mode.cmd" in chosen.advice
    store = "\\EFI\\Microsoft\\Boot\\BCD"
    assert chosen.notes == (f"safeboot is set in {store} on sda1; the store as it was is {store}.before-bluelift.",)
    assert safe_boot(esp.paths()[store]) == 0
    assert ran.receipt.verdict is Verdict.NEEDS_A_KEY
    assert ran.receipt.sentence.startswith("This host will start in safe mode: log in there as a local administrator")
    assert "\\Bluelift\\safe-mode.cmd" in ran.receipt.sentence


# --- no recovery password --------------------------------------------------------------------------------------------


def test_a_volume_that_only_its_computer_opens_is_asked_about_and_sent_into_safe_mode() -> None:
    esp = boot_partition()
    ran = run({"sda3": lock(protectors=())}, VAULT, answers=(Instead.SAFE_MODE,), starts={"sda": [esp]})
    (question,) = ran.prompt.questions
    assert isinstance(question, RecoveryQuestion), "and for no passphrase"
    assert (question.has_password, question.safe_mode) == (False, True)
    assert ran.session.safe_mode_chosen
    assert safe_boot(esp.paths()["\\EFI\\Microsoft\\Boot\\BCD"]) == 0
    assert ran.receipt.verdict is Verdict.NEEDS_A_KEY
    assert "will start in safe mode" in ran.receipt.sentence


@pytest.mark.parametrize(
    ("kinds", "advice"),
    [
        ((TPM, STARTUP), "choose safe mode"),
        ((STARTUP,), f"{STARTUP_GUID}.BEK"),
        ((ProtectorKind.PASSWORD,), "with its password"),
        ((), "with its key"),
    ],
)
def test_what_opens_a_volume_without_a_recovery_password(kinds: tuple[ProtectorKind, ...], advice: str) -> None:
    seen = replace(metadata(), protectors=tuple(protector(kind, STARTUP_GUID) for kind in kinds))
    ran = run({"sda3": replace(lock(), metadata=seen)}, answers=(Instead.SKIP,))
    (record,) = ran.receipt.volumes
    assert (record.verdict, record.detail, record.key_ids) == (Verdict.NEEDS_A_KEY, NO_PASSWORD, ())
    assert advice in record.advice
    assert len(ran.prompt.questions) == 1
    assert not ran.session.nobody


@pytest.mark.parametrize("asking", [True, False])
def test_nobody_at_a_volume_without_a_recovery_password(asking: bool) -> None:
    esp = boot_partition()
    ran = run({"sda3": lock(protectors=())}, asking=asking, starts={"sda": [esp]})
    assert ran.session.nobody
    assert not ran.session.safe_mode_chosen
    assert safe_boot(esp.paths()["\\EFI\\Microsoft\\Boot\\BCD"]) is None


def test_safe_mode_that_cannot_be_set_is_told_and_asked_again() -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, answers=(Instead.SAFE_MODE, KEY))
    assert not ran.session.safe_mode_chosen
    first, second = ran.prompt.questions
    assert isinstance(first, RecoveryQuestion) and isinstance(second, RecoveryQuestion)
    assert (first.safe_mode, first.problem) == (True, "")
    assert second.problem == "No boot store was found on the volume's disk."
    assert ran.receipt.verdict is Verdict.REPAIRED


def test_a_dry_run_offers_no_safe_mode() -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, answers=(Instead.SKIP,), dry_run=True)
    (question,) = ran.prompt.questions
    assert isinstance(question, RecoveryQuestion) and not question.safe_mode


# --- vaults and passphrases ------------------------------------------------------------------------------------------


def notes_of(ran: Ran) -> str:
    return " ".join(ran.receipt.notes)


def test_a_passphrase_beside_its_vault_is_not_used() -> None:
    """Also where the stick shows itself as two media."""
    vault, passphrase = {VAULT_PATH: vault_bytes((GUID, KEY))}, {"\\Bluelift\\passphrase.txt": PASSPHRASE.encode()}
    for media in (
        (medium("stick sdb1", {**vault, **passphrase}),),
        (medium("stick sdb1", vault, disk="sdb"), medium("stick sdb2", passphrase, disk="sdb")),
    ):
        ran = run({"sda3": lock((RECOVERY, KEY))}, *media)
        assert ran.receipt.verdict is Verdict.NEEDS_A_KEY
        assert "on the medium that the vault is on" in notes_of(ran)
        assert "Warning" in ran.said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not a Bluelift vault"),
        (b"x" * 500, "it is not a Bluelift vault"),
        (vault_bytes((GUID, KEY))[:100], "it is cut off within its header"),
        (vault_bytes((GUID, KEY))[:-1], "it has 191 bytes instead of 192: it was cut off or added to"),
        (vault_bytes((GUID, KEY))[:-1] + b"\0", "a record of it was changed"),
        (vault_bytes((GUID, KEY))[:20] + b"\xff" + vault_bytes((GUID, KEY))[21:], "its header is damaged"),
    ],
    ids=range(6),
)
def test_damaged_vaults_are_named_and_the_others_used(data: bytes, words: str) -> None:
    damaged = medium("stick sdb1", {"\\Bluelift\\vault\\a.vault": data})
    ran = run({"sda3": lock((RECOVERY, KEY))}, damaged, PASSPHRASE_FILE, answers=(KEY,))
    assert ran.receipt.volumes[0].unlocked_by == "recovery password typed"
    assert f"\\Bluelift\\vault\\a.vault on stick sdb1 cannot be used: {words}" in notes_of(ran)
    whole = medium("CD sr1", {VAULT_PATH: vault_bytes((GUID, KEY), salt=b"t")})
    ran = run({"sda3": lock((RECOVERY, KEY))}, damaged, whole, PASSPHRASE_FILE)
    assert ran.receipt.volumes[0].unlocked_by == "vault"


@pytest.mark.parametrize("data", [vault_bytes((GUID, KEY))[:-1] + b"\0", vault_bytes((GUID, KEY))[:-1]])
def test_a_damaged_vault_takes_no_try_from_the_whole_one(data: bytes) -> None:
    """Damage shows only where the passphrase fits, or before: either way the other vault's three tries are its own."""
    damaged = medium("stick sdb1", {"\\Bluelift\\vault\\a.vault": data})
    whole = medium("CD sr1", {VAULT_PATH: vault_bytes((GUID, KEY), salt=b"t", passphrase=OTHER_PASSPHRASE)})
    ran = run({"sda3": lock((RECOVERY, KEY))}, damaged, whole, answers=("no", "nor this", OTHER_PASSPHRASE))
    assert [question.failed for question in ran.prompt.questions] == [0, 1, 2]
    assert ran.receipt.volumes[0].unlocked_by == "vault"


def test_one_vault_is_damaged_and_the_passphrase_is_wrong() -> None:
    """Which the technician is told, instead of being asked for 48 digits at once."""
    unreadable = medium("stick sdb1", {"\\Bluelift\\vault\\a.vault": vault_bytes((GUID, KEY))})
    whole = medium("CD sr1", {VAULT_PATH: vault_bytes((GUID, KEY), salt=b"t")})
    broken = _Breaks(OSError(5, "Input/output error"), after=1)
    unreadable.files.open_file = broken.wrap(unreadable.files.open_file)  # type: ignore[method-assign]
    ran = run({"sda3": lock((RECOVERY, KEY))}, unreadable, whole, answers=("no", PASSPHRASE))
    assert [bool(question.problem) for question in ran.prompt.questions] == [False, True]
    assert ran.receipt.volumes[0].unlocked_by == "vault"
    assert "a.vault on stick sdb1 cannot be read: Input/output error" in notes_of(ran)


@dataclass
class _Breaks:
    """A method that works `after` times and then raises."""

    error: Exception
    after: int

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            self.after -= 1
            if self.after < 0:
                raise self.error
            return method(*arguments)

        return called


def test_a_copy_that_was_cut_off_does_not_stand_for_the_whole_vault() -> None:
    """Copying to the first stick was interrupted; the second has all of it, under the same salt."""
    half = medium("stick sdb1", {VAULT_PATH: vault_bytes((GUID, KEY))[:-10]})
    whole = medium("stick sdd1", {VAULT_PATH: vault_bytes((GUID, KEY))})
    ran = run({"sda3": lock((RECOVERY, KEY))}, half, whole, answers=(PASSPHRASE,))
    assert ran.receipt.volumes[0].unlocked_by == "vault"
    (question,) = ran.prompt.questions
    assert isinstance(question, PassphraseQuestion)
    assert question.vaults == ("\\Bluelift\\vault\\keys.vault on stick sdd1",)
    assert "keys.vault on stick sdb1 cannot be used: it has" in notes_of(ran)
    only_half = run({"sda3": lock((RECOVERY, KEY))}, half, answers=(KEY,))
    assert len(only_half.prompt.questions) == 1, "nobody is asked for the passphrase of what cannot be used"


def test_a_stick_that_was_pulled_out_is_told() -> None:
    """Between the search and the passphrase."""
    environment = FakeUnlocking({}, media=(VAULT,))
    with environment.key_media() as media:
        found = look_for_keys(media, Wanted(recovery=frozenset([GUID]), startup=frozenset()))
    answer = open_vaults([], found.vaults, PASSPHRASE, frozenset([GUID]), OpenSslCipher())
    assert (answer.keys, answer.opened, answer.refused) == ({}, [], [])
    assert answer.notes == ["The vault \\Bluelift\\vault\\keys.vault on stick sdb1 is not there any more."]


CUT_OFF = medium("stick sdb1", {"\\Bluelift\\vault\\a.vault": vault_bytes((GUID, KEY))[:-1]})
OTHERS = medium("stick sdb1", {VAULT_PATH: vault_bytes((OTHER_GUID, OTHER_KEY), salt=b"u")})


@pytest.mark.parametrize(
    ("media", "answers", "remark"),
    [
        ((), (), ""),
        ((CUT_OFF,), (), "a.vault on stick sdb1 cannot be used: it has 191 bytes instead of 192: it was cut off"),
        ((VAULT,), ("no", "no", "no"), "3 wrong passphrases were typed"),
        ((OTHERS,), (PASSPHRASE,), "has no key for this volume"),
        (
            (VAULT, medium("s", {PASSPHRASE_PATH: b"no"})),
            (Instead.SKIP,),
            "is not that of \\Bluelift\\vault\\keys.vault",
        ),
        ((medium("s", {CSV_PATH: csv_bytes((OTHER_GUID, OTHER_KEY))}),), (), "that whoever finds the medium can read"),
        ((medium("s", {CSV_PATH: csv_bytes((GUID, OTHER_KEY))}),), (), f"A key was refused (plain CSV, {GUID})"),
    ],
)
def test_the_question_by_hand_says_why_no_medium_had_the_key(
    media: tuple[Medium, ...], answers: tuple[str | Instead, ...], remark: str
) -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, *media, answers=(*answers, KEY))
    question = ran.prompt.questions[-1]
    assert isinstance(question, RecoveryQuestion)
    assert remark in question.remark and bool(remark) == bool(question.remark)
    assert ran.receipt.volumes[0].unlocked_by == "recovery password typed"


def test_rubbish_does_not_hide_a_damaged_vault() -> None:
    files = {f"\\{number}.BEK": b"rubbish" for number in range(40)}
    files["\\Bluelift\\vault\\a.vault"] = vault_bytes((GUID, KEY))[:-1]
    ran = run({"sda3": lock((RECOVERY, KEY))}, medium("stick sdb1", files), answers=(KEY,))
    (question,) = ran.prompt.questions
    assert "a.vault on stick sdb1 cannot be used" in question.remark
    assert len(ran.receipt.notes) == 9, "of the rubbish, only the first"


def test_a_damaged_vault_is_told_beside_the_question_for_the_others_passphrase() -> None:
    whole = medium("CD sr1", {VAULT_PATH: vault_bytes((GUID, KEY), salt=b"t")})
    ran = run({"sda3": lock((RECOVERY, KEY))}, CUT_OFF, whole, answers=(PASSPHRASE,))
    (question,) = ran.prompt.questions
    assert isinstance(question, PassphraseQuestion)
    assert "it was cut off" in question.remark


def test_the_newest_vault_counts() -> None:
    old = medium("old", {VAULT_PATH: vault_bytes((GUID, OTHER_KEY), salt=b"o", written=1)})
    new = medium("new", {VAULT_PATH: vault_bytes((GUID, KEY), salt=b"n", written=2)})
    for media in ((old, new), (new, old)):
        ran = run({"sda3": lock((RECOVERY, KEY))}, *media, PASSPHRASE_FILE)
        assert ran.receipt.volumes[0].unlocked_by == "vault"
        assert ran.receipt.volumes[0].notes == ()


def test_a_vault_that_is_seen_twice_is_opened_once() -> None:
    twice = tuple(medium(name, {VAULT_PATH: vault_bytes((GUID, KEY))}, disk="sdb") for name in ("sdb", "sdb1"))
    found = look_for_keys(twice, Wanted(recovery=frozenset(), startup=frozenset()))
    assert [vault.medium for vault in found.vaults] == ["sdb"]


def test_a_passphrase_file_that_is_not_needed_is_not_blamed() -> None:
    """The first stick's opened every vault; of the second nothing has to be said."""
    second = medium("stick sdx1", {PASSPHRASE_PATH: PASSPHRASE.encode()}, disk="sdx")
    ran = run({"sda3": lock((RECOVERY, KEY))}, VAULT, PASSPHRASE_FILE, second)
    assert ran.receipt.volumes[0].unlocked_by == "vault"
    assert ran.receipt.notes == ()


def test_media_that_fail_while_a_vault_is_opened_leave_the_question() -> None:
    class Fails(FakeUnlocking):
        searched = False

        @contextmanager
        def key_media(self) -> Iterator[Iterator[Medium]]:
            if self.searched:
                raise OSError(5, "Input/output error")
            self.searched = True
            yield iter(self.key_files)

    unlocking = Fails({"sda3": lock((RECOVERY, KEY))}, media=(VAULT,))
    unlocking.fake_volumes = [FakeVolume(volume("sda3", state=VolumeState.LOCKED), MemoryFiles())]
    prompt = FakePrompt(PASSPHRASE, KEY)
    unlocker = Unlocker(unlocking, prompt, host=HostIdentity(), step=lambda _: None)
    with ExitStack() as locks:
        outcomes = unlocker.open_all([fake.volume for fake in unlocking.fake_volumes], locks)
    assert outcomes["sda3"].unlocked_by == "recovery password typed"
    assert "The media with the vault could not be read" in " ".join(unlocker.notes)


def test_a_key_that_could_not_be_tried_is_not_called_wrong() -> None:
    ran = run({"sda3": replace(lock(), refuses=RuntimeError("no such cipher"))}, answers=(KEY, Instead.SKIP))
    problem = ran.prompt.questions[-1].problem
    assert problem.startswith("A key could not be tried (recovery password typed): RuntimeError: no such cipher")


@pytest.mark.parametrize(
    "data",
    [
        f"{PASSPHRASE}\r\nfor the stick of the Zurich office\r\n".encode(),
        f"\n\n  {PASSPHRASE}\n".encode("utf-16"),
        f"\ufeff{PASSPHRASE}".encode(),
    ],
)
def test_a_passphrase_file_is_its_first_line(data: bytes) -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, VAULT, medium("s", {PASSPHRASE_PATH: data}))
    assert ran.receipt.volumes[0].unlocked_by == "vault"


def test_a_wrong_passphrase_file_is_told_and_the_passphrase_asked_for() -> None:
    wrong = medium("stick sdc1", {PASSPHRASE_PATH: OTHER_PASSPHRASE.encode()})
    ran = run({"sda3": lock((RECOVERY, KEY))}, VAULT, wrong, answers=(PASSPHRASE,))
    assert ran.receipt.verdict is Verdict.REPAIRED
    assert "is not that of \\Bluelift\\vault\\keys.vault on stick sdb1" in notes_of(ran)


def test_a_vault_without_the_key_asks_by_hand() -> None:
    other = medium("stick sdb1", {VAULT_PATH: vault_bytes((OTHER_GUID, OTHER_KEY), salt=b"u")})
    ran = run({"sda3": lock((RECOVERY, KEY))}, other, answers=(PASSPHRASE, KEY))
    assert ran.receipt.volumes[0].unlocked_by == "recovery password typed"


# --- plain CSV, startup keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        csv_bytes((GUID, KEY)),
        b"\xef\xbb\xbf" + csv_bytes((GUID, KEY)),
        csv_bytes((GUID, KEY)).decode().encode("utf-16"),
        csv_bytes((GUID, KEY)).replace(b",", b";"),
        b'"RecoveryKey","Host","KeyID"\n"'
        + recovery_password.text_of(KEY).encode()
        + b'","x","{'
        + GUID.encode()
        + b'}"',
        csv_bytes((GUID.lower(), KEY)).replace(b"KeyID", b"keyid "),
    ],
)
def test_plain_csv_as_people_have_them(data: bytes) -> None:
    ran = run({"sda3": lock((RECOVERY, KEY))}, medium("stick sdb1", {CSV_PATH: data}))
    assert ran.receipt.volumes[0].unlocked_by == "plain CSV"
    assert "can read" in notes_of(ran)
    assert "Warning: \\Bluelift\\vault\\keys.csv on stick sdb1" in ran.said


@pytest.mark.parametrize(("before", "line"), [(b"", 2), (b'\n,\n"a\nb",x\n', 6)])
def test_a_mistyped_password_in_a_csv_is_named_by_its_line(before: bytes, line: int) -> None:
    data = b"KeyID,RecoveryKey\n%s%s,%s\n" % (before, GUID.encode(), b"-".join([b"000012"] * 8))
    ran = run({"sda3": lock((RECOVERY, KEY))}, medium("s", {CSV_PATH: data}))
    assert f"line {line}: the recovery password cannot be right, for group 1" in notes_of(ran)
    assert "000012" not in ran.said


@pytest.mark.parametrize("data", [b"", b"GUID,Key\n1,2", bytes(range(256)) * 40, b'KeyID,RecoveryKey\n\n,\n"\n'])
def test_any_csv_is_let_pass(data: bytes) -> None:
    assert run({"sda3": lock((RECOVERY, KEY))}, medium("s", {CSV_PATH: data})).receipt.verdict is Verdict.NEEDS_A_KEY


class _Endless(io.RawIOBase):
    """A planted file that is as large as anybody likes: a header, and then one line without an end."""

    def __init__(self) -> None:
        self._start, self.read_bytes = b"KeyID,RecoveryKey\n", 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert (offset, whence) == (0, 0)
        self._start = b"KeyID,RecoveryKey\n"
        return 0

    def readinto(self, buffer: Any) -> int:
        data = (self._start or b"1" * len(buffer))[: len(buffer)]
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        self.read_bytes += len(data)
        assert self.read_bytes < 1 << 20, "all of it would go into memory"
        return len(data)


def test_a_table_of_one_endless_line_is_let_pass() -> None:
    planted, endless = medium("s", {CSV_PATH: b""}), _Endless()
    planted.files.open_file = lambda _: endless  # type: ignore[method-assign, assignment, return-value]
    found = look_for_keys([planted], Wanted(recovery=frozenset([GUID]), startup=frozenset()))
    assert found.notes == ["\\Bluelift\\vault\\keys.csv on s is no table of KeyID and RecoveryKey."]


def test_startup_keys_of_other_volumes_and_rubbish_are_let_pass() -> None:
    files = {f"\\{OTHER_GUID}.bek": startup_key_file(OTHER_GUID), "\\x.BEK": b"rubbish"}
    locked = lock((STARTUP, startup_key_file()), protectors=BY_BOTH)
    ran = run({"sda3": locked}, medium("stick sdb1", files))
    assert ran.unlocking.tried == []
    assert "\\x.BEK on stick sdb1 is no startup key" in notes_of(ran)
    in_vault_folder = medium("s", {f"\\bluelift\\VAULT\\{STARTUP_GUID}.bek": startup_key_file()})
    assert run({"sda3": locked}, in_vault_folder).receipt.volumes[0].unlocked_by == "startup key"


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a.vault", "k.csv", "x.BEK"]), st.binary(max_size=400), max_size=3))
def test_whatever_lies_on_a_medium_is_let_pass(files: dict[str, bytes]) -> None:
    planted = medium("s", {f"\\Bluelift\\vault\\{name}": data for name, data in files.items()})
    planted.files.add("\\Bluelift\\passphrase.txt", b"\xff\xfe\0")  # type: ignore[attr-defined]
    look_for_keys([planted], Wanted(recovery=frozenset([GUID]), startup=frozenset([STARTUP_GUID])))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_media_that_fail_leave_the_question() -> None:
    broken = medium("stick sdb1", {VAULT_PATH: vault_bytes((GUID, KEY))})
    broken.files.fail["open_file"] = OSError(5, "Input/output error")  # type: ignore[attr-defined]
    for ran in (
        run({"sda3": lock((RECOVERY, KEY))}, broken, answers=(KEY,)),
        run({"sda3": lock((RECOVERY, KEY))}, answers=(KEY,), key_media=OSError(5, "Input/output error")),
    ):
        assert ran.receipt.volumes[0].unlocked_by == "recovery password typed"
        assert "nput/output error" in notes_of(ran)


def test_a_prompt_that_breaks_leaves_what_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_self: FakePrompt, _question: RecoveryQuestion) -> bytes:
        raise ValueError(recovery_password.text_of(KEY))

    monkeypatch.setattr(FakePrompt, "recovery_key", breaks)
    other = lock(name="sda4", protectors=(protector(RECOVERY, STARTUP_GUID),))
    ran = run({"sda3": lock((RECOVERY, KEY)), "sda4": other}, VAULT, PASSPHRASE_FILE)
    assert [record.verdict for record in ran.receipt.volumes] == [Verdict.REPAIRED, Verdict.NEEDS_A_KEY]
    assert "Nobody could be asked for a key (ValueError)." in notes_of(ran)
    assert ran.session.nobody


def test_of_very_many_protectors_some_are_named() -> None:
    """A script that adds one at every start: the advice stays readable, the receipt has all of them."""
    guids = [f"{number:08X}-0000-0000-0000-000000000000" for number in range(300)]
    locked = lock(protectors=tuple(protector(RECOVERY, guid) for guid in guids))
    (record,) = run({"sda3": locked}, answers=(Instead.SKIP,)).receipt.volumes
    assert record.key_ids == tuple(guids)
    assert f"{guids[0]} or {guids[1]} or {guids[2]} or 297 more (FRONTDESK-07" in record.advice
    assert len(record.advice) < 400


REFUSAL = VolumeNotOpened(VolumeState.PARTLY_ENCRYPTED, "Windows has not finished.", "Use WinPE.")


@pytest.mark.parametrize(
    ("locked", "verdict", "words"),
    [
        (replace(lock(), metadata=FveError("no block")), Verdict.NEEDS_A_KEY, NO_METADATA),
        (replace(lock(), metadata=OSError(5, "I/O")), Verdict.NEEDS_A_KEY, NO_METADATA),
        (replace(lock(), metadata=REFUSAL), Verdict.LEFT_ALONE, "Windows has not finished"),
        (replace(lock(), metadata=metadata()), Verdict.NEEDS_A_KEY, NO_PASSWORD),
        (replace(lock(), refuses=REFUSAL), Verdict.LEFT_ALONE, "Windows has not finished"),
        (replace(lock(), refuses=RuntimeError("no such cipher")), Verdict.NEEDS_A_KEY, NO_KEY),
    ],
)
def test_volumes_that_no_key_opens(locked: FakeLock, verdict: Verdict, words: str) -> None:
    ran = run({"sda3": locked}, CSV)
    (record,) = ran.receipt.volumes
    assert (record.verdict, record.unlocked_by) == (verdict, "")
    assert words in record.detail
    assert record.advice
    fine = run({"sda3": locked, "sda4": lock((RECOVERY, KEY), name="sda4")}, CSV)
    assert fine.receipt.volumes[1].verdict is Verdict.REPAIRED
