"""Tags that are versions: their order, and ranges of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.errors import Malformed
from iarproxy.trust.versions import Range, Version

# SemVer 2.0.0, section 11.4.4, with releases around it
ORDERED = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
ORDERED += ["1.0.0-rc.1", "1.0.0", "v1.0.1", "1.2", "1.10", "2"]


def version(tag: str) -> Version:
    found = Version.of(tag)
    assert found is not None
    return found


def test_the_order() -> None:
    """It is that of SemVer; what is missing counts as 0."""
    assert sorted(ORDERED, key=version) == ORDERED
    assert version("1.2") == version("v1.2.0")


@pytest.mark.parametrize("tag", ["latest", "1.2.3.4", "v", "", "1..2", "-1", "1.2.3-", "stable-1.2", "20260101T01"])
def test_what_is_no_version(tag: str) -> None:
    """Such a tag is nothing that a range is about."""
    assert Version.of(tag) is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2 <2", ["1.2", "1.99.9", "2.0.0-rc1"], ["1.1.9", "2", "1.2.0-rc1"]),
        (">=1.2, <2", ["1.2"], ["2"]),
        ("^1.4", ["1.4", "1.9.1"], ["1.3", "2", "2.0.0-rc1"]),
        ("^0.3.1", ["0.3.1", "0.3.9"], ["0.4", "1"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("^0", ["0.0.0", "0.9.1"], ["1", "1.0.0-rc1"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1"]),
        ("~1.4.2", ["1.4.2", "1.4.9"], ["1.4.1", "1.5"]),
        ("~1.4", ["1.4.0", "1.4.9"], ["1.5"]),
        ("~1", ["1.0.0", "1.9.9"], ["0.9", "2", "2.0.0-rc1"]),
        ("1.2.3", ["v1.2.3"], ["1.2.4", "1.2.3-rc1"]),
        ("> 1", ["1.0.1"], ["1"]),
    ],
)
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    """All comparisons must hold."""
    found = Range.parse(text)
    assert (inside, []) == (
        [tag for tag in inside if found.holds(version(tag))],
        [tag for tag in outside if found.holds(version(tag))],
    )


@pytest.mark.parametrize("text", ["", "latest", ">=", ">=1.2 || <1", "1.2.3.4", ">=1 foo"])
def test_what_is_no_range(text: str) -> None:
    """It is refused with what a range looks like."""
    with pytest.raises(Malformed, match="write for example"):
        Range.parse(text)


@given(st.lists(st.from_regex(r"[0-3](\.[0-3]){0,2}(-[a0-2]{1,2}(\.[a0-2]{1,2})?)?", fullmatch=True), min_size=3))
def test_it_is_an_order(tags: list[str]) -> None:
    """Whatever is compared: sorting is stable, and neighbours are in order."""
    found = sorted(map(version, tags))
    assert all(not later < earlier for earlier, later in pairwise(found))
