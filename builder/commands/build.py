"""`bluelift build`: an image from a profile."""

from __future__ import annotations

import argparse

from builder.build import build
from builder.commands.profile_arguments import options_from, profile_from
from builder.commands.program import program
from builder.console import Console, Summary, size_text
from builder.outputs import Built
from builder.profile import Profile


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Build, then say what there is and what to do with it."""
    profile = profile_from(arguments)
    built = build(profile, options_from(arguments), console)
    what = ", ".join(built.made) if built.made else "nothing: everything was in the cache"
    console.summary(
        Summary(
            title=f"{built.image} is ready",
            facts=(
                *(("and", str(other)) for other in built.others),
                ("size", size_text(built.size)),
                ("sha256", built.sha256),
                ("image id", built.image_id),
                ("made", what),
                ("time", f"{built.seconds:.1f} s"),
            ),
            next_steps=_next_steps(profile, built),
        )
    )
    return 0


def _next_steps(profile: Profile, built: Built) -> tuple[str, ...]:
    """What to do with the image; a plain ISO starts from no stick."""
    commands = {
        f"verify {built.image}": "boots it and lets it repair a disk",
        f"inspect {built.image}": "shows what is inside",
    }
    last = "burn it to a disc, or attach it as a CD; then boot the broken host from it"
    if profile.tail is not None:
        commands[f"usb write {built.image} STICK"] = "writes it to a USB stick ('usb list' shows them)"
        last = "or burn it to a disc; then boot the broken host from it"
    width = max(map(len, commands))
    return (*(f"{program()} {command:{width}}    {what}" for command, what in commands.items()), last)
