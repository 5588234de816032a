"""Where the templates, the profiles and the payload's source are: in a checkout, or inside the installed wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from builder.errors import BuilderError

_PACKAGE = Path(__file__).resolve().parent


def templates() -> Path:
    """The folder of the jinja2 templates, with one folder for each environment in it."""
    return _data("templates")


def profiles() -> Path:
    """The folder of the profiles that come with Bluelift."""
    return _data("profiles")


def builder_source() -> Path:
    """The builder's own package folder; its modules' hashes go into the plan."""
    return _PACKAGE


@cache
def payload_files() -> tuple[tuple[str, bytes], ...]:
    """The payload's source as (path below payload/, content), sorted: `("formats/records.py", b"...")`."""
    folder = _PACKAGE.parent / "payload"
    files = tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py")))
    if not files:
        raise _broken(folder)
    return files


def _data(name: str) -> Path:
    # The wheel carries these folders below builder/data; a checkout has them beside the package.
    for folder in (_PACKAGE / "data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise _broken(_PACKAGE.parent / name)


def _broken(folder: Path) -> BuilderError:
    return BuilderError(
        f"this installation of Bluelift is incomplete: {folder} is missing",
        hint="Install it again, or run it from a complete checkout.",
    )
