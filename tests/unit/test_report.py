"""The manifest and the sums: complete, and the same for the same inputs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from builder import profile
from builder.plan import Facts, PackagePin, make_plan
from builder.report import ImageFacts, ListedFile, manifest, sha256sums

PROFILE = profile.load(profile.find(None))
PACKAGES = (
    PackagePin(name="b", version="2", architecture="amd64", sha256="22"),
    PackagePin(name="a", version="1", architecture="all", sha256="11"),
)
FACTS = Facts(bluelift="0.1.0", epoch=1_795_132_800, packages=PACKAGES, payload={}, templates={}, sources={})
IMAGE = ImageFacts(
    file="bluelift-linux.iso", size=1, sha256="33", kernel_version="6.12",
    media=(ListedFile(path="b", size=2, sha256="44"), ListedFile(path="a", size=1, sha256="55")),
    initramfs=(ListedFile(path="init", size=1, sha256="66"),),
)  # fmt: skip


def made(**changes: object) -> bytes:
    arguments = {
        "profile": PROFILE, "plan": make_plan(PROFILE, FACTS), "packages": PACKAGES, "image": IMAGE,
        "tools": {"python": "3.11"}, "bluelift": "0.1.0",
    }  # fmt: skip
    return manifest(**(arguments | changes))  # type: ignore[arg-type]


def test_the_manifest_names_everything_that_went_in() -> None:
    data = json.loads(made())
    plan = make_plan(PROFILE, FACTS)
    assert data["image"]["image_id"] == plan.image_id == data["configuration"]["image_id"]
    assert [package["name"] for package in data["packages"]] == ["a", "b"]
    assert [file["path"] for file in data["media"]] == ["a", "b"]
    assert data["initramfs"] == [{"path": "init", "size": 1, "sha256": "66"}]
    assert data["epoch"] == 1_795_132_800
    assert data["profile"]["sha256"] == PROFILE.sha256
    assert data["steps"]["iso"] == plan.step("iso").id
    assert data["tools"] == {"python": "3.11"}
    assert data["configuration"]["rules"][0]["id"] == "crowdstrike-channel-291"


def test_the_order_of_the_inputs_does_not_matter() -> None:
    turned = replace(IMAGE, media=IMAGE.media[::-1])
    assert made(packages=PACKAGES[::-1], image=turned, tools={"python": "3.11"}) == made()


def test_no_times_and_no_paths_of_this_machine() -> None:
    text = made().decode()
    assert not re.search(r'"/(home|root|tmp|work|usr)', text)
    assert not re.search(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d", text)


def test_sums_are_as_sha256sum_reads_them() -> None:
    assert sha256sums({"b": "22", "a": "11"}) == b"11  a\n22  b\n"
