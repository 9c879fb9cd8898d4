"""Syncing a set: what is pinned, fetched and recorded, and what becomes of it when upstream fails midway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from charts import chart
from iarproxy.config.sets import load_sets
from iarproxy.config.wanted import WantedSet
from iarproxy.ledger import EventKind
from iarproxy.mirror.sync.values import Plan, Silent, Synced
from iarproxy.oci import Digest, Tag, TagReference
from iarproxy.oci.attached_kind import AttachedKind
from iarproxy.oci.set_record import SetRecord
from images import Published, artifact, index, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from world import NAME, World, a_world

APP = f"{NAME}/team/app"


def a_set(folder: Path, body: str) -> WantedSet:
    file = folder / "sets.toml"
    file.write_text(f'[[set]]\nname = "site-a"\n{body}\n')
    return load_sets(file)["site-a"]


def references(*names: str) -> str:
    return f"references = {[f'{NAME}/{name}' for name in names]}"


async def sync(world: World, wanted: WantedSet, patience: float = 0.0, **options: Any) -> Synced:
    given: dict[str, Any] = {"referrers": None, "progress": Silent(), "actor": "ann"} | options
    return await world.mirror.syncing.sync(wanted, patience=patience, **given)


async def plan(world: World, wanted: WantedSet) -> Plan:
    return await world.mirror.planning.plan(wanted, referrers=None, patience=0.0, progress=Silent())


async def kept(world: World) -> SetRecord:
    """The record that the ledger and the store have."""
    found = await world.ledger.sets.of("site-a")
    assert found is not None
    raw = await world.store.read(found.record.digest, found.record.size)
    assert raw is not None
    record = SetRecord.parse(raw)
    assert record.is_complete == found.complete
    assert record.definition == found.definition
    return record


def names(record: SetRecord) -> dict[str, Digest]:
    return {str(each.reference): each.descriptor.digest for each in record.members}


def all_of(*published: Published) -> set[Digest]:
    """The digests of manifests and everything below."""
    found: set[Digest] = set()
    for each in published:
        found |= {each.digest, *each.blobs, *all_of(*each.children)}
    return found


def whats(failed: Sequence[Any]) -> list[str]:
    return sorted(each.what for each in failed)


async def test_a_set_is_pinned_held_and_recorded(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Tags are pinned, digests held, all that both need is in the store, and the record says what it was."""
    one, two = small_image(1), index([small_image(2), small_image(3, platform="linux/arm64")])
    registry.content.publish("team/app", "1", one)
    registry.content.publish("team/other", None, two)
    wanted = a_set(tmp_path, references("team/app:1", f"team/other@{two.digest}"))
    synced = await sync(world, wanted)
    assert () == synced.failed
    record = await kept(world)
    assert {f"{APP}:1": one.digest, f"{NAME}/team/other@{two.digest}": two.digest} == names(record)
    assert record == synced.record
    assert wanted.definition == record.definition
    assert all(world.store.find(digest) is not None for digest in all_of(one, two))
    pin = await world.ledger.pin_of(world.reference("1"))
    assert pin is not None
    assert one.digest == pin.descriptor.digest
    assert [world.reference("1")] == list(synced.pinned)
    entries = await world.ledger.events()
    assert [EventKind.SYNCED] == [each.kind for each in entries if each.kind is EventKind.SYNCED]


async def test_again_fetches_nothing(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """A second sync brings nothing, gives the same record, and journals nothing."""
    registry.content.publish("team/app", "1", small_image(1))
    wanted = a_set(tmp_path, references("team/app:1"))
    first = await sync(world, wanted)
    serial = await world.ledger.serial()
    registry.forget()
    second = await sync(world, wanted)
    assert (first.kept, 0, 0) == (second.kept, second.fetched, registry.count("GET", "/blobs/"))
    assert serial == await world.ledger.serial()


async def test_repositories_by_globs_ranges_and_newest(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """What the globs and ranges want comes, with the reason; what they do not want does not."""
    for seed, tag in enumerate(("1.0.0", "1.1.0", "1.2.0", "1.3.0-rc.1", "2.0.0", "latest")):
        registry.content.publish("team/app", tag, small_image(seed))
    body = f'[[set.repositories]]\nname = "{APP}"\nsemver = "<2"\nnewest = 2'
    synced = await sync(world, a_set(tmp_path, body))
    assert [f"{APP}:1.1.0", f"{APP}:1.2.0"] == sorted(names(synced.record))
    assert {(f"repositories: {APP} (semver <2, newest 2)",)} == {each.why for each in synced.record.members}
    assert await world.ledger.pin_of(world.reference("2.0.0")) is None


async def test_nothing_is_chosen_of_a_cut_list(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Of more tags than are listed the newest may be among those that are not: the set is incomplete, and says why."""
    registry.content.publish("team/app", "1", small_image(1))
    tags = orjson.dumps({"name": "team/app", "tags": [f"1.{number}" for number in range(10_001)]})
    registry.faults.add("*/tags/list*", Fault(body=tags))
    body = f"[[set.repositories]]\nname = '{APP}'\nnewest = 1"
    (failed,) = (await sync(world, a_set(tmp_path, body))).failed
    assert (True, True) == (failed.refused, "it has 10000 tags or more" in failed.why)


async def test_platforms_choose_children(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Of an index only the wanted children are fetched; the index itself is as it is."""
    amd, arm = small_image(1), small_image(2, platform="linux/arm64")
    registry.content.publish("team/app", "1", index([amd, arm]))
    synced = await sync(world, a_set(tmp_path, f'{references("team/app:1")}\nplatforms = ["linux/arm64"]'))
    assert () == synced.failed
    assert all(world.store.find(digest) is not None for digest in all_of(arm))
    assert world.store.find(amd.layers[0]) is None


async def test_what_is_attached_comes_along(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Referrers, referrers of referrers and signature tags are held and in the record, unless they are left out."""
    app = small_image(1)
    sbom = artifact(app)
    signed = artifact(sbom, artifact_type="application/vnd.example.signature", data=b"signed")
    for each in (app, sbom, signed):
        registry.content.publish("team/app", "1" if each is app else None, each)
    tag = f"{Tag.attached_to(app.digest)}.sig"
    registry.content.publish("team/app", tag, small_image(9))
    wanted = a_set(tmp_path, references("team/app:1"))
    synced = await sync(world, wanted)
    assert () == synced.failed
    lists = {Tag.attached_to(each.digest).value for each in (app, sbom)}
    assert lists | {tag} == {each.reference.tag.value for each in synced.record.attachments}
    assert all(world.store.find(digest) is not None for digest in all_of(app, sbom, signed, small_image(9)))
    without = await sync(world, wanted, referrers=False)
    assert ((), False) == (without.record.attachments, without.record.referrers)


async def test_failing_to_ask_for_referrers_is_a_failure(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """An upstream that answers 500 to referrers makes the set incomplete; without referrers it is complete."""
    registry.content.publish("team/app", "1", small_image(1))
    registry.faults.add("*/referrers/*", Fault(status=500))
    wanted = a_set(tmp_path, references("team/app:1"))
    synced = await sync(world, wanted)
    assert not (await kept(world)).is_complete
    assert [False] == [each.refused for each in synced.failed]
    assert "referrers" in synced.failed[0].what
    assert () == (await sync(world, wanted, referrers=False)).failed


async def test_an_item_without_what_is_attached(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Only of the items that say so nobody asks what is attached; plan, report and record tell which, and why."""
    for seed, name in enumerate(("app", "tool", "odd")):
        registry.content.publish(f"team/{name}", "1", small_image(seed))
        registry.content.publish(f"team/{name}", None, artifact(small_image(seed)))
    registry.faults.add("*/team/tool/referrers/*", Fault(status=500))
    registry.faults.add("*/team/odd/referrers/*", Fault(status=500))
    body = "references = ['{0}/team/app:1', {{reference = '{0}/team/tool:1'{1}}}]\n"
    body += "[[set.repositories]]\nname = '{0}/team/odd'\nnewest = 1\nreferrers = false"
    failing = await sync(world, a_set(tmp_path, body.format(NAME, "")))
    assert (1, True) == (len(failing.failed), f"{NAME}/team/tool@" in failing.failed[0].what)
    wanted = a_set(tmp_path, body.format(NAME, ", referrers = false"))
    planned, synced = await plan(world, wanted), await sync(world, wanted)
    assert ((), ()) == (planned.failed, synced.failed)
    told = "{} says referrers = false, so these come without what is attached to them: {}/team/{}:1"
    said = [told.format("references", NAME, "tool")]
    said.append(told.format(f"repositories: {NAME}/team/odd (newest 1)", NAME, "odd"))
    assert (said, said) == (sorted(planned.remarks), sorted(synced.remarks))
    by_name = {f"{APP}:1": True, f"{NAME}/team/tool:1": False, f"{NAME}/team/odd:1": False}
    assert by_name == {str(each.reference): not each.without for each in planned.names}
    record = await kept(world)
    assert by_name == {str(each.reference): each.referrers for each in record.members}
    assert [APP] == [str(each.reference.repository) for each in record.attachments]
    assert (1, True, record) == (planned.attached, record.is_complete, SetRecord.parse(record.dump()))
    assert 2 == len((await sync(world, wanted, referrers=True)).failed)


async def test_what_an_item_says_counts_wherever_it_comes_from(
    world: World, registry: FakeRegistry, tmp_path: Path
) -> None:
    """A name that a repository and a lock bring too is as its own item says; two items that disagree are told."""
    for seed, tag in enumerate(("1.0", "1.1")):
        registry.content.publish("team/app", tag, small_image(seed))
    (tmp_path / "iar.lock").write_text(f"# iar.lock 1\n{APP}:1.0@{small_image(0).digest}\n")
    body = f"references = [{{reference = '{APP}:1.0', referrers = false}}]\nlocks = ['iar.lock']\n"
    body += f"[[set.repositories]]\nname = '{APP}'\ntags = ['1.*']\n"
    synced = await sync(world, a_set(tmp_path, body))
    assert [(f"{APP}:1.0", False), (f"{APP}:1.1", True)] == [
        (str(each.reference), each.referrers)
        for each in sorted(synced.record.members, key=lambda each: str(each.reference))
    ]
    (failed,) = (await sync(world, a_set(tmp_path, f"{body}referrers = true"))).failed
    said = f"references says referrers = false, and repositories: {APP} (tags 1.*) says referrers = true"
    assert (f"{APP}:1.0", True) == (failed.what, said in failed.why)


async def test_an_item_with_platforms_of_its_own(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """They are instead of the set's, for that name alone."""
    amd, arm = small_image(1), small_image(2, platform="linux/arm64")
    for tag in ("1", "2"):
        registry.content.publish("team/app", tag, index([amd, arm]))
    body = f"references = ['{APP}:1', {{reference = '{APP}:2', platforms = ['linux/arm64']}}]"
    synced = await sync(world, a_set(tmp_path, f'{body}\nplatforms = ["linux/amd64"]'))
    assert [["linux/amd64"], ["linux/arm64"]] == [
        list(map(str, each.platforms)) for each in sorted(synced.record.members, key=lambda each: str(each.reference))
    ]
    assert all(world.store.find(digest) is not None for digest in all_of(amd, arm))


async def test_upstream_failing_midway(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """What can be had is had, what failed is named; the next sync fetches only that, and the set is complete."""
    good, bad = small_image(1), small_image(2)
    registry.content.publish("team/app", "1", good)
    registry.content.publish("team/bad", "1", bad)
    registry.faults.add(f"*/team/bad/blobs/{bad.layers[0]}", Fault(status=404))
    wanted = a_set(tmp_path, references("team/app:1", "team/bad:1", "team/none:1"))
    synced = await sync(world, wanted)
    assert [f"{NAME}/team/bad@{bad.layers[0]}", f"{NAME}/team/none:1"] == whats(synced.failed)
    assert not (await kept(world)).is_complete
    assert all(world.store.find(digest) is not None for digest in all_of(good))
    registry.faults.clear()
    registry.content.publish("team/none", "1", small_image(3))
    registry.forget()
    assert () == (await sync(world, wanted)).failed
    assert (await kept(world)).is_complete
    assert 0 == registry.count("GET", str(good.layers[0]))


async def test_a_broken_transfer_goes_on(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """A blob that breaks off is fetched from where it broke."""
    image = small_image(1, size=200_000)
    registry.content.publish("team/app", "1", image)
    registry.faults.add(f"*/blobs/{image.layers[0]}", Fault(truncate_at=100_000), times=1)
    assert () == (await sync(world, a_set(tmp_path, references("team/app:1")))).failed
    assert registry.sent[str(image.layers[0])] < 2 * 200_000


async def test_a_limit_is_waited_for(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """429 with Retry-After: it waits and goes on; where the wait is longer than allowed, it says so at once."""
    registry.content.publish("team/app", "1", small_image(1))
    busy = Fault(status=429, headers={"Retry-After": "6"})
    registry.faults.add("*/manifests/1", busy, times=1)
    wanted = a_set(tmp_path, references("team/app:1"))
    synced = await sync(world, wanted)
    assert [False] == [each.refused for each in synced.failed]
    assert "rate limit" in synced.failed[0].why or "asked too much" in synced.failed[0].why
    waits: list[float] = []

    class Told(Silent):
        def waits(self, upstream: str, seconds: float, why: str) -> None:
            waits.append(seconds)

    assert () == (await sync(world, wanted, 60.0, progress=Told())).failed
    assert len(waits) >= 1


@pytest.mark.parametrize("held", [False, True], ids=["first", "again"])
async def test_a_list_of_tags_is_waited_for(
    world: World,
    registry: FakeRegistry,
    tmp_path: Path,
    held: bool,  # noqa: FBT001  # parametrized
) -> None:
    """A limit on the list of tags is waited for, and told as what it is, whether or not tags of it are pinned here."""
    registry.content.publish("team/app", "1", small_image(1))
    wanted = a_set(tmp_path, f"[[set.repositories]]\nname = '{APP}'\ntags = ['1']")
    if held:
        assert () == (await sync(world, wanted)).failed
    registry.faults.add("*/tags/list*", Fault(status=429, headers={"Retry-After": "6"}), times=1)
    (failed,) = (await sync(world, wanted)).failed
    assert (False, True) == (failed.refused, "rate limit" in failed.why or "asked too much" in failed.why)
    waits: list[float] = []

    class Told(Silent):
        def waits(self, upstream: str, seconds: float, why: str) -> None:
            waits.append(seconds)

    assert () == (await sync(world, wanted, 60.0, progress=Told())).failed
    assert 1 == len(waits)


async def test_the_floor_is_kept_for_clients(tmp_path: Path, registry: FakeRegistry) -> None:
    """Nothing is spent of what is left to clients: the sync is incomplete, and a client still gets its image."""
    registry.content.publish("team/app", "1", small_image(1))
    registry.content.publish("team/app", "2", small_image(2))
    quota = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "5;w=21600"}
    registry.faults.add("*", Fault(headers=quota))
    async with a_world(tmp_path, registry, section={"budget_floor": 10}) as world:
        await world.tag("2")
        synced = await sync(world, a_set(tmp_path, references("team/app:1", "team/app:2")))
        assert f"{APP}:1" in whats(synced.failed)
        assert "kept for clients" in " ".join(each.why for each in synced.failed)
        assert 0 == registry.count("GET", "/manifests/1")
        assert small_image(1).digest == (await world.tag("1")).descriptor.digest


async def test_locks_decide(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """A locked tag is pinned to the lock's digest, although upstream moved; another pin on it is told, not moved."""
    old, new = small_image(1), small_image(2)
    registry.content.publish("team/app", None, old)
    registry.content.publish("team/app", "1", new)
    registry.content.publish("team/app", "2", new)
    await world.tag("2")
    (tmp_path / "iar.lock").write_text(f"# iar.lock 1\n{APP}:1@{old.digest}\n{APP}:2@{old.digest}\n")
    synced = await sync(world, a_set(tmp_path, f'locks = ["iar.lock"]\n{references("team/app:1")}'))
    assert {f"{APP}:1": old.digest} == names(synced.record)
    assert [("references", "locks: iar.lock")] == [each.why for each in synced.record.members]
    assert [f"{APP}:2"] == whats(synced.failed)
    assert "pins repin" in synced.failed[0].why
    pin = await world.ledger.pin_of(world.reference("1"))
    assert pin is not None
    assert old.digest == pin.descriptor.digest


async def test_a_tag_that_vanished_is_served_from_its_pin(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """What is pinned and held needs no tag upstream; nor does a pin that somebody moved."""
    first, second = small_image(1), small_image(2)
    registry.content.publish("team/app", "1", first)
    wanted = a_set(tmp_path, references("team/app:1"))
    before = await sync(world, wanted)
    registry.content.delete_tag("team/app", "1")
    assert before.record == (await sync(world, wanted)).record
    registry.content.publish("team/app", None, second)
    await world.ledger.repin(
        world.reference("1"), old=first.digest, new=second.descriptor, source="here", reason="why", actor="ann"
    )
    assert {f"{APP}:1": second.digest} == names((await sync(world, wanted)).record)


async def test_upstream_gone_for_ever(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """With upstream down names that are pinned and held are still resolved; what it has to be asked for is lacking."""
    registry.content.publish("team/app", "1", small_image(1))
    wanted = a_set(tmp_path, f"{references('team/app:1')}\nreferrers = false")
    await sync(world, wanted)
    await registry.stop()
    assert () == (await sync(world, wanted)).failed
    body = f"{references('team/app:1')}\n[[set.repositories]]\nname = '{APP}'\ntags = ['1']"
    failed = (await sync(world, a_set(tmp_path, body))).failed[0]
    assert (f"{APP} (tags 1)", True) == (failed.what, "no connection" in failed.why)


async def test_what_is_attached_and_forbidden_is_refused(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Asking again would bring nothing, and it is told so."""
    registry.content.publish("team/app", "1", small_image(1))
    registry.faults.add("*/referrers/*", Fault(status=403))
    failed = (await sync(world, a_set(tmp_path, references("team/app:1")))).failed
    assert [True] == [each.refused for each in failed]


async def test_two_contents_under_one_name(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """A set that contradicts itself is told where."""
    one, two = small_image(1), small_image(2)
    registry.content.publish("team/app", "1", one)
    body = references(f"team/app:1@{one.digest}", f"team/app:1@{two.digest}")
    synced = await sync(world, a_set(tmp_path, body))
    assert [True] == [each.refused for each in synced.failed]
    assert "two contents under this name" in synced.failed[0].why


async def test_a_refused_tag_is_refused(tmp_path: Path, registry: FakeRegistry) -> None:
    """Policy counts here too, and only `refused` failures say that asking again is vain."""
    registry.content.publish("team/app", "1", small_image(1))
    async with a_world(tmp_path, registry, tags=[{"match": f"{APP}:1", "mode": "refuse"}]) as world:
        wanted = a_set(tmp_path, references("team/app:1"))
        assert [True] == [each.refused for each in (await sync(world, wanted)).failed]
        assert [True] == [each.refused for each in (await plan(world, wanted)).failed]


async def test_a_followed_tag_is_what_it_is_now(tmp_path: Path, registry: FakeRegistry) -> None:
    """It is held and recorded, and not pinned."""
    registry.content.publish("team/app", "latest", small_image(1))
    async with a_world(tmp_path, registry, tags=[{"match": f"{APP}:latest", "mode": "follow"}]) as world:
        synced = await sync(world, a_set(tmp_path, references("team/app:latest")))
        assert ({f"{APP}:latest": small_image(1).digest}, ()) == (names(synced.record), synced.failed)
        assert await world.ledger.pin_of(world.reference("latest")) is None


async def test_a_plan_writes_nothing(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """It tells names, bytes and reasons; no pin, no blob, no journal entry comes of it, and the sync agrees with it."""
    one, two = small_image(1, size=5_000), index([small_image(2), small_image(3, platform="linux/arm64")])
    registry.content.publish("team/app", "1", one)
    registry.content.publish("team/app", "2", two)
    registry.content.publish("team/app", None, artifact(one))
    await world.tag("2")
    await world.mirror.holding.settle()
    wanted = a_set(tmp_path, f'{references("team/app:1", "team/app:2")}\nplatforms = ["linux/amd64"]')
    serial, blobs = await world.ledger.serial(), (await world.store.stats()).blobs
    planned = await plan(world, wanted)
    await world.store.recount(rest=0)
    assert (serial, blobs) == (await world.ledger.serial(), (await world.store.stats()).blobs)
    assert await world.ledger.followed(TagReference(world.repository(), Tag.attached_to(one.digest))) is None
    assert {f"{APP}:1": True, f"{APP}:2": False} == {str(each.reference): each.new for each in planned.names}
    assert ((), 1, 1) == (planned.failed, planned.attached, planned.omitted)
    assert all_of(one) <= planned.missing.keys()
    assert not all_of(small_image(3, platform="linux/arm64")) & planned.contents.keys()
    assert () == (await sync(world, wanted)).failed
    assert all(world.store.find(digest) is not None for digest in planned.contents)


async def test_a_plan_of_what_is_held_fetches_nothing(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """After a sync nothing is to be fetched."""
    registry.content.publish("team/app", "1", small_image(1))
    wanted = a_set(tmp_path, references("team/app:1"))
    await sync(world, wanted)
    planned = await plan(world, wanted)
    assert ({}, ()) == (planned.missing, planned.failed)
    assert [(False, 0)] == [(each.new, each.missing) for each in planned.names]


async def test_a_lock_of_contents_without_tags(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """An ImagesLock names contents, which come by digest; a line without one asks for its tag, and that is said."""
    image = small_image(1)
    registry.content.publish("team/app", None, image)
    registry.content.publish("team/app", "1", small_image(2))
    (tmp_path / "images.yml").write_text(
        f"---\napiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n- image: {APP}@{image.digest}\n"
    )
    (tmp_path / "compose.yml").write_text(f"services:\n  app:\n    image: {APP}:1\n  no:\n    image: $NO:1\n")
    synced = await sync(world, a_set(tmp_path, 'locks = ["images.yml", "compose.yml"]'))
    wanted = {f"{APP}@{image.digest}": image.digest, f"{APP}:1": small_image(2).digest}
    assert (wanted, ()) == (names(synced.record), synced.failed)
    assert (
        f"compose.yml: line 3: {APP}:1: has no digest, so its tag is taken as it is",
        "compose.yml: line 5: $NO:1: is no name of an image; it is not synced",
    ) == synced.remarks


async def test_a_platform_that_an_index_lacks(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """All of it comes, and that is said in the plan and after it."""
    registry.content.publish("team/app", "1", index([small_image(1), small_image(2, platform="linux/arm64")]))
    wanted = a_set(tmp_path, f'{references("team/app:1")}\nplatforms = ["linux/s390x"]')
    said = "has nothing for linux/s390x, so all of it is taken: linux/amd64, linux/arm64"
    for remarks in ((await plan(world, wanted)).remarks, (await sync(world, wanted)).remarks):
        assert [True] == [each.endswith(said) for each in remarks]


async def test_an_image_for_another_platform(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """One that is no index is taken as it is, and that it is for another platform is said."""
    registry.content.publish("team/app", "1", small_image(1))
    registry.content.publish("team/app", "2", small_image(2, platform="linux/arm"))
    wanted = a_set(tmp_path, f'{references("team/app:1", "team/app:2")}\nplatforms = ["linux/arm/v7"]')
    said = f"{APP}:1 is an image for linux/amd64, and linux/arm/v7 is wanted; it is taken"
    assert (said,) == (await sync(world, wanted)).remarks


async def test_images_of_a_chart(
    world: World, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chart comes with the images that it renders, once each; what only looks like an image is listed."""
    helm = tmp_path / "bin" / "helm"
    helm.parent.mkdir()
    pod = f"kind: Pod\nspec:\n  containers:\n  - {{name: app, image: '{APP}:1'}}\n  - {{name: two, image: '{APP}:2'}}\n"
    text = f"{pod}---\nkind: ConfigMap\ndata:\n  other: {NAME}/team/missing:1.0\n"
    helm.write_text(f"#!/bin/sh\ncat values-0.yaml; cat <<'END'\n---\n{text}END\n")
    helm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helm.parent}:/usr/bin:/bin")
    published = chart({"values.yaml": "tag: '1'\n"})
    registry.content.publish("charts/app", "1.0.0", published)
    for seed in (1, 2):
        registry.content.publish("team/app", str(seed), small_image(seed))
    (tmp_path / "values.yaml").write_text("kind: Values\n")
    charts = f'charts = [{{ reference = "oci://{NAME}/charts/app:1.0.0", values = ["values.yaml"] }}]'
    synced = await sync(world, a_set(tmp_path, f"{references('team/app:1')}\n{charts}"))
    assert () == synced.failed
    assert {
        f"{NAME}/charts/app:1.0.0": published.digest,
        f"{APP}:1": small_image(1).digest,
        f"{APP}:2": small_image(2).digest,
    } == names(synced.record)
    whys = {str(each.reference): each.why for each in synced.record.members}
    assert "references" == whys[f"{APP}:1"][0]
    assert all("Pod, container" in whys[name][-1] for name in (f"{APP}:1", f"{APP}:2"))
    assert [True] == ["team/missing:1.0" in each for each in synced.record.unresolved]
    assert all(world.store.find(digest) is not None for digest in all_of(published, small_image(2)))


async def test_a_chart_that_does_not_render(
    world: World, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lacking, with the remedy; the rest of the set goes on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    registry.content.publish("charts/app", "1.0.0", chart({"values.yaml": "tag: '1'\n"}))
    registry.content.publish("team/app", "1", small_image(1))
    body = f'{references("team/app:1")}\ncharts = ["{NAME}/charts/app:1.0.0"]'
    synced = await sync(world, a_set(tmp_path, body))
    assert [f"the images of the chart {NAME}/charts/app:1.0.0"] == whats(synced.failed)
    assert [True] == [each.refused for each in synced.failed]
    assert 2 == len(synced.record.members)


def predicated(published: Published) -> Published:
    """The artifact as one that says provenance, as BuildKit writes it."""
    document = orjson.loads(published.raw)
    document["layers"][0]["annotations"] = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
    return replace(published, raw=orjson.dumps(document))


async def test_what_is_attached_is_counted(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """Plan and sync say how many names have signatures, SBOMs and provenance, whichever way they are attached."""
    signed, listed, built, bare = (small_image(seed) for seed in range(1, 5))
    signature = artifact(small_image(9), artifact_type="application/vnd.dev.cosign.simplesigning.v1+json")
    registry.content.publish("team/app", f"{Tag.attached_to(signed.digest)}.sig", signature)
    registry.content.publish("team/app", None, artifact(listed, artifact_type="application/spdx+json"))
    provenance = predicated(artifact(built, artifact_type="application/vnd.in-toto+json"))
    for tag, each in (("1", signed), ("2", listed), ("3", index([built, provenance])), ("4", bare)):
        registry.content.publish("team/app", tag, each)
    wanted = a_set(tmp_path, references(*(f"team/app:{tag}" for tag in "1234")))
    planned, synced = await plan(world, wanted), await sync(world, wanted)
    counts = {AttachedKind.SIGNATURE: 1, AttachedKind.SBOM: 1, AttachedKind.PROVENANCE: 1}
    assert (counts, counts) == (planned.kinds, synced.kinds)
    assert ((), ()) == (planned.failed, synced.failed)
    assert (await sync(world, wanted, referrers=False)).kinds is None


async def test_recalled_content_is_not_synced(world: World, registry: FakeRegistry, tmp_path: Path) -> None:
    """It is lacking and refused, by whichever name it is wanted, and so is what contains it."""
    bad = small_image(1)
    registry.content.publish("team/app", "1", index([bad, small_image(2, platform="linux/arm64")]))
    registry.content.publish("team/app", "2", small_image(3))
    wanted = a_set(tmp_path, references("team/app:1", "team/app:2"))
    await sync(world, wanted)
    await world.ledger.recalls.recall([bad.digest], reason="bad", actor="ann")
    synced = await sync(world, wanted)
    assert [True] == [each.refused for each in synced.failed]
    assert [f"{APP}:2"] == list(names(synced.record))
    assert not (await kept(world)).is_complete


async def test_a_store_that_is_full(registry: FakeRegistry, tmp_path: Path) -> None:
    """What has no room is lacking; asking again may help."""
    registry.content.publish("team/app", "1", small_image(1, size=400_000))
    async with a_world(tmp_path, registry, max_size=200_000) as world:
        synced = await sync(world, a_set(tmp_path, references("team/app:1")))
        assert [(f"{APP}@{small_image(1, size=400_000).layers[0]}", False)] == [
            (each.what, each.refused) for each in synced.failed
        ]
        assert "full" in synced.failed[0].why


async def test_what_came_with_credentials_is_linked(tmp_path: Path) -> None:
    """Every repository of the set may serve all of it, what is attached included; nobody else may."""
    password = tmp_path / "password"
    password.write_text("secret")
    app = small_image(1)
    authority = Authority("basic", {"robot": "secret"})
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("team/app", "1", app)
        sbom = registry.content.publish("team/app", None, artifact(app, data=b"an SBOM"))
        async with a_world(tmp_path, registry, password_file=password) as world:
            assert () == (await sync(world, a_set(tmp_path, references("team/app:1")))).failed
            linked = [await world.ledger.linked(world.repository(), each) for each in all_of(app, sbom)]
            assert {True} == set(linked)
            assert not await world.ledger.linked(world.repository("team/other"), app.digest)
