"""A person's acts beside a running `serve`: every worker obeys, within a second, and with upstream gone too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layers import Image, image
from machine import Answer, World
from processes import until

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]

WORKERS = 4
TARGET = "/v2/tiny/manifests/1"
REASON = ("--reason", "ticket 4711")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, workers=WORKERS) as made:
        yield made


def _asked(world: World) -> list[Answer]:
    """An answer of each worker."""
    return world.proxy.get_from_all(TARGET)


def _act(world: World, *arguments: str) -> None:
    done = world.proxy.command("pins", *arguments, *REASON)
    assert done.status == 0, done.headers["stderr"]


def _obeyed(world: World, what: Callable[[Answer], bool]) -> None:
    """Wait until nobody answers otherwise: a second on a machine that has time (measured: 0.1 to 0.2 s)."""
    until(lambda: all(map(what, _asked(world))), "the act in all workers", 10)


def _insist_complete(world: World, wanted: Image) -> None:
    """Every blob can be had."""
    assert list(wanted.blobs.values()) == [world.proxy.get(f"/v2/tiny/blobs/{each}").body for each in wanted.blobs]


def _serves(wanted: Image) -> Callable[[Answer], bool]:
    return lambda answer: (answer.status, answer.body) == (200, wanted.manifest)


def test_forth_and_back(world: World) -> None:
    """Repin, and all workers serve the new digest; roll back with upstream stopped, and all serve the old one."""
    first = world.registry.push("library/tiny", "1", image("first", 50_000))
    assert {first.manifest} == {each.body for each in _asked(world)}
    _insist_complete(world, first)
    second = world.registry.push("library/tiny", "1", image("second", 50_000))
    asked = len(world.registry.requests())
    assert {first.manifest} == {each.body for each in _asked(world)}
    assert asked == len(world.registry.requests())
    _act(world, "repin", "tiny:1", "--from", first.digest, "--to", second.digest)
    _obeyed(world, _serves(second))
    world.registry.stop()
    stale = world.proxy.command("pins", "repin", "tiny:1", "--from", first.digest, "--to", first.digest, *REASON)
    assert (1, True) == (stale.status, second.digest in stale.headers["stderr"])
    _act(world, "rollback", "tiny:1")
    _obeyed(world, _serves(first))
    _insist_complete(world, first)


def test_removed_and_approved(world: World) -> None:
    """After `remove` every worker refuses with the command that brings the tag back; after it every worker serves."""
    first = world.registry.push("library/tiny", "1", image("first"))
    assert {200} == {each.status for each in _asked(world)}
    before = len(world.registry.requests("/manifests/1"))
    _act(world, "remove", "tiny:1", "--digest", first.digest)
    command = f"iarproxy pins approve docker.io/library/tiny:1 --digest {first.digest} --reason TEXT"
    _obeyed(world, lambda answer: answer.status == 403 and command in answer.body.decode())
    assert {403} == {each.status for each in _asked(world) + _asked(world)}
    assert len(world.registry.requests("/manifests/1")) <= before + WORKERS  # each asks once what is offered now
    waiting = world.proxy.command("pins", "list", "--waiting", "--json").json["waiting"]
    assert [first.digest] == [each["descriptor"]["digest"] for each in waiting]
    _act(world, "approve", "tiny:1", "--digest", first.digest)
    _obeyed(world, _serves(first))
    kinds = [each["kind"] for each in world.proxy.command("pins", "history", "tiny:1", "--json").json]
    assert ["pinned", "removed", "quarantined", "approved"] == kinds
