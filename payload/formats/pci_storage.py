"""PCI class 01h, mass storage: what a controller's subclass is called, and which controllers hide their disks.

Sources: PCI Code and ID Assignment Specification 1.14, class 01h; linux drivers/pci/controller/vmd.c (the ids of
Intel's Volume Management Device).
"""

from __future__ import annotations

INTEL = "8086"
SUBCLASS_RAID = 0x04
_KINDS = {
    0x00: "SCSI",
    0x01: "IDE",
    0x03: "IPI",
    0x04: "RAID",
    0x05: "ATA",
    0x06: "SATA",
    0x07: "SAS",
    0x08: "NVMe",
    0x09: "UFS",
    0x80: "storage",
}
_INTEL_VMD = frozenset({"201d", "28c0", "467f", "4c3d", "9a0b", "a77f", "7d0b", "ad0b", "b60b", "b06f"})


def controller_kind(vendor: str, product: str, subclass: int) -> str:
    """What people call a storage controller, by its lower-case PCI ids and its subclass."""
    if vendor == INTEL and product in _INTEL_VMD:
        return "Intel VMD"
    return _KINDS.get(subclass, "storage")
