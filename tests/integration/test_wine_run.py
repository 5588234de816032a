"""The Windows PE image's own chain of start under Wine: winpeshl.ini, startnet.cmd, the frozen payload.

The image is that of an ISO as `bluelift build` makes it, taken out of it by 7z and wimlib-imagex; where a test asks for
another configuration or leaves something out, the same files are put into an empty folder.
The same must have become of the same trees as in the Linux boot tests. What Wine does not have (security descriptors,
alternate streams, sectors) is not proven here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder import RELEASE_EPOCH
from builder.frozen import FrozenPayload
from builder.verify.readback import STORE
from builder.verify.scenarios import SCENARIOS
from builder.verify.standin_iso import write_microsoft_iso
from builder.verify.standin_media import make_bootable_standin
from builder.verify.windows_tree import (
    CROWDSTRIKE,
    Fate,
    Tree,
    broken_windows,
    clean_windows,
    data_volume,
    faulty_only_windows,
    planted_store_windows,
    reparse_windows,
)
from builder.verify.wine_run import WineBoot, WineMachine, WineVolume, winpe_machine
from builder.verify.wine_stand_ins import answer
from builder.winpe_files import DRIVERS_FOLDER, PAYLOAD_FOLDER, winpe_files
from payload.contract import (
    BUILT_IN_RULES,
    AfterRepair,
    Ending,
    FileOutcome,
    HibernatedVolumes,
    PayloadConfig,
    Receipt,
    Verdict,
    VolumeRecord,
)
from payload.formats.records import to_json
from tests.command_line import bluelift
from tests.winpe_builds import lacking

PROFILE = """\
environment: winpe
organisation: Example Ltd
base: {kind: windows-iso, path: install.iso}
ending: {otherwise: power-off, countdown: 0}
disk_wait: 5
serial: ''
"""
CONFIG = PayloadConfig(
    image_id="wine-run",
    rules=BUILT_IN_RULES,
    bluelift="0.1.0",
    organisation="Example Ltd",
    # Nobody can press a key: every verdict ends the machine.
    ending=Ending(otherwise=AfterRepair.POWER_OFF, countdown=0),
    disk_wait=5,
    serial="",
)
FAULTY = f"{CROWDSTRIKE}\\C-00000291-00000000-00000032.sys"

_MISSING = [lacking(), *(f"{name} is not installed" for name in ("7z", "wimlib-imagex") if not shutil.which(name))]
pytestmark = pytest.mark.skipif(any(_MISSING), reason=", ".join(filter(None, _MISSING)))


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What boot.wim of a built ISO holds, taken out by other programs."""
    folder: Path = tmp_path_factory.mktemp("shipped")
    make_bootable_standin(folder / "install.iso")
    (folder / "p.yaml").write_text(PROFILE)
    done = bluelift("build", "p.yaml", "-o", "dist", cwd=folder)
    assert done.returncode == 0, done.stderr
    for argv in (
        ["7z", "e", "-y", "dist/bluelift-winpe.iso", "sources/boot.wim"],
        ["wimlib-imagex", "apply", "boot.wim", "1", "X"],
    ):
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder / "X"


@pytest.fixture
def machine(tmp_path: Path, shipped: Path) -> Iterator[WineMachine]:
    """A machine with the shipped image; C: is a data volume, as Windows PE often has it."""
    shutil.copytree(shipped, tmp_path / "image")
    with winpe_machine(tmp_path / "machine", tmp_path / "image") as made:
        made.attach(WineVolume(letter="C", tree=data_volume(), label="Data"))
        yield made


def make_image(image: Path, frozen: FrozenPayload | None, config: PayloadConfig, keyboard: str = "") -> Path:
    """An image's files as the builder puts them into a WIM."""
    if frozen is not None:
        frozen.write(image / PAYLOAD_FOLDER)
    for put in winpe_files(config, keyboard=keyboard):
        assert isinstance(put.source, bytes)
        (image / put.target).parent.mkdir(parents=True, exist_ok=True)
        (image / put.target).write_bytes(put.source)
    return image


def image_id(machine: WineMachine) -> str:
    """Of the image that runs, by its own configuration."""
    config = json.loads((machine.image / "Bluelift" / "config.json").read_bytes())
    return str(config["image_id"])


def ended(boot: WineBoot, verdict: Verdict) -> None:
    """The chain came to its end with the verdict's exit code and restarted or powered off."""
    action = "reboot" if verdict is Verdict.REPAIRED else "shutdown"
    assert boot.calls[0] == "wpeinit"
    assert boot.calls[-1] == f"wpeutil {action}", boot.log
    assert boot.calls.count(f"wpeutil {action}") == 1
    assert verdict.headline not in boot.output, "the screen's text belongs into the log where there is no console"
    assert boot.code == verdict.exit_code
    assert "could not start" not in boot.output


def volume_of(receipt: Receipt, label: str) -> VolumeRecord:
    return next(volume for volume in receipt.volumes if volume.label == label)


def quarantined(receipt: Receipt) -> set[str]:
    return {
        file.path.lstrip("\\")
        for volume in receipt.volumes
        for installation in volume.installations
        for file in installation.files
        if file.outcome is FileOutcome.QUARANTINED
    }


def doomed(tree: Tree) -> set[str]:
    return {file.path for file in tree.files if file.fate is Fate.QUARANTINED}


def test_d_is_windows_and_c_is_data(machine: WineMachine) -> None:
    """Two installations on D:, channel files of every class, a read-only one; then the medium is left in."""
    tree = broken_windows()
    read_only = f"{CROWDSTRIKE}\\C-00000291-00000000-00000033.sys"
    machine.attach(WineVolume(letter="D", tree=tree, label="Windows", read_only=(read_only,)))
    first = machine.boot()
    ended(first, Verdict.REPAIRED)
    assert machine.differences("D") == ()
    assert machine.differences("C") == ()
    (receipt,) = machine.receipts("D")
    assert (receipt.verdict, receipt.environment, receipt.image_id) == (Verdict.REPAIRED, "winpe", image_id(machine))
    assert quarantined(receipt) == doomed(tree)
    names = {i.computer_name for i in volume_of(receipt, "Windows").installations}
    assert names == {"FRONTDESK-07", "LAB-BENCH-2"}
    assert all(disk.state == "ok" for disk in receipt.disks)

    second = machine.boot()
    ended(second, Verdict.ALREADY_CLEAN)
    assert machine.differences("D") == ()
    assert len(machine.receipts("D")) == 1


def test_two_installations_on_two_disks_one_without_a_letter(machine: WineMachine) -> None:
    """Wine still names the lost letter, but it leads nowhere: only the volume's own name opens it."""
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="First", lettered=False))
    second = replace(
        faulty_only_windows(),
        files=tuple(
            replace(file, fate=Fate.QUARANTINED) if file.path == FAULTY else file
            for file in faulty_only_windows().files
        ),
    )
    machine.attach(WineVolume(letter="E", tree=second, label="Second"))
    boot = machine.boot()
    ended(boot, Verdict.REPAIRED)
    for letter in "DE":
        assert machine.differences(letter) == ()
        (receipt,) = machine.receipts(letter)
        assert receipt.verdict is Verdict.REPAIRED
    assert machine.differences("C") == ()


def test_a_file_in_use_is_named_and_everything_else_is_repaired(machine: WineMachine) -> None:
    tree = broken_windows()
    machine.attach(WineVolume(letter="D", tree=tree, label="Windows"))
    boot = machine.boot(in_use=f"D:\\{FAULTY}")
    ended(boot, Verdict.FAILED)
    kept = replace(tree, files=tuple(replace(f, fate=Fate.KEPT) if f.path == FAULTY else f for f in tree.files))
    assert machine.differences("D", tree=kept) == ()
    assert machine.differences("C") == ()
    (receipt,) = machine.receipts("D")
    assert quarantined(receipt) == doomed(kept)
    (held,) = [
        file
        for installation in volume_of(receipt, "Windows").installations
        for file in installation.files
        if file.path == f"\\{FAULTY}"
    ]
    assert held.outcome is FileOutcome.FAILED
    assert "another program has it open" in held.detail


@pytest.mark.parametrize(
    ("tree", "verdict"),
    [
        (clean_windows, Verdict.ALREADY_CLEAN),
        (data_volume, Verdict.NO_WINDOWS_FOUND),
        (lambda: reparse_windows().all_kept(), Verdict.LEFT_ALONE),
        (next(s for s in SCENARIOS if s.name == "hibernated").tree, Verdict.LEFT_ALONE),
    ],
    ids=["already-clean", "no-windows", "reparse-windows", "hibernated"],
)
def test_what_is_not_to_be_touched_is_not(machine: WineMachine, tree: object, verdict: Verdict) -> None:
    assert callable(tree)
    machine.attach(WineVolume(letter="D", tree=tree(), label="Windows"))
    boot = machine.boot()
    ended(boot, verdict)
    assert machine.differences("D") == ()
    assert machine.differences("C") == ()
    assert machine.receipts("D") == ()


def test_a_hibernated_session_is_discarded_only_where_the_profile_says_so(
    tmp_path: Path, frozen: FrozenPayload
) -> None:
    image = make_image(tmp_path / "image", frozen, replace(CONFIG, hibernated=HibernatedVolumes.DISCARD))
    hibernated = next(s for s in SCENARIOS if s.name == "hibernated").tree()
    saved = next(file for file in hibernated.files if file.path == "hiberfil.sys")
    with winpe_machine(tmp_path / "machine", image) as machine:
        machine.attach(WineVolume(letter="D", tree=broken_windows().with_files(saved), label="Windows"))
        ended(machine.boot(), Verdict.REPAIRED)
        assert machine.differences("D", tree=broken_windows()) == ()
        (receipt,) = machine.receipts("D")
        assert any("discarded" in note for note in volume_of(receipt, "Windows").notes)


def test_a_planted_store_is_not_believed(machine: WineMachine) -> None:
    machine.attach(WineVolume(letter="D", tree=planted_store_windows(), label="Windows"))
    # Under Wine a folder's access list is its Unix mode: users may write here.
    for folder in ("ProgramData/Bluelift", "ProgramData/Bluelift/quarantine"):
        (machine.root("D") / folder).chmod(0o777)
    ended(machine.boot(), Verdict.REPAIRED)
    assert machine.differences("D", store=f"{STORE}.1") == ()


def test_drivers_are_loaded_before_disks_are_listed_and_their_exit_codes_told(machine: WineMachine) -> None:
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    for name in ("vendor/b.inf", "a.INF", "vendor/readme.txt"):
        path = machine.image / DRIVERS_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Version]\n")
    answer(machine.image, "drvload", text="Unable to load", code=3)
    boot = machine.boot()
    ended(boot, Verdict.REPAIRED)
    loads = [call for call in boot.calls if call.startswith("drvload")]
    assert loads == [r"drvload X:\Bluelift\drivers\a.INF", r"drvload X:\Bluelift\drivers\vendor\b.inf"]
    (receipt,) = machine.receipts("D")
    assert any("a.INF" in note and "exit code 3" in note for note in receipt.notes)


def test_the_boot_medium_gets_a_receipt_and_is_no_candidate(machine: WineMachine, tmp_path: Path) -> None:
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    stick = machine.root("E")
    machine.attach(WineVolume(letter="E", tree=faulty_only_windows().all_kept()))
    make_fat(machine, "e", tmp_path / "fat.img", label="BLUELIFT")
    (stick / "Bluelift").mkdir()
    (stick / "Bluelift/image.json").write_text(json.dumps({"image_id": image_id(machine)}))
    ended(machine.boot(), Verdict.REPAIRED)
    assert machine.differences("D") == ()
    assert [d for d in machine.differences("E") if not d.path.startswith("Bluelift")] == []
    (left,) = (stick / "Bluelift/receipts").glob("*.json")
    assert left.stat().st_size > 1000
    (receipt,) = machine.receipts("D")
    assert {volume.label for volume in receipt.volumes} == {"Windows"}


def test_drivers_and_configuration_on_the_boot_medium_are_used(machine: WineMachine, tmp_path: Path) -> None:
    """Of what a technician plugged in: here a CD, for Wine's sticks are on no disk."""
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    machine.attach(WineVolume(letter="E", tree=Tree(files=())))
    write_microsoft_iso({"readme.txt": b"x"}, tmp_path / "cd.iso", volume_id="BLUELIFT", epoch=RELEASE_EPOCH)
    (machine.root("C").parent / "dosdevices" / "e::").symlink_to(tmp_path / "cd.iso")
    medium = machine.root("E") / "Bluelift"
    (medium / "config").mkdir(parents=True)
    (medium / "drivers").mkdir()
    (medium / "drivers" / "vmd.inf").write_text("[Version]\n")
    (medium / "image.json").write_text(json.dumps({"image_id": image_id(machine)}))
    (medium / "config" / "config.json").write_text(
        json.dumps({"rules": [{**to_json(BUILT_IN_RULES[0]), "id": "from-the-medium", "policy": "report-only"}]})
    )
    boot = machine.boot()
    ended(boot, Verdict.REPORTED)
    assert r"drvload E:\Bluelift\drivers\vmd.inf" in boot.calls
    assert "takes the place of the image's own rules (from-the-medium)" in " ".join(boot.log.split())


def make_fat(machine: WineMachine, letter: str, image: Path, *, label: str) -> None:
    """Let a drive's file system be FAT: Wine asks the device behind the drive, which is this file."""
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.fat", "-F", "32", "-n", label, image], check=True, capture_output=True)
    (machine.root("C").parent / "dosdevices" / f"{letter}::").symlink_to(image)


def test_a_copy_of_the_images_files_hides_no_windows(machine: WineMachine) -> None:
    """Any user of a host can make \\Bluelift\\image.json on C:, and drivers beside it."""
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    planted = machine.root("D") / "Bluelift"
    (planted / "drivers").mkdir(parents=True)
    (planted / "image.json").write_text(json.dumps({"image_id": image_id(machine)}))
    (planted / "drivers" / "evil.inf").write_text("[Version]\n")
    boot = machine.boot()
    ended(boot, Verdict.REPAIRED)
    assert [d for d in machine.differences("D") if not d.path.startswith("Bluelift")] == []
    assert not any("drvload" in call for call in boot.calls)
    assert not (planted / "receipts").exists()


def test_a_machine_that_cannot_restart_says_so_and_stays(machine: WineMachine) -> None:
    """wpeutil fails: the payload asks for the machine's own button, so nothing ends; the time limit does."""
    from builder.errors import OutOfTime

    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    answer(machine.image, "wpeutil", code=1)
    with pytest.raises(OutOfTime):
        machine.boot(time_limit=15)
    assert machine.differences("D") == ()
    log = (machine.image / "Bluelift/payload.log").read_text()
    assert "hold its power button" in log


def test_the_keyboard_is_set_before_the_payload_starts(tmp_path: Path, frozen: FrozenPayload) -> None:
    image = make_image(tmp_path / "image", frozen, CONFIG, keyboard="0407:00000407")
    with winpe_machine(tmp_path / "machine", image) as machine:
        boot = machine.boot()
    assert boot.calls[:2] == ("wpeinit", "wpeutil SetKeyboardLayout 0407:00000407")
    ended(boot, Verdict.NO_WINDOWS_FOUND)


def test_a_payload_that_is_missing_gives_a_shell_and_touches_nothing(tmp_path: Path) -> None:
    with winpe_machine(tmp_path / "machine", make_image(tmp_path / "image", None, CONFIG)) as machine:
        machine.attach(WineVolume(letter="D", tree=broken_windows().all_kept(), label="Windows"))
        boot = machine.boot()
        assert machine.differences("D") == ()
    assert r"missing from this image: X:\Bluelift\payload\payload.exe" in boot.output
    assert "This is a command prompt" in boot.output
    assert boot.calls == ("wpeinit",)
    assert boot.code is not None, "the prompt took no command"


def test_a_payload_that_cannot_start_shows_why(tmp_path: Path, frozen: FrozenPayload) -> None:
    """Without its library PyInstaller's program ends with an error of its own: the log comes onto the screen."""
    image = make_image(tmp_path / "image", frozen, CONFIG)
    (image / PAYLOAD_FOLDER / "_internal" / "python311.dll").unlink()
    with winpe_machine(tmp_path / "machine", image) as machine:
        machine.attach(WineVolume(letter="D", tree=broken_windows().all_kept(), label="Windows"))
        boot = machine.boot()
        assert machine.differences("D") == ()
    assert "could not start" in boot.output
    assert "python311.dll" in boot.output, boot.output
    assert boot.calls == ("wpeinit",)


def test_repaired_by_hand_and_undone(machine: WineMachine) -> None:
    """`--root D:\\`, as on a rescue VM: dry run, repair, undo; then every byte, time and attribute is as before."""
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    kept = broken_windows().all_kept()
    assert machine.run_payload("--root", "D:\\", "--dry-run").returncode == Verdict.REPORTED.exit_code
    assert machine.differences("D", tree=kept) == ()
    assert machine.run_payload("--root", "D:\\").returncode == Verdict.REPAIRED.exit_code
    assert machine.differences("D") == ()
    undone = machine.run_payload("--root", "D:\\", "--undo")
    assert (undone.returncode, undone.text.count("restored")) == (0, len(doomed(broken_windows())))
    left = [difference for difference in machine.differences("D", tree=kept) if "undone.json" not in difference.path]
    assert left == []


def test_by_hand_a_hibernated_windows_is_left_alone(machine: WineMachine) -> None:
    tree = next(scenario for scenario in SCENARIOS if scenario.name == "hibernated").tree()
    machine.attach(WineVolume(letter="D", tree=tree, label="Windows"))
    assert machine.run_payload("--root", "D:\\").returncode == Verdict.LEFT_ALONE.exit_code
    assert machine.differences("D", tree=tree.all_kept()) == ()


def test_the_proof_can_fail(machine: WineMachine) -> None:
    """A machine that was not started is not repaired, and a file that changed is seen."""
    machine.attach(WineVolume(letter="D", tree=broken_windows(), label="Windows"))
    missing = {difference.path for difference in machine.differences("D")}
    assert missing == doomed(broken_windows())
    (machine.root("C") / "Photos/cat.jpg").write_bytes(b"changed")
    assert {difference.path for difference in machine.differences("C")} == {"Photos\\cat.jpg"}
