"""Places for requests under way, given out in turn: who asks for one thing does not wait for who asks for many.

Rule 1: a free place is taken at once; else each key has a queue of its own, and the keys take turns.
Rule 2: both the number that waits and the time are bounded; who is not let in is told so, and nothing was asked.
Rule 3: a place that was given to somebody who left is passed on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from iarproxy.errors import UpstreamHeld

_WAITING = 1024  # of one upstream
_WAITING_PER_KEY = 256
_LATER = 5.0  # seconds until another try is worth it


class Turns:
    """The places of one upstream.

    Args:
        name: the upstream's, for messages.
        what: what the places are for, for messages.
        places: how many there are.
        turned_away: is called for each who is not let in.
    """

    def __init__(self, name: str, what: str, places: int, turned_away: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._what = what
        self._places = places
        self._turned_away = turned_away
        self._free = places
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return self._waiting

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._places - self._free

    @asynccontextmanager
    async def place(self, key: Hashable, patience: float) -> AsyncIterator[None]:
        """One place; `patience`: seconds to wait for it.

        Raises:
            UpstreamHeld: too many wait already, or none became free in time.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(key, patience)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, key: Hashable, patience: float) -> None:
        turn = self._queue(key)
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it was given to us while we left
            self._leave(key, turn)
            if isinstance(error, TimeoutError):
                text = f"all {self._places} connections to {self._name} for {self._what} were in use for {patience:g} s"
                raise self._refusal(text) from None
            raise

    def _queue(self, key: Hashable) -> asyncio.Future[None]:
        queue = self._queues.get(key, deque())
        if self._waiting >= _WAITING or len(queue) >= _WAITING_PER_KEY:
            text = f"{self._waiting} requests wait for {self._what} of {self._name} already"
            raise self._refusal(text)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._queues[key] = queue
        self._waiting += 1
        return turn

    def _refusal(self, text: str) -> UpstreamHeld:
        self._turned_away()
        return UpstreamHeld(text, upstream=self._name, retry_after=_LATER)

    def _leave(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(key)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._waiting -= 1
            if not queue:
                del self._queues[key]

    def _pass_on(self) -> None:
        """Give the place to the next key's first; its key goes to the end of the row."""
        while self._queues:
            key, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[key] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
