"""`bluelift verify`: boots an image as CD, stick or disk, under each firmware, with each controller and scenario."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from builder.console import Step
from builder.disk_forms import DiskForm, form_of
from builder.errors import ImageError, OutputError, UsageError
from builder.media.gpt_move import NoTable
from builder.verify.boot import BootSettings, boot_scenario, image_sha256, make_template
from builder.verify.firmware import Firmware, FirmwareFiles, find_firmware
from builder.verify.locked_boot import boot_host, make_host
from builder.verify.locked_scenarios import LockedScenario, find_scenarios
from builder.verify.machine import state_folder
from builder.verify.medium import raw_image, read_volumes
from builder.verify.qemu import Accelerator, Attach, Controller, qemu_version
from builder.verify.report import BootReport, VerifyReport, write_report
from builder.verify.scenarios import DEFAULT_SCENARIO, Scenario

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
    scenarios = find_scenarios(request.scenarios)
    check_image(request.image, ways(scenarios, request.attach))
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
    reports: list[BootReport] = []
    planned = [
        (scenario, list(itertools.product(_ways(scenario, request.attach), firmwares, request.controllers)))
        for scenario in scenarios
    ]
    done, total = 0, sum(len(combinations) for _, combinations in planned)
    step.progress(done, total, "boots")
    with state_folder() as scratch:
        for scenario, combinations in planned:
            boots = _prepared(scenario, settings, scratch)
            for attach, firmware, controller in combinations:
                where = request.output / _folder_name(scenario.name, attach, firmware.kind, controller)
                for report in boots(firmware, controller, attach, where):
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


#: Firmware, the first disk's controller, how the image is attached, folder for the evidence -> a report a boot.
_Boots = Callable[[FirmwareFiles, Controller, Attach, Path], Iterable[BootReport]]


def _prepared(scenario: Scenario | LockedScenario, settings: BootSettings, scratch: Path) -> _Boots:
    """The scenario's disks, made, and how they are booted."""
    if isinstance(scenario, LockedScenario):
        host = make_host(scenario, settings=settings, scratch=scratch)
        return lambda firmware, controller, attach, folder: [
            boot_host(
                scenario,
                host,
                firmware=firmware,
                controller=controller,
                settings=replace(settings, attach=attach),
                folder=folder,
            )
        ]
    template = make_template(scenario, settings=settings, scratch=scratch)
    return lambda firmware, controller, attach, folder: boot_scenario(
        scenario,
        template,
        firmware=firmware,
        controller=controller,
        settings=replace(settings, attach=attach),
        folder=folder,
    )


def ways(scenarios: Iterable[Scenario | LockedScenario], attach: tuple[Attach, ...]) -> tuple[Attach, ...]:
    """How the image will be given to machines, where `attach` is asked for: some scenarios know but one way."""
    return tuple(dict.fromkeys(way for scenario in scenarios for way in _ways(scenario, attach)))


def _ways(scenario: Scenario | LockedScenario, attach: tuple[Attach, ...]) -> tuple[Attach, ...]:
    return scenario.ways(attach) if isinstance(scenario, LockedScenario) else attach


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
