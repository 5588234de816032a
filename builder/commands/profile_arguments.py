"""The profile that a command line means: the file, with what the options say about the base media."""

from __future__ import annotations

import argparse
from dataclasses import replace

from builder import profile
from builder.errors import UsageError
from builder.profile import BaseSettings, Profile


def profile_from(arguments: argparse.Namespace) -> Profile:
    """Find and read the profile; --mirror, --security-mirror, --keyring and --debs win over what it says."""
    read = profile.load(profile.find(arguments.profile))
    return replace(read, base=_base(read.base, arguments))


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
