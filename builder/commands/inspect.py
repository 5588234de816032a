"""`bluelift inspect`: what is inside an image, read without booting it."""

from __future__ import annotations

import argparse

from builder.console import Console, Summary, Table, size_text
from builder.verify.inspect import ImageReport, inspect_file
from builder.verify.inspect_disk import DiskReport
from builder.verify.inspect_windows import WimReport, WindowsReport
from payload.formats.records import to_json

#: Windows media hold a thousand files; people want those that boot.
_MOST_FILES_SHOWN = 60
_SIGNERS = {
    "2011": "Windows Production PCA 2011",
    "2023": "Windows UEFI CA 2023",
    "other": "another CA",
    "": "not signed",
}


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Show boot entries, files, Windows images and identity of an ISO or WIM file."""
    with console.step(f"read {arguments.image.name}") as step:
        report = inspect_file(arguments.image, step)
    if arguments.json:
        console.data(to_json(report))
    elif isinstance(report, WimReport):
        _show_wim(report, console)
        console.summary(Summary(title=str(arguments.image), facts=_present(_wim_facts(report))))
    else:
        _show_image(report, console)
        console.summary(Summary(title=str(arguments.image), facts=_present(_facts(report))))
    return 0


def _show_image(report: ImageReport, console: Console) -> None:
    console.table(_boot_entries(report))
    if report.disk is not None:
        console.table(_partitions(report.disk))
    console.table(_files(report))
    if len(report.files) > _MOST_FILES_SHOWN:
        console.say(f"... and {len(report.files) - _MOST_FILES_SHOWN} more files; --json lists them all")
    if report.windows is not None:
        _show_windows(report.windows, console)
    for note in report.notes:
        console.say(f"note: {note}")


def _show_windows(windows: WindowsReport, console: Console) -> None:
    rows = tuple((f.path, f.machine, size_text(f.size), _SIGNERS[f.signed_by]) for f in windows.boot_files)
    console.table(Table(title="Windows boot files", columns=("path", "for", "size", "signed under"), rows=rows))
    if windows.boot_wim is not None:
        _show_wim(windows.boot_wim, console, prospects=False)
    _show_prospects(windows.can, windows.missing, console)
    for note in windows.notes:
        console.say(f"note: {note}")


def _show_wim(wim: WimReport, console: Console, *, prospects: bool = True) -> None:
    rows = tuple(
        (
            f"{image.index}{' (boots)' if image.boots else ''}",
            image.name,
            image.architecture,
            image.version,
            image.language,
            size_text(image.size),
            ("yes" if image.manage_bde else "no") if image.contents_read else "?",
            ", ".join(component.removeprefix("WinPE-") for component in image.components),
        )
        for image in wim.images
    )
    columns = ("image", "name", "for", "version", "language", "size", "manage-bde", "components")
    console.table(Table(title="Windows images", columns=columns, rows=rows))
    if prospects:
        _show_prospects(wim.can, wim.missing, console)
    for note in wim.notes:
        console.say(f"note: {note}")


def _show_prospects(can: tuple[str, ...], missing: tuple[str, ...], console: Console) -> None:
    for title, sentences in (("Bluelift can:", can), ("What is missing:", missing)):
        for line in (title, *(f"  {sentence}" for sentence in sentences)) if sentences else ():
            console.say(line)


def _boot_entries(report: ImageReport) -> Table:
    rows = tuple(
        (entry.platform, "yes" if entry.bootable else "no", entry.path or f"LBA {entry.lba}", entry.program)
        for entry in report.boot_entries
    )
    return Table(title="boot entries", columns=("platform", "bootable", "boot image", "runs"), rows=rows)


def _partitions(disk: DiskReport) -> Table:
    rows = tuple(
        (
            str(partition.number),
            partition.name,
            partition.type,
            size_text(partition.size),
            f"{partition.volume.kind} {partition.volume.label}" if partition.volume else "",
            size_text(partition.volume.free) if partition.volume else "",
            f"{partition.volume.shared} of {partition.volume.files}" if partition.volume else "",
        )
        for partition in disk.partitions
    )
    columns = ("partition", "name", "type", "size", "file system", "free", "files shared with the ISO")
    return Table(title=f"as a disk: {disk.table}; BIOS starts {disk.bios_starts}", columns=columns, rows=rows)


def _files(report: ImageReport) -> Table:
    shown = report.files[:_MOST_FILES_SHOWN]
    rows = tuple((file.path, size_text(file.size), file.sha256[:16]) for file in shown)
    return Table(title="files on the medium", columns=("path", "size", "sha256"), rows=rows)


def _facts(report: ImageReport) -> tuple[tuple[str, str], ...]:
    identity = report.identity or {}
    names = [entry.name for entry in report.initramfs]
    modules = sum(1 for name in names if ".ko" in name)
    return (
        ("size", size_text(report.size)),
        ("sha256", report.sha256),
        ("volume id", report.volume_id),
        ("image id", str(identity.get("image_id", ""))),
        ("made by Bluelift", str(identity.get("bluelift", ""))),
        ("profile", str(identity.get("profile", ""))),
        ("kernel", report.kernel),
        ("system it boots", f"{len(names)} entries, {modules} drivers" if names else ""),
        ("time stamp", report.created),
        *(_windows_facts(report.windows) if report.windows is not None else ()),
    )


def _windows_facts(windows: WindowsReport) -> tuple[tuple[str, str], ...]:
    words = {True: "waits for a key", False: "starts at once", None: ""}
    return (
        ("files in", windows.tree),
        ("BIOS", words[windows.prompt_bios]),
        ("UEFI", words[windows.prompt_uefi]),
        ("boot.stl", "on the medium" if windows.boot_stl else ""),
        ("other images", ", ".join(windows.other_wims)),
        ("would start from", windows.boot_wim.chosen if windows.boot_wim is not None else ""),
    )


def _wim_facts(wim: WimReport) -> tuple[tuple[str, str], ...]:
    return (
        ("size", size_text(wim.size)),
        ("sha256", wim.sha256),
        ("compression", wim.compression + (" (solid)" if wim.solid else "")),
        ("boots image", str(wim.boot_index or "none")),
        ("integrity table", "yes" if wim.integrity else "no"),
        ("would start from", wim.chosen),
    )


def _present(facts: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(fact for fact in facts if fact[1])
