"""The import rules of DESIGN ("Layers"), held by reading every module's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILDER = sorted((ROOT / "builder").rglob("*.py"))
PAYLOAD = sorted((ROOT / "payload").rglob("*.py"))

#: Module or package -> (layer, group). Imports go to lower layers, or stay within the group.
LAYERS: dict[str, tuple[int, str]] = {
    "builder": (0, "version"),
    "builder.errors": (1, "errors"),
    "builder.console": (2, "console"),
    "builder.console_terminal": (2, "console"),
    "builder.run": (2, "run"),
    "builder.resources": (2, "resources"),
    "builder.tools": (3, "tools"),
    "builder.wine": (3, "wine"),
    "builder.pe": (6, "freeze"),
    "builder.authenticode": (6, "freeze"),
    "builder.windows_python": (6, "freeze"),
    "builder.import_gate": (6, "freeze"),
    "builder.frozen": (6, "freeze"),
    "builder.freeze": (7, "freeze"),
    "builder.freeze_native": (7, "freeze"),
    "builder.freeze_wine": (7, "freeze"),
    "builder.bcd": (3, "bcd"),
    "builder.drivers_inf": (6, "drivers_inf"),
    "builder.secure_boot": (3, "secure_boot"),
    "builder.keyboards": (3, "keyboards"),
    "builder.yaml_lines": (3, "yaml"),
    "builder.profile_schema": (4, "profile"),
    "builder.profile_problems": (4, "profile"),
    "builder.profile_rules": (4, "profile"),
    "builder.profile": (4, "profile"),
    "builder.plan": (5, "plan"),
    "builder.plan_winpe": (5, "plan"),
    "builder.render": (6, "render"),
    "builder.cpio": (6, "initramfs"),
    "builder.debian_root": (6, "initramfs"),
    "builder.drivers": (6, "initramfs"),
    "builder.elf": (6, "initramfs"),
    "builder.kernel_modules": (6, "initramfs"),
    "builder.python_bytecode": (6, "initramfs"),
    "builder.initramfs": (6, "initramfs"),
    "builder.media": (6, "media"),
    "builder.extents": (3, "extents"),
    "builder.wim": (6, "wim"),
    "builder.wim_build": (6, "wim"),
    "builder.wim_format": (6, "wim"),
    "builder.wim_library": (6, "wim"),
    "builder.wim_metadata": (6, "wim"),
    "builder.wim_splice": (6, "wim"),
    "builder.startnet_lint": (2, "startnet"),
    "builder.winpe_files": (7, "winpe_files"),
    "builder.safe_mode_script": (7, "safe_mode_script"),
    "builder.cache": (7, "cache"),
    "builder.base": (7, "base"),
    "builder.verify": (8, "verify"),
    "builder.keys": (8, "keys"),
    "builder.keys.cipher": (7, "keys"),
    "builder.keys.vault_iso": (7, "keys"),
    "builder.usb": (7, "usb"),
    "builder.disk_forms": (7, "disk_forms"),
    "builder.packages": (8, "packages"),
    "builder.base_check": (8, "base_check"),
    "builder.portable": (7, "freeze"),
    "builder.windows_payload": (8, "freeze"),
    "builder.report": (8, "report"),
    "builder.doctor": (9, "doctor"),
    "builder.outputs": (9, "build"),
    "builder.winpe_base": (9, "build"),
    "builder.winpe_iso": (9, "build"),
    "builder.winpe_wim": (9, "build"),
    "builder.build_forms": (9, "build"),
    "builder.build_steps": (9, "build"),
    "builder.build_linux": (9, "build"),
    "builder.build_winpe": (9, "build"),
    "builder.build": (9, "build"),
    "builder.bench": (10, "bench"),
    "builder.bench_hybrid": (10, "bench"),
    "builder.bench_keys": (10, "bench"),
    "builder.commands": (10, "commands"),
    "builder.cli": (11, "cli"),
    "builder.__main__": (12, "main"),
}

#: The public top-level modules of Debian 13's libpython3.13-minimal (its .py files, and what is built into its
#: interpreter), plus hmac and termios, which the initramfs adds. Without ssl, email, urllib and
#: sitecustomize, which the initramfs leaves out.
MINIMAL_PYTHON = frozenset(
    """abc argparse array ast atexit base64 binascii bisect builtins calendar cmath codecs collections compileall
    configparser contextlib copy copyreg csv dataclasses datetime dis encodings enum errno faulthandler fcntl filecmp
    fnmatch functools gc genericpath getopt glob grp hashlib heapq hmac importlib inspect io ipaddress itertools json
    keyword linecache locale logging marshal math opcode operator optparse os pathlib pickle pkgutil platform posix
    posixpath pwd py_compile pyexpat quopri random re reprlib runpy select selectors signal site socket stat string
    stringprep struct subprocess sys sysconfig syslog tempfile textwrap threading time token tokenize traceback
    tracemalloc types typing unicodedata warnings weakref zipfile zipimport zlib termios __future__""".split()  # noqa: SIM905
)
#: What the modules for Windows may use beside: payload/environment/windows*.py.
WINDOWS_PYTHON = frozenset({"ctypes", "msvcrt", "winreg"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, also inside functions; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield from ((node.lineno, _imported(node.module, alias.name)) for alias in node.names)


def _imported(module: str, name: str) -> str:
    """`from builder import cpio` imports the module builder.cpio, `from builder.run import run` only builder.run."""
    folder = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if folder.with_suffix(".py").is_file() or folder.is_dir() else module


def layer(module: str) -> tuple[int, str]:
    known = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    # "builder" alone is the version; it must not stand for modules that nobody has given a layer.
    known = [name for name in known if name != "builder" or module == "builder"]
    assert known, f"{module} has no layer: add it to LAYERS"
    return LAYERS[max(known, key=len)]


@pytest.mark.parametrize("path", BUILDER, ids=module_name)
def test_builder_imports_downward(path: Path) -> None:
    own_layer, own_group = layer(module_name(path))
    for line, module in imports(path):
        if not module.startswith("builder"):
            continue
        other_layer, other_group = layer(module)
        assert other_layer < own_layer or other_group == own_group, (
            f"{path.relative_to(ROOT)}:{line} (layer {own_layer}, {own_group}) imports {module} "
            f"(layer {other_layer}, {other_group})"
        )


@pytest.mark.parametrize("path", BUILDER, ids=module_name)
def test_builder_uses_only_the_contract_and_the_formats(path: Path) -> None:
    for line, module in imports(path):
        if module.split(".")[0] == "payload":
            allowed = module == "payload.contract" or module.startswith("payload.formats")
            assert allowed, f"{path.relative_to(ROOT)}:{line} imports {module}"


@pytest.mark.parametrize("path", PAYLOAD, ids=module_name)
def test_payload_needs_only_what_the_image_has(path: Path) -> None:
    """The modules for Windows are frozen with their imports and never imported on Linux."""
    has = (
        MINIMAL_PYTHON | WINDOWS_PYTHON
        if path.name.startswith("windows_") or path.name == "windows.py"
        else MINIMAL_PYTHON
    )
    for line, module in imports(path):
        top = module.split(".")[0]
        assert top == "payload" or top in has, f"{path.relative_to(ROOT)}:{line} imports {module}"


@pytest.mark.parametrize("path", [p for p in PAYLOAD if "formats" in p.parts], ids=module_name)
def test_formats_stand_alone(path: Path) -> None:
    """On-disk formats are pure functions of bytes: no environment, no subprocess, nothing else of the payload."""
    for line, module in imports(path):
        top = module.split(".")[0]
        assert top != "subprocess", f"{path.relative_to(ROOT)}:{line} imports {module}"
        if top == "payload":
            assert module.startswith("payload.formats"), f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_contract_and_formats_do_not_pull_in_the_payload() -> None:
    for path in (ROOT / "payload" / "contract.py", ROOT / "payload" / "rule_schema.py"):
        for line, module in imports(path):
            if module.startswith("payload"):
                allowed = module == "payload.rule_schema" or module.startswith("payload.formats")
                assert allowed, f"{path.name}:{line} imports {module}"


def test_one_doorway_to_other_programs() -> None:
    doorways = {"builder.run", "payload.environment.linux_commands", "payload.environment.windows_commands"}
    found = {
        module_name(path)
        for path in (*BUILDER, *PAYLOAD)
        for _, module in imports(path)
        if module.split(".")[0] in ("subprocess", "multiprocessing", "pty")
    }
    assert found <= doorways
    calls = {"system", "popen", "posix_spawn", "posix_spawnp", "fork", "forkpty"}
    for path in (*BUILDER, *PAYLOAD):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                forbidden = node.attr in calls or node.attr.startswith(("exec", "spawn"))
                assert not forbidden, f"{path.relative_to(ROOT)}:{node.lineno}: os.{node.attr}"


def test_shell_is_never_used() -> None:
    for path in (*BUILDER, *PAYLOAD):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                constant = isinstance(node.value, ast.Constant) and node.value.value is False
                assert constant or "subprocess" not in path.read_text(), f"{path.relative_to(ROOT)}:{node.value.lineno}"


def test_only_the_console_prints() -> None:
    printers = {"builder.console", "builder.console_terminal", "payload.screen", "payload.__main__"}
    for path in (*BUILDER, *PAYLOAD):
        if module_name(path) in printers:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                raise AssertionError(f"{path.relative_to(ROOT)}:{node.lineno} prints")


def test_only_main_exits() -> None:
    for path in (*BUILDER, *PAYLOAD):
        if path.name == "__main__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # A module that is also run by itself (`python -m`) ends there.
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.dump(node.test))]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("sys.exit", "exit", "quit", "os._exit"), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_broad_except_outside_main() -> None:
    for path in BUILDER:
        if path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
                broad = caught in ("", "Exception", "BaseException")
                assert not broad or reraises, f"{path.relative_to(ROOT)}:{node.lineno}: except {caught}"


def test_time_never_flows_into_outputs() -> None:
    """Only what keeps time for people or caches may ask the clock; outputs get the one epoch."""
    outputs = ("builder.media", "builder.initramfs", "builder.cpio", "builder.render", "builder.report", "builder.plan")
    for path in BUILDER:
        if not module_name(path).startswith(outputs) or path.name == "reproducible.py":
            continue
        text = path.read_text(encoding="utf-8")
        for call in ("time.time(", "datetime.now(", "datetime.today(", "date.today("):
            assert call not in text, f"{path.relative_to(ROOT)} calls {call})"


def test_the_rules_can_fail(tmp_path: Path) -> None:
    """A check that cannot fail is a defect: the reader of imports sees what it should."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ctypes\n"
        "def f():\n    from builder.run import run\n    import uuid, json.decoder\n"
    )
    assert [module for _, module in imports(sample)] == ["typing", "builder.run", "uuid", "json.decoder"]
    assert layer("builder.media.iso") == (6, "media")
    with pytest.raises(AssertionError, match="has no layer"):
        layer("builder.something_new")
