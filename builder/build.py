"""Builds an image, and says what a build would do: one door to the environments.

Each environment's modules are imported when it is wanted: a rebuild takes half a second, and they a fifth of one.
"""

from __future__ import annotations

from builder.cache import Cache
from builder.console import Console
from builder.outputs import BuildOptions as BuildOptions
from builder.outputs import Built as Built
from builder.outputs import Forecast as Forecast
from builder.outputs import StepForecast as StepForecast
from builder.profile import WINPE, Profile


def build(profile: Profile, options: BuildOptions, console: Console) -> Built:
    """Build the image of `profile`. What is in the cache is checked, not made again.

    Raises BuilderError; then the output folder is as it was before.
    """
    if profile.environment == WINPE:
        from builder.build_winpe import build_winpe  # noqa: PLC0415

        return build_winpe(profile, options, console)
    from builder.build_linux import build_linux  # noqa: PLC0415

    return build_linux(profile, options, console)


def forecast(profile: Profile, options: BuildOptions) -> Forecast:
    """What `build` would do, from what the cache knows. Writes nothing and asks no mirror."""
    cache = Cache(options.cache)
    if profile.environment == WINPE:
        from builder.build_winpe import forecast_winpe  # noqa: PLC0415

        return forecast_winpe(profile, options, cache)
    from builder.build_linux import forecast_linux  # noqa: PLC0415

    return forecast_linux(profile, cache)
