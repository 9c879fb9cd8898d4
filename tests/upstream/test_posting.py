"""One POST to an address that the operator wrote: what arrives, what comes back, and what is never told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from certificates import CertificateAuthority
from iarproxy.errors import (
    ConfigError,
    Denied,
    IarproxyError,
    Refused,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamWrong,
)
from iarproxy.upstream.posting import Destination, Poster
from proxying import FakeProxy
from receiver import Receiver
from server_certificates import serving_with

SECRET = "canary-token"
PATH = f"/hooks/{SECRET}?key={SECRET}"
JSON = "application/json"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


async def no_names(host: str, port: int) -> list[str]:
    raise OSError(host)


@asynccontextmanager
async def posting(url: str, *, timeout: float = 2.0, lookup: Any = no_names, **options: Any) -> AsyncIterator[Poster]:
    poster = Poster(Destination("webhooks.ops", url, **options), timeout=timeout, lookup=lookup, now=lambda: NOW)
    try:
        yield poster
    finally:
        await poster.close()


async def test_it_arrives_as_it_was_given() -> None:
    """Body, media type, headers, path and query arrive; the answer comes back; nothing is kept open."""
    async with Receiver(path=PATH) as endpoint, posting(endpoint.url) as poster:
        answer = await poster.post(b'{"a":1}', {"Authorization": f"Bearer {SECRET}"}, media_type=JSON)
        (seen,) = endpoint.seen
    assert (200, b'{"allow": true}') == (answer.status, answer.body)
    assert (PATH, b'{"a":1}') == (seen.target, seen.body)
    sent = [seen.headers[name] for name in ("content-type", "authorization", "connection")]
    assert [JSON, f"Bearer {SECRET}", "close"] == sent


@pytest.mark.parametrize(
    ("status", "headers", "kind", "wait"),
    [
        (301, {"Location": "http://127.0.0.1:1/"}, Refused, None),
        (400, {}, Denied, None),
        (410, {}, Denied, None),
        (429, {"Retry-After": "7"}, UpstreamUnavailable, 7.0),
        (503, {"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, UpstreamUnavailable, 30.0),
        (500, {}, UpstreamUnavailable, None),
    ],
)
async def test_what_a_status_means(
    status: int, headers: dict[str, str], kind: type[IarproxyError], wait: float | None
) -> None:
    """No is Refused, a failure is Unavailable with the wait that was asked for; the message tells no secret."""
    async with (
        Receiver(status, headers, b"canary-body", path=PATH) as endpoint,
        posting(endpoint.url) as poster,
    ):
        with pytest.raises(kind) as caught:
            await poster.post(b"{}", {"Authorization": SECRET}, media_type=JSON)
        assert 1 == len(endpoint.seen)
    assert status == caught.value.detail["status"]
    assert wait == getattr(caught.value, "retry_after", None)
    assert "canary" not in str(caught.value)
    assert str(caught.value).startswith("webhooks.ops at http://127.0.0.1:")
    assert f"answered {status}" in str(caught.value)


async def test_an_answer_has_a_bound() -> None:
    """One byte too many is no answer; where no body is wanted its length is nobody's business."""
    async with Receiver(body=b"x" * 1001) as endpoint, posting(endpoint.url) as poster:
        with pytest.raises(UpstreamWrong, match="more than 1000 bytes"):
            await poster.post(b"{}", media_type=JSON, wanted=1000)
        assert 1001 == len((await poster.post(b"{}", media_type=JSON, wanted=1001)).body)
        assert b"" == (await poster.post(b"{}", media_type=JSON, wanted=0)).body


async def test_it_does_not_wait_for_ever() -> None:
    """Who says nothing is given up at the deadline."""
    async with Receiver(delay=30) as endpoint, posting(endpoint.url, timeout=0.2) as poster:
        with pytest.raises(UpstreamTimeout):
            await poster.post(b"{}", media_type=JSON)


async def test_nobody_there() -> None:
    """A closed port and a name that does not resolve are Unavailable, with the cause."""
    for url, cause in (("http://127.0.0.1:1/x", "refused"), ("https://hooks.example/x", "does not resolve")):
        async with posting(url) as poster:
            with pytest.raises(UpstreamUnavailable, match=cause):
                await poster.post(b"{}", media_type=JSON)


async def test_a_public_name_does_not_lead_inside() -> None:
    """A name that resolves to a private address is dialled only where the configuration says so."""
    dialled = []

    async def lookup(host: str, port: int) -> list[str]:
        dialled.append(host)
        return ["10.1.2.3"]

    async with posting("https://hooks.example/x", lookup=lookup) as poster:
        with pytest.raises(UpstreamWrong, match="address policy refuses"):
            await poster.post(b"{}", media_type=JSON)
    assert ["hooks.example"] == dialled
    async with posting("https://10.0.0.1/x", allow_private=False, timeout=0.1) as poster:
        assert "10.0.0.1" in repr(poster._destination)


async def test_tls_is_verified(tmp_path: Path) -> None:
    """An authority that nobody named is not trusted; one that `ca_file` names is."""
    authority = CertificateAuthority(tmp_path)
    async with Receiver(tls=serving_with(authority, tmp_path)) as endpoint:
        async with posting(endpoint.url) as poster:
            with pytest.raises(UpstreamUnavailable, match="certificate"):
                await poster.post(b"{}", media_type=JSON)
        async with posting(endpoint.url, ca_file=authority.path) as poster:
            assert 200 == (await poster.post(b"{}", media_type=JSON)).status
        async with posting(endpoint.url, ca_file=tmp_path / "none.pem") as poster:
            with pytest.raises(ConfigError, match=r"^webhooks\.ops\.ca_file"):
                await poster.post(b"{}", media_type=JSON)


async def test_a_proxy_that_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is nobody's; the configured one is used."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    authority = CertificateAuthority(tmp_path)
    async with FakeProxy() as proxy, Receiver(tls=serving_with(authority, tmp_path)) as endpoint:
        async with posting(endpoint.url, ca_file=authority.path) as poster:
            assert 200 == (await poster.post(b"{}", media_type=JSON)).status
        assert [] == proxy.log
        async with posting(endpoint.url, ca_file=authority.path, proxy=proxy.url) as poster:
            assert 200 == (await poster.post(b"{}", media_type=JSON)).status
        assert ["CONNECT"] == [each.method for each in proxy.log]


async def test_nothing_of_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither headers nor the path and query of the address are in any log line or in the destination's text."""
    caplog.set_level(logging.DEBUG)
    async with Receiver(500, path=PATH) as endpoint, posting(endpoint.url) as poster:
        with pytest.raises(Unavailable) as caught:
            await poster.post(b"{}", {"Authorization": SECRET}, media_type=JSON)
        ours = [record for record in caplog.records if record.name.startswith("iarproxy")]
        assert SECRET not in f"{ours} {caught.value!r} {Destination('x', endpoint.url)!r}"
