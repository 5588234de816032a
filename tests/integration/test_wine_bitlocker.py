"""BitLocker on the Windows side, under Wine: the image's own chain against a stand-in manage-bde, Wine's bcrypt.dll.

A locked volume is a file with a true BitLocker volume's first megabytes; manage-bde makes it a folder. What is not
proven: Windows's own BitLocker, what its filter lets through, and IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS, which Wine
lacks; so the metadata is read from the volume here, and from a physical disk only by `python` below.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.cache import Cache, default_folder
from builder.console import PlainConsole
from builder.freeze_wine import RUNTIME_OVERRIDES
from builder.frozen import FrozenPayload
from builder.keys.cipher import OpenSslCipher
from builder.verify import leaks
from builder.verify.bitlocker import BitLockerPlan, BitLockerVolume, format_volume, make_room, seeded
from builder.verify.windows_tree import Fate, broken_windows, data_volume
from builder.verify.wine_run import WineBoot, WineLock, WineMachine, WineVolume, name_volume, winpe_machine
from builder.verify.wine_stand_ins import CALLS, manage_bde_says
from builder.windows_python import fetch, lay_out_pinned_python, write_search_path
from builder.wine import WinePrefix
from payload.contract import BUILT_IN_RULES, AfterRepair, Ending, PayloadConfig, Receipt, Verdict, VolumeRecord
from payload.formats import recovery_password
from payload.formats.bcd import BcdStore, Element
from payload.formats.fve_entries import ProtectorKind
from payload.formats.records import to_json
from payload.formats.vault import LEAST_ROUNDS, VaultHeader, VaultRecord, derive_keys, read_header, write_vault
from tests.integration.test_wine_run import make_fat, make_image
from tests.payload.linux_fakes import MIB
from tests.payload.test_safe_mode import LOADER, made_store
from tests.winpe_builds import lacking

_PROGRAMS = ("mkntfs", "ntfscp", "mkfs.fat")
_MISSING = [lacking(), *(f"{name} is not installed" for name in _PROGRAMS if not shutil.which(name))]
pytestmark = pytest.mark.skipif(any(_MISSING), reason=", ".join(filter(None, _MISSING)))

PASSPHRASE = "bonu titro fedko sulip nedro"
#: What manage-bde says in German and in Japanese, in the code pages of their consoles.
GERMAN = {
    "done": 'Das Kennwort hat das Volume "D:" erfolgreich entsperrt.\r\n'.encode("cp850"),
    "refused": "FEHLER: Das angegebene Kennwort ist für dieses Volume ungültig.\r\n".encode("cp850"),
}
JAPANESE = {
    "done": "パスワードは、ボリューム D: のロックを正常に解除しました。\r\n".encode("cp932"),
    "refused": "エラー: 入力された回復パスワードを認証できませんでした。\r\n".encode("cp932"),
}
CONFIG = PayloadConfig(
    image_id="0123-abcd",
    rules=BUILT_IN_RULES,
    # As by default, but at once: what needs a key and has nobody at it is powered off, all else waits for somebody.
    ending=Ending(otherwise=AfterRepair.STAY, countdown=0),
    disk_wait=2,
    key_wait=1,
    shell=False,
)
VOLUME_D = "\\\\?\\Volume{00000000-0000-0000-0000-000000000044}\\"


@pytest.fixture(scope="session")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> BitLockerVolume:
    """A BitLocker volume with a TPM, a recovery password and a startup key."""
    folder = tmp_path_factory.mktemp("encrypted")
    ntfs = folder / "ntfs"
    with ntfs.open("wb") as stream:
        stream.truncate(16 * MIB)
    subprocess.run(["mkntfs", "-q", "-F", ntfs], check=True, capture_output=True, timeout=60)
    kinds = (ProtectorKind.TPM, ProtectorKind.RECOVERY_PASSWORD, ProtectorKind.STARTUP_KEY)
    room = make_room(ntfs)
    return format_volume(ntfs, folder / "volume", BitLockerPlan(protectors=kinds), room=room, random=seeded(b"wine"))


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What opens the volume, as it lies on media."""

    guid: str
    password: str
    startup_name: str
    startup_key: bytes

    @property
    def vault(self) -> bytes:
        """A vault with this key and another one's."""
        header = VaultHeader(rounds=LEAST_ROUNDS, salt=b"\x5a" * 32, records=0, written=1)
        record = VaultRecord(key_id=_guid_bytes(self.guid), recovery_key=recovery_password.parse(self.password))
        records = [record, VaultRecord(key_id=bytes(16), recovery_key=bytes(16))]
        cipher = OpenSslCipher()
        return b"".join(write_vault(records, header, derive_keys(PASSPHRASE, header, cipher), cipher))


def _guid_bytes(text: str) -> bytes:
    raw = bytes.fromhex(text.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


@pytest.fixture(scope="session")
def keys(encrypted: BitLockerVolume) -> Keys:
    ((guid, password),) = encrypted.recovery_passwords.items()
    ((name, content),) = encrypted.startup_key_files.items()
    return Keys(guid=guid, password=password, startup_name=name, startup_key=content)


@pytest.fixture
def machine(tmp_path: Path, frozen: FrozenPayload) -> Iterator[WineMachine]:
    with winpe_machine(tmp_path / "machine", make_image(tmp_path / "image", frozen, CONFIG)) as made:
        made.attach(WineVolume(letter="C", tree=data_volume(), label="Data"))
        yield made


def attach_locked(machine: WineMachine, sectors: Path, *opens: str | bytes, letter: str = "D") -> None:
    """A locked volume with a broken Windows inside."""
    lock = WineLock(sectors=sectors.read_bytes(), keys=opens)
    machine.attach(WineVolume(letter=letter, tree=broken_windows(), label="Windows", lock=lock))


def attach_stick(machine: WineMachine, letter: str, files: dict[str, bytes], scratch: Path) -> None:
    """A FAT volume; of USB and of disks Wine knows nothing."""
    machine.attach(WineVolume(letter=letter, tree=replace(data_volume(), files=(), directories=(), junctions=())))
    make_fat(machine, letter.lower(), scratch / f"{letter}.img", label=f"STICK-{letter}")
    for name, content in files.items():
        path = machine.root(letter).joinpath(*name.split("\\"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def record_of(receipt: Receipt, id: str = "D:") -> VolumeRecord:
    return next(volume for volume in receipt.volumes if volume.id == id)


def assert_kept_secret(machine: WineMachine, boot: WineBoot, keys: Keys, scratch: Path) -> None:
    """Nowhere but where the test itself put them: sticks, and the stand-in's own files.

    In what the boot wrote: passwords, the passphrase and every key derived of it, in all forms that `verify
    --bitlocker` looks for; in all else, which is much, the plainest of them.
    """
    booted = time.time() - boot.seconds - 5
    ours = {machine.image / CALLS, *(machine.image / "stand-ins").iterdir()}
    secrets = leaks.of_password(keys.password, keys.guid) | leaks.of_vault(read_header(keys.vault), PASSPHRASE)
    secrets |= leaks.of_key(keys.startup_key[-32:], keys.startup_name)
    for said in (boot.output, boot.log):
        assert not any(form in said.encode("utf-8", "replace") for form in secrets.forms)
    plainest = (keys.password, keys.password.replace("-", ""), PASSPHRASE, recovery_password.parse(keys.password).hex())
    needles = [secret.encode(form) for secret in plainest for form in ("ascii", "utf-16-le")]
    for path in scratch.rglob("*"):
        stick = any(path.is_relative_to(machine.root(letter)) for letter in "EF")
        if path.is_symlink() or not path.is_file() or path in ours or stick:
            continue
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path
        assert keys.startup_key not in content, path
        if path.stat().st_mtime >= booted:
            assert leaks.leaks_in(path, secrets) == (), path
    if any("-RecoveryPassword" in call for call in boot.calls):
        assert leaks.leaks_in(machine.image / CALLS, secrets), "what was looked for can be found"


def calls_of(boot: WineBoot) -> list[str]:
    return [call for call in boot.calls if call.startswith("manage-bde")]


# --- the image's own chain -------------------------------------------------------------------------------------------


def test_a_vault_on_a_stick_opens_the_volume_and_it_is_locked_again(
    machine: WineMachine, encrypted: BitLockerVolume, keys: Keys, tmp_path: Path
) -> None:
    manage_bde_says(machine.image, **GERMAN)
    attach_locked(machine, encrypted.path, keys.password)
    attach_stick(machine, "E", {"Bluelift\\vault\\all.vault": keys.vault}, tmp_path)
    attach_stick(machine, "F", {"Bluelift\\passphrase.txt": PASSPHRASE.encode()}, tmp_path)
    boot = machine.boot()
    assert boot.code == Verdict.REPAIRED.exit_code, boot.log
    assert calls_of(boot) == [
        f"manage-bde -unlock {VOLUME_D} -RecoveryPassword {keys.password}",
        f"manage-bde -lock {VOLUME_D}",
    ]
    assert boot.calls[-1] == "wpeutil reboot"
    assert machine.is_locked("D")
    assert machine.differences("D") == ()
    (receipt,) = machine.receipts("D")
    record = record_of(receipt)
    assert (record.verdict, record.unlocked_by, record.key_ids) == (Verdict.REPAIRED, "vault", (keys.guid,))
    assert_kept_secret(machine, boot, keys, tmp_path)


def test_a_startup_key_on_a_stick_opens_the_volume(
    machine: WineMachine, encrypted: BitLockerVolume, keys: Keys, tmp_path: Path
) -> None:
    manage_bde_says(machine.image, **JAPANESE)
    attach_locked(machine, encrypted.path, keys.startup_key)
    attach_stick(machine, "E", {keys.startup_name: keys.startup_key}, tmp_path)
    boot = machine.boot()
    assert boot.code == Verdict.REPAIRED.exit_code, boot.log
    unlock, lock = calls_of(boot)
    assert unlock.startswith(f"manage-bde -unlock {VOLUME_D} -RecoveryKey ") and unlock.endswith(".BEK")
    assert lock == f"manage-bde -lock {VOLUME_D}"
    assert machine.is_locked("D")
    assert machine.differences("D") == ()
    assert record_of(machine.receipts("D")[0]).unlocked_by == "startup key"
    assert_kept_secret(machine, boot, keys, tmp_path)


@pytest.mark.parametrize("language", [GERMAN, JAPANESE], ids=["German", "Japanese"])
def test_a_key_that_is_refused_leaves_the_volume_as_it_is(
    machine: WineMachine, encrypted: BitLockerVolume, keys: Keys, tmp_path: Path, language: dict[str, bytes]
) -> None:
    """The password was replaced since: manage-bde says so in its language and ends with -1."""
    manage_bde_says(machine.image, **language)
    attach_locked(machine, encrypted.path, "000000-" * 7 + "000011")
    csv = f"KeyID,RecoveryKey\r\n{keys.guid},{keys.password}\r\n".encode()
    identity = json.dumps({"image_id": CONFIG.image_id}).encode()
    attach_stick(machine, "E", {"Bluelift\\vault\\keys.csv": csv, "Bluelift\\image.json": identity}, tmp_path)
    boot = machine.boot()
    assert boot.code == Verdict.NEEDS_A_KEY.exit_code, boot.log
    assert len(calls_of(boot)) == 1
    assert boot.calls[-1] == "wpeutil shutdown"
    assert machine.is_locked("D")
    assert machine.receipts("D") == ()
    (receipt,) = (machine.root("E") / "Bluelift" / "receipts").glob("*.json")
    assert "A key was refused (plain CSV" in receipt.read_text()
    assert keys.password not in receipt.read_text()
    assert_kept_secret(machine, boot, keys, tmp_path)


def test_one_of_two_volumes_has_no_key(
    machine: WineMachine, encrypted: BitLockerVolume, keys: Keys, tmp_path: Path
) -> None:
    """Both are the same volume to Wine, so both keys are tried; only D: is unlocked by it."""
    attach_locked(machine, encrypted.path, keys.password)
    attach_locked(machine, encrypted.path, "000000-" * 7 + "000011", letter="G")
    attach_stick(machine, "E", {"Bluelift\\vault\\all.vault": keys.vault}, tmp_path)
    attach_stick(machine, "F", {"Bluelift\\passphrase.txt": PASSPHRASE.encode()}, tmp_path)
    boot = machine.boot()
    assert boot.code == Verdict.NEEDS_A_KEY.exit_code, boot.log
    assert machine.is_locked("D") and machine.is_locked("G")
    assert machine.differences("D") == ()
    (receipt,) = machine.receipts("D")
    assert record_of(receipt).verdict is Verdict.REPAIRED
    assert machine.receipts("G") == ()
    assert_kept_secret(machine, boot, keys, tmp_path)


def test_without_manage_bde_it_is_said_what_the_image_lacks(
    machine: WineMachine, encrypted: BitLockerVolume, keys: Keys, tmp_path: Path
) -> None:
    attach_locked(machine, encrypted.path, keys.startup_key)
    attach_stick(machine, "E", {keys.startup_name: keys.startup_key}, tmp_path)
    (machine.image / "Windows/System32/manage-bde.exe").unlink()
    # Nobody is asked for a key that is there, so it is not known whether anybody is: the profile says what then.
    config = replace(CONFIG, ending=replace(CONFIG.ending, otherwise=AfterRepair.POWER_OFF))
    (machine.image / "Bluelift/config.json").write_text(json.dumps(to_json(config)))
    boot = machine.boot()
    assert boot.code == Verdict.NEEDS_A_KEY.exit_code, boot.log
    assert "this image has no manage-bde.exe" in " ".join(boot.log.split())
    assert boot.calls[-1] == "wpeutil shutdown"
    assert machine.is_locked("D")
    assert_kept_secret(machine, boot, keys, tmp_path)


# --- the Windows calls by themselves ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def windows_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python that the payload is frozen with, and the payload's source, on a drive W:."""
    folder = tmp_path_factory.mktemp("python")
    cache = Cache(default_folder())
    console = PlainConsole(out=sys.stdout, err=sys.stderr)
    with cache.locked(console.notice), console.step("Python for Windows") as step:
        fetch(cache.area("windows-python"), offline=False, with_python=True, step=step)
        lay_out_pinned_python(cache.area("windows-python"), folder / "python")
    write_search_path(folder / "python", "..\\source")
    source = Path(__file__).parents[2] / "payload"
    shutil.copytree(source, folder / "source" / "payload", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def python(windows_python: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Runs a script under Wine with the payload's modules; what it printed. `tmp_path` is drive T:."""
    prefix = WinePrefix(folder=tmp_path / "prefix", overrides=RUNTIME_OVERRIDES)
    prefix.make()
    prefix.map_drive("W", windows_python)
    prefix.map_drive("T", tmp_path)
    name_volume(prefix, "T", tmp_path)

    def run(script: str) -> str:
        (tmp_path / "script.py").write_text(script)
        argv = ["W:\\python\\python.exe", "T:\\script.py"]
        done = prefix.run(argv, reason="try the payload's Windows side", time_limit=120, cwd=tmp_path, ok=range(256))
        assert done.returncode == 0, done.text
        return done.text.replace("\r\n", "\n")

    with prefix.started():
        yield run


def test_a_vault_opens_through_bcrypt_dll(python: Callable[[str], str], keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "a.vault").write_bytes(keys.vault)
    changed = bytearray(keys.vault)
    changed[-1] ^= 1
    (tmp_path / "b.vault").write_bytes(changed)
    said = python(f"""
from payload.environment.windows_cipher import WindowsCipher
from payload.formats.vault import open_vault, VaultDamaged, WrongPassphrase
with open("T:/a.vault", "rb") as stream:
    vault = open_vault(stream, " {PASSPHRASE} ", WindowsCipher())
    print(vault.find(bytes.fromhex("{_guid_bytes(keys.guid).hex()}")).recovery_key.hex())
    print(vault.find(b"no such key id!!"), len(list(vault.records())))
for name, passphrase in (("a", "wrong"), ("b", "{PASSPHRASE}")):
    try:
        with open(f"T:/{{name}}.vault", "rb") as stream:
            list(open_vault(stream, passphrase, WindowsCipher()).records())
    except (VaultDamaged, WrongPassphrase) as error:
        print(type(error).__name__)
""")
    key = recovery_password.parse(keys.password).hex()
    assert said.split("\n")[:-1] == [key, "None 2", "WrongPassphrase", "VaultDamaged"]


def test_the_metadata_is_read_from_the_physical_disk(
    python: Callable[[str], str], encrypted: BitLockerVolume, tmp_path: Path
) -> None:
    """At the partition's offset, in whole sectors, also where the volume itself shows nothing."""
    offset = 3 * MIB
    (tmp_path / "disk").write_bytes(bytes(offset) + encrypted.path.read_bytes())
    (tmp_path / "prefix/dosdevices/physicaldrive7").symlink_to(tmp_path / "disk")
    said = python(f"""
from payload.environment.windows_bitlocker import read_metadata
from payload.environment.windows_volumes import SeenVolume
from payload.formats.storage_device import Extent
def seen(*extents):
    root = "\\\\\\\\?\\\\Volume{{gone}}\\\\"
    return SeenVolume(root=root, drive_type=3, letters=(), label="", file_system="", flags=0, size=0, extents=extents)
found = read_metadata(seen(Extent(disk=7, start={offset}, size={encrypted.path.stat().st_size})))
print(found.guid, found.description, *(p.guid for p in found.recovery_passwords))
for extents in ((Extent(disk=8, start=0, size=512),), (Extent(disk=7, start=0, size=1 << 20),), ()):
    try:
        read_metadata(seen(*extents))
    except Exception as error:
        print(type(error).__name__)
""")
    first, *errors = said.split("\n")[:-1]
    assert first == f"{encrypted.guid} {encrypted.plan.description} {next(iter(encrypted.recovery_passwords))}"
    assert errors == ["FileNotFoundError", "FveError", "FileNotFoundError"]


def test_what_interrupts_unlocking_leaves_nothing_open(python: Callable[[str], str]) -> None:
    """Ctrl-C while Windows still mounts what manage-bde has unlocked, and a manage-bde that comes to no end."""
    said = python("""
import payload.environment.windows_bitlocker as bitlocker
from payload.environment import VolumeNotOpened
from payload.environment.completed import TIMED_OUT, Completed
from payload.environment.locked import KeyRefused, UnlockKey
from payload.environment.windows_volumes import SeenVolume
from payload.formats.fve_entries import ProtectorKind
called = []
def run(argv, *, time_limit):
    called.append(argv[1])
    return Completed(argv=tuple(argv), returncode=code if argv[1] == "-unlock" else 0, output="")
def look_at(root):
    raise KeyboardInterrupt
bitlocker.run, bitlocker.look_at = run, look_at
root = "\\\\\\\\?\\\\Volume{gone}\\\\"
seen = SeenVolume(root=root, drive_type=3, letters=(), label="", file_system="", flags=0, size=0, extents=())
key = UnlockKey(kind=ProtectorKind.RECOVERY_PASSWORD, protector="", secret=bytes(16))
for code in (0, TIMED_OUT, 1):
    called.clear()
    try:
        bitlocker.unlock(seen, key)
    except (KeyboardInterrupt, KeyRefused, VolumeNotOpened) as error:
        print(type(error).__name__, *called)
""")
    assert said.split("\n")[:-1] == [
        "KeyboardInterrupt -unlock -lock",
        "VolumeNotOpened -unlock -lock",
        "KeyRefused -unlock",
    ]


def test_no_key_is_typed_where_the_screen_is_a_file(python: Callable[[str], str]) -> None:
    """startnet.cmd sends standard output into payload.log, which would show what is typed."""
    said = python("""
from payload.environment import windows_api as api
from payload.environment.windows_console import WindowsScreen
tried = []
def open_handle(name, *arguments, **more):
    tried.append(name)
    if name == "CONOUT$":
        raise OSError("no console")
    return 1
api.open_handle = open_handle
with WindowsScreen().typing() as keyboard:
    print(keyboard(0), tried)
""")
    assert said == "None ['CONOUT$']\n"


def test_safe_mode_is_set_on_the_system_partition(python: Callable[[str], str], tmp_path: Path) -> None:
    boot = tmp_path / "EFI" / "Microsoft" / "Boot"
    boot.mkdir(parents=True)
    (boot / "BCD").write_bytes(made_store())
    said = python("""
from payload.contract import PayloadConfig
from payload.environment import Volume, VolumeState
from payload.environment.windows import WindowsEnvironment
from payload.safe_mode import clear_safe_mode, set_safe_mode
volume = Volume(id="D:", disk="", label="", file_system="BitLocker", size=1, state=VolumeState.LOCKED)
environment = WindowsEnvironment(PayloadConfig(image_id="", rules=()))
done = set_safe_mode(environment, volume)
print(done.partition, done.path, done.entry, done.kept)
""")
    assert said == "T: \\EFI\\Microsoft\\Boot\\BCD Windows 11 \\EFI\\Microsoft\\Boot\\BCD.before-bluelift\n"
    loader = BcdStore.read((boot / "BCD").read_bytes()).object(LOADER)
    assert loader is not None and loader.number(Element.SAFE_BOOT) == 0
    assert (boot / "BCD.before-bluelift").read_bytes() == made_store()


def test_the_rig_can_fail(machine: WineMachine, encrypted: BitLockerVolume, tmp_path: Path) -> None:
    """Without any key the volume stays locked, and what is doomed in it stays where it is."""
    attach_locked(machine, encrypted.path, "000000-" * 7 + "000011")
    boot = machine.boot()
    assert boot.code == Verdict.NEEDS_A_KEY.exit_code, boot.log
    assert calls_of(boot) == []
    missing = {difference.path for difference in machine.differences("D")}
    assert missing == {file.path for file in broken_windows().files if file.fate is Fate.QUARANTINED}
