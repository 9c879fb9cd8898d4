"""Upstream moves a tag: every client still gets the first digest, and the drift is shown wherever one looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import Containerd, skopeo_copy
from layers import image
from machine import World
from processes import until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.mark.root
@pytest.mark.real("skopeo", "ctr", "containerd")
def test_a_moved_tag(world: World, tmp_path: Path) -> None:
    """The pinned digest for every client; the offered one in the report and, from then on, in the tag's answer."""
    first = world.registry.push("library/tiny", "1", image("first", 50_000))
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    second = world.registry.push("library/tiny", "1", image("second", 50_000))
    assert skopeo_copy(tmp_path, world.registry.port, "library/tiny:1") == second.digest
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    with Containerd(world.proxy.port) as client:
        assert client.pull("docker.io/library/tiny:1") == first.digest

    found = world.proxy.command("drift", "check", "--json", "--exit-code")
    assert found.status == 3, found.headers["stderr"]
    [checked] = found.json["checked"]
    assert (checked["verdict"], checked["pinned"], checked["offered"]) == ("drifted", first.digest, second.digest)
    assert checked["reference"] == "docker.io/library/tiny:1"

    def told() -> bool:
        answers = world.proxy.get_from_all("/v2/tiny/manifests/1")
        assert {answer.body for answer in answers} == {first.manifest}
        return all(answer.headers.get("iar-upstream-digest") == second.digest for answer in answers)

    until(told, "drift in the answers of all workers", 10)
    answer = world.proxy.get("/v2/tiny/manifests/1", "HEAD")
    assert answer.headers["warning"].startswith("299 ")
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest


def test_a_repin_and_the_way_back(world: World) -> None:
    """A person accepts the new digest, with a reason; all workers serve it, and the history tells."""
    first = world.registry.push("library/tiny", "1", image("first"))
    assert world.proxy.get("/v2/tiny/manifests/1").body == first.manifest
    second = world.registry.push("library/tiny", "1", image("second"))
    arguments = ["--from", first.digest, "--to", second.digest, "--reason", "reviewed"]
    done = world.proxy.command("pins", "repin", "tiny:1", *arguments)
    assert done.status == 0, done.headers["stderr"]

    def served() -> bool:
        return {each.body for each in world.proxy.get_from_all("/v2/tiny/manifests/1")} == {second.manifest}

    until(served, "the new pin in all workers", 10)
    events = world.proxy.command("pins", "history", "tiny:1", "--json")
    assert (first.digest in events.body.decode(), second.digest in events.body.decode()) == (True, True)


def test_drift_completes_what_is_held(world: World) -> None:
    """Only the manifest was pulled; when upstream moves the tag, the rest of the pinned image is fetched at once."""
    first = world.registry.push("library/tiny", "1", image("first", 400_000))
    assert world.proxy.get("/v2/tiny/manifests/1").body == first.manifest
    world.registry.push("library/tiny", "1", image("second"))
    found = world.proxy.command("drift", "check", "--json")
    assert ([each["verdict"] for each in found.json["checked"]], found.status) == (["drifted"], 0)
    assert "Traceback" not in found.headers["stderr"]
    [pin] = world.proxy.command("pins", "list", "--json").json["pins"]
    assert pin["held"] == "complete"
    world.registry.stop()
    assert [world.proxy.get(f"/v2/tiny/blobs/{digest}").body for digest in first.blobs] == list(first.blobs.values())


def test_a_vanished_tag(world: World) -> None:
    """A tag that upstream deleted is served on, and reported as vanished."""
    pushed = world.registry.push("library/gone", "1", image("gone"))
    assert world.proxy.get("/v2/gone/manifests/1").body == pushed.manifest
    assert world.registry.delete("library/gone", pushed.digest) == 202
    found = world.proxy.command("drift", "check", "--json")
    assert [each["verdict"] for each in found.json["checked"]] == ["vanished"], found.headers["stderr"]
    assert world.proxy.get("/v2/gone/manifests/1").body == pushed.manifest
