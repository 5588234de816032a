"""Tools that the host may lack, from Debian's backports: ntfsck, the independent judge of repaired NTFS volumes."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.base import packages
from builder.base.packages import LinuxBaseSettings, PackageSet
from builder.base.unpack import unpack
from builder.console import Step
from builder.debian_root import LIBRARY_FOLDERS, own_loader
from builder.errors import BaseMediaError
from builder.run import run

#: ntfsprogs-plus and what ntfsck is linked to.
_PACKAGES = ("ntfsprogs-plus", "libc6", "libuuid1")
_REASON = "check repaired NTFS volumes with ntfsck"


def ntfsck_command(*, workspace: Path, settings: LinuxBaseSettings, offline: bool, step: Step) -> tuple[str, ...]:
    """The start of a command line that runs ntfsck: the machine's own, else the package's, unpacked into `workspace`.

    Raises BaseMediaError when the machine has none and none can be downloaded.
    """
    installed = shutil.which("ntfsck") or shutil.which("ntfsck", path="/usr/sbin:/sbin")
    if installed:
        return (installed,)
    root = workspace / "ntfsck"
    if not root.is_dir():
        _provide(root, workspace=workspace, settings=settings, offline=offline, step=step)
    program = next((root / name for name in ("usr/bin/ntfsck", "usr/sbin/ntfsck") if (root / name).is_file()), None)
    if program is None:
        raise BaseMediaError(f"{root} holds no ntfsck", hint="Remove this folder and try again.")
    command = (*own_loader(root), str(program))
    run([*command, "-V"], reason=_REASON, time_limit=30)
    return command


def _provide(root: Path, *, workspace: Path, settings: LinuxBaseSettings, offline: bool, step: Step) -> None:
    apt_root = packages.open_apt_root(
        settings, folder=workspace / "ntfsck-apt", offline=offline, step=step, backports=True
    )
    stanzas = apt_root.show(_PACKAGES)
    missing = [name for name in _PACKAGES if name not in stanzas]
    if missing:
        raise BaseMediaError(
            f"Debian {settings.suite} with backports lacks {', '.join(missing)}", hint="Install ntfsck on this machine."
        )
    chosen = PackageSet(packages=packages.pinned(apt_root, list(stanzas.values())), resolved_at=0)
    debs = packages.fetch(chosen, pool=workspace / "ntfsck-pool", offline=offline, step=step)
    beside = root.with_name(f".{root.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    unpack(debs, into=beside, step=step)
    if not (beside / LIBRARY_FOLDERS[0]).is_dir():
        raise BaseMediaError("the packages of ntfsck hold no libraries", hint="Install ntfsck on this machine.")
    beside.replace(root)
