"""The payload's second run on a volume that a power cut left, on this machine and without a virtual one.

It is run by a child, `python -m builder.verify.second_run VOLUME MOUNT_POINT`, which prints the receipt, inside
`unshare --mount`. The volume is mounted as payload.environment.linux_ntfs does it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import builder
from builder.errors import BuilderError, VerifyFailed
from builder.run import run
from builder.verify.populate import REASON, mounted
from payload.contract import Verdict
from payload.formats.ntfs import mirror_patches

_LIMIT = 120
_LIMIT_OF_CHILD = 180


def run_again(volume: Path) -> str:
    """Repair `volume` with the payload, in a child; the headline of its receipt.

    Raises ToolFailed, ToolMissing, and VerifyFailed where the payload gives no receipt.
    """
    mount_point = volume.with_suffix(".mnt")
    mount_point.mkdir(exist_ok=True)
    own_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    child = (sys.executable, "-m", "builder.verify.second_run", str(volume), str(mount_point))
    done = run(
        ["unshare", *own_root, "--mount", "--propagation", "private", *child],
        reason=REASON,
        time_limit=_LIMIT_OF_CHILD,
        env=_this_bluelift(),
    )
    try:
        return Verdict(json.loads(done.stdout)["verdict"]).headline
    except (ValueError, KeyError, TypeError) as error:
        said = done.stdout[:200].decode("utf-8", "replace")
        raise VerifyFailed(f"the payload's run on {volume.name} gave no receipt, but {said!r}") from error


def second_run(volume: Path, mount_point: Path) -> str:
    """Repair `volume` with the payload; its receipt as JSON. Raises ToolFailed, ToolMissing."""
    with volume.open("r+b") as stream:
        for offset, data in mirror_patches(stream):
            stream.seek(offset)
            stream.write(data)
    argv = [sys.executable, "-m", "payload", "--root", str(mount_point), "--json"]
    with mounted(volume, mount_point, "rw,noatime,norecover,sync"):
        done = run(argv, reason=REASON, time_limit=_LIMIT, ok=range(256), env=_this_bluelift())
    return done.stdout.decode("utf-8", "replace")


def _this_bluelift() -> dict[str, str]:
    """What has a Python find this very builder and payload, wherever it is started."""
    return {"PYTHONPATH": str(Path(builder.__file__).parent.parent)}


if __name__ == "__main__":
    try:
        sys.stdout.write(second_run(Path(sys.argv[1]), Path(sys.argv[2])))
    except BuilderError as error:
        sys.exit(f"{error.message}\n{error.hint}")
