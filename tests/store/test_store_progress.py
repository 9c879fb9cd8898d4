"""What followers hear of an ingest, when, and at what cost."""

from __future__ import annotations

import asyncio

import pytest

from iarproxy.errors import Unavailable
from iarproxy.store.progress import TAIL, Progress
from iarproxy.store.state import Failure

SIZE = 10_000_000


class Crowd:
    """Followers that want all there is; how often each was woken, and how far it got."""

    def __init__(self, progress: Progress, count: int) -> None:
        self.progress = progress
        self.wakings = [0] * count
        self.position = [0] * count
        self.tasks = [asyncio.create_task(self._follow(number)) for number in range(count)]

    async def _follow(self, number: int) -> None:
        while not self.progress.agreed and not self.progress.ended:
            if self.progress.sendable() <= self.position[number]:
                await self.progress.change(60.0)
                self.wakings[number] += 1
            self.position[number] = self.progress.sendable()

    async def done(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self.tasks)


async def test_first_bytes_are_told_at_once() -> None:
    """The growth that brings the first bytes that may be sent wakes everybody within the same turn of the loop."""
    progress = Progress()
    crowd = Crowd(progress, 50)
    await asyncio.sleep(0)
    progress.grow(0, SIZE)
    progress.grow(1, SIZE)
    assert progress.sendable() == 1
    progress.agree(SIZE)
    await crowd.done()


async def test_growth_in_small_pieces_is_told_in_large_ones() -> None:
    """Thousands of pieces wake each of many followers a few times; what was not told yet is told soon after."""
    progress = Progress()
    progress.grow(1, SIZE)
    crowd = Crowd(progress, 200)
    await asyncio.sleep(0)
    for written in range(2, 5002):
        progress.grow(written, SIZE)
        if written % 100 == 0:
            await asyncio.sleep(0)
    assert max(crowd.wakings) <= 50
    async with asyncio.timeout(5):
        while min(crowd.position) < 5001:
            await asyncio.sleep(0.001)
    progress.agree(SIZE)
    await crowd.done()
    assert crowd.position == [SIZE] * 200


async def test_what_nobody_may_send_yet_wakes_nobody() -> None:
    """A blob that is all tail keeps its followers asleep until its digest agreed."""
    progress = Progress()
    progress.grow(0, TAIL)
    crowd = Crowd(progress, 3)
    await asyncio.sleep(0.01)
    for written in range(1, 1001):
        progress.grow(written, TAIL)
        await asyncio.sleep(0)
    assert progress.sendable() == 0
    assert max(crowd.wakings) < 100
    progress.agree(TAIL)
    await crowd.done()
    assert crowd.position == [TAIL] * 3


@pytest.mark.parametrize("how", ["agreed", "failed", "abandoned"])
async def test_the_end_is_told_at_once(how: str) -> None:
    """Whatever was told a moment ago, an end does not wait for its interval."""
    progress = Progress()
    progress.grow(1000, SIZE)
    crowd = Crowd(progress, 100)
    await asyncio.sleep(0)
    progress.grow(2000, SIZE)
    await asyncio.sleep(0)
    match how:
        case "agreed":
            progress.agree(SIZE)
        case "failed":
            progress.fail(Failure("Unavailable", "gone"))
        case _:
            progress.abandon()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [task.done() for task in crowd.tasks] == [True] * 100


async def test_a_wait_gives_up_when_nothing_moves() -> None:
    """One timer for all: each waiter gives up by its own patience, counted from the last growth."""
    progress = Progress()
    progress.grow(1000, SIZE)

    async def wait(stall: float) -> None:
        while True:
            await progress.change(stall)

    patient, hasty = asyncio.create_task(wait(60.0)), asyncio.create_task(wait(0.5))
    await asyncio.sleep(0.1)
    progress.grow(2000, SIZE)
    grown = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="nothing arrived"):
        await asyncio.wait_for(hasty, 10)
    assert asyncio.get_running_loop().time() - grown >= 0.5
    assert not patient.done()
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)
    with pytest.raises(Unavailable):
        await progress.change(0.0)


@pytest.mark.parametrize("agreed", [True, False])
async def test_what_has_ended_leaves_no_timer(agreed: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """A follower's deadline goes with the ingest: a timer would keep all of it in memory for minutes."""
    progress = Progress()
    progress.grow(1, SIZE)
    crowd = Crowd(progress, 3)
    await asyncio.sleep(0)
    if agreed:
        progress.agree(SIZE)
    else:
        progress.abandon()
    await crowd.done()
    assert progress._giving_up is None
