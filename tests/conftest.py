"""What all tests share: unit tests start no programs; one image and one frozen payload for all that need them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from builder import RELEASE_EPOCH, profile
from builder.build import BuildOptions, Built, build
from builder.cache import Cache, default_folder
from builder.console import PlainConsole
from builder.frozen import FrozenPayload

# Speed is measured by `make bench`: no property fails for a machine that is slow or busy.
settings.register_profile("bluelift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bluelift")

_UNIT = Path(__file__).parent / "unit"
#: Modules of tests/unit whose point is that another program reads (or refuses) what ours wrote.
_WITH_PROGRAMS = {"fat", "gpt", "initramfs", "inspect", "iso", "qemu", "qmp", "run", "scenarios", "verify_disks"}


class ProgramStarted(AssertionError):
    """A unit test started a program."""


@pytest.fixture(autouse=True)
def _no_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tests/unit, starting a program is a failure, unless the test is marked `programs` or its module is listed."""
    listed = request.path.stem.removeprefix("test_") in _WITH_PROGRAMS
    if _UNIT not in request.path.parents or listed or request.node.get_closest_marker("programs"):
        return

    def refuse(argv: object, *_: object, **__: object) -> None:
        raise ProgramStarted(f"a unit test started {argv}; mark it with pytest.mark.programs, or make it pure")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture(scope="session")
def default_build(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The default image, built once for all tests, through the user's own cache: CI downloads once."""
    import sys

    options = BuildOptions(output=tmp_path_factory.mktemp("dist"), cache=default_folder())
    return build(profile.load(profile.find(None)), options, PlainConsole(out=sys.stdout, err=sys.stderr))


@pytest.fixture(scope="session")
def frozen() -> FrozenPayload:
    """The payload as it is shipped for Windows, through the user's own cache: CI downloads and freezes once."""
    import sys

    from builder.windows_payload import FreezeOptions, windows_payload

    cache = Cache(default_folder())
    console = PlainConsole(out=sys.stdout, err=sys.stderr)
    with cache.locked(console.notice):
        return windows_payload(FreezeOptions(), cache=cache, console=console, epoch=RELEASE_EPOCH).payload


@pytest.fixture(scope="session")
def default_image(default_build: Built) -> Path:
    """The default image's ISO."""
    return default_build.image
