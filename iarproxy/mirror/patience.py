"""How long whoever can be answered from what is held waits for upstream's newer word (design invariant 7).

Rule 1: asking goes on when nobody waits any more: what it finds is there for the next one.
Rule 2: after a wait in vain nobody waits for that upstream for a while, unless it answers something.
Rule 3: nothing is held: upstream's word is waited for, and who asks for content of which the rest is held waits for
        less than clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Generic, TypeVar

from iarproxy.errors import UpstreamTimeout
from iarproxy.inflight import InFlight
from iarproxy.mirror.documents import upstream_of
from iarproxy.oci import TagReference

V = TypeVar("V")

_REST = 30.0  # seconds


class Wait(Enum):
    """How long, in seconds."""

    ALL = None  # until there is an answer or a failure
    FIRST = 5.0  # upstream was never asked this, about something that is held
    NEWS = 2.0  # it was, and what it said is held


class Asking(Generic[V]):
    """Questions to upstreams under way, one for each reference, however many ask."""

    def __init__(self) -> None:
        self._flights: InFlight[TagReference, V] = InFlight(group=upstream_of)
        self._silent: dict[str, float] = {}  # upstreams of the closed list, and until when nobody waits for them

    async def once(self, reference: TagReference, work: Callable[[], Coroutine[Any, Any, V]], wait: Wait) -> V:
        """The result of `work`, or of what is under way for the same reference.

        Raises:
            UpstreamTimeout: it is not there yet. Else what `work` raises.
        """
        upstream, clock = upstream_of(reference), asyncio.get_running_loop().time
        seconds = 0 if wait is Wait.NEWS and clock() < self._silent.get(upstream, 0.0) else wait.value
        try:
            async with asyncio.timeout(seconds):
                return await self._flights.once(reference, lambda: self._heard(upstream, work))
        except TimeoutError:
            self._silent.setdefault(upstream, clock() + _REST)
            raise UpstreamTimeout(f"{upstream} has not answered yet for {reference}", upstream=upstream) from None

    async def _heard(self, upstream: str, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        result = await work()
        self._silent.pop(upstream, None)
        return result

    async def close(self) -> None:
        """End what is under way for nobody any more."""
        await self._flights.close()
