"""Debian's real packages, as the default image is made of them: drivers, libraries, Python, GRUB, and their bytes.

The packages are those in the user's own cache (`default_build` puts them there). A small archive of our own, read by
the real apt, shows the private apt root.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import drivers, elf
from builder.base import apt
from builder.base.grub import bios_boot_image
from builder.base.linux import LinuxBaseSettings, boot_files, fetch, resolve, unpack
from builder.base.packages import SUMS_NAME
from builder.build import Built
from builder.cache import default_folder
from builder.console import SilentStep
from builder.debian_root import own_loader
from builder.errors import BaseMediaError
from builder.initramfs import (
    PROGRAMS,
    base_segment,
    check_imports,
    image_root,
    list_initramfs,
    module_tree,
    payload_segment,
    program_tree,
)
from builder.kernel_modules import ModuleTree, canonical
from builder.python_bytecode import compile_python, run_python
from builder.resources import linux_payload_files
from tests.unit.deb_maker import member, write_deb

EPOCH = 1_700_000_000
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed (a Debian machine)")


@pytest.fixture(scope="module")
def root(default_build: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default image's packages, unpacked."""
    pool = default_folder() / "pool"
    if not (pool / SUMS_NAME).is_file():
        pytest.skip("the cache holds the finished image but no packages: 'bluelift clean', then again")
    folder = tmp_path_factory.mktemp("root")
    found = resolve(LinuxBaseSettings(debs=pool), workspace=folder, offline=True, step=SilentStep())
    debs = fetch(found, pool=pool, offline=True, step=SilentStep())
    unpack(debs, into=folder / "root", step=SilentStep())
    return folder / "root"


@pytest.fixture(scope="module")
def base(root: Path) -> bytes:
    return base_segment(root, epoch=EPOCH, step=SilentStep())


@pytest.fixture(scope="module")
def image(base: bytes) -> Iterator[Path]:
    with image_root(base) as folder:
        yield folder


@pytest.fixture(scope="module")
def drivers_there(root: Path, base: bytes) -> frozenset[str]:
    """Every driver that is a module in the image, or part of its kernel."""
    files = [Path(entry.name) for entry in list_initramfs(base)]
    modules = {canonical(file.stem) for file in files if file.suffix == ".ko"}
    return ModuleTree(root, boot_files(root).kernel_version).builtin | modules


@pytest.mark.parametrize("driver", drivers.all_drivers())
def test_each_driver_is_in_the_image(driver: str, drivers_there: frozenset[str]) -> None:
    assert canonical(driver) in drivers_there


def test_modprobes_tables_name_only_files_that_are_there(root: Path) -> None:
    version = boot_files(root).kernel_version
    files = {entry.name: entry for entry in module_tree(root, version).entries()}
    folder = f"usr/lib/modules/{version}"
    table = files[f"{folder}/modules.dep"].data.decode()
    named = {path for line in table.splitlines() for path in line.replace(":", " ").split()}
    assert len(named) > 100
    assert all(f"{folder}/{path}" in files for path in named)
    assert all(elf.is_elf(entry.data) for name, entry in files.items() if name.endswith(".ko"))


def test_every_library_of_every_program_is_in_the_image(root: Path) -> None:
    tree = program_tree(root)
    entries = {entry.name: entry for entry in tree.entries()}
    libraries = {Path(name).name for name in entries}
    for name in (*PROGRAMS, "usr/bin/python3.13", "usr/bin/ntfs-3g"):
        assert entries[name].mode & 0o111 or not name.startswith("usr/bin")
    for entry in entries.values():
        if stat.S_ISREG(entry.mode) and elf.is_elf(entry.data):
            assert set(elf.dependencies(entry.data).needed) <= libraries, entry.name


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
def test_readelf_agrees_about_what_is_needed(image: Path) -> None:
    for name in PROGRAMS:
        said = subprocess.run(["readelf", "-dW", str(image / name)], capture_output=True, text=True, check=True).stdout
        needed = [line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
        assert needed and all(any(image.rglob(library)) for library in needed)


def test_the_images_own_busybox_has_what_init_uses(image: Path) -> None:
    said = subprocess.run(
        [*own_loader(image), str(image / "usr/bin/busybox"), "--list"], capture_output=True, text=True
    )
    wanted = (
        "sh mount grep dmesg find cat sort cmp mv xargs modprobe sleep tail sed setsid poweroff reboot umount printf"
    )
    assert set(wanted.split()) <= set(said.stdout.split())


def test_two_makes_at_different_places_are_the_same_bytes(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place" / "root"
    shutil.copytree(root, elsewhere, symlinks=True)
    version = boot_files(root).kernel_version
    assert program_tree(elsewhere).pack(epoch=EPOCH) == program_tree(root).pack(epoch=EPOCH)
    assert module_tree(elsewhere, version).pack(epoch=EPOCH) == module_tree(root, version).pack(epoch=EPOCH)


def test_the_size_leaves_room_for_the_rest(base: bytes, root: Path) -> None:
    assert len(base) + boot_files(root).kernel.stat().st_size < 30_000_000


def test_the_payload_can_be_imported_by_the_images_python(base: bytes, image: Path) -> None:
    files = dict(linux_payload_files())
    packed = payload_segment(payload=files, init=b"#!/bin/sh\n", config=b"{}", base=base, epoch=EPOCH)
    again = payload_segment(payload=files, init=b"#!/bin/sh\n", config=b"{}", base=base, epoch=EPOCH)
    assert packed == again
    names = {entry.name for entry in list_initramfs(packed)}
    assert {"init", "bluelift/payload/__main__.py", "bluelift/payload/__pycache__/__main__.cpython-313.pyc"} <= names


@pytest.mark.parametrize("module", ["ctypes", "ssl", "urllib.request", "lzma", "uuid", "nonsense.below"])
def test_an_import_that_the_image_lacks_is_named(image: Path, module: str) -> None:
    source = f"import os\ndef later():\n    from {module} import x\n".encode()
    with pytest.raises(BaseMediaError) as caught:
        check_imports(image, {"payload/deep.py": source})
    assert f"{module} in payload/deep.py" in caught.value.message


def test_imports_that_the_image_has(image: Path) -> None:
    source = b"import termios, fcntl, json, hashlib, subprocess\nfrom payload.contract import Receipt\n"
    check_imports(image, {"payload/a.py": source})


def test_compiled_files_run_in_the_image(image: Path, tmp_path: Path) -> None:
    compiled = compile_python(image, {"bluelift/x.py": b"print(6 * 7)\n", "bluelift/y.py": b"import nothing\n"})
    (tmp_path / "x.pyc").write_bytes(compiled["bluelift/x.py"])
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import x; print(x.__cached__ or x.__file__)"
    assert run_python(image, script, reason="test").split() == ["42", str(tmp_path / "x.pyc")]


def test_grubs_bios_image_is_the_same_every_time(root: Path) -> None:
    first, second = bios_boot_image(root, step=SilentStep()), bios_boot_image(root, step=SilentStep())
    assert first == second
    cdboot = (root / "usr/lib/grub/i386-pc/cdboot.img").read_bytes()
    assert first[:512] == cdboot[:512] and 50_000 < len(first) < 600_000


def test_the_signed_programs_are_for_uefi_and_signed(root: Path) -> None:
    files = boot_files(root)
    for path in (files.kernel, files.shim, files.grub):
        data = path.read_bytes()
        header = int.from_bytes(data[0x3C:0x40], "little")
        assert data[:2] == b"MZ" and data[header : header + 4] == b"PE\0\0"
        # Optional header of PE32+: the certificate table is data directory 4, at 112 + 4 * 8 (Microsoft, "PE Format").
        directory = header + 24 + 112 + 4 * 8
        assert int.from_bytes(data[directory + 4 : directory + 8], "little") > 0, f"{path.name} carries no signature"


# --- the private apt root ------------------------------------------------------------------------------------------

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed (a Debian machine)")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small archive of two packages, of one of them two versions, with a Release file and no signature."""
    folder = tmp_path / "archive"
    folder.mkdir()
    stanzas = []
    for name, version in (("busybox", "1:1.0-1"), ("busybox", "1:1.2-1"), ("libc6", "2.41")):
        depends = "libc6 (>= 2.0)" if name == "busybox" else ""
        deb = write_deb(folder, name, [member("./usr/bin/busybox", version.encode())], version=version, depends=depends)
        stanzas.append(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\nDescription: x\n"
            + (f"Depends: {depends}\n" if depends else "")
            + f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\n"
            + f"SHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
        )
    (folder / "Packages").write_text("\n".join(stanzas))
    listed = (folder / "Packages").read_bytes()
    (folder / "Release").write_text(
        f"Origin: Test\nSHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} Packages\n"
    )
    return folder


def private_root(tmp_path: Path, archive: Path, options: str = "[trusted=yes] ") -> apt.AptRoot:
    found = apt.AptRoot(tmp_path / "private")
    found.prepare(sources=f"deb {options}copy:{archive} ./\n", settings="")
    return found


@needs_apt
def test_apt_reads_our_archive_into_a_private_root(tmp_path: Path, archive: Path) -> None:
    found = private_root(tmp_path, archive)
    found.update(SilentStep())
    assert found.updated_at is not None
    shown = found.show(["busybox", "libc6", "not-there"])
    assert shown["busybox"].version == "1:1.2-1" and shown["busybox"].depends == ("libc6",)
    assert set(shown) == {"busybox", "libc6"}
    (item,) = found.downloads([shown["busybox"]])
    deb = archive / "busybox_1%3a1.2-1_amd64.deb"
    assert (item.size, item.sha256) == (deb.stat().st_size, hashlib.sha256(deb.read_bytes()).hexdigest())


@needs_apt
def test_an_archive_that_nobody_signed_is_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(BaseMediaError) as caught:
        private_root(tmp_path, archive, options="").update(SilentStep())
    assert "not signed" in caught.value.message and "--keyring" in caught.value.hint


@needs_apt
def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    root = private_root(tmp_path, tmp_path / "nowhere")
    with pytest.raises(BaseMediaError, match="package lists could not be read"):
        root.update(SilentStep())
    assert root.updated_at is None


@needs_apt
def test_other_sources_make_the_old_lists_void(tmp_path: Path, archive: Path) -> None:
    found = private_root(tmp_path, archive)
    found.update(SilentStep())
    assert private_root(tmp_path, archive).updated_at is not None
    found.prepare(sources="deb copy:/elsewhere ./\n", settings="")
    assert apt.AptRoot(tmp_path / "private").updated_at is None


@needs_apt
def test_a_download_with_the_wrong_hash_is_refused(tmp_path: Path, archive: Path) -> None:
    deb = archive / "libc6_2.41_amd64.deb"
    into = tmp_path / "into"
    into.mkdir()
    good = apt.Download(
        uri=f"copy:{deb}", file=deb.name, size=deb.stat().st_size, sha256=hashlib.sha256(deb.read_bytes()).hexdigest()
    )
    apt.download([good], into=into, time_limit=60, step=SilentStep())
    assert (into / deb.name).read_bytes() == deb.read_bytes()
    (into / deb.name).unlink()
    bad = apt.Download(uri=good.uri, file=good.file, size=good.size, sha256="0" * 64)
    with pytest.raises(BaseMediaError, match="could not be downloaded"):
        apt.download([bad], into=into, time_limit=60, step=SilentStep())
    assert not (into / deb.name).exists()


@needs_apt
def test_the_machines_own_settings_can_be_read_by_apt(tmp_path: Path) -> None:
    config = tmp_path / "apt.conf"
    config.write_text(apt.machine_settings())
    dumped = subprocess.run(
        ["apt-config", "dump"], env={"APT_CONFIG": str(config), "PATH": "/usr/bin:/bin"}, check=False
    )
    assert dumped.returncode == 0
