"""What volumes start with: real file systems where their makers are here, made-up heads otherwise, and noise."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify
from tests.payload.linux_fakes import MIB, needs

_GUID = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")


def _head(*parts: tuple[int, bytes]) -> bytes:
    head = bytearray(HEAD_LENGTH)
    for offset, data in parts:
        head[offset : offset + len(data)] = data
    return bytes(head)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (_head((0, b"\xebR\x90NTFS    ")), VolumeKind.NTFS),
        (_head((0, b"\xebX\x90-FVE-FS-"), (160, _GUID)), VolumeKind.BITLOCKER),
        (_head((0, b"\xebR\x90-FVE-FS-")), VolumeKind.BITLOCKER),
        (_head((0, b"\xebX\x90MSWIN4.1"), (424, _GUID), (510, b"\x55\xaa")), VolumeKind.BITLOCKER_TO_GO),
        (_head((3, b"EXFAT   ")), VolumeKind.EXFAT),
        (_head((3, b"ReFS\0\0\0\0")), VolumeKind.REFS),
        (_head((0, b"SPACEDB ")), VolumeKind.STORAGE_SPACES),
        (_head((512, b"LABELONE")), VolumeKind.LVM),
        (_head((4096, b"\xfc\x4e\x2b\xa9")), VolumeKind.MD),
        (_head((0, b"LUKS\xba\xbe")), VolumeKind.LUKS),
        (_head((0, b"XFSB")), VolumeKind.XFS),
        (_head((32, b"NXSB")), VolumeKind.APFS),
        (_head((65600, b"_BHRfS_M")), VolumeKind.BTRFS),
        (_head((4086, b"SWAPSPACE2")), VolumeKind.SWAP),
        (_head((32769, b"CD001")), VolumeKind.ISO9660),
        (_head(), VolumeKind.EMPTY),
        (b"", VolumeKind.EMPTY),
        (_head((100, b"?")), VolumeKind.UNKNOWN),
        (_head((0, b"\xebX\x90"), (510, b"\x55\xaa")), VolumeKind.UNKNOWN),
        (_head((3, b"MSWIN4.1"), (510, b"\x55\xaa")), VolumeKind.UNKNOWN),
    ],
)
def test_heads(head: bytes, kind: VolumeKind) -> None:
    assert identify(head) is kind


@pytest.mark.parametrize(
    ("argv", "size", "kind"),
    [
        (["mkfs.vfat", "-F", "12"], 2 * MIB, VolumeKind.FAT12),
        (["mkfs.vfat", "-F", "16"], 32 * MIB, VolumeKind.FAT16),
        (["mkfs.vfat", "-F", "32"], 64 * MIB, VolumeKind.FAT32),
        (["mkfs.vfat", "-F", "32", "-S", "4096"], 512 * MIB, VolumeKind.FAT32),
        (["mkntfs", "-q", "-F"], 16 * MIB, VolumeKind.NTFS),
        (["mkfs.ext4", "-q"], 16 * MIB, VolumeKind.EXT),
        (["mkswap"], 4 * MIB, VolumeKind.SWAP),
    ],
)
def test_real_file_systems(tmp_path: Path, argv: list[str], size: int, kind: VolumeKind) -> None:
    if needs(argv[0]).args[0]:
        pytest.skip(f"needs {argv[0]}")
    image = tmp_path / "volume"
    with image.open("wb") as stream:
        stream.truncate(size)
    subprocess.run([*argv, str(image)], check=True, capture_output=True)
    with image.open("rb") as stream:
        found = identify(stream.read(HEAD_LENGTH))
    assert found is kind
    assert found.is_fat == (argv[0] == "mkfs.vfat")


@given(st.binary(max_size=1200))
def test_noise_never_raises(head: bytes) -> None:
    assert identify(head) in VolumeKind


@given(st.binary(min_size=499, max_size=499))
def test_a_boot_sector_of_noise_never_raises(noise: bytes) -> None:
    assert identify(b"\xebX\x90" + b"mkfs.fat" + noise[:-2] + b"\x55\xaa") in VolumeKind
