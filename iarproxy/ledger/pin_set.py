"""The pins of one environment, as one process sees them.

Rule 1: `peek` is memory and never waits; everything else asks the ledger thread and has a deadline.
Rule 2: None from `pin_of` means that the tag has no pin, as table and journal agree. What cannot be read is
        `LedgerDamaged` or `LedgerUnavailable`; no caller may turn that into "ask upstream" (threats rule 7).
Rule 3: what a call that changes something returns is durable, in the database and in the journal file.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection

from iarproxy.errors import Denied, LedgerDamaged
from iarproxy.ledger import admission, drift, followed, journal, pins
from iarproxy.ledger.admission import Withheld
from iarproxy.ledger.memory import Memory
from iarproxy.ledger.thread import DEADLINE, LedgerThread
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.values import (
    Change,
    Damage,
    DriftState,
    Event,
    EventKind,
    Name,
    Pin,
    Unpinned,
    descriptor_of,
)
from iarproxy.oci import Descriptor, Digest, Repository, TagReference
from iarproxy.trust.admission import NO_TERMS, Terms
from iarproxy.trust.drift import Verdict

_CHUNK = 100  # tags read at a time, so that a long list does not hold up a pull
_PAGE = 1000  # pins
HISTORY = 1000  # events
_EACH = 0.02  # seconds that one name of an act may take, of many in one transaction
_WITHHELD = 10_000  # candidates kept in memory

T = TypeVar("T")
Held: TypeAlias = tuple[Pin, DriftState | None]


@dataclass(slots=True)
class Shared:
    """What all pin sets of a process have in common.

    Attributes:
        remembered: how many pins each keeps in memory.
        subscribers: told of each tag that changed; None: forget all.
    """

    remembered: int
    thread: LedgerThread = field(init=False)
    damaged: Memory[str, Damage] = field(default_factory=lambda: Memory(1000))
    subscribers: list[Callable[[TagReference | None], None]] = field(default_factory=list)
    sets: dict[str, PinSet] = field(default_factory=dict)

    def within(self, environment: str) -> PinSet:
        """The pins of that environment."""
        if environment not in self.sets:
            PinSet(environment, self)
        return self.sets[environment]

    def tell(self, reference: TagReference | None) -> None:
        """Let subscribers know."""
        for callback in self.subscribers:
            callback(reference)


class PinSet:
    """Pins, their drift states and their history within `environment`."""

    def __init__(self, environment: str, shared: Shared) -> None:
        self.environment = environment
        self._shared = shared
        self._memory: Memory[TagReference, Held] = Memory(shared.remembered)
        self._withheld: Memory[TagReference, Withheld] = Memory(_WITHHELD)
        shared.sets[environment] = self

    @property
    def _thread(self) -> LedgerThread:
        return self._shared.thread

    def _name(self, reference: TagReference) -> Name:
        return Name(self.environment, reference)

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

    async def standing(self, reference: TagReference) -> Pin | Unpinned:
        """The pin, or how it is that there is none; raises as `pin_of`."""
        look = partial(pins.standing, name=self._name(reference))
        return await self._noting(reference, self._thread.read(look))

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

    async def candidate(self, reference: TagReference) -> Withheld | None:
        """What is withheld from a tag, as any process saw it last."""
        return await self._thread.read(partial(admission.candidate, name=self._name(reference)))

    async def still_withheld(self, reference: TagReference, terms: Terms, now: datetime) -> Withheld | None:
        """As `candidate`, judged anew as `admit` would at `now`; None: nothing is withheld. Raises as `pin_of`."""
        look = partial(admission.still_withheld, name=self._name(reference), terms=terms, now=now)
        return await self._noting(reference, self._thread.read(look))

    async def waiting(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Withheld]:
        """At most `limit` candidates whose tags come after `after`, in the order of `pins`. Fewer: no more."""
        found: list[Withheld] = []
        key: pins.Key | None = _key(after)
        while key is not None and len(found) < limit:
            look = partial(
                admission.waiting, environment=self.environment, after=key, limit=min(_CHUNK, limit - len(found))
            )
            page, key = await self._thread.read(look)
            found += page
        return found

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
        self._keep(made.reference, (made, None) if isinstance(made, Pin) else None)
        self._shared.tell(made.reference)

    async def pins(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Pin]:
        """At most `limit` current pins that come after `after`, by registry, repository, tag. Fewer: there are no more.

        Damaged ones are left out; `Ledger.damaged` names them.
        """
        found: list[Pin] = []
        key: pins.Key | None = _key(after)
        while key is not None and len(found) < limit:
            size = min(_CHUNK, limit - len(found))
            look = partial(pins.page, environment=self.environment, after=key, limit=size)
            page, damages, key = await self._thread.read(look)
            found += page
            for damage in damages:
                self._shared.damaged.put(damage.reference, damage)
        return found

    async def every_pin(self, at_most: int | None = None) -> AsyncIterator[Pin]:
        """All current pins, or the first `at_most`, in the order of `pins` and read page by page as there."""
        last: TagReference | None = None
        left = sys.maxsize if at_most is None else at_most
        while left and (page := await self.pins(after=last, limit=min(left, _PAGE))):
            for pin in page:
                yield pin
            last, left = page[-1].reference, left - len(page)

    async def made(self, reference: TagReference) -> Event | None:
        """The event that made the tag's pin, or took it away; None: it never had one.

        Raises:
            LedgerDamaged: when it fails its hash.
        """
        entry = await self._thread.read(partial(journal.last_pinning, name=self._name(reference)))
        return None if entry is None else entry.event()

    async def history(self, reference: TagReference, limit: int = HISTORY) -> list[Event]:
        """The newest `limit` events about a tag, oldest first.

        Raises:
            LedgerDamaged: when one of them fails its hash.
        """
        entries = await self._thread.read(partial(journal.of_name, name=self._name(reference), limit=limit))
        return [entry.event() for entry in entries]

    async def had(self, reference: TagReference) -> list[Digest]:
        """The digests that the tag ever was, the newest first, each once.

        Raises:
            LedgerDamaged: when an entry that says so fails its hash.
        """
        entries = await self._thread.read(partial(journal.pinnings, name=self._name(reference)))
        contents = [descriptor_of(entry.event().body["descriptor"]) for entry in reversed(entries)]
        return list(dict.fromkeys(each.digest for each in contents if each is not None))

    async def tags_of(self, repository: Repository) -> list[str]:
        """The pinned and followed tags of a repository, sorted."""

        def look(connection: Connection) -> set[str]:
            return {*pins.tags(connection, self.environment, repository), *followed.tags(connection, repository)}

        return sorted(await self._thread.read(look))

    async def pinned_tags(self, repository: Repository) -> list[str]:
        """The pinned tags of a repository, sorted."""
        return sorted(await self._thread.read(lambda connection: pins.tags(connection, self.environment, repository)))

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
        self._withheld.drop(reference)
        before = self._memory.get(reference)
        if held is None:
            self._memory.drop(reference)
        else:
            self._memory.put(reference, held)
        if before is not None and _shown(before) != _shown(held):
            self._shared.tell(reference)

    async def _noting(self, reference: TagReference, call: Awaitable[T]) -> T:
        try:
            return await call
        except LedgerDamaged as damaged:
            text = str(self._name(reference))
            self._shared.damaged.put(text, Damage(text, str(damaged)))
            raise


def _key(reference: TagReference | None) -> pins.Key:
    if reference is None:
        return "", "", ""
    return reference.repository.registry, reference.repository.name, reference.tag.value


def _shown(held: Held | None) -> tuple[Pin, object, Descriptor | None, bool] | None:
    """What a tag's answer tells of it: a check that brought no news changes nothing."""
    if held is None:
        return None
    pin, drift = held
    return (pin, None, None, False) if drift is None else (pin, drift.verdict, drift.offered, drift.alarms)
