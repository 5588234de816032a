"""`bluelift plan`: what build would do."""

from __future__ import annotations

import argparse

from builder.build import Forecast, StepForecast, forecast
from builder.commands.profile_arguments import options_from, profile_from
from builder.console import Console, Table
from builder.plan_winpe import boot_cas, image_name
from builder.profile import LINUX, Profile


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Show the steps, their content ids, and whether they are cached or why not. Writes nothing."""
    profile = profile_from(arguments)
    found = forecast(profile, options_from(arguments))
    if arguments.json:
        console.data(_as_json(profile, found))
        return 0
    for note in found.notes:
        console.say(note)
    console.table(_table(profile, found.steps))
    known_later = "the packages are" if profile.environment == LINUX else "the payload is frozen"
    console.say(f"image id: {found.plan.image_id or f'known once {known_later}'}")
    return 0


def _table(profile: Profile, steps: tuple[StepForecast, ...]) -> Table:
    rows = tuple(
        (entry.step.title, (entry.step.id or "?")[:16], "cached" if entry.cached else "to do", entry.reason)
        for entry in steps
    )
    styles = tuple("dim" if entry.cached else "" for entry in steps)
    title = f"profile {profile.name}: {' and '.join(_outputs(profile))}"
    return Table(title=title, columns=("step", "content id", "", "why"), rows=rows, styles=styles)


def _outputs(profile: Profile) -> tuple[str, ...]:
    """The images that a build makes, by file name."""
    if profile.environment == LINUX:
        return (f"{profile.output}.iso",)
    return tuple(image_name(profile, ca) for ca in boot_cas(profile))


def _as_json(profile: Profile, found: Forecast) -> dict[str, object]:
    return {
        "profile": profile.name,
        "output": _outputs(profile)[0],
        "outputs": list(_outputs(profile)),
        "image_id": found.plan.image_id,
        "epoch": found.plan.epoch,
        "steps": [
            {
                "name": entry.step.name,
                "id": entry.step.id,
                "cached": entry.cached,
                "reason": entry.reason,
                "recipe": dict(entry.step.recipe),
            }
            for entry in found.steps
        ],
        "notes": list(found.notes),
    }
