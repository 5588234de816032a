"""pycdlib with a clock that stands still.

pycdlib asks `time.time`, `time.localtime` and `random` for every volume descriptor and directory record. Inside
`pycdlib_at` its modules see a clock of their own; the process's clock, time zone and random state are not touched.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pycdlib

_ONE_AT_A_TIME = threading.Lock()


class FixedClock:
    """What pycdlib uses of the module `time`, standing still at `epoch` seconds, in UTC."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.gmtime = time.gmtime
        self.strftime = time.strftime
        self.strptime = time.strptime
        self.struct_time = time.struct_time

    def localtime(self, seconds: float | None = None) -> time.struct_time:
        """`seconds`, or the epoch, in UTC: an image does not say where it was made."""
        return time.gmtime(self.epoch if seconds is None else seconds)

    def time(self) -> float:
        """The epoch."""
        return float(self.epoch)


@contextmanager
def pycdlib_at(epoch: int) -> Iterator[None]:
    """Inside the block pycdlib's time is `epoch` (seconds, UTC) and its random numbers follow from it."""
    with _ONE_AT_A_TIME:
        replaced = [
            (module, name, original)
            for module in _pycdlib_modules()
            for name, original in (("time", time), ("random", random))
            if getattr(module, name, None) is original
        ]
        substitutes = {"time": FixedClock(epoch), "random": random.Random(epoch)}
        try:
            for module, name, _ in replaced:
                setattr(module, name, substitutes[name])
            yield
        finally:
            for module, name, original in replaced:
                setattr(module, name, original)


def _pycdlib_modules() -> list[ModuleType]:
    prefix = pycdlib.__name__ + "."
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(prefix)]
