"""`bluelift verify`: boots an image against a broken disk and believes only what other programs read back."""

from __future__ import annotations

import argparse
import enum
from pathlib import Path
from typing import TypeVar

from builder.base.packages import LinuxBaseSettings
from builder.base.tools_debs import ntfsck_command
from builder.cache import Cache, default_folder, storage_errors
from builder.console import Console, Summary, Table
from builder.disk_forms import DiskForm, form_of
from builder.errors import UsageError, VerifyFailed
from builder.verify.firmware import Firmware
from builder.verify.guest import guest_of
from builder.verify.locked_scenarios import LOCKED_SCENARIOS, find_scenarios
from builder.verify.medium import raw_image
from builder.verify.prove import VerifyRequest, check_image, verify_image, ways
from builder.verify.qemu import Accelerator, Attach, Controller
from builder.verify.report import NO_VERDICT, TABLE_HEADINGS, VerifyReport
from builder.verify.scenarios import DEFAULT_SCENARIO

Choice = TypeVar("Choice", bound=enum.StrEnum)


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Boot the image as the options say. Raises VerifyFailed when a boot did not do what it should."""
    output: Path = arguments.output or arguments.image.parent / f"{arguments.image.stem}-verify"
    firmware = _chosen(Firmware, firmware_names(arguments), "--firmware")
    controllers = _chosen(Controller, arguments.disk, "--disk")
    asked = _chosen(Attach, arguments.attach, "--as")
    names = scenario_names(arguments)
    scenarios = find_scenarios(names)
    attach = asked or ((Attach.CD,) if form_of(arguments.image) is DiskForm.IMG else (Attach.DISK,))
    check_image(arguments.image, ways(scenarios, attach))
    with raw_image(arguments.image) as raw:
        guest = guest_of(raw)
    console.expect(2)
    ntfsck = _ntfsck(arguments, console)
    request = VerifyRequest(
        image=arguments.image,
        output=output,
        ntfsck=ntfsck,
        attach=attach,
        firmware=firmware,
        controllers=controllers,
        scenarios=names,
        accelerator=Accelerator(arguments.accel),
        limit=arguments.timeout or guest.limit,
        memory_mib=guest.memory_mib,
    )
    with console.step("boot and check") as step, storage_errors(output):
        report = verify_image(request, step=step)
    console.table(_table(report))
    if not report.passed:
        failed = sum(not boot.passed for boot in report.boots)
        silent = sum(boot.headline == NO_VERDICT for boot in report.boots)
        said = f"; {silent} gave no verdict within {request.limit:.0f} s or before the machine ended" if silent else ""
        raise VerifyFailed(
            f"{failed} of {len(report.boots)} boots did not do what they should{said}\n"
            + "\n".join(report.problem_lines()),
            hint=f"Serial logs, screenshots and QEMU's command lines: {report.folder}",
        )
    console.summary(
        Summary(
            title=f"{arguments.image.name} is proven",
            facts=(("boots", f"{len(report.boots)} of {len(report.boots)} passed"), ("evidence", str(report.folder))),
            next_steps=(
                f"look at {report.folder}: verdict.json, serial logs, a screenshot of each final screen",
                "write the image to a USB stick or burn it to a disc, and boot the broken host from it",
            ),
        )
    )
    return 0


def _ntfsck(arguments: argparse.Namespace, console: Console) -> tuple[str, ...]:
    cache = Cache(arguments.cache or default_folder())
    settings = LinuxBaseSettings(
        mirror=arguments.mirror, security_mirror=arguments.security_mirror, keyring=arguments.keyring
    )
    with console.step("ntfsck, the independent judge") as step:
        with storage_errors(cache.folder), cache.locked(console.notice):
            return ntfsck_command(
                workspace=cache.area("tools"), settings=settings, offline=arguments.offline, step=step
            )


def scenario_names(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The scenarios that a command line asks for."""
    locked = tuple(scenario.name for scenario in LOCKED_SCENARIOS) if arguments.bitlocker else ()
    named = tuple(name for name in arguments.scenario if name not in locked)
    return (*named, *locked) or (DEFAULT_SCENARIO,)


def firmware_names(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The firmware that a command line asks for: usually all; for what unlocks volumes it makes no difference."""
    usual = (Firmware.BIOS,) if arguments.bitlocker else tuple(Firmware)
    named: tuple[str, ...] = arguments.firmware
    return named or tuple(firmware.value for firmware in usual)


def _chosen(kind: type[Choice], words: tuple[str, ...], option: str) -> tuple[Choice, ...]:
    known = [member.value for member in kind]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"{option}: there is no {', '.join(unknown)}", hint=f"There are: {', '.join(known)}.")
    return tuple(kind(word) for word in words)


def _table(report: VerifyReport) -> Table:
    return Table(
        title="",
        columns=tuple(TABLE_HEADINGS),
        rows=tuple(report.table_rows()),
        styles=tuple("good" if boot.passed else "bad" for boot in report.boots),
    )
