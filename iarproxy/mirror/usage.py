"""What was served to whom, gathered in memory until the ledger keeps it.

Rule 1: `note` is for the loop: it takes what it is given and merges it in small slices later, between other work, into
        a table of at most `limit` entries. It neither waits nor raises.
Rule 2: a ledger that is busy or away loses nothing as long as the table has room: what could not be recorded is merged
        with what came since. Beyond that the entries that were used the longest ago leave, and are counted as lost.
Rule 3: it is recorded some seconds later, a little at a time; a worker that is killed loses those seconds.
Rule 4: clients are told apart for manifests only, and only where the configuration lets their addresses be kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol, TypeAlias

import structlog

from iarproxy.errors import IarproxyError
from iarproxy.ledger import Use
from iarproxy.mirror.serving.answers import Served
from iarproxy.oci import Digest, Repository, Tag

EVERY = 5.0  # seconds
_LIMIT = 20_000  # entries, of about 300 bytes; twice as many while they are recorded
_ROOM = 0.1  # of the limit: so much leaves at once, so that it happens seldom
_BATCH = 500  # uses recorded in one transaction
_SLICE = 200  # entries merged at once: less than a millisecond
_LAST = 2.0  # seconds for the last flush: a worker that leaves has a few more in all

log = structlog.get_logger("iarproxy.usage")

Key: TypeAlias = tuple[Repository, Tag | Digest | None, Digest, str | None]


class Keeper(Protocol):
    """Where uses are kept; `iarproxy.ledger` has one."""

    async def record(self, batch: Sequence[Use]) -> None:
        """Keep all of them or, when it raises an `IarproxyError`, none."""
        ...

    async def missed(self, until: datetime) -> None:
        """Know that uses up to then are missing, so that nothing is called unused for the lack of them."""
        ...


@dataclass(slots=True)
class _Tally:
    first: datetime
    last: datetime
    count: int

    def add(self, first: datetime, last: datetime, count: int) -> None:
        self.first = min(self.first, first)
        self.last = max(self.last, last)
        self.count += count


class Usage:
    """What one process served and the ledger does not know yet.

    Attributes:
        lost: how many answers nobody will know of.
    """

    def __init__(
        self, keeper: Keeper, *, clients: bool = True, every: float = EVERY, limit: int = _LIMIT, last: float = _LAST
    ) -> None:
        self.lost = 0
        self._keeper = keeper
        self._clients = clients
        self._every, self._limit, self._last = every, limit, last
        self._inbox: deque[Served] = deque()
        self._table: dict[Key, _Tally] = {}
        self._turn = asyncio.Lock()
        self._slice: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = self._failing = False
        self._lost_until: datetime | None = None  # uses up to then were lost, and the keeper does not know it

    def note(self, served: Iterable[Served]) -> None:
        """Take note of what was served."""
        self._inbox.extend(served)
        self._take(len(self._inbox) - self._limit)
        self._wind()

    async def flush(self) -> None:
        """Record what was noted until now; where that fails, it is kept and tried again later."""
        async with self._turn:
            self._take(len(self._inbox))
            waiting, self._table = self._table, {}
            lost, self._lost_until = self._lost_until, None
            try:
                if lost is not None:
                    await self._keeper.missed(lost)
                    lost = None
                while batch := dict(islice(waiting.items(), _BATCH)):
                    await self._keeper.record(
                        [Use(*key, each.first, each.last, each.count) for key, each in batch.items()]
                    )
                    for key in batch:
                        del waiting[key]
            except IarproxyError as error:
                self._miss(lost)
                self._keep(waiting, str(error))
            else:
                self._failing = False

    async def close(self) -> None:
        """Record the rest, before the deadline."""
        self._closed = True
        for handle in (self._slice, self._timer):
            if handle is not None:
                handle.cancel()
        try:
            async with asyncio.timeout(self._last):
                await self.flush()
        except TimeoutError:
            log.warning(
                "what was served last is not recorded", reason=f"the disk did not answer within {self._last:g} s"
            )
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _take(self, count: int) -> None:
        """Merge the next `count` entries of the inbox into the table."""
        for _ in range(count):
            each = self._inbox.popleft()
            wanted = each.wanted if each.is_manifest else None
            client = each.client if each.is_manifest and self._clients else None
            self._merge((each.repository, wanted, each.digest, client), each.at, each.at, each.count)
        self._bound()

    def _take_slice(self) -> None:
        self._slice = None
        self._take(min(_SLICE, len(self._inbox)))
        self._wind()

    def _merge(self, key: Key, first: datetime, last: datetime, count: int) -> None:
        found = self._table.get(key)
        if found is None:
            self._table[key] = _Tally(first, last, count)
        else:
            found.add(first, last, count)

    def _keep(self, unrecorded: dict[Key, _Tally], reason: str) -> None:
        for key, each in unrecorded.items():
            self._merge(key, each.first, each.last, each.count)
        lost = self._bound()
        if lost or not self._failing:
            log.warning("what was served is not recorded yet", reason=reason, waiting=len(self._table), lost=lost)
        self._failing = True

    def _bound(self) -> int:
        """Make room where there is none; how many answers that lost."""
        over = len(self._table) - self._limit
        if over <= 0:
            return 0
        oldest = sorted(self._table, key=lambda key: self._table[key].last)[: over + int(self._limit * _ROOM)]
        self._miss(self._table[oldest[-1]].last)
        lost = sum(self._table.pop(key).count for key in oldest)
        self.lost += lost
        return lost

    def _miss(self, until: datetime | None) -> None:
        if until is not None:
            self._lost_until = until if self._lost_until is None else max(until, self._lost_until)

    def _wind(self) -> None:
        """See to it that what is in the inbox is merged soon, and what is in the table is recorded later."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        if self._inbox and self._slice is None:
            self._slice = loop.call_soon(self._take_slice)
        if (self._inbox or self._table) and self._timer is None:
            self._timer = loop.call_later(self._every, self._start)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._flush_and_wind(), name="uses")

    async def _flush_and_wind(self) -> None:
        try:
            await self.flush()
        finally:
            self._timer = None
            self._wind()
