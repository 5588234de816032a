"""Opening locked volumes with as little typing as possible, all of them before any is looked into.

In this order: a clear key that lies beside the volume; a startup key file; a vault (its passphrase from a file on
another medium, else asked for once); a plain CSV; by hand. A key is matched by its protector's GUID before it is tried.
Whatever goes wrong with one volume is told in its outcome, and the others still get their turn. Keys and passphrases
appear in no outcome, note or exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from payload.contract import MEDIUM_FOLDER, SAFE_MODE_SCRIPT, HostIdentity
from payload.environment import Volume, VolumeNotOpened, VolumeState
from payload.environment.locked import KeyRefused, Unlocking, UnlockKey
from payload.events import KeyWanted
from payload.formats.fve import FveVolume
from payload.formats.fve_entries import FveError, ProtectorKind
from payload.key_prompt import ATTEMPTS, Instead, KeyPrompt, PassphraseQuestion, RecoveryQuestion
from payload.key_sources import (
    FoundKeys,
    FoundPassphrase,
    FoundVault,
    VaultAnswer,
    Wanted,
    look_for_keys,
    open_vaults,
)
from payload.safe_mode import SafeModeRefused, set_safe_mode, why_no_safe_mode
from payload.verdict import error_note, state_advice

CLEAR_KEY, STARTUP_KEY, VAULT, PLAIN_CSV, BY_HAND = (
    "clear key",
    "startup key",
    "vault",
    "plain CSV",
    "recovery password typed",
)
NO_KEY = "it is locked by BitLocker, and no key for it was found"
VAULT_LACKS = "The key vault was opened, but it has no key for this volume."
NO_METADATA = "it is locked by BitLocker, and what BitLocker says about it cannot be read"
NO_PASSWORD = "it is locked by BitLocker, and there is no recovery password for it"
SAFE_MODE_SET = "it stays locked: '{}' was set to start in safe mode, where it unlocks the volume by itself"
SAFE_MODE_ADVICE = (
    "Restart the host from its own disk, log in as a local administrator, and from this medium run "
    f"\\{MEDIUM_FOLDER}\\{SAFE_MODE_SCRIPT} as administrator."
)
#: How many key ids an advice names.
_NAMED = 3
#: A passphrase or a key.
Answer = TypeVar("Answer", str, bytes)
DAMAGED_ADVICE = "Try repair-bde from a Windows recovery environment, with this volume's recovery password."


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a locked volume came out. `key_ids`: GUIDs of the protector that opened it, else of all that could.

    `unlocked_by` is empty for a volume that stayed locked, and state, detail and advice are about such a one alone.
    """

    unlocked_by: str = ""
    key_ids: tuple[str, ...] = ()
    state: VolumeState = VolumeState.LOCKED
    detail: str = ""
    advice: str = ""
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Locked:
    """A locked volume on its way."""

    volume: Volume
    metadata: FveVolume
    opened_by: str = ""
    protector: str = ""
    refusal: VolumeNotOpened | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return not self.opened_by and self.refusal is None

    @property
    def recovery_guids(self) -> tuple[str, ...]:
        return tuple(protector.guid for protector in self.metadata.recovery_passwords)


class Unlocker:
    """Opens volumes. `step` shows a line of progress, `asks` is told of each question; no prompt, no question."""

    def __init__(
        self,
        unlocking: Unlocking,
        prompt: KeyPrompt | None,
        *,
        host: HostIdentity,
        step: Callable[[str], None],
        safe_mode: bool = False,
        asks: Callable[[KeyWanted], None] = lambda _: None,
    ) -> None:
        self._unlocking = unlocking
        self._prompt = prompt
        self._host = host
        self._step = step
        self._safe_mode = safe_mode
        self._asks = asks
        self._waiting: list[_Locked] = []
        #: What the receipt should tell beside the outcomes: vaults that are damaged, plain CSV files.
        self.notes: list[str] = []
        #: Why no medium had a key, for the screen.
        self._remark = ""
        #: Whether a key was wanted and nobody was there to be asked.
        self.nobody = False
        #: Whether somebody chose to have Windows repaired in safe mode.
        self.safe_mode_chosen = False

    def open_all(self, volumes: Sequence[Volume], locks: ExitStack) -> Mapping[str, Outcome]:
        """Open the locked ones among `volumes` until `locks` is closed; outcomes by the volume's id."""
        outcomes: dict[str, Outcome] = {}
        all_locked: list[_Locked] = []
        for volume in volumes:
            if volume.state is VolumeState.LOCKED:
                read = self._read(volume)
                if isinstance(read, Outcome):
                    outcomes[volume.id] = read
                else:
                    all_locked.append(read)
        self._waiting = all_locked
        self._by_clear_keys(locks)
        if self._still_waiting():
            self._by_media(locks)
        if self._still_waiting():
            self._by_hand(locks)
        return outcomes | {locked.volume.id: _outcome(locked, self._host) for locked in all_locked}

    def _read(self, volume: Volume) -> _Locked | Outcome:
        try:
            return _Locked(volume=volume, metadata=self._unlocking.locked_metadata(volume))
        except VolumeNotOpened as refusal:
            return Outcome(state=refusal.state, detail=refusal.detail, advice=refusal.advice)
        except (FveError, OSError) as error:
            return Outcome(detail=NO_METADATA, advice=DAMAGED_ADVICE, notes=(error_note(error),))

    def _still_waiting(self) -> list[_Locked]:
        return [locked for locked in self._waiting if locked.waits]

    # --- the means ------------------------------------------------------------------------------------------------

    def _by_clear_keys(self, locks: ExitStack) -> None:
        for locked in self._still_waiting():
            for protector in locked.metadata.protectors_of(ProtectorKind.CLEAR_KEY)[:1]:
                self._try(locked, UnlockKey(kind=ProtectorKind.CLEAR_KEY, protector=protector.guid), CLEAR_KEY, locks)

    def _by_media(self, locks: ExitStack) -> None:
        self._step("Looking for keys on attached media ...")
        found = self._search()
        self._tell(found.notes)
        for locked in self._still_waiting():
            for protector in locked.metadata.startup_keys:
                if locked.waits and protector.guid in found.startup:
                    content = found.startup[protector.guid]
                    key = UnlockKey(kind=ProtectorKind.STARTUP_KEY, protector=protector.guid, secret=content)
                    self._try(locked, key, STARTUP_KEY, locks)
        if found.vaults and self._wanted().recovery:
            self._by_vaults(found, locks)
        for place in found.plain_files:
            self._warn(
                f"{place} holds recovery passwords that whoever finds the medium can read. Import it into a vault "
                "(bluelift keys import) and delete it."
            )
        self._with_recovery_keys(found.plain, PLAIN_CSV, locks)

    def _by_vaults(self, found: FoundKeys, locks: ExitStack) -> None:
        """With the passphrases that lie on media, then with one that is asked for; wrong ones up to ATTEMPTS times."""
        unopened = list(found.vaults)
        for passphrase in found.passphrases:
            if not unopened or not self._wanted().recovery:
                break
            apart = [vault for vault in unopened if vault.disk != passphrase.disk]
            if not apart:
                self._warn(_lies_with_the_vault(passphrase))
                continue
            answer = self._with_passphrase(apart, passphrase.text, unopened, locks)
            if answer.refused:
                self._tell([f"The passphrase in {passphrase.words} is not that of {_names(answer.refused)}."])
        problem, failed = "", 0
        while unopened and self._wanted().recovery and failed < ATTEMPTS:
            names = tuple(vault.words for vault in unopened)
            question = PassphraseQuestion(vaults=names, failed=failed, problem=problem, remark=self._remark)
            typed = self._ask_passphrase(question)
            if isinstance(typed, Instead):
                return
            answer = self._with_passphrase(list(unopened), typed, unopened, locks)
            if answer.opened or not answer.refused:
                return
            failed += 1
            problem = "That is not the passphrase of the vault."
        if failed >= ATTEMPTS:
            self._tell([f"{failed} wrong passphrases were typed, so the vault was not opened."])

    def _with_passphrase(
        self, vaults: list[FoundVault], passphrase: str, unopened: list[FoundVault], locks: ExitStack
    ) -> VaultAnswer:
        """Open the vaults and with them volumes. Those that another passphrase might open stay in `unopened`."""
        self._step("Opening the key vault (this takes a few seconds) ...")
        try:
            with self._unlocking.key_media() as media:
                answer = open_vaults(media, vaults, passphrase, self._wanted().recovery, self._unlocking.cipher)
        except OSError as error:
            answer = VaultAnswer(notes=[f"The media with the vault could not be read: {error_note(error)}"])
        if answer.opened:
            self._remark = VAULT_LACKS
        self._tell(answer.notes)
        unopened[:] = [vault for vault in unopened if vault in answer.refused or vault not in vaults]
        self._with_recovery_keys(answer.keys, VAULT, locks)
        return answer

    def _by_hand(self, locks: ExitStack) -> None:
        for locked in self._still_waiting():
            self._ask_until_it_opens(locked, locks)

    def _ask_until_it_opens(self, locked: _Locked, locks: ExitStack) -> None:
        guids = locked.recovery_guids
        protector = guids[0] if len(guids) == 1 else ""
        problem, failed = "", 0
        while locked.waits:
            question = RecoveryQuestion(
                volume=locked.volume,
                metadata=locked.metadata,
                host=self._host,
                failed=failed,
                problem=problem,
                remark=locked.notes[-1] if locked.notes else self._remark,
                safe_mode=self._safe_mode,
            )
            answer = self._ask_recovery_key(question)
            if answer is Instead.SAFE_MODE:
                problem = self._set_safe_mode(locked)
                continue
            if isinstance(answer, Instead):
                return
            key = UnlockKey(kind=ProtectorKind.RECOVERY_PASSWORD, protector=protector, secret=answer)
            judged = self._try(locked, key, BY_HAND, locks)
            failed += 1
            problem = "That is not this volume's recovery password." if judged else locked.notes[-1]

    def _set_safe_mode(self, locked: _Locked) -> str:
        """Have the volume's Windows start in safe mode; why that could not be, else empty."""
        try:
            change = set_safe_mode(self._unlocking, locked.volume)
        except SafeModeRefused as refusal:
            return refusal.sentence
        self.safe_mode_chosen = True
        locked.refusal = VolumeNotOpened(VolumeState.LOCKED, SAFE_MODE_SET.format(change.entry), SAFE_MODE_ADVICE)
        kept = f"; the store as it was is {change.kept}" if change.kept else " already"
        locked.notes.append(f"safeboot is set in {change.path} on {change.partition}{kept}.")
        return ""

    # --- asking ---------------------------------------------------------------------------------------------------

    def _ask_passphrase(self, question: PassphraseQuestion) -> str | Instead:
        return self._ask(KeyWanted(failed=question.failed), lambda prompt: prompt.passphrase(question))

    def _ask_recovery_key(self, question: RecoveryQuestion) -> bytes | Instead:
        ids = tuple(protector.guid for protector in question.metadata.recovery_passwords)
        event = KeyWanted(volume=question.volume.id, key_ids=ids, failed=question.failed)
        return self._ask(event, lambda prompt: prompt.recovery_key(question))

    def _ask(self, event: KeyWanted, answer_of: Callable[[KeyPrompt], Answer | Instead]) -> Answer | Instead:
        """The answer; NOBODY also where asking fails, for volumes that other means opened still get their turn."""
        answer: Answer | Instead = Instead.NOBODY
        if self._prompt is not None and not self.nobody:
            self._asks(event)
            try:
                answer = answer_of(self._prompt)
            except Exception as error:  # its words could hold what was typed
                self.notes.append(f"Nobody could be asked for a key ({type(error).__name__}).")
        self.nobody |= answer is Instead.NOBODY
        return answer

    # --- one key --------------------------------------------------------------------------------------------------

    def _search(self) -> FoundKeys:
        try:
            with self._unlocking.key_media() as media:
                return look_for_keys(media, self._wanted())
        except OSError as error:
            self.notes.append(f"Media could not be searched for keys: {error_note(error)}")
            return FoundKeys()

    def _wanted(self) -> Wanted:
        waiting = self._still_waiting()
        return Wanted(
            recovery=frozenset(guid for locked in waiting for guid in locked.recovery_guids),
            startup=frozenset(p.guid for locked in waiting for p in locked.metadata.startup_keys),
        )

    def _with_recovery_keys(self, keys: Mapping[str, bytes], means: str, locks: ExitStack) -> None:
        for locked in self._still_waiting():
            for guid in locked.recovery_guids:
                if locked.waits and guid in keys:
                    key = UnlockKey(kind=ProtectorKind.RECOVERY_PASSWORD, protector=guid, secret=keys[guid])
                    self._try(locked, key, means, locks)

    def _try(self, locked: _Locked, key: UnlockKey, means: str, locks: ExitStack) -> bool:
        """Try a key; False where that could not be done, and nothing is known of the key."""
        patience = " (this can take half a minute)" if key.kind is ProtectorKind.RECOVERY_PASSWORD else ""
        self._step(f"Unlocking {locked.volume.id}: {means}{patience} ...")
        try:
            locks.enter_context(self._unlocking.unlocked(locked.volume, key))
        except KeyRefused:
            locked.notes.append(f"A key was refused ({means}{f', {key.protector}' if key.protector else ''}).")
        except VolumeNotOpened as refusal:
            locked.refusal = refusal
        except Exception as error:  # the last net below one key: other means and volumes still get their turn
            locked.notes.append(f"A key could not be tried ({means}): {error_note(error)}")
            return False
        else:
            locked.opened_by, locked.protector = means, key.protector
        return True

    def _tell(self, sentences: Sequence[str]) -> None:
        """What goes into the receipt, and the last of it onto the next question's screen."""
        self.notes += sentences
        self._remark = sentences[-1] if sentences else self._remark

    def _warn(self, text: str) -> None:
        self.notes.append(text)
        self._remark = self._remark or text
        self._step(f"Warning: {text}")


def _outcome(locked: _Locked, host: HostIdentity) -> Outcome:
    notes = tuple(locked.notes)
    if locked.opened_by:
        ids = (locked.protector,) if locked.protector else locked.recovery_guids
        return Outcome(unlocked_by=locked.opened_by, key_ids=ids, notes=notes)
    ids = locked.recovery_guids
    if locked.refusal is not None:
        refusal = locked.refusal
        return Outcome(key_ids=ids, state=refusal.state, detail=refusal.detail, advice=refusal.advice, notes=notes)
    if not ids:
        return Outcome(detail=NO_PASSWORD, advice=_advice_without_password(locked.metadata), notes=notes)
    return Outcome(key_ids=ids, detail=NO_KEY, advice=_key_advice(locked, host), notes=notes)


def _advice_without_password(metadata: FveVolume) -> str:
    """What opens a volume for which no recovery password can be looked up."""
    if not why_no_safe_mode(metadata):
        return "Start Bluelift again and choose safe mode: there Windows unlocks the volume by itself."
    if metadata.startup_keys:
        files = _some([f"{protector.guid}.BEK" for protector in metadata.startup_keys])
        return f"Start Bluelift again with a stick that has its startup key file, {files}."
    kinds = " or ".join(dict.fromkeys(protector.kind.value for protector in metadata.protectors))
    return f"Unlock it in a Windows that runs, with its {kinds or 'key'}, and remove the files there."


def _key_advice(locked: _Locked, host: HostIdentity) -> str:
    """Which recovery password somebody has to look up, and what for."""
    ids = _some(locked.recovery_guids)
    about = [locked.metadata.description, f"serial number {host.smbios_serial}" if host.smbios_serial else ""]
    whose = "; ".join(filter(None, about))
    return f"Look up the recovery password of key id {ids}{f' ({whose})' if whose else ''}. " + state_advice(
        VolumeState.LOCKED
    )


def _some(names: Sequence[str]) -> str:
    """Names for a sentence: scripts leave dozens of protectors on a volume, and any of them will do."""
    more = f" or {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " or ".join(names[:_NAMED]) + more


def _lies_with_the_vault(passphrase: FoundPassphrase) -> str:
    return (
        f"{passphrase.words} was not used: it lies on the medium that the vault is on, where whoever finds one has "
        "both. Keep it on a medium of its own."
    )


def _names(vaults: Sequence[FoundVault]) -> str:
    return ", ".join(vault.words for vault in vaults)
