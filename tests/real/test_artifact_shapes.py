"""Shapes of data that the conformance program pushes, and its ranges, for a mirror that takes no pushes.

Each shape is at the upstream only, is read through a running mirror, and comes byte for byte; what tools make of it is
asked of crane, oras and skopeo.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from artifacts import ArtifactWorld, Tools, top_of
from layers import CONFIG, LAYER, MANIFEST, image
from shelf import INDEX, digest_of

pytestmark = [pytest.mark.xdist_group("artifacts"), pytest.mark.real("docker-registry")]
NAME = "shelf.example.com"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
RANGES = [("500-1499", 500, 1500), ("500-", 500, 4000), ("-500", 3500, 4000), ("2000-5000", 2000, 4000)]


def described(media_type: str, of: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(of), "size": len(of), **more}


def manifest(layers: list[dict[str, Any]], config: dict[str, Any] | None = None, **more: Any) -> bytes:
    body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config or EMPTY, "layers": layers, **more}
    return json.dumps(body).encode()


def index(*children: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children), **more}).encode()


def shapes() -> dict[str, tuple[str, bytes]]:
    """Manifests by the name of their shape, all of whose blobs are small."""
    layer = described("text/plain", b"layer")
    plain = manifest([layer], artifactType="application/vnd.example.thing")
    nested = index(described(MANIFEST, plain))
    foreign = {"urls": ["https://store.example.com/blobs/layer"]}
    nowhere = {"mediaType": MANIFEST, "digest": digest_of(b"nowhere"), "size": 7}
    carried = [described("text/plain", b"layer", data="bGF5ZXI=")]
    return {
        "plain": (MANIFEST, plain),
        "nolayers": (MANIFEST, manifest([], artifactType="application/vnd.example.thing")),
        "data": (MANIFEST, manifest(carried, artifactType="application/vnd.example.thing")),
        "unknown": (
            MANIFEST,
            manifest([layer], newField={"of": "tomorrow"}, artifactType="application/vnd.example.new"),
        ),
        "nondistributable": (
            MANIFEST,
            manifest([described("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"layer", **foreign)]),
        ),
        "nosubject": (MANIFEST, manifest([layer], subject=nowhere, artifactType="application/vnd.example.thing")),
        "emptyindex": (INDEX, index()),
        "nested": (INDEX, index(described(INDEX, nested))),
        "indexsubject": (INDEX, index(described(MANIFEST, plain), subject=nowhere, artifactType="application/x.list")),
        "inner": (INDEX, nested),
        "large": (MANIFEST, manifest([layer], annotations={"padding": "x" * 3_900_000})),
    }


def shelved(world: ArtifactWorld, repository: str) -> dict[str, tuple[str, bytes]]:
    """The shapes at the upstream, each under the tag of its name."""
    for blob in (b"{}", b"layer", b""):
        world.shelf.put_blob(repository, blob)
    made = shapes()
    for tag, (media_type, raw) in made.items():
        world.shelf.put(repository, tag, media_type, raw)
    return made


@pytest.mark.parametrize("shape", shapes())
def test_bytes(world: ArtifactWorld, shape: str) -> None:
    """By tag and by digest, cold and warm, GET and HEAD: the very bytes, type, length and digest."""
    media_type, raw = shelved(world, "shapes/bytes")[shape]
    for wanted in (shape, digest_of(raw), shape):
        target = f"/v2/{NAME}/shapes/bytes/manifests/{wanted}"
        got, head = world.proxy.get(target), world.proxy.get(target, "HEAD")
        assert (got.status, got.body, head.status, head.body) == (200, raw, 200, b"")
        for answer in (got, head):
            assert answer.headers["content-type"] == media_type
            assert answer.headers["content-length"] == str(len(raw))
            assert answer.headers["docker-content-digest"] == digest_of(raw)


@pytest.mark.real("crane")
@pytest.mark.client("crane", "crane", "version")
@pytest.mark.proves("media types")
@pytest.mark.parametrize("shape", shapes())
def test_crane_copies(world: ArtifactWorld, tools: Tools, shape: str) -> None:
    """Crane copies each shape from the mirror to another registry, unchanged."""
    _, raw = shelved(world, "shapes/crane")[shape]
    assert tools("crane", "digest", f"{world.address}/{NAME}/shapes/crane:{shape}").strip() == digest_of(raw)
    target = f"127.0.0.1:{world.shelf.port}/copies/crane-{shape}"
    tools("crane", "copy", f"{world.address}/{NAME}/shapes/crane:{shape}", f"{target}:1")
    assert world.shelf.repositories[f"copies/crane-{shape}"].manifests[digest_of(raw)][1] == raw


@pytest.mark.real("oras")
@pytest.mark.client("oras", "oras", "version")
@pytest.mark.proves("media types")
@pytest.mark.parametrize("shape", shapes())
def test_oras_copies(world: ArtifactWorld, tools: Tools, shape: str) -> None:
    """Oras copies each shape from the mirror to another registry, unchanged, but for one that points to nothing."""
    _, raw = shelved(world, "shapes/oras")[shape]
    plain = ["--from-plain-http", "--to-plain-http"]
    source, target = f"{world.address}/{NAME}/shapes/oras:{shape}", f"127.0.0.1:{world.shelf.port}/copies/oras-{shape}"
    if shape in {"nosubject", "indexsubject"}:  # it follows the subject too, at every registry
        assert "not found" in tools.failing("oras", "copy", *plain, source, f"{target}:1")
        return
    tools("oras", "copy", *plain, source, f"{target}:1")
    assert world.shelf.repositories[f"copies/oras-{shape}"].manifests[digest_of(raw)][1] == raw


@pytest.mark.real("skopeo")
@pytest.mark.parametrize("shape", ["nondistributable", "data", "nested"])
def test_skopeo_reads(world: ArtifactWorld, tools: Tools, shape: str) -> None:
    """Skopeo reads the bytes of each shape as they are."""
    _, raw = shelved(world, "shapes/skopeo")[shape]
    source = f"docker://{world.address}/{NAME}/shapes/skopeo:{shape}"
    said = tools("skopeo", "inspect", "--raw", "--tls-verify=false", source)
    assert said.encode() == raw


@pytest.mark.real("crane")
def test_sha512(world: ArtifactWorld, tools: Tools) -> None:
    """A manifest and its blobs that are named by sha512 come under these names, and crane takes them."""
    upstream, repository = world.upstreams[NAME], "shapes/sha512"
    app = image("sha512", 20_000)
    for data in app.blobs.values():
        world.shelf.put_blob(repository, data, "sha512")
    names = {digest: digest_of(data, "sha512") for digest, data in app.blobs.items()}
    raw = app.manifest
    for former, name in names.items():
        raw = raw.replace(former.encode(), name.encode())
    digest = world.shelf.put(repository, None, MANIFEST, raw, "sha512")
    got = world.proxy.get(f"/v2/{NAME}/{repository}/manifests/{digest}")
    assert (got.status, got.body, got.headers["docker-content-digest"]) == (200, raw, digest)
    for former, name in names.items():
        for _ in range(2):
            blob = world.proxy.get(f"/v2/{NAME}/{repository}/blobs/{name}")
            assert (blob.body, blob.headers["docker-content-digest"]) == (app.blobs[former], name)
    wrong = digest_of(b"something else", "sha512")
    assert world.proxy.get(f"/v2/{NAME}/{repository}/manifests/{wrong}").status == 404
    layer = tools("crane", "blob", upstream.mirrored(f"{repository}@{next(iter(names.values()))}"))
    assert layer.encode() == next(iter(app.blobs.values()))


def test_a_blob_of_no_bytes(world: ArtifactWorld) -> None:
    """A blob of zero bytes: 200 with length 0, cold and warm; any range of it is 200 or 416."""
    digest = world.shelf.put_blob("shapes/empty", b"")
    target = f"/v2/{NAME}/shapes/empty/blobs/{digest}"
    for _ in range(2):
        for method in ("HEAD", "GET"):
            answer = world.proxy.get(target, method)
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
        for asked in ("0-", "0-0", "-1", "5-9"):
            assert world.proxy.get(target, Range=f"bytes={asked}").status in (200, 416), asked


def test_layers_of_no_bytes(world: ArtifactWorld) -> None:
    """An image whose layer has zero bytes is served."""
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    raw = manifest([described(LAYER, b"")], described(CONFIG, config))
    for data in (config, b""):
        world.shelf.put_blob("shapes/thin", data)
    world.shelf.put("shapes/thin", "1", MANIFEST, raw)
    assert world.proxy.get(f"/v2/{NAME}/shapes/thin/manifests/1").body == raw
    for data in (config, b""):
        assert world.proxy.get(f"/v2/{NAME}/shapes/thin/blobs/{digest_of(data)}").body == data


def test_a_subject_that_is_nowhere(world: ArtifactWorld) -> None:
    """What refers to a manifest that nobody has is listed all the same."""
    made = shelved(world, "shapes/nowhere")
    listed = world.proxy.get(f"/v2/{NAME}/shapes/nowhere/referrers/{digest_of(b'nowhere')}").json["manifests"]
    expected = {digest_of(made[each][1]) for each in ("nosubject", "indexsubject")}
    assert {each["digest"] for each in listed} == expected


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("asked", "start", "stop"), RANGES)
def test_ranges(world: ArtifactWorld, asked: str, start: int, stop: int, *, warm: bool) -> None:
    """Ranges of a blob of 4,000 bytes: within, open-ended, from the end, and cut at the end."""
    data = Random(f"{asked} {warm}").randbytes(4000)
    target = f"/v2/{NAME}/shapes/ranges/blobs/{world.shelf.put_blob('shapes/ranges', data)}"
    if warm:
        assert world.proxy.get(target).body == data
    part = world.proxy.get(target, Range=f"bytes={asked}")
    assert (part.status, part.body) == (206, data[start:stop])
    assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/4000"
    assert part.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("asked", "allowed"), [("500-0", {200, 416}), ("5000-10000", {416})])
def test_ranges_of_nothing(world: ArtifactWorld, asked: str, allowed: set[int], *, warm: bool) -> None:
    """A range that ends before it starts is 416 or ignored, and one behind the end is 416."""
    data = Random(f"{asked} {warm}").randbytes(4000)
    target = f"/v2/{NAME}/shapes/ranges/blobs/{world.shelf.put_blob('shapes/ranges', data)}"
    if warm:
        assert world.proxy.get(target).body == data
    answer = world.proxy.get(target, Range=f"bytes={asked}")
    assert answer.status in allowed
    assert answer.headers.get("content-range", "bytes */4000") == "bytes */4000"
    assert answer.body == data if answer.status == 200 else answer.json["errors"]


@pytest.mark.real("crane", "docker-registry")
def test_a_pull_of_ours_is_what_was_pushed(world: ArtifactWorld, tools: Tools) -> None:
    """An index in an index, pulled as an OCI layout, is the one that was pushed."""
    made = shelved(world, "shapes/layout")
    tools("crane", "pull", "--format", "oci", f"{world.address}/{NAME}/shapes/layout:nested", tools.folder / "layout")
    assert top_of(tools.folder / "layout") == digest_of(made["nested"][1])
