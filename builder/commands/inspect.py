"""`bluelift inspect`: what is inside an image, read without booting it."""

from __future__ import annotations

import argparse

from builder.console import Console, Summary, Table, size_text
from builder.verify.inspect import ImageReport, inspect_image
from payload.formats.records import to_json


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Show boot entries, files and identity of an image."""
    report = inspect_image(arguments.image)
    if arguments.json:
        console.data(to_json(report))
        return 0
    console.table(_boot_entries(report))
    console.table(_files(report))
    for note in report.notes:
        console.say(f"note: {note}")
    console.summary(Summary(title=str(arguments.image), facts=_facts(report)))
    return 0


def _boot_entries(report: ImageReport) -> Table:
    rows = tuple(
        (entry.platform, "yes" if entry.bootable else "no", entry.path or f"LBA {entry.lba}", entry.program)
        for entry in report.boot_entries
    )
    return Table(title="boot entries", columns=("platform", "bootable", "boot image", "runs"), rows=rows)


def _files(report: ImageReport) -> Table:
    rows = tuple((file.path, size_text(file.size), file.sha256[:16]) for file in report.files)
    return Table(title="files on the medium", columns=("path", "size", "sha256"), rows=rows)


def _facts(report: ImageReport) -> tuple[tuple[str, str], ...]:
    identity = report.identity or {}
    names = [entry.name for entry in report.initramfs]
    modules = sum(1 for name in names if ".ko" in name)
    facts = (
        ("size", size_text(report.size)),
        ("sha256", report.sha256),
        ("volume id", report.volume_id),
        ("image id", str(identity.get("image_id", ""))),
        ("made by Bluelift", str(identity.get("bluelift", ""))),
        ("profile", str(identity.get("profile", ""))),
        ("kernel", report.kernel),
        ("system it boots", f"{len(names)} entries, {modules} drivers" if names else ""),
        ("time stamp", report.created),
    )
    return tuple(fact for fact in facts if fact[1])
