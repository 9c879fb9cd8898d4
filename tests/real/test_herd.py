"""Many clients on one cold blob: one upstream transfer, right bodies, whoever leaves, dies or is cut.

`IARPROXY_SEEDS` sets how many random cuts are tried: 12 here, 200 before a release.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crowd import checksum, crowd, download
from layers import Image, image
from machine import Proxy, Registry
from taps import Tap

pytestmark = [
    pytest.mark.xdist_group("real"),
    pytest.mark.real("docker-registry"),
    pytest.mark.timeout(600),
]
MIB = 1 << 20
SEEDS = int(os.environ.get("IARPROXY_SEEDS", "12"))
HEADS = 4096  # bytes: the head of an answer, generously
UNDER_WAY = MIB  # bytes that kernel and client may hold unread when a connection breaks
CLIENTS = 200


@asynccontextmanager
async def tapped(folder: Path, *, rate: int | None = None) -> AsyncIterator[tuple[Registry, Tap, Proxy]]:
    """An upstream, a tap before it, and a mirror of two workers that knows only the tap."""
    registry = Registry(folder / "upstream")
    await asyncio.to_thread(registry.start)
    try:
        async with Tap(registry.port, rate=rate) as tap:
            proxy = await asyncio.to_thread(Proxy(folder / "mirror", tap.port).start)
            try:
                yield registry, tap, proxy
            finally:
                await asyncio.to_thread(proxy.stop)
    finally:
        await asyncio.to_thread(registry.stop)


async def published(registry: Registry, proxy: Proxy, *sizes: int) -> Image:
    """An image upstream whose manifest is pulled and whose layers are cold."""
    pushed = await asyncio.to_thread(registry.push, "library/big", "1", image("big", *sizes))
    answer = await asyncio.to_thread(proxy.get, "/v2/big/manifests/1")
    assert answer.body == pushed.manifest
    return pushed


async def test_herd(tmp_path: Path) -> None:
    """200 clients that join over several seconds, two workers, one cold 64 MiB blob: one upstream GET, all right."""
    async with tapped(tmp_path, rate=16 * MIB) as (registry, tap, proxy):
        layer = (await published(registry, proxy, 64 * MIB)).layers[-1]
        data = await _blob(registry, layer)
        delays = [number * 4 / CLIENTS for number in range(CLIENTS)]
        bodies = await crowd(proxy.port, f"/v2/big/blobs/{layer}", delays)
        assert {(body.complete, body.size, body.checksum) for body in bodies} == {(True, len(data), checksum(data))}
        assert tap.requests[layer] == 1
        await asyncio.to_thread(proxy.wait_for_clean_ingest)
        assert tap.passed[layer] <= len(data) + HEADS


async def test_the_first_client_leaves(tmp_path: Path) -> None:
    """The client that started the transfer hangs up in mid-body; the others do not notice."""
    async with tapped(tmp_path, rate=8 * MIB) as (registry, tap, proxy):
        layer = (await published(registry, proxy, 8 * MIB)).layers[-1]
        data = await _blob(registry, layer)
        target = f"/v2/big/blobs/{layer}"
        first = asyncio.create_task(download(proxy.port, target, hang_up_after=MIB))
        bodies = await crowd(proxy.port, target, [0.05 + number * 0.03 for number in range(20)])
        assert not (await first).complete
        assert {(body.complete, body.checksum) for body in bodies} == {(True, checksum(data))}
        assert tap.requests[layer] == 1
        await asyncio.to_thread(proxy.wait_for_clean_ingest)


async def test_everybody_leaves(tmp_path: Path) -> None:
    """When all clients have gone the transfer goes on, and the next client is served from the disk."""
    async with tapped(tmp_path, rate=8 * MIB) as (registry, tap, proxy):
        layer = (await published(registry, proxy, 4 * MIB)).layers[-1]
        data = await _blob(registry, layer)
        target = f"/v2/big/blobs/{layer}"
        assert not (await download(proxy.port, target, hang_up_after=1000)).complete
        body = await download(proxy.port, target, delay=0.3)
        assert (body.complete, body.checksum, tap.requests[layer]) == (True, checksum(data), 1)


async def test_the_leader_dies(tmp_path: Path) -> None:
    """The worker that fetches is killed in mid-body: no complete wrong body, the other worker resumes with Range."""
    async with tapped(tmp_path, rate=8 * MIB) as (registry, tap, proxy):
        layer = (await published(registry, proxy, 16 * MIB)).layers[-1]
        data = await _blob(registry, layer)
        target = f"/v2/big/blobs/{layer}"
        clients = asyncio.create_task(crowd(proxy.port, target, [number * 0.02 for number in range(40)]))
        await asyncio.sleep(1)
        os.kill(await asyncio.to_thread(proxy.leader), signal.SIGKILL)
        bodies = await clients
        complete = [body for body in bodies if body.complete]
        assert {body.checksum for body in complete} == {checksum(data)}
        assert {body.size for body in bodies if body.status} == {len(data)}
        again = await download(proxy.port, target)
        assert (again.complete, again.checksum) == (True, checksum(data))
        await asyncio.to_thread(proxy.wait_for_clean_ingest)
        assert tap.requests[layer] == 2
        assert tap.passed[layer] <= len(data) + UNDER_WAY + HEADS


@pytest.mark.parametrize("abort", [False, True], ids=["ended", "reset"])
async def test_upstream_is_cut(tmp_path: Path, abort: bool) -> None:  # noqa: FBT001  # a case, not an option
    """Answers of upstream break off at random places: every body is complete and right, only the rest is asked for."""
    async with tapped(tmp_path) as (registry, tap, proxy):
        sizes = [random.Random(seed).randrange(1, 4 * MIB) for seed in range(SEEDS)]
        layers = (await published(registry, proxy, *sizes)).layers[1:]
        tap.abort = abort
        gate = asyncio.Semaphore(8)

        async def one(seed: int, layer: str) -> list[str]:
            dice = random.Random(seed)
            data = await _blob(registry, layer)
            tap.cuts[layer] = [dice.randrange(len(data) + 300) for _ in range(dice.randrange(1, 3))]
            async with gate:
                bodies = await crowd(proxy.port, f"/v2/big/blobs/{layer}", [dice.random() / 10 for _ in range(3)])
            wrong = [
                f"seed {seed}: {body}" for body in bodies if (body.complete, body.checksum) != (True, checksum(data))
            ]
            # a break may take back what was under way: that is fetched again
            if tap.passed[layer] > len(data) + (tap.requests[layer] - 1) * UNDER_WAY + HEADS:
                wrong.append(f"seed {seed}: {tap.passed[layer]} bytes for {len(data)}")
            return wrong

        outcomes = await asyncio.gather(*(one(seed, layer) for seed, layer in enumerate(layers)))
        assert [line for lines in outcomes for line in lines] == []
        await asyncio.to_thread(proxy.wait_for_clean_ingest)


async def _blob(registry: Registry, layer: str) -> bytes:
    return await asyncio.to_thread(registry.blob, layer)
