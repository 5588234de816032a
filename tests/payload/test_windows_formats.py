"""What Windows answers about machines and disks: SMBIOS tables, storage IOCTLs, controllers' names."""

from __future__ import annotations

import contextlib
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payload.formats.pci_storage import controller_kind
from payload.formats.smbios import SmbiosError, parse_raw_smbios, system_information
from payload.formats.storage_device import (
    OFFLINE,
    READ_ONLY,
    Extent,
    StorageAnswerError,
    online_for_this_session,
    parse_device_descriptor,
    parse_disk_attributes,
    parse_disk_geometry,
    parse_volume_extents,
)

_UUID = uuid.UUID("3d1219c7-c4c5-404a-aa1f-6d2a48adfda4")
_END = struct.pack("<BBH", 127, 4, 9) + b"\0\0"


def _structure(kind: int, fields: bytes, *strings: str) -> bytes:
    head = struct.pack("<BBH", kind, 4 + len(fields), kind)
    return head + fields + (b"".join(text.encode() + b"\0" for text in strings) + b"\0" if strings else b"\0\0")


def _system(raw_uuid: bytes, *strings: str, numbers: bytes = b"\1\2\0\3") -> bytes:
    return _structure(1, numbers + raw_uuid + b"\6\0\0", *strings)


def test_a_table_between_others() -> None:
    table = _structure(0, bytes(20), "Bios vendor", "1.0") + _system(_UUID.bytes_le, "ACME", "Anvil", "SN") + _END
    header = struct.pack("<BBBBI", 0, 3, 2, 0, len(table))
    assert parse_raw_smbios(header + table + b"slack") == system_information(table, version=(3, 2))


def test_what_is_around_and_inside_strings() -> None:
    table = (
        _structure(0, bytes(20), "Bios vendor", "1.0")
        + _system(_UUID.bytes_le, "ACME ", "Anvil  3000", "SN-12345")
        + _END
        + b"what follows the end is not read"
    )
    found = system_information(table, version=(3, 2))
    assert (found.manufacturer, found.product, found.serial) == ("ACME", "Anvil 3000", "SN-12345")
    assert found.uuid == str(_UUID)


def test_the_byte_order_of_the_uuid_follows_the_version() -> None:
    assert system_information(_system(_UUID.bytes, "A", "B", "C"), version=(2, 5)).uuid == str(_UUID)
    assert system_information(_system(_UUID.bytes_le, "A", "B", "C"), version=(2, 6)).uuid == str(_UUID)


@pytest.mark.parametrize("raw", [bytes(16), b"\xff" * 16])
def test_no_uuid(raw: bytes) -> None:
    found = system_information(_system(raw, numbers=b"\0\7\0\0"), version=(3, 0))
    assert (found.uuid, found.manufacturer, found.product, found.serial) == ("", "", "", "")


def test_this_machines_own_table_if_it_may_be_read() -> None:
    entry, table = Path("/sys/firmware/dmi/tables/smbios_entry_point"), Path("/sys/firmware/dmi/tables/DMI")
    try:
        head, data = entry.read_bytes(), table.read_bytes()
        product = Path("/sys/class/dmi/id/product_name").read_text().strip()
        serial = Path("/sys/class/dmi/id/product_uuid").read_text().strip().lower()
    except OSError as error:
        pytest.skip(f"no SMBIOS table to compare with the kernel's reading: {error}")
    version = (head[7], head[8]) if head.startswith(b"_SM3_") else (head[6], head[7])
    found = system_information(data, version=version)
    assert (found.product, found.uuid) == (" ".join(product.split()), serial)


@pytest.mark.parametrize("table", [b"", b"\1", _END, _structure(0, bytes(4), "x"), _system(_UUID.bytes, "x")[:-2]])
def test_tables_without_system_information(table: bytes) -> None:
    with pytest.raises(SmbiosError):
        system_information(table, version=(3, 0))


@given(st.binary(max_size=200), st.tuples(st.integers(0, 255), st.integers(0, 255)))
def test_smbios_garbage(data: bytes, version: tuple[int, int]) -> None:
    with contextlib.suppress(SmbiosError):
        system_information(data, version=version)
    with contextlib.suppress(SmbiosError):
        parse_raw_smbios(data)


def _descriptor(bus: int, *, removable: int = 0, vendor: str = "", product: str = "", serial: str = "") -> bytes:
    offsets, strings = [], b""
    for text in (vendor, product, "1.0", serial):
        offsets.append(36 + len(strings) if text else 0)
        strings += text.encode() + b"\0"
    return struct.pack("<IIBBBBIIIIII", 40, 36 + len(strings), 0, 0, removable, 0, *offsets, bus, 0) + strings


def test_a_device_descriptor() -> None:
    found = parse_device_descriptor(_descriptor(0x11, vendor="NVMe    ", product="Fast Disk  1TB", serial="  S123 "))
    assert (found.model, found.serial, found.bus, found.removable) == ("NVMe Fast Disk 1TB", "S123", "nvme", False)
    assert parse_device_descriptor(_descriptor(0x0B, vendor="ATA", product="WDC")).model == "WDC"
    stick = parse_device_descriptor(_descriptor(0x07, removable=1))
    assert (stick.model, stick.serial, stick.bus, stick.removable) == ("", "", "usb", True)
    assert parse_device_descriptor(_descriptor(0x77)).bus == ""


def test_what_wine_answers() -> None:
    """40 bytes with no strings (Wine 8, `IOCTL_STORAGE_QUERY_PROPERTY` on PhysicalDrive0)."""
    wine = bytes.fromhex("2800000028000000 0700000000000000 0000000000000000 00000000 01000000 00000000 00000000")
    assert parse_device_descriptor(wine).bus == "scsi"


def test_geometry_extents_attributes() -> None:
    assert parse_disk_geometry(struct.pack("<QIIIIq", 10000, 12, 255, 63, 512, 82252800000) + bytes(8)) == (
        82252800000,
        512,
    )
    extents = struct.pack("<I4x", 2) + struct.pack("<I4xqq", 0, 1 << 20, 1 << 30) + struct.pack("<I4xqq", 3, 7, 9)
    assert parse_volume_extents(extents) == (
        Extent(disk=0, start=1 << 20, size=1 << 30),
        Extent(disk=3, start=7, size=9),
    )
    assert parse_volume_extents(bytes(32)) == ()
    assert parse_disk_attributes(struct.pack("<IIQ", 16, 0, OFFLINE | READ_ONLY)) == 3


def test_a_disk_is_brought_online_without_remembering_it() -> None:
    version, persist, attributes, mask = struct.unpack("<IB3xQQ16x", online_for_this_session())
    assert (version, persist, attributes, mask) == (40, 0, 0, OFFLINE)


@pytest.mark.parametrize(
    "parse", [parse_device_descriptor, parse_disk_geometry, parse_volume_extents, parse_disk_attributes]
)
@given(data=st.binary(max_size=120))
def test_storage_garbage(parse: object, data: bytes) -> None:
    assert callable(parse)
    with contextlib.suppress(StorageAnswerError):
        parse(data)


@pytest.mark.parametrize(
    "answer",
    [struct.pack("<I4x", 3) + bytes(24), struct.pack("<I4x", 1 << 31)],
)
def test_extents_that_do_not_fit(answer: bytes) -> None:
    with pytest.raises(StorageAnswerError):
        parse_volume_extents(answer)


def test_controllers_names() -> None:
    assert controller_kind("8086", "9a0b", 0x04) == "Intel VMD"
    assert controller_kind("8086", "2822", 0x04) == "RAID"
    assert controller_kind("144d", "a808", 0x08) == "NVMe"
    assert controller_kind("ffff", "ffff", 0x55) == "storage"
