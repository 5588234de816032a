"""Where OVMF is found, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ToolMissing
from builder.verify.firmware import Firmware, find_firmware


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"flash")
    return folder


def test_bios_needs_no_files(tmp_path: Path) -> None:
    found = find_firmware(Firmware.BIOS, folders=[tmp_path])
    assert (found.code, found.variables) == (None, None)


@pytest.mark.parametrize(
    ("kind", "code", "variables"),
    [
        (Firmware.UEFI, "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        (Firmware.UEFI, "OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
        (Firmware.SECUREBOOT, "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    ],
)
def test_the_pair_is_found_in_the_second_folder(tmp_path: Path, kind: Firmware, code: str, variables: str) -> None:
    folder = put(tmp_path / "b", code, variables)
    found = find_firmware(kind, folders=[tmp_path / "a", folder])
    assert (found.kind, found.code, found.variables) == (kind, folder / code, folder / variables)


def test_half_a_pair_is_not_enough(tmp_path: Path) -> None:
    folder = put(tmp_path / "a", "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd")
    with pytest.raises(ToolMissing) as caught:
        find_firmware(Firmware.SECUREBOOT, folders=[folder])
    assert "OVMF_VARS_4M.ms.fd" in caught.value.message
    assert "Secure Boot" in caught.value.message
    assert "apt install ovmf" in caught.value.hint
