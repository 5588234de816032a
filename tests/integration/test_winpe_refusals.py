"""What a WinPE build refuses, as a user meets it: exit code, message, and nothing half-written.

The media are a few kilobytes and each lacks one thing: without that fault the build works, as the first test shows.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.verify.standin_iso import write_microsoft_iso
from builder.verify.winpe_image import boot_wim_of
from builder.wim_format import Compression
from tests.command_line import ROOT, bluelift
from tests.unit.wim_maker import PE_FILES, libwim_wim, plain_wim
from tests.unit.windows_media_maker import EPOCH
from tests.winpe_builds import SMALL_WINPE, libwim_is_missing, small_iso, small_payload

SAMPLES = ROOT.parent / "shared" / "testdata" / "wim"
INF = b"""[Version]\nSignature="$WINDOWS NT$"\nClass=SCSIAdapter\nProvider="Contoso"\nCatalogFile=c.cat\n
[Manufacturer]\n"Contoso"=Models,NTamd64\n[Models.NTamd64]\n"Disk"=Install,PCI\\VEN_1234\n
[Install]\nCopyFiles=Files\n[Files]\nc.sys\n[SourceDisksNames]\n1="d"\n[SourceDisksFiles]\nc.sys=1\n"""
NAME = "bluelift-winpe.iso"
WITH_A_LARGE_FILE = {**SMALL_WINPE, "Windows/large.bin": b"abcdefgh" * 20_000}


pytestmark = pytest.mark.skipif(libwim_is_missing(), reason="libwim is not installed")


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen payload as far as the builder looks at one."""
    return small_payload(tmp_path_factory.mktemp("payload"))


def refused(
    folder: Path,
    *argv: str | Path,
    code: int | tuple[int, ...],
    said: str,
    prelude: str = "pass",
    env: dict[str, str] | None = None,
) -> str:
    """Build into a folder that holds an older image: it ends with `code`, says `said`, and leaves all as it was."""
    (folder / "dist").mkdir(exist_ok=True)
    (folder / "dist" / NAME).write_text("from before")
    before = sorted(path for path in folder.rglob("*") if "cache" not in path.parts)
    done = bluelift("build", *argv, "-o", "dist", "--cache", "cache", cwd=folder, prelude=prelude, env=env)
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"bluelift: error: .+\n  \S", done.stderr, re.DOTALL), f"no hint: {done.stderr}"
    after = sorted(path for path in folder.rglob("*") if "cache" not in path.parts)
    assert after == before
    assert (folder / "dist" / NAME).read_text() == "from before"
    left = [path.name for path in (folder / "cache").rglob("*") if path.name.startswith(("staged-", ".", "freeze-"))]
    assert left == [], "left in the cache"
    return done.stderr


def test_without_a_fault_it_is_built(payload: Path, tmp_path: Path) -> None:
    iso = small_iso(tmp_path / "x.iso")
    (tmp_path / "vmd").mkdir()
    for name, content in (("c.inf", INF), ("c.sys", b"MZ"), ("c.cat", b"cat")):
        (tmp_path / "vmd" / name).write_bytes(content)
    (tmp_path / "p.yaml").write_text("environment: winpe\ndrivers: [vmd]\n")
    argv = ("build", "p.yaml", "--windows-iso", iso, "--payload-exe", payload, "--cache", "cache", "-o", "dist")
    done = bluelift(*argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {NAME, "manifest.json", "SHA256SUMS"}


# --- media -----------------------------------------------------------------------------------------------------------


def no_iso(path: Path) -> None:
    path.write_bytes(b"not an ISO" * 10_000)


def linux_iso(path: Path) -> None:
    small_iso(path, None, {"sources/boot.wim": None, "casper/vmlinuz": b"kernel"})


def other_iso(path: Path) -> None:
    write_microsoft_iso({"readme.txt": b"hello"}, path, volume_id="PICTURES", epoch=EPOCH)


def esd_only(path: Path) -> None:
    small_iso(path, None, {"sources/boot.wim": None, "sources/install.esd": b"MSWIM"})


def truncated_iso(path: Path) -> None:
    small_iso(path)
    os.truncate(path, path.stat().st_size * 2 // 3)


def truncated_wim(path: Path) -> None:
    wim = libwim_wim(path.with_suffix(".wim"), [SMALL_WINPE], boot_index=1).read_bytes()
    small_iso(path, wim[: len(wim) // 2])


def solid_wim(path: Path) -> None:
    wim = path.with_suffix(".esd")
    small_iso(path, libwim_wim(wim, [SMALL_WINPE], boot_index=1, compression=Compression.LZMS))


def split_wim(path: Path) -> None:
    wim = bytearray(plain_wim(sorted(SMALL_WINPE.items())))
    wim[42] = 2
    small_iso(path, bytes(wim))


def cyclic_wim(path: Path) -> None:
    small_iso(path, plain_wim(sorted(SMALL_WINPE.items()), cycle=True))


def escaping_wim(path: Path) -> None:
    small_iso(path, plain_wim([*sorted(SMALL_WINPE.items()), ("..\\..\\evil.exe", b"MZ")]))


def flipped_bit(path: Path) -> None:
    """One bit of a compressed file that nothing of the build looks at."""
    small_iso(path, libwim_wim(path.with_suffix(".wim"), [WITH_A_LARGE_FILE], boot_index=1))
    flip_a_bit(path)


def no_manage_bde(path: Path) -> None:
    small_iso(path, libwim_wim(path.with_suffix(".wim"), [PE_FILES], boot_index=1))


def lacks_a_dll(path: Path) -> None:
    files = {name: content for name, content in SMALL_WINPE.items() if "KERNEL32" not in name}
    small_iso(path, libwim_wim(path.with_suffix(".wim"), [files], boot_index=1))


def another_bcd(path: Path) -> None:
    small_iso(path, None, {"boot/bcd": b"regf"})


def flip_a_bit(iso: Path) -> None:
    """In the compressed bytes of an ISO's Windows/large.bin."""
    wim = boot_wim_of(iso)
    entry = wim.find(1, "Windows/large.bin")
    assert entry is not None
    resource = wim._tables[1][entry.sha1]
    assert resource.compressed
    ((start, _),) = wim.source.pieces
    place = start + resource.offset + resource.stored // 2
    with iso.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (no_iso, 6, r"x\.iso: .*not an ISO"),
        (linux_iso, 6, r"has no sources/boot\.wim: it looks like a Linux image"),
        (other_iso, 6, r"has no sources/boot\.wim"),
        (esd_only, 6, r"ESD"),
        (truncated_iso, 6, r"x\.iso.* is cut off"),
        (truncated_wim, 8, r"boot\.wim in .*x\.iso is cut off"),
        (solid_wim, 8, r"compressed as (solid )?LZMS \(an ESD\)[^\n]*\n  Convert it first"),
        (split_wim, 8, r"part 1 of a WIM split into 2\n  Join"),
        (cyclic_wim, 8, r"its folder 'loop/loop' contains itself"),
        (escaping_wim, 8, r"holds a file named '\.\..*evil\.exe'.*, which would leave its folder"),
        (flipped_bit, 8, r"is damaged: Windows/large\.bin is not as the WIM's sha1 says"),
        (no_manage_bde, 6, r"cannot open BitLocker volumes: manage-bde\.exe.*\n  .*'bitlocker: false'"),
        (lacks_a_dll, 6, r"kernel32\.dll, which _internal/vcruntime140\.dll and payload\.exe import"),
        (another_bcd, 6, r"the base media's boot/bcd cannot be edited"),
    ],
)  # fmt: skip
def test_media(make: Callable[[Path], None], code: int, said: str, payload: Path, tmp_path: Path) -> None:
    make(tmp_path / "x.iso")
    refused(tmp_path, "winpe", "--windows-iso", "x.iso", "--payload-exe", payload, code=code, said=said)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"{SAMPLES} with libwim's own samples is not on this machine")
@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("cyclic.wim", r"its folder '1' contains itself"),
        ("dotdot.wim", r"holds a file named '\.\.' in '/'"),
    ],
)
@pytest.mark.parametrize("kind", ["windows-iso", "winre"])
def test_samples_of_damaged_and_hostile_wims(kind: str, sample: str, said: str, payload: Path, tmp_path: Path) -> None:
    wim = Path(shutil.copy(SAMPLES / sample, tmp_path / "s.wim"))
    given: tuple[str, ...]
    if kind == "winre":
        small_iso(tmp_path / "lender.iso")
        given = ("--winre", "s.wim", "--media", "lender.iso")
    else:
        small_iso(tmp_path / "x.iso", wim)
        given = ("--windows-iso", "x.iso")
    refused(tmp_path, "winpe", *given, "--payload-exe", payload, code=8, said=said)


def test_media_that_are_not_there(payload: Path, tmp_path: Path) -> None:
    refused(tmp_path, "winpe", "--payload-exe", payload, code=2, said="media of your own, and none are given")
    (tmp_path / "folder").mkdir()
    for given, code, said in (("gone.iso", 6, "cannot read gone.iso: No such file"), ("folder", 6, "is a folder")):
        refused(tmp_path, "winpe", "--windows-iso", given, "--payload-exe", payload, code=code, said=said)


def test_a_base_that_was_damaged_after_a_build(payload: Path, tmp_path: Path) -> None:
    """boot.wim's new parts are in the cache then, and the rest of it comes from the base."""
    wim = libwim_wim(tmp_path / "large.wim", [WITH_A_LARGE_FILE], boot_index=1)
    small_iso(tmp_path / "x.iso", wim)
    argv = ("winpe", "--windows-iso", "x.iso", "--payload-exe", payload)
    assert bluelift("build", *argv, "-o", "first", "--cache", "cache", cwd=tmp_path).returncode == 0
    flip_a_bit(tmp_path / "x.iso")
    refused(tmp_path, *argv, code=8, said=r"is damaged: Windows/large\.bin is not as the WIM's sha1 says")


#: Truncates the ISO as soon as it was opened so many times: whoever reads on then finds nothing more.
_SHRINK = """import os; opened = [0]
def shrink(event, arguments):
    if event == 'open' and str(arguments[0]).endswith('x.iso'):
        opened[0] += 1
        if opened[0] == {number}: os.truncate('x.iso', 65536)
sys.addaudithook(shrink)
import atexit; atexit.register(lambda: print('opened', opened[0]))"""


def test_a_source_that_shrinks_while_it_is_read(payload: Path, tmp_path: Path) -> None:
    iso = small_iso(tmp_path / "whole.iso")
    argv = ("winpe", "--windows-iso", "x.iso", "--payload-exe", payload)
    shutil.copy(iso, tmp_path / "x.iso")
    prelude = f"exec({_SHRINK.format(number=0)!r})"
    done = bluelift("build", *argv, "--cache", "first", "-o", "first", cwd=tmp_path, prelude=prelude)
    assert done.returncode == 0, done.stderr
    times = int(done.stdout.rpartition("opened")[2])
    shutil.rmtree(tmp_path / "first")
    assert times > 10
    for number in sorted({3, times // 4, times // 2, times * 3 // 4, times - 1, times}):
        shutil.copy(iso, tmp_path / "x.iso")
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        prelude = f"exec({_SHRINK.format(number=number)!r})"
        # While the ISO is written nobody knows any more what a byte was read for.
        said = r"x\.iso.* is cut off|became shorter while it was read, so the ISO was not made"
        refused(tmp_path, *argv, code=(6, 7), said=said, prelude=prelude)


# --- what belongs to the user, and the machine -----------------------------------------------------------------------


def test_a_driver_folder_with_missing_files(payload: Path, tmp_path: Path) -> None:
    small_iso(tmp_path / "x.iso")
    (tmp_path / "vmd").mkdir()
    (tmp_path / "vmd" / "c.inf").write_bytes(INF)
    (tmp_path / "p.yaml").write_text("environment: winpe\ndrivers: [vmd]\n")
    said = refused(
        tmp_path, "p.yaml", "--windows-iso", "x.iso", "--payload-exe", payload, code=6, said=r"c\.inf.*'c\.sys'"
    )
    assert "'c.cat'" in said


@pytest.mark.parametrize(
    ("prelude", "code", "said"),
    [
        # A limit on the size of files fails a write in its middle, as a full disk does: boot.wim's, then the ISO's.
        ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))", 7, r"room|cannot write"),
        ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))", 7, r"room|cannot write"),
        (
            "import pathlib, builder.resources as r; r.templates = lambda: pathlib.Path('templates')",
            10,
            r"winpe/startnet\.cmd\.j2 cannot be used: 'nobody' is undefined",
        ),
        (
            "import builder.wim_library as w; w._LIBRARIES = ('libnowhere.so',)",
            4,
            r"libnowhere\.so was not found; it is needed to[^\n]*\n  apt-get install libwim15",
        ),
    ],
    ids=["no room for boot.wim", "no room for the ISO", "a template's undefined variable", "no libwim"],
)
def test_the_machine(prelude: str, code: int, said: str, payload: Path, tmp_path: Path) -> None:
    small_iso(tmp_path / "x.iso")
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    (tmp_path / "templates" / "winpe" / "startnet.cmd.j2").write_text("{{ nobody }}")
    path = f"sys.path.insert(0, {str(ROOT)!r})"
    refused(
        tmp_path, "winpe", "--windows-iso", "x.iso", "--payload-exe", payload,
        code=code, said=said, prelude=f"{path}; {prelude}",
    )  # fmt: skip


def test_no_wine(tmp_path: Path) -> None:
    """Said before anything is downloaded: with or without a network the answer is the same."""
    small_iso(tmp_path / "x.iso")
    for more in ((), ("--offline",)):
        refused(
            tmp_path, "winpe", "--windows-iso", "x.iso", *more,
            code=4, said=r"wine was not found.*\n  apt-get install wine.*--payload-exe", env={"PATH": "/nowhere"},
        )  # fmt: skip


def test_a_payload_that_was_changed(payload: Path, tmp_path: Path) -> None:
    small_iso(tmp_path / "x.iso")
    shutil.copytree(payload, tmp_path / "given")
    (tmp_path / "given" / "payload.exe").write_bytes(b"MZ another")
    argv = ("winpe", "--windows-iso", "x.iso", "--payload-exe", "given")
    refused(tmp_path, *argv, code=8, said=r"is not as its SHA256SUMS says\npayload\.exe was changed")
