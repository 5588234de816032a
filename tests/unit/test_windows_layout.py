"""The WinPE medium: what is on it, what boots, prompts, forms; and ISOs with UDF, read back by 7z and isoinfo."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.console import SilentStep
from builder.errors import BaseMediaError, ImageError, OutputError
from builder.extents import Extents, Joined, whole_file
from builder.media import iso_follow, iso_master
from builder.media.iso import BiosImage, IsoFile, IsoForm, IsoLayout, WrittenIso, write_iso
from builder.media.iso9660 import IsoImage, Tree
from builder.media.udf import UdfVolume
from builder.media.windows_layout import (
    BOOTFIX,
    EFISYS,
    EFISYS_NOPROMPT,
    ETFSBOOT,
    WindowsMedium,
    windows_iso_layout,
)

EPOCH = 1_751_328_000
NOISE = random.Random(291)
WIM = NOISE.randbytes(9_000_001)
EFI_IMAGE = NOISE.randbytes(1_474_560)
BIOS_IMAGE = NOISE.randbytes(4096)
FILES: dict[str, bytes | Path] = {
    "bootmgr": b"bootmgr",
    "bootmgr.efi": b"bootmgr.efi",
    "boot/boot.sdi": b"sdi" * 1000,
    "boot/bootfix.bin": b"fix",
    "boot/fonts/wgl4_boot.ttf": b"font",
    "EFI/Boot/bootx64.efi": b"MZ loader",
    "efi/microsoft/boot/SkuSiPolicy.p7b": b"never",
    "sources/boot.wim": b"the base's own",
}
FORMS = [IsoForm.BRIDGE, IsoForm.MICROSOFT]


def medium(tmp_path: Path, **changes: object) -> WindowsMedium:
    wim = tmp_path / "boot.wim"
    if not wim.exists():
        wim.write_bytes(WIM)
    values: dict[str, object] = {
        "image_id": "0123abcd",
        "image_json": b'{"image": 1}',
        "files": FILES,
        "boot_wim": wim,
        "bcd_bios": b"bios store",
        "bcd_uefi": b"uefi store",
        "bios_image": BIOS_IMAGE,
        "uefi_image": EFI_IMAGE,
        "uefi_image_noprompt": EFI_IMAGE[::-1],
    }
    return WindowsMedium(**{**values, **changes})  # type: ignore[arg-type]


def layout_of(tmp_path: Path, **changes: object) -> IsoLayout:
    return windows_iso_layout(medium(tmp_path, **changes), epoch=EPOCH)


def contents(layout: IsoLayout) -> dict[str, bytes]:
    sources = {file.path: file.source for file in layout.files}
    return {path: content for path, source in sources.items() if (content := source_bytes(source)) is not None}


def source_bytes(source: Path | bytes | Joined) -> bytes | None:
    """What a file is made of; None for what only exists once it is written."""
    return source if isinstance(source, bytes) else source.read_bytes() if isinstance(source, Path) else None


def written(tmp_path: Path, layout: IsoLayout) -> tuple[Path, WrittenIso]:
    out = tmp_path / "out.iso"
    return out, write_iso(layout, out, step=SilentStep())


def udf_files(path: Path) -> dict[str, bytes]:
    with path.open("rb") as stream:
        volume = UdfVolume(stream, path.stat().st_size)
        return {entry.path: b"".join(volume.chunks(entry)) for entry in volume.files()}


def test_what_is_on_the_medium(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    found = contents(layout)
    assert set(found) == {
        "bootmgr", "bootmgr.efi", "boot/boot.sdi", "boot/fonts/wgl4_boot.ttf", "boot/bcd", "boot/etfsboot.com",
        "efi/boot/bootx64.efi", "efi/microsoft/boot/bcd", "efi/microsoft/boot/efisys_noprompt.bin", "sources/boot.wim",
        "Bluelift/image.json", "Bluelift/0123abcd.id",
    }  # fmt: skip
    assert found["sources/boot.wim"] == WIM
    assert (found["boot/bcd"], found["efi/microsoft/boot/bcd"]) == (b"bios store", b"uefi store")
    assert (layout.bios_image, layout.uefi_image) == (ETFSBOOT, EFISYS_NOPROMPT)
    assert layout.bios_loading is BiosImage.PLAIN and layout.form is IsoForm.BRIDGE


def test_prompts(tmp_path: Path) -> None:
    asks, silent = layout_of(tmp_path, prompt=True), layout_of(tmp_path, prompt=False)
    assert BOOTFIX in contents(asks) and BOOTFIX not in contents(silent)
    assert (asks.uefi_image, silent.uefi_image) == (EFISYS, EFISYS_NOPROMPT)
    assert contents(asks)[EFISYS] == EFI_IMAGE
    assert contents(silent)[EFISYS_NOPROMPT] == EFI_IMAGE[::-1]


def test_the_files_of_2023_boot(tmp_path: Path) -> None:
    path = "efi/microsoft/boot/efisys_noprompt_ex.bin"
    layout = layout_of(tmp_path, files={**FILES, path: EFI_IMAGE}, uefi_image_path=path)
    assert layout.uefi_image == path
    assert EFISYS_NOPROMPT not in contents(layout)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": {}}, "no bootmgr or no boot/bcd|no efi/boot"),
        ({"files": {k: v for k, v in FILES.items() if k != "boot/boot.sdi"}}, "no boot/boot.sdi"),
        ({"files": {k: v for k, v in FILES.items() if k != "bootmgr"}}, "no bootmgr"),
        ({"files": {k: v for k, v in FILES.items() if k != "EFI/Boot/bootx64.efi"}}, "no efi/boot/bootx64.efi"),
        ({"files": {**FILES, "BOOTMGR": b""}}, "the same file for Windows"),
        ({"extra": {"bluelift/IMAGE.json": b""}}, "the same file for Windows"),
        ({"files": {k: v for k, v in FILES.items() if k != BOOTFIX}, "prompt": True}, "no boot/bootfix.bin"),
        ({"uefi_image_noprompt": None}, "no efi/microsoft/boot/efisys_noprompt.bin"),
        ({"uefi_image": None, "prompt": True}, "no efi/microsoft/boot/efisys.bin"),
        ({"uefi_image_path": "efi/nothing.bin"}, "no efi/nothing.bin to boot from"),
        ({"bios_image": b"short"}, "has 5 bytes; etfsboot.com has 4096"),
        ({"bios_image": None, "uefi_image": None, "uefi_image_noprompt": None}, "neither a BIOS nor a UEFI"),
        ({"bcd_uefi": None}, "no efi/microsoft/boot/bcd for UEFI"),
    ],
)
def test_a_base_that_cannot_boot(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(BaseMediaError, match=says) as caught:
        layout_of(tmp_path, **changes)
    assert caught.value.hint


@pytest.mark.parametrize("form", FORMS)
def test_every_tree_holds_every_file(tmp_path: Path, form: IsoForm) -> None:
    layout = layout_of(tmp_path, form=form)
    out, result = written(tmp_path, layout)
    assert udf_files(out) == {**contents(layout), "boot/boot.cat": udf_files(out)["boot/boot.cat"]}
    assert result.size == out.stat().st_size
    assert result.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert result.files == {p: hashlib.sha256(data).hexdigest() for p, data in contents(layout).items()}
    with out.open("rb") as stream:
        image = IsoImage(stream, result.size)
        bios, uefi = image.boot_entries()
        # Load size 8, and no boot information table in the image.
        assert (bios.platform, bios.load_size, uefi.platform) == (0, 8, 0xEF)
        assert image.read(bios.lba * 2048, 4096, "") == BIOS_IMAGE
        assert image.read(uefi.lba * 2048, len(EFI_IMAGE), "") == EFI_IMAGE[::-1]
        names = {entry.path for entry in image.files(Tree.PRIMARY)}
        if form is IsoForm.MICROSOFT:
            assert names == {"README.TXT"} and image.joliet is None
        else:
            assert {"SOURCES/BOOT.WIM", "BOOTMGR", "EFI/MICROSOFT/BOOT/BCD", "BLUELIFT/0123ABCD.ID"} < names
            assert "sources/boot.wim" in {entry.path for entry in image.files(Tree.JOLIET)}


@pytest.mark.parametrize("form", FORMS)
def test_only_one_copy_of_the_data_and_the_same_bytes_again(tmp_path: Path, form: IsoForm) -> None:
    layout = layout_of(tmp_path, form=form)
    first = written(tmp_path, layout)[0].read_bytes()
    assert first.count(WIM[:4096]) == 1
    assert len(first) < sum(map(len, contents(layout).values())) + 1_200_000
    assert written(tmp_path, layout)[0].read_bytes() == first


def test_uefi_alone(tmp_path: Path) -> None:
    out, _ = written(tmp_path, layout_of(tmp_path, bios_image=None))
    with out.open("rb") as stream:
        (entry,) = IsoImage(stream, out.stat().st_size).boot_entries()
    assert entry.platform == 0xEF


@pytest.mark.parametrize("form", list(IsoForm))
def test_a_file_that_is_put_together_from_others(tmp_path: Path, form: IsoForm) -> None:
    """Its parts go into the ISO as they are; its check sees it there, and decides."""
    noise = random.Random(291).randbytes(9_000_000)
    (tmp_path / "one").write_bytes(noise)
    (tmp_path / "two").write_bytes(noise[::-1])
    one = Extents(path=tmp_path / "one", pieces=((5, 8_500_000), (0, 3)), name="one")
    joined = Joined(parts=(whole_file(tmp_path / "two"), one, one.part(7, 11)), name="joined")
    expected = noise[::-1] + noise[5:8_500_005] + noise[:3] + noise[12:23]
    seen: list[bytes] = []
    layout = replace(
        large(tmp_path, form),
        files=(
            IsoFile(path="b", source=joined, check=lambda where: seen.append(where.read_all())),
            IsoFile(path="a", source=b"a"),
        ),
    )
    out = tmp_path / "out.iso"
    done = write_iso(layout, out, step=SilentStep())
    assert seen == [expected]
    assert done.files["b"] == hashlib.sha256(expected).hexdigest()
    assert done.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    with_file = replace(layout, files=(IsoFile(path="b", source=tmp_path / "b"), IsoFile(path="a", source=b"a")))
    (tmp_path / "b").write_bytes(expected)
    write_iso(with_file, tmp_path / "other.iso", step=SilentStep())
    assert out.read_bytes() == (tmp_path / "other.iso").read_bytes()

    def refuse(where: Extents) -> None:
        raise OutputError("not as it should be")

    refused = replace(layout, files=(IsoFile(path="b", source=joined, check=refuse),))
    with pytest.raises(OutputError, match="not as it should be"):
        write_iso(refused, tmp_path / "refused.iso", step=SilentStep())
    assert not (tmp_path / "refused.iso").exists() and not list(tmp_path.glob(".*"))


def large(tmp_path: Path, form: IsoForm = IsoForm.BRIDGE) -> IsoLayout:
    source = tmp_path / "large"
    source.write_bytes(bytes(iso_master.LARGE + 3_000_000))
    return IsoLayout(
        volume_id="T",
        files=(IsoFile(path="large", source=source), IsoFile(path="zz", source=b"z" * 5000)),
        bios_image=None,
        uefi_image=None,
        epoch=EPOCH,
        form=form,
    )


@pytest.mark.parametrize("form", list(IsoForm))
def test_a_source_that_shrinks_while_it_is_read(tmp_path: Path, form: IsoForm) -> None:
    layout = large(tmp_path, form)
    source = tmp_path / "large"

    class Cuts(SilentStep):
        def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
            if done > 4_000_000:
                with source.open("r+b") as stream:
                    stream.truncate(4_000_000)

    with pytest.raises(OutputError, match="became shorter while it was read"):
        write_iso(layout, tmp_path / "out.iso", step=Cuts())
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("form", list(IsoForm))
def test_what_arrives_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: IsoForm) -> None:
    """A disk that loses a bit of a large file, behind the writer's back."""
    append = Joined.append_to

    def loses_a_bit(self: Joined, output: int) -> None:
        append(self, output)
        os.pwrite(output, b"\1", os.lseek(output, 0, os.SEEK_CUR) - 100)

    monkeypatch.setattr(Joined, "append_to", loses_a_bit)
    with pytest.raises(OutputError, match="'large' in the ISO is not what its source held"):
        write_iso(large(tmp_path, form), tmp_path / "out.iso", step=SilentStep())
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_writer_that_goes_back_is_hashed_again(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc" * 1_000_000)
    source = iso_follow.LargeSource(Joined(parts=(whole_file(tmp_path / "source"),), name="source"))
    out = tmp_path / "out"
    with iso_follow.FollowedOutput(out) as stream:
        stream.write(b"begin")
        stream.write(source.read(2_000_000))
        stream.write(source.read())
        undisturbed = not stream.disturbed
        stream.seek(10)
        stream.write(b"xyz")
        stream.complete()
        assert undisturbed
        assert stream.disturbed
        assert stream.start_of(source) == 5
        assert stream.finish_file(source) == hashlib.sha256(out.read_bytes()[5:]).hexdigest()
        assert stream.finish() == hashlib.sha256(out.read_bytes()).hexdigest()


def test_files_of_4_gib_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as stream:
        stream.truncate(1 << 32)
    layout = IsoLayout(
        volume_id="T", files=(IsoFile(path="a", source=source),), bios_image=None, uefi_image=None, epoch=0,
        form=IsoForm.BRIDGE,
    )  # fmt: skip
    with pytest.raises(OutputError, match="smaller than 4 GiB"):
        write_iso(layout, tmp_path / "out.iso", step=SilentStep())


@pytest.mark.parametrize("form", FORMS)
def test_odd_names_survive_in_udf(tmp_path: Path, form: IsoForm) -> None:
    names = ["a b.txt", "ä/ö.txt", "Ж.txt", "n" * 200, "1/2/3/4/5/6/7/deep", "empty"]
    files = tuple(IsoFile(path=name, source=name.encode() if name != "empty" else b"") for name in names)
    layout = IsoLayout(volume_id="T", files=files, bios_image=None, uefi_image=None, epoch=0, form=form)
    out, _ = written(tmp_path, layout)
    assert udf_files(out) == {name: name.encode() if name != "empty" else b"" for name in names}


def test_names_too_long_for_udf(tmp_path: Path) -> None:
    for name, fits in (("a" * 125 + "Ж", True), ("a" * 126 + "Ж", False), ("a" * 248, True)):
        layout = IsoLayout(
            volume_id="T",
            files=(IsoFile(path=name, source=b"x"),),
            bios_image=None,
            uefi_image=None,
            epoch=0,
            form=IsoForm.BRIDGE,
        )
        with contextlib.nullcontext() if fits else pytest.raises(OutputError, match="UDF's names have at most 126"):
            assert udf_files(written(tmp_path, layout)[0]) == {name: b"x"}


@pytest.fixture(scope="module")
def small_udf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("udf") / "out.iso"
    files = tuple(IsoFile(path=path, source=path.encode()) for path in ("a/b/c", "a/d", "e"))
    layout = IsoLayout(volume_id="T", files=files, bios_image=None, uefi_image=None, epoch=0, form=IsoForm.MICROSOFT)
    write_iso(layout, out, step=SilentStep())
    return out.read_bytes()


def read_udf(data: bytes) -> dict[str, bytes]:
    volume = UdfVolume(io.BytesIO(data), len(data))
    return {entry.path: b"".join(volume.chunks(entry)) for entry in volume.files()}


def test_what_is_not_udf(small_udf: bytes) -> None:
    assert set(read_udf(small_udf)) == {"a/b/c", "a/d", "e"}
    for data in (b"", bytes(1000), bytes(600 * 2048)):
        with pytest.raises(ImageError):
            read_udf(data)
    with pytest.raises(ImageError, match="cut off"):
        read_udf(small_udf[: 262 * 2048])
    for at in range(0, len(small_udf), 2048):
        sector = small_udf[at : at + 2048]
        if sector[:2] in (b"\5\1", b"\1\1") and sector[4]:
            with pytest.raises(ImageError, match="checksum is wrong"):
                read_udf(small_udf[: at + 20] + bytes([small_udf[at + 20] ^ 1]) + small_udf[at + 21 :])


@settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(256, 300), st.integers(0, 2047), st.integers(0, 255)), max_size=8))
def test_damaged_udf_raises_nothing_but_image_error(changes: list[tuple[int, int, int]], small_udf: bytes) -> None:
    data = bytearray(small_udf)
    for sector, at, value in changes:
        if sector * 2048 + at < len(data):
            data[sector * 2048 + at] = value
    with contextlib.suppress(ImageError):
        read_udf(bytes(data))


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("7z"), reason="7z (package p7zip-full) is not installed")
@pytest.mark.parametrize("form", FORMS)
def test_7z_reads_the_udf(tmp_path: Path, form: IsoForm) -> None:
    layout = layout_of(tmp_path, form=form)
    out, result = written(tmp_path, layout)
    done = subprocess.run(
        ["7z", "x", "-y", "-tudf", f"-o{tmp_path / 'x'}", str(out)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        path.relative_to(tmp_path / "x").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "x").rglob("*")
        if path.is_file() and path.name != "boot.cat"
    }
    assert found == result.files


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("xorriso"), reason="xorriso is not installed")
def test_xorriso_reads_the_bridge(tmp_path: Path) -> None:
    out, _ = written(tmp_path, layout_of(tmp_path))
    argv = ["xorriso", "-indev", str(out), "-report_el_torito", "plain", "-find", "/", "-name", "boot.wim"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("El Torito boot img")]
    assert [(*line[6:9], line[11]) for line in lines] == [("BIOS", "y", "none", "8"), ("UEFI", "y", "none", "2880")]
    assert "boot-info-table" not in done.stdout and "'/sources/boot.wim'" in done.stdout
