"""The configuration that a technician puts on the stick: used, told, or nothing is touched."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.__main__ import Place, main
from payload.contract import BUILT_IN_RULES, AfterRepair, PayloadConfig, Receipt, Verdict
from payload.display import FullScreen
from payload.environment import Medium, VolumeState
from payload.formats.records import from_json, to_json
from payload.key_prompt import Instead, RecoveryQuestion
from payload.medium_config import MediumConfigError, read_medium_config
from payload.session import RunOptions, Session
from tests.payload.fake_environment import (
    FAULTY_PATH,
    FakeEnvironment,
    FakePrompt,
    FakeUnlocking,
    FakeVolume,
    MemoryFiles,
    volume,
    windows_files,
)
from tests.payload.test_unlock import lock

CONFIG = "\\Bluelift\\config\\config.json"
IMAGE = PayloadConfig(image_id="image-1", rules=BUILT_IN_RULES, contact="Call 112")
BAD = {"id": "contoso", "pattern": "System32\\drivers\\Contoso\\bad.bin", "action": "quarantine"}
RULES = {"rules": [BAD]}


def stick(content: object, path: str = CONFIG) -> MemoryFiles:
    files = MemoryFiles()
    files.add(path, content if isinstance(content, bytes) else json.dumps(content).encode())
    return files


def media(*files: MemoryFiles) -> list[Medium]:
    return [Medium(name=f"boot medium sdb{i}", files=each) for i, each in enumerate(files, 1)]


def run(environment: FakeEnvironment, *, config: PayloadConfig = IMAGE) -> tuple[Receipt, Session]:
    options = RunOptions(run_id="20240720T100000Z-0a1b2c3d", started=1721469600.0)
    session = Session(environment, config, FullScreen(environment.screen, "Bluelift"), options)
    return session.run(), session


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (RULES, {"rules": [{**to_json(BUILT_IN_RULES[0]), **BAD}]}),
        ({"ending": {"repaired": "stay"}}, {"ending": {**to_json(IMAGE)["ending"], "repaired": "stay"}}),
        (json.dumps({"ending": {"countdown": 5}}).encode("utf-8-sig"), {"ending": {"countdown": 5}}),
        (json.dumps({"ending": {"countdown": 5}}).encode("utf-16"), {"ending": {"countdown": 5}}),
    ],
    ids=["rules", "ending", "as Notepad saves it", "as PowerShell saves it"],
)
def test_what_it_changes_and_what_stays(content: object, changed: dict[str, Any]) -> None:
    found = read_medium_config(media(MemoryFiles(), stick(content)), IMAGE)
    assert found is not None
    own, new = to_json(IMAGE), to_json(found.config)
    assert {key for key in own if own[key] != new[key]} == set(changed)
    assert found.config.image_id == "image-1"
    assert found.sentence.startswith(f"{CONFIG} on boot medium sdb2 takes the place of the image's own ")
    if "rules" in changed:
        assert [rule.id for rule in found.config.rules] == ["contoso"]
        assert "rules (contoso)" in found.sentence
    else:
        assert found.config.ending.otherwise is IMAGE.ending.otherwise


def test_nothing_there_and_the_same_thing_twice() -> None:
    assert read_medium_config([], IMAGE) is None
    assert read_medium_config(media(MemoryFiles(), stick(RULES, "\\Bluelift\\config\\read me.txt")), IMAGE) is None
    found = read_medium_config(media(stick(RULES), stick(RULES)), IMAGE)
    assert found is not None and "boot medium sdb1" in found.sentence


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"rules:\n- id: x\n", "it is not JSON"),
        ([], "it should be an object with rules or ending"),
        ({}, "it should be an object with rules or ending"),
        ({"rules": []}, "rules: there are none"),
        ({"rules": "x"}, "rules: should be a list"),
        ({"rules": [{"id": "x"}]}, "rules[0].pattern: missing"),
        ({"rules": [{**BAD, "pattern": "System32\\config\\SYSTEM"}]}, "rules[0]: no rule may name files in"),
        ({"rules": [{**BAD, "pattern": "..\\x"}]}, "rules[0]: pattern must not have . or .."),
        ({"rules": [{**BAD, "name_format": "a{99999999999999999999}"}]}, "rules[0]: name_format is not a regular"),
        ({"rules": [{**BAD, "name_format": "(" * 3000 + ")" * 3000}]}, "rules[0]: name_format is not a regular"),
        ({"rules": [BAD, BAD]}, "it: two rules have the same id"),
        ({"rules": [{**BAD, "colour": 1}]}, "rules[0].colour: unknown key"),
        ({"ending": {"repaired": "explode"}}, "ending.repaired: should be one of"),
        ({"ending": {"countdown": 9999}}, "it: a waiting time is out of range"),
        ({"ending": None}, "ending: should be an object"),
        ({**RULES, "image_id": "other"}, "image_id: only rules and ending can be changed here"),
        ({**RULES, "hibernated": "discard"}, "hibernated: only rules and ending"),
    ],
)
def test_what_cannot_be_used_touches_nothing(content: object, why: str) -> None:
    files = windows_files()
    environment = FakeEnvironment(FakeVolume(volume(), files))
    environment.boot_files = [stick(content)]
    environment.media_files = [MemoryFiles()]
    environment.media_files[0].writable = True
    receipt, session = run(environment)
    assert receipt.verdict is Verdict.FAILED
    assert receipt.sentence.startswith(f"Bluelift could not finish: {CONFIG} on boot medium 0 cannot be used: {why}")
    assert receipt.sentence.endswith("; no disk was touched.")
    assert any(note.startswith(why) for note in receipt.notes)
    assert FAULTY_PATH in files.paths()
    assert (environment.opened, files.changes, session.config) == ([], [], IMAGE)
    (left,) = environment.media_files[0].paths().values()
    assert from_json(Receipt, json.loads(left)).verdict is Verdict.FAILED, "the stick itself tells what is wrong"


def test_two_that_differ_one_too_large_one_that_cannot_be_read() -> None:
    with pytest.raises(MediumConfigError, match="sdb2 cannot be used: the one on boot medium sdb1 says something else"):
        read_medium_config(media(stick(RULES), stick({"ending": {"countdown": 1}})), IMAGE)
    with pytest.raises(MediumConfigError, match="more than 1048576 bytes"):
        read_medium_config(media(stick(b" " * (1 << 20) + b"{}")), IMAGE)
    with pytest.raises(MediumConfigError, match="it is no file"):
        read_medium_config(media(stick(b"", CONFIG + "\\x")), IMAGE)
    broken = stick(RULES)
    broken.fail["open_file"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(MediumConfigError, match="it cannot be read: Input/output error"):
        read_medium_config(media(broken), IMAGE)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rules", "ending", "id", "pattern", "x"]), inner)
), max_leaves=12))  # fmt: skip
def test_any_content_is_used_or_refused(content: object) -> None:
    try:
        found = read_medium_config(media(stick(content)), IMAGE)
    except MediumConfigError as error:
        assert error.problems
    else:
        assert found is not None and found.config.image_id == IMAGE.image_id


@pytest.mark.parametrize(("content", "offered"), [(RULES, False), ({"ending": {"countdown": 1}}, True)])
def test_safe_mode_which_has_the_images_rules_is_not_offered_for_others(content: object, *, offered: bool) -> None:
    environment = FakeEnvironment(FakeVolume(volume(state=VolumeState.LOCKED, label=""), MemoryFiles()))
    environment.fake_unlocking = FakeUnlocking({"sda3": lock()})
    environment.boot_files = [stick(content)]
    prompt = FakePrompt(Instead.SKIP)
    options = RunOptions(run_id="20240720T100000Z-0a1b2c3d", started=1721469600.0)
    receipt = Session(environment, IMAGE, FullScreen(environment.screen, "B"), options, prompt=prompt).run()
    (question,) = prompt.questions
    assert isinstance(question, RecoveryQuestion) and question.safe_mode is offered
    assert any("Safe mode is not offered" in note for note in receipt.notes) is not offered


def test_the_whole_machine_does_what_the_stick_says(tmp_path: Path) -> None:
    """Other files, and another ending; said on the screen and in the receipt."""
    files = windows_files()
    files.add("\\Windows\\System32\\drivers\\Contoso\\bad.bin", b"bad")
    environment = FakeEnvironment(FakeVolume(volume(), files))
    environment.boot_files = [stick({**RULES, "ending": {"repaired": "power-off", "countdown": 0}})]
    environment.memory_screen.keys = [None] * 3
    image = tmp_path / "config.json"
    image.write_text(json.dumps(to_json(IMAGE)))
    place = Place(
        image_config=image, stdout=io.StringIO(), stderr=io.StringIO(), environment=lambda *_a, **_k: environment
    )
    assert main([], place) == 0
    assert environment.ended == [AfterRepair.POWER_OFF]
    assert FAULTY_PATH in files.paths(), "the image's own rule has made place"
    assert "\\Windows\\System32\\drivers\\Contoso\\bad.bin" not in files.paths()
    shown = "".join(environment.memory_screen.shown)
    assert shown.index(CONFIG) < shown.index("Will quarantine 1 file")
    (sent,) = [json.loads(line.split(" ", 1)[1]) for line in environment.lines if '"event":"receipt"' in line]
    assert list(sent["receipt"]["policies"]) == ["contoso"]
    assert sent["receipt"]["configuration"].startswith(f"{CONFIG} on boot medium 0 takes the place")
    assert any("The sha256 of the configuration on the boot medium is" in note for note in sent["receipt"]["notes"])
    last = " ".join(environment.memory_screen.shown[-1].split())
    assert f"{CONFIG} on boot medium 0 takes the place of the image's own rules (contoso) and ending." in last
