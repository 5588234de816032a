"""`bluelift plan`: what build would do."""

from __future__ import annotations

import argparse

from builder.build import StepForecast, forecast
from builder.cache import Cache, default_folder
from builder.commands.profile_arguments import profile_from
from builder.console import Console, Table
from builder.plan import Plan
from builder.profile import Profile


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Show the steps, their content ids, and whether they are cached or why not. Writes nothing."""
    profile = profile_from(arguments)
    plan, steps = forecast(profile, Cache(arguments.cache or default_folder()))
    if arguments.json:
        console.data(_as_json(profile, plan, steps))
        return 0
    console.table(_table(profile, steps))
    console.say(f"image id: {plan.image_id or 'known once the packages are'}")
    return 0


def _table(profile: Profile, steps: tuple[StepForecast, ...]) -> Table:
    rows = tuple(
        (entry.step.title, (entry.step.id or "?")[:16], "cached" if entry.cached else "to do", entry.reason)
        for entry in steps
    )
    styles = tuple("dim" if entry.cached else "" for entry in steps)
    title = f"profile {profile.name}: {profile.output}.iso"
    return Table(title=title, columns=("step", "content id", "", "why"), rows=rows, styles=styles)


def _as_json(profile: Profile, plan: Plan, steps: tuple[StepForecast, ...]) -> dict[str, object]:
    return {
        "profile": profile.name,
        "output": f"{profile.output}.iso",
        "image_id": plan.image_id,
        "epoch": plan.epoch,
        "steps": [
            {
                "name": entry.step.name,
                "id": entry.step.id,
                "cached": entry.cached,
                "reason": entry.reason,
                "recipe": dict(entry.step.recipe),
            }
            for entry in steps
        ],
    }
