"""The same work on many things, a few at a time.

Rule 1: results come in the order of the things, whichever was done first.
Rule 2: a failure ends all of it, and is raised as it is; work that may fail alone answers with a value instead.
Rule 3: however many things there are, no more tasks exist than work at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def together(things: Iterable[A], work: Callable[[A], Awaitable[B]], *, at_a_time: int) -> list[B]:
    """What `work` gives for each of `things`, in their order.

    Raises:
        Whatever `work` raises first; what was under way then is cancelled, and the rest is not begun.
    """
    every = list(things)
    ahead = enumerate(every)
    done: dict[int, B] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_a_time):
                group.create_task(_work_off(ahead, work, done))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    if len(done) < len(every):  # a task group takes work that cancelled itself for work that ended well
        raise asyncio.CancelledError
    return [done[place] for place in range(len(every))]


async def _work_off(ahead: Iterator[tuple[int, A]], work: Callable[[A], Awaitable[B]], done: dict[int, B]) -> None:
    for place, each in ahead:
        done[place] = await work(each)
