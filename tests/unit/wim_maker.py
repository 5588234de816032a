"""WIM files for tests: an uncompressed one written byte by byte, after [MS-WIM], and LZX ones by libwim."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from builder.errors import ToolMissing
from builder.wim_format import Compression
from builder.wim_library import WimStruct, library

#: A minimal WinPE, as far as choosing an image goes.
PE_FILES: dict[str, bytes] = {
    "Windows/System32/winpeshl.exe": b"winpeshl",
    "Windows/System32/wpeinit.exe": b"wpeinit",
    "Windows/System32/wpeutil.exe": b"wpeutil",
    "Windows/System32/cmd.exe": b"cmd",
    "Windows/System32/startnet.cmd": b"wpeinit\r\n",
    "Windows/System32/boot/winload.exe": b"winload.exe",
    "Windows/System32/boot/winload.efi": b"winload.efi",
    "Windows/System32/KERNEL32.dll": b"MZ kernel32",
    "Windows/System32/advapi32.dll": b"MZ advapi32",
    "Windows/System32/cfgmgr32.dll": b"MZ cfgmgr32",
    "Windows/System32/bcrypt.dll": b"MZ bcrypt",
    "Windows/System32/ntdll.dll": b"MZ ntdll",
    "Windows/System32/apisetschema.dll": b"MZ apisetschema",
}
BITLOCKER_FILES: dict[str, bytes] = {
    "Windows/System32/manage-bde.exe": b"MZ manage-bde",
    "Windows/System32/fveapi.dll": b"MZ fveapi",
    "Windows/System32/wbem/Win32_EncryptableVolume.dll": b"MZ provider",
    "Windows/servicing/Packages/WinPE-SecureStartup-Package~31bf~amd64~~10.0.1.mum": b"<assembly/>",
}
SETUP_FILES: dict[str, bytes] = {"setup.exe": b"MZ setup", "sources/setup.exe": b"MZ setup"}


def need_libwim() -> None:
    """Skip the test where libwim is not there."""
    try:
        library()
    except ToolMissing as error:
        pytest.skip(error.message)


def libwim_wim(
    path: Path,
    images: Sequence[Mapping[str, bytes]],
    *,
    boot_index: int = 0,
    compression: Compression = Compression.LZX,
    properties: Mapping[str, str] | None = None,
    integrity: bool = False,
) -> Path:
    """A WIM by libwim, one image a mapping of paths to contents."""
    need_libwim()
    with WimStruct(None, name=path.name, compression=compression) as wim:
        for number, files in enumerate(images, start=1):
            tree = path.with_name(f"{path.name}.{number}")
            tree.mkdir()
            for name, content in files.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_bytes(content)
            wim.add_image(tree, f"image {number}")
            for key, value in {"WINDOWS/ARCH": "9", **(properties or {})}.items():
                wim.set_property(number, key, value)
        if boot_index:
            wim.set_boot_index(boot_index)
        wim.write(path, integrity=integrity, threads=1)
    return path


def plain_wim(
    files: Sequence[tuple[str, bytes]],
    *,
    xml: str | None = None,
    flags: int = 0x80,
    version: int = 0x10D00,
    boot_index: int = 1,
    cycle: bool = False,
) -> bytes:
    """An uncompressed WIM with one image; the names of `files` ("folder/name") are taken as they are.

    `cycle`: the folder "loop" contains itself.
    """
    body, table = bytearray(bytes(208)), bytearray()

    def add(content: bytes, kind: int = 0) -> tuple[int, int]:
        body.extend(bytes(-len(body) % 8))
        offset = len(body)
        body.extend(content)
        digest = hashlib.sha1(content, usedforsecurity=False).digest()
        table.extend(_resource(len(content), kind, offset) + struct.pack("<HI", 1, 1) + digest)
        return offset, len(content)

    for unique in dict.fromkeys(content for _, content in files if content):
        add(unique)
    metadata = _metadata(files, cycle=cycle)
    metadata_at = add(metadata, 2)
    table_at = len(body)
    body.extend(table)
    text = xml if xml is not None else _xml(sum(len(content) for _, content in files))
    xml_at, xml_raw = len(body), b"\xff\xfe" + text.encode("utf-16-le")
    body.extend(xml_raw)
    header = struct.pack("<8sIIII", b"MSWIM\0\0\0", 208, version, flags, 0) + bytes(range(16))
    header += struct.pack("<HHI", 1, 1, 1) + _resource(len(table), 2, table_at) + _resource(len(xml_raw), 2, xml_at)
    header += _resource(metadata_at[1], 2, metadata_at[0]) + struct.pack("<I", boot_index)
    body[: len(header)] = header
    return bytes(body)


def _resource(size: int, kind: int, offset: int) -> bytes:
    return size.to_bytes(7, "little") + bytes([kind]) + struct.pack("<QQ", offset, size)


def _metadata(files: Sequence[tuple[str, bytes]], *, cycle: bool) -> bytes:
    """Security data without descriptors, the root, then every folder's entries."""
    folders: dict[str, dict[str, bytes | None]] = {"": {}}
    for path, content in files:
        above = ""
        *parents, name = path.split("/")
        for parent in parents:
            folders[above].setdefault(parent, None)
            above = f"{above}/{parent}".strip("/")
            folders.setdefault(above, {})
        folders[above][name] = content
    if cycle:
        folders[""]["loop"] = None
        folders["loop"] = {"loop": None}
    at = 8 + len(_dentry("", 0x10, 0, b"")) + 8
    starts: dict[str, int] = {}
    for folder, children in folders.items():
        starts[folder] = at
        at += sum(len(_dentry(name, 0, 0, b"")) for name in children) + 8
    data = struct.pack("<II", 8, 0) + _dentry("", 0x10, starts[""], b"") + bytes(8)
    for folder, children in folders.items():
        for name, child in children.items():
            below = starts.get(f"{folder}/{name}".strip("/"), 0) if child is None else 0
            if cycle and folder == "loop":
                below = starts["loop"]
            data += _dentry(name, 0x10 if child is None else 0x80, below, child or b"")
        data += bytes(8)
    return data


def _dentry(name: str, attributes: int, children: int, content: bytes) -> bytes:
    raw = name.encode("utf-16-le", "surrogatepass")
    digest = hashlib.sha1(content, usedforsecurity=False).digest() if content else bytes(20)
    length = (102 + (len(raw) + 2 if raw else 0) + 7) & ~7
    fixed = struct.pack("<QIiQQQQQQ20s", length, attributes, -1, children, 0, 0, 0, 0, 0, digest)
    return (fixed + struct.pack("<IQHHH", 0, 0, 0, 0, len(raw)) + raw).ljust(length, b"\0")


def _xml(size: int) -> str:
    return (
        f'<WIM><TOTALBYTES>1</TOTALBYTES><IMAGE INDEX="1"><NAME>plain</NAME><TOTALBYTES>{size}</TOTALBYTES>'
        "<WINDOWS><ARCH>9</ARCH><LANGUAGES><LANGUAGE>de-DE</LANGUAGE><DEFAULT>de-DE</DEFAULT></LANGUAGES>"
        "<VERSION><MAJOR>10</MAJOR><MINOR>0</MINOR><BUILD>17763</BUILD><SPBUILD>1</SPBUILD></VERSION></WINDOWS>"
        "</IMAGE></WIM>"
    )
