"""A mirror that is offline: it serves what was brought, asks nobody, and names what should have brought the rest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Offline
from iarproxy.ledger import Change
from iarproxy.ledger.bundles import Applying
from iarproxy.mirror.explain.explained import explanation_as_json
from iarproxy.mirror.serving.answers import Followed
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Descriptor, Digest, Reference, Tag, TagReference, parse_reference
from iarproxy.oci.bundle_manifest import MEDIA_TYPE, BundledName, BundleManifest, Carried
from images import Published, artifact, index, small_image
from registry import FakeRegistry
from world import NAME, World, a_world

ORIGIN, ACTOR = "origin.example", "ann (uid 7)"
FOLLOW = {"match": "**:latest", "mode": "follow", "ttl": "1h"}


def _manifest(
    names: Sequence[BundledName], provides: Sequence[Digest] = (), requires: Sequence[Digest] = ()
) -> BundleManifest:
    ordered = sorted(names, key=lambda each: str(each.reference))
    carried = tuple(Carried(each, 1) for each in sorted(provides, key=str))
    return BundleManifest("site-a", tuple(ordered), (), carried, tuple(sorted(requires, key=str)))


async def _apply(
    world: World,
    manifest: BundleManifest,
    pinned: Sequence[tuple[TagReference, Descriptor]] = (),
    followed: Sequence[tuple[TagReference, Descriptor]] = (),
    *,
    sequence: int = 1,
) -> None:
    """What `bundle apply` does last."""
    raw = manifest.dump()
    await world.store.put(Digest.of(raw), raw)
    facts = {"bundle": str(manifest.identity), "origin": ORIGIN, "set": manifest.set, "sequence": sequence}
    changes = [Change("default", name, None, descriptor, detail=facts) for name, descriptor in pinned]
    await world.ledger.bundles.apply(
        Applying(
            origin=ORIGIN,
            set=manifest.set,
            sequence=sequence,
            bundle=manifest.identity,
            manifest=Descriptor(MEDIA_TYPE, Digest.of(raw), len(raw)),
            environment="default",
            changes=changes,
            followed=followed,
            links={},
            checkpoint="",
            reason="carried",
            actor=ACTOR,
        )
    )


async def _hold(world: World, image: Published) -> None:
    for data in (image.raw, *image.blobs.values()):
        await world.store.put(Digest.of(data), data)
    for child in image.children:
        await _hold(world, child)


async def test_nobody_is_asked(tmp_path: Path, registry: FakeRegistry) -> None:
    """Pinned and followed tags, digests, blobs, lists and referrers are answered as they were brought; upstream's log
    stays empty, however old they are.
    """
    image = registry.content.publish("team/app", "1", small_image(1))
    latest = registry.content.publish("team/app", "latest", small_image(2))
    signed = registry.content.publish("team/app", None, artifact(image))
    async with a_world(tmp_path, registry, tags=[FOLLOW]) as online:
        for tag in ("1", "latest"):
            await online.tag(tag)
            await online.mirror.holding.complete(online.repository(), (image if tag == "1" else latest).digest)
        brought = await online.mirror.referrers(online.repository(), image.digest, ())
    registry.forget()
    async with a_world(tmp_path, registry, tags=[FOLLOW], offline=True) as world:
        world.clock.advance(timedelta(days=400))
        followed = await world.tag("latest")
        assert (image.raw, latest.raw) == ((await world.tag("1")).raw, followed.raw)
        assert isinstance(followed.standing, Followed)
        assert not followed.standing.stale
        assert followed == world.mirror.peek(world.repository(), Tag("latest"))
        assert image.layers[0] == Digest.of(await world.blob(image.layers[0]))
        listed = await world.mirror.tags(world.repository())
        assert (True, True) == ({"1", "latest"} <= set(listed.tags), listed.complete)
        found = await world.mirror.referrers(world.repository(), image.digest, ())
        assert brought.raw == found.raw
        assert [str(signed.digest)] == [each["digest"] for each in orjson.loads(found.raw)["manifests"]]
        none = await world.mirror.referrers(world.repository(), latest.digest, ())
        assert [] == orjson.loads(none.raw)["manifests"]
    assert [] == registry.log


APP, INDEX = small_image(1), index([small_image(2), small_image(3, platform="linux/arm64")])
BUNDLE = _manifest(
    [
        BundledName(parse_reference(f"{NAME}/team/app:1"), APP.descriptor),
        BundledName(parse_reference(f"{NAME}/team/app:gone"), APP.descriptor),
        BundledName(parse_reference(f"{NAME}/team/tool:2"), INDEX.descriptor, omitted=(INDEX.children[1].digest,)),
    ],
    provides=[APP.digest, *APP.blobs],
    requires=[INDEX.digest, INDEX.children[0].digest],
)
STRANGER = Digest.of(b"of no set")


@pytest.mark.parametrize(
    ("missed", "told"),
    [
        (f"{NAME}/team/app:gone", "brought this name into the environment default"),
        (f"{NAME}/team/app:9", f"the set site-a brings 1, gone of {NAME}/team/app, and not this; add it to the set"),
        (f"{NAME}/team/other:1", "none of the sets that were applied here (site-a) brings anything of"),
        (f"{NAME}/team/app@{APP.digest}", "brought it, and it was lost since; apply that bundle again"),
        (f"{NAME}/team/tool@{INDEX.digest}", "counts on an earlier one for it"),
        (f"{NAME}/team/tool@{INDEX.children[1].digest}", f"leaves it out of {NAME}/team/tool:2, for its platform"),
        (f"{NAME}/team/app@{STRANGER}", "the set site-a brings 1, gone of"),
    ],
)
async def test_what_should_have_brought_it(tmp_path: Path, registry: FakeRegistry, missed: str, told: str) -> None:
    """A miss names the bundle that lists it, the set that leaves it out, or where it has to be added; and who made it.

    Explaining the name tells the same.
    """
    async with a_world(tmp_path, registry, offline=True) as world:
        await _apply(world, BUNDLE)
        reference = parse_reference(missed)
        with pytest.raises(Offline) as refused:
            await _ask(world, reference)
        assert told in str(refused.value)
        assert ORIGIN in str(refused.value) or "pins history" in str(refused.value)
        assert "offline" == refused.value.detail["cause"]
        explained = await world.mirror.explain.reference(reference)
        assert [str(refused.value)] == [str(each) for each in explained.blocked]
    assert [] == registry.log


async def _ask(world: World, reference: Reference) -> None:
    wanted = reference.tag if isinstance(reference, TagReference) else reference.digest
    await world.mirror.manifest(reference.repository, wanted)


async def test_no_bundle_at_all(tmp_path: Path, registry: FakeRegistry) -> None:
    """Where nothing was ever applied, the command that applies something is named; for tags, blobs and lists."""
    async with a_world(tmp_path, registry, offline=True) as world:
        with pytest.raises(Offline, match=r"no bundle was applied here yet.*iarproxy bundle apply"):
            await world.tag()
        with pytest.raises(Offline, match="no bundle was applied here yet"):
            await world.blob(STRANGER)
        with pytest.raises(Offline, match="no bundle was applied here yet"):
            await world.mirror.blob_size(world.repository(), STRANGER)
        with pytest.raises(Offline, match=r"no tag of registry\.example\.com/team/app is held"):
            await world.mirror.tags(world.repository())
        assert [] == list((world.store.root / "ingest").glob("*"))


async def test_a_name_without_its_content(tmp_path: Path, registry: FakeRegistry) -> None:
    """A pinned tag whose manifest is lost is told apart from one that nobody knows; digest and bundle are named."""
    async with a_world(tmp_path, registry, offline=True) as world:
        await _apply(world, BUNDLE, [(world.reference("1"), APP.descriptor)])
        with pytest.raises(Offline, match=f"is pinned to {APP.digest}, whose content is not here") as refused:
            await world.tag("1")
        assert (str(APP.digest), str(BUNDLE.identity)) == (
            refused.value.detail["pinned"],
            refused.value.detail["bundle"],
        )


async def test_what_a_bundle_brings_is_seen_at_once(tmp_path: Path, registry: FakeRegistry) -> None:
    """A tag that was missed a moment ago, and one that is followed, are what the next bundle says, without a wait."""
    old, new = small_image(5), small_image(6)
    async with a_world(tmp_path, registry, tags=[FOLLOW], offline=True) as world:
        for each in (APP, old, new):
            await _hold(world, each)
        latest = world.reference("latest")
        await _apply(world, _manifest([]), followed=[(latest, old.descriptor)])
        with pytest.raises(Offline):
            await world.tag("1")
        assert old.raw == (await world.tag("latest")).raw
        pinned = [(world.reference("1"), APP.descriptor)]
        await _apply(world, BUNDLE, pinned, [(latest, new.descriptor)], sequence=2)
        assert (APP.raw, new.raw) == ((await world.tag("1")).raw, (await world.tag("latest")).raw)


async def test_a_flood_of_misses_asks_the_ledger_once(tmp_path: Path, registry: FakeRegistry) -> None:
    """What was missed a moment ago is answered without the ledger, which is closed here to prove it."""
    async with a_world(tmp_path, registry, offline=True) as world:
        await _apply(world, BUNDLE)
        told = []
        for turn in range(3):
            for reference in (f"{NAME}/team/app:9", f"{NAME}/team/app@{STRANGER}"):
                with pytest.raises(Offline) as refused:
                    await _ask(world, parse_reference(reference))
                told.append(str(refused.value))
            if not turn:
                await world.ledger.close()
        assert told[:2] * 3 == told


async def test_drift_is_not_judged(tmp_path: Path, registry: FakeRegistry) -> None:
    """That nobody can be asked is no word of upstream's: no tag vanishes by it."""
    registry.content.publish("team/app", "1", small_image(1))
    async with a_world(tmp_path, registry) as online:
        await online.tag("1")
    async with a_world(tmp_path, registry, offline=True) as world:
        with pytest.raises(Offline):
            await world.mirror.drift.check(world.reference("1"))
        assert [] == await world.ledger.drifts()


async def test_whence_a_name_came(tmp_path: Path, registry: FakeRegistry) -> None:
    """Explaining tells the bundle of a pin, its set, sequence and origin, and who applied it when and why."""
    async with a_world(tmp_path, registry, offline=True) as world:
        await _hold(world, APP)
        await _apply(world, BUNDLE, [(world.reference("1"), APP.descriptor)])
        for name in (world.reference("1"), parse_reference(f"{NAME}/team/app@{APP.digest}")):
            found = await world.mirror.explain.reference(name)
            brought = found.brought
            assert brought is not None
            assert (str(BUNDLE.identity), "site-a", 1, ORIGIN) == (
                brought.bundle,
                brought.set,
                brought.sequence,
                brought.origin,
            )
            assert (ACTOR, "carried", world.clock()) == (brought.by, brought.reason, brought.at)
            assert (Held.COMPLETE, ()) == (found.held, found.blocked)
            assert "site-a" == explanation_as_json(found)["brought"]["set"]
