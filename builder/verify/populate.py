"""Fills an NTFS volume (a plain file) with a tree, through ntfs-3g in a mount namespace of its own.

Run as a child, `python -m builder.verify.populate VOLUME MOUNT_POINT < tree.json`, inside `unshare --mount`: nothing
stays mounted whatever happens, and no root rights are needed where users may use /dev/fuse.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, ToolFailed
from builder.run import run, running
from builder.verify.windows_tree import Tree

REASON = "fill or repair the broken disk's NTFS volumes"
_LIMIT = 60
_MOUNT_POINT_TAG = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT, [MS-FSCC] 2.1.2.1


def tree_json(tree: Tree) -> bytes:
    """`tree` in the form that this module reads from its standard input."""
    return json.dumps(
        {
            "directories": tree.directories,
            "junctions": tree.junctions,
            "files": [
                {
                    "path": file.path,
                    "content": _encoded(file.content),
                    "modified_ns": round(file.modified.timestamp() * 1_000_000) * 1000,
                    "streams": [(name, _encoded(data)) for name, data in file.streams],
                    "attributes": file.attributes,
                    "short_name": file.short_name,
                    "hard_links": file.hard_links,
                }
                for file in tree.files
            ],
        }
    ).encode()


def populate(volume: Path, mount_point: Path, tree: Any) -> None:
    """Mount `volume` at `mount_point`, write `tree` (parsed JSON), unmount and wait until all of it is written."""
    with mounted(volume, mount_point, "rw,noatime,streams_interface=windows"):
        _write_tree(mount_point, tree)


@contextmanager
def mounted(volume: Path, mount_point: Path, options: str) -> Iterator[None]:
    """`volume` mounted through ntfs-3g; afterwards all of it is written. Raises ToolFailed, ToolMissing."""
    # In the foreground, so that its end can be awaited: unmounting a FUSE file system returns before it has finished.
    argv = ["ntfs-3g", "-o", f"{options},no_detach", str(volume), str(mount_point)]
    with running(argv, reason=REASON, log=volume.with_suffix(".ntfs-3g.log")) as ntfs:
        _wait_for_mount(mount_point, ntfs.poll, volume)
        try:
            yield
        finally:
            run(["umount", str(mount_point)], reason=REASON, time_limit=_LIMIT)
            ntfs.wait(_LIMIT)


def _write_tree(root: Path, tree: Any) -> None:
    for directory in tree["directories"]:
        _below(root, directory).mkdir(parents=True, exist_ok=True)
    for file in tree["files"]:
        path = _below(root, file["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(file["content"]))
        for name, data in file["streams"]:
            Path(f"{path}:{name}").write_bytes(base64.b64decode(data))
        for link in file["hard_links"]:
            _below(root, link).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, _below(root, link))
        if file["short_name"]:
            os.setxattr(path, "system.ntfs_dos_name", file["short_name"].encode())
        if file["attributes"] is not None:
            os.setxattr(path, "system.ntfs_attrib_be", struct.pack(">I", file["attributes"]))
        os.utime(path, ns=(file["modified_ns"], file["modified_ns"]))
    for name, target in tree["junctions"]:
        path = _below(root, name)
        path.mkdir(parents=True)
        os.setxattr(path, "system.ntfs_reparse_data", junction_data(target))


def junction_data(target: str) -> bytes:
    """The reparse data of a junction to `target`, such as C:\\Users ([MS-FSCC] 2.1.2.5)."""
    substitute, shown = ("\\??\\" + target).encode("utf-16-le"), target.encode("utf-16-le")
    lengths = struct.pack("<HHHH", 0, len(substitute), len(substitute) + 2, len(shown))
    data = lengths + substitute + b"\0\0" + shown + b"\0\0"
    return struct.pack("<IHH", _MOUNT_POINT_TAG, len(data), 0) + data


def _below(root: Path, path: str) -> Path:
    return root.joinpath(*path.split("\\"))


def _wait_for_mount(mount_point: Path, ended: Any, volume: Path) -> None:
    deadline = time.monotonic() + _LIMIT
    while not mount_point.is_mount():
        if ended() is not None or time.monotonic() > deadline:
            log = volume.with_suffix(".ntfs-3g.log").read_text("utf-8", "replace").strip()
            raise ToolFailed(
                f"ntfs-3g could not mount {volume.name}: {log}",
                hint="FUSE must be usable: /dev/fuse has to exist, and the user may need to be allowed to open it.",
            )
        time.sleep(0.005)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    try:
        populate(Path(sys.argv[1]), Path(sys.argv[2]), json.load(sys.stdin))
    except BuilderError as error:
        sys.exit(f"{error.message}\n{error.hint}")
