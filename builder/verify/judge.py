"""What must be true after a boot: of the receipt, and of the disk as other programs read it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.verify.disks import BrokenDisk, first_difference
from builder.verify.machine import Ended
from builder.verify.readback import STORE, SeenVolume, compare_volume, read_volume
from builder.verify.report import Check
from builder.verify.scenarios import Afterwards, Expectation
from builder.verify.unlocked import windows_volume
from builder.verify.windows_tree import Fate
from payload.contract import FileOutcome, Receipt, Verdict

_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Template:
    """A disk as made for a scenario, never booted, and its Windows volume as other programs see it.

    `store` is where Bluelift is expected to keep things on it.
    """

    disk: BrokenDisk
    seen: SeenVolume
    store: str = STORE


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one machine left behind. `receipt` is None where none came, `receipt_problem` then says why.

    `after` is the Windows volume as other programs see it, `unreadable` why they cannot.
    """

    disk: BrokenDisk
    nonce: str
    ended: Ended
    reached_payload: bool
    receipt: Receipt | None
    receipt_problem: str
    receipt_seconds: float | None
    seconds: float
    after: SeenVolume | None = None
    unreadable: str = ""


def look(disk: BrokenDisk, *, ntfsck: tuple[str, ...], scratch: Path) -> SeenVolume:
    """The disk's Windows volume as other programs see it; what is locked is opened first. Raises ToolFailed."""
    return read_volume(windows_volume(disk, scratch), ntfsck=ntfsck)


def judge(evidence: Evidence, expectation: Expectation, template: Template, pristine: BrokenDisk) -> tuple[Check, ...]:
    """Everything that must be true after a boot. `pristine` is the disk right before it."""
    if evidence.unreadable:
        return (same("the volume can be read back", "every file of it", evidence.unreadable),)
    checks = [*check_receipt(evidence, expectation.verdict, [template.disk])]
    if evidence.receipt is not None and expectation.verdict is Verdict.REPAIRED is evidence.receipt.verdict:
        checks += check_files_in_receipt(evidence.receipt, template)
    return (
        *checks,
        *check_disk(evidence.disk, expectation, template, pristine, evidence.after),
    )


def check_receipt(evidence: Evidence, verdict: Verdict, disks: Sequence[BrokenDisk]) -> Iterator[Check]:
    """That a receipt came from this very machine, with that verdict, and names the disks."""
    receipt = evidence.receipt
    yield Check(
        name="a receipt arrived",
        passed=receipt is not None,
        expected="a receipt by serial port or on the disk",
        seen=evidence.receipt_problem or "a receipt",
    )
    yield Check(
        name="the machine came to a normal end",
        passed=evidence.ended.normal,
        expected="powered off or restarted by the guest",
        seen=evidence.ended.value,
    )
    if receipt is None:
        return
    seen_nonce = receipt.host.smbios_uuid.lower()
    yield same("the receipt carries the nonce", evidence.nonce.lower(), seen_nonce)
    yield Check(
        name="the verdict",
        passed=receipt.verdict is verdict,
        expected=verdict.headline,
        seen=f"{receipt.verdict.headline}: {receipt.sentence}",
    )
    sizes = [disk.path.stat().st_size for disk in disks]
    yield Check(
        name="the disk is listed",
        passed=all(sum(disk.size == size for disk in receipt.disks) >= sizes.count(size) for size in sizes),
        expected=", ".join(f"a disk of {size} bytes" for size in sizes),
        seen=", ".join(f"{disk.id}: {disk.size}" for disk in receipt.disks) or "none",
    )


def check_files_in_receipt(receipt: Receipt, template: Template) -> Iterator[Check]:
    """That the receipt names as quarantined what was to be, with its content's hash, and nothing else."""
    installations = [found for volume in receipt.volumes for found in volume.installations]
    reported = {
        record.path: record
        for installation in installations
        for record in installation.files
        if record.outcome is FileOutcome.QUARANTINED
    }
    wanted = {"\\" + file.path: file for file in template.disk.plan.tree.files if file.fate is Fate.QUARANTINED}
    for path, file in wanted.items():
        record = reported.get(path)
        yield Check(
            name=f"the receipt names {path}",
            passed=record is not None and record.sha256 == file.sha256,
            expected=f"quarantined, sha256 {file.sha256}",
            seen=f"{record.outcome.value}, sha256 {record.sha256}" if record else "nothing",
        )
    surplus = sorted(set(reported) - set(wanted))
    yield same("the receipt names nothing else as quarantined", "nothing", ", ".join(surplus) or "nothing")


def check_disk(
    disk: BrokenDisk,
    expectation: Expectation,
    template: Template,
    pristine: BrokenDisk,
    after: SeenVolume | None,
) -> Iterator[Check]:
    """That the disk is as expected: `template` before any boot, `pristine` before this one, `after` its volume now."""
    if expectation.afterwards is Afterwards.UNTOUCHED:
        yield _check_bytes("the whole disk is byte-identical", disk, pristine, skip_windows=False)
        return
    yield _check_bytes("everything outside the Windows partition is byte-identical", disk, pristine, skip_windows=True)
    assert after is not None  # a volume that cannot be read was told before
    yield same("ntfsck", "no errors", after.ntfsck or "no errors")
    flag = {True: "flagged for chkdsk", False: "not flagged"}
    yield same("the volume's dirty flag", flag[expectation.flagged], flag[after.dirty])
    tree = template.disk.plan.tree
    differences = compare_volume(
        tree if expectation.afterwards is Afterwards.REPAIRED else tree.all_kept(),
        template.seen,
        after,
        store=template.store,
    )
    for difference in differences[:_SHOWN]:
        yield Check(name=difference.path, passed=False, expected=difference.expected, seen=difference.seen)
    yield Check(
        name="every file on the volume",
        passed=not differences,
        expected=f"{len(tree.files)} files, each with its fate: {_fates(disk, expectation)}",
        seen=f"{len(differences)} differences",
    )


def _check_bytes(name: str, disk: BrokenDisk, pristine: BrokenDisk, *, skip_windows: bool) -> Check:
    where = first_difference(pristine.path, disk.path, skip=disk.windows if skip_windows else None)
    return Check(
        name=name,
        passed=where is None,
        expected="no difference",
        seen="no difference" if where is None else f"the first difference is at byte {where}",
    )


def _fates(disk: BrokenDisk, expectation: Expectation) -> str:
    files = disk.plan.tree.files
    repaired = expectation.afterwards is Afterwards.REPAIRED
    gone = sum(1 for file in files if repaired and file.fate is Fate.QUARANTINED)
    return f"{gone} quarantined, {len(files) - gone} byte-identical"


def same(name: str, expected: str, seen: str) -> Check:
    """A check that two texts are the same."""
    return Check(name=name, passed=expected == seen, expected=expected, seen=seen)
