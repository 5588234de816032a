"""`bluelift freeze`: the payload as a Windows program, for hosts that can be reached without an image."""

from __future__ import annotations

import argparse
import os

from builder import RELEASE_EPOCH
from builder.cache import Cache, default_folder, storage_errors
from builder.console import Console, Summary, size_text
from builder.plan import epoch_from
from builder.portable import write_portable
from builder.windows_payload import FreezeOptions, windows_payload


def main(arguments: argparse.Namespace, console: Console) -> int:
    """Freeze, or take what is in the cache, and write the archive."""
    cache = Cache(arguments.cache or default_folder())
    epoch = epoch_from(os.environ.get("SOURCE_DATE_EPOCH"), RELEASE_EPOCH)
    options = FreezeOptions(payload_exe=arguments.payload_exe, windows_python=arguments.windows_python)
    console.expect(1)
    with storage_errors(cache.folder), cache.locked(console.notice):
        made = windows_payload(options, cache=cache, console=console, epoch=epoch, offline=arguments.offline)
    with storage_errors(arguments.output):
        archive = write_portable(made.payload, arguments.output, epoch=epoch)
    console.summary(
        Summary(
            title=f"{archive} is ready",
            facts=(
                ("size", f"{size_text(archive.stat().st_size)}, unpacked {size_text(made.payload.size)}"),
                ("payload", made.payload.sha256),
                ("frozen", "just now" if made.made else "before; it was in the cache"),
                ("needs of Windows", ", ".join(n.library for n in made.needs if not n.library.startswith("api-ms-"))),
            ),
            next_steps=("unpack it on a USB stick; README.txt in it says what to do in which situation",),
        )
    )
    return 0
