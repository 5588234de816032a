"""The payload's second run on a volume that a power cut left, on this machine and without a virtual one.

Run as a child, `python -m builder.verify.second_run VOLUME MOUNT_POINT`, inside `unshare --mount`; prints the receipt.
The volume is mounted as payload.environment.linux_ntfs does it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from builder.errors import BuilderError
from builder.run import run
from builder.verify.populate import REASON, mounted
from payload.formats.ntfs import mirror_patches

_LIMIT = 120


def second_run(volume: Path, mount_point: Path) -> str:
    """Repair `volume` with the payload; its receipt as JSON. Raises ToolFailed, ToolMissing."""
    with volume.open("r+b") as stream:
        for offset, data in mirror_patches(stream):
            stream.seek(offset)
            stream.write(data)
    argv = [sys.executable, "-m", "payload", "--root", str(mount_point), "--json"]
    with mounted(volume, mount_point, "rw,noatime,norecover,sync"):
        return run(argv, reason=REASON, time_limit=_LIMIT, ok=range(256)).stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    try:
        sys.stdout.write(second_run(Path(sys.argv[1]), Path(sys.argv[2])))
    except BuilderError as error:
        sys.exit(f"{error.message}\n{error.hint}")
