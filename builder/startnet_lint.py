"""What must not stand in a startnet.cmd: constructs that cmd.exe and Wine's cmd.exe do not agree on, or WinPE lacks.

The list is that of FACTS ("Running startnet.cmd and the exe under Wine", tried with Wine 8). The script starts the
payload and does nothing else, so a refusal costs nothing, and what is proven under Wine holds on Windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LintProblem:
    """One construct: its 1-based line, the line itself, why it must not be there."""

    line: int
    text: str
    reason: str


#: Outside of `rem` and `echo` lines, letter case aside.
_REFUSED = (
    (re.compile(r"&&"), "&& runs what follows also after a program that failed (Wine)"),
    (re.compile(r"\|\|"), "|| depends on exit codes as && does; use if errorlevel"),
    (re.compile(r"(?<![&>\d])&(?![&\d])"), "one command a line: & hides which of them failed"),
    (re.compile(r"^\s*for\b.*\bgoto\b"), "goto does not end a for loop (Wine)"),
    (re.compile(r"^\s*call\s+[^:\s]"), "call of another script loses its exit code (Wine)"),
    (re.compile(r"\bif\s+(?:/i\s+)?(?:not\s+)?exist\s+\"?[^\s\"]*\\\"?(?:\s|$)"), "if exist FOLDER\\ is false (Wine)"),
    (re.compile(r"^\s*\(.*\)\s*>"), "a block on one line is not redirected (Wine)"),
    (re.compile(r"\bchcp\b"), "chcp fails (Wine), and WinPE may lack the code page"),
    (re.compile(r"(?:^|\s)timeout(?:\.exe)?\b"), "WinPE has no timeout.exe"),
    (re.compile(r"(?:^|\s|\|)sort(?:\.exe)?\b"), "sort fails (Wine)"),
    (re.compile(r"\bmountvol\b"), "mountvol fails (Wine)"),
    (re.compile(r"(?:^|\s|\|)find(?:\.exe)?\s.*/c\b"), "find /c fails (Wine)"),
    (re.compile(r"\b(?:powershell|wmic|cscript|wscript)\b"), "a plain WinPE has no PowerShell, WMI or scripting"),
    (re.compile(r"%errorlevel%"), "test results with if errorlevel"),
)
_ECHO_PARENTHESIS = re.compile(r"\becho\(", re.IGNORECASE)
_NOT_CODE = re.compile(r"^\s*(?:@?rem\b|::|echo[ .])", re.IGNORECASE)
_LABEL = re.compile(r"^\s*:([A-Za-z0-9_-]+)\s*$")
_GOTO = re.compile(r"\bgoto\s+:?([A-Za-z0-9_-]+)", re.IGNORECASE)
_LONGEST = 1000
_SMALL = 60


def lint_startnet(script: bytes, *, most_lines: int = _SMALL) -> tuple[LintProblem, ...]:
    """Every problem of a script, as it goes onto a medium or into an image, by line; none for one that is fine."""
    try:
        text = script.decode("ascii")
    except UnicodeDecodeError as error:
        line = script[: error.start].count(b"\n") + 1
        return (_problem(line, "", f"byte {script[error.start]:#04x} is not ASCII: code pages differ"),)
    if not text.endswith("\r\n") or re.search(r"(?<!\r)\n|\r(?!\n)", text):
        return (_problem(1, "", "every line must end with CR LF: cmd.exe loses its place otherwise"),)
    lines = text.split("\r\n")[:-1]
    problems = [problem for number, line in enumerate(lines, start=1) for problem in _check_line(number, line)]
    problems += _check_labels(lines)
    if len(lines) > most_lines:
        problems.append(
            _problem(most_lines + 1, lines[most_lines], "the script must stay tiny: logic belongs into the payload")
        )
    return tuple(sorted(problems, key=lambda problem: problem.line))


def _check_line(number: int, line: str) -> Iterator[LintProblem]:
    if len(line) > _LONGEST:
        yield _problem(number, line, f"longer than {_LONGEST} characters")
    if any(not character.isprintable() and character != "\t" for character in line):
        yield _problem(number, line, "a control character")
    if _ECHO_PARENTHESIS.search(line):
        yield _problem(number, line, "echo( fails (Wine); use echo.")
    if _NOT_CODE.match(line):
        # What `echo` prints may say anything but what cmd.exe itself obeys.
        if re.search(r"[&|<>^%]", line) and not re.match(r"\s*(?:@?rem\b|::)", line, re.IGNORECASE):
            yield _problem(number, line, "& | < > ^ % are obeyed, not printed")
        return
    for pattern, reason in _REFUSED:
        if re.search(pattern.pattern, line, re.IGNORECASE):
            yield _problem(number, line, reason)


def _check_labels(lines: list[str]) -> Iterator[LintProblem]:
    labels = [match[1].lower() for line in lines if (match := _LABEL.match(line))]
    for number, line in enumerate(lines, start=1):
        if _NOT_CODE.match(line):
            continue
        for target in _GOTO.findall(line):
            if target.lower() not in (*labels, "eof"):
                yield _problem(number, line, f"there is no label :{target}")
        if (match := _LABEL.match(line)) and labels.count(match[1].lower()) > 1:
            yield _problem(number, line, f"several labels :{match[1]}")


def _problem(line: int, text: str, reason: str) -> LintProblem:
    return LintProblem(line=line, text=text, reason=reason)
