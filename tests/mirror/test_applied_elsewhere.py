"""A bundle that another process applied is seen by this one, followed tags and referrers too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from iarproxy.ledger import DEFAULT, Ledger
from iarproxy.ledger.bundles import Applying
from iarproxy.oci import Descriptor, Digest, Tag, TagReference
from iarproxy.oci.media_types import OCI_INDEX
from images import Published, artifact, small_image
from registry import FakeRegistry
from world import World, a_world

FOLLOW = {"match": "**:latest", "mode": "follow", "ttl": "12h"}
SECONDS = 20.0


async def hold(world: World, published: Published) -> None:
    for digest, data in published.blobs.items():
        await world.store.put(digest, data)
    await world.store.put(published.digest, published.raw)


async def apply_elsewhere(world: World, sequence: int, followed: list[tuple[TagReference, Descriptor]]) -> None:
    """As another process does it: through a ledger of its own."""
    other = await Ledger.open(
        world.store.root / "ledger.db", store_identity=world.store.identity, store_is_empty=False, create=False
    )
    try:
        await other.bundles.apply(
            Applying(
                origin="iarproxy/origin",
                set="site-a",
                sequence=sequence,
                bundle=Digest.of(b"bundle"),
                manifest=followed[0][1],
                environment=DEFAULT,
                changes=(),
                followed=followed,
                links={},
                checkpoint="",
                reason="r",
                actor="ann",
            )
        )
    finally:
        await other.close()


async def until(seen: Callable[[], Awaitable[Any]], wanted: object) -> None:
    async with asyncio.timeout(SECONDS):
        while await seen() != wanted:
            await asyncio.sleep(0.02)


async def test_a_followed_tag_is_looked_up_anew(tmp_path: Path, registry: FakeRegistry) -> None:
    """What it offered is remembered for hours, and forgotten when a bundle brings something else."""
    old, new = (registry.content.publish("team/app", "latest", small_image(number)) for number in (1, 2))
    registry.content.publish("team/app", "latest", old)
    async with a_world(tmp_path, registry, tags=[FOLLOW]) as world:
        assert old.digest == (await world.tag("latest")).descriptor.digest
        await hold(world, new)
        await registry.stop()
        await apply_elsewhere(world, 1, [(world.reference("latest"), new.descriptor)])

        async def seen() -> Digest:
            return (await world.tag("latest")).descriptor.digest

        await until(seen, new.digest)


async def test_referrers_are_looked_up_anew(tmp_path: Path, registry: FakeRegistry) -> None:
    """That the API knew of none is remembered, and forgotten when a bundle brings some."""
    subject = registry.content.publish("team/app", "1", small_image())
    async with a_world(tmp_path, registry) as world:
        await world.tag("1")

        async def seen() -> list[str]:
            answer = await world.mirror.referrers(world.repository(), subject.digest, ())
            return [each["digest"] for each in orjson.loads(answer.raw)["manifests"]]

        assert [] == await seen()
        sbom = artifact(subject)
        await hold(world, sbom)
        listed = {"mediaType": sbom.media_type, "digest": str(sbom.digest), "size": len(sbom.raw)}
        raw = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]})
        await world.store.put(Digest.of(raw), raw)
        await registry.stop()
        index = Descriptor(OCI_INDEX, Digest.of(raw), len(raw))
        fallback = TagReference(world.repository(), Tag.attached_to(subject.digest))
        await apply_elsewhere(world, 1, [(fallback, index)])
        await until(seen, [str(sbom.digest)])
