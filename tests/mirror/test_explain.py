"""Explaining a name: what blocks it is what clients are told, and the command that lifts it is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.errors import Refused
from iarproxy.ledger import DEFAULT, Change, EventKind
from iarproxy.mirror.explain.explained import explanation_as_json
from iarproxy.oci import Repository, Tag, TagReference
from iarproxy.trust.environments import Environment, PinsFrom
from images import small_image
from registry import FakeRegistry
from world import World, a_world

PROD = Environment("prod", PinsFrom.PROMOTION, DEFAULT)
SITE = Environment("site", PinsFrom.LOCK)


async def _refusal(world: World, environment: str) -> str:
    reference = world.reference()
    with pytest.raises(Refused) as refused:
        await world.mirror.within(environment).manifest(reference.repository, reference.tag)
    return str(refused.value)


async def test_what_is_not_promoted(tmp_path: Path, registry: FakeRegistry) -> None:
    """In an environment without the pin: the refusal itself, the command, and what other environments have."""
    async with a_world(tmp_path, registry, environments=[PROD, SITE]) as world:
        image = world.registry.content.publish("team/app", "1", small_image())
        await world.tag()
        for environment, command in (("prod", "iarproxy promote"), ("site", "iarproxy lock import")):
            found = await world.mirror.explain.reference(world.reference(), environment)
            assert [await _refusal(world, environment)] == [str(each) for each in found.blocked]
            assert {DEFAULT: image.digest} == found.elsewhere
            assert [True] == [each.startswith(command) for each in found.changes]
        pinned = await world.mirror.explain.reference(world.reference())
        assert () == pinned.blocked
        assert str(world.store.find(image.digest).path) == pinned.path  # type: ignore[union-attr]  # it is held


async def test_who_made_a_pin(tmp_path: Path, registry: FakeRegistry) -> None:
    """The act, its author and reason; and how the name is changed where it is promoted."""
    async with a_world(tmp_path, registry, environments=[PROD]) as world:
        world.registry.content.publish("team/app", "1", small_image())
        descriptor = (await world.tag()).descriptor
        promoted = Change("prod", world.reference(), None, descriptor, "default")
        await world.ledger.change(EventKind.PROMOTED, [promoted], reason="tested", actor="ann (uid 7)")
        told = explanation_as_json(await world.mirror.explain.reference(world.reference(), "prod"))
        assert ("promoted", "ann (uid 7)", "tested") == (told["kind"], told["by"], told["reason"])
        assert "the pinned digest" == told["outcome"]
        assert f"--replace {descriptor.digest}" in told["changes"][0]


async def test_drift_that_stops_clients(tmp_path: Path, registry: FakeRegistry) -> None:
    """What upstream offers, what clients get, and the two ways to settle it."""
    rules = [{"match": "**", "mode": "pin", "on_drift": "deny"}]
    async with a_world(tmp_path, registry, tags=rules) as world:
        world.registry.content.publish("team/app", "1", small_image(1))
        await world.tag()
        offered = world.registry.content.publish("team/app", "1", small_image(2))
        await world.mirror.drift.check(world.reference())
        found = await world.mirror.explain.reference(world.reference())
        assert [await _refusal(world, DEFAULT)] == [str(each) for each in found.blocked]
        assert ["iarproxy pins repin", "iarproxy drift ack"] == [" ".join(each.split()[:3]) for each in found.changes]
        assert [str(offered.digest) in each for each in found.changes] == [True, True]
        assert [True, True] == [f"`{each}`" in str(found.blocked[0]) for each in found.changes]


async def test_what_is_withheld(tmp_path: Path, registry: FakeRegistry) -> None:
    """A tag in quarantine tells what upstream offered and how it is approved."""
    async with a_world(tmp_path, registry, tags=[{"match": "**", "admit": "approved"}]) as world:
        offered = world.registry.content.publish("team/app", "1", small_image())
        refused = await _refusal(world, DEFAULT)
        found = await world.mirror.explain.reference(world.reference())
        assert [refused] == [str(each) for each in found.blocked]
        assert ["iarproxy pins approve"] == [" ".join(each.split()[:3]) for each in found.changes]
        assert offered.digest == (found.withheld.descriptor.digest if found.withheld else None)


async def test_a_removed_pin(world: World) -> None:
    """A tombstone is told before anybody meets it."""
    world.registry.content.publish("team/app", "1", small_image())
    digest = (await world.tag()).descriptor.digest
    await world.ledger.remove(world.reference(), digest, reason="bad", actor="ann")
    found = await world.mirror.explain.reference(world.reference())
    assert ("removed", "bad") == (found.made.kind, found.made.reason) if found.made else None
    assert "approves" in found.outcome
    assert "pins approve" in found.changes[0]


async def test_recalled_content(world: World) -> None:
    """A recall blocks a pinned tag, and says how it is undone."""
    world.registry.content.publish("team/app", "1", small_image())
    digest = (await world.tag()).descriptor.digest
    await world.ledger.recalls.recall([digest], reason="malware", actor="ann")
    found = await world.mirror.explain.reference(world.reference())
    assert [True] == ["malware" in str(each) for each in found.blocked]
    assert f"iarproxy recall --undo {digest}" in found.changes[0]


async def test_a_registry_that_is_no_upstream(world: World) -> None:
    """The closed list is what blocks it."""
    stranger = TagReference(Repository("unknown.example", "app"), Tag("1"))
    found = await world.mirror.explain.reference(stranger)
    assert ["unknown.example is not one of the configured upstreams"] == [
        str(each).partition(";")[0] for each in found.blocked
    ]


@pytest.mark.parametrize(
    ("rule", "seeded", "says", "command"),
    [
        ({}, False, "the first pull pins it to what upstream offers", None),
        ({"admit": "approved"}, False, "refused until a person approves", "pins approve"),
        ({"admit": "approved"}, True, "refused until a person approves", "pins approve"),
        ({"admit": "seeded"}, False, "refused: it is in no lock file", "pins approve"),
        ({"admit": "seeded"}, True, "as a seed says", None),
        ({"cool_down": "72h"}, False, "less than 3 days, 0:00:00 ago", None),
    ],
)
async def test_a_tag_that_nobody_pulled(
    tmp_path: Path, registry: FakeRegistry, rule: dict[str, str], says: str, command: str | None, *, seeded: bool
) -> None:
    """What its first pull would meet is told by its rule and its seed."""
    async with a_world(tmp_path, registry, tags=[{"match": "**"} | rule]) as world:
        if seeded:
            await world.ledger.seeds.put([(DEFAULT, world.reference(), small_image().digest)], reason="r", actor="ann")
        found = await world.mirror.explain.reference(world.reference())
        assert says in found.outcome
        assert [command is not None] * len(found.changes) == [str(command) in each for each in found.changes]
        assert bool(command) is bool(found.changes)


async def test_what_was_withheld_is_judged_anew(tmp_path: Path, registry: FakeRegistry) -> None:
    """A cool-down that is over and a rule that was changed block nothing, though upstream was not asked since."""
    offered = registry.content.publish("team/app", "1", small_image())
    async with a_world(tmp_path, registry, tags=[{"match": "**", "cool_down": "72h"}]) as world:
        await _refusal(world, DEFAULT)
        assert (await world.mirror.explain.reference(world.reference())).blocked
        world.clock.advance(timedelta(hours=73))
        found = await world.mirror.explain.reference(world.reference())
        assert ((), None) == (found.blocked, found.withheld)
        assert offered.digest == (await world.tag()).descriptor.digest
    registry.content.publish("team/app", "2", small_image(2))
    async with a_world(tmp_path, registry, tags=[{"match": "**", "admit": "approved"}]) as world:
        with pytest.raises(Refused):
            await world.tag("2")
    async with a_world(tmp_path, registry) as world:
        found = await world.mirror.explain.reference(world.reference("2"))
        assert ((), "the first pull pins it to what upstream offers then") == (found.blocked, found.outcome)
