"""Packages from a folder, checked and unpacked: what fits, and everything that must be refused."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.base import apt
from builder.base.linux import LinuxBaseSettings, Package, PackageSet, boot_files, fetch, resolve, unpack
from builder.base.packages import SUMS_NAME
from builder.console import SilentStep, Step
from builder.errors import BaseMediaError
from tests.unit.deb_maker import member, write_deb

KERNEL = "6.12.1+deb13-amd64"
NAMES = {
    "busybox": "1:1.37.0-6",
    "console-setup": "1.242",
    "cryptsetup-bin": "2:2.7.5",
    "dmsetup": "2:1",
    "grub-common": "2.12-9",
    "grub-efi-amd64-signed": "1+2.12",
    "grub-pc-bin": "2.12-9",
    "kbd": "2.7",
    "libblkid1": "2.41",
    "libc6": "2.41",
    "libcap2": "1",
    "libcrypt1": "1:4",
    "libcryptsetup12": "2:2.7.5",
    "libdevmapper1.02.1": "2:1",
    "libexpat1": "2",
    "libgcc-s1": "14",
    "libjson-c5": "0.18",
    "liblzma5": "5",
    "libntfs-3g89t64": "1:2022",
    "libpcre2-8-0": "10",
    "libpopt0": "1.19",
    "libpython3.13-minimal": "3.13",
    "libpython3.13-stdlib": "3.13",
    "libselinux1": "3",
    "libssl3t64": "3.5",
    "libudev1": "257",
    "libuuid1": "2.41",
    "libzstd1": "1.5",
    f"linux-image-{KERNEL}": "6.12.1-1",
    "ntfs-3g": "1:2022",
    "perl-base": "5.40",
    "python3.13-minimal": "3.13",
    "shim-helpers-amd64-signed": "1",
    "shim-signed": "1",
    "xkb-data": "2.42",
    "zlib1g": "1",
}


@pytest.fixture
def debs(tmp_path: Path) -> Path:
    """A folder with one (empty) package of every name, and SHA256SUMS."""
    folder = tmp_path / "debs"
    folder.mkdir()
    for name, version in NAMES.items():
        write_deb(folder, name, [], version=version)
    write_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    lines = [f"{hashlib.sha256(deb.read_bytes()).hexdigest()}  {deb.name}\n" for deb in sorted(folder.glob("*.deb"))]
    (folder / SUMS_NAME).write_text("".join(lines))


def from_debs(folder: Path, workspace: Path) -> PackageSet:
    settings = LinuxBaseSettings(debs=folder)
    return resolve(settings, workspace=workspace, offline=True, step=SilentStep())


def test_a_folder_of_packages(debs: Path, tmp_path: Path) -> None:
    found = from_debs(debs, tmp_path)
    assert {package.name: package.version for package in found.packages} == NAMES
    assert {package.uri for package in found.packages} == {""}
    files = fetch(found, pool=tmp_path / "pool", offline=True, step=SilentStep())
    assert sorted(files) == sorted(debs.glob("*.deb"))
    assert not (tmp_path / "pool").exists()


def test_a_wrong_hash_names_the_file_and_both_hashes(debs: Path, tmp_path: Path) -> None:
    found = from_debs(debs, tmp_path)
    deb = next(debs.glob("ntfs-3g_*"))
    expected = hashlib.sha256(deb.read_bytes()).hexdigest()
    deb.write_bytes(deb.read_bytes() + b"\n")
    actual = hashlib.sha256(deb.read_bytes()).hexdigest()
    with pytest.raises(BaseMediaError) as caught:
        fetch(found, pool=debs, offline=True, step=SilentStep())
    assert all(part in caught.value.message for part in (deb.name, expected, actual))


def test_a_file_that_is_listed_but_not_there(debs: Path, tmp_path: Path) -> None:
    next(debs.glob("libc6_*")).unlink()
    with pytest.raises(BaseMediaError, match=r"libc6_2\.41_amd64\.deb is listed"):
        from_debs(debs, tmp_path)


def test_missing_packages_are_named_all_at_once(debs: Path, tmp_path: Path) -> None:
    for pattern in ("linux-image-*", "ntfs-3g_*"):
        next(debs.glob(pattern)).unlink()
    write_sums(debs)
    with pytest.raises(BaseMediaError) as caught:
        from_debs(debs, tmp_path)
    assert "linux-image-[0-9]*-amd64" in caught.value.message and "ntfs-3g" in caught.value.message


def test_two_kernels_are_one_too_many(debs: Path, tmp_path: Path) -> None:
    write_deb(debs, "linux-image-6.13.0+deb13-amd64", [])
    write_sums(debs)
    with pytest.raises(BaseMediaError, match="more than one version"):
        from_debs(debs, tmp_path)


@pytest.mark.parametrize(
    ("sums", "says"),
    [
        ("", "lacks these packages"),
        ("nonsense\n", "line 1 is not a sha256"),
        (f"{'0' * 64}  ../../etc/passwd.deb\n", "not called as a Debian package"),
        (f"{'0' * 64}  /etc/x_1_amd64.deb\n", "not called as a Debian package"),
        (f"{'0' * 64}  whatever.deb\n", "not called as a Debian package"),
    ],
)
def test_sums_that_are_no_good(debs: Path, tmp_path: Path, sums: str, says: str) -> None:
    (debs / SUMS_NAME).write_text(sums)
    with pytest.raises(BaseMediaError, match=says):
        from_debs(debs, tmp_path)


def test_a_folder_without_sums(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="SHA256SUMS cannot be read"):
        from_debs(tmp_path, tmp_path)


def test_offline_names_what_is_not_in_the_pool(tmp_path: Path) -> None:
    package = Package(
        name="x",
        version="1",
        architecture="amd64",
        sha256="0" * 64,
        size=1,
        file="x_1_amd64.deb",
        uri="http://m.example/x",
    )
    with pytest.raises(BaseMediaError, match=r"x_1_amd64\.deb"):
        fetch(PackageSet(packages=(package,), resolved_at=0), pool=tmp_path, offline=True, step=SilentStep())


def test_what_a_power_cut_left_in_the_pool_is_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"x_1_amd64.deb": b"package x", "y_1_amd64.deb": b"package y"}
    packages = PackageSet(
        packages=tuple(
            Package(
                name=file[0],
                version="1",
                architecture="amd64",
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                file=file,
                uri=f"http://m.example/{file}",
            )
            for file, data in content.items()
        ),
        resolved_at=0,
    )
    (tmp_path / "x_1_amd64.deb").write_bytes(bytes(9))
    (tmp_path / "y_1_amd64.deb").write_bytes(b"package y")
    asked: list[str] = []

    def download(wanted: Sequence[apt.Download], *, into: Path, time_limit: float, step: Step) -> None:
        asked.extend(each.file for each in wanted)
        for each in wanted:
            (into / each.file).write_bytes(content[each.file])

    monkeypatch.setattr(apt, "download", download)
    with pytest.raises(BaseMediaError, match=r"x_1_amd64\.deb has the wrong sha256"):
        fetch(packages, pool=tmp_path, offline=True, step=SilentStep())
    fetch(packages, pool=tmp_path, offline=False, step=SilentStep())
    assert asked == ["x_1_amd64.deb"]
    assert (tmp_path / "x_1_amd64.deb").read_bytes() == b"package x"


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


@pytest.mark.programs
@needs_dpkg
def test_only_what_an_image_needs_is_unpacked(tmp_path: Path) -> None:
    members = [
        member("./usr/bin/busybox", b"\x7fELF", mode=0o4755),
        member("./usr/bin/unwanted", b"x"),
        member("./lib/modules/1/kernel/fs/vfat.ko.xz", b"module"),
        member("./usr/lib/modules/1/kernel/sound/noise.ko.xz", b"module"),
        member("./usr/lib/x86_64-linux-gnu/libz.so.1.3", b"\x7fELF"),
        member("./usr/lib/x86_64-linux-gnu/libz.so.1", kind=tarfile.SYMTYPE, link="libz.so.1.3"),
        member("./usr/lib64/ld.so", kind=tarfile.SYMTYPE, link="/usr/lib/x86_64-linux-gnu/libz.so.1"),
        member("./usr/lib/x86_64-linux-gnu/perl-base/strict.pm", b"1;"),
        member("./usr/lib/x86_64-linux-gnu/perl-base/POSIX.pm", b"1;"),
        member("./usr/share/X11/xkb/symbols/de", b"xkb_symbols"),
        member("./usr/share/X11/xkb/geometry/pc", b"xkb_geometry"),
        member("./usr/share/man/man1/x.1", b"x"),
    ]
    root = tmp_path / "root"
    unpack([write_deb(tmp_path, "some", members)], into=root, step=SilentStep())
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    assert found == {
        "usr/bin/busybox",
        "usr/lib/modules/1/kernel/fs/vfat.ko.xz",
        "usr/lib/x86_64-linux-gnu/libz.so.1.3",
        "usr/lib/x86_64-linux-gnu/libz.so.1",
        "usr/lib/x86_64-linux-gnu/perl-base/strict.pm",
        "usr/share/X11/xkb/symbols/de",
        "usr/lib64/ld.so",
    }
    assert (root / "usr/bin/busybox").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/lib64/ld.so").read_bytes() == b"\x7fELF"
    assert not (root / "usr/lib64/ld.so").readlink().is_absolute()


@pytest.mark.programs
@needs_dpkg
def test_of_pythons_large_library_two_modules_are_unpacked(tmp_path: Path) -> None:
    members = [
        member("./usr/lib/python3.13/hmac.py", b"x"),
        member("./usr/lib/python3.13/asyncio/__init__.py", b"x"),
        member("./usr/lib/python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so", b"x"),
        member("./usr/lib/python3.13/lib-dynload/termios.cpython-313-x86_64-linux-gnu.so", b"x"),
    ]
    minimal = [
        member("./usr/lib/python3.13/os.py", b"x"),
        member("./usr/lib/python3.13/lib-dynload/_hashlib.cpython-313-x86_64-linux-gnu.so", b"x"),
        member("./usr/lib/python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so", b"x"),
    ]
    debs = [
        write_deb(tmp_path, f"libpython3.13-{part}", of) for part, of in (("stdlib", members), ("minimal", minimal))
    ]
    unpack(debs, into=tmp_path / "root", step=SilentStep())
    found = sorted(path.name.partition(".")[0] for path in (tmp_path / "root").rglob("*") if path.is_file())
    assert found == ["_hashlib", "hmac", "os", "termios"]


HOSTILE = {
    "dots": [member("./usr/lib/grub/../../../../evil", b"x")],
    "absolute": [member("/usr/lib/grub/evil", b"x")],
    "link out": [member("./usr/lib/grub/out", kind=tarfile.SYMTYPE, link="../../../../../../..")],
    "through a link": [
        member("./usr/lib/grub/way", kind=tarfile.SYMTYPE, link="../../.."),
        member("./usr/lib/grub/way/../../../../evil", b"x"),
    ],
    "device": [member("./usr/lib/grub/null", kind=tarfile.CHRTYPE)],
    "pipe": [member("./usr/lib/grub/pipe", kind=tarfile.FIFOTYPE)],
}


@pytest.mark.programs
@needs_dpkg
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_package_is_refused_and_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    deb = write_deb(tmp_path, "evil", HOSTILE[name])
    root = tmp_path / "deep/below/root"
    with pytest.raises(BaseMediaError, match="holds what a package must not"):
        unpack([deb], into=root, step=SilentStep())
    outside = [path for path in tmp_path.rglob("*") if path.name == "evil"]
    assert outside == []


@pytest.mark.programs
@needs_dpkg
def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    deb = write_deb(tmp_path, "some", [member("./usr/bin/busybox", b"x" * 5000)])
    for content in (b"not a package", deb.read_bytes()[:2000]):
        deb.write_bytes(content)
        with pytest.raises(BaseMediaError, match=r"some_1\.0-1_amd64\.deb cannot be unpacked"):
            unpack([deb], into=tmp_path / "root", step=SilentStep())


def test_boot_files_are_found_or_named(tmp_path: Path) -> None:
    files = [
        f"boot/vmlinuz-{KERNEL}",
        "usr/lib/shim/shimx64.efi.signed",
        "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
        "usr/lib/grub/i386-pc/cdboot.img",
    ]
    with pytest.raises(BaseMediaError, match="expected one kernel"):
        boot_files(tmp_path)
    for number, name in enumerate(files):
        if number:
            with pytest.raises(BaseMediaError, match="is in none of the packages"):
                boot_files(tmp_path)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = boot_files(tmp_path)
    assert found.kernel_version == KERNEL and found.mok_manager is None
    assert found.grub_modules == tmp_path / "usr/lib/grub/i386-pc"
    (tmp_path / "boot/vmlinuz-other").write_bytes(b"x")
    with pytest.raises(BaseMediaError, match="expected one kernel"):
        boot_files(tmp_path)
