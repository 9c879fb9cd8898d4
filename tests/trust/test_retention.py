"""Which names may go: keep wins, clocks are apart, and what is not known keeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.trust import Pattern
from iarproxy.trust.retention import (
    Action,
    By,
    Delete,
    Facts,
    Keep,
    LastUse,
    NotUsedSince,
    Rule,
    Untouched,
    UsedAt,
    UseUnknown,
    Verdict,
    decide,
)
from iarproxy.trust.versions import Range, Version

NOW = datetime(2026, 11, 22, tzinfo=UTC)
APP = Repository("registry.example.com", "team/app")


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def pin(
    tag: str = "1", *, age: float = 100, used: LastUse | None = None, within: str = "default", content: str = ""
) -> Facts:
    last = NotUsedSince(ago(90)) if used is None else used
    return Facts(within, TagReference(APP, Tag(tag)), Digest.of((content or tag).encode()), 1, ago(age), last)


def days(count: float | None) -> timedelta | None:
    return None if count is None else timedelta(days=count)


def delete(
    match: str = "**", *, age: float | None = None, unused: float | None = None, within: str = "default"
) -> Rule:
    return Rule(Action.DELETE, Pattern(match), within, f"delete {match}", pinned_age=days(age), unused_for=days(unused))


def keep(match: str = "**", *, used: float | None = None, pinned: float | None = None, within: str = "default") -> Rule:
    return Rule(
        Action.KEEP, Pattern(match), within, f"keep {match}", used_within=days(used), pinned_within=days(pinned)
    )


def verdict(one: Facts, *rules: Rule) -> Verdict:
    return decide([one], rules, NOW)[one.key]


def test_age_and_use_are_different_clocks() -> None:
    """An old name in use stays where a rule asks for disuse, and a young one that nobody uses is not old."""
    both = delete(age=90, unused=30)
    assert Delete("delete **", "pinned 100 days ago, not used for 90 days") == verdict(pin(), both)
    assert Untouched() == verdict(pin(used=UsedAt(ago(1))), both)
    assert Untouched() == verdict(pin(age=80), both)
    assert isinstance(verdict(pin(used=UsedAt(ago(1))), delete(age=90)), Delete)
    assert isinstance(verdict(pin(age=80), delete(unused=30)), Delete)


def test_nothing_is_unused_for_longer_than_it_is_pinned() -> None:
    """A name that was pinned yesterday was unused for a day, whatever is known of earlier days."""
    assert Untouched() == verdict(pin(age=1), delete(unused=30))
    assert Untouched() == verdict(pin(age=1, used=UsedAt(ago(80))), delete(unused=30))


def test_what_is_not_known_keeps() -> None:
    """Uses that cannot be read, or are known for too short a time, delete nothing and satisfy a keep rule."""
    for unknown in (UseUnknown("damaged"), NotUsedSince(ago(10))):
        assert Untouched() == verdict(pin(used=unknown), delete(unused=30))
        assert isinstance(verdict(pin(used=unknown), delete(age=90), keep(used=30)), Keep)
    assert isinstance(verdict(pin(used=NotUsedSince(ago(40))), delete(age=90), keep(used=30)), Delete)


def test_keep_wins_in_any_order() -> None:
    """A rule that keeps is stronger than any that deletes, before it or behind it."""
    for rules in ((delete(age=90), keep()), (keep(), delete(age=90))):
        assert Keep("keep ** keeps it") == verdict(pin(), *rules)
    assert isinstance(verdict(pin(), delete(age=90), keep(within="prod")), Delete)
    assert isinstance(verdict(pin(), delete(age=90), keep("docker.io/**")), Delete)


def test_protections_win_over_all() -> None:
    """A lease keeps whatever rules say; what no rule deletes is not even mentioned."""
    leased = replace(pin(), protections=("lease prod-cluster",))
    assert Keep("lease prod-cluster") == verdict(leased, delete(age=90))
    assert Untouched() == verdict(leased)


def test_the_newest_are_counted_per_repository() -> None:
    """By version, tags that are none are neither counted nor kept; by the time of pinning all count."""
    tags = ["1.0", "1.1", "1.2", "1.10", "latest"]
    pins = [pin(tag, age=200 - number) for number, tag in enumerate(tags)]
    for by, expected in ((By.SEMVER, ["1.2", "1.10"]), (By.PINNED, ["1.10", "latest"])):
        newest = Rule(Action.KEEP, Pattern("**"), "default", "newest", count=2, by=by)
        found = decide(pins, [delete(age=90), newest], NOW)
        assert expected == [each.reference.tag.value for each in pins if isinstance(found[each.key], Keep)]
    narrow = Rule(Action.KEEP, Pattern("**"), "default", "newest", semver=Range.parse("<1.2"), count=1, by=By.SEMVER)
    found = decide(pins, [delete(age=90), narrow], NOW)
    assert ["1.1"] == [each.reference.tag.value for each in pins if isinstance(found[each.key], Keep)]


def test_states() -> None:
    """A rule about what upstream did is about checked pins only."""
    gone = replace(delete(), states=frozenset({"vanished"}))
    assert Delete("delete **", "vanished upstream") == verdict(replace(pin(), state="vanished"), gone)
    assert Untouched() == verdict(replace(pin(), state="steady"), gone)
    assert Untouched() == verdict(pin(), gone)


def test_environments_protect_each_other() -> None:
    """Content that is pinned elsewhere stays, unless it goes there too."""
    here, there = pin(content="x"), pin("prod", within="prod", content="x")
    found = decide([here, there], [delete(age=90)], NOW)
    assert Keep("its content is pinned in prod too, as registry.example.com/team/app:prod") == found[here.key]
    both = [delete(age=90), delete(age=90, within="prod")]
    assert {Delete} == {type(each) for each in decide([here, there], both, NOW).values()}
    again = pin("2", content="x")
    assert {Delete} == {type(each) for each in decide([here, again], [delete(age=90)], NOW).values()}


def test_attachments_are_no_names() -> None:
    """A signature's tag is never deleted on its own."""
    tag = f"sha256-{'a' * 64}.sig"
    assert Untouched() == verdict(pin(tag, content="x"), delete(age=1))


PINS = st.builds(
    pin,
    st.sampled_from(["1", "1.1", "2", "latest", "3-rc1"]),
    age=st.integers(0, 200),
    used=st.one_of(
        st.builds(UsedAt, st.integers(0, 90).map(ago)),
        st.builds(NotUsedSince, st.integers(0, 90).map(ago)),
        st.just(UseUnknown("x")),
    ),
    within=st.sampled_from(["default", "prod"]),
    content=st.sampled_from(["a", "b", ""]),
)
NEWEST = st.builds(
    lambda match, count, by: Rule(Action.KEEP, Pattern(match), "default", "newest", count=count, by=by),
    st.sampled_from(["**", "**:1*"]),
    st.integers(1, 3),
    st.sampled_from(list(By)),
)
RULES = st.one_of(
    NEWEST,
    st.builds(
        delete,
        st.sampled_from(["**", "**:1*"]),
        age=st.sampled_from([None, 0, 90]),
        unused=st.sampled_from([None, 30]),
        within=st.sampled_from(["default", "prod"]),
    ),
    st.builds(
        keep,
        st.sampled_from(["**:latest", "**:1*"]),
        used=st.sampled_from([None, 30]),
        pinned=st.sampled_from([None, 30]),
        within=st.sampled_from(["default", "prod"]),
    ),
)


def may_go(one: Facts, pins: list[Facts], rules: list[Rule]) -> bool:
    """The reference model: the rules as a person reads them, one pin at a time."""

    def newest(rule: Rule) -> list[Facts]:
        about = [each for each in pins if each.environment == "default" and rule.match.matches(each.reference)]
        if rule.by is By.PINNED:
            ordered = sorted(about, key=lambda each: (each.pinned_at, str(each.reference)))
        else:
            versions = [(Version.of(each.reference.tag.value), each) for each in about]
            known = [(version, str(each.reference), each) for version, each in versions if version is not None]
            ordered = [each for _, _, each in sorted(known, key=lambda it: it[:2])]
        return ordered[::-1][: rule.count]

    def alone(each: Facts) -> bool:
        unknown = isinstance(each.used, UseUnknown)
        last = NOW if isinstance(each.used, UseUnknown) else getattr(each.used, "at", None) or each.used.since  # type: ignore[union-attr]  # one of two
        idle = NOW - max(last, each.pinned_at)
        old = NOW - each.pinned_at
        about = [rule for rule in rules if rule.environment == each.environment and rule.match.matches(each.reference)]
        counted = any(rule.count is not None and each in newest(rule) for rule in about)
        kept = counted or any(
            (rule.pinned_within is None or old <= rule.pinned_within)
            and (rule.used_within is None or unknown or NOW - last <= rule.used_within)
            for rule in about
            if rule.action is Action.KEEP and rule.count is None
        )
        deleted = any(
            (rule.pinned_age is None or old >= rule.pinned_age)
            and (rule.unused_for is None or (not unknown and idle >= rule.unused_for))
            for rule in about
            if rule.action is Action.DELETE
        )
        return deleted and not kept

    same = [each for each in pins if each.digest == one.digest]
    return alone(one) and (len({each.environment for each in same}) == 1 or all(map(alone, same)))


@given(st.lists(PINS, max_size=8, unique_by=lambda each: each.key), st.lists(RULES, max_size=4))
def test_it_is_what_the_rules_say(pins: list[Facts], rules: list[Rule]) -> None:
    """A name goes exactly where the model says so; the order of the pins changes nothing."""
    found = decide(pins, rules, NOW)
    assert {each.key: may_go(each, pins, rules) for each in pins} == {
        key: isinstance(each, Delete) for key, each in found.items()
    }
    again = decide(pins[::-1], rules, NOW)
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in again.items()}
