"""Manifests whose author means harm: what they list is fetched within bounds, and says nothing about others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import ManifestInvalid, UnknownBlob, UpstreamWrong
from iarproxy.mirror.serving.access import MAX_LINKED
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Digest, Platform
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from images import Published, image, index, random_blob, small_image
from registry import FakeRegistry
from world import World, a_world


def listing(child: Published, times: int) -> Published:
    """An index that lists the same child again and again."""
    entry = {"mediaType": child.media_type, "digest": str(child.digest), "size": len(child.raw)}
    raw = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * times})
    return Published(raw, OCI_INDEX, children=(child,))


async def test_indexes_that_list_each_other_hold_up_nobody(world: World) -> None:
    """Three indexes of 2,000 entries each name eight billion manifests, and are four: each is looked at once."""
    bomb = small_image()
    for _ in range(3):
        bomb = listing(bomb, 2000)
    world.registry.content.publish("team/app", "1", bomb)
    await world.tag()
    async with asyncio.timeout(10):
        await world.mirror.holding.settle()
    assert Held.PARTIAL is await world.mirror.holding.of(bomb.digest)
    assert 3 == world.registry.count("GET", "/manifests/sha256:")


async def test_a_first_pin_does_not_fetch_hundreds_of_manifests(world: World) -> None:
    """An index with more children than anybody needs costs nothing of upstream's quota until a client asks."""
    children = [small_image(number, size=10, platform="none/none") for number in range(300)]
    wide = world.registry.content.publish("team/app", "1", index(children))
    await world.tag()
    await world.mirror.holding.settle()
    assert 0 == world.registry.count("GET", "/manifests/sha256:")
    with pytest.raises(ManifestInvalid, match="name a platform"):
        await world.mirror.holding.missing(world.repository(), wide.digest, [])
    assert Held.PARTIAL is await world.mirror.holding.of(wide.digest)


async def test_the_wanted_platform_of_a_wide_index_is_fetched(world: World) -> None:
    """Only what the configured platforms want counts."""
    others = [small_image(number, size=10, platform="none/none") for number in range(300)]
    ours = small_image(1000)
    wide = world.registry.content.publish("team/app", "1", index([*others, ours]))
    await world.tag()
    await world.mirror.holding.settle()
    assert 1 == world.registry.count("GET", "/manifests/sha256:")
    missing = await world.mirror.holding.missing(world.repository(), wide.digest, [Platform("linux", "amd64")])
    assert ours.layers == [blob.digest for blob in missing]


async def test_a_huge_config_is_fetched_for_nobody(world: World) -> None:
    """A config of a terabyte is not brought in in the background; a client may still ask for it."""
    real = image(random_blob(100))
    document = orjson.loads(real.raw)
    document["config"]["size"] = 10**12
    world.registry.content.publish("team/app", "1", Published(orjson.dumps(document), real.media_type, real.blobs))
    await world.tag()
    await world.mirror.holding.settle()
    assert 0 == world.registry.count("", "/blobs/")


async def test_a_claimed_media_type_is_the_repositorys_own(world: World) -> None:
    """What one repository claims a document to be is not what another repository's clients are told (T06)."""
    raw = orjson.dumps({"schemaVersion": 2, "layers": []})
    honest = world.registry.content.publish("team/app", "1", Published(raw, OCI_MANIFEST))
    world.registry.content.publish("evil/app", "1", Published(raw, "application/vnd.evil"))
    told = [
        (await world.mirror.manifest(world.repository(name), honest.digest)).descriptor.media_type
        for name in ("evil/app", "team/app", "evil/app")
    ]
    assert ["application/vnd.evil", OCI_MANIFEST, "application/vnd.evil"] == told


@pytest.mark.parametrize("digest", ["md5:abc", "sha256:ABC", ""])
async def test_a_manifest_that_names_no_digest_is_upstreams_fault(world: World, digest: str) -> None:
    """Malformed digests inside a manifest are upstream's wrong answer, never the client's wrong request."""
    raw = orjson.dumps({"schemaVersion": 2, "layers": [{"mediaType": "a/b", "digest": digest, "size": 1}]})
    world.registry.content.publish("team/app", "1", Published(raw, OCI_MANIFEST))
    with pytest.raises(UpstreamWrong, match=r"registry\.example\.com.*digest"):
        await world.tag()


async def test_a_manifest_of_thousands_of_layers_links_a_thousand(tmp_path: Path, registry: FakeRegistry) -> None:
    """What a manifest may write into the ledger is bounded; beyond it upstream says what the repository has."""
    password = tmp_path / "password"
    password.write_text("secret")
    digests = [Digest.of(str(number).encode()) for number in range(MAX_LINKED + 1000)]
    layers = [
        {"mediaType": "application/vnd.example.layer", "digest": str(each), "size": len(str(number))}
        for number, each in enumerate(digests)
    ]
    long = Published(orjson.dumps({"schemaVersion": 2, "layers": layers}), OCI_MANIFEST)
    async with a_world(tmp_path, registry, password_file=password) as world:
        registry.content.publish("team/app", "1", long)
        last = registry.content.publish_blob("team/app", str(len(digests) - 1).encode())
        assert long.raw == (await world.tag()).raw
        linked = [await world.ledger.linked(world.repository(), each) for each in (digests[0], last)]
        assert [True, False] == linked
        assert b"1999" == await world.blob(last)


async def test_a_foreign_layer_opens_nothing(tmp_path: Path) -> None:
    """T53: registries take manifests that name any digest as a foreign layer; that gives nobody's private blob away."""
    password = tmp_path / "password"
    password.write_text("secret")
    async with FakeRegistry() as registry, a_world(tmp_path, registry, password_file=password) as world:
        private = registry.content.publish("team/app", "1", small_image())
        await world.tag()
        await world.blob(private.layers[0])
        layer = {"mediaType": "a/b", "digest": str(private.layers[0]), "size": 2000, "urls": ["https://x.example.com"]}
        named = Published(orjson.dumps({"schemaVersion": 2, "layers": [layer]}), OCI_MANIFEST)
        registry.content.publish("evil/app", "1", named)
        assert named.digest == (await world.tag(name="evil/app")).descriptor.digest
        with pytest.raises(UnknownBlob):
            await world.blob(private.layers[0], name="evil/app")
