"""What lies on every medium for a Windows that was sent into safe mode: a script, and rules for a payload beside it.

Where no frozen payload lies beside it, the script moves what the rules name by cmd.exe's own commands. Those see names,
not contents, so only a rule that goes by names alone is carried out so; others are named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from builder.errors import TemplateError
from builder.render import render
from builder.startnet_lint import LintProblem, lint_startnet
from payload.contract import (
    MEDIUM_FOLDER,
    SAFE_MODE_CONFIG,
    SAFE_MODE_SCRIPT,
    Action,
    Below,
    PayloadConfig,
    Policy,
    Rule,
)
from payload.formats.records import to_json

_TEMPLATE = "windows/safe-mode.cmd.j2"
#: cmd.exe compares patterns with 8.3 names as well; none has so many characters before a wildcard.
_SHORT_NAME = 8
_PLACES = {Below.WINDOWS: "%SystemRoot%", Below.VOLUME: "%SystemDrive%"}
#: cmd.exe obeys these even in what echo prints.
_OBEYED = str.maketrans(dict.fromkeys('&|<>^%"!', " "))


def safe_mode_files(config: PayloadConfig) -> dict[str, bytes]:
    """The files for a medium, by their paths on it. Raises TemplateError."""
    return {
        f"{MEDIUM_FOLDER}/{SAFE_MODE_SCRIPT}": safe_mode_script(config),
        f"{MEDIUM_FOLDER}/{SAFE_MODE_CONFIG}": (json.dumps(to_json(config), indent=1) + "\n").encode("ascii"),
    }


def safe_mode_script(config: PayloadConfig) -> bytes:
    """safe-mode.cmd: ASCII, CR LF, linted."""
    acting = [rule for rule in config.rules if acts(rule)]
    # A name that cmd.exe could take for something else is not handed to it.
    moves = [rule for rule in acting if goes_by_name(rule) and not _lint(_render(config, [rule], []))]
    script = _render(config, moves, [rule.id for rule in acting if rule not in moves])
    if problems := _lint(script):
        found = "\n".join(
            f"{SAFE_MODE_SCRIPT}:{problem.line}: {problem.reason}: {problem.text}" for problem in problems
        )
        raise TemplateError(f"the template of {SAFE_MODE_SCRIPT} cannot be used\n{found}", hint=f"Mend {_TEMPLATE}.")
    return script


def _render(config: PayloadConfig, moves: Sequence[Rule], left_out: Sequence[str]) -> bytes:
    values = {
        "bluelift": _printed(config.bluelift),
        "image_id": _printed(config.image_id),
        "contact": _printed("   ".join(filter(None, (config.organisation, config.contact)))),
        "script": SAFE_MODE_SCRIPT,
        "config": SAFE_MODE_CONFIG,
        "moves": [_move(rule) for rule in moves],
        "left_out": left_out,
    }
    return render(_TEMPLATE, values, newline="\r\n", encoding="ascii")


def _lint(script: bytes) -> tuple[LintProblem, ...]:
    """The script is as long as the profile has rules."""
    return lint_startnet(script, most_lines=script.count(b"\n"))


def acts(rule: Rule) -> bool:
    """Whether the rule ever moves or deletes a file."""
    return rule.action is not Action.REPORT and rule.policy is not Policy.REPORT_ONLY


def goes_by_name(rule: Rule) -> bool:
    """Whether moving every file that the pattern names is what the rule asks for, and cmd.exe finds those files alone.

    Under the vendor's policies a corrected file goes as well, as the vendor advised; it is fetched again.
    """
    *folders, name = rule.pattern_parts
    judged = bool(rule.sha256) or rule.min_size is not None or rule.max_size is not None
    if rule.policy is Policy.FAULTY_ONLY:
        judged = judged or bool(rule.magic or rule.header or rule.window)
    wild = min((name.index(c) for c in "*?" if c in name), default=len(name) + _SHORT_NAME + 1)
    return not judged and rule.pattern.isascii() and not _wild(folders) and wild > _SHORT_NAME


def _wild(parts: Sequence[str]) -> bool:
    return any(character in part for part in parts for character in "*?")


def _move(rule: Rule) -> dict[str, str]:
    *folders, name = (part.replace("%", "%%") for part in rule.pattern_parts)
    return {"rule": rule.id, "folder": "\\".join((_PLACES[rule.below], *folders)), "name": name}


def _printed(text: str) -> str:
    """A text of the profile as one that `echo` and `rem` print on any code page."""
    plain = text.encode("ascii", "replace").decode("ascii").translate(_OBEYED)
    return " ".join("".join(c for c in plain if c.isprintable()).split())[:200]
