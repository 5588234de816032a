"""What a disk is like before a boot, and what must have become of it afterwards.

The expectations are written by hand from the issue and from FACTS, independently of the payload's code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from builder.verify.disks import DiskPlan, Mark
from builder.verify.readback import STORE
from builder.verify.windows_tree import (
    RELEASED,
    Tree,
    TreeFile,
    broken_windows,
    clean_windows,
    data_volume,
    faulty_only_windows,
    noise,
    planted_store_windows,
    reparse_windows,
)
from payload.contract import Verdict


class Afterwards(enum.StrEnum):
    """What the Windows volume must be like after the boot."""

    #: Every file has met its fate; Bluelift's own store was added.
    REPAIRED = "repaired"
    #: Every file is as it was; Bluelift's own store may have been added.
    FILES_UNCHANGED = "files unchanged"
    #: Not one byte of the disk differs.
    UNTOUCHED = "untouched"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What one boot must report and leave behind. `flagged` : the volume must be left flagged for chkdsk."""

    verdict: Verdict
    afterwards: Afterwards
    flagged: bool = False


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A disk, and what each of one or more boots in a row must make of it."""

    name: str
    title: str
    tree: Callable[[], Tree]
    boots: tuple[Expectation, ...]
    marks: tuple[Mark, ...] = ()
    #: Where Bluelift keeps things: beside its usual folder where that one is not to be trusted.
    store: str = STORE

    def disk_plan(self) -> DiskPlan:
        """The disk to make."""
        return DiskPlan(tree=self.tree(), marks=self.marks)


_REPAIRED = Expectation(verdict=Verdict.REPAIRED, afterwards=Afterwards.REPAIRED)
_REPAIRED_AND_FLAGGED = Expectation(verdict=Verdict.REPAIRED, afterwards=Afterwards.REPAIRED, flagged=True)
_HIBERNATED = TreeFile(path="hiberfil.sys", content=b"HIBR" + noise("hiberfil", 100_000), modified=RELEASED)

REPAIR = Scenario(
    name="repair",
    title="two installations with channel files of every class",
    tree=broken_windows,
    boots=(_REPAIRED,),
)
SCENARIOS: tuple[Scenario, ...] = (
    REPAIR,
    Scenario(
        name="second-run",
        title="a repaired host with the medium left in",
        tree=broken_windows,
        boots=(_REPAIRED, Expectation(verdict=Verdict.ALREADY_CLEAN, afterwards=Afterwards.REPAIRED)),
    ),
    Scenario(
        name="already-clean",
        title="every channel file 291 is newer than the withdrawal",
        tree=clean_windows,
        boots=(Expectation(verdict=Verdict.ALREADY_CLEAN, afterwards=Afterwards.FILES_UNCHANGED),),
    ),
    Scenario(
        name="no-windows",
        title="a disk with files, but without Windows",
        tree=data_volume,
        boots=(Expectation(verdict=Verdict.NO_WINDOWS_FOUND, afterwards=Afterwards.FILES_UNCHANGED),),
    ),
    Scenario(
        name="dirty-flag",
        title="a volume that Windows has flagged for chkdsk",
        tree=broken_windows,
        marks=(Mark.DIRTY_FLAG,),
        boots=(_REPAIRED_AND_FLAGGED,),
    ),
    Scenario(
        name="broken-journal",
        title="a volume whose journal was cut off so that it cannot be replayed",
        tree=lambda: broken_windows().all_kept(),
        marks=(Mark.BROKEN_JOURNAL,),
        boots=(Expectation(verdict=Verdict.FAILED, afterwards=Afterwards.UNTOUCHED),),
    ),
    Scenario(
        name="hibernated",
        title="a hibernated Windows owns the volume",
        tree=lambda: broken_windows().all_kept().with_files(_HIBERNATED),
        boots=(Expectation(verdict=Verdict.LEFT_ALONE, afterwards=Afterwards.UNTOUCHED),),
    ),
    Scenario(
        name="raid-member",
        title="one half of an Intel RAID mirror",
        tree=lambda: faulty_only_windows().all_kept(),
        marks=(Mark.RAID_MEMBER,),
        boots=(Expectation(verdict=Verdict.LEFT_ALONE, afterwards=Afterwards.UNTOUCHED),),
    ),
    Scenario(
        name="reparse-windows",
        title="the Windows folder is a junction to elsewhere",
        tree=reparse_windows,
        boots=(Expectation(verdict=Verdict.LEFT_ALONE, afterwards=Afterwards.FILES_UNCHANGED),),
    ),
    Scenario(
        name="planted-store",
        title="a user has planted a Bluelift folder with a journal that points into System32",
        tree=planted_store_windows,
        boots=(_REPAIRED,),
        store=f"{STORE}.1",
    ),
)

DEFAULT_SCENARIO = REPAIR.name
