"""BitLocker on Linux: what cryptsetup and dmsetup are told, and what the volumes are like while they are open.

The kernel's part (dm-crypt, AF_ALG) is tried by boots; here, its table is carried out by `cryptography`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.verify.bitlocker import BitLockerPlan, BitLockerVolume, format_volume, make_room, seeded
from builder.verify.bitlocker_keys import Nonces
from builder.verify.bitlocker_metadata import Layout, Room, Secrets, boot_sector, make_protector, metadata_region
from payload.environment import Medium, VolumeNotOpened, VolumeState, linux_bitlocker
from payload.environment.linux import LinuxEnvironment
from payload.environment.linux_cipher import LinuxCipher
from payload.environment.locked import KeyRefused, UnlockKey
from payload.formats import recovery_password
from payload.formats.fve import EncryptionMethod
from payload.formats.fve_clear import SECTOR, read_clear_volume
from payload.formats.fve_entries import FveError, ProtectorKind
from payload.formats.partition_table import BASIC_DATA
from payload.formats.vault import NotAuthentic
from tests.payload.linux_fakes import MIB, FakeMachine, can_mount, config, make_ntfs, needs
from tests.payload.test_linux_environment import fake_mount, gpt_disk

CLEAR, RECOVERY, STARTUP, TPM = (
    ProtectorKind.CLEAR_KEY,
    ProtectorKind.RECOVERY_PASSWORD,
    ProtectorKind.STARTUP_KEY,
    ProtectorKind.TPM,
)
SIZE = 16 * MIB
_REAL = Path(__file__).parents[3] / "shared" / "testdata" / "bitlk-images.tar.xz"

pytestmark = needs("mkntfs", "ntfscp", "ntfsls", "ntfs-3g.probe")


def unseal_ccm(key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    try:
        return AESCCM(key).decrypt(nonce, sealed, None)
    except InvalidTag as error:
        raise NotAuthentic("wrong") from error


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ntfs(tmp_path_factory.mktemp("plain") / "volume", size=SIZE, label="Windows")


Locked = Callable[..., BitLockerVolume]


@pytest.fixture(scope="module")
def locked(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Locked:
    """Makes a locked volume of the plain one."""
    room = make_room(plain)

    def make(
        *protectors: ProtectorKind, method: EncryptionMethod = EncryptionMethod.AES_XTS_128, eow: bool = False
    ) -> BitLockerVolume:
        out = tmp_path_factory.mktemp("locked") / "volume"
        plan = BitLockerPlan(method=method, protectors=protectors, encrypt_on_write=eow)
        return format_volume(plain, out, plan, room=room, random=seeded(b"linux"))

    return make


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine one partition of which is the locked volume; its fake programs open it by a link to the plain one."""

    machine: FakeMachine
    environment: LinuxEnvironment

    def given(self) -> bytes:
        return (self.machine.root / "given").read_bytes()


@pytest.fixture
def host(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Host]:
    machine = FakeMachine(root=tmp_path, programs=tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{machine.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(LinuxCipher, "unseal_ccm", lambda _self, *parts: unseal_ccm(*parts))
    (machine.paths.dev / "mapper").mkdir()
    (machine.paths.dev / "mapper/control").touch()
    # As without udev: cryptsetup makes the node, dmsetup only when told to.
    mapper, given = machine.paths.dev / "mapper", tmp_path / "given"
    link = f"for last; do :; done; ln -sf {plain} {mapper}/$last"
    machine.program("cryptsetup", f"cat > {given}; [ -f {tmp_path}/fails ] && . {tmp_path}/fails; {link}")
    machine.program("dmsetup", f"case $1 in create) cat > {given};; mknodes) {link};; *) rm {mapper}/blue*;; esac")

    def make(volume: Path) -> Host:
        gpt_disk(machine, "sda", [BASIC_DATA, BASIC_DATA])
        node = machine.paths.dev / "sda1"
        node.unlink()
        node.symlink_to(volume)
        size = machine.paths.sysfs / "class/block/sda/sda1/size"
        size.write_text(str(volume.stat().st_size // 512))
        make_ntfs(machine.paths.dev / "sda2", size=8 * MIB, label="Data")
        return Host(machine=machine, environment=LinuxEnvironment(config(), paths=machine.paths))

    return make


def states(environment: LinuxEnvironment) -> dict[str, tuple[str, VolumeState]]:
    return {volume.id: (volume.label, volume.state) for volume in environment.volumes()}


# --- opening and closing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RECOVERY, STARTUP])
def test_a_key_goes_to_cryptsetup_by_its_input_alone(
    kind: ProtectorKind, locked: Locked, host: Callable[[Path], Host]
) -> None:
    made = locked(TPM, kind)
    this = host(made.path)
    (guid,) = (protector.guid for protector in made.protectors if protector.kind is kind)
    text = next(iter(made.recovery_passwords.values()), "").encode() or next(iter(made.startup_key_files.values()))
    secret = recovery_password.parse(text.decode()) if kind is RECOVERY else text
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    metadata = this.environment.locked_metadata(volume)
    assert [p.guid for p in metadata.protectors if p.kind is kind] == [guid]
    assert states(this.environment) == {"sda1": ("", VolumeState.LOCKED), "sda2": ("Data", VolumeState.READY)}
    with this.environment.unlocked(volume, UnlockKey(kind=kind, protector=guid, secret=secret)):
        assert states(this.environment)["sda1"] == ("Windows", VolumeState.READY)
    assert states(this.environment)["sda1"] == ("", VolumeState.LOCKED)
    assert this.given() == text
    node = this.machine.paths.dev / "sda1"
    assert this.machine.calls == [
        f"cryptsetup open --type bitlk --batch-mode --key-file - {node} bluelift-sda1",
        "dmsetup mknodes bluelift-sda1",
        "dmsetup remove --retry --noudevsync bluelift-sda1",
    ]
    assert this.environment.notes() == ()


@pytest.mark.parametrize(
    ("fails", "raised", "words"),
    [
        ("exit 1", KeyRefused, "does not open sda1"),
        ("echo No key available with this passphrase. >&2; exit 2", KeyRefused, "does not open sda1"),
        ("echo Cannot activate device, kernel dm-zero module is missing. >&2; exit 1", VolumeNotOpened, "dm-zero"),
        ("echo Device sda1 does not exist or access denied. >&2; exit 4", VolumeNotOpened, "access denied"),
    ],
)
def test_what_cryptsetup_says_is_told_apart(
    fails: str, raised: type[Exception], words: str, locked: Locked, host: Callable[[Path], Host]
) -> None:
    made = locked(RECOVERY)
    this = host(made.path)
    this.machine.text("fails", fails)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    (password,) = made.recovery_passwords.values()
    key = UnlockKey(kind=RECOVERY, protector="", secret=recovery_password.parse(password))
    with pytest.raises(raised) as caught, this.environment.unlocked(volume, key):
        pass
    told = f"{caught.value} {getattr(caught.value, 'detail', '')}"
    assert words in told
    assert password not in told + repr(key)
    assert states(this.environment)["sda1"][1] is VolumeState.LOCKED


def test_a_volume_that_does_not_close_is_told(locked: Locked, host: Callable[[Path], Host]) -> None:
    made = locked(RECOVERY)
    this = host(made.path)
    this.machine.program("dmsetup", "[ $1 = mknodes ] || { echo Device or resource busy; exit 1; }")
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    with this.environment.unlocked(volume, UnlockKey(kind=RECOVERY, protector="", secret=bytes(16))):
        pass
    assert this.environment.notes() == (
        "sda1 was not locked again before the end: dmsetup ended with exit code 1: Device or resource busy.",
    )


def test_a_device_that_does_not_appear_is_closed(locked: Locked, host: Callable[[Path], Host]) -> None:
    this = host(locked(RECOVERY).path)
    this.machine.program("cryptsetup", "cat > /dev/null")
    this.machine.program("dmsetup", "exit 0")
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    key = UnlockKey(kind=RECOVERY, protector="", secret=bytes(16))
    with pytest.raises(VolumeNotOpened, match="did not appear"), this.environment.unlocked(volume, key):
        pass
    assert this.machine.calls[-1].startswith("dmsetup remove")


def test_an_interruption_leaves_nothing_open(locked: Locked, host: Callable[[Path], Host], plain: Path) -> None:
    """Ctrl-C or a SIGTERM while cryptsetup works: the device is closed, and cryptsetup does not go on after us."""
    this = host(locked(RECOVERY).path)
    mapper, late = this.machine.paths.dev / "mapper", this.machine.root / "late"
    made = f"ln -sf {plain} {mapper}/bluelift-sda1"
    this.machine.program("cryptsetup", f"cat > /dev/null; {made}; kill -USR1 $PPID; sleep 1; touch {late}")
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    key = UnlockKey(kind=RECOVERY, protector="", secret=bytes(16))
    before = signal.signal(signal.SIGUSR1, _interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), this.environment.unlocked(volume, key):
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert this.machine.calls[-1] == "dmsetup remove --retry --noudevsync bluelift-sda1"
    assert sorted(node.name for node in mapper.iterdir()) == ["control"]
    time.sleep(1.5)
    assert not late.exists(), "cryptsetup went on"


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def test_a_cryptsetup_that_comes_to_no_end_leaves_nothing_open(
    locked: Locked, host: Callable[[Path], Host], plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = host(locked(RECOVERY).path)
    mapper = this.machine.paths.dev / "mapper"
    this.machine.program("cryptsetup", f"cat > /dev/null; ln -sf {plain} {mapper}/bluelift-sda1; sleep 30")
    monkeypatch.setattr(linux_bitlocker, "_OPEN_SECONDS", 1.0)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    key = UnlockKey(kind=RECOVERY, protector="", secret=bytes(16))
    with pytest.raises(VolumeNotOpened), this.environment.unlocked(volume, key):
        pass
    assert sorted(node.name for node in mapper.iterdir()) == ["control"]


def test_what_a_killed_run_left_open_is_closed_first(locked: Locked, host: Callable[[Path], Host], plain: Path) -> None:
    """The kernel's device outlives the process, and cryptsetup refuses to make a second one of that name."""
    made = locked(RECOVERY)
    this = host(made.path)
    left = this.machine.paths.dev / "mapper/bluelift-sda1"
    left.symlink_to(plain)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    key = UnlockKey(kind=RECOVERY, protector="", secret=bytes(16))
    with this.environment.unlocked(volume, key):
        assert states(this.environment)["sda1"] == ("Windows", VolumeState.READY)
    closing = "dmsetup remove --retry --noudevsync bluelift-sda1"
    assert next(call for call in this.machine.calls if call == closing or call.startswith("cryptsetup")) == closing
    left.symlink_to(plain)
    this.machine.program("dmsetup", "echo Device or resource busy; exit 1")
    with pytest.raises(VolumeNotOpened) as caught, this.environment.unlocked(volume, key):
        pass
    assert "open already" in caught.value.detail and "Restart" in caught.value.advice


@pytest.mark.parametrize("kind", [CLEAR, RECOVERY])
def test_a_volume_that_something_else_has_open_is_left_alone(
    kind: ProtectorKind, locked: Locked, host: Callable[[Path], Host]
) -> None:
    """On a rescue machine the desktop may have unlocked and mounted it."""
    this = host(locked(RECOVERY, CLEAR).path)
    (this.machine.paths.sysfs / "class/block/sda1/holders/dm-0").mkdir(parents=True)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    key = UnlockKey(kind=kind, protector="", secret=bytes(16))
    with pytest.raises(VolumeNotOpened) as caught, this.environment.unlocked(volume, key):
        pass
    assert "something else" in caught.value.detail
    assert this.machine.calls == []


def test_a_volume_that_only_windows_can_open(locked: Locked, host: Callable[[Path], Host]) -> None:
    this = host(locked(RECOVERY, eow=True).path)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    with pytest.raises(VolumeNotOpened) as caught:
        this.environment.locked_metadata(volume)
    assert caught.value.state is VolumeState.PARTLY_ENCRYPTED
    assert "WinPE" in caught.value.advice


# --- the clear key ---------------------------------------------------------------------------------------------------


def carried_out(table: str, volume: bytes) -> bytes:
    """What a device with that table would read, by another program's ciphers."""
    inside = bytearray()
    for line in table.splitlines():
        start, length, target, *rest = line.split()
        assert int(start) * SECTOR == len(inside)
        if target == "zero":
            inside += bytes(int(length) * SECTOR)
            continue
        cipher, key_text, first_iv, _node, offset = rest[:5]
        algorithm = algorithms.AES(bytes.fromhex(key_text))
        for number in range(int(length)):
            sector, at = int(first_iv) + number, (int(offset) + number) * SECTOR
            if cipher == "aes-xts-plain64":
                opened = Cipher(algorithm, modes.XTS(sector.to_bytes(16, "little"))).decryptor()
            else:
                assert cipher == "aes-cbc-eboiv"
                encryptor = Cipher(algorithm, modes.ECB()).encryptor()
                first = encryptor.update((sector * SECTOR).to_bytes(16, "little"))
                opened = Cipher(algorithm, modes.CBC(first)).decryptor()
            inside += opened.update(volume[at : at + SECTOR])
    return bytes(inside)


@pytest.mark.parametrize(
    "method", [EncryptionMethod.AES_XTS_128, EncryptionMethod.AES_XTS_256, EncryptionMethod.AES_CBC_256]
)
def test_a_suspended_volume_is_opened_without_any_key(
    method: EncryptionMethod, locked: Locked, plain: Path, host: Callable[[Path], Host]
) -> None:
    made = locked(TPM, RECOVERY, CLEAR, method=method)
    this = host(made.path)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    guid = this.environment.locked_metadata(volume).protectors_of(CLEAR)[0].guid
    with this.environment.unlocked(volume, UnlockKey(kind=CLEAR, protector=guid)):
        assert states(this.environment)["sda1"] == ("Windows", VolumeState.READY)
    table = this.given().decode()
    inside = bytearray(plain.read_bytes())
    assert len(carried_out(table, made.path.read_bytes())) == SIZE
    for offset, size in made.room.regions:
        inside[offset : offset + size] = bytes(size)
    assert carried_out(table, made.path.read_bytes()) == inside
    key = table.split()[4]
    assert all(key not in call for call in this.machine.calls)
    assert this.machine.calls[0] == "dmsetup create --noudevsync bluelift-sda1"


def test_a_volume_without_a_clear_key_or_with_a_damaged_one(locked: Locked, host: Callable[[Path], Host]) -> None:
    for made in (locked(RECOVERY), locked(CLEAR)):
        damaged = bytearray(made.path.read_bytes())
        with made.path.open("rb") as stream:
            if CLEAR not in made.plan.protectors:
                with pytest.raises(FveError, match="no clear key"):
                    read_clear_volume(stream, SIZE, unseal_ccm)
                continue
            key = read_clear_volume(stream, SIZE, unseal_ccm)
            assert key.key.hex() not in repr(key)
            with pytest.raises(FveError, match="do not fit"):
                read_clear_volume(stream, SIZE // 2, unseal_ccm)
        for offset in made.room.metadata:
            block = damaged[offset : offset + 1024]
            at = block.index(b"\x2c\x00\x00\x00\x01\x00") + 20
            damaged[offset + at] ^= 1
        made.path.write_bytes(damaged)
    this = host(made.path)
    volume = next(volume for volume in this.environment.volumes() if volume.id == "sda1")
    with pytest.raises(KeyRefused), this.environment.unlocked(volume, UnlockKey(kind=CLEAR, protector="")):
        pass


def test_the_volume_that_is_mutated_is_sound() -> None:
    clear = read_clear_volume(BytesIO(_SUSPENDED), len(_SUSPENDED), unseal_ccm)
    assert sum(segment.length for segment in clear.segments) == len(_SUSPENDED)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_metadata_raise_only_what_is_said(data: st.DataObject) -> None:
    raw = bytearray(_SUSPENDED)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from([*range(160, 200), *range(_REGIONS, _REGIONS + 600)]))
        raw[at] = data.draw(st.integers(0, 255))
    for unseal in (unseal_ccm, lambda key, nonce, sealed: sealed[:-16]):
        try:
            clear = read_clear_volume(BytesIO(bytes(raw)), len(raw), unseal)
        except (FveError, NotAuthentic):
            continue
        assert sum(segment.length for segment in clear.segments) == len(raw)


_REGIONS = 16384


def _suspended_head() -> bytes:
    """The smallest suspended volume: boot sector, one metadata region three times, nothing worth reading."""
    random, created = seeded(b"head"), datetime(2024, 3, 1, tzinfo=UTC)
    room = Room(metadata=(_REGIONS, _REGIONS + 65536, _REGIONS + 2 * 65536), volume_header=_REGIONS + 3 * 65536)
    secrets = Secrets(
        guid=UUID(int=5), created=created, master_key=random(32), volume_key=random(32),
        nonces=Nonces(created), random=random,
    )  # fmt: skip
    size = 512 * 1024
    layout = Layout(method=EncryptionMethod.AES_XTS_128, size=size, sector_size=512, room=room)
    entry = make_protector(CLEAR, secrets)[1]
    raw = bytearray(size)
    for offset in room.metadata:
        raw[offset : offset + 65536] = metadata_region(secrets, [entry], layout, "x")
    raw[:512] = boot_sector(b"\xeb\x52\x90NTFS    " + (512).to_bytes(2, "little") + b"\x08" + bytes(500), room)
    return bytes(raw)


_SUSPENDED = _suspended_head()


@pytest.mark.skipif(not _REAL.exists(), reason="cryptsetup's test images are not on this machine")
def test_the_clear_key_of_a_real_volume(tmp_path: Path) -> None:
    """cryptsetup's own test image, made by Windows, and the digest of its inside that cryptsetup's authors give."""
    name = "bitlk-images/bitlk-aes-xts-128-clearkey-only.img"
    subprocess.run(["tar", "xJf", str(_REAL), "-C", str(tmp_path), name], check=True, timeout=60)
    path = tmp_path / name
    with path.open("rb") as stream:
        clear = read_clear_volume(stream, path.stat().st_size, unseal_ccm)
    assert [segment.length for segment in clear.segments if segment.source is None] == [65536, 8192, 65536, 65536]
    first = clear.segments[0]
    raw = path.read_bytes()
    assert first.source is not None
    sector = first.source // SECTOR
    opened = Cipher(algorithms.AES(clear.key), modes.XTS(sector.to_bytes(16, "little"))).decryptor()
    assert opened.update(raw[first.source : first.source + SECTOR])[3:11] == b"NTFS    "


# --- media -----------------------------------------------------------------------------------------------------------


def test_keys_are_looked_for_on_sticks_cds_and_small_partitions(
    locked: Locked, host: Callable[[Path], Host], tmp_path: Path
) -> None:
    this = host(locked(RECOVERY).path)
    machine = this.machine
    fake_mount(machine)
    stick = machine.disk("sdb", 8 * MIB, where="pci0/usb1/1-1", removable=True)
    machine.partition(stick, 1, MIB, 6 * MIB)
    subprocess.run(["mkfs.vfat", str(machine.paths.dev / "sdb1")], check=True, capture_output=True, timeout=60)
    exfat = machine.disk("sdc", 8 * MIB, where="pci0/usb1/1-2", removable=True)
    (machine.paths.dev / exfat.name).write_bytes(b"\xeb\x76\x90EXFAT   ".ljust(4096, b"\0"))
    (machine.paths.sysfs / "class/block/sr0").mkdir()
    (machine.paths.dev / "sr0").write_bytes(bytes(32769) + b"CD001" + bytes(4096))
    for name in ("sdb1", "sdc", "sr0"):
        (tmp_path / "media" / name / "Bluelift").mkdir(parents=True)
    with this.environment.key_media() as media:
        seen = [(medium.name, medium.disk, _names(medium)) for medium in media]
    assert seen == [
        ("stick sdb1", "sdb", ["Bluelift"]),
        ("stick sdc", "sdc", ["Bluelift"]),
        ("CD sr0", "sr0", ["Bluelift"]),
    ]
    mounts = [call.split()[1:5] for call in machine.calls if call.startswith("mount")]
    assert mounts == [["-t", kind, "-o", "ro,noatime"] for kind in ("vfat", "exfat", "iso9660")]
    assert list(machine.paths.mounts.iterdir()) == []


@pytest.mark.skipif(bool(can_mount()), reason=can_mount())
def test_keys_are_looked_for_on_ntfs_sticks_and_not_on_a_hosts_own_ntfs(
    locked: Locked, host: Callable[[Path], Host]
) -> None:
    """Windows formats larger sticks with NTFS. sda2 is the host's: any user may leave files in its root."""
    this = host(locked(RECOVERY).path)
    machine = this.machine
    stick = machine.disk("sdb", 10 * MIB, where="pci0/usb1/1-1", removable=True)
    machine.partition(stick, 1, MIB, 8 * MIB)
    damaged = machine.disk("sdc", 10 * MIB, where="pci0/usb1/1-2", removable=True)
    machine.partition(damaged, 1, MIB, 8 * MIB)
    node = make_ntfs(machine.paths.dev / "sdb1", size=8 * MIB, label="Keys")
    (machine.root / "key").write_bytes(b"a key")
    subprocess.run(["ntfscp", "-q", node, machine.root / "key", "X.BEK"], check=True, capture_output=True, timeout=60)
    broken = bytearray(node.read_bytes())
    broken[4 * 4096 : 6 * 4096] = bytes(2 * 4096)
    (machine.paths.dev / "sdc1").write_bytes(broken)
    before = node.read_bytes()
    seen = {}
    with this.environment.key_media() as media:
        for medium in media:
            with medium.files.open_file(("X.BEK",)) as stream:
                seen[medium.name, medium.disk] = stream.read()
    assert seen == {("stick sdb1", "sdb"): b"a key"}
    assert node.read_bytes() == before
    assert list(machine.paths.mounts.iterdir()) == []


def _names(medium: Medium) -> list[str]:
    return [entry.name for entry in medium.files.listing(())]


# --- the kernel's ciphers --------------------------------------------------------------------------------------------


def _no_af_alg() -> str:
    try:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as cipher:
            cipher.bind(("aead", "gcm(aes)"))
    except (AttributeError, OSError) as error:
        return f"this kernel has no AF_ALG sockets with gcm(aes): {error}"
    return ""


def test_pbkdf2_is_that_of_rfc_7914() -> None:
    """Section 11: PBKDF2-HMAC-SHA-256 test vectors (here of 32 bytes)."""
    derived = LinuxCipher().pbkdf2(b"passwd", b"salt", 1)
    assert derived.hex() == "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"


@pytest.mark.skipif(bool(_no_af_alg()), reason=_no_af_alg())
@pytest.mark.parametrize("associated", [b"", b"a" * 32])
def test_the_kernels_gcm_and_ccm(associated: bytes) -> None:
    key, nonce, text = bytes(range(32)), bytes(range(12)), bytes(range(40))
    cipher = LinuxCipher()
    sealed = AESGCM(key).encrypt(nonce, text, associated)
    assert cipher.unseal(key, nonce, sealed, associated) == text
    assert cipher.unseal_ccm(key, nonce, AESCCM(key).encrypt(nonce, text, None)) == text
    for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:16]):
        with pytest.raises(NotAuthentic):
            cipher.unseal(key, nonce, wrong, associated)
