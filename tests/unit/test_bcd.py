"""BCD stores: edits on real ones, stores made from nothing, and what other programs read in both."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regipy.registry import RegistryHive

from builder.bcd import BcdFirmware, BcdSettings, EmsPort, edit_store, new_store, settings_problems, summary
from builder.errors import BaseMediaError
from payload.formats.bcd import (
    BOOT_MANAGER,
    EMS_SETTINGS,
    GLOBAL_SETTINGS,
    MEDIA_LOADER,
    RAMDISK_OPTIONS,
    BcdStore,
    Element,
    ObjectType,
    RamdiskDevice,
    boot_device,
    guid_bytes,
    guid_text,
)
from payload.formats.regf import HiveError
from payload.formats.regf_writer import HiveKey, HiveTree, hive_bytes, read_tree

REAL = Path(__file__).parents[3] / "shared" / "testdata" / "hives"
EPOCH = 1_751_328_000
PLAIN = BcdSettings()
#: \\sources\\boot.wim on the boot device with the media's ramdisk options, as install media have it, byte for byte.
MEDIA_RAMDISK = bytes.fromhex(
    "c8dc1976fefad911b411000476eba25f0000000001000000a000000000000000"
    "0300000000000000000000000000000000000000000000000100000078000000"
    "05000000050000000000000048000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000000000000000"
    "5c0073006f00750072006300650073005c0062006f006f0074002e00770069006d000000"
)


def real(name: str) -> bytes:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"no real store: {path} is not there")
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def media_store(firmware: BcdFirmware = BcdFirmware.BIOS) -> bytes:
    """A store as on install media, that also boots something else."""
    store = BcdStore.read(new_store(firmware, BcdSettings(timeout=30, description="Windows Setup"), epoch=EPOCH))
    memtest = store.add("{b2721d73-1db4-4c62-bf78-c548a880142d}", ObjectType.LOADER)
    memtest.set_text(Element.DESCRIPTION, "something else")
    return store.pack()


def loader_of(data: bytes) -> dict[str, object]:
    store = BcdStore.read(data)
    loader = store.default_loader()
    assert loader is not None
    found = {Element(element).name: loader.raw(element) for element in loader.elements}
    return {"id": loader.id, **found}


def test_a_new_store_is_complete() -> None:
    for firmware, ending in ((BcdFirmware.BIOS, "exe"), (BcdFirmware.UEFI, "efi")):
        data = new_store(firmware, PLAIN, epoch=EPOCH)
        assert data == new_store(firmware, PLAIN, epoch=EPOCH) != new_store(firmware, PLAIN, epoch=EPOCH + 1)
        found = summary(data)
        (entry,) = found.entries
        assert (entry.id, entry.default, entry.wim, entry.ems) == (MEDIA_LOADER, True, r"\sources\boot.wim", False)
        assert entry.loader == rf"\windows\system32\boot\winload.{ending}"
        store = BcdStore.read(data)
        options = store.object(RAMDISK_OPTIONS)
        assert options is not None
        assert options.text(Element.SDI_PATH) == r"\boot\boot.sdi"
        assert options.raw(Element.SDI_DEVICE) == boot_device()
        # Whatever inherits from an object finds it.
        for entry_object in store.objects():
            for inherited in entry_object.objects(Element.INHERIT):
                assert store.object(inherited) is not None, (entry_object.id, inherited)


def test_the_ramdisk_element_is_install_medias() -> None:
    assert RamdiskDevice(path=r"\sources\boot.wim").pack() == MEDIA_RAMDISK
    loader = loader_of(new_store(BcdFirmware.BIOS, PLAIN, epoch=EPOCH))
    assert loader["OS_DEVICE"] == loader["APPLICATION_DEVICE"] == MEDIA_RAMDISK
    assert boot_device() == bytes(16) + bytes.fromhex("05000000000000004800000000000000") + bytes(56)


def test_device_elements_of_real_stores() -> None:
    """The recovery environment's ramdisk in a real store, and the boot device in another, as we would write them."""
    store = BcdStore.read(real("BCD.xz"))
    recovery = store.object("{733b62e6-f608-11eb-825c-c112f60133ab}")
    assert recovery is not None
    ramdisk = recovery.ramdisk(Element.OS_DEVICE)
    assert ramdisk is not None
    assert ramdisk.path == r"\Recovery\WindowsRE\Winre.wim"
    assert ramdisk.pack() == recovery.raw(Element.OS_DEVICE)
    manager = BcdStore.read(real("windeploy-BCD")).object(BOOT_MANAGER)
    assert manager is not None
    assert manager.raw(Element.APPLICATION_DEVICE) == boot_device()
    assert manager.ramdisk(Element.APPLICATION_DEVICE) is None


@pytest.mark.parametrize(
    ("settings_", "element", "raw"),
    [
        (
            BcdSettings(description="Bluelift — Rettung"),
            Element.DESCRIPTION,
            "Bluelift — Rettung\0".encode("utf-16-le"),
        ),
        (BcdSettings(legacy_menu=True), Element.BOOT_MENU_POLICY, bytes(8)),
        (BcdSettings(legacy_menu=False), Element.BOOT_MENU_POLICY, b"\1" + bytes(7)),
        (BcdSettings(ignore_failures=True), Element.BOOT_STATUS_POLICY, b"\1" + bytes(7)),
        (BcdSettings(ignore_failures=False), Element.BOOT_STATUS_POLICY, bytes(8)),
        (BcdSettings(ems=EmsPort(port=2)), Element.LOADER_EMS, b"\1"),
        (BcdSettings(ems=False), Element.LOADER_EMS, b"\0"),
    ],
)
@pytest.mark.parametrize("firmware", list(BcdFirmware))
def test_each_edit_changes_its_element_only(
    settings_: BcdSettings, element: Element, raw: bytes, firmware: BcdFirmware
) -> None:
    before = media_store(firmware)
    after = edit_store(before, settings_, firmware)
    assert loader_of(after)[element.name] == raw
    expected = loader_of(before)
    expected[element.name] = raw
    assert loader_of(after) == expected
    assert {e.description for e in summary(after).entries} >= {"something else"}
    assert edit_store(after, settings_, firmware) == after


def test_timeout_and_ems_settings() -> None:
    data = edit_store(media_store(), BcdSettings(timeout=7, ems=EmsPort(port=2, baud=57600)), BcdFirmware.BIOS)
    store = BcdStore.read(data)
    assert summary(data).timeout == 7
    ems, inherited = store.object(EMS_SETTINGS), store.object(GLOBAL_SETTINGS)
    assert ems is not None and inherited is not None
    assert [ems.number(e) for e in (Element.EMS_ENABLED, Element.EMS_PORT, Element.EMS_BAUD)] == [1, 2, 57600]
    assert inherited.objects(Element.INHERIT).count(EMS_SETTINGS) == 1
    assert summary(data).entries[0].ems
    off = BcdStore.read(edit_store(data, BcdSettings(ems=False), BcdFirmware.BIOS)).object(EMS_SETTINGS)
    assert off is not None and off.number(Element.EMS_ENABLED) == 0


def test_ems_reaches_a_store_without_global_settings() -> None:
    tree = read_tree(media_store())
    objects = tree.root.subkey("Objects")
    assert objects is not None and objects.remove(GLOBAL_SETTINGS) and objects.remove(EMS_SETTINGS)
    data = edit_store(hive_bytes(tree), BcdSettings(ems=True), BcdFirmware.BIOS)
    manager = BcdStore.read(data).object(BOOT_MANAGER)
    assert manager is not None and EMS_SETTINGS in manager.objects(Element.INHERIT)


def test_nothing_asked_for_changes_nothing() -> None:
    data = media_store(BcdFirmware.UEFI)
    assert edit_store(data, PLAIN, BcdFirmware.UEFI) == data


def test_a_store_for_another_wim_or_firmware_is_pointed_at_ours() -> None:
    store = BcdStore.read(media_store(BcdFirmware.BIOS))
    loader = store.default_loader()
    assert loader is not None
    for element in (Element.APPLICATION_DEVICE, Element.OS_DEVICE):
        loader.set_device(element, RamdiskDevice(path=r"\other\winre.wim").pack())
    data = edit_store(store.pack(), PLAIN, BcdFirmware.UEFI)
    assert data == media_store(BcdFirmware.UEFI)


def test_what_cannot_be_edited() -> None:
    dirty = bytearray(media_store())
    dirty[4] ^= 3
    with pytest.raises(BaseMediaError, match=r"boot/bcd cannot be edited.*dirty"):
        edit_store(bytes(dirty), PLAIN, BcdFirmware.BIOS)
    with pytest.raises(BaseMediaError, match="starts with 'regf'"):
        edit_store(b"MZ" * 4096, PLAIN, BcdFirmware.BIOS)
    with pytest.raises(BaseMediaError, match="not a BCD store"):
        edit_store(hive_bytes(HiveTree(root=HiveKey(name="R"))), PLAIN, BcdFirmware.BIOS)
    empty = BcdStore.new(written=0).pack()
    with pytest.raises(BaseMediaError, match="no boot entry") as caught:
        edit_store(empty, PLAIN, BcdFirmware.UEFI)
    assert caught.value.hint
    with pytest.raises(BaseMediaError, match="installed Windows, not Windows PE"):
        edit_store(real("windeploy-BCD"), PLAIN, BcdFirmware.BIOS)


@pytest.mark.parametrize(
    ("settings_", "receipt_port", "keys"),
    [
        (PLAIN, 1, []),
        (BcdSettings(ems=True), 1, ["ems"]),
        (BcdSettings(ems=True), None, []),
        (BcdSettings(ems=EmsPort(port=2)), 1, []),
        (BcdSettings(ems=EmsPort(port=2)), 2, ["ems"]),
        (BcdSettings(ems=False), 1, []),
        (BcdSettings(ems=EmsPort(port=9, baud=1)), 1, ["ems.port", "ems.baud"]),
        (BcdSettings(timeout=-1, description=""), 1, ["timeout", "description"]),
        (BcdSettings(timeout=1000, description="a\nb"), 1, ["timeout", "description"]),
        (BcdSettings(timeout=0, description="x" * 129), 1, ["description"]),
    ],
)
def test_problems(settings_: BcdSettings, receipt_port: int | None, keys: list[str]) -> None:
    found = settings_problems(settings_, receipt_port=receipt_port)
    assert [key for key, _ in found] == keys
    assert all(text for _, text in found)


def test_guids() -> None:
    raw = guid_bytes(RAMDISK_OPTIONS)
    assert raw.hex() == "c8dc1976fefad911b411000476eba25f"
    assert guid_text(raw) == RAMDISK_OPTIONS
    for wrong in ("", "7619dcc8-fafe-11d9-b411-000476eba25f", "{7619dcc8}", RAMDISK_OPTIONS.replace("a", "g")):
        with pytest.raises(ValueError, match="not a GUID"):
            guid_bytes(wrong)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=6))
def test_device_elements_never_raise(found: bytes | list[tuple[int, int]]) -> None:
    data = bytearray(MEDIA_RAMDISK) if isinstance(found, list) else bytearray(found)
    for at, byte in found if isinstance(found, list) else ():
        data[at % len(data)] = byte
    ramdisk = RamdiskDevice.unpack(bytes(data))
    assert ramdisk is None or isinstance(ramdisk.path, str)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(4096, 16383), st.binary(min_size=1, max_size=8)), max_size=10))
def test_damaged_stores_raise_only_their_own_errors(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(BASE)
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    with contextlib.suppress(HiveError):
        summary(bytes(data))
    with contextlib.suppress(BaseMediaError):
        edit_store(bytes(data), BcdSettings(timeout=1, ems=True), BcdFirmware.BIOS)


BASE = media_store()


@pytest.mark.programs
@pytest.mark.skipif(not shutil.which("hivexget"), reason="hivexget (package libhivex-bin) is not installed")
def test_hivex_reads_the_edits(tmp_path: Path) -> None:
    path = tmp_path / "bcd"
    path.write_bytes(edit_store(media_store(), BcdSettings(timeout=9, description="Mine"), BcdFirmware.BIOS))

    def element(id: str, number: Element) -> str:
        key = f"\\Objects\\{id}\\Elements\\{number:08x}"
        done = subprocess.run(["hivexget", str(path), key, "Element"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    assert element(MEDIA_LOADER, Element.DESCRIPTION) == "Mine"
    assert element(BOOT_MANAGER, Element.DEFAULT_OBJECT) == MEDIA_LOADER
    assert element(BOOT_MANAGER, Element.TIMEOUT) == "\t\0\0\0\0\0\0\0"


def test_regipy_reads_the_store(tmp_path: Path) -> None:
    path = tmp_path / "bcd"
    path.write_bytes(new_store(BcdFirmware.UEFI, BcdSettings(description="Mine"), epoch=EPOCH))
    hive = RegistryHive(str(path))
    key = hive.get_key(f"\\Objects\\{MEDIA_LOADER}\\Elements\\12000004")
    assert key.get_value("Element") == "Mine"
    assert bytes.fromhex(hive.get_key(f"\\Objects\\{MEDIA_LOADER}\\Elements\\21000001").get_value("Element").hex()) == (
        MEDIA_RAMDISK
    )
