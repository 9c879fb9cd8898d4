"""Blobs: held, arriving, relayed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iarproxy.errors import IarproxyError, Unavailable, UnknownBlob, UpstreamUnavailable
from iarproxy.oci import Digest
from images import random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from world import World, a_world, read


async def test_a_blob_is_fetched_once(world: World) -> None:
    """Many readers of one cold blob cost one upstream transfer, and later ones none."""
    data = random_blob(300_000)
    digest = world.registry.content.publish_blob("team/app", data)
    bodies = await asyncio.gather(*(world.blob(digest) for _ in range(20)))
    assert [data] * 20 == bodies
    assert data == await world.blob(digest)
    assert 1 == world.registry.count("GET", "/blobs/")


async def test_a_range_of_a_cold_blob_is_right(world: World) -> None:
    """A range is served from the one transfer of the whole blob."""
    data = random_blob(300_000)
    digest = world.registry.content.publish_blob("team/app", data)
    assert data[1000:250_000] == await world.blob(digest, 1000, 250_000)


@pytest.mark.parametrize("room", [10**9, 1], ids=["kept", "relayed"])
async def test_wrong_bytes_never_come_whole(tmp_path: Path, registry: FakeRegistry, room: int) -> None:
    """Whether kept or relayed, a wrong blob never reaches its last byte."""
    data = random_blob(300_000)
    digest = registry.content.publish_blob("team/app", data)
    registry.faults.add("*/blobs/*", Fault(corrupt_at=100))
    async with a_world(tmp_path, registry, max_size=room) as world:
        with pytest.raises(Unavailable):
            await world.blob(digest)
        assert world.store.find(digest) is None
        registry.faults.clear()
        assert data == await world.blob(digest)


async def test_without_room_a_blob_is_relayed_and_not_kept(tmp_path: Path, registry: FakeRegistry) -> None:
    """`max_size` stops admission; clients are served all the same, ranges too, across a break of upstream."""
    data = random_blob(300_000)
    digest = registry.content.publish_blob("team/app", data)
    async with a_world(tmp_path, registry, max_size=1) as world:
        assert data == await world.blob(digest)
        registry.faults.add("*/blobs/*", Fault(truncate_at=120_000), times=1)
        assert data[50_000:299_000] == await world.blob(digest, 50_000, 299_000)
        assert world.store.find(digest) is None


async def test_a_missing_blob_is_unknown(world: World) -> None:
    """404 is passed on as what it is."""
    with pytest.raises(UnknownBlob):
        await world.blob(Digest.of(b"nothing"))


async def test_a_missing_blob_costs_one_request_however_many_ask(world: World) -> None:
    """Askers of one repository share its 404; those of another repository ask for themselves."""
    data = random_blob(5_000)
    digest = world.registry.content.publish_blob("team/other", data)
    world.registry.content.publish("team/app", "1", small_image())
    world.registry.faults.add("*/team/app/blobs/*", Fault(status=404, stall_at=-1, stall_for=0.2))
    asked = [world.blob(digest) for _ in range(30)] + [world.blob(digest, name="team/other")]
    *missing, found = await asyncio.gather(*asked, return_exceptions=True)
    assert {UnknownBlob} == {type(each) for each in missing}
    assert (data, 1) == (found, world.registry.count("GET", "/team/app/blobs/"))


async def test_a_manifest_is_found_below_blobs_too(world: World) -> None:
    """Containerd fetches unknown types by digest from /blobs/."""
    image = world.registry.content.publish("team/app", "1", small_image())
    assert image.raw == await world.blob(image.digest)


async def test_head_starts_no_transfer(world: World) -> None:
    """The size of a cold blob costs a HEAD, not the blob."""
    digest = world.registry.content.publish_blob("team/app", random_blob(5_000))
    assert 5_000 == await world.mirror.blob_size(world.repository(), digest)
    assert 0 == world.registry.count("GET", "/blobs/")


async def test_held_blobs_outlive_their_upstream(world: World) -> None:
    """What is held is served with upstream gone; what is not is unavailable and says who was asked."""
    data = random_blob(10_000)
    digest = world.registry.content.publish_blob("team/app", data)
    await world.blob(digest)
    await world.registry.stop()
    assert data == await world.blob(digest)
    with pytest.raises(UpstreamUnavailable, match=r"registry\.example\.com"):
        await world.blob(Digest.of(b"other"))


async def test_a_reader_that_leaves_changes_nothing(world: World) -> None:
    """The first reader goes in the middle of the body; the second gets all of it from the same transfer."""
    data = random_blob(400_000)
    digest = world.registry.content.publish_blob("team/app", data)
    world.registry.faults.add("*/blobs/*", Fault(rate=1_000_000))
    async with await world.mirror.blob(world.repository(), digest) as body:
        async for _ in body.spans(0, body.size):
            break
    async with await world.mirror.blob(world.repository(), digest) as body:
        assert data == await read(body, 0, body.size)
    assert 1 == world.registry.count("GET", "/blobs/")


async def test_private_content_is_reachable_only_through_its_repository(tmp_path: Path) -> None:
    """A blob that came with a credential is no blob of another repository (invariant 10)."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    fake = FakeRegistry(authority=Authority(kind="basic", users={"robot": "s3cret"}))
    await fake.start()
    try:
        image = fake.content.publish("private/app", "1", small_image())
        fake.content.publish("public/app", "1", small_image(9))
        async with a_world(tmp_path, fake, password_file=secret) as world:
            await world.tag(name="private/app")
            assert await world.blob(image.layers[0], name="private/app")
            with pytest.raises(IarproxyError):
                await world.blob(image.layers[0], name="public/app")
            with pytest.raises(IarproxyError):
                await world.mirror.manifest(world.repository("public/app"), image.digest)
            await fake.stop()
            assert await world.blob(image.layers[0], name="private/app")
    finally:
        await fake.stop()
