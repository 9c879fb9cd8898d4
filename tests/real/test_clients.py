"""The matrix: what each client can rely on, seen by running it; docs/clients.md is made of the results."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

import mixed
from client import Client, good
from layers import image
from matrix import BASE, Row, clients, missing
from stage import Stage

pytestmark = pytest.mark.timeout(300)
WARM = 50
LAYER = 6 << 20  # bytes of a layer that is cut in the middle


def strict(row: Row, suite: str) -> bool:
    return row.driver.strict


def test_nothing_is_missing() -> None:
    """In CI every program of the base system is there, so that no test of it is skipped."""
    if not os.environ.get("CI"):
        pytest.skip("asked in CI only")
    assert missing() == []


@clients()
@pytest.mark.proves("mirror mode", "tag")
def test_tag(stage: Stage, client: Client, name: str) -> None:
    """By its ordinary name, the image comes from the mirror, and each part came from upstream once."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name, 100_000))
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) == pushed.digest
    assert stage.strayed() == []
    asked = stage.registry.requests(f"library/{name}/")
    assert len([each for each in asked if each.startswith("GET")]) == 1 + len(pushed.blobs)


@clients()
@pytest.mark.proves("mirror mode", "digest")
def test_digest(stage: Stage, client: Client, name: str) -> None:
    """By digest, also of what no tag names any more."""
    first = stage.registry.push(f"library/{name}", "1", image(f"{name} first"))
    stage.registry.push(f"library/{name}", "1", image(f"{name} second"))
    wanted = client.mirrored(name, f"@{first.digest}")
    good(client.pull(wanted))
    assert client.digest(wanted) == first.digest
    assert stage.strayed() == []


@clients()
@pytest.mark.proves("explicit name")
def test_explicit_name(stage: Stage, client: Client, name: str) -> None:
    """By the mirror's own address, with the upstream's name before the repository's."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name))
    good(client.pull(client.explicit(name)))
    assert client.digest(client.explicit(name)) == pushed.digest
    assert stage.strayed() == []


@clients()
@pytest.mark.proves("moved tag")
def test_moved_tag(stage: Stage, client: Client, name: str) -> None:
    """Upstream moved the tag: who pulls it anew gets what it named at first."""
    first = stage.registry.push(f"library/{name}", "1", image(f"{name} first"))
    wanted = client.mirrored(name)
    good(client.pull(wanted))
    stage.registry.push(f"library/{name}", "1", image(f"{name} second"))
    client.remove(wanted)
    assert client.digest(wanted) == ""
    good(client.pull(wanted))
    assert client.digest(wanted) == first.digest
    assert stage.strayed() == []


@clients()
@pytest.mark.proves("50 warm pulls")
def test_warm(stage: Stage, client: Client, name: str) -> None:
    """What is cached is pulled again and again, and upstream hears nothing of it."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name))
    wanted = client.mirrored(name)
    good(client.pull(wanted))
    stage.settle()
    before = stage.registry.requests()
    for _ in range(WARM):
        client.remove(wanted)
        good(client.pull(wanted))
    assert client.digest(wanted) == pushed.digest
    assert stage.registry.requests() == before
    assert len(stage.asked(f"library/{name}/manifests/1")) >= WARM
    assert stage.strayed() == []


@clients()
@pytest.mark.proves("resume")
def test_upstream_breaks(stage: Stage, client: Client, name: str) -> None:
    """Upstream breaks off twice in the middle of a layer: the client sees nothing of it."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name, LAYER))
    stage.back.cuts[pushed.layers[1]] = [LAYER // 3, LAYER // 3]
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) == pushed.digest
    assert stage.back.requests[pushed.layers[1]] == 3
    assert stage.back.passed[pushed.layers[1]] < LAYER * 1.2
    assert stage.strayed() == []


@clients()
@pytest.mark.proves("resume")
def test_client_is_cut_off(stage: Stage, client: Client, name: str) -> None:
    """The client's connection breaks in the middle of a layer: it goes on, or is run again; upstream sent it once."""
    pushed = stage.registry.push(f"library/{name}", "1", image(name, LAYER))
    layer, wanted = pushed.layers[1], client.mirrored(name)
    stage.front.cuts[layer] = [LAYER // 2]
    outcome = client.pull(wanted)
    assert outcome.done is client.resumes, outcome.said[-3000:]
    if not client.resumes:
        good(client.pull(wanted))
    assert client.digest(wanted) == pushed.digest
    asked = [head for head in stage.front.heads if layer in head]
    assert any("range: bytes=" in head.lower() for head in asked) is client.resumes
    assert stage.back.requests[layer] == 1
    assert stage.strayed() == []


@dataclass(frozen=True)
class Stopped:
    """What a client did while the mirror was stopped: whether it got the image, and what reached the real registry."""

    got: str
    strayed: list[str]


@pytest.fixture(scope="module")
def stopped(stage: Stage, client: Client) -> dict[str, Stopped]:
    """What happened in strict mode and in ordinary mirror mode; once for all tests, as the mirror is started anew."""
    name = f"stop-{os.urandom(6).hex()}"
    stage.registry.push(f"library/{name}", "1", image(name))
    wanted, seen = client.mirrored(name), {}
    stage.strayed()
    with stage.without_mirror():
        for mode in ("strict", "ordinary"):
            client.pull(wanted, strict=mode == "strict")
            seen[mode] = Stopped(client.digest(wanted), stage.strayed())
    return seen


@clients(strict)
@pytest.mark.proves("strict mode")
def test_strict(stage: Stage, client: Client, stopped: dict[str, Stopped], name: str) -> None:
    """With the mirror stopped nothing reaches the real registry; without strict mode it does, so that is seen here."""
    assert stopped["strict"] == Stopped("", [])
    assert stopped["ordinary"].strayed != []
    pushed = stage.registry.push(f"library/{name}", "1", image(name))
    good(client.pull(client.mirrored(name), strict=True))
    assert client.digest(client.mirrored(name)) == pushed.digest
    assert stage.strayed() == []


@clients(strict)
@pytest.mark.proves("refusal", "strict mode")
def test_refused_strictly(stage: Stage, client: Client, name: str) -> None:
    """A refused tag is an error that stays one; without strict mode the client goes on to the real registry."""
    stage.registry.push(f"library/refused-{name}", "1", image(name))
    wanted = client.mirrored(f"refused-{name}")
    assert not client.pull(wanted, strict=True).done
    assert (client.digest(wanted), stage.strayed()) == ("", [])
    assert not client.pull(wanted).done
    assert stage.strayed() != []


@clients()
@pytest.mark.proves("refusal", "mirror mode")
def test_stopped(stage: Stage, client: Client, name: str) -> None:
    """`on_drift = "stop"`: in ordinary mirror mode the client does not go on to the real registry, and gets nothing."""
    repository = f"stopped-{name}"
    stage.registry.push(f"library/{repository}", "1", image(f"{name} first"))
    stage.proxy.get(f"/v2/library/{repository}/manifests/1")
    stage.registry.push(f"library/{repository}", "1", image(f"{name} second"))
    stage.drifted(f"library/{repository}")
    wanted = client.mirrored(repository)
    outcome = client.pull(wanted)
    assert (client.digest(wanted), stage.strayed()) == ("", []), outcome.said
    assert outcome.done is client.is_content, outcome.said


@clients()
@pytest.mark.proves("media types")
@pytest.mark.parametrize("push", [mixed.docker, mixed.docker_list, mixed.platforms], ids=lambda each: each.__name__)
def test_kinds(stage: Stage, client: Client, name: str, push: mixed.Push) -> None:
    """Docker's media types, and more than one platform."""
    digests = push(stage.registry, f"library/{name}")
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) in digests
    assert stage.strayed() == []


@clients(lambda row, suite: not (row.name == "dockerd, classic store" and suite == BASE))  # 20.10 knows no zstd
@pytest.mark.proves("media types")
def test_zstd(stage: Stage, client: Client, name: str) -> None:
    """Layers that are packed by zstd."""
    digests = mixed.zstd(stage.registry, f"library/{name}")
    good(client.pull(client.mirrored(name)))
    assert client.digest(client.mirrored(name)) in digests
    assert stage.strayed() == []
