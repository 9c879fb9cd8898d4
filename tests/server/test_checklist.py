"""The server checklist (clients.md section 10) is proven line by line, by tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from checklist import ALL, DECIDED, PROVEN, SEEN

TESTS = Path(__file__).parent.parent
_NAMED = re.compile(r"test_items?((?:_\d\d)+(?:_and_\d\d)?)_")


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The test functions of a file."""
    found = ast.parse(path.read_text()).body
    return frozenset(each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def named() -> dict[int, list[str]]:
    """The tests that carry an item's number, by item."""
    found: dict[int, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_checklist_*.py")):
        for name in functions_of(path):
            matched = _NAMED.match(name)
            for number in re.findall(r"\d\d", matched[1]) if matched else []:
                found.setdefault(int(number), []).append(name)
    return found


def test_every_item_is_proven() -> None:
    """All 83 lines: by a test that carries the number, by one that the table names, or by a decision that is seen."""
    known = set(named()) | set(PROVEN) | set(SEEN)
    assert set(ALL) == known
    assert set(DECIDED) <= known


@pytest.mark.parametrize("item", sorted({**PROVEN, **SEEN}))
def test_what_proves_it_exists(item: int) -> None:
    """Each test that the tables name is there, and is a test."""
    for each in (*PROVEN.get(item, ()), *SEEN.get(item, ())):
        path, _, name = each.partition("::")
        assert name.startswith("test_")
        assert name in functions_of(TESTS / path), each


def test_every_numbered_test_is_read() -> None:
    """No test of the checklist has a name from which no item can be read."""
    unread = [
        name
        for path in Path(__file__).parent.glob("test_checklist_*.py")
        for name in functions_of(path)
        if name.startswith("test_") and _NAMED.match(name) is None
    ]
    assert [] == unread
