"""BitLocker volumes that Bluelift makes for its own proof, as cryptsetup and dislocker open them."""

from __future__ import annotations

import configparser
import hashlib
import itertools
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from builder.errors import ToolFailed
from builder.verify.bitlocker import (
    BitLockerPlan,
    BitLockerVolume,
    Room,
    format_volume,
    make_room,
    seeded,
)
from builder.verify.bitlocker_keys import stretched
from builder.verify.ntfs_volume import make_volume
from builder.verify.windows_tree import Tree
from payload.formats.fve import REGION_SIZE, EncryptionMethod, FveState, FveVolume, read_volume
from payload.formats.fve_entries import EntryType, ProtectorKind, ValueType, read_entries
from payload.formats.ntfs import NtfsError
from payload.formats.recovery_password import parse, text_of
from payload.formats.startup_key import read_startup_key
from tests.payload.linux_fakes import MIB, needs

_REAL = Path(__file__).parents[3] / "shared" / "testdata" / "bitlk-images.tar.xz"
_METHODS = (
    EncryptionMethod.AES_XTS_128,
    EncryptionMethod.AES_XTS_256,
    EncryptionMethod.AES_CBC_128,
    EncryptionMethod.AES_CBC_256,
)
_PROTECTORS = (
    ProtectorKind.TPM,
    ProtectorKind.RECOVERY_PASSWORD,
    ProtectorKind.STARTUP_KEY,
)
_FILE = bytes(range(256)) * 8000
_LIMIT = 60

pytestmark = needs("mkntfs", "ntfscp", "ntfsls")


@dataclass(frozen=True, kw_only=True)
class _Plain:
    path: Path
    room: Room


def _ntfs(path: Path, size: int, *options: str) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mkntfs", "-q", "-F", *options, str(path)], check=True, capture_output=True, timeout=_LIMIT)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> _Plain:
    folder = tmp_path_factory.mktemp("plain")
    volume = _ntfs(folder / "volume", 16 * MIB)
    (folder / "file").write_bytes(_FILE)
    subprocess.run(["ntfscp", str(volume), str(folder / "file"), "file.bin"], check=True, timeout=_LIMIT)
    return _Plain(path=volume, room=make_room(volume))


@pytest.fixture(scope="module", params=_METHODS, ids=str)
def made(request: pytest.FixtureRequest, plain: _Plain, tmp_path_factory: pytest.TempPathFactory) -> BitLockerVolume:
    plan = BitLockerPlan(method=request.param, protectors=_PROTECTORS, description="GRÜN-07 C: 1.3.2024")
    out = tmp_path_factory.mktemp("made") / "volume"
    return format_volume(plain.path, out, plan, room=plain.room, random=seeded(b"test"))


def _read(path: Path) -> FveVolume:
    with path.open("rb") as stream:
        return read_volume(stream)


# --- what was made ---------------------------------------------------------------------------------------------------


def test_our_own_reader_sees_the_plan(made: BitLockerVolume, plain: _Plain) -> None:
    volume = _read(made.path)
    assert (volume.guid, volume.description) == (made.guid, made.plan.description)
    assert (volume.method, volume.state) == (made.plan.method, FveState.LOCKED)
    assert (volume.created, volume.encrypted_size) == (made.plan.created, plain.path.stat().st_size)
    assert (volume.metadata_offsets, volume.block, volume.checksum_ok) == (plain.room.metadata, 0, True)
    assert [(p.guid, p.kind) for p in volume.protectors] == [(p.guid, p.kind) for p in made.protectors]
    assert [p.kind for p in volume.protectors] == list(_PROTECTORS)
    assert set(made.recovery_passwords) == {p.guid for p in volume.recovery_passwords}
    (name,) = made.startup_key_files
    assert name == f"{volume.startup_keys[0].guid}.BEK"
    assert read_startup_key(made.startup_key_files[name]).guid == volume.startup_keys[0].guid


def test_each_metadata_block_is_enough(made: BitLockerVolume, tmp_path: Path) -> None:
    damaged = tmp_path / "volume"
    shutil.copy(made.path, damaged)
    for block in range(3):
        volume = _read(damaged)
        assert (volume.block, volume.checksum_ok, volume.guid) == (block, True, made.guid)
        with damaged.open("r+b") as stream:
            stream.seek(made.room.metadata[block])
            stream.write(bytes(REGION_SIZE))


def test_nothing_of_the_inside_or_the_keys_shows(made: BitLockerVolume) -> None:
    raw = made.path.read_bytes()
    for secret in (b"NTFS    ", _FILE[:256], "file.bin".encode("utf-16-le")):
        assert secret not in raw
    for password in made.recovery_passwords.values():
        assert password.encode() not in raw
        assert password not in repr(made)
    (file,) = made.startup_key_files.values()
    assert file[-32:] not in raw
    assert repr(file[-32:])[2:-1] not in repr(made)


def test_the_same_seed_makes_the_same_volume(plain: _Plain, tmp_path: Path) -> None:
    plan = BitLockerPlan(protectors=(ProtectorKind.STARTUP_KEY,))
    one, again, other = (
        format_volume(plain.path, tmp_path / str(number), plan, room=plain.room, random=seeded(seed))
        for number, seed in enumerate((b"a", b"a", b"b"))
    )
    assert one.path.read_bytes() == again.path.read_bytes()
    assert one.guid == again.guid != other.guid
    assert one.startup_key_files == again.startup_key_files != other.startup_key_files
    fresh = format_volume(plain.path, tmp_path / "fresh", plan, room=plain.room)
    assert fresh.guid not in (one.guid, other.guid)
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be_made(plain: _Plain, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for plan in (
        BitLockerPlan(method=EncryptionMethod.AES_CBC_128_DIFFUSER),
        BitLockerPlan(protectors=(ProtectorKind.SMART_CARD,)),
    ):
        with pytest.raises(ValueError, match="cannot be made here"):
            format_volume(plain.path, out, plan, room=plain.room)
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(MIB))
    with pytest.raises(NtfsError):
        format_volume(empty, out, BitLockerPlan(protectors=()), room=plain.room)
    assert not out.exists()


# --- room on the volume ----------------------------------------------------------------------------------------------


@needs("ntfsresize", "ntfscat")
def test_the_room_is_taken_on_the_volume(plain: _Plain) -> None:
    raw = plain.path.read_bytes()
    for offset, size in plain.room.regions:
        assert offset % 4096 == 0
        assert not any(raw[offset : offset + size])
    regions = sorted(plain.room.regions)
    assert all(end[0] >= start[0] + start[1] for start, end in itertools.pairwise(regions))
    names = subprocess.run(["ntfsls", "-a", str(plain.path)], check=True, capture_output=True, text=True).stdout
    assert sum(name.startswith("FVE2.{") for name in names.splitlines()) == 4
    # The volume's bitmap and its files agree.
    subprocess.run(["ntfsresize", "-i", "-f", str(plain.path)], check=True, capture_output=True, timeout=_LIMIT)
    assert _ntfscat(plain.path, "file.bin") == _FILE


@needs("unshare", "ntfs-3g")
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs FUSE")
@pytest.mark.mounts
def test_the_room_is_where_windows_has_it(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    make_volume(volume, size=16 * MIB, label="Windows", tree=Tree(files=(), directories=("System Volume Information",)))
    make_room(volume)
    argv = ["ntfsls", "-a", "-p", "/System Volume Information", str(volume)]
    names = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    assert sum(name.startswith("FVE2.{") for name in names) == 4


def test_no_room(tmp_path: Path) -> None:
    full = _ntfs(tmp_path / "full", 2 * MIB)
    free = 1 << 16
    while free:
        # Fill the volume with ever smaller files.
        (tmp_path / "filler").write_bytes(b"x" * free)
        argv = ["ntfscp", str(full), str(tmp_path / "filler"), f"filler-{free}-{time.monotonic_ns()}"]
        if subprocess.run(argv, capture_output=True, timeout=_LIMIT).returncode:
            free = free // 2 if free > 4096 else 0
    with pytest.raises((ToolFailed, ValueError)):
        make_room(full)


def _ntfscat(volume: Path, name: str) -> bytes:
    return subprocess.run(["ntfscat", str(volume), name], check=True, capture_output=True, timeout=_LIMIT).stdout


# --- judged by cryptsetup --------------------------------------------------------------------------------------------


def _cryptsetup_accepts(volume: Path, key: bytes) -> bool:
    """Whether cryptsetup opens the volume with a recovery password, or with the content of a startup key file."""
    argv = ["cryptsetup", "bitlkOpen", "--test-passphrase", "--key-file", "-", str(volume)]
    done = subprocess.run(argv, input=key, capture_output=True, timeout=_LIMIT)
    assert done.returncode in (0, 2), done.stderr
    return done.returncode == 0


@needs("cryptsetup")
def test_cryptsetup_opens_it(made: BitLockerVolume) -> None:
    (password,) = made.recovery_passwords.values()
    assert _cryptsetup_accepts(made.path, password.encode())
    (file,) = made.startup_key_files.values()
    assert _cryptsetup_accepts(made.path, file)
    assert not _cryptsetup_accepts(made.path, text_of(bytes(range(16))).encode())


@needs("cryptsetup")
def test_each_of_two_recovery_passwords_opens_it(plain: _Plain, tmp_path: Path) -> None:
    plan = BitLockerPlan(protectors=(ProtectorKind.RECOVERY_PASSWORD,) * 2)
    volume = format_volume(plain.path, tmp_path / "volume", plan, room=plain.room, random=seeded(b"test"))
    assert len(set(volume.recovery_passwords.values())) == len(_read(volume.path).recovery_passwords) == 2
    for password in volume.recovery_passwords.values():
        assert _cryptsetup_accepts(volume.path, password.encode())


@needs("cryptsetup")
def test_a_volume_that_says_it_is_still_being_encrypted(plain: _Plain, tmp_path: Path) -> None:
    plan = BitLockerPlan(protectors=(ProtectorKind.STARTUP_KEY,), encrypt_on_write=True)
    volume = format_volume(plain.path, tmp_path / "volume", plan, room=plain.room, random=seeded(b"test"))
    assert _read(volume.path).state is FveState.ENCRYPT_ON_WRITE
    argv = ["cryptsetup", "bitlkDump", "--debug", str(volume.path)]
    said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_LIMIT).stdout
    assert "BITLK type from GUID: encrypt-on-write" in said


@needs("cryptsetup")
def test_cryptsetup_reads_the_plan(made: BitLockerVolume) -> None:
    argv = ["cryptsetup", "bitlkDump", str(made.path)]
    dump = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_LIMIT).stdout
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in dump.splitlines())}
    assert UUID(made.guid) == UUID(dump.partition("GUID:")[2].split()[0])
    assert fields["Description"] == made.plan.description
    for words in ("recovery passphrase", "startup key", "TPM"):
        assert dump.count(f"VMK protected with {words}") == 1
    assert fields["Volume size"].split()[0] == str(made.path.stat().st_size)
    assert f"{made.room.volume_header} [bytes]\n\tSize:   \t8192 [bytes]" in dump


# --- judged by dislocker ---------------------------------------------------------------------------------------------


def _decrypted(volume: Path, out: Path, *options: str) -> Path:
    argv = ["dislocker-file", "-q", "-V", str(volume), *options, "--", str(out)]
    subprocess.run(argv, check=True, capture_output=True, timeout=_LIMIT)
    return out


@needs("dislocker-file")
def test_dislocker_reads_it_byte_for_byte(made: BitLockerVolume, plain: _Plain, tmp_path: Path) -> None:
    inside = plain.path.read_bytes()
    (password,) = made.recovery_passwords.values()
    assert _decrypted(made.path, tmp_path / "by-password", f"-p{password}").read_bytes() == inside
    ((name, content),) = made.startup_key_files.items()
    (tmp_path / name).write_bytes(content)
    by_file = _decrypted(made.path, tmp_path / "by-file", "-f", str(tmp_path / name))
    assert by_file.read_bytes() == inside


@needs("dislocker-file")
def test_a_suspended_volume_opens_without_any_key(plain: _Plain, tmp_path: Path) -> None:
    plan = BitLockerPlan(protectors=(ProtectorKind.TPM, ProtectorKind.CLEAR_KEY))
    volume = format_volume(plain.path, tmp_path / "volume", plan, room=plain.room, random=seeded(b"test"))
    seen = _read(volume.path)
    assert (seen.state, seen.suspended, seen.only_tpm) == (FveState.SUSPENDED, True, False)
    assert _decrypted(volume.path, tmp_path / "inside", "-c").read_bytes() == plain.path.read_bytes()


@needs("dislocker-file")
def test_sectors_of_4096_bytes(tmp_path: Path) -> None:
    inside = _ntfs(tmp_path / "inside", 16 * MIB, "-s", "4096", "-c", "4096")
    room = make_room(inside)
    plan = BitLockerPlan(protectors=(ProtectorKind.CLEAR_KEY,))
    volume = format_volume(inside, tmp_path / "volume", plan, room=room, random=seeded(b"test"))
    assert _read(volume.path).sector_size == 4096
    assert _decrypted(volume.path, tmp_path / "out", "-c").read_bytes() == inside.read_bytes()


@contextmanager
def _open(volume: BitLockerVolume, mount_point: Path) -> Iterator[Path]:
    """The inside as a file that can be written to."""
    mount_point.mkdir()
    (password, *_) = volume.recovery_passwords.values()
    argv = ["dislocker-fuse", "-q", "-V", str(volume.path), f"-p{password}", "--", str(mount_point)]
    subprocess.run(argv, check=True, capture_output=True, timeout=_LIMIT)
    try:
        yield mount_point / "dislocker-file"
    finally:
        subprocess.run(["fusermount", "-u", str(mount_point)], check=True, timeout=_LIMIT)


@needs("dislocker-fuse", "dislocker-file", "fusermount", "ntfscat")
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs FUSE")
@pytest.mark.mounts
def test_what_is_written_through_dislocker_stays(plain: _Plain, tmp_path: Path) -> None:
    plan = BitLockerPlan(protectors=(ProtectorKind.RECOVERY_PASSWORD,))
    volume = format_volume(plain.path, tmp_path / "volume", plan, room=plain.room, random=seeded(b"test"))
    before = _metadata(volume)
    content = hashlib.shake_256(b"content").digest(5 * MIB)
    (tmp_path / "new").write_bytes(content)
    with _open(volume, tmp_path / "mnt") as inside:
        subprocess.run(["ntfscp", str(inside), str(tmp_path / "new"), "new.bin"], check=True, timeout=_LIMIT)
    (password,) = volume.recovery_passwords.values()
    after = _decrypted(volume.path, tmp_path / "after", f"-p{password}")
    assert _ntfscat(after, "new.bin") == content
    assert _ntfscat(after, "file.bin") == _FILE
    # Nothing was written where BitLocker's data lies.
    assert _metadata(volume) == before


def _metadata(volume: BitLockerVolume) -> list[bytes]:
    raw = volume.path.read_bytes()
    return [raw[offset : offset + REGION_SIZE] for offset in volume.room.metadata]


# --- the keys of a real volume ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not _REAL.is_file(), reason="needs ../shared/testdata/bitlk-images.tar.xz")
def test_a_real_volume_opens_by_our_keys() -> None:
    """What we seal and stretch is what Windows does: a real volume's master key opens, by its checked tag."""
    with tarfile.open(_REAL) as archive:
        facts, image = (
            archive.extractfile(f"bitlk-images/{name}") for name in ("images.conf", "bitlk-aes-xts-128.img")
        )
        assert facts
        assert image
        known = configparser.ConfigParser()
        known.read_string(facts.read().decode())
        offset = read_volume(image).metadata_offsets[0]  # type: ignore[arg-type]
        image.seek(offset)
        block = image.read(4096)
    password, guid = known["bitlk-aes-xts-128"]["RP"], UUID(known["bitlk-aes-xts-128"]["RP_VMK_GUID"])
    (protector,) = (
        entry
        for entry in read_entries(block[112:868])
        if entry.entry_type == EntryType.VOLUME_MASTER_KEY and entry.data.startswith(guid.bytes_le)
    )
    properties = {entry.value_type: entry.data for entry in protector.properties(28)}
    sealed = properties[ValueType.SEALED_KEY]
    opening = stretched(parse(password), properties[ValueType.STRETCH_KEY][4:20])
    opened = AESCCM(opening, tag_length=16).decrypt(sealed[:12], sealed[28:] + sealed[12:28], None)
    assert len(opened) == 44
