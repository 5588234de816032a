"""Templates: undefined names are refused, newlines and encodings are as asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import resources
from builder.errors import TemplateError
from builder.render import render


@pytest.fixture(autouse=True)
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "templates", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "newline", "expected"),
    [
        ("a {{ x }}", "\n", b"a 1\n"),
        ("a {{ x }}\n", "\n", b"a 1\n"),
        ("a\nb\n", "\r\n", b"a\r\nb\r\n"),
        ("{% if x %}\nb\n{% endif %}\nc\n", "\n", b"b\nc\n"),
        ("<{{ y }}>", "\n", b"<&>\n"),
        ("", "\n", b"\n"),
    ],
)
def test_lines(templates: Path, text: str, newline: str, expected: bytes) -> None:
    (templates / "t.j2").write_text(text)
    assert render("t.j2", {"x": 1, "y": "&"}, newline=newline) == expected


def test_a_name_that_nobody_gave_is_refused(templates: Path) -> None:
    (templates / "t.j2").write_text("{{ nobody }}")
    with pytest.raises(TemplateError, match=r"t\.j2 cannot be used: 'nobody' is undefined"):
        render("t.j2", {})


def test_encodings(templates: Path) -> None:
    (templates / "t.j2").write_text("ü")
    assert render("t.j2", {}, encoding="utf-16-le") == "ü\n".encode("utf-16-le")
    with pytest.raises(TemplateError, match="cannot be written in ascii"):
        render("t.j2", {}, encoding="ascii")


def test_what_is_no_template(templates: Path) -> None:
    (templates / "t.j2").write_text("a\n{% if %}")
    with pytest.raises(TemplateError, match=r"t\.j2 cannot be used: line 2"):
        render("t.j2", {})
    with pytest.raises(TemplateError, match="absent"):
        render("absent.j2", {})
