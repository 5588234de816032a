"""Every error has an exit code of its own and a message worth reading."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from builder import errors
from builder.errors import BuilderError, Problem, ProfileError

ROOT = Path(__file__).parent.parent.parent


def kinds() -> list[type[BuilderError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BuilderError)]


def test_exit_codes_are_distinct_and_leave_room_for_signals() -> None:
    # A kind of a kind (OutOfTime) may share its code.
    codes = [kind.exit_code for kind in kinds() if "exit_code" in vars(kind)]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 64 for code in codes)


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
    """`raise BuilderError(...)` itself is for what has no better class: few places."""
    raised = [
        path.name
        for path in (ROOT / "builder").rglob("*.py")
        for line in path.read_text().splitlines()
        if "raise BuilderError(" in line
    ]
    assert sorted(set(raised)) in ([], ["profile.py"])
