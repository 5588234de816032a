"""An ISO laid out as Microsoft's install media are: files in UDF only, a stub of ISO9660, El Torito twice."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import pycdlib

from builder.base.windows_media import EFISYS, ETFSBOOT
from builder.media.reproducible import pycdlib_at

_STUB = b'This disc contains a "UDF" file system and requires an operating system that supports it.\r\n'
_CATALOG = "/BOOT.CAT;1"
_BLOCK = 1 << 20


def write_microsoft_iso(files: Mapping[str, bytes | Path], output: Path, *, volume_id: str, epoch: int) -> None:
    """Write `files` (path with "/", content) to the ISO `output`, beside it first.

    boot/etfsboot.com becomes the BIOS entry (8 sectors, no boot information table), efi/microsoft/boot/efisys.bin the
    UEFI entry; each is left out where its file is.
    """
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with pycdlib_at(epoch):
            iso = pycdlib.PyCdlib()
            iso.new(interchange_level=1, vol_ident=volume_id, sys_ident="", udf="2.60")
            try:
                _add_files(iso, files)
                _add_boot_images(iso, files)
                iso.write(str(part), blocksize=_BLOCK)
            finally:
                iso.close()
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _add_files(iso: pycdlib.PyCdlib, files: Mapping[str, bytes | Path]) -> None:
    folders = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
    for folder in sorted(folders):
        iso.add_directory(udf_path=f"/{folder}")
    for path, content in sorted(files.items()):
        # pycdlib wants boot images in the ISO9660 tree; they leave it again below.
        iso_path = _iso_path(path) if path in (ETFSBOOT, EFISYS) else None
        if isinstance(content, bytes):
            iso.add_fp(io.BytesIO(content), len(content), iso_path=iso_path, udf_path=f"/{path}")
        else:
            iso.add_file(str(content), iso_path=iso_path, udf_path=f"/{path}")
    iso.add_fp(io.BytesIO(_STUB), len(_STUB), iso_path="/README.TXT;1")


def _add_boot_images(iso: pycdlib.PyCdlib, files: Mapping[str, bytes | Path]) -> None:
    present = [path for path in (ETFSBOOT, EFISYS) if path in files]
    for path in present:
        uefi = path == EFISYS
        iso.add_eltorito(
            _iso_path(path),
            bootcatfile=_CATALOG,
            udf_bootcatfile="/boot.cat",
            # Microsoft's catalogs say one sector for the UEFI image, whatever its size.
            boot_load_size=1 if uefi else 8,
            platform_id=0xEF if uefi else 0,
            efi=uefi,
        )
    for path in present:
        iso.rm_hard_link(iso_path=_iso_path(path))
    if present:
        iso.rm_hard_link(iso_path=_CATALOG)
        iso.rm_hard_link(udf_path="/boot.cat")


def _iso_path(path: str) -> str:
    return f"/{path.rpartition('/')[2].upper()};1"
