"""The gate after every freeze: is this folder fit to run where nothing can be installed?

Two questions. Is the folder whole: x64 (or what was asked for), Microsoft's runtime inside, nothing of Wine's? And does
the base have every DLL that the folder does not bring? The second takes a set of file names, so that it can be answered
for a System32 inside a WIM.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from builder.errors import BaseMediaError, ImageError
from builder.pe import Machine, PeError, is_pe, is_wine_builtin, machine_name, read_pe
from payload.contract import WINDOWS_LIBRARIES

EXECUTABLE = "payload.exe"
RUNTIME = "vcruntime140.dll"
_PE_SUFFIXES = (".exe", ".dll", ".pyd")
_API_SET = re.compile(r"(api|ext)-ms-[a-z0-9-]+\.dll")

#: API sets that the loader of every Windows 10 PE resolves by its schema (apisetschema.dll), whether or not a file of
#: that name is there: the Universal CRT's (Microsoft Learn, "Universal CRT deployment") and one of kernelbase's
#: ("Windows API sets", since Windows 8).
RESOLVED_API_SETS = frozenset(
    {f"api-ms-win-crt-{part}-l1-1-0.dll"
     for part in ("conio", "convert", "environment", "filesystem", "heap", "locale", "math", "multibyte", "private",
                  "process", "runtime", "stdio", "string", "time", "utility")}
    | {"api-ms-win-core-path-l1-1-0.dll"}
)  # fmt: skip
#: What every Windows PE from Windows 10 on has in System32, base package alone: what a freeze is held to before anyone
#: knows the base.
EXPECTED_SYSTEM32 = frozenset(
    f"{name}.dll"
    for name in ("advapi32", "bcrypt", "bcryptprimitives", "cfgmgr32", "comctl32", "crypt32", "gdi32", "iphlpapi",
                 "kernel32", "kernelbase", "msvcrt", "ntdll", "ole32", "oleaut32", "rpcrt4", "sechost", "setupapi",
                 "shell32", "shlwapi", "ucrtbase", "user32", "version", "ws2_32")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Need:
    """A DLL that is not in the folder: its name in small letters, the files that want it, whether all delay-load it."""

    library: str
    wanted_by: tuple[str, ...]
    delayed: bool


def check_folder(files: Mapping[str, bytes], *, machine: Machine = Machine.AMD64) -> tuple[Need, ...]:
    """Is the frozen folder whole? Returns what it imports, or loads through ctypes, from the base, sorted by name.

    `files` maps paths below the folder (`_internal/python311.dll`) to their content. Raises ImageError with every
    problem at once.
    """
    problems: list[str] = []
    wanted: dict[str, dict[str, bool]] = {library: {EXECUTABLE: True} for library in WINDOWS_LIBRARIES}
    bundled = {path.rpartition("/")[2].lower() for path in files}
    if EXECUTABLE not in {path.lower() for path in files}:
        problems.append(f"{EXECUTABLE} is missing")
    if RUNTIME not in bundled:
        problems.append(f"{RUNTIME.upper()} is missing: Windows PE does not have it, and it cannot be installed there")
    for path, content in sorted(files.items()):
        if not path.lower().endswith(_PE_SUFFIXES) and not is_pe(content):
            continue
        if is_wine_builtin(content):
            problems.append(f"{path} is a DLL of Wine's, not Microsoft's or Python's")
            continue
        try:
            image = read_pe(content)
        except PeError as error:
            problems.append(f"{path}: {error}")
            continue
        if image.machine != machine:
            problems.append(f"{path} is for {machine_name(image.machine)}, not for {machine_name(machine)}")
        for library in image.imports:
            wanted.setdefault(library.lower(), {})[path] = False
        for library in image.delay_imports:
            wanted.setdefault(library.lower(), {}).setdefault(path, True)
    if problems:
        raise ImageError(
            "the frozen payload cannot run in Windows PE\n" + "\n".join(problems),
            hint="Freeze it again; a folder of your own must be whole, as PyInstaller left it.",
        )
    return tuple(
        Need(library=library, wanted_by=tuple(sorted(by)), delayed=all(by.values()))
        for library, by in sorted(wanted.items())
        if library not in bundled
    )


def missing_in(needs: Collection[Need], system32: Collection[str]) -> tuple[Need, ...]:
    """Those of `needs` that a base with these names in System32 does not satisfy. Letter case does not matter."""
    present = {name.lower() for name in system32}
    return tuple(need for need in needs if need.library not in present and need.library not in RESOLVED_API_SETS)


def check_base(needs: Collection[Need], system32: Collection[str], *, base: str) -> None:
    """Does the base have what the folder needs? `base` names it in the message, "image 2 of boot.wim".

    Raises BaseMediaError naming every missing DLL with the files that want it.
    """
    missing = missing_in(needs, system32)
    if missing:
        raise BaseMediaError(
            f"{base} lacks what the payload needs\n" + "\n".join(sentence(need) for need in missing),
            hint="Another image or newer media may have it; 'bluelift inspect FILE' shows what there is.",
        )


def sentence(need: Need) -> str:
    """`x.dll, which _internal/a.pyd imports`."""
    verb = "loads when it is used" if need.delayed else "imports" if len(need.wanted_by) == 1 else "import"
    kind = " (an API set)" if _API_SET.fullmatch(need.library) else ""
    return f"{need.library}{kind}, which {' and '.join(need.wanted_by)} {verb}"
