"""What a bundle has to carry follows from the record of its set and the documents in the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iarproxy.archive.making.sources import Sources, gather
from iarproxy.errors import Refused
from iarproxy.oci import Descriptor, Digest, Platform, Tag, TagReference, parse_manifest, parse_reference
from iarproxy.oci.bundle_manifest import BundleManifest
from iarproxy.oci.closure import Root, walk
from iarproxy.oci.manifest import Manifest
from iarproxy.oci.media_types import OCI_INDEX, OCI_MANIFEST
from iarproxy.oci.set_record import Attachment, Member, SetRecord
from images import Published, artifact, image, index, random_blob, small_image

AMD, ARM = "linux/amd64", "linux/arm64"


class Shelf:
    """Documents and blobs, as a store has them."""

    def __init__(self, *published: Published) -> None:
        self.held: dict[Digest, bytes] = {}
        for each in published:
            self.hold(each)

    def hold(self, published: Published) -> None:
        self.held |= {published.digest: published.raw, **published.blobs}
        for child in published.children:
            self.hold(child)

    async def load(self, descriptor: Descriptor) -> Manifest | None:
        raw = self.held.get(descriptor.digest)
        return None if raw is None else parse_manifest(raw, descriptor.media_type, descriptor.digest)

    def size(self, digest: Digest) -> int | None:
        return len(self.held[digest]) if digest in self.held else None


def member(text: str, published: Published, *platforms: str) -> Member:
    chosen = tuple(map(Platform.parse, platforms))
    return Member(parse_reference(f"reg.test/{text}"), published.descriptor, ("a test",), chosen)


def record(*members: Member, attachments: Collection[Attachment] = ()) -> SetRecord:
    return SetRecord("site-a", Digest.of(b"section"), members, tuple(attachments))


async def bundle(
    shelf: Shelf, kept: SetRecord, held: Collection[Digest] = (), volume_size: int | None = None
) -> BundleManifest:
    sources: Sources = await gather(kept, shelf.load)
    found = sources.manifest(held, volume_size, shelf.size)
    assert found == BundleManifest.parse(found.dump())
    return found


def sizes(manifest: BundleManifest) -> Mapping[Digest, int]:
    return {each.digest: each.size for each in manifest.provides}


def listed(manifest: BundleManifest) -> dict[str, bool]:
    return {str(each.reference): each.listed for each in manifest.names}


async def test_a_full_bundle_carries_the_closure() -> None:
    """Of an index all documents and blobs travel, each once, and nothing is required."""
    both = index([small_image(1), small_image(2, platform=ARM)])
    shelf = Shelf(both)
    made = await bundle(shelf, record(member("team/app:1", both), member("team/app:latest", both)))
    assert {digest: len(data) for digest, data in shelf.held.items()} == sizes(made)
    assert () == made.requires
    assert ["reg.test/team/app:1", "reg.test/team/app:latest"] == [str(each.reference) for each in made.names]
    assert all(listed(made).values())


async def test_a_delta_requires_what_is_held() -> None:
    """What the site holds does not travel, and an image that needs some of it is not in the layout's own list."""
    old, new = small_image(1), small_image(2)
    shelf = Shelf(old, new)
    made = await bundle(shelf, record(member("app:1", old), member("app:2", new)), Shelf(old).held)
    assert sorted(Shelf(old).held) == sorted(made.requires)
    assert sorted(set(Shelf(new).held) - set(Shelf(old).held)) == sorted(sizes(made))
    assert {"reg.test/app:1": False, "reg.test/app:2": True} == {
        str(each.reference): each.listed for each in made.names
    }


async def test_what_is_held_beyond_the_set_is_not_required() -> None:
    """A site may hold more than the set, which is nobody's business."""
    app, other = small_image(1), small_image(2)
    made = await bundle(Shelf(app), record(member("app:1", app)), Shelf(other).held)
    assert () == made.requires


async def test_left_out_platforms_are_declared() -> None:
    """A child that no wanted platform needs is not carried, and said to be left out of the name."""
    amd, arm = small_image(1), small_image(2, platform=ARM)
    both = index([amd, arm])
    made = await bundle(Shelf(both), record(member("app:1", both, AMD)))
    assert (arm.digest,) == made.names[0].omitted
    assert arm.digest not in sizes(made)
    assert made.names[0].listed


async def test_a_child_that_another_name_needs_is_not_declared_left_out() -> None:
    """What travels for one name is there for all: a reader of the bundle could not tell it from what was chosen."""
    amd, arm = small_image(1), small_image(2, platform=ARM)
    both = index([amd, arm])
    made = await bundle(Shelf(both), record(member("app:1", both, AMD), member("app:1-arm", arm)))
    assert [(), ()] == [each.omitted for each in made.names]


@pytest.mark.parametrize("docker", [False, True])
async def test_documents_are_carried_as_they_are(docker: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """Media types of Docker are named as they are."""
    both = index([small_image(1, docker=docker)], docker=docker)
    made = await bundle(Shelf(both), record(member("app:1", both)))
    assert (both.descriptor, True) == (made.names[0].descriptor, made.names[0].listed)


async def test_foreign_layers_neither_travel_nor_are_required() -> None:
    """A layer with urls is declared by its manifest alone, and its image is in no list of what readers can import."""
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://x.test/l"]}
    layer, plain = random_blob(10), small_image(1)
    config = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(Digest.of(config)),
            "size": len(config),
        },
        "layers": [foreign | {"digest": str(Digest.of(layer)), "size": len(layer)}],
    }
    windows = Published(orjson.dumps(document), OCI_MANIFEST, {Digest.of(config): config})
    made = await bundle(Shelf(windows, plain), record(member("win:1", windows), member("app:1", plain)))
    assert Digest.of(layer) not in sizes(made)
    assert Digest.of(layer) not in made.requires
    assert {"reg.test/win:1": False, "reg.test/app:1": True} == {
        str(each.reference): each.listed for each in made.names
    }


async def test_attachments_name_their_edges() -> None:
    """An attachment travels with what it leads to, and the manifest names these; it is in no list of images."""
    app = small_image(1)
    sbom, signature = artifact(app), artifact(app, artifact_type="application/vnd.example.signature", data=b"signed")
    fallback = index([sbom, signature])
    tag = TagReference(parse_reference("reg.test/app:1").repository, Tag.attached_to(app.digest))
    attachment = Attachment(tag, fallback.descriptor)
    names = member("app:1", app), member("sbom:1", sbom)
    made = await bundle(Shelf(app, fallback), record(*names, attachments=[attachment]))
    assert sorted([sbom.digest, signature.digest]) == list(made.attachments[0].manifests)
    assert set(Shelf(app, fallback).held) == set(sizes(made))
    assert [True, False] == [each.listed for each in made.names]


async def test_an_attached_manifest_leads_to_itself() -> None:
    """The tag of a signature as cosign 2 writes it stands for a manifest, not for a list of them."""
    app = small_image(1)
    signature = artifact(app)
    tag = TagReference(parse_reference("reg.test/app:1").repository, Tag(f"sha256-{app.digest.hex}.sig"))
    attachments = [Attachment(tag, signature.descriptor)]
    made = await bundle(Shelf(app, signature), record(member("app:1", app), attachments=attachments))
    assert (signature.digest,) == made.attachments[0].manifests


async def test_a_missing_document_or_blob_is_named() -> None:
    """What the store lacks ends it, with the digest and the command that brings it."""
    app = small_image(1)
    for gone in (app.digest, app.layers[0]):
        shelf = Shelf(app)
        del shelf.held[gone]
        with pytest.raises(Refused, match=rf"site-a: {gone}; run `iarproxy sync site-a` again"):
            await bundle(shelf, record(member("app:1", app)))


async def test_a_missing_blob_that_the_site_holds_does_not_matter() -> None:
    """What does not travel need not be here."""
    app = small_image(1)
    shelf = Shelf(app)
    del shelf.held[app.layers[0]]
    made = await bundle(shelf, record(member("app:1", app)), Shelf(app).held)
    assert () == made.provides


async def test_sizes_are_those_of_the_store() -> None:
    """A document that lies about the size of a blob does not shift the bytes behind it."""
    app = small_image(1)
    lying = app.raw.replace(b'"size": 2000', b'"size": 1')
    liar = Published(lying, app.media_type, app.blobs)
    assert lying != app.raw
    made = await bundle(Shelf(app, liar), record(member("app:1", app), member("app:2", liar)))
    assert 2000 == sizes(made)[app.layers[0]]


TREES = st.recursive(
    st.builds(
        small_image, st.integers(0, 6), size=st.integers(1, 50), platform=st.sampled_from([AMD, ARM, "linux/s390x"])
    ),
    lambda below: st.lists(below, min_size=1, max_size=3).map(index),
    max_leaves=6,
)


@given(
    chosen=st.lists(st.tuples(TREES, st.lists(st.sampled_from([AMD, ARM]), max_size=2)), min_size=1, max_size=4),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
async def test_a_reader_finds_what_is_declared(chosen: list[tuple[Published, list[str]]], data: st.DataObject) -> None:
    """Whoever walks a bundle's names without knowing platforms finds all that is provided or required, and only what
    was declared left out is absent.
    """
    shelf = Shelf(*(tree for tree, _ in chosen))
    members = [member(f"app:{number}", tree, *wanted) for number, (tree, wanted) in enumerate(chosen)]
    held = data.draw(st.sets(st.sampled_from(sorted(shelf.held))))
    made = await bundle(shelf, record(*members), held)
    there = {*sizes(made), *made.requires}

    async def load(descriptor: Descriptor) -> Manifest | None:
        return await shelf.load(descriptor) if descriptor.digest in there else None

    for name, each in zip(made.names, members, strict=True):
        found = await walk([Root(name.descriptor)], load)
        assert sorted(name.omitted) == sorted(found.absent)
        assert set(found.contents) <= there
        wanted = await walk([Root(each.descriptor, each.platforms)], load)
        assert name.listed == (set(wanted.contents) <= set(sizes(made)))
    whole = await walk([Root(name.descriptor) for name in made.names], load)
    assert there == set(whole.contents)
    assert set(made.requires) <= held
    assert not held & set(sizes(made))


def test_index_media_type() -> None:
    """The trees above are what they are meant to be."""
    assert OCI_INDEX == index([small_image(1)]).media_type
    assert image(b"x", platform=ARM).platform == ARM
