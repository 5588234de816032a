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


def linux_payload_files() -> tuple[tuple[str, bytes], ...]:
    """The same without the modules that run on Windows alone: Debian's Python has no ctypes to import them with."""
    return tuple((path, content) for path, content in payload_files() if not path.startswith("environment/windows"))


def payload_spec() -> bytes:
    """PyInstaller's recipe for the payload (payload.spec)."""
    return _read(_PACKAGE.parent / "payload" / "payload.spec")


def freeze_pins() -> bytes:
    """What the payload is frozen with on Linux (freeze_pins.toml)."""
    return _read(_PACKAGE / "freeze_pins.toml")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _broken(path) from error


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
