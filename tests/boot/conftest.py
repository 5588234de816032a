"""What boot tests share: ntfsck, one way to boot, and boots that run side by side, one on each core."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.base.packages import LinuxBaseSettings
from builder.base.tools_debs import ntfsck_command
from builder.cache import Cache, default_folder
from builder.console import SilentStep
from builder.disk_forms import DiskForm, write_form
from builder.errors import ToolMissing
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.prove import VerifyRequest, verify_image
from builder.verify.qemu import Attach, Controller
from builder.verify.report import VerifyReport


def _lacking() -> str:
    path = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
    programs = ("qemu-system-x86_64", "mkntfs", "ntfs-3g", "ntfsls", "unshare")
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if not Path("/dev/fuse").exists():
        missing.append("/dev/fuse")
    try:
        find_firmware(Firmware.SECUREBOOT)
    except ToolMissing as error:
        missing.append(error.message)
    return ", ".join(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without QEMU, OVMF or the NTFS programs nothing can be booted; the reason says what is missing."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    lacking = _lacking() if here else ""
    for item in here:
        item.add_marker(pytest.mark.boot)
        if lacking:
            item.add_marker(pytest.mark.skip(reason=f"not on this machine: {lacking}"))


@pytest.fixture(scope="session")
def ntfsck() -> tuple[str, ...]:
    """The command of the independent judge."""
    workspace = Cache(default_folder()).area("tools")
    return ntfsck_command(workspace=workspace, settings=LinuxBaseSettings(), offline=False, step=SilentStep())


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What to boot an image with; the names are those of the command line. `form`: as which kind of disk file."""

    attach: str = "cd"
    form: str = "img"
    firmware: str = "bios"
    disk: str = "nvme"
    scenario: str = "repair"
    limit: float = 180
    retries: int = 1
    memory_mib: int = 1024
    serial_port: bool = True

    @property
    def name(self) -> str:
        """For the test's id and the evidence folder."""
        how = f"{self.scenario}-{self.attach}-{self.form}-{self.firmware}-{self.disk}"
        return how + ("" if self.serial_port else "-no-serial")


def prove(image: Path, boot: Boot, *, ntfsck: tuple[str, ...], output: Path) -> VerifyReport:
    """Boot `image` as said and judge it; the evidence goes to `output`."""
    if boot.form != "img":
        output.mkdir(parents=True, exist_ok=True)
        write_form(DiskForm(boot.form), image, output / f"image.{boot.form}", epoch=0)
        image = output / f"image.{boot.form}"
    request = VerifyRequest(
        image=image,
        output=output,
        ntfsck=ntfsck,
        attach=(Attach(boot.attach),),
        firmware=(Firmware(boot.firmware),),
        controllers=(Controller(boot.disk),),
        scenarios=(boot.scenario,),
        limit=boot.limit,
        retries=boot.retries,
        memory_mib=boot.memory_mib,
        serial_port=boot.serial_port,
    )
    return verify_image(request, step=SilentStep())


def at_a_time() -> int:
    """How many machines one test process has running: with xdist's two, twice the cores, for a machine often waits."""
    return min(4, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def proofs(
    request: pytest.FixtureRequest,
    default_image: Path,
    ntfsck: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[VerifyReport]]]:
    """The boots of the module's selected tests that have a parameter `boot`, under way, `at_a_time`.

    Not those of the whole session: every test process of xdist has all tests in its session, and runs some modules.
    """
    wanted = {
        boot.name: boot
        for item in request.session.items
        if item.path == request.path
        and isinstance(boot := getattr(getattr(item, "callspec", None), "params", {}).get("boot"), Boot)
    }
    folder = tmp_path_factory.mktemp("proofs")
    with ThreadPoolExecutor(at_a_time()) as pool:
        yield {
            name: pool.submit(prove, default_image, boot, ntfsck=ntfsck, output=folder / name)
            for name, boot in wanted.items()
        }
        pool.shutdown(cancel_futures=True)
