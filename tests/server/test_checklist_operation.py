"""The server checklist (clients.md section 10), items 65 to 83 as far as no other test proves them; see `checklist`."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from pathlib import Path

import orjson
import pytest

from iarproxy.errors import ConfigError
from iarproxy.server.limits import raise_file_limit
from iarproxy.server.listeners import Role, open_listeners
from images import random_blob, small_image
from serving import both_loops, read_reply
from whole import HUB, OTHER, Whole, head, whole

NAMES = [
    ("library/app", HUB),
    ("app", HUB),
    ("docker.io/app", HUB),
    ("index.docker.io/library/app", HUB),
    ("registry-1.docker.io/library/app", HUB),
    ("app?ns=docker.io", HUB),
    ("library/app?ns=registry-1.docker.io", HUB),
    ("library/app?ns=registry.hub.docker.com", HUB),
    ("docker.io/library/app?ns=docker.io", HUB),
    ("library/app?ns=DOCKER.IO%3A443", HUB),
    ("registry.example.com/library/app", OTHER),
    ("library/app?ns=registry.example.com", OTHER),
    ("registry.example.com/library/app?ns=registry.example.com", OTHER),
]


@pytest.mark.parametrize("kind", ["manifests/1", "tags/list", "referrers"])
async def test_items_65_66_68_and_69_names(tmp_path: Path, kind: str) -> None:
    """Every spelling of the hub is the hub; `library/` is added; prefix and ns may both be there; the answer tells."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        wanted = f"referrers/{published.digest}" if kind == "referrers" else kind
        for name, upstream in NAMES:
            path, _, query = name.partition("?")
            reply = await world.ask(f"/v2/{path}/{wanted}?{query}")
            assert (200, upstream) == (reply.status, reply.headers["iar-upstream"]), name
            ns = query.removeprefix("ns=").replace("%3A", ":")
            assert (ns or upstream) == reply.headers["oci-namespace"]
        pinned = {str(each.reference) for each in await world.rooms.ledger.pins()}
        assert pinned == ({f"{HUB}/library/app:1", f"{OTHER}/library/app:1"} if kind == "manifests/1" else set())


WRONG_NAMES = [
    ("library/app/manifests/1?ns=unknown.test", 404, "NAME_UNKNOWN"),
    ("library/app/manifests/1?ns=docker.io%3A5000", 404, "NAME_UNKNOWN"),
    ("unknown.test/app/manifests/1", 404, "NAME_UNKNOWN"),
    ("unknown:5000/app/manifests/1", 404, "NAME_UNKNOWN"),
    ("docker.io/library/app/manifests/1?ns=registry.example.com", 400, "NAME_INVALID"),
    ("Library/app/manifests/1", 404, "NAME_INVALID"),
    ("a/" * 127 + "bb/manifests/1", 404, "NAME_INVALID"),
]


@pytest.mark.parametrize(("name", "status", "expected"), WRONG_NAMES, ids=range(len(WRONG_NAMES)))
async def test_items_67_70_71_and_73_names_that_are_none(tmp_path: Path, name: str, status: int, expected: str) -> None:
    """Unknown registries, contradictions, capitals and names that are too long are refused, and nobody is asked."""
    async with whole(tmp_path) as world:
        for method in ("GET", "HEAD"):
            reply = await world.ask(f"/v2/{name}", method)
            assert status == reply.status
            assert method == "HEAD" or expected == orjson.loads(reply.body)["errors"][0]["code"]
        assert [] == world.upstream.log


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_item_75_both_loopback_addresses(tmp_path: Path) -> None:
    """[::1] is listened on beside 127.0.0.1 where the machine has it; where it has not, that is no failure."""
    port = _free_port()
    wanted = [(Role.REGISTRY, f"127.0.0.1:{port}"), (Role.REGISTRY, f"[::1]:{port}")]
    opened = open_listeners(wanted, optional=[f"[::1]:{port}"])
    try:
        assert 1 + has_ipv6() == len(opened)
        for each in opened:
            with socket.create_connection(each.sock.getsockname()[:2], timeout=5):
                pass
    finally:
        for each in opened:
            each.close()


def test_item_75_an_address_that_is_not_there(tmp_path: Path) -> None:
    """Only what need not be there may be missing; an address that somebody else has is an error all the same."""
    port, elsewhere = _free_port(), "192.0.2.1:5000"  # an address that no machine has (RFC 5737)
    here = (Role.REGISTRY, f"127.0.0.1:{port}")
    opened = open_listeners([here, (Role.REGISTRY, elsewhere)], optional=[elsewhere])
    try:
        assert [f"127.0.0.1:{port}"] == [each.address for each in opened]
        with pytest.raises(ConfigError, match="no such address"):
            open_listeners([(Role.REGISTRY, elsewhere)])
        with pytest.raises(ConfigError, match="another process has it") as caught:
            open_listeners([here], optional=[here[1]])
        assert isinstance(caught.value.__cause__, OSError)
        assert errno.EADDRINUSE == caught.value.__cause__.errno
    finally:
        for each in opened:
            each.close()


async def test_item_77_health_is_not_on_this_port(tmp_path: Path) -> None:
    """Health and metrics are the admin listener's; here they are endpoints that do not exist."""
    async with whole(tmp_path) as world:
        for target in ("/healthz", "/readyz", "/metrics", "/api/v1/pins"):
            assert 404 == (await world.ask(target)).status


@both_loops
async def test_item_81_a_thousand_idle_connections(tmp_path: Path) -> None:
    """They stay open while 100 layers stream beside them, and answer afterwards."""
    raise_file_limit()
    spare = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 700
    async with whole(tmp_path) as world:
        data = random_blob(500_000)
        digest = world.upstream.content.publish_blob("library/app", data)
        idle = [await _greeted(world) for _ in range(min(1000, spare // 2))]
        replies = await asyncio.gather(*(world.ask(f"/v2/library/app/blobs/{digest}") for _ in range(100)))
        assert {data} == {each.body for each in replies}
        assert 1 == world.upstream.count("GET", "/blobs/")
        for reader, writer in idle[:: max(1, len(idle) // 50)]:
            writer.write(head("/v2/"))
            assert b"{}" == (await read_reply(reader)).body
        for _, writer in idle:
            writer.transport.abort()
        await asyncio.sleep(0.1)


async def _greeted(world: Whole) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await world.served.connect()
    writer.write(head("/v2/"))
    assert b"{}" == (await read_reply(reader)).body
    return reader, writer


async def test_item_82_a_burst_of_kubelets(tmp_path: Path) -> None:
    """500 nodes ask for one tag within seconds: one upstream request when it is cold, none when it is hot."""
    async with whole(tmp_path) as world:
        published = world.upstream.content.publish("library/app", "1", small_image())
        for _ in range(2):
            asked = (world.ask("/v2/library/app/manifests/1?ns=docker.io", "HEAD") for _ in range(500))
            told = {each.headers["docker-content-digest"] for each in await asyncio.gather(*asked)}
            assert {str(published.digest)} == told
            assert 1 == world.upstream.count("", "/manifests/1")
