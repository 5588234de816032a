"""The BCD stores of a WinPE medium: edits per profile, and complete stores made from nothing. Bytes to bytes.

A medium has two: `boot/bcd` starts winload.exe (BIOS), `efi/microsoft/boot/bcd` winload.efi (UEFI).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import BaseMediaError
from payload.formats.bcd import (
    BAD_MEMORY,
    BOOT_MANAGER,
    DEBUG_SETTINGS,
    EMS_SETTINGS,
    GLOBAL_SETTINGS,
    LOADER_SETTINGS,
    MEDIA_LOADER,
    RAMDISK_OPTIONS,
    BcdObject,
    BcdStore,
    Element,
    ObjectType,
    RamdiskDevice,
    boot_device,
)
from payload.formats.regf import HiveError
from payload.formats.regf_writer import filetime

BOOT_WIM = r"\sources\boot.wim"
BOOT_SDI = r"\boot\boot.sdi"
LONGEST_TIMEOUT = 999
LONGEST_DESCRIPTION = 128
_LEGACY_MENU, _STANDARD_MENU = 0, 1
_SHOW_ALL_FAILURES, _IGNORE_ALL_FAILURES = 0, 1


class BcdFirmware(enum.StrEnum):
    """Which of the two stores: the value is its path on the medium."""

    BIOS = "boot/bcd"
    UEFI = "efi/microsoft/boot/bcd"

    @property
    def loader(self) -> str:
        """The path of Windows's loader inside the WIM."""
        return r"\windows\system32\boot\winload." + ("efi" if self is BcdFirmware.UEFI else "exe")


@dataclass(frozen=True, kw_only=True)
class EmsPort:
    """The serial port of Emergency Management Services: 1 is COM1; `baud` in bits a second."""

    port: int = 1
    baud: int = 115200


@dataclass(frozen=True, kw_only=True)
class BcdSettings:
    """What a profile says about the boot menu; None leaves a setting as the base media have it.

    `timeout`: seconds that the menu is shown. `description`: the entry's name. `legacy_menu`: the text menu.
    `ignore_failures`: no automatic repair after a failed boot. `ems`: a port (True: COM1), or False to turn it off.
    """

    timeout: int | None = None
    description: str | None = None
    legacy_menu: bool | None = None
    ignore_failures: bool | None = None
    ems: EmsPort | bool | None = None

    @property
    def ems_port(self) -> EmsPort | None:
        """The port that EMS is to have; None where it is off, or left as it is."""
        return EmsPort() if self.ems is True else self.ems or None


@dataclass(frozen=True, kw_only=True)
class BootEntry:
    """One loader of a store: `wim` is the image it loads, None where it starts an installed system."""

    id: str
    default: bool
    description: str
    loader: str
    wim: str | None
    ems: bool


@dataclass(frozen=True, kw_only=True)
class BcdSummary:
    """A store in short, for people. `timeout` in seconds, None where the store does not say."""

    timeout: int | None
    entries: tuple[BootEntry, ...]


def settings_problems(settings: BcdSettings, *, receipt_port: int | None = 1) -> Sequence[tuple[str, str]]:
    """What is wrong with the settings, as (key, problem). `receipt_port`: where receipts go (1: COM1), or None."""
    problems: list[tuple[str, str]] = []
    if settings.timeout is not None and not 0 <= settings.timeout <= LONGEST_TIMEOUT:
        problems.append(("timeout", f"must be 0 to {LONGEST_TIMEOUT} seconds"))
    if settings.description is not None:
        text = settings.description
        if not 1 <= len(text) <= LONGEST_DESCRIPTION or not text.isprintable():
            problems.append(("description", f"must be one line of 1 to {LONGEST_DESCRIPTION} characters"))
    ems = settings.ems_port
    if ems is not None:
        if not 1 <= ems.port <= 4:
            problems.append(("ems.port", "must be 1 to 4 (COM1 to COM4)"))
        if ems.baud not in (9600, 19200, 38400, 57600, 115200):
            problems.append(("ems.baud", "must be 9600, 19200, 38400, 57600 or 115200"))
        if ems.port == receipt_port:
            problems.append(
                (
                    "ems",
                    f"EMS takes COM{ems.port}, where receipts go: they would be lost; give EMS another port",
                )
            )
    return problems


def edit_store(data: bytes, settings: BcdSettings, firmware: BcdFirmware) -> bytes:
    """The store `data` with `settings`, starting the medium's own boot.wim with the loader for `firmware`.

    Raises BaseMediaError where the store cannot be read, is dirty, or has no loader to edit.
    """
    try:
        store = BcdStore.read(data)
        loader = store.default_loader()
        manager = store.object(BOOT_MANAGER)
        if loader is None or manager is None:
            raise BaseMediaError(
                f"the base media's {firmware.value} has no boot entry for Windows PE",
                hint="Take it from a Windows install ISO or an ADK folder; Bluelift can also make one from nothing.",
            )
        if loader.ramdisk(Element.OS_DEVICE) is None:
            raise BaseMediaError(
                f"the base media's {firmware.value} starts an installed Windows, not Windows PE",
                hint="It may come from a host's own disk. Take it from a Windows install ISO or an ADK folder.",
            )
        _point_at_boot_wim(store, loader)
        loader.set_text(Element.APPLICATION_PATH, firmware.loader)
        _apply(store, manager, loader, settings)
        return store.pack()
    except HiveError as error:
        raise BaseMediaError(
            f"the base media's {firmware.value} cannot be edited: {error}",
            hint="Copy the base media again, or take the file from another Windows install ISO.",
        ) from error


def new_store(firmware: BcdFirmware, settings: BcdSettings, *, epoch: int, locale: str = "en-US") -> bytes:
    """A whole store as on install media: boot manager, settings, ramdisk options, one loader. `epoch`: seconds UTC."""
    store = BcdStore.new(written=filetime(epoch))
    manager = store.add(BOOT_MANAGER, ObjectType.BOOT_MANAGER)
    manager.set_text(Element.DESCRIPTION, "Windows Boot Manager")
    manager.set_text(Element.LOCALE, locale)
    manager.set_objects(Element.INHERIT, (GLOBAL_SETTINGS,))
    manager.set_text(Element.DEFAULT_OBJECT, MEDIA_LOADER)
    manager.set_objects(Element.DISPLAY_ORDER, (MEDIA_LOADER,))
    manager.set_number(Element.TIMEOUT, 0)
    _add_inherited_settings(store)
    options = store.add(RAMDISK_OPTIONS, ObjectType.DEVICE)
    options.set_device(Element.SDI_DEVICE, boot_device())
    options.set_text(Element.SDI_PATH, BOOT_SDI)
    loader = store.add(MEDIA_LOADER, ObjectType.LOADER)
    loader.set_text(Element.APPLICATION_PATH, firmware.loader)
    loader.set_text(Element.DESCRIPTION, "Windows PE")
    loader.set_text(Element.LOCALE, locale)
    loader.set_objects(Element.INHERIT, (LOADER_SETTINGS,))
    _point_at_boot_wim(store, loader)
    loader.set_text(Element.SYSTEM_ROOT, r"\windows")
    loader.set_flag(Element.DETECT_HAL, True)
    loader.set_flag(Element.WINPE, True)
    _apply(store, manager, loader, settings)
    return store.pack()


def summary(data: bytes) -> BcdSummary:
    """What a store boots. Raises HiveError where it is not a store."""
    store = BcdStore.read(data)
    manager, default = store.object(BOOT_MANAGER), store.default_loader()
    entries = []
    for entry in store.objects():
        if entry.type != ObjectType.LOADER:
            continue
        ramdisk = entry.ramdisk(Element.OS_DEVICE) or entry.ramdisk(Element.APPLICATION_DEVICE)
        entries.append(
            BootEntry(
                id=entry.id,
                default=default is not None and entry.id == default.id,
                description=entry.text(Element.DESCRIPTION) or "",
                loader=entry.text(Element.APPLICATION_PATH) or "",
                wim=ramdisk.path if ramdisk else None,
                ems=bool(entry.number(Element.LOADER_EMS)),
            )
        )
    return BcdSummary(timeout=manager.number(Element.TIMEOUT) if manager else None, entries=tuple(entries))


def _add_inherited_settings(store: BcdStore) -> None:
    inherited = store.add(GLOBAL_SETTINGS, ObjectType.INHERITED)
    inherited.set_objects(Element.INHERIT, (DEBUG_SETTINGS, EMS_SETTINGS, BAD_MEMORY))
    debug = store.add(DEBUG_SETTINGS, ObjectType.INHERITED)
    debug.set_number(Element.DEBUG_TYPE, 0)
    debug.set_number(Element.DEBUG_PORT, 1)
    debug.set_number(Element.DEBUG_BAUD, 115200)
    store.add(EMS_SETTINGS, ObjectType.INHERITED).set_flag(Element.EMS_ENABLED, False)
    store.add(BAD_MEMORY, ObjectType.INHERITED)
    store.add(LOADER_SETTINGS, ObjectType.INHERITED_BY_LOADERS).set_objects(Element.INHERIT, (GLOBAL_SETTINGS,))


def _point_at_boot_wim(store: BcdStore, loader: BcdObject) -> None:
    """Both of the loader's devices become boot.wim on the medium booted from; its ramdisk options stay."""
    present = loader.ramdisk(Element.OS_DEVICE)
    wanted = RamdiskDevice(path=BOOT_WIM, options=present.options if present else RAMDISK_OPTIONS)
    for element in (Element.APPLICATION_DEVICE, Element.OS_DEVICE):
        loader.set_device(element, wanted.pack())
    options = store.add(wanted.options, ObjectType.DEVICE)
    options.set_device(Element.SDI_DEVICE, boot_device())
    options.set_text(Element.SDI_PATH, BOOT_SDI)


def _apply(store: BcdStore, manager: BcdObject, loader: BcdObject, settings: BcdSettings) -> None:
    if settings.timeout is not None:
        manager.set_number(Element.TIMEOUT, settings.timeout)
    if settings.description is not None:
        loader.set_text(Element.DESCRIPTION, settings.description)
    if settings.legacy_menu is not None:
        loader.set_number(Element.BOOT_MENU_POLICY, _LEGACY_MENU if settings.legacy_menu else _STANDARD_MENU)
    if settings.ignore_failures is not None:
        policy = _IGNORE_ALL_FAILURES if settings.ignore_failures else _SHOW_ALL_FAILURES
        loader.set_number(Element.BOOT_STATUS_POLICY, policy)
    if settings.ems is not None:
        _set_ems(store, manager, loader, settings.ems_port)


def _set_ems(store: BcdStore, manager: BcdObject, loader: BcdObject, port: EmsPort | None) -> None:
    """EMS for the boot manager (through the settings it inherits) and for Windows."""
    loader.set_flag(Element.LOADER_EMS, port is not None)
    ems = store.add(EMS_SETTINGS, ObjectType.INHERITED)
    ems.set_flag(Element.EMS_ENABLED, port is not None)
    if port is None:
        return
    ems.set_number(Element.EMS_PORT, port.port)
    ems.set_number(Element.EMS_BAUD, port.baud)
    inherited = store.object(GLOBAL_SETTINGS)
    for heir in (manager, loader) if inherited is None else (inherited,):
        ids = heir.objects(Element.INHERIT)
        if EMS_SETTINGS not in ids:
            heir.set_objects(Element.INHERIT, (*ids, EMS_SETTINGS))
