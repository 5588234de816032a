"""The initramfs: Debian's programs, Python and kernel modules in one segment, the payload in another.

The kernel unpacks concatenated archives one after the other, later entries over earlier ones (Linux
Documentation/driver-api/early-userspace/buffer-format). So the large part depends on packages alone and is cached, and
a change of profile or payload only rewrites a small archive at the end.
"""

from __future__ import annotations

import ast
import hashlib
import json
import lzma
import stat
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder import cpio, drivers
from builder.console import Step
from builder.debian_root import find_library, kernel_version, merged, python_folder
from builder.elf import ElfError, dependencies, is_elf
from builder.errors import BaseMediaError, ImageError
from builder.kernel_modules import KernelModule, ModuleTree, modules_alias, modules_dep, modules_softdep
from builder.python_bytecode import cache_name, compile_python, run_python

#: Programs in the image; what they are linked to comes by itself.
PROGRAMS = (
    "usr/bin/busybox",
    "usr/bin/ntfs-3g",
    "usr/bin/ntfs-3g.probe",
    "usr/bin/ntfsfix",
    "usr/bin/ntfsrecover",
)
PAYLOAD_FOLDER = "bluelift"
CONFIG_NAME = f"{PAYLOAD_FOLDER}/config.json"
KEYMAP_NAME = "etc/keymap.bmap"

_FOLDERS = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin")
#: Parts of libpython3-minimal that need what the image has not: a network, OpenSSL.
_LEFT_OUT = ("ssl.py", "email", "urllib", "sitecustomize.py")
#: The one extension module of libpython3-stdlib that goes in: the screen needs it for the keyboard.
_EXTENSIONS = ("termios",)
_XZ_MAGIC = b"\xfd7zXZ\0"
_XZ_PRESET = 6


@dataclass(frozen=True, kw_only=True)
class InitramfsEntry:
    """One entry of an initramfs, as `inspect` shows it. `sha256` is that of a file's content, else empty."""

    name: str
    mode: int
    size: int
    sha256: str


def base_segment(root: Path, *, epoch: int, step: Step) -> bytes:
    """Debian's part, from packages unpacked at `root`: kernel modules and programs, each an xz-compressed cpio.

    Depends on the packages and `epoch` alone. Raises BaseMediaError naming a driver, program, library or Python module
    that the packages do not have.
    """
    version = kernel_version(root)
    with ThreadPoolExecutor(max_workers=2) as pool:
        programs = pool.submit(_compressed, program_tree(root).pack(epoch=epoch))
        modules = pool.submit(_compressed, module_tree(root, version).pack(epoch=epoch))
        parts = [programs.result(), modules.result()]
    step.note(f"kernel {version}: {len(parts[1]) / 1e6:.1f} MB of drivers, {len(parts[0]) / 1e6:.1f} MB of programs")
    return b"".join(parts)


def payload_segment(
    *, payload: Mapping[str, bytes], init: bytes, config: bytes, base: bytes, epoch: int, keymap: bytes = b""
) -> bytes:
    """The project's part, to follow `base` (base_segment's): the payload's files, named below `payload/`, init, config.

    `keymap` is the keyboard's table (builder.base.keymap); empty for the kernel's own.

    Python files get their compiled form beside them, made by the Python in `base`. Raises BaseMediaError when the
    payload imports what that Python does not have.
    """
    tree = cpio.Tree()
    tree.file("init", init, mode=0o755)
    tree.file(CONFIG_NAME, config)
    if keymap:
        tree.file(KEYMAP_NAME, keymap)
    files = {f"{PAYLOAD_FOLDER}/payload/{name}": data for name, data in payload.items()}
    for name, data in sorted(files.items()):
        tree.file(name, data)
    sources = {name: data for name, data in files.items() if name.endswith(".py")}
    if sources:
        with image_root(base) as root:
            check_imports(root, sources)
            for name, data in compile_python(root, sources).items():
                tree.file(cache_name(root, name), data)
    return _compressed(tree.pack(epoch=epoch))


@contextmanager
def image_root(base: bytes) -> Iterator[Path]:
    """The programs of `base` (base_segment's) in a temporary folder, so that its Python can be run here and now."""
    with tempfile.TemporaryDirectory(prefix="bluelift-image-") as scratch:
        root = Path(scratch)
        for entry in cpio.unpack(next(_archives(base))):
            path = root / entry.name
            if not entry.name.startswith("usr/"):
                continue
            if stat.S_ISDIR(entry.mode):
                path.mkdir(parents=True, exist_ok=True)
            elif stat.S_ISREG(entry.mode):
                path.write_bytes(entry.data)
                path.chmod(stat.S_IMODE(entry.mode))
        yield root


def list_initramfs(data: bytes) -> list[InitramfsEntry]:
    """Every entry of an initramfs of ours, in order; an entry written twice is listed as the last one written.

    Raises ImageError when the bytes are not xz-compressed cpio archives.
    """
    found: dict[str, InitramfsEntry] = {}
    try:
        for archive in _archives(data):
            for entry in cpio.unpack(archive):
                digest = hashlib.sha256(entry.data).hexdigest() if stat.S_ISREG(entry.mode) else ""
                found[entry.name] = InitramfsEntry(
                    name=entry.name, mode=entry.mode, size=len(entry.data), sha256=digest
                )
    except (lzma.LZMAError, EOFError, cpio.CpioError) as error:
        raise ImageError(f"the initramfs is damaged: {error}", hint="Build the image again.") from error
    return list(found.values())


# --- what goes in --------------------------------------------------------------------------------------------------


def module_tree(root: Path, version: str) -> cpio.Tree:
    """The kernel modules for every driver of `builder.drivers`, and the tables modprobe reads."""
    modules = ModuleTree(root, version)
    chosen = modules.closure(drivers.all_drivers())
    tree = cpio.Tree()
    folder = f"usr/lib/modules/{version}"
    for module in chosen:
        tree.file(f"{folder}/{module.path}", module.data)
    for name, text in _module_tables(chosen).items():
        tree.file(f"{folder}/{name}", text.encode())
    builtin = "".join(f"kernel/{name}.ko\n" for name in sorted(modules.builtin))
    tree.file(f"{folder}/modules.builtin", builtin.encode())
    return tree


def program_tree(root: Path) -> cpio.Tree:
    """The file system's frame, the programs with their libraries, and Python."""
    tree = cpio.Tree()
    for folder in _FOLDERS:
        tree.directory(folder)
    for name in ("bin", "lib", "lib64", "sbin"):
        tree.link(name, f"usr/{name}")
    tree.character_device("dev/console", 5, 1)
    tree.character_device("dev/null", 1, 3, mode=0o666)
    tree.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    tree.file("etc/group", b"root:x:0:\n")
    tree.link("etc/mtab", "/proc/self/mounts")
    tree.link("usr/sbin/modprobe", "../bin/busybox")
    python = python_folder(root)
    interpreter = f"usr/bin/{python.name}"
    for program in (*PROGRAMS, interpreter):
        _add_elf(tree, root, program, needed_by="the image")
    # Loaded by name when a thread ends, so nothing is linked to it.
    _add_elf(tree, root, find_library(root, "libgcc_s.so.1", needed_by=interpreter), needed_by=interpreter)
    tree.link("usr/bin/python3", python.name)
    library = {file.relative_to(root).as_posix(): file for file in standard_library(python)}
    for name in (name for name, file in library.items() if file.suffix == ".so"):
        _add_elf(tree, root, name, needed_by="the payload")
    sources = {name: file.read_bytes() for name, file in library.items() if file.suffix == ".py"}
    for name, data in compile_python(root, sources).items():
        tree.file(f"{name}c", data)  # os.pyc instead of os.py: found where there is no source
    return tree


def standard_library(folder: Path) -> Iterator[Path]:
    """The files of Python's library whose compiled form goes into the image, and its extension modules."""
    for file in sorted(folder.rglob("*.py")):
        if file.relative_to(folder).parts[0] not in _LEFT_OUT and not file.is_symlink():
            yield file
    for name in _EXTENSIONS:
        yield from sorted((folder / "lib-dynload").glob(f"{name}.*.so"))


def _add_elf(tree: cpio.Tree, root: Path, name: str, *, needed_by: str) -> None:
    """A program or library at `name` below `root`, and everything it is linked to."""
    if name in tree:
        return
    file = root / name
    if not file.exists():
        raise BaseMediaError(
            f"{name}, needed by {needed_by}, is in none of the packages",
            hint="A package was renamed or moved a file; see builder/base/packages.py.",
        )
    data = file.read_bytes()
    tree.file(name, data, mode=0o755)
    if not is_elf(data):
        return
    try:
        wanted = dependencies(data)
    except ElfError as error:
        raise BaseMediaError(f"{name} is damaged: {error}", hint="Run 'bluelift clean' and build again.") from error
    if wanted.interpreter:
        tree_name = merged(wanted.interpreter)
        _add_elf(tree, root, tree_name, needed_by=name)
    for library in wanted.needed:
        _add_elf(tree, root, find_library(root, library, needed_by=name), needed_by=name)


def _module_tables(modules: list[KernelModule]) -> dict[str, str]:
    return {
        "modules.alias": modules_alias(modules),
        "modules.dep": modules_dep(modules),
        "modules.softdep": modules_softdep(modules),
        "modules.symbols": "",
    }


# --- what the payload imports --------------------------------------------------------------------------------------


def check_imports(root: Path, sources: Mapping[str, bytes]) -> None:
    """Whether everything the payload's Python files import can be imported by the image's own Python at `root`.

    It tries, here and now. Raises BaseMediaError listing what cannot be imported, and where it is wanted.
    """
    users: dict[str, str] = {}
    for where, source in sorted(sources.items()):
        for name in _imported(source, where):
            users.setdefault(name, where)
    tried = run_python(root, _TRY_IMPORTS, *sorted(users), reason="see whether the payload's imports are in the image")
    refused = [f"{name} in {users[name]} ({why})" for name, why in json.loads(tried).items()]
    if refused:
        raise BaseMediaError(
            f"the payload imports what the image's Python does not have: {', '.join(refused)}",
            hint="The payload may use only what Debian's libpython3-minimal holds.",
        )


def _imported(source: bytes, where: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source, where)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] != "payload"}


_TRY_IMPORTS = """
import json, sys
refused = {}
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ImportError as error:
        refused[name] = str(error)
print(json.dumps(refused))
"""


# --- compression ---------------------------------------------------------------------------------------------------


def _compressed(archive: bytes) -> bytes:
    """xz as the kernel reads it: CRC32 check; padded to 4 bytes by zeros, as the format requires between streams."""
    packed = lzma.compress(archive, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, preset=_XZ_PRESET)
    return packed + bytes(-len(packed) % 4)


def _archives(data: bytes) -> Iterator[bytes]:
    rest = data
    while rest := rest.lstrip(b"\0"):
        if not rest.startswith(_XZ_MAGIC):
            raise lzma.LZMAError(f"expected xz data, found {rest[:6].hex(' ')}")
        stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
        archive = stream.decompress(rest)
        if not stream.eof:
            raise EOFError("the compressed data ends early")
        yield archive
        rest = stream.unused_data
