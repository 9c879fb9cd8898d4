"""One piece of work per key: joined, left, failed, cancelled, bounded."""

from __future__ import annotations

import asyncio

import pytest

from iarproxy.errors import Unavailable, UpstreamUnavailable
from iarproxy.inflight import InFlight


class Work:
    """Counts its starts and ends when it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.starts = 0
        self.go = asyncio.Event()
        self._error = error

    async def __call__(self) -> str:
        self.starts += 1
        await self.go.wait()
        if self._error:
            raise self._error
        return "done"


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_waiters_start_one_task() -> None:
    """A hundred callers get the result of one run, and the key is free afterwards."""
    flights: InFlight[str, str] = InFlight()
    work = Work()
    waiters = [asyncio.create_task(flights.once("key", work)) for _ in range(100)]
    await _settle()
    assert len(flights) == 1
    work.go.set()
    assert await asyncio.gather(*waiters) == ["done"] * 100
    assert (work.starts, len(flights)) == (1, 0)
    assert await flights.once("key", work) == "done"
    assert work.starts == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    """A key that hangs leaves another one alone."""
    flights: InFlight[str, str] = InFlight()
    slow, fast = Work(), Work()
    fast.go.set()
    waiter = asyncio.create_task(flights.once("slow", slow))
    assert await flights.once("fast", fast) == "done"
    slow.go.set()
    assert await waiter == "done"


@pytest.mark.parametrize("who", ["first", "last", "all"])
async def test_a_waiter_that_leaves_stops_nothing(who: str) -> None:
    """Whoever is cancelled, the work runs to its end and the others get its result."""
    flights: InFlight[str, str] = InFlight()
    work = Work()
    waiters = [asyncio.create_task(flights.once("key", work)) for _ in range(3)]
    await _settle()
    leaving = {"first": waiters[:1], "last": waiters[-1:], "all": waiters}[who]
    for waiter in leaving:
        waiter.cancel()
    await _settle()
    assert all(waiter.cancelled() for waiter in leaving)
    assert len(flights) == 1
    latecomer = asyncio.create_task(flights.once("key", work))
    await _settle()
    work.go.set()
    assert await latecomer == "done"
    stayed = [await waiter for waiter in waiters if waiter not in leaving]
    assert (stayed, work.starts) == (["done"] * len(stayed), 1)


async def test_a_timeout_stops_nothing() -> None:
    """A waiter with a deadline gets its TimeoutError, and the work goes on."""
    flights: InFlight[str, str] = InFlight()
    work = Work()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flights.once("key", work), 0.01)
    work.go.set()
    assert await flights.once("key", work) == "done"
    assert work.starts == 1


async def test_an_error_reaches_everybody() -> None:
    """All waiters get the exception, and the next caller starts anew."""
    flights: InFlight[str, str] = InFlight()
    work = Work(UpstreamUnavailable("down"))
    waiters = [asyncio.create_task(flights.once("key", work)) for _ in range(3)]
    await _settle()
    work.go.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnavailable] * 3
    with pytest.raises(UpstreamUnavailable):
        await flights.once("key", work)
    assert work.starts == 2


async def test_an_error_that_nobody_waits_for_is_quiet() -> None:
    """No "exception was never retrieved" (the suite turns it into an error) when all waiters left before it came."""
    flights: InFlight[str, str] = InFlight()
    work = Work(UpstreamUnavailable("down"))
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
    waiter = asyncio.create_task(flights.once("key", work))
    await _settle()
    waiter.cancel()
    await _settle()
    work.go.set()
    await _settle()
    assert (len(flights), seen) == (0, [])


async def test_a_flood_of_keys_is_refused() -> None:
    """Above the limit a new key is `Unavailable`; one that is under way may still be joined."""
    flights: InFlight[int, str] = InFlight(limit=2)
    work = Work()
    waiters = [asyncio.create_task(flights.once(key, work)) for key in (1, 2)]
    await _settle()
    with pytest.raises(Unavailable, match="2 requests are under way"):
        await flights.once(3, work)
    waiters.append(asyncio.create_task(flights.once(1, work)))
    await _settle()
    work.go.set()
    assert await asyncio.gather(*waiters) == ["done"] * 3


async def test_close_cancels_and_tells_the_waiters() -> None:
    """After `close` nothing runs, waiters got `Unavailable` rather than a cancellation, and nothing new starts."""
    flights: InFlight[str, str] = InFlight()
    work = Work()
    waiter = asyncio.create_task(flights.once("key", work))
    await _settle()
    await flights.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiter
    with pytest.raises(Unavailable, match="stopping"):
        await flights.once("key", work)
    assert (work.starts, len(flights)) == (1, 0)


async def test_a_flood_in_one_group_refuses_nothing_in_another() -> None:
    """The limit counts per group, and what has ended counts no more."""
    flights: InFlight[str, str] = InFlight(limit=1, group=lambda key: key[0])
    work = Work()
    waiters = [asyncio.create_task(flights.once(key, work)) for key in ("a1", "b1")]
    await _settle()
    with pytest.raises(Unavailable, match="under way already"):
        await flights.once("a2", work)
    work.go.set()
    assert ["done", "done", "done"] == [*await asyncio.gather(*waiters), await flights.once("a2", work)]
