"""Kernel modules: the closure of drivers, the tables for modprobe, and what is said about a driver that is missing."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from builder import drivers
from builder.errors import BaseMediaError
from builder.kernel_modules import (
    KernelModule,
    ModuleTree,
    modules_alias,
    modules_dep,
    modules_softdep,
    parse_module,
)
from tests.unit.elf_maker import kernel_module

VERSION = "6.12.0-test"
MODULES = {
    "fs/fat/fat.ko.xz": ("depends=",),
    "fs/fat/vfat.ko.xz": ("depends=fat", "alias=fs-vfat", "softdep=pre: nls_cp437 post: not-there"),
    "fs/nls/nls_cp437.ko": ("depends=",),
    "drivers/usb/storage/uas.ko.xz": ("depends=usb-storage,scsi_mod,usbcore", "alias=usb:v*ip62*"),
    "drivers/usb/storage/usb-storage.ko.xz": ("depends=usbcore,scsi_mod",),
    "drivers/usb/core/usbcore.ko.xz": ("depends=usb-common",),
    "drivers/usb/common/usb-common.ko.xz": ("depends=",),
    "drivers/scsi/scsi_mod.ko.xz": ("depends=",),
    "drivers/broken.ko.xz": ("depends=gone",),
}


def tree(root: Path, version: str = VERSION) -> ModuleTree:
    folder = root / "usr/lib/modules" / version
    for name, info in MODULES.items():
        file = folder / "kernel" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = kernel_module(*info)
        file.write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    (folder / "modules.builtin").write_text("kernel/fs/fuse/fuse.ko\nkernel/drivers/input/serio/i8042.ko\n")
    return ModuleTree(root, version)


def names(modules: list[KernelModule]) -> list[str]:
    return [module.name for module in modules]


def test_a_driver_brings_what_it_depends_on(tmp_path: Path) -> None:
    found = tree(tmp_path).closure(["uas"])
    assert names(found) == ["scsi_mod", "uas", "usb_common", "usb_storage", "usbcore"]


def test_a_soft_dependency_comes_along_where_there_is_one(tmp_path: Path) -> None:
    assert names(tree(tmp_path).closure(["vfat"])) == ["fat", "nls_cp437", "vfat"]


def test_what_is_built_in_counts_as_present(tmp_path: Path) -> None:
    assert tree(tmp_path).closure(["fuse", "i8042"]) == []


def test_dash_and_underscore_are_the_same(tmp_path: Path) -> None:
    modules = tree(tmp_path)
    assert names(modules.closure(["usb_storage"])) == names(modules.closure(["usb-storage"]))


def test_missing_drivers_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="no driver nvme, zzz"):
        tree(tmp_path).closure(["vfat", "zzz", "nvme"])


def test_a_missing_dependency_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match=r"driver broken .* needs gone"):
        tree(tmp_path).closure(["broken"])


def test_a_damaged_module_is_named(tmp_path: Path) -> None:
    modules = tree(tmp_path)
    (modules.folder / "kernel/fs/fat/fat.ko.xz").write_bytes(b"not xz")
    with pytest.raises(BaseMediaError, match=r"fat\.ko\.xz is damaged"):
        modules.closure(["vfat"])


def test_no_modules_at_all(tmp_path: Path) -> None:
    with pytest.raises(BaseMediaError, match="holds no modules"):
        ModuleTree(tmp_path, VERSION)


def test_modules_dep_lists_what_is_loaded_first_last(tmp_path: Path) -> None:
    text = modules_dep(tree(tmp_path).closure(["uas"]))
    line = next(line for line in text.splitlines() if line.startswith("kernel/drivers/usb/storage/uas.ko:"))
    order = [Path(path).stem for path in line.split(":")[1].split()]
    assert set(order) == {"usb-storage", "scsi_mod", "usbcore", "usb-common"}
    assert order.index("usb-storage") < order.index("usbcore") < order.index("usb-common")
    assert "kernel/drivers/usb/common/usb-common.ko:\n" in text
    assert ".xz" not in text


def test_a_circle_of_dependencies_ends() -> None:
    circle = [
        KernelModule(name="a", path="a.ko", data=b"", depends=("b",)),
        KernelModule(name="b", path="b.ko", data=b"", depends=("a",)),
    ]
    assert modules_dep(circle) == "a.ko: b.ko\nb.ko: a.ko\n"


def test_alias_and_softdep_tables(tmp_path: Path) -> None:
    found = tree(tmp_path).closure(["uas", "vfat"])
    assert modules_alias(found) == "alias usb:v*ip62* uas\nalias fs-vfat vfat\n"
    assert modules_softdep(found) == "softdep vfat pre: nls_cp437 post: not-there\n"


def test_a_module_is_parsed() -> None:
    data = kernel_module("depends=usb-common,x", "alias=a", "alias=b", "softdep=pre: c-d")
    module = parse_module(data, name="m", path="kernel/m.ko")
    assert module.depends == ("usb_common", "x")
    assert module.aliases == ("a", "b")
    assert module.soft_depends == ("c_d",)


PROMISED = """nvme ahci vmd ata_piix virtio_blk virtio_scsi hv_storvsc hyperv_keyboard vmw_pvscsi mptspi mptsas mpt3sas
megaraid_sas hpsa smartpqi aacraid xen_blkfront mmc_block sdhci_pci ufshcd_pci uas usb_storage xhci_pci ehci_pci
uhci_hcd usbhid i2c_hid_acpi surface_hid fuse vfat efivarfs sr_mod sd_mod"""


@pytest.mark.parametrize("driver", PROMISED.split())
def test_the_drivers_that_were_promised_are_on_the_list(driver: str) -> None:
    assert driver in drivers.all_drivers()
