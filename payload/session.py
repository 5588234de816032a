"""One run on one host, from the first look to the verdict and the receipt.

Whatever goes wrong becomes a verdict: a volume that fails never stops the others, and nothing unexpected leaves this
module but as FAILED with a plain sentence (the technical detail goes into the receipt's notes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from payload import events
from payload.contract import (
    MEDIUM_FOLDER,
    MEDIUM_RECEIPTS,
    ControllerRecord,
    DiskRecord,
    HibernatedVolumes,
    HostIdentity,
    PayloadConfig,
    Receipt,
    Verdict,
    VolumeRecord,
)
from payload.display import Display
from payload.environment import (
    Environment,
    Medium,
    OnlyForChanges,
    OpenVolume,
    Volume,
    VolumeNotOpened,
    VolumeState,
)
from payload.key_prompt import KeyPrompt
from payload.medium_config import MediumConfigError, read_medium_config
from payload.receipt import receipt_bytes, utc_text
from payload.repair import Conclusion, Knowledge, Repair, conclude, look, repair
from payload.screen import size_text
from payload.store import write_receipt
from payload.unlock import Outcome, Unlocker
from payload.verdict import (
    STATE_VERDICTS,
    done_all_the_same,
    error_note,
    error_sentence,
    state_advice,
    state_detail,
    summarise,
)

_LOOKED_INTO = (VolumeState.READY, VolumeState.UNCLEAN, VolumeState.HIBERNATED)
_KEEP = "Keep the receipt and call support. Running Bluelift again is always safe."
_CHECK = f"Run chkdsk on this volume (the recovery environment has it), then start this image again. {_KEEP}"
_BEFORE_CLOSING = (
    "This receipt was written before the volume was closed. Whether that went well is told by the one on the serial "
    "port and, where it could be written, on the boot medium."
)
_NOT_FOR_A_NAME = re.compile(r"[^A-Za-z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run. `run_id` names the run on every volume; `started` is seconds since 1970."""

    run_id: str
    started: float
    dry_run: bool = False


class Session:
    """The run. What has been learned so far is kept here, so that a receipt can be made at any moment."""

    def __init__(
        self,
        environment: Environment,
        config: PayloadConfig,
        display: Display,
        options: RunOptions,
        *,
        prompt: KeyPrompt | None = None,
    ) -> None:
        self._prompt = prompt
        self._environment = environment
        self._config = config
        self._display = display
        self._options = options
        self.events = events.EventLog(environment.emit, options.run_id)
        #: The volumes that were opened for changes: what an interrupted run may have left half-way.
        self.changing: list[str] = []
        #: Whether a key was wanted and nobody was there to be asked.
        self.nobody = False
        #: Whether somebody chose to have Windows repaired in safe mode.
        self.safe_mode_chosen = False
        self._host = HostIdentity()
        self._disks: tuple[DiskRecord, ...] = ()
        self._controllers: tuple[ControllerRecord, ...] = ()
        self._volumes: list[VolumeRecord] = []
        self._unlocked: dict[str, Outcome] = {}
        self._notes: list[str] = []
        self._failure = ""
        self._changed = ""
        # What finishes in safe mode was made with the image, and has its rules.
        self._safe_mode_fits = True

    @property
    def config(self) -> PayloadConfig:
        """The image's; once it has run, with what the boot medium changed."""
        return self._config

    def run(self) -> Receipt:
        """Look, describe, repair, leave receipts. Raises nothing but what ends a process (KeyboardInterrupt)."""
        self._identify_host()
        with ExitStack() as locks:
            volumes = self._find_volumes()
            for volume in self._unlock(volumes, locks) if self._configure() else ():
                record = self._with_outcome(self._treat(volume))
                self._volumes.append(record)
                self.events.send(events.VolumeSeen(volume=record))
        self._leave_receipts()
        receipt = self._receipt(self._volumes, self._disks)
        self.events.send(events.Received(receipt=receipt))
        return receipt

    # --- looking around -------------------------------------------------------------------------------------------

    def _identify_host(self) -> None:
        with self._guarded("the host could not be identified"):
            self._host = self._environment.host()
        self.events.send(
            events.Started(
                image_id=self._config.image_id,
                bluelift=self._config.bluelift,
                environment=self._environment.name,
                host=self._host,
                dry_run=self._options.dry_run,
            )
        )
        model = f"{self._host.manufacturer} {self._host.product}".strip()
        serial = f"Serial number {self._host.smbios_serial}" if self._host.smbios_serial else ""
        self._display.name_host("   ".join(filter(None, (serial, model))))

    def _find_volumes(self) -> Sequence[Volume]:
        self._display.step("Looking for disks ...")
        volumes: list[Volume] = []
        with self._guarded("waiting for disks went wrong"):
            self._environment.wait_for_disks(self._config.disk_wait)
        with self._guarded("the disks could not be listed"):
            self._disks = tuple(self._environment.disks())
        with self._guarded("the storage controllers could not be listed"):
            self._controllers = tuple(self._environment.controllers())
        self.events.send(events.Disks(disks=self._disks, controllers=self._controllers))
        with self._guarded("the volumes could not be listed"):
            volumes.extend(self._environment.volumes())
        return volumes

    def _configure(self) -> bool:
        """Take over what the boot medium changes; False where that cannot be used: then nothing is touched."""
        try:
            with self._environment.boot_media() as media:
                found = read_medium_config(media, self._config)
        except MediumConfigError as error:
            self._failure = self._failure or f"{error}; no disk was touched"
            self._notes += error.problems
            return False
        except Exception as error:
            self._failure = self._failure or "the boot medium could not be read; no disk was touched"
            self._notes.append(error_note(error))
            return False
        if found is not None:
            if found.config.rules != self._config.rules:
                self._safe_mode_fits = False
                self._notes.append("Safe mode is not offered: safe-mode.cmd has the image's own rules.")
            self._config = found.config
            self._changed = found.sentence
            self._notes.append(f"The sha256 of the configuration on the boot medium is {found.sha256}.")
            self._display.step(found.sentence)
        return True

    def _unlock(self, volumes: Sequence[Volume], locks: ExitStack) -> Sequence[Volume]:
        """Open what is locked until `locks` is closed; the volumes as they are then.

        Only then it is known which of them a hibernated Windows may own, for it may be on any.
        """
        unlocking = self._environment.unlocking
        if unlocking is None or all(volume.state is not VolumeState.LOCKED for volume in volumes):
            return volumes
        unlocker = Unlocker(
            unlocking,
            self._prompt,
            host=self._host,
            step=self._display.step,
            asks=self.events.send,
            safe_mode=not self._options.dry_run and self._safe_mode_fits,
        )
        with self._guarded("unlocking went wrong"):
            self._unlocked.update(unlocker.open_all(volumes, locks))
        self._notes += unlocker.notes
        self.nobody, self.safe_mode_chosen = unlocker.nobody, unlocker.safe_mode_chosen
        if any(outcome.unlocked_by for outcome in self._unlocked.values()):
            with self._guarded("the unlocked volumes could not be listed"):
                return self._environment.volumes()
        return volumes

    def _with_outcome(self, record: VolumeRecord) -> VolumeRecord:
        """What the receipt says of a volume that was locked: what opened it, or what would."""
        outcome = self._unlocked.get(record.id)
        if outcome is None:
            return record
        return replace(
            record,
            unlocked_by=outcome.unlocked_by,
            key_ids=outcome.key_ids,
            notes=(*outcome.notes, *record.notes),
        )

    # --- one volume -----------------------------------------------------------------------------------------------

    def _treat(self, volume: Volume) -> VolumeRecord:
        """Everything about one volume; whatever is raised on the way becomes its verdict."""
        try:
            if volume.state in _LOOKED_INTO:
                return self._examine(volume)
            outcome = self._unlocked.get(volume.id)
            if outcome is not None and not outcome.unlocked_by:
                return _left(volume, outcome.state, outcome.detail, outcome.advice)
            return _left(volume, volume.state, volume.detail, volume.advice)
        except VolumeNotOpened as refusal:
            return _left(volume, refusal.state, refusal.detail, refusal.advice)
        except Exception as error:  # the last net below one volume: the others still get their turn
            return _failed(_record(volume), error)

    def _examine(self, volume: Volume) -> VolumeRecord:
        self._display.step(f"Looking at {_describe(volume)} ...")
        knowledge, notes = self._look(volume)
        if not knowledge.something_to_do:
            return _concluded(volume, conclude(knowledge), notes)
        if volume.state is VolumeState.HIBERNATED and self._config.hibernated is HibernatedVolumes.LEAVE:
            record = _concluded(volume, conclude(knowledge), notes)
            refused = _left(volume, volume.state, volume.detail, volume.advice)
            return replace(record, verdict=refused.verdict, detail=refused.detail, advice=refused.advice)
        self._announce(volume, knowledge)
        if self._options.dry_run:
            return _concluded(volume, conclude(knowledge, would_change=True), notes)
        return self._repair(volume, notes)

    def _look(self, volume: Volume) -> tuple[Knowledge, tuple[str, ...]]:
        """What is on a volume, and notes. What a power cut left so that nobody can look is mended first, if allowed."""
        try:
            return self._knowledge(volume, for_changes=False)
        except OnlyForChanges:
            if volume.state is VolumeState.HIBERNATED and self._config.hibernated is HibernatedVolumes.LEAVE:
                raise VolumeNotOpened(volume.state, volume.detail, volume.advice) from None
            if self._options.dry_run or all(rule.only_reports for rule in self._config.rules):
                raise
        self._display.step(f"Will mend {_describe(volume)}, as a power cut left it, to look at it ...")
        self.changing.append(volume.id)
        seen = self._knowledge(volume, for_changes=True)
        self.changing.remove(volume.id)
        return seen

    def _knowledge(self, volume: Volume, *, for_changes: bool) -> tuple[Knowledge, tuple[str, ...]]:
        with self._environment.open_volume(volume, for_changes=for_changes) as opened:
            knowledge = look(opened.files, self._config.rules)
        return knowledge, tuple(opened.notes)  # only now: closing adds to them

    def _announce(self, volume: Volume, knowledge: Knowledge) -> None:
        """Say what will be done, before anything is."""
        will = "Would" if self._options.dry_run else "Will"
        verb = "move or delete" if knowledge.deletes else "quarantine"
        runs = tuple(run.run_id for run in knowledge.interrupted.runs)
        paths = knowledge.files_to_change
        self.events.send(events.Planned(volume=volume.id, files=paths, interrupted_runs=runs))
        if runs:
            self._display.step(f"{will} complete {len(runs)} interrupted run(s) on {_describe(volume)}")
        if paths:
            files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
            self._display.step(f"{will} {verb} {files} on {_describe(volume)}: {', '.join(paths)}")

    def _repair(self, volume: Volume, notes: Sequence[str]) -> VolumeRecord:
        """Open for changes, repair, leave the receipt. What was done is told even where closing goes wrong."""
        record: VolumeRecord | None = None
        self.changing.append(volume.id)
        try:
            with self._environment.open_volume(volume, for_changes=True) as opened:
                if not opened.writable:
                    raise VolumeNotOpened(
                        VolumeState.UNREADABLE,
                        "it could not be opened for changes",
                        state_advice(VolumeState.UNREADABLE),
                    )
                done = repair(
                    opened.files,
                    self._config.rules,
                    run_id=self._options.run_id,
                    written=utc_text(self._options.started + self.events.seconds),
                )
                self.events.send(events.Acted(volume=volume.id, files=done.files))
                record = _concluded(volume, done.conclusion, (*notes, *opened.notes), run_id=_run_id(done))
                record = self._leave_on_volume(opened, record, done)
                before_closing = len(opened.notes)
            record = replace(record, notes=tuple(dict.fromkeys((*record.notes, *opened.notes[before_closing:]))))
        except Exception as error:
            if record is None:
                raise
            record = _failed(record, error)
        self.changing.remove(volume.id)
        return record

    # --- receipts -------------------------------------------------------------------------------------------------

    def _leave_on_volume(self, opened: OpenVolume, record: VolumeRecord, done: Repair) -> VolumeRecord:
        """The receipt into every run that was made or completed: only then is that run finished.

        It cannot know how closing goes, and says so; a volume that did not close well is not opened for a better one.
        """
        for run in done.runs:
            so_far = self._with_outcome(replace(record, notes=(*record.notes, _BEFORE_CLOSING)))
            try:
                write_receipt(opened.files, run, receipt_bytes(self._receipt([so_far], ())))
            except OSError as error:
                note = f"no receipt could be left on the volume: {error_sentence(error)} ({error_note(error)})"
                record = replace(record, notes=(*record.notes, note))
        return record

    def _leave_receipts(self) -> None:
        """The receipt onto the boot medium and onto sticks, as far as they can be written."""
        with self._guarded("the receipt could not be left on a stick"):
            with self._environment.media(self._config.image_id) as media:
                for medium in media:
                    self._leave_on_medium(medium)

    def _leave_on_medium(self, medium: Medium) -> None:
        host = _NOT_FOR_A_NAME.sub("-", self._host.smbios_serial or self._host.smbios_uuid).strip("-")[:40] or "host"
        name = f"{host}-{self._options.run_id}.json"
        self._display.step(f"Writing the receipt on {medium.name} ...")
        try:
            for folder in ((MEDIUM_FOLDER,), (MEDIUM_FOLDER, MEDIUM_RECEIPTS)):
                if medium.files.entry(folder) is None:
                    medium.files.make_directory(folder)
            data = receipt_bytes(self._receipt(self._volumes, self._disks))
            medium.files.write_file((MEDIUM_FOLDER, MEDIUM_RECEIPTS, name), data)
        except OSError as error:
            self._notes.append(f"no receipt on {medium.name}: {error_sentence(error)} ({error_note(error)})")

    def _receipt(self, volumes: Sequence[VolumeRecord], disks: Sequence[DiskRecord]) -> Receipt:
        """The receipt as things stand. `disks` are those whose own state counts for the verdict."""
        summary = summarise(
            disks=disks,
            volumes=volumes,
            dry_run=self._options.dry_run,
            failure=self._failure,
            safe_mode=self.safe_mode_chosen,
        )
        return Receipt(
            run_id=self._options.run_id,
            image_id=self._config.image_id,
            bluelift=self._config.bluelift,
            environment=self._environment.name,
            started=utc_text(self._options.started),
            seconds=round(self.events.seconds, 3),
            host=self._host,
            verdict=summary.verdict,
            sentence=summary.sentence,
            advice=summary.advice,
            dry_run=self._options.dry_run,
            disks=self._disks,
            volumes=tuple(volumes),
            controllers=self._controllers,
            policies={rule.id: rule.policy for rule in self._config.rules},
            configuration=self._changed,
            notes=(*self._environment.notes(), *self._notes),
        )

    @contextmanager
    def _guarded(self, sentence: str) -> Iterator[None]:
        """What is raised inside makes the whole run FAILED with that sentence, and the run goes on."""
        try:
            yield
        except Exception as error:
            self._failure = self._failure or sentence
            self._notes.append(f"{sentence}: {error_note(error)}")


def _record(volume: Volume) -> VolumeRecord:
    return VolumeRecord(
        id=volume.id,
        disk=volume.disk,
        label=volume.label,
        file_system=volume.file_system,
        size=volume.size,
        state=volume.state.value,
        verdict=Verdict.NO_WINDOWS_FOUND,
    )


def _left(volume: Volume, state: VolumeState, detail: str, advice: str) -> VolumeRecord:
    """A volume that was not looked into, or could not be opened, with the reason."""
    return replace(
        _record(volume),
        state=state.value,
        verdict=STATE_VERDICTS.get(state, Verdict.FAILED),
        detail=(detail or state_detail(state)).rstrip("."),
        advice=advice or state_advice(state),
    )


def _failed(record: VolumeRecord, error: Exception) -> VolumeRecord:
    if isinstance(error, VolumeNotOpened):
        detail, advice = error.detail.rstrip("."), error.advice
    else:
        detail, advice = error_sentence(error), ""
    files = [file for installation in record.installations for file in installation.files]
    return replace(
        record,
        verdict=Verdict.FAILED,
        detail=detail + done_all_the_same(files),
        advice=advice or _KEEP,
        notes=(*record.notes, error_note(error)),
    )


def _concluded(volume: Volume, conclusion: Conclusion, notes: Sequence[str], run_id: str = "") -> VolumeRecord:
    advice = {
        Verdict.FAILED: _CHECK if conclusion.unread else _KEEP,
        Verdict.LEFT_ALONE: "Look at the place that is named above; Bluelift never follows a reparse point.",
    }
    return replace(
        _record(volume),
        verdict=conclusion.verdict,
        detail=conclusion.detail,
        advice=advice.get(conclusion.verdict, ""),
        run_id=run_id,
        notes=(*notes, *conclusion.notes),
        installations=conclusion.installations,
    )


def _run_id(done: Repair) -> str:
    """The run whose folder holds the volume's quarantined files: the new one, else the last that was completed."""
    return done.runs[-1].run_id if done.runs else ""


def _describe(volume: Volume) -> str:
    label = f'"{volume.label}"' if volume.label else ""
    return " ".join(filter(None, (volume.id, label, size_text(volume.size))))
