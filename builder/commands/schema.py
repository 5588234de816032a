"""`bluelift schema`: the JSON Schema of profiles."""

from __future__ import annotations

import argparse

from builder.console import Console
from builder.profile_schema import json_schema


def main(arguments: argparse.Namespace, console: Console) -> int:  # noqa: ARG001 - every command has both
    """Print the schema."""
    console.data(json_schema())
    return 0
