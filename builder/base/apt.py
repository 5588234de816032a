"""A private apt root: package lists and downloads of another Debian release, without root rights and without touching
the machine's own apt.

Mirrors, proxies and credentials are those of the machine's apt configuration (apt.conf(5), apt_auth.conf(5)); nothing
else of it is used, and no mirror is known to this program.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.console import Step
from builder.errors import BaseMediaError, ToolFailed
from builder.run import run, running

ARCHITECTURE = "amd64"
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
_KEYRING_FOLDER = Path("/usr/share/keyrings")
_APT_HELPER = "/usr/lib/apt/apt-helper"
_REASON = "read Debian's package lists and download packages"
#: Settings of the machine that decide whether and how a mirror is reached.
_CARRIED = re.compile(
    r"Acquire::(https?|tor|ProxyAutoDetect|Proxy-Auto-Detect|Retries|ForceIPv4|ForceIPv6"
    r"|Check-Valid-Until|Check-Date|Max-FutureTime)\b",
    re.IGNORECASE,
)
_TARGET_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(LABEL)|$(SIGNED_BY)"
_RELEASE_NAME = re.compile(
    r"^(oldoldstable|oldstable|stable|testing|unstable|sid|[a-z]+)(-security|-updates)?(/updates)?$"
)
#: 'https://MIRROR/debian/dists/trixie/main/binary-amd64/Packages.xz' NAME SIZE ...
_PACKAGES_URI = re.compile(r"'(\S+/)dists/(\S+?)/([a-z-]+)/binary-\w+/Packages[.\w]*' ")


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    """Where Debian's archives are. `security` is empty where none is known."""

    main: str
    security: str


@dataclass(frozen=True, kw_only=True)
class Stanza:
    """One package as the lists describe it."""

    name: str
    version: str
    architecture: str
    depends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file to download: where from, what it is called, how large it is, and its sha256."""

    uri: str
    file: str
    size: int
    sha256: str


# --- what the machine knows ----------------------------------------------------------------------------------------


def machine_mirrors() -> Mirrors | None:
    """Debian's archives as the machine's own sources name them, None where they name none."""
    listing = run(["apt-get", "indextargets", "--format", _TARGET_FORMAT, "Identifier: Packages"],
                  reason="find the Debian mirror this machine uses", time_limit=60, ok=(0, 100))  # fmt: skip
    # Sources whose lists were never read (a fresh container) are not among these targets; an update would read them.
    update = run(["apt-get", "update", "--print-uris"],
                 reason="find the Debian mirror this machine uses", time_limit=60, ok=(0, 100))  # fmt: skip
    return parse_targets(listing.text + targets_of_update(update.text))


def targets_of_update(uris: str) -> str:
    """What `apt-get update --print-uris` would read, as lines of `_TARGET_FORMAT` without origin, label and key."""
    found = (_PACKAGES_URI.match(line) for line in uris.splitlines())
    return "".join(f"{match[1]}|{match[2]}|{match[3]}|||\n" for match in found if match)


def parse_targets(listing: str) -> Mirrors | None:
    """The Debian archives among lines of `_TARGET_FORMAT`; others' repositories are passed over."""
    main, security = "", ""
    for line in listing.splitlines():
        uri, release, component, origin, label, signed_by = (line.split("|") + [""] * 6)[:6]
        if not _is_debian(uri, release, component, origin, signed_by):
            continue
        if label == "Debian-Security" or "-security" in release or release.endswith("/updates"):
            security = security or uri
        elif label in ("", "Debian", "$(LABEL)"):
            main = main or uri
    return Mirrors(main=main, security=security) if main else None


def _is_debian(uri: str, release: str, component: str, origin: str, signed_by: str) -> bool:
    if component != "main" or uri.startswith("cdrom:"):
        return False
    if origin and not origin.startswith("$("):
        return origin == "Debian"
    # A machine that never updated its lists (a fresh container) knows no origin; then it is the form that tells.
    trusted = signed_by.startswith("$(") or not signed_by or "debian-archive" in signed_by
    named = re.search(r"/debian(-security|-archive)?(/|$)", uri) is not None or "security.debian" in uri
    return trusted and named and _RELEASE_NAME.match(release) is not None


def machine_settings() -> str:
    """The machine's settings for reaching mirrors (proxies, certificates, credentials), as lines of an apt.conf."""
    dump = run(["apt-config", "dump", "Acquire"], reason="read this machine's proxy settings for apt", time_limit=60)
    lines = [line for line in dump.text.splitlines() if _CARRIED.match(line) and not line.endswith(' "";')]
    shell = run(["apt-config", "shell", "FILE", "Dir::Etc::netrc/f", "PARTS", "Dir::Etc::netrcparts/d"],
                reason="find this machine's credentials for apt", time_limit=60).text  # fmt: skip
    for key, name in (("FILE", "netrc"), ("PARTS", "netrcparts")):
        found = re.search(rf"^{key}='(.*)'$", shell, re.MULTILINE)
        if found and os.access(found[1], os.R_OK):
            lines.append(f'Dir::Etc::{name} "{found[1]}";')
    return "".join(line + "\n" for line in lines)


def debian_keyring(keyring: Path | None) -> Path:
    """The keyring that Debian's archives are checked with: the one given, or Debian's own where it is installed."""
    if keyring is not None:
        if not keyring.is_file():
            raise BaseMediaError(f"the keyring {keyring} is not there", hint="--keyring takes a *.gpg or *.pgp file.")
        return keyring
    for name in _KEYRINGS:
        if (_KEYRING_FOLDER / name).is_file():
            return _KEYRING_FOLDER / name
    raise BaseMediaError(
        "Debian's archive keyring is not installed, so downloaded packages could not be trusted",
        hint="Install it (apt-get install debian-archive-keyring), or give one with --keyring FILE.",
    )


# --- the private root ----------------------------------------------------------------------------------------------


def source_lines(mirrors: Mirrors, *, suite: str, keyring: Path, backports: bool = False) -> str:
    """sources.list(5) for `suite` with its updates and security fixes."""
    suites = [suite, f"{suite}-updates", *([f"{suite}-backports"] if backports else [])]
    wanted = [(mirrors.main, name) for name in suites]
    if mirrors.security:
        wanted.append((mirrors.security, f"{suite}-security"))
    options = f"[arch={ARCHITECTURE} signed-by={keyring}]"
    return "".join(f"deb {options} {uri} {name} main\n" for uri, name in wanted)


class AptRoot:
    """An apt root of our own in `folder`. Writing it down costs nothing; only `update` uses the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._config = self.folder / "apt.conf"
        self._updated = self.folder / "updated"

    def prepare(self, *, sources: str, settings: str) -> None:
        """Make the folders and write the configuration. Lists of other sources are dropped by the next update."""
        if any(character in str(self.folder) for character in '"\\\n'):
            raise BaseMediaError(f"apt cannot work in a folder of this name: {self.folder}", hint="Use another cache.")
        for name in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "state/lists/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "status", "")
        written = self.folder / "etc/sources.list"
        if not written.is_file() or written.read_text(encoding="utf-8") != sources:
            self._updated.unlink(missing_ok=True)
            _replace(written, sources)
        _replace(self._config, apt_config(self.folder) + settings)

    @property
    def updated_at(self) -> int | None:
        """When the package lists were last read from the mirror (epoch seconds); None where they never were."""
        return int(self._updated.stat().st_mtime) if self._updated.is_file() else None

    def update(self, step: Step) -> None:
        """Read the package lists from the mirrors. Raises BaseMediaError with what apt said."""
        step.note("reading Debian's package lists")
        try:
            self._run(["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"], time_limit=300)
        except ToolFailed as error:
            raise _explained(error, "Debian's package lists could not be read") from error
        _replace(self._updated, "")

    def show(self, names: Sequence[str]) -> dict[str, Stanza]:
        """The version apt would choose of each package that exists."""
        shown = self._run(["apt-cache", "show", "--no-all-versions", *names], time_limit=60, ok=(0, 100))
        stanzas = parse_stanzas(shown)
        return {stanza.name: stanza for stanza in stanzas}

    def downloads(self, stanzas: Sequence[Stanza]) -> list[Download]:
        """Where to get exactly these versions."""
        names = [f"{stanza.name}={stanza.version}" for stanza in stanzas]
        try:
            return parse_uris(self._run(["apt-get", "download", "--print-uris", "-q", *names], time_limit=60))
        except ToolFailed as error:
            raise _explained(error, "apt does not know where to get a package") from error

    def _run(self, argv: Sequence[str], *, time_limit: float, ok: Sequence[int] = (0,)) -> str:
        env = {"APT_CONFIG": str(self._config)}
        return run(argv, reason=_REASON, time_limit=time_limit, env=env, cwd=self.folder, ok=ok).text


def apt_config(folder: Path) -> str:
    """The private root's apt.conf: every folder below `folder`, nothing of the machine's, no translations."""
    return f"""\
Dir "{folder}/";
Dir::Etc "{folder}/etc";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
APT::Architecture "{ARCHITECTURE}";
APT::Architectures {{ "{ARCHITECTURE}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


def download(wanted: Sequence[Download], *, into: Path, time_limit: float, step: Step) -> None:
    """Download files with apt's own methods, so that the machine's proxies and credentials hold. Checks each sha256."""
    total = sum(item.size for item in wanted)
    argv = [_APT_HELPER, "-o", "APT::Sandbox::User=root", "download-file"]
    for item in wanted:
        argv += [item.uri, str(into / item.file), f"SHA256:{item.sha256}"]
    log = into / "download.log"
    deadline = time.monotonic() + time_limit
    with running(argv, reason=_REASON, log=log) as process:
        while process.poll() is None:
            done = sum(_size(into / item.file) for item in wanted)
            step.progress(min(done, total), total, "bytes")
            if time.monotonic() > deadline:
                raise BaseMediaError(
                    f"downloading did not finish within {time_limit:g} s ({done / 1e6:.0f} of {total / 1e6:.0f} MB)",
                    hint="Try again, it goes on where it stopped; or give a nearer mirror with --mirror URL.",
                )
            time.sleep(0.1)
    if process.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise BaseMediaError(f"a package could not be downloaded\n{_errors_in(said)}", hint=_NETWORK_HINT)
    step.progress(total, total, "bytes")


# --- parsers -------------------------------------------------------------------------------------------------------


def parse_stanzas(text: str) -> list[Stanza]:
    """The package stanzas of apt-cache show; the first alternative of every dependency, without versions."""
    stanzas = []
    for block in text.split("\n\n"):
        fields = _fields(block)
        if "Package" in fields and "Version" in fields:
            stanzas.append(
                Stanza(
                    name=fields["Package"],
                    version=fields["Version"],
                    architecture=fields.get("Architecture", ARCHITECTURE),
                    depends=_dependencies(fields),
                )
            )
    return stanzas


def parse_uris(text: str) -> list[Download]:
    """The lines of apt-get --print-uris: 'URI' file size SHA256:hash."""
    found = []
    for line in text.splitlines():
        match = re.match(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", line.strip())
        if match:
            found.append(Download(uri=match[1], file=match[2], size=int(match[3]), sha256=match[4]))
    return found


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if line[:1] not in ("", " ", "\t"))
    return {key: value.strip() for key, colon, value in pairs if colon}


def _dependencies(fields: Mapping[str, str]) -> tuple[str, ...]:
    both = ",".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
    first = (item.split("|")[0].strip() for item in both.split(","))
    return tuple(re.split(r"[\s(:]", item)[0] for item in first if item)


_NETWORK_HINT = (
    "Look at the network and at apt's proxy settings, or give another mirror with --mirror URL; "
    "with --offline the cache is used."
)


def _explained(error: ToolFailed, what: str) -> BaseMediaError:
    said = _errors_in(error.message)
    if "NO_PUBKEY" in said or "not signed" in said:
        hint = "The keyring lacks this release's keys: upgrade debian-archive-keyring, or give --keyring FILE."
        return BaseMediaError(f"{what}\n{said}", hint=hint)
    return BaseMediaError(f"{what}\n{said}", hint=_NETWORK_HINT)


def _errors_in(said: str) -> str:
    """apt's own errors and warnings out of its chatter; everything when there are none."""
    marked = [line for line in said.splitlines() if line.startswith(("E:", "W:", "Err:"))]
    return "\n".join(marked or said.splitlines()[-10:])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
