"""Mounted folders as volumes, and a text stream as the screen."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from payload.__main__ import Place, main
from payload.contract import BUILT_IN_RULES, AfterRepair, HibernatedVolumes, HostIdentity, PayloadConfig, Verdict
from payload.environment import Environment, VolumeNotOpened, VolumeState
from payload.environment.directory import DirectoryEnvironment, TerminalScreen
from payload.formats.records import to_json
from payload.windows_install import find_installations
from tests.payload.broken_windows import claim_file_system, make_windows, snapshot


class Terminal(io.StringIO):
    """A stream that says it is a terminal of unknown size."""

    def isatty(self) -> bool:
        return True


def test_every_folder_is_a_volume(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.txt").write_bytes(b"x")
    environment: Environment = DirectoryEnvironment([tmp_path / "a", tmp_path / "b"], stream=io.StringIO())
    volumes = environment.volumes()
    assert [volume.id for volume in volumes] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert all(volume.state is VolumeState.READY and volume.size > 0 for volume in volumes)
    for for_changes in (False, True):
        with environment.open_volume(volumes[0], for_changes=for_changes) as opened:
            assert opened.writable is for_changes
            assert [entry.name for entry in opened.files.listing(())] == ["x.txt"]


@pytest.mark.parametrize("kind", ["vfat", "exfat", "ntfs3", "fuseblk", "cifs", ""])
def test_nothing_is_changed_where_no_quarantine_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Undo would not believe it."""
    make_windows(tmp_path / "root")
    environment = DirectoryEnvironment([tmp_path / "root"], stream=io.StringIO())
    (volume,) = environment.volumes()
    claim_file_system(tmp_path / "proc", kind, monkeypatch)
    before = snapshot(tmp_path / "root")
    with (
        pytest.raises(VolumeNotOpened, match="could not be protected") as refused,
        environment.open_volume(volume, for_changes=True),
    ):
        pass
    assert (kind or "unknown") in refused.value.detail
    assert "ntfs-3g" in refused.value.advice
    with environment.open_volume(volume, for_changes=False) as opened:
        assert len(find_installations(opened.files).installations) == 1
    assert snapshot(tmp_path / "root") == before


@pytest.mark.parametrize(("head", "sleeps"), [(b"HIBR", True), (b"RSTR", True), (b"WAKE", False), (bytes(4), False)])
def test_a_hibernated_windows_is_left_alone_unless_asked(tmp_path: Path, head: bytes, sleeps: bool) -> None:
    """Windows on a rescue machine mounts such a volume for changes without a word."""
    make_windows(tmp_path)
    (tmp_path / "hiberfil.sys").write_bytes(head + bytes(5000))
    before = snapshot(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        place = Place(image_config=None, stdout=out, stderr=io.StringIO(), environment=lambda _config: None)  # type: ignore[arg-type, return-value]
        return main(["--root", str(tmp_path), *arguments], place), out.getvalue()

    code, said = run()
    assert code == (Verdict.LEFT_ALONE if sleeps else Verdict.REPAIRED).exit_code
    if not sleeps:
        return
    assert "was left alone: Windows is hibernated on it" in " ".join(said.split())
    assert "Shift held" in said
    assert run("--undo")[0] == 0, "there is nothing to undo"
    assert snapshot(tmp_path) == before
    config = PayloadConfig(image_id="", rules=BUILT_IN_RULES, hibernated=HibernatedVolumes.DISCARD)
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    asked = ("--config", str(tmp_path / "config.json"))
    assert run(*asked)[0] == Verdict.REPAIRED.exit_code
    code, said = run("--undo")
    assert (code, "could not be undone: Windows is hibernated on it" in said) == (Verdict.FAILED.exit_code, True)
    assert run("--undo", *asked)[0] == 0


def test_a_folder_that_has_gone_is_still_a_volume(tmp_path: Path) -> None:
    (volume,) = DirectoryEnvironment([tmp_path / "gone"], stream=io.StringIO()).volumes()
    assert volume.size == 0


def test_the_machine_is_not_its_own() -> None:
    stream = io.StringIO()
    environment = DirectoryEnvironment([], stream=stream)
    assert environment.name == "directory"
    assert environment.host() == HostIdentity()
    assert not environment.disks()
    assert not environment.controllers()
    environment.wait_for_disks(30)
    environment.emit("line")
    environment.end(AfterRepair.REBOOT)
    environment.shell()
    with environment.media("image") as media:
        assert list(media) == []
    assert stream.getvalue() == ""


def test_a_pipe_has_no_colours_and_no_keys() -> None:
    stream = io.StringIO()
    screen = TerminalScreen(stream)
    screen.write("text")
    assert (screen.colour, screen.columns, screen.key(1.0), stream.getvalue()) == (False, 100, None, "text")
    assert screen.lines > 100


@pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_has_colours_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = TerminalScreen(Terminal())
    assert screen.colour is colour
    assert screen.columns == 80
