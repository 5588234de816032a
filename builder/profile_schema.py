"""The profile as a user writes it: every key, its type, its default and its help, declared once (pydantic).

`builder.profile` reads YAML into these models and turns them into a frozen Profile; `bluelift schema` prints them as a
JSON Schema for editors. Rules are those of `payload.contract`: what is validated here is what the payload runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from payload.contract import Action, HibernatedVolumes, Policy, Rule


def _one_line(text: str) -> str:
    if any(not character.isprintable() for character in text):
        raise ValueError("must be one line of printable characters")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


class Section(BaseModel):
    """What all parts of a profile share: exact types, no unknown keys, frozen once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseSection(Section):
    """Where the base media come from."""

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
    countdown: int = Field(
        default=30, ge=0, le=3600, description="Seconds on the screen before a reboot or power-off; any key stops it."
    )


class ProfileFile(Section):
    """A Bluelift profile: what to look for, what to do, how to end."""

    name: str = Field(
        default="linux",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="The profile's name, for the manifest.",
    )
    environment: Literal["linux"] = Field(default="linux", description="What the image boots.")
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
    serial: Literal["", "ttyS0", "ttyS1", "ttyS2", "ttyS3"] = Field(
        default="ttyS0", description="Serial port for the log and the receipt as JSON lines; empty for none."
    )
    shell: bool = Field(default=True, description="Whether the technician may open a shell.")
    volume_id: str = Field(
        default="BLUELIFT",
        pattern=r"^[A-Z0-9_]{1,32}$",
        description="The ISO's volume id: capitals, digits, underscores.",
    )
    output: str = Field(
        default="bluelift-linux",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$",
        description="The image's file name, without .iso.",
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
