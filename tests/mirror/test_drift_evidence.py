"""A tag that upstream moves, from the first alarm to its end: what is kept, what people do, what clients get."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Conflict, Denied, Malformed
from iarproxy.ledger import DEFAULT, Event, EventKind, Name, rebuild
from iarproxy.mirror.drift import alarms
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Digest
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.trust import Drifted
from iarproxy.upstream import Purpose
from images import Published, artifact, image, index, random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault
from test_drift import settle
from world import World, a_world


async def drifted(world: World) -> tuple[Published, Published]:
    """A pinned image, and another one that upstream offers since."""
    old = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    new = world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    return old, new


async def acknowledge(world: World, digest: Digest) -> None:
    name = Name(DEFAULT, world.reference())
    await world.ledger.watching.acknowledge(name, digest, reason="a rebuild", actor="ann (uid 1000)")


async def events(world: World, kind: EventKind) -> list[Event]:
    return [each for each in await world.ledger.history(world.reference()) if each.kind is kind]


async def test_an_acknowledged_drift_is_no_alarm(world: World) -> None:
    """It is not counted and not warned of; the pin stays, and clients can still see what upstream offers."""
    old, new = await drifted(world)
    assert 1 == await world.ledger.drift_count()
    await acknowledge(world, new.digest)
    answer = await world.tag()
    assert (old.digest, new.digest, True) == (answer.descriptor.digest, answer.offered, answer.acknowledged)
    assert 0 == await world.ledger.drift_count()
    [event] = await events(world, EventKind.ACKNOWLEDGED)
    assert ("a rebuild", "ann (uid 1000)") == (event.reason, event.actor)
    await acknowledge(world, new.digest)
    assert 1 == len(await events(world, EventKind.ACKNOWLEDGED))
    checked = await world.mirror.drift.check(world.reference())
    assert (True, False) == (checked.acknowledged, checked.news)


async def test_another_digest_is_an_alarm_again(world: World) -> None:
    """The acknowledgement is of one digest: the next one alarms, and the first one, back again, does not."""
    _, new = await drifted(world)
    await acknowledge(world, new.digest)
    other = world.registry.content.publish("team/app", "1", small_image(3))
    checked = await world.mirror.drift.check(world.reference())
    assert (Drifted(checked.pin.descriptor.digest, other.digest), True, False) == (
        checked.verdict,
        checked.news,
        checked.acknowledged,
    )
    assert 1 == await world.ledger.drift_count()
    world.registry.content.move_tag("team/app", "1", new.digest)
    assert (await world.mirror.drift.check(world.reference())).acknowledged
    assert 0 == await world.ledger.drift_count()


async def test_only_what_is_offered_can_be_acknowledged(world: World) -> None:
    """A digest that upstream does not offer is a conflict that names the one that it does; a reason is needed."""
    _, new = await drifted(world)
    with pytest.raises(Conflict, match=str(new.digest)):
        await acknowledge(world, Digest.of(b"other"))
    with pytest.raises(Malformed, match="reason"):
        await world.ledger.watching.acknowledge(Name(DEFAULT, world.reference()), new.digest, reason=" ", actor="ann")
    assert 1 == await world.ledger.drift_count()


async def test_an_acknowledgement_ends_with_the_pin(world: World) -> None:
    """After a repin and the way back, the old word is not about this pin any more."""
    old, new = await drifted(world)
    await acknowledge(world, new.digest)
    for before, after in ((old, new), (new, old)):
        await world.ledger.repin(
            world.reference(), before.digest, after.descriptor, reason="a test", actor="ann", source="a test"
        )
    checked = await world.mirror.drift.check(world.reference())
    assert (True, False) == (checked.news, checked.acknowledged)
    assert 1 == await world.ledger.drift_count()


async def test_an_acknowledged_drift_is_served_under_deny(tmp_path: Path, registry: FakeRegistry) -> None:
    """`deny` is for drift that nobody looked at: what was settled is served as it is pinned."""
    async with a_world(tmp_path, registry, tags=[{"match": "**", "on_drift": "deny"}]) as world:
        old, new = await drifted(world)
        with pytest.raises(Denied, match="drifted"):
            await world.tag()
        await acknowledge(world, new.digest)
        assert old.digest == (await world.tag()).descriptor.digest


async def test_the_watch_confirms_by_a_head(world: World) -> None:
    """A drift that stands costs no GET, is no news, and is known to have been checked; so are the other verdicts."""
    old, new = await drifted(world)
    for offered in (new.digest, None, None, old.digest, old.digest):
        pin = await world.ledger.pin_of(world.reference())
        assert pin is not None
        held = pin, world.ledger.peek_drift(world.reference())
        if offered is None:
            world.registry.content.repositories["team/app"].tags.pop("1", None)
        else:
            world.registry.content.move_tag("team/app", "1", offered)
        world.registry.forget()
        found = await world.mirror.drift.watch(held)
        if found is not None:
            assert 0 == world.registry.count("GET", "/manifests/1")
            await world.ledger.watching.confirm([found])
        state = world.ledger.peek_drift(world.reference())
        assert state is not None
        assert (offered in (new.digest, None)) == state.alarms
    kinds = [each.kind.value for each in await world.ledger.history(world.reference())]
    assert ["pinned", "drifted", "vanished", "steadied"] == kinds


async def test_a_platform_that_nobody_pulled(tmp_path: Path, registry: FakeRegistry) -> None:
    """Of three platforms one was pulled. Upstream moves the tag and deletes the old digests: all three still pull."""
    platforms = ["linux/amd64", "linux/arm64", "linux/s390x"]
    async with a_world(tmp_path, registry, platforms=platforms) as world:
        images = [image(random_blob(5_000, each), platform=name) for each, name in enumerate(platforms)]
        old = registry.content.publish("team/app", "1", index(images))
        await world.tag()
        await world.mirror.manifest(world.repository(), images[0].digest)
        for blob in images[0].blobs:
            await world.blob(blob)
        registry.content.publish("team/app", "1", index([small_image(9, platform=each) for each in platforms]))
        checked = await world.mirror.drift.check(world.reference(), Purpose.BACKGROUND)
        assert "linux/amd64: 1 layer replaced (2.0 kB)" in checked.evidence["summary"]
        assert Held.COMPLETE is await settle(world, old.digest, Held.COMPLETE)
        for each in (old, *images):
            registry.content.delete_manifest("team/app", each.digest)
            for blob in each.blobs:
                registry.content.delete_blob("team/app", blob)
        answer = await world.tag()
        assert old.digest == answer.descriptor.digest
        for each in images:
            child = await world.mirror.manifest(world.repository(), each.digest)
            assert each.raw == child.raw
            assert [each.blobs[blob] for blob in each.blobs] == [await world.blob(blob) for blob in each.blobs]


async def test_the_evidence_has_everything(world: World) -> None:
    """Both descriptors, upstream's headers, times, the difference in full, and who seems to have signed."""
    old = world.registry.content.publish("team/app", "1", small_image(1))
    kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
    bundle = orjson.dumps({"verificationMaterial": {"publicKey": {"hint": "c2lnbmVk"}}})
    world.registry.content.publish("team/app", None, artifact(old, artifact_type=kind, data=bundle))
    cosign = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [
            {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": str(Digest.of(b"p")), "size": 1}
        ],
    }
    signature = Published(orjson.dumps(cosign), OCI_MANIFEST)
    world.registry.content.publish("team/app", f"sha256-{old.digest.hex}.sig", signature)
    await world.tag()
    new = world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    alarm = await alarms.of(world.ledger, DEFAULT, world.reference())
    evidence = alarm.evidence
    assert (str(old.digest), str(new.digest)) == (evidence["pinned"]["digest"], evidence["offered"]["digest"])
    assert {"docker-content-digest", "content-type"} <= evidence["headers"].keys()
    assert evidence["seen_at"] == world.clock().isoformat()
    signers = evidence["difference"]["signers_unverified"]
    assert (["cosign, by a key that it does not name", "sigstore bundle by key c2lnbmVk"], []) == (
        signers["pinned"],
        signers["offered"],
    )
    assert alarm.summary == "1 layer replaced (2.0 kB), label seed changed, no longer signed (as upstream tells)"
    assert world.store.find(old.digest) is not None
    assert world.store.find(new.digest) is not None


@pytest.mark.parametrize("broken", ["/v2/team/app/blobs/*", "/v2/team/app/referrers/*", "*.sig"])
async def test_an_accusation_needs_no_details(world: World, broken: str) -> None:
    """What cannot be had is named, and the drift is recorded all the same."""
    old = world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    await world.mirror.holding.settle()
    new = world.registry.content.publish("team/app", "1", small_image(2))
    world.registry.faults.add(broken, Fault(status=403))
    checked = await world.mirror.drift.check(world.reference())
    assert (Drifted(old.digest, new.digest), True) == (checked.verdict, checked.news)
    assert checked.evidence["difference"]["unread"]
    assert "1 layer replaced" in checked.evidence["summary"]


async def test_a_rebuilt_ledger_knows_what_was_settled(tmp_path: Path, registry: FakeRegistry) -> None:
    """Drift and acknowledgement are in the journal, and what follows from them is made again."""
    async with a_world(tmp_path, registry) as world:
        _, new = await drifted(world)
        await acknowledge(world, new.digest)
        path, identity = tmp_path / "store" / "ledger.db", world.store.identity
    path.unlink()
    await rebuild(path, store_identity=identity, actor="ann", reason="a test")
    async with a_world(tmp_path, registry) as world:
        await world.tag()
        state = world.ledger.peek_drift(world.reference())
        assert state is not None
        assert ("drifted", False, 0) == (state.verdict, state.alarms, await world.ledger.drift_count())


@pytest.mark.parametrize("config", [b"\xff no JSON", b"[]", b'{"config": "' + b"x" * (1 << 20) + b'"}'])
async def test_a_config_that_cannot_be_compared_is_named(world: World, config: bytes) -> None:
    """Nobody hides another entrypoint behind a label of a megabyte: the line says that more is not known, and why."""
    world.registry.content.publish("team/app", "1", small_image(1))
    await world.tag()
    made = small_image(2)
    document = orjson.loads(made.raw)
    document["config"] |= {"digest": str(Digest.of(config)), "size": len(config)}
    raw = orjson.dumps(document)
    world.registry.content.publish("team/app", "1", Published(raw, made.media_type, {Digest.of(config): config}))
    await world.mirror.drift.check(world.reference())
    alarm = await alarms.of(world.ledger, DEFAULT, world.reference())
    assert [f"the config: {Digest.of(config)}"] == [
        " ".join(each.split()[:3]) for each in alarm.evidence["difference"]["unread"]
    ]
    assert alarm.summary.endswith("more is not known")
