"""The drift watch of a real `serve`: nobody asks, and it is told; people settle it, and clients see that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import skopeo_copy
from layers import MANIFEST, Image, digest_of, image, push, send
from machine import World, ask
from processes import run, until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry", "skopeo")]

INDEX = "application/vnd.oci.image.index.v1+json"
ARCHITECTURES = ("amd64", "arm64", "s390x")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.proxy.config.open("a") as settings:
        settings.write('[drift]\ninterval = "3s"\n[pins]\n')
        settings.write(f"platforms = {json.dumps([f'linux/{each}' for each in ARCHITECTURES])}\n")
    with made:
        yield made


def metrics(world: World, containing: str) -> dict[str, float]:
    """The samples whose name holds this text."""
    lines = ask(world.proxy.admin, "/metrics").body.decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if containing in line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def kinds(world: World) -> list[str]:
    return [each["kind"] for each in world.proxy.command("pins", "history", "tiny:1", "--json").json]


def push_index(world: World, tag: str, images: dict[str, Image]) -> str:
    """An index of these images by architecture; its digest."""
    for name, each in images.items():
        push(world.registry.port, "library/many", f"{tag}-{name}", each)
    listed = [
        {
            "mediaType": MANIFEST,
            "digest": each.digest,
            "size": len(each.manifest),
            "platform": {"os": "linux", "architecture": name},
        }
        for name, each in images.items()
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
    send(world.registry.port, "PUT", f"/v2/library/many/manifests/{tag}", raw, INDEX)
    return digest_of(raw)


def test_upstream_moves_a_tag(world: World, tmp_path: Path) -> None:
    """Found without being asked for: one event with the difference, metrics; a thousand pulls ask nobody. Then a person
    settles it, upstream moves on, and that is an alarm again.
    """
    first = world.registry.push("library/tiny", "1", image("first", 50_000))
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    second = world.registry.push("library/tiny", "1", image("second", 60_000))
    until(lambda: metrics(world, "iarproxy_drifted_tags") == {"iarproxy_drifted_tags": 1.0}, "the alarm", 30)
    assert kinds(world) == ["pinned", "drifted"]

    asked = [each for each in world.registry.requests() if each.startswith("GET")]
    for number in range(1000):
        answer = world.proxy.get("/v2/tiny/manifests/1", "HEAD" if number % 2 else "GET")
        assert answer.headers["docker-content-digest"] == first.digest
    assert asked == [each for each in world.registry.requests() if each.startswith("GET")]
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    counted = metrics(world, "iarproxy_drift_checks_total")
    assert counted['iarproxy_drift_checks_total{upstream="docker.io",verdict="drifted"}'] >= 1
    assert metrics(world, "iarproxy_drift_overdue")['iarproxy_drift_overdue{upstream="docker.io"}'] == 0

    [listed] = world.proxy.command("drift", "list", "--json").json["drifts"]
    assert (listed["pinned"], listed["offered"]["digest"]) == (first.digest, second.digest)
    assert listed["summary"].startswith("2 layers replaced (")
    [told] = ask(world.proxy.admin, "/api/v1/drift").json["drifts"]
    assert told["summary"] == listed["summary"]
    full = ask(world.proxy.admin, "/api/v1/drift/docker.io/library/tiny:1").json
    assert full["evidence"]["headers"]["docker-content-digest"] == second.digest
    shown = world.proxy.command("drift", "show", "tiny:1")
    for text in (first.digest, second.digest, "layer removed: ", "layer added: ", "iarproxy drift ack", "pins repin"):
        assert text in shown.body.decode()

    early = world.proxy.command("drift", "ack", "tiny:1", "--digest", first.digest, "--reason", "typo")
    assert (early.status, second.digest in early.headers["stderr"]) == (1, True)
    done = world.proxy.command("drift", "ack", "tiny:1", "--digest", second.digest, "--reason", "a rebuild")
    assert done.status == 0, done.headers["stderr"]

    def settled() -> bool:
        answers = world.proxy.get_from_all("/v2/tiny/manifests/1")
        assert {answer.body for answer in answers} == {first.manifest}
        assert {answer.headers.get("iar-upstream-digest") for answer in answers} == {second.digest}
        return not any("warning" in answer.headers for answer in answers)

    until(settled, "no warning from any worker", 10)
    assert metrics(world, "iarproxy_drifted_tags") == {"iarproxy_drifted_tags": 0.0}
    assert world.proxy.command("drift", "list", "--exit-code").status == 0
    third = world.registry.push("library/tiny", "1", image("third", 70_000))
    until(lambda: metrics(world, "iarproxy_drifted_tags") == {"iarproxy_drifted_tags": 1.0}, "another alarm", 30)
    assert world.proxy.command("drift", "list", "--exit-code").status == 3
    assert world.proxy.get("/v2/tiny/manifests/1").headers["iar-upstream-digest"] == third.digest
    assert kinds(world) == ["pinned", "drifted", "acknowledged", "drifted"]


def test_platforms_that_nobody_pulled(world: World, tmp_path: Path) -> None:
    """Of three platforms one is pulled; upstream moves the tag and deletes what it was: all three pull, for good."""
    old = {name: image(f"old {name}", 40_000, architecture=name) for name in ARCHITECTURES}
    index = push_index(world, "1", old)
    assert skopeo_copy(tmp_path, world.proxy.port, "many:1") == old["amd64"].digest
    push_index(world, "1", {name: image(f"new {name}", architecture=name) for name in ARCHITECTURES})

    def complete() -> bool:
        [pin] = world.proxy.command("pins", "list", "--json").json["pins"]
        return bool(pin["held"] == "complete")

    until(complete, "everything that the pin promises", 40)
    for digest in (index, *(each.digest for each in old.values())):
        assert world.registry.delete("library/many", digest) == 202
    world.registry.stop()
    shown = world.proxy.command("pins", "show", "many:1").body.decode()
    assert "held  complete" in shown
    for name, each in old.items():
        layout = tmp_path / name
        options: list[str | Path] = ["--policy", tmp_path / "policy.json", "--override-arch", name]
        places = [f"docker://127.0.0.1:{world.proxy.port}/many:1", f"oci:{layout}:t"]
        copied = run(["skopeo", *options, "copy", "--src-tls-verify=false", *places])
        assert copied.returncode == 0, copied.stderr
        assert {digest_of(file.read_bytes()) for file in (layout / "blobs/sha256").iterdir()} >= {each.digest}


def test_an_upstream_that_is_away(world: World, tmp_path: Path) -> None:
    """While upstream is down nothing is judged, what is late is counted, and pulls go on; then the watch does too."""
    first = world.registry.push("library/tiny", "1", image("first"))
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    world.registry.stop()
    overdue = 'iarproxy_drift_overdue{upstream="docker.io"}'
    until(lambda: metrics(world, "iarproxy_drift_overdue").get(overdue) == 1.0, "the check to be late", 30)
    assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == first.digest
    assert kinds(world) == ["pinned"]
    world.registry.start()
    until(lambda: metrics(world, "iarproxy_drift_overdue").get(overdue) == 0.0, "the check to be made", 90)
