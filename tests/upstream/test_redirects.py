"""Redirects: followed where they may lead, with nothing that the next host must not see (T34, R44, L8)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from yarl import URL

from dialing import dialing, whole
from iarproxy.errors import UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from iarproxy.upstream.redirects import next_hop
from images import random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

DATA = random_blob(100_000)
SIGNED = "X-Amz-Signature=canary%2Fsig%3D%3D&x=a%20b&y=%C3%A9+z"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_blob_at_a_storage_host(status: int, tmp_path: Path) -> None:
    """The blob comes from there, by the exact URL, with Range but without Authorization."""
    (tmp_path / "password").write_text("canary")
    authority = Authority("basic", users={"me": "canary"})
    storage = FakeRegistry(host="127.0.0.2")
    async with (
        storage,
        FakeRegistry(authority=authority) as registry,
        dialing(registry, username="me", password_file=tmp_path / "password") as upstream,
    ):
        digest = registry.content.publish_blob("a/b", DATA)
        storage.content.publish_blob("a/b", DATA)
        where = Fault(location=f"{storage.url}{{path}}?{SIGNED}", redirect_status=status)
        registry.faults.add("*/blobs/*", Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}), times=1)
        registry.faults.add("*/blobs/*", where)
        assert await whole(upstream, "a/b", digest, 1000) == DATA[1000:]
        assert await upstream.blob_size("a/b", digest) == len(DATA)
        assert registry.log[-1].headers["Authorization"].startswith("Basic ")
        for seen in storage.log:
            assert seen.path == f"/v2/a/b/blobs/{digest}?{SIGNED}"
            assert set(seen.headers) <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "Range"}
        assert storage.log[0].headers["Range"] == "bytes=1000-"


async def test_everything_may_be_redirected(tmp_path: Path) -> None:
    """Manifests and tags too, as registry.k8s.io does; pages then go on at the upstream itself."""
    other = FakeRegistry(host="127.0.0.2")
    async with other, FakeRegistry() as registry, dialing(registry) as upstream:
        image = other.content.publish("a/b", "1", small_image())
        other.content.publish("a/b", "2", image)
        other.max_page = 1
        registry.faults.add("*", Fault(location=f"{other.url}{{path}}"))
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert await upstream.head_manifest("a/b", Tag("1")) == image.digest
        assert await upstream.tags("a/b") == ["1", "2"]
        assert registry.log[-1].path == "/v2/a/b/tags/list?n=1&last=1"


async def test_a_relative_location_keeps_the_authorization() -> None:
    """On the upstream's own origin a hop is authorized like the request (Harbor's 301 for Hub names)."""
    async with FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.faults.add("*/manifests/1", Fault(location="1?again=1", redirect_status=301), times=1)
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert registry.log[-1].path == "/v2/a/b/manifests/1?again=1"
        assert registry.log[-1].headers["Authorization"].startswith("Bearer ")


async def test_a_redirect_back_home_is_authorized_and_away_never() -> None:
    """Home, away, home: the host in the middle sees no Authorization."""
    middle = FakeRegistry(host="127.0.0.2")
    async with middle, FakeRegistry(authority=Authority("bearer")) as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.forget()
        registry.faults.add("*/manifests/1", Fault(location=f"{middle.url}/hop"), times=1)
        middle.faults.add("*", Fault(location=f"{registry.url}/v2/a/b/manifests/1"))
        await upstream.manifest("a/b", Tag("1"))
        assert ["Authorization" in seen.headers for seen in registry.log] == [True, True]
        assert ["Authorization" in seen.headers for seen in middle.log] == [False]


async def test_the_same_host_on_another_port_is_another_origin() -> None:
    """An origin is scheme, host and port."""
    async with (
        FakeRegistry() as neighbour,
        FakeRegistry(authority=Authority("bearer")) as registry,
        dialing(registry) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        neighbour.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        registry.faults.add("*/manifests/*", Fault(location=f"{neighbour.url}{{path}}"))
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert ["Authorization" in seen.headers for seen in neighbour.log] == [False]


async def test_a_chain_has_an_end() -> None:
    """Five hops are followed; six, or a loop, are not."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*/manifests/1", Fault(location="{path}"), times=5)
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        assert registry.count() == 6
        registry.forget()
        registry.faults.add("*/manifests/1", Fault(location="{path}"))
        with pytest.raises(UpstreamWrong, match="more than 5 times"):
            await upstream.manifest("a/b", Tag("1"))
        assert registry.count() == 6


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_signature_that_ran_out_is_tried_from_the_start(status: int) -> None:
    """A refusal by the storage host is no word about access: the registry is asked for a new URL."""
    storage = FakeRegistry(host="127.0.0.2")
    async with storage, FakeRegistry() as registry, dialing(registry) as upstream:
        digest = registry.content.publish_blob("a/b", DATA)
        storage.content.publish_blob("a/b", DATA)
        registry.faults.add("*/blobs/*", Fault(location=f"{storage.url}{{path}}?{SIGNED}"))
        storage.faults.add("*", Fault(status=status), times=1)
        assert await whole(upstream, "a/b", digest) == DATA
        assert (registry.count(), storage.count()) == (2, 2)
        storage.faults.add("*", Fault(status=status))
        with pytest.raises(UpstreamUnavailable) as raised:
            await whole(upstream, "a/b", digest)
        assert "canary" not in repr(raised.value)
        assert "canary" not in str(raised.value.detail)


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://a.example/v2/x", "http://a.example/v2/x"),
        ("https://a.example/v2/x", "http://b.example/"),
        ("https://a.example/v2/x", "https://user:pw@b.example/"),
        ("https://a.example/v2/x", "https://user@b.example/"),
        ("https://a.example/v2/x", "https://:pw@b.example/"),
        ("https://a.example/v2/x", "//user:pw@b.example/"),
        ("https://a.example/v2/x", "file:///etc/passwd"),
        ("https://a.example/v2/x", "ftp://b.example/"),
        ("https://a.example/v2/x", "javascript:alert(1)"),
        ("https://a.example/v2/x", "https://"),
        ("https://a.example/v2/x", "https:///path"),
        ("https://a.example/v2/x", "https://b.example/a b"),
        ("https://a.example/v2/x", "https://b.example/\u00e9"),
        ("https://a.example/v2/x", "https://b.example/\r\nX: y"),
        ("https://a.example/v2/x", "https://b.example\\@c.example/"),
        ("https://a.example/v2/x", "https://b.example:99999/"),
        ("https://a.example/v2/x", "https://[::1/"),
        ("https://a.example/v2/x", ""),
        ("https://a.example/v2/x", None),
    ],
)
def test_where_no_redirect_leads(start: str, location: str | None) -> None:
    """Downgrades, credentials, other schemes and what is no URL are refused, and the Location is not repeated."""
    with pytest.raises(UpstreamWrong) as raised:
        next_hop("upstream", URL(start), location)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    ("start", "location", "expected"),
    [
        ("https://a.example/v2/x", "https://b.example/y?s=%2F+%20#f", "https://b.example/y?s=%2F+%20"),
        ("https://a.example/v2/x", "/y", "https://a.example/y"),
        ("https://a.example/v2/x", "y?z", "https://a.example/v2/y?z"),
        ("https://a.example/v2/x", "//b.example/y", "https://b.example/y"),
        ("http://a.example/v2/x", "https://b.example/y", "https://b.example/y"),
        ("http://a.example/v2/x", "http://b.example/y", "http://b.example/y"),
    ],
)
def test_where_redirects_lead(start: str, location: str, expected: str) -> None:
    """Absolute and relative, and with the exact spelling of what is signed."""
    target = next_hop("upstream", URL(start), location)
    assert re.sub(r"\?$", "", str(target)) == expected
