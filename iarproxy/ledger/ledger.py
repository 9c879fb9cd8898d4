"""The ledger as the other rooms see it.

Rule 1: `peek` is memory and never waits; everything else asks the ledger thread and has a deadline.
Rule 2: None from `pin_of` means that the tag has no pin, as table and journal agree. What cannot be read is
        `LedgerDamaged` or `LedgerUnavailable`; no caller may turn that into "ask upstream" (threats rule 7).
Rule 3: what a call that changes something returns is durable, in the database and in the journal file.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from sqlalchemy import Connection

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import drift, followed, journal, links, pins, verification
from iarproxy.ledger.database import Changes
from iarproxy.ledger.memory import Memory
from iarproxy.ledger.opening import open_database
from iarproxy.ledger.thread import LedgerThread
from iarproxy.ledger.transaction import Transaction
from iarproxy.ledger.uses_file import NAME as USES
from iarproxy.ledger.uses_file import Uses
from iarproxy.ledger.values import Damage, DriftState, Event, Pin, Unpinned, VerifyReport
from iarproxy.oci import Descriptor, Digest, Repository, TagReference
from iarproxy.trust.drift import Verdict

_CHUNK = 100  # tags read at a time, so that a long list does not hold up a pull
_PAGE = 1000  # pins
_HISTORY = 1000  # events

T = TypeVar("T")
Held: TypeAlias = tuple[Pin, DriftState | None]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Pins, drift states, links and the journal of one store, as one process sees them.

    Attributes:
        uses: what was served to whom, in a file of its own.
    """

    def __init__(self, path: Path, remembered: int, now: Callable[[], datetime]) -> None:
        self._path = path
        self.uses = Uses(path.with_name(USES), now)
        self._memory: Memory[TagReference, Held] = Memory(remembered)
        self._links: Memory[tuple[Repository, Digest], bool] = Memory(remembered)
        self._damaged: Memory[str, Damage] = Memory(1000)
        self._subscribers: list[Callable[[TagReference | None], None]] = []
        self._thread: LedgerThread

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        store_identity: str,
        store_is_empty: bool,
        now: Callable[[], datetime] = _utc_now,
        create: bool = True,
        checked: bool = False,
        remembered: int = 100_000,
    ) -> Self:
        """The ledger at `path`, which is made where nothing can have been forgotten. To be called after the fork.

        Args:
            path: of the database; `journal.jsonl` and a lock file lie beside it.
            store_identity: of the store that the ledger belongs to.
            store_is_empty: whether the store holds no content; only then a missing ledger is made.
            now: the clock (aware).
            create: False refuses to make a ledger at all.
            checked: the structure of the file was checked just now, by whoever started this process.
            remembered: how many pins are kept in memory.

        Raises:
            ConfigError: when the ledger is missing, foreign, altered, or older than its journal file.
            LedgerUnavailable: when it cannot be read now.
        """
        ledger = cls(path, remembered, now)
        opener = partial(
            open_database,
            path,
            store_identity=store_identity,
            store_is_empty=store_is_empty,
            now=now,
            create=create,
            checked=checked,
        )
        ledger._thread = LedgerThread(opener, ledger._changed)
        await ledger._thread.start()
        return ledger

    # --- memory -----------------------------------------------------------------------------------------------------

    def peek(self, reference: TagReference) -> Pin | None:
        """The pin, from memory; None: not in memory, ask `pin_of`."""
        held = self._memory.get(reference)
        return None if held is None else held[0]

    def peek_drift(self, reference: TagReference) -> DriftState | None:
        """The drift state that belongs to what `peek` gives; None: nothing known."""
        held = self._memory.get(reference)
        return None if held is None else held[1]

    def on_change(self, callback: Callable[[TagReference | None], None]) -> None:
        """Have `callback` called on the loop with each tag that any process changed; None: forget all tags.

        What this process itself changes is told as soon as `peek` knows it. A first pin is no change. What is called
        must not raise.
        """
        self._subscribers.append(callback)

    # --- pins -------------------------------------------------------------------------------------------------------

    async def pin_of(self, reference: TagReference) -> Pin | None:
        """The pin, from the database.

        Raises:
            LedgerDamaged: when the tag's row is damaged, or lost although the journal knows a pin.
            LedgerUnavailable: when there is no answer now.
        """

        def look(connection: Connection) -> Held | None:
            found = pins.standing(connection, reference)
            return (found, drift.state_of(connection, found)) if isinstance(found, Pin) else None

        held = await self._noting(reference, self._thread.read(look, kept=self._keeper(reference)))
        return None if held is None else held[0]

    async def add(self, reference: TagReference, descriptor: Descriptor, source: str) -> Pin:
        """Pin a tag that has no pin; the pin it has now, ours or that of whoever was first.

        Raises:
            LedgerDamaged, LedgerUnavailable: as `pin_of`; then the caller must not serve the tag.
        """

        def work(tx: Transaction) -> Held:
            pin = pins.add(tx, reference, descriptor, source)
            return pin, drift.state_of(tx.connection, pin)

        pin, _ = await self._noting(reference, self._thread.write(work, kept=self._keeper(reference)))
        return pin

    async def repin(
        self, reference: TagReference, old: Digest, new: Descriptor, *, reason: str, actor: str, source: str
    ) -> Pin:
        """A person's act: replace the pin on `old` by one on `new`.

        Raises:
            Conflict: naming the digest that is pinned, when it is not `old` (or is `new` already).
            Malformed: without a reason or an actor.
            LedgerDamaged, LedgerUnavailable: as `pin_of`.
        """

        def work(tx: Transaction) -> Held:
            return pins.repin(tx, reference, old, new, reason=reason, actor=actor, source=source), None

        pin, _ = await self._noting(reference, self._thread.write(work, kept=self._keeper(reference)))
        return pin

    async def remove(self, reference: TagReference, old: Digest, *, reason: str, actor: str) -> None:
        """A person's act: take the pin on `old` away. The next fetch pins anew; the history stays.

        Raises:
            Conflict, Malformed, LedgerDamaged, LedgerUnavailable: as `repin`.
        """

        def work(tx: Transaction) -> Unpinned:
            return pins.remove(tx, reference, old, reason=reason, actor=actor)

        def forget(_: Unpinned) -> None:
            self._memory.drop(reference)
            self._tell(reference)

        await self._noting(reference, self._thread.write(work, kept=forget))

    async def pins(self, *, after: TagReference | None = None, limit: int = 1000) -> list[Pin]:
        """At most `limit` current pins that come after `after`, by registry, repository, tag. Fewer: there are no more.

        Damaged ones are left out; `damaged` names them.
        """
        found: list[Pin] = []
        key: pins.Key | None = (
            ("", "", "") if after is None else (after.repository.registry, after.repository.name, after.tag.value)
        )
        while key is not None and len(found) < limit:
            size = min(_CHUNK, limit - len(found))
            page, damages, key = await self._thread.read(partial(pins.page, after=key, limit=size))
            found += page
            for damage in damages:
                self._damaged.put(damage.reference, damage)
        return found

    async def every_pin(self, at_most: int | None = None) -> AsyncIterator[Pin]:
        """All current pins, or the first `at_most`, in the order of `pins` and read page by page as there."""
        last: TagReference | None = None
        left = sys.maxsize if at_most is None else at_most
        while left and (page := await self.pins(after=last, limit=min(left, _PAGE))):
            for pin in page:
                yield pin
            last, left = page[-1].reference, left - len(page)

    def damaged(self) -> list[Damage]:
        """The tags that this process found damaged (at most 1000, the newest)."""
        return self._damaged.values()

    async def history(self, reference: TagReference, limit: int = _HISTORY) -> list[Event]:
        """The newest `limit` events about a tag, oldest first.

        Raises:
            LedgerDamaged: when one of them fails its hash.
        """
        entries = await self._thread.read(partial(journal.of_reference, reference=reference, limit=limit))
        return [entry.event() for entry in entries]

    async def events(self, *, after: int = 0, limit: int = _HISTORY) -> list[Event]:
        """At most `limit` events of the whole journal whose serial is above `after`, in order.

        Raises:
            LedgerDamaged: when one of them fails its hash.
        """
        entries = await self._thread.read(partial(journal.entries_after, serial=after, limit=limit))
        return [entry.event() for entry in entries]

    async def serial(self) -> int:
        """The serial of the journal's last event: it moves whenever a pin or a drift state does."""
        return (await self._thread.read(journal.last)).serial

    async def tags_of(self, repository: Repository) -> list[str]:
        """The pinned and followed tags of a repository, sorted."""

        def look(connection: Connection) -> set[str]:
            return {*pins.tags(connection, repository), *followed.tags(connection, repository)}

        return sorted(await self._thread.read(look))

    # --- drift ------------------------------------------------------------------------------------------------------

    async def record_check(
        self, reference: TagReference, verdict: Verdict, offered: Descriptor | None, evidence: dict[str, Any]
    ) -> bool:
        """Keep what upstream was seen to offer; True when that is news, which is journaled with its evidence.

        A verdict about a digest that is no longer the pinned one is about the past: nothing is kept, False.

        `offered` is what upstream offers, needed for `Drifted`. `evidence` is JSON; where it exceeds 256 KiB its
        size and sha256 are kept instead.
        """
        work = partial(drift.record, reference=reference, verdict=verdict, offered=offered, evidence=evidence)

        def keep(outcome: tuple[bool, Held | None]) -> None:
            if outcome[1] is not None:
                self._keep(reference, outcome[1])

        return (await self._noting(reference, self._thread.write(work, kept=keep)))[0]

    async def drift_count(self) -> int:
        """How many pins there are whose tag upstream moved or took away."""
        return await self._thread.read(drift.count)

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        """The pins whose tag upstream moved or took away."""
        return await self._thread.read(drift.drifting)

    # --- followed tags and links ------------------------------------------------------------------------------------

    async def followed(self, reference: TagReference) -> tuple[Descriptor, datetime] | None:
        """What a followed tag was last seen to offer, and when; None: ask upstream."""
        return await self._thread.read(partial(followed.read, reference=reference))

    async def set_followed(self, reference: TagReference, descriptor: Descriptor) -> None:
        """Keep what a followed tag offers now."""
        await self._thread.write(lambda tx: followed.write(tx.connection, reference, descriptor, tx.now()))

    async def link(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Let `repository` hand out `digests` (design invariant 10). Again is the same as once."""
        fresh = [digest for digest in dict.fromkeys(digests) if self._links.get((repository, digest)) is None]
        if not fresh:
            return

        def keep(_: None) -> None:
            for digest in fresh:
                self._links.put((repository, digest), value=True)

        await self._thread.write(lambda tx: links.link(tx.connection, repository, fresh), kept=keep)

    async def linked(self, repository: Repository, digest: Digest) -> bool:
        """Whether `repository` may hand out `digest`."""
        if self._links.get((repository, digest)):
            return True

        def keep(is_linked: bool) -> None:  # noqa: FBT001 (the outcome of the read below)
            if is_linked:
                self._links.put((repository, digest), value=True)

        return await self._thread.read(partial(links.is_linked, repository=repository, digest=digest), kept=keep)

    # --- the whole --------------------------------------------------------------------------------------------------

    async def verify(self) -> VerifyReport:
        """Whether file structure, journal chain, rows, and journal file agree, all of them; and the uses' file."""
        report = await verification.verify(self._thread, self._path)
        return replace(report, problems=(*report.problems, *await self.uses.problems()))

    async def close(self) -> None:
        """Finish what waits and close the databases."""
        await self.uses.close()
        await self._thread.close()

    def _keeper(self, reference: TagReference) -> Callable[[Held | None], None]:
        return partial(self._keep, reference)

    def _keep(self, reference: TagReference, held: Held | None) -> None:
        self._damaged.drop(str(reference))
        before = self._memory.get(reference)
        if held is None:
            self._memory.drop(reference)
        else:
            self._memory.put(reference, held)
        if before is not None and _shown(before) != _shown(held):
            self._tell(reference)

    async def _noting(self, reference: TagReference, call: Awaitable[T]) -> T:
        try:
            return await call
        except LedgerDamaged as damaged:
            self._damaged.put(str(reference), Damage(str(reference), str(damaged)))
            raise

    def _changed(self, changes: Changes) -> None:
        if changes.everything:
            self._memory.clear()
        for reference in changes.references:
            self._memory.drop(reference)
        affected: tuple[TagReference | None, ...] = (None,) if changes.everything else changes.references
        for each in affected:
            self._tell(each)

    def _tell(self, reference: TagReference | None) -> None:
        for callback in self._subscribers:
            callback(reference)


def _shown(held: Held | None) -> tuple[Pin, object, Descriptor | None] | None:
    """What a tag's answer tells of it: a check that brought no news changes nothing."""
    if held is None:
        return None
    pin, drift = held
    return (pin, None, None) if drift is None else (pin, drift.verdict, drift.offered)
