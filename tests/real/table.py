"""The table in docs/clients.md, made of what tests proved: `make clients-table`.

    python tests/real/table.py RESULTS.json... > docs/clients.md

Rule 1: a cell says only what a test showed in one of the runs given: "yes" where all that ran passed, "fails" where one
        did not. Each names its tests by number.
Rule 2: what a client does not do by itself is "n/a" with the reason, as its tests state it; where it does a part, both.
Rule 3: all text is here; nothing in the page is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEANING = {
    "mirror mode": "The image is asked for by its ordinary name and comes from the mirror; "
    "the real registry hears nothing.",
    "explicit name": "The image is asked for by the mirror's own address.",
    "digest": "By digest, also of what no tag names any more.",
    "tag": "By tag: the client gets what upstream's tag named, and upstream sends each part once.",
    "strict mode": "A configuration in which nothing reaches the real registry, also while the mirror is stopped.",
    "refusal": "A refused tag stops the client: by 403 where it has no other way than ours, in ordinary mirror mode "
    "by the refusal manifest (`on_drift` or `refusal` = `stop`).",
    "resume": "A transfer that breaks in the middle is completed: one of upstream's, and one of the client's own.",
    "referrers": "What is attached to an image is found through the mirror.",
    "50 warm pulls": "Fifty pulls of what is cached make no request upstream.",
    "moved tag": "After upstream moved the tag the client still gets the pinned image.",
    "media types": "Docker's media types, several platforms, zstd layers, artifacts: as far as the client takes them.",
}
_HEAD = """# Clients

Which client can rely on what, seen by running it: each `yes` names the tests that passed with the program itself, in
the version that it prints. Made by `make clients-table` of the results of `make clients` (or `make test`); do not edit.
`iarproxy setup CLIENT` writes the configuration that a client needs.

- "real registry" is what the client would ask if there were no mirror. In the tests a listener that only counts stands
  for it, so that "hears nothing" is measured.
- "n/a" is what the client does not do by itself; the letter says why.
- "-" has no test.
"""


@dataclass
class Cell:
    """What is known about one capability of one client."""

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)


Rows = dict[tuple[str, str], dict[str, Cell]]


def _test(result: dict[str, Any]) -> str:
    """The test's function, whatever its parameters and the worker that ran it."""
    return str(result["test"]).split("[")[0].split("@")[0]


def gather(results: Iterable[dict[str, Any]]) -> Rows:
    """Cells by client and version."""
    rows: Rows = {}
    for each in results:
        row = rows.setdefault((each["client"], each["version"]), {})
        for capability, why in each["lacks"].items():
            row.setdefault(capability, Cell()).lacks.add(why)
        if each["outcome"] != "skipped":
            for capability in each["proves"]:
                cell = row.setdefault(capability, Cell())
                (cell.passed if each["outcome"] == "passed" else cell.failed).add(_test(each))
    return rows


def _letter(number: int) -> str:
    """`a` to `z`, then `aa` and so on."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


class Page:
    """The page, with the numbers of tests, and the letters of reasons as they come up."""

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self._rows = gather(results)
        self._says = {_test(each): str(each["says"]) for each in results}
        proving = {_test(each) for each in results if each["proves"] and each["outcome"] != "skipped"}
        self._tests = {test: number for number, test in enumerate(sorted(proving), 1)}
        self._reasons: dict[str, str] = {}

    def lines(self) -> Iterator[str]:
        yield _HEAD
        yield f"| client | version | {' | '.join(MEANING)} |"
        yield "|---" * (len(MEANING) + 2) + "|"
        for (client, version), cells in sorted(self._rows.items(), key=_in_order):
            yield f"| {client} | {version} | {' | '.join(self._cell(cells.get(each)) for each in MEANING)} |"
        yield "\n## What the columns mean\n"
        yield from (f"- **{capability}**: {meaning}" for capability, meaning in MEANING.items())
        yield "\n## Why not\n"
        yield from (f"- ({letter}) {why}" for why, letter in self._reasons.items())
        yield "\n## The tests\n"
        yield from (f"{number}. {self._link(test)}: {self._says[test]}" for test, number in self._tests.items())

    def _cell(self, cell: Cell | None) -> str:
        if cell is None:
            return "-"
        parts = []
        if cell.failed or cell.passed:
            parts.append(f"{'fails' if cell.failed else 'yes'} {self._numbers(cell.failed or cell.passed)}")
        if cell.lacks:
            letters = ", ".join(
                self._reasons.setdefault(why, _letter(len(self._reasons))) for why in sorted(cell.lacks)
            )
            parts.append(f"{'but' if parts else 'n/a'} ({letters})")
        return "; ".join(parts)

    def _numbers(self, tests: set[str]) -> str:
        return ", ".join(map(str, sorted(self._tests[test] for test in tests)))

    @staticmethod
    def _link(test: str) -> str:
        file, _, function = test.partition("::")
        return f"[`{Path(file).name}::{function}`](../{file})"


def _in_order(row: tuple[tuple[str, str], object]) -> tuple[str, list[int]]:
    (client, version), _ = row
    return client, [int(each) for each in version.split(".")]


def page(results: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    return "\n".join(Page(results).lines()) + "\n"


if __name__ == "__main__":
    read = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    sys.stdout.write(page([each for results in read for each in results]))
