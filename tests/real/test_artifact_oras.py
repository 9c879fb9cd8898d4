"""oras reads artifacts and what is attached to them through the mirror by explicit name: it has no mirror setting."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from artifacts import REFUSED, ArtifactWorld, Tools, Upstream, every_upstream
from layers import MANIFEST, image
from processes import until

pytestmark = [
    pytest.mark.xdist_group("artifacts"),
    pytest.mark.real("docker-registry", "oras"),
    pytest.mark.client("oras", "oras", "version"),
    pytest.mark.lacks("mirror mode", "it has no mirror setting"),
    pytest.mark.lacks("strict mode", "it asks nobody but the registry that is named"),
]
SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


class Oras(Tools):
    """oras, over plain HTTP, in a folder with files to push."""

    def push(self, upstream: Upstream, reference: str, data: bytes) -> str:
        """Push one file as an artifact, to the upstream itself; the manifest's digest."""
        return self._pushed("push", "--artifact-type", "application/vnd.example.app", upstream.direct(reference), data)

    def attach(self, upstream: Upstream, reference: str, kind: str, data: bytes) -> str:
        """Attach one file at the upstream itself; the manifest's digest."""
        return self._pushed("attach", "--artifact-type", kind, upstream.direct(reference), data)

    def _pushed(self, verb: str, option: str, kind: str, reference: str, data: bytes) -> str:
        (self.folder / "file.bin").write_bytes(data)
        options = ["--plain-http", "--disable-path-validation", "--format", "json", option, kind]
        said = self("oras", verb, *options, reference, f"{self.folder}/file.bin:application/octet-stream")
        return str(json.loads(said)["digest"])

    def pull(self, reference: str) -> bytes:
        """The file of the artifact."""
        self("oras", "pull", "--plain-http", "--allow-path-traversal", "--output", self.folder / "out", reference)
        return (self.folder / "file.bin").read_bytes()

    def discover(self, reference: str, *options: str) -> list[str]:
        """The digests of what refers to it directly."""
        said = self("oras", "discover", "--plain-http", "--format", "json", "--depth", "1", *options, reference)
        listed: dict[str, Any] = json.loads(said)
        return [each["digest"] for each in listed.get("referrers") or []]


@pytest.fixture
def oras(tmp_path: Path) -> Oras:
    return Oras(tmp_path)


@every_upstream
@pytest.mark.proves("explicit name", "tag", "digest")
def test_pull(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """By tag and by digest the file is the one that was pushed; so are the manifest and the resolved digest."""
    upstream, data = world.upstreams[name], Random(name).randbytes(400_000)
    digest = oras.push(upstream, "team/file:1", data)
    for wanted in ("team/file:1", f"team/file@{digest}"):
        reference = upstream.mirrored(wanted)
        (oras.folder / "file.bin").unlink()
        assert oras.pull(reference) == data
        assert oras("oras", "resolve", "--plain-http", reference).strip() == digest
        fetched = json.loads(oras("oras", "manifest", "fetch", "--plain-http", "--descriptor", reference))
        assert (fetched["digest"], fetched["mediaType"]) == (digest, MANIFEST)


@every_upstream
@pytest.mark.proves("digest")
def test_blobs(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """A blob that nobody read yet comes whole, and its descriptor with its size."""
    upstream, data = world.upstreams[name], Random(name).randbytes(3_000_000)
    digest = oras.push(upstream, "team/blob:1", data)
    manifest = json.loads(oras("oras", "manifest", "fetch", "--plain-http", upstream.mirrored(f"team/blob@{digest}")))
    layer = manifest["layers"][0]
    reference = upstream.mirrored(f"team/blob@{layer['digest']}")
    described = json.loads(oras("oras", "blob", "fetch", "--plain-http", "--descriptor", reference))
    assert described["size"] == len(data)
    oras("oras", "blob", "fetch", "--plain-http", "--output", out := oras.folder / "blob", reference)
    assert out.read_bytes() == data


@every_upstream
def test_tags(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """All tags of a repository, sorted, from an upstream that pages."""
    upstream = world.upstreams[name]
    app = upstream.push("team/tags", "v000", image("tags"))
    tags = [f"v{number:03}" for number in range(150)]
    for tag in tags[1:]:
        upstream.push_manifest("team/tags", tag, app.manifest)
    assert oras("oras", "repo", "tags", "--plain-http", upstream.mirrored("team/tags")).split() == tags


@every_upstream
@pytest.mark.proves("50 warm pulls")
def test_fifty_pulls(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """Fifty pulls of a warm artifact ask upstream nothing."""
    upstream = world.upstreams[name]
    oras.push(upstream, "team/warm:1", b"warm")
    oras.pull(upstream.mirrored("team/warm:1"))
    asked = world.asked("team/warm")
    for _ in range(50):
        assert oras.pull(upstream.mirrored("team/warm:1")) == b"warm"
    assert world.asked("team/warm") == asked


@every_upstream
@pytest.mark.proves("moved tag")
def test_a_moved_tag(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """When upstream moves the tag, the pinned artifact is what oras gets."""
    upstream = world.upstreams[name]
    oras.push(upstream, "team/moved:1", b"before")
    assert oras.pull(upstream.mirrored("team/moved:1")) == b"before"
    oras.push(upstream, "team/moved:1", b"after")
    assert oras.pull(upstream.direct("team/moved:1")) == b"after"
    assert oras.pull(upstream.mirrored("team/moved:1")) == b"before"


@every_upstream
@pytest.mark.proves("refusal")
def test_a_refusal(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """A refused tag fails with our words, and upstream is not asked."""
    said = oras.failing("oras", "pull", "--plain-http", world.upstreams[name].mirrored(f"{REFUSED}:1"))
    assert "refused by the tag rule" in said, said
    assert world.asked(REFUSED) == []


@every_upstream
@pytest.mark.proves("referrers")
def test_discover(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """What is attached is listed, also by its type, and pulled; where nothing is attached that is no error."""
    upstream = world.upstreams[name]
    oras.push(upstream, "team/found:1", b"found")
    sbom = oras.attach(upstream, "team/found:1", SBOM, b"what it is made of")
    signature = oras.attach(upstream, "team/found:1", SIGNATURE, b"who made it")
    reference = upstream.mirrored("team/found:1")
    assert sorted(oras.discover(reference)) == sorted([sbom, signature])
    assert oras.discover(reference, "--artifact-type", SIGNATURE) == [signature]
    assert oras.pull(upstream.mirrored(f"team/found@{sbom}")) == b"what it is made of"
    assert oras.discover(upstream.mirrored(f"team/found@{sbom}")) == []


@every_upstream
@pytest.mark.proves("referrers")
def test_a_first_attachment(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """What is attached after a look that found nothing is seen soon."""
    upstream = world.upstreams[name]
    oras.push(upstream, "team/later:1", b"later")
    reference = upstream.mirrored("team/later:1")
    assert oras.discover(reference) == []
    signature = oras.attach(upstream, "team/later:1", SIGNATURE, b"signed later")
    until(lambda: oras.discover(reference) == [signature], "the signature's being seen")


@pytest.mark.proves("referrers")
def test_a_growing_set(world: ArtifactWorld, oras: Oras) -> None:
    """Where upstream has the referrers API, what was attached is seen soon, beside all that was there before."""
    upstream = world.upstreams["shelf.example.com"]
    attached: list[str] = []
    oras.push(upstream, "team/growing:1", b"growing")

    def all_seen() -> bool:
        return sorted(oras.discover(upstream.mirrored("team/growing:1"))) == sorted(attached)

    for number in range(4):
        attached.append(oras.attach(upstream, "team/growing:1", SIGNATURE, f"signed {number}".encode()))
        until(all_seen, "the whole set's being seen")


@pytest.mark.proves("referrers")
def test_pages_of_referrers(world: ArtifactWorld, oras: Oras) -> None:
    """All of 230 attachments are listed, though upstream gives a hundred at once."""
    upstream = world.upstreams["shelf.example.com"]
    subject = oras.push(upstream, "team/crowd:1", b"crowd")
    stock = world.shelf.repositories["team/crowd"]
    media_type, raw = stock.manifests[subject]
    named = {"subject": {"mediaType": media_type, "digest": subject, "size": len(raw)}, "artifactType": SBOM}
    every = [
        world.shelf.put("team/crowd", None, MANIFEST, json.dumps(json.loads(raw) | named | {"number": at}).encode())
        for at in range(230)
    ]
    assert sorted(oras.discover(upstream.mirrored("team/crowd:1"))) == sorted(every)


@every_upstream
@pytest.mark.proves("referrers", "explicit name")
def test_copy(world: ArtifactWorld, oras: Oras, name: str) -> None:
    """`oras copy --recursive` takes an artifact and all that is attached to it from us to another registry."""
    upstream = world.upstreams[name]
    oras.push(upstream, "team/copied:1", b"copied")
    sbom = oras.attach(upstream, "team/copied:1", SBOM, b"of the copy")
    signature = oras.attach(upstream, f"team/copied@{sbom}", SIGNATURE, b"of the list")
    plain = ["--from-plain-http", "--to-plain-http"]
    target = f"127.0.0.1:{world.shelf.port}/copies/{name}:1"
    oras("oras", "copy", "--recursive", *plain, upstream.mirrored("team/copied:1"), target)
    assert oras.pull(target) == b"copied"
    assert {sbom, signature} <= set(world.shelf.repositories[f"copies/{name}"].manifests)
