"""Linux's own isofs, udf and vfat, in a guest: the same files from one hybrid image, whichever way it is mounted.

The guest is the image's kernel with its drivers and busybox; a script of the test takes the payload's place.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path

from builder import cpio
from builder.console import SilentStep
from builder.media.iso import IsoForm, write_iso
from builder.verify.firmware import Firmware
from builder.verify.machine import Ended, started, state_folder
from builder.verify.qemu import Attach, Controller, DirectKernel, MachineConfig
from builder.verify.torture import direct_kernel
from tests.integration.test_media_hybrid import (
    DISK,
    FILES,
    ON_DISK,
    digests,
    expected,
    layout,
    partition,
    run,
    tool,
    without_boot_images,
)

LIMIT = 180
#: How the guest mounts a view: device, file system, options.
ISOFS = ("/dev/sr0", "iso9660", "ro,iocharset=utf8")
UDF = ("/dev/sr0", "udf", "ro,iocharset=utf8")
VFAT = ("/dev/sda1", "vfat", "rw,iocharset=utf8")
RECEIPT = "Bluelift/receipts/guest.json"
SCRIPT = """#!/bin/busybox sh
/bin/busybox mkdir -p /applets
/bin/busybox --install -s /applets
export PATH=/applets
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
for driver in ahci sr_mod sd_mod xhci_pci usb_storage isofs udf vfat nls_cp437 nls_utf8; do modprobe $driver; done
waited=0
until [ -b /dev/sr0 ] && [ -b /dev/sda1 ] || [ $waited = 60 ]; do sleep 1; waited=$((waited + 1)); done
exec > /dev/ttyS0 2>&1
look() {
    echo "NONCE $1"
    if mount -t $3 -o $4 $2 /mnt; then
        (cd /mnt && find . -type f -exec sha256sum {} +)
        [ $3 != vfat ] || echo '{"said": "NONCE"}' > /mnt/RECEIPT
        umount /mnt
    fi
    echo "NONCE ."
}
VIEWS
sync
poweroff -f
"""


def guest_looks(
    image: Path, kernel_of: Path, views: dict[str, tuple[str, str, str]], nonce: str
) -> tuple[dict[str, dict[str, str]], Path]:
    """Attach `image` as a CD, and a copy of it as a stick: what each view shows, and the copy as the guest left it."""
    stick = image.with_name("stick.img")
    shutil.copyfile(image, stick)
    script = SCRIPT.replace("VIEWS", "\n".join(f"look {name} {' '.join(how)}" for name, how in views.items()))
    overlay = cpio.Tree()
    overlay.file("init", script.replace("NONCE", nonce).replace("RECEIPT", RECEIPT).encode(), mode=0o755)
    with state_folder() as state:
        direct = direct_kernel(kernel_of, state)
        with direct.initrd.open("ab") as initrd:
            initrd.write(overlay.pack(epoch=0))
        config = MachineConfig(
            firmware=Firmware.BIOS,
            image=image,
            attach=Attach.CD,
            disk=stick,
            controller=Controller.USB,
            direct=DirectKernel(kernel=direct.kernel, initrd=direct.initrd, append="console=ttyS0 quiet"),
            uuid=str(uuid.UUID(int=291)),
            serial_number="mounts",
            qmp_socket=state / "qmp",
            serial_log=state / "serial.log",
        )
        with started(config, qemu_log=state / "qemu.log") as machine:
            while machine.ended is None and machine.seconds < LIMIT:
                machine.watch(0.5)
            ended = machine.wait_for_end(limit=0)
            console = machine.console
    assert ended is Ended.POWERED_OFF, console
    return {name: listed(console, nonce, name) for name in views}, stick


def listed(console: str, nonce: str, view: str) -> dict[str, str]:
    """The sha256 of each file by path, between the view's marker and the closing one."""
    text = console.replace("\r", "").partition(f"{nonce} {view}\n")[2].partition(f"{nonce} .\n")[0]
    found = re.findall(r"^([0-9a-f]{64})  \./(.+)$", text, re.MULTILINE)
    assert found, console
    return {path: digest for digest, path in found}


def check_stick(stick: Path, nonce: str) -> None:
    """What Linux wrote on the stick can be read by mtools, and fsck.vfat has nothing to say about the volume."""
    start, size = partition(stick)
    assert json.loads(run("mtype", "-i", f"{stick}@@{start}", f"::/{RECEIPT}")) == {"said": nonce}
    volume = stick.with_name("partition.img")
    with stick.open("rb") as whole:
        whole.seek(start)
        volume.write_bytes(whole.read(size))
    run("fsck.vfat", "-n", volume)


@tool("sgdisk")
@tool("mtype")
@tool("fsck.vfat")
def test_linux_mounts_a_winpe_layout_as_isofs_udf_and_vfat(default_image: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.iso"
    write_iso(layout(IsoForm.BRIDGE, FILES, tmp_path, DISK), image, step=SilentStep())
    nonce = uuid.uuid4().hex
    last = ("/dev/sr0", "udf", f"ro,iocharset=utf8,anchor={image.stat().st_size // 2048 - 1}")
    views = {"isofs": ISOFS, "udf": UDF, "last-anchor": last, "vfat": VFAT}
    seen, stick = guest_looks(image, default_image, views, nonce)
    wanted = expected(ON_DISK)
    assert seen["vfat"] == wanted
    assert without_boot_images(seen["udf"]) == without_boot_images(seen["last-anchor"]) == wanted
    # Joliet cuts the long name.
    assert sorted(without_boot_images(seen["isofs"]).values()) == sorted(wanted.values())
    check_stick(stick, nonce)


@tool("sgdisk")
@tool("mcopy")
@tool("fsck.vfat")
@tool("xorriso")
def test_linux_mounts_the_linux_image_as_isofs_and_vfat(default_image: Path, tmp_path: Path) -> None:
    image, nonce = tmp_path / "image.iso", uuid.uuid4().hex
    shutil.copyfile(default_image, image)
    seen, stick = guest_looks(image, default_image, {"isofs": ISOFS, "vfat": VFAT}, nonce)
    as_disk, as_cd = tmp_path / "disk", tmp_path / "cd"
    as_disk.mkdir()
    run("mcopy", "-s", "-n", "-Q", "-i", f"{image}@@{partition(image)[0]}", "::/*", as_disk)
    run("xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", as_cd)
    subprocess.run(["chmod", "-R", "u+w", str(as_cd)], check=True, timeout=60)
    assert seen["vfat"] == digests(as_disk)
    assert seen["isofs"] == digests(as_cd)
    assert seen["vfat"].items() <= seen["isofs"].items()
    check_stick(stick, nonce)
