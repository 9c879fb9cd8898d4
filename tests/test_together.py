"""The same work on many things: order, how many at a time, failures, bounds."""

from __future__ import annotations

import asyncio

import pytest

from iarproxy.errors import Malformed
from iarproxy.together import together


async def test_results_come_in_the_order_of_the_things() -> None:
    """The first thing is done last, and comes first."""
    turns = [asyncio.Event() for _ in range(5)]
    turns[-1].set()

    async def work(number: int) -> int:
        await turns[number].wait()
        if number:
            turns[number - 1].set()
        return number * number

    assert [0, 1, 4, 9, 16] == await together(range(5), work, at_a_time=5)


@pytest.mark.parametrize(("things", "at_a_time", "most"), [(20, 3, 3), (2, 8, 2), (0, 4, 0)])
async def test_no_more_than_a_few_at_a_time(things: int, at_a_time: int, most: int) -> None:
    """As many as allowed are under way, and never one more."""
    under_way, seen = 0, 0

    async def work(_: int) -> None:
        nonlocal under_way, seen
        under_way += 1
        seen = max(seen, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    assert [None] * things == await together(range(things), work, at_a_time=at_a_time)
    assert most == seen


async def test_a_failure_ends_all() -> None:
    """It is raised as it is; what was under way is cancelled, and the rest is not begun."""
    begun: list[int] = []
    cancelled: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise Malformed("the second")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(Malformed, match="the second"):
        await together(range(9), work, at_a_time=3)
    assert ([0, 1, 2], {0, 2}) == (begun, set(cancelled))


async def test_work_that_cancels_itself() -> None:
    """Nothing is left out silently: it is as if all of it had been cancelled."""

    async def work(number: int) -> int:
        if number == 2:
            raise asyncio.CancelledError
        return number

    with pytest.raises(asyncio.CancelledError):
        await together(range(6), work, at_a_time=1)


async def test_who_asked_may_leave() -> None:
    """A cancelled caller takes its work with it."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(_: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(together([1], work, at_a_time=1))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
