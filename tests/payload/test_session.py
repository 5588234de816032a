"""A whole run on an environment in memory: every verdict, every failure, every receipt."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.contract import (
    BUILT_IN_RULES,
    ControllerRecord,
    FileOutcome,
    HibernatedVolumes,
    PayloadConfig,
    Policy,
    Receipt,
    Rule,
    Verdict,
)
from payload.environment import VolumeNotOpened, VolumeState
from payload.formats.records import from_json, to_json
from payload.receipt import receipt_schema
from payload.rule_schema import Action
from tests.payload.fake_environment import (
    CHANNEL_FOLDER,
    FAULTY_PATH,
    FakeEnvironment,
    FakeVolume,
    MemoryFiles,
    channel_file,
    disk,
    volume,
    windows_files,
)
from tests.payload.session_runs import RUN_ID, STORE, config, final_text, run, sent, with_policy
from tests.payload.test_receipt import schema_problems


def lose_the_receipt(files: MemoryFiles) -> None:
    """As if the run had been cut off before it was written."""
    store = files.root.children["ProgramData"].children["Bluelift"].children["quarantine"]
    del store.children[RUN_ID].children["receipt.json"]


def refusal(state: VolumeState, detail: str = "no") -> VolumeNotOpened:
    return VolumeNotOpened(state, detail, "Do that.")


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_repaired() -> None:
    files = windows_files()
    before = files.paths()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    receipt = run(environment)
    assert receipt.verdict is Verdict.REPAIRED
    kept = f"{STORE}\\{RUN_ID}\\files{FAULTY_PATH}"
    after = files.paths()
    assert after.pop(kept) == before.pop(FAULTY_PATH)
    added = {path: after.pop(path) for path in list(after) if path.startswith(STORE)}
    assert sorted(path.rsplit("\\", 1)[1] for path in added) == ["journal.json", "receipt.json"]
    assert after == before, "nothing else changed"
    (record,) = receipt.volumes[0].installations[0].files
    assert (record.path, record.outcome, record.quarantined_as) == (FAULTY_PATH, FileOutcome.QUARANTINED, kept)
    assert receipt.volumes[0].run_id == RUN_ID
    on_volume = from_json(Receipt, json.loads(added[f"{STORE}\\{RUN_ID}\\receipt.json"]))
    assert on_volume.verdict is Verdict.REPAIRED
    assert on_volume.host.smbios_serial == "PF3K9Z2A"


def test_the_events_come_in_their_order_and_the_last_is_the_receipt() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    receipt = run(environment)
    events = sent(environment)
    assert [event["event"] for event in events] == ["started", "disks", "plan", "acted", "volume", "receipt"]
    assert all(event["run_id"] == RUN_ID for event in events)
    assert events[2]["files"] == [FAULTY_PATH]
    assert events[0]["host"]["smbios_uuid"] == "4c4c4544-0042"
    assert from_json(Receipt, events[-1]["receipt"]) == receipt
    schema = receipt_schema()
    assert schema_problems(events[-1]["receipt"], schema, schema) == []


def test_what_will_be_done_is_said_before_anything_changes() -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    files.fail["write_file"] = KeyboardInterrupt()
    files.fail["make_directory"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(environment)
    assert files.changes == []
    assert "Will quarantine 1 file on sda3" in environment.memory_screen.shown[-1]
    assert "plan" in [event["event"] for event in sent(environment)]


def test_a_second_run_finds_it_already_clean_and_changes_nothing() -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    run(environment)
    after_first = files.paths()
    files.changes.clear()
    receipt = run(environment, run_id="20240720T110000Z-00000000")
    assert receipt.verdict is Verdict.ALREADY_CLEAN
    assert files.paths() == after_first
    assert files.changes == []


def test_a_clean_volume_is_never_opened_for_changes() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files(faulty=False, clean=True)))
    assert run(environment).verdict is Verdict.ALREADY_CLEAN
    assert environment.opened == [("sda3", False)]


def test_an_interrupted_run_is_completed() -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    files.fail["rename"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(environment)
    assert FAULTY_PATH in files.paths()
    del files.fail["rename"]
    receipt = run(environment, run_id="20240720T110000Z-00000000")
    assert receipt.verdict is Verdict.REPAIRED
    assert f"{STORE}\\{RUN_ID}\\files{FAULTY_PATH}" in files.paths()
    assert f"{STORE}\\{RUN_ID}\\receipt.json" in files.paths()
    assert receipt.volumes[0].run_id == RUN_ID
    (record,) = receipt.volumes[0].installations[0].files
    assert record.outcome is FileOutcome.QUARANTINED
    assert run(environment, run_id="20240720T120000Z-00000000").verdict is Verdict.ALREADY_CLEAN


def test_a_run_cut_off_before_its_receipt_is_finished_and_says_so() -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    run(environment)
    lose_the_receipt(files)
    receipt = run(environment, run_id="20240720T110000Z-00000000")
    assert receipt.verdict is Verdict.REPAIRED
    assert f"{STORE}\\{RUN_ID}\\receipt.json" in files.paths()


@pytest.mark.parametrize(
    ("settings", "dry_run", "because"),
    [(config(), True, "dry run"), (with_policy(Policy.REPORT_ONLY), False, "only report")],
)
def test_reported(settings: PayloadConfig, dry_run: bool, because: str) -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    receipt = run(environment, settings, dry_run=dry_run)
    assert receipt.verdict is Verdict.REPORTED
    assert because in receipt.sentence
    assert files.changes == []
    assert receipt.volumes[0].installations[0].files[0].outcome is FileOutcome.REPORTED
    assert receipt.dry_run is dry_run


def test_what_other_rules_moved_is_told_beside_what_was_only_reported() -> None:
    files = windows_files()
    files.add(f"{CHANNEL_FOLDER}\\notes.txt", b"x")
    noticing = Rule(id="noticed", pattern=r"System32\drivers\CrowdStrike\notes.txt", policy=Policy.REPORT_ONLY)
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)), config(rules=(*BUILT_IN_RULES, noticing)))
    assert receipt.verdict is Verdict.REPORTED
    assert receipt.sentence == (
        "1 file on this host would be acted on. 1 file moved to quarantine; the rest was left, because the rules only "
        "report on them."
    )
    assert FAULTY_PATH not in files.paths()


def test_a_dry_run_reports_an_interrupted_run_too() -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    run(environment)
    lose_the_receipt(files)
    assert run(environment, dry_run=True).verdict is Verdict.REPORTED


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    "rule", [{"policy": Policy.REPORT_ONLY}, {"action": Action.REPORT}, {"id": "other", "policy": Policy.REPORT_ONLY}]
)
def test_an_interrupted_run_waits_where_its_rule_only_reports(rule: dict[str, Any], moved: bool) -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    files.fail["rename"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(environment)
    del files.fail["rename"]
    if moved:
        files.root.children["Windows"].children["System32"].children["drivers"].children["CrowdStrike"].children.clear()
    before = files.paths()
    files.changes.clear()
    reporting = config(rules=(Rule(**{**vars(BUILT_IN_RULES[0]), **rule}),))
    receipt = run(environment, reporting, run_id="20240720T110000Z-00000000")
    assert receipt.verdict is Verdict.REPORTED
    assert any(f"an interrupted run, {RUN_ID}, waits" in note for note in receipt.volumes[0].notes)
    assert (files.changes, files.paths()) == ([], before)


def test_what_was_moved_is_told_on_a_volume_that_is_left_alone() -> None:
    files = windows_files()
    files.add_link(f"{CHANNEL_FOLDER}\\C-00000291-00000000-00000099.sys")
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.LEFT_ALONE
    assert FAULTY_PATH not in files.paths()
    assert receipt.volumes[0].detail.endswith("; done all the same: 1 file moved to quarantine")
    assert "done all the same: 1 file moved to quarantine" in receipt.sentence


def test_a_rule_that_deletes_says_so() -> None:
    rule = Rule(**{**vars(BUILT_IN_RULES[0]), "action": Action.DELETE})
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    receipt = run(environment, config(rules=(rule,)))
    assert "1 file deleted" in receipt.sentence
    assert any("Will move or delete 1 file" in text for text in environment.memory_screen.shown)
    assert not any("00000291" in path for path in files.paths())


def test_no_windows_found_names_disks_and_controllers() -> None:
    data = MemoryFiles()
    data.add("\\photos\\a.jpg", b"x")
    environment = FakeEnvironment(FakeVolume(volume("sda1", label="Data"), data))
    environment.controller_records = [
        ControllerRecord(address="0", pci_id="8086:2822", kind="RAID", driver="", advice="Switch to AHCI.")
    ]
    receipt = run(environment)
    assert receipt.verdict is Verdict.NO_WINDOWS_FOUND
    assert "Controller RAID [8086:2822], no driver: Switch to AHCI." in final_text(receipt)


def test_no_disk_at_all_is_told_with_the_controllers() -> None:
    environment = FakeEnvironment()
    environment.controller_records = [ControllerRecord(address="0", pci_id="1:2", kind="SATA", driver="ahci")]
    receipt = run(environment)
    assert receipt.verdict is Verdict.NO_WINDOWS_FOUND
    assert "No disk was seen" in receipt.sentence
    assert "Controller SATA [1:2], driver ahci" in final_text(receipt)


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (VolumeState.RAID_MEMBER, Verdict.LEFT_ALONE),
        (VolumeState.LOCKED, Verdict.NEEDS_A_KEY),
        (VolumeState.NOT_WINDOWS, Verdict.NO_WINDOWS_FOUND),
        (VolumeState.UNREADABLE, Verdict.FAILED),
    ],
)
def test_states_that_are_never_opened(state: VolumeState, verdict: Verdict) -> None:
    environment = FakeEnvironment(FakeVolume(volume(state=state), windows_files()))
    receipt = run(environment)
    assert receipt.verdict is verdict
    assert receipt.volumes[0].detail
    assert environment.opened == []


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (VolumeState.HIBERNATED, Verdict.LEFT_ALONE),
        (VolumeState.LOCKED, Verdict.NEEDS_A_KEY),
        (VolumeState.UNREADABLE, Verdict.FAILED),
        (VolumeState.READY, Verdict.FAILED),
    ],
)
@pytest.mark.parametrize("when", ["refuses", "refuses_changes"])
def test_volumes_that_refuse_to_be_opened(state: VolumeState, verdict: Verdict, when: str) -> None:
    fake = FakeVolume(volume(), windows_files())
    setattr(fake, when, refusal(state, "the reason is this."))
    receipt = run(FakeEnvironment(fake))
    assert receipt.verdict is verdict
    assert "the reason is this." in receipt.sentence
    assert receipt.advice == "Do that."
    assert FAULTY_PATH in fake.files.paths()


def test_a_hibernated_volume_with_nothing_to_do_is_clean() -> None:
    environment = FakeEnvironment(FakeVolume(volume(state=VolumeState.HIBERNATED), windows_files(faulty=False)))
    assert run(environment).verdict is Verdict.ALREADY_CLEAN


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_hibernated_volume_with_something_to_do_is_left_alone(dry_run: bool) -> None:
    fake = FakeVolume(volume(state=VolumeState.HIBERNATED), windows_files())
    environment = FakeEnvironment(fake)
    receipt = run(environment, dry_run=dry_run)
    assert receipt.verdict is Verdict.LEFT_ALONE
    (file,) = receipt.volumes[0].installations[0].files
    assert (file.path, file.outcome) == (FAULTY_PATH, FileOutcome.LEFT)
    assert environment.opened == [("sda3", False)]
    assert "plan" not in [event["event"] for event in sent(environment)], "nothing is said that will not be done"
    assert "quarantine" not in "".join(environment.memory_screen.shown)


def test_a_hibernated_volume_is_repaired_where_the_profile_says_so() -> None:
    environment = FakeEnvironment(FakeVolume(volume(state=VolumeState.HIBERNATED), windows_files()))
    assert run(environment, config(hibernated=HibernatedVolumes.DISCARD)).verdict is Verdict.REPAIRED


def test_a_windows_folder_that_leads_elsewhere_is_left_alone() -> None:
    files = MemoryFiles()
    files.add_link("\\Windows")
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.LEFT_ALONE
    assert "\\Windows is a reparse point" in receipt.sentence


def test_a_volume_without_free_space_fails_with_that_sentence() -> None:
    files = windows_files()
    before = files.paths()
    files.fail["make_directory"] = OSError(errno.ENOSPC, "No space left on device")
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.FAILED
    assert "full" in receipt.sentence
    assert files.paths() == before


def test_a_planted_store_is_passed_over() -> None:
    files = windows_files()
    files.add(f"{STORE}\\{RUN_ID}\\journal.json", b"{}")
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.REPAIRED
    assert any("Bluelift.1" in path for path in files.paths())
    assert any("was not used" in note or "was not believed" in note for note in receipt.volumes[0].notes)


def test_program_data_that_leads_elsewhere_fails() -> None:
    files = MemoryFiles()
    files.add("\\Windows\\System32\\config\\SYSTEM", b"regf")
    files.add(FAULTY_PATH, channel_file())
    files.add_link("\\ProgramData")
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.FAILED
    assert "ProgramData is a reparse point" in receipt.sentence
    assert FAULTY_PATH in files.paths()


def test_a_receipt_that_does_not_fit_on_the_volume_is_a_note() -> None:
    class FullAtTheEnd(MemoryFiles):
        def write_file(self, path: tuple[str, ...], data: bytes) -> None:
            if path[-1] == "receipt.json":
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write_file(path, data)

    files = FullAtTheEnd()
    files.root = windows_files().root
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.REPAIRED
    assert any(
        "no receipt could be left on the volume: the volume has no free space" in n for n in receipt.volumes[0].notes
    )


def test_what_was_opened_but_cannot_be_written_fails() -> None:
    class ReadOnly(FakeEnvironment):
        def open_volume(self, volume: Any, *, for_changes: bool) -> Any:
            return super().open_volume(volume, for_changes=False)

    files = windows_files()
    receipt = run(ReadOnly(FakeVolume(volume(), files)))
    assert receipt.verdict is Verdict.FAILED
    assert files.changes == []


# --- several volumes -------------------------------------------------------------------------------------------------


def test_the_headline_is_the_worst_and_one_volume_never_stops_the_others() -> None:
    broken, good = windows_files(), windows_files()
    broken.fail["listing"] = RuntimeError("boom")
    environment = FakeEnvironment(FakeVolume(volume("sda1"), broken), FakeVolume(volume("sda3"), good))
    receipt = run(environment)
    assert [record.verdict for record in receipt.volumes] == [Verdict.FAILED, Verdict.REPAIRED]
    assert receipt.verdict is Verdict.FAILED
    assert "1 other volume repaired" in receipt.sentence
    assert FAULTY_PATH not in good.paths()


def test_two_of_a_kind_are_counted() -> None:
    environment = FakeEnvironment(
        *(FakeVolume(volume(name, state=VolumeState.LOCKED), windows_files()) for name in ("sda1", "sda2"))
    )
    assert "1 more like it" in run(environment).sentence


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("raid-member", Verdict.LEFT_ALONE), ("locked", Verdict.NEEDS_A_KEY), ("strange", Verdict.LEFT_ALONE)],
)
def test_a_disk_that_was_not_opened_counts(state: str, verdict: Verdict) -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.disk_records.append(disk("sdb", state=state, detail="member of an Intel RAID set"))
    receipt = run(environment)
    assert receipt.verdict is verdict
    assert "Disk sdb was not opened: member of an Intel RAID set" in receipt.sentence
    assert "1 other volume repaired" in receipt.sentence


def test_the_disk_that_is_named_is_the_one_the_verdict_is_about() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.disk_records = [
        disk("sda", state="raid-member", detail="of a set that its volumes speak for"),
        disk("sdb", state="locked", detail="locked"),
        disk("sdc", state="unreadable", detail="The disk cannot be read."),
    ]
    receipt = run(environment)
    assert receipt.verdict is Verdict.FAILED
    assert receipt.sentence.startswith("Disk sdc was not opened: The disk cannot be read.")


def test_the_medium_this_image_was_started_from_does_not_count() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.disk_records.append(disk("sdb", state="boot-medium", detail="This image was started from it."))
    receipt = run(environment)
    assert receipt.verdict is Verdict.REPAIRED
    assert "sdb" not in final_text(receipt)
    alone = FakeEnvironment()
    alone.disk_records = environment.disk_records[1:]
    alone.controller_records = [ControllerRecord(address="0", pci_id="1:2", kind="SATA", driver="ahci")]
    receipt = run(alone)
    assert receipt.sentence == "No disk was seen on this host beside the recovery medium."
    assert "Controller SATA" in final_text(receipt)


def test_notes_from_closing_a_volume_are_in_the_receipt() -> None:
    class NotesOnClosing(FakeEnvironment):
        def _fault(self, method: str) -> None:
            if method == "close_volume":
                self.fake_volumes[0].notes.append(f"closed {len(self.opened)}")

    receipt = run(NotesOnClosing(FakeVolume(volume(), windows_files())))
    assert receipt.volumes[0].notes[-1] == "closed 2"
    receipt = run(NotesOnClosing(FakeVolume(volume(), windows_files(faulty=False))))
    assert receipt.volumes[0].notes == ("closed 1",)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "host",
        "wait_for_disks",
        "disks",
        "controllers",
        "volumes",
        "boot_media",
        "open_volume",
        "open_for_changes",
        "close_volume",
        "media",
    ],
)
@pytest.mark.parametrize(
    "error", [RuntimeError("secret detail"), OSError(errno.EIO, "Input/output error"), ValueError()]
)
def test_an_exception_in_any_method_is_failed_without_a_traceback(method: str, error: Exception) -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.fail[method] = error
    receipt = run(environment)
    assert receipt.verdict is Verdict.FAILED
    assert receipt.verdict.exit_code == 14
    shown = final_text(receipt) + "".join(environment.memory_screen.shown)
    for forbidden in ("Traceback", type(error).__name__, "secret detail", ".py"):
        assert forbidden not in shown
    notes = [*receipt.notes, *(note for record in receipt.volumes for note in record.notes)]
    assert any(type(error).__name__ in note and ".py:" in note for note in notes), "support gets the detail"
    assert sent(environment)[-1]["event"] == "receipt"


def test_what_was_done_is_told_even_where_closing_the_volume_fails() -> None:
    files = windows_files()

    class CloseFails(FakeEnvironment):
        def _fault(self, method: str) -> None:
            if method == "close_volume" and self.opened[-1][1]:
                raise refusal(VolumeState.UNREADABLE, "it was not unmounted cleanly.")

    environment = CloseFails(FakeVolume(volume(), files))
    environment.media_files = [MemoryFiles()]
    environment.media_files[0].writable = True
    receipt = run(environment)
    assert receipt.verdict is Verdict.FAILED
    assert "it was not unmounted cleanly; done all the same: 1 file moved to quarantine." in receipt.sentence
    assert receipt.volumes[0].installations[0].files[0].outcome is FileOutcome.QUARANTINED
    (on_medium,) = environment.media_files[0].paths().values()
    assert from_json(Receipt, json.loads(on_medium)).verdict is Verdict.FAILED
    on_volume = from_json(Receipt, json.loads(files.paths()[f"{STORE}\\{RUN_ID}\\receipt.json"]))
    assert on_volume.volumes[0].notes[-1].startswith("This receipt was written before the volume was closed.")
    assert not any("before the volume was closed" in note for note in receipt.volumes[0].notes)


def test_a_volume_that_cannot_be_opened_hides_no_repair() -> None:
    bad = FakeVolume(volume("sdb1", label="Data"), windows_files(), refuses=refusal(VolumeState.UNREADABLE, "damaged"))
    receipt = run(FakeEnvironment(bad, FakeVolume(volume(), windows_files())))
    assert receipt.verdict is Verdict.FAILED
    assert receipt.sentence == 'Volume sdb1 "Data" could not be opened: damaged. 1 other volume repaired.'
    assert receipt.advice == "The Windows that was repaired can be started. Do that."


def test_a_serial_port_that_breaks_does_not_matter() -> None:
    class NoPort(FakeEnvironment):
        def emit(self, line: str) -> None:
            raise OSError(errno.EIO, "gone")

    assert run(NoPort(FakeVolume(volume(), windows_files()))).verdict is Verdict.REPAIRED


def test_a_screen_that_breaks_does_not_matter() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))

    def broken(text: str) -> None:
        raise OSError(errno.EIO, "gone")

    environment.memory_screen.write = broken  # type: ignore[method-assign]
    assert run(environment).verdict is Verdict.REPAIRED


@pytest.mark.parametrize(
    "method", ["entry", "open_file", "is_protected", "listing", "make_directory", "write_file", "rename"]
)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), TimeoutError(), RuntimeError("boom")])
def test_a_fault_in_any_file_operation_never_claims_a_repair(method: str, error: Exception) -> None:
    files = windows_files()
    files.fail[method] = error
    receipt = run(FakeEnvironment(FakeVolume(volume(), files)))
    if FAULTY_PATH in files.paths():
        assert receipt.verdict is Verdict.FAILED
    assert "Traceback" not in final_text(receipt)
    assert any(data == channel_file(31) for data in files.paths().values()), "the file is not lost"


# --- receipts on media -----------------------------------------------------------------------------------------------


def test_the_receipt_is_left_on_every_medium() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.media_files = [MemoryFiles(), MemoryFiles()]
    for files in environment.media_files:
        files.writable = True
    receipt = run(environment)
    for files in environment.media_files:
        ((path, data),) = files.paths().items()
        assert path == f"\\Bluelift\\receipts\\PF3K9Z2A-{RUN_ID}.json"
        assert from_json(Receipt, json.loads(data)).verdict is receipt.verdict


def test_a_full_stick_is_a_note() -> None:
    environment = FakeEnvironment(FakeVolume(volume(), windows_files()))
    environment.media_files = [MemoryFiles()]
    environment.media_files[0].fail["make_directory"] = OSError(errno.ENOSPC, "No space left on device")
    receipt = run(environment)
    assert receipt.verdict is Verdict.REPAIRED
    assert any("no receipt on stick0: the volume has no free space" in note for note in receipt.notes)


# --- hostile volumes -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(label=st.text(max_size=40), detail=st.text(max_size=60), state=st.sampled_from(VolumeState))
def test_no_label_reaches_the_screen_or_the_port_raw(label: str, detail: str, state: VolumeState) -> None:
    environment = FakeEnvironment(
        FakeVolume(volume(label=label + "\033[2J\r\n", detail=detail, state=state), windows_files())
    )
    receipt = run(environment)
    assert len(sent(environment)) >= 4
    assert json.loads(json.dumps(to_json(receipt)))["volumes"][0]["label"] == label + "\033[2J\r\n"
    for text in [*environment.memory_screen.shown, final_text(receipt)]:
        assert all(" " <= character <= "~" or character == "\n" for character in text)


def test_other_channel_files_are_never_touched() -> None:
    files = windows_files()
    neighbour = f"{CHANNEL_FOLDER}\\C-00000292-00000000-00000031.sys"
    files.add(neighbour, channel_file(31, 292))
    files.add(f"{CHANNEL_FOLDER}\\C-00000291-00000000-00000099.sys", b"MZ program")
    run(FakeEnvironment(FakeVolume(volume(), files)))
    assert neighbour in files.paths()
    assert f"{CHANNEL_FOLDER}\\C-00000291-00000000-00000099.sys" in files.paths()
