"""A stand-in for a Windows install ISO: Microsoft's files cannot be had, their shape can be made.

UDF with a stub of ISO9660, a boot.wim with two LZX images (1: Windows PE, 2: Windows Setup, which boots) full of real
PE files, Debian's Wine DLLs. Whatever boots (boot sectors, boot managers, BCD stores) is handed in. Nothing of it runs
Windows: what it proves is that Bluelift finds, changes and assembles what is on such media.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.base.windows_media import (
    BCD_BIOS,
    BCD_UEFI,
    BOOT_WIM,
    BOOTFIX,
    EFISYS,
    EFISYS_NOPROMPT,
    ETFSBOOT,
    LOADERS,
)
from builder.errors import ToolMissing
from builder.verify.standin_iso import write_microsoft_iso
from builder.wim_format import Compression
from builder.wim_library import WimStruct, set_compression_level

VOLUME_ID = "CCCOMA_X64FRE_EN-US_DV9"
SYSTEM32 = "Windows/System32"
_WINE_FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu/wine/x86_64-windows"),
    Path("/usr/lib/wine/x86_64-windows"),
    Path("/usr/lib64/wine/x86_64-windows"),
)
#: What the frozen payload needs outside itself (FACTS, "PyInstaller's output under WinPE"), and what those need.
_DLLS = (
    "advapi32", "apisetschema", "bcrypt", "cfgmgr32", "gdi32", "iphlpapi", "kernel32", "kernelbase", "msvcrt", "ntdll",
    "ole32", "oleaut32", "rpcrt4", "sechost", "ucrtbase", "user32", "version", "win32u", "ws2_32",
)  # fmt: skip
_FEW_DLLS = ("apisetschema", "version", "bcrypt")
#: Programs that every WinPE has and Wine has not: copies of a small one of Wine's stand in.
_WINPE_PROGRAMS = ("winpeshl.exe", "wpeinit.exe", "wpeutil.exe", "drvload.exe", "diskpart.exe")
_SETUP_ONLY = ("setup.exe", "sources/setup.exe", "sources/install.exe")
_PLACEHOLDER = "hostname.exe"
#: What one filler file has in the WIM, a WIM's chunks, and roughly what all of Wine's files have in it.
_FILLER = 6 << 20
_CHUNK = 32768
_PROGRAMS_COMPRESSED = 180_000_000


class StandinSize(enum.Enum):
    """How much is in the images: a few DLLs, those that a payload needs, or at least 400 MB."""

    TINY = "tiny"
    SMALL = "small"
    LIFE_SIZE = "life-size"


@dataclass(frozen=True, kw_only=True)
class BootPrograms:
    """Everything on the medium that boots, as bytes. `fonts` by file name; `boot_sdi` may be anything."""

    etfsboot: bytes
    efisys: bytes
    efisys_noprompt: bytes
    bcd_bios: bytes
    bcd_uefi: bytes
    bootx64: bytes
    bootmgr: bytes = b"BOOTMGR stand-in"
    bootmgr_efi: bytes = b"bootmgr.efi stand-in"
    bootfix: bytes = b"bootfix.bin stand-in"
    boot_sdi: bytes = b"$SDI0001 stand-in"
    fonts: Mapping[str, bytes] = field(default_factory=lambda: {"segoe_slboot.ttf": b"font stand-in"})


@dataclass(frozen=True, kw_only=True)
class Standin:
    """What to make. `epoch`: time stamps, seconds UTC. `files`: more files for both images, by path inside them.

    `manage_bde`: WinPE-SecureStartup's files are there. `boot_2023`: the files of FACTS's table lie in the images
    (`programs_2023` gives their bytes by path below Windows/Boot). `build`: Windows's build number. `seed` makes the
    filler of a life-size boot.wim.
    """

    boot: BootPrograms
    epoch: int
    size: StandinSize = StandinSize.SMALL
    manage_bde: bool = True
    files: Mapping[str, bytes] = field(default_factory=dict)
    boot_2023: bool = False
    programs_2023: Mapping[str, bytes] = field(default_factory=dict)
    build: int = 22621
    service_pack_build: int = 1702
    language: str = "en-US"
    architecture: str = "x64"
    wim_bytes: int = 400_000_000
    seed: int = 291


def make_standin_iso(standin: Standin, output: Path) -> None:
    """Write the stand-in ISO to `output`. Raises ToolMissing without Wine's DLLs or libwim."""
    with tempfile.TemporaryDirectory(prefix=".standin-", dir=output.parent) as name:
        wim = Path(name) / "boot.wim"
        make_standin_wim(standin, wim)
        files: dict[str, bytes | Path] = {**media_content(standin.boot, standin.architecture), BOOT_WIM: wim}
        write_microsoft_iso(files, output, volume_id=VOLUME_ID, epoch=standin.epoch)


def make_standin_wim(standin: Standin, output: Path) -> None:
    """Write the stand-in's boot.wim: image 1 is Windows PE, image 2 Windows Setup, which boots."""
    wine = wine_folder()
    with tempfile.TemporaryDirectory(prefix=".standin-", dir=output.parent) as name:
        trees = [Path(name) / "pe", Path(name) / "setup"]
        for tree, setup in zip(trees, (False, True), strict=True):
            _fill(tree, standin, wine, setup=setup)
            _set_times(tree, standin.epoch)
        set_compression_level(Compression.LZX, 20)
        with WimStruct(None, name=output.name, compression=Compression.LZX) as wim:
            for tree, image_name in zip(trees, ("Windows PE", "Windows Setup"), strict=True):
                wim.add_image(tree, f"Microsoft {image_name} ({standin.architecture})")
            for image in (1, 2):
                _describe(wim, image, standin)
            wim.set_boot_index(2)
            wim.set_guid(random.Random(standin.seed).randbytes(16))
            wim.write(output, integrity=False, threads=0)
        with WimStruct(output, name=output.name, writable=True) as wim:
            for image in (1, 2):
                _set_image_times(wim, image, standin.epoch)
            wim.overwrite(integrity=False)


def make_adk_folder(standin: Standin, folder: Path) -> None:
    """Write what `copype` makes: media (with sources/boot.wim) and fwfiles."""
    for path, content in media_content(standin.boot, standin.architecture).items():
        if path not in (ETFSBOOT, EFISYS, EFISYS_NOPROMPT):
            _write(folder / "media" / path, content)
    _write(folder / "fwfiles" / "etfsboot.com", standin.boot.etfsboot)
    _write(folder / "fwfiles" / "efisys.bin", standin.boot.efisys)
    (folder / "media" / "sources").mkdir(parents=True, exist_ok=True)
    (folder / "mount").mkdir(exist_ok=True)
    make_standin_wim(standin, folder / "media" / BOOT_WIM)


def media_content(boot: BootPrograms, architecture: str = "x64") -> dict[str, bytes]:
    """The files around boot.wim, by path on the medium."""
    fonts = {
        f"{place}/fonts/{name}": data for place in ("boot", "efi/microsoft/boot") for name, data in boot.fonts.items()
    }
    return {
        "bootmgr": boot.bootmgr,
        "bootmgr.efi": boot.bootmgr_efi,
        BCD_BIOS: boot.bcd_bios,
        BOOTFIX: boot.bootfix,
        "boot/boot.sdi": boot.boot_sdi,
        ETFSBOOT: boot.etfsboot,
        LOADERS[architecture]: boot.bootx64,
        BCD_UEFI: boot.bcd_uefi,
        EFISYS: boot.efisys,
        EFISYS_NOPROMPT: boot.efisys_noprompt,
        "setup.exe": b"MZ stand-in",
        "autorun.inf": b"[AutoRun.Amd64]\r\nopen=setup.exe\r\n",
        "sources/lang.ini": b"[Available UI Languages]\r\nen-US = 3\r\n",
        **fonts,
    }


def wine_folder() -> Path:
    """Where Wine's 64-bit PE files lie. Raises ToolMissing when this machine has none."""
    found = next((folder for folder in _WINE_FOLDERS if (folder / "kernel32.dll").is_file()), None)
    if found is None:
        raise ToolMissing(
            "Wine's 64-bit DLLs were not found; they are needed to make a stand-in for Windows media",
            hint="apt-get install wine64 (Debian 12) or wine (Debian 13)",
        )
    return found


def _fill(tree: Path, standin: Standin, wine: Path, *, setup: bool) -> None:
    """One image's files."""
    system32 = tree / SYSTEM32
    for name in _wine_files(standin.size, wine, setup=setup):
        _copy(wine / name, system32 / name)
    placeholder = wine / _PLACEHOLDER
    for name in (*_WINPE_PROGRAMS, "cmd.exe"):
        _copy(wine / name if (wine / name).is_file() else placeholder, system32 / name)
    for name in ("winload.exe", "winload.efi"):
        _copy(placeholder, system32 / "boot" / name)
    _write(system32 / "startnet.cmd", b"wpeinit\r\n")
    _write(system32 / "config" / "SYSTEM", b"regf")
    if standin.manage_bde:
        for name in ("manage-bde.exe", "fveapi.dll", "wbem/Win32_EncryptableVolume.dll"):
            _copy(placeholder, system32 / name)
        _write(_package(tree, "WinPE-SecureStartup-Package", standin), b"<assembly/>")
    for package in ("WinPE-WMI-Package", "WinPE-Scripting-Package", "WinPE-EnhancedStorage-Package"):
        _write(_package(tree, package, standin), b"<assembly/>")
    for name in _SETUP_ONLY if setup else ():
        _copy(placeholder, tree / name)
    if standin.boot_2023:
        for path, content in {**_boot_2023_placeholders(), **standin.programs_2023}.items():
            _write(tree / "Windows" / "Boot" / path, content)
    for path, content in standin.files.items():
        _write(tree / path, content)
    if standin.size is StandinSize.LIFE_SIZE:
        _add_filler(tree, standin, setup=setup)


def _wine_files(size: StandinSize, wine: Path, *, setup: bool) -> Iterable[str]:
    if size is StandinSize.TINY:
        return [f"{name}.dll" for name in _FEW_DLLS]
    needed = [f"{name}.dll" for name in _DLLS if (wine / f"{name}.dll").is_file()]
    if size is StandinSize.SMALL:
        return needed
    every = sorted(path.name for path in wine.iterdir() if path.is_file())
    # As on Microsoft's media, image 2 is image 1 and more.
    return every if setup else sorted({*needed, *every[: len(every) * 4 // 5]})


def _boot_2023_placeholders() -> dict[str, bytes]:
    """The files of FACTS's table, as placeholders."""
    names = (
        "EFI_EX/bootmgfw_EX.efi", "EFI_EX/bootmgr_EX.efi", "DVD_EX/EFI/en-US/efisys_EX.bin",
        "DVD_EX/EFI/en-US/efisys_noprompt_EX.bin", "FONTS_EX/segoe_slboot_EX.ttf", "EFI/boot.stl",
    )  # fmt: skip
    return {name: f"stand-in for {name}: Windows UEFI CA 2023".encode() for name in names}


def _add_filler(tree: Path, standin: Standin, *, setup: bool) -> None:
    """Bytes that hardly compress, so that the WIM has its size.

    A quarter of every chunk is zeroes: libwim copies compressed resources as they are, as it does with Microsoft's
    files, but tries anew to compress what was stored uncompressed.
    """
    numbers = random.Random(standin.seed)
    count = -(-max(0, standin.wim_bytes - _PROGRAMS_COMPRESSED) // _FILLER)
    for number in range(count):
        chunks = (numbers.randbytes(_CHUNK * 3 // 4) + bytes(_CHUNK // 4) for _ in range(_FILLER * 4 // 3 // _CHUNK))
        content = b"".join(chunks)
        if setup or number < count * 4 // 5:
            _write(tree / "Windows" / "WinSxS" / f"filler-{number:03}.bin", content)


def _describe(wim: WimStruct, image: int, standin: Standin) -> None:
    """The version metadata that DISM writes."""
    architectures = {"x64": 9, "arm64": 12, "x86": 0}
    values = {
        "DESCRIPTION": f"Microsoft Windows {'PE' if image == 1 else 'Setup'} ({standin.architecture})",
        "FLAGS": "9" if image == 1 else "2",
        "WINDOWS/ARCH": str(architectures[standin.architecture]),
        "WINDOWS/PRODUCTNAME": "Microsoft\N{REGISTERED SIGN} Windows\N{REGISTERED SIGN} Operating System",
        "WINDOWS/EDITIONID": "WindowsPE",
        "WINDOWS/INSTALLATIONTYPE": "WindowsPE",
        "WINDOWS/PRODUCTTYPE": "WinNT",
        "WINDOWS/LANGUAGES/LANGUAGE": standin.language,
        "WINDOWS/LANGUAGES/DEFAULT": standin.language,
        "WINDOWS/VERSION/MAJOR": "10",
        "WINDOWS/VERSION/MINOR": "0",
        "WINDOWS/VERSION/BUILD": str(standin.build),
        "WINDOWS/VERSION/SPBUILD": str(standin.service_pack_build),
        "WINDOWS/VERSION/SPLEVEL": "0",
        "WINDOWS/SYSTEMROOT": "WINDOWS",
    }
    for name, value in values.items():
        wim.set_property(image, name, value)


def _set_image_times(wim: WimStruct, image: int, epoch: int) -> None:
    filetime = (epoch + 11_644_473_600) * 10_000_000
    for name in ("CREATIONTIME", "LASTMODIFICATIONTIME"):
        wim.set_property(image, f"{name}/HIGHPART", f"0x{filetime >> 32:08X}")
        wim.set_property(image, f"{name}/LOWPART", f"0x{filetime & 0xFFFFFFFF:08X}")


def _set_times(tree: Path, epoch: int) -> None:
    for folder, _, names in os.walk(tree, topdown=False):
        for name in (*names, "."):
            os.utime(Path(folder, name), (epoch, epoch))


def _package(tree: Path, name: str, standin: Standin) -> Path:
    version = f"10.0.{standin.build}.{standin.service_pack_build}"
    return tree / "Windows" / "servicing" / "Packages" / f"{name}~31bf3856ad364e35~amd64~~{version}.mum"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
