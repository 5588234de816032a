"""The drivers a recovery image carries, by name: storage, buses, keyboards, file systems, encryption.

A name is a kernel module's; one that Debian builds into its kernel counts as present. What a driver depends on comes
by itself (builder.kernel_modules).
"""

from __future__ import annotations

#: What reads and writes disks, by the hardware people name.
STORAGE: dict[str, tuple[str, ...]] = {
    "disks and CD drives": ("sd_mod", "sr_mod"),
    "NVMe": ("nvme",),
    "AHCI (SATA)": ("ahci",),
    "Intel VMD": ("vmd",),
    "IDE": ("ata_piix", "ata_generic", "pata_amd", "pata_via", "pata_atiixp", "pata_jmicron"),
    "other SATA": ("sata_nv", "sata_sil", "sata_sil24", "sata_via", "sata_sis", "sata_promise", "sata_mv", "sata_svw"),
    "virtio": ("virtio_pci", "virtio_blk", "virtio_scsi"),
    "Hyper-V": ("hv_vmbus", "hv_storvsc", "pci_hyperv"),
    "VMware and VirtualBox": ("vmw_pvscsi", "mptspi", "mptsas"),
    "Xen": ("xen_blkfront",),
    "LSI and Broadcom": ("mpt3sas", "megaraid_sas", "sym53c8xx"),
    "HPE Smart Array": ("hpsa", "smartpqi"),
    "Adaptec": ("aacraid",),
    "Intel C600": ("isci",),
    "Marvell and Areca": ("mvsas", "arcmsr"),
    "eMMC and SD": ("mmc_block", "sdhci_pci", "sdhci_acpi", "rtsx_pci_sdmmc", "rtsx_usb_sdmmc"),
    "UFS": ("ufshcd_pci",),
    "USB storage": ("usb_storage", "uas"),
}

#: What the devices above and below hang on.
BUSES: dict[str, tuple[str, ...]] = {
    "USB controllers": ("xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci"),
    "USB4 and Thunderbolt": ("thunderbolt",),
    "I2C": ("i2c_designware_platform", "i2c_designware_pci", "intel_lpss_pci", "intel_lpss_acpi", "i2c_i801"),
}

#: What a technician types on.
KEYBOARDS: dict[str, tuple[str, ...]] = {
    "PS/2": ("i8042", "atkbd"),
    "USB": ("usbhid", "hid_generic", "hid_multitouch", "hid_apple", "hid_logitech_dj", "hid_microsoft", "hid_lenovo"),
    "Hyper-V": ("hyperv_keyboard", "hid_hyperv"),
    "I2C": ("i2c_hid_acpi",),
    "Surface": ("surface_aggregator", "surface_aggregator_registry", "surface_hid", "surface_kbd"),
    "Xen and virtio": ("xen_kbdfront", "virtio_input"),
}  # fmt: skip

#: What is mounted: Windows volumes (ntfs-3g through fuse), sticks, the boot medium, and the firmware's variables.
FILE_SYSTEMS: dict[str, tuple[str, ...]] = {
    "Windows volumes": ("fuse",),
    "sticks and the EFI system partition": ("vfat", "exfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
    "the boot medium": ("isofs", "udf"),
    "firmware variables": ("efivarfs",),
}

#: What opens BitLocker volumes, and what key vaults are sealed with (AF_ALG).
ENCRYPTION: dict[str, tuple[str, ...]] = {
    "encrypted volumes": ("dm_mod", "dm_crypt", "dm_zero", "xts", "cbc", "ecb", "aesni_intel", "aes_generic"),
    "hashes": ("sha256_generic", "sha256_ssse3"),
    "sealed keys": ("algif_aead", "algif_hash", "algif_skcipher", "ccm", "gcm", "ghash_generic", "ctr", "cryptd"),
}

GROUPS = (STORAGE, BUSES, KEYBOARDS, FILE_SYSTEMS, ENCRYPTION)


def all_drivers() -> tuple[str, ...]:
    """Every driver's name, sorted."""
    return tuple(sorted({name for group in GROUPS for names in group.values() for name in names}))
