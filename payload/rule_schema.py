"""The schema of rules: what to look for and what to do. Data only; `payload.rules` runs them.

A rule names files by a pattern below each Windows folder, tells what a healthy file of that kind looks like (magic,
header fields that repeat what the name says), and says which of them are bad (time window, sha256, size). The
incident of 2024-07-19 is the built-in rule below; the next vendor's bad file is another rule in a profile.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FORBIDDEN = re.compile(r'[<>:"/|\x00-\x1f]')
#: Registry hives, boot and kernel files: no rule may name a file here, whatever its conditions say. Wildcards could
#: still reach them, so `payload.rules` checks the path it found as well.
PROTECTED_FOLDERS = ("system32\\config", "boot", "system32\\boot", "winsxs")


class FileClass(enum.StrEnum):
    """What a file that a pattern named turned out to be."""

    FAULTY = "faulty"
    CORRECTED = "corrected"
    OLDER = "older"
    ZERO_FILLED = "zero-filled"
    TRUNCATED = "truncated"
    FOREIGN = "foreign"
    NAME_MISMATCH = "name-mismatch"
    OTHER = "other"


class Policy(enum.StrEnum):
    """Which of the files that a pattern named are acted on."""

    #: All but foreign ones, as soon as one of those is not `corrected` (what the vendor advised in July 2024).
    VENDOR = "vendor"
    #: All but foreign ones, always.
    VENDOR_ALL = "vendor-all"
    #: Only faulty, zero-filled and truncated ones.
    FAULTY_ONLY = "faulty-only"
    #: None.
    REPORT_ONLY = "report-only"


class Action(enum.StrEnum):
    """What is done with a file that the policy names."""

    QUARANTINE = "quarantine"
    DELETE = "delete"
    REPORT = "report"


class Below(enum.StrEnum):
    """What a rule's pattern is relative to."""

    WINDOWS = "windows"
    VOLUME = "volume"


@dataclass(frozen=True, kw_only=True)
class HeaderField:
    """A little-endian number in a file's header: `size` bytes (1, 2, 4 or 8) at `offset`.

    It must equal `equals`, or the decimal digits of the group `in_name` of the rule's `name_format`, or both.
    """

    name: str
    offset: int
    size: int
    equals: int | None = None
    in_name: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= 4096 or self.size not in (1, 2, 4, 8):
            raise ValueError("offset must be 0 to 4096 and size 1, 2, 4 or 8")
        if self.equals is None and self.in_name is None:
            raise ValueError("give equals, in_name or both")


@dataclass(frozen=True, kw_only=True)
class TimeWindow:
    """Which modification times (UTC, ISO 8601 with Z) are bad: faulty_from <= t < corrected_from.

    Earlier files are `older`, later ones `corrected`.
    """

    faulty_from: str
    corrected_from: str

    def __post_init__(self) -> None:
        if not self.faulty_from_ns < self.corrected_from_ns:
            raise ValueError("faulty_from must be earlier than corrected_from")

    @property
    def faulty_from_ns(self) -> int:
        """Nanoseconds since 1970."""
        return parse_utc_ns(self.faulty_from)

    @property
    def corrected_from_ns(self) -> int:
        """Nanoseconds since 1970."""
        return parse_utc_ns(self.corrected_from)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of file to look for. Every condition that is given must hold for a file to be `faulty`.

    `pattern` is a Windows-style path with * and ? below the Windows folder (or the volume), matched without regard to
    case. `magic` is what a genuine file starts with, as hex digits; a file that starts otherwise is `foreign` and
    never touched. `name_format` is a regular expression for the name whose groups `header` fields may refer to.
    """

    id: str
    pattern: str
    title: str = ""
    below: Below = Below.WINDOWS
    magic: str = ""
    name_format: str = ""
    header: tuple[HeaderField, ...] = ()
    window: TimeWindow | None = None
    sha256: tuple[str, ...] = ()
    min_size: int | None = None
    max_size: int | None = None
    policy: Policy = Policy.FAULTY_ONLY
    action: Action = Action.QUARANTINE

    def __post_init__(self) -> None:
        problems = [*self._identity_problems(), *pattern_problems(self.pattern), *self._condition_problems()]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def pattern_parts(self) -> tuple[str, ...]:
        """The pattern's components, from the Windows folder (or the volume's root) down."""
        return tuple(self.pattern.split("\\"))

    @property
    def only_reports(self) -> bool:
        """Whether no file is ever changed for it."""
        return self.policy is Policy.REPORT_ONLY or self.action is Action.REPORT

    @property
    def header_length(self) -> int:
        """How many bytes a file needs before its magic and header can be judged."""
        return max([len(self.magic) // 2, *(f.offset + f.size for f in self.header)])

    def _identity_problems(self) -> list[str]:
        if not _ID.fullmatch(self.id):
            return ["id must be lower-case letters, digits and dashes, 64 at most"]
        return []

    def _condition_problems(self) -> list[str]:
        problems = []
        if self.magic and not _HEX.fullmatch(self.magic):
            problems.append("magic must be pairs of hex digits, such as AAAAAAAA")
        problems += [f"sha256 {digest!r} must be 64 lower-case hex digits" for digest in self.sha256 if not _SHA256.fullmatch(digest)]  # fmt: skip  # noqa: E501
        sizes = [size for size in (self.min_size, self.max_size) if size is not None]
        if any(size < 0 for size in sizes) or sizes != sorted(sizes):
            problems.append("min_size and max_size must be 0 or more, min_size not above max_size")
        problems += self._name_format_problems()
        wild = any(c in self.pattern for c in "*?")
        judged = self.magic or self.header or self.window or self.sha256 or sizes
        if wild and self.action is not Action.REPORT and not judged:
            problems.append(
                "a pattern with * or ? needs at least one condition (magic, header, window, sha256, size), "
                "or action: report"
            )
        return problems

    def _name_format_problems(self) -> list[str]:
        try:
            groups = set(re.compile(self.name_format).groupindex)
        except (re.error, OverflowError, RecursionError) as error:
            return [f"name_format is not a regular expression: {error}"]
        return [
            f"header field {f.name!r} refers to group {f.in_name!r}, which name_format does not have"
            for f in self.header
            if f.in_name is not None and f.in_name not in groups
        ]


def pattern_problems(pattern: str) -> list[str]:
    """Why `pattern` cannot be used as a rule's path pattern; empty when it can."""
    parts = pattern.split("\\")
    problems = []
    if not pattern or any(not part for part in parts):
        problems.append("pattern must be a relative path with single backslashes between its parts")
    if any(part in (".", "..") or part.endswith((" ", ".")) for part in parts):
        problems.append("pattern must not have . or .. or a part that ends in a dot or space")
    if _FORBIDDEN.search(pattern):
        problems.append('pattern must not have any of < > : " / | or control characters')
    if "**" in pattern:
        problems.append("pattern must not have ** (each part names one folder)")
    if not parts[-1].strip("*?."):
        problems.append("the pattern's last part must name something, not everything")
    folder = "\\".join(parts[:-1])
    folded = folder.casefold()
    for below in ("", "windows\\"):
        if any(folded == below + p or folded.startswith(f"{below}{p}\\") for p in PROTECTED_FOLDERS):
            problems.append(f"no rule may name files in {folder}: Windows needs them to start")
            break
    return problems


def parse_utc_ns(text: str) -> int:
    """An ISO 8601 UTC time ("2024-07-19T04:09:00Z") as nanoseconds since 1970. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time such as 2024-07-19T04:09:00Z") from error
    if moment.tzinfo is None or moment.utcoffset() != UTC.utcoffset(None):
        raise ValueError(f"{text!r} is not in UTC: end it with Z")
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def utc_ns_text(moment_ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 UTC with Z (whole microseconds, rounded down); empty where out of range."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_ns // 1000)
    except OverflowError:
        return ""
    return moment.isoformat().replace("+00:00", "Z")


#: The incident of 2024-07-19. Times: CrowdStrike, "Technical Details: Falcon Content Update for Windows Hosts".
#: Header offsets: CrowdStrike's falcon-windows-host-recovery accepts AA AA AA AA 01 00 23 01 (291 = 0x0123).
CROWDSTRIKE_CHANNEL_291 = Rule(
    id="crowdstrike-channel-291",
    title="CrowdStrike Falcon channel file 291 of 2024-07-19",
    pattern="System32\\drivers\\CrowdStrike\\C-00000291*.sys",
    magic="AAAAAAAA",
    name_format=r"C-(?P<channel>\d{8})-(?P<second>\d{8})-(?P<version>\d{8})\.sys",
    header=(
        HeaderField(name="channel", offset=0x6, size=2, equals=291, in_name="channel"),
        HeaderField(name="version", offset=0x10, size=4, in_name="version"),
    ),
    window=TimeWindow(faulty_from="2024-07-19T04:09:00Z", corrected_from="2024-07-19T05:27:00Z"),
    policy=Policy.VENDOR,
    action=Action.QUARANTINE,
)

BUILT_IN_RULES: tuple[Rule, ...] = (CROWDSTRIKE_CHANNEL_291,)
