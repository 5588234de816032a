"""boot.wim of a WinPE image: what goes into it, what the cache keeps of it, and how it is put together and read back.

Most of a boot.wim comes from the base, and stays where it is on the base media until an ISO is written. So the cache
keeps what is new, and which runs of the base stay. The payload and drivers are compressed in a step of their own: they
do not change with the profile's text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import __version__
from builder.build_steps import Steps, read_record, write_record
from builder.cache import Entry
from builder.console import Step, size_text
from builder.extents import Extents, Joined
from builder.plan_winpe import BOOT_WIM, PACKED
from builder.profile import Profile
from builder.report import ListedFile
from builder.windows_payload import WindowsPayload
from builder.winpe_base import ChosenBase
from payload.contract import MEDIUM_FOLDER

if TYPE_CHECKING:
    from builder.wim_build import Put

_PACKED_WIM, _NEW, _FACTS = "packed.wim", "boot.wim.new", "boot.wim.json"
_BACKGROUND = "Windows/System32/winpe.jpg"
#: What an earlier Bluelift put there is not to stay.
_DELETIONS = (MEDIUM_FOLDER,)


@dataclass(frozen=True, kw_only=True)
class _WimFacts:
    """What the cache keeps of boot.wim beside its new parts: the runs of the base that stay, and what was put in."""

    kept: tuple[tuple[int, int], ...]
    injected: tuple[ListedFile, ...]


@dataclass(frozen=True, kw_only=True)
class BootWim:
    """boot.wim in one build: made if it is needed."""

    profile: Profile
    base: ChosenBase
    payload: WindowsPayload
    steps: Steps

    def make(self) -> None:
        """Make what is new of it, unless the cache has that."""
        self._entry()

    def joined(self) -> Joined:
        """The whole file, as it is to be put together from the base media and the cache."""
        from builder.wim_splice import SplicedWim  # noqa: PLC0415

        spliced = SplicedWim(new=self._entry().path(_NEW), kept=self._facts().kept)
        return spliced.joined(self.base.media.boot_wim, name="boot.wim")

    def read_back(self, written: Extents) -> None:
        """Check the boot.wim that lies in an ISO. Raises BuilderError."""
        from builder.wim_build import read_back  # noqa: PLC0415

        read_back(written, [(file.path, file.sha256) for file in self.injected()], _DELETIONS)

    def injected(self) -> tuple[ListedFile, ...]:
        """The files that were put in."""
        return self._facts().injected

    def _facts(self) -> _WimFacts:
        return read_record(self._entry(), _FACTS, _WimFacts)

    def _entry(self) -> Entry:
        if not self.steps.has(BOOT_WIM):
            self.steps.entry(PACKED, self._put_packed)
        return self.steps.entry(BOOT_WIM, self._put_wim)

    def _put_packed(self, into: Path, step: Step) -> None:
        from builder.wim_build import pack  # noqa: PLC0415

        pack(
            self._large_puts(),
            into / _PACKED_WIM,
            compression=self.base.wim.header.compression,
            epoch=self.steps.plan.epoch,
            progress=lambda done, total: step.progress(done, total, "bytes"),
        )

    def _put_wim(self, into: Path, step: Step) -> None:
        from builder.wim_build import WimChanges, WimOrder, change_wim  # noqa: PLC0415
        from builder.winpe_files import winpe_files  # noqa: PLC0415

        plan = self.steps.plan
        config = self.profile.payload_config(image_id=plan.image_id or "", bluelift=__version__)
        puts = [*self._large_puts(), *winpe_files(config, keyboard=self.profile.winpe.keyboard)]
        order = WimOrder(
            source=self.base.media.boot_wim,
            index=self.base.choice.index,
            changes=WimChanges(puts=tuple(puts), deletions=_DELETIONS, renames=self.base.choice.renames),
            epoch=plan.epoch,
            guid=hashlib.sha256((plan.step(BOOT_WIM).id or "").encode()).digest()[:16],
            packed=self.steps.entry(PACKED, self._put_packed).path(_PACKED_WIM),
        )
        changed = change_wim(order, into / _NEW, progress=lambda done, total: step.progress(done, total, "bytes"))
        sizes = {put.target: size_of(put.source) for put in puts}
        injected = tuple(ListedFile(path=path, size=sizes[path], sha256=digest) for path, digest in changed.injected)
        write_record(into, _FACTS, _WimFacts(kept=changed.spliced.kept, injected=injected))
        kept = sum(length for _, length in changed.spliced.kept)
        step.note(f"{size_text(kept)} of the base stay as they are; {len(injected)} files put in")

    def _large_puts(self) -> list[Put]:
        """What goes into boot.wim and does not depend on the profile's text."""
        from builder.wim_build import Put  # noqa: PLC0415
        from builder.winpe_files import PAYLOAD_FOLDER  # noqa: PLC0415

        puts = [Put(target=f"{PAYLOAD_FOLDER}/{f.path}", source=f.content) for f in self.payload.payload.files]
        puts += [Put(target=inside, source=path) for inside, path in self.base.drivers.items()]
        if self.base.background is not None:
            puts.append(Put(target=_BACKGROUND, source=self.base.background))
        return puts


def size_of(source: bytes | Path | Joined) -> int:
    """The size in bytes of what becomes a file."""
    if isinstance(source, bytes):
        return len(source)
    return source.size if isinstance(source, Joined) else source.stat().st_size
