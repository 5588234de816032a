"""`make bench`: WinPE builds against mkwinpeimg, ISO writing against genisoimage, on the same input in the same run.

    python -m builder.bench FOLDER      a table, and FOLDER/bench.json

Times are the best of several runs, and are printed, never asserted: machines differ. mkwinpeimg starts from an ISO that
was unpacked before, Bluelift from the ISO itself; neither syncs its image to disk.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.base_check import BASE_CHECK
from builder.cache import default_folder
from builder.console import Console, Table, open_console
from builder.errors import BuilderError, UsageError
from builder.run import run
from builder.verify.standin import StandinSize
from builder.verify.standin_media import make_bootable_standin
from builder.verify.winpe_image import boot_wim_of

_RUNS = 3
_LIMIT = 600.0
_REASON = "measure"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table: ours beside theirs, in seconds or bytes; `goal` is the most that the ratio should be."""

    name: str
    unit: str
    ours: float
    theirs: float
    goal: float

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else 0.0


def main(argv: list[str]) -> int:
    """Measure, print, write bench.json."""
    console = open_console(plain=True)
    try:
        if len(argv) != 1:
            raise UsageError("one folder is wanted", hint="python -m builder.bench build/bench/winpe")
        folder = Path(argv[0])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _bench(folder, console)
    except BuilderError as error:
        console.error(error.message, error.hint, error.exit_code)
        return error.exit_code
    return 0


def _bench(folder: Path, console: Console) -> None:
    media, unpacked = folder / "install.iso", folder / "unpacked"
    with console.step("life-size stand-in for an install ISO") as step:
        make_bootable_standin(media, size=StandinSize.LIFE_SIZE)
        step.note(f"boot.wim {boot_wim_of(media).source.size / 1e6:.0f} MB")
    with console.step("unpack it for mkwinpeimg"):
        run(["7z", "x", f"-o{unpacked}", str(media)], reason=_REASON, time_limit=_LIMIT)
    with console.step("freeze the payload, once"):
        _build(folder, media, index=1, text="first")
    overlay = _overlay(folder, folder / "dist" / "bench.iso")
    theirs = folder / "theirs.iso"
    with console.step("mkwinpeimg"):
        their_time = _best(
            lambda _: (
                run(
                    ["mkwinpeimg", "--iso", f"--windows-dir={unpacked}", f"--overlay={overlay}", str(theirs)],
                    reason=_REASON,
                    time_limit=_LIMIT,
                ).seconds
            )
        )
    with console.step("Bluelift"):
        times = {index: _fresh(folder, media, index) for index in (2, 1)}
        sizes = {1: (folder / "dist" / "bench.iso").stat().st_size}
        again = _best(lambda number: _build(folder, media, index=1, text=f"again {number}"))
        nothing = _best(lambda _: _build(folder, media, index=1, text=f"again {_RUNS - 1}"))
        look = _seconds(lambda: boot_wim_of(media).damaged(image=1))
    with console.step("ISO writing alone"):
        ours_iso, theirs_iso = _iso_times(folder, unpacked)
    lines = [
        Measured(name="build, image 2", unit="s", ours=times[2], theirs=their_time, goal=0.4),
        Measured(name="build, image 1", unit="s", ours=times[1], theirs=their_time, goal=0.35),
        Measured(name="size, image 1", unit="B", ours=sizes[1], theirs=theirs.stat().st_size, goal=0.9),
        Measured(name="rebuild, text changed", unit="s", ours=again, theirs=their_time, goal=0.2),
        Measured(name="ISO writing", unit="s", ours=ours_iso, theirs=theirs_iso, goal=1.0),
    ]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    console.table(_table(lines))
    console.say(f"looking at the base, once for each: {look:.2f} s, not part of the builds above")
    console.say(f"nothing changed: {nothing:.2f} s; peak memory of any program: {peak / 1e6:.0f} MB (goal: 200 MB)")
    report = {
        "runs": _RUNS,
        "lines": [{**line.__dict__, "ratio": round(line.ratio, 3)} for line in lines],
        "nothing_changed_seconds": nothing,
        "look_at_base_seconds": look,
        "peak_bytes": peak,
    }
    (folder / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    console.say(f"written: {folder / 'bench.json'}")


def _best(measure: Callable[[int], float]) -> float:
    return min(measure(number) for number in range(_RUNS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _fresh(folder: Path, media: Path, index: int) -> float:
    """Seconds of a build of which nothing is in the cache."""
    return _best(lambda number: _build(folder, media, index=index, text=f"n{number}", fresh=True))


def _build(folder: Path, media: Path, *, index: int, text: str, fresh: bool = False) -> float:
    """Seconds of one `bluelift build`, the program's start and all.

    `fresh`: nothing is in the cache but that the base was looked at, which is done once for a base.
    """
    cache, profile = folder / "cache", folder / "bench.yaml"
    profile.write_text(
        f"environment: winpe\nbitlocker: false\noutput: bench\nbase: {{index: {index}}}\ncontact: {json.dumps(text)}\n"
    )
    if not cache.exists():
        # The payload comes from the user's own cache where it is there.
        _freeze_into(folder / "payload", default_folder())
    elif fresh:
        for record in (cache / "objects").glob("*/record.json"):
            if json.loads(record.read_bytes())["step"] != BASE_CHECK:
                shutil.rmtree(record.parent)
    argv = [sys.executable, "-m", "builder", "build", str(profile), "--windows-iso", str(media), "--plain"]
    argv += ["-o", str(folder / "dist"), "--cache", str(cache), "--payload-exe", str(folder / "payload")]
    return run(argv, reason=_REASON, time_limit=_LIMIT).seconds


def _freeze_into(target: Path, cache: Path) -> None:
    """The frozen payload as a folder with its manifest."""
    from builder import RELEASE_EPOCH  # noqa: PLC0415
    from builder.cache import Cache  # noqa: PLC0415
    from builder.windows_payload import FreezeOptions, windows_payload  # noqa: PLC0415

    kept, console = Cache(cache), open_console(plain=True)
    with kept.locked(console.notice):
        windows_payload(FreezeOptions(), cache=kept, console=console, epoch=RELEASE_EPOCH).payload.write(target)


def _overlay(folder: Path, image: Path) -> Path:
    """What Bluelift puts into the image, as mkwinpeimg takes it."""
    wim = boot_wim_of(image)
    for entry in wim.walk(1):
        if entry.path.startswith("Bluelift/") and not entry.is_folder:
            target = folder / "overlay" / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wim.read_entry(entry))
    return folder / "overlay"


def _iso_times(folder: Path, tree: Path) -> tuple[float, float]:
    """(ours, genisoimage's) seconds for the same files in ISO9660, Joliet and UDF; ours is read back and hashed."""
    from time import monotonic  # noqa: PLC0415

    from builder.console import SilentStep  # noqa: PLC0415
    from builder.extents import Joined, whole_file  # noqa: PLC0415
    from builder.media.iso import BiosImage, IsoFile, IsoForm, IsoLayout, write_iso  # noqa: PLC0415

    # As in a build, where boot.wim is put together while it is written.
    wim = tree / "sources" / "boot.wim"
    joined = {wim: Joined(parts=(whole_file(wim),), name="boot.wim")}
    files = tuple(
        IsoFile(path=path.relative_to(tree).as_posix(), source=joined.get(path, path)) for path in _files(tree)
    )
    layout = IsoLayout(
        volume_id="BENCH",
        files=files,
        bios_image="boot/etfsboot.com",
        uefi_image=None,
        epoch=1_700_000_000,
        form=IsoForm.BRIDGE,
        bios_loading=BiosImage.PLAIN,
    )

    def ours(_: int) -> float:
        started = monotonic()
        write_iso(layout, folder / "ours-only.iso", step=SilentStep())
        return monotonic() - started

    argv = ["genisoimage", "-quiet", "-iso-level", "4", "-J", "-udf", "-allow-limited-size", "-b", "boot/etfsboot.com"]
    argv += ["-no-emul-boot", "-boot-load-size", "8", "-o", str(folder / "genisoimage.iso"), str(tree)]
    return _best(ours), _best(lambda _: run(argv, reason=_REASON, time_limit=_LIMIT).seconds)


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in sorted(tree.rglob("*")) if path.is_file())


def _table(lines: list[Measured]) -> Table:
    def amount(value: float, unit: str) -> str:
        return f"{value:.2f} s" if unit == "s" else f"{value / 1e6:.1f} MB"

    return Table(
        title="WinPE: Bluelift beside mkwinpeimg (ISO writing: genisoimage)",
        columns=("", "Bluelift", "theirs", "ratio", "goal"),
        rows=tuple(
            (line.name, amount(line.ours, line.unit), amount(line.theirs, line.unit), f"{line.ratio:.2f}x",
             f"at most {line.goal:g}x")
            for line in lines
        ),
        styles=tuple("good" if line.ratio <= line.goal else "bad" for line in lines),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
