"""The command line: what can be typed, and which command of `builder.commands` answers."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from builder import __version__
from builder.console import Console, open_console
from builder.errors import UsageError

_ABOUT = "Builds recovery images that boot a broken Windows host and remove the file that breaks it."
_EXAMPLES = """\
examples:
  bluelift doctor                                   what this machine can build and verify
  bluelift build -o dist                            the default image: dist/bluelift-linux.iso
  bluelift build winpe --windows-iso Win11.iso      the same for Windows PE: dist/bluelift-winpe.iso
  bluelift verify dist/bluelift-linux.iso           boot it and see it repair a disk
  bluelift usb write dist/bluelift-linux.iso sdb    write it to a USB stick
  bluelift init my.yaml && bluelift build my.yaml   an image of your own
  bluelift init winpe my.yaml                       the same for Windows PE

exit codes: 0 done, 2 usage, 3 profile, 4 tool missing, 5 tool failed, 6 base media, 7 output,
8 not an image, 9 verification failed, 10 template, 11 keys, 70 a defect of Bluelift, 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """argparse, with our errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"'{self.prog} --help' shows what can be typed.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command line. Raises UsageError; SystemExit after --help and --version only."""
    return _parser().parse_args(argv)


def console_for(arguments: argparse.Namespace) -> Console:
    """The console that the options ask for."""
    return open_console(plain=arguments.plain, json_lines=arguments.json_lines)


def run_command(arguments: argparse.Namespace, console: Console) -> int:
    """Do what was typed; returns the exit code."""
    # Each command's own imports happen here, so that --help and a cached build do not wait for the others'.
    module = importlib.import_module(f"builder.commands.{arguments.command}")
    code: int = module.main(arguments, console)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bluelift",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bluelift {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_build(commands)
    _add_plan(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_usb(commands)
    _add_doctor(commands)
    _add_freeze(commands)
    _add_demo(commands)
    _add_keys(commands)
    _add_clean(commands)
    _add_init(commands)
    _add_schema(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _command(commands: _Commands, name: str, what: str, examples: str) -> argparse.ArgumentParser:
    lines = "\n".join(f"  {line}" for line in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    look = parser.add_argument_group("how it shows itself")
    look.add_argument("--plain", action="store_true", help="lines only, also on a terminal")
    look.add_argument("--json-lines", action="store_true", help="one JSON object a line, for machines")
    return parser


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "profile", nargs="?", metavar="PROFILE", help="a YAML file, or the name of a built-in profile (default: linux)"
    )
    base = _add_mirror(parser)
    base.add_argument("--debs", type=Path, metavar="DIR", help="a folder of .deb files instead of a mirror")
    windows = parser.add_argument_group("base media for winpe, of your own")
    windows.add_argument("--windows-iso", type=Path, metavar="FILE", help="Windows 10, 11 or Server install ISO")
    windows.add_argument("--adk", type=Path, metavar="DIR", help="ADK WinPE folder, as copype makes it")
    windows.add_argument("--winre", type=Path, metavar="FILE", help="winre.wim of an installed Windows")
    windows.add_argument("--media", type=Path, metavar="PATH", help="with --winre: ISO or ADK folder with boot files")
    _add_freezing(parser)
    _add_cache(parser)


def _add_mirror(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    base = parser.add_argument_group("base media")
    base.add_argument(
        "--mirror", type=_url, metavar="URL", help="Debian mirror (default: this machine's own, on Debian)"
    )
    base.add_argument("--security-mirror", type=_url, metavar="URL", help="mirror of Debian's security updates")
    base.add_argument("--keyring", type=Path, metavar="FILE", help="keyring that signs the mirror")
    return base


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache folder (default: $BLUELIFT_CACHE, else ~/.cache/bluelift)"
    )


def _add_build(commands: _Commands) -> None:
    parser = _command(
        commands,
        "build",
        "build an image",
        "bluelift build -o dist\n"
        "bluelift build report-only -o dist\n"
        "bluelift build winpe --windows-iso Win11.iso -o dist\n"
        "bluelift build my.yaml -o dist --mirror https://MIRROR/debian\n"
        "bluelift build -o dist --debs ./packages      without a network",
    )
    _add_profile(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("dist"), metavar="DIR", help="output folder (default: dist)"
    )
    parser.add_argument("--offline", action="store_true", help="use only what is in the cache")
    parser.add_argument(
        "--refresh", action="store_true", help="ask the mirror for newer packages now (else once a day)"
    )


def _add_plan(commands: _Commands) -> None:
    parser = _command(
        commands,
        "plan",
        "show what build would do, step by step, and write nothing",
        "bluelift plan\nbluelift plan my.yaml --json\nbluelift plan winpe --windows-iso Win11.iso",
    )
    _add_profile(parser)
    parser.add_argument("--json", action="store_true", help="the plan as JSON")


def _add_verify(commands: _Commands) -> None:
    parser = _command(
        commands,
        "verify",
        "boot an image with a broken disk attached and check what it repaired",
        "bluelift verify dist/bluelift-linux.iso\n"
        "bluelift verify dist/bluelift-linux.iso --firmware bios,uefi,secureboot --disk nvme,ahci\n"
        "bluelift verify dist/bluelift-linux.iso --as cd,usb,disk     nine boots with one file\n"
        "bluelift verify dist/bluelift-linux.iso --bitlocker          volumes that BitLocker has locked\n"
        "bluelift verify dist/bluelift-linux.iso --firmware bios -o proof --timeout 300\n"
        "bluelift verify dist/bluelift-winpe.iso --firmware uefi --disk ahci",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the image to boot")
    parser.add_argument("--firmware", type=_words, default=(), metavar="A,B", help="bios, uefi, secureboot (default: all, with --bitlocker bios)")  # fmt: skip  # noqa: E501
    parser.add_argument("--disk", type=_words, default=("nvme",), metavar="A,B", help="controllers of the broken disk: nvme, ahci, virtio ... (default: nvme)")  # fmt: skip  # noqa: E501
    parser.add_argument("--scenario", type=_words, default=(), metavar="A,B", help="kinds of broken disks, or all (default: repair)")  # fmt: skip  # noqa: E501
    parser.add_argument(
        "--bitlocker", action="store_true", help="locked disks, with keys in a vault, on sticks and CDs, and typed"
    )
    parser.add_argument("--as", dest="attach", type=_words, default=(), metavar="A,B", help="how the image is attached: cd, usb, disk (default: cd; disk for a VHD or VHDX)")  # fmt: skip  # noqa: E501
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="seconds a boot may take (default: 180, of Windows PE 1800)")  # fmt: skip  # noqa: E501
    parser.add_argument(
        "--accel", choices=("tcg", "kvm"), default="tcg", help="how QEMU runs the machine (default: tcg)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="where logs, screenshots and verdict.json go (default: beside the image)")  # fmt: skip  # noqa: E501
    parser.add_argument("--offline", action="store_true", help="use only what is in the cache")
    _add_mirror(parser)
    _add_cache(parser)


def _add_inspect(commands: _Commands) -> None:
    parser = _command(
        commands,
        "inspect",
        "show an image's boot entries and what is inside",
        "bluelift inspect dist/bluelift-linux.iso\nbluelift inspect dist/bluelift-linux.iso --json",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the image to read")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_usb(commands: _Commands) -> None:
    usb = commands.add_parser(
        "usb",
        help="write an image to a USB stick",
        description="Write an image to a USB stick, safely.",
        epilog="examples:\n  bluelift usb list\n  bluelift usb write dist/bluelift-linux.iso sdb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = usb.add_subparsers(dest="action", metavar="ACTION", required=True)
    _command(
        actions, "list", "show the disks of this machine, and which of them can be written to", "bluelift usb list"
    )
    parser = _command(
        actions,
        "write",
        "overwrite a USB stick or memory card with an image, and read it back",
        "bluelift usb write dist/bluelift-linux.iso sdb\n"
        "bluelift usb write dist/bluelift-linux.iso /dev/sdb --data\n"
        "bluelift usb write dist/bluelift-linux.iso sdb --yes --force-device sdb",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the image to write")
    parser.add_argument("device", metavar="DEVICE", help="the stick: sdb, /dev/sdb, /dev/disk/by-id/...")
    parser.add_argument(
        "--data",
        action="store_true",
        help="add a partition BLUELIFT-DATA in the rest of the stick, for keys, drivers and receipts",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask, for scripts")
    parser.add_argument(
        "--force-device",
        default="",
        metavar="NAME",
        help="overwrite NAME although it does not say that it is removable",
    )


def _add_doctor(commands: _Commands) -> None:
    parser = _command(
        commands,
        "doctor",
        "show what this machine can build and verify, and how to get the rest",
        "bluelift doctor\nbluelift doctor --json",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    _add_cache(parser)


def _add_freeze(commands: _Commands) -> None:
    parser = _command(
        commands,
        "freeze",
        "make the payload a Windows program, for safe mode and rescue VMs",
        "bluelift freeze -o dist\nbluelift freeze --windows-python python-3.11.9-embed-amd64.zip",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("dist"), metavar="DIR", help="output folder (default: dist)"
    )
    _add_freezing(parser)
    parser.add_argument("--offline", action="store_true", help="use only what is in the cache")
    _add_cache(parser)


def _add_demo(commands: _Commands) -> None:
    parser = _command(
        commands,
        "demo",
        "watch a WinPE image repair two drives under Wine, without any Windows media",
        "bluelift demo\nbluelift demo -o build/demo --payload-exe payload",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/demo"), metavar="DIR", help="(default: build/demo)"
    )
    _add_freezing(parser)
    parser.add_argument("--offline", action="store_true", help="use only what is in the cache")
    _add_cache(parser)


def _add_freezing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the payload for Windows")
    group.add_argument(
        "--payload-exe", type=Path, metavar="DIR", help="a payload frozen before: a folder with its SHA256SUMS"
    )
    group.add_argument(
        "--windows-python", type=Path, metavar="FILE", help="your own embeddable or NuGet package of Python 3.11.9"
    )


def _add_keys(commands: _Commands) -> None:
    parser = _command(
        commands,
        "keys",
        "put BitLocker recovery passwords into an encrypted vault for the stick",
        "bluelift keys import entra-export.json ad-export.ldif -o keys.vault\n"
        "bluelift keys list keys.vault\n"
        "bluelift keys subset keys.vault --hosts branch.txt -o branch.vault\n"
        "bluelift keys rekey keys.vault\n"
        "bluelift keys iso branch.vault -o keys.iso      a second CD, for VMs",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("import", help="recovery passwords from CSV, JSON, LDIF or text files into a new vault")
    add.add_argument("files", nargs="+", type=Path, metavar="FILE", help="exports of Entra ID, Active Directory, CrowdStrike's CSV, manage-bde's output ...")  # fmt: skip  # noqa: E501
    show = actions.add_parser("list", help="the key ids in a vault; no secrets")
    part = actions.add_parser("subset", help="a vault with some of the keys, under the same passphrase")
    part.add_argument("--key-ids", type=Path, metavar="FILE", help="keep these key ids, one a line")
    again = actions.add_parser("rekey", help="the same keys under a new passphrase")
    disc = actions.add_parser("iso", help="a CD that holds a vault, for VMs that see no stick")
    disc.add_argument("vault", type=Path, metavar="VAULT", help="the vault")
    disc.add_argument("-o", "--output", type=Path, required=True, metavar="ISO", help="the new ISO")
    disc.add_argument("--force", action="store_true", help="replace a file that is there")
    for action in (show, part, again):
        action.add_argument("vault", type=Path, metavar="VAULT", help="the vault")
        action.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line instead of typing it")
    show.add_argument("--json", action="store_true", help="as JSON")
    for action in (part, again):
        action.add_argument("--hosts", type=Path, metavar="FILE", help="computer names, one a line")
    for action in (add, part, again):
        replaced = " (default: VAULT is replaced)" if action is again else ""
        action.add_argument("-o", "--output", type=Path, required=action is not again, metavar="VAULT", help=f"the new vault{replaced}")  # fmt: skip  # noqa: E501
        action.add_argument("--force", action="store_true", help="replace a file that is there")
    for action in (add, again):
        own = action.add_argument_group("the new passphrase (one is made up where none of these is given)")
        own.add_argument("--ask", action="store_true", help="type your own")
        own.add_argument("--new-passphrase-file", type=Path, metavar="FILE", help="the first line of a file")
        own.add_argument("--weak", action="store_true", help="take it even where it is easily guessed")


def _add_clean(commands: _Commands) -> None:
    parser = _command(
        commands,
        "clean",
        "remove finished steps from the cache; --all: packages too",
        "bluelift clean\nbluelift clean --all",
    )
    parser.add_argument("--all", action="store_true", help="the whole cache, downloaded packages too")
    _add_cache(parser)


def _add_init(commands: _Commands) -> None:
    parser = _command(
        commands,
        "init",
        "write a commented profile to start from",
        "bluelift init                          bluelift.yaml: what the default image is made of\n"
        "bluelift init branch-office.yaml\n"
        "bluelift init winpe                    winpe.yaml: an image from Windows media of your own\n"
        "bluelift init winpe branch-office.yaml",
    )
    parser.usage = "%(prog)s [-h] [--plain] [--json-lines] [PROFILE] [FILE]"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[PROFILE] [FILE]",
        help="a profile that comes with Bluelift: linux (default), winpe ..., and the file to write",
    )


def _add_schema(commands: _Commands) -> None:
    _command(
        commands, "schema", "print the JSON Schema of profiles, for editors", "bluelift schema > bluelift.schema.json"
    )


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise argparse.ArgumentTypeError("give at least one word")
    return words


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def _url(text: str) -> str:
    if not re.fullmatch(r"(https?|file)://\S+", text):
        raise argparse.ArgumentTypeError(f"{text!r} should start with http://, https:// or file://")
    return text
