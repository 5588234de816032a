"""Plans: pure, the same inputs give the same ids, and everything that matters changes them."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from builder import profile, resources
from builder.build_linux import gather_facts
from builder.errors import UsageError
from builder.plan import SOURCES, Facts, PackagePin, Plan, epoch_from, make_plan

PROFILE = profile.load(profile.find(None))
PACKAGES = (
    PackagePin(name="linux-image", version="6.12", architecture="amd64", sha256="aa"),
    PackagePin(name="shim-signed", version="1.44", architecture="amd64", sha256="bb"),
)
FACTS = Facts(
    bluelift="0.1.0",
    epoch=1_795_132_800,
    packages=PACKAGES,
    payload={"__init__.py": "00"},
    templates={"linux/init.j2": "11"},
    sources={
        "build_linux.py": "22",
        "media/iso.py": "33",
        "base/apt.py": "44",
        "initramfs.py": "55",
        "report.py": "66",
    },
    tools={"python": "3.11", "pycdlib": "1.22.0"},
)


def changed(one: Plan, other: Plan) -> set[str]:
    return {step.name for step in one.steps if step.id != other.step(step.name).id}


AFTER_PAYLOAD = {"payload-segment", "iso", "manifest"}
ALL_BUT_PACKAGES = {"boot-files", "bios-boot-image", "base-initramfs", *AFTER_PAYLOAD}


def test_the_same_inputs_give_the_same_plan() -> None:
    assert make_plan(PROFILE, FACTS) == make_plan(PROFILE, FACTS)
    assert changed(make_plan(PROFILE, FACTS), make_plan(PROFILE, FACTS)) == set()


def test_ids_are_sha256_and_all_different() -> None:
    plan = make_plan(PROFILE, FACTS)
    ids = [step.id for step in plan.steps]
    assert len(set(ids)) == len(ids) == 7
    assert all(step.id is not None and len(step.id) == 64 for step in plan.steps)
    assert plan.image_id is not None
    assert len(plan.image_id) == 32


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(FACTS, epoch=FACTS.epoch + 1), {"packages", *ALL_BUT_PACKAGES}),
        (replace(FACTS, packages=(PACKAGES[0], replace(PACKAGES[1], sha256="cc"))), {"packages", *ALL_BUT_PACKAGES}),
        (replace(FACTS, payload={"__init__.py": "01"}), AFTER_PAYLOAD),
        (replace(FACTS, templates={"linux/init.j2": "12"}), AFTER_PAYLOAD),
        (replace(FACTS, sources={**FACTS.sources, "media/iso.py": "x"}), AFTER_PAYLOAD),
        (replace(FACTS, sources={**FACTS.sources, "initramfs.py": "x"}), {"base-initramfs", *AFTER_PAYLOAD}),
        (replace(FACTS, sources={**FACTS.sources, "report.py": "x"}), {"manifest"}),
        (replace(FACTS, sources={**FACTS.sources, "verify/boot.py": "x"}), set()),
        (replace(FACTS, tools={**FACTS.tools, "pycdlib": "1.23"}), {"iso", "manifest"}),
        (replace(FACTS, tools={**FACTS.tools, "python": "3.13"}), {"manifest"}),
    ],
)
def test_what_a_changed_fact_makes_new(facts: Facts, expected: set[str]) -> None:
    assert changed(make_plan(PROFILE, FACTS), make_plan(PROFILE, facts)) == expected


def test_what_a_changed_profile_makes_new() -> None:
    plan = make_plan(PROFILE, FACTS)
    assert changed(plan, make_plan(replace(PROFILE, contact="Tel. 1"), FACTS)) == AFTER_PAYLOAD
    assert changed(plan, make_plan(replace(PROFILE, volume_id="OTHER"), FACTS)) == AFTER_PAYLOAD
    assert changed(plan, make_plan(replace(PROFILE, output="other"), FACTS)) == {"manifest"}
    # A comment in the file changes the file's hash, which only the manifest tells.
    assert changed(plan, make_plan(replace(PROFILE, sha256="other"), FACTS)) == {"manifest"}


def test_a_keyboard_is_a_step_of_its_own() -> None:
    plan, german = make_plan(PROFILE, FACTS), make_plan(replace(PROFILE, keyboard="de"), FACTS)
    assert {step.name for step in german.steps if step not in plan.steps} == {"keymap", *AFTER_PAYLOAD}
    assert german.image_id != plan.image_id
    french = make_plan(replace(PROFILE, keyboard="fr"), FACTS)
    assert changed(german, french) == {"keymap", *AFTER_PAYLOAD}
    other_names = replace(FACTS, sources={**FACTS.sources, "keyboards.py": "x"})
    assert changed(german, make_plan(replace(PROFILE, keyboard="de"), other_names)) == {"keymap", *AFTER_PAYLOAD}


def test_the_image_id_follows_the_content_not_the_file_name() -> None:
    plan = make_plan(PROFILE, FACTS)
    assert make_plan(replace(PROFILE, output="other", sha256="x"), FACTS).image_id == plan.image_id
    assert make_plan(replace(PROFILE, contact="Tel. 1"), FACTS).image_id != plan.image_id


def test_without_packages_only_what_needs_none_is_known() -> None:
    plan = make_plan(PROFILE, replace(FACTS, packages=None))
    assert plan.image_id is None
    assert {step.id for step in plan.steps} == {None}


def test_a_recipe_names_each_package() -> None:
    recipe = make_plan(PROFILE, FACTS).step("packages").recipe
    assert recipe["shim-signed:amd64"] == "1.44 bb"


@pytest.mark.parametrize("value", ["abc", "-1", "1e9", "0", "315532799", "4102444800", "١٢٣٤٥٦٧٨٩٠", " 1795132800"])
def test_epochs_that_no_file_system_can_say(value: str) -> None:
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        epoch_from(value, 7)


def test_epochs() -> None:
    assert (epoch_from(None, 7), epoch_from("", 7), epoch_from("1795132800", 7)) == (7, 7, 1_795_132_800)


def test_facts_are_those_of_this_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    facts = gather_facts(None)
    assert facts.epoch == 1_700_000_000
    assert "contract.py" in facts.payload
    assert "linux/init.j2" in facts.templates
    assert "base/linux.py" in facts.sources


# What shapes no bytes: words for people, programs that are called, where things are kept.
NEUTRAL = {"__init__.py", "errors.py", "console.py", "console_terminal.py", "run.py", "cache.py"}
ENTRY_POINTS = {
    "boot-files": ["base/linux.py"],
    "bios-boot-image": ["base/grub.py"],
    "base-initramfs": ["initramfs.py"],
    "keymap": ["base/keymap.py"],
    "payload-segment": ["initramfs.py", "render.py"],
    "iso": ["media/iso.py", "media/layout.py", "render.py"],
    "disk-forms": ["disk_forms/__init__.py"],
    "manifest": ["report.py"],
}


def imported(path: Path, root: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "builder":
            base = root.joinpath(*node.module.split(".")[1:])
            candidates = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
            found |= {candidate.relative_to(root).as_posix() for candidate in candidates if candidate.is_file()}
    return found


@pytest.mark.parametrize("step", sorted(ENTRY_POINTS))
def test_the_modules_a_step_depends_on_are_all_in_its_id(step: str) -> None:
    from fnmatch import fnmatchcase

    root = resources.builder_source()
    todo, seen = list(ENTRY_POINTS[step]), set()
    while todo:
        module = todo.pop()
        if module in seen or module in NEUTRAL:
            continue
        seen.add(module)
        todo += imported(root / module, root)
    # The manifest's own inputs (plan, profile) are in its recipe by value.
    seen -= {"plan.py", "yaml_lines.py"} if step == "manifest" else set()
    seen -= {module for module in seen if fnmatchcase(module, "profile*.py")} if step == "manifest" else set()
    seen -= {"bcd.py", "keyboards.py"} if step == "manifest" else set()
    seen -= {"resources.py"} if step == "manifest" else set()
    missing = {module for module in seen if not any(fnmatchcase(module, pattern) for pattern in SOURCES[step])}
    assert not missing
