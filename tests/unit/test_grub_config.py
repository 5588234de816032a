"""GRUB's configuration: what the template renders to, and that GRUB's own parser takes it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from builder.errors import TemplateError
from builder.media.layout import INITRD, KERNEL, marker
from builder.render import render

VALUES: dict[str, object] = {
    "image_id": "0f3a",
    "timeout": 3,
    "kernel_arguments": "disk_wait=5",
    "title": "Bluelift",
    "serial": "ttyS0",
    "shell": True,
}


def config(**other: object) -> str:
    return render("linux/grub.cfg.j2", {**VALUES, **other}).decode()


def test_every_entry_boots_the_kernel_that_the_layout_puts_there() -> None:
    text = config()
    kernels = re.findall(r"^ +linux /(\S+) (.*)$", text, re.MULTILINE)
    assert len(kernels) == 3 == text.count("menuentry ")
    assert {path for path, _ in kernels} == {KERNEL}
    assert re.findall(r"^ +initrd /(\S+)$", text, re.MULTILINE) == [INITRD] * 3
    for _, arguments in kernels:
        assert arguments.startswith("console=tty0 console=ttyS0,115200 panic=0 ")
        assert arguments.endswith(" disk_wait=5")
    assert "quiet" in kernels[0][1] and "bluelift.shell" not in kernels[0][1]
    assert "bluelift.shell" in kernels[2][1]


def test_the_medium_is_found_by_this_images_own_id() -> None:
    assert f"search --no-floppy --set=root --file /{marker('0f3a')}" in config()
    assert "/dev/" not in config() and "(cd0)" not in config()


def test_the_serial_port_is_the_profiles() -> None:
    assert "serial --unit=1 " in config(serial="ttyS1") and "console=ttyS1,115200" in config(serial="ttyS1")
    assert "ttyS" not in config(serial="") and "serial" not in config(serial="").replace("serial line", "")


def test_without_a_shell_the_menu_offers_none() -> None:
    assert "shell" not in config(shell=False)
    assert config(shell=False).count("menuentry ") == 2


def test_a_title_cannot_end_its_quotes() -> None:
    assert "echo 'Pats $(reboot) host; reboot is starting." in config(title="Pat's $(reboot) host'; reboot")


@pytest.mark.parametrize("missing", sorted(VALUES))
def test_a_missing_value_is_an_error(missing: str) -> None:
    values = {name: value for name, value in VALUES.items() if name != missing}
    with pytest.raises(TemplateError):
        render("linux/grub.cfg.j2", values)


@pytest.mark.programs
@pytest.mark.skipif(
    not shutil.which("grub-script-check"), reason="grub-script-check (package grub-common) is not installed"
)
def test_grubs_own_parser_takes_it() -> None:
    done = subprocess.run(["grub-script-check"], input=config(), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
