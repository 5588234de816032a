"""The rules of a profile: its own, the built-in ones as it wants them, and what cannot be together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from builder.errors import Problem
from builder.yaml_lines import Document
from payload.contract import BUILT_IN_RULES, Action, Policy, Rule
from payload.formats.records import RecordError, from_json


def own_rules(data: dict[str, Any], document: Document) -> tuple[tuple[Rule, ...], list[Problem]]:
    """The rules that a profile has of its own, read by the code that the payload reads them with; and what is wrong."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    given = data.get("rules", [])
    for index, item in enumerate(given if isinstance(given, list) else []):
        try:
            rules.append(from_json(Rule, item))
        except RecordError as error:
            for inner, message in error.problems:
                path = f"rules[{index}]" + (f".{inner}" if inner else "")
                problems.append(Problem(path=path, line=document.line(path), message=message))
    return tuple(rules), problems


def final_rules(data: dict[str, Any], own: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """What an image looks for: the built-in rules with the profile's policy and action, then its own."""
    if not data.get("built_in_rules", True):
        return own
    policy, action = data.get("policy"), data.get("action")
    built_in = (
        replace(
            rule,
            policy=Policy(policy) if policy else rule.policy,
            action=Action(action) if action else rule.action,
        )
        for rule in BUILT_IN_RULES
    )
    return (*built_in, *own)


def rule_problems(data: dict[str, Any], rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    """What of the rules is right by itself and impossible together, as (path, message)."""
    built_in = data.get("built_in_rules", True)
    if not built_in:
        for key in ("policy", "action"):
            if data.get(key) is not None:
                yield key, "is for the built-in rule, which built_in_rules: false leaves out"
        if not rules:
            yield "built_in_rules", "is false and there are no rules: the image would look for nothing"
    if data.get("policy") == "report-only" and data.get("action") in ("quarantine", "delete"):
        yield "action", f"{data['action']} never happens with policy: report-only"
    taken = {rule.id: "a built-in rule" for rule in BUILT_IN_RULES} if built_in else {}
    for index, rule in enumerate(rules):
        if rule.id in taken:
            yield f"rules[{index}].id", f"{rule.id} is already the id of {taken[rule.id]}"
        taken.setdefault(rule.id, f"rules[{index}]")
    if data.get("hibernated") == "discard" and all(rule.only_reports for rule in final_rules(data, rules)):
        yield "hibernated", "discard would throw sessions away although every rule only reports"
