"""With refusals in the form `stop`, tools that keep what they are given get an error, never a refusal manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import ArtifactWorld, Tools
from layers import Image, image
from processes import until

pytestmark = [pytest.mark.xdist_group("artifacts"), pytest.mark.real("docker-registry"), pytest.mark.proves("refusal")]
REPOSITORY = "drifting/app"
OURS = "drifted: pinned"
# By client: how it asks for its version and for a tag, and what it shows of a refusal. notation asks by HEAD, whose
# answer has no body.
ASKING = {
    "crane": (["crane", "version"], ["crane", "copy", "REF", "TARGET"], OURS),
    "regctl": (["regctl", "version"], ["regctl", "image", "copy", "REF", "TARGET"], OURS),
    "oras": (["oras", "version"], ["oras", "copy", "--from-plain-http", "--to-plain-http", "REF", "TARGET"], OURS),
    "helm": (["helm", "version"], ["helm", "pull", "--plain-http", "oci://REF"], OURS),
    "cosign": (["cosign", "version"], ["cosign", "save", "--allow-http-registry", "--dir", "saved", "REF"], OURS),
    "notation": (["notation", "version"], ["notation", "list", "--insecure-registry", "REF"], "403"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactWorld]:
    made = ArtifactWorld(tmp_path_factory.mktemp("refusals"))
    settings = made.proxy.config.read_text().replace("[server]\n", '[server]\nrefusal = "stop"\n')
    made.proxy.config.write_text(f'{settings}[[tags]]\nmatch = "**/{REPOSITORY}"\non_drift = "stop"\n')
    with made:
        yield made


@pytest.fixture(scope="module")
def moved(world: ArtifactWorld) -> tuple[Image, Image]:
    """An image under a tag that has moved since it was pinned, and the other one; all workers know it."""
    upstream = world.upstreams["plain.example.com"]
    target = f"/v2/{upstream.name}/{REPOSITORY}/manifests/1"
    pinned = upstream.push(REPOSITORY, "1", image("pinned", 10_000))
    assert world.proxy.get(target).body == pinned.manifest
    offered = upstream.push(REPOSITORY, "1", image("offered", 10_000))
    assert world.proxy.command("drift", "check", "--json").status == 0
    until(lambda: {each.status for each in world.proxy.get_from_all(target)} == {403}, "refusals by all workers")
    return pinned, offered


@pytest.fixture
def tools(world: ArtifactWorld, tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def without_tls(world: ArtifactWorld, tools: Tools) -> None:
    for port in (world.proxy.port, world.shelf.port):
        tools("regctl", "registry", "set", f"127.0.0.1:{port}", "--tls", "disabled", "--skip-check")


@pytest.mark.parametrize(
    "client",
    [pytest.param(each, marks=[pytest.mark.real(each), pytest.mark.client(each, *ASKING[each][0])]) for each in ASKING],
)
def test_a_drifted_tag(world: ArtifactWorld, tools: Tools, moved: tuple[Image, Image], client: str) -> None:
    """Under `on_drift = "stop"` the tool fails, and nothing that it might keep was handed to it."""
    if client == "regctl":
        without_tls(world, tools)
    asked = world.asked(REPOSITORY)
    _, command, shown = ASKING[client]
    words = {"REF": f"{world.address}/plain.example.com/{REPOSITORY}:1", "TARGET": f"127.0.0.1:{world.shelf.port}/x:1"}
    for name, word in words.items():
        command = [each.replace(name, word) for each in command]
    said = tools.failing(*command)
    assert shown in said, said
    assert world.shelf.repositories["x"].manifests == {}
    assert world.asked(REPOSITORY) == asked


@pytest.mark.real("regctl")
@pytest.mark.client("regctl", "regctl", "version")
def test_a_mirror_of_docker_io(world: ArtifactWorld, tools: Tools) -> None:
    """Also as a mirror regctl keeps manifests: it gets 403, and then asks docker.io itself, as it always does."""
    world.registry.push("refused/app", "1", image("refused"))
    without_tls(world, tools)
    tools("regctl", "registry", "set", "docker.io", "--mirror", world.address, "--skip-check")
    said = tools.failing("regctl", "image", "copy", "docker.io/refused/app:1", f"127.0.0.1:{world.shelf.port}/y:1")
    assert "registry-1.docker.io" in said, said
    assert world.shelf.repositories["y"].manifests == {}
    assert world.asked("refused/app/manifests") == []
