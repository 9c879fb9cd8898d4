"""The in-process registry itself: right by default, and wrong exactly as it is told to be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from images import artifact, index, random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_control import RegistryProcess, RegistryThread
from registry_faults import Fault


async def _get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    async with aiohttp.ClientSession(auto_decompress=False) as session, session.get(url, headers=headers) as response:
        return response.status, dict(response.headers), await response.read()


async def test_serves_what_was_published() -> None:
    """Manifests by tag and digest, blobs whole and by range, children of an index, tags page by page, referrers."""
    async with FakeRegistry() as registry:
        whole = registry.content.publish("org/app", "1", index([small_image(1), small_image(2)]))
        registry.content.publish("org/app", "2", small_image(3))
        signature = registry.content.publish("org/app", None, artifact(whole))
        base = f"{registry.url}/v2/org/app"
        status, headers, body = await _get(f"{base}/manifests/1")
        assert (200, str(whole.digest), whole.raw) == (status, headers["Docker-Content-Digest"], body)
        for child in whole.children:
            assert child.raw == (await _get(f"{base}/manifests/{child.digest}"))[2]
        layer = whole.children[0].layers[0]
        data = whole.children[0].blobs[layer]
        status, headers, body = await _get(f"{base}/blobs/{layer}", Range="bytes=100-")
        assert (206, f"bytes 100-{len(data) - 1}/{len(data)}", data[100:]) == (status, headers["Content-Range"], body)
        assert len(data) - 100 == registry.sent[str(layer)]
        assert (await _get(f"{base}/blobs/{layer}", Range="bytes=5000-"))[0] == 416
        status, headers, body = await _get(f"{base}/tags/list?n=1")
        assert body == b'{"name":"org/app","tags":["1"]}'
        assert headers["Link"] == '</v2/org/app/tags/list?n=1&last=1>; rel="next"'
        assert str(signature.digest).encode() in (await _get(f"{base}/referrers/{whole.digest}"))[2]
        assert (await _get(f"{base}/manifests/none"))[0] == 404
        assert registry.count("GET", "/manifests/sha256:") + registry.count("GET", "/manifests/1") == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(truncate_at=100), aiohttp.ClientPayloadError),
        (Fault(truncate_at=100, reset=True), aiohttp.ClientError),
        (Fault(length_by=5), aiohttp.ClientPayloadError),
        (Fault(no_answer=True), aiohttp.ServerDisconnectedError),
        (Fault(stall_at=10), TimeoutError),
        (Fault(stall_at=-1), TimeoutError),
        (Fault(rate=500), TimeoutError),
    ],
)
async def test_a_body_breaks_as_told(fault: Fault, error: type[Exception]) -> None:
    """A cut, a stall or a wrong length reaches the client as that failure, and ends with the fault's count."""
    async with FakeRegistry() as registry:
        digest = registry.content.publish_blob("a", random_blob(2000))
        registry.faults.add("*/blobs/*", fault, times=1 + fault.no_answer)  # aiohttp asks again by itself
        with pytest.raises(error):
            await asyncio.wait_for(_get(f"{registry.url}/v2/a/blobs/{digest}"), 0.3)
        assert random_blob(2000) == (await _get(f"{registry.url}/v2/a/blobs/{digest}"))[2]


async def test_a_body_lies_as_told() -> None:
    """Corrupt, shortened, gzipped and endless-looking bodies are clean answers of their kind."""
    data = random_blob(2000)
    async with FakeRegistry() as registry:
        url = f"{registry.url}/v2/a/blobs/{registry.content.publish_blob('a', data)}"
        lies: list[tuple[Fault, Callable[[bytes], bool]]] = [
            (Fault(corrupt_at=7), lambda body: body != data and len(body) == 2000),
            (Fault(length_by=-1), lambda body: body == data[:-1]),
            (Fault(close_delimited=True, truncate_at=500), lambda body: body == data[:500]),
            (Fault(chunked=True), lambda body: body == data),
            (Fault(gzip=True), lambda body: body.startswith(b"\x1f\x8b")),
            (Fault(append=b"more"), lambda body: body == data + b"more"),
            (Fault(body=b"<html>"), lambda body: body == b"<html>"),
        ]
        for fault, expected in lies:
            registry.faults.add("*/blobs/*", fault, times=1)
            status, _, body = await _get(url)
            assert status == 200
            assert expected(body), fault
        registry.faults.add("*/blobs/*", Fault(status=429, headers={"Retry-After": "7"}), times=1)
        status, headers, _ = await _get(url)
        assert (status, headers["Retry-After"]) == (429, "7")


async def test_tokens_are_asked_for() -> None:
    """Without a token 401 and where to get one; with it the content; after its life 401 again."""
    now = 0.0
    authority = Authority("bearer", users={"u": "p"}, anonymous=False, clock=lambda: now)
    async with FakeRegistry(authority=authority) as registry:
        registry.content.publish("a", "1", small_image())
        url = f"{registry.url}/v2/a/manifests/1"
        status, headers, _ = await _get(url)
        assert status == 401
        assert (
            f'Bearer realm="{registry.url}/token",service="registry.test",scope="repository:a:pull"'
            == headers["WWW-Authenticate"]
        )
        ask = f"{registry.url}/token?service=registry.test&scope=repository:a:pull"
        assert (await _get(ask))[0] == 401
        assert (await _get(ask, Authorization="Basic dTpw"))[0] == 200
        (token,) = authority.issued
        assert (await _get(url, Authorization=f"Bearer {token}"))[0] == 200
        now = 301.0
        assert (await _get(url, Authorization=f"Bearer {token}"))[0] == 401


def test_a_thread_and_a_process_are_steered_alike() -> None:
    """Both publish, answer, log, and come back on their port after a stop."""
    for place in (RegistryThread(), RegistryProcess()):
        with place as registry:
            made = registry.act("publish", repository="a/b", tag="1", seed=4)
            status, headers, _ = asyncio.run(_get(f"{registry.url}/v2/a/b/manifests/1"))
            assert (200, made["digest"]) == (status, headers["Docker-Content-Digest"])
            assert [seen["path"] for seen in registry.act("log")] == ["/v2/a/b/manifests/1"]
            registry.act("stop")
            with pytest.raises(aiohttp.ClientConnectorError):
                asyncio.run(_get(f"{registry.url}/v2/"))
            registry.act("start")
            assert asyncio.run(_get(f"{registry.url}/v2/"))[0] == 200
