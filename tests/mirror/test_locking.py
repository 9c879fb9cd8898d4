"""Taking over a lock: all of it or nothing, from bytes that were hashed here."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest

from iarproxy.errors import Conflict, Denied, Malformed, Recalled, UnknownManifest, UnknownName
from iarproxy.ledger import DEFAULT, EventKind, Pin
from iarproxy.mirror.acts.locking import Locking, Plan
from iarproxy.oci import Digest, Tag, TagReference
from iarproxy.oci.lock import Lock, Locked, locked
from iarproxy.trust import Mode, Pattern, TagRule
from iarproxy.trust.environments import FIRST_FETCHES, Environment, PinsFrom
from images import index, small_image
from registry import FakeRegistry
from world import World

PROD = Environment("prod", PinsFrom.LOCK)
ENTRIES = 10_000 if os.environ.get("IARPROXY_SEEDS") == "200" else 500


def use(world: World, rules: tuple[TagRule, ...] = ()) -> Locking:
    return Locking(world.mirror, world.ledger, world.upstreams, rules)


def lock(world: World, **wanted: Digest) -> Lock:
    """Tags by name."""
    return locked(Locked(world.reference(name), digest) for name, digest in wanted.items())


async def take(world: World, plan: Plan, *, prune: bool = False, reason: str = "reviewed") -> list[Any]:
    """Fetch and act, as the command does with --repin."""
    wanted = [*plan.new, *(each.entry for each in plan.differs)]
    held, failed = await use(world).fetch(wanted, lambda: None)
    assert [] == failed
    return await use(world).act(plan, held, prune=prune, source="iar.lock", reason=reason, actor="ann (uid 1)")


async def pins(world: World, environment: str = DEFAULT) -> dict[str, Digest]:
    found = world.ledger.within(environment).every_pin()
    return {pin.reference.tag.value: pin.descriptor.digest async for pin in found}


async def test_new_pins_are_fetched_verified_and_held(world: World, registry: FakeRegistry) -> None:
    """What upstream's tag is now does not matter: the digest of the file is fetched, kept and pinned, with its act."""
    old, new = small_image(1), small_image(2)
    registry.content.publish("team/app", None, old)
    registry.content.publish("team/app", "a", new)
    plan = await use(world).plan(lock(world, a=old.digest), FIRST_FETCHES)
    assert (1, 0, 0) == (len(plan.new), len(plan.unchanged), len(plan.differs))
    (pin,) = await take(world, plan)
    assert (old.descriptor, 1) == (pin.descriptor, pin.revision)
    assert old.raw == (await world.tag("a")).raw
    assert world.store.find(old.digest) is not None
    (event,) = await world.ledger.history(world.reference("a"))
    assert (EventKind.IMPORTED, "reviewed", "ann (uid 1)", "iar.lock") == (
        event.kind,
        event.reason,
        event.actor,
        event.body["file"],
    )
    again = await use(world).plan(lock(world, a=old.digest), FIRST_FETCHES)
    assert (0, 1) == (len(again.new), len(again.unchanged))


async def test_what_differs_is_told_and_changed_in_one_act(world: World, registry: FakeRegistry) -> None:
    """A pin on other content is a difference; with the act all pins change, and the memory of them at once."""
    first, second = small_image(1), small_image(2)
    registry.content.publish("team/app", "a", first)
    registry.content.publish("team/app", "b", second)
    await world.tag("a")
    plan = await use(world).plan(lock(world, a=second.digest, b=second.digest, c=first.digest), FIRST_FETCHES)
    assert [("a", first.digest)] == [(each.entry.reference.tag.value, each.pinned) for each in plan.differs]
    await take(world, plan)
    assert {"a": second.digest, "b": second.digest, "c": first.digest} == await pins(world)
    assert second.raw == (await world.tag("a")).raw


async def test_an_entry_that_cannot_be_had_is_told(world: World, registry: FakeRegistry) -> None:
    """Nobody has it, no such upstream, or the file contradicts the bytes: each is named, with why."""
    image = small_image(1)
    registry.content.publish("team/app", "a", image)
    missing = Digest.of(b"missing")
    foreign = TagReference(type(world.repository()).of("other.example.com", "x"), Tag("1"))
    entries = [
        Locked(world.reference("a"), image.digest),
        Locked(world.reference("b"), missing),
        Locked(foreign, image.digest),
        Locked(world.reference("c"), image.digest, image.media_type, 7),
    ]
    seen: list[int] = []
    held, failed = await use(world).fetch(entries, lambda: seen.append(1))
    assert ([world.reference("a")], 4) == (list(held), len(seen))
    assert [(UnknownManifest, False), (UnknownName, False), (Malformed, True)] == [
        (type(each.error), each.is_refused) for each in failed
    ]
    assert {} == await pins(world)


async def test_recalled_content_below_an_index_that_nobody_pulled(world: World, registry: FakeRegistry) -> None:
    """The children are looked at before the index is pinned: what contains a recalled layer is told, and not pinned."""
    child = small_image(1, platform="linux/amd64")
    bad, good = index([child]), small_image(2)
    registry.content.publish("team/app", "1", bad)
    registry.content.publish("team/app", "2", good)
    layer = Digest.parse(orjson.loads(child.raw)["layers"][0]["digest"])
    await world.ledger.recalls.recall([layer], reason="malware", actor="ann")
    plan = await use(world).plan(lock(world, **{"1": bad.digest, "2": good.digest}), FIRST_FETCHES)
    held, failed = await use(world).fetch(plan.new, lambda: None)
    assert [world.reference("2")] == list(held)
    assert [(world.reference("1"), Recalled)] == [(each.entry.reference, type(each.error)) for each in failed]


async def test_a_pin_that_moved_meanwhile_loses_nothing(world: World, registry: FakeRegistry) -> None:
    """Between plan and act a client's first pull pins one of the tags: the act is refused, and changes none."""
    first, second = small_image(1), small_image(2)
    registry.content.publish("team/app", "a", first)
    registry.content.publish("team/app", "b", second)
    plan = await use(world).plan(lock(world, a=second.digest, b=second.digest), FIRST_FETCHES)
    await world.tag("a")
    with pytest.raises(Conflict, match="team/app:a is pinned to"):
        await take(world, plan)
    assert {"a": first.digest} == await pins(world)


async def test_an_environment_of_locks(world: World, registry: FakeRegistry) -> None:
    """Its pins come and go with the file: those that left it are told, removed only where asked for, and come back."""
    first, second = small_image(1), small_image(2)
    registry.content.publish("team/app", "a", first)
    registry.content.publish("team/app", "b", second)
    await take(world, await use(world).plan(lock(world, a=first.digest, b=second.digest), PROD))
    assert ({"a": first.digest, "b": second.digest}, {}) == (await pins(world, "prod"), await pins(world))
    plan = await use(world).plan(lock(world, a=second.digest), PROD)
    assert ["b"] == [pin.reference.tag.value for pin in plan.gone]
    await take(world, plan)
    assert {"a": second.digest, "b": second.digest} == await pins(world, "prod")
    await take(world, await use(world).plan(lock(world, a=second.digest), PROD), prune=True)
    assert {"a": second.digest} == await pins(world, "prod")
    (back,) = await take(world, await use(world).plan(lock(world, a=second.digest, b=first.digest), PROD))
    assert (first.digest, 3) == (back.descriptor.digest, back.revision)


async def test_promotion_environments_take_no_file(world: World) -> None:
    """The refusal names the way in."""
    with pytest.raises(Denied, match="iarproxy promote"):
        await use(world).plan(lock(world), Environment("rel", PinsFrom.PROMOTION, "default"))


async def test_what_is_no_pin_is_told(world: World) -> None:
    """Attachments, and tags that a rule follows or refuses; in an environment of locks nothing is followed."""
    digest = small_image(1).digest
    names = {"latest": digest, "bad": digest, "good": digest, f"sha256-{'a' * 64}.sig": digest}
    locking = use(world, (TagRule(Pattern("**:latest"), Mode.FOLLOW), TagRule(Pattern("**:bad"), Mode.REFUSE)))
    plan = await locking.plan(lock(world, **names), FIRST_FETCHES)
    assert (["good"], 3) == ([each.reference.tag.value for each in plan.new], len(plan.skipped))
    plan = await locking.plan(lock(world, **names), PROD)
    assert (["good", "latest"], 2) == ([each.reference.tag.value for each in plan.new], len(plan.skipped))


async def test_pins_as_a_lock(world: World, registry: FakeRegistry) -> None:
    """What is exported is what is pinned, sorted, with types and sizes."""
    image = small_image(1)
    for name in ("b", "a"):
        registry.content.publish("team/app", name, image)
        await world.tag(name)
    found = await use(world).pins(DEFAULT)
    assert [(world.reference(name), image.digest, image.media_type, len(image.raw)) for name in ("a", "b")] == [
        (each.reference, each.digest, each.media_type, each.size) for each in found.entries
    ]


async def test_offers_are_hints(world: World, registry: FakeRegistry) -> None:
    """Upstream's HEAD for each tag; gone and unknown are two things; nothing is fetched and nothing changes."""
    image = small_image(1)
    registry.content.publish("team/app", "a", image)
    other = TagReference(type(world.repository()).of("other.example.com", "x"), Tag("1"))
    found = await use(world).offers([world.reference("a"), world.reference("gone"), other])
    assert [(image.digest, None), (None, None), (None, UnknownName)] == [
        (each.digest, type(each.error) if each.error else None) for each in found
    ]
    assert ({}, None) == (await pins(world), world.store.find(image.digest))


async def test_pinned_indexes_tell_their_platforms(world: World, registry: FakeRegistry) -> None:
    """For the comparison with a cluster, which may report the platform's digest."""
    children = [small_image(1), small_image(2, platform="linux/arm64")]
    whole = index(children)
    registry.content.publish("team/app", "a", whole)
    await world.tag("a")
    found = await use(world).pinned(DEFAULT, [world.reference("a"), world.reference("none")])
    assert [world.reference("a")] == list(found)
    assert all(found[world.reference("a")].covers(each.digest) for each in (whole, *children))
    assert not found[world.reference("a")].covers(Digest.of(b"other"))


async def test_many_entries_are_one_act(world: World, registry: FakeRegistry) -> None:
    """Thousands of entries are one transaction: serials without a gap, and all of them pinned."""
    image = small_image(1)
    registry.content.publish("team/app", "a", image)
    wanted = lock(world, **{f"v{number}": image.digest for number in range(ENTRIES)})
    made = await take(world, await use(world).plan(wanted, FIRST_FETCHES))
    assert ENTRIES == len([each for each in made if isinstance(each, Pin)])
    assert wanted.by_reference().keys() == (await use(world).pins(DEFAULT)).by_reference().keys()
