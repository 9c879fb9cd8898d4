"""Blocking work off the event loop, in three bounded pools.

Rule 1: `quick` is for what a client's next byte waits for (writing); `slow` for fsync, re-hash and scans, so that a
        slow disk never slows a cold pull; `hashers` for hashing, which takes a core: nothing else waits behind it.
Rule 2: a cancelled caller still waits for its thread: descriptors are never closed under a running call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The store's threads. They start with their first work, so a store may be opened before a fork."""

    def __init__(self, workers: int = 4) -> None:
        self.writers: Executor = ThreadPoolExecutor(workers, "store-write")
        self.hashers: Executor = ThreadPoolExecutor(workers, "store-hash")
        self._slow: Executor = ThreadPoolExecutor(workers, "store-slow")

    async def quick(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` where short work goes."""
        return await _hop(self.writers, lambda: call(*args, **kwargs))

    async def slow(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` where work goes that may wait for the disk."""
        return await _hop(self._slow, lambda: call(*args, **kwargs))

    async def obtain(self, call: Callable[[], T], give_back: Callable[[T], object]) -> T:
        """Run `call`, quick work, for something that must be given back if the caller is cancelled meanwhile."""
        got: list[T] = []
        try:
            await _hop(self.writers, lambda: got.append(call()))
        except asyncio.CancelledError:
            for it in got:
                give_back(it)
            raise
        return got[0]

    def close(self) -> None:
        """End the threads; all work has been awaited by then."""
        self.writers.shutdown()
        self.hashers.shutdown()
        self._slow.shutdown()


async def _hop(executor: Executor, call: Callable[[], T]) -> T:
    future = asyncio.get_running_loop().run_in_executor(executor, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # seen, so that the loop does not report it as lost
        raise
