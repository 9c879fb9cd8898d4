"""What layouts and archives of other tools become here: names, conflicts, attachments, manifests that are made."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import Denied, Malformed
from iarproxy.oci import Digest, Tag, TagReference, parse_manifest, parse_reference
from iarproxy.oci.media_types import DOCKER_MANIFEST, OCI_MANIFEST
from iarproxy.trust import Mode, Pattern, TagRule
from iarproxy.trust.environments import Environment, PinsFrom
from images import Published, artifact, image, index, random_blob, small_image
from importing import a_site
from tarballs import END, LAYOUT, config_of, contents, file, layout, listing, named, pax, saved, tar

NAME = "docker.io/library/app:1"
APP, OTHER = small_image(1), small_image(2)
BOTH = index([small_image(3), small_image(4, platform="linux/arm64")])


def write(folder: Path, files: dict[str, bytes], name: str = "theirs.tar") -> Path:
    path = folder / name
    path.write_bytes(tar(files))
    return path


def listed(*entries: tuple[Published, dict[str, str]]) -> dict[str, bytes]:
    """The files of a layout with exactly these entries, and all content."""
    blobs = contents(*(each for each, _ in entries))
    files = {"oci-layout": LAYOUT, "index.json": listing(*entries)}
    return files | {f"blobs/{digest.algorithm}/{digest.hex}": data for digest, data in blobs.items()}


async def test_all_that_it_has_is_held_and_pinned(tmp_path: Path) -> None:
    """Each blob is in the store under its own digest, each name is pinned in one act; again is no act."""
    path = write(tmp_path, layout((APP, NAME), (BOTH, "registry.example.com/team/both:2")))
    async with a_site(tmp_path) as site:
        plan = await site.imported(path)
        assert ({NAME: str(APP.digest), "registry.example.com/team/both:2": str(BOTH.digest)}, 2) == (
            await site.pins(),
            len(plan.new),
        )
        assert sorted(digest.hex for digest in contents(APP, BOTH)) == site.blobs()
        for digest, data in contents(APP, BOTH).items():
            assert data == await site.store.read(digest, 10**6)
        repository = parse_reference(NAME).repository
        assert await site.ledger.linked(repository, APP.layers[0])
        events = [event for event in await site.ledger.events() if event.reference is not None]
        assert [("imported", "because", "a test", "theirs.tar")] * 2 == [
            (event.kind, event.reason, event.actor, event.body["file"]) for event in events
        ]
        serial = await site.ledger.serial()
        again = await site.imported(path)
        assert (2, serial, {}) == (len(again.unchanged), await site.ledger.serial(), again.blobs)


async def test_a_folder_and_gzip_are_the_same(tmp_path: Path) -> None:
    """A folder, an archive, one with other names for its parts, and each of them compressed give the same pins."""
    files = layout((BOTH, NAME))
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    mixed = list(files.items())
    random.Random(1).shuffle(mixed)
    dotted = b"".join(pax(("path", f"./{name}".encode())) + file("x", data) for name, data in mixed) + END + bytes(9000)
    long = (
        b"".join(file("@LongLink", name.encode() + b"\0", b"L") + file(name[:50], data) for name, data in mixed) + END
    )
    archives = {"dotted": dotted, "long": long, "plain": tar(files)}
    archives |= {f"{name}.gz": gzip.compress(data) for name, data in archives.items()}
    archives["two.gz"] = gzip.compress(archives["plain"][:2000]) + gzip.compress(archives["plain"][2000:])
    for name, data in archives.items():
        (tmp_path / name).write_bytes(data)
    for name in ("folder", *archives):
        (tmp_path / f"{name}.site").mkdir()
        async with a_site(tmp_path / f"{name}.site") as site:
            await site.imported(tmp_path / name)
            assert ({NAME: str(BOTH.digest)}, len(contents(BOTH))) == (await site.pins(), len(site.blobs())), name


@pytest.mark.parametrize(
    ("notes", "given", "expected"),
    [
        ({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"}, None, NAME),
        ({"org.opencontainers.image.ref.name": NAME}, None, NAME),
        ({"org.opencontainers.image.ref.name": "team/app:1"}, None, "docker.io/team/app:1"),
        ({"org.opencontainers.image.ref.name": "app:1"}, None, NAME),
        ({"org.opencontainers.image.ref.name": "1"}, "app", NAME),
        ({"org.opencontainers.image.ref.name": "1"}, "registry.example.com/x", "registry.example.com/x:1"),
        ({"org.opencontainers.image.ref.name": "1"}, "app:7", "docker.io/library/app:7"),
        ({}, "app:7", "docker.io/library/app:7"),
        ({}, "app", "docker.io/library/app:latest"),
        ({"org.opencontainers.image.ref.name": "127.0.0.1:5000/team/app:1"}, "team/app", "docker.io/team/app:1"),
        ({"org.opencontainers.image.ref.name": "127.0.0.1:5000/team/app:1"}, "app:7", "docker.io/library/app:7"),
        ({"io.containerd.image.name": "not a name", "org.opencontainers.image.ref.name": NAME}, None, NAME),
    ],
)
async def test_names(tmp_path: Path, notes: dict[str, str], given: str | None, expected: str) -> None:
    """A full name from either annotation, else a tag and --name, else --name alone."""
    path = write(tmp_path, listed((APP, notes)))
    async with a_site(tmp_path) as site:
        await site.imported(path, given)
        assert {expected: str(APP.digest)} == await site.pins()


async def test_names_that_do_not_fit(tmp_path: Path) -> None:
    """What needs a name says so, with its tags; one name is not given to two images, nor one repository to two."""
    plain = write(tmp_path, listed((APP, named("1")), (OTHER, named("2"))))
    bare = write(tmp_path, listed((APP, {}), (OTHER, {})), "bare.tar")
    apart = write(tmp_path, layout((APP, NAME), (OTHER, "team/other:1")), "apart.tar")
    async with a_site(tmp_path) as site:
        for path, given, said in [
            (plain, None, "it has the tags 1, 2"),
            (plain, "app:1", "it has 2"),
            (bare, None, "--name REGISTRY/REPOSITORY"),
            (bare, "app", "none of its 2 images"),
            (apart, "app", "images of 2"),
        ]:
            with pytest.raises(Malformed, match=said):
                await site.imported(path, given)
        assert ({}, []) == (await site.pins(), site.blobs())
        await site.imported(plain, "app")
        assert {"docker.io/library/app:1", "docker.io/library/app:2"} == set(await site.pins())


async def test_a_different_pin_is_listed_and_changed_on_demand(tmp_path: Path) -> None:
    """A pin on other content stops all of it; where a person insists, both change in one transaction."""
    async with a_site(tmp_path) as site:
        await site.imported(write(tmp_path, layout((APP, NAME))))
        path = write(tmp_path, layout((OTHER, NAME), (OTHER, "team/other:1")), "other.tar")
        held = site.blobs()
        plan = await site.imported(path)
        assert ([(NAME, APP.digest)], held, {NAME: str(APP.digest)}) == (
            [(str(each.wanted.reference), each.pinned) for each in plan.differs],
            site.blobs(),
            await site.pins(),
        )
        await site.imported(path, repin=True)
        assert {NAME: str(OTHER.digest), "docker.io/team/other:1": str(OTHER.digest)} == await site.pins()


async def test_an_index_without_some_of_its_children(tmp_path: Path) -> None:
    """It is taken, and told; one without any is not; what the store has already need not be in the archive."""
    files = listed((BOTH, named(NAME)))
    gone = f"blobs/sha256/{BOTH.children[1].digest.hex}"
    sparse = write(tmp_path, {name: data for name, data in files.items() if name != gone})
    top = f"blobs/sha256/{BOTH.digest.hex}"
    alone = write(tmp_path, {name: files[name] for name in ("oci-layout", "index.json", top)}, "alone.tar")
    async with a_site(tmp_path) as site:
        with pytest.raises(Malformed, match="its content is not in it"):
            await site.imported(alone)
        plan = await site.imported(sparse)
        assert ({NAME: 1}, {NAME: str(BOTH.digest)}) == (plan.sparse, await site.pins())
        await site.imported(alone, "team/again:1")
        assert str(BOTH.digest) == (await site.pins())["docker.io/team/again:1"]


async def test_attachments_grow(tmp_path: Path) -> None:
    """Untagged referrers, also of referrers, and fallback tags come under fallback tags, joined with what was known."""
    first, second = artifact(APP, data=b"1"), artifact(APP, data=b"2")
    onto = artifact(first, data=b"3")
    fallback = TagReference(parse_reference(NAME).repository, Tag.attached_to(APP.digest))
    stranger = artifact(OTHER)
    untagged = listed((onto, {}), (first, {}), (APP, named(NAME)), (stranger, {}))
    tagged = listed((APP, named(NAME)), (index([second]), named(str(fallback))))
    async with a_site(tmp_path) as site:
        plan = await site.imported(write(tmp_path, untagged))
        assert [f"{stranger.digest.short}"] == [each.what for each in plan.left_out]
        assert [first.digest] == await referrers(site, fallback)
        above = TagReference(fallback.repository, Tag.attached_to(first.digest))
        assert [onto.digest] == await referrers(site, above)
        await site.imported(write(tmp_path, tagged, "tagged.tar"))
        assert [first.digest, second.digest] == await referrers(site, fallback)
        again = await site.imported(write(tmp_path, untagged))
        assert [first.digest, second.digest] == await referrers(site, fallback)
        assert ({NAME: str(APP.digest)}, 2) == (await site.pins(), len(again.grown))
        assert await site.ledger.linked(fallback.repository, second.layers[0])


async def referrers(site: object, fallback: TagReference) -> list[Digest]:
    followed = await site.ledger.followed(fallback)  # type: ignore[attr-defined]
    raw = await site.store.read(followed[0].digest, 10**6)  # type: ignore[attr-defined]
    entry = orjson.loads(raw)["manifests"][0]
    assert "application/vnd.example.sbom" == entry.get("artifactType", "application/vnd.example.sbom")
    return [child.descriptor.digest for child in parse_manifest(raw).children]


async def test_signatures_in_tags(tmp_path: Path) -> None:
    """Of two `.sig` tags the one that contains the other is kept; of two that do not, the known one, and it is told."""
    signature = f"docker.io/library/app:sha256-{APP.digest.hex}.sig"
    one, two, apart = (image(*layers) for layers in ((b"a",), (b"a", b"b"), (b"c",)))
    async with a_site(tmp_path) as site:
        for signed, expected in ((one, one), (two, two), (one, two), (apart, two)):
            plan = await site.imported(write(tmp_path, layout((APP, NAME), (signed, signature))))
            known = await site.ledger.followed(parse_reference(signature))  # type: ignore[arg-type]
            assert known is not None
            assert expected.digest == known[0].digest
        assert [signature] == [each.what for each in plan.left_out]
        assert {NAME: str(APP.digest)} == await site.pins()


async def test_digests_policies_and_environments(tmp_path: Path) -> None:
    """A name by digest is held and not pinned; a followed tag is told; an environment of promotions takes nothing."""
    by_digest = f"docker.io/library/app@{APP.digest}"
    path = write(tmp_path, layout((APP, by_digest), (OTHER, "team/other:latest")))
    rules = [TagRule(Pattern("**:latest"), Mode.FOLLOW)]
    async with a_site(tmp_path) as site:
        with pytest.raises(Denied, match="by promotion only"):
            await site.imported(path, environment=Environment("prod", PinsFrom.PROMOTION, "default"))
        plan = await site.imported(path, rules=rules)
        assert ({}, [by_digest], ["docker.io/team/other:latest"]) == (
            await site.pins(),
            [str(each.reference) for each in plan.held],
            [each.what for each in plan.left_out],
        )
        assert await site.store.read(APP.digest, 10**6)
        await site.imported(path, environment=Environment("prod", PinsFrom.LOCK), rules=rules)
        pin = await site.ledger.within("prod").pin_of(parse_reference("team/other:latest"))  # type: ignore[arg-type]
        assert pin is not None


# --- docker-archives -------------------------------------------------------------------------------------------------

ONE, TWO = b"one" * 700, b"two" * 700


async def test_a_docker_archive(tmp_path: Path) -> None:
    """Short tags become full names; config and layers keep their bytes; the manifest is always the same one."""
    config = config_of(ONE, TWO)
    old = write(tmp_path, saved(config, [ONE, TWO], "app:1", "registry.example.com/x:2"))
    named_otherwise = saved(config, [ONE, TWO], "app:1")
    manifest = orjson.dumps([{"Config": "c", "RepoTags": ["app:1"], "Layers": ["l1", "l2"], "LayerSources": {}}])
    files = {"l2": TWO, "manifest.json": manifest, "l1": ONE, "c": named_otherwise["config.json"]}
    new = write(tmp_path, files, "new.tar")
    async with a_site(tmp_path) as site:
        plan = await site.imported(old)
        digests = set((await site.pins()).values())
        assert ({NAME, "registry.example.com/x:2"}, 1) == (set(await site.pins()), len(digests))
        raw = await site.store.read(Digest.parse(digests.pop()), 10**6)
        assert raw is not None
        found = parse_manifest(raw)
        assert (DOCKER_MANIFEST, Digest.of(config), [Digest.of(ONE), Digest.of(TWO)]) == (
            found.descriptor.media_type,
            found.config.digest if found.config else None,
            [each.digest for each in found.layers],
        )
        assert {"application/vnd.docker.image.rootfs.diff.tar"} == {each.media_type for each in found.layers}
        again = await site.imported(new)
        assert (2, [NAME]) == (len(plan.new), [str(each.reference) for each in again.unchanged])


async def test_layers_that_are_links_or_compressed(tmp_path: Path) -> None:
    """Docker's links between repeated layers are followed within the archive; compressed layers stay as they are."""
    packed = gzip.compress(TWO, mtime=0)
    files = saved(config_of(ONE, TWO, ONE), [ONE, packed, b""], "app:1")
    del files["2/layer.tar"]
    data = tar(files)[: -len(END)] + file("2/layer.tar", kind=b"2", link="../0/layer.tar") + END
    for name, raw in (("plain.tar", data), ("packed.tar.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(raw)
        (tmp_path / f"{name}.site").mkdir()
        async with a_site(tmp_path / f"{name}.site") as site:
            plan = await site.imported(tmp_path / name)
            stored = await site.store.read(plan.new[0].descriptor.digest, 10**6)
            assert stored is not None
            layers = parse_manifest(stored).layers
            assert [Digest.of(ONE), Digest.of(packed), Digest.of(ONE)] == [each.digest for each in layers]
            assert [".tar", ".tar.gzip", ".tar"] == [each.media_type.partition("diff")[2] for each in layers]
            assert packed == await site.store.read(Digest.of(packed), 10**6)


async def test_zstd_makes_it_an_oci_image(tmp_path: Path) -> None:
    """Schema 2 has no name for zstd."""
    packed = b"\x28\xb5\x2f\xfd" + random_blob(100)
    async with a_site(tmp_path) as site:
        plan = await site.imported(write(tmp_path, saved(config_of(ONE, TWO), [ONE, packed], "app:1")))
        stored = await site.store.read(plan.new[0].descriptor.digest, 10**6)
        assert stored is not None
        found = parse_manifest(stored)
        assert (OCI_MANIFEST, ["tar", "tar+zstd"]) == (
            found.descriptor.media_type,
            [each.media_type.rpartition("v1.")[2] for each in found.layers],
        )


async def test_where_both_are_the_layout_decides(tmp_path: Path) -> None:
    """The hybrid form of newer docker: index.json names the image's own manifest."""
    files = layout((APP, NAME)) | {"manifest.json": saved(b"", [], "team/wrong:1")["manifest.json"]}
    async with a_site(tmp_path) as site:
        await site.imported(write(tmp_path, files))
        assert {NAME: str(APP.digest)} == await site.pins()


async def test_peak_space_is_one_blob(tmp_path: Path) -> None:
    """Nothing but the store grows, and that by what is imported."""
    big = image(random_blob(3_000_000), random_blob(2_000_000, 1))
    path = write(tmp_path, layout((big, NAME)))
    async with a_site(tmp_path, max_size=6_000_000) as site:
        await site.imported(path)
        assert {"theirs.tar", "store"} == {each.name for each in tmp_path.iterdir()}
        assert 5_000_000 < (await site.store.stats()).bytes < 5_100_000
