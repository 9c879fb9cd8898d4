"""What is attached to content is found and fetched, by API or tag, recursively; and asking for it fails closed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import IarproxyError
from iarproxy.mirror.sync import attachments
from iarproxy.mirror.sync.attachments import Attached
from iarproxy.oci import Digest, Platform, Tag
from iarproxy.oci.closure import Root
from iarproxy.oci.media_types import OCI_INDEX
from images import Published, artifact, index, small_image
from promoting_world import order, promote
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from world import World, a_world

NAME = "team/app"
SBOM = "application/spdx+json"


def fallback(world: World, subject: Digest, suffix: str = "") -> str:
    return f"{world.repository()}:sha256-{subject.hex}{suffix}"


def tags(found: Attached) -> set[str]:
    """The attachment tags that were found."""
    assert len(found.attachments) == len({each.reference for each in found.attachments})
    return {str(each.reference) for each in found.attachments}


def listed(world: World, subject: Published, *, also: Iterable[dict[str, object]] = ()) -> None:
    """Keep the fallback tag, as clients do where the registry has no API."""
    held = world.registry.content.repositories[NAME]
    document = orjson.loads(held.referrers(str(subject.digest)))
    document["manifests"] += also
    tag = f"sha256-{subject.digest.hex}"
    world.registry.content.publish(NAME, tag, Published(orjson.dumps(document), OCI_INDEX))


async def of(world: World, subject: Published, *platforms: str) -> Attached:
    root = Root(subject.descriptor, tuple(map(Platform.parse, platforms)))
    return await world.mirror.attachments.of(world.repository(), root)


async def referrers(world: World, subject: Digest) -> list[str]:
    """What a client is told, with nobody to ask."""
    answer = await world.mirror.referrers(world.repository(), subject, ())
    return [each["digest"] for each in orjson.loads(answer.raw)["manifests"]]


@pytest.mark.parametrize("api", [True, False], ids=["api", "tag"])
async def test_everything_attached_is_found_and_served_without_upstream(world: World, api: bool) -> None:  # noqa: FBT001
    """Lists, `.sig` tags, and what is attached to attachments; all of it is answered with upstream stopped."""
    world.registry.answer_referrers = api
    content = world.registry.content
    subject = content.publish(NAME, "1", small_image())
    sbom = content.publish(NAME, None, artifact(subject, artifact_type=SBOM))
    signed = content.publish(NAME, None, artifact(sbom, data=b"of the SBOM"))
    signature = content.publish(NAME, f"sha256-{subject.digest.hex}.sig", small_image(7))
    deep = content.publish(NAME, f"sha256-{signature.digest.hex}.att", small_image(8))
    if not api:
        listed(world, subject)
        listed(world, sbom)
    found = await of(world, subject)
    expected = {
        fallback(world, subject.digest),
        fallback(world, sbom.digest),
        fallback(world, subject.digest, ".sig"),
        fallback(world, signature.digest, ".att"),
    }
    assert (expected, [], []) == (tags(found), found.lacking, found.left_out)
    assert {each.digest for each in (subject, sbom, signed, signature, deep)} == found.subjects
    await world.registry.stop()
    assert [str(sbom.digest)] == await referrers(world, subject.digest)
    assert [str(signed.digest)] == await referrers(world, sbom.digest)
    answer = await world.mirror.manifest(world.repository(), Tag(f"sha256-{subject.digest.hex}.sig"))
    assert signature.raw == answer.raw


async def test_of_a_private_upstream_too(tmp_path: Path) -> None:
    """What is attached is linked to its repository; so it is served without upstream, and by no other repository."""
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    async with FakeRegistry(authority=Authority(kind="basic", users={"robot": "s3cret"})) as registry:
        subject = registry.content.publish(NAME, "1", small_image())
        sbom = registry.content.publish(NAME, None, artifact(subject, artifact_type=SBOM))
        async with a_world(tmp_path, registry, password_file=secret) as world:
            await world.tag()
            found = await of(world, subject)
            assert ([], {fallback(world, subject.digest)}) == (found.lacking, tags(found))
            await registry.stop()
        async with a_world(tmp_path, registry, password_file=secret) as world:
            assert [str(sbom.digest)] == await referrers(world, subject.digest)
            for digest in (sbom.digest, found.attachments[0].descriptor.digest):
                assert digest == (await world.mirror.manifest(world.repository(), digest)).descriptor.digest
                with pytest.raises(IarproxyError):
                    await world.mirror.manifest(world.repository("team/other"), digest)


async def test_nothing_attached_is_nothing_lacking(world: World) -> None:
    """404 and an empty list are upstream's word that there is none."""
    subject = world.registry.content.publish(NAME, "1", small_image())
    found = await of(world, subject)
    assert (set(), [], [], {subject.digest}) == (tags(found), found.lacking, found.left_out, found.subjects)


async def test_of_an_index_only_what_is_wanted_is_asked_about(world: World) -> None:
    """The index and its child for the platform; the other child costs nothing."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    content = world.registry.content
    content.publish(NAME, "1", both)
    amd, arm = both.children
    for each in (both, amd, arm):
        content.publish(NAME, None, artifact(each))
    found = await of(world, both, "linux/amd64")
    assert {fallback(world, both.digest), fallback(world, amd.digest)} == tags(found)
    assert 0 == world.registry.count("", arm.digest.hex)
    assert 3 == len((await of(world, both)).attachments)


FAILING = [
    Fault(status=500),
    Fault(status=403),
    Fault(status=401),
    Fault(status=429),
    Fault(no_answer=True),
    Fault(truncate_at=20),
    Fault(body=b"{}", headers={"Content-Type": OCI_INDEX}),
    Fault(body=b'{"errors":[]}', headers={"Content-Type": OCI_INDEX}),
    Fault(body=b'{"schemaVersion":2,"manifests":[{"digest":"x"}]}', headers={"Content-Type": OCI_INDEX}),
    Fault(headers={"Link": '<//127.0.0.2:9/v2/x>; rel="next"'}),
]


@pytest.mark.parametrize("fault", FAILING, ids=str)
async def test_an_api_that_fails_makes_it_lacking(world: World, fault: Fault) -> None:
    """Whatever is no list of referrers is never an empty one."""
    subject = world.registry.content.publish(NAME, "1", small_image())
    world.registry.content.publish(NAME, None, artifact(subject))
    await world.tag()
    world.registry.faults.add("*/referrers/*", fault)
    found = await of(world, subject)
    assert f"referrers of {world.repository()}@{subject.digest}" in [each.what for each in found.lacking]
    assert [] == found.attachments


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=403), Fault(no_answer=True)], ids=str)
@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
async def test_a_tag_that_cannot_be_asked_for_is_lacking(world: World, suffix: str, fault: Fault) -> None:
    """The fallback tag, where there is no API, and cosign's tags."""
    world.registry.answer_referrers = False
    subject = world.registry.content.publish(NAME, "1", small_image())
    await world.tag()
    world.registry.faults.add(f"*/manifests/sha256-*{suffix}" if suffix else "*/manifests/sha256-" + "?" * 64, fault)
    found = await of(world, subject)
    named = fallback(world, subject.digest, suffix) if suffix else f"referrers of {world.repository()}@{subject.digest}"
    assert [named] == [each.what for each in found.lacking]


async def test_a_referrer_that_cannot_be_had_now_is_lacking(world: World) -> None:
    """It is on the list, and upstream fails when asked for it."""
    subject = world.registry.content.publish(NAME, "1", small_image())
    attached = world.registry.content.publish(NAME, None, artifact(subject))
    armed = world.registry.faults.add(f"*/manifests/{attached.digest}", Fault(status=500))
    found = await of(world, subject)
    assert [f"{world.repository()}@{attached.digest}"] == [each.what for each in found.lacking]
    assert armed.used > 0


async def test_an_entry_that_upstream_no_longer_has_is_left_out(world: World) -> None:
    """The list that is kept names only what is to be had, and a site that has all of it is complete."""
    world.registry.answer_referrers = False
    subject = world.registry.content.publish(NAME, "1", small_image())
    attached = world.registry.content.publish(NAME, None, artifact(subject))
    gone = Digest.of(b"gone")
    stale: dict[str, object] = {"mediaType": OCI_INDEX, "digest": str(gone), "size": 3}
    listed(world, subject, also=[stale])
    found = await of(world, subject)
    assert [f"{world.repository()}@{gone}"] == [each.what for each in found.left_out]
    assert ([], {fallback(world, subject.digest)}) == (found.lacking, tags(found))
    await world.registry.stop()
    assert [str(attached.digest)] == await referrers(world, subject.digest)


async def test_what_is_held_stays_attached(world: World) -> None:
    """The image and its signature vanish upstream: what was found before is found again."""
    world.registry.answer_referrers = False
    content = world.registry.content
    subject = content.publish(NAME, "1", small_image())
    content.publish(NAME, None, artifact(subject))
    content.publish(NAME, f"sha256-{subject.digest.hex}.sig", small_image(7))
    listed(world, subject)
    before = await of(world, subject)
    world.registry.faults.add("*", Fault(status=404))
    after = await of(world, subject)
    assert (2, [], []) == (len(before.attachments), after.lacking, after.left_out)
    assert tags(before) == tags(after)


async def test_the_same_entries_in_another_order_are_the_same_list(world: World) -> None:
    """A registry that lists its referrers in any order it likes changes no set."""
    content = world.registry.content
    subject = content.publish(NAME, "1", small_image())
    content.publish(NAME, None, artifact(subject))
    content.publish(NAME, None, artifact(subject, data=b"2"))
    before = (await of(world, subject)).attachments
    document = orjson.loads(content.repositories[NAME].referrers(str(subject.digest)))
    document["manifests"].reverse()
    world.registry.faults.add("*/referrers/" + str(subject.digest), Fault(body=orjson.dumps(document)))
    assert before == (await of(world, subject)).attachments


async def test_a_spent_quota_says_when_to_ask_again(world: World) -> None:
    """What is lacking for now is told apart by the seconds to wait."""
    subject = world.registry.content.publish(NAME, "1", small_image())
    await world.tag()
    world.registry.faults.add("*/referrers/*", Fault(status=429, headers={"Retry-After": "7"}))
    found = await of(world, subject)
    assert found.again is not None
    assert (True, True) == (found.lacking != [], 0 < (found.again.retry_after or 0) <= 8)


async def test_what_is_recalled_is_left_out(world: World) -> None:
    """A person's act: neither a list nor a tag brings it along, and nothing lacks it."""
    content = world.registry.content
    subject = content.publish(NAME, "1", small_image())
    bad = content.publish(NAME, None, artifact(subject))
    good = content.publish(NAME, None, artifact(subject, data=b"good"))
    signature = content.publish(NAME, f"sha256-{subject.digest.hex}.sig", small_image(7))
    await of(world, subject)
    await world.ledger.recalls.recall([bad.digest, signature.digest], reason="stolen key", actor="ann")
    found = await of(world, subject)
    assert ([], {fallback(world, subject.digest)}) == (found.lacking, tags(found))
    await world.registry.stop()
    assert [str(good.digest)] == await referrers(world, subject.digest)


async def test_upstream_is_asked_afresh(world: World) -> None:
    """What a client was told a moment ago is not good enough: a new signature is found."""
    content = world.registry.content
    subject = content.publish(NAME, "1", small_image())
    assert [] == await referrers(world, subject.digest)
    content.publish(NAME, None, artifact(subject))
    assert 1 == len((await of(world, subject)).attachments)


async def test_records_of_ours_are_attachments(world: World) -> None:
    """The signed record of a promotion goes with what upstream lists, and when that is nothing."""
    content = world.registry.content
    bare = content.publish(NAME, "1", small_image(1))
    listing = content.publish(NAME, "2", small_image(2))
    theirs = content.publish(NAME, None, artifact(listing))
    for tag in ("1", "2"):
        await world.tag(tag)
        await promote(world.mirror.promotion, order(world.reference(tag)))
    for subject, expected in ((bare, []), (listing, [str(theirs.digest)])):
        found = await of(world, subject)
        assert ([], {fallback(world, subject.digest)}) == (found.lacking, tags(found))
        kept = await world.store.read(found.attachments[0].descriptor.digest, 10**6)
        names = [each["digest"] for each in orjson.loads(kept or b"")["manifests"]]
        assert (expected, 1) == (names[:-1], len(names) - len(expected))


async def test_a_chain_without_end_is_lacking(world: World) -> None:
    """A signature of a signature of a signature, and so on: it ends, and says so."""
    content = world.registry.content
    subject = last = content.publish(NAME, "1", small_image())
    for _ in range(attachments.MAX_DEPTH + 3):
        last = content.publish(NAME, None, artifact(last))
    found = await of(world, subject)
    assert [f"{world.repository()}@{subject.digest}"] == [each.what for each in found.lacking]
    assert attachments.MAX_DEPTH == len(found.attachments)


async def test_a_list_without_end_is_lacking(world: World) -> None:
    """A list of more than is looked at costs no request for any of it."""
    subject = world.registry.content.publish(NAME, "1", small_image())
    entry = {"mediaType": OCI_INDEX, "size": 3}
    many = [entry | {"digest": str(Digest.of(b"%d" % number))} for number in range(attachments.MAX_SUBJECTS + 1)]
    body = orjson.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": many})
    world.registry.faults.add("*/referrers/*", Fault(body=body))
    found = await of(world, subject)
    assert ([f"referrers of {world.repository()}@{subject.digest}"], set()) == (
        [each.what for each in found.lacking],
        tags(found),
    )
    assert 1 == world.registry.count("GET", "/manifests/")
