"""What is held does not wait for an upstream that takes requests and never answers (design invariant 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from iarproxy.errors import UnknownManifest
from iarproxy.mirror.serving.answers import Followed
from iarproxy.oci import Digest
from images import Published, artifact, small_image
from registry import FakeRegistry
from registry_faults import Fault
from world import World, a_world

SOON = 15  # seconds: less than one answer of upstream may take (`Timeouts.manifest`), much more than is needed
FOLLOW = [{"match": "registry.example.com/team/app:latest", "mode": "follow", "ttl": "1h"}]


@pytest_asyncio.fixture
async def following(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[World]:
    """A world in which one tag is followed."""
    async with a_world(tmp_path, registry, tags=FOLLOW) as made:
        yield made


async def _listed(world: World, subject: Digest) -> list[str]:
    answer = await world.mirror.referrers(world.repository(), subject, ())
    return [each["digest"] for each in orjson.loads(answer.raw)["manifests"]]


def _silence(world: World) -> None:
    world.clock.advance(timedelta(hours=2))
    world.registry.faults.add("*", Fault(stall_at=-1))


async def test_a_followed_tag(following: World) -> None:
    """What it was last is served, as stale, before upstream's time to answer is over; again and again."""
    image = following.registry.content.publish("team/app", "latest", small_image())
    await following.tag("latest")
    _silence(following)
    async with asyncio.timeout(SOON):
        answers = [await following.tag("latest") for _ in range(10)]
    told = [(each.descriptor.digest, isinstance(each.standing, Followed) and each.standing.stale) for each in answers]
    assert [(image.digest, True)] * 10 == told


async def test_a_followed_tag_is_news_once_upstream_answers_late(following: World) -> None:
    """Who gave up waiting leaves the question under way: the late answer is there for the next one."""
    following.registry.content.publish("team/app", "latest", small_image())
    await following.tag("latest")
    following.clock.advance(timedelta(hours=2))
    gate = following.registry.gate("late")
    following.registry.faults.add("*", Fault(wait_for="late"))
    newer = following.registry.content.publish("team/app", "latest", small_image(seed=2))
    assert newer.digest != (await following.tag("latest")).descriptor.digest
    gate.set()
    async with asyncio.timeout(SOON):
        while (await following.tag("latest")).descriptor.digest != newer.digest:
            await asyncio.sleep(0.02)


async def _signed(world: World) -> tuple[Published, Published]:
    subject = world.registry.content.publish("team/app", "1", small_image())
    return subject, world.registry.content.publish("team/app", None, artifact(subject))


async def test_referrers(world: World) -> None:
    """Those that upstream listed last are listed: dockerd asks for them at each pull."""
    subject, attached = await _signed(world)
    await world.tag()
    assert [str(attached.digest)] == await _listed(world, subject.digest)
    _silence(world)
    async with asyncio.timeout(SOON):
        assert [[str(attached.digest)]] * 10 == [await _listed(world, subject.digest) for _ in range(10)]


async def test_referrers_of_what_is_held_that_were_never_asked_for(world: World) -> None:
    """The list is empty before clients give up, and complete when upstream has answered."""
    subject, attached = await _signed(world)
    await world.tag()
    gate = world.registry.gate("late")
    world.registry.faults.add("*", Fault(wait_for="late"))
    async with asyncio.timeout(SOON):
        assert [] == await _listed(world, subject.digest)
        gate.set()
        while [str(attached.digest)] != await _listed(world, subject.digest):
            await asyncio.sleep(0.02)


async def test_referrers_where_upstream_has_neither_api_nor_tag(world: World) -> None:
    """That there is none was said once: a pull of what is held does not wait for it again and again."""
    world.registry.answer_referrers = False
    subject = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    assert [] == await _listed(world, subject.digest)
    _silence(world)
    async with asyncio.timeout(SOON):
        assert [[]] * 10 == [await _listed(world, subject.digest) for _ in range(10)]


async def test_attachment_tags(world: World) -> None:
    """A signature that is held is served, one that was never seen of an image that is held is soon said to be none."""
    subject, _ = await _signed(world)
    signature = f"sha256-{subject.digest.hex}.sig"
    kept = world.registry.content.publish("team/app", signature, small_image(seed=3))
    await world.tag()
    await world.tag(signature)
    _silence(world)
    async with asyncio.timeout(SOON):
        assert kept.digest == (await world.tag(signature)).descriptor.digest
        for _ in range(10):
            with pytest.raises(UnknownManifest, match="was never seen"):
                await world.tag(f"sha256-{subject.digest.hex}.att")


async def test_lists_of_tags(world: World) -> None:
    """What is pinned is listed, as an incomplete list."""
    await _signed(world)
    await world.tag()
    _silence(world)
    async with asyncio.timeout(SOON):
        listed = await world.mirror.tags(world.repository())
    assert (("1",), False) == (listed.tags, listed.complete)


async def test_a_tag_followed_by_a_clock_that_was_ahead_is_asked_again(following: World) -> None:
    """What a machine learnt while its clock was years ahead is not fresh for years."""
    following.registry.content.publish("team/app", "latest", small_image())
    following.clock.advance(timedelta(days=1000))
    await following.tag("latest")
    following.clock.advance(timedelta(days=-1000))
    newer = following.registry.content.publish("team/app", "latest", small_image(seed=2))
    assert newer.digest == (await following.tag("latest")).descriptor.digest
