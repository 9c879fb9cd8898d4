"""Which digest may become a first pin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iarproxy.oci import Digest
from iarproxy.trust import Admission
from iarproxy.trust.admission import (
    BY_RULE,
    REMOVED,
    RETIRED,
    Admitted,
    AwaitsApproval,
    CoolingDown,
    Facts,
    Judgement,
    NeverPinned,
    NotSeeded,
    Past,
    Removed,
    Retired,
    SeedMismatch,
    Terms,
    admission,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
A, B = Digest.of(b"a"), Digest.of(b"b")
THREE_DAYS = timedelta(days=3)

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds
PASTS = st.sampled_from([NeverPinned(), Removed(), Retired(A), Retired(B)])
TERMS = st.builds(Terms, st.sampled_from(Admission), st.timedeltas(timedelta(0), timedelta(days=400)))
FACTS = st.builds(
    Facts,
    offered=st.just(A),
    expected=st.sampled_from([None, A, B]),
    past=PASTS,
    first_seen=st.none() | MOMENTS,
    now=MOMENTS,
)


def facts(
    *, expected: Digest | None = None, past: Past | None = None, first_seen: datetime | None = NOW - THREE_DAYS
) -> Facts:
    return Facts(A, expected, past or NeverPinned(), first_seen, NOW)


COOLING = Terms(cool_down=THREE_DAYS)
SEEDED, APPROVED = Terms(Admission.SEEDED), Terms(Admission.APPROVED)
CASES: list[tuple[Terms, Facts, Judgement]] = [
    (Terms(), facts(), Admitted()),
    (Terms(), facts(first_seen=None), Admitted()),
    (Terms(), facts(expected=A), Admitted()),
    (Terms(), facts(expected=B), SeedMismatch(B)),
    (COOLING, facts(), Admitted()),
    (COOLING, facts(first_seen=NOW - timedelta(days=2)), CoolingDown(NOW + timedelta(days=1))),
    (COOLING, facts(first_seen=None), CoolingDown(NOW + THREE_DAYS)),
    (COOLING, facts(first_seen=NOW + timedelta(days=9)), CoolingDown(NOW + timedelta(days=12))),
    (COOLING, facts(first_seen=None, expected=A), Admitted()),
    (COOLING, facts(first_seen=None, expected=B), SeedMismatch(B)),
    (SEEDED, facts(), NotSeeded()),
    (SEEDED, facts(expected=A), Admitted()),
    (SEEDED, facts(expected=B), SeedMismatch(B)),
    (Terms(Admission.SEEDED, THREE_DAYS), facts(expected=A, first_seen=None), Admitted()),
    (APPROVED, facts(), AwaitsApproval(BY_RULE)),
    (APPROVED, facts(expected=A), AwaitsApproval(BY_RULE)),
    (APPROVED, facts(expected=B), SeedMismatch(B)),
    (Terms(), facts(past=Removed()), AwaitsApproval(REMOVED)),
    (Terms(), facts(past=Removed(), expected=A), AwaitsApproval(REMOVED)),
    (Terms(), facts(past=Removed(), expected=B), SeedMismatch(B)),
    (COOLING, facts(past=Removed(), first_seen=None), AwaitsApproval(REMOVED)),
    (Terms(), facts(past=Retired(A)), Admitted()),
    (Terms(), facts(past=Retired(B)), AwaitsApproval(RETIRED)),
    (COOLING, facts(past=Retired(A), first_seen=None), Admitted()),
    (APPROVED, facts(past=Retired(A)), Admitted()),
    (SEEDED, facts(past=Retired(B), expected=A), AwaitsApproval(RETIRED)),
]


@pytest.mark.parametrize(("terms", "found", "expected"), CASES)
def test_each_rule(terms: Terms, found: Facts, expected: Judgement) -> None:
    """Seeds first, then what was taken away, then the tag's rule, then the cool-down."""
    assert expected == admission(terms, found)


@given(TERMS, FACTS)
def test_a_seed_that_disagrees_always_refuses(terms: Terms, found: Facts) -> None:
    """Nothing else that speaks for a digest lets it in against a seed."""
    if found.expected == B:
        assert SeedMismatch(B) == admission(terms, found)


@given(TERMS, FACTS)
def test_what_a_person_removed_never_comes_back_by_itself(terms: Terms, found: Facts) -> None:
    """No rule, seed or moment admits anything after a removal."""
    if isinstance(found.past, Removed):
        assert isinstance(admission(terms, found), AwaitsApproval | SeedMismatch)


@given(TERMS, FACTS, st.integers(0, 10**6))
def test_a_cool_down_ends_when_it_says(terms: Terms, found: Facts, before: int) -> None:
    """At `until` the same digest is admitted, and no microsecond before; unless its sighting is lost meanwhile."""
    said = admission(terms, found)
    if isinstance(said, CoolingDown):
        seen = found.first_seen or found.now
        later = Facts(A, found.expected, found.past, seen, said.until)
        earlier = Facts(A, found.expected, found.past, seen, said.until - timedelta(microseconds=1 + before))
        assert (Admitted(), said) == (admission(terms, later), admission(terms, earlier))


@given(TERMS, FACTS)
def test_an_unknown_sighting_is_never_better_than_one_of_now(terms: Terms, found: Facts) -> None:
    """What cannot be read counts as seen for the first time now."""
    unknown = Facts(A, found.expected, found.past, None, found.now)
    seen_now = Facts(A, found.expected, found.past, found.now, found.now)
    assert admission(terms, unknown) == admission(terms, seen_now)
