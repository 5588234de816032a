"""Our FAT volumes as fsck.vfat and mtools see them."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import OutputError
from builder.media.fat import FatFile, fat_image
from builder.media.fat_structures import FatKind

EPOCH = 1721365740

needs_fsck = pytest.mark.skipif(
    not shutil.which("fsck.vfat", path="/usr/sbin:/sbin"), reason="dosfstools is not installed"
)
needs_mtools = pytest.mark.skipif(not shutil.which("mcopy"), reason="mtools is not installed")


def check(path: Path) -> None:
    """fsck.vfat finds nothing to repair."""
    fsck = shutil.which("fsck.vfat", path="/usr/sbin:/sbin") or "fsck.vfat"
    done = subprocess.run([fsck, "-n", "-v", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def copied_out(image: Path, target: Path) -> dict[str, bytes]:
    """Every file that mcopy gets out of a volume."""
    target.mkdir(parents=True)
    done = subprocess.run(
        ["mcopy", "-s", "-n", "-i", str(image), "::/*", str(target)],
        capture_output=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {str(file.relative_to(target)): file.read_bytes() for file in target.rglob("*") if file.is_file()}


def sample_files() -> tuple[FatFile, ...]:
    noise = random.Random(291)
    files = [
        FatFile(path="EFI/BOOT/BOOTX64.EFI", data=noise.randbytes(1_036_152)),
        FatFile(path="EFI/BOOT/grubx64.efi", data=noise.randbytes(123_457)),
        FatFile(path="boot/grub/grub.cfg", data=b"set timeout=3\n"),
        FatFile(path="read me - a long name with spaces.txt", data=b"hello\r\n"),
        FatFile(path="exactly13char", data=b"13"),
        FatFile(path="empty.txt", data=b""),
        FatFile(path="one/cluster.bin", data=noise.randbytes(512)),
        FatFile(
            path="Fran\N{LATIN SMALL LETTER C WITH CEDILLA}ais/caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt", data=b"x"
        ),
    ]
    files += [
        FatFile(path=f"many/File number {i:03d} with a long name.dat", data=noise.randbytes(i * 7)) for i in range(60)
    ]
    return tuple(files)


@needs_fsck
@needs_mtools
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (FatKind.FAT12, None),
        (FatKind.FAT12, 4 << 20),
        (FatKind.FAT16, None),
        (FatKind.FAT16, 64 << 20),
        (FatKind.FAT32, None),
        (FatKind.FAT32, 64 << 20),
    ],
)
def test_every_file_is_read_back_by_mtools(tmp_path: Path, kind: FatKind, size: int | None) -> None:
    files = sample_files()
    image = tmp_path / "volume.img"
    image.write_bytes(fat_image(files, label="BLUELIFT", serial=0xC5291291, epoch=EPOCH, size=size, kind=kind))
    check(image)
    assert copied_out(image, tmp_path / "out") == {file.path: file.data for file in files}
    listing = subprocess.run(["mdir", "-i", str(image), "::/"], capture_output=True, text=True, timeout=60).stdout
    assert "Volume in drive : is BLUELIFT" in listing
    assert "Volume Serial Number is C529-1291" in listing
    assert "2024-07-19   5:09" in listing
    info = subprocess.run(["minfo", "-i", str(image), "::"], capture_output=True, text=True, timeout=60).stdout
    assert f"FAT{kind:d}" in info


@needs_fsck
def test_an_empty_volume_of_every_kind(tmp_path: Path) -> None:
    for kind in FatKind:
        image = tmp_path / f"{kind}.img"
        image.write_bytes(fat_image((), label="EMPTY", serial=0, epoch=0, kind=kind))
        check(image)


@needs_fsck
@pytest.mark.parametrize("sectors", [64, 2880, 8400, 8401, 8404, 32680, 65535, 65536, 262144])
def test_sizes_around_the_limits(tmp_path: Path, sectors: int) -> None:
    image = tmp_path / "volume.img"
    image.write_bytes(
        fat_image((FatFile(path="a/b.txt", data=b"x"),), label="X", serial=1, epoch=EPOCH, size=sectors * 512)
    )
    check(image)


PARTS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"*/:<>?\\|'), min_size=1, max_size=30
).map(lambda name: name.rstrip(".") or "x")


@needs_fsck
@needs_mtools
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    files=st.dictionaries(
        st.lists(PARTS, min_size=1, max_size=5).map("/".join), st.binary(max_size=3000), min_size=1, max_size=20
    ),
    kind=st.sampled_from([FatKind.FAT12, FatKind.FAT16]),
)
def test_any_names_and_depths(tmp_path: Path, files: dict[str, bytes], kind: FatKind) -> None:
    listed = tuple(FatFile(path=path, data=data) for path, data in files.items())
    try:
        volume = fat_image(listed, label="X", serial=1, epoch=EPOCH, kind=kind)
    except OutputError:
        return
    image = tmp_path / "volume.img"
    image.write_bytes(volume)
    check(image)
    target = tmp_path / "out"
    shutil.rmtree(target, ignore_errors=True)
    assert copied_out(image, target) == files
