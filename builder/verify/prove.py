"""`bluelift verify`: boots an image as CD, stick or disk, under each firmware, with each controller and scenario."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from builder.console import Step
from builder.disk_forms import DiskForm, form_of
from builder.errors import ImageError, OutputError, UsageError
from builder.media.gpt_move import NoTable
from builder.verify.boot import BootSettings, boot_scenario, image_sha256, make_template
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.machine import state_folder
from builder.verify.medium import raw_image, read_volumes
from builder.verify.qemu import Accelerator, Attach, Controller, qemu_version
from builder.verify.report import BootReport, VerifyReport, write_report
from builder.verify.scenarios import DEFAULT_SCENARIO, find_scenarios

_SMALLEST_IMAGE = 1 << 20
_VOLUME_DESCRIPTOR = 16 * 2048
#: AlternateLBA of a hybrid image's GPT header (UEFI 2.10, table 5.5): its last block of 512 bytes.
_GPT_ALTERNATE = 512 + 32


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What to boot and how. `ntfsck` is the command that runs ntfsprogs-plus's ntfsck, without options.

    `output` receives verdict.json and one folder a boot. `limit` is seconds a boot. `scenarios` may hold "all".
    """

    image: Path
    output: Path
    ntfsck: tuple[str, ...]
    attach: tuple[Attach, ...] = (Attach.CD,)
    firmware: tuple[Firmware, ...] = (Firmware.BIOS,)
    controllers: tuple[Controller, ...] = (Controller.NVME,)
    scenarios: tuple[str, ...] = (DEFAULT_SCENARIO,)
    accelerator: Accelerator = Accelerator.TCG
    memory_mib: int = 1024
    limit: float = 180
    retries: int = 1
    serial_port: bool = True


def verify_image(request: VerifyRequest, *, step: Step) -> VerifyReport:
    """Boot the image as requested and judge every boot; writes the evidence and verdict.json.

    The caller decides what a report that did not pass means. Raises ImageError for a file that is no image, ToolMissing
    for QEMU, OVMF or the NTFS tools, OutputError, UsageError.
    """
    check_image(request.image, request.attach)
    scenarios = find_scenarios(request.scenarios)
    firmwares = [find_firmware(kind) for kind in request.firmware]
    version = qemu_version()
    step.note(version)
    try:
        request.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{request.output} cannot be made: {error.strerror}", hint="Choose another folder with -o."
        ) from error
    settings = BootSettings(
        image=request.image,
        form=form_of(request.image),
        ntfsck=request.ntfsck,
        accelerator=request.accelerator,
        memory_mib=request.memory_mib,
        limit=request.limit,
        retries=request.retries,
        serial_port=request.serial_port,
    )
    combinations = list(itertools.product(request.attach, firmwares, request.controllers))
    total = len(scenarios) * len(combinations)
    reports: list[BootReport] = []
    done = 0
    step.progress(done, total, "boots")
    with state_folder() as scratch:
        for scenario in scenarios:
            template = make_template(scenario, settings=settings, scratch=scratch)
            for attach, firmware, controller in combinations:
                for report in boot_scenario(
                    scenario,
                    template,
                    firmware=firmware,
                    controller=controller,
                    settings=replace(settings, attach=attach),
                    folder=request.output / _folder_name(scenario.name, attach, firmware.kind, controller),
                ):
                    reports.append(report)
                    step.note(" · ".join(cell for cell in report.table_row() if cell))
                done += 1
                step.progress(done, total, "boots")
    result = VerifyReport(
        image=request.image,
        image_sha256=image_sha256(request.image),
        qemu=version,
        boots=tuple(reports),
        folder=request.output,
    )
    write_report(result)
    return result


def check_image(image: Path, attach: tuple[Attach, ...] = (Attach.CD,)) -> None:
    """Refuse what cannot be booted as asked before a machine is started for it. Raises ImageError, UsageError."""
    form = form_of(image)
    if form is not DiskForm.IMG and set(attach) != {Attach.DISK}:
        raise UsageError(f"{image.name} is a disk for hypervisors: it is no CD and no stick", hint="Give --as disk.")
    with raw_image(image) as raw:
        _check_iso(raw, image)
        if set(attach) != {Attach.CD}:
            try:
                read_volumes(raw)
            except NoTable as error:
                raise ImageError(
                    f"{image.name} is a plain ISO: it starts as a CD alone",
                    hint="Give --as cd, or build a hybrid image: leave out `hybrid: false` in the profile.",
                ) from error


def _check_iso(image: Path, named: Path) -> None:
    try:
        size = image.stat().st_size
        with image.open("rb") as stream:
            front = stream.read(_GPT_ALTERNATE + 8)
            stream.seek(_VOLUME_DESCRIPTOR)
            descriptor = stream.read(2048)
    except OSError as error:
        raise ImageError(
            f"{named} cannot be read: {error.strerror}", hint="'bluelift build' makes an image."
        ) from error
    if descriptor[1:6] != b"CD001":
        raise ImageError(
            f"{named} is not an ISO image: there is no volume descriptor at byte {_VOLUME_DESCRIPTOR}",
            hint="Give the .iso that 'bluelift build' wrote.",
        )
    # ECMA-119 8.4.8: the volume space size in logical blocks of 2048 bytes.
    claimed, says = int.from_bytes(descriptor[80:84], "little") * 2048, "volume descriptor"
    if front[512:520] == b"EFI PART":
        claimed, says = (int.from_bytes(front[_GPT_ALTERNATE:], "little") + 1) * 512, "partition table"
    if size < claimed or size < _SMALLEST_IMAGE:
        raise ImageError(
            f"{named} is truncated: it has {size} bytes, its {says} says {claimed}",
            hint="Copy or build it again; SHA256SUMS beside it says what it should be.",
        )


def _folder_name(scenario: str, attach: Attach, firmware: Firmware, controller: Controller) -> str:
    """Of one boot's evidence; a CD, the usual case, is not named."""
    as_what = "" if attach is Attach.CD else f"-{attach.value}"
    return f"{scenario}-{firmware.value}-{controller.value}{as_what}"
