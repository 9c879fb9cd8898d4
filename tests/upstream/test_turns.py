"""Places that are given out in turn (rules of `upstream.turns`)."""

from __future__ import annotations

import asyncio

import pytest

from iarproxy.errors import UpstreamHeld
from iarproxy.upstream import turns
from iarproxy.upstream.turns import Turns


async def _wait_for(line: Turns, waiting: int) -> None:
    async with asyncio.timeout(10):
        while line.waiting != waiting:
            await asyncio.sleep(0)


async def test_repositories_take_turns() -> None:
    """One repository asks for twenty, another for two: the second one's are not behind all of the first one's."""
    line, order, hold = Turns("registry.example.com", "blobs", 1), [], asyncio.Event()

    async def use(key: str) -> None:
        async with line.place(key, 60):
            order.append(key)
            await hold.wait()

    tasks = [asyncio.create_task(use("many")) for _ in range(21)]
    await _wait_for(line, 20)
    tasks += [asyncio.create_task(use("few")) for _ in range(2)]
    await _wait_for(line, 22)
    hold.set()
    await asyncio.gather(*tasks)
    assert ["many", "many", "few", "many", "few", "many"] == order[:6]
    assert (23, 0, 0) == (len(order), line.waiting, line.taken)


async def test_who_waits_too_long() -> None:
    """It is told so, with a time; its turn goes to the next."""
    line = Turns("registry.example.com", "blobs", 1)
    async with line.place("a", 1):
        with pytest.raises(UpstreamHeld, match=r"all 1 connections to registry.* for blobs were in use") as raised:
            async with line.place("b", 0.01):
                pass
        assert raised.value.retry_after == 5
        assert (0, 1) == (line.waiting, line.taken)
    async with line.place("c", 1):
        assert line.taken == 1
    assert line.taken == 0


async def test_who_leaves_is_skipped() -> None:
    """Also when it leaves in the very moment in which it was given a place."""
    line = Turns("registry.example.com", "blobs", 1)

    async def use(key: str) -> None:
        async with line.place(key, 60):
            pass

    async with line.place("a", 1):
        first, second, third = (asyncio.create_task(use(key)) for key in "bcd")
        await _wait_for(line, 3)
        first.cancel()
        await asyncio.wait((first,))
        assert line.waiting == 2
    second.cancel()  # it has its place by now and has not run since
    await asyncio.wait((second,))
    await third
    assert (0, 0) == (line.waiting, line.taken)


async def test_the_line_is_bounded() -> None:
    """For each repository, so that one cannot fill it for all, and altogether."""
    line = Turns("registry.example.com", "blobs", 1)
    loads = {"a": turns._WAITING_PER_KEY, "b": turns._WAITING_PER_KEY, "c": turns._WAITING_PER_KEY, "d": 256}

    async def use(key: str) -> None:
        async with line.place(key, 60):
            pass

    async with line.place("z", 1):
        tasks = [asyncio.create_task(use("a")) for _ in range(loads["a"])]
        await _wait_for(line, loads["a"])
        with pytest.raises(UpstreamHeld, match="256 requests wait for blobs"):
            await use("a")
        for key in "bcd":
            tasks += [asyncio.create_task(use(key)) for _ in range(loads[key])]
        await _wait_for(line, 1024)
        with pytest.raises(UpstreamHeld, match="1024 requests wait for blobs"):
            await use("e")
    await asyncio.gather(*tasks)
    assert (0, 0) == (line.waiting, line.taken)
