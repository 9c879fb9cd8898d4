"""One piece of work per key, however many want its result.

Rule 1: whoever asks first starts the work as a task of its own; all others wait for the same task.
Rule 2: a waiter that leaves, by cancellation or timeout, changes nothing for the work or for the other waiters; the
        work goes on even when nobody waits any more, since its result is kept by what it does (a pin, a token).
Rule 3: an exception reaches everybody who waits, and is no warning where nobody does.
Rule 4: nothing is remembered: once the work is done its key is free. The work owns its deadline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from iarproxy.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class InFlight(Generic[K, V]):
    """The work that is under way in this process.

    Args:
        limit: how many keys of one group may be under way; one more is refused, so that a flood of names stays bounded.
        group: of a key, so that a flood in one group refuses nothing in another; all keys are one group by default.
    """

    def __init__(self, *, limit: int = 4096, group: Callable[[K], Hashable] = lambda _: None) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}
        self._limit = limit
        self._group = group
        self._sizes: Counter[Hashable] = Counter()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def once(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of the work on `key` that is under way, or of `work()`, which is started if none is.

        Raises:
            Unavailable: too much is under way, or the process is stopping; else whatever the work raises.
        """
        task = self._tasks.get(key) or self._start(key, work)
        await asyncio.wait((task,))
        if task.cancelled():
            raise Unavailable("iarproxy is stopping; ask again in a moment")
        return task.result()

    def _start(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        if self._closed:
            raise Unavailable("iarproxy is stopping; ask again in a moment")
        if self._sizes[self._group(key)] >= self._limit:
            raise Unavailable(f"{self._limit} requests are under way already; ask again in a moment", retry_after=1)
        task = self._tasks[key] = asyncio.create_task(work(), name=f"inflight {key}"[:200])
        self._sizes[self._group(key)] += 1
        task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def _finish(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        self._sizes[self._group(key)] -= 1
        if not task.cancelled():
            task.exception()  # read, so that an exception nobody waited for is not reported as never retrieved

    async def close(self) -> None:
        """Cancel what is under way and wait until it has ended. Its waiters get `Unavailable`."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
