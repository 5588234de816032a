"""Boot files of 2011 and 2023: the table of Make2023BootableMedia.ps1, and bases that are too old."""

from __future__ import annotations

import pytest

from builder.errors import BaseMediaError
from builder.secure_boot import BootCa, SecureBootFiles, boot_cas, has_2023_files, secure_boot_files

NEW = {
    r"Windows\Boot\EFI_EX\bootmgfw_EX.efi": b"loader 2023",
    r"Windows\Boot\EFI_EX\bootmgr_EX.efi": b"bootmgr 2023",
    r"Windows\Boot\DVD_EX\EFI\en-US\efisys_EX.bin": b"prompt 2023",
    r"Windows\Boot\DVD_EX\EFI\en-US\efisys_noprompt_EX.bin": b"no prompt 2023",
    r"Windows\Boot\FONTS_EX\wgl4_boot_EX.ttf": b"font",
    r"Windows\Boot\FONTS_EX\segoe_slboot_EX.ttf": b"another",
    r"Windows\Boot\FONTS_EX\readme.txt": b"no font",
    r"Windows\Boot\EFI\boot.stl": b"stl",
    r"Windows\Boot\EFI\SkuSiPolicy.p7b": b"never",
    r"Windows\Boot\EFI_EX\SkuSiPolicy.p7b": b"never",
}


class Wim:
    """Files inside a WIM, without regard to case."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = {path.lower(): (path, data) for path, data in files.items()}

    def read(self, path: str) -> bytes | None:
        found = self._files.get(path.lower())
        return found[1] if found else None

    def list_folder(self, folder: str) -> list[str]:
        below = folder.lower() + "\\"
        names = [path[len(below) :].split("\\")[0] for key, (path, _) in self._files.items() if key.startswith(below)]
        return sorted(set(names))


def found(files: dict[str, bytes], ca: BootCa = BootCa.CA_2023, **options: object) -> SecureBootFiles:
    wim = Wim(files)
    return secure_boot_files(ca, read=wim.read, list_folder=wim.list_folder, **options)  # type: ignore[arg-type]


def without(*names: str) -> dict[str, bytes]:
    return {path: data for path, data in NEW.items() if not any(path.endswith(name) for name in names)}


def test_2023_is_the_table() -> None:
    result = found(NEW)
    assert result.files == {
        "efi/boot/bootx64.efi": b"loader 2023",
        "bootmgr.efi": b"bootmgr 2023",
        "efi/microsoft/boot/efisys_noprompt_ex.bin": b"no prompt 2023",
        "efi/microsoft/boot/fonts/wgl4_boot.ttf": b"font",
        "efi/microsoft/boot/fonts/segoe_slboot.ttf": b"another",
        "efi/microsoft/boot/boot.stl": b"stl",
    }
    assert result.uefi_image == "efi/microsoft/boot/efisys_noprompt_ex.bin"


def test_with_a_prompt_and_on_arm() -> None:
    result = found(NEW, prompt=True, architecture="arm64")
    assert result.files[result.uefi_image] == b"prompt 2023"
    assert result.uefi_image == "efi/microsoft/boot/efisys_ex.bin"
    assert result.files["efi/boot/bootaa64.efi"] == b"loader 2023"
    assert "efi/boot/bootx64.efi" not in result.files


def test_bootmgr_is_only_there_where_the_wim_has_it() -> None:
    assert "bootmgr.efi" not in found(without("bootmgr_EX.efi")).files


def test_another_language() -> None:
    files = {path.replace("en-US", "de-DE"): data for path, data in NEW.items()}
    assert found(files).files["efi/microsoft/boot/efisys_noprompt_ex.bin"] == b"no prompt 2023"


def test_2011_leaves_the_base_as_it_is() -> None:
    assert found({}, BootCa.CA_2011) == SecureBootFiles(ca=BootCa.CA_2011, files={})


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("bootmgfw_EX.efi", r"Windows\Boot\EFI_EX\bootmgfw_EX.efi"),
        ("efisys_noprompt_EX.bin", r"Windows\Boot\DVD_EX\EFI\en-US\efisys_noprompt_EX.bin"),
        ("boot.stl", r"Windows\Boot\EFI\boot.stl"),
        ("_EX.ttf", r"Windows\Boot\FONTS_EX\*_EX.ttf"),
    ],
)
def test_a_base_that_is_too_old_says_which_file(missing: str, named: str) -> None:
    with pytest.raises(BaseMediaError) as caught:
        found(without(missing))
    assert named in caught.value.message and caught.value.message.count("\n") == 1
    assert "April 2024" in caught.value.hint


def test_all_missing_files_are_named_at_once() -> None:
    with pytest.raises(BaseMediaError) as caught:
        found({})
    assert caught.value.message.count("\n") == 4


def test_settings() -> None:
    assert boot_cas("2011") == (BootCa.CA_2011,)
    assert boot_cas("2023") == (BootCa.CA_2023,)
    assert boot_cas("both") == (BootCa.CA_2011, BootCa.CA_2023)
    with pytest.raises(ValueError, match="2019"):
        boot_cas("2019")
    assert has_2023_files(Wim(NEW).list_folder)
    assert not has_2023_files(Wim({}).list_folder)
