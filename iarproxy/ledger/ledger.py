"""The ledger as the other rooms see it: the pin set of the default environment, the others, and the whole.

Rule: a ledger belongs to the process that opened it, after the fork; everything that it knows beyond memory it asks its
thread, with a deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from iarproxy.ledger import admission, drift, followed, journal, links, pins, verification
from iarproxy.ledger.attached import Attached
from iarproxy.ledger.bundles import Bundles
from iarproxy.ledger.database import Changes
from iarproxy.ledger.deliveries import Deliveries
from iarproxy.ledger.leases import Leases
from iarproxy.ledger.memory import Memory
from iarproxy.ledger.opening import open_database
from iarproxy.ledger.pin_reading import HISTORY, Shared
from iarproxy.ledger.pin_set import PinSet
from iarproxy.ledger.proof.checkpoints import Checkpoints
from iarproxy.ledger.reading import Reading
from iarproxy.ledger.recalls import Recalls
from iarproxy.ledger.refusals import Refusals
from iarproxy.ledger.seeds import Seeds
from iarproxy.ledger.sets import Sets
from iarproxy.ledger.thread import LedgerThread
from iarproxy.ledger.usage.uses_file import NAME as USES
from iarproxy.ledger.usage.uses_file import Uses
from iarproxy.ledger.values import Damage, DriftState, Event, Pin, VerifyReport
from iarproxy.ledger.watching import Watching
from iarproxy.oci import Descriptor, Digest, Repository, TagReference
from iarproxy.oci.routing import DEFAULT


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger(PinSet):
    """Pins, drift states, links and the journal of one store, as one process sees them.

    Attributes:
        uses: what was served to whom, in a file of its own.
        recalls: what is denied, with everything that contains it.
        watching: which pins were checked when, for the drift watch; acknowledgements of drift.
        seeds: what lock files expect tags to be.
        attached: the records of promotions, by what they are about.
        deliveries: how far webhooks were told of the journal.
        leases: what somebody runs, and whose names stay.
        sets: what syncs came to.
        bundles: which were made here, and which applied. refusals: which were refused in the watched folder.
        checkpoints: what was signed of the journal.
        reading: the journal as a person reads it.
    """

    def __init__(self, path: Path, remembered: int, now: Callable[[], datetime]) -> None:
        super().__init__(DEFAULT, Shared(remembered, PinSet))
        self._path = path
        self.uses = Uses(path.with_name(USES), now)
        self.recalls = Recalls(self._shared)
        self.deliveries = Deliveries(self._shared)
        self.leases = Leases(self._shared)
        self.sets = Sets(self._shared)
        self.bundles = Bundles(self._shared)
        self.refusals = Refusals(self._shared)
        self.checkpoints = Checkpoints(self._shared)
        self.reading = Reading(self._shared)
        self.seeds = Seeds(self._shared)
        self.attached = Attached(self._shared)
        self.watching = Watching(self._shared)
        self._links: Memory[tuple[Repository, Digest], bool] = Memory(remembered)

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
        ledger._shared.thread = LedgerThread(opener, ledger._changed)
        await ledger._thread.start()
        await ledger.recalls.load()
        return ledger

    def within(self, environment: str) -> PinSet:
        """The pins of that environment; `DEFAULT` is the ledger itself."""
        return self._shared.within(environment)

    async def environments(self) -> list[str]:
        """Those in which something was ever pinned, sorted."""
        return await self._thread.read(pins.environments)

    def on_change(self, callback: Callable[[TagReference | None], None]) -> None:
        """Have `callback` called on the loop with each tag that any process changed, in whichever environment.

        None: forget all tags. What this process itself changes is told as soon as `peek` knows it. A first pin is no
        change. What is called must not raise.
        """
        self._shared.subscribers.append(callback)

    def damaged(self) -> list[Damage]:
        """The tags that this process found damaged (at most 1000, the newest)."""
        return self._shared.damaged.values()

    async def events(self, *, after: int = 0, limit: int = HISTORY) -> list[Event]:
        """At most `limit` events of the whole journal whose serial is above `after`, in order.

        Raises:
            LedgerDamaged: when one of them fails its hash.
        """
        entries = await self._thread.read(partial(journal.entries_after, serial=after, limit=limit))
        return [entry.event() for entry in entries]

    async def serial(self) -> int:
        """The serial of the journal's last event: it moves whenever a pin or a drift state does."""
        return (await self._thread.read(journal.last)).serial

    async def drift_count(self) -> int:
        """How many pins there are whose tag upstream moved or took away."""
        return await self._thread.read(drift.count)

    async def drifts(self) -> list[tuple[Pin, DriftState]]:
        """The pins whose tag upstream moved or took away."""
        return await self._thread.read(drift.drifting)

    async def first_seen(self, digest: Digest) -> datetime | None:
        """When content with that digest was first seen here; None: not known, or the record of it is damaged."""
        return await self._thread.read(partial(admission.first_seen, digest=digest))

    async def waiting_count(self) -> int:
        """From how many tags, in all environments, something is withheld."""
        return await self._thread.read(admission.count)

    async def acts(self) -> dict[str, int]:
        """How often people did what, by the kind of the event."""
        return await self._thread.read(journal.acts)

    # --- followed tags and links ------------------------------------------------------------------------------------

    async def followed(self, reference: TagReference) -> tuple[Descriptor, datetime] | None:
        """What a followed tag was last seen to offer, and when; None: ask upstream."""
        return await self._thread.read(partial(followed.read, reference=reference))

    async def every_followed(self) -> AsyncIterator[tuple[TagReference, Digest]]:
        """What each followed tag was last seen to offer, by name, read page by page."""
        after: followed.Key | None = ("", "", "")
        while after is not None:
            found, after = await self._thread.read(partial(followed.page, after=after, limit=HISTORY))
            for each in found:
                yield each

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

    def _changed(self, changes: Changes) -> None:
        if changes.recalled is not None:
            self.recalls.keep(changes.recalled)
        if changes.everything:
            for each in self._shared.sets.values():
                each.forget(None)
            self._shared.tell(None)
            return
        for name in changes.names:
            self.within(name.environment).forget(name.reference)
            self._shared.tell(name.reference)
