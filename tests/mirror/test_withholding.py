"""What is not pinned on its first fetch: seeds, cool-downs, quarantine, and what was removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.errors import Denied, Stopped
from iarproxy.ledger import DEFAULT, Change, EventKind, Pin
from iarproxy.oci import Digest
from images import small_image
from registry import FakeRegistry
from world import World, a_world

COOLING = [{"match": "**", "cool_down": "72h"}]
APPROVED = [{"match": "**", "admit": "approved"}]
SEEDED = [{"match": "**", "admit": "seeded"}]


async def _approve(world: World, digest: Digest, tag: str = "1") -> Pin:
    manifest = await world.mirror.manifest(world.repository(), digest)
    change = Change(DEFAULT, world.reference(tag), None, manifest.descriptor, "s")
    made = (await world.ledger.change(EventKind.APPROVED, [change], reason="r", actor="ann"))[0]
    assert isinstance(made, Pin)
    return made


async def _refused(world: World, tag: str = "1") -> Denied:
    with pytest.raises(Denied) as refused:
        await world.tag(tag)
    return refused.value


async def test_a_digest_cools_down_before_it_is_pinned(tmp_path: Path, registry: FakeRegistry) -> None:
    """Refused until the configured time after it was first seen is over; then the next pull pins it."""
    async with a_world(tmp_path, registry, tags=COOLING) as world:
        image = registry.content.publish("team/app", "1", small_image())
        refused = await _refused(world)
        assert {"2026-03-04T12:00:00Z", str(image.digest)} <= set(refused.detail.values())
        assert f"`iarproxy pins approve {world.reference()} --digest {image.digest} --reason TEXT`" in str(refused)
        world.clock.advance(timedelta(hours=71, minutes=59))
        await _refused(world)
        world.clock.advance(timedelta(minutes=1))
        assert image.digest == (await world.tag()).descriptor.digest
        assert None is await world.ledger.candidate(world.reference())


async def test_a_moved_tag_cools_down_anew(tmp_path: Path, registry: FakeRegistry) -> None:
    """What upstream offers instead has a time of its own, counted from when it was seen."""
    async with a_world(tmp_path, registry, tags=COOLING) as world:
        registry.content.publish("team/app", "1", small_image(1))
        await _refused(world)
        second = registry.content.publish("team/app", "1", small_image(2))
        world.clock.advance(timedelta(hours=72))
        assert str(second.digest) in str(await _refused(world))
        world.clock.advance(timedelta(hours=72))
        assert second.digest == (await world.tag()).descriptor.digest


async def test_a_digest_known_from_elsewhere_is_not_new(tmp_path: Path, registry: FakeRegistry) -> None:
    """The cool-down is the digest's: one that was pinned for another tag long ago is admitted at once."""
    rules = [{"match": "**:1", "cool_down": "72h"}]
    async with a_world(tmp_path, registry, tags=rules) as world:
        image = registry.content.publish("team/app", "old", small_image())
        await world.tag("old")
        registry.content.publish("team/app", "1", image)
        await _refused(world)
        world.clock.advance(timedelta(hours=72))
        registry.content.publish("team/app", "1", image)
        assert image.digest == (await world.tag()).descriptor.digest


async def test_a_clock_that_went_back_lets_nothing_in(tmp_path: Path, registry: FakeRegistry) -> None:
    """A digest that was seen later than now is still cooling."""
    async with a_world(tmp_path, registry, tags=COOLING) as world:
        registry.content.publish("team/app", "1", small_image())
        await _refused(world)
        world.clock.advance(timedelta(days=-1000))
        assert "2026-03-04" in str(await _refused(world))


async def test_a_thousand_clients_of_a_withheld_tag_cost_one_request(tmp_path: Path, registry: FakeRegistry) -> None:
    """Neither upstream nor the journal notices them, at once or one after the other."""
    async with a_world(tmp_path, registry, tags=APPROVED) as world:
        registry.content.publish("team/app", "1", small_image())
        for _ in range(10):
            answers = await asyncio.gather(*(world.tag() for _ in range(100)), return_exceptions=True)
            assert [Denied] * 100 == [type(each) for each in answers]
        assert 1 == registry.count(part="/manifests/1")
        assert ["quarantined"] == [event.kind for event in await world.ledger.history(world.reference())]


async def test_a_look_at_a_withheld_tag_costs_its_clients_nothing(tmp_path: Path, registry: FakeRegistry) -> None:
    """The ledger says that it has no pin, which was known: what is withheld stays so, and upstream is not asked."""
    async with a_world(tmp_path, registry, tags=APPROVED) as world:
        registry.content.publish("team/app", "1", small_image())
        await _refused(world)
        assert None is await world.ledger.pin_of(world.reference())
        await _refused(world)
        assert 1 == registry.count(part="/manifests/1")


async def test_upstream_is_asked_again_after_a_while(tmp_path: Path, registry: FakeRegistry) -> None:
    """Within minutes a worker finds out what upstream offers now; a digest that comes again is no news."""
    async with a_world(tmp_path, registry, tags=APPROVED) as world:
        first = registry.content.publish("team/app", "1", small_image(1))
        await _refused(world)
        for seed in (2, 1, 2, 1):
            world.clock.advance(timedelta(minutes=6))
            registry.content.publish("team/app", "1", small_image(seed))
            await _refused(world)
        waiting = await world.ledger.waiting()
        assert [(world.reference(), first.digest)] == [
            (each.name.reference, each.descriptor.digest) for each in waiting
        ]
        assert world.clock() == waiting[0].offered_at
        kinds = [event.kind for event in await world.ledger.history(world.reference())]
        assert ["quarantined", "quarantined"] == kinds


async def test_an_approval_is_obeyed(tmp_path: Path, registry: FakeRegistry) -> None:
    """The worker that remembered the refusal serves the approved digest at once, whatever upstream offers by then."""
    async with a_world(tmp_path, registry, tags=APPROVED) as world:
        image = registry.content.publish("team/app", "1", small_image(1))
        await _refused(world)
        registry.content.publish("team/app", "1", small_image(2))
        await _approve(world, image.digest)
        assert image.digest == (await world.tag()).descriptor.digest
        assert [] == await world.ledger.waiting()


async def test_another_process_obeys_within_a_second(tmp_path: Path, registry: FakeRegistry) -> None:
    """What was approved elsewhere ends a remembered refusal."""
    async with a_world(tmp_path, registry, tags=APPROVED) as world, _beside(tmp_path, registry) as other:
        image = registry.content.publish("team/app", "1", small_image())
        await _refused(world)
        await _approve(other, image.digest)
        async with asyncio.timeout(30):
            while world.ledger.peek_withheld(world.reference()) is not None:
                await asyncio.sleep(0.02)
        assert image.digest == (await world.tag()).descriptor.digest


@asynccontextmanager
async def _beside(folder: Path, registry: FakeRegistry) -> AsyncIterator[World]:
    async with a_world(folder, registry, tags=APPROVED) as made:
        yield made


async def test_a_seed_that_disagrees_is_refused(world: World) -> None:
    """A first fetch of another digest than a lock file expects is no pin, also where the rule asks for nothing."""
    expected = world.registry.content.publish("team/app", None, small_image(1))
    offered = world.registry.content.publish("team/app", "1", small_image(2))
    await world.ledger.seeds.put([(DEFAULT, world.reference(), expected.digest)], reason="lock", actor="ann")
    refused = await _refused(world)
    assert (str(expected.digest), str(offered.digest)) == (refused.detail["expected"], refused.detail["digest"])
    assert None is await world.ledger.pin_of(world.reference())
    await world.ledger.seeds.drop([(await world.ledger.seeds.every())[0].name], reason="wrong", actor="ann")
    assert offered.digest == (await world.tag()).descriptor.digest


async def test_a_seeded_digest_is_pinned_without_cooling(tmp_path: Path, registry: FakeRegistry) -> None:
    """A lock file's word for a digest lets it in; what it does not name is not admitted."""
    rules = [{"match": "**", "admit": "seeded", "cool_down": "72h"}]
    async with a_world(tmp_path, registry, tags=rules) as world:
        image = registry.content.publish("team/app", "1", small_image())
        assert "lock import" in str(await _refused(world))
        await world.ledger.seeds.put([(DEFAULT, world.reference(), image.digest)], reason="lock", actor="ann")
        assert image.digest == (await world.tag()).descriptor.digest


async def test_what_was_removed_comes_back_by_approval(world: World) -> None:
    """After a removal the same digest awaits approval, and so does every other."""
    image = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    await world.ledger.remove(world.reference(), image.digest, reason="malware", actor="ann")
    assert "a person removed its pin" in str(await _refused(world))
    await _approve(world, image.digest)
    assert image.digest == (await world.tag()).descriptor.digest


async def test_what_was_retired_comes_back_by_itself(world: World) -> None:
    """Retention took the name away, not the trust: the same digest is pinned again, another one awaits approval."""
    image = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    for offered in (small_image(2), small_image(1)):
        pin = await world.ledger.pin_of(world.reference())
        if pin is not None:
            change = Change(DEFAULT, world.reference(), pin.descriptor.digest, None)
            await world.ledger.change(EventKind.RETIRED, [change], reason="old", actor="ann")
        world.clock.advance(timedelta(hours=1))
        world.registry.content.publish("team/app", "1", offered)
        if offered.digest != image.digest:
            assert "retention took its pin away" in str(await _refused(world))
    assert image.digest == (await world.tag()).descriptor.digest


async def test_a_withheld_tag_can_be_stopped(tmp_path: Path, registry: FakeRegistry) -> None:
    """With `refusal = "stop"` clients in mirror mode are stopped, with the reason in one word."""
    async with a_world(tmp_path, registry, tags=COOLING, refusal="stop") as world:
        registry.content.publish("team/app", "1", small_image())
        refused = await _refused(world)
        assert isinstance(refused, Stopped)
        assert "cooling-down" == refused.reason


async def test_a_restart_remembers_when_a_digest_was_seen(tmp_path: Path, registry: FakeRegistry) -> None:
    """Sightings and candidates are the ledger's, not a worker's."""
    async with a_world(tmp_path, registry, tags=COOLING) as world:
        image = registry.content.publish("team/app", "1", small_image())
        await _refused(world)
        first = await world.ledger.first_seen(image.digest)
    async with a_world(tmp_path, registry, tags=COOLING) as world:
        assert first == await world.ledger.first_seen(image.digest)
        assert [image.digest] == [each.descriptor.digest for each in await world.ledger.waiting()]
        world.clock.advance(timedelta(hours=72))
        assert image.digest == (await world.tag()).descriptor.digest
