"""safe-mode.cmd: which rules cmd.exe can carry out, and what the script then says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.safe_mode_script import acts, goes_by_name, safe_mode_files, safe_mode_script
from builder.startnet_lint import lint_startnet
from payload.contract import BUILT_IN_RULES, CROWDSTRIKE_CHANNEL_291, Action, Below, PayloadConfig, Policy, Rule
from payload.formats.records import from_json

CONFIG = PayloadConfig(
    image_id="id", rules=BUILT_IN_RULES, bluelift="0.1.0", organisation="Müller & Söhne", contact="call 5%5 > now^"
)
DIGEST = "ab" * 32


def rule(**values: object) -> Rule:
    return Rule(**{"id": "r", "pattern": "System32\\drivers\\badfile.sys", **values})  # type: ignore[arg-type]


def script(*rules: Rule) -> str:
    return safe_mode_script(replace(CONFIG, rules=rules)).decode("ascii")


@pytest.mark.parametrize(
    ("tried", "by_name"),
    [
        (CROWDSTRIKE_CHANNEL_291, True),
        (replace(CROWDSTRIKE_CHANNEL_291, policy=Policy.VENDOR_ALL), True),
        # What is healthy would go as well.
        (replace(CROWDSTRIKE_CHANNEL_291, policy=Policy.FAULTY_ONLY), False),
        (rule(), True),
        (rule(below=Below.VOLUME, pattern="vendor\\badfile.sys"), True),
        (rule(sha256=(DIGEST,)), False),
        (rule(sha256=(DIGEST,), policy=Policy.VENDOR), False),
        (rule(min_size=1, policy=Policy.VENDOR), False),
        (rule(magic="AA"), False),
        # An 8.3 name could be meant.
        (rule(pattern="System32\\drivers\\bad*.sys", magic="AA", policy=Policy.VENDOR), False),
        (rule(pattern="System32\\drivers\\badfile-*.sys", magic="AA", policy=Policy.VENDOR), False),
        (rule(pattern="System32\\drivers\\badfile-1*.sys", magic="AA", policy=Policy.VENDOR), True),
        (rule(pattern="System32\\dri*s\\badfile.sys", magic="AA", policy=Policy.VENDOR), False),
        (rule(pattern="System32\\drivers\\müll.sys"), False),
        # What cmd.exe, here or there, would not take for a name.
        (rule(pattern="System32\\drivers\\a&b.sys"), False),
        (rule(pattern="System32\\drivers\\mountvol.sys"), False),
    ],
)
def test_which_rules_go_by_name(tried: Rule, by_name: bool) -> None:
    assert goes_by_name(tried) or not by_name
    written = script(tried)
    folder, _, name = tried.pattern.rpartition("\\")
    assert (f'\\{folder}"\r\nif not exist "%FOLDER%\\{name}" goto after1' in written) == by_name
    assert (f"The rule {tried.id} needs Bluelift itself" in written) != by_name


def test_a_rule_that_only_reports_is_not_in_it() -> None:
    for tried in (rule(action=Action.REPORT), rule(policy=Policy.REPORT_ONLY)):
        assert not acts(tried)
        assert "badfile" not in script(tried)


def test_without_a_rule_that_cmd_can_carry_out_windows_stays_in_safe_mode() -> None:
    lines = script(rule(sha256=(DIGEST,))).split("\r\n")
    start = lines.index(":commands")
    assert lines[start + 2] == "goto failed"
    assert not any(line.startswith("move ") for line in lines)


def test_a_percent_sign_is_a_character() -> None:
    written = script(rule(pattern="System32\\50%\\a%b.sys"))
    assert 'set "FOLDER=%SystemRoot%\\System32\\50%%"' in written
    assert 'move "%FOLDER%\\a%%b.sys" "%KEPT%\\r"' in written


def test_the_files_of_a_medium() -> None:
    files = safe_mode_files(CONFIG)
    assert sorted(files) == ["Bluelift/safe-mode.cmd", "Bluelift/safe-mode.json"]
    assert from_json(PayloadConfig, json.loads(files["Bluelift/safe-mode.json"])) == CONFIG
    assert b"Help: M?ller S?hne call 5 5 now\r\n" in files["Bluelift/safe-mode.cmd"]
    assert files == safe_mode_files(CONFIG)


PARTS = st.text(st.characters(codec="ascii", exclude_characters='<>:"/|\\*?'), min_size=1, max_size=12)


@settings(deadline=None, max_examples=25)
@given(parts=st.lists(PARTS, min_size=1, max_size=3), text=st.text(max_size=40))
def test_whatever_a_profile_says_the_script_passes_its_lint(parts: list[str], text: str) -> None:
    try:
        tried = rule(pattern="\\".join(parts))
    except ValueError:
        return
    config = replace(CONFIG, rules=(tried,), organisation=text, contact=text)
    assert lint_startnet(safe_mode_script(config), most_lines=80) == ()
