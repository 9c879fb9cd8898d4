"""The pins of one environment, as one process sees them.

Rule 1: `peek` is memory and never waits; everything else asks the ledger thread and has a deadline.
Rule 2: None from `pin_of` means that the tag has no pin, as table and journal agree. What cannot be read is
        `LedgerDamaged` or `LedgerUnavailable`; no caller may turn that into "ask upstream" (threats rule 7).
Rule 3: what a call that changes something returns is durable, in the database and in the journal file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection

from iarproxy.errors import Denied
from iarproxy.ledger import admission, drift, pins
from iarproxy.ledger.admission import Withheld
from iarproxy.ledger.memory import Memory
from iarproxy.ledger.pin_reading import PinReading, Shared
from iarproxy.ledger.thread import DEADLINE
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import (
    Change,
    DriftState,
    EventKind,
    Pin,
    Unpinned,
)
from iarproxy.oci import Descriptor, Digest, TagReference
from iarproxy.trust.admission import NO_TERMS, Terms
from iarproxy.trust.drift import Verdict

_EACH = 0.02  # seconds that one name of an act may take, of many in one transaction
_WITHHELD = 10_000  # candidates kept in memory

T = TypeVar("T")
Held: TypeAlias = tuple[Pin, DriftState | None]


class PinSet(PinReading):
    """Pins, their drift states and their history within `environment`."""

    def __init__(self, environment: str, shared: Shared) -> None:
        super().__init__(environment, shared)
        self._memory: Memory[TagReference, Held] = Memory(shared.remembered)
        self._withheld: Memory[TagReference, Withheld] = Memory(_WITHHELD)
        shared.sets[environment] = self

    # --- memory -----------------------------------------------------------------------------------------------------

    def peek(self, reference: TagReference) -> Pin | None:
        """The pin, from memory; None: not in memory, ask `pin_of`."""
        held = self._memory.get(reference)
        return None if held is None else held[0]

    def peek_drift(self, reference: TagReference) -> DriftState | None:
        """The drift state that belongs to what `peek` gives; None: nothing known."""
        held = self._memory.get(reference)
        return None if held is None else held[1]

    def peek_withheld(self, reference: TagReference) -> Withheld | None:
        """What `admit` withheld in this process since the tag was last changed, from memory; as old as it says."""
        return self._withheld.get(reference)

    # --- pins -------------------------------------------------------------------------------------------------------

    async def pin_of(self, reference: TagReference) -> Pin | None:
        """The pin, from the database.

        Raises:
            LedgerDamaged: when the tag's row is damaged, or lost although the journal knows a pin.
            LedgerUnavailable: when there is no answer now.
        """

        def look(connection: Connection) -> Held | None:
            found = pins.standing(connection, self._name(reference))
            return (found, drift.state_of(connection, found)) if isinstance(found, Pin) else None

        held = await self._noting(reference, self._thread.read(look, kept=self._keeper(reference)))
        return None if held is None else held[0]

    async def admit(
        self, reference: TagReference, descriptor: Descriptor, source: str, terms: Terms = NO_TERMS
    ) -> Pin | Withheld:
        """Pin a tag that has no pin to content that upstream offers and that was hashed here, where `terms` allow it.

        The pin it has now, ours or that of whoever was first; or that and why the content is withheld.

        Raises:
            LedgerDamaged, LedgerUnavailable: as `pin_of`; then the caller must not serve the tag.
        """

        def work(tx: Transaction) -> Held | Withheld:
            found = admission.admit(tx, self._name(reference), descriptor, source, terms)
            return found if isinstance(found, Withheld) else (found, drift.state_of(tx.connection, found))

        def keep(found: Held | Withheld) -> None:
            if isinstance(found, Withheld):
                self._withheld.put(reference, found)
            else:
                self._keep(reference, found)

        found = await self._noting(reference, self._thread.write(work, kept=keep))
        return found if isinstance(found, Withheld) else found[0]

    async def add(self, reference: TagReference, descriptor: Descriptor, source: str) -> Pin:
        """As `admit` for a tag of which no rule asks anything.

        Raises:
            Denied: it is withheld all the same, because of a seed or of a removal.
        """
        found = await self.admit(reference, descriptor, source)
        if isinstance(found, Withheld):
            raise Denied(f"{found.name} is not pinned to {descriptor.digest}: {found.why}")
        return found

    async def still_withheld(self, reference: TagReference, terms: Terms, now: datetime) -> Withheld | None:
        """As `candidate`, judged anew as `admit` would at `now`; None: nothing is withheld. Raises as `pin_of`."""
        look = partial(admission.still_withheld, name=self._name(reference), terms=terms, now=now)
        return await self._noting(reference, self._thread.read(look))

    async def repin(
        self, reference: TagReference, old: Digest, new: Descriptor, *, reason: str, actor: str, source: str
    ) -> Pin:
        """A person's act: replace the pin on `old` by one on `new`.

        Raises:
            Conflict: naming the digest that is pinned, when it is not `old` (or is `new` already).
            Malformed: without a reason or an actor.
            LedgerDamaged, LedgerUnavailable: as `pin_of`.
        """
        wanted = Change(self.environment, reference, old, new, source)
        made = (await self.change(EventKind.REPINNED, [wanted], reason=reason, actor=actor))[0]
        assert isinstance(made, Pin)  # noqa: S101  # a change to a descriptor makes a pin; for the type checker
        return made

    async def remove(self, reference: TagReference, old: Digest, *, reason: str, actor: str) -> None:
        """A person's act: take the pin on `old` away; the history stays.

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: as `repin`.
        """
        wanted = Change(self.environment, reference, old, None)
        await self.change(EventKind.REMOVED, [wanted], reason=reason, actor=actor)

    async def change(
        self, kind: EventKind, changes: Sequence[Change], *, reason: str, actor: str
    ) -> list[Pin | Unpinned]:
        """A person's act on names of any environment, all of them or none; what each stands for after it.

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: as `repin`; nothing is changed then.
        """
        work = partial(pins.change, kind=kind, changes=changes, reason=reason, actor=actor)

        def keep(made: list[Pin | Unpinned]) -> None:
            for each in made:
                self._shared.within(each.environment).keep_act(each)

        return await self._thread.write(work, kept=keep, deadline=DEADLINE + _EACH * len(changes))

    def keep_act(self, made: Pin | Unpinned) -> None:
        """Know what an act of this process made, and tell it."""
        self._withheld.drop(made.reference)
        self._keep(made.reference, (made, None) if isinstance(made, Pin) else None)
        self._shared.tell(made.reference)

    async def record_check(
        self, reference: TagReference, verdict: Verdict, offered: Descriptor | None, evidence: dict[str, Any]
    ) -> bool:
        """Keep what upstream was seen to offer; True when that is news, which is journaled with its evidence.

        A verdict about a digest that is no longer the pinned one is about the past: nothing is kept, False.

        `offered` is what upstream offers, needed for `Drifted`. `evidence` is JSON; where it exceeds 256 KiB its
        size and sha256 are kept instead.
        """
        name = self._name(reference)
        work = partial(drift.record, name=name, verdict=verdict, offered=offered, evidence=evidence)

        def keep(outcome: tuple[bool, Held | None]) -> None:
            if outcome[1] is not None:
                self._keep(reference, outcome[1])

        return (await self._noting(reference, self._thread.write(work, kept=keep)))[0]

    # --- what is kept in memory -------------------------------------------------------------------------------------

    def forget(self, reference: TagReference | None) -> None:
        """Ask the database next time; None: about every tag."""
        if reference is None:
            self._memory.clear()
            self._withheld.clear()
        else:
            self._memory.drop(reference)
            self._withheld.drop(reference)

    def refresh(self, pin: Pin, state: DriftState | None) -> None:
        """Know better what is in memory; what is not stays out of it."""
        if self._memory.get(pin.reference) is not None:
            self._keep(pin.reference, (pin, state))

    def _keeper(self, reference: TagReference) -> Callable[[Held | None], None]:
        return partial(self._keep, reference)

    def _keep(self, reference: TagReference, held: Held | None) -> None:
        self._shared.damaged.drop(str(self._name(reference)))
        before = self._memory.get(reference)
        if held is None:  # what was withheld from a tag that still has no pin stays so
            self._memory.drop(reference)
        else:
            self._memory.put(reference, held)
            self._withheld.drop(reference)
        if before is not None and _shown(before) != _shown(held):
            self._shared.tell(reference)


def _shown(held: Held | None) -> tuple[Pin, object, Descriptor | None, bool] | None:
    """What a tag's answer tells of it: a check that brought no news changes nothing."""
    if held is None:
        return None
    pin, drift = held
    return (pin, None, None, False) if drift is None else (pin, drift.verdict, drift.offered, drift.alarms)
