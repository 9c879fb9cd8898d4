"""Tags and referrers, with upstream there and away; warming; explaining."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import orjson
import pytest

from iarproxy.errors import UnknownManifest, UpstreamUnavailable
from iarproxy.mirror.serving.holding import Held
from iarproxy.oci import Descriptor, Digest, DigestReference, Platform
from iarproxy.oci.media_types import OCI_INDEX
from images import Published, artifact, index, small_image
from registry_faults import Fault
from world import World


async def test_tags_are_upstreams_and_ours(world: World) -> None:
    """The live list, together with a pinned tag that vanished."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    world.registry.content.delete_tag("team/app", "1")
    world.registry.content.publish("team/app", "2", small_image())
    listed = await world.mirror.tags(world.repository())
    assert (("1", "2"), True) == (listed.tags, listed.complete)


async def test_tags_offline_are_what_we_hold(world: World) -> None:
    """With upstream away the pinned tags are listed, and the list says that it is not complete."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    await world.registry.stop()
    listed = await world.mirror.tags(world.repository())
    assert (("1",), False) == (listed.tags, listed.complete)
    with pytest.raises(UpstreamUnavailable):
        await world.mirror.tags(world.repository("team/other"))


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_tags_are_listed_where_upstream_refuses(world: World, status: int) -> None:
    """Invariant 7: a refusal of upstream hides no tag that we hold."""
    world.registry.content.publish("team/app", "1", small_image())
    await world.tag()
    world.registry.faults.add("*/tags/list*", Fault(status=status))
    listed = await world.mirror.tags(world.repository())
    assert (("1",), False) == (listed.tags, listed.complete)


@pytest.mark.parametrize("api", [True, False], ids=["api", "tag"])
async def test_referrers_are_found_by_api_or_tag_and_outlive_upstream(world: World, api: bool) -> None:  # noqa: FBT001
    """Signatures are listed from the API or the fallback tag, and still when upstream is away."""
    world.registry.answer_referrers = api
    subject = world.registry.content.publish("team/app", "1", small_image())
    attached = world.registry.content.publish("team/app", None, artifact(subject))
    if not api:
        held = world.registry.content.repositories["team/app"]
        listing = Published(held.referrers(str(subject.digest)), OCI_INDEX)
        world.registry.content.publish("team/app", f"sha256-{subject.digest.hex}", listing)
    answer = await world.mirror.referrers(world.repository(), subject.digest, ())
    assert [str(attached.digest)] == [each["digest"] for each in orjson.loads(answer.raw)["manifests"]]
    await world.registry.stop()
    offline = await world.mirror.referrers(world.repository(), subject.digest, ())
    assert answer.raw == offline.raw


async def test_referrers_are_filtered_here(world: World) -> None:
    """The filter is applied by us, and said to be."""
    subject = world.registry.content.publish("team/app", "1", small_image())
    world.registry.content.publish("team/app", None, artifact(subject, artifact_type="application/vnd.a"))
    wanted = world.registry.content.publish("team/app", None, artifact(subject, artifact_type="application/vnd.b"))
    answer = await world.mirror.referrers(world.repository(), subject.digest, ("application/vnd.b",))
    found = [each["digest"] for each in orjson.loads(answer.raw)["manifests"]]
    assert ([str(wanted.digest)], True) == (found, answer.filtered)


async def test_a_sha512_subject_pins_nothing(world: World) -> None:
    """Only `sha256-...` tags are attachments; the fallback tag of another digest is never asked for."""
    world.registry.answer_referrers = False
    subject = Digest.of(b"subject", "sha512")
    world.registry.content.publish("team/app", f"sha512-{subject.hex[:64]}", small_image())
    answer = await world.mirror.referrers(world.repository(), subject, ())
    assert ([], []) == (orjson.loads(answer.raw)["manifests"], await world.ledger.pins())


async def test_no_referrers_are_an_empty_index(world: World) -> None:
    """Nothing attached is an empty list, never an error."""
    subject = world.registry.content.publish("team/app", "1", small_image())
    answer = orjson.loads((await world.mirror.referrers(world.repository(), subject.digest, ())).raw)
    assert (2, OCI_INDEX, []) == (answer["schemaVersion"], answer["mediaType"], answer["manifests"])


async def test_what_an_api_said_is_no_tag(world: World) -> None:
    """What is kept of the API's answer, under the name of the fallback tag, is not listed as a tag of upstream's."""
    subject = world.registry.content.publish("team/app", "1", small_image())
    world.registry.content.publish("team/app", None, artifact(subject))
    await world.mirror.referrers(world.repository(), subject.digest, ())
    assert ("1",) == (await world.mirror.tags(world.repository())).tags


class Silent:
    """A `Progress` that remembers what was planned and finished."""

    def __init__(self) -> None:
        self.plan: list[Descriptor] = []
        self.done: list[Descriptor] = []

    def planned(self, blobs: Sequence[Descriptor]) -> None:
        self.plan = list(blobs)

    def advanced(self, blob: Descriptor, done: int) -> None:
        assert done <= blob.size

    def finished(self, blob: Descriptor) -> None:
        self.done.append(blob)


async def test_a_pull_brings_all_of_a_platform(world: World) -> None:
    """`pull --platform` pins the index and fetches one platform; after it nothing is asked of upstream."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    world.registry.content.publish("team/app", "1", both)
    progress = Silent()
    pulled = await world.mirror.warm.pull(world.reference(), [Platform("linux", "arm64")], progress)
    assert (both.digest, len(progress.plan)) == (pulled.answer.descriptor.digest, len(progress.done))
    await world.registry.stop()
    for digest, data in both.children[1].blobs.items():
        assert data == await world.blob(digest)


async def test_a_platform_that_is_not_there_is_refused(world: World) -> None:
    """Naming a platform that the index lacks is an error that lists what there is, not a pull of everything."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    world.registry.content.publish("team/app", "1", both)
    progress = Silent()
    with pytest.raises(UnknownManifest, match=r"linux/s390x.*linux/amd64, linux/arm64"):
        await world.mirror.warm.pull(world.reference(), [Platform("linux", "s390x")], progress)
    assert [] == progress.plan


async def test_a_pull_of_everything_is_complete(world: World) -> None:
    """Without a platform all children come."""
    both = index([small_image(1), small_image(2, platform="linux/arm64")])
    world.registry.content.publish("team/app", "1", both)
    await world.mirror.warm.pull(world.reference(), [], Silent())
    assert {Held.COMPLETE} == {await world.mirror.holding.of(each.digest) for each in (both, *both.children)}


async def test_explain_tells_where_a_name_stands(world: World) -> None:
    """Rule, pin, drift, what is held, and what a client gets, without asking upstream."""
    image = world.registry.content.publish("team/app", "1", small_image(1))
    before = await world.mirror.explain.reference(world.reference())
    await world.tag()
    world.registry.content.publish("team/app", "1", small_image(2))
    await world.mirror.drift.check(world.reference())
    after = await world.mirror.explain.reference(world.reference())
    assert (None, Held.NONE) == (before.digest, before.held)
    assert (image.digest, world.registry.url) == (after.digest, (after.upstream or "").rstrip("/"))
    assert "Warning" in after.outcome
    assert "first pull" in before.outcome
    by_digest = await world.mirror.explain.reference(DigestReference(world.repository(), image.digest))
    assert (None, image.digest) == (by_digest.pin, by_digest.digest)


async def test_what_an_api_said_is_true_for_a_minute(world: World) -> None:
    """Rule 3: pulls of a warm image ask upstream nothing, and a further signature is seen within the minute."""
    subject = world.registry.content.publish("team/app", "1", small_image())
    for count in (0, 1):
        for _ in range(3):
            answer = await world.mirror.referrers(world.repository(), subject.digest, ())
            assert count == len(orjson.loads(answer.raw)["manifests"])
        assert count + 1 == world.registry.count("GET", "/referrers/")
        world.registry.content.publish("team/app", None, artifact(subject, data=b"%d" % count))
        world.clock.advance(timedelta(seconds=61))
