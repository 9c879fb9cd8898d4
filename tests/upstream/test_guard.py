"""The address policy: what may be dialled, checked by a trap that would notice a connection (T35, L9)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson
import pytest
from yarl import URL

from dialing import QUICK, dialing, no_waits
from iarproxy.errors import UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from iarproxy.oci.media_types import OCI_MANIFEST
from iarproxy.upstream import Upstream
from iarproxy.upstream.asking import Asker
from iarproxy.upstream.cache import SharedCache
from iarproxy.upstream.client import Client
from iarproxy.upstream.endpoint import Endpoint
from iarproxy.upstream.foreign import ForeignLayers
from iarproxy.upstream.guard import AddressRefused, Policy, Reach, reach_of
from iarproxy.upstream.negative import Negative
from iarproxy.upstream.spending import Spending
from iarproxy.upstream.tokens import Tokens
from images import Published, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

PUBLIC = Policy.of(URL("https://registry.example.com"))
STAND_IN = "127.0.0.3"  # plays a public address


@asynccontextmanager
async def as_if_public(url: str, *answers: list[str]) -> AsyncIterator[Upstream]:
    """An upstream that may dial public addresses and `STAND_IN`; names resolve to `answers`, one after the other."""
    left = list(answers)

    async def lookup(_host: str, _port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    policy = Policy(frozenset({Reach.PUBLIC}), ipaddress.ip_address(STAND_IN))
    client = Client("registry.example.com", URL(url), lookup=lookup, timeouts=QUICK, policy=policy)
    cache = await SharedCache.open(None)
    tokens = Tokens(client, cache=cache, now=lambda: datetime.now(UTC))
    try:
        yield Upstream(
            [Endpoint(Asker(client, tokens, lambda: datetime.now(UTC)), cache)],
            negative=Negative("registry.example.com", cache, 0, lambda: None),
            spending=Spending("registry.example.com", cache, lambda: datetime.now(UTC)),
            retry=no_waits(),
            floor=0,
            foreign=ForeignLayers("registry.example.com", [], cache, no_waits()),
        )
    finally:
        await tokens.close()
        await client.close()
        await cache.close()


@pytest.fixture
async def trap() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on every loopback address, and who connected to it."""
    caught: list[object] = []

    async def catch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caught.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(catch, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], caught
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("1.1.1.1", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("64:ff9b::101:101", Reach.PUBLIC),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.255.255.254", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("10.1.2.3", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("172.31.255.255", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("64:ff9b::a00:1", Reach.PRIVATE),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.FORBIDDEN),
        ("64:ff9b::a9fe:a9fe", Reach.FORBIDDEN),
        ("fe80::1", Reach.FORBIDDEN),
        ("0.0.0.0", Reach.FORBIDDEN),
        ("::", Reach.FORBIDDEN),
        ("0.1.2.3", Reach.FORBIDDEN),
        ("255.255.255.255", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
        ("ff02::1", Reach.FORBIDDEN),
        ("240.0.0.1", Reach.FORBIDDEN),
        ("192.0.2.1", Reach.FORBIDDEN),
        ("198.18.0.1", Reach.FORBIDDEN),
        ("::ffff:127.0.0.1", Reach.FORBIDDEN),
        ("::ffff:1.1.1.1", Reach.FORBIDDEN),
        ("::127.0.0.1", Reach.FORBIDDEN),
        ("2002:7f00:1::", Reach.FORBIDDEN),
        ("2002:101:101::", Reach.FORBIDDEN),
        ("2001:0:7f00:1::", Reach.FORBIDDEN),
        ("64:ff9b:1::7f00:1", Reach.FORBIDDEN),
        ("2001:db8::1", Reach.FORBIDDEN),
        ("fec0::1", Reach.FORBIDDEN),
    ],
)
def test_where_addresses_lead(address: str, reach: Reach) -> None:
    """Only what is public is public; tunnels and mapped addresses lead nowhere."""
    assert reach_of(ipaddress.ip_address(address)) is reach


@pytest.mark.parametrize(
    ("url", "allowed", "refused"),
    [
        ("https://ghcr.io", "1.1.1.1", "10.0.0.1"),
        ("https://ghcr.io", "2606:4700::1111", "127.0.0.1"),
        ("https://ghcr.io", "64:ff9b::101:101", "64:ff9b::7f00:1"),
        ("https://10.0.0.5:5000", "10.0.0.6", "127.0.0.1"),
        ("https://10.0.0.5:5000", "1.1.1.1", "169.254.169.254"),
        ("https://registry", "10.0.0.6", "127.0.0.1"),
        ("https://registry.corp.internal", "192.168.0.6", "127.0.0.1"),
        ("http://registry.example.com:5000", "10.0.0.6", "169.254.169.254"),
        ("http://registry.example.com:5000", "192.168.0.6", "127.0.0.1"),
        ("http://127.0.0.1:5000", "127.0.0.1", "::ffff:127.0.0.1"),
        ("http://localhost:5000", "::1", "0.0.0.0"),
        ("https://169.254.1.1", "169.254.1.1", "169.254.169.254"),
        ("https://1.1.1.1", "1.0.0.1", "10.0.0.1"),
    ],
)
def test_what_an_upstream_may_dial(url: str, allowed: str, refused: str) -> None:
    """Its own URL says whether it is private; link-local needs the very address."""
    policy = Policy.of(URL(url))
    assert (policy.allows(allowed), policy.allows(refused)) == (True, False)
    family = socket.AF_INET6 if ":" in refused else socket.AF_INET
    with pytest.raises(AddressRefused):
        policy.socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (refused, 443)))


@pytest.mark.parametrize("spelling", ["0x7f000001", "2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "", "evil"])
def test_odd_spellings_are_no_addresses(spelling: str) -> None:
    """What only the C library reads as an address is not one here, so no socket is made for it."""
    with pytest.raises(AddressRefused):
        PUBLIC.check(spelling)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "localhost",
        "name.example",
    ],
)
async def test_a_redirect_into_the_machine(host: str, trap: tuple[int, list[object]]) -> None:
    """From a public upstream no form of a loopback address is connected to: literal, odd spelling or name."""
    port, caught = trap
    async with FakeRegistry(host=STAND_IN) as registry, as_if_public(registry.url, ["127.0.0.1"]) as upstream:
        registry.faults.add("*", Fault(location=f"http://{host}:{port}/latest/meta-data"))
        with pytest.raises(UpstreamUnavailable):
            await upstream.manifest("a/b", Tag("1"))
        assert registry.count() >= 1
    assert caught == []


async def test_a_name_that_changes_its_mind(trap: tuple[int, list[object]]) -> None:
    """First a public address, then loopback (DNS rebinding): the second is refused when it is dialled."""
    port, caught = trap
    answers = [[STAND_IN], ["127.0.0.1"], ["127.0.0.1", "::1"]]
    async with FakeRegistry(host=STAND_IN) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        async with as_if_public(f"http://name.example:{registry.port}", *answers) as upstream:
            assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        for text in answers[1:]:
            async with as_if_public(f"http://name.example:{port}", text) as upstream:
                with pytest.raises(UpstreamWrong, match=r"refuses 127\.0\.0\.1, to which the name name\.example"):
                    await upstream.manifest("a/b", Tag("1"))
    assert caught == []


async def test_of_several_addresses_the_allowed_are_dialled(trap: tuple[int, list[object]]) -> None:
    """A name with a public and a private address is reached at the public one only."""
    _, caught = trap
    async with FakeRegistry(host=STAND_IN) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        async with as_if_public(f"http://name.example:{registry.port}", ["127.0.0.1", STAND_IN]) as upstream:
            assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
    assert caught == []


async def test_a_realm_in_the_machine(trap: tuple[int, list[object]]) -> None:
    """A token server that is allowed by name is still not dialled at a loopback address."""
    port, caught = trap
    challenge = f'Bearer realm="http://name.example:{port}/token"'
    async with FakeRegistry(host=STAND_IN, authority=Authority("bearer", challenges=[challenge])) as registry:
        url = f"http://name.example:{registry.port}"
        async with as_if_public(url, [STAND_IN], ["127.0.0.1"]) as upstream:
            with pytest.raises(UpstreamWrong, match="address policy"):
                await upstream.manifest("a/b", Tag("1"))
        assert registry.count() >= 1
    assert caught == []


async def test_foreign_layers_are_only_bytes() -> None:
    """`urls` in a manifest are followed by nobody who was not told to (T36)."""
    trap = FakeRegistry(host="127.0.0.2")
    async with trap, FakeRegistry() as registry, dialing(registry) as upstream:
        raw = orjson.dumps({"schemaVersion": 2, "layers": [{"urls": [f"{trap.url}/layer"]}]})
        registry.content.publish("a/b", "1", Published(raw, OCI_MANIFEST))
        assert (await upstream.manifest("a/b", Tag("1"))).raw == raw
        assert trap.log == []


def test_allow_private_opens_private_addresses_and_nothing_else() -> None:
    """`allow_private = true` lets a public-looking name resolve inside a company, but not to loopback or metadata."""
    url = URL("https://registry.corp.example")
    opened = [Policy.private(url).allows(text) for text in ("10.1.2.3", "192.0.2.1", "127.0.0.1", "169.254.169.254")]
    assert (Policy.of(url).allows("10.1.2.3"), opened[0], opened[2:]) == (False, True, [False, False])
