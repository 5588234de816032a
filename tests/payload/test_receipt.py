"""The receipt: JSON, schema, the final screen made from it, and the event lines that carry it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payload import contract
from payload.contract import (
    EVENT_PREFIX,
    ControllerRecord,
    DiskRecord,
    FileRecord,
    HostIdentity,
    InstallationRecord,
    Receipt,
    Verdict,
    VolumeRecord,
)
from payload.events import LONGEST_LINE, Acted, Received, event_line
from payload.formats.records import from_json, to_json
from payload.receipt import host_line, receipt_bytes, receipt_schema, utc_text, verdict_screen

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def schema_problems(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "$") -> list[str]:
    """A small validator, independent of payload.formats.records, over the part of JSON Schema that is used."""
    used = {"$schema", "title", "description", "$defs", "$ref", "anyOf", "enum", "type"}
    used |= {"items", "properties", "required", "additionalProperties"}
    assert set(schema) <= used, f"the schema uses a keyword unknown here: {set(schema) - used}"
    if "$ref" in schema:
        return schema_problems(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    if "anyOf" in schema:
        branches = [schema_problems(value, option, root, path) for option in schema["anyOf"]]
        return [] if any(not branch for branch in branches) else [f"{path}: fits no branch"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r} not in enum"]
    kind = KINDS[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return [f"{path}: {value!r} is not {schema['type']}"]
    problems = []
    if isinstance(value, list):
        for i, item in enumerate(value):
            problems += schema_problems(item, schema["items"], root, f"{path}[{i}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        problems += [f"{path}: {name} missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            if name in known:
                problems += schema_problems(item, known[name], root, f"{path}.{name}")
            elif more is False:
                problems.append(f"{path}: {name} unknown")
            elif isinstance(more, dict):
                problems += schema_problems(item, more, root, f"{path}.{name}")
    return problems


def a_receipt(**changes: Any) -> Receipt:
    values: dict[str, Any] = {
        "run_id": "r1",
        "image_id": "i1",
        "bluelift": "0.1.0",
        "environment": "linux",
        "started": "2024-07-20T10:00:00Z",
        "seconds": 1.5,
        "host": HostIdentity(smbios_uuid="u", smbios_serial="PF3", manufacturer="LENOVO", product="T14"),
        "verdict": Verdict.REPAIRED,
        "sentence": "It is repaired.",
        "advice": "Restart.",
        "dry_run": False,
        "disks": (DiskRecord(id="sda", model="M", serial="S", size=5, bus="sata", state="ok"),),
        "volumes": (
            a_volume("sda1", Verdict.NO_WINDOWS_FOUND),
            a_volume("sda3", Verdict.REPAIRED, installations=(InstallationRecord(path="\\W", computer_name="PC1"),)),
        ),
        "controllers": (ControllerRecord(address="0", pci_id="8086:2822", kind="RAID", driver="", advice="Set AHCI."),),
        "policies": {"rule": contract.Policy.VENDOR},
    }
    return Receipt(**{**values, **changes})


def a_volume(name: str, verdict: Verdict, **changes: Any) -> VolumeRecord:
    return VolumeRecord(
        **{
            "id": name,
            "disk": "sda",
            "label": "Windows",
            "file_system": "ntfs",
            "size": 10,
            "state": "ready",
            "verdict": verdict,
            **changes,
        }
    )


def test_a_receipt_fits_its_schema_and_comes_back() -> None:
    schema = receipt_schema()
    data = json.loads(receipt_bytes(a_receipt()))
    assert schema_problems(data, schema, schema) == []
    assert from_json(Receipt, data) == a_receipt()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("verdict"),
        lambda data: data.update(verdict="fine"),
        lambda data: data.update(more=1),
        lambda data: data["host"].update(secure_boot="yes"),
        lambda data: data["volumes"][0].update(size="10"),
        lambda data: data["volumes"][1]["installations"][0].update(files=[{}]),
        lambda data: data["policies"].update(other="never"),
    ],
)
def test_the_schema_refuses_what_is_wrong(spoil: Any) -> None:
    schema = receipt_schema()
    data = json.loads(receipt_bytes(a_receipt()))
    spoil(data)
    assert schema_problems(data, schema, schema)


def test_the_schema_names_every_record_with_a_description() -> None:
    schema = receipt_schema()
    assert {"HostIdentity", "DiskRecord", "VolumeRecord", "InstallationRecord", "FileRecord"} <= set(schema["$defs"])
    assert all(definition["description"] for definition in schema["$defs"].values())


def test_the_worst_volume_comes_first_on_the_screen() -> None:
    screen = verdict_screen(a_receipt())
    assert [row.volume for row in screen.rows] == ["sda3", "sda1"]
    assert screen.host == "Computer PC1   Serial number PF3   LENOVO T14"


def test_remarks_name_unread_disks_and_controllers() -> None:
    raid = DiskRecord(
        id="sdb", model="Disk", serial="", size=2 * 10**12, bus="sata", state="raid-member", detail="IMSM"
    )
    receipt = a_receipt(disks=(raid,), verdict=Verdict.NO_WINDOWS_FOUND, volumes=())
    remarks = "\n".join(verdict_screen(receipt).remarks)
    assert "Disk sdb Disk 2.0 TB: IMSM" in remarks
    assert "Controller RAID [8086:2822], no driver: Set AHCI." in remarks


def test_host_line_of_an_unknown_host_is_empty() -> None:
    assert host_line(a_receipt(host=HostIdentity(), volumes=())) == ""


def test_utc_text() -> None:
    assert utc_text(1721362140) == "2024-07-19T04:09:00Z"


@settings(max_examples=100, deadline=None)
@given(label=st.text(), computer=st.text())
def test_no_label_breaks_the_framing_of_an_event_line(label: str, computer: str) -> None:
    volume = a_volume(
        "sda3", Verdict.REPAIRED, label=label, installations=(InstallationRecord(path="\\W", computer_name=computer),)
    )
    receipt = a_receipt(volumes=(volume,))
    line = event_line(Received(receipt=receipt), run_id="r1", seconds=1.0)
    assert line.startswith(EVENT_PREFIX)
    assert all(" " <= c <= "\x7f" for c in line)
    data = json.loads(line.removeprefix(EVENT_PREFIX))
    assert data["event"] == "receipt"
    assert data["receipt"] == to_json(receipt)


def many_files(count: int, name: str) -> tuple[FileRecord, ...]:
    return tuple(
        FileRecord(
            path=f"\\Windows\\{name}{number}.sys",
            rule="r",
            file_class=contract.FileClass.FAULTY,
            action=contract.Action.QUARANTINE,
            outcome=contract.FileOutcome.QUARANTINED,
            size=1,
            modified="2024-07-19T04:09:00Z",
            sha256="0" * 64,
        )
        for number in range(count)
    )


@settings(max_examples=40, deadline=None)
@given(
    volumes=st.integers(0, 300),
    files=st.sampled_from([0, 1, 90, 5000]),
    text=st.text(max_size=60),
    repeat=st.sampled_from([1, 50, 3000]),
    rules=st.sampled_from([1, 500]),
)
def test_no_event_line_is_longer_than_a_serial_port_takes(
    volumes: int, files: int, text: str, repeat: int, rules: int
) -> None:
    long = text * repeat
    installation = InstallationRecord(path="\\W", computer_name=long, files=many_files(files, text))
    receipt = a_receipt(
        sentence=long,
        volumes=(
            a_volume("sdb1", Verdict.REPAIRED, notes=(long,) * 20, installations=(installation,)),
            *(a_volume(f"sda{n}", Verdict.FAILED, label=long) for n in range(volumes)),
        ),
        policies=dict.fromkeys((f"rule-{n}" for n in range(rules)), contract.Policy.VENDOR),
    )
    whole = json.dumps({"event": "receipt", "run_id": "r1", "seconds": 1.0, "receipt": to_json(receipt)})
    line = event_line(Received(receipt=receipt), run_id="r1", seconds=1.0)
    assert len(line.encode("ascii")) <= LONGEST_LINE
    data = json.loads(line.removeprefix(EVENT_PREFIX))
    told = from_json(Receipt, data["receipt"])
    assert told.verdict is receipt.verdict
    assert data.get("cut", False) is (told != receipt)
    assert len(whole) > LONGEST_LINE or "cut" not in data


def test_a_cut_line_keeps_what_fits() -> None:
    files = many_files(1000, "a")
    line = event_line(Acted(volume="sda3", files=files), run_id="r1", seconds=1.0)
    data = json.loads(line.removeprefix(EVENT_PREFIX))
    assert (data["event"], data["volume"], data["cut"]) == ("acted", "sda3", True)
    assert data["files"] == to_json(files[: len(data["files"])])
    assert len(data["files"]) == 100
