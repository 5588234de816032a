"""`make bench`: WinPE builds against mkwinpeimg, ISO writing against genisoimage, on the same input in the same run;
and what it costs that an image is a disk, too (builder.bench_hybrid). What is compared with others is a plain ISO, as
theirs are.

    python -m builder.bench FOLDER [ROUNDS]      a table, and FOLDER/bench.json

In each of several rounds every program runs once, so that what else the machine does falls on all of them; a ratio is
the median of the rounds' ratios. Ratios are printed, never asserted: machines differ. mkwinpeimg starts from an ISO
that was unpacked before, Bluelift from the ISO itself; Bluelift reads back, hashes and syncs its image, the others do
not.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import RELEASE_EPOCH
from builder.base_check import BASE_CHECK
from builder.bench_hybrid import HybridCost, hybrid_table, measure_hybrid
from builder.cache import Cache, default_folder
from builder.console import Console, SilentStep, Table, open_console
from builder.errors import BuilderError, UsageError
from builder.extents import Joined, whole_file
from builder.media.iso import BiosImage, IsoFile, IsoForm, IsoLayout, write_iso
from builder.plan_winpe import PACKED
from builder.run import missing, run
from builder.verify.standin import StandinSize
from builder.verify.standin_media import make_bootable_standin
from builder.verify.winpe_image import boot_wim_of
from builder.windows_payload import FreezeOptions, windows_payload

_ROUNDS = 5
_LIMIT = 600.0
_REASON = "measure"
_PROGRAMS = ("mkwinpeimg", "genisoimage", "7z", "cp", "sha256sum")
#: What a fresh build finds in the cache: the payload, compressed, and that this base was looked at.
_KEPT = (BASE_CHECK, PACKED)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table: ours beside theirs in seconds or bytes, one number a round.

    `goal` is the most that the ratio should be.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    goal: float

    @property
    def ratio(self) -> float:
        """Ours over theirs: the median of the rounds' ratios."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def met(self) -> bool:
        """Whether the goal is."""
        return self.ratio <= self.goal


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured: the lines with a goal, and single numbers that explain them, by name (seconds or bytes).

    `hybrid`: what the hybrid form costs.
    """

    lines: tuple[Measured, ...]
    beside: Mapping[str, float]
    hybrid: tuple[HybridCost, ...] = ()

    def as_json(self) -> dict[str, object]:
        """bench.json."""
        lines = [
            {
                "name": line.name,
                "unit": line.unit,
                "ours": statistics.median(line.ours),
                "theirs": statistics.median(line.theirs),
                "ratio": round(line.ratio, 3),
                "goal": line.goal,
                "met": line.met,
                "rounds": {"ours": line.ours, "theirs": line.theirs},
            }
            for line in self.lines
        ]
        hybrid = [cost.as_json() for cost in self.hybrid]
        return {"schema": 3, "rounds": len(self.lines[0].ours), "lines": lines, "hybrid": hybrid, **self.beside}

    def as_table(self) -> Table:
        """For people."""
        return Table(
            title="WinPE: Bluelift beside mkwinpeimg (ISO writing: genisoimage)",
            columns=("", "Bluelift", "theirs", "ratio", "goal"),
            rows=tuple(
                (line.name, *(_amount(statistics.median(some), line.unit) for some in (line.ours, line.theirs)),
                 f"{line.ratio:.2f}x", f"at most {line.goal:g}x")
                for line in self.lines
            ),
            styles=tuple("good" if line.met else "bad" for line in self.lines),
        )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Measure, print, write bench.json."""
    console = open_console(plain=True)
    try:
        folder, rounds = _arguments(argv)
        for program in _PROGRAMS:
            if shutil.which(program) is None:
                raise missing(program, _REASON)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        report = _bench(_Bench(folder=folder, rounds=rounds, console=console))
        console.table(report.as_table())
        console.say("")
        console.table(hybrid_table(report.hybrid))
        console.say("")
        for name, value in report.beside.items():
            console.say(f"{name.replace('_', ' ')}: {_amount(value, 'B' if name.endswith('bytes') else 's')}")
        (folder / "bench.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
        console.say(f"written: {folder / 'bench.json'}")
    except BuilderError as error:
        console.error(error.message, error.hint, error.exit_code)
        return error.exit_code
    return 0


def _arguments(argv: Sequence[str]) -> tuple[Path, int]:
    if len(argv) not in (1, 2) or not all(word.isascii() and word.isdigit() and int(word) for word in argv[1:]):
        raise UsageError("a folder is wanted, and how many rounds", hint="python -m builder.bench build/bench/winpe 5")
    return Path(argv[0]), int(argv[1]) if len(argv) == 2 else _ROUNDS


def _amount(value: float, unit: str) -> str:
    return f"{value:.2f} s" if unit == "s" else f"{value / 1e6:.1f} MB"


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """The folder that everything happens in, and the programs that are measured there, each as its seconds."""

    folder: Path
    rounds: int
    console: Console

    @property
    def media(self) -> Path:
        return self.folder / "install.iso"

    @property
    def unpacked(self) -> Path:
        return self.folder / "unpacked"

    @property
    def image(self) -> Path:
        return self.folder / "dist" / "bench.iso"

    @property
    def theirs(self) -> Path:
        return self.folder / "theirs.iso"

    def build(self, text: str, *, index: int = 1, fresh: bool = False) -> float:
        """One `bluelift build`, the program's start and all; `fresh`: the cache holds no more than _KEPT."""
        profile, cache = self.folder / "bench.yaml", self.folder / "cache"
        profile.write_text(
            f"environment: winpe\nbitlocker: false\nhybrid: false\noutput: bench\nbase: {{index: {index}}}\n"
            f"contact: {json.dumps(text)}\n"
        )
        for record in (cache / "objects").glob("*/record.json") if fresh else ():
            if json.loads(record.read_bytes())["step"] not in _KEPT:
                shutil.rmtree(record.parent)
        argv = [sys.executable, "-m", "builder", "build", str(profile), "--windows-iso", str(self.media), "--plain"]
        argv += ["-o", str(self.folder / "dist"), "--cache", str(cache), "--payload-exe", str(self.folder / "payload")]
        return seconds_of(argv)

    def mkwinpeimg(self) -> float:
        """mkwinpeimg with the same files put in; it always takes image 2."""
        overlay = f"--overlay={self.folder / 'overlay'}"
        return seconds_of(["mkwinpeimg", "--iso", f"--windows-dir={self.unpacked}", overlay, str(self.theirs)])

    def write_iso(self) -> float:
        """The unpacked files in ISO9660, Joliet and UDF: written, read back and hashed."""
        # As in a build, where boot.wim is put together while it is written.
        wim = self.unpacked / "sources" / "boot.wim"
        files = tuple(
            IsoFile(
                path=path.relative_to(self.unpacked).as_posix(),
                source=Joined(parts=(whole_file(wim),), name="boot.wim") if path == wim else path,
            )
            for path in _files(self.unpacked)
        )
        layout = IsoLayout(
            volume_id="BENCH",
            files=files,
            bios_image="boot/etfsboot.com",
            uefi_image=None,
            epoch=RELEASE_EPOCH,
            form=IsoForm.BRIDGE,
            bios_loading=BiosImage.PLAIN,
        )
        return _seconds(lambda: write_iso(layout, self.folder / "ours-only.iso", step=SilentStep()))

    def genisoimage(self) -> float:
        """The same by genisoimage, which neither reads back nor hashes."""
        argv = ["genisoimage", "-quiet", "-iso-level", "4", "-J", "-udf", "-allow-limited-size"]
        argv += ["-b", "boot/etfsboot.com", "-no-emul-boot", "-boot-load-size", "8"]
        return seconds_of([*argv, "-o", str(self.folder / "genisoimage.iso"), str(self.unpacked)])


def _bench(bench: _Bench) -> Report:
    console = bench.console
    with console.step("life-size stand-in for an install ISO") as step:
        make_bootable_standin(bench.media, size=StandinSize.LIFE_SIZE)
        step.note(f"boot.wim {boot_wim_of(bench.media).source.size / 1e6:.0f} MB")
    with console.step("unpack it for mkwinpeimg"):
        seconds_of(["7z", "x", f"-o{bench.unpacked}", str(bench.media)])
    with console.step("freeze the payload, once"):
        _freeze_into(bench.folder / "payload", default_folder())
    with console.step("first builds"):
        # The first build of each image looks at its files, and one compresses the payload.
        first = {index: bench.build("first", index=index) for index in (2, 1)}
        _overlay(bench.folder / "overlay", bench.image)
        size = bench.image.stat().st_size
    rounds = []
    for number in range(1, bench.rounds + 1):
        with console.step(f"round {number} of {bench.rounds}"):
            rounds.append(_round(bench, number))
    with console.step("the hybrid form, plain and hybrid in turns"):
        hybrid = measure_hybrid(bench.folder / "hybrid")
    columns = {name: tuple(some[name] for some in rounds) for name in rounds[0]}

    def line(name: str, ours: str, theirs: str, goal: float) -> Measured:
        return Measured(name=name, unit="s", ours=columns[ours], theirs=columns[theirs], goal=goal)

    sizes = Measured(
        name="size, image 1",
        unit="B",
        ours=(size,) * len(rounds),
        theirs=(bench.theirs.stat().st_size,) * len(rounds),
        goal=0.9,
    )
    lines = (
        line("build, image 2", "image 2", "mkwinpeimg", 0.4),
        line("build, image 1", "image 1", "mkwinpeimg", 0.35),
        sizes,
        line("rebuild, text changed", "text", "mkwinpeimg", 0.2),
        line("ISO writing", "write_iso", "genisoimage", 1.0),
    )
    beside = {
        "first_build_of_image_1": first[1],
        "nothing_changed": statistics.median(columns["nothing"]),
        "cp_of_the_image": statistics.median(columns["cp"]),
        "sha256sum_of_the_image": statistics.median(columns["sha256sum"]),
        "peak_memory_of_any_program_bytes": float(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024),
    }
    return Report(lines=lines, beside=beside, hybrid=hybrid)


def _round(bench: _Bench, number: int) -> dict[str, float]:
    """Everything once: seconds by name. The last two are the least that an image of this size takes."""
    return {
        "mkwinpeimg": bench.mkwinpeimg(),
        "image 2": bench.build(f"two {number}", index=2, fresh=True),
        "image 1": bench.build(f"one {number}", fresh=True),
        "text": bench.build(f"text {number}"),
        "nothing": bench.build(f"text {number}"),
        "genisoimage": bench.genisoimage(),
        "write_iso": bench.write_iso(),
        "cp": seconds_of(["cp", str(bench.image), str(bench.folder / "copy.iso")]),
        "sha256sum": seconds_of(["sha256sum", str(bench.image)]),
    }


def seconds_of(argv: Sequence[str]) -> float:
    """How long a program took. Raises ToolFailed with what it said, where it failed."""
    return run(argv, reason=_REASON, time_limit=_LIMIT).seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _freeze_into(target: Path, cache: Path) -> None:
    """The frozen payload as a folder with its manifest; from the user's own cache where it is there."""
    kept, console = Cache(cache), open_console(plain=True)
    with kept.locked(console.notice):
        windows_payload(FreezeOptions(), cache=kept, console=console, epoch=RELEASE_EPOCH).payload.write(target)


def _overlay(target: Path, image: Path) -> None:
    """What Bluelift puts into the image, as mkwinpeimg takes it."""
    wim = boot_wim_of(image)
    for entry in wim.walk(1):
        if entry.path.startswith("Bluelift/") and not entry.is_folder:
            place = target / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(wim.read_entry(entry))


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in sorted(tree.rglob("*")) if path.is_file())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
