"""Promotions in a loop while upstream moves, and promotions that are killed.

`IARPROXY_SEEDS=200` runs the loop a thousand times and kills forty processes; here it is fifty and four.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from iarproxy.ledger import Change, EventKind, Pin
from iarproxy.mirror.promotion.plan import Replaces, Wanted
from iarproxy.oci import Digest
from images import Published, small_image
from promoting_world import blobs, bundles, order, promote, stands_for
from promotion_worker import TAGS
from registry import FakeRegistry
from world import World, a_world

ALL = os.environ.get("IARPROXY_SEEDS") == "200"
RUNS = 1000 if ALL else 50
KILLS = 40 if ALL else 4
WORKER = Path(__file__).with_name("promotion_worker.py")
IMAGES = [small_image(seed) for seed in range(8)]


async def moving(registry: FakeRegistry) -> None:
    """Upstream moves its tag all the time."""
    chance = random.Random(1)
    while True:
        registry.content.publish("team/app", "1", chance.choice(IMAGES))
        await asyncio.sleep(0.001)


async def accept(world: World, image: Published) -> Pin:
    """A person accepts this image for the default environment."""
    old = await stands_for(world, world.reference(), "default")
    assert old is not None
    answer = await world.mirror.manifest(world.repository(), image.digest)
    return await world.ledger.repin(
        world.reference(), old, answer.descriptor, reason="new", actor="ann", source=world.registry.url
    )


@pytest.mark.timeout(1800)
async def test_prod_is_what_was_planned(world: World) -> None:
    """However often upstream moves the tag between plan and act: prod has the plan's digest, and no blob is touched."""
    for each in IMAGES:
        world.registry.content.publish("team/app", "1", each)
    await world.tag()
    mover = asyncio.create_task(moving(world.registry), name="upstream")
    chance, seen = random.Random(2), dict[str, tuple[int, int]]()
    try:
        for run in range(RUNS):
            pinned = await stands_for(world, world.reference(), "default")
            await accept(world, chance.choice([each for each in IMAGES if each.digest != pinned]))
            old = await stands_for(world, world.reference())
            planned = await world.mirror.promotion.plan(order(Wanted(world.reference(), replaces=old)), [], fetch=False)
            (step,) = planned.steps
            assert step.pin is not None
            wanted = Wanted(world.reference(), step.pin.descriptor.digest, old)
            await promote(world.mirror.promotion, order(wanted))
            assert (run, wanted.digest) == (run, await stands_for(world, world.reference()))
            assert old == (step.outcome.old if isinstance(step.outcome, Replaces) else None)
            if run % 25 == 0:
                seen = insist_same(seen, blobs(world.store.root))
    finally:
        mover.cancel()
    insist_same(seen, blobs(world.store.root))
    assert RUNS == len(await world.ledger.within("prod").history(world.reference(), limit=2 * RUNS))
    fetched = [each for each in world.registry.seen("GET", "/blobs/") if each.status == 200]
    assert len({each.path for each in fetched}) == len(fetched)
    assert (await world.ledger.verify()).ok


def insist_same(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Every blob of before has the inode and the time of change that it had."""
    assert before == {name: after.get(name) for name in before}
    return after


async def worker(folder: Path, registry: FakeRegistry, way: str, keeps: int = 0) -> asyncio.subprocess.Process:
    arguments = [str(folder), registry.url, way, str(keeps)]
    paths = os.pathsep.join(each for each in sys.path if each)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        WORKER,
        *arguments,
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("keeps", [1, 2, 3])
async def test_killed_between_record_and_pin(tmp_path: Path, registry: FakeRegistry, keeps: int) -> None:
    """A promotion that dies once some or all records are durable changed nothing, and the next one does it all."""
    digests = []
    async with a_world(tmp_path, registry) as world:
        for number, tag in enumerate(TAGS):
            digests.append(registry.content.publish("team/app", tag, small_image(number)).digest)
            await world.tag(tag)
        serial = await world.ledger.serial()
    process = await worker(tmp_path, registry, "kill", keeps)
    await process.communicate()
    assert -9 == process.returncode
    async with a_world(tmp_path, registry) as world:
        assert serial == await world.ledger.serial()
        for tag, digest in zip(TAGS, digests, strict=True):
            assert None is await stands_for(world, world.reference(tag))
            assert [] == await bundles(world, digest)
        promoted = await promote(world.mirror.promotion, order(*(world.reference(tag) for tag in TAGS)))
        assert 3 == len(promoted.pins)
        assert [1, 1, 1] == [len(await bundles(world, digest)) for digest in digests]
        assert (await world.ledger.verify()).ok


async def two_sources(world: World) -> dict[str, list[Digest]]:
    """Three names in two environments, with other digests in each; which those are."""
    found: dict[str, list[Digest]] = {}
    for start, source in enumerate(("one", "two")):
        changes = []
        for number, tag in enumerate(TAGS):
            image = world.registry.content.publish("team/app", None, small_image(10 * start + number))
            answer = await world.mirror.manifest(world.repository(), image.digest)
            changes.append(Change(source, world.reference(tag), None, answer.descriptor, world.registry.url))
            found.setdefault(source, []).append(image.digest)
        await world.ledger.change(EventKind.IMPORTED, changes, reason="for a test", actor="ann")
    return found


@pytest.mark.timeout(900)
async def test_killed_at_any_moment(tmp_path: Path, registry: FakeRegistry) -> None:
    """Whenever a promotion of three names dies, all of them stand for the old digests or all for the new ones."""
    async with a_world(tmp_path, registry) as world:
        digests = await two_sources(world)
    for seed in range(KILLS):
        process = await worker(tmp_path, registry, "back-and-forth")
        assert process.stdout is not None
        async with asyncio.timeout(60):
            await process.stdout.readline()
        await asyncio.sleep(random.Random(seed).uniform(0, 0.5))
        process.kill()
        await process.communicate()
        async with a_world(tmp_path, registry) as world:
            found = [await stands_for(world, world.reference(tag)) for tag in TAGS]
            assert found in digests.values()
            assert (await world.ledger.verify()).ok


@pytest.mark.timeout(300)
async def test_of_two_processes_one_wins(tmp_path: Path, registry: FakeRegistry) -> None:
    """Two that promote the same names from two environments at once: one has all of them, the other is told."""
    async with a_world(tmp_path, registry) as world:
        digests = await two_sources(world)
    racing = [await worker(tmp_path, registry, "race", number) for number in range(2)]
    for process in racing:
        assert process.stdout is not None
        assert b"ready\n" == await process.stdout.readline()
    ended = await asyncio.gather(*(process.communicate(b"go\n") for process in racing))
    said = [out for out, _ in ended]
    assert [b"3 pins\n", b"lost\n"] == sorted(said)
    async with a_world(tmp_path, registry) as world:
        found = [await stands_for(world, world.reference(tag)) for tag in TAGS]
        assert digests[("one", "two")[said.index(b"3 pins\n")]] == found
        listed = [await bundles(world, digest) for each in digests.values() for digest in each]
        assert [0, 0, 0, 1, 1, 1] == sorted(map(len, listed))
        assert (await world.ledger.verify()).ok
