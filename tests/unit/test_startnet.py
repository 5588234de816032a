"""startnet.cmd and what else Bluelift puts into Windows PE, and the lint that holds the script to what was tried."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.startnet_lint import lint_startnet
from builder.winpe_files import CONFIG, STARTNET, WINPESHL, startnet_cmd, winpe_files, winpeshl_ini
from payload.contract import BUILT_IN_RULES, PayloadConfig
from payload.formats.records import from_json

CONFIG_RECORD = PayloadConfig(
    image_id="id", rules=BUILT_IN_RULES, bluelift="0.1.0", organisation="Müller & Söhne", contact="call 5%5 > now^"
)


def _script(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("wpeinit && payload.exe", "&& runs"),
        ("payload.exe || goto end", "exit codes"),
        ("wpeinit & payload.exe", "one command a line"),
        ("for %%i in (C D) do if exist %%i:\\x goto end", "goto does not end"),
        ("FOR %%i in (C D) do GOTO end", "goto does not end"),
        ("call other.cmd", "call of another script"),
        ("if exist D:\\ echo yes", "is false"),
        ('if not exist "D:\\" echo no', "is false"),
        ("( echo a ) > X:\\log", "not redirected"),
        ("echo(", "echo("),
        ("chcp 65001", "chcp"),
        ("timeout 5", "timeout"),
        ("type a | sort", "sort"),
        ("mountvol", "mountvol"),
        ("find /c x y", "find /c"),
        ("powershell -Command x", "no PowerShell"),
        ("if %ERRORLEVEL%==0 goto end", "if errorlevel"),
        ("echo a > X:\\b", "obeyed, not printed"),
        ("goto nowhere", "no label :nowhere"),
        ("x" * 1001, "longer than"),
        ("title a\x07b", "control character"),
    ],
)
def test_what_the_lint_refuses(line: str, reason: str) -> None:
    problems = lint_startnet(_script("@echo off", line, ":end"))
    assert any(reason in problem.reason for problem in problems), problems
    assert {problem.line for problem in problems} == {2}


@pytest.mark.parametrize(
    "line",
    [
        "wpeinit",
        "payload.exe > X:\\log 2>&1",
        "if errorlevel 1 goto end",
        "if exist D:\\* echo yes",
        "if not exist X:\\a\\b.exe goto end",
        "rem timeout && chcp: what must not be used",
        "echo Restart: wpeutil reboot",
        "echo.",
        "call :end",
        "goto :eof",
        "type X:\\log",
    ],
)
def test_what_the_lint_lets_through(line: str) -> None:
    assert lint_startnet(_script("@echo off", line, ":end")) == ()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"wpeinit\n", "CR LF"),
        (b"wpeinit\r\npayload.exe", "CR LF"),
        (b"wpeinit\rpayload\r\n", "CR LF"),
        ("echo \u00fc\r\n".encode(), "not ASCII"),
        (b"echo x\r\n" * 61, "stay tiny"),
        (b":a\r\n:a\r\n", "several labels"),
    ],
)
def test_the_form_of_the_whole_script(script: bytes, reason: str) -> None:
    assert any(reason in problem.reason for problem in lint_startnet(script))


@given(st.binary(max_size=200))
def test_the_lint_never_raises(script: bytes) -> None:
    lint_startnet(script)


@pytest.mark.parametrize("keyboard", ["", "0407:00000407"])
def test_the_script_in_its_bytes(keyboard: str) -> None:
    script = startnet_cmd(CONFIG_RECORD, keyboard=keyboard)
    assert lint_startnet(script) == ()
    lines = script.decode("ascii").split("\r\n")
    assert lines[0] == "@echo off"
    assert lines[-1] == ""
    assert lines[3:5][0] == "wpeinit"
    assert ("wpeutil SetKeyboardLayout 0407:00000407" in lines) == bool(keyboard)
    started = r"X:\Bluelift\payload\payload.exe > X:\Bluelift\payload.log 2>&1"
    assert lines.index("wpeinit") < lines.index(started)
    assert "echo Help: M?ller S?hne call 5 5 now" in lines


@pytest.mark.parametrize("keyboard", ["de", "0407:00000407 & del", "0407:0000040", "\r\n"])
def test_a_keyboard_that_is_none(keyboard: str) -> None:
    with pytest.raises(ValueError, match="no keyboard layout"):
        startnet_cmd(CONFIG_RECORD, keyboard=keyboard)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_of_a_profile_becomes_a_command(organisation: str, contact: str) -> None:
    config = PayloadConfig(image_id="x", rules=(), organisation=organisation, contact=contact)
    plain = startnet_cmd(PayloadConfig(image_id="x", rules=(), contact="x"))
    script = startnet_cmd(config)
    assert lint_startnet(script) == ()
    assert set(plain.split(b"\r\n")) >= {line for line in script.split(b"\r\n") if not line.startswith(b"echo Help: ")}


def test_exactly_one_chain_of_start() -> None:
    """ "Winpeshl.ini Files": `application, options`, one program a line below [LaunchApps]."""
    assert winpeshl_ini() == (
        b"[LaunchApps]\r\n%SYSTEMROOT%\\System32\\cmd.exe, /k X:\\Windows\\System32\\startnet.cmd\r\n"
    )


def test_what_goes_into_the_image() -> None:
    puts = {put.target: put.source for put in winpe_files(CONFIG_RECORD)}
    assert list(puts) == [STARTNET, WINPESHL, CONFIG]
    config = puts[CONFIG]
    assert isinstance(config, bytes)
    assert from_json(PayloadConfig, json.loads(config)) == CONFIG_RECORD
    assert winpe_files(CONFIG_RECORD) == winpe_files(CONFIG_RECORD)
