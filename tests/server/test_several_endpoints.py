"""What clients see of an upstream with several endpoints: nothing, while one of them answers (issue 4, point 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from edges import Edge, edge
from iarproxy.errors import UpstreamUnavailable
from iarproxy.oci import Digest
from iarproxy.trust import Drifted, Steady, Vanished
from images import random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

NAME, REPOSITORY = "registry.example.com", "team/app"
DATA = random_blob(500_000)
TARGET = f"/v2/{REPOSITORY}/blobs/{Digest.of(DATA)}"


@dataclass
class Two:
    """A primary endpoint, a fallback, and an instance over both."""

    first: FakeRegistry
    second: FakeRegistry
    edge: Edge


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[Two]:
    async with FakeRegistry() as first, FakeRegistry() as second:
        for each in (first, second):
            each.content.publish(REPOSITORY, "1", small_image(1))
            each.content.publish_blob(REPOSITORY, DATA)
        async with edge(folder, {NAME: {"url": first.url, "fallback_urls": [second.url]}}) as over:
            yield Two(first, second, over)


async def test_a_blob_goes_on_at_the_next_endpoint(tmp_path: Path) -> None:
    """The primary breaks off in the middle; one answer holds all bytes, of which none was sent twice."""
    async with two(tmp_path) as world:
        world.first.faults.add("*/blobs/*", Fault(truncate_at=200_000, reset=True))
        assert DATA == (await world.edge.ask(TARGET)).body
        (resumed,) = world.second.seen("GET", "/blobs/")
        assert "Range" in resumed.headers
        assert sum(world.second.sent.values()) < len(DATA)


async def test_wrong_bytes_cost_one_try(tmp_path: Path) -> None:
    """Who sends wrong bytes of a blob breaks one pull; the next one is served from the other endpoint."""
    async with two(tmp_path) as world:
        world.first.faults.add("*/blobs/*", Fault(corrupt_at=300_000))
        with pytest.raises(aiohttp.ClientError):
            await world.edge.ask(TARGET)
        assert DATA == (await world.edge.ask(TARGET)).body


async def test_a_pin_names_who_answered(tmp_path: Path) -> None:
    """The source of a pin is the endpoint that sent the bytes; drift judges by whoever answers, and says who did."""
    async with two(tmp_path) as world:
        await world.first.stop()
        assert 200 == (await world.edge.ask(f"/v2/{REPOSITORY}/manifests/1")).status
        reference = world.edge.reference(REPOSITORY, NAME)
        pin = await world.edge.ledger.pin_of(reference)
        assert pin is not None
        assert world.second.url == pin.source
        await world.first.start()
        assert isinstance((await world.edge.mirror.drift.check(reference)).verdict, Steady)
        moved = small_image(2)
        for each in (world.first, world.second):
            each.content.publish(REPOSITORY, "1", moved)
        checked = await world.edge.mirror.drift.check(reference)
        assert Drifted(pin.descriptor.digest, moved.digest) == checked.verdict
        assert checked.evidence["offered_by"] in (world.first.url, world.second.url)


async def test_a_fallback_that_lags_makes_nothing_vanish(tmp_path: Path) -> None:
    """With the primary away, a tag that the fallback lacks is no verdict: nobody who knows has been asked."""
    async with two(tmp_path) as world:
        assert 200 == (await world.edge.ask(f"/v2/{REPOSITORY}/manifests/1")).status
        world.second.content.delete_tag(REPOSITORY, "1")
        await world.first.stop()
        with pytest.raises(UpstreamUnavailable):
            await world.edge.mirror.drift.check(world.edge.reference(REPOSITORY, NAME))
        assert 200 == (await world.edge.ask(f"/v2/{REPOSITORY}/manifests/1")).status


async def test_a_fallback_that_is_a_mirror_makes_nothing_vanish(tmp_path: Path) -> None:
    """That a tag is gone further up is the primary's word too: of a fallback it is no verdict, either way."""
    async with two(tmp_path) as world:
        await world.edge.ask(f"/v2/{REPOSITORY}/manifests/1")
        reference = world.edge.reference(REPOSITORY, NAME)
        world.second.faults.add("*/manifests/*", Fault(headers={"IAR-Upstream-Digest": "none"}))
        await world.first.stop()
        with pytest.raises(UpstreamUnavailable, match="only a fallback"):
            await world.edge.mirror.drift.check(reference)
        await world.first.start()
        world.first.faults.add("*/manifests/*", Fault(headers={"IAR-Upstream-Digest": "none"}))
        world.second.faults.add("*", Fault(no_answer=True))
        async with asyncio.timeout(60):
            while not isinstance(await _verdict(world), Vanished):
                await asyncio.sleep(0.2)


async def _verdict(world: Two) -> object:
    try:
        return (await world.edge.mirror.drift.check(world.edge.reference(REPOSITORY, NAME))).verdict
    except UpstreamUnavailable as error:
        return error
