"""What the hybrid form costs: the same ISO plain and as a disk too, in size and time, for `make bench`.

python -m builder.bench_hybrid FOLDER      a table, and FOLDER/hybrid.json
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

from builder.console import SilentStep, Table, open_console, size_text
from builder.errors import BuilderError, UsageError
from builder.media.fat import FatFile, fat_image
from builder.media.iso import IsoFile, IsoForm, IsoLayout, WrittenIso, write_iso
from builder.media.layout import BIOS_IMAGE, GRUB, INITRD, KERNEL, SHIM, UEFI_IMAGE, hybrid_disk

#: What the project allows: of the plain ISO's size without the free tail, and seconds.
SIZE_GOAL, TIME_GOAL = 0.02, 0.5
_RUNS = 5
_TAIL = 32_000_000
_EPOCH = 1_700_000_000
_MB = 1_000_000
#: Sizes as in a release: the linux environment, and WinPE with a boot.wim of life size.
_LINUX = {SHIM: 1_036_152, GRUB: 2_328_000, BIOS_IMAGE: 212_368, KERNEL: 12 * _MB, INITRD: 9 * _MB}
_WINPE = {SHIM: 2 * _MB, BIOS_IMAGE: 4096, "bootmgr": 413_738, "sources/boot.wim": 400 * _MB}


@dataclass(frozen=True, kw_only=True)
class HybridCost:
    """One image, plain and hybrid: bytes and seconds. `free`: bytes of `hybrid_size` that can be written on a stick."""

    name: str
    plain_size: int
    hybrid_size: int
    free: int
    plain_seconds: float
    hybrid_seconds: float

    @property
    def size(self) -> float:
        """What it costs in size, as a share of the plain ISO, the free tail not counted."""
        return (self.hybrid_size - self.free - self.plain_size) / self.plain_size

    @property
    def seconds(self) -> float:
        """What it costs in time."""
        return self.hybrid_seconds - self.plain_seconds

    @property
    def met(self) -> bool:
        """Whether both goals are."""
        return self.size <= SIZE_GOAL and self.seconds <= TIME_GOAL

    def as_json(self) -> dict[str, object]:
        """What was measured, what it comes to, and the goals."""
        ratio, seconds = round(self.size, 4), round(self.seconds, 3)
        costs = {"size": ratio, "size_goal": SIZE_GOAL, "seconds": seconds, "seconds_goal": TIME_GOAL, "met": self.met}
        return {**asdict(self), **costs}


def measure_hybrid(folder: Path) -> tuple[HybridCost, ...]:
    """Write both kinds of image into `folder`, plain and hybrid in turns; the best times."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _cost("linux", _LINUX, IsoForm.ROCK_RIDGE, folder),
        _cost("winpe", _WINPE, IsoForm.BRIDGE, folder),
    )


def hybrid_table(costs: tuple[HybridCost, ...]) -> Table:
    """The costs beside what is allowed."""
    return Table(
        title="One image for CD, USB stick and disk: what the hybrid form costs",
        columns=("", "plain", "hybrid", "of it free", "size", "goal", "time", "goal"),
        rows=tuple(
            (
                cost.name, size_text(cost.plain_size), size_text(cost.hybrid_size), size_text(cost.free),
                f"{cost.size:+.1%}", f"at most {SIZE_GOAL:.0%}", f"{cost.seconds:+.2f} s", f"at most {TIME_GOAL:g} s",
            )
            for cost in costs
        ),
        styles=tuple("good" if cost.met else "bad" for cost in costs),
    )  # fmt: skip


def _cost(name: str, sizes: dict[str, int], form: IsoForm, folder: Path) -> HybridCost:
    plain = _layout(sizes, form, folder)
    hybrid = replace(plain, hybrid=hybrid_disk("bench", volume_id=plain.volume_id, tail=_TAIL))
    times: dict[bool, list[float]] = {False: [], True: []}
    written: dict[bool, WrittenIso] = {}
    for _ in range(_RUNS):
        for is_hybrid, layout in ((False, plain), (True, hybrid)):
            started = monotonic()
            written[is_hybrid] = write_iso(layout, folder / f"{name}.iso", step=SilentStep())
            times[is_hybrid].append(monotonic() - started)
    return HybridCost(
        name=name,
        plain_size=written[False].size,
        hybrid_size=written[True].size,
        free=written[True].free,
        plain_seconds=min(times[False]),
        hybrid_seconds=min(times[True]),
    )


def _layout(sizes: dict[str, int], form: IsoForm, folder: Path) -> IsoLayout:
    noise = random.Random(291)
    efi = fat_image([FatFile(path=SHIM, data=noise.randbytes(4 * _MB))], label="EFI", serial=1, epoch=_EPOCH)
    files = [IsoFile(path=UEFI_IMAGE, source=efi)]
    for path, size in sizes.items():
        source = folder / path.rpartition("/")[2]
        with source.open("wb") as stream:
            for at in range(0, size, _MB):
                stream.write(noise.randbytes(min(_MB, size - at)))
        files.append(IsoFile(path=path, source=source))
    return IsoLayout(
        volume_id="BENCH",
        files=tuple(sorted(files, key=lambda file: file.path)),
        bios_image=BIOS_IMAGE,
        uefi_image=UEFI_IMAGE,
        epoch=_EPOCH,
        form=form,
    )


def main(argv: list[str]) -> int:
    """Measure, print, write hybrid.json."""
    console = open_console(plain=True)
    try:
        if len(argv) != 1:
            raise UsageError("a folder is wanted", hint="python -m builder.bench_hybrid build/bench/hybrid")
        costs = measure_hybrid(Path(argv[0]))
    except BuilderError as error:
        console.error(error.message, error.hint, error.exit_code)
        return error.exit_code
    console.table(hybrid_table(costs))
    (Path(argv[0]) / "hybrid.json").write_text(json.dumps([cost.as_json() for cost in costs], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
