"""Whether the digest that upstream offers for a tag without a pin may become its pin.

Rule 1: a seed that names another digest always refuses, whatever else speaks for the digest.
Rule 2: what a person removed comes back by a person's approval only; what retention took away comes back by itself
        where it is the same digest, else by approval too. An approval is an act that pins, and is not judged here.
Rule 3: a seed that names the digest is a person's word for it, so it does not cool down; under `admit = "approved"` it
        is not enough.
Rule 4: a cool-down is counted from when this ledger first observed the digest, never from dates inside the image. It
        fails closed: a digest of which no sighting can be believed, or was seen later than now, is still cooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from iarproxy.oci import Digest
from iarproxy.trust.policy import Admission

_NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the tag's rule asks of a digest before it becomes the first pin."""

    admit: Admission = Admission.ANY
    cool_down: timedelta = _NONE


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class NeverPinned:
    """The tag had no pin before."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A person took the tag's pin away."""


@dataclass(frozen=True, slots=True)
class Retired:
    """Retention took the tag's pin on `digest` away."""

    digest: Digest


Past: TypeAlias = NeverPinned | Removed | Retired


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known where a first pin is judged.

    Attributes:
        offered: the digest of bytes hashed here.
        expected: the digest that a seed names for the tag; None: there is no seed.
        first_seen: when this ledger first observed `offered` (aware); None: not known, or not to be believed.
    """

    offered: Digest
    expected: Digest | None
    past: Past
    first_seen: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may be pinned."""


@dataclass(frozen=True, slots=True)
class CoolingDown:
    """It may be pinned from `until` on."""

    until: datetime


@dataclass(frozen=True, slots=True)
class AwaitsApproval:
    """It may be pinned by a person's act only; `why` continues the words "awaits approval: "."""

    why: str


@dataclass(frozen=True, slots=True)
class SeedMismatch:
    """A seed expects another digest."""

    expected: Digest


@dataclass(frozen=True, slots=True)
class NotSeeded:
    """Only seeded digests are admitted, and the tag has no seed."""


Withholding: TypeAlias = CoolingDown | AwaitsApproval | SeedMismatch | NotSeeded
Judgement: TypeAlias = Admitted | Withholding

REMOVED = "a person removed its pin"
RETIRED = "retention took its pin away, and upstream offers another digest than it had"
BY_RULE = "its tag rule admits only what a person approved"


def admission(terms: Terms, facts: Facts) -> Judgement:
    """What the rules above say about pinning `facts.offered`."""
    if facts.expected is not None and facts.expected != facts.offered:
        return SeedMismatch(facts.expected)
    match facts.past:
        case Removed():
            return AwaitsApproval(REMOVED)
        case Retired(digest):
            return Admitted() if digest == facts.offered else AwaitsApproval(RETIRED)
        case NeverPinned():
            return _first(terms, facts)
        case _:
            assert_never(facts.past)


def _first(terms: Terms, facts: Facts) -> Judgement:
    seeded = facts.expected is not None
    match terms.admit:
        case Admission.APPROVED:
            return AwaitsApproval(BY_RULE)
        case Admission.SEEDED if not seeded:
            return NotSeeded()
        case Admission.SEEDED | Admission.ANY:
            return Admitted() if seeded else _cooled(terms.cool_down, facts)
        case _:
            assert_never(terms.admit)


def _cooled(cool_down: timedelta, facts: Facts) -> Judgement:
    if cool_down <= _NONE:
        return Admitted()
    until = (facts.first_seen or facts.now) + cool_down
    return Admitted() if until <= facts.now else CoolingDown(until)
