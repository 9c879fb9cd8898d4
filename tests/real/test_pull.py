"""Real clients pull a tag from a real registry through `iarproxy serve`, on every route; the second pull is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import Containerd, podman_pull, skopeo_copy
from layers import Image, image
from machine import World

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]
ROUTES = [
    ("tiny", ""),
    ("library/tiny", ""),
    ("docker.io/tiny", ""),
    ("docker.io/library/tiny", ""),
    ("index.docker.io/library/tiny", ""),
    ("library/tiny", "ns=docker.io"),
    ("tiny", "ns=registry-1.docker.io"),
    ("docker.io/library/tiny", "ns=docker.io"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("pull")) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(world: World) -> Image:
    """The image on docker.io, as the mirror's upstream knows it."""
    return world.registry.push("library/tiny", "1", image("tiny", 300_000))


@pytest.mark.real("skopeo")
def test_skopeo(world: World, tiny: Image, tmp_path: Path) -> None:
    """By the default upstream, with `library/` and by path prefix: the same bytes, and upstream is asked once."""
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == tiny.digest
    asked = world.registry.requests()
    for name in ("tiny:1", "library/tiny:1", "docker.io/library/tiny:1", f"tiny@{tiny.digest}"):
        assert skopeo_copy(tmp_path, world.proxy.port, name) == tiny.digest
    assert world.registry.requests() == asked
    assert [each for each in asked if asked.count(each) > 1] == []


@pytest.mark.root
@pytest.mark.real("ctr", "containerd")
def test_containerd(world: World) -> None:
    """Containerd names its registry by `ns`; its second pull, in a new store, asks upstream nothing."""
    app = world.registry.push("team/app", "2", image("app", 200_000))
    with Containerd(world.proxy.port) as client:
        assert client.pull("registry.example.com/team/app:2") == app.digest
    asked = world.registry.requests("team/app")
    with Containerd(world.proxy.port) as client:
        assert client.pull("registry.example.com/team/app:2") == app.digest
    assert world.registry.requests("team/app") == asked
    assert len([each for each in asked if each.startswith("GET") and "/blobs/" in each]) == len(app.blobs)


@pytest.mark.root
@pytest.mark.real("ctr", "containerd", "skopeo")
def test_two_clients_one_pin(world: World, tiny: Image, tmp_path: Path) -> None:
    """What one client pulled is what the other gets, from our disk."""
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == tiny.digest
    asked = world.registry.requests()
    with Containerd(world.proxy.port) as client:
        assert client.pull("docker.io/library/tiny:1") == tiny.digest
    assert world.registry.requests() == asked


@pytest.mark.root
@pytest.mark.real("podman")
def test_podman(world: World, tiny: Image, tmp_path: Path) -> None:
    """Podman tries TLS on the plain port, pings, and then takes the mirror instead of docker.io."""
    assert podman_pull(tmp_path, world.proxy.port, "docker.io/library/tiny:1") == tiny.digest


@pytest.mark.parametrize(("name", "query"), ROUTES)
def test_routes(world: World, tiny: Image, name: str, query: str) -> None:
    """HEAD and GET by tag agree on every route, and both say where the tag stands."""
    target = f"/v2/{name}/manifests/1?{query}"
    head, got = world.proxy.get(target, "HEAD"), world.proxy.get(target)
    assert (head.status, got.status, head.body, got.body) == (200, 200, b"", tiny.manifest)
    assert got.headers["docker-content-digest"] == tiny.digest
    assert got.headers["content-length"] == str(len(tiny.manifest))
    assert got.headers["oci-namespace"] == (query.removeprefix("ns=") or "docker.io")
    assert got.headers["iar-pin"].startswith("pinned; since=")
    told = {"docker-content-digest", "content-length", "content-type", "iar-pin"}
    assert {key: head.headers[key] for key in told} == {key: got.headers[key] for key in told}


def test_a_route_to_another_upstream(world: World) -> None:
    """By path prefix and by `ns` the other upstream is reached, and its name is not mixed up with docker.io's."""
    other = world.registry.push("tiny", "1", image("of registry.example.com"))
    for target in ("/v2/registry.example.com/tiny/manifests/1", "/v2/tiny/manifests/1?ns=registry.example.com"):
        assert world.proxy.get(target).body == other.manifest


def test_ranges(world: World, tiny: Image) -> None:
    """A blob answers single and open-ended ranges, and 416 behind its end."""
    layer = tiny.layers[1]
    data = tiny.blobs[layer]
    target = f"/v2/tiny/blobs/{layer}"
    assert world.proxy.get(target).body == data
    part = world.proxy.get(target, Range="bytes=100-199")
    assert (part.status, part.body) == (206, data[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    rest = world.proxy.get(target, Range="bytes=250000-")
    assert (rest.status, rest.body) == (206, data[250000:])
    assert world.proxy.get(target, Range=f"bytes={len(data)}-").status == 416


def test_tags(world: World, tiny: Image) -> None:
    """The tag list is upstream's."""
    assert world.proxy.get("/v2/tiny/tags/list?ns=docker.io").json == {"name": "tiny", "tags": ["1"]}


def test_unknown(world: World) -> None:
    """An unknown `ns`, registry, tag or blob is 404 with an OCI error that says which."""
    cases = {
        "/v2/tiny/manifests/1?ns=evil.example": "NAME_UNKNOWN",
        "/v2/evil.example/tiny/manifests/1": "NAME_UNKNOWN",
        "/v2/tiny/manifests/nope": "MANIFEST_UNKNOWN",
        f"/v2/tiny/blobs/sha256:{'0' * 64}": "BLOB_UNKNOWN",
    }
    for target, code in cases.items():
        answer = world.proxy.get(target)
        assert (answer.status, answer.json["errors"][0]["code"]) == (404, code), target
        assert "www-authenticate" not in answer.headers


def test_version(world: World) -> None:
    """`/v2/` answers 200 without a challenge."""
    answer = world.proxy.get("/v2/")
    assert (answer.status, "www-authenticate" in answer.headers) == (200, False)
