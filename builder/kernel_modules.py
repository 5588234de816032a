"""Kernel modules of an unpacked kernel package: which are needed for the drivers wanted, and the files modprobe reads.

Dependencies come from each module's own `.modinfo` section (`depends`, `softdep`, `alias`), so that neither depmod nor
a running kernel is needed. Debian's packages carry `modules.builtin` and `modules.builtin.modinfo`, but no modules.dep.
Names are compared as the kernel does it: "-" and "_" are the same (kmod's "modname" rule).
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.elf import ElfError, section
from builder.errors import BaseMediaError

_SUFFIX = re.compile(r"\.ko(\.xz)?$")
_SOFTDEP_WORD = re.compile(r"\b(pre|post|platform):")


@dataclass(frozen=True, kw_only=True)
class KernelModule:
    """One module, uncompressed. `path` is below the kernel's folder of modules (`kernel/fs/fat/vfat.ko`)."""

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...] = ()
    soft_depends: tuple[str, ...] = ()
    soft_lines: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """A module's name as the kernel knows it."""
    return name.replace("-", "_")


class ModuleTree:
    """The modules of one kernel, below `root` (an unpacked package)."""

    def __init__(self, root: Path, kernel_version: str) -> None:
        self.kernel_version = kernel_version
        self.folder = root / "usr/lib/modules" / kernel_version
        if not self.folder.is_dir():
            self.folder = root / "lib/modules" / kernel_version
        self._files = {canonical(_SUFFIX.sub("", file.name)): file for file in self.folder.rglob("*.ko*")}
        self._cache: dict[str, KernelModule] = {}
        self.builtin = _builtin_names(self.folder)
        if not self._files:
            raise BaseMediaError(
                f"the kernel package {kernel_version} holds no modules below {self.folder}",
                hint="Remove the unpacked packages with 'bluelift clean' and build again.",
            )

    def __contains__(self, name: str) -> bool:
        return canonical(name) in self._files or canonical(name) in self.builtin

    def module(self, name: str) -> KernelModule:
        """One module by name. Raises KeyError where the kernel has none of that name."""
        name = canonical(name)
        if name not in self._cache:
            self._cache[name] = self._read(name)
        return self._cache[name]

    def closure(self, drivers: Sequence[str]) -> list[KernelModule]:
        """`drivers` and everything they depend on, sorted by name; what is built into the kernel is left out.

        Raises BaseMediaError naming every driver, or dependency, that the kernel does not have.
        """
        missing = sorted(driver for driver in drivers if driver not in self)
        if missing:
            raise BaseMediaError(
                f"the kernel {self.kernel_version} has no driver {', '.join(missing)}",
                hint="Drivers are named in builder/drivers.py; a newer kernel may have renamed one.",
            )
        chosen: dict[str, KernelModule] = {}
        waiting = [canonical(driver) for driver in drivers]
        while waiting:
            name = waiting.pop()
            if name in chosen or name in self.builtin:
                continue
            module = chosen[name] = self.module(name)
            for dependency in module.depends:
                if dependency not in self:
                    raise BaseMediaError(
                        f"driver {name} of kernel {self.kernel_version} needs {dependency}, which is not there",
                        hint="The kernel package is incomplete; remove it from the cache and build again.",
                    )
            waiting += module.depends
            # A soft dependency is a wish: modprobe goes on without it.
            waiting += [name for name in module.soft_depends if name in self._files]
        return [chosen[name] for name in sorted(chosen)]

    def _read(self, name: str) -> KernelModule:
        file = self._files[name]
        raw = file.read_bytes()
        try:
            data = lzma.decompress(raw) if file.suffix == ".xz" else raw
            return parse_module(data, name=name, path=_SUFFIX.sub(".ko", file.relative_to(self.folder).as_posix()))
        except (lzma.LZMAError, ElfError) as error:
            raise BaseMediaError(
                f"the kernel module {file} is damaged: {error}",
                hint="Remove the unpacked packages with 'bluelift clean' and build again.",
            ) from error


def parse_module(data: bytes, *, name: str, path: str) -> KernelModule:
    """A module from its ELF file. Raises ElfError."""
    info = module_info(data)
    soft = tuple(info.get("softdep", ()))
    return KernelModule(
        name=name,
        path=path,
        data=data,
        depends=tuple(canonical(word) for line in info.get("depends", ()) for word in line.split(",") if word),
        soft_depends=tuple(canonical(word) for line in soft for word in _SOFTDEP_WORD.sub("", line).split()),
        soft_lines=soft,
        aliases=tuple(info.get("alias", ())),
    )


def module_info(data: bytes) -> dict[str, list[str]]:
    """The `key=value` strings of a module's .modinfo section. Raises ElfError."""
    found: dict[str, list[str]] = {}
    for item in (section(data, ".modinfo") or b"").split(b"\0"):
        key, equals, value = item.partition(b"=")
        if equals:
            found.setdefault(key.decode("utf-8", "replace"), []).append(value.decode("utf-8", "replace"))
    return found


def modules_dep(modules: Sequence[KernelModule]) -> str:
    """modules.dep (modules.dep(5)): each module's dependencies, the last of a line to be loaded first."""
    by_name = {module.name: module for module in modules}
    lines = []
    for module in modules:
        order = reversed(_load_order(module, by_name))
        lines.append(f"{module.path}: {' '.join(by_name[name].path for name in order)}".rstrip())
    return "".join(line + "\n" for line in lines)


def modules_alias(modules: Sequence[KernelModule]) -> str:
    """modules.alias: which module drives which device."""
    return "".join(f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases)


def modules_softdep(modules: Sequence[KernelModule]) -> str:
    """modules.softdep: what modprobe tries before and after a module."""
    return "".join(f"softdep {module.name} {line}\n" for module in modules for line in module.soft_lines)


def _load_order(module: KernelModule, by_name: dict[str, KernelModule]) -> list[str]:
    order: list[str] = []
    seen = {module.name}

    def visit(current: KernelModule) -> None:
        for name in current.depends:
            if name in by_name and name not in seen:
                seen.add(name)
                visit(by_name[name])
                order.append(name)

    visit(module)
    return order


def _builtin_names(folder: Path) -> frozenset[str]:
    listing = folder / "modules.builtin"
    if not listing.is_file():
        return frozenset()
    lines = listing.read_text(encoding="utf-8").splitlines()
    return frozenset(canonical(_SUFFIX.sub("", PurePosixPath(line).name)) for line in lines if line)
