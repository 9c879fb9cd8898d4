"""A proxy on the way to an upstream: who is told what, and what it is never asked for (T33, T35, T37, U32)."""

from __future__ import annotations

import asyncio
import base64
import logging
from pathlib import Path

import pytest
import uvloop
from yarl import URL

from certificates import CertificateAuthority
from dialing import dialing, whole
from iarproxy.errors import UpstreamUnavailable, UpstreamWrong
from iarproxy.oci import Tag
from iarproxy.upstream.guard import AddressRefused, Policy
from images import random_blob, small_image
from proxying import FakeProxy
from registry import FakeRegistry
from registry_auth import Authority
from registry_faults import Fault
from server_certificates import serving_with

SECRET = "canary-proxy:wörd"
LOGIN = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "proxy.password"
    file.write_text(f"{SECRET}\n")
    return file


async def test_https_goes_through_a_tunnel(tmp_path: Path, password: Path) -> None:
    """The proxy sees CONNECT with its login and nothing else; the registry sees no trace of the proxy's login."""
    authority = CertificateAuthority(tmp_path)
    async with (
        FakeProxy(login=LOGIN) as proxy,
        FakeRegistry(tls=serving_with(authority, tmp_path), authority=Authority("bearer")) as registry,
        dialing(
            registry, ca_file=authority.path, proxy=proxy.url, proxy_username="me", proxy_password_file=password
        ) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        digest = registry.content.publish_blob("a/b", random_blob(300_000))
        assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
        assert random_blob(300_000) == await whole(upstream, "a/b", digest)
    assert {("CONNECT", registry.address)} == {(each.method, each.target) for each in proxy.log}
    assert {LOGIN} == {each.headers["proxy-authorization"] for each in proxy.log}
    assert not [seen for seen in registry.log if "Proxy-Authorization" in seen.headers]
    assert not [each for each in proxy.log if "authorization" in each.headers]


def test_a_tunnel_under_uvloop(tmp_path: Path) -> None:
    """The same loop as in service: TLS begins inside the tunnel, and nothing is left open."""

    async def pull() -> None:
        authority = CertificateAuthority(tmp_path)
        async with (
            FakeProxy() as proxy,
            FakeRegistry(tls=serving_with(authority, tmp_path)) as registry,
            dialing(registry, ca_file=authority.path, proxy=proxy.url) as upstream,
        ):
            digest = registry.content.publish_blob("a/b", random_blob(300_000))
            assert random_blob(300_000) == await whole(upstream, "a/b", digest)
            assert ["CONNECT"] == [each.method for each in proxy.log]
        await asyncio.sleep(0.05)

    uvloop.run(pull())


async def test_plain_http_goes_in_absolute_form(password: Path) -> None:
    """Each request carries the login, also on a connection that is used again; the proxy takes it off."""
    async with (
        FakeProxy(login=LOGIN) as proxy,
        FakeRegistry() as registry,
        dialing(registry, proxy=proxy.url, proxy_username="me", proxy_password_file=password) as upstream,
    ):
        image = registry.content.publish("a/b", "1", small_image())
        for _ in range(3):
            assert image.raw == (await upstream.manifest("a/b", Tag("1"))).raw
    assert [f"{registry.url}/v2/a/b/manifests/1"] * 3 == [each.target for each in proxy.log]
    assert {LOGIN} == {each.headers["proxy-authorization"] for each in proxy.log}
    assert not [seen for seen in registry.log if "Proxy-Authorization" in seen.headers]


async def test_a_changed_password_is_found(password: Path) -> None:
    """The file is read for each request: a rotated password needs no restart; a missing one is told, not guessed."""
    async with (
        FakeProxy(login="another") as proxy,
        FakeRegistry() as registry,
        dialing(registry, proxy=proxy.url, proxy_username="me", proxy_password_file=password) as upstream,
    ):
        registry.content.publish("a/b", "1", small_image())
        with pytest.raises(UpstreamUnavailable, match=r"proxy answers 407; set proxy_username"):
            await upstream.manifest("a/b", Tag("1"))
        proxy.login = f"Basic {base64.b64encode(b'me:new').decode()}"
        password.write_text("new")
        await upstream.manifest("a/b", Tag("1"))
        password.unlink()
        with pytest.raises(UpstreamUnavailable, match=r"proxy_password_file .* cannot be read"):
            await upstream.manifest("a/b", Tag("1"))


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_says_no(tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A tunnel that is refused is told as the proxy's doing, without a word of what was sent to it."""
    caplog.set_level(logging.DEBUG)
    password = tmp_path / "password"
    password.write_text(SECRET)
    async with (
        FakeProxy(answer=status) as proxy,
        dialing("https://127.0.0.1:9", proxy=proxy.url, proxy_username="me", proxy_password_file=password) as upstream,
    ):
        with pytest.raises(UpstreamUnavailable, match=f"its proxy answers {status}") as caught:
            await upstream.manifest("a/b", Tag("1"))
    shown = caplog.text + repr(caught.value) + repr(caught.value.__context__)
    assert SECRET not in shown
    assert LOGIN.split()[1] not in shown


async def test_a_proxy_that_is_away() -> None:
    """Who cannot be reached is the proxy, and the message says so."""
    async with dialing("https://registry.example.com", proxy="http://127.0.0.1:9") as upstream:
        with pytest.raises(UpstreamUnavailable, match="no connection to its proxy"):
            await upstream.manifest("a/b", Tag("1"))


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`http_proxy` and `all_proxy` count for nothing (T37)."""
    async with FakeProxy() as proxy, FakeRegistry() as registry, dialing(registry) as upstream:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        registry.content.publish("a/b", "1", small_image())
        await upstream.manifest("a/b", Tag("1"))
        assert [] == proxy.log


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/x",
        "http://127.0.0.1:1/x",
        "http://127.1:1/x",
        "http://2130706433:1/x",
        "http://0x7f000001:1/x",
        "http://[::1]:1/x",
        "http://[::ffff:10.0.0.1]:1/x",
        "http://localhost:1/x",
        "http://sub.localhost:1/x",
        "http://intranet/x",
        "http://db.corp/x",
        "http://metadata.google.internal/x",
    ],
)
def test_what_no_proxy_is_asked_for(location: str) -> None:
    """What is private for certain is refused before the proxy hears of it, for an upstream with a public name."""
    public = Policy.of(URL("https://registry.example.com"))
    with pytest.raises(AddressRefused):
        public.check_unresolved(URL(location).host or "")
    public.check_unresolved("storage.example.com")
    public.check_unresolved("93.184.215.14")


async def test_a_redirect_that_the_proxy_should_not_follow(password: Path) -> None:
    """A redirect to a metadata service ends here; the proxy was asked for the registry only."""
    async with (
        FakeProxy() as proxy,
        FakeRegistry() as registry,
        dialing(registry, proxy=proxy.url, proxy_username="me", proxy_password_file=password) as upstream,
    ):
        digest = registry.content.publish_blob("a/b", b"x")
        registry.faults.add("*/blobs/*", Fault(location="http://169.254.169.254/x"))
        with pytest.raises(UpstreamWrong, match="address policy"):
            await whole(upstream, "a/b", digest)
    assert {f"{registry.url}/v2/a/b/blobs/{digest}"} == {each.target for each in proxy.log}
