"""JSON to frozen dataclasses and back, with every problem named by its path. Standard library only.

What the payload reads (its configuration, an undo journal that a user may have planted) and what it writes (the
receipt) are dataclasses; dicts stop here. Supported field types: str, int, float, bool, None, enum.StrEnum, tuples
`tuple[X, ...]`, `dict[str, X]`, unions with None, and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class RecordError(ValueError):
    """Data that does not fit its record; `problems` holds (path, message) pairs, all of them."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path or '(top)'}: {message}" for path, message in problems))


def to_json(value: object) -> Any:
    """A dataclass (or anything made of them) as plain JSON data; keys keep the order of the fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(record: type[T], data: object) -> T:
    """`data`, as json.loads gave it, as a `record`. Unknown keys are problems. Raises RecordError with all of them."""
    problems: list[tuple[str, str]] = []
    value = _decode(record, data, "", problems)
    if problems:
        raise RecordError(problems)
    return typing.cast(T, value)


def _decode(kind: Any, data: Any, path: str, problems: list[tuple[str, str]]) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(kind, data, path, problems)
    if origin is tuple:
        if not isinstance(data, list):
            return _wrong(data, "a list", path, problems)
        item_kind = typing.get_args(kind)[0]
        return tuple(_decode(item_kind, item, f"{path}[{i}]", problems) for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            return _wrong(data, "an object", path, problems)
        item_kind = typing.get_args(kind)[1]
        return {key: _decode(item_kind, item, f"{path}.{key}", problems) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path, problems)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in kind)
            return _wrong(data, f"one of {allowed}", path, problems)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        return _wrong(data, {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind)), path, problems)  # fmt: skip  # noqa: E501
    return data


def _decode_union(kind: Any, data: Any, path: str, problems: list[tuple[str, str]]) -> Any:
    if data is None and type(None) in typing.get_args(kind):
        return None
    (inner,) = (option for option in typing.get_args(kind) if option is not type(None))
    return _decode(inner, data, path, problems)


def _decode_dataclass(kind: Any, data: Any, path: str, problems: list[tuple[str, str]]) -> Any:
    if not isinstance(data, dict):
        return _wrong(data, "an object", path, problems)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    before = len(problems)
    problems += [(f"{path}.{key}".lstrip("."), "unknown key") for key in data if key not in fields]
    values = {}
    for name, field in fields.items():
        where = f"{path}.{name}".lstrip(".")
        if name in data:
            values[name] = _decode(hints[name], data[name], where, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append((where, "missing"))
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        problems.append((path, str(error)))
        return None


def _wrong(data: object, wanted: str, path: str, problems: list[tuple[str, str]]) -> None:
    shown = repr(data)
    problems.append((path, f"should be {wanted}, found {shown if len(shown) <= 60 else shown[:57] + '...'}"))
