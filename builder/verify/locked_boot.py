"""One boot of an image on a host with locked disks: keys laid out, somebody at the keyboard, and a look for leaks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import ToolFailed
from builder.verify import leaks
from builder.verify.boot import BootSettings, machine_config, run_machine
from builder.verify.disks import copy_disk, make_disk
from builder.verify.firmware import FirmwareFiles
from builder.verify.judge import Evidence, Template, check_disk, check_files_in_receipt, check_receipt, look, same
from builder.verify.leaks import Secrets, leaks_below, leaks_in
from builder.verify.locked_media import (
    PASSPHRASE,
    WRONG_PASSWORD,
    MadeVault,
    make_vault,
    passphrase_stick,
    put_on_boot_stick,
    stick,
    vault_cd,
)
from builder.verify.locked_scenarios import UNLOCKED_BY, KeyPlace, LockedDisk, LockedScenario, VaultPlace
from builder.verify.machine import parse_event, state_folder
from builder.verify.medium import as_raw, check_medium
from builder.verify.qemu import Attach, Controller
from builder.verify.report import NO_VERDICT, BootReport, Check, comparison_text, write_beside
from builder.verify.scenarios import Afterwards
from builder.verify.typist import Typist
from builder.verify.unlocked import WINDOWS_VOLUME, bitlocker_metadata
from payload.contract import EventName, Receipt, Verdict, VolumeRecord

#: Keys are tried in 2^20 rounds of a hash, and somebody types.
_PATIENCE = 3.0
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class LockedHost:
    """The scenario's disks as made, in its order, its vault, and everything that must not leak."""

    templates: tuple[Template, ...]
    vault: MadeVault | None
    secrets: Secrets


def make_host(scenario: LockedScenario, *, settings: BootSettings, scratch: Path) -> LockedHost:
    """Make the disks and the vault in `scratch`, and look at the disks before they are booted."""
    templates = []
    for wanted in scenario.disks:
        disk = make_disk(wanted.plan(), scratch / f"{wanted.name}.raw")
        templates.append(Template(disk=disk, seen=look(disk, ntfsck=settings.ntfsck, scratch=scratch)))
    vault, secrets = None, leaks.of_password(WRONG_PASSWORD, "that is wrong")
    for wanted, template in zip(scenario.disks, templates, strict=True):
        assert template.disk.locked is not None
        secrets |= leaks.of_volume(template.disk.locked, wanted.name)
    if scenario.vault is not VaultPlace.NONE:
        vaulted = _passwords(scenario, templates, KeyPlace.VAULT)
        vault = make_vault(scratch / f"{scenario.name}.vault", {key_id: text for key_id, (text,) in vaulted.items()})
        secrets |= leaks.of_vault(vault.header, PASSPHRASE)
    return LockedHost(templates=tuple(templates), vault=vault, secrets=secrets)


def boot_host(
    scenario: LockedScenario,
    host: LockedHost,
    *,
    firmware: FirmwareFiles,
    controller: Controller,
    settings: BootSettings,
    folder: Path,
) -> BootReport:
    """Boot the image with copies of the host's disks, and judge what came of it. Fills `folder`.

    Once more, with fresh copies of everything, where nothing of ours ran.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(settings, limit=settings.limit * _PATIENCE)
    attempt, checks = 0, list[Check]()
    while not checks:
        attempt += 1
        with state_folder() as state:
            disks = [copy_disk(template.disk, state / f"disk{n}.raw") for n, template in enumerate(host.templates)]
            keys = _lay_out_keys(scenario, host, settings=settings, state=state)
            config = replace(
                machine_config(
                    state, disks[0], keys.medium, firmware=firmware, controller=controller, settings=settings
                ),
                more_disks=tuple(disk.path for disk in disks[1:]),
                sticks=keys.sticks,
                discs=keys.discs,
            )
            typist = _typist(scenario, host, folder, limit=settings.limit)
            evidence = run_machine(
                config, disks[0], firmware=firmware, settings=settings, folder=folder, attend=typist.attend
            )
            if evidence.reached_payload or attempt > settings.retries:
                checks += check_receipt(evidence, scenario.verdict, disks)
                checks.append(_check_questions(scenario, folder))
                for wanted, template, disk in zip(scenario.disks, host.templates, disks, strict=True):
                    seen = replace(evidence, disk=disk)
                    checks += _check_volume(wanted, template, seen, host.secrets, settings=settings, scratch=state)
                checks += _check_media(host, keys, evidence.receipt, settings=settings, scratch=state)
                checks += _check_folder(host, folder, checks)
    write_beside(folder / "expected-vs-seen.txt", comparison_text(tuple(checks)))
    return BootReport(
        firmware=firmware.kind,
        controller=controller,
        scenario=scenario.name,
        number=1,
        nonce=config.uuid,
        headline=evidence.receipt.verdict.headline if evidence.receipt else NO_VERDICT,
        ended=evidence.ended,
        receipt_seconds=evidence.receipt_seconds,
        seconds=evidence.seconds,
        checks=tuple(checks),
        folder=folder,
        attempts=attempt,
        attach=settings.attach,
    )


# --- before ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LaidOutKeys:
    """The boot medium, sticks and discs with every key where the scenario has it.

    `before` has copies of what the guest can write to, as it was.
    """

    medium: Path
    sticks: tuple[Path, ...]
    discs: tuple[Path, ...]
    before: Mapping[Path, Path]


def _lay_out_keys(scenario: LockedScenario, host: LockedHost, *, settings: BootSettings, state: Path) -> LaidOutKeys:
    medium = settings.image.absolute()
    if settings.attach is not Attach.CD:
        medium = Path(shutil.copyfile(medium, state / "medium"))
    sticks, discs = [], []
    if host.vault and scenario.vault is VaultPlace.BOOT_STICK:
        put_on_boot_stick(host.vault.path, medium)
    if host.vault and scenario.vault is VaultPlace.SECOND_CD:
        discs.append(vault_cd(host.vault.path, state / "keys.iso"))
    if scenario.passphrase_file:
        sticks.append(passphrase_stick(state / "passphrase.img"))
    for wanted, template in zip(scenario.disks, host.templates, strict=True):
        if wanted.key is KeyPlace.STICK and template.disk.locked:
            sticks.append(stick(state / f"{wanted.name}.img", template.disk.locked.startup_key_files))
    writable = [*sticks, *([medium] if settings.attach is not Attach.CD else [])]
    before = {path: Path(shutil.copyfile(path, path.with_suffix(".before"))) for path in writable}
    return LaidOutKeys(medium=medium, sticks=tuple(sticks), discs=tuple(discs), before=before)


def _passwords(
    scenario: LockedScenario, templates: Sequence[Template], *places: KeyPlace
) -> dict[str, tuple[str, ...]]:
    """The recovery passwords by key id of the disks whose key is at one of these places."""
    return {
        key_id: (password,)
        for wanted, template in zip(scenario.disks, templates, strict=True)
        if wanted.key in places and template.disk.locked
        for key_id, password in template.disk.locked.recovery_passwords.items()
    }


def _typist(scenario: LockedScenario, host: LockedHost, folder: Path, *, limit: float) -> Typist:
    """Types with dashes what is right, and without what is wrong."""
    passwords = _passwords(scenario, host.templates, KeyPlace.HANDS)
    after = _passwords(scenario, host.templates, KeyPlace.HANDS_AFTER_A_WRONG_ONE)
    wrong = WRONG_PASSWORD.replace("-", "")
    passwords |= {key_id: (wrong, *right) for key_id, right in after.items()}
    passphrase = PASSPHRASE if host.vault and not scenario.passphrase_file else ""
    return Typist(folder=folder, limit=limit, passphrase=passphrase, passwords=passwords)


# --- afterwards ------------------------------------------------------------------------------------------------------


def _check_volume(
    wanted: LockedDisk,
    template: Template,
    evidence: Evidence,
    secrets: Secrets,
    *,
    settings: BootSettings,
    scratch: Path,
) -> Iterator[Check]:
    """Everything about one disk; the name of each check begins with the disk's."""
    for check in _checks_of(wanted, template, evidence, secrets, settings=settings, scratch=scratch):
        yield replace(check, name=f"{wanted.name}: {check.name}")


def _checks_of(
    wanted: LockedDisk,
    template: Template,
    evidence: Evidence,
    secrets: Secrets,
    *,
    settings: BootSettings,
    scratch: Path,
) -> Iterator[Check]:
    record = _record_of(evidence.receipt, template)
    yield Check(
        name="the receipt has its key id",
        passed=record is not None,
        expected="once",
        seen="once" if record else "not once",
    )
    if record is not None and evidence.receipt is not None:
        yield same("what opened it", UNLOCKED_BY[wanted.key] or "nothing", record.unlocked_by or "nothing")
        yield same("its verdict", wanted.expectation.verdict.headline, record.verdict.headline)
        if wanted.expectation.verdict is Verdict.REPAIRED:
            yield from check_files_in_receipt(replace(evidence.receipt, volumes=(record,)), template)
    before, after = bitlocker_metadata(template.disk), bitlocker_metadata(evidence.disk)
    unchanged = "the boot sector and all three metadata regions are byte-identical"
    yield same("as protected as it was", unchanged, unchanged if before == after else "they differ")
    yield _no_leaks("the disk", leaks_in(evidence.disk.path, secrets, before=template.disk.path), secrets)
    try:
        seen = look(evidence.disk, ntfsck=settings.ntfsck, scratch=scratch)
    except ToolFailed as error:
        yield same("dislocker opens it, and the volume can be read back", "every file of it", error.message)
        return
    yield from check_disk(evidence.disk, wanted.expectation, template, template.disk, seen)
    if wanted.expectation.afterwards is Afterwards.REPAIRED:
        yield _no_leaks("the volume, unlocked", leaks_in(scratch / WINDOWS_VOLUME, secrets), secrets)


def _record_of(receipt: Receipt | None, template: Template) -> VolumeRecord | None:
    """The volume in the receipt that has one of the disk's key ids; None where there is not exactly one."""
    assert template.disk.locked is not None
    ours = {made.guid for made in template.disk.locked.protectors}
    found = [record for record in receipt.volumes if ours & set(record.key_ids)] if receipt else []
    return found[0] if len(found) == 1 else None


def _check_questions(scenario: LockedScenario, folder: Path) -> Check:
    events = map(parse_event, (folder / "serial.log").read_text("utf-8", "replace").splitlines())
    asked = sum(1 for event in events if event is not None and event.name == EventName.KEY_WANTED)
    return same("how often the screen asked for a key", str(scenario.questions), str(asked))


def _check_media(
    host: LockedHost, keys: LaidOutKeys, receipt: Receipt | None, *, settings: BootSettings, scratch: Path
) -> Iterator[Check]:
    raw = {path: (before, path) for path, before in keys.before.items()}
    if keys.medium in raw:
        before, after = (as_raw(path, settings.form, path.with_name(f"{path.name}.raw")) for path in raw[keys.medium])
        yield from check_medium(before, after, receipt, scratch=scratch)
        raw[keys.medium] = before, after
    for path, (before, after) in raw.items():
        named = "the boot medium" if path == keys.medium else f"the stick {path.stem}"
        yield _no_leaks(named, leaks_in(after, host.secrets, before=before), host.secrets)
    if host.vault is not None:
        key_ids = leaks.of_key_ids(host.vault.key_ids)
        yield _no_leaks("the vault", leaks_in(host.vault.path, host.secrets | key_ids), host.secrets | key_ids)


def _check_folder(host: LockedHost, folder: Path, checks: Sequence[Check]) -> Iterator[Check]:
    """The serial log with events and receipt, QEMU's log, and what verdict.json will have of the checks."""
    write_beside(folder / "expected-vs-seen.txt", comparison_text(tuple(checks)))
    yield _no_leaks("what this boot wrote", leaks_below(folder, host.secrets), host.secrets)


def _no_leaks(where: str, found: Sequence[str], secrets: Secrets) -> Check:
    return Check(
        name=f"no secret in {where}",
        passed=not found,
        expected=f"none of {len(secrets.forms)} forms of {len(secrets.names)} secrets",
        seen="; ".join(found[:_SHOWN]) or f"none of {len(secrets.forms)} forms of {len(secrets.names)} secrets",
    )
