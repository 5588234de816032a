"""NTFS volumes through ntfs-3g: what state one is in, mounting it to look, mounting it to change it.

What was tried with ntfs-3g 2022.10.3 (tests/payload/test_linux_ntfs.py holds all of it):
- `ntfs-3g.probe --readwrite` and a mount with `ro` write not one byte, whatever state the volume is in.
- `norecover` is given always: without it ntfs-3g throws an unclean journal away; ntfsrecover replays it first.
- `sync` is given for changes: every write of ntfs-3g reaches the disk in order. payload.moving stands on that.
- The file table's first records have a mirror, which ntfs-3g writes after them. A power cut between leaves it behind,
  and then ntfs-3g mounts the volume no more, not even to look; Windows minds only a damaged table. So the mirror of a
  volume that is flagged dirty is written again before it is mounted for changes, and only then: looking writes nothing.
- `windows_names` is not given: the only names the payload creates are its own and those it found on the volume, and
  quarantine and undo must be able to carry any of the latter.
- Exit code 14 of ntfs-3g.probe is two things: a hibernation file, or a journal of version 2.0 ("Metadata kept in
  Windows cache"). Public reports say that Windows 8 and later write that version while they run, so a host that crashed
  has it without being hibernated; `ntfsrecover --kill-fast-restart` replays it. A second volume of a truly hibernated
  Windows has it as well, which is why the caller says whether that can be ruled out (`crashed`).
- Names are case-sensitive here (`windows` beside `Windows` can be created), so whoever looks names up compares them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from payload.contract import HibernatedVolumes
from payload.environment import OnlyForChanges, VolumeNotOpened, VolumeState
from payload.environment.linux_commands import Completed, run
from payload.environment.linux_mirror import journal_is_newer, renew_mirror, stale_mirror, write_patches
from payload.environment.linux_paths import LinuxPaths
from payload.formats.ntfs import NtfsError, read_volume_information, write_dirty_flag

PROBE_OK, PROBE_HIBERNATED, PROBE_UNCLEAN = 0, 14, 15
_METADATA_IN_CACHE = "Metadata kept in Windows cache"
#: ntfs-3g.probe(8), "EXIT CODES".
_PROBE_SENTENCES = {
    11: "ntfs-3g.probe was called wrongly",
    12: "the volume does not hold a valid NTFS",
    13: "the NTFS is inconsistent, or the disk has a fault",
    16: "the volume is already in use",
    17: "the volume seems to be a part of a RAID that is not set up",
    18: "ntfs-3g gives no reason",
    19: "ntfs-3g may not open the device",
    20: "there is not enough memory",
    21: "FUSE failed",
}
_PROBE_SECONDS = 60.0
_RECOVER_SECONDS = 300.0
_MOUNT_SECONDS = 120.0
_UNMOUNT_SECONDS = 30.0
_UNMOUNT_RETRY = 0.5

LOOK_OPTIONS = "ro,noatime,norecover"
CHANGE_OPTIONS = "rw,noatime,norecover,sync"

HIBERNATED_ADVICE = (
    "Windows is hibernated or was shut down with fast startup, and changing its disk now could damage it. Start this "
    "image again after a full restart of Windows (hold Shift while choosing Restart), use the WinPE image, or build an "
    "image whose profile discards hibernation."
)
MAYBE_HIBERNATED_DETAIL = (
    "Windows was using this volume when it stopped, and another volume of this host is hibernated or locked or "
    "cannot be looked into, so this one may belong to a hibernated Windows."
)
UNCLEAN_DETAIL = "Windows did not close this volume cleanly; its journal has to be replayed before it is changed."
MIRROR_DETAIL = "The power went while this volume was being changed."
MIRROR_UNSEEN = (
    "The power went while this volume was being changed. That has to be mended before anybody can look at it, and "
    "nothing may be changed now."
)
MIRROR_ADVICE = (
    "Run Bluelift so that it may repair this volume, or let Windows check the volume (chkdsk): both mend it."
)
UNCLEAN_ADVICE = "Run chkdsk on this volume (the recovery environment has it), or use the WinPE image, then start this image again."  # fmt: skip  # noqa: E501
NOT_CLOSED_DETAIL = "the changes may not have reached the disk"
NOT_CLOSED_ADVICE = (
    "Run Bluelift again: it completes what is missing. If it says the same again, check the disk and its cable, and "
    "save its data first."
)
DAMAGED_ADVICE = (
    "Run chkdsk on this volume from the recovery environment. If it fails as well, save the data of this disk first."
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a look at a volume says: its state, a sentence, what to do (see payload.environment.Volume).

    `newer_journal`: the journal is one that a running, crashed or hibernated Windows 8 or later leaves.
    """

    state: VolumeState
    detail: str = ""
    advice: str = ""
    newer_journal: bool = False


@dataclass(frozen=True, kw_only=True)
class MountedNtfs:
    """A mounted volume: its root, and notes for the receipt, which still grow while it is closed.

    `flag_is_ours`: it is flagged dirty only while it is mounted.
    """

    root: Path
    writable: bool
    notes: list[str]
    flag_is_ours: bool = False


def ntfs_label(node: Path) -> str:
    """The volume's label; empty where it cannot be read."""
    try:
        with node.open("rb") as stream:
            return read_volume_information(stream).label
    except (OSError, NtfsError):
        return ""


def ntfs_state(node: Path) -> Condition:
    """The volume's state, by ntfs-3g.probe. Writes nothing."""
    probe = _probe(node)
    if probe.returncode == PROBE_OK:
        return Condition(state=VolumeState.READY)
    if probe.returncode == PROBE_HIBERNATED and _METADATA_IN_CACHE in probe.output:
        return Condition(state=VolumeState.UNCLEAN, detail=UNCLEAN_DETAIL, newer_journal=True)
    if probe.returncode == PROBE_HIBERNATED:
        return Condition(
            state=VolumeState.HIBERNATED,
            detail="Windows is hibernated on this volume (or fast startup is on).",
            advice=HIBERNATED_ADVICE,
        )
    if probe.returncode == PROBE_UNCLEAN:
        return Condition(state=VolumeState.UNCLEAN, detail=UNCLEAN_DETAIL)
    if stale_mirror(node):
        return Condition(state=VolumeState.UNCLEAN, detail=MIRROR_DETAIL, newer_journal=journal_is_newer(node))
    reason = _PROBE_SENTENCES.get(probe.returncode, probe.sentence)
    return Condition(
        state=VolumeState.UNREADABLE, detail=f"The volume cannot be opened: {reason}.", advice=DAMAGED_ADVICE
    )


@contextlib.contextmanager
def mounted_to_look(paths: LinuxPaths, node: Path) -> Iterator[MountedNtfs]:
    """Mount a volume read-only, whatever state it is in. Writes nothing. Raises VolumeNotOpened.

    OnlyForChanges where a power cut left the file table's mirror behind.
    """
    if stale_mirror(node):
        raise OnlyForChanges(VolumeState.UNCLEAN, MIRROR_UNSEEN, MIRROR_ADVICE)
    notes: list[str] = []
    root = _mount(paths, node, LOOK_OPTIONS)
    try:
        yield MountedNtfs(root=root, writable=False, notes=notes)
    finally:
        if not _unmount(root):
            notes.append("The volume could not be closed after looking at it; nothing was written to it.")


@contextlib.contextmanager
def mounted_for_changes(
    paths: LinuxPaths, node: Path, hibernated: HibernatedVolumes, *, crashed: bool = False
) -> Iterator[MountedNtfs]:
    """Mount a volume for changes and flag it dirty until it has been closed cleanly. Raises VolumeNotOpened.

    It is also raised on leaving, where no other exception is under way and the volume could not be closed cleanly:
    then nobody knows what of the changes is on the disk, and the volume stays flagged.

    `crashed`: no Windows of this host can be hibernated, so a newer journal is a crashed Windows's.

    A volume that came unclean, hibernated or flagged stays flagged, so that Windows checks it at its next start.
    """
    notes: list[str] = []
    before = renew_mirror(node, notes)
    try:
        came_clean, options = _prepare(node, hibernated, notes, crashed=crashed)
    except VolumeNotOpened as refusal:
        if refusal.state is VolumeState.HIBERNATED:
            write_patches(node, before)  # what is left alone is left as it was
        raise
    with _raw_device(node) as raw:
        came_clean = _flag_dirty(raw) and came_clean
        try:
            root = _mount_rw(paths, node, options)
        except VolumeNotOpened:
            if came_clean:
                _clear_dirty(raw, notes)
            raise
        try:
            yield MountedNtfs(root=root, writable=True, notes=notes, flag_is_ours=came_clean)
        finally:
            closed = _close(root, raw)
            if not closed:
                notes.append("The volume could not be closed cleanly; Windows checks it (chkdsk) at its next start.")
            elif came_clean:
                _clear_dirty(raw, notes)
            else:
                notes.append("The volume came flagged or unclean, so Windows checks it (chkdsk) at its next start.")
        if not closed:
            raise VolumeNotOpened(VolumeState.UNREADABLE, NOT_CLOSED_DETAIL, NOT_CLOSED_ADVICE)


def _prepare(node: Path, hibernated: HibernatedVolumes, notes: list[str], *, crashed: bool) -> tuple[bool, str]:
    """Make the volume ready to be mounted for changes: (whether it came clean, mount options)."""
    found = ntfs_state(node)
    if found.newer_journal and not crashed:
        found = maybe_hibernated(found)
    if found.state is VolumeState.HIBERNATED:
        if hibernated is not HibernatedVolumes.DISCARD:
            raise VolumeNotOpened(found.state, found.detail, found.advice)
        # Fails on a journal that is empty or closed; whether all went well shows when the volume is mounted.
        _recover(node, newer_journal=True)
        notes.append("The hibernated session of Windows was discarded, as the profile says.")
        return False, f"{CHANGE_OPTIONS},remove_hiberfile"
    if found.state is VolumeState.UNCLEAN:
        _replay_journal(node, newer_journal=found.newer_journal)
        notes.append("The volume's journal was replayed, because Windows had not closed it cleanly.")
        return False, CHANGE_OPTIONS
    if found.state is not VolumeState.READY:
        raise VolumeNotOpened(found.state, found.detail, found.advice)
    return True, CHANGE_OPTIONS


def maybe_hibernated(condition: Condition) -> Condition:
    """What a volume with a newer journal is where a hibernated Windows cannot be ruled out; any other as it is."""
    if not condition.newer_journal:
        return condition
    return Condition(
        state=VolumeState.HIBERNATED, detail=MAYBE_HIBERNATED_DETAIL, advice=HIBERNATED_ADVICE, newer_journal=True
    )


def _probe(node: Path) -> Completed:
    return run(["ntfs-3g.probe", "--readwrite", str(node)], time_limit=_PROBE_SECONDS)


def _recover(node: Path, *, newer_journal: bool) -> Completed:
    kind = ["--kill-fast-restart"] if newer_journal else []
    return run(["ntfsrecover", *kind, str(node)], time_limit=_RECOVER_SECONDS)


def _replay_journal(node: Path, *, newer_journal: bool) -> None:
    recovered = _recover(node, newer_journal=newer_journal)
    if recovered.ok and _probe(node).returncode == PROBE_OK:
        return
    raise VolumeNotOpened(
        VolumeState.UNCLEAN,
        f"The volume's journal could not be replayed, so no file was touched. ({recovered.sentence}.)",
        UNCLEAN_ADVICE,
    )


@contextlib.contextmanager
def _raw_device(node: Path) -> Iterator[BinaryIO]:
    """The device itself, open during the whole mount, so that its fsync reports every failed write in between."""
    try:
        stream = node.open("r+b")
    except OSError as error:
        raise VolumeNotOpened(
            VolumeState.UNREADABLE,
            f"The disk does not accept changes: {error.strerror}.",
            "Check whether the disk is write-protected or failing.",
        ) from error
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def _flag_dirty(raw: BinaryIO) -> bool:
    """Flag the volume dirty, on the disk; whether it was not before."""
    try:
        was_dirty = read_volume_information(raw).dirty
        write_dirty_flag(raw, dirty=True)
        _flush(raw)
    except (OSError, NtfsError) as error:
        raise VolumeNotOpened(
            VolumeState.UNREADABLE, f"The volume could not be flagged before changing it: {error}.", DAMAGED_ADVICE
        ) from error
    return not was_dirty


def _clear_dirty(raw: BinaryIO, notes: list[str]) -> None:
    try:
        write_dirty_flag(raw, dirty=False)
        _flush(raw)
    except (OSError, NtfsError) as error:
        notes.append(f"The volume stays flagged for chkdsk: {error}.")


def _flush(raw: BinaryIO) -> None:
    raw.flush()
    os.fsync(raw.fileno())


def _mount(paths: LinuxPaths, node: Path, options: str) -> Path:
    root = paths.mounts / node.name
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise VolumeNotOpened(VolumeState.UNREADABLE, f"No folder to mount on: {error}.", DAMAGED_ADVICE) from error
    if not (paths.dev / "fuse").exists():
        run(["modprobe", "fuse"], time_limit=_MOUNT_SECONDS)
    mounted = run(["ntfs-3g", "-o", options, str(node), str(root)], time_limit=_MOUNT_SECONDS)
    if not mounted.ok:
        with contextlib.suppress(OSError):
            root.rmdir()
        raise VolumeNotOpened(
            VolumeState.UNREADABLE, f"The volume could not be mounted. ({mounted.sentence}.)", DAMAGED_ADVICE
        )
    return root


def _mount_rw(paths: LinuxPaths, node: Path, options: str) -> Path:
    root = _mount(paths, node, options)
    if _is_mounted_rw(paths, root):
        return root
    _unmount(root)
    raise VolumeNotOpened(
        VolumeState.UNREADABLE,
        "ntfs-3g would open the volume only for reading, so nothing was changed.",
        UNCLEAN_ADVICE,
    )


def _is_mounted_rw(paths: LinuxPaths, root: Path) -> bool:
    try:
        lines = (paths.proc / "mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    # Later lines lie over earlier ones; mounts(5) writes a space as \040.
    for line in reversed(lines):
        fields = line.split()
        if len(fields) >= 4 and fields[1].replace("\\040", " ") == str(root):
            return fields[2] == "fuseblk" and "rw" in fields[3].split(",")
    return False


def _close(root: Path, raw: BinaryIO) -> bool:
    """Unmount and make sure that everything is on the disk; whether all of it went well."""
    try:
        os.listdir(root)  # noqa: PTH208 - fails where ntfs-3g has died
        alive = True
    except OSError:
        alive = False
    unmounted = _unmount(root)
    try:
        os.fsync(raw.fileno())
    except OSError:
        return False
    return alive and unmounted


def _unmount(root: Path) -> bool:
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while True:
        left = deadline - time.monotonic()
        done = run(["umount", str(root)], time_limit=max(left, 1.0))
        if done.ok:
            with contextlib.suppress(OSError):
                root.rmdir()
            return True
        if left <= _UNMOUNT_RETRY:
            return False
        time.sleep(_UNMOUNT_RETRY)
