"""The page of clients says what tests proved, and nothing else."""

from __future__ import annotations

from typing import Any

import table
from proofs import CAPABILITIES

FILE = "tests/real/test_x.py"


def result(test: str, outcome: str = "passed", version: str = "1.2", **more: Any) -> dict[str, Any]:
    made = {"test": f"{FILE}::{test}[a]@group", "outcome": outcome, "client": "crane", "version": version}
    return made | {"proves": ["tag"], "lacks": {}, "says": f"What {test} says."} | more


def row(*results: dict[str, Any]) -> dict[str, str]:
    """The one row of the table, by column."""
    lines = [line.strip("| \n").split(" | ") for line in table.page(results).splitlines() if line.startswith("| ")]
    heads, cells = lines
    return dict(zip(heads, cells, strict=True))


def test_columns() -> None:
    """Every capability that a test can prove has a column."""
    assert tuple(table.MEANING) == CAPABILITIES


def test_yes() -> None:
    """All that ran passed: yes, with the numbers of the tests; the rest has no test."""
    seen = row(result("test_a"), result("test_b"), result("test_c", "skipped"))
    assert (seen["client"], seen["version"], seen["tag"], seen["digest"]) == ("crane", "1.2", "yes 1, 2", "-")


def test_fails() -> None:
    """One failure counts more than all that passed."""
    assert row(result("test_a"), result("test_b", "failed"))["tag"] == "fails 2"


def test_lacks() -> None:
    """Not applicable, with the reason; a part of it, with both."""
    seen = row(result("test_a", lacks={"tag": "only now and then", "resume": "starts over"}))
    assert (seen["tag"], seen["resume"]) == ("yes 1; but (a)", "n/a (b)")


def test_tests_and_reasons() -> None:
    """Numbers and letters are explained below the table."""
    said = table.page([result("test_a", lacks={"resume": "starts over"})])
    assert "- (a) starts over" in said
    assert "1. [`test_x.py::test_a`](../tests/real/test_x.py): What test_a says." in said


def test_versions_in_order() -> None:
    """Versions are sorted as numbers."""
    said = table.page([result("test_a", version="1.10.1"), result("test_a", version="1.9")])
    assert said.index("| 1.9 |") < said.index("| 1.10.1 |")


def test_many_reasons() -> None:
    """After z come two letters."""
    assert [table._letter(each) for each in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]
