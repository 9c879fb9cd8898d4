"""Where content is and who was given it."""

from __future__ import annotations

from datetime import UTC, datetime

from iarproxy.ledger import Change, EventKind, Use
from iarproxy.mirror.recall import reach
from iarproxy.mirror.recall.reach import Container, Lead, Reach, Reached, below
from iarproxy.oci import Digest, Tag
from images import Published, image, index, random_blob, small_image
from world import World

SHARED = random_blob(3_000, 77)
LAYER = Digest.of(SHARED)
ONE = image(SHARED, random_blob(2_000, 1))
ARM = image(random_blob(2_000, 2), SHARED, platform="linux/arm64")
AMD = image(random_blob(2_000, 3))
BOTH = index([AMD, ARM])
NESTED = index([BOTH])
OTHER = small_image(9)
WHEN = datetime(2026, 2, 28, 12, tzinfo=UTC)


async def hold(world: World, *published: Published) -> None:
    for each in published:
        await world.store.put(each.digest, each.raw)


async def used(world: World, wanted: Tag | Digest | None, digest: Digest, client: str | None, count: int = 1) -> Use:
    use = Use(world.repository(), wanted, digest, client, WHEN, WHEN, count)
    await world.ledger.uses.record([use])
    return use


async def of(world: World, *digests: Digest) -> Reached:
    return await Reach(world.store, world.ledger).of(digests)


async def test_containers_are_found_among_what_was_given_and_what_is_pinned(world: World) -> None:
    """A manifest that contains it, the indexes above it, and nothing else; those below what is pinned too."""
    await hold(world, ONE, ARM, AMD, BOTH, NESTED, OTHER)
    await used(world, Tag("one"), ONE.digest, "10.0.0.1")
    await used(world, Tag("other"), OTHER.digest, "10.0.0.1")
    await world.ledger.add(world.reference("nested"), NESTED.descriptor, "here")
    found = await of(world, LAYER)
    wanted = [(ONE, False), (ARM, False), (BOTH, True), (NESTED, True)]
    assert {Container(each.digest, is_index) for each, is_index in wanted} == set(found.containers)
    assert (Lead("default", world.reference("nested"), NESTED.digest, "pinned"),) == found.leads
    assert (6, 0) == (found.looked, found.unread)


async def test_every_environment_and_followed_tags_lead_to_it(world: World) -> None:
    """Names are found wherever they lead to it, and only where they do now."""
    await hold(world, ONE, OTHER)
    await world.ledger.add(world.reference("one"), ONE.descriptor, "here")
    await world.ledger.add(world.reference("moved"), ONE.descriptor, "here")
    await world.ledger.repin(
        world.reference("moved"), ONE.digest, OTHER.descriptor, reason="r", actor="a", source="here"
    )
    change = Change("prod", world.reference("one"), None, ONE.descriptor)
    await world.ledger.change(EventKind.PROMOTED, [change], reason="r", actor="a")
    await world.ledger.set_followed(world.reference("latest"), ONE.descriptor)
    await world.ledger.set_followed(world.reference("edge"), OTHER.descriptor)
    leads = {(each.environment, each.reference.tag.value, each.how) for each in (await of(world, LAYER)).leads}
    assert {("default", "one", "pinned"), ("prod", "one", "pinned"), ("default", "latest", "followed")} == leads


async def test_pulls_are_those_of_it_and_of_what_contains_it(world: World) -> None:
    """Each with its client, name, moments and count; sorted by client; an unrecorded client is none."""
    await hold(world, ONE, ARM, AMD, BOTH, OTHER)
    alone = await used(world, Tag("one"), ONE.digest, "10.0.0.1", 3)
    by_digest = await used(world, ARM.digest, ARM.digest, "10.0.0.2")
    listed = await used(world, Tag("both"), BOTH.digest, "10.0.0.2", 2)
    blob = await used(world, None, LAYER, None, 7)
    await used(world, Tag("other"), OTHER.digest, "10.0.0.3")
    await used(world, AMD.digest, AMD.digest, "10.0.0.2")
    found = await of(world, LAYER)
    assert [blob, alone, listed, by_digest] == list(found.pulls)
    assert () == found.unknown


async def test_what_is_not_held_is_counted_and_said(world: World) -> None:
    """A manifest that was given once and is gone may have contained it."""
    await used(world, Tag("one"), ONE.digest, "10.0.0.1")
    found = await of(world, LAYER)
    assert ((), 1, ["1 manifests that are not held here were not looked through"]) == (
        found.pulls,
        found.unread,
        list(found.unknown),
    )


async def test_pages_and_a_small_memory_change_nothing(world: World) -> None:
    """More names and uses than a page has are all looked at, and no manifest is read twice."""
    images = [image(SHARED if number % 3 else b"x", str(number).encode()) for number in range(2 * reach.PAGE + 3)]
    await hold(world, *images)
    for number, each in enumerate(images):
        await world.ledger.add(world.reference(f"v{number}"), each.descriptor, "here")
    await world.ledger.uses.record(
        [Use(world.repository(), Tag("t"), each.digest, "10.0.0.1", WHEN, WHEN, 1) for each in images]
    )
    counted: list[int] = []
    found = await Reach(world.store, world.ledger).of([LAYER], counted.append)
    wanted = {each.digest for number, each in enumerate(images) if number % 3}
    assert wanted == {each.digest for each in found.containers} == {each.digest for each in found.leads}
    assert wanted == {each.digest for each in found.pulls}
    assert len(images) == found.looked == sum(counted)


async def test_what_is_below_an_index_is_named_once(world: World) -> None:
    """All manifests below nested indexes, as far as they are held; an image has none; what is not held is not known."""
    await hold(world, AMD, BOTH, NESTED)
    assert {BOTH.digest, AMD.digest, ARM.digest} == set(below(world.store, NESTED.digest) or ())
    assert [] == below(world.store, AMD.digest)
    assert None is below(world.store, ARM.digest)
