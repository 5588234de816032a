"""Profiles: what is accepted, what is refused and with which words and lines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import profile, yaml_lines
from builder.bcd import BcdSettings, EmsPort
from builder.errors import ProfileError, UsageError
from builder.keyboards import WINDOWS, XKB, linux_layout, windows_layout
from builder.profile_schema import BcdSection, ProfileFile, json_schema
from builder.winpe_files import startnet_cmd
from payload.contract import Action, AfterRepair, HibernatedVolumes, PayloadConfig, Policy
from payload.formats.records import from_json, to_json
from payload.formats.vault import LEAST_ROUNDS, VaultHeader

RULE = """
  - id: contoso
    pattern: System32\\drivers\\contoso-*.bin
    magic: "434E5431"
"""


def parse(text: str, folder: Path = Path()) -> profile.Profile:
    return profile.parse(text.encode(), file="p.yaml", folder=folder)


def problems(text: str, folder: Path = Path()) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ProfileError) as caught:
        parse(text, folder)
    return [(problem.line, problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_that_comes_with_bluelift_is_fine(name: str) -> None:
    read = profile.load(profile.find(name))
    assert read.name == name
    config = read.payload_config(image_id="0" * 32, bluelift="0.1.0")
    assert from_json(PayloadConfig, json.loads(json.dumps(to_json(config)))) == config


def test_the_commented_default_says_what_the_defaults_are() -> None:
    commented, empty = profile.load(profile.find("linux")), parse("")
    assert commented == profile.parse(b"", file="linux.yaml", folder=Path()).__class__(
        **{**empty.__dict__, "label": "linux.yaml", "sha256": commented.sha256}
    )


def test_the_built_in_profiles() -> None:
    unattended = profile.load(profile.find("unattended"))
    assert (unattended.ending.otherwise, unattended.shell) == (AfterRepair.POWER_OFF, False)
    looks = profile.load(profile.find("report-only"))
    assert [(rule.policy, rule.action) for rule in looks.rules] == [(Policy.REPORT_ONLY, Action.REPORT)]


def test_a_full_profile(tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()
    read = parse(
        "name: branch\nbase: {debs: debs}\norganisation: Contoso GmbH\ncontact: 'Tel. 0-800'\n"
        "policy: faulty-only\naction: delete\nhibernated: discard\nunattended: true\n"
        "ending: {repaired: power-off, countdown: 0}\ndisk_wait: 600\nserial: ''\nshell: false\n"
        f"volume_id: CONTOSO_1\noutput: contoso\nrules:{RULE}",
        tmp_path,
    )
    assert read.base.debs == tmp_path / "debs"
    assert [rule.id for rule in read.rules] == ["crowdstrike-channel-291", "contoso"]
    assert (read.rules[0].policy, read.rules[0].action) == (Policy.FAULTY_ONLY, Action.DELETE)
    assert read.hibernated is HibernatedVolumes.DISCARD
    assert read.ending.otherwise is AfterRepair.POWER_OFF
    assert (read.serial, read.disk_wait, read.volume_id, read.output) == ("", 600, "CONTOSO_1", "contoso")


@pytest.mark.parametrize(
    ("text", "key_wait", "nobody"),
    [
        ("name: x", 300, AfterRepair.POWER_OFF),
        ("unattended: true", 0, AfterRepair.POWER_OFF),
        ("unattended: true\nkey_wait: 60", 60, AfterRepair.POWER_OFF),
        ("key_wait: 0\nending: {nobody: stay}", 0, AfterRepair.STAY),
    ],
)
def test_how_long_a_question_for_a_key_waits(text: str, key_wait: int, nobody: AfterRepair) -> None:
    config = parse(text).payload_config(image_id="i", bluelift="0")
    assert (config.key_wait, config.ending.nobody) == (key_wait, nobody)


def test_a_full_winpe_profile(tmp_path: Path) -> None:
    for name in ("adk", "vmd", "payload"):
        (tmp_path / name).mkdir()
    (tmp_path / "back.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "winre.wim").write_bytes(b"")
    read = parse(
        "environment: winpe\nbase: {kind: winre, path: winre.wim, media: adk, index: 2}\nbitlocker: false\n"
        "boot_ca: both\nprompt: true\nlayout: microsoft\ndrivers: [vmd]\nkeyboard: DE\nbackground: back.jpg\n"
        "payload_exe: payload\nserial: ''\n"
        "bcd: {timeout: 5, description: Bluelift, legacy_menu: true, ignore_failures: false, ems: 1}\n",
        tmp_path,
    )
    assert (read.name, read.output, read.volume_id) == ("winpe", "bluelift-winpe", "BLUELIFT_PE")
    assert read.winpe == profile.WinpeSettings(
        base=profile.WinpeBase(kind="winre", path=tmp_path / "winre.wim", media=tmp_path / "adk", index=2),
        bitlocker=False,
        boot_ca="both",
        prompt=True,
        layout="microsoft",
        drivers=(tmp_path / "vmd",),
        keyboard="0407:00000407",
        bcd=BcdSettings(
            timeout=5, description="Bluelift", legacy_menu=True, ignore_failures=False, ems=EmsPort(port=1)
        ),
        background=tmp_path / "back.jpg",
        payload_exe=tmp_path / "payload",
    )


def test_the_commented_winpe_profile_says_what_the_defaults_are() -> None:
    commented, bare = profile.load(profile.find("winpe")), parse("environment: winpe\n")
    assert commented == replace(bare, label="winpe.yaml", sha256=commented.sha256)


@pytest.mark.parametrize("name", ["linux", "winpe"])
def test_every_key_has_its_place_in_the_commented_profile(tmp_path: Path, name: str) -> None:
    """With every commented key uncommented it is accepted, and no key of the schema is missing."""
    text = profile.find(name).read_text()
    uncommented = re.sub(r"^( *)# ?( *(?!true:)(?:- )?[a-z_]+:(?: .*)?)$", r"\1\2", text, flags=re.MULTILINE)
    assert uncommented != text
    for folder in ("debs", "drivers/vmd", "payload"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("Win11.iso", "debian-archive-keyring.gpg", "winpe.jpg"):
        (tmp_path / file).write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "keys.vault").write_bytes(
        VaultHeader(rounds=LEAST_ROUNDS, salt=bytes(32), records=0).packed() + bytes(32)
    )
    # What lends boot files is for winre, a mirror and a folder of packages are two ways to the same.
    uncommented = uncommented.replace("kind: windows-iso", "kind: winre")
    uncommented = re.sub(r"^  (debs): .*\n", "", uncommented, flags=re.MULTILINE)
    read = parse(uncommented, tmp_path)
    assert [rule.id for rule in read.rules] == ["crowdstrike-channel-291", "contoso-agent-content"]
    keys = yaml_lines.read(uncommented.encode()).data
    assert isinstance(keys, dict)
    fields = ProfileFile.model_fields
    winpe_only = {key for key, field in fields.items() if (field.description or "").startswith("winpe: ")}
    assert set(fields) - (winpe_only if name == "linux" else set()) == set(keys)
    if name == "winpe":
        assert set(keys["bcd"]) == set(BcdSection.model_fields)
        assert set(keys["base"]) == {"kind", "path", "media", "index"}


def test_what_both_commented_profiles_explain_they_explain_alike() -> None:
    first, last = "# Shown on the technician's screen.", "disk_wait: 30\n"
    texts = [profile.find(name).read_text() for name in ("linux", "winpe")]
    parts = [text[text.index(first) : text.index(last)] for text in texts]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("name", [*WINDOWS, *WINDOWS.values()])
def test_keyboards(name: str) -> None:
    layout = windows_layout(name)
    assert layout == WINDOWS.get(name, name)
    assert b"wpeutil SetKeyboardLayout " + layout.encode() in startnet_cmd(
        parse("").payload_config(image_id="0" * 32, bluelift="0.1.0"), keyboard=layout
    )


@pytest.mark.parametrize("name", ["xx", "0407", "0407:407", "de;", " de"])
def test_keyboards_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="there is no layout"):
        windows_layout(name)


def test_both_environments_know_the_same_names() -> None:
    assert XKB.keys() == WINDOWS.keys()
    assert len(set(WINDOWS.values())) == len(WINDOWS), "an identifier stands for one name"


@pytest.mark.parametrize("name", WINDOWS)
def test_keyboards_of_the_linux_image(name: str) -> None:
    assert linux_layout(name) == linux_layout(name.upper()) == linux_layout(WINDOWS[name]) == name
    assert parse(f"keyboard: {name}\n").keyboard == name, "no is the Norwegian one here"


def test_a_keyboard_belongs_to_its_environment() -> None:
    linux, winpe = parse("keyboard: FR\n"), parse("environment: winpe\nkeyboard: FR\n")
    assert (linux.keyboard, linux.winpe.keyboard) == ("fr", "")
    assert (winpe.keyboard, winpe.winpe.keyboard) == ("", "040c:0000040c")
    assert (parse("").keyboard, linux_layout("")) == ("", "")


@pytest.mark.parametrize("name", ["xx", "0407", "0401:00000401", "de;", " de", "de-DE"])
def test_keyboards_that_linux_has_not(name: str) -> None:
    with pytest.raises(ValueError, match=r"there is no layout '.*' for linux; known are at, be, .* uk, us"):
        linux_layout(name)


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("", 32_000_000),
        ("tail: 8MB", 8_000_000),
        ("tail: 500 kB", 500_000),
        ("tail: 4 GB", 4_000_000_000),
        ("hybrid: false", None),
    ],
)
def test_the_free_tail_of_a_hybrid_image(text: str, tail: int | None) -> None:
    assert parse(text).tail == tail


def test_times_and_yes_no_words_stay_text() -> None:
    read = parse(
        "organisation: no\ncontact: 2024-07-19\nrules:\n  - id: a\n    pattern: a*.sys\n"
        "    window: {faulty_from: 2024-07-19T04:09:00Z, corrected_from: 2024-07-19T05:27:00Z}\n"
    )
    assert (read.organisation, read.contact) == ("no", "2024-07-19")


@pytest.mark.parametrize(
    ("text", "line", "path", "said"),
    [
        ("nam: x", 1, "nam", "unknown key; did you mean name?"),
        ("name: x\nbase:\n  debz: y", 3, "base.debz", "did you mean debs?"),
        ("\n\nshell: 'yes'", 3, "shell", "should be true or false"),
        ("name: 3", 1, "name", "should be text (put it in quotes)"),
        ("disk_wait: 601", 1, "disk_wait", "should be 600 or less, found 601"),
        ("key_wait: -1", 1, "key_wait", "should be 0 or more, found -1"),
        ("unattended: true\nending: {nobody: stay}", 2, "ending.nobody", "stay waits for a key for ever"),
        ("disk_wait: 1.5", 1, "disk_wait", "should be a whole number"),
        ("environment: wimp", 1, "environment", "should be 'linux' or 'winpe'"),
        ("boot_ca: 2011", 1, "boot_ca", "is for environment: winpe"),
        ("bitlocker: true\nprompt: true", 2, "prompt", "is for environment: winpe"),
        ("base:\n  kind: adk\n  path: .", 2, "base.kind", "is for environment: winpe"),
        ("environment: winpe\nbase:\n  suite: trixie", 3, "base.suite", "is for environment: linux"),
        ("environment: winpe\nbase:\n  debs: .", 3, "base.debs", "is for environment: linux"),
        ("environment: winpe\nboot_ca: 2012", 2, "boot_ca", "should be 2011, 2023 or 'both', found 2012"),
        ("environment: winpe\nlayout: udf", 2, "layout", "should be 'bridge' or 'microsoft'"),
        ("environment: winpe\nkeyboard: klingon", 2, "keyboard", "there is no layout 'klingon'; known are at, be"),
        ("\nkeyboard: klingon", 2, "keyboard", "there is no layout 'klingon' for linux; known are at, be"),
        ("keyboard: '0401:00000401'", 1, "keyboard", "there is no layout '0401:00000401' for linux"),
        ("keyboard: 49", 1, "keyboard", "should be text (put it in quotes)"),
        ("environment: winpe\nbase:\n  kind: esd\n  path: .", 3, "base.kind", "should be 'windows-iso'"),
        ("environment: winpe\nbase:\n  kind: adk\n  path: nowhere", 4, "base.path", "does not exist"),
        ("environment: winpe\nbase:\n  kind: adk", 3, "base.kind", "needs base.path"),
        ("environment: winpe\nbase:\n  path: .", 3, "base.path", "needs base.kind"),
        ("environment: winpe\nbase:\n  kind: winre\n  path: .", 3, "base.kind", "winre needs base.media"),
        ("environment: winpe\nbase:\n  kind: adk\n  path: .\n  media: .", 5, "base.media", "is for kind: winre"),
        ("environment: winpe\nbase:\n  index: 0", 3, "base.index", "should be 1 or more"),
        ("environment: winpe\nbase:\n  pth: x", 3, "base.pth", "did you mean path?"),
        ("environment: winpe\nbcd:\n  ems: 1", 3, "bcd.ems", "EMS takes COM1, where receipts go"),
        ("environment: winpe\nserial: ttyS1\nbcd:\n  ems: 2", 4, "bcd.ems", "EMS takes COM2, where receipts go"),
        ("environment: winpe\nbcd:\n  ems: 5", 3, "bcd.ems", "should be 4 or less"),
        ("environment: winpe\nbcd:\n  timeout: -1", 3, "bcd.timeout", "should be 0 or more"),
        ("environment: winpe\nbcd:\n  time: 1", 3, "bcd.time", "did you mean timeout?"),
        ('environment: winpe\nbcd:\n  description: "a\\tb"', 3, "bcd.description", "one line"),
        ("environment: winpe\ndrivers:\n- nowhere", 3, "drivers[0]", "there is no folder"),
        ("environment: winpe\nbackground: nowhere.jpg", 2, "background", "cannot be read"),
        ("environment: winpe\npayload_exe: nowhere", 2, "payload_exe", "there is no folder"),
        ("environment: winpe\nvolume_id: ABCDEFGHIJKLMNOPQ", 2, "volume_id", "at most 16 characters"),
        ("tail: 0 MB", 1, "tail", "should be a size such as 64 MB (kB, MB, GB); for none at all: hybrid: false"),
        ("tail: lots", 1, "tail", "should be a size such as 64 MB"),
        ("tail: 32", 1, "tail", "should be a size such as 64 MB"),
        ("tail: 5 GB", 1, "tail", "should be 4 GB or less; `bluelift usb write --data`"),
        ("tail: 3 TB", 1, "tail", "should be a size such as 64 MB"),
        ("hybrid: false\ntail: 8 MB", 2, "tail", "is for hybrid: true; a plain ISO has no free space"),
        ("policy: all", 1, "policy", "should be"),
        ("ending:\n  otherwise: reboot", 2, "ending.otherwise", "should be 'power-off' or 'stay'"),
        ("ending: 3", 1, "ending", "should hold 'key: value' lines"),
        ("serial: ttyUSB0", 1, "serial", "should be"),
        ("volume_id: lower", 1, "volume_id", "should match"),
        ("output: a/b", 1, "output", "should match"),
        ("output: ../x", 1, "output", "should match"),
        ("output: x.iso", 1, "output", "without .iso"),
        ("organisation: 'a\x07b'", 1, "", "not valid YAML"),
        ('organisation: "a\\tb"', 1, "organisation", "one line of printable characters"),
        ("rules: 3", 1, "rules", "should be a list"),
        ("rules:\n- 3", 2, "rules[0]", "should be an object"),
        ("rules:\n- id: x\n  pattern: '..\\x'", 2, "rules[0]", ".."),
        ("rules:\n- id: x\n  pattern: x\n  wat: 1", 4, "rules[0].wat", "unknown key"),
        ("rules:\n- id: x\n  pattern: x\n  header:\n  - name: n", 5, "rules[0].header[0].offset", "missing"),
        ("rules:\n- id: x\n  pattern: x\n  magic: 4141", 4, "rules[0].magic", "should be a text"),
        ("rules:\n- id: crowdstrike-channel-291\n  pattern: x", 2, "rules[0].id", "already the id of a built-in rule"),
        ("built_in_rules: false", 1, "built_in_rules", "look for nothing"),
        (f"built_in_rules: false\npolicy: vendor\nrules:{RULE}", 2, "policy", "is for the built-in rule"),
        ("policy: report-only\naction: delete", 2, "action", "never happens"),
        ("hibernated: discard\naction: report", 1, "hibernated", "only reports"),
        ("unattended: true\nending:\n  repaired: stay", 3, "ending.repaired", "nobody is there"),
        ("base:\n  debs: nowhere", 2, "base.debs", "there is no folder"),
        ("base:\n  keyring: nowhere", 2, "base.keyring", "there is no file"),
        ("base:\n  mirror: ftp://x", 2, "base.mirror", "should match"),
        ("base:\n  debs: .\n  mirror: http://x", 3, "base.mirror", "cannot be given together"),
        ('contact: "\\ud83d\\ude00"', 1, "contact", "half a character"),
        ("a: [", 1, "", "not valid YAML"),
        ("name: a\nname: b", 2, "name", "given twice (first on line 1)"),
        ("name: &a x", 1, "", "anchors and aliases"),
        ("name: !!str x", 1, "", "tags"),
        ("- 1", 1, "", "'key: value' lines"),
        ("name: a\n---\nname: b", 2, "", "not valid YAML"),
        ("[" * 100, 1, "", "nested deeper"),
        ("? {a: b}\n: c", 1, "", "a key must be a plain word"),
        ("#" * 300_000, 1, "", "too large"),
    ],
)
def test_what_is_refused(text: str, line: int, path: str, said: str, tmp_path: Path) -> None:
    found = problems(text, tmp_path)
    assert any(at == line and where == path and said in message for at, where, message in found), found


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    found = problems("nam: x\nshell: 3\nbase: {debz: 1}\nrules:\n- id: A\n  pattern: x\ndisk_wait: -1")
    assert [line for line, _, _ in found] == [1, 2, 3, 5, 7]
    with pytest.raises(ProfileError, match=r"(?s)5 problems in the profile\np\.yaml:1: nam: unknown key") as caught:
        parse("nam: x\nshell: 3\nbase: {debz: 1}\nrules:\n- id: A\n  pattern: x\ndisk_wait: -1")
    assert caught.value.exit_code == 3


def test_a_billion_laughs_is_not_expanded() -> None:
    lines = ["a0: &a0 [x, x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    assert all("anchors" in message for _, _, message in problems("\n".join(lines)))


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ProfileError, match=r"p\.yaml:2: not UTF-8 text"):
        profile.parse(b"name: x\n\xff", file="p.yaml", folder=Path())


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_garbage_raises_only_profile_errors(content: bytes) -> None:
    try:
        profile.parse(content, file="p.yaml", folder=Path("/nonexistent"))
    except ProfileError as error:
        assert error.problems


_KEYS = st.sampled_from(["name", "base", "rules", "ending", "shell", "policy", "hibernated", "serial", "x", "output"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_any_structure_raises_only_profile_errors(data: dict[str, object]) -> None:
    try:
        profile.parse(json.dumps(data).encode(), file="p.yaml", folder=Path("/nonexistent"))
    except ProfileError as error:
        assert all(problem.line == 1 for problem in error.problems)


_LETTERS = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1)


@given(st.dictionaries(_LETTERS, st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20)))
def test_lines_are_those_of_the_keys(data: dict[str, str]) -> None:
    text = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())
    document = yaml_lines.read(text.encode())
    assert (document.data or {}) == data
    assert [document.line(key) for key in data] == list(range(1, len(data) + 1))


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert profile.find(None).name == "linux.yaml"
    assert profile.find("unattended").name == "unattended.yaml"
    Path("unattended").write_text("name: mine\n")
    assert profile.load(profile.find("unattended")).name == "mine"
    for name in ("nothing", "linux.yaml", "../profiles/linux", "x/linux", "."):
        with pytest.raises(UsageError, match=r"neither a file nor|is a folder"):
            profile.find(name)


def test_a_profile_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"p\.yaml cannot be read: "):
        profile.load(tmp_path / "p.yaml")


def test_the_schema_for_editors_knows_every_key_and_the_rules() -> None:
    schema = json_schema()
    assert {"name", "base", "rules", "ending", "hibernated"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    rule = schema["properties"]["rules"]["items"]
    assert {"id", "pattern", "magic", "window"} <= set(rule["properties"])
    references = [part.split('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]]
    assert references
    assert set(references) <= set(schema["$defs"])
