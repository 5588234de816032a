"""Is the base whole? Every file of the image that a build starts from, decompressed and compared with its sha1.

libwim copies compressed files as they are, so that a flipped bit would reach the recovery image unseen, and show itself
on a broken host at night. Comparing takes seconds, so it is done once for a base: the cache keeps the answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from builder.cache import Cache, Entry
from builder.console import Step
from builder.errors import ImageError
from builder.plan import digest
from builder.wim import Wim

#: The name of its entries in the cache.
BASE_CHECK = "base-check"
_MOST_NAMED = 5


def check_base_once(wim: Wim, index: int, *, identity: str, cache: Cache, step: Step) -> None:
    """Compare every file of image `index` with its sha1, unless that was done before. The caller holds `cache` locked.

    `identity` names the WIM by its tables. As those do not change with a flipped bit, what the file system says of the
    file (its number, size and time of change) counts as well: another copy is checked anew. Raises ImageError naming
    the damaged files.
    """
    recipe = {"wim": identity, "image": str(index), **_as_it_lies(wim.source.path)}
    content_id = digest({"step": BASE_CHECK, **recipe})
    if isinstance(cache.find(step=BASE_CHECK, content_id=content_id, recipe=recipe), Entry):
        return
    started = time.monotonic()
    damaged = wim.damaged(lambda done, total: step.progress(done, total, "bytes"), image=index)
    if damaged:
        raise _damaged(wim, damaged)
    with cache.storing(step=BASE_CHECK, content_id=content_id, recipe=recipe) as into:
        (into / "checked.json").write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n")
    step.note(
        f"every file of image {index} compared with its sha1, once for this base: {time.monotonic() - started:.1f} s"
    )


def _as_it_lies(path: Path) -> Mapping[str, str]:
    found = path.stat()
    return {
        "device": str(found.st_dev),
        "file": str(found.st_ino),
        "size": str(found.st_size),
        "changed": str(found.st_mtime_ns),
    }


def _damaged(wim: Wim, paths: tuple[str, ...]) -> ImageError:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    names = ", ".join(path.partition(":")[2] or path for path in paths[:_MOST_NAMED])
    return ImageError(
        f"{wim.name} is damaged: {names}{more} {'are' if len(paths) > 1 else 'is'} not as the WIM's sha1 says",
        hint="The download or the copy is damaged. Get it anew, and compare its sha256 with the publisher's.",
    )
