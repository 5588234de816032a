"""Hybrid images as others see them: a CD by xorriso, 7z and Linux, a disk by sgdisk, fsck.vfat, mtools and Linux."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.console import SilentStep
from builder.errors import OutputError
from builder.media.fat import FatFile, fat_image
from builder.media.fat_reader import FatReader
from builder.media.hybrid import disk_guid
from builder.media.iso import HybridDisk, IsoFile, IsoForm, IsoLayout, WrittenIso, write_iso
from builder.media.layout import hybrid_disk
from builder.verify.inspect import inspect_image
from payload.environment.boot_media import can_be_image_alone
from payload.formats.partition_table import read_partition_table
from payload.formats.raid_metadata import find_raid_metadata

EPOCH = 1751328000
IMAGE_ID = "0f3a"
NOISE = random.Random(291)
BIOS, UEFI = "boot/grub/eltorito.img", "boot/grub/efi.img"
FILES = {
    BIOS: NOISE.randbytes(30_001),
    UEFI: fat_image([FatFile(path="EFI/BOOT/BOOTX64.EFI", data=bytes(9000))], label="EFI", serial=1, epoch=EPOCH),
    "boot/grub/grub.cfg": b"set timeout=3\n",
    "Bluelift/vmlinuz": NOISE.randbytes(3_000_000),
    "Bluelift/initrd.img": NOISE.randbytes(2_000_001),
    "Bluelift/0f3a.id": b"",
    "EFI/BOOT/BOOTX64.EFI": NOISE.randbytes(4096),
    "some folder/" + "a very long name " * 6 + ".txt": b"long",
    "some folder/na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve.txt": b"x",
    "some folder/Same name.txt": b"1",
    "some folder/same-name.txt": b"2",
    "1/2/3/4/5/6/7/deep": b"8 levels",
}
LARGE = {"sources/boot.wim": NOISE.randbytes(9 << 20)}
ON_DISK = {path: data for path, data in {**FILES, **LARGE}.items() if path not in (BIOS, UEFI)}
FORMS = list(IsoForm)


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """A hybrid image, its form, and where its partition lies in bytes, as sgdisk says."""

    path: Path
    form: IsoForm
    written: WrittenIso
    start: int
    size: int


def tool(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(name), reason=f"{name} is not installed")


def run(*argv: str | Path, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode in ok, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


def layout(form: IsoForm, files: dict[str, bytes], folder: Path, hybrid: HybridDisk | None) -> IsoLayout:
    large = []
    for path, data in LARGE.items():
        (folder / "large").write_bytes(data)
        large.append(IsoFile(path=path, source=folder / "large"))
    return IsoLayout(
        volume_id="BLUELIFT",
        files=(*(IsoFile(path=path, source=data) for path, data in files.items()), *large),
        bios_image=BIOS,
        uefi_image=UEFI,
        epoch=EPOCH,
        form=form,
        hybrid=hybrid,
    )


def partition(path: Path) -> tuple[int, int]:
    said = run("sgdisk", "-i", "1", path)
    first, size = re.search(r"First sector: (\d+)", said), re.search(r"Partition size: (\d+)", said)
    assert first and size, said
    return int(first[1]) * 512, int(size[1]) * 512


DISK = hybrid_disk(IMAGE_ID, volume_id="BLUELIFT", tail=40_000_000)


@pytest.fixture(scope="module", params=FORMS)
def hybrid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hybrid:
    if not shutil.which("sgdisk"):
        pytest.skip("sgdisk (package gdisk) is not installed")
    folder = tmp_path_factory.mktemp("hybrid")
    path = folder / "image.iso"
    written = write_iso(layout(request.param, FILES, folder, DISK), path, step=SilentStep())
    start, size = partition(path)
    return Hybrid(path=path, form=request.param, written=written, start=start, size=size)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def expected(paths: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in sorted(paths.items())}


def without_boot_images(found: dict[str, str]) -> dict[str, str]:
    """The files that a CD shows and a disk does not: boot images, boot catalog, and what holds FAT32's tables."""
    return {
        path: digest
        for path, digest in found.items()
        if path not in (BIOS, UEFI, "README.TXT") and path.rpartition("/")[2].lower() not in ("boot.cat", "0fat32.bin")
    }


def volume_of(hybrid: Hybrid, folder: Path) -> Path:
    """The partition as a file of its own."""
    path = folder / "partition.img"
    with hybrid.path.open("rb") as whole:
        whole.seek(hybrid.start)
        path.write_bytes(whole.read(hybrid.size))
    return path


def test_sgdisk_finds_no_problem(hybrid: Hybrid) -> None:
    assert "No problems found" in run("sgdisk", "-v", hybrid.path)
    said = run("sgdisk", "-p", "-i", "1", hybrid.path)
    assert str(disk_guid(IMAGE_ID)).upper() in said
    assert "Microsoft basic data" in said
    assert hybrid.path.stat().st_size % (1 << 20) == 0


def test_winpe_takes_it_for_its_own_disk_in_a_virtual_machine(hybrid: Hybrid) -> None:
    with hybrid.path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        table = read_partition_table(stream, size)
        assert can_be_image_alone(table, find_raid_metadata(stream, size, table))


@tool("fsck.vfat")
def test_fsck_finds_nothing(hybrid: Hybrid, tmp_path: Path) -> None:
    said = run("fsck.vfat", "-n", volume_of(hybrid, tmp_path))
    assert len(said.splitlines()) == 2, said
    assert "partition.img: " in said


@tool("mcopy")
def test_mtools_copies_every_file(hybrid: Hybrid, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    volume = f"{hybrid.path}@@{hybrid.start}"
    run("mcopy", "-s", "-n", "-Q", "-i", volume, "::/*", target)
    assert digests(target) == expected(ON_DISK)
    empty = sorted(
        path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_dir() and not any(path.iterdir())
    )
    assert empty == ["Bluelift/config", "Bluelift/drivers", "Bluelift/receipts", "Bluelift/vault"]


@tool("mcopy")
@tool("fsck.vfat")
def test_the_tail_can_be_written_and_the_iso_stays_as_it_is(hybrid: Hybrid, tmp_path: Path) -> None:
    """What is put on the stick until it is full lies behind everything that the ISO shows."""
    copy, junk = tmp_path / "stick.img", tmp_path / "junk"
    shutil.copyfile(hybrid.path, copy)
    written = hybrid.written
    junk.write_bytes(NOISE.randbytes(written.free - 64 * 1024))
    run("mcopy", "-i", f"{copy}@@{hybrid.start}", junk, "::/Bluelift/vault/keys.bin")
    full = subprocess.run(
        ["mcopy", "-i", f"{copy}@@{hybrid.start}", str(junk), "::/Bluelift/drivers/more.bin"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert full.returncode != 0 and "full" in full.stderr.lower(), full
    run("fsck.vfat", "-n", volume_of(replace(hybrid, path=copy), tmp_path))
    before = {file.path: file.sha256 for file in inspect_image(hybrid.path).files}
    after = {file.path: file.sha256 for file in inspect_image(copy).files}
    changed = {path for path in before if before[path] != after[path]}
    assert changed <= {"0fat32.bin", "0FAT32.BIN"}
    assert "No problems found" in run("sgdisk", "-v", copy)


@tool("xorriso")
def test_xorriso_extracts_every_file(hybrid: Hybrid, tmp_path: Path) -> None:
    if hybrid.form is IsoForm.MICROSOFT:
        said = run("xorriso", "-indev", hybrid.path, "-find", "/", "-exec", "report_lba")
        assert "0FAT32.BIN" in said and "README.TXT" in said
        return
    target = tmp_path / "out"
    joliet = hybrid.form is IsoForm.BRIDGE
    run(
        "xorriso",
        "-read_fs",
        "norock" if joliet else "any",
        "-osirrox",
        "on",
        "-indev",
        hybrid.path,
        "-extract",
        "/",
        target,
    )
    subprocess.run(["chmod", "-R", "u+w", str(target)], check=True, timeout=60)
    found = without_boot_images(digests(target))
    # Joliet cuts the long name.
    assert sorted(found.values()) == sorted(expected(ON_DISK).values())
    if not joliet:
        assert found == expected(ON_DISK)
    shown = (target / "0fat32.bin").exists()
    assert shown is (not joliet)


@tool("7z")
@pytest.mark.parametrize("what", ["cd", "disk"])
def test_7z_extracts_every_file(hybrid: Hybrid, tmp_path: Path, what: str) -> None:
    target = tmp_path / "out"
    kind = "fat" if what == "disk" else "udf" if hybrid.form.udf else "iso"
    archive = volume_of(hybrid, tmp_path) if what == "disk" else hybrid.path
    # 1: a warning, here about what follows the ISO's own end.
    run("7z", "x", f"-t{kind}", f"-o{target}", "-y", archive, ok=(0, 1))
    shutil.rmtree(target / "[BOOT]", ignore_errors=True)
    found = without_boot_images(digests(target))
    # Of an ISO, 7z shows the names of Joliet, which cuts the long one.
    assert sorted(found.values()) == sorted(expected(ON_DISK).values())
    assert kind == "iso" or found == expected(ON_DISK)


def can_loop() -> str:
    if os.geteuid() != 0:
        return "needs root"
    done = subprocess.run(["losetup", "-f"], capture_output=True, check=False, timeout=20)
    return "" if done.returncode == 0 else "there are no loop devices"


_WHY_NOT = can_loop() if shutil.which("losetup") else "losetup is not installed"


@contextmanager
def mounted(source: Path, target: Path, kind: str, options: str) -> Iterator[Path]:
    target.mkdir()
    done = subprocess.run(
        ["mount", "-t", kind, "-o", f"loop,{options}", str(source), str(target)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode and "unknown filesystem" in done.stderr:
        pytest.skip(f"this kernel has no {kind}")
    assert done.returncode == 0, done.stderr
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=60)


@pytest.mark.mounts
@pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
def test_linux_mounts_it_as_cd_and_as_disk(hybrid: Hybrid, tmp_path: Path) -> None:
    options = f"ro,utf8,offset={hybrid.start},sizelimit={hybrid.size}"
    with mounted(hybrid.path, tmp_path / "vfat", "vfat", options) as root:
        assert digests(root) == expected(ON_DISK)
    kind = "udf" if hybrid.form.udf else "iso9660"
    with mounted(hybrid.path, tmp_path / "cd", kind, "ro") as root:
        assert without_boot_images(digests(root)) == expected(ON_DISK)
    if hybrid.form.udf:
        last = hybrid.path.stat().st_size // 2048 - 1
        with mounted(hybrid.path, tmp_path / "anchor", "udf", f"ro,anchor={last}") as root:
            assert without_boot_images(digests(root)) == expected(ON_DISK)


@pytest.mark.mounts
@pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)
def test_linux_writes_a_receipt_that_mtools_reads(hybrid: Hybrid, tmp_path: Path) -> None:
    copy = tmp_path / "stick.img"
    shutil.copyfile(hybrid.path, copy)
    options = f"rw,sync,offset={hybrid.start},sizelimit={hybrid.size}"
    with mounted(copy, tmp_path / "vfat", "vfat", options) as root:
        (root / "Bluelift/receipts/HOST-1.json").write_text('{"verdict": "repaired"}\n')
    assert run("mtype", "-i", f"{copy}@@{hybrid.start}", "::/Bluelift/receipts/HOST-1.json").startswith('{"verdict"')
    run("fsck.vfat", "-n", volume_of(replace(hybrid, path=copy), tmp_path))


def test_inspect_shows_the_disk(hybrid: Hybrid) -> None:
    report = inspect_image(hybrid.path)
    assert not [note for note in report.notes if "Joliet" in note or "artition" in note], report.notes
    assert report.disk is not None and report.disk.table == "GPT"
    assert report.disk.bios_starts == "a sentence: UEFI only"
    (part,) = report.disk.partitions
    assert (part.name, part.type, part.start) == ("Bluelift", "Microsoft basic data", hybrid.start)
    assert part.volume is not None
    assert (part.volume.kind, part.volume.label) == ("FAT32", "BLUELIFT")
    assert (part.volume.files, part.volume.shared) == (len(ON_DISK), len(ON_DISK))
    assert part.volume.free == hybrid.written.free >= DISK.tail


def test_inspect_sees_a_file_that_is_no_longer_the_isos(hybrid: Hybrid, tmp_path: Path) -> None:
    copy, other = tmp_path / "stick.img", tmp_path / "other"
    shutil.copyfile(hybrid.path, copy)
    other.write_bytes(b"another kernel")
    run("mcopy", "-o", "-i", f"{copy}@@{hybrid.start}", other, "::/Bluelift/vmlinuz")
    report = inspect_image(copy)
    assert report.disk is not None and report.disk.partitions[0].volume is not None
    assert report.disk.partitions[0].volume.shared == len(ON_DISK) - 1


@pytest.mark.parametrize("form", FORMS)
def test_it_costs_little_and_is_the_same_each_time(form: IsoForm, tmp_path: Path) -> None:
    files = {**FILES, "Bluelift/initrd.img": NOISE.randbytes(16 << 20)}
    disk = replace(DISK, tail=32_000_000)
    plain = write_iso(layout(form, files, tmp_path, None), tmp_path / "plain.iso", step=SilentStep())
    first = write_iso(layout(form, files, tmp_path, disk), tmp_path / "a.iso", step=SilentStep())
    again = write_iso(layout(form, files, tmp_path, disk), tmp_path / "b.iso", step=SilentStep())
    disk = replace(disk, image_id="other")
    other = write_iso(layout(form, files, tmp_path, disk), tmp_path / "c.iso", step=SilentStep())
    assert first.sha256 == again.sha256 != other.sha256
    assert first.sha256 == hashlib.sha256((tmp_path / "a.iso").read_bytes()).hexdigest()
    assert plain.files == first.files
    # Whole MiB are not counted: what is left over beside them is free too, but not in a whole cluster.
    assert first.size - first.free - plain.size <= plain.size * 0.02 + 2048
    assert 32_000_000 <= first.free <= 48_000_000 + (1 << 20)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a:b", "a FAT volume cannot hold 'a:b'"),
        ("ends in a dot.", "ends in a dot"),
        ("some folder/same NAME.txt", "differ only in case"),
        ("00", "'00' would lie before the FAT32 volume"),
    ],
)
def test_what_fat32_cannot_hold_is_refused(name: str, message: str, tmp_path: Path) -> None:
    files = {**FILES, name: b"x"}
    with pytest.raises(OutputError) as caught:
        write_iso(layout(IsoForm.ROCK_RIDGE, files, tmp_path, DISK), tmp_path / "a.iso", step=SilentStep())
    assert message in caught.value.message
    assert caught.value.hint and "hybrid: false" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]
    write_iso(layout(IsoForm.ROCK_RIDGE, files, tmp_path, None), tmp_path / "a.iso", step=SilentStep())


def test_a_file_of_4_gib_is_refused(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(1 << 32)
    plan = layout(IsoForm.ROCK_RIDGE, FILES, tmp_path, DISK)
    plan = replace(plan, files=(*plan.files, IsoFile(path="sources/install.wim", source=huge)))
    with pytest.raises(
        OutputError, match=r"'sources/install\.wim' has 4294967296 bytes; .* at most 4294967295"
    ) as caught:
        write_iso(plan, tmp_path / "a.iso", step=SilentStep())
    assert caught.value.hint and "hybrid: false" in caught.value.hint


@pytest.mark.parametrize("form", FORMS)
def test_a_tail_that_is_too_small_is_refused_and_the_hint_is_enough(form: IsoForm, tmp_path: Path) -> None:
    small = layout(form, FILES, tmp_path, replace(DISK, tail=1_000_000))
    with pytest.raises(OutputError, match="too few clusters for a FAT32 volume") as caught:
        write_iso(small, tmp_path / "a.iso", step=SilentStep())
    wanted = re.search(r"tail: (\d+) MB", caught.value.hint or "")
    assert wanted, caught.value.hint
    enough = replace(small, hybrid=replace(DISK, tail=int(wanted[1]) * 1_000_000))
    written = write_iso(enough, tmp_path / "a.iso", step=SilentStep())
    assert written.free <= int(wanted[1]) * 1_500_000
    start, size = partition(tmp_path / "a.iso")
    with (tmp_path / "a.iso").open("rb") as stream:
        assert FatReader(stream, start=start, size=size).bpb.cluster_bytes == 512


LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co"), exclude_characters='"*/:<>?\\|')
NAME = st.text(LETTERS, min_size=1, max_size=30).filter(
    lambda name: name.isprintable() and not name.endswith((" ", ".")) and name.lower() not in ("boot", "sources")
)
SIZE = st.sampled_from((0, 1, 511, 512, 513, 2047, 2048, 2049, 70_000))
TREES = st.dictionaries(
    st.lists(NAME, min_size=1, max_size=6).map("/".join),
    SIZE.flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    min_size=1,
    max_size=12,
)
CLUSTERS = {30_000_000: 512, 60_000_000: 1024, 124_000_000: 2048}


@tool("mdir")
@tool("fsck.vfat")
@given(tree=TREES, form=st.sampled_from(FORMS), tail=st.sampled_from(sorted(CLUSTERS)))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_tree_comes_back_through_both_views(
    tree: dict[str, bytes], form: IsoForm, tail: int, tmp_path: Path
) -> None:
    """Names, depth, sizes and cluster sizes: what is refused is refused as OutputError, the rest is the same twice."""
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    image = folder / "image.iso"
    boot = {path: FILES[path] for path in (BIOS, UEFI)}
    try:
        write_iso(layout(form, {**tree, **boot}, folder, replace(DISK, tail=tail)), image, step=SilentStep())
    except OutputError:
        shutil.rmtree(folder)
        return
    start, size = partition(image)
    with image.open("rb") as stream:
        volume = FatReader(stream, start=start, size=size)
        found = {}
        for entry in volume.entries():
            if not entry.is_folder:
                stream.seek(entry.pieces[0][0] if entry.pieces else 0)
                found[entry.path] = stream.read(entry.size)
        assert volume.bpb.cluster_bytes == CLUSTERS[tail]
    assert found == {**tree, **LARGE}
    report = inspect_image(image)
    assert report.disk is not None and report.disk.partitions[0].volume is not None
    assert report.disk.partitions[0].volume.shared == len(tree) + len(LARGE)
    hybrid = Hybrid(path=image, form=form, written=WrittenIso(size=0, sha256="", files={}), start=start, size=size)
    run("fsck.vfat", "-n", volume_of(hybrid, folder))
    listed = run("mdir", "-/", "-b", "-i", f"{image}@@{start}", "::/")
    assert len(listed.splitlines()) >= len(tree)
    shutil.rmtree(folder)
