"""Tags: pinned on first fetch, followed, or refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.errors import Denied, LedgerUnavailable, UnknownManifest, UpstreamUnavailable, UpstreamWrong
from iarproxy.mirror.serving.answers import ByDigest, Followed, Pinned
from iarproxy.oci import Digest, Tag
from images import index, small_image
from registry import FakeRegistry
from registry_faults import Fault
from world import World, a_world


async def test_the_first_fetch_pins_and_the_next_asks_nobody(world: World) -> None:
    """After a tag's first answer, upstream is never asked for it again."""
    image = world.registry.content.publish("team/app", "1", small_image())
    first = await world.tag()
    asked = world.registry.count(part="/manifests/1")
    second = await world.tag()
    assert (image.digest, image.raw) == (first.descriptor.digest, first.raw)
    assert (Pinned(world.clock()), False, True) == (second.standing, first.cached, second.cached)
    assert asked == world.registry.count(part="/manifests/1") == 1


async def test_a_moved_tag_still_gets_the_pinned_manifest(world: World, tmp_path: Path) -> None:
    """Upstream moving a tag changes nothing, not after a restart either."""
    first = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    world.registry.content.publish("team/app", "1", small_image(2))
    assert first.digest == (await world.tag()).descriptor.digest
    async with a_world(tmp_path, world.registry) as restarted:
        assert first.digest == (await restarted.tag()).descriptor.digest


async def test_a_hundred_first_requests_cost_one(world: World) -> None:
    """All who wait for one cold tag share one upstream request and one pin."""
    world.registry.content.publish("team/app", "1", small_image())
    answers = await asyncio.gather(*(world.tag() for _ in range(100)))
    assert 1 == len({answer.descriptor.digest for answer in answers})
    assert 1 == world.registry.count("GET", "/manifests/1")


async def test_a_waiter_that_leaves_does_not_stop_the_pin(world: World) -> None:
    """The first client hangs up; the pin is made all the same."""
    image = world.registry.content.publish("team/app", "1", small_image())
    world.registry.faults.add("*/manifests/*", Fault(stall_at=-1, stall_for=0.2), times=1)
    leaving = asyncio.create_task(world.tag())
    await asyncio.sleep(0.05)
    leaving.cancel()
    assert image.digest == (await world.tag()).descriptor.digest
    assert 1 == world.registry.count("GET", "/manifests/1")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(corrupt_at=5),
        Fault(headers={"Docker-Content-Digest": str(Digest.of(b"another"))}),
        Fault(length_by=-7),
        Fault(truncate_at=20),
        Fault(status=200, body=b"<html>login</html>", headers={"Content-Type": "text/html"}),
        Fault(gzip=True),
        Fault(status=503),
    ],
    ids=["corrupt", "header", "short", "cut", "html", "gzip", "503"],
)
async def test_a_bad_answer_makes_no_pin_and_heals(world: World, fault: Fault) -> None:
    """What upstream gets wrong is never pinned; once upstream is right, so are we."""
    image = world.registry.content.publish("team/app", "1", small_image())
    world.registry.faults.add("*/manifests/1", fault)
    with pytest.raises(UpstreamUnavailable):
        await world.tag()
    assert (None, None) == (await world.ledger.pin_of(world.reference()), world.store.find(image.digest))
    world.registry.faults.clear()
    assert image.digest == (await world.tag()).descriptor.digest


async def test_a_missing_tag_is_unknown_and_unpinned(world: World) -> None:
    """404 is passed on as what it is."""
    world.registry.content.publish("team/app", "1", small_image())
    with pytest.raises(UnknownManifest):
        await world.tag("nope")
    assert await world.ledger.pin_of(world.reference("nope")) is None


async def test_a_pinned_tag_outlives_its_upstream(world: World) -> None:
    """Pinned content is served with upstream gone; what was never asked for is unavailable."""
    image = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    await world.registry.stop()
    assert image.digest == (await world.tag()).descriptor.digest
    with pytest.raises(UpstreamUnavailable, match=r"registry\.example\.com"):
        await world.tag("2")


async def test_an_unreadable_ledger_never_leads_upstream(world: World) -> None:
    """With the ledger gone a tag is unavailable; upstream is not asked what it means (invariant 4)."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.ledger.close()
    with pytest.raises(LedgerUnavailable):
        await world.tag()
    assert 0 == world.registry.count(part="/manifests/")


async def test_a_damaged_manifest_is_fetched_again(world: World, tmp_path: Path) -> None:
    """Bit rot in a stored manifest is noticed on read and healed from upstream by digest."""
    image = world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    path = world.store.root / "blobs" / "sha256" / image.digest.hex
    path.chmod(0o600)
    path.write_bytes(image.raw[:-1] + b"?")
    async with a_world(tmp_path, world.registry) as restarted:
        assert image.raw == (await restarted.tag()).raw


async def test_by_digest_the_bytes_decide(world: World) -> None:
    """A manifest asked for by digest is verified against it, whatever the header claims."""
    image = world.registry.content.publish("team/app", None, small_image())
    world.registry.faults.add("*/manifests/sha256:*", Fault(corrupt_at=3), times=1)
    with pytest.raises(UpstreamWrong):
        await world.mirror.manifest(world.repository(), image.digest)
    answer = await world.mirror.manifest(world.repository(), image.digest)
    assert (image.raw, ByDigest()) == (answer.raw, answer.standing)


async def test_a_layer_is_no_manifest(world: World) -> None:
    """Asking for a held layer below /manifests/ is unknown, not an internal error."""
    image = world.registry.content.publish("team/app", "1", small_image())
    await world.blob(image.layers[0])
    with pytest.raises(UnknownManifest):
        await world.mirror.manifest(world.repository(), image.layers[0])


async def test_an_index_is_pinned_whole(world: World) -> None:
    """What is pinned is the index, never one platform of it."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    world.registry.content.publish("team/app", "1", both)
    answer = await world.tag()
    assert (both.digest, both.raw) == (answer.descriptor.digest, answer.raw)


async def test_follow_asks_again_when_the_time_to_live_is_over(tmp_path: Path, registry: FakeRegistry) -> None:
    """A followed tag moves with upstream, at most its time to live late."""
    rule = {"match": "**:latest", "mode": "follow", "ttl": "1h"}
    async with a_world(tmp_path, registry, tags=[rule]) as world:
        old = registry.content.publish("team/app", "latest", small_image(1))
        assert old.digest == (await world.tag("latest")).descriptor.digest
        new = registry.content.publish("team/app", "latest", small_image(2))
        assert old.digest == (await world.tag("latest")).descriptor.digest
        world.clock.advance(timedelta(hours=2))
        answer = await world.tag("latest")
        assert (new.digest, Followed(world.clock())) == (answer.descriptor.digest, answer.standing)
        assert await world.ledger.pin_of(world.reference("latest")) is None


async def test_a_followed_tag_is_peeked_until_its_time_to_live_is_over(tmp_path: Path, registry: FakeRegistry) -> None:
    """Memory answers for a followed tag what `manifest` answers, as long as that asks nobody."""
    rule = {"match": "**:latest", "mode": "follow", "ttl": "1h"}
    async with a_world(tmp_path, registry, tags=[rule]) as world:
        registry.content.publish("team/app", "latest", small_image(1))
        assert world.mirror.peek(world.repository(), Tag("latest")) is None
        await world.tag("latest")
        assert await world.tag("latest") == world.mirror.peek(world.repository(), Tag("latest"))
        world.clock.advance(timedelta(hours=2))
        assert world.mirror.peek(world.repository(), Tag("latest")) is None


async def test_follow_serves_the_last_word_while_upstream_is_away(tmp_path: Path, registry: FakeRegistry) -> None:
    """A followed tag is served stale, and says so, when upstream cannot be asked."""
    rule = {"match": "**", "mode": "follow", "ttl": "1m"}
    async with a_world(tmp_path, registry, tags=[rule]) as world:
        image = registry.content.publish("team/app", "1", small_image())
        since = (await world.tag()).standing
        await registry.stop()
        world.clock.advance(timedelta(hours=2))
        answer = await world.tag()
        assert isinstance(since, Followed)
        assert (image.digest, Followed(since.since, stale=True)) == (answer.descriptor.digest, answer.standing)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_follow_serves_the_last_word_whatever_upstream_answers(
    tmp_path: Path, registry: FakeRegistry, status: int
) -> None:
    """Invariant 7: a refusal of upstream takes a followed tag away no more than an outage does."""
    rule = {"match": "**", "mode": "follow", "ttl": "1m"}
    async with a_world(tmp_path, registry, tags=[rule]) as world:
        image = registry.content.publish("team/app", "1", small_image())
        await world.tag()
        registry.faults.add("*", Fault(status=status))
        world.clock.advance(timedelta(hours=2))
        answer = await world.tag()
        assert isinstance(answer.standing, Followed)
        assert (image.digest, True) == (answer.descriptor.digest, answer.standing.stale)


async def test_a_refused_tag_asks_nobody(tmp_path: Path, registry: FakeRegistry) -> None:
    """`refuse` denies, and names the rule."""
    async with a_world(tmp_path, registry, tags=[{"match": "**:bad", "mode": "refuse"}]) as world:
        registry.content.publish("team/app", "bad", small_image())
        with pytest.raises(Denied, match=r"\*\*:bad"):
            await world.tag("bad")
        assert [] == registry.log


async def test_attachment_tags_are_never_pins(world: World) -> None:
    """`sha256-<hex>` grows with every signature: it is followed and never pinned."""
    tag = f"sha256-{Digest.of(b'subject').hex}.sig"
    world.registry.content.publish("team/app", tag, small_image(1))
    await world.tag(tag)
    grown = world.registry.content.publish("team/app", tag, small_image(2))
    world.clock.advance(timedelta(minutes=10))
    assert grown.digest == (await world.mirror.manifest(world.repository(), Tag(tag))).descriptor.digest
    assert await world.ledger.pin_of(world.reference(tag)) is None


async def test_an_attachment_nobody_saw_is_unknown_while_upstream_is_away(world: World) -> None:
    """Runtimes look for signatures at each pull: an error would fail the pull of what we hold."""
    await world.registry.stop()
    with pytest.raises(UnknownManifest, match="never seen"):
        await world.tag(f"sha256-{Digest.of(b'subject').hex}.sig")


async def test_what_is_held_is_served_while_upstream_is_flooded(tmp_path: Path, registry: FakeRegistry) -> None:
    """Invariant 7: thousands who wait for a silent upstream keep nobody from what is on disk."""
    async with a_world(tmp_path, registry) as world:
        image = registry.content.publish("team/app", "1", small_image())
        await world.tag()
    async with a_world(tmp_path, registry) as world:
        registry.faults.add("*", Fault(stall_at=-1))
        wanted = [Digest.of(str(number).encode()) for number in range(4200)]
        waiting = [asyncio.create_task(world.mirror.manifest(world.repository(), each)) for each in wanted]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert image.digest == (await world.tag()).descriptor.digest
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
