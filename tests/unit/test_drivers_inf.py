"""Driver folders: real INFs, every encoding, every way in which an INF names a file, and garbage."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.drivers_inf import InfError, check_drivers, parse_inf, read_package, require_drivers
from builder.errors import BaseMediaError

REAL = Path(__file__).parents[3] / "shared" / "testdata" / "inf"
INF = """; A storage driver; "not a string
[Version]
Signature = "$WINDOWS NT$"
Class=SCSIAdapter
Provider=%VENDOR%
CatalogFile = stor.cat

[SourceDisksNames]
1 = %Disk%,,,""
2 = %Disk%,,,\\extra

[SourceDisksFiles]
stor.sys = 1,,
[SourceDisksFiles.amd64]
storum.dll = 2,sub
[SourceDisksFiles.arm64]
arm.sys = 1

[Manufacturer]
%VENDOR% = Stor, NTamd64, NTarm64.10.0

[Stor.NTamd64]
%Name% = Inst, PCI\\VEN_1AF4&DEV_1001
[Stor.NTarm64.10.0]
%Name% = Inst, PCI\\VEN_1AF4&DEV_1001

[Inst.NT]
CopyFiles = Files, @tool.exe
CopyINF = other.inf
[Inst.NTarm64]
CopyFiles = @onarm.sys
[Files]
stor.sys,,,2
renamed.sys, "source;one.sys"
continued\\
.sys

[Strings]
VENDOR = "Müller & ""Sons"" %%"
Disk = "Disk, 1"
Name = "A = B"
"""
FILES = [
    "stor.inf",
    "stor.cat",
    "stor.sys",
    "extra/sub/storum.dll",
    "tool.exe",
    "other.inf",
    "source;one.sys",
    "continued.sys",
]


def driver(tmp_path: Path, text: str = INF, *, encoding: str = "utf-8", leave_out: str = "") -> Path:
    folder = tmp_path / "driver"
    for name in FILES:
        if name == leave_out:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding) if name == "stor.inf" else b"x")
    other = folder / "other.inf"
    if other.exists():
        other.write_text(
            '[Version]\nSignature="$Windows NT$"\nCatalogFile=stor.cat\n[Manufacturer]\n%M%=S,NTamd64\n'
            "[S.NTamd64]\nx = y\n[SourceDisksFiles]\nstor.sys=1\n"
        )
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_complete_folder(tmp_path: Path, encoding: str) -> None:
    folder = driver(tmp_path, encoding=encoding)
    found = check_drivers([folder])
    assert found.problems == ()
    package = next(package for package in found.packages if package.inf.name == "stor.inf")
    assert (package.device_class, package.catalog) == ("SCSIAdapter", "stor.cat")
    assert package.provider == 'Müller & "Sons" %'
    assert package.architectures == ("arm64", "x64")
    assert package.files == tuple(
        sorted(["stor.sys", "extra/sub/storum.dll", "tool.exe", "other.inf", "source;one.sys", "continued.sys"])
    )
    assert require_drivers([folder]) == found.packages


@pytest.mark.parametrize("name", FILES[1:])
def test_every_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = driver(tmp_path, leave_out=name)
    problems = check_drivers([folder]).problems
    assert {problem.message for problem in problems} == {f"names '{name}', which is not there"}
    with pytest.raises(BaseMediaError, match="not complete") as caught:
        require_drivers([folder])
    assert name in caught.value.message and caught.value.hint


def test_flat_folders_and_case_do_not_matter(tmp_path: Path) -> None:
    folder = driver(tmp_path, leave_out="extra/sub/storum.dll")
    (folder / "STORUM.DLL").write_bytes(b"x")
    assert check_drivers([folder]).problems == ()


def test_the_other_architecture(tmp_path: Path) -> None:
    folder = driver(tmp_path)
    problems = check_drivers([folder], architecture="arm64").problems
    messages = {(problem.path.name, problem.message) for problem in problems}
    assert ("other.inf", "is for x64; the image is arm64") in messages
    assert ("stor.inf", "names 'arm.sys', which is not there") in messages
    assert ("stor.inf", "names 'onarm.sys', which is not there") in messages
    old = INF.replace(", NTamd64, NTarm64.10.0", "").replace("[Stor.NTamd64]", "[Stor]")
    (problem,) = check_drivers([driver(tmp_path / "old", old)]).problems
    assert problem.message == "is for x86; the image is x64"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no \\[sections\\]"),
        ("hello", "no \\[sections\\]"),
        ("[autorun]\nopen=setup.exe", "signature ''"),
        ('[Version]\nSignature="$other$"', "signature '\\$other\\$'"),
    ],
)
def test_what_is_not_an_inf(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InfError, match=says):
        parse_inf(text.encode())
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "x.inf").write_text(text)
    (problem,) = check_drivers([folder]).problems
    assert problem.path.name == "x.inf"


def test_folders_without_drivers(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    problems = check_drivers([empty, tmp_path / "absent"]).problems
    assert [problem.message for problem in problems] == ["has no .inf in it or below it", "is not a folder"]


def test_a_path_out_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    text = INF.replace("\\extra", "\\..\\..\\extra")
    messages = [problem.message for problem in check_drivers([driver(tmp_path, text)]).problems]
    assert messages == ["names '../../extra/sub/storum.dll', outside of its folder"]


def test_a_link_out_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    """All that lies there goes into the image: a vendor's archive must not take a file of this machine along."""
    folder = driver(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (folder / "readme.txt").symlink_to(tmp_path / "secret")
    (folder / "again.txt").symlink_to(next(folder.glob("*.inf")))
    (found,) = check_drivers([folder]).problems
    assert (found.path.name, found.message) == ("readme.txt", "is a link to a file outside of the folder")


def test_a_list_that_thousands_of_lines_name_is_read_once(tmp_path: Path) -> None:
    lines = "\n".join(["CopyFiles=Many"] * 20_000)
    listed = "\n".join(f"f{number}.sys" for number in range(20_000))
    path = tmp_path / "x.inf"
    path.write_text(f'[Version]\nSignature="$WINDOWS NT$"\n[Install]\n{lines}\n[Many]\n{listed}\n')
    assert len(read_package(path).files) == 20_000


def test_no_catalogue(tmp_path: Path) -> None:
    text = INF.replace("CatalogFile = stor.cat\n", "")
    (problem,) = check_drivers([driver(tmp_path, text)]).problems
    assert "names no catalogue" in problem.message
    decorated = INF.replace("CatalogFile = stor.cat", "CatalogFile.NTamd64 = stor.cat\nCatalogFile = x86.cat")
    assert check_drivers([driver(tmp_path / "d", decorated)]).problems == ()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("vioscsi.inx", ("vioscsi.sys",)),
        ("viostor.inx", ("viostor.sys",)),
        ("viorng.inf", ("viorng.sys", "viorngum.dll")),
    ],
)
def test_real_ones(tmp_path: Path, name: str, files: tuple[str, ...]) -> None:
    if not (REAL / name).is_file():
        pytest.skip(f"no real INF: {REAL / name} is not there")
    # stampinf puts the architecture in when the driver is built.
    text = (REAL / name).read_text("utf-8").replace("$ARCH$", "amd64")
    inf = tmp_path / Path(name).with_suffix(".inf")
    inf.write_text(text)
    package = read_package(inf)
    assert package.files == files and package.architectures == ("x64",)
    assert package.catalog == inf.with_suffix(".cat").name
    assert len(check_drivers([tmp_path]).problems) == len(files) + 1
    for file in (*files, package.catalog):
        (tmp_path / file).write_bytes(b"x")
    assert check_drivers([tmp_path]).problems == ()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.text(alphabet='[]=,;"%\\\n aSsig$WINDOWSNT', max_size=400).map(str.encode))
def test_garbage_raises_nothing_but_inf_error(data: bytes) -> None:
    head = b'[Version]\nSignature="$Windows NT$"\n[Manufacturer]\nM=M,NTamd64\n[SourceDisksFiles]\n'
    for content in (data, head + data):
        with contextlib.suppress(InfError):
            inf = parse_inf(content)
            for lines in inf.sections.values():
                for line in lines:
                    for value in line.values:
                        inf.text(value)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='[]=,;"%\\\n ./\x00.aCopyFiles@.', max_size=300))
def test_garbage_in_a_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "x.inf").write_bytes(
        b'[Version]\nSignature="$Windows NT$"\n[I.NTamd64]\nCopyFiles=F\n[F]\n' + text.encode()
    )
    assert len(check_drivers([folder]).packages) <= 1
