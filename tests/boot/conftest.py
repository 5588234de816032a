"""What boot tests share: the default image, ntfsck, and one way to boot with all evidence in the failure message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.base.packages import LinuxBaseSettings
from builder.base.tools_debs import ntfsck_command
from builder.cache import Cache, default_folder
from builder.console import SilentStep
from builder.errors import ToolMissing
from builder.verify.firmware import Firmware, find_firmware
from builder.verify.prove import VerifyRequest, verify_image
from builder.verify.qemu import Controller
from builder.verify.report import VerifyReport

Prove = Callable[..., VerifyReport]


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


@pytest.fixture
def prove(ntfsck: tuple[str, ...], tmp_path: Path) -> Prove:
    """Boot an image once for each firmware, controller and scenario given by name."""

    def boot(
        image: Path,
        *,
        firmware: str = "bios",
        disk: str = "nvme",
        scenario: str = "repair",
        limit: float = 180,
        retries: int = 1,
        memory_mib: int = 1024,
        serial_port: bool = True,
    ) -> VerifyReport:
        request = VerifyRequest(
            image=image,
            output=tmp_path / "proof",
            ntfsck=ntfsck,
            firmware=tuple(Firmware(name) for name in firmware.split(",")),
            controllers=tuple(Controller(name) for name in disk.split(",")),
            scenarios=tuple(scenario.split(",")),
            limit=limit,
            retries=retries,
            memory_mib=memory_mib,
            serial_port=serial_port,
        )
        return verify_image(request, step=SilentStep())

    return boot
