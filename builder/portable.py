"""The payload as a product by itself: an archive for safe mode, the recovery environment and rescue VMs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from builder import frozen, resources
from builder.frozen import FrozenPayload

#: The archive's name, and that of the one folder in it.
NAME = "bluelift-payload-windows-x64"
#: For the technician: plain text beside the payload's folder, with Windows's line ends.
_TEXTS = ("README.txt", "run-bluelift.cmd")


def portable_archive(payload: FrozenPayload, *, epoch: int) -> bytes:
    """A ZIP archive: `run-bluelift.cmd`, `README.txt` and the payload's folder with its manifest. Same input, same
    bytes."""
    files = [(f"{NAME}/{name}", _text(name)) for name in _TEXTS]
    files += [(f"{NAME}/payload/{path}", content) for path, content in payload.contents.items()]
    files.append((f"{NAME}/payload/{frozen.SUMS}", payload.sums()))
    return frozen.pack(sorted(files), epoch=epoch, compress=True)


def write_portable(payload: FrozenPayload, folder: Path, *, epoch: int) -> Path:
    """Write the archive into `folder`, beside and then renamed. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{NAME}.zip"
    with tempfile.TemporaryDirectory(prefix=".bluelift-", dir=folder) as staged:
        beside = Path(staged) / target.name
        with beside.open("wb") as stream:
            stream.write(portable_archive(payload, epoch=epoch))
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
    return target


def _text(name: str) -> bytes:
    # cmd.exe loses its place in a file with Unix line ends.
    text = (resources.templates() / "windows" / name).read_text("ascii")
    return "".join(f"{line}\r\n" for line in text.splitlines()).encode("ascii")
