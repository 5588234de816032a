"""YAML -> a frozen Profile. Every problem at once, each with file, line and path."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import resources, yaml_lines
from builder.bcd import BcdSettings, EmsPort, settings_problems
from builder.errors import BuilderError, Problem, ProfileError, UsageError
from builder.keyboards import linux_layout, windows_layout
from payload.contract import (
    BUILT_IN_RULES,
    MEDIUM_FOLDER,
    MEDIUM_VAULT,
    Action,
    AfterRepair,
    Ending,
    HibernatedVolumes,
    PayloadConfig,
    Policy,
    Rule,
)
from payload.formats.records import RecordError, from_json
from payload.formats.vault import HEADER_SIZE, VaultError, read_header

if TYPE_CHECKING:
    from builder.profile_schema import ProfileFile

DEFAULT = "linux"
#: How much larger than the vault that is built in a newer one on the stick may be, in bytes.
_VAULT_GROWS = 8_000_000
LINUX, WINPE = "linux", "winpe"
_VOLUME_IDS = {LINUX: "BLUELIFT", WINPE: "BLUELIFT_PE"}
#: Keys that make sense in one environment only.
_LINUX_BASE = ("suite", "mirror", "security_mirror", "keyring", "debs")
_WINPE_BASE = ("kind", "path", "media", "index")
_WINPE_KEYS = (
    "bitlocker", "boot_ca", "prompt", "layout", "drivers", "bcd", "background", "payload_exe",
)  # fmt: skip
_TAIL = "32 MB"
_JPEG = b"\xff\xd8\xff"


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
    """The profile in the file `path`. Raises ProfileError with every problem, BuilderError when it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BuilderError(f"{path} cannot be read: {error.strerror}") from error
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
    problems += _schema_problems(data, document)
    rules, rule_problems = _rules(data, document)
    problems += rule_problems
    if not problems:
        problems += [
            Problem(path=where, line=document.line(where), message=message)
            for where, message in _combination_problems(data, rules, folder)
        ]
    if problems:
        raise ProfileError(file, sorted(problems, key=lambda problem: problem.line or 0))
    return _profile(data, rules, content, Path(file).name, folder)


def _schema_problems(data: dict[str, Any], document: yaml_lines.Document) -> Iterator[Problem]:
    # No plugins: pydantic would read what every installed package says of itself to find some.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # pydantic takes a tenth of a second to import; nothing else of a cached build needs it.
    from pydantic import ValidationError  # noqa: PLC0415

    from builder.profile_schema import ProfileFile  # noqa: PLC0415

    try:
        # As JSON, because pydantic's strict mode takes enums from text only there.
        ProfileFile.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = _dotted(found["loc"])
            yield Problem(path=path, line=document.line(path), message=_plainly(found))


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _plainly(found: Any) -> str:
    """A pydantic error in words for somebody who writes a profile."""
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + _did_you_mean(found["loc"])
    shown = f", found {json.dumps(value, ensure_ascii=False)[:60]}"
    quotes = " (put it in quotes)" if isinstance(value, int | float | bool) else ""
    wanted = {
        "string_type": f"should be text{quotes}",
        "bool_type": "should be true or false",
        "int_type": "should be a whole number",
        "int_from_float": "should be a whole number",
        "list_type": "should be a list",
        "model_type": "should hold 'key: value' lines of its own",
        "literal_error": f"should be {context.get('expected')}",
        "enum": f"should be {context.get('expected')}",
        "greater_than_equal": f"should be {context.get('ge')} or more",
        "less_than_equal": f"should be {context.get('le')} or less",
        "string_pattern_mismatch": f"should match {context.get('pattern')}",
        "string_too_long": f"should have at most {context.get('max_length')} characters",
        "string_too_short": "should not be empty",
    }.get(kind)
    return wanted + shown if wanted else str(found["msg"]).removeprefix("Value error, ")


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    from builder.profile_schema import BaseSection, BcdSection, EndingSection, ProfileFile, Section  # noqa: PLC0415

    sections: dict[object, type[Section]] = {"base": BaseSection, "bcd": BcdSection, "ending": EndingSection}
    known = list(sections.get(location[0], ProfileFile).model_fields if len(location) > 1 else ProfileFile.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _rules(data: dict[str, Any], document: yaml_lines.Document) -> tuple[tuple[Rule, ...], list[Problem]]:
    """The profile's own rules, read by the code that the payload reads them with."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    given = data.get("rules", [])
    for index, item in enumerate(given if isinstance(given, list) else []):
        try:
            rules.append(from_json(Rule, item))
        except RecordError as error:
            for inner, message in error.problems:
                path = f"rules[{index}]" + (f".{inner}" if inner else "")
                problems.append(Problem(path=path, line=document.line(path), message=message))
    return tuple(rules), problems


def _combination_problems(data: dict[str, Any], rules: tuple[Rule, ...], folder: Path) -> Iterator[tuple[str, str]]:
    """What is right by itself and impossible together, as (path, message)."""
    ending = data.get("ending", {})
    built_in = data.get("built_in_rules", True)
    yield from _rule_combinations(data, rules, built_in)
    if data.get("environment", LINUX) == WINPE:
        yield from _winpe_combinations(data, folder)
    else:
        yield from _linux_combinations(data, folder)
    if data.get("unattended"):
        for key in ("repaired", "otherwise", "nobody"):
            if ending.get(key) == "stay":
                yield f"ending.{key}", "stay waits for a key for ever, but unattended says that nobody is there"
    if data.get("vault") is not None:
        yield from (("vault", problem) for problem in _vault_problems(folder / data["vault"]))
    if data.get("tail") is not None and not data.get("hybrid", True):
        yield "tail", "is for hybrid: true; a plain ISO has no free space"
    outputs = data.get("outputs", ["iso"])
    if "iso" not in outputs:
        yield "outputs", "must have iso: the others are the same image again"
    if len(outputs) > 1 and not data.get("hybrid", True):
        yield "outputs", "img, vhdx and vhd are for hybrid: true; a plain ISO is no disk"
    if str(data.get("output", "")).lower().endswith(".iso"):
        yield "output", "is the name without .iso"


def _vault_problems(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            header = read_header(stream.read(HEADER_SIZE))
            if header.vault_size != stream.seek(0, os.SEEK_END):
                yield f"{path} was cut off or added to; import the keys again"
    except VaultError as error:
        yield f"{path} cannot be used: {error}; 'bluelift keys import' makes a vault"
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"


def _linux_combinations(data: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    base = data.get("base", {})
    for key in _WINPE_KEYS:
        if key in data:
            yield key, "is for environment: winpe"
    for key in _WINPE_BASE:
        if key in base:
            yield f"base.{key}", "is for environment: winpe; linux is made of Debian packages"
    for key in ("mirror", "security_mirror", "keyring"):
        if base.get("debs") is not None and base.get(key) is not None:
            yield f"base.{key}", "cannot be given together with base.debs: the packages come from that folder"
    if base.get("keyring") is not None and not (folder / base["keyring"]).is_file():
        yield "base.keyring", f"there is no file {folder / base['keyring']}"
    if base.get("debs") is not None and not (folder / base["debs"]).is_dir():
        yield "base.debs", f"there is no folder {folder / base['debs']}"
    yield from _keyboard_problems(data, linux_layout)


def _winpe_combinations(data: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    base = data.get("base", {})
    for key in _LINUX_BASE:
        if key in base:
            yield f"base.{key}", "is for environment: linux; winpe is made of media of your own (kind and path)"
    yield from _winpe_base(base, folder)
    if len(data.get("volume_id") or "") > 16:
        yield "volume_id", "should have at most 16 characters: Joliet and UDF, which WinPE media have, allow no more"
    for index, name in enumerate(data.get("drivers", [])):
        if not (folder / name).is_dir():
            yield f"drivers[{index}]", f"there is no folder {folder / name}"
    if data.get("payload_exe") is not None and not (folder / data["payload_exe"]).is_dir():
        yield "payload_exe", f"there is no folder {folder / data['payload_exe']}"
    if data.get("background") is not None:
        yield from (("background", problem) for problem in _picture_problems(folder / data["background"]))
    yield from _keyboard_problems(data, windows_layout)
    serial = data.get("serial", "ttyS0")
    receipts = int(serial.removeprefix("ttyS")) + 1 if serial else None
    for key, message in settings_problems(_bcd(data.get("bcd", {})), receipt_port=receipts):
        yield f"bcd.{key.partition('.')[0]}", message


def _keyboard_problems(data: dict[str, Any], layout: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    try:
        layout(data.get("keyboard", ""))
    except ValueError as error:
        yield "keyboard", str(error)


def _winpe_base(base: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    kind, path, media = base.get("kind"), base.get("path"), base.get("media")
    if kind is not None and path is None:
        yield "base.kind", "needs base.path beside it"
    if path is not None and kind is None:
        yield "base.path", "needs base.kind beside it: windows-iso, adk or winre"
    if media is not None and kind != "winre":
        yield "base.media", "is for kind: winre, which has no boot files of its own"
    if kind == "winre" and media is None:
        yield "base.kind", "winre needs base.media: the install ISO or ADK folder that lends its boot files"
    for key, value in (("path", path), ("media", media)):
        if value is not None and not (folder / value).exists():
            yield f"base.{key}", f"{folder / value} does not exist"
    if base.get("index", "auto") != "auto" and base["index"] < 1:
        yield "base.index", f"should be 1 or more, or auto, found {base['index']}"


def _picture_problems(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            if stream.read(len(_JPEG)) != _JPEG:
                yield f"{path} is not a JPEG, the only format that Windows PE shows"
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"


def _bcd(section: dict[str, Any]) -> BcdSettings:
    ems = section.get("ems")
    return BcdSettings(
        timeout=section.get("timeout"),
        description=section.get("description"),
        legacy_menu=section.get("legacy_menu"),
        ignore_failures=section.get("ignore_failures"),
        ems=None if ems is None else EmsPort(port=ems) if ems else False,
    )


def _rule_combinations(data: dict[str, Any], rules: tuple[Rule, ...], built_in: bool) -> Iterator[tuple[str, str]]:
    if not built_in:
        for key in ("policy", "action"):
            if data.get(key) is not None:
                yield key, "is for the built-in rule, which built_in_rules: false leaves out"
        if not rules:
            yield "built_in_rules", "is false and there are no rules: the image would look for nothing"
    if data.get("policy") == "report-only" and data.get("action") in ("quarantine", "delete"):
        yield "action", f"{data['action']} never happens with policy: report-only"
    taken = {rule.id: "a built-in rule" for rule in BUILT_IN_RULES} if built_in else {}
    for index, rule in enumerate(rules):
        if rule.id in taken:
            yield f"rules[{index}].id", f"{rule.id} is already the id of {taken[rule.id]}"
        taken.setdefault(rule.id, f"rules[{index}]")
    if data.get("hibernated") == "discard" and all(_only_reports(rule) for rule in _all_rules(data, rules)):
        yield "hibernated", "discard would throw sessions away although every rule only reports"


def _only_reports(rule: Rule) -> bool:
    return rule.policy is Policy.REPORT_ONLY or rule.action is Action.REPORT


def _all_rules(data: dict[str, Any], own: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if not data.get("built_in_rules", True):
        return own
    policy, action = data.get("policy"), data.get("action")
    built_in = (
        replace(
            rule,
            policy=Policy(policy) if policy else rule.policy,
            action=Action(action) if action else rule.action,
        )
        for rule in BUILT_IN_RULES
    )
    return (*built_in, *own)


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
        rules=_all_rules(data, rules),
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
