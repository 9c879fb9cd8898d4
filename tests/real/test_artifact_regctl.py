"""regctl (regclient) reads through the mirror by explicit name, as a mirror of docker.io, and by a path prefix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, Upstream, every_upstream, two_platforms
from layers import MANIFEST, Image, digest_of, image

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "regctl"),
    pytest.mark.client("regctl", "regctl", "version"),
    pytest.mark.lacks("strict mode", "the registry itself is always its last host"),
]


@pytest.fixture
def tools(world: ArtifactWorld, tmp_path: Path) -> Tools:
    made = Tools(tmp_path)
    addresses = [world.address, *(f"127.0.0.1:{each.port}" for each in world.upstreams.values())]
    for address in addresses:
        made("regctl", "registry", "set", address, "--tls", "disabled", "--skip-check")
    return made


def attach(upstream: Upstream, repository: str, subject: Image, kind: str) -> str:
    """Push an artifact of this type that refers to the image, its config being the image's own; its digest.

    Where the registry has no referrers API, the fallback tag is written as clients write it.
    """
    described = json.loads(subject.manifest)
    named = {"mediaType": MANIFEST, "digest": subject.digest, "size": len(subject.manifest)}
    raw = json.dumps(described | {"artifactType": kind, "subject": named}).encode()
    digest = upstream.push_manifest(repository, digest_of(raw), raw)
    if upstream.name.startswith("plain"):
        listed = {"mediaType": MANIFEST, "digest": digest, "size": len(raw), "artifactType": kind}
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed]}
        tag = subject.digest.replace(":", "-")
        upstream.push_manifest(repository, tag, json.dumps(index).encode(), str(index["mediaType"]))
    return digest


@every_upstream
@pytest.mark.proves("explicit name", "tag", "digest")
def test_reads(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """By tag and by digest: digest, manifest and a blob are those that were pushed."""
    upstream = world.upstreams[name]
    app = upstream.push("team/reads", "1", image(name, 300_000))
    for wanted in ("team/reads:1", f"team/reads@{app.digest}"):
        reference = upstream.mirrored(wanted)
        assert tools("regctl", "image", "digest", reference).strip() == app.digest
        assert tools("regctl", "manifest", "get", "--format", "raw-body", reference).encode() == app.manifest
        assert tools("regctl", "manifest", "head", reference).strip() == app.digest
    config = json.loads(app.manifest)["config"]["digest"]
    got = tools("regctl", "blob", "get", upstream.mirrored("team/reads"), config)
    assert got.encode() == app.blobs[config]


@pytest.mark.proves("mirror mode")
def test_a_mirror_of_docker_io(world: ArtifactWorld, tools: Tools) -> None:
    """As `--mirror` of docker.io every request is ours: it names docker.io by `ns=registry-1.docker.io`."""
    app = world.registry.push("library/hub", "1", image("hub", 100_000))
    tools("regctl", "registry", "set", "docker.io", "--mirror", world.address, "--skip-check")
    assert tools("regctl", "image", "digest", "docker.io/library/hub:1").strip() == app.digest
    tools("regctl", "image", "copy", "docker.io/library/hub:1", f"ocidir://{tools.folder}/hub:1")
    index = json.loads((tools.folder / "hub/index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [app.digest]
    assert '"ns":"registry-1.docker.io"' in (world.proxy.folder / "serve.log").read_text()


@every_upstream
@pytest.mark.proves("mirror mode")
def test_a_path_prefix(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """With `--hostname` and `--path-prefix` the registry's own name leads to us and to nobody else."""
    app = world.upstreams[name].push("team/prefix", "1", image(f"prefix {name}", 100_000))
    place = ["--hostname", world.address, "--path-prefix", name, "--tls", "disabled", "--skip-check"]
    tools("regctl", "registry", "set", name, *place)
    assert tools("regctl", "image", "digest", f"{name}/team/prefix:1").strip() == app.digest
    tools("regctl", "image", "copy", f"{name}/team/prefix:1", f"ocidir://{tools.folder}/prefix:1")
    assert "1" in tools("regctl", "tag", "ls", f"{name}/team/prefix").split()


@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_reads(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """Fifty reads of a warm image ask upstream nothing."""
    upstream = world.upstreams[name]
    app = upstream.push("team/warm", "1", image(f"warm {name}", 50_000))
    reference = upstream.mirrored("team/warm:1")
    tools("regctl", "image", "copy", reference, f"ocidir://{tools.folder}/first:1")
    asked = world.asked("team/warm")
    for turn in range(25):
        assert tools("regctl", "image", "digest", reference).strip() == app.digest
        tools("regctl", "image", "copy", reference, f"ocidir://{tools.folder}/{turn}:1")
    assert world.asked("team/warm") == asked


@every_upstream
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """When upstream moves the tag, the pinned image is what regctl gets."""
    upstream = world.upstreams[name]
    pinned = upstream.push("team/moved", "1", image(f"before {name}"))
    reference = upstream.mirrored("team/moved:1")
    assert tools("regctl", "image", "digest", reference).strip() == pinned.digest
    moved = upstream.push("team/moved", "1", image(f"after {name}"))
    assert tools("regctl", "image", "digest", upstream.direct("team/moved:1")).strip() == moved.digest
    assert tools("regctl", "image", "digest", reference).strip() == pinned.digest


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """A refused tag fails with our words, and upstream is not asked."""
    reference = world.upstreams[name].mirrored(f"{REFUSED}:1")
    said = tools.failing("regctl", "manifest", "get", reference)
    assert "refused by the tag rule" in said, said
    assert world.asked(REFUSED) == []


def test_pages_of_tags(world: ArtifactWorld, tools: Tools) -> None:
    """All of 1,300 tags arrive, whole and in pages."""
    upstream = world.upstreams["shelf.example.com"]
    app = upstream.push("team/many", "0", image("many"))
    held = world.shelf.repositories["team/many"]
    held.tags.update({f"v{number:04}": app.digest for number in range(1300)})
    reference = upstream.mirrored("team/many")
    assert tools("regctl", "tag", "ls", reference).split() == sorted(held.tags)
    page = tools("regctl", "tag", "ls", "--limit", "5", "--last", "v0010", reference).split()
    assert page == [f"v{number:04}" for number in range(11, 16)]


@every_upstream
@pytest.mark.proves("referrers")
def test_referrers(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """What refers to an image is listed, also by type; nothing refers to another one, and that is no error."""
    upstream = world.upstreams[name]
    app = upstream.push("team/referred", "1", image(f"referred {name}"))
    upstream.push("team/referred", "2", image(f"alone {name}"))
    sbom = attach(upstream, "team/referred", app, "application/vnd.example.sbom")
    reference = upstream.mirrored("team/referred:1")
    listed = json.loads(tools("regctl", "artifact", "list", "--format", "{{json .}}", reference))
    assert [each["digest"] for each in listed["descriptors"]] == [sbom]
    of_type = ["--filter-artifact-type", "application/vnd.example.other", "--format", "{{json .}}"]
    others = json.loads(tools("regctl", "artifact", "list", *of_type, reference))
    assert not others["descriptors"]
    alone = json.loads(
        tools("regctl", "artifact", "list", "--format", "{{json .}}", upstream.mirrored("team/referred:2"))
    )
    assert not alone["descriptors"]


@every_upstream
@pytest.mark.proves("explicit name", "referrers", "media types")
def test_copy(world: ArtifactWorld, tools: Tools, name: str) -> None:
    """`image copy --referrers` takes an index, its images and what refers to it from us to another registry."""
    upstream = world.upstreams[name]
    index, images = two_platforms(upstream, "team/copied", "1")
    sbom = attach(upstream, "team/copied", images[0], "application/vnd.example.sbom")
    target = f"127.0.0.1:{world.shelf.port}/copies/{name}"
    tools("regctl", "image", "copy", "--referrers", upstream.mirrored("team/copied:1"), f"{target}:1")
    assert tools("regctl", "image", "digest", f"{target}:1").strip() == index
    arrived = world.shelf.repositories[f"copies/{name}"].manifests
    assert {each.digest for each in images} | {index, sbom} <= set(arrived)
