"""What the builder puts into an image and what comes back from it: configuration, rules, events, receipt, exit codes.

Both sides import this module, so what the builder validates is what the payload runs. The JSON forms are those of
`payload.formats.records`: one key a field, in the order of the fields.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from payload.rule_schema import BUILT_IN_RULES as BUILT_IN_RULES
from payload.rule_schema import CROWDSTRIKE_CHANNEL_291 as CROWDSTRIKE_CHANNEL_291
from payload.rule_schema import Action as Action
from payload.rule_schema import Below as Below
from payload.rule_schema import FileClass as FileClass
from payload.rule_schema import HeaderField as HeaderField
from payload.rule_schema import Policy as Policy
from payload.rule_schema import Rule as Rule
from payload.rule_schema import TimeWindow as TimeWindow

#: Raised whenever a reader of old receipts or journals would misread new ones.
SCHEMA_VERSION = 1

#: Every event line on the serial port starts with this, so that kernel messages between them do no harm.
EVENT_PREFIX = "BLUELIFT "

#: Where Bluelift keeps things on a repaired volume, below the volume's root.
STORE_PARENT = "ProgramData"
STORE_NAME = "Bluelift"
QUARANTINE_FOLDER = "quarantine"
JOURNAL_NAME = "journal.json"
RECEIPT_NAME = "receipt.json"
UNDOING_NAME = "undoing.json"
UNDONE_NAME = "undone.json"

#: Where Bluelift looks for and leaves things on the boot medium and on sticks.
MEDIUM_FOLDER = "Bluelift"
MEDIUM_IDENTITY = "image.json"
MEDIUM_CONFIG = "config"
MEDIUM_RECEIPTS = "receipts"
MEDIUM_VAULT = "vault"
#: The folders in MEDIUM_FOLDER of a medium that can be written.
MEDIUM_FOLDERS = (MEDIUM_CONFIG, "drivers", MEDIUM_RECEIPTS, MEDIUM_VAULT)
#: Finishes in safe mode what Bluelift could not do on a locked volume; the rules for a payload beside it.
SAFE_MODE_SCRIPT, SAFE_MODE_CONFIG = "safe-mode.cmd", "safe-mode.json"


#: Windows's DLLs that the payload loads through ctypes, which shows in no import table.
WINDOWS_LIBRARIES = ("advapi32.dll", "bcrypt.dll", "cfgmgr32.dll", "kernel32.dll", "ntdll.dll")


class Verdict(enum.StrEnum):
    """How a host, or one volume of it, came out. In the order of severity, worst first: the headline is the worst."""

    FAILED = "failed"
    LEFT_ALONE = "left-alone"
    NEEDS_A_KEY = "needs-a-key"
    REPORTED = "reported"
    REPAIRED = "repaired"
    ALREADY_CLEAN = "already-clean"
    NO_WINDOWS_FOUND = "no-windows-found"

    @property
    def headline(self) -> str:
        """The words on the screen, in capital letters."""
        return {Verdict.REPORTED: "REPORT ONLY"}.get(self, self.value.replace("-", " ").upper())

    @property
    def exit_code(self) -> int:
        """The payload's exit code: 0 for a host that is well now, otherwise one code for each verdict."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.REPAIRED: 0,
    Verdict.ALREADY_CLEAN: 0,
    Verdict.NO_WINDOWS_FOUND: 10,
    Verdict.REPORTED: 11,
    Verdict.NEEDS_A_KEY: 12,
    Verdict.LEFT_ALONE: 13,
    Verdict.FAILED: 14,
}
#: Exit code for a command line or a configuration that the payload cannot use.
EXIT_USAGE = 2
#: Exit code after a key press or signal ended the payload.
EXIT_INTERRUPTED = 130


def worst(verdicts: list[Verdict]) -> Verdict:
    """The headline of several verdicts; NO WINDOWS FOUND where there are none."""
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.NO_WINDOWS_FOUND)


class EventName(enum.StrEnum):
    """The kinds of JSON lines on the serial port, in the order in which they appear."""

    STARTED = "started"
    DISKS = "disks"
    KEY_WANTED = "key-wanted"
    PLAN = "plan"
    ACTED = "acted"
    VOLUME = "volume"
    RECEIPT = "receipt"
    ENDING = "ending"


class AfterRepair(enum.StrEnum):
    """What the machine does after a verdict."""

    REBOOT = "reboot"
    POWER_OFF = "power-off"
    STAY = "stay"


class HibernatedVolumes(enum.StrEnum):
    """What to do with a volume that a hibernated (or fast-startup) Windows still owns."""

    LEAVE = "leave"
    DISCARD = "discard"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What happens once the verdict stands: `countdown` seconds, stopped by any key, then the action.

    `nobody` is for a host that needs a key and has nobody at it.
    """

    repaired: AfterRepair = AfterRepair.REBOOT
    otherwise: AfterRepair = AfterRepair.STAY
    nobody: AfterRepair = AfterRepair.POWER_OFF
    countdown: int = 30


@dataclass(frozen=True, kw_only=True)
class PayloadConfig:
    """The payload's configuration, `config.json` in the image. Rendered from the profile by the builder.

    `key_wait`: how many seconds a question for a key waits for the first key press; 0 asks nobody.
    """

    image_id: str
    rules: tuple[Rule, ...]
    schema: int = SCHEMA_VERSION
    bluelift: str = ""
    organisation: str = ""
    contact: str = ""
    ending: Ending = field(default_factory=Ending)
    hibernated: HibernatedVolumes = HibernatedVolumes.LEAVE
    disk_wait: int = 30
    key_wait: int = 300
    serial: str = "ttyS0"
    shell: bool = True

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise ValueError(f"configuration schema {self.schema}, this payload reads {SCHEMA_VERSION}")
        in_range = 0 <= self.disk_wait <= 600 and 0 <= self.key_wait <= 86400 and 0 <= self.ending.countdown <= 3600
        if not in_range:
            raise ValueError("a waiting time is out of range")
        ids = [rule.id for rule in self.rules]
        if len(set(ids)) != len(ids):
            raise ValueError("two rules have the same id")


# --- the receipt -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HostIdentity:
    """Who the host is, as SMBIOS says (DSP0134, System Information); empty where the firmware says nothing."""

    smbios_uuid: str = ""
    smbios_serial: str = ""
    manufacturer: str = ""
    product: str = ""
    firmware: str = ""
    secure_boot: bool | None = None


class FileOutcome(enum.StrEnum):
    """What happened to one file."""

    QUARANTINED = "quarantined"
    DELETED = "deleted"
    RESTORED = "restored"
    REPORTED = "reported"
    LEFT = "left"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file that a rule's pattern named. Paths are Windows-style below the volume's root (`\\Windows\\...`)."""

    path: str
    rule: str
    file_class: FileClass
    action: Action
    outcome: FileOutcome
    size: int
    modified: str
    sha256: str
    quarantined_as: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class InstallationRecord:
    """One Windows installation: where it is, whose it is, what was found in it."""

    path: str
    computer_name: str = ""
    product: str = ""
    build: str = ""
    detail: str = ""
    files: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VolumeRecord:
    """One volume of a disk and how it came out.

    `unlocked_by`: what opened a BitLocker volume ("clear key", "startup key", "vault", "plain CSV", "recovery password
    typed"). `key_ids`: GUIDs of the protector that did, or of every recovery password that would.
    """

    id: str
    disk: str
    label: str
    file_system: str
    size: int
    state: str
    verdict: Verdict
    detail: str = ""
    advice: str = ""
    run_id: str = ""
    unlocked_by: str = ""
    key_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    installations: tuple[InstallationRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DiskRecord:
    """One physical disk. `state` is "ok" or, in a word, why it was left alone; `detail` a sentence on it."""

    id: str
    model: str
    serial: str
    size: int
    bus: str
    state: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ControllerRecord:
    """A storage controller, listed so that "no disk seen" can be explained. `driver` is empty where none is bound."""

    address: str
    pci_id: str
    kind: str
    driver: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What Bluelift found and did on one host in one run. UTC times are ISO 8601, durations are seconds.

    `configuration`: what the boot medium's own configuration changed in the image's, a sentence; empty where nothing.
    """

    run_id: str
    image_id: str
    bluelift: str
    environment: str
    started: str
    seconds: float
    host: HostIdentity
    verdict: Verdict
    sentence: str
    advice: str
    dry_run: bool
    disks: tuple[DiskRecord, ...]
    volumes: tuple[VolumeRecord, ...]
    controllers: tuple[ControllerRecord, ...] = ()
    policies: dict[str, Policy] = field(default_factory=dict)
    configuration: str = ""
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One intended move: from `source` to `destination`, both Windows-style below the volume's root.

    `file_number` is the number of the file's record on the volume, 0 where it is not known.
    """

    rule: str
    action: Action
    source: str
    destination: str
    size: int
    modified_ns: int
    sha256: str
    file_number: int = 0


@dataclass(frozen=True, kw_only=True)
class Journal:
    """What one run is about to do on one volume, written and synced before the first file moves."""

    run_id: str
    written: str
    entries: tuple[JournalEntry, ...]
    schema: int = SCHEMA_VERSION
