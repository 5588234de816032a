"""One boot of an image with a broken disk attached: run it, gather what came out, judge it."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.disk_forms import DiskForm
from builder.errors import ToolFailed
from builder.run import command_line
from builder.verify.disks import BrokenDisk, copy_disk, make_disk
from builder.verify.firmware import Firmware, FirmwareFiles
from builder.verify.judge import Evidence, Template, judge, look
from builder.verify.machine import Ended, GuestEvent, Machine, started, state_folder
from builder.verify.medium import as_raw, check_medium
from builder.verify.qemu import Accelerator, Attach, Controller, MachineConfig, machine_argv
from builder.verify.readback import read_file
from builder.verify.report import NO_VERDICT, BootReport, comparison_text, write_beside
from builder.verify.scenarios import Scenario
from builder.verify.unlocked import WINDOWS_VOLUME
from payload.contract import QUARANTINE_FOLDER, RECEIPT_NAME, EventName, Receipt, Verdict
from payload.formats.records import RecordError, from_json

_DRAW_SECONDS = 1.0
_END_LIMIT = 45
_KEY_PRESSES, _KEY_SECONDS = 3, 5.0
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class BootSettings:
    """What all boots of one run have in common. `limit` is seconds from power-on to the receipt.

    `form` is the image's; as a stick or disk a copy of it is booted, which the guest may write to. Without a
    `serial_port` the guest must come to its end by itself, and its receipt is looked for on the disk.
    """

    image: Path
    ntfsck: tuple[str, ...]
    accelerator: Accelerator = Accelerator.TCG
    attach: Attach = Attach.CD
    form: DiskForm = DiskForm.IMG
    memory_mib: int = 1024
    limit: float = 180
    retries: int = 1
    serial_port: bool = True


def make_template(scenario: Scenario, *, settings: BootSettings, scratch: Path) -> Template:
    """Make the scenario's disk in `scratch` and look at it before it is booted."""
    disk = make_disk(scenario.disk_plan(), scratch / f"{scenario.name}.raw")
    return Template(disk=disk, seen=look(disk, ntfsck=settings.ntfsck, scratch=scratch), store=scenario.store)


def boot_scenario(
    scenario: Scenario,
    template: Template,
    *,
    firmware: FirmwareFiles,
    controller: Controller,
    settings: BootSettings,
    folder: Path,
) -> Iterator[BootReport]:
    """Boot a copy of the template as often as the scenario says, and judge each boot as it ends."""
    with state_folder() as state:
        disk = copy_disk(template.disk, state / "disk.raw")
        medium = settings.image.absolute()
        if settings.attach is not Attach.CD:
            medium = Path(shutil.copyfile(medium, state / "medium"))
        for number, expectation in enumerate(scenario.boots, start=1):
            evidence_folder = folder if len(scenario.boots) == 1 else folder.with_name(f"{folder.name}-boot{number}")
            evidence_folder.mkdir(parents=True, exist_ok=True)
            pristine = copy_disk(disk, state / "pristine.raw")
            pristine_medium = medium
            if settings.attach is not Attach.CD:
                pristine_medium = Path(shutil.copyfile(medium, state / "pristine-medium"))
            config = machine_config(state, disk, medium, firmware=firmware, controller=controller, settings=settings)
            for attempt in range(1, settings.retries + 2):
                evidence = run_machine(config, disk, firmware=firmware, settings=settings, folder=evidence_folder)
                if evidence.reached_payload or evidence.ended is Ended.REFUSED or attempt > settings.retries:
                    break
                # Nothing of ours ran: try once more, with a disk that is certainly as it was.
                disk = copy_disk(pristine, disk.path)
                if medium != pristine_medium:
                    shutil.copyfile(pristine_medium, medium)
            evidence = read_back(evidence, template, settings=settings, scratch=state)
            checks = judge(evidence, expectation, template, pristine)
            if medium != pristine_medium:
                before, after = (
                    as_raw(path, settings.form, path.with_suffix(".raw")) for path in (pristine_medium, medium)
                )
                checks += check_medium(before, after, evidence.receipt, scratch=state)
            report = BootReport(
                firmware=firmware.kind,
                controller=controller,
                scenario=scenario.name,
                number=number,
                nonce=config.uuid,
                headline=evidence.receipt.verdict.headline if evidence.receipt else NO_VERDICT,
                ended=evidence.ended,
                receipt_seconds=evidence.receipt_seconds,
                seconds=evidence.seconds,
                checks=checks,
                folder=evidence_folder,
                attempts=attempt,
                attach=settings.attach,
            )
            write_beside(evidence_folder / "expected-vs-seen.txt", comparison_text(checks))
            yield report
            if not report.passed:
                return


def run_machine(
    config: MachineConfig,
    disk: BrokenDisk,
    *,
    firmware: FirmwareFiles,
    settings: BootSettings,
    folder: Path,
    attend: Callable[[Machine], object] = lambda _: None,
) -> Evidence:
    """Boot once: wait for the receipt, look at the screen, press a key, wait for the end. Fills `folder`.

    `attend` does what somebody at the machine does until the receipt comes.
    """
    if firmware.variables is not None and config.variables is not None:
        shutil.copyfile(firmware.variables, config.variables)
    config.serial_log.unlink(missing_ok=True)
    config.qmp_socket.unlink(missing_ok=True)
    write_beside(folder / "qemu-argv.txt", command_line(machine_argv(config)) + "\n")
    try:
        with started(config, qemu_log=folder / "qemu.log") as machine:
            attend(machine)
            event = machine.wait_for_event(EventName.RECEIPT, limit=settings.limit)
            machine.watch(_DRAW_SECONDS)
            machine.screenshot(folder / "screen.png")
            if event is not None:
                _send_off(machine, event)
            ended = machine.wait_for_end(limit=machine.seconds + _END_LIMIT if event else settings.limit)
            seconds = round(machine.seconds, 2)
            receipt, problem = _receipt_of(event.data.get("receipt")) if event else (None, "no receipt event came")
            # A guest that restarts or powers off by itself got that far by our payload, heard or not.
            reached = machine.event(EventName.STARTED) is not None or ended.normal
    finally:
        if config.serial_log.exists():
            shutil.copyfile(config.serial_log, folder / "serial.log")
    return Evidence(
        disk=disk,
        nonce=config.uuid,
        ended=ended,
        reached_payload=reached,
        receipt=receipt,
        receipt_problem=problem,
        receipt_seconds=event.seconds if event else None,
        seconds=seconds,
    )


def read_back(evidence: Evidence, template: Template, *, settings: BootSettings, scratch: Path) -> Evidence:
    """Add what other programs see on the disk. Where no receipt came by serial port, the one on the disk counts."""
    try:
        after = look(evidence.disk, ntfsck=settings.ntfsck, scratch=scratch)
    except ToolFailed as error:
        return replace(evidence, unreadable=error.message)
    evidence = replace(evidence, after=after)
    return (
        evidence if evidence.receipt is not None else _with_receipt_from_disk(evidence, template.store, scratch=scratch)
    )


# --- running ---------------------------------------------------------------------------------------------------------


def machine_config(
    state: Path,
    disk: BrokenDisk,
    medium: Path,
    *,
    firmware: FirmwareFiles,
    controller: Controller,
    settings: BootSettings,
) -> MachineConfig:
    nonce = random_nonce()
    return MachineConfig(
        firmware=firmware.kind,
        code=firmware.code,
        variables=state / "variables.fd" if firmware.kind is not Firmware.BIOS else None,
        disk=disk.path,
        controller=controller,
        uuid=nonce,
        serial_number=f"BL-{nonce[:8].upper()}",
        qmp_socket=state / "qmp",
        serial_log=state / "serial.log",
        image=medium,
        attach=settings.attach,
        image_form=settings.form,
        serial_port=settings.serial_port,
        memory_mib=settings.memory_mib,
        accelerator=settings.accelerator,
    )


def random_nonce() -> str:
    """A random UUID that no image can know beforehand."""
    return str(uuid.uuid4())


def _send_off(machine: Machine, receipt: GuestEvent) -> None:
    """End the machine by keyboard, as a technician would: restart after REPAIRED, power off otherwise."""
    data = receipt.data.get("receipt")
    repaired = isinstance(data, dict) and data.get("verdict") == Verdict.REPAIRED
    for _ in range(_KEY_PRESSES):
        machine.press("r" if repaired else "p")
        machine.watch(_KEY_SECONDS)
        if machine.ended is not None:
            return


def _receipt_of(data: object) -> tuple[Receipt | None, str]:
    try:
        return from_json(Receipt, data), ""
    except RecordError as error:
        return None, f"the receipt does not follow its schema: {error}"


# --- reading back -----------------------------------------------------------------------------------------------------


def _with_receipt_from_disk(evidence: Evidence, store: str, *, scratch: Path) -> Evidence:
    """The same evidence with a receipt that lies in the store, if one there is this machine's."""
    for file in evidence.after.files if evidence.after else ():
        if not file.path.startswith(f"{store}\\{QUARANTINE_FOLDER}\\") or not file.path.endswith("\\" + RECEIPT_NAME):
            continue
        try:
            data = json.loads(read_file(scratch / WINDOWS_VOLUME, file.path))
        except ValueError:
            continue
        receipt, problem = _receipt_of(data)
        if receipt is not None and receipt.host.smbios_uuid.lower() == evidence.nonce.lower():
            return replace(evidence, receipt=receipt, receipt_problem=problem)
    return evidence


def image_sha256(image: Path) -> str:
    """Of the file as it was booted."""
    with image.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
