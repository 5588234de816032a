"""Safe mode instead of a key: Windows, which its TPM unlocks, comes up without the driver that stops it.

The boot store lies on a partition that is not encrypted. There `safeboot` is set on the default loader, and
`\\Bluelift\\safe-mode.cmd` on the medium does the rest in the Windows that then starts. The store as it was is kept
beside it first; at no moment is there none that starts Windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from payload.contract import MEDIUM_FOLDER, SAFE_MODE_SCRIPT
from payload.environment import Volume, VolumeFiles, VolumePath, windows_path
from payload.environment.boot_partitions import BootPartition, BootPartitions, stores_on
from payload.formats.bcd import BcdObject, BcdStore, Element
from payload.formats.fve import FveVolume
from payload.formats.fve_entries import ProtectorKind
from payload.formats.regf import Hive, HiveError
from payload.formats.regf_log import is_ahead, numbered_after

#: SAFEBOOT_MINIMAL ("BCD Reference", BcdOSLoaderInteger_SafeBoot): no network, no third party's drivers.
_MINIMAL = 0
_KEPT = ".before-bluelift"
_LOGS = (".LOG", ".LOG1", ".LOG2")
#: No boot store comes near.
_LARGEST = 16 << 20
_LOADERS = ("\\winload.efi", "\\winload.exe")
_WITH_PIN = (ProtectorKind.TPM_PIN, ProtectorKind.TPM_PIN_STARTUP_KEY)
_WITH_STARTUP_KEY = (ProtectorKind.TPM_STARTUP_KEY, ProtectorKind.TPM_PIN_STARTUP_KEY)
_CHECK_IT = "Windows starts as before. Unlock the volume with its recovery password instead."

_BY_ITSELF = (
    "No key is needed for this: Windows unlocks the volume by itself, with the TPM, and starts in safe mode, where the "
    "driver that stops it is not loaded."
)
_LOG_IN = "You must log in there as a local administrator of this host. Without such an account, stop here."
_THEN_RUN = (
    "Then run {} from this medium as administrator. It removes the files, takes safe mode back and restarts the host. "
    "Leave the medium plugged in, but let the host start from its own disk."
)
_CHANGED = (
    "Only the setting 'safeboot' of the boot store is changed, and the store as it is now is kept beside it. By hand "
    "it is taken back in Windows with: bcdedit /deletevalue {current} safeboot"
)
_ALL_THE_SAME = "Should BitLocker ask for its recovery key all the same, only that key helps; nothing is lost."


class SafeModeRefused(Exception):
    """Safe mode was not set, and every boot store is as it was; a plain sentence, and what to do instead."""

    def __init__(self, sentence: str, advice: str = _CHECK_IT) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class BootStoreChange:
    """What was done: to which store (`partition`, a Windows-style `path`), which of its entries, by their text.

    `kept` is where the store as it was lies; empty where there was nothing to change.
    """

    partition: str
    path: str
    entry: str
    kept: str = ""


def why_no_safe_mode(metadata: FveVolume) -> str:
    """Why Windows could not unlock the volume by itself, a plain sentence; empty where safe mode can be offered."""
    if metadata.suspended or any(protector.kind.uses_tpm for protector in metadata.protectors):
        return ""
    return "No TPM unlocks this volume, so Windows in safe mode would ask for the same key."


def describe_safe_mode(metadata: FveVolume) -> tuple[str, ...]:
    """What the technician is told before safe mode is set: plain sentences, one a paragraph."""
    kinds = {protector.kind for protector in metadata.protectors}
    script = f"\\{MEDIUM_FOLDER}\\{SAFE_MODE_SCRIPT}"
    needed = []
    if kinds & set(_WITH_PIN):
        needed.append("The host still asks for its BitLocker PIN before Windows starts.")
    if kinds & set(_WITH_STARTUP_KEY):
        needed.append("The stick with its startup key must be plugged in.")
    return (_BY_ITSELF, *needed, _LOG_IN, _THEN_RUN.format(script), _CHANGED, _ALL_THE_SAME)


def set_safe_mode(environment: BootPartitions, volume: Volume) -> BootStoreChange:
    """Have the Windows that starts from the disk of `volume` come up in safe mode. Raises SafeModeRefused."""
    return _on_first_store(environment, volume, _set)


def clear_safe_mode(environment: BootPartitions, volume: Volume) -> BootStoreChange:
    """Take `set_safe_mode` back: the setting is what it was before. Raises SafeModeRefused."""
    return _on_first_store(environment, volume, _clear)


_Act = Callable[[VolumeFiles, VolumePath], tuple[str, str]]


def _on_first_store(environment: BootPartitions, volume: Volume, act: _Act) -> BootStoreChange:
    """Act on the first store of the disk that starts a Windows; why the others do not is told where none does."""
    problems: list[str] = []
    try:
        with environment.boot_partitions(volume.disk) as partitions:
            for partition in partitions:
                done = _on_partition(partition, act, problems)
                if done is not None:
                    return done
    except OSError as error:
        raise SafeModeRefused(f"The boot store cannot be changed: {error.strerror or error}.") from error
    found = "; ".join(problems)
    raise SafeModeRefused(
        f"The boot store was not changed: {found}." if found else "No boot store was found on the volume's disk."
    )


def _on_partition(partition: BootPartition, act: _Act, problems: list[str]) -> BootStoreChange | None:
    for path in stores_on(partition.files):
        try:
            entry, kept = act(partition.files, path)
        except HiveError as error:
            problems.append(f"{windows_path(path)} on {partition.name}: {error}")
            continue
        return BootStoreChange(partition=partition.name, path=windows_path(path), entry=entry, kept=kept)
    return None


def _set(files: VolumeFiles, path: VolumePath) -> tuple[str, str]:
    before = _read_store(files, path)
    store = BcdStore.read(before)
    loader = _windows_loader(store)
    if loader.number(Element.SAFE_BOOT) == _MINIMAL:
        return _name(loader), ""
    kept = _kept(path)
    files.write_file(kept, before)
    loader.set_number(Element.SAFE_BOOT, _MINIMAL)
    _write_store(files, path, store, before)
    return _name(loader), windows_path(kept)


def _clear(files: VolumeFiles, path: VolumePath) -> tuple[str, str]:
    before = _read_store(files, path)
    store = BcdStore.read(before)
    loader = _windows_loader(store)
    earlier = _earlier_setting(files, path, loader.id)
    if loader.number(Element.SAFE_BOOT) == earlier:
        return _name(loader), ""
    if earlier is None:
        loader.remove(Element.SAFE_BOOT)
    else:
        loader.set_number(Element.SAFE_BOOT, earlier)
    _write_store(files, path, store, before)
    if files.entry(_kept(path)) is not None:
        files.remove(_kept(path))
    return _name(loader), ""


def _earlier_setting(files: VolumeFiles, path: VolumePath, loader: str) -> int | None:
    """What `safeboot` was before; None where it was not set, or nothing was kept."""
    if files.entry(_kept(path)) is None:
        return None
    try:
        found = BcdStore.read(_read(files, _kept(path))).object(loader)
    except HiveError:
        return None
    return found.number(Element.SAFE_BOOT) if found else None


def _read_store(files: VolumeFiles, path: VolumePath) -> bytes:
    """The store, where nothing but it knows what is in it. Raises HiveError, OSError."""
    data = _read(files, path)
    if Hive(data).dirty:
        raise HiveError("its last change was not finished (it is dirty)")
    for suffix in _LOGS:
        log = _beside(path, suffix)
        if files.entry(log) is not None and is_ahead(_read(files, log), data):
            raise HiveError(f"its log {log[-1]} holds changes that are not in it yet")
    return data


def _windows_loader(store: BcdStore) -> BcdObject:
    loader = store.default_loader()
    if loader is None:
        raise HiveError("it does not say which Windows starts without a menu")
    path = (loader.text(Element.APPLICATION_PATH) or "").lower()
    if not path.endswith(_LOADERS):
        raise HiveError(f"what it starts without a menu is no Windows ({path or 'nothing'})")
    return loader


def _write_store(files: VolumeFiles, path: VolumePath, store: BcdStore, before: bytes) -> None:
    """Write the store beside, put it in its place, and read it back. Raises OSError, HiveError."""
    data = numbered_after(store.pack(), before)
    files.write_file(path, data)
    if _read(files, path) != data:
        files.write_file(path, before)
        raise HiveError("it did not become what was written, and was put back")


def _read(files: VolumeFiles, path: VolumePath) -> bytes:
    with files.open_file(path) as stream:
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise HiveError(f"{path[-1]} is larger than any boot store")
    return data


def _kept(path: VolumePath) -> VolumePath:
    return _beside(path, _KEPT)


def _beside(path: VolumePath, suffix: str) -> VolumePath:
    return (*path[:-1], path[-1] + suffix)


def _name(loader: BcdObject) -> str:
    return loader.text(Element.DESCRIPTION) or loader.id
