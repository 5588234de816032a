"""The profile as a user writes it: every key, its type, its default and its help, declared once (pydantic).

`builder.profile` reads YAML into these models and turns them into a frozen Profile; `bluelift schema` prints them as a
JSON Schema for editors. Rules are those of `payload.contract`: what is validated here is what the payload runs.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from builder.bcd import LONGEST_DESCRIPTION, LONGEST_TIMEOUT
from payload.contract import Action, HibernatedVolumes, Policy, Rule


def _one_line(text: str) -> str:
    if any(not character.isprintable() for character in text):
        raise ValueError("must be one line of printable characters")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


def _size(value: object) -> object:
    if not isinstance(value, str) or not _SIZE.fullmatch(value):
        raise ValueError("should be a size such as 64 MB (kB, MB, GB); for none at all: hybrid: false")
    if size_bytes(value) > LARGEST_TAIL:
        raise ValueError("should be 4 GB or less; `bluelift usb write --data` makes all of a stick usable")
    return value


def size_bytes(text: str) -> int:
    """`64 MB` in bytes."""
    return int(text[:-2]) * _UNITS[text[-2:]]


_SIZE = re.compile(r"[1-9][0-9]{0,5} ?(kB|MB|GB)")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
#: Every stick has to have room for it, and it is hashed with each build.
LARGEST_TAIL = 4 * 10**9
#: Bytes in powers of 1000, as text.
Size = Annotated[str, BeforeValidator(_size)]


class Section(BaseModel):
    """What all parts of a profile share: exact types, no unknown keys, frozen once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseSection(Section):
    """Where the base media come from: Debian packages for linux, media of Microsoft's for winpe."""

    kind: Literal["windows-iso", "adk", "winre"] | None = Field(
        default=None,
        description="winpe: what `path` is. Or give it on the command line: --windows-iso, --adk, --winre.",
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="winpe: a Windows 10, 11 or Server install ISO, an ADK WinPE folder, or a winre.wim; "
        "relative to the profile.",
    )
    media: str | None = Field(
        default=None,
        min_length=1,
        description="winpe, with kind winre: the install ISO or ADK folder that lends its boot files.",
    )
    index: int | Literal["auto"] = Field(
        default="auto", description="winpe: number of the image in boot.wim; auto chooses by what it contains."
    )

    suite: str = Field(
        default="trixie", pattern=r"^[a-z][a-z0-9-]{1,40}$", description="Debian release whose packages are used."
    )
    mirror: str | None = Field(
        default=None,
        pattern=r"^(https?|file)://\S+$",
        description="Debian mirror. Without it, the one in this machine's own apt configuration.",
    )
    security_mirror: str | None = Field(
        default=None, pattern=r"^(https?|file)://\S+$", description="Mirror of Debian's security updates."
    )
    keyring: str | None = Field(
        default=None, min_length=1, description="Keyring that signs the mirror; relative to the profile."
    )
    debs: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of .deb files to use instead of a mirror; relative to the profile.",
    )


class EndingSection(Section):
    """What happens once the verdict stands."""

    repaired: Literal["reboot", "power-off", "stay"] = Field(default="reboot", description="After REPAIRED.")
    otherwise: Literal["power-off", "stay"] | None = Field(
        default=None,
        description="After every other verdict. Never reboot: that would be the same loop. "
        "Default: stay; power-off when unattended.",
    )
    nobody: Literal["power-off", "stay"] = Field(
        default="power-off", description="After NEEDS A KEY with nobody there to type one."
    )
    countdown: int = Field(
        default=30, ge=0, le=3600, description="Seconds on the screen before a reboot or power-off; any key stops it."
    )


class BcdSection(Section):
    """Windows's boot menu on the medium; what is left out stays as the base media have it."""

    timeout: int | None = Field(default=None, ge=0, le=LONGEST_TIMEOUT, description="Seconds that the menu is shown.")
    description: str | None = Field(
        default=None, min_length=1, max_length=LONGEST_DESCRIPTION, description="The entry's name in the menu."
    )
    legacy_menu: bool | None = Field(default=None, description="The text menu instead of the graphical one.")
    ignore_failures: bool | None = Field(
        default=None, description="Do not offer repairs after a boot that failed, for example by a power cut."
    )
    ems: int | None = Field(
        default=None,
        ge=0,
        le=4,
        description="Serial port of Emergency Management Services: 1 is COM1; 0 turns them off. "
        "Not the port that receipts go to.",
    )


class ProfileFile(Section):
    """A Bluelift profile: what to look for, what to do, how to end."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="The profile's name, for the manifest. Default: the environment's.",
    )
    environment: Literal["linux", "winpe"] = Field(
        default="linux",
        description="What the image boots: linux (Debian's kernel) or winpe (Windows PE, from media of your own).",
    )
    base: BaseSection = Field(default_factory=BaseSection, description="Where the base media come from.")
    organisation: Line = Field(
        default="", description="Shown on the screen, so that a technician knows whose stick it is."
    )
    contact: Line = Field(default="", description="Shown when the technician needs help: a telephone number, a chat.")
    built_in_rules: bool = Field(default=True, description="Whether crowdstrike-channel-291 is part of the image.")
    policy: Policy | None = Field(
        default=None, description="Which files the built-in rule acts on. Default: vendor, as the vendor advised."
    )
    action: Action | None = Field(
        default=None, description="What the built-in rule does with them. Default: quarantine."
    )
    rules: list[Any] = Field(default_factory=list, description="Rules of your own.")
    hibernated: HibernatedVolumes = Field(
        default=HibernatedVolumes.LEAVE,
        description="leave: hibernated volumes are reported, not touched. discard: their saved session is thrown away.",
    )
    unattended: bool = Field(default=False, description="Nobody watches: power off where a technician would be asked.")
    ending: EndingSection = Field(default_factory=EndingSection, description="What happens once the verdict stands.")
    disk_wait: int = Field(default=30, ge=0, le=600, description="Seconds to wait for a disk when none is there.")
    key_wait: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="Seconds that a question for a BitLocker key waits for somebody to press a key; 0 asks nobody. "
        "Default: 300; 0 when unattended.",
    )
    serial: Literal["", "ttyS0", "ttyS1", "ttyS2", "ttyS3"] = Field(
        default="ttyS0", description="Serial port for the log and the receipt as JSON lines; empty for none."
    )
    shell: bool = Field(default=True, description="Whether the technician may open a shell.")
    keyboard: str = Field(
        default="",
        max_length=20,
        description="The technician's keyboard layout, such as de, fr or uk. Default: us, or that of the base media.",
    )
    volume_id: str | None = Field(
        default=None,
        pattern=r"^[A-Z0-9_]{1,32}$",
        description="The ISO's volume id: capitals, digits, underscores. Default: BLUELIFT, or BLUELIFT_PE for winpe.",
    )
    output: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$",
        description="The image's file name, without .iso. Default: bluelift-ENVIRONMENT.",
    )
    outputs: list[Literal["iso", "img", "vhdx", "vhd"]] = Field(
        default=["iso"],
        min_length=1,
        description="Files to write: iso, and the same image again for hypervisors that want a disk: img (raw), vhdx, "
        "vhd (fixed, as Azure wants it).",
    )
    hybrid: bool = Field(
        default=True, description="One image for CD, USB stick and disk. false: an ISO for CD alone, without `tail`."
    )
    tail: Size | None = Field(
        default=None,
        description="Free space on the stick that a hybrid image makes, for receipts, vault and drivers: such as "
        "64 MB (in powers of 1000; 4 GB at most). Made up to half as large again where FAT32 is smaller for it. "
        "Default: 32 MB.",
    )
    vault: str | None = Field(
        default=None,
        min_length=1,
        description="A vault of BitLocker recovery passwords (`bluelift keys import`) to build in, relative to the "
        "profile. The free space on the stick is then large enough for a newer one.",
    )
    bitlocker: bool = Field(
        default=True, description="winpe: only a base with manage-bde will do, so that encrypted volumes can be opened."
    )
    boot_ca: Literal[2011, 2023, "both"] = Field(
        default=2011,
        description="winpe: whose Secure Boot signature the boot manager has. 2011: every host that has not revoked "
        "it. 2023: hosts with the newer certificate. both: two ISOs.",
    )
    prompt: bool | None = Field(
        default=None,
        description='winpe: "Press any key to boot from CD or DVD". Default: false where the base media allow it.',
    )
    layout: Literal["bridge", "microsoft"] = Field(
        default="bridge",
        description="winpe: file systems of the ISO. bridge: ISO9660, Joliet and UDF; microsoft: UDF alone.",
    )
    drivers: list[str] = Field(
        default_factory=list, description="winpe: folders with drivers (INF and files), relative to the profile."
    )
    bcd: BcdSection = Field(default_factory=BcdSection, description="winpe: Windows's boot menu on the medium.")
    background: str | None = Field(
        default=None, min_length=1, description="winpe: a JPEG shown behind the console, relative to the profile."
    )
    payload_exe: str | None = Field(
        default=None,
        min_length=1,
        description="winpe: a folder with a payload that was frozen before, and its SHA256SUMS. Default: freeze it.",
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a profile, for editors."""
    schema = ProfileFile.model_json_schema()
    rule = TypeAdapter(Rule).json_schema()
    # pydantic knows the contract's dataclasses, but not that the payload refuses unknown keys.
    definitions = rule.pop("$defs", {})
    for part in (rule, *definitions.values()):
        if part.get("type") == "object":
            part["additionalProperties"] = False
    schema.setdefault("$defs", {}).update(definitions)
    schema["properties"]["rules"]["items"] = rule
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Bluelift profile"}
