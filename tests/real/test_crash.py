"""Kill everything, take upstream away, start again: what was pulled is served, and what was not says why."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from clients import Containerd, skopeo_copy
from layers import image
from machine import Proxy, World
from processes import free_port, is_open

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.real("docker-registry")]


@pytest.mark.root
@pytest.mark.real("skopeo", "ctr", "containerd")
def test_killed_and_offline(tmp_path: Path) -> None:
    """After kill -9 of all processes and with no upstream, every pulled tag and blob is there, by every client."""
    with World(tmp_path) as world:
        tiny = world.registry.push("library/tiny", "1", image("tiny", 100_000))
        app = world.registry.push("team/app", "2", image("app", 100_000))
        world.registry.push("library/cold", "1", image("cold"))
        assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == tiny.digest
        assert skopeo_copy(tmp_path, world.proxy.port, "registry.example.com/team/app:2") == app.digest
        world.proxy.kill()
        world.registry.stop()
        world.proxy.start()
        assert skopeo_copy(tmp_path, world.proxy.port, "tiny:1") == tiny.digest
        with Containerd(world.proxy.port) as client:
            assert client.pull("registry.example.com/team/app:2") == app.digest
        for digest, data in tiny.blobs.items():
            assert world.proxy.get(f"/v2/tiny/blobs/{digest}").body == data
        uncached = world.proxy.get("/v2/cold/manifests/1")
        [error] = uncached.json["errors"]
        assert uncached.status in (502, 503, 504)
        assert ("docker.io" in error["message"], "no connection" in error["message"]) == (True, True), error
        assert world.proxy.get("/v2/tiny/manifests/1?ns=unknown.example").status == 404
        assert world.proxy.get("/v2/tiny/tags/list").json["tags"] == ["1"]


def test_stop_and_reload(tmp_path: Path) -> None:
    """SIGHUP reloads without a refused connection, SIGTERM ends with code 0 and frees the port."""
    with World(tmp_path) as world:
        tiny = world.registry.push("library/tiny", "1", image("tiny"))
        assert world.proxy.get("/v2/tiny/manifests/1").body == tiny.manifest
        before = set(world.proxy.workers)
        world.proxy.process.signal(signal.SIGHUP)
        answers = {world.proxy.get("/v2/tiny/manifests/1").body for _ in range(200)}
        assert answers == {tiny.manifest}
        world.proxy.wait_for_other_workers(before)
        assert world.proxy.get("/v2/tiny/manifests/1").body == tiny.manifest
        assert (world.proxy.stop(), is_open(world.proxy.port)) == (0, False)


def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that was killed is replaced, and the other one serves meanwhile."""
    with World(tmp_path) as world:
        tiny = world.registry.push("library/tiny", "1", image("tiny"))
        assert world.proxy.get("/v2/tiny/manifests/1").body == tiny.manifest
        before = set(world.proxy.workers)
        victim = min(before)
        world.proxy.kill_worker(victim)
        assert world.proxy.get("/v2/tiny/manifests/1").body == tiny.manifest
        world.proxy.wait_for_other_workers({victim}, count=2)


def test_refusals_at_start(tmp_path: Path) -> None:
    """A second `serve` on the store, a port in use, a store open to others: one line each, and exit code 1."""
    with World(tmp_path) as world:
        second = world.proxy.command("serve")
        assert (second.status, len(second.headers["stderr"].strip().splitlines())) == (1, 1), second.headers
        assert world.proxy.get("/v2/").status == 200
        assert world.proxy.command("pins", "list", "--json").status == 0
        taken = Proxy(tmp_path / "other", world.registry.port, ports=(world.proxy.port, free_port())).command("serve")
        assert (taken.status, str(world.proxy.port) in taken.headers["stderr"]) == (1, True), taken.headers
    world.proxy.store.chmod(0o755)
    opened = world.proxy.command("serve")
    assert (opened.status, "chmod 700" in opened.headers["stderr"]) == (1, True), opened.headers
