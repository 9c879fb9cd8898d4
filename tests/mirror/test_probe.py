"""The repository that `iarproxy setup --check` pulls from: ours in every upstream, and never asked of one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Denied, Stopped, Unavailable, UnknownBlob, UnknownManifest
from iarproxy.mirror.serving.probe import NAME
from iarproxy.oci import Digest, parse_manifest
from images import small_image
from registry import FakeRegistry
from world import World, a_world

PASS = "pass-0123456789"


async def test_it_is_a_whole_image(world: World) -> None:
    """Index, manifests, configs and the layer of a `pass-` tag are all served, and upstream is not asked."""
    top = await world.tag(PASS, NAME)
    index = parse_manifest(top.raw)
    assert "linux/amd64" in {str(child.platform) for child in index.children}
    for child in index.children:
        found = await world.mirror.manifest(world.repository(NAME), child.descriptor.digest)
        for blob in parse_manifest(found.raw).blobs:
            assert blob.digest == Digest.of(await world.blob(blob.digest, name=NAME))
    assert [] == world.registry.log


async def test_its_digest_tells_nonce_and_instance(tmp_path: Path, registry: FakeRegistry) -> None:
    """Nobody but this instance has the image of a nonce, and it has it again after a restart."""
    digests = []
    for folder in ("one", "one", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        async with a_world(tmp_path / folder, registry) as world:
            digests.append((await world.tag(PASS, NAME)).descriptor.digest)
            assert digests[-1] != (await world.tag("pass-abcdefgh", NAME)).descriptor.digest
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


async def test_no_part_of_it_is_that_of_another(tmp_path: Path, registry: FakeRegistry) -> None:
    """Clients may know an image by the digest of a platform's manifest alone: that too tells nonce and instance."""
    seen: list[Digest] = []
    for folder, tag in (("one", PASS), ("one", "pass-abcdefgh"), ("two", PASS)):
        (tmp_path / folder).mkdir(exist_ok=True)
        async with a_world(tmp_path / folder, registry) as world:
            top = await world.tag(tag, NAME)
            seen += [top.descriptor.digest, *(each.descriptor.digest for each in parse_manifest(top.raw).children)]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(("form", "kind"), [("error", Denied), ("stop", Stopped)])
async def test_it_refuses_as_policy_refuses(
    tmp_path: Path, registry: FakeRegistry, form: str, kind: type[Denied]
) -> None:
    """A `deny-` tag is refused in the configured form, with the nonce in the message."""
    async with a_world(tmp_path, registry, refusal=form) as world:
        with pytest.raises(Denied, match="deny-0123456789") as caught:
            await world.tag("deny-0123456789", NAME)
        assert kind is type(caught.value)
        assert [] == registry.log


async def test_nothing_else_is_there_and_nobody_is_asked(world: World) -> None:
    """Other tags, digests, lists and referrers of the name end here."""
    repository, unknown = world.repository(NAME), Digest.of(b"unknown")
    for tag in ("1", "latest", "pass-UPPERCASE", "pass-short", f"sha256-{unknown.hex}.sig"):
        with pytest.raises(UnknownManifest):
            await world.tag(tag, NAME)
    with pytest.raises(UnknownBlob):
        await world.mirror.manifest(repository, unknown)
    with pytest.raises(UnknownBlob):
        await world.mirror.blob(repository, unknown)
    with pytest.raises(UnknownBlob):
        await world.mirror.blob_size(repository, unknown)
    assert (await world.mirror.tags(repository)).tags == ()
    assert [] == orjson.loads((await world.mirror.referrers(repository, unknown, ())).raw)["manifests"]
    assert [] == world.registry.log


async def test_new_checks_are_bounded(world: World) -> None:
    """Rule 3: a client cannot fill the disk with nonces; the known ones are still answered, and time heals."""
    for number in range(32):
        await world.tag(f"pass-nonce{number:03}", NAME)
    with pytest.raises(Unavailable, match="too many checks"):
        await world.tag("pass-nonce999", NAME)
    await world.tag("pass-nonce000", NAME)
    world.clock.advance(timedelta(seconds=11))
    await world.tag("pass-nonce999", NAME)


async def test_nothing_private_is_there_and_nobody_is_asked(tmp_path: Path, registry: FakeRegistry) -> None:
    """What is held for another repository is not found here where links decide, and upstream is not asked about it."""
    password = tmp_path / "password"
    password.write_text("hunter2")
    secret = registry.content.publish("team/app", "1", small_image())
    async with a_world(tmp_path, registry, password_file=password) as world:
        await world.tag()
        await world.mirror.holding.settle()
        await world.blob(secret.layers[0])
        registry.forget()
        for digest in (secret.digest, secret.layers[0]):
            with pytest.raises(UnknownBlob):
                await world.mirror.manifest(world.repository(NAME), digest)
            with pytest.raises(UnknownBlob):
                await world.blob(digest, name=NAME)
            with pytest.raises(UnknownBlob):
                await world.mirror.blob_size(world.repository(NAME), digest)
        top = await world.tag(PASS, NAME)
        assert top.raw == (await world.mirror.manifest(world.repository(NAME), top.descriptor.digest)).raw
        assert [] == registry.log
