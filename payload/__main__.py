"""The payload's command line, and the whole-machine run inside the image.

Whatever happens there is a readable sentence and an exit code; a traceback is never shown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TextIO

from payload.contract import (
    BUILT_IN_RULES,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    AfterRepair,
    HibernatedVolumes,
    PayloadConfig,
    Policy,
    Verdict,
)
from payload.display import FullScreen, LineByLine
from payload.ending import FinalScreen, ending_action, keys_line
from payload.environment import Environment
from payload.environment.directory import DirectoryEnvironment, TerminalScreen
from payload.events import EndingNow
from payload.formats.records import RecordError, from_json, to_json
from payload.key_dialogue import KeyDialogue
from payload.receipt import receipt_bytes, receipt_schema, utc_text
from payload.restore import restore
from payload.safe_mode import SafeModeRefused, clear_safe_mode
from payload.screen import VerdictScreen, plain
from payload.session import RunOptions, Session
from payload.store import new_run_id
from payload.verdict import error_note

#: The configuration inside the Linux image; where it is, the whole machine is ours.
IMAGE_CONFIG = Path("/bluelift/config.json")

_EXAMPLES = """\
examples:
  python -m payload --root /mnt/windows --dry-run    what would be done to a mounted disk
  python -m payload --root /mnt/windows              repair it: the files are moved to quarantine on the same volume
  python -m payload --root /mnt/a /mnt/b --json      several disks, the receipt as JSON on standard output
  python -m payload --root /mnt/windows --undo       put the quarantined files back
  python -m payload --clear-safe-mode --root /efi    Windows no longer starts in safe mode

exit codes:
  0 repaired, already clean, or undone   10 no Windows found   11 reported only   12 needs a key
  13 left alone   14 failed   2 wrong command line or configuration   130 interrupted
"""


class UsageProblem(Exception):
    """A command line or configuration that cannot be used; the message is for the person who gave it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the payload runs; tests give places of their own."""

    image_config: Path | None = field(default_factory=lambda: _image_config())  # noqa: PLW0108 - it is defined below
    stdout: TextIO
    stderr: TextIO
    environment: Callable[..., Environment]


def main(argv: Sequence[str] | None = None, place: Place | None = None) -> int:
    """Run the payload. Returns the exit code (see payload.contract)."""
    place = place or Place(stdout=sys.stdout, stderr=sys.stderr, environment=_this_platform)
    arguments = _parser().parse_args(argv)
    if arguments.receipt_schema:
        _print_json(place.stdout, receipt_schema())
        return 0
    by_hand = arguments.root or arguments.clear_safe_mode or arguments.undo
    in_image = place.image_config is not None and place.image_config.exists()
    if in_image and arguments.undo and not arguments.root:  # in the image's shell: every disk, by the image's rules
        arguments.all_disks, arguments.config = True, arguments.config or place.image_config
    with _signals():
        try:
            return _run_in_image(arguments, place) if in_image and not by_hand else _run_by_hand(arguments, place)
        except UsageProblem as problem:
            place.stderr.write(f"bluelift payload: {plain_lines(str(problem))}\n")
            return EXIT_USAGE
        except KeyboardInterrupt:
            place.stderr.write("\nInterrupted. Running Bluelift again is always safe.\n")
            return EXIT_INTERRUPTED
        except Exception as error:  # the outermost net: never a traceback
            place.stderr.write(
                "Bluelift stopped: something unexpected happened. Running it again is always safe.\n"
                f"For support: {plain(error_note(error))}\n"
            )
            return Verdict.FAILED.exit_code


# --- the command line ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m payload",
        description="Find offline Windows installations and quarantine the files that keep them from starting.",
        epilog=_EXAMPLES,
        # A fixed width: finding the terminal's takes a module that the image does not have.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        allow_abbrev=False,
    )
    parser.add_argument("--root", nargs="+", type=Path, action="extend", metavar="PATH", help="a mounted volume's root")
    parser.add_argument("--all-disks", action="store_true", help="every disk of this machine (root; not for every day)")
    if sys.platform == "win32":
        parser.add_argument(
            "--this-windows",
            action="store_true",
            help="with --all-disks: the Windows that runs now as well (safe mode)",
        )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration (JSON); else the built-in rules")
    parser.add_argument(
        "--policy", choices=[policy.value for policy in Policy], help="instead of the rules' own policy"
    )
    parser.add_argument("--dry-run", action="store_true", help="look and report, change nothing")
    parser.add_argument(
        "--undo", action="store_true", help="put quarantined files back; in the image's shell on every disk"
    )
    parser.add_argument(
        "--clear-safe-mode", action="store_true", help="take safe mode back on a host's mounted boot partition (--root)"
    )
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON; text goes to standard error")
    parser.add_argument("--receipt-schema", action="store_true", help="print the receipt's JSON Schema and end")
    return parser


def _read_config(path: Path | None, policy: str | None) -> PayloadConfig:
    """The configuration in `path`, or the built-in one; raises UsageProblem with every problem at once."""
    config = PayloadConfig(image_id="", rules=BUILT_IN_RULES) if path is None else _parse_config(path)
    if policy is None:
        return config
    return replace(config, rules=tuple(replace(rule, policy=Policy(policy)) for rule in config.rules))


def _parse_config(path: Path) -> PayloadConfig:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageProblem(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"the configuration {path} is not JSON: {error}") from error
    try:
        return from_json(PayloadConfig, data)
    except RecordError as error:
        problems = "\n".join(f"  {where or '(top)'}: {message}" for where, message in error.problems)
        raise UsageProblem(f"the configuration {path} cannot be used:\n{problems}") from error


# --- by hand: mounted disks, a rescue VM -----------------------------------------------------------------------------


def _run_by_hand(arguments: argparse.Namespace, place: Place) -> int:
    """Text on the terminal (on standard error with --json); the machine is not ours, so it is not restarted."""
    if arguments.clear_safe_mode:
        return _clear_safe_mode(arguments, place)
    config = _read_config(arguments.config, arguments.policy)
    stream = place.stderr if arguments.json else place.stdout
    environment = _environment_by_hand(arguments, config, place, stream)
    started = time.time()
    if arguments.undo:
        restoration = restore(
            environment,
            config.rules,
            written=utc_text(started),
            dry_run=arguments.dry_run,
            say=lambda line: _say(stream, line),
        )
        if arguments.json:
            _print_json(place.stdout, to_json(restoration))
        return restoration.exit_code
    display = LineByLine(TerminalScreen(stream))
    session = Session(environment, config, display, _options(started, dry_run=arguments.dry_run))
    with _interruption_told(session, place):
        receipt = session.run()
    display.receipt(receipt)
    if arguments.json:
        place.stdout.write(receipt_bytes(receipt).decode("ascii"))
    return receipt.verdict.exit_code


def _environment_by_hand(
    arguments: argparse.Namespace, config: PayloadConfig, place: Place, stream: TextIO
) -> Environment:
    if arguments.root:
        if arguments.all_disks:
            raise UsageProblem("give either --root or --all-disks, not both")
        return _folders(arguments, stream, config.hibernated)
    if not arguments.all_disks:
        raise UsageProblem(
            "this is not a Bluelift image, and nothing says which disks to look at.\n"
            "Give --root PATH with the folder where a broken host's volume is mounted,\n"
            "or --all-disks to look at every disk of this machine. See --help."
        )
    if getattr(arguments, "this_windows", False):
        return place.environment(config, running_windows=True)
    return place.environment(config)


def _folders(
    arguments: argparse.Namespace, stream: TextIO, hibernated: HibernatedVolumes = HibernatedVolumes.LEAVE
) -> DirectoryEnvironment:
    missing = [str(root) for root in arguments.root if not root.is_dir()]
    if missing:
        raise UsageProblem(
            f"not a folder: {', '.join(missing)}\n"
            "--root takes the folder where a Windows volume is mounted, such as /mnt/windows."
        )
    roots = [root.absolute() for root in arguments.root]
    return DirectoryEnvironment(roots, stream=stream, hibernated=hibernated)


def _clear_safe_mode(arguments: argparse.Namespace, place: Place) -> int:
    """Take safe mode back in the first boot store of the folders."""
    if not arguments.root or arguments.all_disks or arguments.undo or arguments.dry_run or arguments.json:
        raise UsageProblem(
            "--clear-safe-mode takes --root PATH alone: the folder where the host's boot partition is mounted."
        )
    environment = _folders(arguments, place.stdout)
    try:
        change = clear_safe_mode(environment, environment.volumes()[0])
    except SafeModeRefused as refusal:
        _say(place.stdout, refusal.sentence)
        return Verdict.FAILED.exit_code
    _say(place.stdout, f"'{change.entry}' starts as it did before safe mode ({change.path} on {change.partition}).")
    return 0


def _say(stream: TextIO, line: str) -> None:
    stream.write(f"{plain(line)}\n")


@contextlib.contextmanager
def _interruption_told(session: Session, place: Place) -> Iterator[None]:
    """Say what Ctrl-C or a SIGTERM left behind, then let it end the process."""
    try:
        yield
    except KeyboardInterrupt:
        if session.changing:
            place.stderr.write(f"\nStopped while {plain(session.changing[0])} was being changed: run Bluelift again.\n")
        else:
            place.stderr.write("\nStopped before anything was left half-way.\n")
        raise


# --- inside the image ------------------------------------------------------------------------------------------------


def _run_in_image(arguments: argparse.Namespace, place: Place) -> int:
    """The whole machine: full screen, receipt, countdown or keys."""
    try:
        config = _read_config(arguments.config or place.image_config, arguments.policy)
    except UsageProblem as problem:
        return _refuse_in_image(place, problem)
    environment = place.environment(config)
    display = FullScreen(environment.screen, f"Bluelift {config.bluelift}   {config.organisation}".strip())
    session = Session(
        environment,
        config,
        display,
        _options(time.time(), dry_run=arguments.dry_run),
        prompt=KeyDialogue(environment=environment, config=config) if config.key_wait else None,
    )
    receipt = session.run()
    config = session.config
    action = ending_action(receipt.verdict, config.ending, nobody=session.nobody, safe_mode=session.safe_mode_chosen)

    def announce(chosen: AfterRepair, countdown: int = 0) -> None:
        verdict = receipt.verdict
        session.events.send(EndingNow(verdict=verdict, exit_code=verdict.exit_code, action=chosen, countdown=countdown))

    announce(action, config.ending.countdown)
    FinalScreen(environment=environment, display=display, config=config, receipt=receipt, chosen=announce).run(action)
    return receipt.verdict.exit_code


def _refuse_in_image(place: Place, problem: UsageProblem) -> int:
    """A configuration that cannot be used still gets a readable screen; no disk was looked at."""
    config = PayloadConfig(image_id="", rules=())
    environment = place.environment(config)
    display = FullScreen(environment.screen, "Bluelift")
    first, *rest = str(problem).splitlines()
    screen = VerdictScreen(
        verdict=Verdict.FAILED,
        sentence="The configuration of this image cannot be used. No disk was touched.",
        advice="Build the image again with a profile that `bluelift plan` accepts.",
        remarks=(first, *rest),
        keys=keys_line(config),
    )
    display.verdict(screen)
    while (key := environment.screen.key(5.0)) not in ("r", "p"):
        if key == "s":
            environment.shell()
            display.redraw()
            display.verdict(screen)
    environment.end(AfterRepair.REBOOT if key == "r" else AfterRepair.POWER_OFF)
    return EXIT_USAGE


# --- small things ----------------------------------------------------------------------------------------------------


def _this_platform(config: PayloadConfig, *, running_windows: bool = False) -> Environment:
    # Not imported before it is needed: `--root` runs where these modules' system calls do not exist.
    if sys.platform == "win32":
        from payload.environment.windows import WindowsEnvironment  # noqa: PLC0415

        return WindowsEnvironment(config, running_windows=running_windows)
    from payload.environment.linux import LinuxEnvironment  # noqa: PLC0415

    return LinuxEnvironment(config)


def _image_config() -> Path | None:
    """Where the image's configuration is. A running Windows has none: there, users may make a folder in the root."""
    if sys.platform == "win32":
        from payload.environment.windows_power import IMAGE_CONFIG as CONFIG_NAME  # noqa: PLC0415
        from payload.environment.windows_power import image_folder  # noqa: PLC0415

        folder = image_folder()
        return folder / CONFIG_NAME if folder else None
    return IMAGE_CONFIG


def _options(started: float, *, dry_run: bool) -> RunOptions:
    return RunOptions(run_id=new_run_id(datetime.fromtimestamp(started, UTC)), started=started, dry_run=dry_run)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the payload like Ctrl-C does: what is open is closed first."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def plain_lines(text: str) -> str:
    """Several lines, each as printable ASCII."""
    return "\n".join(plain(line) for line in text.split("\n"))


def _print_json(stream: TextIO, data: object) -> None:
    stream.write(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
