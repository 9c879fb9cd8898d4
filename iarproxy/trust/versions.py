"""Tags that are versions, and ranges of them.

Rule 1: a version is `1`, `1.2` or `1.2.3`, with or without `v` before it; what is missing counts as 0. What follows a
        hyphen is a pre-release (SemVer 2.0.0, section 11), also where a publisher means a variant by it, as in
        `1.2.3-alpine`. Anything else, four numbers for example, is no version.
Rule 2: a range is comparisons that must all hold: `>=1.2 <2`, `^1.4`, `~1.4.2`, `=2.0.0`; a bare version means `=`.
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
    """Comparisons that must all hold."""

    text: str
    comparisons: tuple[tuple[str, Version], ...]

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
        spread = [each for operator, version in parsed for each in _spread(operator, version)]
        return cls(text, tuple(spread))

    def holds(self, version: Version) -> bool:
        """Whether `version` is in it."""
        return all(_OPERATORS[operator](version, bound) for operator, bound in self.comparisons)


def _spread(operator: str, version: Version) -> list[tuple[str, Version]]:
    """`^` and `~` as two comparisons."""
    major, minor, patch = version.numbers
    if operator == "~":
        return [(">=", version), ("<", Version((major, minor + 1, 0), "0"))]
    if operator == "^":
        above = (major + 1, 0, 0) if major else (0, minor + 1, 0) if minor else (0, 0, patch + 1)
        return [(">=", version), ("<", Version(above, "0"))]
    return [(operator, version)]
