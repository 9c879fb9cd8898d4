"""crane (go-containerregistry) reads through the mirror by explicit name: it has no mirror setting."""

from __future__ import annotations

import json
import tarfile

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, every_upstream, top_of, two_platforms
from layers import image
from shelf import INDEX

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "crane"),
    pytest.mark.client("crane", "crane", "version"),
    pytest.mark.lacks("mirror mode", "it has no mirror setting"),
    pytest.mark.lacks("strict mode", "it asks nobody but the registry that is named"),
    pytest.mark.lacks("referrers", "it has no command for them"),
]


@every_upstream
@pytest.mark.proves("explicit name", "tag", "digest")
def test_reads(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """By tag and by digest: digest, manifest, config and all layers are those that were pushed."""
    upstream = world.upstreams[name]
    app = upstream.push("team/reads", "1", image(name, 300_000))
    config = json.loads(app.manifest)["config"]["digest"]
    for wanted in ("team/reads:1", f"team/reads@{app.digest}"):
        reference = upstream.mirrored(wanted)
        assert tools("crane", "digest", reference).strip() == app.digest
        assert tools("crane", "manifest", reference).encode().rstrip() == app.manifest
        assert tools("crane", "config", reference).encode().rstrip() == app.blobs[config]
        tools("crane", "validate", "--remote", reference)
        tools("crane", "pull", "--format", "oci", reference, layout := tools.folder / wanted[-1])
        assert top_of(layout) == app.digest


@every_upstream
@pytest.mark.proves("explicit name", "tag")
def test_tarball(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """`crane pull` writes a tarball with every layer."""
    upstream = world.upstreams[name]
    app = upstream.push("team/tarball", "1", image(f"tarball {name}", 100_000))
    tools("crane", "pull", upstream.mirrored("team/tarball:1"), tarball := tools.folder / "app.tar")
    with tarfile.open(tarball) as archive:
        layers = json.loads(archive.extractfile("manifest.json").read())[0]["Layers"]  # type: ignore[union-attr]  # it is a file
    assert [f"sha256:{each.removesuffix('.tar.gz')}" for each in layers] == list(app.layers)


@every_upstream
@pytest.mark.proves("tag", "media types")
def test_platforms(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """An index comes as it is, and one of its platforms by its own digest."""
    upstream = world.upstreams[name]
    index, images = two_platforms(upstream, "team/platforms", "1")
    reference = upstream.mirrored("team/platforms:1")
    assert json.loads(tools("crane", "manifest", reference))["mediaType"] == INDEX
    assert tools("crane", "digest", reference).strip() == index
    assert tools("crane", "digest", "--platform", "linux/arm64", reference).strip() == images[1].digest
    tools("crane", "validate", "--remote", reference)


@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_reads(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """Fifty reads of a warm image ask upstream nothing."""
    upstream = world.upstreams[name]
    app = upstream.push("team/warm", "1", image(f"warm {name}", 50_000))
    reference = upstream.mirrored("team/warm:1")
    tools("crane", "pull", "--format", "oci", reference, tools.folder / "first")
    asked = world.asked("team/warm")
    for turn in range(17):
        assert tools("crane", "digest", reference).strip() == app.digest
        assert tools("crane", "manifest", reference).encode().rstrip() == app.manifest
        tools("crane", "pull", "--format", "oci", reference, tools.folder / str(turn))
    assert world.asked("team/warm") == asked


@every_upstream
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """When upstream moves the tag, the pinned image is what crane gets."""
    upstream = world.upstreams[name]
    pinned = upstream.push("team/moved", "1", image(f"before {name}"))
    reference = upstream.mirrored("team/moved:1")
    assert tools("crane", "digest", reference).strip() == pinned.digest
    moved = upstream.push("team/moved", "1", image(f"after {name}"))
    assert tools("crane", "digest", upstream.direct("team/moved:1")).strip() == moved.digest
    assert tools("crane", "digest", reference).strip() == pinned.digest
    tools("crane", "pull", "--format", "oci", reference, layout := tools.folder / "layout")
    assert top_of(layout) == pinned.digest


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """A refused tag fails with DENIED and our words, and upstream is not asked."""
    reference = world.upstreams[name].mirrored(f"{REFUSED}:1")
    for verb in (["manifest", reference], ["digest", reference], ["pull", reference, tools.folder / "app.tar"]):
        said = tools.failing("crane", *verb)
        assert "refused by the tag rule" in said, said
        assert "DENIED" in said, said
    assert world.asked(REFUSED) == []


def test_pages_of_tags(world: ArtifactWorld, tools: Tools) -> None:
    """All of 2,300 tags arrive, sorted, though upstream gives a hundred at once and crane asks for a thousand."""
    upstream = world.upstreams["shelf.example.com"]
    app = upstream.push("team/many", "0", image("many"))
    held = world.shelf.repositories["team/many"]
    held.tags.update({f"v{number:04}": app.digest for number in range(2300)})
    assert tools("crane", "ls", upstream.mirrored("team/many")).split() == sorted(held.tags)


@every_upstream
@pytest.mark.proves("explicit name")
def test_copy(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """`crane copy` takes an index and its images from the mirror to another registry, unchanged."""
    upstream = world.upstreams[name]
    index, images = two_platforms(upstream, "team/copied", "1")
    target = f"127.0.0.1:{world.registry.port}/copies/{name}"
    tools("crane", "copy", upstream.mirrored("team/copied:1"), f"{target}:1")
    assert tools("crane", "digest", f"{target}:1").strip() == index
    for each in images:
        tools("crane", "validate", "--remote", f"{target}@{each.digest}")
