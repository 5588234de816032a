"""BitLocker's metadata: made by hand, as cryptsetup and dislocker read real volumes, damaged, and noise."""

from __future__ import annotations

import configparser
import contextlib
import functools
import io
import re
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload.formats.fve import (
    BLOCK_HEADER,
    ENCRYPT_ON_WRITE_GUID,
    INFORMATION_GUID,
    SIGNATURE,
    EncryptionMethod,
    FveState,
    FveVolume,
    read_volume,
)
from payload.formats.fve_entries import ENTRY, METADATA_HEADER, FveError, ProtectorKind, file_time, read_entries
from payload.formats.startup_key import read_startup_key
from tests.payload.linux_fakes import needs

_IMAGES = Path(__file__).parents[3] / "shared" / "testdata" / "bitlk-images.tar.xz"
_VOLUME = UUID("5a95db04-6ebc-4ba9-99a3-15a87a3d07b2")
_KEY = UUID("4381f759-c4f8-4de0-bb61-fc33a831bda5")
_OFFSETS = (0x2000, 0x14000, 0x26000)
_SIZE = 0x36000
#: 2020-09-15 07:22:33 UTC as a FILETIME.
_TIME = 132_446_281_530_000_000


# --- volumes made by hand ------------------------------------------------------------------------------------------


def _entry(entry_type: int, value_type: int, data: bytes) -> bytes:
    return ENTRY.pack(ENTRY.size + len(data), entry_type, value_type, 1) + data


def _text(entry_type: int, text: str) -> bytes:
    return _entry(entry_type, 2, (text + "\0").encode("utf-16-le"))


def _protector(code: int, *properties: bytes, guid: UUID = _KEY) -> bytes:
    return _entry(2, 8, guid.bytes_le + struct.pack("<QHH", _TIME, 0, code) + b"".join(properties))


def _block(
    *entries: bytes,
    states: tuple[int, int] = (4, 4),
    method: int = 0x8004,
    version: int = 2,
    offsets: tuple[int, ...] = _OFFSETS,
) -> bytes:
    data = b"".join(entries)
    length = METADATA_HEADER.size + len(data)
    size = -(-(BLOCK_HEADER.size + length) // 16) * 16
    stated = size // 16 if version == 2 else size
    raw = BLOCK_HEADER.pack(SIGNATURE, stated, version, *states, _SIZE, 0, 16, *offsets, 0)
    raw += METADATA_HEADER.pack(length, 1, 48, length, _VOLUME.bytes_le, 9, method, 0, _TIME) + data
    raw = raw.ljust(size, b"\0")
    return raw + struct.pack("<HHI", 88, 2, zlib.crc32(raw))


def _boot(guid: bytes = INFORMATION_GUID, *, oem: bytes = SIGNATURE, at: int = 160, sector_size: int = 512) -> bytes:
    sector = bytearray(b"\xeb\x58\x90" + oem + struct.pack("<HB", sector_size, 8)).ljust(512, b"\0")
    sector[at : at + 40] = guid + struct.pack("<QQQ", *_OFFSETS)
    sector[510:512] = b"\x55\xaa"
    return bytes(sector)


def _volume(boot: bytes, *blocks: bytes) -> bytes:
    image = bytearray(_SIZE)
    image[: len(boot)] = boot
    for offset, block in zip(_OFFSETS, blocks * 3 if len(blocks) == 1 else blocks, strict=True):
        image[offset : offset + len(block)] = block
    return bytes(image)


def _read(image: bytes) -> FveVolume:
    return read_volume(io.BytesIO(image))


_RECOVERY = _protector(0x0800, _text(0, "DiskPassword"))
_USUAL = _block(_text(7, "FRONTDESK-07 C: 19/07/2024"), _protector(0x0100), _RECOVERY)


def test_a_volume_on_a_disk() -> None:
    disk = io.BytesIO(bytes(1 << 20) + _volume(_boot(), _USUAL))
    volume = read_volume(disk, 1 << 20)
    assert volume.guid == str(_VOLUME).upper()
    assert (volume.version, volume.description, volume.block) == (2, "FRONTDESK-07 C: 19/07/2024", 0)
    assert (volume.method, volume.state) == (EncryptionMethod.AES_XTS_128, FveState.LOCKED)
    assert (volume.created, volume.encrypted_size) == (datetime(2020, 9, 15, 7, 22, 33, tzinfo=UTC), _SIZE)
    assert (volume.sector_size, volume.to_go, volume.checksum_ok) == (512, False, True)
    assert volume.metadata_offsets == _OFFSETS
    tpm, recovery = volume.protectors
    assert (tpm.kind, tpm.name, tpm.key_id) == (ProtectorKind.TPM, "", "4381F759")
    assert volume.recovery_passwords == (recovery,)
    assert (recovery.name, recovery.guid, recovery.modified) == ("DiskPassword", str(_KEY).upper(), volume.created)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x0000, ProtectorKind.CLEAR_KEY),
        (0x00FF, ProtectorKind.CLEAR_KEY),
        (0x0100, ProtectorKind.TPM),
        (0x0200, ProtectorKind.STARTUP_KEY),
        (0x0300, ProtectorKind.TPM_STARTUP_KEY),
        (0x0500, ProtectorKind.TPM_PIN),
        (0x0700, ProtectorKind.TPM_PIN_STARTUP_KEY),
        (0x0800, ProtectorKind.RECOVERY_PASSWORD),
        (0x0801, ProtectorKind.RECOVERY_PASSWORD),
        (0x1000, ProtectorKind.SMART_CARD),
        (0x2000, ProtectorKind.PASSWORD),
        (0x4000, ProtectorKind.UNKNOWN),
    ],
)
def test_protectors(code: int, kind: ProtectorKind) -> None:
    volume = _read(_volume(_boot(), _block(_protector(code))))
    assert [(protector.kind, protector.code) for protector in volume.protectors] == [(kind, code)]
    assert volume.only_tpm == kind.uses_tpm == ("TPM" in kind)
    assert volume.suspended == (kind is ProtectorKind.CLEAR_KEY)
    assert bool(volume.startup_keys) == (kind is ProtectorKind.STARTUP_KEY)


@pytest.mark.parametrize(
    ("boot", "block", "state"),
    [
        (_boot(), _block(_RECOVERY), FveState.LOCKED),
        (_boot(), _block(_RECOVERY, _protector(0)), FveState.SUSPENDED),
        (_boot(ENCRYPT_ON_WRITE_GUID), _block(_RECOVERY), FveState.ENCRYPT_ON_WRITE),
        (_boot(ENCRYPT_ON_WRITE_GUID), _block(_RECOVERY, _protector(0)), FveState.ENCRYPT_ON_WRITE),
        (_boot(), _block(_RECOVERY, states=(5, 4)), FveState.ENCRYPTING),
        (_boot(), _block(_RECOVERY, states=(2, 4)), FveState.ENCRYPTING),
        (_boot(), _block(_RECOVERY, _protector(0), states=(5, 1)), FveState.DECRYPTING),
        (_boot(), _block(_RECOVERY, states=(4, 1)), FveState.DECRYPTING),
        (_boot(), _block(_RECOVERY, states=(1, 1)), FveState.DECRYPTED),
        (_boot(), _block(_RECOVERY, states=(77, 4)), FveState.ENCRYPTING),
    ],
)
def test_states(boot: bytes, block: bytes, state: FveState) -> None:
    volume = _read(_volume(boot, block))
    assert volume.state is state
    assert volume.state.partly_encrypted == (
        state in (FveState.ENCRYPT_ON_WRITE, FveState.ENCRYPTING, FveState.DECRYPTING)
    )


def test_other_dresses() -> None:
    to_go = _read(_volume(_boot(oem=b"MSWIN4.1", at=424), _USUAL))
    assert to_go.to_go
    assert to_go.recovery_passwords
    assert _read(_volume(_boot(sector_size=4096), _USUAL)).sector_size == 4096
    assert _read(_volume(_boot(sector_size=0), _USUAL)).sector_size == 512
    assert _read(_volume(_boot(), _block(_RECOVERY, method=0x8006))).method is EncryptionMethod.UNKNOWN


def test_windows_vista() -> None:
    boot = bytearray(b"\xeb\x52\x90" + SIGNATURE + struct.pack("<HB", 512, 8)).ljust(512, b"\0")
    struct.pack_into("<Q", boot, 56, _OFFSETS[0] // 4096)
    block = _block(_RECOVERY, version=1, method=0x8000)
    volume = _read(_volume(bytes(boot), block))
    assert (volume.version, volume.method, volume.block) == (1, EncryptionMethod.AES_CBC_128_DIFFUSER, 0)
    # The boot sector names the first block only; a spoilt one still says where the others are.
    spoilt = block[:-40] + bytes(8) + block[-32:]
    assert _read(_volume(bytes(boot), spoilt, block, block)).block == 1


@pytest.mark.parametrize("damage", [bytes(4096), b"\xff" * 4096, _USUAL[:200] + b"\xff" * 200])
def test_a_damaged_block_gives_way_to_the_next(damage: bytes) -> None:
    assert _read(_volume(_boot(), damage, _USUAL, _USUAL)).block == 1
    volume = _read(_volume(_boot(), damage, damage, _USUAL))
    assert (volume.block, volume.checksum_ok, volume.description) == (2, True, "FRONTDESK-07 C: 19/07/2024")
    with pytest.raises(FveError, match=r"no metadata block can be read: block 1: .*block 3: "):
        _read(_volume(_boot(), damage))


def test_a_wrong_checksum_is_the_last_choice() -> None:
    wrong = _USUAL[:-1] + bytes([_USUAL[-1] ^ 1])
    assert _read(_volume(_boot(), wrong, wrong, _USUAL)).block == 2
    volume = _read(_volume(_boot(), wrong))
    assert (volume.block, volume.checksum_ok, len(volume.recovery_passwords)) == (0, False, 1)


def test_a_sector_that_cannot_be_read_gives_way_to_the_next() -> None:
    class BadSector(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == _OFFSETS[0]:
                raise OSError("medium error")
            return super().read(size)

    assert read_volume(BadSector(_volume(_boot(), _USUAL))).block == 1


def test_a_block_that_was_copied_here_is_not_believed() -> None:
    elsewhere = _block(_RECOVERY, offsets=(0x1000, 0x3000, 0x5000))
    assert _read(_volume(_boot(), elsewhere, _USUAL, _USUAL)).block == 1


@pytest.mark.parametrize(
    "sector", [b"", bytes(512), b"\xeb\x52\x90NTFS    ".ljust(512, b"\0"), b"\xeb\x58\x90" + SIGNATURE]
)
def test_what_is_not_bitlocker(sector: bytes) -> None:
    with pytest.raises(FveError, match="boot sector"):
        _read(sector)


def test_offsets_no_disk_has() -> None:
    sector = bytearray(_boot())
    struct.pack_into("<QQQ", sector, 176, 2**64 - 1, 2**63, 2**62)
    with pytest.raises(FveError, match="no metadata block"):
        _read(bytes(sector))


def test_times() -> None:
    assert file_time(0) is None
    assert file_time(2**64 - 1) is None
    assert file_time(116_444_736_000_000_000) == datetime(1970, 1, 1, tzinfo=UTC)


# --- startup keys --------------------------------------------------------------------------------------------------


def _bek(*properties: bytes, guid: UUID = _KEY, version: int = 1) -> bytes:
    entry = _entry(6, 9, guid.bytes_le + struct.pack("<Q", _TIME) + b"".join(properties))
    length = METADATA_HEADER.size + len(entry)
    return METADATA_HEADER.pack(length, version, 48, length, _KEY.bytes_le, 1, 0, 0, _TIME) + entry


_THE_KEY = _entry(0, 1, struct.pack("<I", 0x2002) + bytes(range(32)))


def test_a_startup_key_file() -> None:
    key = read_startup_key(_bek(_text(0, "ExternalKey"), _THE_KEY))
    assert (key.guid, key.volume_guid) == (str(_KEY).upper(), "")
    assert key.created == datetime(2020, 9, 15, 7, 22, 33, tzinfo=UTC)
    named = read_startup_key(_bek(_entry(0x19, 0x17, _VOLUME.bytes_le), _THE_KEY))
    assert named.volume_guid == str(_VOLUME).upper()
    assert "0001020304" not in repr(named)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (bytes(156), "version 0"),
        (bytes(1 << 20), "1048576 bytes"),
        (_bek(_THE_KEY, version=2), "version 2"),
        (_bek(_THE_KEY)[:-1], "124 bytes"),
        (_bek(_text(0, "ExternalKey")), "holds no key"),
        (_bek(_entry(0, 1, bytes(20))), "holds no key"),
        (_bek(_THE_KEY, guid=_VOLUME), "another"),
    ],
)
def test_what_is_no_startup_key(data: bytes, message: str) -> None:
    with pytest.raises(FveError, match=message):
        read_startup_key(data)


# --- noise and mutations -------------------------------------------------------------------------------------------


@given(st.binary(max_size=2048))
def test_noise_raises_nothing_else(noise: bytes) -> None:
    for read in (_read, read_startup_key, lambda data: list(read_entries(data))):
        with contextlib.suppress(FveError):
            read(noise)


_MUTATIONS = st.lists(st.tuples(st.integers(0, 0x2400), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6)


def _mutated(image: bytes, mutations: list[tuple[int, bytes]]) -> bytes:
    """With bytes overwritten in the boot sector or at the start of all three metadata blocks."""
    changed = bytearray(image)
    for at, data in mutations:
        places = [at] if at < 512 else [offset + (at - 512) % 1024 for offset in _OFFSETS]
        for place in places:
            changed[place : place + len(data)] = data
    return bytes(changed)


@settings(max_examples=300)
@given(_MUTATIONS)
def test_mutations_raise_nothing_else(mutations: list[tuple[int, bytes]]) -> None:
    with contextlib.suppress(FveError):
        _read(_mutated(_volume(_boot(), _USUAL), mutations))


@settings(max_examples=200)
@given(st.integers(0, len(_bek(_THE_KEY)) - 1), st.binary(min_size=1, max_size=9))
def test_mutated_startup_keys_raise_nothing_else(at: int, data: bytes) -> None:
    file = _bek(_THE_KEY)
    with contextlib.suppress(FveError):
        read_startup_key(file[:at] + data + file[at + len(data) :])


# --- real volumes, judged by cryptsetup and dislocker ----------------------------------------------------------------

_real = pytest.mark.skipif(not _IMAGES.is_file(), reason="needs ../shared/testdata/bitlk-images.tar.xz")
_NAMES = (
    "bitlk-aes-cbc-128",
    "bitlk-aes-xts-128",
    "bitlk-aes-xts-128-clearkey-only",
    "bitlk-aes-xts-128-eow",
    "bitlk-aes-xts-128-startup-key",
    "bitlk-aes-xts-128-two-recovery",
    "bitlk-aes-xts-256",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bitlk")
    with tarfile.open(_IMAGES) as archive:
        archive.extractall(folder, filter="data")
    yield folder / "bitlk-images"
    shutil.rmtree(folder)


def _volume_in(image: Path) -> FveVolume:
    with image.open("rb") as stream:
        return read_volume(stream)


def _dump(image: Path) -> str:
    return subprocess.run(["cryptsetup", "bitlkDump", str(image)], check=True, capture_output=True, text=True).stdout


def _field(dump: str, name: str) -> str:
    found = re.search(rf"^\s*{name}:\s*(.+?)\s*$", dump, re.MULTILINE)
    assert found, f"{name} is not in: {dump}"
    return found[1]


_CIPHERS = {
    ("cbc-eboiv", "128"): EncryptionMethod.AES_CBC_128,
    ("xts-plain64", "256"): EncryptionMethod.AES_XTS_128,
    ("xts-plain64", "512"): EncryptionMethod.AES_XTS_256,
}
_PROTECTIONS = {
    "VMK protected with passphrase": ProtectorKind.PASSWORD,
    "VMK protected with recovery passphrase": ProtectorKind.RECOVERY_PASSWORD,
    "VMK protected with startup key": ProtectorKind.STARTUP_KEY,
    "VMK protected with clear key": ProtectorKind.CLEAR_KEY,
}


@_real
@needs("cryptsetup")
@pytest.mark.parametrize("name", _NAMES)
def test_real_volumes_as_cryptsetup_reads_them(images: Path, name: str) -> None:
    image = images / f"{name}.img"
    volume, dump = _volume_in(image), _dump(image)
    assert volume.guid.lower() == _field(dump, "GUID")
    assert volume.description == _field(dump, "Description")
    assert volume.version == int(_field(dump, "Version"))
    assert volume.sector_size == int(_field(dump, "Sector size").split()[0])
    assert volume.encrypted_size == int(_field(dump, "Volume size").split()[0]) == image.stat().st_size
    assert volume.created is not None
    created = " ".join(_field(dump, "Created").split())
    assert volume.created.replace(microsecond=0) == datetime.strptime(created, "%a %b %d %H:%M:%S %Y").replace(
        tzinfo=UTC
    )
    assert volume.method is _CIPHERS[_field(dump, "Cipher mode"), _field(dump, "Cipher key").split()[0]]
    protectors = re.findall(r"VMK\n(?:\tName:\s*(\S+)\n)?\tGUID:\s*(\S+)\n\tProtection:\s*(.+)\n", dump)
    assert [(p.name, p.guid.lower(), p.kind) for p in volume.protectors] == [
        (label, guid, _PROTECTIONS[words]) for label, guid, words in protectors
    ]
    areas = re.findall(r"FVE metadata area\n\tOffset:\s*(\d+)", dump)
    assert volume.metadata_offsets == tuple(int(area) for area in areas)


@_real
@pytest.mark.parametrize("name", _NAMES)
def test_real_volumes_as_their_makers_describe_them(images: Path, name: str) -> None:
    known = configparser.ConfigParser()
    known.read(images / "images.conf")
    facts, volume = known[name], _volume_in(images / f"{name}.img")
    wanted = {
        "PW_VMK_GUID": ProtectorKind.PASSWORD,
        "RP_VMK_GUID": ProtectorKind.RECOVERY_PASSWORD,
        "RP2_VMK_GUID": ProtectorKind.RECOVERY_PASSWORD,
        "SK_VMK_GUID": ProtectorKind.STARTUP_KEY,
        "CLEARKEY_VMK_GUID": ProtectorKind.CLEAR_KEY,
    }
    named = {(facts[key].upper(), kind) for key, kind in wanted.items() if facts.get(key)}
    assert volume.guid == facts["GUID"].upper()
    # The makers do not list the password that the volume with a startup key was made with.
    assert named <= {(protector.guid, protector.kind) for protector in volume.protectors}
    states = {"eow": FveState.ENCRYPT_ON_WRITE, "only": FveState.SUSPENDED}
    assert volume.state is states.get(name.rpartition("-")[2], FveState.LOCKED)
    assert (volume.block, volume.checksum_ok) == (0, True)


@_real
@needs("dislocker-metadata")
@pytest.mark.parametrize("name", [name for name in _NAMES if not name.endswith("eow")])  # dislocker refuses it
def test_real_volumes_as_dislocker_reads_them(images: Path, name: str) -> None:
    image = images / f"{name}.img"
    done = subprocess.run(["dislocker-metadata", "-V", str(image)], check=True, capture_output=True, text=True)
    said, volume = done.stdout, _volume_in(image)
    assert _field(said, ".*Dataset GUID") == f"'{volume.guid}'"
    assert _field(said, ".*UTF-16 string") == f"'{volume.description}'"
    assert int(_field(said, ".*Encrypted volume size").split()[0]) == volume.encrypted_size
    # A clear key is printed once more, at the end.
    guids = list(dict.fromkeys(re.findall(r"Recovery Key GUID: '(.+)'", said)))
    assert guids == [protector.guid for protector in volume.protectors]
    offsets = [int(_field(said, f".*{nth} metadata header offset"), 16) for nth in ("First", "Second", "Third")]
    assert volume.metadata_offsets == tuple(offsets)
    assert _field(said, ".*Encryption Type").startswith(str(volume.method).replace("AES-CBC", "AES").replace(" ", "-"))


@_real
@pytest.mark.parametrize("block", [1, 2])
def test_a_real_volume_with_spoilt_blocks(block: int) -> None:
    pieces = dict(_real_metadata()[_NAMES.index("bitlk-aes-xts-128-two-recovery")])
    whole = read_volume(_Pieces(pieces))  # type: ignore[arg-type]
    for offset in whole.metadata_offsets[:block]:
        pieces[offset] = pieces[offset][:700] + bytes(64) + pieces[offset][764:]
    volume = read_volume(_Pieces(pieces))  # type: ignore[arg-type]
    assert (volume.block, volume.protectors, volume.guid) == (block, whole.protectors, whole.guid)


@_real
def test_real_startup_keys(images: Path) -> None:
    keys = {path.stem: read_startup_key(path.read_bytes()) for path in images.glob("*.BEK")}
    assert {name: key.guid for name, key in keys.items()} == {name: name for name in keys}
    assert len(keys) == 2
    volume = _volume_in(images / "bitlk-aes-xts-128-startup-key.img")
    assert [protector.guid for protector in volume.startup_keys if protector.guid in keys] == [
        volume.startup_keys[0].guid
    ]


@_real
@settings(max_examples=300)
@given(st.integers(0, len(_NAMES) - 1), _MUTATIONS)
def test_mutated_real_metadata_raises_nothing_else(which: int, mutations: list[tuple[int, bytes]]) -> None:
    boot, *blocks = _real_metadata()[which].items()
    changed = {0: bytearray(boot[1]), **{offset: bytearray(block) for offset, block in blocks}}
    for at, data in mutations:
        for offset in [0] if at < 512 else [offset for offset, _ in blocks]:
            place = at if at < 512 else (at - 512) % 1280
            changed[offset][place : place + len(data)] = data
    with contextlib.suppress(FveError):
        read_volume(_Pieces(changed))  # type: ignore[arg-type]


class _Pieces:
    """A volume of which only some pieces exist, by offset; it is read nowhere else."""

    def __init__(self, pieces: Mapping[int, bytes | bytearray]) -> None:
        self._pieces, self._at = pieces, 0

    def seek(self, offset: int) -> None:
        self._at = offset

    def read(self, length: int) -> bytes:
        return bytes(self._pieces.get(self._at, b"")[:length])


@functools.cache
def _real_metadata() -> tuple[Mapping[int, bytes], ...]:
    """Of each real volume its boot sector and metadata blocks, by offset: small enough to mutate by the hundred."""
    found = []
    with tarfile.open(_IMAGES) as archive:
        for name in _NAMES:
            stream = archive.extractfile(f"bitlk-images/{name}.img")
            assert stream
            pieces = {0: stream.read(512)}
            for offset in struct.unpack_from("<QQQ", pieces[0], 176):
                stream.seek(offset)
                pieces[offset] = stream.read(2048)
            found.append(pieces)
    return tuple(found)
