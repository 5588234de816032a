"""Who the host is under Windows: SMBIOS, the kind of firmware, Secure Boot."""

from __future__ import annotations

import ctypes
import winreg
from ctypes import wintypes

from payload.contract import HostIdentity
from payload.environment import windows_api as api
from payload.formats.smbios import SmbiosError, parse_raw_smbios

_RSMB = int.from_bytes(b"RSMB", "big")
_NO_GUID = "{00000000-0000-0000-0000-000000000000}"
_SECURE_BOOT = r"SYSTEM\CurrentControlSet\Control\SecureBoot\State"
#: FIRMWARE_TYPE
_BIOS, _UEFI = 1, 2


def host_identity() -> HostIdentity:
    """The host's SMBIOS identity, lower-case UUID, and its firmware. Empty texts where Windows says nothing."""
    firmware = _firmware()
    secure_boot = _secure_boot() if firmware == "uefi" else False
    length = api.kernel32.GetSystemFirmwareTable(_RSMB, 0, None, 0)
    table = ctypes.create_string_buffer(max(length, 1))
    length = min(api.kernel32.GetSystemFirmwareTable(_RSMB, 0, table, length), length)
    try:
        found = parse_raw_smbios(table.raw[:length])
    except SmbiosError:
        return HostIdentity(firmware=firmware, secure_boot=secure_boot)
    return HostIdentity(
        smbios_uuid=found.uuid,
        smbios_serial=found.serial,
        manufacturer=found.manufacturer,
        product=found.product,
        firmware=firmware,
        secure_boot=secure_boot,
    )


def _firmware() -> str:
    kind = wintypes.DWORD()
    try:
        if api.kernel32.GetFirmwareType(ctypes.byref(kind)):
            return {_BIOS: "bios", _UEFI: "uefi"}.get(kind.value, "")
    except AttributeError:  # before Windows 8
        pass
    # "GetFirmwareEnvironmentVariableA function": on BIOS it fails with ERROR_INVALID_FUNCTION, whatever is asked.
    api.kernel32.GetFirmwareEnvironmentVariableW("", _NO_GUID, None, 0)
    return "bios" if ctypes.get_last_error() == api.ERROR_INVALID_FUNCTION else "uefi"


def _secure_boot() -> bool | None:
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _SECURE_BOOT) as key:
            value, _kind = winreg.QueryValueEx(key, "UEFISecureBootEnabled")
    except OSError:
        return None
    return value == 1 if isinstance(value, int) else None
