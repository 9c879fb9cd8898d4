"""YAML and JSON as mappings, lists and texts. The one module that reads YAML.

Rule 1: nothing of a document makes a value: only PyYAML's events are read, with its safe loader, and every scalar is
        the text that was written (`1.20` stays `1.20`; tags such as `!reset` mean nothing) (design invariant 11).
Rule 2: everything is bounded: bytes, depth, and nodes, which count as often as aliases repeat them. So a document
        that would unfold to a billion is refused while it is read, and a walk over what passed ends soon.
Rule 3: a key that is there twice is refused; a merge (`<<`) fills in what its mapping does not say itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn, TypeAlias

import yaml

from iarproxy.errors import Malformed

MAX_TEXT = 32 * 2**20  # bytes
MAX_DEPTH = 64
MAX_NODES = 2_000_000

Node: TypeAlias = "dict[str, Node] | list[Node] | str | bool | None"

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# libyaml's parser where PyYAML has it: thirty times faster, and as safe.
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class Text(str):
    """A scalar, and the line that it begins in."""

    __slots__ = ("line",)
    line: int


class Table(dict[str, Node]):
    """A mapping, and the line that it begins in."""

    __slots__ = ("line",)
    line: int


def line_of(node: Node) -> int:
    """The line of a text or mapping; 0: not known, as in JSON."""
    return getattr(node, "line", 0)


def malformed_at(node: Node | int, path: str, problem: str) -> Malformed:
    """The error about a place: its line where that is known, else its path in the document."""
    line = node if type(node) is int else line_of(node)  # type: ignore[arg-type]  # an int is no Node
    return Malformed(f"line {line}: {problem}" if line else f"{path}: {problem}")


def text_of(data: bytes) -> str:
    """Bytes that people wrote, as text: UTF-8, without NUL; a byte order mark is dropped.

    Raises:
        Malformed: they are something else, or more than `MAX_TEXT`.
    """
    if len(data) > MAX_TEXT:
        raise Malformed(f"end: {len(data)} bytes; at most {MAX_TEXT} are read, split it")
    if b"\0" in data:
        raise Malformed(f"line {_line(data, data.index(0))}: a NUL byte; this is no text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(f"line {_line(data, error.start)}: not UTF-8") from None


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def documents(text: str) -> list[Node]:
    """The documents of a YAML stream, or the one of a JSON text; empty ones are left out.

    Raises:
        Malformed: it is neither, or outside the bounds; with the line.
    """
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            return [_from_json(text)]
        except json.JSONDecodeError:
            pass  # YAML has braces and brackets too, and its error names a line as well
    return list(_Stream(text).documents())


def _from_json(text: str) -> Node:
    try:
        found: Node = json.loads(text, object_pairs_hook=_table, parse_int=str, parse_float=str)
    except RecursionError:
        raise Malformed(f"line 1: nested more than {MAX_DEPTH} deep") from None
    _refuse_depth(found)
    return found


def _table(pairs: list[tuple[str, Node]]) -> Node:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"key {twice[:80]!r}: there twice in one mapping; remove one")
    return table


def _refuse_depth(found: Node) -> None:
    layer: list[Node] = [found]
    for _ in range(MAX_DEPTH + 1):
        layer = [inner for each in layer for inner in _inside(each)]
        if not layer:
            return
    raise Malformed(f"line 1: nested more than {MAX_DEPTH} deep")


def _inside(node: Node) -> list[Node]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


class _Stream:
    """One text while its events become nodes."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._left = MAX_NODES

    def documents(self) -> Iterator[Node]:
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    self._anchors = {}
                    node, weight = self._node(next(self._events), 0)
                    self._left -= weight
                    if node is not None:
                        yield node
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise Malformed(f"line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise Malformed(f"line 1: not YAML: {' '.join(str(error).split())[:200]}") from None

    def _node(self, event: Any, depth: int) -> tuple[Node, int]:
        """The node that `event` begins, and how many nodes a walk over it meets."""
        if depth > MAX_DEPTH:
            _refuse(event, f"nested more than {MAX_DEPTH} deep")
        match event:
            case yaml.AliasEvent():
                return self._anchored(event)
            case yaml.ScalarEvent():
                found: tuple[Node, int] = (_scalar(event), 1)
            case yaml.SequenceStartEvent():
                found = self._list(depth)
            case _:
                found = self._mapping(event, depth)
        if found[1] > self._left:
            _refuse(event, f"unfolds to more than {MAX_NODES} values")
        if event.anchor is not None:
            self._anchors[event.anchor] = found
        return found

    def _anchored(self, event: Any) -> tuple[Node, int]:
        found = self._anchors.get(event.anchor)
        if found is None:
            _refuse(event, f"the alias *{event.anchor[:80]} names nothing that is complete before it")
        if found[1] > self._left:
            _refuse(event, f"unfolds to more than {MAX_NODES} values")
        return found

    def _list(self, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        weight = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item, more = self._node(event, depth + 1)
            items.append(item)
            weight += more
            self._bound(event, weight)
        return items, weight

    def _mapping(self, start: Any, depth: int) -> tuple[Node, int]:
        table = Table()
        table.line = start.start_mark.line + 1
        merged: list[Node] = []
        weight = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, _ = self._node(event, depth + 1)
            if not isinstance(key, str):
                _refuse(event, "a key that is no text")
            value, more = self._node(next(self._events), depth + 1)
            weight += 1 + more
            self._bound(event, weight)
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                merged += value if isinstance(value, list) else [value]
            elif key in table:
                _refuse(event, f"the key {key[:80]!r} is there twice in one mapping; remove one")
            else:
                table[key] = value
        for each in merged:
            for name, value in each.items() if isinstance(each, dict) else ():
                table.setdefault(name, value)
        return table, weight

    def _bound(self, event: Any, weight: int) -> None:
        if weight > self._left:
            _refuse(event, f"unfolds to more than {MAX_NODES} values")


def _scalar(event: Any) -> Text | None:
    if event.implicit[0] and event.value in _NULLS:
        return None
    text = Text(event.value)
    text.line = event.start_mark.line + 1
    return text


def _refuse(event: Any, problem: str) -> NoReturn:
    raise Malformed(f"line {event.start_mark.line + 1}: {problem}")
