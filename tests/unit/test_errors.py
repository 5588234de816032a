"""Every error has an exit code of its own and a message worth reading."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from builder import errors
from builder.errors import BuilderError, Problem, ProfileError

ROOT = Path(__file__).parent.parent.parent


def kinds() -> list[type[BuilderError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BuilderError)]


def confused(some: Sequence[type[BuilderError]]) -> list[str]:
    """The names of those whose exit code says something else as well. A kind of a kind (OutOfTime) may share its code,
    but not BuilderError's own."""
    owners: dict[int, str] = {}
    names = []
    for kind in some:
        own = "exit_code" in vars(kind)
        if (BuilderError in kind.__bases__ and not own) or (own and kind.exit_code in owners):
            names.append(kind.__name__)
        if own:
            owners[kind.exit_code] = kind.__name__
    return names


def test_exit_codes_are_distinct_and_leave_room_for_signals() -> None:
    assert confused(kinds()) == []
    assert all(0 < kind.exit_code < 64 for kind in kinds())


def test_an_exit_code_that_is_taken_would_be_noticed() -> None:
    taken = type("Taken", (BuilderError,), {"exit_code": errors.ToolFailed.exit_code})
    none = type("WithoutACode", (BuilderError,), {})
    narrower = type("Narrower", (errors.ToolFailed,), {})
    other = type("Other", (errors.ToolFailed,), {"exit_code": errors.ImageError.exit_code})
    assert confused([*kinds(), narrower]) == []
    assert confused([*kinds(), taken, none, other]) == ["Taken", "WithoutACode", "Other"]


def test_exit_codes_are_in_the_help() -> None:
    help_text = (ROOT / "builder" / "cli.py").read_text()
    for kind in kinds():
        if kind is not BuilderError:
            assert re.search(rf"\s{kind.exit_code} [a-z]", help_text), f"exit code {kind.exit_code} of {kind.__name__}"


def test_a_profile_error_reads_like_a_compiler() -> None:
    error = ProfileError("p.yaml", [Problem(path="base.mirror", line=3, message="wrong"), Problem(path="", line=None, message="x")])  # fmt: skip  # noqa: E501
    assert error.message == "2 problems in the profile\np.yaml:3: base.mirror: wrong\np.yaml:1: x"
    assert "bluelift init" in error.hint


def test_every_error_in_the_builder_has_a_class_of_its_own() -> None:
    """`raise BuilderError(...)` itself says nothing that a script could tell from a crash."""
    raised = [
        path.name
        for path in (ROOT / "builder").rglob("*.py")
        for line in path.read_text().splitlines()
        if "raise BuilderError(" in line
    ]
    assert raised == []
