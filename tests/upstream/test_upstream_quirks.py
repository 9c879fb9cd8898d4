"""Registries that answer in their own way, and what is never done for them (clients.md 11.3)."""

from __future__ import annotations

import gzip

import pytest

from dialing import dialing, no_waits, whole
from iarproxy.errors import (
    Denied,
    UpstreamBusy,
    UpstreamWrong,
)
from iarproxy.oci import Digest, Tag
from images import random_blob, small_image
from registry import FakeRegistry
from registry_faults import Fault

DATA = random_blob(200_000)
OTHER = "sha256:" + "0" * 64


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
async def test_a_poor_head_is_asked_as_get(status: int) -> None:
    """Where HEAD is answered worse than GET, the GET decides (public.ecr.aws and others)."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*", Fault(status=status), methods=frozenset({"HEAD"}))
        assert await upstream.head_manifest("a/b", Tag("1")) == image.digest
        assert await upstream.blob_size("a/b", image.layers[0]) == 2000
        registry.faults.add("*", Fault(status=403), methods=frozenset({"GET"}))
        with pytest.raises(Denied):
            await upstream.head_manifest("a/b", Tag("1"))
        with pytest.raises(Denied):
            await upstream.blob_size("a/b", image.layers[0])


async def test_a_head_that_says_nothing() -> None:
    """Without a usable header a HEAD is no hint; it never fails for that."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        for value in (None, "nonsense", "md5:" + "0" * 32):
            registry.faults.clear()
            registry.faults.add("*", Fault(headers={"Docker-Content-Digest": value, "Content-Length": None}))
            assert await upstream.head_manifest("a/b", Tag("1")) is None
        assert await upstream.blob_size("a/b", image.layers[0]) is None


async def test_headers_that_are_missing() -> None:
    """Neither digest, type nor length are needed for a manifest."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        nothing = {"Docker-Content-Digest": None, "Content-Type": None, "Etag": None}
        registry.faults.add("*", Fault(headers=nothing, close_delimited=True))
        fetched = await upstream.manifest("a/b", Tag("1"))
        assert (image.raw, "", None, {}) == (
            fetched.raw,
            fetched.media_type,
            fetched.digest_header,
            fetched.headers,
        )


async def test_a_digest_is_checked_whatever_the_header_says() -> None:
    """Asked by digest, other bytes are refused also when their own header is right or missing."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        one, two = small_image(1), small_image(2)
        registry.content.publish("a/b", "1", one)
        for header in (str(two.digest), None):
            registry.faults.clear()
            registry.faults.add("*", Fault(body=two.raw, headers={"Docker-Content-Digest": header}))
            with pytest.raises(UpstreamWrong):
                await upstream.manifest("a/b", one.digest)


async def test_a_zip_bomb_is_not_opened() -> None:
    """A coded body is refused by its header; nothing of it is inflated."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        bomb = gzip.compress(bytes(50_000_000))
        registry.faults.add("*", Fault(body=bomb, headers={"Content-Encoding": "gzip"}))
        with pytest.raises(UpstreamWrong, match="Content-Encoding"):
            await upstream.manifest("a/b", Tag("1"))


async def test_cookies_are_not_kept() -> None:
    """What upstream sets is never sent back."""
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        registry.content.publish("a/b", "1", small_image())
        registry.faults.add("*", Fault(headers={"Set-Cookie": "session=secret; Path=/"}))
        for _ in range(3):
            await upstream.manifest("a/b", Tag("1"))
        assert [seen.headers.get("Cookie") for seen in registry.log] == [None] * 3


async def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables of the environment change nothing (T37)."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with FakeRegistry() as registry, dialing(registry) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw


async def test_many_blobs_leave_room_for_manifests() -> None:
    """With every blob connection taken a manifest is still answered, and one more blob is told to come back."""
    async with FakeRegistry() as registry, dialing(registry, max_connections=1, retry=no_waits()) as upstream:
        image = registry.content.publish("a/b", "1", small_image())
        digest = registry.content.publish_blob("a/b", random_blob(5_000_000))
        async with upstream.blob("a/b", digest):
            assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
            with pytest.raises(UpstreamBusy, match="in use"):
                await whole(upstream, "a/b", Digest.parse(str(digest)))
