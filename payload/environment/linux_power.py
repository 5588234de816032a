"""Leaving: Windows Boot Manager as the next boot entry, the CD out of the drive, then restart or power off.

A full reset, never a chain-load: starting Windows from here would change what the TPM measured and bring up BitLocker
recovery.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path

from payload.contract import AfterRepair
from payload.environment.linux_commands import run
from payload.environment.linux_paths import LinuxPaths
from payload.formats.efi_variables import (
    BOOT_ATTRIBUTES,
    GLOBAL_GUID,
    LoadOption,
    LoadOptionError,
    boot_next_value,
    option_number,
    parse_boot_order,
    parse_load_option,
    windows_boot_entry,
)

#: linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL.
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10
#: linux/cdrom.h: CDROM_LOCKDOOR, CDROMEJECT.
_LOCK_DOOR, _EJECT = 0x5329, 0x5309
_SYNC_SECONDS = 30.0
_POWER_SECONDS = 10.0
_COMMANDS = {AfterRepair.REBOOT: ("reboot", "b"), AfterRepair.POWER_OFF: ("poweroff", "o")}
#: An initramfs has no other root than these; anything else is somebody's running system.
_INITRAMFS = frozenset({"rootfs", "tmpfs", "ramfs"})


def is_own_machine(paths: LinuxPaths) -> bool:
    """Whether the root is an initramfs: only then does this payload decide whether the machine restarts."""
    try:
        lines = (paths.proc / "mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    kinds = [fields[2] for line in lines if len(fields := line.split()) >= 3 and fields[1] == "/"]
    return bool(kinds) and all(kind in _INITRAMFS for kind in kinds)


def set_boot_next(paths: LinuxPaths) -> bool:
    """Make Windows Boot Manager the firmware's next boot entry; whether that worked."""
    number = windows_boot_entry(_load_options(paths), _boot_order(paths))
    if number is None:
        return False
    return _write_variable(paths.efivars / f"BootNext-{GLOBAL_GUID}", boot_next_value(number))


def eject(drive: Path) -> bool:
    """Open the tray; whether the drive says that it did."""
    try:
        descriptor = os.open(drive, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _LOCK_DOOR, 0)
        fcntl.ioctl(descriptor, _EJECT, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def leave(paths: LinuxPaths, action: AfterRepair, *, patience: float = _POWER_SECONDS) -> None:
    """Restart or power off at once, by busybox and then by the kernel's own key. Returns only where neither worked.

    Does nothing on a machine that was not started from this image.
    """
    if action is AfterRepair.STAY or not is_own_machine(paths):
        return
    command, key = _COMMANDS[action]
    run(["busybox", "sync"], time_limit=_SYNC_SECONDS)
    run(["busybox", command, "-f"], time_limit=patience)
    time.sleep(patience)
    with contextlib.suppress(OSError):
        (paths.proc / "sysrq-trigger").write_text(key)


def _load_options(paths: LinuxPaths) -> dict[int, LoadOption]:
    options = {}
    try:
        entries = sorted(paths.efivars.iterdir())
    except OSError:
        return {}
    for entry in entries:
        name, _, guid = entry.name.partition("-")
        number = option_number(name)
        if number is None or guid.lower() != GLOBAL_GUID:
            continue
        with contextlib.suppress(LoadOptionError, OSError):
            options[number] = parse_load_option(entry.read_bytes()[4:])
    return options


def _boot_order(paths: LinuxPaths) -> tuple[int, ...]:
    try:
        return parse_boot_order((paths.efivars / f"BootOrder-{GLOBAL_GUID}").read_bytes()[4:])
    except OSError:
        return ()


def _write_variable(path: Path, value: bytes) -> bool:
    _clear_immutable(path)
    data = struct.pack("<I", BOOT_ATTRIBUTES) + value
    try:
        # efivarfs takes a variable whole, in one write, and cannot rename: no writing beside here.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        return os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _clear_immutable(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(4)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i", flags & ~_IMMUTABLE))
        finally:
            os.close(descriptor)
