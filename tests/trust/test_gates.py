"""Verdicts of gates: pure facts in, a verdict out; whatever is not a clear yes stops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from iarproxy.oci import Digest, Repository, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX
from iarproxy.trust.gates import (
    Allowed,
    Attached,
    Facts,
    Refused,
    Undecided,
    Verdict,
    facts_as_json,
    judge_age,
    judge_result,
    refused,
    together,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FACTS = Facts(
    environment="prod",
    source="default",
    reference=TagReference(Repository("registry.example.com", "team/app"), Tag("1")),
    digest=Digest.of(b"app"),
    replaces=None,
    media_type=OCI_INDEX,
    size=3,
    platforms=("linux/amd64",),
    pinned_at=NOW,
    first_seen=NOW - timedelta(hours=3),
    attached=(Attached(Digest.of(b"signature"), "application/vnd.dev.sigstore.bundle.v0.3+json"),),
    actor="ann (uid 1000)",
    reason="release 7",
)


@pytest.mark.parametrize(
    ("first_seen", "allowed"),
    [
        (NOW - timedelta(hours=3), True),
        (NOW - timedelta(hours=2), True),
        (NOW - timedelta(minutes=119), False),
        (NOW + timedelta(days=400), False),
        (None, False),
    ],
)
def test_age_fails_closed(first_seen: datetime | None, allowed: bool) -> None:  # noqa: FBT001
    """What is too young, from the future, or of no known age does not pass."""
    verdict = judge_age(replace(FACTS, first_seen=first_seen), timedelta(hours=2), NOW)
    assert allowed is isinstance(verdict, Allowed)


@pytest.mark.parametrize(("least", "spelled"), [(72, "3d"), (50, "50h"), (1.5, "90m"), (0.01, "36s")])
def test_an_age_is_told_as_it_is_written(least: float, spelled: str) -> None:
    """The refusal names the time that is asked for in the units of the configuration."""
    verdict = judge_age(replace(FACTS, first_seen=NOW), timedelta(hours=least), NOW)
    assert isinstance(verdict, Refused)
    assert verdict.reasons[0].endswith(f"here since 2026-11-22 12:00:00Z, for less than {spelled}")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (True, Allowed()),
        ({"allow": True}, Allowed()),
        ({"allow": True, "reasons": ["fine"]}, Allowed()),
        (False, Refused(("the policy refuses and gives no reason",))),
        ({"allow": False, "reasons": ["unsigned", 7, "old"]}, Refused(("unsigned", "old"))),
        ({"allow": False, "reasons": "no"}, Refused(("the policy refuses and gives no reason",))),
    ],
)
def test_a_policys_result(result: Any, expected: Verdict) -> None:
    """True and an object that allows pass; a refusal keeps its reasons."""
    assert expected == judge_result(result, defined=True)


@pytest.mark.parametrize("result", [None, 1, "true", [], [True], {}, {"allow": "true"}, {"allow": 1}, {"deny": False}])
def test_what_is_no_clear_yes_is_a_no(result: Any) -> None:
    """Neither a truthy value nor an object of another shape lets pass."""
    assert isinstance(judge_result(result, defined=True), Refused)


def test_an_undefined_policy_refuses() -> None:
    """OPA answers 200 without a result where no rule applies: that is no permission."""
    assert isinstance(judge_result(None, defined=False), Refused)


def test_all_gates_have_to_allow() -> None:
    """A refusal outweighs what is undecided, and names everything that stands in the way."""
    no, unknown = Refused(("unsigned", "old")), Undecided("did not answer")
    assert Allowed() == together([])
    assert Allowed() == together([("age", Allowed()), ("policy", Allowed())])
    assert Undecided("policy: did not answer") == together([("age", Allowed()), ("policy", unknown)])
    expected = Refused(("command: unsigned", "command: old", "policy: did not answer"))
    assert expected == together([("policy", unknown), ("command", no)])


def test_words_of_others_are_cut() -> None:
    """Many, long and colourful reasons become few, short and plain ones."""
    verdict = refused(["\x1b[31mred\x1b[0m", "", "  ", "x" * 10_000, *map(str, range(100))], "none")
    assert "[31mred [0m" == verdict.reasons[0]
    assert (10, 300) == (len(verdict.reasons), len(verdict.reasons[1]))
    assert Refused(("none",)) == refused(["", "\n"], "none")


def test_facts_are_json() -> None:
    """A gate outside gets every fact, under names that the manual gives."""
    told = facts_as_json(FACTS)
    assert ("prod", "default", "registry.example.com/team/app:1", None) == (
        told["environment"],
        told["from"],
        told["reference"],
        told["replaces"],
    )
    assert str(FACTS.digest) == told["digest"]
    assert ["application/vnd.dev.sigstore.bundle.v0.3+json"] == [each["artifactType"] for each in told["attached"]]
