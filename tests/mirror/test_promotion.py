"""Promotion: a pointer moves past gates, with a signed record; nothing else does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Conflict, Denied, Malformed, Unavailable
from iarproxy.errors import Refused as UpstreamRefused
from iarproxy.ledger import Change, EventKind
from iarproxy.ledger.admission import Withheld
from iarproxy.mirror.promotion.gating import AgeGate
from iarproxy.mirror.promotion.plan import New, Replaces, Unchanged, Wanted
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Digest
from iarproxy.trust import Admission, Pattern
from iarproxy.trust.admission import Terms
from iarproxy.trust.bundle import BUNDLE, verified_statement
from iarproxy.trust.gates import Allowed, Refused, Undecided
from iarproxy.trust.promotion_record import predicate_about
from images import Published, artifact, index, small_image
from promoting_world import KEY, ORIGIN, SaysSo, blobs, bundles, order, promote, stands_for
from registry import FakeRegistry
from world import World, a_world


async def pinned(world: World, seed: int = 1, tag: str = "1", *, name: str = "team/app") -> Published:
    """An image that is pinned in the default environment."""
    published = world.registry.content.publish(name, tag, small_image(seed))
    await world.tag(tag, name)
    return published


async def repinned(world: World, seed: int) -> Published:
    """Upstream moves the tag, and a person follows it in the default environment."""
    old = await stands_for(world, world.reference(), "default")
    assert old is not None
    published = world.registry.content.publish("team/app", "1", small_image(seed))
    answer = await world.mirror.manifest(world.repository(), published.digest)
    await world.ledger.repin(
        world.reference(), old, answer.descriptor, reason="new", actor="ann", source=world.registry.url
    )
    return published


async def test_a_name_is_promoted(world: World) -> None:
    """The target has the source's digest, all of its bytes are here, and nothing that was here moved."""
    published = await pinned(world)
    await world.mirror.holding.settle()
    before = blobs(world.store.root)
    promoted = await promote(world.mirror.promotion, order(world.reference()))
    assert ["New"] == promoted.outcomes
    assert published.digest == await stands_for(world, world.reference())
    assert Held.COMPLETE is await world.mirror.holding.of(published.digest)
    after = blobs(world.store.root)
    assert before == {name: after[name] for name in before}
    assert 1 == world.registry.count("GET", f"/manifests/{published.digest}") + world.registry.count(
        "GET", "/manifests/1"
    )


async def test_the_journal_has_it_all(world: World) -> None:
    """Who, why, from where, past which gates, and which signed record."""
    published = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()), [SaysSo(name="scan")])
    (event,) = await world.ledger.within("prod").history(world.reference())
    statement = event.body["statement"]
    assert (EventKind.PROMOTED, "ann (uid 1000)", "release 7") == (event.kind, event.actor, event.reason)
    assert ("default", None, "complete") == (event.body["from"], event.body["previous"], event.body["held"])
    assert [{"gate": "scan", "verdict": "allowed", "reasons": []}] == event.body["gates"]
    assert (BUNDLE, KEY.public.hint) == (statement["artifactType"], statement["key"])
    assert world.store.find(Digest.parse(statement["digest"])) is not None
    (listed,) = await world.ledger.attached.of(world.repository(), published.digest)
    assert statement["digest"] == str(listed.descriptor.digest)
    assert (await world.ledger.verify()).ok


async def test_the_record_verifies(world: World) -> None:
    """What our API lists for the image is a bundle that the key signed, and that says what happened."""
    old = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    new = await repinned(world, 2)
    wanted = Wanted(world.reference(), replaces=old.digest)
    await promote(world.mirror.promotion, order(wanted), [SaysSo(name="scan")])
    (bundle,) = await bundles(world, new.digest)
    said = predicate_about(verified_statement(bundle, [KEY.public]), new.digest)
    assert (str(world.reference()), "default", "prod") == (said["reference"], said["from"], said["to"])
    assert (str(old.digest), "release 7", ORIGIN) == (said["previous"], said["reason"], said["journal"]["origin"])
    assert "allowed" == said["gates"][0]["verdict"]


async def test_a_second_run_changes_nothing(world: World) -> None:
    """It is unchanged, whatever else is asked for; neither journal nor store grow."""
    await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    serial, held = await world.ledger.serial(), blobs(world.store.root)
    again = await promote(world.mirror.promotion, order(Wanted(world.reference(), replaces=Digest.of(b"old"))))
    assert (["Unchanged"], []) == (again.outcomes, again.pins)
    assert (serial, held) == (await world.ledger.serial(), blobs(world.store.root))


async def test_a_name_is_not_moved_unless_its_digest_is_named(world: World) -> None:
    """Without `replaces`, and with a wrong one, nothing happens; with the right one it moves."""
    old = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    new = await repinned(world, 2)
    for replaces in (None, new.digest, Digest.of(b"other")):
        refused = await promote(world.mirror.promotion, order(Wanted(world.reference(), replaces=replaces)))
        assert refused.outcomes[0].startswith(f"NotPromoted: {world.reference()} stands for {old.digest} in prod")
        assert old.digest == await stands_for(world, world.reference())
    moved = await promote(world.mirror.promotion, order(Wanted(world.reference(), replaces=old.digest)))
    assert [Replaces(old.digest)] == [step.outcome for step in moved.plan.steps]
    assert new.digest == await stands_for(world, world.reference())


async def test_nothing_to_replace(world: World) -> None:
    """Who says that a name moves is refused where it has no pin."""
    await pinned(world)
    refused = await promote(world.mirror.promotion, order(Wanted(world.reference(), replaces=Digest.of(b"old"))))
    assert "has no pin in prod" in refused.outcomes[0]


async def test_a_plan_is_carried_out_as_it_was_printed(world: World) -> None:
    """A name by digest is promoted while the source has that digest, and refused once it has another one."""
    old = await pinned(world)
    planned = Wanted(world.reference(), digest=old.digest)
    assert [New()] == [
        step.outcome for step in (await world.mirror.promotion.plan(order(planned), [], fetch=False)).steps
    ]
    new = await repinned(world, 2)
    refused = await promote(world.mirror.promotion, order(planned))
    assert f"is pinned to {new.digest} in default, not to {old.digest}" in refused.outcomes[0]
    assert None is await stands_for(world, world.reference())


async def test_all_or_nothing(world: World) -> None:
    """One name that cannot be promoted holds up the others."""
    await pinned(world)
    missing = world.reference("missing")
    refused = await promote(world.mirror.promotion, order(world.reference(), missing))
    assert ["New", f"NotPromoted: {missing} has no pin in default"] == refused.outcomes
    assert None is await stands_for(world, world.reference())
    with pytest.raises(Denied):
        await world.mirror.promotion.carry_out(refused.plan, KEY, ORIGIN)


async def test_many_names_in_one_transaction(world: World) -> None:
    """All of them are promoted together, each with a record of its own; a mistake in one journal act would show."""
    for number in range(5):
        await pinned(world, number, f"v{number}")
    names = await world.mirror.promotion.names("default", Pattern("registry.example.com/team/*:v*"))
    assert 5 == len(names)
    promoted = await promote(world.mirror.promotion, order(*names))
    assert 5 == len(promoted.pins)
    serials = [event.serial for each in names for event in await world.ledger.within("prod").history(each)]
    assert list(range(serials[0], serials[0] + 5)) == serials


async def test_too_many_names(world: World) -> None:
    """A pattern that fits more than can be promoted at once says so."""
    changes = [
        Change("default", world.reference(f"v{number}"), None, small_image().descriptor, "test")
        for number in range(1001)
    ]
    await world.ledger.change(EventKind.IMPORTED, changes, reason="many", actor="ann")
    with pytest.raises(Malformed, match="fits 1001 names"):
        await world.mirror.promotion.names("default", Pattern("**"))


async def test_gates_are_told_the_facts(world: World) -> None:
    """What is promoted, since when it is here, for which platforms, and what refers to it."""
    child = small_image(1)
    published = world.registry.content.publish("team/app", "1", index([child]))
    signature = world.registry.content.publish(
        "team/app", None, artifact(published, artifact_type="application/vnd.sig")
    )
    await world.tag()
    pinned_at = world.clock()
    world.clock.advance(timedelta(hours=3))
    gate = SaysSo()
    await promote(world.mirror.promotion, order(world.reference()), [gate])
    (facts,) = gate.told
    assert (world.reference(), published.digest, "prod", "default", None) == (
        facts.reference,
        facts.digest,
        facts.environment,
        facts.source,
        facts.replaces,
    )
    assert (pinned_at, pinned_at, ("linux/amd64",)) == (facts.pinned_at, facts.first_seen, facts.platforms)
    assert [(signature.digest, "application/vnd.sig")] == [(each.digest, each.artifact_type) for each in facts.attached]


async def test_gates_are_told_of_attachment_tags(world: World) -> None:
    """A signature that lies under a tag, as older programs keep it, is a fact too, and so is an image's platform."""
    published = await pinned(world)
    signature = small_image(7)
    tag = f"sha256-{published.digest.hex}.sig"
    world.registry.content.publish("team/app", tag, signature)
    await world.mirror.holding.settle()
    gate = SaysSo()
    await promote(world.mirror.promotion, order(world.reference()), [gate])
    assert [(signature.digest, tag)] == [(each.digest, each.tag) for each in gate.told[0].attached]
    assert ("linux/amd64",) == gate.told[0].platforms


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Refused(("unsigned", "old")), "NotPromoted: says so: unsigned"),
        (Undecided("it did not end"), "NotNow: says so: it did not end"),
    ],
)
async def test_a_gate_stops_a_promotion(world: World, verdict: Refused | Undecided, expected: str) -> None:
    """Without a passing gate nothing changes, and nothing is signed."""
    published = await pinned(world)
    serial = await world.ledger.serial()
    stopped = await promote(world.mirror.promotion, order(world.reference()), [SaysSo(name="first"), SaysSo(verdict)])
    assert [expected] == stopped.outcomes
    assert (serial, None) == (await world.ledger.serial(), await stands_for(world, world.reference()))
    assert [] == await world.ledger.attached.of(world.repository(), published.digest)


async def test_the_age_gate_waits(world: World) -> None:
    """What was first seen two hours ago passes a gate of two hours, and not before."""
    await pinned(world)
    gate = AgeGate(timedelta(hours=2), world.clock)
    world.clock.advance(timedelta(hours=1, minutes=59))
    young = await promote(world.mirror.promotion, order(world.reference()), [gate])
    assert young.outcomes[0].startswith("NotPromoted: min_age: ")
    world.clock.advance(timedelta(minutes=1))
    assert ["New"] == (await promote(world.mirror.promotion, order(world.reference()), [gate])).outcomes


async def test_gates_are_not_asked_for_what_is_unchanged(world: World) -> None:
    """A second run is done, even where a gate would now refuse."""
    await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    again = await promote(world.mirror.promotion, order(world.reference()), [SaysSo(Refused(("no",)))])
    assert [Unchanged()] == [step.outcome for step in again.plan.steps]


async def test_a_dry_run_fetches_nothing(world: World) -> None:
    """It asks the gates, tells how much is held, and leaves the rest alone."""
    await pinned(world)
    await world.mirror.holding.settle()
    gate, serial, held = SaysSo(), await world.ledger.serial(), blobs(world.store.root)
    plan = await world.mirror.promotion.plan(order(world.reference()), [gate], fetch=False)
    assert [(New(), Held.PARTIAL, (("says so", Allowed()),))] == [(s.outcome, s.held, s.verdicts) for s in plan.steps]
    assert (serial, held) == (await world.ledger.serial(), blobs(world.store.root))


async def test_what_cannot_be_held_is_not_promoted(world: World) -> None:
    """With upstream gone a name of which the layers are missing is not promoted, unless a person takes it in part."""
    published = await pinned(world)
    await world.mirror.holding.settle()
    await world.registry.stop()
    stopped = await promote(world.mirror.promotion, order(world.reference()))
    assert stopped.outcomes[0].startswith(f"NotNow: {world.reference()} would not be served with upstream gone")
    assert "--partial" in stopped.outcomes[0]
    assert None is await stands_for(world, world.reference())
    partly = await promote(world.mirror.promotion, order(world.reference(), partial=True))
    assert (["New"], Held.PARTIAL) == (partly.outcomes, partly.plan.steps[0].held)
    assert published.digest == await stands_for(world, world.reference())


async def test_a_recalled_digest_is_not_promoted(world: World) -> None:
    """Neither what was recalled, nor what contains it, and the reason is told."""
    published = await pinned(world)
    await pinned(world, 2, "2")
    layer = published.layers[0]
    await world.ledger.recalls.recall([layer], reason="stolen", actor="ann")
    refused = await promote(world.mirror.promotion, order(world.reference(), world.reference("2")))
    assert (True, "New") == (refused.outcomes[0].startswith("NotPromoted: "), refused.outcomes[1])
    assert "stolen" in refused.outcomes[0]


@pytest.mark.parametrize("partial", [False, True])
async def test_what_is_recalled_in_a_part_that_was_not_held_is_not_promoted(world: World, *, partial: bool) -> None:
    """It is seen as soon as the promotion brings that part in; to take the rest in part is not offered."""
    old = await pinned(world, 2)
    child = small_image(1)
    published = world.registry.content.publish("team/app", "1", index([child]))
    new = (await world.mirror.manifest(world.repository(), published.digest)).descriptor
    await world.ledger.repin(world.reference(), old.digest, new, reason="new", actor="ann", source=world.registry.url)
    await world.ledger.recalls.recall([child.layers[0]], reason="stolen", actor="ann")
    refused = await promote(world.mirror.promotion, order(world.reference(), partial=partial))
    assert refused.outcomes[0].startswith("NotPromoted: ")
    assert ("stolen" in refused.outcomes[0], "--partial" in refused.outcomes[0]) == (True, False)
    assert None is await stands_for(world, world.reference())


async def test_a_withheld_digest_is_not_promoted(world: World) -> None:
    """What waits for an approval in the target does not come in by another door."""
    published = await pinned(world)
    terms = Terms(admit=Admission.APPROVED)
    staging = world.ledger.within("staging")
    withheld = await staging.admit(world.reference(), published.descriptor, world.registry.url, terms)
    assert isinstance(withheld, Withheld)
    refused = await promote(world.mirror.promotion, order(world.reference(), target="staging"))
    assert "is withheld from" in refused.outcomes[0]


async def test_of_two_promotions_one_wins(world: World) -> None:
    """Two that planned the same move with different digests: the second one is told, and leaves nothing attached."""
    old = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    wanted, plans = Wanted(world.reference(), replaces=old.digest), []
    for seed in (2, 3):
        await repinned(world, seed)
        plans.append(await world.mirror.promotion.plan(order(wanted), [], fetch=True))
    racing = [world.mirror.promotion.carry_out(plan, KEY, ORIGIN) for plan in plans]
    ended = await asyncio.gather(*racing, return_exceptions=True)
    lost = [number for number, each in enumerate(ended) if isinstance(each, Conflict)]
    assert 1 == len(lost), ended
    won = 1 - lost[0]
    digests = [str(plan.steps[0].pin.descriptor.digest) for plan in plans if plan.steps[0].pin]
    assert digests[won] == str(await stands_for(world, world.reference()))
    assert [] == await world.ledger.attached.of(world.repository(), Digest.parse(digests[lost[0]]))
    assert (await world.ledger.verify()).ok


async def test_a_promoted_name_goes_back(world: World) -> None:
    """A rollback is an act of its own; history tells both, and the record of the promotion stays."""
    old = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    new = await repinned(world, 2)
    await promote(world.mirror.promotion, order(Wanted(world.reference(), replaces=old.digest)))
    back = Change("prod", world.reference(), new.digest, old.descriptor, world.registry.url)
    await world.ledger.change(EventKind.ROLLED_BACK, [back], reason="broken", actor="ann")
    assert old.digest == await stands_for(world, world.reference())
    kinds = [event.kind for event in await world.ledger.within("prod").history(world.reference())]
    assert [EventKind.PROMOTED, EventKind.PROMOTED, EventKind.ROLLED_BACK] == kinds
    assert 1 == len(await bundles(world, new.digest))


async def test_records_are_listed_with_upstreams(world: World) -> None:
    """Ours come after upstream's, whether it has the API or not, is there or gone; a filter applies to both."""
    for api in (True, False):
        world.registry.answer_referrers = api
        name = f"team/{'api' if api else 'tag'}"
        published = await pinned(world, name=name)
        theirs = world.registry.content.publish(name, None, artifact(published))
        listing = world.registry.content.repositories[name].referrers(str(published.digest))
        world.registry.content.publish(name, f"sha256-{published.digest.hex}", Published(listing, index([]).media_type))
        await promote(world.mirror.promotion, order(world.reference(name=name)))
        assert ["theirs", "ours"] == await listed(world, name, published, theirs)
        filtered = await world.mirror.referrers(world.repository(name), published.digest, [BUNDLE])
        assert [BUNDLE] == [each["artifactType"] for each in orjson.loads(filtered.raw)["manifests"]]
    await world.registry.stop()
    assert ["theirs", "ours"] == await listed(world, name, published, theirs)


async def listed(world: World, name: str, subject: Published, theirs: Published) -> list[str]:
    raw = (await world.mirror.referrers(world.repository(name), subject.digest, ())).raw
    digests = [each["digest"] for each in orjson.loads(raw)["manifests"]]
    return ["theirs" if each == str(theirs.digest) else "ours" for each in digests]


async def test_records_are_listed_with_upstream_gone(world: World) -> None:
    """An upstream that was never asked about referrers, and is gone, hides no record of ours."""
    published = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    await world.registry.stop()
    (bundle,) = await bundles(world, published.digest)
    assert "prod" == predicate_about(verified_statement(bundle, [KEY.public]), published.digest)["to"]


async def test_a_record_whose_bytes_are_lost_is_not_listed(world: World) -> None:
    """A list that names what cannot be had would fail those who verify."""
    published = await pinned(world)
    await promote(world.mirror.promotion, order(world.reference()))
    (attached,) = await world.ledger.attached.of(world.repository(), published.digest)
    world.store.quarantine(attached.descriptor.digest, "test")
    assert [] == await bundles(world, published.digest)


async def test_records_of_private_images_are_private_and_served(tmp_path: Path, registry: FakeRegistry) -> None:
    """Where content is private, another process hands a record out through its repository only, with upstream gone."""
    password = tmp_path / "password"
    password.write_text("of no worth")
    async with a_world(tmp_path, registry, password_file=password) as world:
        published = await pinned(world)
        await promote(world.mirror.promotion, order(world.reference()))
        (attached,) = await world.ledger.attached.of(world.repository(), published.digest)
    await registry.stop()
    async with a_world(tmp_path, registry, password_file=password) as world:
        (bundle,) = await bundles(world, published.digest)
        assert "prod" == predicate_about(verified_statement(bundle, [KEY.public]), published.digest)["to"]
        with pytest.raises((Unavailable, UpstreamRefused)):
            await world.mirror.manifest(world.repository("team/other"), attached.descriptor.digest)
