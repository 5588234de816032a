"""What is found to have changed on a boot medium: receipts in its tail are fine, everything else is not."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.disk_forms import DiskForm, write_form
from builder.errors import ImageError, UsageError
from builder.media.fat_structures import Bpb
from builder.verify.medium import check_medium, first_change, raw_image, read_volumes
from builder.verify.prove import check_image
from builder.verify.qemu import Attach
from payload import contract
from payload.receipt import receipt_bytes
from tests.unit.stick_maker import FIRST_LBA, MIB, SIZE, make_image, volume

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(
        any(shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None for name in ("mcopy", "fsck.vfat")),
        reason="mtools and dosfstools are not here",
    ),
]

START = FIRST_LBA * 512
BPB = Bpb.unpack(volume()[:512])
TABLE = START + BPB.reserved_sectors * 512
RECEIPT = contract.Receipt(
    run_id="20240719T120000Z-00000000", image_id="", bluelift="", environment="linux", started="", seconds=1.0,
    host=contract.HostIdentity(smbios_uuid="6F1B0D8E-0000-4000-8000-000000000291"), verdict=contract.Verdict.REPAIRED,
    sentence="15 files quarantined.", advice="", dry_run=False, disks=(), volumes=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("medium") / "before.img")


@pytest.fixture
def after(before: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(before, tmp_path / "after.img"))


def leave(after: Path, content: bytes, name: str = "HOST-1.json") -> None:
    """A file in the folder of receipts, written by mtools as a guest would."""
    source = after.with_name(name)
    source.write_bytes(content)
    subprocess.run(
        ["mcopy", "-i", f"{after}@@{START}", str(source), f"::/Bluelift/receipts/{name}"],
        check=True, timeout=60, env={"PATH": "/usr/bin:/bin", "MTOOLS_SKIP_CHECK": "1"},
    )  # fmt: skip


def flip(after: Path, at: int) -> None:
    with after.open("rb+") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes((byte[0] ^ 1,)))


def failed(before: Path, after: Path, receipt: contract.Receipt | None = RECEIPT) -> list[str]:
    scratch = after.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    checks = check_medium(before, after, receipt, scratch=scratch)
    assert checks
    return [check.name for check in checks if not check.passed]


def test_a_receipt_in_the_tail_is_what_should_come_back(before: Path, after: Path) -> None:
    leave(after, receipt_bytes(RECEIPT))
    assert failed(before, after) == []


def test_a_large_folder_of_receipts_may_grow(before: Path, after: Path, tmp_path: Path) -> None:
    for number in range(40):
        leave(after, b"{}", f"{number:02d}-with-a-long-name-that-takes-many-entries.json")
    assert first_change(before, after, read_volumes(before)) is None


def test_no_receipt_or_another_one(before: Path, after: Path) -> None:
    assert failed(before, after) == ["one receipt came back on the boot medium"]
    leave(after, receipt_bytes(replace(RECEIPT, verdict=contract.Verdict.FAILED)))
    assert failed(before, after) == ["the receipt HOST-1.json"]
    assert failed(before, after, None) == ["the receipt HOST-1.json"]
    leave(after, b"not JSON", "HOST-2.json")
    assert set(failed(before, after)) == {
        "one receipt came back on the boot medium", "the receipt HOST-1.json", "the receipt HOST-2.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(100, id="boot code"),
        pytest.param(1024 + 60, id="partition table"),
        pytest.param(SIZE - 512 + 20, id="backup header"),
        pytest.param(START + 65, id="FAT boot sector"),
        pytest.param(START + BPB.offset(9), id="a file"),
        pytest.param(SIZE - MIB + 7, id="behind the partition"),
    ],
)
def test_everything_else_must_stay(before: Path, after: Path, at: int) -> None:
    leave(after, receipt_bytes(RECEIPT))
    flip(after, at)
    assert first_change(before, after, read_volumes(before)) == at
    assert "the boot medium is byte-identical outside its writable tail" in failed(before, after)


def test_the_chain_of_a_file_must_stay(before: Path, after: Path) -> None:
    for copy in range(2):
        flip(after, TABLE + copy * BPB.fat_sectors * 512 + 9 * 4)
    assert first_change(before, after, read_volumes(before)) == TABLE + 9 * 4


def test_a_medium_that_became_longer(before: Path, after: Path) -> None:
    with after.open("ab") as stream:
        stream.write(b"x")
    assert first_change(before, after, read_volumes(before)) == SIZE


def test_tables_that_differ_are_fsck_s_to_find(before: Path, after: Path) -> None:
    flip(after, TABLE + BPB.fat_sectors * 512 + (BPB.clusters - 5) * 4)
    assert first_change(before, after, read_volumes(before)) is None
    assert "fsck.vfat on the boot medium" in failed(before, after)


def test_a_medium_that_cannot_be_read_back_is_told(before: Path, after: Path) -> None:
    after.write_bytes(bytes(SIZE))
    assert failed(after, before) == ["the boot medium can be read back"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=1, max_size=64), st.integers(0, 8192))
def test_damaged_volumes_raise_nothing_else(before: Path, after: Path, garbage: bytes, at: int) -> None:
    place = START + at if at < 90 else START + BPB.reserved_sectors * 512 + at
    with after.open("rb+") as stream:
        stream.seek(place)
        was = stream.read(len(garbage))
        stream.seek(place)
        stream.write(garbage)
    try:
        first_change(after, before, read_volumes(after))
    except ImageError as error:
        assert error.message
    finally:
        with after.open("rb+") as stream:
            stream.seek(place)
            stream.write(was)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img (package qemu-utils) is not here")
@pytest.mark.parametrize("form", list(DiskForm))
def test_every_form_is_booted_raw_or_not_at_all(before: Path, tmp_path: Path, form: DiskForm) -> None:
    made = tmp_path / f"disk.{form}"
    write_form(form, before, made, epoch=0)
    with raw_image(made) as raw:
        assert raw.read_bytes() == before.read_bytes()
    if form is not DiskForm.IMG:
        with pytest.raises(UsageError, match="is no CD and no stick"):
            check_image(made, (Attach.USB,))
    with pytest.raises(ImageError, match="not an ISO image"):
        check_image(made, (Attach.DISK,))


def test_a_plain_iso_starts_as_a_cd_alone(tmp_path: Path) -> None:
    plain = tmp_path / "plain.iso"
    content = bytearray(2 * MIB)
    content[32768:32774] = b"\x01CD001"
    plain.write_bytes(content)
    check_image(plain)
    for attach in ((Attach.USB,), (Attach.CD, Attach.DISK)):
        with pytest.raises(ImageError, match="it starts as a CD alone"):
            check_image(plain, attach)
