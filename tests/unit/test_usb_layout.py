"""How a stick is laid out: independent readers find both tables whatever its size, and the image as it is."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import ImageError, OutputError
from builder.usb.data_volume import FEWEST_SECTORS
from builder.usb.layout import DATA_PARTITION, Span, StickLayout, open_image, plan_stick
from payload.formats.partition_table import read_partition_table
from payload.formats.volume_signature import HEAD_LENGTH, VolumeKind, identify
from tests.unit.stick_maker import MIB, SIZE, make_image

ID = uuid.UUID("6f1b0d8e-0000-4000-8000-000000000291")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "image.iso")


def assembled(layout: StickLayout, image: Path, path: Path) -> Path:
    """The stick as a sparse file: everything that the layout has written."""
    with image.open("rb") as source, path.open("wb") as stick:
        stick.truncate(layout.size)
        for span in (*layout.body, layout.head):
            for chunk in span.chunks(4 * MIB):
                stick.seek(chunk.offset)
                stick.write(layout.content(source, chunk))
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(SIZE // 512, 80 * SIZE // 512), st.booleans())
def test_any_size_has_both_tables_and_the_whole_image(image: Path, tmp_path: Path, sectors: int, data: bool) -> None:
    stick = open_image(image)
    try:
        layout = plan_stick(stick, size=sectors * 512, data=data, identity=ID)
    except OutputError as error:
        assert data and "no room" in error.message
        assert sectors < SIZE // 512 + FEWEST_SECTORS + 3 * 2048
        return
    assert not any(span.offset % 512 or span.length % 512 for span in (*layout.body, layout.head))
    path = assembled(layout, image, tmp_path / "stick")
    original = image.read_bytes()
    with path.open("rb+") as made:
        for damage in (False, True):
            if damage:
                made.seek(512)
                made.write(b"\0")
            table = read_partition_table(made, sectors * 512)
            assert table is not None and table.from_backup == damage
            assert [partition.name for partition in table.partitions] == ["Bluelift", *[DATA_PARTITION] * data]
        assert table is not None
        first = table.partitions[0]
        made.seek(first.start)
        assert made.read(first.size) == original[first.start : first.start + first.size]
        for partition in table.partitions:
            made.seek(partition.start)
            assert identify(made.read(HEAD_LENGTH)) is VolumeKind.FAT32
            assert partition.start + partition.size <= sectors * 512 - 33 * 512
        assert sum(partition.size for partition in table.partitions[1:]) == layout.data


def test_nothing_that_starts_is_in_the_body(image: Path) -> None:
    layout = plan_stick(open_image(image), size=300 * MIB, data=True, identity=ID)
    assert layout.head == Span(offset=0, length=MIB)
    assert all(span.offset >= MIB for span in layout.body)
    assert layout.old_ends == (layout.head, Span(offset=299 * MIB, length=MIB))


def test_two_sticks_are_two_disks(image: Path) -> None:
    one, other = (
        plan_stick(open_image(image), size=300 * MIB, data=True, identity=uuid.UUID(int=number)) for number in (1, 2)
    )
    assert one.patches != other.patches
    again = plan_stick(open_image(image), size=300 * MIB, data=True, identity=uuid.UUID(int=1))
    assert again.patches == one.patches


def test_an_image_that_shrinks_while_it_is_read(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.iso"
    path.write_bytes(image.read_bytes())
    layout = plan_stick(open_image(path), size=SIZE, data=False, identity=ID)
    with path.open("rb+") as stream:
        stream.truncate(20 * MIB)
        with pytest.raises(ImageError, match="became shorter"):
            layout.content(stream, Span(offset=19 * MIB, length=4 * MIB))


@settings(deadline=None)
@given(st.binary(max_size=4096))
def test_garbage_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("image") / "x"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.hint
