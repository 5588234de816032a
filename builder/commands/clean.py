"""`bluelift clean`: the cache, emptied."""

from __future__ import annotations

import argparse

from builder.cache import Cache, default_folder
from builder.console import Console, size_text


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Remove finished steps, with --all everything."""
    cache = Cache(arguments.cache or default_folder())
    freed = cache.clean(everything=arguments.all)
    console.say(f"{size_text(freed)} freed in {cache.folder}, {size_text(cache.size())} left")
    return 0
