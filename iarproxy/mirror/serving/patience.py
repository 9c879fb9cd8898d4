"""How long whoever can be answered from what is held waits for upstream's newer word (design invariant 7).

Rule 1: asking goes on when nobody waits any more: what it finds is there for the next one.
Rule 2: after a wait in vain nobody waits for that upstream for a while, unless it answers something in time.
Rule 3: nothing is held: upstream's word is waited for; where it is about something that is held, for less than clients
        do, and only the first time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Generic, TypeVar

from iarproxy.errors import UpstreamTimeout
from iarproxy.inflight import InFlight
from iarproxy.mirror.serving.documents import upstream_of
from iarproxy.oci import TagReference

V = TypeVar("V")

_REST = 30.0  # seconds
_IN_TIME = 2.0  # seconds: what takes longer may be the failure that `work` makes the best of
_REMEMBERED = 10_000


class Wait(Enum):
    """How long, in seconds."""

    ALL = None  # until there is an answer or a failure
    FIRST = 5.0  # about something that is held; as for news where that was asked before, whatever came of it
    NEWS = _IN_TIME  # it was, and what it said is held


class Asking(Generic[V]):
    """Questions to upstreams under way, one for each reference, however many ask."""

    def __init__(self) -> None:
        self._flights: InFlight[TagReference, V] = InFlight(group=upstream_of)
        self._asked: OrderedDict[TagReference, None] = OrderedDict()
        self._silent: dict[str, float] = {}  # upstreams of the closed list, and until when nobody waits for them

    async def once(self, reference: TagReference, work: Callable[[], Coroutine[Any, Any, V]], wait: Wait) -> V:
        """The result of `work`, or of what is under way for the same reference.

        Raises:
            UpstreamTimeout: it is not there yet. Else what `work` raises.
        """
        upstream, clock = upstream_of(reference), asyncio.get_running_loop().time
        if wait is Wait.FIRST and reference in self._asked:
            wait = Wait.NEWS
        seconds = 0 if wait is Wait.NEWS and clock() < self._silent.get(upstream, 0.0) else wait.value
        try:
            async with asyncio.timeout(seconds):
                return await self._flights.once(reference, lambda: self._heard(reference, work))
        except TimeoutError:
            if seconds:
                self._silent[upstream] = clock() + _REST
            self._note(reference)
            raise UpstreamTimeout(f"{upstream} has not answered yet for {reference}", upstream=upstream) from None

    async def _heard(self, reference: TagReference, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            result = await work()
        finally:
            self._note(reference)
        if clock() - started < _IN_TIME:
            self._silent.pop(upstream_of(reference), None)
        return result

    def _note(self, reference: TagReference) -> None:
        self._asked[reference] = None
        while len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._flights.close()
