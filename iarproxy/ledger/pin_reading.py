"""Reading the pins of one environment: what stands, what waits, and what happened to it.

Rule 1: nothing here changes anything, and nothing is remembered but what was found damaged.
Rule 2: what cannot be read is `LedgerDamaged` or `LedgerUnavailable`; no caller may turn that into "ask upstream"
        (threats rule 7).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection

from iarproxy.errors import LedgerDamaged
from iarproxy.ledger import admission, followed, journal, pins
from iarproxy.ledger.admission import Withheld
from iarproxy.ledger.memory import Memory
from iarproxy.ledger.thread import LedgerThread
from iarproxy.ledger.values import Damage, Event, Name, Pin, Unpinned, descriptor_of
from iarproxy.oci import Digest, Repository, TagReference

if TYPE_CHECKING:
    from iarproxy.ledger.pin_set import PinSet

_CHUNK = 100  # tags read at a time, so that a long list does not hold up a pull
_PAGE = 1000  # pins
HISTORY = 1000  # events

T = TypeVar("T")


@dataclass(slots=True)
class Shared:
    """What all pin sets of a process have in common.

    Attributes:
        remembered: how many pins each keeps in memory.
        make: makes the pin set of an environment, and puts it into `sets`.
        subscribers: told of each tag that changed; None: forget all.
    """

    remembered: int
    make: Callable[[str, Shared], PinSet]
    thread: LedgerThread = field(init=False)
    damaged: Memory[str, Damage] = field(default_factory=lambda: Memory(1000))
    subscribers: list[Callable[[TagReference | None], None]] = field(default_factory=list)
    sets: dict[str, PinSet] = field(default_factory=dict)

    def within(self, environment: str) -> PinSet:
        """The pins of that environment."""
        if environment not in self.sets:
            self.make(environment, self)
        return self.sets[environment]

    def tell(self, reference: TagReference | None) -> None:
        """Let subscribers know."""
        for callback in self.subscribers:
            callback(reference)


class PinReading:
    """The pins within `environment`, as the database has them."""

    def __init__(self, environment: str, shared: Shared) -> None:
        self.environment = environment
        self._shared = shared

    @property
    def _thread(self) -> LedgerThread:
        return self._shared.thread

    def _name(self, reference: TagReference) -> Name:
        return Name(self.environment, reference)

    async def standing(self, reference: TagReference) -> Pin | Unpinned:
        """The pin, or how it is that there is none; raises as `pin_of`."""
        look = partial(pins.standing, name=self._name(reference))
        return await self._noting(reference, self._thread.read(look))

    async def candidate(self, reference: TagReference) -> Withheld | None:
        """What is withheld from a tag, as any process saw it last."""
        return await self._thread.read(partial(admission.candidate, name=self._name(reference)))

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
