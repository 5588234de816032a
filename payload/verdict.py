"""From what was found and done to one verdict, one plain sentence, and what to do next. Pure functions."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from payload.contract import (
    MEDIUM_FOLDER,
    SAFE_MODE_SCRIPT,
    DiskRecord,
    FileOutcome,
    FileRecord,
    Verdict,
    VolumeRecord,
    worst,
)
from payload.environment import VolumeState

#: The verdict of a volume that is not looked into, by its state.
STATE_VERDICTS = {
    VolumeState.HIBERNATED: Verdict.LEFT_ALONE,
    VolumeState.RAID_MEMBER: Verdict.LEFT_ALONE,
    VolumeState.LOCKED: Verdict.NEEDS_A_KEY,
    VolumeState.PARTLY_ENCRYPTED: Verdict.LEFT_ALONE,
    VolumeState.NOT_WINDOWS: Verdict.NO_WINDOWS_FOUND,
    VolumeState.UNREADABLE: Verdict.FAILED,
}

#: States of disks that need no words: one that was looked into, and the one this image was started from.
QUIET_DISKS = ("ok", "boot-medium")

_STATE_SENTENCES = {
    VolumeState.HIBERNATED: "Windows is hibernated on it",
    VolumeState.RAID_MEMBER: "it is a part of a RAID set, a dynamic disk or a storage space",
    VolumeState.LOCKED: "it is locked by BitLocker",
    VolumeState.PARTLY_ENCRYPTED: "BitLocker has not finished with it",
    VolumeState.NOT_WINDOWS: "its file system cannot hold Windows",
    VolumeState.UNREADABLE: "it cannot be read",
}

_STATE_ADVICE = {
    VolumeState.HIBERNATED: (
        "Start Windows once and shut it down with Shift held, or use an image whose profile says hibernated: discard."
    ),
    VolumeState.RAID_MEMBER: "Use the WinPE image with this controller's driver, so that the set is seen as one disk.",
    VolumeState.LOCKED: (
        "Start Bluelift again with the 48-digit BitLocker recovery password at hand, or with a vault that has it on a "
        "stick."
    ),
    VolumeState.PARTLY_ENCRYPTED: "Use the WinPE image with the volume's recovery password.",
    VolumeState.UNREADABLE: "Check the disk and its cables; run chkdsk from a Windows recovery medium.",
}

_OS_ERRORS = {
    errno.ENOSPC: "the volume has no free space",
    errno.EROFS: "the volume can only be read",
    errno.EIO: "the disk reports read or write errors",
    errno.EACCES: "access was denied",
    errno.EPERM: "access was denied",
    errno.ENODEV: "the disk has gone",
    errno.ENXIO: "the disk has gone",
}

_CHANGED = (FileOutcome.QUARANTINED, FileOutcome.DELETED)
_AGAIN = "Running Bluelift again is always safe."
_SAFE_MODE = (
    "This host will start in safe mode: log in there as a local administrator and run "
    f"\\{MEDIUM_FOLDER}\\{SAFE_MODE_SCRIPT} from this medium."
)
_SAFE_MODE_ADVICE = (
    "Leave this medium plugged in, but let the host start from its own disk. Run the script as administrator: it "
    "removes the files, takes safe mode back and restarts the host."
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The headline and the two sentences below it."""

    verdict: Verdict
    sentence: str
    advice: str


def state_detail(state: VolumeState) -> str:
    """Why a volume in that state was not looked into; empty for a state in which volumes are."""
    return _STATE_SENTENCES.get(state, "")


def state_advice(state: VolumeState) -> str:
    """What a technician can do about a volume in that state."""
    return _STATE_ADVICE.get(state, "")


def error_sentence(error: BaseException) -> str:
    """What went wrong in plain words, without a type name or a path of ours."""
    if isinstance(error, OSError) and error.errno in _OS_ERRORS:
        return _OS_ERRORS[error.errno]
    if isinstance(error, TimeoutError):
        return "it took too long"
    return "something unexpected happened"


def error_note(error: BaseException) -> str:
    """The technical detail for the receipt: type, message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def disk_verdicts(disks: Sequence[DiskRecord], volumes: Sequence[VolumeRecord]) -> list[Verdict]:
    """Verdicts of disks that are not ok and of which no volume speaks for them."""
    return [verdict for _, verdict in _judged_disks(disks, volumes)]


def _judged_disks(disks: Sequence[DiskRecord], volumes: Sequence[VolumeRecord]) -> list[tuple[DiskRecord, Verdict]]:
    spoken_for = {volume.disk for volume in volumes}
    known = {state.value: verdict for state, verdict in STATE_VERDICTS.items()}
    return [
        (disk, known.get(disk.state, Verdict.LEFT_ALONE))
        for disk in disks
        if disk.state not in QUIET_DISKS and disk.id not in spoken_for
    ]


def summarise(
    *,
    disks: Sequence[DiskRecord],
    volumes: Sequence[VolumeRecord],
    dry_run: bool = False,
    failure: str = "",
    safe_mode: bool = False,
) -> Summary:
    """The host's headline: the worst of its volumes. `failure` is a plain sentence about the host as a whole.

    `safe_mode`: its Windows was set to start in safe mode, in place of a key.
    """
    if failure:
        return Summary(
            verdict=Verdict.FAILED,
            sentence=f"Bluelift could not finish: {failure}.",
            advice=f"Note what is on this screen and restart. {_AGAIN}",
        )
    verdict = worst([*(volume.verdict for volume in volumes), *disk_verdicts(disks, volumes)])
    culprits = [volume for volume in volumes if volume.verdict is verdict]
    if verdict in (Verdict.FAILED, Verdict.LEFT_ALONE, Verdict.NEEDS_A_KEY):
        trouble = _trouble(verdict, culprits, disks, volumes)
        if safe_mode and verdict is Verdict.NEEDS_A_KEY:
            return replace(trouble, sentence=_SAFE_MODE, advice=_SAFE_MODE_ADVICE)
        return trouble
    if verdict is Verdict.NO_WINDOWS_FOUND:
        return _no_windows(disks, volumes)
    if verdict is Verdict.REPORTED:
        return _reported(culprits, _changed(volumes), dry_run=dry_run)
    return _well(verdict, culprits)


def _trouble(
    verdict: Verdict, culprits: Sequence[VolumeRecord], disks: Sequence[DiskRecord], volumes: Sequence[VolumeRecord]
) -> Summary:
    if culprits:
        first = culprits[0]
        unopened = first.state in (VolumeState.UNREADABLE, VolumeState.UNCLEAN) and not first.installations
        what = {
            Verdict.FAILED: "could not be opened" if unopened else "could not be repaired",
            Verdict.LEFT_ALONE: "was left alone",
            Verdict.NEEDS_A_KEY: "needs a key",
        }[verdict]
        sentence = f"{_volume_name(first)} {what}: {first.detail}."
        advice = first.advice or (_AGAIN if verdict is Verdict.FAILED else "")
    else:
        disk = next(disk for disk, judged in _judged_disks(disks, volumes) if judged is verdict)
        sentence = f"Disk {disk.id} was not opened: {(disk.detail or disk.state).rstrip('.')}."
        advice = _STATE_ADVICE[VolumeState.RAID_MEMBER] if verdict is Verdict.LEFT_ALONE else _AGAIN
    if len(culprits) > 1:
        sentence += f" {len(culprits) - 1} more like it."
    repaired = sum(volume.verdict is Verdict.REPAIRED for volume in volumes)
    if repaired:
        sentence += f" {_count(repaired, 'other volume')} repaired."
        advice = f"The Windows that was repaired can be started. {advice}".rstrip()
    return Summary(verdict=verdict, sentence=sentence, advice=advice or "See the table below.")


def _no_windows(disks: Sequence[DiskRecord], volumes: Sequence[VolumeRecord]) -> Summary:
    own = [disk for disk in disks if disk.state != "boot-medium"]
    if not own and not volumes:
        return Summary(
            verdict=Verdict.NO_WINDOWS_FOUND,
            sentence="No disk was seen on this host" + (" beside the recovery medium." if disks else "."),
            advice="Check cables and firmware settings (RAID or VMD mode); see the controllers below.",
        )
    places = _count(len(volumes), "volume") + (f" on {_count(len(own), 'disk')}" if own else "")
    return Summary(
        verdict=Verdict.NO_WINDOWS_FOUND,
        sentence=f"No Windows installation is on this host: {places} looked at.",
        advice="Check that every disk of this host is in the table below. Nothing was changed.",
    )


def _reported(culprits: Sequence[VolumeRecord], changed: Sequence[FileRecord], *, dry_run: bool) -> Summary:
    """`changed`: what other rules did all the same, or the same ones on other volumes."""
    count = sum(file.outcome is FileOutcome.REPORTED for file in _files(culprits))
    who = _names(culprits) or "this host"
    found = f"{_count(count, 'file')} on {who} would be acted on" if count else f"An interrupted repair waits on {who}"
    why = "this was a dry run" if dry_run else "the rules only report" + (" on them" if changed and count else "")
    what = f"{done_text(changed)}; the rest was left" if changed else "Nothing was changed"
    return Summary(
        verdict=Verdict.REPORTED,
        sentence=f"{found}. {what}, because {why}.",
        advice="Run again without --dry-run to repair." if dry_run else "Use a profile (or --policy) that repairs.",
    )


def _well(verdict: Verdict, culprits: Sequence[VolumeRecord]) -> Summary:
    files = _files(culprits)
    names = _names(culprits)
    if verdict is Verdict.REPAIRED:
        done = done_text(files) if _changed(culprits) else "an interrupted repair was completed"
        return Summary(
            verdict=verdict,
            sentence=f"{names or 'This host'} is repaired: {done}.",
            advice="Take the recovery medium out and let Windows start.",
        )
    return Summary(
        verdict=verdict,
        sentence=f"None of the files that are to be removed is on {names or 'this host'}. Nothing was changed.",
        advice="Take the recovery medium out and restart. If Windows still does not start, the cause is another one.",
    )


def _files(volumes: Sequence[VolumeRecord]) -> list[FileRecord]:
    return [file for volume in volumes for installation in volume.installations for file in installation.files]


def _changed(volumes: Sequence[VolumeRecord]) -> list[FileRecord]:
    return [file for file in _files(volumes) if file.outcome in _CHANGED]


def _names(volumes: Sequence[VolumeRecord]) -> str:
    return ", ".join(dict.fromkeys(filter(None, (i.computer_name for v in volumes for i in v.installations))))


def done_text(files: Sequence[FileRecord]) -> str:
    """What was done to files, or would be, in a few words: `2 files moved to quarantine, 1 file deleted`."""
    words = {
        FileOutcome.QUARANTINED: "moved to quarantine",
        FileOutcome.DELETED: "deleted",
        FileOutcome.REPORTED: "reported",
    }
    counts = {outcome: sum(file.outcome is outcome for file in files) for outcome in words}
    parts = [f"{_count(count, 'file')} {words[outcome]}" for outcome, count in counts.items() if count]
    return ", ".join(parts) or "nothing to do"


def done_all_the_same(files: Sequence[FileRecord]) -> str:
    """What was changed on a volume whose verdict sounds as if nothing had been, to end its detail; or empty."""
    changed = [file for file in files if file.outcome in _CHANGED]
    return f"; done all the same: {done_text(changed)}" if changed else ""


def _volume_name(volume: VolumeRecord) -> str:
    label = f' "{volume.label}"' if volume.label else ""
    return f"Volume {volume.id}{label}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
