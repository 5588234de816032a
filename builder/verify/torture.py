"""Power cuts: QEMU is killed at random moments of a repair, then a second run must leave no file lost or doubled.

Each repair starts from one saved machine state, taken when the payload had started but had not looked at the disk, so
that an iteration takes seconds. One second run in four is done in QEMU; the others on this machine, which takes a fifth
of the time and shows the same, but for how the volume is mounted. ntfs-3g does not journal: the volume is repaired by
ntfsck where it must be, and then judged by names and contents.
"""

from __future__ import annotations

import io
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from builder.console import Step
from builder.errors import ImageError, VerifyFailed
from builder.verify.boot import BootSettings, make_template, random_nonce
from builder.verify.disks import BrokenDisk, copy_disk, extract_partition
from builder.verify.firmware import Firmware
from builder.verify.judge import Template
from builder.verify.machine import Machine, started, state_folder
from builder.verify.qemu import Controller, DirectKernel, MachineConfig
from builder.verify.readback import Difference, check_volume, compare_volume, is_flagged, read_volume, repair_volume
from builder.verify.report import write_beside
from builder.verify.scenarios import REPAIR
from builder.verify.second_run import run_again
from builder.verify.write_log import Write, read_write_log
from payload.contract import EventName, Verdict

#: The headlines that a second run may come to.
HEALTHY = (Verdict.REPAIRED.headline, Verdict.ALREADY_CLEAN.headline)
#: Every which second run is done in QEMU.
_IN_QEMU = 4
_LINUX = re.compile(r"^\s*linux\s+(\S+)\s+(.*)$", re.MULTILINE)
_INITRD = re.compile(r"^\s*initrd\s+(\S+)\s*$", re.MULTILINE)
_RUN_LIMIT = 300
#: How often the number of writes is looked at, in seconds; one write of the guest takes about three times that.
_GLANCE = 0.003
_SAVE_LIMIT = 120
_LOAD_LIMIT = 60
#: What the kernel reads to find partitions, per partition and table; more would mean that files were read.
_READ_BEFORE_START = 4 << 20


@dataclass(frozen=True, kw_only=True)
class TortureRequest:
    """How often to kill, and the seed that the moments come from. `output` receives the disks of failed iterations."""

    image: Path
    output: Path
    ntfsck: tuple[str, ...]
    kills: int = 20
    seed: int = 291
    memory_mib: int = 512


@dataclass(frozen=True, kw_only=True)
class PowerCut:
    """One iteration. `writes` is how many the disk had seen when the power went; `phase` the last event before.

    `in_qemu`: whether the second run was done there. `needed_repair`: what ntfsck said before its repair, "" for
    nothing. `problems`: lost, doubled or changed files.
    """

    number: int
    writes: int
    phase: str
    in_qemu: bool
    second_verdict: str
    needed_repair: str
    problems: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether no file is lost or doubled, and the second run said so."""
        return self.second_verdict in HEALTHY and not self.problems


@dataclass(frozen=True, kw_only=True)
class TortureReport:
    """All power cuts of one run; `seed` repeats the moments."""

    seed: int
    cuts: tuple[PowerCut, ...]

    @property
    def passed(self) -> bool:
        """Whether there were cuts and every one passed."""
        return bool(self.cuts) and all(cut.passed for cut in self.cuts)


def cut_power(request: TortureRequest, *, step: Step) -> TortureReport:
    """Kill `request.kills` repairs and judge what a second run made of each.

    Raises ImageError, ToolMissing, ToolFailed,
    and VerifyFailed when not even an undisturbed run repairs the disk.
    """
    request.output.mkdir(parents=True, exist_ok=True)
    moments = random.Random(request.seed)
    settings = BootSettings(image=request.image, ntfsck=request.ntfsck, memory_mib=request.memory_mib)
    step.note(f"seed {request.seed}")
    cuts: list[PowerCut] = []
    with state_folder() as state:
        template = make_template(REPAIR, settings=settings, scratch=state)
        rig = Rig(state=state, template=template, direct=direct_kernel(request.image, state), request=request)
        rig.save_states()
        writes = rig.undisturbed()
        step.note(f"undisturbed: {writes} writes")
        for number in range(1, request.kills + 1):
            cut = rig.cut(number, moments.randint(1, writes))
            cuts.append(cut)
            step.progress(number, request.kills, "power cuts")
            if not cut.passed:
                step.warn(f"power cut {number} after {cut.writes} writes (seed {request.seed}) left damage")
        write_beside(request.output / "torture.txt", "\n".join(_lines(request.seed, cuts)) + "\n")
    return TortureReport(seed=request.seed, cuts=tuple(cuts))


def direct_kernel(image: Path, folder: Path) -> DirectKernel:
    """The kernel, initramfs and arguments of the image's first menu entry, copied out of the ISO into `folder`.

    Raises ImageError when the image has none.
    """
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(image))
    except (PyCdlibException, OSError) as error:
        raise ImageError(f"{image} cannot be read as an ISO: {error}") from error
    try:
        menu = _contents(iso, "/boot/grub/grub.cfg").decode("utf-8", "replace")
        kernel, initrd = _LINUX.search(menu), _INITRD.search(menu)
        if kernel is None or initrd is None:
            raise ImageError(f"{image} has no menu entry that starts a kernel")
        (folder / "vmlinuz").write_bytes(_contents(iso, kernel[1]))
        (folder / "initrd.img").write_bytes(_contents(iso, initrd[1]))
    except PyCdlibException as error:
        raise ImageError(f"{image} lacks a file that its menu names: {error}") from error
    finally:
        iso.close()
    return DirectKernel(kernel=folder / "vmlinuz", initrd=folder / "initrd.img", append=kernel[2].strip())


class Rig:
    """The saved machine state and the disks that are run from it."""

    def __init__(self, *, state: Path, template: Template, direct: DirectKernel, request: TortureRequest) -> None:
        self._folder = state
        self._template = template
        self._request = request
        # Two boots, because each has a run id of its own: the second run must not come with the first one's.
        self._first, self._second = state / "first.state", state / "second.state"
        self._disk = state / "disk.raw"
        self._config = MachineConfig(
            firmware=Firmware.BIOS,
            disk=self._disk,
            # NVMe and AHCI machines cannot all be saved; virtio can.
            controller=Controller.VIRTIO,
            uuid=random_nonce(),
            serial_number="BL-TORTURE",
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
            direct=direct,
            memory_mib=request.memory_mib,
        )

    def save_states(self) -> None:
        """Boot twice until the payload has started, and save each machine before it has looked at the disk."""
        self._save(self._first)
        self._save(self._second)

    def _save(self, saved: Path) -> None:
        copy_disk(self._template.disk, self._disk)
        with self._machine(self._config) as machine:
            if machine.wait_for_event(EventName.STARTED, limit=_RUN_LIMIT) is None:
                raise VerifyFailed(f"the payload did not start within {_RUN_LIMIT} s:\n{machine.console[-2000:]}")
            machine.command("stop")
            read = _bytes_read(machine)
            if read > _READ_BEFORE_START:
                raise VerifyFailed(
                    f"the guest had read {read} bytes of the disk before it was saved: its cache would hide changes"
                )
            machine.command("migrate", uri=f"exec:cat > {saved}")
            deadline = time.monotonic() + _SAVE_LIMIT
            while (status := machine.command("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > deadline:
                    raise VerifyFailed(f"the machine's state could not be saved: {status}")
                machine.watch(0.1)
            machine.kill()

    def undisturbed(self) -> int:
        """One run to its end, which must repair the disk; how many writes that takes.

        They place the power cuts, and not the time: a machine that does other things is now fast, now slow.
        """
        copy_disk(self._template.disk, self._disk)
        with self._machine(replace(self._config, incoming=self._first)) as machine:
            verdict, writes = self._run_to_end(machine)
        _, problems = judge_volume(self._volume(), self._template, ntfsck=self._request.ntfsck)
        if verdict != Verdict.REPAIRED.headline or problems:
            raise VerifyFailed(
                f"not even an undisturbed run repaired the disk: verdict {verdict}, "
                + "; ".join(f"{found.path}: {found.seen}" for found in problems[:5])
            )
        return writes

    def record(self) -> tuple[Write, ...]:
        """One run to its end, and every write that the Windows volume saw, by its place on that volume."""
        self._save(self._first)
        copy_disk(self._template.disk, self._disk)
        log = self._folder / "writes.log"
        log.write_bytes(b"")
        with self._machine(replace(self._config, incoming=self._first, write_log=log)) as machine:
            verdict, _ = self._run_to_end(machine)
        if verdict != Verdict.REPAIRED.headline:
            raise VerifyFailed(f"not even an undisturbed run repaired the disk: verdict {verdict}")
        volume = self._template.disk.windows
        with log.open("rb") as stream:
            return tuple(
                replace(write, offset=write.offset - volume.start)
                for write in read_write_log(stream)
                if volume.start <= write.offset < volume.start + volume.size
            )

    def cut(self, number: int, writes: int) -> PowerCut:
        """Run from the saved state until the disk has seen `writes`, cut the power, run again to the end, judge."""
        disk = copy_disk(self._template.disk, self._disk)
        with self._machine(replace(self._config, incoming=self._first)) as machine:
            _resume(machine)
            while (seen := _writes(machine)) < writes and not machine.event(EventName.RECEIPT):
                if machine.seconds > _RUN_LIMIT:
                    raise VerifyFailed(f"a repair took more than {_RUN_LIMIT} s:\n{machine.console[-2000:]}")
                machine.watch(_GLANCE)
            machine.kill()
            phase = machine.events[-1].name if machine.events else "before any event"
        kept = copy_disk(disk, self._folder / "cut.raw")
        in_qemu = number % _IN_QEMU == 0
        if in_qemu:
            with self._machine(replace(self._config, incoming=self._second)) as machine:
                verdict, _ = self._run_to_end(machine)
        volume = self._volume()
        if not in_qemu:
            verdict = run_again(volume)
        needed, problems = judge_volume(volume, self._template, ntfsck=self._request.ntfsck)
        result = PowerCut(
            number=number,
            writes=seen,
            phase=phase,
            in_qemu=in_qemu,
            second_verdict=verdict,
            needed_repair=needed,
            problems=problems,
        )
        if not result.passed:
            self._keep_evidence(number, kept)
        return result

    def _run_to_end(self, machine: Machine) -> tuple[str, int]:
        """(headline, how many writes the disk saw) of a run; the volumes are closed when its receipt is sent."""
        _resume(machine)
        event = machine.wait_for_event(EventName.RECEIPT, limit=_RUN_LIMIT)
        if event is None:
            return f"no receipt ({machine.ended or 'still running'})", 0
        writes = _writes(machine)
        machine.kill()
        receipt = event.data.get("receipt")
        verdict = receipt.get("verdict") if isinstance(receipt, dict) else None
        return Verdict(verdict).headline if verdict in list(Verdict) else f"verdict {verdict!r}", writes

    def _volume(self) -> Path:
        return extract_partition(self._disk, self._template.disk.windows, self._folder / "judged.ntfs")

    def _keep_evidence(self, number: int, cut: BrokenDisk) -> None:
        for path in (cut.path, self._disk, self._config.serial_log):
            if path.exists():
                shutil.copyfile(path, self._request.output / f"cut{number}-{path.name}")

    def _machine(self, config: MachineConfig) -> AbstractContextManager[Machine]:
        config.serial_log.unlink(missing_ok=True)
        config.qmp_socket.unlink(missing_ok=True)
        return started(config, qemu_log=self._folder / "qemu.log")


def judge_volume(volume: Path, template: Template, *, ntfsck: Sequence[str]) -> tuple[str, tuple[Difference, ...]]:
    """(what ntfsck said before it repaired the volume, problems by name and content afterwards)."""
    assert template.seen is not None
    needed = check_volume(volume, ntfsck=ntfsck)
    if needed:
        if not is_flagged(volume):
            return needed, (Difference(path="the volume", expected="flagged, so that Windows checks it", seen=needed),)
        left = repair_volume(volume, ntfsck=ntfsck)
        if left:
            return needed, (Difference(path="the volume", expected="ntfsck can repair it", seen=left),)
    after = read_volume(volume, ntfsck=ntfsck)
    return needed, compare_volume(template.disk.plan.tree, template.seen, after, after_repair=True)


def _resume(machine: Machine) -> None:
    """Let the saved machine go on as soon as its state is loaded (it was saved while stopped).

    Raises VerifyFailed when the state cannot be loaded.
    """
    while machine.ended is None and machine.seconds < _LOAD_LIMIT:
        if machine.command("query-status")["status"] == "paused":
            machine.command("cont")
            return
        machine.watch(0.02)
    raise VerifyFailed(f"QEMU could not load the machine's saved state ({machine.ended or 'time limit'})")


def _bytes_read(machine: Machine) -> int:
    return sum(block["stats"]["rd_bytes"] for block in machine.command("query-blockstats"))


def _writes(machine: Machine) -> int:
    return sum(block["stats"]["wr_operations"] for block in machine.command("query-blockstats"))


def _contents(iso: pycdlib.PyCdlib, path: str) -> bytes:
    data = io.BytesIO()
    kind = "rr_path" if iso.has_rock_ridge() else "joliet_path" if iso.has_joliet() else "udf_path"
    iso.get_file_from_iso_fp(data, **{kind: path})
    return data.getvalue()


def _lines(seed: int, cuts: list[PowerCut]) -> Iterator[str]:
    yield f"seed {seed}, {len(cuts)} power cuts, {sum(not cut.passed for cut in cuts)} failed"
    for cut in cuts:
        state = "passed" if cut.passed else "FAILED"
        yield (
            f"{state} {cut.number:4d} after {cut.writes:5d} writes and '{cut.phase}', second run {cut.second_verdict}"
            + (" in QEMU" if cut.in_qemu else "")
            + (f", ntfsck repaired: {' '.join(cut.needed_repair.split())[:200]}" if cut.needed_repair else "")
        )
        for problem in cut.problems:
            yield f"         {problem.path}: expected {problem.expected}, seen {problem.seen}"
