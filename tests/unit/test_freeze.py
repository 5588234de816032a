"""Freezing without Wine: backends, manifests, archives, pins, and everything that is refused before anything runs."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import freeze, frozen, resources, windows_python
from builder.cache import Cache
from builder.console import PlainConsole, SilentStep
from builder.errors import BaseMediaError, ImageError, ToolFailed, ToolMissing
from builder.freeze_native import pyinstaller_arguments, reproducible
from builder.freeze_wine import WineBackend
from builder.pe import Machine
from builder.portable import NAME, portable_archive, write_portable
from builder.windows_payload import FreezeOptions, content_id, recipe, windows_payload
from builder.wine import WinePrefix, require_wine
from payload.contract import WINDOWS_LIBRARIES
from tests.unit.pe_maker import ARM64, pe_file

EPOCH = 1_700_000_000
CONTENTS = {
    "payload.exe": pe_file(["KERNEL32.dll"]),
    "_internal/VCRUNTIME140.dll": pe_file(["KERNEL32.dll"]),
    "_internal/base_library.zip": b"PK",
}


@pytest.fixture
def prebuilt(tmp_path: Path) -> Path:
    folder = tmp_path / "prebuilt"
    frozen.payload_of(CONTENTS).write(folder)
    return folder


@pytest.fixture
def no_programs_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.wine.child_environment", lambda *_: {"PATH": str(tmp_path)})


# --- prebuilt --------------------------------------------------------------------------------------------------


def test_a_prebuilt_folder(prebuilt: Path) -> None:
    payload = frozen.read_prebuilt(prebuilt)
    assert payload.contents == CONTENTS and list(payload.contents) == sorted(CONTENTS)
    assert payload.size == sum(map(len, CONTENTS.values()))
    assert [need.library for need in freeze.gate(payload)] == list(WINDOWS_LIBRARIES)


@pytest.mark.programs
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum (coreutils) is not installed")
def test_the_manifest_is_what_sha256sum_checks_and_writes(prebuilt: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", frozen.SUMS], cwd=prebuilt, check=True, capture_output=True)
    ours = (prebuilt / frozen.SUMS).read_bytes()
    told = f"find . -type f ! -name {frozen.SUMS} | sort | xargs -d '\\n' sha256sum > {frozen.SUMS}"
    subprocess.run(["sh", "-c", told], cwd=prebuilt, check=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    assert (prebuilt / frozen.SUMS).read_bytes() != ours, "names start with ./"
    assert frozen.read_prebuilt(prebuilt).sums() == ours


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "SHA256SUMS").unlink(), "there is no SHA256SUMS"),
        (lambda folder: (folder / "SHA256SUMS").write_text("nonsense\n"), "line 1 is 'nonsense'"),
        (lambda folder: (folder / "SHA256SUMS").write_text("0" * 64 + "  ../x\n"), "line 1 is"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS cannot be used"),
        (lambda folder: (folder / "payload.exe").unlink(), "payload.exe is missing"),
        (lambda folder: (folder / "payload.exe").write_bytes(b"MZ"), "payload.exe was changed"),
        (lambda folder: (folder / "extra.dll").write_bytes(b"MZ"), "extra.dll is not in SHA256SUMS"),
        (lambda folder: (folder / "link").symlink_to("payload.exe"), "link, which is no ordinary file"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_prebuilt_folder_that_does_not_hold(prebuilt: Path, change: object, says: str) -> None:
    assert callable(change)
    change(prebuilt)
    with pytest.raises(ImageError, match=says) as caught:
        frozen.read_prebuilt(prebuilt)
    assert caught.value.hint


@given(st.text(max_size=300))
def test_manifests_of_garbage(text: str) -> None:
    try:
        sums = frozen.parse_sums(text)
    except ValueError:
        return
    assert all(
        len(value) == 64 and not path.startswith("/") and ".." not in path.split("/") for path, value in sums.items()
    )


def test_manifest_lines_as_windows_writes_them() -> None:
    assert frozen.parse_sums("0" * 64 + " *_internal\\x.dll\r\n") == {"_internal/x.dll": "0" * 64}


# --- archives --------------------------------------------------------------------------------------------------


def test_archives_are_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    payload = frozen.payload_of(CONTENTS)
    for compress in (False, True):
        one, two = (frozen.pack(payload.contents.items(), epoch=EPOCH, compress=compress) for _ in range(2))
        assert one == two
        file = tmp_path / "x.zip"
        file.write_bytes(one)
        assert frozen.unpack(file) == payload
        file.write_bytes(one[: len(one) // 2])
        with pytest.raises(ImageError, match="cannot be read"):
            frozen.unpack(file)


def test_the_portable_archive(tmp_path: Path) -> None:
    payload = frozen.payload_of(CONTENTS)
    target = write_portable(payload, tmp_path / "dist", epoch=EPOCH)
    assert target.read_bytes() == portable_archive(payload, epoch=EPOCH)
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [f"{NAME}.zip"]
    with zipfile.ZipFile(target) as archive:
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        archive.extractall(tmp_path / "out")
        start = archive.read(f"{NAME}/run-bluelift.cmd")
    assert frozen.read_prebuilt(tmp_path / "out" / NAME / "payload") == payload
    assert start.isascii() and start.count(b"\r\n") == start.count(b"\n") > 10
    assert sorted(path.name for path in (tmp_path / "out" / NAME).iterdir()) == [
        "README.txt",
        "payload",
        "run-bluelift.cmd",
    ]


def test_the_start_file_keeps_to_what_every_cmd_understands() -> None:
    lines = (resources.templates() / "windows" / "run-bluelift.cmd").read_text("ascii").splitlines()
    labels = {line[1:] for line in lines if line.startswith(":")}
    targets = {line.rpartition("goto ")[2] for line in lines if "goto " in line}
    assert targets == labels
    for forbidden in ("&&", "||", "timeout", "chcp", "echo(", " for ", "call "):
        assert not any(forbidden in line for line in lines if not line.startswith("rem")), forbidden


# --- backends and the cache --------------------------------------------------------------------------------------


def test_the_backend_follows_machine_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.freeze.sys.platform", "linux")
    assert freeze.choose_backend(downloads=tmp_path).name == "wine"
    assert freeze.choose_backend(downloads=tmp_path, prebuilt=tmp_path, machine=Machine.ARM64).name == "prebuilt"
    with pytest.raises(ImageError, match="for x64 only"):
        freeze.choose_backend(downloads=tmp_path, machine=Machine.ARM64)
    monkeypatch.setattr("builder.freeze.sys.platform", "win32")
    assert freeze.choose_backend(downloads=tmp_path).name == "native"


def test_the_command_line() -> None:
    assert list(pyinstaller_arguments(r"W:\source\payload\payload.spec", r"W:\output", r"W:\build")) == [
        "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=ERROR", r"--distpath=W:\output",
        r"--workpath=W:\build", r"W:\source\payload\payload.spec",
    ]  # fmt: skip
    assert reproducible(5)["SOURCE_DATE_EPOCH"] == "5" and reproducible(5)["PYTHONHASHSEED"] == "1"


def test_what_goes_into_a_freeze() -> None:
    sources = freeze.sources()
    assert "payload.spec" in sources and "__main__.py" in sources and "formats/records.py" in sources
    assert not [path for path in sources if path.startswith("environment/linux")]


def test_a_prebuilt_payload_goes_through_the_cache(tmp_path: Path, prebuilt: Path) -> None:
    cache = Cache(tmp_path / "cache")
    console = PlainConsole(out=io.StringIO(), err=io.StringIO())
    options = FreezeOptions(payload_exe=prebuilt)
    with cache.locked(lambda _: None):
        first = windows_payload(options, cache=cache, console=console, epoch=EPOCH)
        second = windows_payload(options, cache=cache, console=console, epoch=EPOCH)
        assert (first.made, second.made) == (True, False) and first.payload == second.payload == frozen.payload_of(
            CONTENTS
        )
        frozen.payload_of({**CONTENTS, "_internal/more.bin": b"x"}).write(prebuilt)
        assert windows_payload(options, cache=cache, console=console, epoch=EPOCH).id != first.id


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"_internal/x.pyd": pe_file(["winmm.dll"])}, "winmm.dll, which _internal/x.pyd imports"),
        ({"_internal/x.pyd": pe_file(machine=ARM64)}, "is for ARM64"),
        ({"_internal/x.dll": pe_file(wine=True)}, "a DLL of Wine's"),
    ],
)
def test_the_gate_stands_before_the_cache(tmp_path: Path, prebuilt: Path, extra: dict[str, bytes], says: str) -> None:
    frozen.payload_of({**CONTENTS, **extra}).write(prebuilt)
    cache = Cache(tmp_path / "cache")
    console = PlainConsole(out=io.StringIO(), err=io.StringIO())
    with cache.locked(lambda _: None), pytest.raises((ImageError, BaseMediaError), match=says):
        windows_payload(FreezeOptions(payload_exe=prebuilt), cache=cache, console=console, epoch=EPOCH)
    assert not list((cache.folder / "objects").iterdir())


def test_the_recipe_names_what_can_change(tmp_path: Path) -> None:
    backend = WineBackend(downloads=tmp_path)
    one = recipe(backend, epoch=1)
    assert set(one) == {"backend", "epoch", "payload", "builder", "python", "pins"}
    assert content_id(one) == content_id(recipe(backend, epoch=1)) != content_id(recipe(backend, epoch=2))
    given_python = tmp_path / "python.zip"
    given_python.write_bytes(b"x")
    assert recipe(WineBackend(downloads=tmp_path, given=given_python), epoch=1)["python"] != one["python"]
    with pytest.raises(BaseMediaError, match="cannot be read"):
        WineBackend(downloads=tmp_path, given=tmp_path / "none").recipe()


# --- Wine ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_programs_at_all")
def test_no_wine(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"wine was not found; it is needed to freeze") as caught:
        freeze.freeze(WineBackend(downloads=tmp_path), epoch=EPOCH, work=tmp_path, step=SilentStep())
    assert "apt-get install wine" in caught.value.hint and "--payload-exe" in caught.value.hint
    with pytest.raises(ToolMissing):
        require_wine("test")
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_drives_of_a_prefix(tmp_path: Path) -> None:
    prefix = WinePrefix(folder=tmp_path / "prefix", overrides={"vcruntime140": "n"})
    (tmp_path / "prefix" / "dosdevices").mkdir(parents=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix.map_drive("D", disk, label="DATA", serial=0x1234ABCD)
    prefix.map_drive("X", disk / "deep")
    assert prefix.windows_path(disk / "a" / "b.txt") == r"D:\a\b.txt"
    assert prefix.windows_path(disk / "deep" / "c") == r"X:\c"
    assert ((disk / ".windows-label").read_text(), (disk / ".windows-serial").read_text()) == ("DATA\n", "1234abcd\n")
    prefix.unmap_drive("d")
    with pytest.raises(ValueError, match="on no drive"):
        prefix.windows_path(disk / "a")
    environment = prefix.environment
    assert environment["WINEPREFIX"] == environment["HOME"] == str(tmp_path / "prefix")
    assert set(environment["WINEDLLOVERRIDES"].split(";")) == {"mscoree,mshtml,winemenubuilder.exe=", "vcruntime140=n"}
    assert "DISPLAY" not in environment
    with pytest.raises(RuntimeError, match="not started"):
        prefix.run(["cmd"], reason="test", time_limit=1)


# --- pins and packages -------------------------------------------------------------------------------------------


def test_pins_are_complete() -> None:
    pins = windows_python.pins()
    names = [pin.requirement.partition("==")[0] for pin in pins.wheels]
    assert {"pyinstaller", "pefile", "pywin32-ctypes", "altgraph", "packaging", "setuptools"} <= set(names)
    assert len(names) == len(set(names))
    for pin in (pins.python, *pins.wheels):
        assert len(pin.sha256) == 64 and "==" in pin.requirement and "/" not in pin.file
    text = windows_python.requirements(pins.wheels)
    assert text.count("--hash=sha256:") == text.count("\n") == len(pins.wheels)
    assert pins.python_version.startswith("3.11.")


def test_nothing_is_downloaded_offline(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="not in the cache") as caught:
        windows_python.fetch(tmp_path, offline=True, with_python=True, step=SilentStep())
    assert windows_python.pins().python.file in caught.value.message and "--offline" in caught.value.hint


def test_a_damaged_package_in_the_cache_is_not_used(tmp_path: Path) -> None:
    for pin in (windows_python.pins().python, *windows_python.pins().wheels):
        (tmp_path / pin.file).write_bytes(b"tampered")
    with pytest.raises(BaseMediaError, match="not in the cache"):
        windows_python.fetch(tmp_path, offline=True, with_python=True, step=SilentStep())


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "another file than the one pinned",
        ),
        ("ERROR: Could not find a version that satisfies the requirement", "cannot download"),
    ],
)
def test_what_pip_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, says: str) -> None:
    def refuse(argv: Iterable[str], **_: object) -> None:
        assert "--require-hashes" in argv and "--no-deps" in argv
        raise ToolFailed(f"python failed with exit code 1\n{said}")

    monkeypatch.setattr(windows_python, "run", refuse)
    with pytest.raises(BaseMediaError, match=says) as caught:
        windows_python.fetch(tmp_path, offline=False, with_python=False, step=SilentStep())
    assert said in caught.value.message
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.windows_python.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match="has no pip") as caught:
        windows_python.fetch(tmp_path, offline=False, with_python=False, step=SilentStep())
    assert "ensurepip" in caught.value.hint and "--windows-python" in caught.value.hint


# --- a Python that is given ----------------------------------------------------------------------------------------


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def whole_python(prefix: str = "", **changed: bytes | None) -> dict[str, bytes]:
    names = ("python.exe", "python311.dll", "vcruntime140.dll", "_ctypes.pyd", "libffi-8.dll", "python311.zip")
    files: dict[str, bytes | None] = {name: pe_file(["kernel32.dll"]) for name in names}
    files.update({name.replace("_dot_", "."): content for name, content in changed.items()})
    return {prefix + name: content for name, content in files.items() if content is not None}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"readme.txt": b"x"}, "no python.exe"),
        (whole_python(_ctypes_dot_pyd=None), "lacks _ctypes.pyd"),
        (whole_python(vcruntime140_dot_dll=None), "lacks vcruntime140.dll"),
        (whole_python("tools/", python311_dot_dll=None), "lacks python311.dll"),
        (whole_python(python311_dot_zip=None), "has no library"),
        (whole_python(), "python311.zip is not that of Python|vcruntime140.dll is not that of Python"),
        (whole_python(_ctypes_dot_pyd=pe_file(machine=ARM64)), "_ctypes.pyd is for ARM64, not for x64"),
        ({**whole_python(), "../evil.dll": b"x"}, r"a member '../evil.dll'"),
        ({**whole_python(), "/etc/evil.dll": b"x"}, r"a member '/etc/evil.dll'"),
        ({**whole_python(), "C:evil.dll": b"x"}, r"a member 'C:evil.dll'"),
    ],
)
def test_a_python_that_is_refused(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    given_python = archive(tmp_path / "python.zip", files)
    with pytest.raises(BaseMediaError, match=says) as caught:
        windows_python.lay_out_given_python(given_python, tmp_path / "python")
    assert caught.value.hint
    assert not (tmp_path / "evil.dll").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"not an archive" * 100])
def test_a_python_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "python.zip"
    file.write_bytes(content)
    with pytest.raises(BaseMediaError, match="not a ZIP archive"):
        windows_python.lay_out_given_python(file, tmp_path / "python")
    with pytest.raises(BaseMediaError, match="is not there"):
        windows_python.lay_out_given_python(tmp_path / "none.zip", tmp_path / "python")


@given(st.binary(max_size=400), st.integers(0, 1000))
def test_archives_of_garbage(data: bytes, position: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("python.exe", pe_file())
    whole = bytearray(stream.getvalue())
    position %= len(whole)
    whole[position : position + len(data)] = data
    with contextlib.suppress(BaseMediaError):
        _read_all(bytes(whole))


def _read_all(data: bytes) -> None:
    with windows_python._archive(io.BytesIO(data), "x") as opened:
        for name in windows_python._members(opened):
            opened.read(name)


def test_the_pinned_package_has_to_be_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / windows_python.pins().python.file
    file.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(BaseMediaError, match="cannot be read"):
        windows_python.lay_out_pinned_python(tmp_path, tmp_path / "python")
    with tarfile.open(file, "w:gz"):
        pass
    with pytest.raises(BaseMediaError, match="cannot be read"):
        windows_python.lay_out_pinned_python(tmp_path, tmp_path / "python")


def test_the_search_path_holds_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "python311.zip").write_bytes(b"")
    windows_python.write_search_path(tmp_path, r"..\site")
    assert (tmp_path / "python311._pth").read_bytes() == b"python311.zip\r\n.\r\n..\\site\r\n"
