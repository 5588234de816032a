"""Power cuts between any two writes of a repair: what a random moment seldom hits is hit for certain.

The image repairs a disk in QEMU, which keeps every write, in order. ntfs-3g is mounted with `sync`, so each prefix of
them is a state that a power cut may leave. From each the payload is run a second and a third time, on this machine, and
the volume is judged as in builder.verify.torture.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.console import Step
from builder.verify.boot import BootSettings, make_template
from builder.verify.disks import extract_partition
from builder.verify.judge import Template
from builder.verify.machine import state_folder
from builder.verify.readback import Difference, check_volume
from builder.verify.scenarios import REPAIR
from builder.verify.second_run import run_again
from builder.verify.torture import HEALTHY, Rig, TortureRequest, direct_kernel, judge_volume
from builder.verify.write_log import Write
from payload.contract import Verdict


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a second run made of the disk after the first `writes` writes; the words are those of PowerCut.

    The third run comes before the volume is checked, as where the medium was left in.
    """

    writes: int
    second_verdict: str
    third_verdict: str
    needed_repair: str
    problems: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """See PowerCut.passed. The third run finds nothing to do."""
        clean = self.third_verdict == Verdict.ALREADY_CLEAN.headline
        return self.second_verdict in HEALTHY and clean and not self.problems


def replay_cuts(request: TortureRequest, *, step: Step) -> tuple[Replayed, ...]:
    """Record one repair; run again from `request.kills` of the states between its writes, from all of them for 0.

    Of each kind of damage one at least; the seed says which. Raises what `builder.verify.torture.cut_power` raises.
    """
    settings = BootSettings(image=request.image, ntfsck=request.ntfsck, memory_mib=request.memory_mib)
    with state_folder() as state:
        template = make_template(REPAIR, settings=settings, scratch=state)
        direct = direct_kernel(request.image, state)
        writes = Rig(state=state, template=template, direct=direct, request=request).record()
        untouched = extract_partition(template.disk.path, template.disk.windows, state / "untouched.ntfs")
        moments = changing(untouched, writes)
        step.note(f"seed {request.seed}: {len(writes)} writes, after {len(moments)} of them the volume is another")
        if 0 < request.kills < len(moments):
            kinds = kinds_of_damage(untouched, writes, moments, ntfsck=request.ntfsck)
            step.note(f"ntfsck tells {len(kinds)} kinds of damage apart")
            moments = sample(kinds, request.kills, random.Random(request.seed))
        replayed = []
        for number, moment in enumerate(moments, start=1):
            volume = extract_partition(template.disk.path, template.disk.windows, state / "cut.ntfs")
            write_all(volume, writes[:moment])
            replayed.append(_judged(volume, moment, template, ntfsck=request.ntfsck))
            step.progress(number, len(moments), "power cuts")
            if not replayed[-1].passed:
                step.warn(f"a power cut after write {moment} left damage")
    return tuple(replayed)


def changing(untouched: Path, writes: Sequence[Write]) -> list[int]:
    """After how many writes the volume is another than after one fewer; 0 is the untouched volume."""
    moments = [0]
    seen: dict[int, bytes] = {}
    with untouched.open("rb") as stream:
        for number, write in enumerate(writes, start=1):
            old = bytearray()
            for at in range(write.offset, write.offset + len(write.data), 512):
                if at not in seen:
                    stream.seek(at)
                    seen[at] = stream.read(512)
                old += seen[at]
                seen[at] = write.data[at - write.offset : at - write.offset + 512]
            if old != write.data:
                moments.append(number)
    return moments


def kinds_of_damage(
    volume: Path, writes: Sequence[Write], moments: Sequence[int], *, ntfsck: Sequence[str]
) -> list[list[int]]:
    """The moments, those together of which ntfsck says the same but for numbers. `volume` is written to.

    Most damage is that of any new file. A sample by chance would seldom have the few moments that are their own kind:
    the table and its mirror disagree, or a folder lists a file whose record is free.
    """
    kinds: dict[str, list[int]] = {}
    done = 0
    for moment in moments:
        write_all(volume, writes[done:moment])
        done = moment
        said = re.sub(r"\d+", "", check_volume(volume, ntfsck=ntfsck))
        kinds.setdefault(said, []).append(moment)
    return list(kinds.values())


def sample(kinds: Sequence[Sequence[int]], count: int, choice: random.Random) -> list[int]:
    """`count` moments in their order, or more where there are more kinds: of each kind one, the others by chance."""
    chosen = {choice.choice(kind) for kind in kinds}
    others = sorted({moment for kind in kinds for moment in kind} - chosen)
    return sorted(chosen | set(choice.sample(others, min(len(others), max(0, count - len(chosen))))))


def write_all(volume: Path, writes: Sequence[Write]) -> None:
    """Do to the volume what the writes did."""
    with volume.open("r+b") as stream:
        for write in writes:
            stream.seek(write.offset)
            stream.write(write.data)


def _judged(volume: Path, writes: int, template: Template, *, ntfsck: Sequence[str]) -> Replayed:
    second, third = run_again(volume), run_again(volume)
    needed, problems = judge_volume(volume, template, ntfsck=ntfsck)
    return Replayed(writes=writes, second_verdict=second, third_verdict=third, needed_repair=needed, problems=problems)
