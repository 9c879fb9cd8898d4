"""What a promotion would do, name by name: values and one decision, without I/O.

Rule 1: only digests are promoted. A name that is wanted by digest is that digest in the source, or it is refused: so a
        plan that was printed is carried out as it was printed, or not at all.
Rule 2: a name that stands for something else in the target is not moved unless exactly that digest is named.
Rule 3: what is there already is unchanged, whatever else was asked for it: a second run finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from iarproxy.ledger import Pin, Unpinned
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Digest, TagReference
from iarproxy.trust.gates import Refused, Undecided, Verdict, together


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name to promote.

    Attributes:
        digest: what it has to be in the source; None: whatever it is there.
        replaces: what it stands for in the target, where it may be moved.
    """

    reference: TagReference
    digest: Digest | None = None
    replaces: Digest | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A promotion as a person asks for it. `partial`: also what cannot be held completely."""

    source: str
    target: str
    wanted: Sequence[Wanted]
    reason: str
    actor: str
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The target has it already."""


@dataclass(frozen=True, slots=True)
class New:
    """The name has no pin in the target."""


@dataclass(frozen=True, slots=True)
class Replaces:
    """The name stands for `old` in the target."""

    old: Digest


@dataclass(frozen=True, slots=True)
class NotPromoted:
    """It may not be done, and why."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotNow:
    """It cannot be told whether it may be done, and why; a later try may tell."""

    reasons: tuple[str, ...]


Outcome: TypeAlias = Unchanged | New | Replaces | NotPromoted | NotNow


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one name.

    Attributes:
        pin: the source's; None: it has none.
        held: how much of its content is here; None: nobody looked.
        verdicts: of the target's gates, by their names.
    """

    reference: TagReference
    outcome: Outcome
    pin: Pin | None = None
    held: Held | None = None
    verdicts: tuple[tuple[str, Verdict], ...] = ()

    @property
    def changes(self) -> bool:
        """Whether the name will stand for something else."""
        return isinstance(self.outcome, New | Replaces)


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a promotion. They are done together, or none of them is."""

    order: Order
    steps: tuple[Step, ...]

    @property
    def changing(self) -> list[Step]:
        """The steps that are more than to find that nothing is to be done."""
        return [step for step in self.steps if step.changes]

    @property
    def refused(self) -> list[Step]:
        """What stands in the way of all."""
        return [step for step in self.steps if isinstance(step.outcome, NotPromoted)]

    @property
    def undecided(self) -> list[Step]:
        """What may be possible later."""
        return [step for step in self.steps if isinstance(step.outcome, NotNow)]

    @property
    def is_possible(self) -> bool:
        """Whether nothing stands in the way."""
        return not (self.refused or self.undecided)


def outcome_of(wanted: Wanted, source: Pin | None, target: Pin | Unpinned, order: Order) -> Outcome:
    """What becomes of a name, as far as pins alone tell."""
    name = wanted.reference
    if source is None:
        return NotPromoted((f"{name} has no pin in {order.source}",))
    digest = source.descriptor.digest
    if wanted.digest not in (None, digest):
        return NotPromoted((f"{name} is pinned to {digest} in {order.source}, not to {wanted.digest}: plan it anew",))
    old = target.descriptor.digest if isinstance(target, Pin) else None
    if old == digest:
        return Unchanged()
    if wanted.replaces != old:
        return NotPromoted((_stands(wanted, old, order.target),))
    return New() if old is None else Replaces(old)


def _stands(wanted: Wanted, old: Digest | None, target: str) -> str:
    name, named = wanted.reference, wanted.replaces
    if old is None:
        return f"{name} has no pin in {target}, and so none on {named}"
    if named is None:
        return f"{name} stands for {old} in {target} already; `--replace {old}` would move it"
    return f"{name} stands for {old} in {target}, not for {named}"


def judged(outcome: Outcome, verdicts: Sequence[tuple[str, Verdict]]) -> Outcome:
    """`outcome`, unless the gates say otherwise."""
    match together(verdicts):
        case Refused(reasons=reasons):
            return NotPromoted(reasons)
        case Undecided(reason=reason):
            return NotNow((reason,))
        case _:
            return outcome
