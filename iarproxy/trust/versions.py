"""Tags that are versions, and ranges of them.

Rule 1: a version is `1`, `1.2` or `1.2.3`, with or without `v` before it; what is missing counts as 0. What follows a
        hyphen is a pre-release (SemVer 2.0.0, section 11), also where a publisher means a variant by it, as in
        `1.2.3-alpine`. Anything else, four numbers for example, is no version.
Rule 2: a range is comparisons that must all hold: `>=1.2 <2`, `^1.4`, `~1.4.2`, `=2.0.0`; a bare version means `=`.
        `^` lets no number change up to the first that is not 0, or the last that is written; `~` the last but one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import total_ordering
from operator import eq, ge, gt, le, lt
from typing import Any, Self, TypeAlias

from iarproxy.errors import Malformed

_VERSION = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?(?:-([0-9A-Za-z.-]{1,100}))?", re.ASCII)
_COMPARISON = re.compile(r"(>=|<=|>|<|=|\^|~)?\s*(v?[0-9][0-9A-Za-z.-]*)", re.ASCII)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt, "=": eq, "": eq}
_Part: TypeAlias = tuple[int, int, str]


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version, ordered as SemVer says."""

    numbers: tuple[int, int, int]
    pre: str = ""

    @classmethod
    def of(cls, tag: str) -> Self | None:
        """The version that a tag spells; None: it spells none."""
        found = _VERSION.fullmatch(tag)
        if found is None:
            return None
        major, minor, patch = (int(each or 0) for each in found.groups()[:3])
        return cls((major, minor, patch), found[4] or "")

    def __lt__(self, other: Version) -> bool:
        return (self.numbers, *self._rank()) < (other.numbers, *other._rank())

    def _rank(self) -> tuple[bool, tuple[_Part, ...]]:
        """A pre-release comes before its release; its numbers before its words."""
        return not self.pre, tuple((0, int(each), "") if each.isdigit() else (1, 0, each) for each in self._parts())

    def _parts(self) -> list[str]:
        return self.pre.split(".") if self.pre else []


@dataclass(frozen=True, slots=True)
class Range:
    """Comparisons that must all hold. `names_suffixes`: whether a version with one was written."""

    text: str
    comparisons: tuple[tuple[str, Version], ...]
    names_suffixes: bool = False

    @property
    def meaning(self) -> list[str]:
        """The same for all spellings of it."""
        return sorted({f"{operator or '='}{version.numbers}{version.pre}" for operator, version in self.comparisons})

    @classmethod
    def parse(cls, text: str) -> Self:
        """The range in its spelling.

        Raises:
            Malformed: it is none.
        """
        rest = _COMPARISON.sub("", text)
        found = [(operator, Version.of(version)) for operator, version in _COMPARISON.findall(text)]
        parsed = [(operator, version) for operator, version in found if version is not None]
        if rest.strip(" ,") or not parsed or len(parsed) != len(found):
            raise Malformed(f'not a range of versions: {text[:80]!r}; write for example ">=1.2 <2" or "^1.4"')
        written = [each.split("-")[0].count(".") + 1 for _, each in _COMPARISON.findall(text)]
        spread = [each for one, parts in zip(parsed, written, strict=True) for each in _spread(*one, parts)]
        return cls(text, tuple(spread), any(version.pre for _, version in parsed))

    def holds(self, version: Version) -> bool:
        """Whether `version` is in it."""
        return all(_OPERATORS[operator](version, bound) for operator, bound in self.comparisons)


def _spread(operator: str, version: Version, written: int) -> list[tuple[str, Version]]:
    """`^` and `~` as two comparisons; `written`: how many numbers the version has."""
    if operator not in ("^", "~"):
        return [(operator, version)]
    fixed = min(written, 2) - 1  # the place of the last number that may not change
    if operator == "^":
        fixed = next((at for at, number in enumerate(version.numbers[:written]) if number), written - 1)
    kept = version.numbers[:fixed]
    above = (*kept, version.numbers[fixed] + 1, 0, 0)
    return [(">=", version), ("<", Version((above[0], above[1], above[2]), "0"))]
