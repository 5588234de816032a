"""Who the host is: SMBIOS as the kernel shows it, the kind of firmware, Secure Boot."""

from __future__ import annotations

from pathlib import Path

from payload.contract import HostIdentity
from payload.environment.linux_paths import LinuxPaths
from payload.formats.efi_variables import GLOBAL_GUID


def is_uefi(paths: LinuxPaths) -> bool:
    """Whether the firmware that started this machine is UEFI."""
    return (paths.sysfs / "firmware/efi").is_dir()


def host_identity(paths: LinuxPaths) -> HostIdentity:
    """The host's SMBIOS identity, lower-case UUID, and its firmware."""
    dmi = paths.sysfs / "class/dmi/id"
    uefi = is_uefi(paths)
    return HostIdentity(
        smbios_uuid=_text(dmi / "product_uuid").lower(),
        smbios_serial=_text(dmi / "product_serial"),
        manufacturer=_text(dmi / "sys_vendor"),
        product=_text(dmi / "product_name"),
        firmware="uefi" if uefi else "bios",
        secure_boot=_secure_boot(paths) if uefi else False,
    )


def _secure_boot(paths: LinuxPaths) -> bool | None:
    try:
        # efivarfs puts four attribute bytes before the value.
        value = (paths.efivars / f"SecureBoot-{GLOBAL_GUID}").read_bytes()[4:]
    except OSError:
        return None
    return value == b"\x01" if len(value) == 1 else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
