"""TLS towards an upstream: verified always, by a CA file where one is written (T38, R45); and the same under uvloop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from dialing import NAME, dialing, whole
from iarproxy.errors import ConfigError, UpstreamTimeout, UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from images import random_blob, small_image
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault

# A throw-away key and its certificate for 127.0.0.1, used by this test only.
PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJM233ReZzuP8+HN1
ogBcEjy+i/9c1oa3BM34o0XrE2yhRANCAATGOo0Y/ZS6VxkdpTUEXNPERlBDlEn4
h66SvnjEZsOji6X3LWIlaz9LphKxWuQCXPMk/jpt6CRnCWCRH2sUrtb3
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBrTCCAVSgAwIBAgIUBkFr+6WVao0zbm7vl8biru2r2yYwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNaWFycHJveHkgdGVzdDAgFw0yNjExMjIwMzM3NTBaGA8yMTI2
MTAyOTAzMzc1MFowGDEWMBQGA1UEAwwNaWFycHJveHkgdGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABMY6jRj9lLpXGR2lNQRc08RGUEOUSfiHrpK+eMRmw6OL
pfctYiVrP0umErFa5AJc8yT+Om3oJGcJYJEfaxSu1vejejB4MB0GA1UdDgQWBBSs
pc1ZmlfCIesCidw0eBgdXnqUxDAfBgNVHSMEGDAWgBSspc1ZmlfCIesCidw0eBgd
XnqUxDAlBgNVHREEHjAchwR/AAABghRyZWdpc3RyeS5leGFtcGxlLmNvbTAPBgNV
HRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCICYY1IVOHjAZfO9GI3vkbVt0
/QycwnmRxgyL6f0ZS785AiAg4Dsq3UfWSLHI05feAasEqkqx59c/2muYSKB9iU98
fw==
-----END CERTIFICATE-----
"""


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    file = tmp_path / "server.pem"
    file.write_text(PEM)
    return file


def _server(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_a_ca_file(pem: Path) -> None:
    """With the upstream's own CA it is reached, tokens and all; a redirect to plain http is refused."""
    async with (
        FakeRegistry(tls=_server(pem), authority=Authority("bearer")) as registry,
        dialing(registry, ca_file=pem) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
        registry.faults.add("*", Fault(location="http://127.0.0.1:9{path}"))
        with pytest.raises(UpstreamWrong, match="from https to plain http"):
            await upstream.manifest("a/b", Tag("1"))


async def test_certificates_that_are_refused(pem: Path) -> None:
    """Signed by nobody we know, or for another name: refused, with the reason, and nothing was asked."""
    async with FakeRegistry(tls=_server(pem)) as registry:
        async with dialing(registry) as upstream:
            with pytest.raises(UpstreamUnavailable, match="TLS certificate"):
                await upstream.manifest("a/b", Tag("1"))

        async def lookup(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        wrong = f"https://other.localhost:{registry.port}"
        async with dialing(wrong, ca_file=pem, lookup=lookup) as upstream:
            with pytest.raises(UpstreamUnavailable, match="TLS certificate"):
                await upstream.manifest("a/b", Tag("1"))
        assert registry.log == []


async def test_one_upstreams_ca_is_not_anothers(pem: Path) -> None:
    """Each upstream has its own TLS context."""
    async with FakeRegistry(tls=_server(pem)) as registry:
        image = registry.content.publish("a/b", "1", small_image())
        async with dialing(registry, ca_file=pem) as trusting, dialing(registry) as other:
            assert (await trusting.manifest("a/b", Tag("1"))).raw == image.raw
            with pytest.raises(UpstreamUnavailable, match="TLS certificate"):
                await other.manifest("a/b", Tag("1"))


async def test_a_handshake_that_stalls() -> None:
    """A server that accepts and says nothing is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with dialing(f"https://127.0.0.1:{deaf.getsockname()[1]}") as upstream:
            with pytest.raises(UpstreamTimeout):
                await upstream.manifest("a/b", Tag("1"))


async def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    """One line that names the setting, before anything starts."""
    (tmp_path / "empty").write_text("")
    for file in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(ConfigError, match=rf'upstreams\."{NAME}"\.ca_file .* cannot be used'):
            async with dialing("https://127.0.0.1:9", ca_file=file):
                pass


def test_under_uvloop(pem: Path, tmp_path: Path) -> None:
    """The same over uvloop: TLS, tokens, a redirect, a resume, a name, a stall, and nothing left open."""

    async def pull() -> None:
        data = random_blob(300_000)
        storage = FakeRegistry(host="127.0.0.1")
        authority = Authority("bearer")
        async with (
            storage,
            FakeRegistry(tls=_server(pem), authority=authority) as registry,
            dialing(registry, ca_file=pem, cache_dir=tmp_path / "cache") as upstream,
            dialing(f"http://localhost:{storage.port}") as plain,
        ):
            image = registry.content.publish("a/b", "1", small_image())
            digest = registry.content.publish_blob("a/b", data)
            storage.content.publish_blob("a/b", data)
            assert (await upstream.manifest("a/b", Tag("1"))).raw == image.raw
            assert await whole(upstream, "a/b", digest, 1000) == data[1000:]
            assert await whole(plain, "a/b", digest) == data
            storage.faults.add("*", Fault(stall_at=70_000))
            with pytest.raises(UpstreamTimeout):
                await whole(plain, "a/b", digest)
            storage.faults.clear()
            storage.faults.add("*", Fault(truncate_at=70_000, reset=True))
            with pytest.raises(UpstreamUnavailable):
                await whole(plain, "a/b", digest)
        await asyncio.sleep(0.05)

    uvloop.run(pull())
