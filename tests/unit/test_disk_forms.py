"""The forms for hypervisors: qemu-img reads the same disk back; the same image gives the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import profile
from builder.disk_forms import DiskForm, form_of, write_form
from builder.disk_forms.vhd import fixed_footer, geometry
from builder.disk_forms.vhdx import crc32c, write_vhdx
from builder.errors import ImageError, OutputError, ProfileError
from builder.plan import Facts, make_plan
from tests.unit.stick_maker import MIB, SIZE, make_image

EPOCH = 1_795_132_800
ID = uuid.UUID("5a3c1c5e-0000-4000-8000-0000000000f1")
needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img (package qemu-utils) is not here")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "image.iso")


def qemu_img(*argv: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, argv)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_qemu_img
@pytest.mark.programs
@pytest.mark.parametrize("form", list(DiskForm))
def test_qemu_img_reads_the_same_disk(image: Path, tmp_path: Path, form: DiskForm) -> None:
    made = tmp_path / f"disk.{form}"
    write_form(form, image, made, epoch=EPOCH)
    assert form_of(made) is form
    assert "identical" in qemu_img("compare", "-f", form.qemu_format, "-F", "raw", made, image)
    # A fixed VHD begins as the disk does: QEMU has to be told.
    told = ("-f", "vpc") if form is DiskForm.VHD else ()
    found = json.loads(qemu_img("info", "--output=json", *told, made))
    assert (found["format"], found["virtual-size"]) == (form.qemu_format, SIZE)
    if form is DiskForm.VHDX:
        qemu_img("check", "-f", "vhdx", made)
        assert made.stat().st_size < image.stat().st_size
    if form is DiskForm.VHD:
        assert made.read_bytes()[:SIZE] == image.read_bytes()
        assert made.stat().st_size == SIZE + 512


@needs_qemu_img
@pytest.mark.programs
@pytest.mark.parametrize("size", [512, MIB, 2 * MIB, 2 * MIB + 512, 5 * MIB])
def test_vhdx_of_any_size(tmp_path: Path, size: int) -> None:
    content = bytearray(random.Random(size).randbytes(size))
    content[MIB : 3 * MIB] = bytes(len(content[MIB : 3 * MIB]))
    raw, made = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    raw.write_bytes(content)
    with raw.open("rb") as source, made.open("wb") as target:
        write_vhdx(source, target, size=size, identity=ID)
    assert "identical" in qemu_img("compare", "-f", "vhdx", "-F", "raw", made, raw)
    qemu_img("check", "-f", "vhdx", made)


@needs_qemu_img
@pytest.mark.programs
def test_a_vhdx_with_more_blocks_than_a_chunk_has(tmp_path: Path) -> None:
    """Behind 4 GiB the table has an entry for a sector bitmap that is none of a block."""
    raw, made = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    with raw.open("wb") as stream:
        for offset in (0, (4 << 30) - 2 * MIB, 4 << 30, (4 << 30) + 6 * MIB):
            stream.seek(offset)
            stream.write(struct.pack("<Q", offset + 1))
        stream.truncate((4 << 30) + 10 * MIB)
    with raw.open("rb") as source, made.open("wb") as target:
        write_vhdx(source, target, size=raw.stat().st_size, identity=ID)
    assert "identical" in qemu_img("compare", "-f", "vhdx", "-F", "raw", made, raw)
    qemu_img("check", "-f", "vhdx", made)


@needs_qemu_img
@pytest.mark.programs
def test_qemu_may_write_to_a_vhdx(image: Path, tmp_path: Path) -> None:
    """Its empty log and its two headers are good enough for a program that changes the disk."""
    made = tmp_path / "disk.vhdx"
    write_form(DiskForm.VHDX, image, made, epoch=EPOCH)
    command = ["qemu-io", "-f", "vhdx", "-c", "write -P 0x5a 37M 64k", "-c", "read -P 0x5a 37M 64k", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Pattern verification failed" not in done.stdout, done.stdout + done.stderr
    qemu_img("check", "-f", "vhdx", made)


def test_the_same_image_gives_the_same_bytes(image: Path, tmp_path: Path) -> None:
    for form in DiskForm:
        one, other = tmp_path / f"one.{form}", tmp_path / f"other.{form}"
        write_form(form, image, one, epoch=EPOCH)
        write_form(form, image, other, epoch=EPOCH)
        assert one.read_bytes() == other.read_bytes()


def test_a_footer_field_by_field() -> None:
    """Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format"."""
    footer = fixed_footer(size=30 * MIB, identity=ID, epoch=EPOCH)
    assert len(footer) == 512
    assert footer[0:16] == b"conectix\0\0\0\x02\0\x01\0\0"
    assert footer[16:24] == b"\xff" * 8
    assert int.from_bytes(footer[24:28], "big") + 946_684_800 == EPOCH
    assert int.from_bytes(footer[40:48], "big") == int.from_bytes(footer[48:56], "big") == 30 * MIB
    assert (int.from_bytes(footer[56:58], "big"), footer[58], footer[59]) == geometry(30 * MIB // 512)
    assert int.from_bytes(footer[60:64], "big") == 2
    checksum = int.from_bytes(footer[64:68], "big")
    assert (sum(footer) - sum(footer[64:68]) + checksum) & 0xFFFFFFFF == 0xFFFFFFFF
    assert footer[68:84] == ID.bytes


@settings(deadline=None)
@given(st.integers(68, 1 << 40))
def test_a_geometry_fits_its_fields_and_is_never_larger_than_the_disk(sectors: int) -> None:
    cylinders, heads, per_track = geometry(sectors)
    assert 0 <= cylinders <= 65535 and 1 <= heads <= 16 and per_track in (17, 31, 63, 255)
    assert cylinders * heads * per_track <= sectors


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_crc32c_as_rfc_3720_has_it(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_file_has_a_form(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("file") / "x"
    path.write_bytes(content)
    assert form_of(path) in DiskForm


def test_what_cannot_be_a_disk(image: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.iso"
    plain.write_bytes(bytes(32769) + b"CD001" + bytes(MIB))
    with pytest.raises(ImageError, match="there is no partition table"):
        write_form(DiskForm.VHD, plain, tmp_path / "x", epoch=EPOCH)
    odd = tmp_path / "odd.iso"
    odd.write_bytes(image.read_bytes() + bytes(512))
    with pytest.raises(OutputError, match="whole MiB"):
        write_form(DiskForm.VHD, odd, tmp_path / "x", epoch=EPOCH)
    with pytest.raises(ImageError, match="cannot be read"):
        form_of(tmp_path / "nothing")


def read(text: str, folder: Path) -> profile.Profile:
    (folder / "p.yaml").write_text(text)
    return profile.load(folder / "p.yaml")


def test_a_profile_says_which_forms(tmp_path: Path) -> None:
    assert read("name: x\n", tmp_path).disk_forms == ()
    assert read("outputs: [vhd, iso, img, vhd]\n", tmp_path).disk_forms == ("img", "vhd")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outputs: [vhdx]", "outputs: must have iso"),
        ("outputs: []", "outputs:"),
        ("outputs: [iso, qcow2]", "outputs[1]"),
        ("outputs: vhdx", "outputs:"),
        ("outputs: [iso, vhd]\nhybrid: false", "a plain ISO is no disk"),
    ],
)
def test_forms_that_a_profile_cannot_ask_for(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read(text, tmp_path)
    assert said in caught.value.message


def test_the_plan_has_a_step_for_them_alone() -> None:
    facts = Facts(bluelift="0.1.0", epoch=EPOCH, packages=(), payload={}, templates={}, sources={})
    bare = profile.load(profile.find(None))
    plain, forms = make_plan(bare, facts), make_plan(replace(bare, disk_forms=("vhdx",)), facts)
    assert [step.name for step in forms.steps] == [*(s.name for s in plain.steps[:-1]), "disk-forms", "manifest"]
    assert forms.image_id == plain.image_id
    assert {s.name for s in plain.steps if s.id != forms.step(s.name).id} == {"manifest"}
    other = make_plan(replace(bare, disk_forms=("vhd",)), facts)
    assert other.step("disk-forms").id != forms.step("disk-forms").id
