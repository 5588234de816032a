"""The receipt's forms: JSON on volumes and media, the final screen, and the JSON Schema of the receipt.

The receipt itself is `contract.Receipt`. Its JSON has one key a field in the order of the fields, UTF-8, LF.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from datetime import UTC, datetime
from typing import Any

from payload.contract import Receipt, Verdict, VolumeRecord
from payload.formats.records import to_json
from payload.screen import VerdictScreen, VolumeRow, size_text
from payload.verdict import QUIET_DISKS

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def utc_text(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 UTC to the second: `2024-07-19T04:09:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def receipt_bytes(receipt: Receipt) -> bytes:
    """The receipt as a file: indented JSON in UTF-8."""
    return (json.dumps(to_json(receipt), indent=2, ensure_ascii=True) + "\n").encode("ascii")


def receipt_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a receipt, made from the dataclasses, so that it cannot drift from them."""
    definitions: dict[str, Any] = {}
    top = _schema_of(Receipt, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bluelift receipt",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def verdict_screen(receipt: Receipt, *, contact: str = "", countdown: str = "", keys: str = "") -> VerdictScreen:
    """The final screen for a receipt: the worst volumes first."""
    order = list(Verdict)
    volumes = sorted(receipt.volumes, key=lambda volume: order.index(volume.verdict))
    return VerdictScreen(
        verdict=receipt.verdict,
        sentence=receipt.sentence,
        advice=receipt.advice,
        host=host_line(receipt),
        remarks=tuple(_remarks(receipt)),
        rows=tuple(_row(volume) for volume in volumes),
        contact=contact,
        countdown=countdown,
        keys=keys,
    )


def host_line(receipt: Receipt) -> str:
    """Computer name, serial number and model, as far as they are known."""
    names = dict.fromkeys(i.computer_name for v in receipt.volumes for i in v.installations if i.computer_name)
    parts = []
    if names:
        parts.append(f"Computer {', '.join(names)}")
    if receipt.host.smbios_serial:
        parts.append(f"Serial number {receipt.host.smbios_serial}")
    parts.append(f"{receipt.host.manufacturer} {receipt.host.product}".strip())
    return "   ".join(part for part in parts if part)


def _row(volume: VolumeRecord) -> VolumeRow:
    return VolumeRow(
        volume=volume.id,
        label=volume.label or volume.file_system,
        size=volume.size,
        verdict=volume.verdict,
        detail=volume.detail,
    )


def _remarks(receipt: Receipt) -> list[str]:
    """What was looked for where the medium says so, disks that were not opened, and the controllers where no disk (or
    no Windows) was seen."""
    remarks = [receipt.configuration] if receipt.configuration else []
    for disk in receipt.disks:
        if disk.state not in QUIET_DISKS:
            name = " ".join(filter(None, (disk.id, disk.model, size_text(disk.size))))
            remarks.append(f"Disk {name}: {disk.detail or disk.state}")
    if receipt.verdict is Verdict.NO_WINDOWS_FOUND:
        for controller in receipt.controllers:
            if controller.advice or all(disk.state == "boot-medium" for disk in receipt.disks):
                driver = f"driver {controller.driver}" if controller.driver else "no driver"
                advice = f": {controller.advice}" if controller.advice else ""
                remarks.append(f"Controller {controller.kind} [{controller.pci_id}], {driver}{advice}")
    return remarks


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(option, definitions) for option in arguments]}
    if kind is type(None):
        return {"type": "null"}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _schema_of_record(kind, definitions)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    return {"type": _JSON_TYPES[kind]}


def _schema_of_record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """A record as an object of which every field is there and nothing else; nested ones become `$defs`."""
    hints = typing.get_type_hints(kind)
    properties = {}
    for name, hint in hints.items():
        properties[name] = _reference(hint, definitions)
    schema = {
        "type": "object",
        "description": inspect.getdoc(kind) or "",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    if kind.__name__ not in definitions and kind is not Receipt:
        definitions[kind.__name__] = schema
    return schema


def _reference(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """A field's schema; records are referred to by name."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        _schema_of_record(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _reference(typing.get_args(hint)[0], definitions)}
    return _schema_of(hint, definitions)
