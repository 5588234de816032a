"""The payload frozen for real by Wine, and run there: size, same bytes, the gate, a repair on a Wine drive."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import freeze, frozen, windows_python
from builder.cache import Cache, default_folder
from builder.console import PlainConsole, SilentStep
from builder.errors import BaseMediaError, OutOfTime
from builder.freeze import FreezeJob
from builder.freeze_wine import RUNTIME_OVERRIDES, WineBackend
from builder.import_gate import check_folder
from builder.portable import NAME, write_portable
from builder.windows_payload import FreezeOptions, WindowsPayload, backend_for, windows_payload
from builder.wine import DriveKind, WinePrefix
from payload.contract import WINDOWS_LIBRARIES
from tests.command_line import bluelift
from tests.payload.broken_windows import CHANNEL_FILES, CROWDSTRIKE, make_windows, snapshot
from tests.unit.pe_maker import pe_file
from tests.unit.windows_media_maker import windows_iso

pytestmark = pytest.mark.skipif(
    not shutil.which("wine") or not shutil.which("osslsigncode"), reason="wine or osslsigncode is not installed"
)
ROOT = Path(__file__).parent.parent.parent
EPOCH = 1_700_000_000
OBJDUMP = shutil.which("x86_64-w64-mingw32-objdump")


def through_the_cache() -> WindowsPayload:
    """The frozen payload, through the user's own cache: CI downloads and freezes once."""
    cache = Cache(default_folder())
    console = PlainConsole(out=sys.stdout, err=sys.stderr)
    with cache.locked(console.notice):
        return windows_payload(FreezeOptions(), cache=cache, console=console, epoch=EPOCH)


@pytest.fixture(scope="module")
def made() -> WindowsPayload:
    return through_the_cache()


@pytest.fixture(scope="module")
def unpacked(made: WindowsPayload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable archive's folder, unpacked by another program where there is one."""
    folder = tmp_path_factory.mktemp("portable")
    archive = write_portable(made.payload, folder, epoch=EPOCH)
    if shutil.which("7z"):
        subprocess.run(["7z", "x", f"-o{folder}", archive], check=True, capture_output=True, timeout=60)
    else:
        zipfile.ZipFile(archive).extractall(folder)
    return folder / NAME


@pytest.fixture(scope="module")
def prefix(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WinePrefix]:
    """Wine with the unpacked archive as X: and an empty D:, looking like Windows PE."""
    folder = tmp_path_factory.mktemp("wine")
    (folder / "disk").mkdir()
    prefix = WinePrefix(folder=folder / "prefix", overrides=RUNTIME_OVERRIDES)
    prefix.make()
    prefix.map_drive("X", unpacked, kind=DriveKind.REMOVABLE)
    prefix.map_drive("D", folder / "disk", label="WINDOWS", serial=0x1234ABCD)
    with prefix.started():
        yield prefix
    prefix.remove()


def test_the_folder(made: WindowsPayload) -> None:
    assert made.payload.size <= freeze.SIZE_LIMIT
    names = {path.lower() for path in made.payload.contents}
    assert {"payload.exe", "_internal/vcruntime140.dll", "_internal/python311.dll", "_internal/_ctypes.pyd"} <= names
    assert not [name for name in names if "crypto" in name or "ssl" in name]
    pins = windows_python.pins().files
    assert {f.path.lower(): f.sha256 for f in made.payload.files}["_internal/vcruntime140.dll"] == pins[
        "vcruntime140.dll"
    ]


def test_a_second_time_it_is_in_the_cache(made: WindowsPayload) -> None:
    again = through_the_cache()
    assert not again.made and again.payload == made.payload and again.needs == made.needs


def test_the_same_bytes_in_another_place(made: WindowsPayload, tmp_path: Path) -> None:
    work = tmp_path / "a longer path with spaces" / "below"
    work.mkdir(parents=True)
    backend = backend_for(FreezeOptions(), Cache(default_folder()))
    again = freeze.freeze(backend, epoch=EPOCH, work=work, step=SilentStep(), offline=True)
    assert again.sums() == made.payload.sums()
    assert not list(work.iterdir()), "the scratch folder is gone"


@pytest.mark.skipif(OBJDUMP is None, reason="x86_64-w64-mingw32-objdump is not installed")
def test_objdump_finds_the_same_needs(made: WindowsPayload, tmp_path: Path) -> None:
    assert OBJDUMP
    made.payload.write(tmp_path)
    wanted, bundled = set(), {path.name.lower() for path in tmp_path.rglob("*")}
    for path in tmp_path.rglob("*"):
        if path.suffix in (".exe", ".dll", ".pyd"):
            said = subprocess.run([OBJDUMP, "-p", path], capture_output=True, text=True, check=True, timeout=60).stdout
            assert "pei-x86-64" in said
            wanted |= {name.lower() for name in re.findall(r"DLL Name: (\S+)", said)}
    # Those that ctypes loads stand in no import table.
    assert (wanted - bundled) | set(WINDOWS_LIBRARIES) == {need.library for need in made.needs}
    assert not set(WINDOWS_LIBRARIES) <= wanted


def test_it_starts_under_wine(prefix: WinePrefix) -> None:
    done = prefix.run([r"X:\payload\payload.exe", "--help"], reason="test", time_limit=60)
    assert "--root" in done.text and "--dry-run" in done.text
    schema = prefix.run([r"X:\payload\payload.exe", "--receipt-schema"], reason="test", time_limit=60)
    assert json.loads(schema.text)["type"] == "object"
    wrong = prefix.run([r"X:\payload\payload.exe", "--nonsense"], reason="test", time_limit=60, ok=(2,))
    assert "Traceback" not in wrong.said


def repaired_by_linux(folder: Path) -> set[str]:
    """The channel files that the payload moves away when it runs on Linux, from the same tree."""
    make_windows(folder / "same")
    subprocess.run(
        [sys.executable, "-m", "payload", "--root", folder / "same"], check=True, capture_output=True, timeout=120
    )
    vendor = (folder / "same").joinpath(*CROWDSTRIKE)
    return {name for name in CHANNEL_FILES if not (vendor / name).exists()}


def test_it_repairs_a_drive_and_puts_everything_back(prefix: WinePrefix, tmp_path: Path) -> None:
    disk = prefix.folder.parent / "disk"
    make_windows(disk)
    before = snapshot(disk)
    vendor = disk.joinpath(*CROWDSTRIKE)
    start = [r"X:\payload\payload.exe", "--root", "D:\\"]
    described = prefix.run([*start, "--dry-run"], reason="test", time_limit=120, ok=(11,))
    assert snapshot(disk) == before and "Traceback" not in described.said
    repaired = prefix.run([*start, "--json"], reason="test", time_limit=120)
    assert json.loads(repaired.text)["verdict"]
    gone = {name for name in CHANNEL_FILES if not (vendor / name).exists()}
    assert gone == repaired_by_linux(tmp_path) and "C-00000291-00000000-00000032.sys" in gone
    after = snapshot(disk)
    kept = {path: known for path, known in before.items() if Path(path).name not in gone}
    assert {path: known for path, known in after.items() if path in kept} == kept, "nothing else was touched"
    assert {known[0] for path, known in before.items() if Path(path).name in gone} <= {
        known[0] for known in after.values()
    }
    prefix.run(start, reason="run it again", time_limit=120)
    assert {name for name in CHANNEL_FILES if not (vendor / name).exists()} == gone
    prefix.run([*start, "--undo"], reason="test", time_limit=120)
    assert {path: known for path, known in snapshot(disk).items() if path in before} == before


def test_the_start_file_hands_options_and_exit_codes_on(prefix: WinePrefix) -> None:
    # Wine has no HKU\S-1-5-19 to recognise an administrator by; in Windows PE nobody asks.
    key = r"HKLM\SYSTEM\CurrentControlSet\Control\MiniNT"
    prefix.run(["reg", "add", key, "/f"], reason="test", time_limit=60)
    try:
        shown = prefix.run(["cmd", "/c", r"X:\run-bluelift.cmd", "--help"], reason="test", time_limit=60)
        assert "--dry-run" in shown.text
        wrong = prefix.run(
            ["cmd", "/c", r"X:\run-bluelift.cmd", "--nonsense"], reason="test", time_limit=60, ok=range(256)
        )
        assert wrong.returncode == 2
    finally:
        prefix.run(["reg", "delete", key, "/f"], reason="test", time_limit=60)
    asked = prefix.run(["cmd", "/c", r"X:\run-bluelift.cmd", "--help"], reason="test", time_limit=60, ok=range(256))
    assert asked.returncode == 2 and "administrator" in asked.text


def test_a_prefix_that_is_removed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    prefix = WinePrefix(folder=tmp_path / "prefix")
    prefix.make()
    with prefix.started():
        prefix.run(["cmd", "/c", "exit"], reason="test", time_limit=60)
    prefix.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert list(temporary.iterdir()) == []


def test_what_hangs_in_wine_is_ended(tmp_path: Path) -> None:
    prefix = WinePrefix(folder=tmp_path / "prefix")
    prefix.make()
    started = time.monotonic()
    with prefix.started(), pytest.raises(OutOfTime, match="did not finish within 2 s"):
        prefix.run(["ping", "-n", "100", "127.0.0.1"], reason="test", time_limit=2)
    assert time.monotonic() - started < 90
    prefix.remove()
    assert not prefix.folder.exists()


NATIVE = r"""
from pathlib import Path
from builder.console import SilentStep
from builder.freeze import choose_backend, freeze
backend = choose_backend(downloads=Path("N:/none"))
assert backend.name == "native", backend.name
freeze(backend, epoch=EPOCH, work=Path("N:/work"), step=SilentStep()).write(Path("N:/out"))
""".replace("EPOCH", str(EPOCH))


def test_the_native_backend_makes_the_same_bytes(made: WindowsPayload, tmp_path: Path) -> None:
    """The builder's own modules, run by a Windows Python as on Windows."""
    downloads = default_folder() / "windows-python"
    windows_python.lay_out_pinned_python(downloads, tmp_path / "python")
    windows_python.unpack_wheels(downloads, tmp_path / "site")
    windows_python.write_search_path(tmp_path / "python", r"..\site", r"..\project")
    for name in ("builder", "payload", "templates"):
        shutil.copytree(ROOT / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "work").mkdir()
    prefix = WinePrefix(folder=tmp_path / "prefix", overrides=RUNTIME_OVERRIDES)
    prefix.make()
    prefix.map_drive("N", tmp_path)
    with prefix.started():
        prefix.run([r"N:\python\python.exe", "-c", NATIVE], reason="test", time_limit=300, cwd=tmp_path)
    assert frozen.read_prebuilt(tmp_path / "out") == made.payload
    prefix.remove()


# --- a Python of the user's ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def genuine(made: WindowsPayload) -> dict[str, bytes]:
    """The files of the genuine Python that the pinned package brings."""
    pins = windows_python.pins()
    downloads = default_folder() / "windows-python"
    windows_python.fetch(downloads, offline=False, with_python=True, step=SilentStep())
    with tarfile.open(downloads / pins.python.file) as package:
        inner = package.extractfile(f"{pins.python.file.removesuffix('.tar.gz')}/{pins.member}")
        assert inner
        with zipfile.ZipFile(io.BytesIO(inner.read())) as files:
            prefix = f"{pins.folder}/"
            return {
                n.removeprefix(prefix): files.read(n) for n in files.namelist() if n.startswith(prefix) and n != prefix
            }


def package(path: Path, files: dict[str, bytes], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def test_an_embeddable_package_makes_the_same_bytes(
    genuine: dict[str, bytes], made: WindowsPayload, tmp_path: Path
) -> None:
    backend = WineBackend(downloads=default_folder() / "windows-python", given=package(tmp_path / "e.zip", genuine))
    (tmp_path / "scratch").mkdir()
    payload = backend.freeze(
        FreezeJob(sources=freeze.sources(), epoch=EPOCH, scratch=tmp_path / "scratch"), SilentStep()
    )
    assert payload == made.payload
    assert check_folder(payload.contents) == made.needs
    shutil.rmtree(tmp_path / "scratch")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("python311.dll", "python311.dll: it was changed after it was signed"),
        ("_ctypes.pyd", "_ctypes.pyd: it was changed after it was signed"),
        ("python311.zip", "python311.zip is not that of Python 3.11.9"),
        ("vcruntime140.dll", "vcruntime140.dll is not that of Python 3.11.9"),
    ],
)
def test_a_tampered_python_is_refused(genuine: dict[str, bytes], tmp_path: Path, name: str, says: str) -> None:
    content = bytearray(genuine[name])
    content[len(content) // 2] ^= 1
    given = package(tmp_path / "e.zip", {**genuine, name: bytes(content)})
    with pytest.raises(BaseMediaError, match=re.escape(says)):
        windows_python.lay_out_given_python(given, tmp_path / "python")


def test_an_unsigned_and_a_foreign_binary_are_refused(genuine: dict[str, bytes], tmp_path: Path) -> None:
    files = {**genuine, "select.pyd": pe_file(["kernel32.dll"]), "extra.dll": genuine["vcruntime140.dll"]}
    with pytest.raises(BaseMediaError) as caught:
        windows_python.lay_out_given_python(package(tmp_path / "e.zip", files), tmp_path / "python")
    assert "select.pyd: it is not signed" in caught.value.message
    assert "extra.dll: it is signed by Microsoft Windows Software Compatibility Publisher" in caught.value.message


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("python311.dll", "flipped", "python311.dll: it was changed after it was signed"),
        ("python311.zip", "flipped", "python311.zip is not that of Python 3.11.9"),
        ("select.pyd", "unsigned", "select.pyd: it is not signed"),
        ("python311.dll", "cut off", "python311.dll: "),
    ],
)
def test_a_build_is_refused_before_anything_is_downloaded(
    genuine: dict[str, bytes], tmp_path: Path, name: str, change: str, says: str
) -> None:
    """A tampered package and an unsigned binary, as a user meets them."""
    content = bytearray(genuine[name])
    if change == "flipped":
        content[len(content) // 2] ^= 1
    elif change == "unsigned":
        content = bytearray(pe_file(["kernel32.dll"]))
    else:
        del content[len(content) // 2 :]
    package(tmp_path / "e.zip", {**genuine, name: bytes(content)})
    windows_iso(tmp_path / "x.iso")
    argv = ("build", "winpe", "--windows-iso", "x.iso", "--windows-python", "e.zip", "--offline")
    done = bluelift(*argv, "--cache", "cache", "-o", "dist", cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (6, True), done.stderr
    assert re.search(r"\n  (Do not use this package|It must be the 64-bit Python)", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "dist").iterdir()) == []
    kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == {"CACHEDIR.TAG", "bluelift-cache.json", "lock"}


def test_the_library_of_a_nuget_package_is_held_to_the_signed_catalog(
    genuine: dict[str, bytes], tmp_path: Path
) -> None:
    """Files of this Python's library that 3.11.9 has too, with Windows's line ends, stand for the NuGet package's."""
    library = Path(json.__file__).parent.parent
    sources = {f"Lib/{p.name}": p.read_bytes().replace(b"\n", b"\r\n") for p in sorted(library.glob("[a-d]*.py"))}
    base = {name: content for name, content in genuine.items() if name != "python311.zip"}
    listed = {}
    for name, content in sources.items():
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / "Lib").mkdir(exist_ok=True)
        (tmp_path / "one" / "python.cat").write_bytes(genuine["python.cat"])
        (tmp_path / "one" / name).write_bytes(content)
        try:
            windows_python._check_library(tmp_path / "one")
            listed[name] = content
        except BaseMediaError:
            (tmp_path / "one" / name).unlink()
    if not listed:
        pytest.skip("this Python's library has no file in common with 3.11.9's")
    good = package(tmp_path / "good.nupkg", {**base, **listed, "Lib/site-packages/pip.py": b"x"}, "tools/")
    windows_python.lay_out_given_python(good, tmp_path / "good")
    assert not (tmp_path / "good" / "Lib" / "site-packages").exists()
    name = next(iter(listed))
    bad = package(tmp_path / "bad.nupkg", {**base, **listed, name: listed[name] + b"import evil\r\n"}, "tools/")
    with pytest.raises(BaseMediaError, match=re.escape(name)):
        windows_python.lay_out_given_python(bad, tmp_path / "bad")
    without = {name: content for name, content in {**base, **listed}.items() if name != "python.cat"}
    with pytest.raises(BaseMediaError, match=r"has no python\.cat"):
        windows_python.lay_out_given_python(package(tmp_path / "no.nupkg", without, "tools/"), tmp_path / "no")


def test_a_package_that_is_not_the_pinned_one_never_arrives(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    kept = default_folder() / "windows-python"
    for pin in windows_python.pins().wheels:
        shutil.copyfile(kept / pin.file, downloads / pin.file)
    (downloads / windows_python.pins().python.file).write_bytes(b"tampered")
    with pytest.raises(BaseMediaError, match="not in the cache"):
        windows_python.fetch(downloads, offline=True, with_python=True, step=SilentStep())
