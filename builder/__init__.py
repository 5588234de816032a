"""Bluelift's builder: base media and a profile in, one proven recovery image out."""

from __future__ import annotations

__version__ = "0.1.0"

#: The epoch of this release, seconds since 1970 (2026-11-20T00:00:00Z): every time stamp in every output, unless
#: SOURCE_DATE_EPOCH says otherwise. It moves with the version, never with the clock.
RELEASE_EPOCH = 1_795_132_800
