"""Drift: what upstream offers now for a pinned tag, judged on bytes, with evidence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iarproxy.errors import Denied, UnknownManifest, UpstreamUnavailable
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Digest
from iarproxy.trust import Drifted, Steady, Vanished
from images import image, index, random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault
from world import World, a_world


async def settle(world: World, digest: Digest, wanted: Held) -> Held:
    """How much is held once background fetches had a moment."""
    for _ in range(100):
        held = await world.mirror.holding.of(digest)
        if held is wanted:
            return held
        await asyncio.sleep(0.02)
    return held


async def test_an_unmoved_tag_is_steady_by_a_head_alone(world: World) -> None:
    """Where upstream still names the pinned digest, a HEAD is enough, and no quota is spent."""
    pinned = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    checked = await world.mirror.drift.check(world.reference())
    assert (Steady(pinned.digest), False) == (checked.verdict, checked.news)
    assert 1 == world.registry.count("GET", "/manifests/1")


async def test_a_moved_tag_is_drift_with_evidence(world: World) -> None:
    """The verdict names both digests; the evidence says what differs and keeps what upstream sent."""
    old = world.registry.content.publish("team/app", "1", image(random_blob(100, 1), labels={"version": "1"}))
    await world.tag()
    new = world.registry.content.publish("team/app", "1", image(random_blob(100, 2), labels={"version": "2"}))
    checked = await world.mirror.drift.check(world.reference())
    assert (Drifted(old.digest, new.digest), True) == (checked.verdict, checked.news)
    [differing] = checked.evidence["difference"]["images"]
    assert [{"what": "label version", "pinned": "1", "offered": "2"}] == differing["changes"]
    assert [{"digest": str(new.layers[0]), "size": 100}] == differing["layers"]["added"]
    assert "1 layer replaced (100 B), label version changed" == checked.evidence["summary"]
    assert world.store.find(new.digest) is not None
    answer = await world.tag()
    assert (old.digest, new.digest) == (answer.descriptor.digest, answer.offered)


async def test_the_same_drift_is_news_once(world: World) -> None:
    """A drift that stands is recorded once, not at each check."""
    world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    world.registry.content.publish("team/app", "1", small_image(2))
    news = [(await world.mirror.drift.check(world.reference())).news for _ in range(3)]
    kinds = [event.kind.value for event in await world.ledger.history(world.reference())]
    assert ([True, False, False], ["pinned", "drifted"]) == (news, kinds)


async def test_a_deleted_tag_has_vanished_and_is_still_served(world: World) -> None:
    """404 upstream is a verdict of its own; clients still get the pin."""
    pinned = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    world.registry.content.delete_tag("team/app", "1")
    checked = await world.mirror.drift.check(world.reference())
    answer = await world.tag()
    assert (Vanished(pinned.digest), True, pinned.digest) == (
        checked.verdict,
        answer.vanished,
        answer.descriptor.digest,
    )


async def test_a_drift_that_ends_is_steady_again(world: World) -> None:
    """When upstream moves the tag back, the warning goes."""
    old = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    world.registry.content.move_tag("team/app", "1", old.digest)
    checked = await world.mirror.drift.check(world.reference())
    assert (Steady(old.digest), True, None) == (checked.verdict, checked.news, (await world.tag()).offered)


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(status=401), Fault(no_answer=True)], ids=["503", "401", "0"]
)
async def test_an_outage_is_no_verdict(world: World, fault: Fault) -> None:
    """An upstream that does not answer neither drifted nor vanished."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    world.registry.faults.add("*/manifests/*", fault)
    with pytest.raises(Exception, match=r"registry\.example\.com"):
        await world.mirror.drift.check(world.reference())
    assert ["pinned"] == [event.kind.value for event in await world.ledger.history(world.reference())]


async def test_a_lying_head_accuses_nobody(world: World) -> None:
    """A HEAD with another digest is only a hint: the bytes of the GET say steady."""
    pinned = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    lie = Fault(headers={"Docker-Content-Digest": str(Digest.of(b"lie"))})
    world.registry.faults.add("*/manifests/1", lie, methods=frozenset({"HEAD"}))
    checked = await world.mirror.drift.check(world.reference())
    assert Steady(pinned.digest) == checked.verdict


async def test_deny_refuses_a_drifted_tag(tmp_path: Path, registry: FakeRegistry) -> None:
    """`on_drift = "deny"` answers 403 and names both digests."""
    async with a_world(tmp_path, registry, tags=[{"match": "**", "on_drift": "deny"}]) as world:
        old = registry.content.publish("team/app", "1", small_image(1))
        await world.tag()
        new = registry.content.publish("team/app", "1", small_image(2))
        await world.mirror.drift.check(world.reference())
        with pytest.raises(Denied, match=f"{old.digest}.*{new.digest}"):
            await world.tag()


async def test_an_unpinned_tag_cannot_be_checked(world: World) -> None:
    """Only what is pinned can drift."""
    with pytest.raises(UnknownManifest, match="not pinned"):
        await world.mirror.drift.check(world.reference())


async def test_a_pin_brings_its_config_in_the_background(world: World) -> None:
    """A pin promises bytes: config and child manifests come without being asked for, layers do not."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    world.registry.content.publish("team/app", "1", both)
    await world.tag()
    child = both.children[0]
    config = next(digest for digest in child.blobs if digest not in child.layers)
    for _ in range(100):
        if world.store.find(config):
            break
        await asyncio.sleep(0.02)
    assert (True, True, False) == (
        world.store.find(config) is not None,
        world.store.find(child.digest) is not None,
        world.store.find(child.layers[0]) is not None,
    )
    assert Held.PARTIAL is await world.mirror.holding.of(both.digest)


async def test_drift_makes_a_pin_complete(world: World) -> None:
    """Once upstream moved the tag, the rest of what is pinned is fetched while upstream still has it by digest."""
    pinned = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    assert Held.COMPLETE is await settle(world, pinned.digest, Held.COMPLETE)
    await world.registry.stop()
    assert await world.blob(pinned.layers[0])


async def test_with_upstream_away_the_check_is_unavailable(world: World) -> None:
    """A refused connection is unavailable and names the upstream."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    await world.registry.stop()
    with pytest.raises(UpstreamUnavailable, match=r"registry\.example\.com"):
        await world.mirror.drift.check(world.reference())
