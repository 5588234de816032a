"""YAML to plain data that remembers its lines. Only what a profile needs: no anchors, no tags, YAML 1.2's own scalars.

YAML 1.1 would turn `no` into false and `2024-07-19T04:09:00Z` into a date; here both stay text. Anchors and aliases are
refused (a handful of lines could expand to gigabytes), and so are duplicate keys, which YAML loaders swallow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from builder.errors import Problem

_SIZE_LIMIT = 1 << 18
_DEPTH_LIMIT = 24
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SCALARS = (
    (re.compile(r"true|false|null|~|"), {"true": True, "false": False}.get),
    (re.compile(r"[-+]?[0-9]{1,30}"), int),
    (re.compile(r"0x[0-9A-Fa-f]{1,16}"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]{1,3})?"), float),
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a YAML file says. `lines` maps each path (`rules[0].pattern`, "" for the whole) to its 1-based line."""

    data: Any
    lines: dict[str, int]
    problems: tuple[Problem, ...]

    def line(self, path: str) -> int:
        """The line of `path`, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 1)


def read(content: bytes) -> Document:
    """`content` as data with lines. Never raises: what does not parse is in `problems` (then `data` may be partial)."""
    if len(content) > _SIZE_LIMIT:
        return _unreadable("", 1, f"too large ({len(content)} bytes; a profile has at most {_SIZE_LIMIT})")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return _unreadable("", line, "not UTF-8 text")
    try:
        events = list(_bounded_events(text))
        node = yaml.compose(text, Loader=yaml.BaseLoader) if not any(isinstance(e, Problem) for e in events) else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.problem, error.context and f"({error.context})") if part)
        return _unreadable("", _line(mark), f"not valid YAML: {said}")
    except yaml.YAMLError as error:
        return _unreadable("", 1, f"not valid YAML: {error}")
    refused = tuple(event for event in events if isinstance(event, Problem))
    if refused:
        return Document(data=None, lines={"": 1}, problems=refused)
    walk = _Walk()
    data = walk.value(node, "") if node is not None else None
    return Document(data=data, lines=walk.lines, problems=tuple(walk.problems))


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1


def _unreadable(path: str, line: int, message: str) -> Document:
    return Document(data=None, lines={"": line}, problems=(Problem(path=path, line=line, message=message),))


def _bounded_events(text: str) -> list[Any]:
    """The parser's events; a Problem for each anchor, alias and tag, and for nesting that is too deep."""
    found: list[Any] = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            found.append(Problem(path="", line=line, message="anchors and aliases (& and *) are not used in profiles; in a pattern, put the text in quotes"))  # fmt: skip  # noqa: E501
        if getattr(event, "tag", None):
            found.append(Problem(path="", line=line, message="tags (!) are not used in profiles"))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH_LIMIT:
            return [Problem(path="", line=line, message=f"nested deeper than {_DEPTH_LIMIT} levels")]
    return found


@dataclass
class _Walk:
    """One walk over the nodes: data out, lines and problems kept."""

    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value(self, node: yaml.Node, path: str) -> Any:
        self.lines.setdefault(path, _line(node.start_mark))
        if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(str(node.value)):
            message = "holds half a character (an escape \\ud800 to \\udfff)"
            self.problems.append(Problem(path=path, line=self.lines[path], message=message))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        return _scalar(str(node.value), quoted=bool(node.style))  # type: ignore[attr-defined]

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(path=path, line=line, message="a key must be a plain word"))
                continue
            key = str(key_node.value)
            where = f"{path}.{key}" if path else key
            if key in data:
                first = self.lines[where]
                self.problems.append(Problem(path=where, line=line, message=f"given twice (first on line {first})"))
                continue
            self.lines[where] = line
            data[key] = self.value(value_node, where)
        return data


def _scalar(text: str, *, quoted: bool) -> Any:
    # In quotes or a block it is text, whatever it looks like.
    if quoted:
        return text
    for pattern, convert in _SCALARS:
        if pattern.fullmatch(text):
            return convert(text)
    return text
