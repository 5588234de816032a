"""Our ISO images as xorriso, 7z and isoinfo see them; and a file system that really is full."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.console import SilentStep
from builder.media.fat import FatFile, fat_image
from builder.media.iso import IsoFile, IsoLayout, write_iso

EPOCH = 1751328000
NOISE = random.Random(291)
UEFI = fat_image(
    [FatFile(path="EFI/BOOT/BOOTX64.EFI", data=NOISE.randbytes(900_000))], label="EFI", serial=1, epoch=EPOCH
)
FILES = {
    "boot/grub/eltorito.img": NOISE.randbytes(30_001),
    "boot/grub/efi.img": UEFI,
    "boot/grub/grub.cfg": b"set timeout=3\n",
    "Bluelift/vmlinuz": NOISE.randbytes(3_000_000),
    "Bluelift/initrd.img": NOISE.randbytes(2_000_001),
    "Bluelift/0f3a.id": b"",
    "EFI/BOOT/BOOTX64.EFI": NOISE.randbytes(4096),
    "some folder/" + "a very long name " * 12 + ".txt": b"long",
    "some folder/na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve.txt": b"x",
    "some folder/Same name.txt": b"1",
    "some folder/same-name.txt": b"2",
    "1/2/3/4/5/6/7/deep": b"8 levels",
}


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("iso") / "image.iso"
    files = tuple(IsoFile(path=name, source=data) for name, data in FILES.items())
    layout = IsoLayout(
        volume_id="BLUELIFT",
        files=files,
        bios_image="boot/grub/eltorito.img",
        uefi_image="boot/grub/efi.img",
        epoch=EPOCH,
    )
    write_iso(layout, path, step=SilentStep())
    return path


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "boot.cat"
    }


def expected() -> dict[str, str]:
    """The sha256 of every file; the BIOS image apart, which carries its boot information table."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items() if name != "boot/grub/eltorito.img"}


@pytest.mark.skipif(not shutil.which("xorriso"), reason="xorriso is not installed")
def test_xorriso_reads_the_boot_catalog(iso: Path) -> None:
    argv = ["xorriso", "-indev", str(iso), "-report_el_torito", "plain"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("El Torito boot img")]
    assert [(*line[6:9], line[11]) for line in lines] == [
        ("BIOS", "y", "none", "4"),
        ("UEFI", "y", "none", str(len(UEFI) // 512)),
    ]
    assert re.search(r"El Torito img opts :\s+1\s+boot-info-table", done.stdout), done.stdout
    assert re.search(r"El Torito img path :\s+2\s+/boot/grub/efi.img", done.stdout)
    assert "Volume id    : 'BLUELIFT'" in done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("xorriso"), reason="xorriso is not installed")
@pytest.mark.parametrize("joliet", [False, True])
def test_xorriso_extracts_every_file(iso: Path, tmp_path: Path, joliet: bool) -> None:
    options = ["-read_fs", "nojoliet" if not joliet else "norock"]
    target = tmp_path / "out"
    argv = ["xorriso", *options, "-osirrox", "on", "-indev", str(iso), "-extract", "/", str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    subprocess.run(["chmod", "-R", "u+w", str(target)], check=True, timeout=60)
    assert done.returncode == 0 and "FAILURE" not in done.stderr, done.stderr
    found = digests(target)
    bios = (target / "boot/grub/eltorito.img").read_bytes()
    assert bios[:8] + bios[64:] == FILES["boot/grub/eltorito.img"][:8] + FILES["boot/grub/eltorito.img"][64:]
    del found["boot/grub/eltorito.img"]
    if joliet:
        # Joliet cuts the long name; the contents are all there.
        assert sorted(found.values()) == sorted(expected().values())
    else:
        assert found == expected()


@pytest.mark.skipif(not shutil.which("7z"), reason="7z (package p7zip-full) is not installed")
def test_7z_extracts_every_file(iso: Path, tmp_path: Path) -> None:
    argv = ["7z", "x", "-y", f"-o{tmp_path / 'out'}", str(iso)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: digest for name, digest in digests(tmp_path / "out").items() if not name.startswith("[BOOT]")}
    del found["boot/grub/eltorito.img"]
    assert sorted(found.values()) == sorted(expected().values())
    assert found["Bluelift/initrd.img"] == expected()["Bluelift/initrd.img"]


@pytest.mark.skipif(not shutil.which("isoinfo"), reason="isoinfo (package genisoimage) is not installed")
def test_isoinfo_reads_all_three_trees(iso: Path) -> None:
    about = subprocess.run(
        ["isoinfo", "-d", "-i", str(iso)], capture_output=True, encoding="latin-1", timeout=60
    ).stdout
    assert "Volume id: BLUELIFT" in about and "Joliet with UCS level 3 found" in about
    assert "Rock Ridge signatures version 1 found" in about and "Bootid 88 (bootable)" in about
    for option in ("-R", "-J"):
        names = subprocess.run(
            ["isoinfo", option, "-f", "-i", str(iso)], capture_output=True, encoding="latin-1", timeout=60
        ).stdout
        assert "/Bluelift/initrd.img" in names.splitlines()
    plain = subprocess.run(
        ["isoinfo", "-f", "-i", str(iso)], capture_output=True, encoding="latin-1", timeout=60
    ).stdout
    assert "/BLUELIFT/INITRD.IMG;1" in plain.splitlines()


FULL_DISK = """
import shutil, sys
from pathlib import Path
from builder.console import SilentStep
from builder.errors import OutputError
from builder.media.iso import IsoFile, IsoLayout, write_iso
folder = Path(sys.argv[1])
class Eats(SilentStep):
    "Something else takes the space while the ISO is being written."
    def progress(self, done, total=None, unit=""):
        try:
            with (folder / "other").open("ab") as other: other.write(bytes(4 << 20))
        except OSError:
            pass
files = tuple(IsoFile(path=f"part{i}", source=bytes(1 << 20)) for i in range(3))
layout = IsoLayout(volume_id="T", files=files, bios_image=None, uefi_image=None, epoch=0)
try:
    write_iso(layout, folder / "out.iso", step=Eats())
except OutputError as error:
    print("mid-write:", error.message)
try:
    write_iso(layout, folder / "out.iso", step=SilentStep())
except OutputError as error:
    print("before:", error.message)
print(sorted(path.name for path in folder.iterdir()))
"""


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    program = tmp_path / "program.py"
    program.write_text(FULL_DISK)
    inner = 'mount -t tmpfs -o size=5m tmpfs "$1" && exec "$2" "$3" "$1"'
    argv = ["unshare", "--mount", "--map-root-user", "sh", "-c", inner, "sh", str(place), sys.executable, str(program)]
    probe = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", str(place)],
        capture_output=True,
        timeout=60,
    )
    if probe.returncode:
        pytest.skip("this machine does not let the test mount a small tmpfs in a name space of its own")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    mid, before, left = done.stdout.splitlines()
    assert re.search(r"mid-write: no room for .*out\.iso: \d+ bytes are needed, \d+ are free", mid)
    assert re.search(r"before: no room for .*out\.iso: \d+ bytes are needed, \d+ are free", before)
    assert left == "['other']"
