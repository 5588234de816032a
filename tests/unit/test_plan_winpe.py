"""Plans for WinPE: pure, the same inputs give the same ids, and everything that matters changes them."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from builder import profile, resources
from builder.bcd import BcdSettings
from builder.plan import Facts, Plan
from builder.plan_winpe import SOURCES, BaseFacts, WinpeFacts, boot_cas, image_name, make_winpe_plan
from tests.unit.test_plan import NEUTRAL, imported

PROFILE = profile.load(profile.find("winpe"))
BASE = BaseFacts(
    wim="aa",
    index=1,
    renames=(("setup.exe", "setup.exe.not-started"),),
    media={"boot/bcd": "b1", "efi/microsoft/boot/bcd": "b2", "bootmgr": "b3"},
    boot_files={"2011": {}, "2023": {"efi/boot/bootx64.efi": "e1"}},
    drivers={"Bluelift/drivers/1-vmd/a.inf": "d1"},
    background="",
    architecture="x64",
)
COMMON = Facts(
    bluelift="0.1.0",
    epoch=1_795_132_800,
    packages=(),
    payload={},
    templates={"winpe/startnet.cmd.j2": "11", "linux/init.j2": "12"},
    sources={"build_winpe.py": "1", "wim_build.py": "2", "media/iso.py": "3", "bcd.py": "4", "report.py": "5"},
    tools={"python": "3.11", "pycdlib": "1.22.0", "libwim": "1.13.6"},
)
FACTS = WinpeFacts(common=COMMON, payload={"backend": "wine", "payload": "p1"}, base=BASE)
ISO, MANIFEST = "iso-2011", "manifest-winpe"
FROM_WIM = {"boot-wim", ISO, MANIFEST}
FROM_PACKED = {"packed-payload", *FROM_WIM}
ALL_BUT_PAYLOAD = FROM_WIM | {"boot-stores"}


def changed(one: Plan, other: Plan) -> set[str]:
    return {step.name for step in one.steps if step.id != other.step(step.name).id}


def common(**changes: object) -> WinpeFacts:
    return replace(FACTS, common=replace(COMMON, **changes))  # type: ignore[arg-type]


def base(**changes: object) -> WinpeFacts:
    return replace(FACTS, base=replace(BASE, **changes))  # type: ignore[arg-type]


def test_the_same_inputs_give_the_same_plan() -> None:
    plan = make_winpe_plan(PROFILE, FACTS)
    assert plan == make_winpe_plan(PROFILE, FACTS)
    names = ["windows-payload", "packed-payload", "boot-wim", "boot-stores", ISO, MANIFEST]
    assert [step.name for step in plan.steps] == names
    assert len({step.id for step in plan.steps}) == len(names)
    assert plan.image_id is not None and len(plan.image_id) == 32


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (common(epoch=COMMON.epoch + 1), {"packed-payload", *ALL_BUT_PAYLOAD}),
        (replace(FACTS, payload={"backend": "wine", "payload": "p2"}), {"windows-payload", *FROM_PACKED}),
        (common(templates={**COMMON.templates, "winpe/startnet.cmd.j2": "x"}), FROM_WIM),
        (common(templates={**COMMON.templates, "linux/init.j2": "x"}), set()),
        (common(sources={**COMMON.sources, "wim_build.py": "x"}), FROM_PACKED),
        (common(sources={**COMMON.sources, "winpe_wim.py": "x"}), FROM_PACKED),
        (common(sources={**COMMON.sources, "winpe_iso.py": "x"}), ALL_BUT_PAYLOAD),
        (common(sources={**COMMON.sources, "report.py": "x"}), {MANIFEST}),
        (common(sources={**COMMON.sources, "verify/boot.py": "x"}), set()),
        (common(tools={**COMMON.tools, "libwim": "1.14.4"}), FROM_PACKED),
        (base(wim="bb"), FROM_WIM),
        (base(index=2), FROM_WIM),
        (base(renames=()), FROM_WIM),
        (base(drivers={}), FROM_PACKED),
        (base(background="j1"), FROM_PACKED),
        (base(compression="XPRESS"), FROM_PACKED),
        (base(prompt=True), FROM_WIM),
        (base(media={**BASE.media, "boot/bcd": "x"}), ALL_BUT_PAYLOAD),
        (base(boot_files={**BASE.boot_files, "2023": {}}), set()),
    ],
)
def test_what_a_changed_fact_makes_new(facts: WinpeFacts, expected: set[str]) -> None:
    assert changed(make_winpe_plan(PROFILE, FACTS), make_winpe_plan(PROFILE, facts)) == expected


def test_what_a_changed_profile_makes_new() -> None:
    plan = make_winpe_plan(PROFILE, FACTS)

    def with_settings(**changes: object) -> Plan:
        return make_winpe_plan(replace(PROFILE, winpe=replace(PROFILE.winpe, **changes)), FACTS)  # type: ignore[arg-type]

    assert changed(plan, make_winpe_plan(replace(PROFILE, contact="Tel. 1"), FACTS)) == FROM_WIM
    assert changed(plan, with_settings(keyboard="0407:00000407")) == FROM_WIM
    assert changed(plan, with_settings(bcd=BcdSettings(timeout=5))) == {"boot-stores", ISO, MANIFEST}
    assert changed(plan, make_winpe_plan(replace(PROFILE, output="other"), FACTS)) == {MANIFEST}
    assert changed(plan, make_winpe_plan(replace(PROFILE, sha256="other"), FACTS)) == {MANIFEST}


def test_both_is_two_images_from_one_boot_wim() -> None:
    both = replace(PROFILE, winpe=replace(PROFILE.winpe, boot_ca="both"))
    plan = make_winpe_plan(both, FACTS)
    assert [step.name for step in plan.steps if step.name.startswith("iso")] == ["iso-2011", "iso-2023"]
    assert plan.step("boot-wim").id == make_winpe_plan(PROFILE, FACTS).step("boot-wim").id
    assert plan.step("iso-2011").id != plan.step("iso-2023").id
    assert [image_name(both, ca) for ca in boot_cas(both)] == ["bluelift-winpe-2011.iso", "bluelift-winpe-2023.iso"]


def test_before_the_payload_was_frozen_only_its_own_id_is_known() -> None:
    plan = make_winpe_plan(PROFILE, replace(FACTS, base=None))
    assert plan.image_id is None
    assert [step.name for step in plan.steps if step.id is not None] == ["windows-payload"]


ENTRY_POINTS = {
    "packed-payload": ["wim_build.py"],
    "boot-wim": ["wim_build.py", "winpe_files.py", "winpe_base.py"],
    "boot-stores": ["bcd.py"],
    "iso": ["media/iso.py", "media/windows_layout.py"],
    MANIFEST: ["report.py"],
}
#: What decides, and whose decision is in the recipe by value; or whose own recipe the payload has.
BY_VALUE = {
    "profile.py", "profile_problems.py", "profile_rules.py", "profile_schema.py", "yaml_lines.py", "plan.py",
    "plan_winpe.py", "keyboards.py", "resources.py", "import_gate.py", "pe.py", "drivers_inf.py", "bcd.py",
}  # fmt: skip


@pytest.mark.parametrize("step", sorted(ENTRY_POINTS))
def test_the_modules_a_step_depends_on_are_all_in_its_id(step: str) -> None:
    root: Path = resources.builder_source()
    todo, seen = list(ENTRY_POINTS[step]), set()
    while todo:
        module = todo.pop()
        # What base media hold is in the recipe by its sha256.
        if module in seen or module in NEUTRAL or module.startswith("base/"):
            continue
        seen.add(module)
        todo += imported(root / module, root) if module not in BY_VALUE else set()
    missing = {
        module
        for module in seen - BY_VALUE
        if not any(fnmatchcase(module, pattern) for pattern in (*SOURCES[step], "secure_boot.py", "media/*.py"))
    }
    assert not missing
