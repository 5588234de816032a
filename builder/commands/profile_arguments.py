"""The profile that a command line means: the file, with what the options say about the base media."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from builder import profile
from builder.build import BuildOptions
from builder.cache import default_folder
from builder.errors import UsageError
from builder.profile import WINPE, BaseSettings, Profile, WinpeBase, WinpeSettings

_KINDS = ("windows-iso", "adk", "winre")


def profile_from(arguments: argparse.Namespace) -> Profile:
    """Find and read the profile; what the options say about the base media wins over it.

    With --windows-iso, --adk or --winre the default profile is winpe.
    """
    media = [name for name in _KINDS if getattr(arguments, name.replace("-", "_")) is not None]
    read = profile.load(profile.find(arguments.profile or (WINPE if media else None)))
    if read.environment == WINPE:
        return replace(read, winpe=_winpe(read.winpe, arguments, media))
    if media or arguments.media is not None or arguments.payload_exe is not None:
        raise UsageError(
            f"--windows-iso, --adk, --winre, --media and --payload-exe are for winpe; {read.label} is for linux",
            hint="bluelift build winpe --windows-iso FILE",
        )
    return replace(read, base=_base(read.base, arguments))


def options_from(arguments: argparse.Namespace) -> BuildOptions:
    """How to build: folders and what may be asked of the network."""
    return BuildOptions(
        output=getattr(arguments, "output", Path("dist")),
        cache=arguments.cache or default_folder(),
        offline=getattr(arguments, "offline", False),
        refresh=getattr(arguments, "refresh", False),
        windows_python=arguments.windows_python,
    )


def _winpe(settings: WinpeSettings, arguments: argparse.Namespace, media: list[str]) -> WinpeSettings:
    if any((arguments.mirror, arguments.security_mirror, arguments.keyring, arguments.debs)):
        raise UsageError(
            "--mirror, --security-mirror, --keyring and --debs are for linux; winpe is made of media of your own",
            hint="bluelift build winpe --windows-iso FILE",
        )
    if len(media) > 1:
        raise UsageError("--windows-iso, --adk and --winre are three ways to the same; give one of them")
    base = settings.base
    if media:
        path = getattr(arguments, media[0].replace("-", "_"))
        base = WinpeBase(kind=media[0], path=path, media=base.media if media[0] == "winre" else None, index=base.index)
    if arguments.media is not None:
        if base.kind != "winre":
            raise UsageError("--media is for --winre: an install ISO or ADK folder that lends its boot files")
        base = replace(base, media=arguments.media)
    return replace(settings, base=base, payload_exe=arguments.payload_exe or settings.payload_exe)


def _base(base: BaseSettings, arguments: argparse.Namespace) -> BaseSettings:
    mirror_options = (arguments.mirror, arguments.security_mirror, arguments.keyring)
    if arguments.debs is not None:
        if any(mirror_options):
            raise UsageError(
                "--debs cannot be given together with --mirror, --security-mirror or --keyring",
                hint="The packages come either from a folder or from a mirror.",
            )
        if not arguments.debs.is_dir():
            raise UsageError(f"--debs: there is no folder {arguments.debs}", hint="Give a folder of .deb files.")
        return replace(base, mirror=None, security_mirror=None, keyring=None, debs=arguments.debs)
    if arguments.keyring is not None and not arguments.keyring.is_file():
        raise UsageError(f"--keyring: there is no file {arguments.keyring}", hint="Give the mirror's keyring.")
    return replace(
        base,
        mirror=arguments.mirror or base.mirror,
        security_mirror=arguments.security_mirror or base.security_mirror,
        keyring=arguments.keyring or base.keyring,
        debs=None if any(mirror_options) else base.debs,
    )
