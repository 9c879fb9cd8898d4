"""Recalled content: by tag, by digest, below /blobs/, under way, from upstream, in lists."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from iarproxy.errors import Denied, IarproxyError, Recalled, Stopped
from iarproxy.mirror.warm import Progress
from iarproxy.oci import Digest, DigestReference, Platform, Tag
from images import artifact, image, index, random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from world import World, a_world, read

WHY, WHO = "malware\nin it", "ann (uid 1000)"
SHARED = random_blob(3_000, 77)
ONE = image(SHARED, random_blob(2_000, 1), labels={"one": "1"})
ARM = image(random_blob(2_000, 2), SHARED, platform="linux/arm64")
AMD = image(random_blob(2_000, 3))
BOTH = index([AMD, ARM])
OTHER = small_image(9)


class Silent(Progress):
    """Shows nothing."""

    def planned(self, blobs: object) -> None:
        pass

    def advanced(self, blob: object, done: int) -> None:
        pass

    def finished(self, blob: object) -> None:
        pass


async def recall(world: World, *digests: Digest) -> None:
    await world.ledger.recalls.recall(digests, reason=WHY, actor=WHO)


async def undo(world: World, *digests: Digest) -> None:
    await world.ledger.recalls.undo(digests, reason="false alarm", actor=WHO)


def publish(registry: FakeRegistry) -> Digest:
    """Two images that share a layer, one of them in an index, and one that has nothing to do with it."""
    for tag, published in (("one", ONE), ("both", BOTH), ("other", OTHER)):
        registry.content.publish("team/app", tag, published)
    return Digest.of(SHARED)


async def served(world: World) -> set[str]:
    """Which of everything there is a client gets, by every way in."""
    found = set()
    tags: list[tuple[str, Tag | Digest]] = [(tag, Tag(tag)) for tag in ("one", "both", "other")]
    digests = [("ONE", ONE.digest), ("BOTH", BOTH.digest), ("ARM", ARM.digest), ("AMD", AMD.digest)]
    for name, wanted in [*tags, *digests]:
        for peeked in (False, True):
            try:
                if peeked:
                    got = world.mirror.peek(world.repository(), wanted) is not None
                else:
                    got = bool((await world.mirror.manifest(world.repository(), wanted)).raw)
            except Denied:
                got = False
            found |= {f"{name} peeked" if peeked else name} if got else set()
    for name, digest in [("layer", Digest.of(SHARED)), ("other layer", OTHER.layers[0]), *digests]:
        for way in ("blob", "head", "peeked blob"):
            try:
                if way == "blob":
                    got = bool(await world.blob(digest, 0, 10))
                elif way == "head":
                    got = bool(await world.mirror.blob_size(world.repository(), digest))
                else:
                    got = world.mirror.peek_blob(world.repository(), digest) is not None
            except Denied:
                got = False
            found |= {f"{name} {way}"} if got else set()
    return found


async def settled(world: World, among: set[str]) -> set[str]:
    """What is served, once all of `among` is: small blobs are in memory when they were asked for again from disk."""
    async with asyncio.timeout(30):
        while not among <= (found := await served(world)):
            await asyncio.sleep(0.05)
    return found


async def test_nothing_that_contains_it_is_served_and_all_else_is(world: World) -> None:
    """A recalled layer denies its manifests, their index and every tag, on all ways, until the recall is undone."""
    layer = publish(world.registry)
    peeked = {f"{each} peeked blob" for each in ("layer", "other layer", "ONE", "BOTH", "ARM", "AMD")}
    everything = await settled(world, peeked)
    denied = {each for each in everything if each.split()[0] in {"one", "both", "ONE", "BOTH", "ARM", "layer"}}
    await recall(world, layer)
    assert everything - denied == await settled(world, everything - denied)
    assert everything - denied == await served(world)
    await undo(world, layer)
    assert everything == await settled(world, everything)


async def test_the_refusal_says_which_since_when_who_why_and_how_to_undo(world: World) -> None:
    """A tag's refusal names the tag too; a person's words are one line."""
    layer = publish(world.registry)
    await world.tag("one")
    await recall(world, layer)
    with pytest.raises(Denied) as refused:
        await world.tag("one")
    for said in ("team/app:one", str(ONE.digest), str(layer), "2026-03-01", WHO, "malware in it", "recall --undo"):
        assert said in str(refused.value)
    assert (str(ONE.digest), str(layer)) == (refused.value.detail["digest"], refused.value.detail["recalled"])
    with pytest.raises(Recalled, match=r"recalled at .* by ann \(uid 1000\): malware in it"):
        await world.blob(layer)


async def test_a_tag_can_be_refused_by_a_manifest_that_stops_clients(tmp_path: Path, registry: FakeRegistry) -> None:
    """With `refusal = "stop"` a tag's refusal carries its reason; a digest's stays an error."""
    layer = publish(registry)
    async with a_world(tmp_path, registry, refusal="stop") as world:
        await world.tag("one")
        await recall(world, layer)
        with pytest.raises(Stopped) as stopped:
            await world.tag("one")
        assert "recalled" == stopped.value.reason
        answer = await world.mirror.refusal(world.reference("one"), stopped.value)
        assert "recalled-refused" in answer.refusal.media_type
        with pytest.raises(Recalled):
            await world.mirror.manifest(world.repository(), ONE.digest)


async def test_recalled_content_is_not_fetched(world: World) -> None:
    """Neither by digest nor as a blob nor by HEAD is upstream asked for what is recalled."""
    layer = publish(world.registry)
    await recall(world, layer, ONE.digest)
    for ask in (
        lambda: world.blob(layer),
        lambda: world.mirror.blob_size(world.repository(), layer),
        lambda: world.mirror.manifest(world.repository(), ONE.digest),
        lambda: world.mirror.warm.pull(DigestReference(world.repository(), ONE.digest), [], Silent()),
    ):
        with pytest.raises(Recalled):
            await ask()
    assert [] == world.registry.log


async def test_a_first_fetch_of_recalled_content_pins_nothing(world: World) -> None:
    """The tag stays without a pin, upstream is not asked again for a while, and undoing lets it be pinned."""
    layer = publish(world.registry)
    await recall(world, layer)
    for _ in range(5):
        with pytest.raises(Denied, match="is refused"):
            await world.tag("one")
    assert (None, 1) == (
        await world.ledger.pin_of(world.reference("one")),
        world.registry.count("GET", "/manifests/one"),
    )
    await undo(world, layer)
    assert ONE.digest == (await world.tag("one")).descriptor.digest


async def test_a_followed_tag_that_moves_to_recalled_content_is_refused(tmp_path: Path, registry: FakeRegistry) -> None:
    """What it was before is not given in its place."""
    rules = [{"match": "**", "mode": "follow", "ttl": "1m"}]
    registry.content.publish("team/app", "latest", OTHER)
    async with a_world(tmp_path, registry, tags=rules) as world:
        await world.tag("latest")
        await recall(world, Digest.of(SHARED))
        assert OTHER.digest == (await world.tag("latest")).descriptor.digest
        registry.content.publish("team/app", "latest", ONE)
        world.clock.advance(timedelta(minutes=2))
        for _ in range(2):
            with pytest.raises(Denied, match="contains recalled content"):
                await world.tag("latest")


async def test_a_child_that_arrives_later_denies_its_index(world: World) -> None:
    """While a child is not held its index may be served; once it is here and contains a recalled layer, no more."""
    layer = publish(world.registry)
    await recall(world, layer)
    world.registry.faults.add(f"*/manifests/{ARM.digest}", Fault(status=503))
    assert BOTH.digest == (await world.tag("both")).descriptor.digest
    assert (await world.tag("both")).raw == BOTH.raw
    peeked = world.mirror.peek(world.repository(), Tag("both"))
    assert peeked is None or peeked.brief
    await world.store.put(ARM.digest, ARM.raw)  # as another worker would
    async with asyncio.timeout(20):
        while True:
            try:
                await world.tag("both")
            except Denied:
                break
            await asyncio.sleep(0.05)
    assert world.mirror.peek(world.repository(), Tag("both")) is None


async def test_bytes_under_way_end(world: World) -> None:
    """A transfer ends when its digest is recalled, for all who follow it; nothing is kept; undoing resumes it."""
    data = random_blob(2_000_000, 5)
    digest = world.registry.content.publish_blob("team/app", data)
    world.registry.faults.add("*/blobs/*", Fault(rate=400_000))

    async def follow() -> bytes:
        async with await world.mirror.blob(world.repository(), digest) as body:
            return await read(body, 0, body.size)

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    async with asyncio.timeout(20):
        while world.registry.sent[str(digest)] < 100_000:
            await asyncio.sleep(0.02)
    await recall(world, digest)
    ended = await asyncio.wait_for(asyncio.gather(*followers, return_exceptions=True), 20)
    assert [True] * 3 == [isinstance(each, IarproxyError) for each in ended]
    assert world.store.find(digest) is None
    world.registry.faults.clear()
    await undo(world, digest)
    assert data == await world.blob(digest)


async def test_a_relayed_blob_ends_too(tmp_path: Path, registry: FakeRegistry) -> None:
    """What is not kept for lack of room is cut as well."""
    data = random_blob(2_000_000, 6)
    digest = registry.content.publish_blob("team/app", data)
    registry.faults.add("*/blobs/*", Fault(rate=400_000))
    async with a_world(tmp_path, registry, max_size=1) as world:
        reading = asyncio.create_task(world.blob(digest))
        async with asyncio.timeout(20):
            while registry.sent[str(digest)] < 100_000:
                await asyncio.sleep(0.02)
        await recall(world, digest)
        with pytest.raises(Recalled):
            await asyncio.wait_for(reading, 20)


async def test_recalled_referrers_are_not_listed(world: World) -> None:
    """A list names what is attached and not denied; with nothing denied in it, it is upstream's very bytes."""
    world.registry.content.publish("team/app", "other", OTHER)
    good = artifact(OTHER, data=b'"good"')
    bad = artifact(OTHER, data=b'"bad"')
    for each in (good, bad):
        world.registry.content.publish("team/app", None, each)
    before = (await world.mirror.referrers(world.repository(), OTHER.digest, ())).raw
    assert 2 == before.count(b'"digest"')
    await recall(world, bad.digest)
    after = (await world.mirror.referrers(world.repository(), OTHER.digest, ())).raw
    assert (True, False) == (str(good.digest).encode() in after, str(bad.digest).encode() in after)
    await undo(world, bad.digest)
    await recall(world, Digest.of(b"something else"))
    assert before == (await world.mirror.referrers(world.repository(), OTHER.digest, ())).raw


async def test_a_pull_of_recalled_content_is_refused(world: World) -> None:
    """Warming fetches nothing that is denied."""
    layer = publish(world.registry)
    await recall(world, layer)
    with pytest.raises(Denied):
        await world.mirror.warm.pull(world.reference("one"), [Platform("linux", "amd64")], Silent())
    assert world.store.find(layer) is None


async def test_a_recall_survives_a_restart_of_the_worker(tmp_path: Path, registry: FakeRegistry) -> None:
    """What is cached is denied from the first request on."""
    layer = publish(registry)
    async with a_world(tmp_path, registry) as world:
        await world.tag("one")
        assert SHARED == await world.blob(layer)
        await recall(world, layer)
    async with a_world(tmp_path, registry) as world:
        assert world.mirror.peek(world.repository(), Tag("one")) is None
        assert world.mirror.peek_blob(world.repository(), layer) is None
        with pytest.raises(Denied):
            await world.tag("one")
        with pytest.raises(Recalled):
            await world.blob(layer)


async def test_who_may_not_have_content_is_not_told_what_it_contains(tmp_path: Path) -> None:
    """Private content that contains a recalled layer is as unknown to other repositories as it was (invariant 10)."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    fake = FakeRegistry(authority=Authority(kind="basic", users={"robot": "s3cret"}))
    async with fake:
        fake.content.publish("private/app", "1", ONE)
        fake.content.publish("public/app", "1", OTHER)
        async with a_world(tmp_path, fake, password_file=secret) as world:
            await world.tag(name="private/app")
            await recall(world, Digest.of(SHARED))
            with pytest.raises(Recalled):
                await world.blob(ONE.digest, name="private/app")
            with pytest.raises(IarproxyError) as unknown:
                await world.blob(ONE.digest, name="public/app")
            assert not isinstance(unknown.value, Recalled)
