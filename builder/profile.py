"""YAML -> a frozen Profile. Every problem at once, each with file, line and path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import resources, yaml_lines
from builder.bcd import BcdSettings, EmsPort
from builder.errors import Problem, ProfileError, UsageError
from builder.keyboards import linux_layout, windows_layout
from builder.profile_problems import combination_problems, schema_problems
from builder.profile_rules import final_rules, own_rules, rule_problems
from payload.contract import (
    MEDIUM_FOLDER,
    MEDIUM_VAULT,
    AfterRepair,
    Ending,
    HibernatedVolumes,
    PayloadConfig,
    Rule,
)

if TYPE_CHECKING:
    from builder.profile_schema import ProfileFile

DEFAULT = "linux"
#: How much larger than the vault that is built in a newer one on the stick may be, in bytes.
_VAULT_GROWS = 8_000_000
LINUX, WINPE = "linux", "winpe"
_VOLUME_IDS = {LINUX: "BLUELIFT", WINPE: "BLUELIFT_PE"}
_TAIL = "32 MB"


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Where the base media come from; None stands for this machine's own apt configuration."""

    suite: str
    mirror: str | None
    security_mirror: str | None
    keyring: Path | None
    debs: Path | None


@dataclass(frozen=True, kw_only=True)
class WinpeBase:
    """Media of the user's own. `kind`: windows-iso, adk or winre; `media` lends boot files to a winre.

    `kind` and `path` are None where the command line is to say them. `index`: the image of boot.wim; None chooses.
    """

    kind: str | None = None
    path: Path | None = None
    media: Path | None = None
    index: int | None = None


@dataclass(frozen=True, kw_only=True)
class WinpeSettings:
    """What concerns the winpe environment alone. `boot_ca`: 2011, 2023 or both; `layout`: bridge or microsoft.

    `prompt` None: false where the base media allow it. `keyboard` is a layout as wpeutil takes it, "" for the base's
    own; `payload_exe` a payload frozen before.
    """

    base: WinpeBase = field(default_factory=WinpeBase)
    bitlocker: bool = True
    boot_ca: str = "2011"
    prompt: bool | None = None
    layout: str = "bridge"
    drivers: tuple[Path, ...] = ()
    keyboard: str = ""
    bcd: BcdSettings = field(default_factory=BcdSettings)
    background: Path | None = None
    payload_exe: Path | None = None


@dataclass(frozen=True, kw_only=True)
class VaultFile:
    """A vault that is built in: where it is, its sha256 in hex, its size in bytes."""

    path: Path
    sha256: str
    size: int

    @property
    def target(self) -> str:
        """Its path on the medium."""
        return f"{MEDIUM_FOLDER}/{MEDIUM_VAULT}/{self.path.stem}.vault"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What to build. `rules` are final: the built-in ones with the profile's policy, then the profile's own.

    `sha256` is that of the file as it was written, `label` its name without a folder. `keyboard` is the layout's name
    in `builder.keyboards.XKB`, "" for the kernel's own; that of winpe is in its settings. `tail`: bytes that are free
    on the disk that a hybrid image is; None for a plain ISO. `disk_forms`: what is written beside it for hypervisors,
    of img, vhdx and vhd.
    """

    name: str
    label: str
    sha256: str
    environment: str
    base: BaseSettings
    winpe: WinpeSettings
    organisation: str
    contact: str
    rules: tuple[Rule, ...]
    hibernated: HibernatedVolumes
    unattended: bool
    ending: Ending
    disk_wait: int
    key_wait: int
    serial: str
    shell: bool
    keyboard: str
    volume_id: str
    output: str
    tail: int | None
    disk_forms: tuple[str, ...] = ()
    vault: VaultFile | None = None

    def payload_config(self, *, image_id: str, bluelift: str) -> PayloadConfig:
        """The configuration that goes into the image."""
        return PayloadConfig(
            image_id=image_id,
            rules=self.rules,
            bluelift=bluelift,
            organisation=self.organisation,
            contact=self.contact,
            ending=self.ending,
            hibernated=self.hibernated,
            disk_wait=self.disk_wait,
            key_wait=self.key_wait,
            serial=self.serial,
            shell=self.shell,
        )


def names() -> tuple[str, ...]:
    """The profiles that come with Bluelift, by name."""
    return tuple(sorted(path.stem for path in resources.profiles().glob("*.yaml")))


def find(name: str | None) -> Path:
    """The file of a profile: a path, or the name of one that comes with Bluelift; None is the default profile.

    Raises UsageError when there is no such file.
    """
    wanted = name or DEFAULT
    path = Path(wanted)
    if path.is_file():
        return path
    # A name in profiles/ never has a folder; "linux.yaml" is meant as a file.
    built_in = resources.profiles() / f"{wanted}.yaml"
    if path.name == wanted and built_in.is_file():
        return built_in
    what = "is a folder, not a profile" if path.is_dir() else "is neither a file nor a profile's name"
    raise UsageError(
        f"{wanted} {what}", hint=f"Profiles that come with Bluelift: {', '.join(names())}. Or write one: bluelift init"
    )


def load(path: Path) -> Profile:
    """The profile in the file `path`. Raises ProfileError with every problem, UsageError when it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return parse(content, file=str(path), folder=path.parent)


def parse(content: bytes, *, file: str, folder: Path) -> Profile:
    """The profile that `content` describes; `file` is for messages, relative paths in it start at `folder`."""
    document = yaml_lines.read(content)
    problems = list(document.problems)
    data = document.data if document.data is not None else {}
    if not isinstance(data, dict):
        problems.append(Problem(path="", line=document.line(""), message="a profile is made of 'key: value' lines"))
        data = {}
    if document.data is None and document.problems:
        raise ProfileError(file, problems)
    problems += schema_problems(data, document)
    rules, wrong = own_rules(data, document)
    problems += wrong
    if not problems:
        problems += [
            Problem(path=where, line=document.line(where), message=message)
            for where, message in (
                *rule_problems(data, rules),
                *combination_problems(data, _bcd(data.get("bcd", {})), folder),
            )
        ]
    if problems:
        raise ProfileError(file, sorted(problems, key=lambda problem: problem.line or 0))
    return _profile(data, rules, content, Path(file).name, folder)


def _profile(data: dict[str, Any], rules: tuple[Rule, ...], content: bytes, label: str, folder: Path) -> Profile:
    from builder.profile_schema import ProfileFile, size_bytes  # noqa: PLC0415

    read = ProfileFile.model_validate_json(json.dumps(data))
    otherwise = read.ending.otherwise or ("power-off" if read.unattended else "stay")
    vault = _vault(folder / read.vault) if read.vault else None
    return Profile(
        name=read.name or read.environment,
        label=label,
        sha256=hashlib.sha256(content).hexdigest(),
        environment=read.environment,
        base=BaseSettings(
            suite=read.base.suite,
            mirror=read.base.mirror,
            security_mirror=read.base.security_mirror,
            keyring=folder / read.base.keyring if read.base.keyring else None,
            debs=folder / read.base.debs if read.base.debs else None,
        ),
        winpe=_winpe(read, data.get("bcd", {}), folder),
        organisation=read.organisation,
        contact=read.contact,
        rules=final_rules(data, rules),
        hibernated=read.hibernated,
        unattended=read.unattended,
        ending=Ending(
            repaired=AfterRepair(read.ending.repaired),
            otherwise=AfterRepair(otherwise),
            nobody=AfterRepair(read.ending.nobody),
            countdown=read.ending.countdown,
        ),
        disk_wait=read.disk_wait,
        key_wait=(0 if read.unattended else PayloadConfig.key_wait) if read.key_wait is None else read.key_wait,
        serial=read.serial,
        shell=read.shell,
        keyboard=linux_layout(read.keyboard) if read.environment == LINUX else "",
        volume_id=read.volume_id or _VOLUME_IDS[read.environment],
        output=read.output or f"bluelift-{read.environment}",
        tail=max(size_bytes(read.tail or _TAIL), vault.size + _VAULT_GROWS if vault else 0) if read.hybrid else None,
        disk_forms=tuple(form for form in ("img", "vhdx", "vhd") if form in read.outputs),
        vault=vault,
    )


def _vault(path: Path) -> VaultFile:
    with path.open("rb") as stream:
        return VaultFile(path=path, sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=path.stat().st_size)


def _bcd(section: dict[str, Any]) -> BcdSettings:
    ems = section.get("ems")
    return BcdSettings(
        timeout=section.get("timeout"),
        description=section.get("description"),
        legacy_menu=section.get("legacy_menu"),
        ignore_failures=section.get("ignore_failures"),
        ems=None if ems is None else EmsPort(port=ems) if ems else False,
    )


def _winpe(read: ProfileFile, bcd: dict[str, Any], folder: Path) -> WinpeSettings:
    base = read.base
    return WinpeSettings(
        base=WinpeBase(
            kind=base.kind,
            path=folder / base.path if base.path else None,
            media=folder / base.media if base.media else None,
            index=None if isinstance(base.index, str) else base.index,
        ),
        bitlocker=read.bitlocker,
        boot_ca=str(read.boot_ca),
        prompt=read.prompt,
        layout=read.layout,
        drivers=tuple(folder / name for name in read.drivers),
        keyboard=windows_layout(read.keyboard) if read.environment == WINPE else "",
        bcd=_bcd(bcd),
        background=folder / read.background if read.background else None,
        payload_exe=folder / read.payload_exe if read.payload_exe else None,
    )
