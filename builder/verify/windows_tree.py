"""The folder tree of a broken Windows, as data: every file, its bytes, its time, and what must become of it.

What must become of each file is written down here by hand, from the vendor's advice and FACTS (file names, header,
time window). Nothing is asked of the payload's own code: this is what the payload is measured against.
"""

from __future__ import annotations

import enum
import hashlib
import json
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from builder.verify.hive import HiveKey, hive_bytes, text_value

COMPUTER_NAME = "FRONTDESK-07"
SECOND_COMPUTER_NAME = "LAB-BENCH-2"
CROWDSTRIKE = "Windows\\System32\\drivers\\CrowdStrike"
#: Letter case is the installer's business.
_SECOND_CROWDSTRIKE = "Rescue Windows\\System32\\drivers\\crowdstrike"
_BAD = "C-00000291-00000000-00000032.sys"
_NAMED_AS_A_FILE = f"{CROWDSTRIKE}\\C-00000291-00000000-00000088.sys"
_SEED = b"bluelift verify 1"


class Fate(enum.StrEnum):
    """What must have become of a file after the run."""

    KEPT = "kept"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """A file of the tree. `path` is below the volume's root with backslashes, `modified` is UTC.

    `streams` are (name, bytes) of alternate data streams; `attributes` are those of [MS-FSCC] 2.6,
    `short_name` is the 8.3 name that Windows gives beside the long one.
    """

    path: str
    content: bytes
    modified: datetime
    fate: Fate = Fate.KEPT
    streams: tuple[tuple[str, bytes], ...] = ()
    attributes: int | None = None
    short_name: str = ""
    hard_links: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Everything on a volume. `junctions` are (path, target as Windows writes it)."""

    files: tuple[TreeFile, ...]
    directories: tuple[str, ...] = ()
    junctions: tuple[tuple[str, str], ...] = ()

    def with_files(self, *files: TreeFile) -> Tree:
        """The same tree with more files."""
        return replace(self, files=(*self.files, *files))

    def all_kept(self) -> Tree:
        """The same tree where nothing may be touched."""
        return replace(self, files=tuple(replace(file, fate=Fate.KEPT) for file in self.files))

    def without_fate(self, fate: Fate) -> Tree:
        """The same tree without the files of that fate."""
        return replace(self, files=tuple(file for file in self.files if file.fate is not fate))


#: The times that decide (UTC, CrowdStrike's "Technical Details: Falcon Content Update for Windows Hosts").
RELEASED = datetime(2024, 7, 19, 4, 9, tzinfo=UTC)
WITHDRAWN = datetime(2024, 7, 19, 5, 27, tzinfo=UTC)
_OLD = datetime(2024, 7, 18, 21, 30, 0, 123456, tzinfo=UTC)
_JUST_BEFORE = datetime(2024, 7, 19, 4, 8, 59, 999999, tzinfo=UTC)
_FAULTY = datetime(2024, 7, 19, 4, 9, 27, 654321, tzinfo=UTC)
_LAST_FAULTY = datetime(2024, 7, 19, 5, 26, 59, 999999, tzinfo=UTC)
_CORRECTED = datetime(2024, 7, 19, 5, 31, 2, 500000, tzinfo=UTC)
_INSTALLED = datetime(2023, 10, 12, 8, 15, 30, 250000, tzinfo=UTC)


def channel_bytes(channel: int, version: int, *, size: int, salt: str = "") -> bytes:
    """A channel file: AA AA AA AA, 01 00, the channel at 6, zero at 0xC, the version at 0x10, then content."""
    head = struct.pack("<4sHHIII", b"\xaa" * 4, 1, channel, 0, 0, version)
    return head + noise(f"channel {channel} {version} {salt}", size - len(head))


def noise(name: str, size: int) -> bytes:
    """`size` bytes that look like compressed data, the same ones for the same name at any time and place."""
    return hashlib.shake_256(_SEED + name.encode()).digest(size)


def program_bytes(name: str, size: int) -> bytes:
    """Something that starts as every PE file does."""
    return b"MZ\x90\x00" + noise(name, size - 4)


def broken_windows() -> Tree:
    """A host as the incident left it: two installations, channel files of every class, neighbours, traps."""
    return Tree(
        files=(
            *_installation("Windows", COMPUTER_NAME),
            *_crowdstrike_neighbours(),
            *_channel_files(),
            *_installation("Rescue Windows", SECOND_COMPUTER_NAME),
            _channel("C-00000291-00000000-00000031.sys", folder=_SECOND_CROWDSTRIKE, version=31, fate=Fate.QUARANTINED),
            *_people(),
        ),
        directories=(
            "$Recycle.Bin",
            "ProgramData\\Microsoft\\Windows\\Start Menu",
            "System Volume Information",
            "Users\\Public\\Documents",
            f"{CROWDSTRIKE}\\Quarantine",
            # A folder may be called as it likes: only files are channel files.
            _NAMED_AS_A_FILE,
        ),
        junctions=(("Documents and Settings", "C:\\Users"), ("ProgramData\\Application Data", "C:\\ProgramData")),
    )


def clean_windows() -> Tree:
    """The same host after the vendor's own correction: every channel file 291 is newer than the withdrawal."""
    tree = broken_windows().without_fate(Fate.QUARANTINED)
    return tree.with_files(
        _channel("C-00000291-00000000-00000033.sys", version=33, modified=_CORRECTED, size=41000),
        _channel("C-00000291-00000000-00000034.sys", version=34, modified=WITHDRAWN, size=41010),
    )


def faulty_only_windows() -> Tree:
    """The smallest broken host: one installation, one faulty file. For volumes that must not be touched at all."""
    return Tree(files=(*_installation("Windows", COMPUTER_NAME), _channel("C-00000291-00000000-00000032.sys")))


def reparse_windows() -> Tree:
    """A Windows folder that is a junction to elsewhere: what lies there is not this Windows's own."""
    elsewhere = "Users\\Public\\Elsewhere"
    return Tree(
        files=(
            *_installation(elsewhere, COMPUTER_NAME),
            _channel(_BAD, folder=f"{elsewhere}\\System32\\drivers\\CrowdStrike"),
            _kept("Users\\Grace\\notes.txt", b"nothing here\r\n"),
        ),
        junctions=(("Windows", "C:\\Users\\Public\\Elsewhere"), ("Documents and Settings", "C:\\Users")),
    )


def planted_store_windows() -> Tree:
    """A broken host where a user made Bluelift's folder first, with a journal that names a file of Windows."""
    store = "ProgramData\\Bluelift\\quarantine\\20240719T050000Z-00000291"
    entry = {
        "rule": "crowdstrike-channel-291",
        "action": "quarantine",
        "source": "\\Windows\\System32\\ntoskrnl.exe",
        "destination": f"\\{store}\\files\\Windows\\System32\\ntoskrnl.exe",
        "size": 300_000,
        "modified_ns": 0,
        "sha256": "0" * 64,
    }
    journal = {
        "run_id": "20240719T050000Z-00000291",
        "written": "2024-07-19T05:00:00Z",
        "entries": [entry],
        "schema": 1,
    }
    return broken_windows().with_files(
        _kept(f"{store}\\journal.json", json.dumps(journal).encode()),
        _kept(f"{store}\\files\\Windows\\System32\\ntoskrnl.exe", program_bytes("evil", 4000)),
    )


def data_volume() -> Tree:
    """A volume without any Windows on it."""
    return Tree(
        files=(
            _kept("Photos\\2024\\C-00000291-00000000-00000032.sys", channel_bytes(291, 32, size=2000), _FAULTY),
            _kept("Photos\\cat.jpg", b"\xff\xd8\xff" + noise("cat", 20000)),
            _kept("System32\\readme.txt", b"not an installation\r\n"),
        )
    )


def recovery_volume() -> Tree:
    """The recovery partition that Windows Setup makes."""
    return Tree(
        files=(
            _kept("Recovery\\WindowsRE\\Winre.wim", b"MSWIM\0\0\0" + noise("winre", 200_000)),
            _kept("Recovery\\WindowsRE\\ReAgent.xml", b"<?xml version='1.0' encoding='utf-8'?>\r\n<WindowsRE/>\r\n"),
        )
    )


# --- the parts -----------------------------------------------------------------------------------------------------


def _kept(path: str, content: bytes, modified: datetime = _INSTALLED) -> TreeFile:
    return TreeFile(path=path, content=content, modified=modified)


def _channel(
    name: str,
    *,
    folder: str = CROWDSTRIKE,
    version: int = 32,
    modified: datetime = _FAULTY,
    fate: Fate = Fate.KEPT,
    size: int = 40999,
    content: bytes | None = None,
) -> TreeFile:
    data = channel_bytes(291, version, size=size, salt=name) if content is None else content
    return TreeFile(path=f"{folder}\\{name}", content=data, modified=modified, fate=fate)


def _installation(folder: str, computer_name: str) -> tuple[TreeFile, ...]:
    kernel = program_bytes(f"{folder} ntoskrnl", 300_000)
    return (
        _kept(f"{folder}\\System32\\config\\SYSTEM", _system_hive(computer_name)),
        _kept(f"{folder}\\System32\\config\\SOFTWARE", _software_hive()),
        _kept(f"{folder}\\System32\\config\\SYSTEM.LOG1", b""),
        TreeFile(
            path=f"{folder}\\System32\\ntoskrnl.exe",
            content=kernel,
            modified=_INSTALLED,
            # Windows's own files are hard links into the component store.
            hard_links=(f"{folder}\\WinSxS\\amd64_microsoft-windows-os-kernel_31bf3856ad364e35\\ntoskrnl.exe",),
        ),
        _kept(f"{folder}\\System32\\hal.dll", program_bytes(f"{folder} hal", 5000)),
        *(
            _kept(f"{folder}\\System32\\drivers\\{name}", program_bytes(f"{folder} {name}", 3000 + 17 * len(name)))
            for name in ("ntfs.sys", "disk.sys", "storport.sys", "stornvme.sys", "WdFilter.sys", "fltMgr.sys")
        ),
        # The same name as a channel file, one folder too high.
        _kept(
            f"{folder}\\System32\\drivers\\C-00000291-00000000-00000032.sys", channel_bytes(291, 32, size=1000), _FAULTY
        ),
        _kept(f"{folder}\\explorer.exe", program_bytes(f"{folder} explorer", 20_000)),
    )


def _crowdstrike_neighbours() -> tuple[TreeFile, ...]:
    modules = ("CSBoot.sys", "CSFirmwareAnalysis.sys", "CSDeviceControl.sys", "CSAgent.sys", "cspcm4.sys")
    other_channels = [(290, 5, _FAULTY), (292, 7, _FAULTY), (29, 1, _FAULTY), (2910, 3, _FAULTY), (1, 220, _OLD)]
    return (
        *(_kept(f"{CROWDSTRIKE}\\{name}", program_bytes(name, 8000)) for name in modules),
        *(
            _kept(
                f"{CROWDSTRIKE}\\C-{channel:08d}-00000000-{version:08d}.sys",
                channel_bytes(channel, version, size=1500),
                modified,
            )
            for channel, version, modified in other_channels
        ),
        _kept(f"{CROWDSTRIKE}\\C-00000291-00000000-00000032.sys.bak", channel_bytes(291, 32, size=900), _FAULTY),
        _kept(f"{CROWDSTRIKE}\\C-00000291.txt", b"notes of a technician\r\n", _FAULTY),
        _kept(f"{CROWDSTRIKE}\\XC-00000291-00000000-00000032.sys", channel_bytes(291, 32, size=901), _FAULTY),
        _kept(f"{CROWDSTRIKE}\\Quarantine\\{_BAD}", channel_bytes(291, 32, size=902), _FAULTY),
        _kept(f"{_NAMED_AS_A_FILE}\\inside.sys", channel_bytes(291, 88, size=903), _FAULTY),
        # A driver that carries a channel file's name stays, whatever its time says.
        _channel("C-00000291-00000000-00000099.sys", content=program_bytes("foreign", 7000)),
        _kept(f"{CROWDSTRIKE}\\überlang-" + "n" * 200 + ".dat", noise("long", 300)),
    )


def _channel_files() -> tuple[TreeFile, ...]:
    """Channel 291 in every class. One of them is not corrected, so the vendor's advice takes them all."""
    gone = Fate.QUARANTINED
    first = _channel("C-00000291-00000000-00000032.sys", fate=gone)
    return (
        replace(first, streams=(("Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n"),), short_name="C-0000~1.SYS"),
        replace(_channel("c-00000291-00000000-00000030.SYS", version=30, modified=RELEASED, fate=gone, size=5000),
                attributes=_HIDDEN_SYSTEM_ARCHIVE),
        _channel("C-00000291-00000000-00000035.sys", version=35, modified=_LAST_FAULTY, fate=gone, size=600),
        _channel("C-00000291-00000000-00000033.sys", version=33, modified=_CORRECTED, fate=gone, size=41002),
        _channel("C-00000291-00000000-00000034.sys", version=34, modified=WITHDRAWN, fate=gone, size=41003),
        _channel("C-00000291-00000000-00000027.sys", version=27, modified=_OLD, fate=gone, size=39000),
        _channel("C-00000291-00000000-00000028.sys", version=28, modified=_JUST_BEFORE, fate=gone, size=39100),
        _channel("C-00000291-00000000-00000036.sys", content=bytes(40_960), fate=gone),
        _channel("C-00000291-00000000-00000037.sys", content=b"\xaa\xaa\xaa", fate=gone),
        _channel("C-00000291-00000000-00000038.sys", content=channel_bytes(291, 38, size=20)[:14], fate=gone),
        _channel("C-00000291-00000000-00000039.sys", content=b"", fate=gone),
        # The header says another channel, or another version, than the name.
        _channel("C-00000291-00000000-00000040.sys", content=channel_bytes(292, 40, size=2048), fate=gone),
        _channel("C-00000291-00000000-00000041.sys", content=channel_bytes(291, 42, size=2049), fate=gone),
        _channel("C-00000291-" + "0" * 150 + "-00000032.sys", fate=gone, size=1111),
    )  # fmt: skip


def _people() -> tuple[TreeFile, ...]:
    return (
        # A technician's copy of the bad file is his own business.
        _kept(
            "Users\\Grace\\Desktop\\C-00000291-00000000-00000032.sys",
            channel_bytes(291, 32, size=40999, salt="copy"),
            _FAULTY,
        ),
        _kept("Users\\Grace\\Documents\\報告 Übersicht 2024.xlsx", b"PK\x03\x04" + noise("xlsx", 30_000)),
        _kept("Users\\Grace\\NTUSER.DAT", hive_bytes(HiveKey(name="ROOT"))),
        _kept("ProgramData\\CrowdStrike\\falcon.cfg", noise("cfg", 700)),
        _kept("pagefile.sys", noise("page", 2_000_000)),
        _kept("bootmgr", noise("bootmgr", 1000)),
    )


_HIDDEN_SYSTEM_ARCHIVE = 0x26


def _system_hive(computer_name: str) -> bytes:
    name = HiveKey(name="ComputerName", values=(text_value("ComputerName", computer_name),))
    control = HiveKey(name="Control", keys=(HiveKey(name="ComputerName", keys=(name,)),))
    select = HiveKey(
        name="Select", values=tuple((n, 4, struct.pack("<I", 1)) for n in ("Current", "Default", "LastKnownGood"))
    )
    return hive_bytes(HiveKey(name="ROOT", keys=(HiveKey(name="ControlSet001", keys=(control,)), select)))


def _software_hive() -> bytes:
    version = HiveKey(
        name="CurrentVersion",
        values=(
            text_value("ProductName", "Windows 10 Enterprise"),
            text_value("CurrentBuild", "19045"),
            text_value("CurrentBuildNumber", "19045"),
            text_value("DisplayVersion", "22H2"),
            ("UBR", 4, struct.pack("<I", 4651)),
        ),
    )
    windows_nt = HiveKey(name="Windows NT", keys=(version,))
    return hive_bytes(HiveKey(name="ROOT", keys=(HiveKey(name="Microsoft", keys=(windows_nt,)),)))
