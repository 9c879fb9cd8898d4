"""Which tags of a repository a set wants."""

from __future__ import annotations

import pytest

from iarproxy.trust.choosing import Selection, choose
from iarproxy.trust.versions import Range

TAGS = (
    "latest",
    "1",
    "1.2.0",
    "1.2.1",
    "1.10.0",
    "1.11.0-rc.1",
    "1.2.1-alpine",
    "2.0.0",
    "2.0.0-alpine",
    f"sha256-{'a' * 64}.sig",
)


@pytest.mark.parametrize(
    ("globs", "semver", "newest", "wanted"),
    [
        (
            ("*",),
            None,
            None,
            ["1", "1.10.0", "1.11.0-rc.1", "1.2.0", "1.2.1", "1.2.1-alpine", "2.0.0", "2.0.0-alpine", "latest"],
        ),
        (("1.2.?",), None, None, ["1.2.0", "1.2.1"]),
        (("1.2.0", "lat*"), None, None, ["1.2.0", "latest"]),
        ((), ">=1.2 <2", None, ["1.10.0", "1.2.0", "1.2.1"]),
        ((), None, 2, ["1.10.0", "2.0.0"]),
        (("1.*",), "^1.2", 1, ["1.10.0"]),
        (("*-alpine",), "^1", None, ["1.2.1-alpine"]),
        (("*-alpine",), ">=1.2.1 <2", None, ["1.2.1-alpine"]),
        (("*-rc*",), ">=1.11.0-rc.1 <2", None, ["1.11.0-rc.1"]),
        (("*-rc*",), ">=1.11.0-rc.2 <2", None, []),
        (("*-*", "1.2.*"), "^1", 2, ["1.11.0-rc.1", "1.2.1"]),
        (("v*",), None, None, []),
    ],
)
def test_choose(globs: tuple[str, ...], semver: str | None, newest: int | None, wanted: list[str]) -> None:
    """Globs, ranges and newest must all hold; suffixes come where a glob means them; attachments never."""
    selection = Selection(globs, None if semver is None else Range.parse(semver), newest)
    assert wanted == [tag.value for tag in choose(selection, TAGS).tags]


def test_what_a_suffix_left_out_is_counted() -> None:
    """Whoever gets nothing is told why."""
    assert 1 == choose(Selection((), Range.parse(">=1.10"), None), ("1.11.0-rc.1",)).suffixed


def test_a_pattern_of_many_stars_is_matched_soon() -> None:
    """Tags are upstream's words; none makes matching slow."""
    selection = Selection(("*a" * 30 + "*b",))
    assert () == choose(selection, ["a" * 128] * 100).tags
